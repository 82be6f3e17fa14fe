//! Repairs of hurt repositories: what comes back, what stays, and that nothing is ever lost on the way.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex};

use crate::support::Numbers;
use crate::support::by_hand::{ByHand, delete, get, names, put};
use crate::support::fault_store::{Fault, FaultStore, OpKind};
use crate::support::memory_sink::MemoryReader;
use crate::support::repo::{
    self, CHUNK, MemoryVolume, back_up, commit_by_hand, default, environment, hasty, options, secret,
};
use bytes::Bytes;
use cuttle::cancel::Cancel;
use cuttle::format::names::{QUARANTINE_PREFIX, quarantine_name};
use cuttle::format::page::{ObjectRef, PageRef};
use cuttle::format::{ObjectName, ObjectType};
use cuttle::progress::Silent;
use cuttle::prune;
use cuttle::repo::{Environment, InitOptions, Keeper, Project, Repository};
use cuttle::source::ReadAt;
use cuttle::store::Store;
use cuttle::verify::repair::{self, RepairOptions, RepairReport, Source, Sources};
use cuttle::verify::{self, Problem, ScrubOptions, VerifyOptions, VerifyReport};
use cuttle::volume::Identity;
use cuttle::{Error, Result};
use object_store::memory::InMemory;

const C: usize = CHUNK as usize;
const CHUNKS: &str = "projects/default/chunks/";
const PAGES: &str = "projects/default/pages/";
const RECORDS: &str = "projects/default/lost/";

/// What happens to objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Flipped,
    Cut,
    Emptied,
    Grown,
    Swapped,
    Missing,
}

const HARMS: [Harm; 6] = [Harm::Flipped, Harm::Cut, Harm::Emptied, Harm::Grown, Harm::Swapped, Harm::Missing];

struct Bench {
    memory: Arc<InMemory>,
    faults: FaultStore,
    project: Keeper,
}

impl Bench {
    async fn new(encrypted: bool, cache: Option<&FilePath>) -> Self {
        let memory = Arc::new(InMemory::new());
        let faults = FaultStore::new(memory.clone());
        let store = Store::with_object_store(Arc::new(faults.clone()), hasty());
        let options = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 0 };
        let environment = Environment { cache_dir: cache.map(FilePath::to_owned), ..environment() };
        let key = secret();
        let repository = Repository::init(store, environment, &options, encrypted.then_some(&key)).await;
        let project = default(&repository.expect("a new repository")).await;
        Self { memory, faults, project }
    }

    async fn back_up(&self, volume: &str, content: &[u8]) -> Arc<MemoryVolume> {
        let source = MemoryVolume::new(content.to_vec());
        back_up(&self.project, &source, &options(volume)).await.expect("backed up");
        source
    }

    async fn verify(&self) -> VerifyReport {
        repo::verify(&self.project, true).await.expect("verified")
    }

    async fn try_repair(&self, sources: Sources, dry_run: bool) -> Result<RepairReport> {
        let verify = VerifyOptions { read_data: true, ..VerifyOptions::default() };
        let options = RepairOptions { verify, sources, dry_run };
        repair::run(&self.project, options, Arc::new(Silent), Cancel::never()).await
    }

    async fn repair(&self, sources: Sources) -> RepairReport {
        self.try_repair(sources, false).await.expect("repaired")
    }

    async fn names(&self, prefix: &str) -> Vec<String> {
        names(&*self.memory, prefix).await
    }

    /// All objects but those in quarantine and records of what was lost, and what is in quarantine.
    async fn all(&self) -> (BTreeMap<String, Bytes>, BTreeMap<String, Bytes>) {
        let (mut all, mut kept) = (BTreeMap::new(), BTreeMap::new());
        for name in self.names("").await {
            // What is remembered of what was lost is no part of what is repaired.
            if name.starts_with(RECORDS) {
                continue;
            }
            let bytes = get(&*self.memory, &name).await;
            let map = if name.starts_with(QUARANTINE_PREFIX) { &mut kept } else { &mut all };
            map.insert(name, bytes);
        }
        (all, kept)
    }

    async fn harm(&self, name: &str, harm: Harm, other: &str) {
        let bytes = get(&*self.memory, name).await;
        let mut changed = bytes.to_vec();
        match harm {
            Harm::Flipped => *changed.last_mut().expect("not empty") ^= 1,
            Harm::Cut => changed.truncate(bytes.len() - 7),
            Harm::Emptied => changed.clear(),
            Harm::Grown => changed.extend([0; 5000]),
            Harm::Missing => return delete(&*self.memory, name).await,
            Harm::Swapped => {
                changed = get(&*self.memory, other).await.to_vec();
                put(&*self.memory, other, bytes).await;
            }
        }
        put(&*self.memory, name, changed).await;
    }

    fn deletes(&self) -> usize {
        self.faults
            .ops()
            .iter()
            .filter(|op| op.kind == OpKind::Delete && !op.key.starts_with(RECORDS))
            .count()
    }
}

