//! What stores answered that were not well, under everything that the library does: it is right, or a clear error, and when the
//! store is well again every snapshot is there that was acknowledged.

use std::sync::Arc;

use crate::support::Numbers;
use crate::support::buckets::gcs_config;
use crate::support::fault_store::{Fault, FaultStore, OpKind};
use crate::support::gcs_fake::{GcsFake, Lie as Answers};
use crate::support::repo::{
    self, CHUNK, MemoryVolume, back_up, environment, hasty, init_on, latest, options, read_back,
};
use cuttle::cancel::{self, Cancel, Canceller};
use cuttle::error::Context;
use cuttle::forget;
use cuttle::progress::{Progress, Silent, Step};
use cuttle::prune::{self, PruneOptions};
use cuttle::repo::Keeper;
use cuttle::store::{Limits, Store, StoreConfig};
use cuttle::{Error, ErrorKind, Result};
use object_store::memory::InMemory;

const VOLUME: &str = "pool/image";
const C: usize = CHUNK as usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// Everything is answered with a redirect.
    Redirects,
    /// As when a quota is reached.
    TakesNothing,
    ListsNothing,
    ListsNoLogs,
    /// As of some days ago.
    ListsNothingNew,
    ListsNoChunks,
    ListsNoRounds,
    ListsNoOutcomes,
    FindsNothingByHead,
    FindsEverythingByHead,
    SaysItExists,
    /// Whatever is fetched is a page to log in.
    ShowsAPage,
    /// Everything was written at once: as after a copy by `aws s3 sync`, or by a clock at its beginning.
    TimesReset(i64),
}

const LIES: [Lie; 14] = [
    Lie::Redirects,
    Lie::TakesNothing,
    Lie::ListsNothing,
    Lie::ListsNoLogs,
    Lie::ListsNothingNew,
    Lie::ListsNoChunks,
    Lie::ListsNoRounds,
    Lie::ListsNoOutcomes,
    Lie::FindsNothingByHead,
    Lie::FindsEverythingByHead,
    Lie::SaysItExists,
    Lie::ShowsAPage,
    Lie::TimesReset(0),
    Lie::TimesReset(2_100_000_000_000),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Backup,
    Restore,
    Forget,
    Prune,
    Verify,
}

const OPERATIONS: [Operation; 5] =
    [Operation::Backup, Operation::Restore, Operation::Forget, Operation::Prune, Operation::Verify];

impl Lie {
    fn tell(self, store: &FaultStore) {
        let always = |kinds: &'static [OpKind], fault| {
            store.fail_always_for(move |op| kinds.contains(&op.kind), fault)
        };
        match self {
            Self::Redirects => store.fail_always(Some(Fault::Status(303))),
            Self::TakesNothing => always(&[OpKind::Create, OpKind::Put], Fault::Status(507)),
            Self::ListsNothing => store.hide_from_listings(|_| true),
            Self::ListsNoLogs => store.hide_from_listings(|key| key.contains("/log/")),
            Self::ListsNothingNew => store.hide_from_listings(|key| {
                key.contains("/0000000003.") || key.contains("/0000000004.") || key.contains("/gc/")
            }),
            Self::ListsNoChunks => store.hide_from_listings(|key| key.contains("/chunks/")),
            Self::ListsNoRounds => store.hide_from_listings(|key| key.contains("/gc/")),
            Self::ListsNoOutcomes => store.hide_from_listings(|key| key.ends_with(".end")),
            Self::FindsNothingByHead => always(&[OpKind::Head], Fault::Status(404)),
            Self::FindsEverythingByHead => always(&[OpKind::Head], Fault::FalseFound),
            Self::SaysItExists => always(&[OpKind::Create], Fault::FalseExists),
            Self::ShowsAPage => always(&[OpKind::Get], Fault::Page),
            Self::TimesReset(unix_ms) => store.reset_times(unix_ms),
        }
    }

    /// Whether nothing at all can be done.
    fn is_of_everything(self) -> bool {
        matches!(self, Self::Redirects | Self::ShowsAPage)
    }
}

