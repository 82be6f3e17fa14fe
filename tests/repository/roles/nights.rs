//! A host that can open no chunk makes the same backups as one that can, at the same cost.

use std::sync::Arc;

use cuttle::ErrorKind;
use cuttle::backup::{self, BackupReport, Input};
use cuttle::cancel::Cancel;
use cuttle::format::role::Role;
use cuttle::progress::Silent;
use cuttle::prune::{self, PruneOptions};
use cuttle::repo::{InitOptions, Keeper, Repository, Writer, default_project};
use cuttle::store::Ledger;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::slots::{HOST, key_of};
use crate::support::Numbers;
use crate::support::by_hand::{get, names};
use crate::support::fault_store::{Fault, FaultStore, Op, OpKind};
use crate::support::repo::{
    MemoryVolume, default, environment, init_with, latest, options, read_back, secret, store, verify,
};

const CHUNK: u32 = 64 << 10;
const C: usize = CHUNK as usize;
const CHUNKS: usize = 100;

/// A repository, its keeper, and the volume that it is of.
struct House {
    objects: Arc<InMemory>,
    keeper: Keeper,
    volume: Arc<MemoryVolume>,
}

impl House {
    async fn new(volume: &MemoryVolume) -> Self {
        let objects = Arc::new(InMemory::new());
        let how = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 4 };
        let admin = init_with(store(objects.clone()), how, true).await;
        let keeper = default(&admin).await;
        admin.add_role_key(&keeper, Role::Backup, &key_of(HOST), "host").await.expect("a key");
        Self { objects, keeper, volume: volume.fork() }
    }

    /// The next command, by the host's own key or by that of the repository.
    async fn writer(&self, objects: Arc<dyn ObjectStore>, by_host: bool) -> Writer {
        let key = move || if by_host { key_of(HOST) } else { secret() };
        let admin = Repository::open(store(objects), environment(), &mut || Ok(key())).await.expect("opened");
        assert_eq!(admin.member().map(|(_, role, _)| role), by_host.then_some(Role::Backup));
        admin.writer(&default_project()).await.expect("may make backups")
    }

    async fn night(&self, by_host: bool) -> (BackupReport, Ledger) {
        let writer = self.writer(self.objects.clone(), by_host).await;
        let before = writer.repository().store().ledger();
        let report = run(&writer, &self.volume).await.expect("backed up");
        let ledger = writer.repository().store().ledger() - before;
        (report, ledger)
    }
}

async fn run(writer: &Writer, volume: &Arc<MemoryVolume>) -> cuttle::Result<BackupReport> {
    let input = Input::Volume(volume.clone());
    backup::run(writer, input, &options("v"), Arc::new(Silent), Cancel::never()).await
}

/// What a night does to the volume.
fn live(volume: &MemoryVolume, night: u64) {
    let mut numbers = Numbers::new(100 + night);
    volume.edit(|content| {
        for chunk in 0..CHUNKS {
            let at = chunk * C + numbers.below(C as u64 - 600) as usize;
            match night % 4 {
                // Little of every chunk.
                0 | 1 => content[at..at + 600].copy_from_slice(&numbers.bytes(600)),
                // All of some chunks: what is left of a bundle is carried over.
                2 if chunk % 30 != 0 => {
                    content[chunk * C..(chunk + 1) * C].copy_from_slice(&numbers.bytes(C))
                }
                3 if chunk % 10 == 0 => content[at..at + 600].fill(0),
                _ => {}
            }
        }
    });
}

#[tokio::test]
async fn weeks_of_nights_by_who_opens_no_chunk() {
    let volume = MemoryVolume::new(Numbers::new(5).bytes(CHUNKS * C));
    let (whole, role) = (House::new(&volume).await, House::new(&volume).await);
    let (mut deltas, mut contents) = (0, Vec::new());
    for night in 0..14 {
        for house in [&whole, &role] {
            live(&house.volume, night);
        }
        let ((full, cost), (blind, blind_cost)) = (whole.night(false).await, role.night(true).await);
        let of = |report: &BackupReport| (report.stats, report.full_read, report.sequence);
        assert_eq!(of(&full).1, of(&blind).1, "night {night}");
        let counts = |r: &BackupReport| {
            let s = r.stats;
            // What is read besides, and is known then, is the sample's.
            [s.new_chunks, s.new_bytes, s.zero_chunks, s.delta_chunks]
        };
        assert_eq!(counts(&full), counts(&blind), "night {night}");
        assert_eq!(full.sequence, blind.sequence);
        let (most, least) = (full.stats.stored_bytes.max(blind.stats.stored_bytes), full.stats.stored_bytes);
        assert!(most <= least + 64 * 100, "night {night}: {least} and {most} bytes stored");
        assert_eq!(cost.put_requests, blind_cost.put_requests, "night {night}");
        assert!(blind_cost.get_requests <= cost.get_requests + 1, "night {night}: {cost:?}, {blind_cost:?}");
        deltas += blind.stats.delta_chunks;
        contents.push(role.volume.content());
    }
    assert!(deltas > 400, "{deltas} deltas");
    let catalog = role.keeper.volumes().confirmed().await.expect("a catalog");
    for snapshot in role.keeper.history(&catalog.entries()[0]).snapshots().await.expect("snapshots") {
        let back = read_back(&role.keeper, &snapshot).await.expect("read");
        assert!(back == contents[snapshot.snapshot.sequence.0 as usize - 1], "{}", snapshot.name());
    }
    assert!(verify(&role.keeper, true).await.expect("verified").ok());
    for sequence in 1..14 {
        let name = [format!("v@{sequence}")];
        cuttle::forget::by_name(&role.keeper, &name, false, Cancel::never()).await.expect("forgotten");
    }
    prune::run(&role.keeper, PruneOptions::default(), Arc::new(Silent), Cancel::never())
        .await
        .expect("pruned");
    assert!(
        read_back(&role.keeper, &latest(&role.keeper, "v").await).await.expect("read")
            == *contents.last().expect("one")
    );
}