fn from(contents: &[&[u8]]) -> Sources {
    let source =
        |content: &&[u8]| Source { label: "volume".into(), reader: MemoryReader::of(content.to_vec()) };
    Sources { named: contents.iter().map(source).collect(), ..Sources::default() }
}

/// Half of each chunk is random and half zero.
fn content(seed: u64, chunks: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let chunk = |_| [numbers.bytes(C / 2), vec![0; C / 2]].concat();
    (0..chunks).flat_map(chunk).collect()
}

#[tokio::test]
async fn every_damage_is_mended_and_nothing_else_is_touched() {
    for (encrypted, level) in [(true, 1), (true, 9), (false, -3)] {
        let bench = Bench::new(encrypted, None).await;
        let mut bytes = content(1, 40);
        bytes.truncate(39 * C + 1000);
        let leveled =
            cuttle::backup::BackupOptions { level: cuttle::backup::Level::Fixed(level), ..options("v") };
        back_up(&bench.project, &MemoryVolume::new(bytes.clone()), &leveled).await.expect("backed up");
        let (before, _) = bench.all().await;
        let chunks = bench.names(CHUNKS).await;
        let mut harmed = BTreeMap::new();
        for (at, harm) in HARMS.into_iter().enumerate() {
            let (one, other) = (&chunks[2 * at], &chunks[2 * at + 1]);
            bench.harm(one, harm, other).await;
            for name in [one, other].into_iter().take(if harm == Harm::Swapped { 2 } else { 1 }) {
                let now = if harm == Harm::Missing { None } else { Some(get(&*bench.memory, name).await) };
                harmed.insert(name.clone(), now);
            }
        }
        assert_eq!(bench.verify().await.damage.len(), harmed.len());
        let deletes = bench.deletes();

        let report = bench.repair(from(&[&bytes])).await;
        assert!(report.ok() && report.left.is_empty(), "{:?}", report.left);
        assert_eq!(report.mended.len(), harmed.len());
        assert!(report.verify.hurt().is_empty());
        assert!(bench.verify().await.ok());
        assert_eq!(bench.deletes(), deletes);

        let (after, quarantined) = bench.all().await;
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        for (name, bytes) in &before {
            match harmed.contains_key(name) {
                false => assert_eq!(&after[name], bytes, "{name} was touched"),
                true => assert_eq!(after[name].len(), bytes.len(), "{name}"),
            }
        }
        let expected: BTreeMap<String, Bytes> = harmed
            .iter()
            .filter_map(|(name, bytes)| Some((ObjectName::parse(name)?, bytes.clone()?)))
            .map(|(name, bytes)| (quarantine_name(&name, &bytes), bytes))
            .collect();
        assert_eq!(quarantined, expected);
        for mended in &report.mended {
            assert_eq!(mended.from, "volume");
            let was = harmed[&mended.object].as_ref();
            assert_eq!(mended.problem == Problem::Missing, was.is_none(), "{mended:?}");
            assert_eq!(mended.quarantined.is_some(), was.is_some(), "{mended:?}");
        }
        // Readers that know no keys leave quarantine alone.
        let store = bench.project.repository().store();
        let scrubbed = verify::scrub(store, ScrubOptions::default(), Arc::new(Silent), Cancel::never()).await;
        let scrubbed = scrubbed.expect("scrubbed");
        assert!(scrubbed.ok());
        assert_eq!((scrubbed.unknown, scrubbed.quarantined), (0, expected.len() as u64));

        let again = bench.repair(from(&[&bytes])).await;
        assert!(again.ok() && again.mended.is_empty());
        assert_eq!(bench.all().await, (after, quarantined));
    }
}

#[tokio::test]
async fn a_dry_run_tells_and_writes_nothing() {
    let bench = Bench::new(true, None).await;
    let bytes = content(2, 10);
    bench.back_up("v", &bytes).await;
    let chunks = bench.names(CHUNKS).await;
    bench.harm(&chunks[0], Harm::Flipped, "").await;
    bench.harm(&chunks[1], Harm::Missing, "").await;
    let before = bench.all().await;
    let report = bench.try_repair(from(&[&bytes]), true).await.expect("looked");
    assert!(report.ok() && report.dry_run);
    assert_eq!(report.mended.len(), 2);
    assert_eq!(bench.all().await, before);

    let report = bench.try_repair(Sources::default(), true).await.expect("looked");
    assert_eq!((report.ok(), report.left.len(), report.verify.damage.len()), (false, 2, 2));
    assert_eq!(bench.all().await, before);
}