fn quick() -> Limits {
    Limits { attempts_max: 3, ..hasty() }
}

async fn connect(store: Store) -> Result<Keeper> {
    repo::connect(store, environment()).await
}

fn prune_options() -> PruneOptions {
    PruneOptions { wait: false, ..PruneOptions::default() }
}

struct World {
    /// As it is when it does not lie.
    store: Store,
    volume: Arc<MemoryVolume>,
    /// By sequence; none where it was forgotten.
    expected: Vec<Option<Vec<u8>>>,
    /// What a forgotten snapshot held. The round under way has decided to delete its chunks, and they are still there: whoever
    /// does not see the round, or does not obey it, builds on them.
    condemned: Vec<u8>,
    numbers: Numbers,
}

/// Stops a prune that has decided what it deletes.
struct BeforeItDeletes(Canceller);

impl Progress for BeforeItDeletes {
    fn phase(&self, name: &str, _: Option<u64>) {
        if name == "deleting" {
            self.0.cancel();
        }
    }

    fn step(&self, _: Step) {}

    fn warn(&self, _: &str) {}
}

impl World {
    /// A round is over, and the next has decided what it deletes.
    async fn new(store: Store) -> Self {
        init_on(store.clone(), CHUNK, true).await;
        let mut numbers = Numbers::new(3);
        let volume = MemoryVolume::new(numbers.bytes(9 * C));
        let mut world = Self { store, volume, expected: Vec::new(), condemned: Vec::new(), numbers };
        let project = connect(world.store.clone()).await.expect("opens");
        for _ in 0..2 {
            world.night(&project).await.expect("a backup");
        }
        world.forget(&project, 1).await.expect("forgotten");
        prune::run(&project, prune_options(), Arc::new(Silent), Cancel::never()).await.expect("a prune");
        for _ in 0..2 {
            world.night(&project).await.expect("a backup");
        }
        world.condemned = world.expected[2].clone().expect("it is live");
        world.forget(&project, 2).await.expect("forgotten");
        let (canceller, cancel) = cancel::pair();
        let until = Arc::new(BeforeItDeletes(canceller));
        let stopped = prune::run(&project, prune_options(), until, cancel).await.expect_err("it is stopped");
        assert_eq!(stopped.kind(), ErrorKind::Interrupted, "{stopped}");
        world
    }

    async fn night(&mut self, project: &Keeper) -> Result<()> {
        let fresh = self.numbers.bytes(3 * C);
        self.night_of(project, &fresh).await
    }

    async fn night_of(&mut self, project: &Keeper, changed: &[u8]) -> Result<()> {
        self.volume.edit(|content| content[2 * C..5 * C].copy_from_slice(changed));
        let report = back_up(project, &self.volume, &options(VOLUME)).await?;
        let sequence = report.sequence.expect("a sequence") as usize;
        self.expected.resize(self.expected.len().max(sequence + 1), None);
        assert!(self.expected[sequence].is_none(), "sequence {sequence} is given twice");
        self.expected[sequence] = Some(self.volume.content());
        Ok(())
    }

    async fn forget(&mut self, project: &Keeper, sequence: usize) -> Result<()> {
        let names = [format!("{VOLUME}@{sequence}")];
        let report = forget::by_name(project, &names, false, Cancel::never()).await?;
        match report.ok() {
            true => self.expected[sequence] = None,
            false => return Err(Error::unavailable("it was not forgotten")),
        }
        Ok(())
    }

    async fn run(&mut self, operation: Operation, project: Result<Keeper>) -> Result<()> {
        let project = project?;
        match operation {
            Operation::Backup => {
                let changed = self.condemned[2 * C..5 * C].to_vec();
                self.night_of(&project, &changed).await
            }
            Operation::Restore => {
                let entry = project.volumes().snapshot(&format!("{VOLUME}@3")).await?;
                let bytes = read_back(&project, &entry).await?;
                assert!(Some(&bytes) == self.expected[3].as_ref(), "other bytes");
                Ok(())
            }
            Operation::Forget => self.forget(&project, 3).await,
            Operation::Prune => {
                prune::run(&project, prune_options(), Arc::new(Silent), Cancel::never()).await.map(drop)
            }
            Operation::Verify => verified(&project).await,
        }
    }

