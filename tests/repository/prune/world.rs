//! What every test here begins with: a repository whose every snapshot is known, on a store whose clock the test moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cuttle::Result;
use cuttle::backup::BackupReport;
use cuttle::cancel::Cancel;
use cuttle::progress::Silent;
use cuttle::prune::{self, Pause, PruneOptions, PruneReport};
use cuttle::repo::{Environment, Keeper};
use cuttle::store::{Limits, Store};
use futures::future::BoxFuture;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::support::Numbers;
use crate::support::by_hand::{ByHand, names};
use crate::support::fault_store::FaultStore;
use crate::support::repo::{
    self, CHUNK, MemoryVolume, back_up, environment, hasty, init_on, options, read_back, secret,
};
use crate::support::timed_store::TimedStore;

pub const C: usize = CHUNK as usize;
/// Attempts of the store in these tests, without a pause between them.
pub const ATTEMPTS_MAX: u32 = 4;
pub const HOUR: Duration = Duration::from_secs(3600);

/// A repository and what its snapshots hold.
pub struct World {
    pub objects: Arc<InMemory>,
    pub timed: TimedStore,
    volumes: BTreeMap<String, Arc<MemoryVolume>>,
    /// By volume and sequence, forgotten ones removed.
    pub expected: BTreeMap<(String, u32), Vec<u8>>,
    pub numbers: Numbers,
}

pub fn store(inner: Arc<dyn ObjectStore>) -> Store {
    // What is held at a gate is not tried again, however slow the machine is.
    let limits = Limits { attempts_max: ATTEMPTS_MAX, stall_timeout: 100 * HOUR, ..hasty() };
    Store::with_object_store(inner, limits)
}

pub async fn connect(inner: Arc<dyn ObjectStore>, environment: Environment) -> Result<Keeper> {
    repo::connect(store(inner), environment).await
}

/// What is done on the way when a prune pauses.
pub type OnPause = dyn Fn(u32) -> BoxFuture<'static, ()> + Send + Sync;

/// Time that passes at once: each pause moves the store's clock.
pub struct Passing {
    pub timed: TimedStore,
    pub pauses: AtomicU64,
    on_pause: Option<Box<OnPause>>,
}

impl Passing {
    pub fn new(timed: &TimedStore, on_pause: Option<Box<OnPause>>) -> Arc<Self> {
        Arc::new(Self { timed: timed.clone(), pauses: AtomicU64::new(0), on_pause })
    }
}

impl Pause for Passing {
    fn pause(&self, duration: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let count = self.pauses.fetch_add(1, Ordering::SeqCst) + 1;
            self.timed.advance_ms(duration.as_millis() as u64);
            if let Some(on_pause) = &self.on_pause {
                on_pause(count as u32).await;
            }
            assert!(count < 100_000, "it waits for ever");
        })
    }
}

impl World {
    pub async fn new(seed: u64) -> Self {
        let objects = Arc::new(InMemory::new());
        let timed = TimedStore::new(objects.clone());
        init_on(store(Arc::new(timed.clone())), CHUNK, true).await;
        Self {
            objects,
            timed,
            volumes: BTreeMap::new(),
            expected: BTreeMap::new(),
            numbers: Numbers::new(seed),
        }
    }

    /// Two volumes with two snapshots each, and one more of the first.
    pub async fn usual() -> Self {
        let mut world = Self::new(3).await;
        for _ in 0..2 {
            for volume in ["pool/a", "pool/b"] {
                world.edit(volume);
                world.back_up(volume).await;
            }
        }
        world.edit("pool/a");
        world.back_up("pool/a").await;
        world
    }

    /// The same state on objects of its own.
    pub fn fork(&self) -> Self {
        let objects = Arc::new(self.objects.fork());
        let timed = TimedStore::new(objects.clone());
        Self {
            objects,
            timed,
            volumes: self.volumes.iter().map(|(name, volume)| (name.clone(), volume.fork())).collect(),
            expected: self.expected.clone(),
            numbers: Numbers::new(11),
        }
    }

