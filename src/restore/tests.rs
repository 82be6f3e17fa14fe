use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::cancel;
use crate::error::{Error, ErrorKind};
use crate::format::envelope::MARK_LEN_BYTES;
use crate::format::names::ContentName;
use crate::format::page::{ObjectRef, PageRef};
use crate::progress::Silent;
use crate::repo::content::Body;
use crate::sink::Order;
use crate::sink::pipe::PipeSink;
use crate::sink::raw_file::{PARTIAL_SUFFIX, RawFileSink};
use crate::testing::{Bench, CHUNK, MemorySink, Numbers};
use crate::units::{ChunkId, Generation};

const C: usize = CHUNK as usize;

async fn restore(
    project: &Project,
    snapshot: &SnapshotEntry,
    sink: &Arc<MemorySink>,
) -> Result<RestoreReport> {
    let options = RestoreOptions::default();
    run(project, snapshot, Arc::clone(sink) as _, options, Arc::new(Silent), Cancel::never()).await
}

async fn restore_to(project: &Project, snapshot: &SnapshotEntry, sink: Arc<dyn Sink>) -> RestoreReport {
    let options = RestoreOptions::default();
    run(project, snapshot, sink, options, Arc::new(Silent), Cancel::never()).await.expect("restored")
}

/// Sizes around every boundary: none, less than a chunk, whole chunks, a short last chunk, more than one leaf.
const SIZES: [usize; 8] = [0, 1, C - 1, C, C + 1, 7 * C, 33 * C + 100, 1030 * C + 5];

#[tokio::test]
async fn a_restore_is_the_identity_on_every_target() {
    let bench = Bench::new(true).await;
    let dir = tempfile::tempdir().expect("a folder");
    for (round, size) in SIZES.into_iter().enumerate() {
        let mut numbers = Numbers::new(round as u64 + 1);
        let data = numbers.volume(size);
        let snapshot = bench.backup(&format!("v{round}"), &data).await;
        let path = dir.path().join(format!("new{round}"));
        let sink = RawFileSink::open(&path, size as u64, false).expect("opened");
        restore_to(&bench.project, &snapshot, Arc::new(sink)).await;
        assert_eq!(std::fs::read(&path).expect("there"), data, "{size} bytes to a new file");

        // Over something else, longer and shorter than the volume.
        for other in [size + C, size.saturating_sub(C / 2), 0] {
            std::fs::write(&path, numbers.volume(other)).expect("written");
            let sink = RawFileSink::open(&path, size as u64, true).expect("opened");
            restore_to(&bench.project, &snapshot, Arc::new(sink)).await;
            assert_eq!(std::fs::read(&path).expect("there"), data, "{size} bytes over {other}");
        }

        let pipe = Arc::new(PipeSink::new(Vec::new(), size as u64));
        restore_to(&bench.project, &snapshot, Arc::clone(&pipe) as _).await;
        let pipe = Arc::into_inner(pipe).expect("nobody else has it");
        assert!(pipe.into_inner() == data, "{size} bytes to a pipe");
    }
}

#[tokio::test]
async fn an_unencrypted_repository_restores_too() {
    let bench = Bench::new(false).await;
    let data = Numbers::new(5).volume(20 * C + 7);
    let snapshot = bench.backup("v", &data).await;
    let sink = Arc::new(MemorySink::blank(data.len()));
    restore(&bench.project, &snapshot, &sink).await.expect("restored");
    assert_eq!(sink.content(), data);
}

#[tokio::test]
async fn however_little_memory_is_allowed_it_ends() {
    let bench = Bench::new(true).await;
    let data = Numbers::new(6).volume(300 * C + 7);
    let snapshot = bench.backup("v", &data).await;
    for inflight_bytes in [0, 1, 3 * u64::from(CHUNK), 40 * u64::from(CHUNK)] {
        let held = Numbers::new(7).volume(data.len());
        for sink in [MemorySink::blank(data.len()), MemorySink::pipe(data.len()), MemorySink::holding(held)] {
            let sink = Arc::new(sink);
            let options = RestoreOptions { inflight_bytes, ..RestoreOptions::default() };
            run(
                &bench.project,
                &snapshot,
                Arc::clone(&sink) as _,
                options,
                Arc::new(Silent),
                Cancel::never(),
            )
            .await
            .expect("restored");
            assert!(sink.content() == data, "with {inflight_bytes} bytes in flight");
            assert_eq!(sink.calls().finished, 1);
        }
    }
}