    /// Everything that was acknowledged is there, is found to be well, and what the lie left does not stand in the way.
    async fn check(&mut self) -> Result<()> {
        let project = connect(self.store.clone()).await?;
        for (sequence, expected) in self.expected.iter().enumerate() {
            let Some(expected) = expected else { continue };
            let entry = project.volumes().snapshot(&format!("{VOLUME}@{sequence}")).await;
            let bytes = read_back(&project, &entry.context(sequence)?).await.context(sequence)?;
            if bytes != *expected {
                return Err(Error::corrupt(format!("@{sequence}: other bytes")));
            }
        }
        verified(&project).await.context("verify")?;
        self.night(&project).await.context("then a backup")?;
        assert_eq!(latest(&project, VOLUME).await.volume_name, VOLUME);
        prune::run(&project, prune_options(), Arc::new(Silent), Cancel::never())
            .await
            .context("then a prune")?;
        verified(&project).await.context("verify after a prune")
    }

    /// One cell of a table: an operation of a store that lies, then what is there when it does not.
    async fn cell(&mut self, context: &str, done: Result<()>, must_fail: bool) -> Option<String> {
        let said = match &done {
            Ok(()) => "ok".to_owned(),
            Err(e) => format!("{:?}: {e}", e.kind()),
        };
        assert!(done.as_ref().err().map(Error::kind) != Some(ErrorKind::Internal), "{context}: {said}");
        assert!(!must_fail || done.is_err(), "{context}: {said}");
        let lost = self.check().await.err()?;
        Some(format!("{context}: {lost} ({said})"))
    }
}

async fn verified(project: &Keeper) -> Result<()> {
    let found = repo::verify(project, true).await?;
    match found.ok() {
        true => Ok(()),
        false => Err(Error::corrupt(format!("{found:?}"))),
    }
}

#[tokio::test]
async fn whatever_a_store_answers_nothing_acknowledged_is_lost() {
    let mut lost = Vec::new();
    for lie in LIES {
        for operation in OPERATIONS {
            for from_the_start in [true, false] {
                let objects = Arc::new(InMemory::new());
                let mut world = World::new(Store::with_object_store(objects.clone(), quick())).await;
                let store = FaultStore::new(objects);
                if from_the_start {
                    lie.tell(&store);
                }
                let project = connect(Store::with_object_store(Arc::new(store.clone()), quick())).await;
                lie.tell(&store);
                let done = world.run(operation, project).await;
                let context = format!("{lie:?} {operation:?}, from the start: {from_the_start}");
                lost.extend(world.cell(&context, done, lie.is_of_everything()).await);
            }
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

/// What comes instead of an answer, over HTTP.
#[tokio::test]
async fn whatever_answers_in_a_stores_place_nothing_acknowledged_is_lost() {
    use Answers::{Nothing, Page, PageForWrites, Quota, Redirects, SeeOther};
    let mut lost = Vec::new();
    for lie in [Redirects(301), Redirects(303), Redirects(307), SeeOther, Page, PageForWrites, Nothing, Quota]
    {
        for operation in OPERATIONS {
            let fake = GcsFake::start("bucket").await;
            let config = StoreConfig { limits: quick(), ..gcs_config(&fake.url, "bucket", "p") };
            let mut world = World::new(Store::open(&config).expect("opens")).await;
            let project = connect(Store::open(&config).expect("opens")).await;
            fake.lie(Some(lie));
            let done = world.run(operation, project).await;
            fake.lie(None);
            let reads = matches!(operation, Operation::Restore | Operation::Verify);
            let must_fail = !reads || matches!(lie, Redirects(_) | Page | Nothing);
            lost.extend(world.cell(&format!("{lie:?} {operation:?}"), done, must_fail).await);
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}