#[tokio::test]
async fn a_volume_that_changed_mends_what_it_still_has() {
    let bench = Bench::new(true, None).await;
    let bytes = content(3, 8);
    bench.back_up("v", &bytes).await;
    for name in bench.names(CHUNKS).await {
        bench.harm(&name, Harm::Flipped, "").await;
    }
    let mut changed = bytes.clone();
    changed[2 * C] ^= 1;
    changed[3 * C] ^= 1;
    changed.truncate(7 * C + C / 2);
    let before = bench.all().await.0;
    let report = bench.repair(from(&[&changed])).await;
    assert_eq!((report.ok(), report.mended.len(), report.left.len()), (false, 5, 3));
    let hurt = report.verify.hurt();
    let ranges: Vec<(u64, u64)> =
        hurt[0].ranges.iter().map(|r| (r.offset_bytes / C as u64, r.length_bytes / C as u64)).collect();
    assert_eq!((hurt.len(), ranges), (1, vec![(2, 2), (7, 1)]));
    // What is left is where it was, and not in quarantine.
    let (after, quarantined) = bench.all().await;
    assert_eq!(quarantined.len(), 5);
    for left in &report.left {
        assert_eq!(after[&left.object], before[&left.object]);
        assert!(!quarantined.keys().any(|name| name.contains(&left.object)));
    }
    // An older copy has the rest.
    let report = bench.repair(from(&[&changed, &bytes])).await;
    assert!(report.ok());
    assert_eq!(report.mended.len(), 3);
    assert!(bench.verify().await.ok());
}

#[tokio::test]
async fn without_a_source_nothing_is_touched() {
    struct Broken;
    impl ReadAt for Broken {
        fn size_bytes(&self) -> u64 {
            u64::MAX
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
            Err(Error::unavailable("the disk is gone"))
        }
    }
    let bench = Bench::new(true, None).await;
    let bytes = content(4, 8);
    bench.back_up("v", &bytes).await;
    let chunks = bench.names(CHUNKS).await;
    bench.harm(&chunks[0], Harm::Cut, "").await;
    bench.harm(&chunks[1], Harm::Missing, "").await;
    bench.harm(&bench.names(PAGES).await[0], Harm::Flipped, "").await;
    let before = bench.all().await;
    let broken = Source { label: "broken".into(), reader: Arc::new(Broken) };
    let closed: Arc<repair::OpenOrigin> = Arc::new(|_, _| Err(Error::not_found("no such image")));
    let liar = content(99, 8);
    for sources in [
        Sources::default(),
        Sources { named: vec![broken], ..Sources::default() },
        Sources { origins: Some(closed), ..Sources::default() },
        from(&[&liar]),
    ] {
        let report = bench.repair(sources).await;
        assert!(!report.ok() && report.mended.is_empty());
        assert_eq!(bench.all().await, before);
    }
}

#[tokio::test]
async fn a_volume_is_looked_for_where_it_was_backed_up_from() {
    let bench = Bench::new(true, None).await;
    let (old, mut new) = (content(5, 6), content(5, 6));
    new[C] ^= 1;
    let source = bench.back_up("v", &old).await;
    source.edit(|content| content.clone_from(&new));
    back_up(&bench.project, &source, &options("v")).await.expect("backed up");
    for name in bench.names(CHUNKS).await {
        bench.harm(&name, Harm::Missing, "").await;
    }
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let second = source.snapshot_names().pop().expect("the base");
    let open: Arc<repair::OpenOrigin> = Arc::new(move |identity, point| {
        assert!(matches!(identity, Identity::Rbd { image_id, .. } if image_id == "image-1"));
        seen.lock().expect("not poisoned").push(point.map(|p| p.name.clone()));
        match point {
            Some(point) if point.name == second => {
                Ok(Source { label: "base".into(), reader: MemoryReader::of(new.clone()) })
            }
            Some(_) => Err(Error::not_found("removed since")),
            None => Ok(Source { label: "head".into(), reader: MemoryReader::of(old.clone()) }),
        }
    });
    let report = bench.repair(Sources { origins: Some(open), ..Sources::default() }).await;
    assert!(report.ok(), "{:?}", report.left);
    let from = |label| report.mended.iter().filter(|m| m.from == label).count();
    assert_eq!((from("base"), from("head")), (6, 1));
    // Two snapshots and the image itself, each once.
    assert_eq!(asked.lock().expect("not poisoned").len(), 3);
    assert!(bench.verify().await.ok());
}

