//! What years do to a repository: a late night costs what an early one does, and what is over leaves nothing behind but who lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::support::Numbers;
use crate::support::by_hand::names;
use crate::support::fault_store::FaultStore;
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, connect, environment, init_on, latest, options, read_back, store, verify,
};
use cuttle::cancel::Cancel;
use cuttle::forget;
use cuttle::format::record::VolumeRecord;
use cuttle::progress::Silent;
use cuttle::prune::{self, PruneOptions};
use cuttle::repo::{Environment, Keeper};
use cuttle::store::Ledger;
use object_store::local::LocalFileSystem;

const C: usize = CHUNK as usize;
const CHUNKS: usize = 12;
/// Nights of which one is aborted.
const ABORTED_EVERY: u32 = 20;

/// A host with a cache and a memory, whose every command is a process of its own.
struct Host {
    store: Arc<LocalFileSystem>,
    dir: tempfile::TempDir,
    volume: Arc<MemoryVolume>,
    numbers: Numbers,
    night: u32,
    /// Snapshots that are kept.
    kept: u32,
}

impl Host {
    async fn new(kept: u32) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("store")).expect("a folder");
        let local = Arc::new(LocalFileSystem::new_with_prefix(dir.path().join("store")).expect("a store"));
        init_on(store(local.clone()), CHUNK, true).await;
        let mut numbers = Numbers::new(5);
        let volume = MemoryVolume::new(numbers.bytes(CHUNKS * C));
        Self { store: local, dir, volume, numbers, night: 0, kept }
    }

    async fn project(&self) -> Keeper {
        let dir = |name| Some(self.dir.path().join(name));
        let environment = Environment {
            cache_dir: dir("cache"),
            memory_dir: dir("memory"),
            remembers: true,
            ..environment()
        };
        connect(store(Arc::new(FaultStore::new(self.store.clone()))), environment).await.expect("opens")
    }

    /// A day: a backup, what is too old is forgotten, a prune, a look. What each took.
    async fn day(&mut self) -> BTreeMap<&'static str, Ledger> {
        let (at, byte) = (self.numbers.below(CHUNKS as u64) as usize, self.night as u8);
        self.volume.edit(|content| content[at * C..][..C].fill(byte));
        self.night += 1;
        let mut took = BTreeMap::new();
        let project = self.project().await;
        if self.night.is_multiple_of(ABORTED_EVERY) {
            let volume = volume_of(&project).await;
            let session =
                cuttle::repo::session::Session::register(&project, &volume).await.expect("registered");
            session.abort("the test says so").await.expect("aborted");
        }
        took.insert(
            "backup",
            done(self.project().await, async |p| {
                back_up(p, &self.volume, &options("v")).await.expect("backed up");
            })
            .await,
        );
        let project = self.project().await;
        let volume = volume_of(&project).await;
        let live = project.history(&volume).snapshots().await.expect("listed");
        let old: Vec<String> = live
            .iter()
            .rev()
            .skip(self.kept as usize)
            .map(|s| format!("v@{}", s.snapshot.sequence))
            .collect();
        took.insert(
            "forget",
            done(self.project().await, async |p| {
                if !old.is_empty() {
                    forget::by_name(p, &old, false, Cancel::never()).await.expect("forgotten");
                }
            })
            .await,
        );
        for (what, dry_run) in [("prune -n", true), ("prune", false)] {
            took.insert(
                what,
                done(self.project().await, async |p| {
                    let options = PruneOptions { dry_run, ..PruneOptions::default() };
                    let report =
                        prune::run(p, options, Arc::new(Silent), Cancel::never()).await.expect("pruned");
                    assert_eq!(
                        report.rounds_begun,
                        u64::from(!dry_run && !old.is_empty()),
                        "night {}",
                        self.night
                    );
                })
                .await,
            );
        }
        took.insert(
            "snapshots",
            done(self.project().await, async |p| {
                assert!(p.history(&volume).snapshots().await.expect("listed").len() <= self.kept as usize);
            })
            .await,
        );
        took
    }
}

/// Eight nights that forget and of which none is aborted.
fn early_week(kept: u32) -> std::ops::Range<usize> {
    let first = (kept + 4).next_multiple_of(ABORTED_EVERY).max(ABORTED_EVERY) as usize;
    match kept as usize + 4 + 8 < first {
        true => first - 9..first - 1,
        false => first + 11..first + 19,
    }
}

async fn volume_of(project: &Keeper) -> VolumeRecord {
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    catalog.by_name(&"v".parse().expect("valid")).expect("there").clone()
}

async fn done(project: Keeper, what: impl AsyncFnOnce(&Keeper)) -> Ledger {
    let before = project.repository().store().ledger();
    what(&project).await;
    project.repository().store().ledger() - before
}

#[tokio::test]
async fn a_late_night_costs_what_an_early_one_does() {
    age(7, 130).await;
}

/// Eight years of a daily volume; about an hour where it is not optimised:
///
/// ```text
/// cargo test --release --test repository night_three_thousand -- --ignored --nocapture
/// ```
#[tokio::test]
#[ignore = "takes an hour"]
async fn night_three_thousand_costs_what_an_early_one_does() {
    age(30, 3_000).await;
}

/// A week soon after the first that forgets is held against the last, which both have no aborted night.
async fn age(kept: u32, nights: u32) {
    let mut host = Host::new(kept).await;
    let mut days = vec![BTreeMap::new()];
    for _ in 0..nights {
        let start = Instant::now();
        let took = host.day().await;
        days.push(took);
        if host.night.is_multiple_of(100) {
            println!("night {}: {:.2} s", host.night, start.elapsed().as_secs_f64());
        }
    }
    let (early, late) = (early_week(kept), nights as usize - 9..nights as usize - 1);
    let mean = |what: &str, nights: std::ops::Range<usize>, of: &dyn Fn(&Ledger) -> u64| {
        let count = nights.len() as f64;
        nights.map(|night| of(&days[night][what])).sum::<u64>() as f64 / count
    };
    for what in ["backup", "forget", "prune -n", "prune", "snapshots"] {
        for (unit, of) in [
            ("requests", &(|l: &Ledger| l.requests()) as &dyn Fn(&Ledger) -> u64),
            ("bytes read", &|l: &Ledger| l.downloaded_bytes),
        ] {
            let (early, late) = (mean(what, early.clone(), of), mean(what, late.clone(), of));
            println!("{what}: {early:.1} {unit} in a week soon after the first, {late:.1} in the last");
            assert!(late <= early * 1.1, "{what}: {early} {unit}, later {late}");
        }
    }
    // What is over leaves nothing but who lost, and of a round what says that it was.
    let log = names(&*host.store, "projects/default/log").await;
    let (volume, aborted) = (1, (nights / ABORTED_EVERY) as usize);
    println!("{} names in the log of {volume} volume", log.len());
    // Two of each live snapshot and of what was forgotten since the last two rounds.
    assert!(log.len() <= 2 * kept as usize + aborted + 10, "{log:#?}");
    let gc = names(&*host.store, "projects/default/gc").await;
    let ends = gc.iter().filter(|name| name.ends_with(".done")).count();
    assert!(ends <= 2, "{gc:#?}");
    let parts = gc.iter().filter(|name| name.contains("/parts/")).count();
    assert!(parts <= 8, "{gc:#?}");
    let project = host.project().await;
    assert!(verify(&project, true).await.expect("verified").ok());
    let read = read_back(&project, &latest(&project, "v").await).await.expect("read");
    assert!(read == host.volume.content());
}