#[tokio::test]
async fn a_blank_target_that_is_not_trusted_gets_its_zeros() {
    let bench = Bench::new(true).await;
    let data = [vec![0; 3 * C], vec![7; C]].concat();
    let snapshot = bench.backup("v", &data).await;
    for (trust_blank, zeroed) in [(true, 0), (false, 3 * u64::from(CHUNK))] {
        let sink = Arc::new(MemorySink::blank(data.len()));
        let options = RestoreOptions { trust_blank, ..RestoreOptions::default() };
        let report = run(
            &bench.project,
            &snapshot,
            Arc::clone(&sink) as _,
            options,
            Arc::new(Silent),
            Cancel::never(),
        )
        .await
        .expect("restored");
        assert_eq!(sink.calls().zeroed_bytes, zeroed);
        assert_eq!(report.totals.zero.bytes, zeroed);
    }
}

#[tokio::test]
async fn a_target_that_is_not_compared_is_written_whole_and_never_read() {
    let bench = Bench::new(true).await;
    let data = [vec![0; 3 * C], vec![7; C], vec![8; C]].concat();
    let snapshot = bench.backup("v", &data).await;
    let mut stale = vec![9; data.len()];
    stale[3 * C..4 * C].fill(7);
    let sink = Arc::new(MemorySink::holding(stale));
    let options = RestoreOptions { compare: false, ..RestoreOptions::default() };
    let (silent, never) = (Arc::new(Silent), Cancel::never());
    let report = run(&bench.project, &snapshot, Arc::clone(&sink) as _, options, silent, never).await;
    let totals = report.expect("restored").totals;
    assert_eq!((totals.keep.chunks, totals.zero.chunks, totals.fetch.chunks), (0, 3, 2));
    assert!(sink.content() == data);
}

#[tokio::test]
async fn stale_data_under_zeros_goes_and_what_is_right_stays() {
    let bench = Bench::new(true).await;
    let mut numbers = Numbers::new(8);
    let data = [numbers.text(C), vec![0; 4 * C], numbers.text(C)].concat();
    let snapshot = bench.backup("v", &data).await;
    let mut held = data.clone();
    held[2 * C..3 * C].fill(9);
    held[4 * C + 5] = 1;
    held[5 * C + 1] ^= 1;
    let sink = Arc::new(MemorySink::holding(held));
    let report = restore(&bench.project, &snapshot, &sink).await.expect("restored");
    assert_eq!(sink.content(), data);
    let calls = sink.calls();
    assert_eq!((calls.writes, calls.zeroed_bytes), (1, 2 * u64::from(CHUNK)));
    assert_eq!((report.totals.keep.chunks, report.totals.zero.chunks, report.totals.fetch.chunks), (3, 2, 1));
}

#[tokio::test]
async fn a_dry_run_says_what_the_run_then_does() {
    let bench = Bench::new(true).await;
    let mut numbers = Numbers::new(9);
    let data = numbers.volume(1100 * C + 11);
    let snapshot = bench.backup("v", &data).await;
    let mut held = data.clone();
    for _ in 0..200 {
        let at = numbers.below(held.len());
        held[at] ^= 1;
    }
    held.truncate(1000 * C);
    held.resize(data.len(), 0);
    let sink = Arc::new(MemorySink::holding(held));
    let options = RestoreOptions::default();
    let planned =
        plan(&bench.project, &snapshot, sink.existing(), options, Arc::new(Silent), Cancel::never())
            .await
            .expect("planned");
    assert_eq!(sink.calls(), crate::testing::Calls::default());
    let leaves = 2;
    assert_eq!(planned.ledger.get_requests, leaves, "a dry run fetches pages only");
    let done = restore(&bench.project, &snapshot, &sink).await.expect("restored");
    assert_eq!(planned.totals, done.totals);
    assert_eq!(done.ledger.get_requests, leaves + planned.totals.objects);
    assert!(planned.dry_run && !done.dry_run);
    assert_eq!(sink.content(), data);
}

