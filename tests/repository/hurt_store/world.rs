//! What every test here begins with: a repository with a history, a source with something new, and the audit that
//! everything must pass afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use cuttle::backup::BackupReport;
use cuttle::repo::log::VolumeLog;
use cuttle::repo::{Environment, InitOptions, Keeper};
use cuttle::store::{Limits, Store};
use cuttle::{Error, ErrorKind, Result};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::support::Numbers;
use crate::support::fault_store::FaultStore;
use crate::support::repo::{
    self, CHUNK, MemoryVolume, back_up, back_up_stream, diff_v1, environment, hasty, init_with, options,
    read_back,
};

const C: usize = CHUNK as usize;
/// The volume that the tests back up, and one that only lies there.
pub const VOLUME: &str = "pool/image";
const OTHER: &str = "pool/other";
/// Attempts of the store in these tests, without a pause between them.
pub const ATTEMPTS_MAX: u32 = 4;

/// What is backed up.
#[derive(Clone)]
enum Source {
    Volume(Arc<MemoryVolume>),
    Stream(Vec<u8>),
}

/// A state of the world that a test can go back to.
pub struct World {
    pub name: &'static str,
    objects: InMemory,
    source: Source,
    /// The live snapshots, by volume and sequence.
    history: BTreeMap<(String, u32), Vec<u8>>,
    /// What the next backup of [`VOLUME`] holds.
    pub next: Vec<u8>,
}

/// One try from that state on.
pub struct Round<'a> {
    pub world: &'a World,
    pub objects: Arc<InMemory>,
    source: Source,
}

/// Two leaves, most of it zeros, equal chunks, a short one at the end.
fn content(numbers: &mut Numbers) -> Vec<u8> {
    let mut content = vec![0; 1026 * C + 100];
    for at in [0, 1, 3, 700, 1025] {
        content[at * C..][..C].copy_from_slice(&numbers.bytes(C));
    }
    content.copy_within(C..2 * C, 5 * C);
    let end = 1026 * C;
    content[end..].copy_from_slice(&numbers.bytes(100));
    content
}

/// A night's changes.
fn edit(content: &mut Vec<u8>, numbers: &mut Numbers) {
    content[3 * C..4 * C].fill(0);
    content[C + 7..C + 9].copy_from_slice(&[1, 2]);
    content[1025 * C..1025 * C + 10].copy_from_slice(&numbers.bytes(10));
    content.copy_within(0..C, 9 * C);
    let fresh = numbers.bytes(3);
    content[700 * C + 40..700 * C + 43].copy_from_slice(&fresh);
    content.resize(1027 * C + 50, 0);
    let end = 1027 * C;
    content[end..].copy_from_slice(&numbers.bytes(50));
}

