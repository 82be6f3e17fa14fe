//! Many volumes in one run: what each costs beside what it has to say.

use std::sync::Arc;

use crate::support::Numbers;
use crate::support::fault_store::{FaultStore, OpKind};
use crate::support::repo::{
    self, CHUNK, MemoryVolume, back_up, connect, environment, latest, options, read_back, store,
};
use cuttle::backup::{BackupOptions, BackupReport, Fleet};
use cuttle::cancel::Cancel;
use cuttle::forget;
use cuttle::repo::session::Session;
use cuttle::repo::{InitOptions, Keeper, Repository};
use object_store::local::LocalFileSystem;

const C: usize = CHUNK as usize;

struct Bench {
    faults: FaultStore,
    dir: tempfile::TempDir,
    volumes: Vec<Arc<MemoryVolume>>,
}

impl Bench {
    /// Volumes of a few chunks each, half of which are the same in all.
    async fn new(volumes: usize) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("store")).expect("a folder");
        // A store with tags that tell objects apart, as most have them.
        let local = LocalFileSystem::new_with_prefix(dir.path().join("store"));
        let faults = FaultStore::new(Arc::new(local.expect("a store")));
        let options = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 0 };
        Repository::init(store(Arc::new(faults.clone())), environment(), &options, Some(&repo::secret()))
            .await
            .expect("a new repository");
        let common = Numbers::new(7).bytes(2 * C);
        let own = |n: usize| Numbers::new(1000 + n as u64).bytes(2 * C);
        let volumes = (0..volumes).map(|n| MemoryVolume::new([common.clone(), own(n)].concat())).collect();
        Self { faults, dir, volumes }
    }

    /// The next command of a host that has a cache.
    async fn connect(&self) -> Keeper {
        let environment =
            cuttle::repo::Environment { cache_dir: Some(self.dir.path().join("cache")), ..environment() };
        connect(store(Arc::new(self.faults.clone())), environment).await.expect("opens")
    }

    /// One night of the first volumes; and the requests that it took, by kind and object.
    async fn night(&self, count: usize, with: impl Fn(BackupOptions) -> BackupOptions) -> Night {
        let project = self.connect().await;
        let asked = self.faults.ops().len();
        let fleet = Some(Arc::new(Fleet::default()));
        let mut reports = Vec::new();
        for (n, volume) in self.volumes.iter().take(count).enumerate() {
            let options = BackupOptions { fleet: fleet.clone(), yields: true, ..options(&name(n)) };
            reports.push(back_up(&project, volume, &with(options)).await.expect("backed up"));
        }
        let ops = self.faults.ops();
        let requests = ops[asked..].iter().map(|op| format!("{:?} {}", op.kind, op.key)).collect();
        let puts = ops[asked..].iter().filter(|op| op.kind == OpKind::Put).count();
        Night { reports, requests, puts }
    }
}

struct Night {
    reports: Vec<BackupReport>,
    requests: Vec<String>,
    puts: usize,
}

fn name(n: usize) -> String {
    format!("volume-{n:05}")
}

#[tokio::test]
async fn an_unchanged_volume_of_many_costs_five_requests() {
    let bench = Bench::new(60).await;
    bench.night(60, shared).await;
    let alone = bench.night(60, |o| BackupOptions { fleet: None, ..o }).await;
    println!("alone each takes {} requests", alone.requests.len() / 60);
    for _ in 0..3 {
        let (few, many) = (bench.night(10, shared).await.requests, bench.night(60, shared).await.requests);
        println!("10: {}, 60: {}", few.len(), many.len());
        assert!(few.len() <= 5 * 10 + 12, "{few:#?}");
        assert!(many.len() - few.len() <= 5 * 50 + 3, "{} and {}: {many:#?}", few.len(), many.len());
    }
}

/// What there is is learned once, and what one volume stored another need not store, nor look at.
#[tokio::test]
async fn the_first_night_of_many_volumes_learns_what_there_is_once() {
    let bench = Bench::new(40).await;
    let few = bench.night(10, shared).await;
    let all = bench.night(40, shared).await;
    let of = |night: &Night, what: &str| night.requests.iter().filter(|r| r.starts_with(what)).count();
    assert_eq!(of(&few, "Create projects/default/chunks/"), 2 + 2 * 10, "what is common is stored once");
    assert_eq!(of(&all, "Create projects/default/chunks/"), 2 * 30);
    assert_eq!(of(&all, "Get projects/default/chunks/"), 0, "newest snapshots name what is common");
    // One to learn, one to look whether what others build on is there.
    assert_eq!(of(&all, "List projects/default/chunks"), 2, "{:#?}", all.requests);
    // Its catalog entry, its log, `.open`, the next generation, two chunks, a page, `.end`.
    assert!(all.requests.len() <= 30 * 8 + 10 * 5 + 60, "{}: {:#?}", all.requests.len(), all.requests);
    let project = bench.connect().await;
    for n in 0..40 {
        let read = read_back(&project, &latest(&project, &name(n)).await).await.expect("read");
        assert!(read == bench.volumes[n].content(), "{n}");
    }
}