#[tokio::test]
async fn what_was_written_before_an_interruption_is_not_fetched_again() {
    let bench = Bench::new(true).await;
    let dir = tempfile::tempdir().expect("a folder");
    let data = Numbers::new(10).text(200 * C + 10);
    let snapshot = bench.backup("v", &data).await;
    let path = dir.path().join("v.raw");
    for stop_after in [0, 1, 50, 40] {
        let inner = RawFileSink::open(&path, data.len() as u64, false).expect("opened");
        let (canceller, cancel) = cancel::pair();
        let sink = Arc::new(Stopping { inner, canceller, writes: AtomicUsize::new(0), stop_after });
        let options = RestoreOptions { inflight_bytes: 20 * u64::from(CHUNK), ..RestoreOptions::default() };
        let error = run(&bench.project, &snapshot, sink, options, Arc::new(Silent), cancel)
            .await
            .expect_err("interrupted");
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
        assert!(!path.exists(), "a half restored file has its name already");
    }
    let partial = dir.path().join(format!("v.raw{PARTIAL_SUFFIX}"));
    let right = chunks_right(&partial, &data);
    assert!((90..201).contains(&right), "{right} chunks were written");
    let sink = RawFileSink::open(&path, data.len() as u64, false).expect("opened");
    let report = restore_to(&bench.project, &snapshot, Arc::new(sink)).await;
    assert_eq!(report.totals.keep.chunks, right);
    assert_eq!(report.totals.fetches, 201 - right);
    assert_eq!(report.ledger.get_requests, 201 - right + 1, "chunks and one page");
    assert_eq!(std::fs::read(&path).expect("there"), data);
}

/// Chunks of a file that are as they should be.
fn chunks_right(path: &Path, data: &[u8]) -> u64 {
    let held = std::fs::read(path).expect("there");
    assert_eq!(held.len(), data.len());
    held.chunks(C).zip(data.chunks(C)).filter(|(held, wanted)| held == wanted).count() as u64
}

/// Cancels the restore after some writes.
struct Stopping {
    inner: RawFileSink,
    canceller: cancel::Canceller,
    writes: AtomicUsize,
    stop_after: usize,
}

impl Sink for Stopping {
    fn order(&self) -> Order {
        self.inner.order()
    }

    fn existing(&self) -> Existing {
        self.inner.existing()
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        if self.writes.fetch_add(1, Ordering::Relaxed) >= self.stop_after {
            self.canceller.cancel();
        }
        self.inner.write_at(offset_bytes, data)
    }

    fn zero_at(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.inner.zero_at(offset_bytes, length_bytes)
    }

    fn finish(&self) -> Result<()> {
        self.inner.finish()
    }
}

#[tokio::test]
async fn a_cancelled_restore_does_nothing() {
    let bench = Bench::new(true).await;
    let snapshot = bench.backup("v", &Numbers::new(11).text(10 * C)).await;
    let (canceller, cancel) = cancel::pair();
    canceller.cancel();
    for sink in [MemorySink::blank(10 * C), MemorySink::pipe(10 * C)] {
        let sink = Arc::new(sink);
        let options = RestoreOptions::default();
        let result =
            run(&bench.project, &snapshot, Arc::clone(&sink) as _, options, Arc::new(Silent), cancel.clone())
                .await;
        assert_eq!(result.expect_err("interrupted").kind(), ErrorKind::Interrupted);
        assert_eq!(sink.calls(), crate::testing::Calls::default());
    }
}

#[tokio::test]
async fn a_target_that_fails_stops_the_restore() {
    let bench = Bench::new(true).await;
    let data = Numbers::new(12).text(50 * C);
    let snapshot = bench.backup("v", &data).await;
    for mut sink in [MemorySink::blank(data.len()), MemorySink::pipe(data.len())] {
        sink.on_write = Box::new(|writes| match writes {
            0..20 => Ok(()),
            _ => Err(Error::unavailable("the disk is full").help("make room")),
        });
        let sink = Arc::new(sink);
        let error = restore(&bench.project, &snapshot, &sink).await.expect_err("full");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.help_text(), Some("make room"));
        assert_eq!(sink.calls().finished, 0);
    }
}

