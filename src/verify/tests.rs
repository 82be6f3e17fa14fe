use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::*;
use crate::error::ErrorKind;
use crate::format::ObjectName;
use crate::format::names::ContentName;
use crate::format::page::{ObjectRef, PageRef};
use crate::format::record::ForgetRecord;
use crate::progress::Silent;
use crate::testing::{Bench, CHUNK, MemoryReader, Numbers};
use crate::units::{ChunkId, Generation, VolumeNumber};

const C: u64 = CHUNK as u64;
const CHUNKS: &str = "projects/default/chunks/";
const PAGES: &str = "projects/default/pages/";
const BUNDLES: &str = "projects/default/bundles/";

fn reading() -> VerifyOptions {
    VerifyOptions { read_data: true, ..VerifyOptions::default() }
}

async fn verify(bench: &Bench, options: VerifyOptions) -> VerifyReport {
    run(&bench.project, options, Arc::new(Silent), Cancel::never()).await.expect("verified")
}

async fn scrubbed(bench: &Bench, slice: Option<Slice>) -> ScrubReport {
    let options = ScrubOptions { slice, ..ScrubOptions::default() };
    scrub(&bench.store(), options, Arc::new(Silent), Cancel::never()).await.expect("scrubbed")
}

/// `volume@sequence`, and ranges in chunks as first and count.
fn hurts(damage: &FlawedObject) -> Vec<(String, Vec<(u64, u64)>)> {
    let ranges = |hurt: &Hurt| hurt.ranges.iter().map(|r| (r.offset_bytes / C, r.length_bytes / C)).collect();
    let mut out: Vec<_> =
        damage.hurts.iter().map(|h| (format!("{}@{}", h.volume, h.sequence), ranges(h))).collect();
    out.sort();
    out
}

#[tokio::test]
async fn a_whole_repository_is_whole() {
    for encrypted in [true, false] {
        let bench = Bench::new(encrypted).await;
        let mut numbers = Numbers::new(1);
        for (volume, size) in [("a", 0), ("a", 1100 * C + 5), ("b", 3 * C), ("a", 1100 * C + 5), ("c", 1)] {
            bench.backup(volume, &numbers.volume(size as usize)).await;
        }
        let objects = bench.names(CHUNKS).await.len() as u64;
        let pages = bench.names(PAGES).await.len() as u64;
        for options in [VerifyOptions::default(), reading()] {
            let report = verify(&bench, options.clone()).await;
            assert!(report.ok(), "{:?}", report.damage);
            assert_eq!((report.volumes, report.snapshots, report.unfinished), (3, 5, 0));
            assert_eq!((report.pages, report.chunks), (pages, objects));
            let read = if options.read_data { objects } else { 0 };
            assert_eq!(report.chunks_read, read);
            // Volumes (for the catalog, and for every byte of them), logs, the key slot, repository and project; and that no
            // volume follows, nor a round.
            let records = 2 * 3 + 5 * 2 + u64::from(encrypted) + 2;
            let absent = 2;
            assert_eq!(report.ledger.get_requests, records + absent + pages + read, "encrypted: {encrypted}");
        }
        assert!(scrubbed(&bench, None).await.ok());
        let one = VerifyOptions { snapshots: vec!["a@2".into(), "c".into(), "a@2".into()], ..reading() };
        let report = verify(&bench, one).await;
        assert!(report.ok(), "{:?}", report.damage);
        assert_eq!((report.volumes, report.snapshots), (2, 2));
    }
}

