//! The live index: a prune writes it in parts, and a first backup finds in it what is stored in older generations.

use std::sync::Arc;

use crate::support::Numbers;
use crate::support::by_hand::{ByHand, get, put};
use crate::support::fault_store::{Fault, FaultStore, Op, OpKind};
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, connect, environment, hasty, in_memory, latest, options, read_back, reopen,
    secret,
};
use cuttle::cancel::Cancel;
use cuttle::forget;
use cuttle::format::ObjectName;
use cuttle::format::gc::{PartRef, SealRecord};
use cuttle::format::live::{self, LivePart};
use cuttle::format::table::TableEntry;
use cuttle::progress::Silent;
use cuttle::prune::{self, PruneOptions};
use cuttle::repo::Keeper;
use cuttle::store::Store;
use cuttle::units::Generation;
use object_store::ObjectStore;
use object_store::memory::InMemory;

const C: usize = CHUNK as usize;
const CHUNKS: usize = 300;
const PROBES: u64 = 32;
const ROUND: Generation = Generation(1);

/// Two volumes of which nothing is equal, and a sealed round that deleted something.
struct World {
    objects: Arc<InMemory>,
    hand: ByHand,
    content: Vec<u8>,
}

impl World {
    async fn new(entries_max: usize) -> Self {
        let (objects, project) = in_memory().await;
        let mut numbers = Numbers::new(3);
        let content = numbers.bytes(CHUNKS * C);
        let (a, b) = content.split_at(CHUNKS / 2 * C);
        for (name, content) in [("a", a.to_vec()), ("b", b.to_vec()), ("gone", numbers.bytes(5 * C))] {
            back_up(&project, &MemoryVolume::new(content), &options(name)).await.expect("backed up");
        }
        forget::by_name(&project, &["gone@1".to_owned()], false, Cancel::never()).await.expect("forgotten");
        let told = pruned(&reopen(objects.clone()).await.expect("opens"), true, entries_max).await;
        let report = pruned(&project, false, entries_max).await;
        assert_eq!(report.deleted_chunks.objects, 5);
        // A first prune asks the store what becomes of creates at once.
        assert_eq!(report.ledger.put_requests, told.puts_to_come + PROBES, "{report:?}, {told:?}");
        let hand = ByHand::open(objects.clone(), &secret(), "default").await;
        Self { objects, hand, content }
    }

    /// Of the seal, checked and opened part by part.
    async fn parts(&self) -> Vec<(PartRef, Vec<TableEntry>)> {
        let seal = ObjectName::GcSeal(self.hand.project.clone(), ROUND);
        let index = self.hand.record::<SealRecord>(&seal).await.live_index;
        live::check_count(index.len()).expect("a power of two");
        let mut parts = Vec::new();
        for (number, part) in index.iter().enumerate() {
            let plain = self.hand.plain(&self.part_name(part)).await;
            let of = LivePart { number, count: index.len() };
            parts.push((*part, live::decode(&plain, part.entries, of).expect("a good part")));
        }
        parts
    }

    fn part_name(&self, part: &PartRef) -> ObjectName {
        ObjectName::GcPart(self.hand.project.clone(), ROUND, part.id)
    }

    /// Backs up the chunks of both, backwards, as a new volume; how many of them it uploaded, and what it remarked.
    async fn first_backup(&self, store: Arc<dyn ObjectStore>, chunks: usize) -> (u64, Vec<String>) {
        let content: Vec<u8> = self.content.chunks(C).rev().take(chunks).collect::<Vec<_>>().concat();
        let project = connect(Store::with_object_store(store, hasty()), environment()).await.expect("opens");
        let volume = MemoryVolume::new(content.clone());
        let report = back_up(&project, &volume, &options("new")).await.expect("backed up");
        assert_eq!(report.stats.new_chunks + report.stats.known_chunks, chunks as u64);
        let read = read_back(&project, &latest(&project, "new").await).await.expect("reads");
        assert!(read == content, "another content");
        (report.stats.new_chunks, report.remarks)
    }
}