/// What an interrupted backup of a blind host left is used by the next one.
#[tokio::test]
async fn a_backup_that_was_interrupted_goes_on_and_sends_little_again() {
    let volume = MemoryVolume::new(Numbers::new(5).bytes(CHUNKS * C));
    let house = House::new(&volume).await;
    for changed in [false, true] {
        if changed {
            live(&house.volume, 0);
        }
        let faults = FaultStore::new(house.objects.clone());
        faults.fail_always_for(
            |op: &Op| op.kind == OpKind::Create && op.key.ends_with(".end"),
            Fault::Status(403),
        );
        let writer = house.writer(Arc::new(faults), true).await;
        run(&writer, &house.volume).await.expect_err("it was interrupted");
        let (report, ledger) = house.night(true).await;
        assert!(ledger.uploaded_bytes < 300_000, "changed: {changed}: {ledger:?}");
        assert_eq!(report.stats.new_chunks + report.stats.known_chunks, CHUNKS as u64, "{:?}", report.stats);
        let back = read_back(&house.keeper, &latest(&house.keeper, "v").await).await.expect("read");
        assert!(back == house.volume.content(), "changed: {changed}");
        assert!(verify(&house.keeper, true).await.expect("verified").ok());
    }
}

/// Somebody planted other bytes under a chunk's name, which nobody without the project's keys can mark: they are not built upon.
#[tokio::test]
async fn what_nobody_of_the_project_sealed_is_stored_again() {
    let volume = MemoryVolume::new(Numbers::new(5).bytes(CHUNKS * C));
    let house = House::new(&volume).await;
    let faults = FaultStore::new(house.objects.clone());
    faults
        .fail_always_for(|op: &Op| op.kind == OpKind::Create && op.key.ends_with(".end"), Fault::Status(403));
    let writer = house.writer(Arc::new(faults), true).await;
    run(&writer, &house.volume).await.expect_err("it was interrupted");
    let chunks = names(&*house.objects, "projects/default/chunks/").await;
    for (name, other) in chunks.iter().zip(&chunks[1..]).step_by(2) {
        let mut bytes = get(&*house.objects, other).await.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        crate::support::by_hand::put(&*house.objects, name, bytes).await;
    }
    house.night(true).await;
    let back = read_back(&house.keeper, &latest(&house.keeper, "v").await).await.expect("read");
    assert!(back == house.volume.content());
}

/// What a role is not for is refused where it begins, and the role that is meant has a name.
#[tokio::test]
async fn what_needs_another_role_is_refused_with_its_name() {
    let volume = MemoryVolume::new(Numbers::new(5).bytes(4 * C));
    let house = House::new(&volume).await;
    house.night(true).await;
    let admin = Repository::open(store(house.objects.clone()), environment(), &mut || Ok(key_of(HOST)))
        .await
        .expect("opened");
    let error = admin.keeper(&default_project()).await.err().expect("no keeper");
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    assert!(error.help_text().is_some_and(|help| help.contains("keeper or admin")), "{error:?}");
    let project = admin.project(&default_project()).await.expect("it may look");
    let entry = project.volumes().snapshot("v").await.expect("it sees what there is");
    let error = read_back_of(&project, &entry).await.expect_err("it reads nothing");
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    assert!(error.help_text().is_some_and(|help| help.contains("restore or admin")), "{error:?}");
    assert!(project.demand(&[Role::Restore]).is_err());
}

async fn read_back_of(
    project: &cuttle::repo::Project,
    entry: &cuttle::repo::history::SnapshotEntry,
) -> cuttle::Result<()> {
    let manifest = cuttle::repo::manifest::Manifest::of(project, &entry.snapshot)?;
    let leaf = manifest.leaf(0).await?;
    project.content().fetch_chunk(&leaf.refs[0], CHUNK).await.map(drop)
}