impl World {
    async fn new(name: &'static str, encrypted: bool, delta_depth_max: u8) -> (Self, Keeper) {
        let objects = Arc::new(InMemory::new());
        let init = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max };
        let repository = init_with(store(objects.clone()), init, encrypted).await;
        let project = repo::default(&repository).await;
        let other = MemoryVolume::new(Numbers::new(1).bytes(3 * C + 1));
        back_up(&project, &other, &options(OTHER)).await.expect("backed up");
        let history = BTreeMap::from([((OTHER.to_owned(), 1), other.content())]);
        let source = Source::Stream(Vec::new());
        let world = Self { name, objects: InMemory::new(), source, history, next: Vec::new() };
        (Self { objects: objects.fork(), ..world }, project)
    }

    /// A volume's first backup.
    pub async fn first() -> Self {
        let (world, _) = Self::new("first", true, 0).await;
        let next = content(&mut Numbers::new(2));
        Self { source: Source::Volume(MemoryVolume::new(next.clone())), next, ..world }
    }

    /// A volume backed up twice, and changed since.
    pub async fn incremental() -> Self {
        Self::incremental_of("incremental", true, 0).await
    }

    /// As [`incremental`](Self::incremental), in a repository without encryption.
    pub async fn open_incremental() -> Self {
        Self::incremental_of("incremental, not encrypted", false, 0).await
    }

    /// As [`incremental`](Self::incremental), with chunks that are deltas, and deltas on them.
    pub async fn deltas() -> Self {
        Self::incremental_of("deltas", true, 7).await
    }

    async fn incremental_of(name: &'static str, encrypted: bool, delta_depth_max: u8) -> Self {
        let (mut world, _) = Self::new(name, encrypted, delta_depth_max).await;
        let objects = Arc::new(world.objects.fork());
        let project = connect(objects.clone(), environment()).await.expect("opened");
        let mut numbers = Numbers::new(3);
        let volume = MemoryVolume::new(content(&mut numbers));
        for sequence in 1..=2 {
            back_up(&project, &volume, &options(VOLUME)).await.expect("backed up");
            world.history.insert((VOLUME.to_owned(), sequence), volume.content());
            volume.edit(|content| edit(content, &mut numbers));
        }
        let next = volume.content();
        Self { objects: objects.fork(), source: Source::Volume(volume), next, ..world }
    }

    /// A volume known from streams, and a diff that changes chunks in part.
    pub async fn stream() -> Self {
        Self::stream_of("stream", 0).await
    }

    /// As [`stream`](Self::stream), and the chunks changed in part become deltas.
    pub async fn stream_of_deltas() -> Self {
        Self::stream_of("stream of deltas", 7).await
    }

    async fn stream_of(name: &'static str, delta_depth_max: u8) -> Self {
        let (mut world, _) = Self::new(name, true, delta_depth_max).await;
        let objects = Arc::new(world.objects.fork());
        let project = connect(objects.clone(), environment()).await.expect("opened");
        let mut numbers = Numbers::new(4);
        let mut content = content(&mut numbers);
        let full = diff_v1(None, "a", content.len() as u64, &[(0, content.clone())]);
        back_up_stream(&project, full, &options(VOLUME)).await.expect("backed up");
        world.history.insert((VOLUME.to_owned(), 1), content.clone());
        let changes = [(10, 20), (C - 5, 10), (3 * C, C), (1024 * C + 9, 2 * C)];
        let mut extents = Vec::new();
        for (at, len) in changes {
            let data = if at == 3 * C { vec![0; len] } else { numbers.bytes(len) };
            content[at..at + len].copy_from_slice(&data);
            extents.push((at as u64, data));
        }
        // The short chunk at the end becomes shorter still.
        content.truncate(content.len() - 30);
        let diff = diff_v1(Some("a"), "b", content.len() as u64, &extents);
        Self { objects: objects.fork(), source: Source::Stream(diff), next: content, ..world }
    }

    pub async fn all() -> [Self; 5] {
        let [deltas, stream_of_deltas] = Self::with_deltas().await;
        [Self::first().await, Self::incremental().await, deltas, Self::stream().await, stream_of_deltas]
    }

    /// Whose next backup makes deltas.
    pub async fn with_deltas() -> [Self; 2] {
        [Self::deltas().await, Self::stream_of_deltas().await]
    }

    pub fn round(&self) -> Round<'_> {
        let source = match &self.source {
            Source::Volume(volume) => Source::Volume(volume.fork()),
            Source::Stream(bytes) => Source::Stream(bytes.clone()),
        };
        Round { world: self, objects: Arc::new(self.objects.fork()), source }
    }

    /// Requests of a backup in which nothing goes wrong, the opening of the repository included.
    pub async fn requests(&self) -> usize {
        let round = self.round();
        let faults = round.faults();
        round.backup(&faults, environment()).await.expect("nothing goes wrong");
        faults.ops().len()
    }
}