async fn pruned(project: &Keeper, dry_run: bool, live_part_entries_max: usize) -> prune::PruneReport {
    let options = PruneOptions { dry_run, live_part_entries_max, ..PruneOptions::default() };
    prune::run(project, options, Arc::new(Silent), Cancel::never()).await.expect("pruned")
}

#[tokio::test]
async fn a_first_backup_finds_what_is_stored_in_however_many_parts() {
    for (entries_max, count) in [(usize::MAX, 1), (200, 2), (20, 32), (1, 256)] {
        let world = World::new(entries_max).await;
        let parts = world.parts().await;
        assert!(parts.len() == count || (count == 32 && parts.len() > 16), "{} parts", parts.len());
        let named: Vec<TableEntry> = parts.into_iter().flat_map(|(_, entries)| entries).collect();
        assert!(named == world.hand.full_chunks().await && named.len() == CHUNKS, "{}", named.len());
        let (new, notes) = world.first_backup(world.objects.clone(), CHUNKS).await;
        assert!(new == 0 && notes.is_empty(), "{count} parts: {new} uploaded, {notes:?}");
    }
}

/// What is read of it is no more than a part of what the backup reads; the first part always is.
#[tokio::test]
async fn a_small_backup_reads_a_small_part_of_a_large_index() {
    let world = World::new(1).await;
    let mut parts = world.parts().await;
    parts.retain(|(_, entries)| !entries.is_empty());
    let mut reads = Vec::new();
    for chunks in [1, 20, CHUNKS] {
        let faults = FaultStore::new(Arc::new(world.objects.fork()));
        let (new, notes) = world.first_backup(Arc::new(faults.clone()), chunks).await;
        assert!(notes.is_empty() && new < chunks as u64 + 1, "{notes:?}");
        let is_read = |part: &&PartRef| {
            let name = world.part_name(part).to_string();
            faults.ops().iter().any(|op| op.kind == OpKind::Get && op.key == name)
        };
        let read: Vec<&PartRef> = parts.iter().map(|(part, _)| part).filter(is_read).collect();
        let bytes: u64 = read.iter().map(|part| u64::from(part.sealed_len_bytes)).sum();
        assert!(
            read.len() == 1 || bytes <= (chunks * C) as u64 / 4,
            "{} parts for {chunks} chunks",
            read.len()
        );
        reads.push(read.len());
    }
    assert!(reads[0] < reads[1] && reads[1] < reads[2] && reads[2] == parts.len(), "{reads:?}");
}

/// It costs uploads, and it is said: once, whatever is wrong.
#[tokio::test]
async fn parts_that_cannot_be_read_cost_uploads_and_not_the_backup() {
    let world = World::new(20).await;
    let parts = world.parts().await;
    let third = world.part_name(&parts[2].0).to_string();
    let damaged = world.objects.fork();
    let mut bytes = get(&damaged, &third).await.to_vec();
    *bytes.last_mut().expect("a body") ^= 1;
    put(&damaged, &third, bytes).await;
    let (of, name) = (Arc::new(world.objects.fork()), third.clone());
    let away = FaultStore::new(of);
    away.fail_always_for(move |op: &Op| op.kind == OpKind::Get && op.key == name, Fault::Status(503));
    let hurt: [(&str, Arc<dyn ObjectStore>); 2] = [("damaged", Arc::new(damaged)), ("away", Arc::new(away))];
    for (what, objects) in hurt {
        let (new, notes) = world.first_backup(objects, CHUNKS).await;
        assert!(new > 0 && new < CHUNKS as u64, "{what}: {new}");
        assert!(notes.len() == 1 && notes[0].contains("the index of what is stored"), "{what}: {notes:?}");
    }
    // A round that ended meanwhile removed it: nothing is wrong.
    let gone = world.objects.fork();
    crate::support::by_hand::delete(&gone, &third).await;
    let (new, notes) = world.first_backup(Arc::new(gone), CHUNKS).await;
    assert!(new > 0 && notes.is_empty(), "{notes:?}");
}