/// Base, and deltas on one another; each differs a little from the one before.
async fn chain(bench: &Bench, depth: usize, numbers: &mut Numbers) -> (Vec<Vec<u8>>, Vec<PageRef>) {
    let mut plains = vec![numbers.text(C)];
    let mut refs = vec![bench.chunk(&plains[0]).await];
    for step in 0..depth {
        let mut plain = plains[step].clone();
        for _ in 0..20 {
            plain[numbers.below(C)] ^= 0x15;
        }
        let delta = bench.delta(&plain, &refs[step], &plains[step], step as u32 + 1).await;
        plains.push(plain);
        refs.push(delta);
    }
    (plains, refs)
}

#[tokio::test]
async fn deltas_are_decoded_down_to_their_full_chunk() {
    for encrypted in [true, false] {
        let bench = Bench::new(encrypted).await;
        let (plains, refs) = chain(&bench, 7, &mut Numbers::new(13)).await;
        let data = plains.concat();
        let snapshot = bench.commit("v", data.len() as u64, refs).await;
        for sink in [MemorySink::blank(data.len()), MemorySink::pipe(data.len())] {
            let sink = Arc::new(sink);
            let report = restore(&bench.project, &snapshot, &sink).await.expect("restored");
            assert!(sink.content() == data);
            assert_eq!(report.totals.objects, (1..=8).sum::<u64>());
        }
    }
}

/// The bytes that a failed restore left are those from before, or right ones.
fn nothing_wrong(sink: &MemorySink, before: u8, data: &[u8]) {
    for (held, wanted) in sink.content().chunks(C).zip(data.chunks(C)) {
        assert!(held == wanted || held.iter().all(|b| *b == before), "a wrong byte was written");
    }
}

#[tokio::test]
async fn damaged_chunk_objects_stop_the_restore_and_never_reach_the_target() {
    for encrypted in [true, false] {
        let bench = Bench::new(encrypted).await;
        let mut numbers = Numbers::new(14);
        let (plains, refs) = chain(&bench, 2, &mut numbers).await;
        let mut data = plains.concat();
        let fresh = numbers.text(C);
        let mut all = refs;
        all.push(bench.chunk(&fresh).await);
        data.extend(fresh);
        let all_refs = all.clone();
        let snapshot = bench.commit("v", data.len() as u64, all).await;
        let mut names = bench.names("projects/default/chunks/").await;
        names.extend(bench.names("projects/default/bundles/").await);
        assert_eq!(names.len(), 4);
        // Where the only piece of a bundle begins: what is before is not needed to restore.
        let starts: HashMap<String, usize> = all_refs
            .iter()
            .filter_map(PageRef::object)
            .map(|o| {
                let name = bench.project.content().object_name(o.name).to_string();
                (name, o.name.offset_bytes.map_or(0, |offset| offset as usize))
            })
            .collect();
        for round in 0..600 {
            let name = &names[round % names.len()];
            let whole = bench.get(name).await;
            let mut hurt = whole.clone();
            let (start, len) = (starts[name], whole.len() - starts[name]);
            let checksum_end = if start > 0 { 32 + 88 } else { 88 };
            match numbers.below(8) {
                0 => hurt.truncate(numbers.below(whole.len())),
                1 if start == 0 => hurt.extend(numbers.text(1 + round % 40)),
                2 => hurt = bench.get(&names[(round + 1) % names.len()]).await,
                _ => {
                    // Neither in the checksum nor in the mark, which are not needed where there is a key: see `verify`.
                    let mark = if encrypted { MARK_LEN_BYTES } else { 0 };
                    let mut at = numbers.below(len - mark);
                    while (checksum_end - 32..checksum_end).contains(&at) {
                        at = numbers.below(len - mark);
                    }
                    hurt[start + at] ^= 1 << numbers.below(8);
                }
            }
            bench.put(name, hurt).await;
            let sink = Arc::new(MemorySink::blank(data.len()));
            let error = restore(&bench.project, &snapshot, &sink).await.expect_err("damaged");
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{error}");
            assert!(error.message().contains("v@1") && error.help_text().is_some(), "{error}");
            nothing_wrong(&sink, 0, &data);
            assert_eq!(sink.calls().finished, 0);
            bench.put(name, whole).await;
        }
    }
}