impl Round<'_> {
    pub fn faults(&self) -> FaultStore {
        FaultStore::new(self.objects.clone())
    }

    /// What one `cuttle backup` does.
    pub async fn backup(&self, faults: &FaultStore, environment: Environment) -> Result<BackupReport> {
        let project = connect(Arc::new(faults.clone()), environment).await?;
        self.backup_in(&project).await
    }

    /// As [`backup`](Self::backup), in a project that is open.
    pub async fn backup_in(&self, project: &Keeper) -> Result<BackupReport> {
        match &self.source {
            Source::Volume(volume) => back_up(project, volume, &options(VOLUME)).await,
            Source::Stream(bytes) => back_up_stream(project, bytes.clone(), &options(VOLUME)).await,
        }
    }

    /// The next night's run of the same command, by another process, when nothing goes wrong any more.
    ///
    /// A stream whose snapshot was committed without its writer knowing is refused, and rightly: it would continue a
    /// snapshot that is not the newest.
    pub async fn next_run(&self, context: &str, live: &[u32]) {
        let next = self.backup(&self.faults(), afterwards(1_000_000)).await;
        let committed = live.len() > self.lived().len();
        if let (Source::Stream(_), true) = (&self.source, committed) {
            let error = next.expect_err(context);
            assert!(error.kind() == ErrorKind::Conflict && is_honest(&error), "{context}: {error}");
            return;
        }
        let report = next.unwrap_or_else(|e| panic!("{context}: the next run: {e}"));
        let (log, live) = self.audit(context).await;
        assert!(live.contains(&report.sequence.expect("a sequence")), "{context}: {live:?}");
        assert_eq!(log.unfinished().count(), 0, "{context}: something is left open");
    }

    /// Reads everything with a fresh client. All that lived before lives and is whole; what is new holds what the
    /// source held. Returns the volume's log and the sequences of its live snapshots.
    pub async fn audit(&self, context: &str) -> (VolumeLog, Vec<u32>) {
        let project = connect(self.objects.clone(), environment()).await.expect(context);
        let catalog = project.volumes().confirmed().await.expect(context);
        let mut seen = BTreeMap::new();
        let mut volume_log = VolumeLog::default();
        for volume in catalog.entries() {
            let log = project.log(volume.number).confirmed().await.expect(context);
            assert!(log.gaps().is_empty(), "{context}: gaps {:?} in the log of {}", log.gaps(), volume.name);
            for snapshot in project.history(volume).snapshots().await.expect(context) {
                let sequence = snapshot.snapshot.sequence.0;
                let back = read_back(&project, &snapshot).await;
                let back = back.unwrap_or_else(|e| panic!("{context}: {}@{sequence}: {e}", volume.name));
                let key = (volume.name.clone(), sequence);
                let expected = self.world.history.get(&key).unwrap_or(&self.world.next);
                assert!(back == *expected, "{context}: {}@{sequence} holds something else", volume.name);
                seen.insert(key, ());
            }
            if volume.name == VOLUME {
                volume_log = log;
            }
        }
        for key in self.world.history.keys() {
            assert!(seen.contains_key(key), "{context}: {key:?} is gone");
        }
        let live = seen.into_keys().filter(|(volume, _)| volume == VOLUME).map(|(_, s)| s).collect();
        (volume_log, live)
    }

    /// The sequences that lived before.
    pub fn lived(&self) -> Vec<u32> {
        let of_volume = self.world.history.keys().filter(|(volume, _)| volume == VOLUME);
        of_volume.map(|(_, sequence)| *sequence).collect()
    }
}

pub fn store(inner: Arc<dyn ObjectStore>) -> Store {
    Store::with_object_store(inner, Limits { attempts_max: ATTEMPTS_MAX, ..hasty() })
}

pub async fn connect(inner: Arc<dyn ObjectStore>, environment: Environment) -> Result<Keeper> {
    repo::connect(store(inner), environment).await
}

/// The environment of another process of the same machine, which sees no other process alive.
pub fn afterwards(process: u32) -> Environment {
    Environment { process, is_process_alive: |_| false, ..environment() }
}

/// An error that tells the user what to do, and neither a defect nor damage.
pub fn is_honest(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Conflict) && error.help_text().is_some()
}