    /// The same objects and the same clock, for somebody else.
    pub fn beside(&self) -> Self {
        Self {
            objects: Arc::clone(&self.objects),
            timed: self.timed.clone(),
            volumes: self.volumes.clone(),
            expected: BTreeMap::new(),
            numbers: Numbers::new(12),
        }
    }

    pub fn faults(&self) -> FaultStore {
        FaultStore::new(Arc::new(self.timed.clone()))
    }

    pub async fn project(&self) -> Keeper {
        connect(Arc::new(self.timed.clone()), environment()).await.expect("opened")
    }

    pub async fn by_hand(&self) -> ByHand {
        ByHand::open(self.objects.clone(), &secret(), "default").await
    }

    pub fn volume(&mut self, name: &str) -> Arc<MemoryVolume> {
        let volume =
            self.volumes.entry(name.to_owned()).or_insert_with(|| MemoryVolume::new(vec![0; 40 * C]));
        Arc::clone(volume)
    }

    /// Changes some chunks of a volume.
    pub fn edit(&mut self, name: &str) {
        let volume = self.volume(name);
        let numbers = &mut self.numbers;
        volume.edit(|content| {
            for _ in 0..4 {
                let at = numbers.below(40) as usize;
                match numbers.below(4) {
                    0 => content[at * C..][..C].fill(0),
                    // Content that other volumes have too.
                    1 => content[at * C..][..C].fill(numbers.below(3) as u8 + 1),
                    _ => content[at * C..][..C].copy_from_slice(&numbers.bytes(C)),
                }
            }
            // Something of the last backup stays the only one of its kind.
            content[40 * C - 1] = content[40 * C - 1].wrapping_add(1);
        });
    }

    pub async fn back_up(&mut self, name: &str) -> BackupReport {
        let project = self.project().await;
        self.back_up_in(&project, name).await.expect("backed up")
    }

    pub async fn back_up_in(&mut self, project: &Keeper, name: &str) -> Result<BackupReport> {
        let volume = self.volume(name);
        let report = back_up(project, &volume, &options(name)).await?;
        self.expected.insert((name.to_owned(), report.sequence.expect("a sequence")), volume.content());
        Ok(report)
    }

    pub async fn forget(&mut self, name: &str, sequence: u32) {
        self.expected.remove(&(name.to_owned(), sequence)).expect("a live snapshot");
        let catalog = self.project().await.volumes().confirmed().await.expect("a catalog");
        let number = catalog.by_name(&name.parse().expect("valid")).expect("a volume").number;
        self.by_hand().await.forget(number.0, sequence).await;
    }

    pub fn options(&self) -> PruneOptions {
        PruneOptions { pause: Passing::new(&self.timed, None), ..PruneOptions::default() }
    }

    pub async fn prune(&self) -> PruneReport {
        prune_on(&self.project().await, self.options()).await.expect("pruned")
    }

    /// Every live snapshot reads back as it was, and there is no other.
    pub async fn check(&self, context: &str) {
        let project = self.project().await;
        let mut seen = BTreeSet::new();
        for volume in project.volumes().confirmed().await.expect(context).entries() {
            for snapshot in project.history(volume).snapshots().await.expect(context) {
                let key = (volume.name.clone(), snapshot.snapshot.sequence.0);
                let back = read_back(&project, &snapshot).await;
                let back = back.unwrap_or_else(|e| panic!("{context}: {key:?}: {e}"));
                assert!(self.expected.get(&key) == Some(&back), "{context}: {key:?} holds something else");
                seen.insert(key);
            }
        }
        let expected: BTreeSet<_> = self.expected.keys().cloned().collect();
        assert_eq!(seen, expected, "{context}");
    }

    /// Only what live snapshots need is there.
    pub async fn check_tidy(&self, context: &str) {
        let hand = self.by_hand().await;
        let stored: BTreeSet<String> = hand.contents().await.into_keys().collect();
        let needed = hand.reachable().await;
        assert_eq!(stored, needed, "{context}");
        let left = names(&*self.objects, "probe/").await;
        assert!(left.is_empty(), "{context}: {left:?}");
    }
}

pub async fn prune_on(project: &Keeper, options: PruneOptions) -> Result<PruneReport> {
    prune::run(project, options, Arc::new(Silent), Cancel::never()).await
}