#[tokio::test]
async fn a_snapshot_that_does_not_exist_is_an_error() {
    let bench = Bench::new(true).await;
    bench.backup("a", &[1; 10]).await;
    let options = VerifyOptions { snapshots: vec!["a@7".into()], ..VerifyOptions::default() };
    let error = run(&bench.project, options, Arc::new(Silent), Cancel::never()).await.expect_err("none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Three snapshots of two volumes that share chunks; returns the chunks' plaintexts.
async fn sharing(bench: &Bench) -> Vec<Vec<u8>> {
    let mut numbers = Numbers::new(2);
    let chunks: Vec<Vec<u8>> = (0..6).map(|_| numbers.text(C as usize)).collect();
    let zero = vec![0; C as usize];
    let of = |which: &[usize]| -> Vec<u8> {
        which.iter().flat_map(|i| chunks.get(*i).unwrap_or(&zero).clone()).collect()
    };
    bench.backup("a", &of(&[0, 1, 9, 0, 0])).await;
    bench.backup("a", &of(&[2, 1, 9, 3])).await;
    bench.backup("b", &of(&[9, 0, 4, 5])).await;
    chunks
}

async fn name_of(bench: &Bench, plain: &[u8]) -> String {
    let id = bench.project.identify(plain);
    bench.names(CHUNKS).await.into_iter().find(|name| name.contains(&id.to_string())).expect("there")
}

#[tokio::test]
async fn a_missing_chunk_names_exactly_what_it_hurts() {
    for options in [
        VerifyOptions::default(),
        reading(),
        VerifyOptions { objects_per_pass_max: 2, ..reading() },
        VerifyOptions { objects_per_pass_max: 2, ..VerifyOptions::default() },
    ] {
        let bench = Bench::new(true).await;
        let chunks = sharing(&bench).await;
        let name = name_of(&bench, &chunks[0]).await;
        bench.delete(&name).await;
        let report = verify(&bench, options.clone()).await;
        assert!(!report.ok());
        let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
        assert_eq!((&damage.object, damage.problem), (&name, Problem::Missing));
        let expected = [("a@1".to_owned(), vec![(0, 1), (3, 2)]), ("b@1".to_owned(), vec![(1, 1)])];
        assert_eq!(hurts(damage), expected, "{options:?}");
        let hurt = report.hurt();
        assert_eq!(hurt.len(), 2);
        assert_eq!(hurt[0].snapshot_id, bench.find("a@1").await.snapshot_id.to_string());
        // A snapshot that does not need it is whole.
        let other = VerifyOptions { snapshots: vec!["a@2".into()], ..options };
        assert!(verify(&bench, other).await.ok());
    }
}

#[tokio::test]
async fn flips_in_chunks_are_found_and_placed() {
    for encrypted in [true, false] {
        let bench = Bench::new(encrypted).await;
        let chunks = sharing(&bench).await;
        let (one, two) = (name_of(&bench, &chunks[1]).await, name_of(&bench, &chunks[5]).await);
        let mut numbers = Numbers::new(3);
        for round in 0..150 {
            let name = [&one, &two][round % 2];
            let whole = bench.get(name).await;
            let mut hurt = whole.clone();
            match numbers.below(6) {
                0 => hurt.truncate(numbers.below(whole.len())),
                1 => hurt = bench.get([&two, &one][round % 2]).await,
                _ => hurt[numbers.below(whole.len())] ^= 1 << numbers.below(8),
            }
            bench.put(name, hurt).await;
            let report = verify(&bench, reading()).await;
            let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
            assert_eq!((&damage.object, damage.problem), (name, Problem::Damaged));
            let expected = match round % 2 {
                0 => vec![("a@1".to_owned(), vec![(1, 1)]), ("a@2".to_owned(), vec![(1, 1)])],
                _ => vec![("b@1".to_owned(), vec![(3, 1)])],
            };
            assert_eq!(hurts(damage), expected);
            let found = scrubbed(&bench, None).await;
            assert_eq!(found.damage.len(), 1);
            assert_eq!(&found.damage[0].object, name);
            bench.put(name, whole).await;
        }
        assert!(verify(&bench, reading()).await.ok());
    }
}

#[tokio::test]
async fn an_unreadable_page_hurts_all_that_it_covers() {
    let bench = Bench::new(true).await;
    let mut numbers = Numbers::new(4);
    let (one, two) = (numbers.text(C as usize), numbers.text(C as usize));
    let (one, two) = (bench.chunk(&one).await, bench.chunk(&two).await);
    // Three levels: a page of level 1 covers 2^20 chunks.
    let big = 1 << 20;
    let size = (3 * big) * C + 100;
    bench.commit_at("v", size, vec![(0, one.clone())]).await;
    let before: BTreeSet<String> = bench.names(PAGES).await.into_iter().collect();
    bench.commit_at("v", size, vec![(0, one.clone()), (2 * big + 5000, two.clone())]).await;
    let added: Vec<String> =
        bench.names(PAGES).await.into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(added.len(), 2, "a leaf and a page above it");
    let mut ranges = BTreeSet::new();
    for name in &added {
        let whole = bench.get(name).await;
        for hurt in [whole[..whole.len() - 1].to_vec(), Vec::new()] {
            bench.put(name, hurt).await;
            let report = verify(&bench, reading()).await;
            let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
            assert_eq!((&damage.object, damage.problem), (name, Problem::Damaged));
            ranges.extend(hurts(damage));
        }
        bench.delete(name).await;
        let report = verify(&bench, VerifyOptions::default()).await;
        assert_eq!(report.damage[0].problem, Problem::Missing);
        ranges.extend(hurts(&report.damage[0]));
        bench.put(name, whole).await;
    }
    let expected =
        [("v@2".to_owned(), vec![(2 * big, big)]), ("v@2".to_owned(), vec![(2 * big + 4096, 1024)])];
    assert_eq!(ranges, BTreeSet::from(expected));
    assert!(verify(&bench, reading()).await.ok());
}

#[tokio::test]
async fn every_flipped_byte_of_metadata_is_found() {
    for encrypted in [true, false] {
        let bench = Bench::new(encrypted).await;
        // The page of what is forgotten is needed by the other snapshot too.
        let data = Numbers::new(5).text(3 * C as usize);
        bench.backup("v", &data).await;
        forget(&bench, "v@1").await;
        bench.backup("v", &data).await;
        let metadata: Vec<String> =
            bench.names("").await.into_iter().filter(|name| !name.starts_with(CHUNKS)).collect();
        assert!(metadata.len() > 8);
        for name in metadata {
            let whole = bench.get(&name).await;
            for at in 0..whole.len() {
                let mut hurt = whole.clone();
                hurt[at] ^= 1 << (at % 8);
                bench.put(&name, hurt).await;
                let found = match bench.reopened().await {
                    Err(_) => true,
                    Ok(project) => {
                        let options = VerifyOptions::default();
                        let verified = run(&project, options, Arc::new(Silent), Cancel::never()).await;
                        !verified.expect("verified").ok()
                    }
                };
                assert!(found, "byte {at} of {name}");
                let options = ScrubOptions::default();
                let scrubbed = scrub(&bench.store(), options, Arc::new(Silent), Cancel::never()).await;
                assert!(!scrubbed.is_ok_and(|report| report.ok()), "scrub: byte {at} of {name}");
            }
            bench.put(&name, whole).await;
        }
        assert!(verify(&bench, reading()).await.ok());
    }
}

async fn forget(bench: &Bench, spec: &str) {
    let entry = bench.find(spec).await;
    let project = &bench.project;
    let name = ObjectName::Forget(project.name().clone(), entry.snapshot.volume, entry.snapshot.sequence);
    let record = ForgetRecord { snapshot_id: entry.snapshot_id, host: "test".into(), at_unix_ms: 0 };
    project.create_record(&name, &record).await.expect("forgotten");
}

#[tokio::test]
async fn gaps_in_numbers_are_damage() {
    let bench = Bench::new(true).await;
    for volume in ["a", "a", "a", "b", "c"] {
        bench.backup(volume, &Numbers::new(6).text(10)).await;
    }
    let log = "projects/default/log/0000000001/0000000002.open";
    let entry = "projects/default/volumes/0000000002";
    for name in [log, entry] {
        let whole = bench.get(name).await;
        bench.delete(name).await;
        let report = verify(&bench, reading()).await;
        let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
        assert_eq!((damage.object.as_str(), damage.problem), (name, Problem::Gap));
        // What can be verified is verified all the same.
        assert_eq!((report.volumes, report.snapshots), (3, 5));
        let [damage] = &scrubbed(&bench, None).await.damage[..] else { panic!("one gap") };
        assert_eq!((damage.object.as_str(), damage.problem), (name, Problem::Gap));
        bench.put(name, whole).await;
    }
    // The last entry of the catalog shows by the volume's log.
    bench.delete("projects/default/volumes/0000000003").await;
    let report = verify(&bench, reading()).await;
    assert_eq!(report.damage[0].problem, Problem::Gap, "{:?}", report.damage);
}

#[tokio::test]
async fn a_damaged_outcome_loses_its_snapshot_and_no_other() {
    let bench = Bench::new(true).await;
    for seed in 0..3 {
        bench.backup("a", &Numbers::new(seed).text(10)).await;
    }
    let name = "projects/default/log/0000000001/0000000002.end";
    let whole = bench.get(name).await;
    bench.put(name, whole[..50].to_vec()).await;
    let report = verify(&bench, reading()).await;
    let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
    assert_eq!(damage.object, name);
    assert!(damage.hurts[0].whole && damage.hurts[0].sequence == 2);
    assert_eq!(report.snapshots, 2);
    // The others can be named and restored.
    for spec in ["a@1", "a@3", "a@latest", "a"] {
        bench.find(spec).await;
    }
    assert_eq!(bench.project.volumes().snapshot("a@2").await.expect_err("hurt").kind(), ErrorKind::Corrupt);
    let named = VerifyOptions { snapshots: vec!["a@2".into(), "a@3".into()], ..reading() };
    let report = verify(&bench, named).await;
    assert_eq!((report.damage.len(), report.snapshots), (1, 1));
}

#[tokio::test]
async fn a_backup_under_way_is_no_damage() {
    let bench = Bench::new(true).await;
    bench.backup("a", &[1; 10]).await;
    let catalog = bench.project.volumes().read().await.expect("catalog");
    let record = catalog.by_number(VolumeNumber(1)).expect("there").clone();
    let session = crate::repo::session::Session::register(&bench.project, &record).await.expect("registered");
    let report = verify(&bench, reading()).await;
    assert!(report.ok());
    assert_eq!(report.unfinished, 1);
    session.abort("test").await.expect("aborted");
    assert_eq!(verify(&bench, reading()).await.unfinished, 0);
}

/// Deltas that share a part of their way down.
async fn tree(bench: &Bench) -> (Vec<Vec<u8>>, Vec<PageRef>) {
    let mut numbers = Numbers::new(7);
    let mut plains = vec![numbers.text(C as usize)];
    let mut refs = vec![bench.chunk(&plains[0]).await];
    // Each on the one named: a chain of three, and two more that fork off.
    for (step, below) in [0, 1, 2, 1, 0].into_iter().enumerate() {
        let mut plain = plains[below].clone();
        for _ in 0..10 {
            plain[numbers.below(C as usize)] ^= 0x11;
        }
        refs.push(bench.delta(&plain, &refs[below], &plains[below], step as u32 + 1).await);
        plains.push(plain);
    }
    (plains, refs)
}

#[tokio::test]
async fn deltas_are_read_once_and_hurt_by_their_bases() {
    for encrypted in [true, false] {
        let bench = Bench::new(encrypted).await;
        let (plains, refs) = tree(&bench).await;
        let size = plains.len() as u64 * C;
        bench.commit("v", size, refs.clone()).await;
        // Not the base itself, but a delta on it.
        bench.commit("w", C, vec![refs[2].clone()]).await;
        let whole = verify(&bench, reading()).await;
        assert!(whole.ok(), "{:?}", whole.damage);
        assert_eq!(whole.chunks_read, 6, "each object once");
        let name = |i: usize| {
            let (content, name) = (bench.project.content(), refs[i].object().expect("stored").name);
            (content.object_name(name).to_string(), content.chunk_label(name))
        };
        for (hurt, v, w) in [
            (0, vec![(0, 6)], true),
            (1, vec![(1, 4)], true),
            (2, vec![(2, 2)], true),
            (3, vec![(3, 1)], false),
            (5, vec![(5, 1)], false),
        ] {
            let (name, label) = name(hurt);
            let whole = bench.get(&name).await;
            for kind in 0..3 {
                match kind {
                    0 => bench.delete(&name).await,
                    1 => bench.put(&name, whole[..whole.len() - 1].to_vec()).await,
                    _ => {
                        let mut flipped = whole.clone();
                        flipped[whole.len() - 3] ^= 4;
                        bench.put(&name, flipped).await;
                    }
                }
                let mut options = vec![reading()];
                if kind < 2 {
                    options.push(VerifyOptions::default());
                }
                for options in options {
                    let report = verify(&bench, options).await;
                    let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
                    assert_eq!(damage.object, label);
                    let mut expected = vec![("v@1".to_owned(), v.clone())];
                    expected.extend(w.then(|| ("w@1".to_owned(), vec![(0, 1)])));
                    assert_eq!(hurts(damage), expected);
                }
                bench.put(&name, whole.clone()).await;
            }
        }
    }
}

#[tokio::test]
async fn all_slices_together_read_everything_once() {
    let bench = Bench::new(true).await;
    let (_, refs) = tree(&bench).await;
    bench.commit("deltas", 6 * C, refs).await;
    bench.backup("v", &Numbers::new(8).volume(300 * C as usize)).await;
    let mut objects = bench.names(CHUNKS).await;
    let victim = &objects[objects.len() / 2].clone();
    objects.extend(bench.names(BUNDLES).await);
    for of in [1, 3, 10] {
        for read_data in [true, false] {
            let (mut read, mut looked) = (0, 0);
            for number in 1..=of {
                let slice = Some(Slice::new(number, of).expect("valid"));
                let report = verify(&bench, VerifyOptions { slice, read_data, ..reading() }).await;
                assert!(report.ok());
                read += report.chunks_read;
                looked += report.chunks;
            }
            let all = objects.len() as u64;
            assert_eq!(read, if read_data { all } else { 0 });
            assert_eq!(looked, if read_data { all * u64::from(of) } else { all });
        }
        let whole = bench.get(victim).await;
        let mut flipped = whole.clone();
        flipped[200] ^= 1;
        bench.put(victim, flipped).await;
        let (mut found, mut scrubbed_objects, mut found_scrubbing) = (0, 0, 0);
        for number in 1..=of {
            let slice = Slice::new(number, of).expect("valid");
            found += verify(&bench, VerifyOptions { slice: Some(slice), ..reading() }).await.damage.len();
            let report = scrubbed(&bench, Some(slice)).await;
            scrubbed_objects += report.objects;
            found_scrubbing += report.damage.len();
        }
        assert_eq!((found, found_scrubbing), (1, 1));
        let all = bench.names("").await;
        let is_content = |n: &&String| [CHUNKS, PAGES, BUNDLES].iter().any(|prefix| n.starts_with(prefix));
        let content = all.iter().filter(is_content).count() as u64;
        let others = all.len() as u64 - content;
        assert_eq!(scrubbed_objects, content + others * u64::from(of));
        bench.put(victim, whole).await;
    }
}

#[tokio::test]
async fn passes_of_any_size_find_the_same() {
    let bench = Bench::new(true).await;
    bench.backup("v", &Numbers::new(9).volume(500 * C as usize)).await;
    let objects = bench.names(CHUNKS).await;
    for name in objects.iter().step_by(37) {
        bench.delete(name).await;
    }
    let found = |report: &VerifyReport| {
        let mut all: Vec<_> = report.damage.iter().map(|d| (d.object.clone(), hurts(d))).collect();
        all.sort();
        (all, report.chunks)
    };
    let expected = found(&verify(&bench, VerifyOptions::default()).await);
    assert_eq!(expected.0.len(), objects.len().div_ceil(37));
    for objects_per_pass_max in [3, 10, 100, 1000] {
        let options = VerifyOptions { objects_per_pass_max, ..VerifyOptions::default() };
        assert_eq!(found(&verify(&bench, options).await), expected);
        let options = VerifyOptions { objects_per_pass_max, ..reading() };
        let report = verify(&bench, options).await;
        assert_eq!(found(&report).0, expected.0);
        assert_eq!(report.chunks_read as usize, objects.len() - expected.0.len());
    }
}

#[tokio::test]
async fn what_was_forgotten_meanwhile_is_not_missed() {
    let bench = Bench::new(true).await;
    let mut numbers = Numbers::new(10);
    let first = numbers.text(C as usize);
    bench.backup("v", &first).await;
    bench.backup("v", &numbers.text(C as usize)).await;
    let name = name_of(&bench, &first).await;
    bench.delete(&name).await;
    // Named, so it is looked at although it is forgotten by the time that its loss is found.
    let options = VerifyOptions::default();
    let audit = Audit::new(&bench.project, &options, Arc::new(Silent), Cancel::never());
    let mut findings = Findings::default();
    let metadata = Metadata::read(&audit, &VerifyOptions::default(), &mut findings).await.expect("read");
    let mut report = VerifyReport::default();
    let look = Look { audit: &audit, metadata: &metadata, options: &options, scope: None };
    look.run(&mut findings, &mut report).await.expect("looked");
    assert_eq!(findings.damage.len(), 1);
    forget(&bench, "v@1").await;
    hurt::find(&audit, &metadata.subjects, &mut findings).await.expect("looked");
    assert_eq!(findings.damage.len(), 0, "{:?}", findings.damage);
    assert!(verify(&bench, reading()).await.ok());
}

#[tokio::test]
async fn hostile_manifests_are_damage_soon() {
    let bench = Bench::new(false).await;
    let (_, refs) = tree(&bench).await;
    let good: Vec<ObjectRef> = refs[3].objects().copied().collect();
    let forged = |id: u8, sealed_len_bytes, generation| {
        let name = ContentName {
            generation: Generation(generation),
            id: ChunkId([id; 32]),
            variant: u32::from(id),
            offset_bytes: None,
        };
        ObjectRef { name, sealed_len_bytes }
    };
    let stored = |object: ObjectRef, closure| PageRef::Stored { id: object.name.id, object, closure };
    let cases: Vec<(&str, PageRef)> = vec![
        ("an object that is not there", stored(forged(1, 200, 0), vec![])),
        ("an object of 4 GiB", stored(forged(1, u32::MAX, 0), vec![])),
        ("a closure of objects of 4 GiB", stored(good[0], (2..17).map(|i| forged(i, u32::MAX, 0)).collect())),
        ("an object of the future", stored(forged(1, 200, 5), vec![])),
        ("a delta without its base", stored(good[0], vec![])),
        ("a chain cut short", stored(good[0], vec![good[1], good[2]])),
        ("a chain in another order", stored(good[0], vec![good[2], good[1], good[3]])),
        ("a base too many", stored(good[3], vec![good[2]])),
        ("a delta without a variant", stored(good[3], vec![good[2], good[1], good[0]])),
    ];
    for (what, hostile) in cases {
        for size in [C, 1 << 50] {
            bench.commit("v", size, vec![hostile.clone()]).await;
            let started = Instant::now();
            let options = VerifyOptions { snapshots: vec!["v".into()], ..reading() };
            let report = verify(&bench, options).await;
            assert!(!report.ok(), "{what}");
            assert!(report.damage.iter().any(|d| !d.hurts.is_empty()), "{what}: {:?}", report.damage);
            assert!(started.elapsed() < Duration::from_secs(1), "{what} took {:?}", started.elapsed());
        }
    }
}

#[tokio::test]
async fn a_chunk_of_the_wrong_length_hurts_only_where_it_is_wrong() {
    let bench = Bench::new(true).await;
    let plain = Numbers::new(11).text(C as usize);
    let chunk = bench.chunk(&plain).await;
    bench.commit("right", 2 * C, vec![chunk.clone(), chunk.clone()]).await;
    bench.commit("wrong", C + 100, vec![chunk.clone(), chunk]).await;
    let report = verify(&bench, reading()).await;
    let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
    assert_eq!(damage.hurts.len(), 1);
    let hurt = &damage.hurts[0];
    assert_eq!(
        (hurt.volume.as_str(), hurt.ranges[0].offset_bytes, hurt.ranges[0].length_bytes),
        ("wrong", C, 100)
    );
}

#[tokio::test]
async fn a_copy_in_the_cache_does_not_hide_damage_of_the_store() {
    let dir = tempfile::tempdir().expect("a folder");
    let bench = Bench::new(true).await.cached(dir.path()).await;
    bench.backup("v", &Numbers::new(12).text(3 * C as usize)).await;
    assert!(verify(&bench, reading()).await.ok());
    for name in bench.names(PAGES).await.iter().chain(&bench.names("projects/default/log/").await) {
        let whole = bench.get(name).await;
        bench.put(name, whole[..whole.len() - 1].to_vec()).await;
        let report = verify(&bench, VerifyOptions::default()).await;
        assert_eq!(report.damage.len(), 1, "{name}");
        bench.put(name, whole).await;
    }
}

#[tokio::test]
async fn a_snapshot_is_compared_with_what_it_was_made_of() {
    let bench = Bench::new(true).await;
    let mut numbers = Numbers::new(13);
    let data = numbers.volume(1100 * C as usize + 77);
    let snapshot = bench.backup("v", &data).await;
    let compare = async |other: Vec<u8>| {
        let reader = MemoryReader::of(other);
        against(&bench.project, &snapshot, reader, 1 << 20, Arc::new(Silent), Cancel::never())
            .await
            .expect("compared")
    };
    assert!(compare(data.clone()).await.ok());
    let ranges = |report: &AgainstReport| -> Vec<(u64, u64)> {
        report.differing.iter().map(|r| (r.offset_bytes, r.length_bytes)).collect()
    };
    for _ in 0..50 {
        let mut other = data.clone();
        let at = numbers.below(other.len());
        other[at] ^= 1;
        let report = compare(other).await;
        assert!(!report.ok());
        let start = at as u64 / C * C;
        assert_eq!(ranges(&report), [(start, C.min(data.len() as u64 - start))]);
    }
    // Longer and shorter.
    let report = compare([&data[..], &[0; 10]].concat()).await;
    assert!(!report.ok());
    assert_eq!(ranges(&report), [(data.len() as u64, 10)]);
    let mut short = data.clone();
    short.truncate(5 * C as usize);
    let report = compare(short).await;
    assert!(!report.ok());
    assert_eq!(ranges(&report), [(5 * C, data.len() as u64 - 5 * C)]);
    assert_eq!(report.differing_bytes, data.len() as u64 - 5 * C);
}

#[tokio::test]
async fn a_scrub_needs_no_key_and_counts_what_is_not_ours() {
    let bench = Bench::new(true).await;
    bench.backup("v", &Numbers::new(14).text(5 * C as usize)).await;
    let all = bench.names("").await.len() as u64;
    bench.put("lost+found/x", vec![1]).await;
    bench.put("projects/default/chunks/0000000000/ab/other", vec![1]).await;
    let report = scrubbed(&bench, None).await;
    assert!(report.ok(), "{:?}", report.damage);
    assert_eq!((report.objects, report.unknown), (all, 2));
    // An object that is right, but elsewhere, and one that is open where all is sealed.
    let chunks = bench.names(CHUNKS).await;
    let (one, two) = (bench.get(&chunks[0]).await, bench.get(&chunks[1]).await);
    bench.put(&chunks[0], two).await;
    let report = scrubbed(&bench, None).await;
    assert_eq!(report.damage.len(), 1);
    assert_eq!(report.damage[0].object, chunks[0]);
    bench.put(&chunks[0], one).await;
    let nothing = Arc::new(object_store::memory::InMemory::new());
    let nothing = crate::store::Store::with_object_store(nothing, crate::store::Limits::default());
    let error = scrub(&nothing, ScrubOptions::default(), Arc::new(Silent), Cancel::never());
    assert_eq!(error.await.expect_err("nothing there").kind(), ErrorKind::NoRepository);
}

#[tokio::test]
async fn a_cancelled_verification_stops() {
    let bench = Bench::new(true).await;
    bench.backup("v", &Numbers::new(15).text(5 * C as usize)).await;
    let (canceller, cancel) = crate::cancel::pair();
    canceller.cancel();
    let error = run(&bench.project, reading(), Arc::new(Silent), cancel.clone()).await.expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    let error = scrub(&bench.store(), ScrubOptions::default(), Arc::new(Silent), cancel).await;
    assert_eq!(error.expect_err("stopped").kind(), ErrorKind::Interrupted);
}