#[tokio::test]
async fn ten_thousand_flips_in_chunks_are_all_found() {
    for encrypted in [true, false] {
        let bench = Bench::new(encrypted).await;
        let mut numbers = Numbers::new(15);
        let (plains, refs) = chain(&bench, 1, &mut numbers).await;
        let objects: Vec<ObjectRef> = refs[1].objects().copied().collect();
        let mut bodies = Vec::new();
        for object in &objects {
            bodies.push(bench.project.content().get_chunk_object(*object).await.expect("there"));
        }
        let mut plain = Vec::new();
        let open = |bodies: &[Body], plain: &mut Vec<u8>| {
            bench.project.content().open_chunk_into(&refs[1], bodies, CHUNK, plain)
        };
        open(&bodies, &mut plain).expect("good");
        assert_eq!(plain, plains[1]);
        for _ in 0..5000 {
            let which = numbers.below(2);
            let mut hurt = bodies[which].sealed.to_vec();
            let at = numbers.below(hurt.len());
            hurt[at] ^= 1 << numbers.below(8);
            let mut all = bodies.clone();
            all[which].sealed = hurt.into();
            // The checksum and the mark are not looked at where there is a stronger one.
            let found = open(&all, &mut plain).is_err();
            let unread = (56..88).contains(&at) || at >= bodies[which].sealed.len() - MARK_LEN_BYTES;
            assert!(found || (encrypted && unread), "byte {at} of object {which}");
        }
    }
}

#[tokio::test]
async fn no_flipped_byte_of_metadata_restores_a_wrong_one() {
    for encrypted in [true, false] {
        let bench = Bench::new(encrypted).await;
        let data = Numbers::new(16).text(3 * C);
        bench.backup("v", &data).await;
        for name in bench.names("").await.iter().filter(|name| !name.contains("/chunks/")) {
            let whole = bench.get(name).await;
            for at in 0..whole.len() {
                let mut hurt = whole.clone();
                hurt[at] ^= 1 << (at % 8);
                bench.put(name, hurt).await;
                let sink = Arc::new(MemorySink::blank(data.len()));
                if from_scratch(&bench, &sink).await.is_ok() {
                    assert_eq!(sink.content(), data, "byte {at} of {name}");
                }
                nothing_wrong(&sink, 0, &data);
            }
            bench.put(name, whole).await;
        }
    }
}

/// What one command does: opens the repository, finds the snapshot, restores it.
async fn from_scratch(bench: &Bench, sink: &Arc<MemorySink>) -> Result<RestoreReport> {
    let project = bench.reopened().await?;
    let snapshot = project.volumes().snapshot("v").await?;
    if snapshot.snapshot.size_bytes != sink.content().len() as u64 {
        return Err(Error::corrupt("another size"));
    }
    restore(&project, &snapshot, sink).await
}

#[tokio::test]
async fn an_object_of_another_place_or_time_is_refused() {
    let bench = Bench::new(true).await;
    let data = Numbers::new(17).text(2 * C);
    let snapshot = bench.backup("v", &data).await;
    let names = bench.names("projects/default/chunks/").await;
    let (a, b) = (bench.get(&names[0]).await, bench.get(&names[1]).await);
    bench.put(&names[0], b).await;
    bench.put(&names[1], a).await;
    let sink = Arc::new(MemorySink::blank(data.len()));
    assert!(restore(&bench.project, &snapshot, &sink).await.is_err(), "swapped");
    nothing_wrong(&sink, 0, &data);
    assert_eq!(sink.calls().writes, 0);

    // The same content from another repository, whose keys are others.
    let other = Bench::new(true).await;
    other.backup("v", &data).await;
    for (name, theirs) in names.iter().zip(other.names("projects/default/chunks/").await) {
        bench.put(name, other.get(&theirs).await).await;
    }
    assert!(restore(&bench.project, &snapshot, &sink).await.is_err(), "replayed");
    assert_eq!(sink.calls().writes, 0);
}

fn forged(id: u8, sealed_len_bytes: u32) -> ObjectRef {
    let name = ContentName {
        generation: Generation(0),
        id: ChunkId([id; 32]),
        variant: u32::from(id),
        offset_bytes: None,
    };
    ObjectRef { name, sealed_len_bytes }
}