/// Nothing is created, and nothing asked but whether there is something newer: the log and one `.forget`.
#[tokio::test]
async fn what_did_not_change_is_skipped_for_two_requests_and_no_put() {
    let bench = Bench::new(30).await;
    bench.night(30, shared).await;
    let (few, all) = (bench.night(10, skipping).await, bench.night(30, skipping).await);
    assert!(all.reports.iter().all(|r| r.unchanged && r.sequence == Some(1) && r.stats.read_bytes > 0));
    assert_eq!((few.puts, all.puts), (0, 0), "{:#?}", all.requests);
    assert!(all.requests.len() - few.requests.len() <= 2 * 20 + 3, "{:#?}", all.requests);
    // One that changed is backed up, and nothing else.
    bench.volumes[3].edit(|content| content[5] ^= 1);
    let one = bench.night(30, skipping).await;
    let backed: Vec<usize> = (0..30).filter(|n| !one.reports[*n].unchanged).collect();
    assert_eq!((backed, one.reports[3].sequence), (vec![3], Some(2)));
    assert_eq!(one.reports[3].stats.new_chunks, 1);
    // Alone it is the same.
    let alone = bench.night(5, |o| BackupOptions { fleet: None, ..skipping(o) }).await;
    assert!(alone.reports.iter().all(|r| r.unchanged) && alone.puts == 0);
    let project = bench.connect().await;
    for n in 0..30 {
        let read = read_back(&project, &latest(&project, &name(n)).await).await.expect("read");
        assert!(read == bench.volumes[n].content(), "{n}");
        assert_eq!(bench.volumes[n].snapshot_names().len(), 1, "no snapshot is made to look");
    }
}

/// Whatever is doubtful is a backup's to see to.
#[tokio::test]
async fn a_backup_is_made_where_nothing_says_that_the_last_one_is_as_good() {
    let bench = Bench::new(1).await;
    let (volume, project) = (&bench.volumes[0], bench.connect().await);
    let night = async |with: &dyn Fn(BackupOptions) -> BackupOptions| {
        let options = BackupOptions { skip_unchanged: true, ..options("v") };
        back_up(&project, volume, &with(options)).await.expect("backed up")
    };
    assert_eq!(night(&|o| o).await.sequence, Some(1), "there is none yet");
    assert!(night(&|o| o).await.unchanged);
    let full = night(&|o| BackupOptions { full: true, ..o }).await;
    assert_eq!((full.unchanged, full.full_read, full.sequence), (false, true, Some(2)));
    let due = night(&|o| BackupOptions { full_every: 1, ..o }).await;
    assert_eq!((due.unchanged, due.full_read, due.sequence), (false, true, Some(3)));
    // Somebody began a backup: whether that one came to something is not this look's to say.
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    let session = Session::register(&project, &catalog.entries()[0]).await.expect("registered");
    assert_eq!(night(&|o| o).await.sequence, Some(5));
    session.abort("tried").await.expect("aborted");
    // A change that the source does not report shows in the sample, and all is read.
    assert!(night(&|o| o).await.unchanged);
    volume.lie_about(3 * u64::from(CHUNK));
    volume.edit(|content| content[3 * C] ^= 1);
    let told = night(&|o| o).await;
    assert_eq!((told.unchanged, told.full_read), (false, true), "{:?}", told.remarks);
    assert!(told.remarks.iter().any(|r| r.contains("MISSED A CHANGE")), "{:?}", told.remarks);
    let newest = latest(&project, "v").await;
    assert!(read_back(&project, &newest).await.expect("read") == volume.content());
    // The newest is forgotten: what is left is older.
    let spec = [newest.name()];
    forget::by_name(&project, &spec, false, Cancel::never()).await.expect("forgotten");
    assert!(!night(&|o| o).await.unchanged);
}

fn skipping(options: BackupOptions) -> BackupOptions {
    BackupOptions { skip_unchanged: true, ..options }
}

fn shared(options: BackupOptions) -> BackupOptions {
    options
}