#[tokio::test]
async fn deltas_are_mended_as_deltas_whatever_of_a_chain_is_hurt() {
    let plains: Vec<Vec<u8>> = (0u8..3)
        .map(|night| {
            let mut plain = Numbers::new(6).bytes(C);
            plain[..usize::from(night)].fill(night);
            plain
        })
        .collect();
    for harm in HARMS {
        for hurt in 1u8..8 {
            let bench = Bench::new(true, None).await;
            let hand = ByHand::open(bench.memory.clone(), &secret(), "default").await;
            let full = hand.chunk(&plains[0], 0).await;
            let middle = hand.delta(&plains[1], &full, &plains[0], 7).await;
            let top = hand.delta(&plains[2], &middle, &plains[1], 8).await;
            let other = hand.chunk(&Numbers::new(7).bytes(C), 0).await;
            let refs = [&full, &middle, &top, &other].map(|chunk| {
                let name = chunk.object().expect("stored").name;
                hand.object_name(name).to_string()
            });
            // Only the top is in a manifest as itself; the others are what it needs.
            commit_by_hand(&bench.project, "v", 2 * C as u64, [(0, top), (1, other)]).await;
            assert!(bench.verify().await.ok());
            let before = bench.all().await.0;
            for (at, name) in refs[..3].iter().enumerate() {
                if hurt & (1 << at) != 0 {
                    bench.harm(name, harm, &refs[3]).await;
                }
            }
            let spare = Numbers::new(7).bytes(C);
            let copies: Vec<Vec<u8>> = plains.iter().map(|p| [&p[..], &spare].concat()).collect();
            let sources = || from(&copies.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let would = bench.try_repair(sources(), true).await.expect("looked");
            // Where the tables of both bundles are gone, nothing says any more what the one below held.
            let tables = matches!(harm, Harm::Emptied | Harm::Swapped | Harm::Missing);
            if tables && hurt & 0b110 == 0b110 {
                let report = bench.repair(sources()).await;
                assert!(
                    report.left.iter().any(|left| left.why.contains("nothing tells")),
                    "{:?}",
                    report.left
                );
                continue;
            }
            assert!(would.ok(), "{harm:?} {hurt:#b}: {:?}", would.left);
            let report = bench.repair(sources()).await;
            assert!(report.ok(), "{harm:?} {hurt:#b}: {:?}", report.left);
            assert!(bench.verify().await.ok(), "{harm:?} {hurt:#b}");
            let after = bench.all().await.0;
            let lens = |all: &BTreeMap<String, Bytes>| {
                // What follows the pieces of a bundle hurts none of them.
                let longer = matches!(harm, Harm::Grown | Harm::Swapped);
                let counts = |name: &str| !longer || !name.contains("/bundles/");
                all.iter().filter(|(n, _)| counts(n)).map(|(n, b)| (n.clone(), b.len())).collect::<Vec<_>>()
            };
            assert_eq!(lens(&after), lens(&before));
        }
    }
}

#[tokio::test]
async fn a_delta_whose_base_is_lost_stays_as_it_is() {
    let bench = Bench::new(true, None).await;
    let hand = ByHand::open(bench.memory.clone(), &secret(), "default").await;
    let (old, new) = (content(8, 1), content(9, 1));
    let full = hand.chunk(&old, 0).await;
    let delta = hand.delta(&new, &full, &old, 7).await;
    let name = |chunk: &PageRef| hand.object_name(chunk.object().expect("stored").name).to_string();
    let (full_name, delta_name) = (name(&full), name(&delta));
    commit_by_hand(&bench.project, "v", C as u64, [(0, delta)]).await;
    bench.harm(&full_name, Harm::Missing, "").await;
    bench.harm(&delta_name, Harm::Flipped, "").await;
    let before = bench.all().await;
    let report = bench.repair(from(&[&new])).await;
    assert!(!report.ok() && report.mended.is_empty());
    assert_eq!(bench.all().await, before);
}

#[tokio::test]
async fn another_object_with_the_same_content_serves() {
    let bench = Bench::new(true, None).await;
    let hand = ByHand::open(bench.memory.clone(), &secret(), "default").await;
    let plain = content(10, 1);
    let (one, twin) = (hand.chunk(&plain, 0).await, hand.chunk_variant(&plain, 0, 9).await);
    let name = hand.chunk_name(one.object().expect("stored").name).to_string();
    commit_by_hand(&bench.project, "v", 2 * C as u64, [(0, one), (1, twin)]).await;
    bench.harm(&name, Harm::Flipped, "").await;
    let report = bench.repair(Sources::default()).await;
    assert!(report.ok());
    assert_eq!(report.mended[0].from, format!("{name}.00000009"));
    assert!(bench.verify().await.ok());
}

#[tokio::test]
async fn another_repository_with_the_same_volume_serves() {
    let (bench, copy) = (Bench::new(true, None).await, Bench::new(false, None).await);
    let (old, mut new) = (content(11, 12), content(11, 12));
    new[5 * C] ^= 1;
    for bytes in [&old, &new] {
        bench.back_up("v", bytes).await;
        copy.back_up("v", bytes).await;
        copy.back_up("other", &content(12, 12)).await;
    }
    for name in bench.names(CHUNKS).await {
        bench.harm(&name, Harm::Cut, "").await;
    }
    let projects = vec![("copy".to_owned(), Project::clone(&copy.project))];
    let theirs = copy.all().await;
    let report = bench.repair(Sources { projects, ..Sources::default() }).await;
    assert!(report.ok(), "{:?}", report.left);
    assert_eq!(report.mended.len(), 13);
    assert!(report.mended.iter().any(|m| m.from == "copy v@1"));
    assert!(bench.verify().await.ok());
    assert_eq!(copy.all().await, theirs);
}

#[tokio::test]
async fn pages_come_back_from_the_cache_and_then_what_they_hid() {
    for harm in [Harm::Flipped, Harm::Cut, Harm::Swapped, Harm::Missing] {
        let cache = tempfile::tempdir().expect("a folder");
        let bench = Bench::new(true, Some(cache.path())).await;
        let bytes = Numbers::new(13).bytes(1500 * C);
        bench.back_up("v", &bytes).await;
        let pages = bench.names(PAGES).await;
        assert_eq!(pages.len(), 2);
        let before = bench.all().await.0;
        for page in &pages[..if harm == Harm::Swapped { 1 } else { 2 }] {
            bench.harm(page, harm, &pages[1]).await;
        }
        // A damaged page hides that a chunk is hurt, too.
        let chunk = bench.names(CHUNKS).await.remove(3);
        bench.harm(&chunk, Harm::Flipped, "").await;
        assert_eq!(bench.verify().await.damage.len(), 2);
        let report = bench.repair(from(&[&bytes])).await;
        assert!(report.ok(), "{harm:?}: {:?} {:?}", report.left, report.verify.damage);
        assert_eq!(report.mended.len(), 3);
        assert_eq!(report.mended.iter().filter(|m| m.from == "this host's cache").count(), 2);
        assert!(bench.verify().await.ok());
        let after = bench.all().await.0;
        assert!(pages.iter().all(|page| after[page] == before[page]));
    }
}

#[tokio::test]
async fn a_cache_that_rotted_mends_nothing() {
    let cache = tempfile::tempdir().expect("a folder");
    let bench = Bench::new(true, Some(cache.path())).await;
    bench.back_up("v", &content(14, 5)).await;
    let page = bench.names(PAGES).await.remove(0);
    let repo_id = std::fs::read_dir(cache.path()).expect("a cache").next().expect("one").expect("one").path();
    let copy = repo_id.join(&page);
    let mut bytes = std::fs::read(&copy).expect("a copy");
    bytes[60] ^= 1;
    std::fs::write(&copy, bytes).expect("written");
    bench.harm(&page, Harm::Flipped, "").await;
    let before = bench.all().await;
    assert!(!bench.repair(Sources::default()).await.ok());
    assert_eq!(bench.all().await, before);
}

/// What must hold after each request of a repair, whatever happens.
async fn nothing_is_lost(bench: &Bench, good: &BTreeMap<String, Bytes>, harmed: &BTreeMap<String, Bytes>) {
    let (now, quarantined) = bench.all().await;
    for (name, bytes) in good {
        match harmed.get(name) {
            None if now.contains_key(name) => assert_eq!(&now[name].len(), &bytes.len()),
            None => {}
            Some(damaged) if now.get(name) == Some(damaged) => {}
            Some(damaged) => {
                let parsed = ObjectName::parse(name).expect("ours");
                assert_eq!(quarantined.get(&quarantine_name(&parsed, damaged)), Some(damaged), "{name}");
                assert_eq!(now[name].len(), bytes.len(), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_repair_that_is_killed_at_any_request_is_taken_up_by_the_next() {
    for fault in [Fault::TimeoutBefore, Fault::TimeoutAfter, Fault::Status(403)] {
        for k in 0.. {
            let bench = Bench::new(true, None).await;
            let bytes = content(15, 6);
            bench.back_up("v", &bytes).await;
            let good = bench.all().await.0;
            let chunks = bench.names(CHUNKS).await;
            bench.harm(&chunks[0], Harm::Flipped, "").await;
            bench.harm(&chunks[1], Harm::Cut, "").await;
            bench.harm(&chunks[2], Harm::Missing, "").await;
            let mut harmed = bench.all().await.0;
            harmed.retain(|name, bytes| good[name] != *bytes);
            assert_eq!(harmed.len(), 2);
            let (ops, deletes) = (bench.faults.ops().len(), bench.deletes());
            bench.faults.fail_from(ops + k, fault);
            let killed = bench.try_repair(from(&[&bytes]), false).await;
            let finished = bench.faults.ops().len() <= ops + k;
            nothing_is_lost(&bench, &good, &harmed).await;
            bench.faults.fail_from(usize::MAX, fault);
            if finished {
                assert!(killed.expect("repaired").ok());
                assert!(k > 20, "{k} requests");
                break;
            }
            // What was found lost is remembered as well as can be: the repair does not hang on it.
            let remembers = bench.faults.ops()[ops + k].key.starts_with(RECORDS.trim_end_matches('/'));
            assert!(remembers || !killed.is_ok_and(|report| report.ok()), "request {k} failed");
            let report = bench.repair(from(&[&bytes])).await;
            assert!(report.ok(), "after request {k}: {:?}", report.left);
            nothing_is_lost(&bench, &good, &harmed).await;
            assert!(bench.verify().await.ok());
            assert_eq!(bench.deletes(), deletes);
        }
    }
}

#[tokio::test]
async fn each_single_fault_of_a_repair_is_got_over() {
    for seed in 0..30 {
        let bench = Bench::new(true, None).await;
        let bytes = content(16, 6);
        bench.back_up("v", &bytes).await;
        let good = bench.all().await.0;
        for (name, harm) in bench.names(CHUNKS).await.iter().zip([Harm::Flipped, Harm::Missing, Harm::Cut]) {
            bench.harm(name, harm, "").await;
        }
        let mut harmed = bench.all().await.0;
        harmed.retain(|name, bytes| good[name] != *bytes);
        bench.faults.fail_at_random(seed, 6);
        let report = bench.repair(from(&[&bytes])).await;
        assert!(report.ok(), "seed {seed}: {:?}", report.left);
        nothing_is_lost(&bench, &good, &harmed).await;
    }
}

#[tokio::test]
async fn what_cannot_be_copied_is_not_replaced() {
    for refused in [OpKind::Create, OpKind::Get] {
        let bench = Bench::new(true, None).await;
        let bytes = content(17, 4);
        bench.back_up("v", &bytes).await;
        bench.harm(&bench.names(CHUNKS).await[0], Harm::Flipped, "").await;
        let before = bench.all().await.0;
        bench.faults.fail_always_for(
            move |op| op.kind == refused && op.key.starts_with(QUARANTINE_PREFIX),
            Fault::Status(403),
        );
        let report = bench.repair(from(&[&bytes])).await;
        assert!(!report.ok() && report.mended.is_empty());
        assert_eq!(bench.all().await.0, before);
    }
}

#[tokio::test]
async fn a_copy_that_is_not_one_keeps_the_object_from_being_replaced() {
    let bench = Bench::new(true, None).await;
    let bytes = content(24, 4);
    bench.back_up("v", &bytes).await;
    let name = bench.names(CHUNKS).await.remove(0);
    bench.harm(&name, Harm::Flipped, "").await;
    let damaged = get(&*bench.memory, &name).await;
    let copy = quarantine_name(&ObjectName::parse(&name).expect("ours"), &damaged);
    put(&*bench.memory, &copy, "something else").await;
    let before = bench.all().await;
    let report = bench.repair(from(&[&bytes])).await;
    assert!(!report.ok() && report.left[0].why.contains("quarantine"), "{:?}", report.left);
    assert_eq!(bench.all().await, before);
}

#[tokio::test]
async fn what_is_forgotten_while_it_is_looked_at_is_not_brought_back() {
    let bench = Bench::new(true, None).await;
    let bytes = content(25, 4);
    bench.back_up("v", &bytes).await;
    bench.harm(&bench.names(CHUNKS).await[0], Harm::Missing, "").await;
    let mut gate = bench.faults.gate(|op| op.key.starts_with(CHUNKS));
    let repaired = bench.repair(from(&[&bytes]));
    let forgotten = async {
        gate.reached().await;
        let snapshot = ["v@1".to_owned()];
        cuttle::forget::by_name(&bench.project, &snapshot, false, Cancel::never()).await.expect("forgotten");
        gate.open();
    };
    let (report, ()) = tokio::join!(repaired, forgotten);
    assert!(report.ok() && report.mended.is_empty(), "{:?}", report.mended);
    assert_eq!(bench.names(CHUNKS).await.len(), 3);
}

#[tokio::test]
async fn two_repairs_at_once_and_a_late_one_do_no_harm() {
    let bench = Bench::new(true, None).await;
    let bytes = content(18, 30);
    bench.back_up("v", &bytes).await;
    let good = bench.all().await.0;
    for name in &bench.names(CHUNKS).await[..10] {
        bench.harm(name, Harm::Flipped, "").await;
    }
    let harmed: BTreeMap<String, Bytes> =
        bench.all().await.0.into_iter().filter(|(name, bytes)| good[name] != *bytes).collect();
    // One is held just before it replaces an object, until another has mended all.
    let mut gate = bench.faults.gate(|op| op.kind == OpKind::Put);
    let held = bench.repair(from(&[&bytes]));
    let other = async {
        gate.reached().await;
        let report = bench.repair(from(&[&bytes])).await;
        assert!(report.ok());
        assert!(bench.verify().await.ok());
        gate.open();
    };
    let (late, ()) = tokio::join!(held, other);
    assert!(late.ok(), "{:?}", late.left);
    nothing_is_lost(&bench, &good, &harmed).await;
    assert!(bench.verify().await.ok());
}

#[tokio::test]
async fn a_forgotten_snapshot_is_not_mended_and_a_record_is_left_to_people() {
    let bench = Bench::new(true, None).await;
    let bytes = content(19, 4);
    bench.back_up("v", &bytes).await;
    bench.back_up("w", &content(20, 4)).await;
    let snapshot = crate::support::repo::latest(&bench.project, "v").await;
    // Those of the other volume too, which no source has.
    for name in &bench.names(CHUNKS).await {
        bench.harm(name, Harm::Missing, "").await;
    }
    let forget = vec![format!("v@{}", snapshot.snapshot.sequence)];
    cuttle::forget::by_name(&bench.project, &forget, false, Cancel::never()).await.expect("forgotten");
    let end = bench.names("projects/default/log/").await.into_iter().find(|n| n.ends_with(".end"));
    bench.harm(&end.expect("an end"), Harm::Flipped, "").await;
    let report = bench.repair(from(&[&bytes])).await;
    assert!(!report.ok());
    assert!(report.mended.is_empty(), "{:?}", report.mended);
    assert_eq!(report.left.len(), 4);
    assert!(
        report
            .verify
            .damage
            .iter()
            .any(|d| ObjectName::parse(&d.object).is_some_and(|n| n.object_type() == ObjectType::End))
    );
}

#[tokio::test]
async fn what_a_false_manifest_says_changes_no_good_object() {
    let bench = Bench::new(true, None).await;
    let hand = ByHand::open(bench.memory.clone(), &secret(), "default").await;
    // The first volume, so what it says is heard first.
    bench.back_up("hostile", &[]).await;
    // So much alike that each could be a delta against the other, in fewer bytes than it has.
    let plains = [0u8, 1, 2].map(|n| [&[n; 8][..], &content(21, 1)[8..]].concat());
    let one = hand.chunk_variant(&plains[0], 0, 5).await;
    let two = hand.chunk_variant(&plains[1], 0, 6).await;
    let delta = hand.delta(&plains[2], &two, &plains[1], 7).await;
    commit_by_hand(
        &bench.project,
        "good",
        3 * C as u64,
        (0..).zip([one.clone(), two.clone(), delta.clone()]),
    )
    .await;
    let object = |chunk: &PageRef| *chunk.object().expect("stored");
    let mut longer = object(&one);
    longer.sealed_len_bytes += 9;
    let mut future = object(&one);
    future.name.generation.0 += 3;
    let mut moved = object(&delta);
    moved.name.offset_bytes = moved.name.offset_bytes.map(|offset| offset + 1);
    let stored = |object: ObjectRef, closure| PageRef::Stored { id: object.name.id, object, closure };
    for (what, hostile) in [
        ("a full object as a delta", stored(object(&one), vec![object(&two)])),
        ("a delta as a full object", PageRef::full(object(&delta))),
        ("another base", stored(object(&delta), vec![object(&one)])),
        ("another size", PageRef::full(longer)),
        ("another generation", PageRef::full(future)),
        ("another place", stored(moved, vec![object(&two)])),
    ] {
        let sequence = commit_by_hand(&bench.project, "hostile", C as u64, [(0, hostile)]).await;
        let before = bench.all().await;
        let report = bench.repair(from(&[&plains[0], &plains[1], &plains[2]])).await;
        assert!(!report.ok() && report.mended.is_empty(), "{what}: {:?}", report.mended);
        assert_eq!(bench.all().await, before, "{what}");
        let snapshot = [format!("hostile@{sequence}")];
        cuttle::forget::by_name(&bench.project, &snapshot, false, Cancel::never()).await.expect("forgotten");
    }
    let after = bench.verify().await;
    assert!(after.ok(), "{:?}", after.damage);
}

async fn pruned(bench: &Bench) -> prune::PruneReport {
    let options = prune::PruneOptions::default();
    prune::run(&bench.project, options, Arc::new(Silent), Cancel::never()).await.expect("pruned")
}

async fn forgotten(bench: &Bench, snapshot: &str) {
    let snapshots = [snapshot.to_owned()];
    cuttle::forget::by_name(&bench.project, &snapshots, false, Cancel::never()).await.expect("forgotten");
}

#[tokio::test]
async fn what_a_repair_put_back_is_pruned_like_all_else_and_quarantine_is_not() {
    let bench = Bench::new(true, None).await;
    let (old, new) = (content(30, 6), content(31, 6));
    let source = bench.back_up("v", &old).await;
    source.edit(|content| content.clone_from(&new));
    back_up(&bench.project, &source, &options("v")).await.expect("backed up");
    for (name, harm) in bench.names(CHUNKS).await.iter().zip([Harm::Flipped, Harm::Missing, Harm::Cut]) {
        bench.harm(name, harm, "").await;
    }
    assert!(bench.repair(from(&[&old, &new])).await.ok());
    let quarantined = bench.all().await.1;
    assert_eq!(quarantined.len(), 2);
    forgotten(&bench, "v@1").await;
    assert_eq!(pruned(&bench).await.deleted_chunks.objects, 6);
    assert!(bench.verify().await.ok());
    // Of generation 0 still, and mended there.
    let chunks = bench.names(CHUNKS).await;
    assert_eq!(chunks.len(), 6);
    bench.harm(&chunks[0], Harm::Missing, "").await;
    assert!(bench.repair(from(&[&new])).await.ok());
    assert_eq!(bench.names(CHUNKS).await, chunks);
    assert!(bench.verify().await.ok());
    assert_eq!(bench.all().await.1, quarantined);
}

/// A repair sleeps just before it writes, while its snapshot is forgotten and pruned.
#[tokio::test]
async fn what_a_late_repair_brings_back_is_garbage_that_the_next_round_takes() {
    for kind in [OpKind::Put, OpKind::Create] {
        let bench = Bench::new(true, None).await;
        let (old, new) = (content(32, 4), content(33, 4));
        let source = bench.back_up("v", &old).await;
        let only_old = bench.names(CHUNKS).await;
        source.edit(|content| content.clone_from(&new));
        back_up(&bench.project, &source, &options("v")).await.expect("backed up");
        let harm = if kind == OpKind::Put { Harm::Flipped } else { Harm::Missing };
        bench.harm(&only_old[0], harm, "").await;
        let mut gate = bench.faults.gate(move |op| op.kind == kind && op.key.starts_with(CHUNKS));
        let late = bench.repair(from(&[&old]));
        let meanwhile = async {
            gate.reached().await;
            forgotten(&bench, "v@1").await;
            pruned(&bench).await;
            assert!(bench.names(CHUNKS).await.iter().all(|name| !only_old.contains(name)));
            gate.open();
        };
        let (_, ()) = tokio::join!(late, meanwhile);
        assert!(bench.names(CHUNKS).await.contains(&only_old[0]));
        assert!(bench.verify().await.ok());
        // A backup of the old content does not refer to it: that name is of an older generation.
        source.edit(|content| content.clone_from(&old));
        back_up(&bench.project, &source, &options("v")).await.expect("backed up");
        assert_eq!(pruned(&bench).await.deleted_chunks.objects, 1);
        assert!(!bench.names(CHUNKS).await.contains(&only_old[0]));
        assert!(bench.verify().await.ok());
    }
}