#[tokio::test]
async fn hostile_manifests_end_in_an_error_soon() {
    let bench = Bench::new(false).await;
    let mut numbers = Numbers::new(18);
    let (_, chain) = chain(&bench, 3, &mut numbers).await;
    let good: Vec<ObjectRef> = chain[3].objects().copied().collect();
    let stored = |object: ObjectRef, closure| PageRef::Stored { id: object.name.id, object, closure };
    let renamed = |object: ObjectRef, id: u8| {
        let name = ContentName { id: ChunkId([id; 32]), ..object.name };
        ObjectRef { name, ..object }
    };
    let cases: Vec<(&str, PageRef)> = vec![
        ("an object that is not there", stored(forged(1, 200), vec![])),
        ("an object of 4 GiB", stored(forged(1, u32::MAX), vec![])),
        ("a closure of objects of 4 GiB", stored(good[0], (2..17).map(|i| forged(i, u32::MAX)).collect())),
        (
            "a wrong length",
            stored(ObjectRef { sealed_len_bytes: good[3].sealed_len_bytes + 1, ..good[3] }, vec![]),
        ),
        ("another id", stored(renamed(good[3], 9), vec![])),
        ("a delta without its base", stored(good[0], vec![])),
        ("a chain cut short", stored(good[0], vec![good[1], good[2]])),
        ("a chain in another order", stored(good[0], vec![good[2], good[1], good[3]])),
        ("a base too many", stored(good[3], vec![good[2]])),
        ("a chain to a delta", stored(good[1], vec![good[3], good[2]])),
    ];
    for (what, hostile) in cases {
        // The volume's size is a claim too.
        for size in [u64::from(CHUNK), 10, 1 << 50] {
            let snapshot = bench.commit("v", size, vec![hostile.clone()]).await;
            let started = Instant::now();
            let sink = Arc::new(MemorySink::blank(C));
            let error = restore(&bench.project, &snapshot, &sink).await.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
            assert_eq!(sink.calls().writes, 0, "{what}");
            assert!(started.elapsed() < Duration::from_secs(1), "{what} took {:?}", started.elapsed());
        }
    }
    // A chunk where a shorter one belongs.
    let snapshot = bench.commit("v", 10, vec![chain[0].clone()]).await;
    let sink = Arc::new(MemorySink::blank(C));
    restore(&bench.project, &snapshot, &sink).await.expect_err("too long a chunk");
    assert_eq!(sink.calls().writes, 0);
}

#[tokio::test]
async fn a_volume_of_zeros_costs_nothing_however_large() {
    let bench = Bench::new(true).await;
    let size = 1 << 50;
    let snapshot = bench.commit("v", size, Vec::new()).await;
    let options = RestoreOptions::default();
    let planned =
        plan(&bench.project, &snapshot, Existing::Blank, options, Arc::new(Silent), Cancel::never())
            .await
            .expect("planned");
    assert_eq!(planned.totals.keep.bytes, size);
    assert_eq!(planned.requests, 0);
}

#[tokio::test]
async fn what_was_written_is_read_again_on_request() {
    let bench = Bench::new(true).await;
    let mut numbers = Numbers::new(21);
    let data = [numbers.text(20 * C), vec![0; 5 * C], numbers.text(C / 2)].concat();
    let snapshot = bench.backup("v", &data).await;
    let verify = || RestoreOptions { verify: true, ..RestoreOptions::default() };
    let held = numbers.text(data.len());
    for (mut sink, whole) in [(MemorySink::blank(data.len()), true), (MemorySink::holding(held), false)] {
        // Just before the last write the target loses all others.
        let (bad, lost) = (!whole, Arc::clone(&sink.data));
        sink.on_write = Box::new(move |writes| {
            if bad && writes == 20 {
                lost.lock().expect("not poisoned")[..20 * C].fill(9);
            }
            Ok(())
        });
        let sink = Arc::new(sink);
        let (silent, never) = (Arc::new(Silent), Cancel::never());
        let done = run(&bench.project, &snapshot, Arc::clone(&sink) as _, verify(), silent, never).await;
        assert_eq!(done.is_ok(), whole, "{:?}", done.map(|r| r.totals));
        assert_eq!(sink.calls().finished, usize::from(whole), "a target that is wrong is not called whole");
    }
    let pipe = Arc::new(PipeSink::new(Vec::new(), data.len() as u64));
    let refused = run(&bench.project, &snapshot, pipe, verify(), Arc::new(Silent), Cancel::never()).await;
    assert_eq!(refused.expect_err("nothing to read").kind(), ErrorKind::Invalid);
}
