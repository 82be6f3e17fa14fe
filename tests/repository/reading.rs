//! A snapshot read at random: right, within its memory, each chunk once, and over stores that fail.

use std::sync::Arc;

use crate::support::Numbers;
use crate::support::by_hand;
use crate::support::fault_store::{Fault, FaultStore, OpKind};
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, default, init_on, init_with, latest, options, read_back, store,
};
use cuttle::ErrorKind;
use cuttle::reading::snapshot::{SnapshotReader, Snapshots};
use cuttle::repo::history::SnapshotEntry;
use cuttle::repo::{InitOptions, Keeper};
use cuttle::units::Content;
use object_store::memory::InMemory;

const C: usize = CHUNK as usize;

struct World {
    faulty: FaultStore,
    project: Keeper,
    volume: Arc<MemoryVolume>,
}

impl World {
    async fn new(content: Vec<u8>) -> Self {
        let faulty = FaultStore::new(Arc::new(InMemory::new()));
        let options = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 7 };
        let repository = init_with(store(Arc::new(faulty.clone())), options, true).await;
        Self { faulty, project: default(&repository).await, volume: MemoryVolume::new(content) }
    }

    async fn back_up(&self) -> SnapshotEntry {
        back_up(&self.project, &self.volume, &options("v")).await.expect("backed up");
        latest(&self.project, "v").await
    }

    /// Chunks fetched so far.
    fn chunks_got(&self) -> usize {
        self.faulty.ops().iter().filter(|op| op.kind == OpKind::Get && op.key.contains("/chunks/")).count()
    }

    fn open(&self, snapshot: &SnapshotEntry, memory_bytes: u64) -> Arc<SnapshotReader> {
        Snapshots::new(&self.project, memory_bytes).open(snapshot).expect("opened")
    }
}

/// Data, zeros and repetitions, more than two leaves of them, the last chunk short.
fn content(seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut out = numbers.bytes(40 * C);
    out.resize(1500 * C, 0);
    out.extend(numbers.bytes(700 * C));
    out.extend_from_within(10 * C..30 * C);
    out.extend(numbers.bytes(100));
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn any_range_of_any_night_is_what_was_backed_up() {
    let world = World::new(content(1)).await;
    let mut nights = Vec::new();
    for night in 0..3_u8 {
        nights.push((world.back_up().await, world.volume.content()));
        // Partial changes become deltas.
        world.volume.edit(|v| (0..30).for_each(|n| v[n * C + 512 * usize::from(night)] ^= 0x55));
    }
    let snapshots = Snapshots::new(&world.project, 64 * C as u64);
    let mut numbers = Numbers::new(2);
    for (snapshot, expected) in &nights {
        let reader = snapshots.open(snapshot).expect("opened");
        assert_eq!(reader.size_bytes(), expected.len() as u64);
        assert!(reader.read(0, expected.len()).await.expect("read") == expected[..]);
        assert!(read_back(&world.project, snapshot).await.expect("read") == *expected);
        for _ in 0..300 {
            let start = numbers.below(expected.len() as u64 + 1) as usize;
            let len = (numbers.below(5 * C as u64) as usize).min(expected.len() - start);
            let found = reader.read(start as u64, len).await.expect("read");
            assert!(found == expected[start..start + len], "{len} bytes at {start}");
        }
        for (offset, len) in [(expected.len() as u64, 1), (u64::MAX, 2), (0, expected.len() + 1)] {
            let refused = reader.read(offset, len).await.expect_err("beyond the end");
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{len} at {offset}: {refused}");
        }
        assert!(reader.read(expected.len() as u64, 0).await.expect("nothing").is_empty());
    }
}

#[tokio::test]
async fn extents_tell_holes_from_data_without_fetching_a_chunk() {
    let expected = content(3);
    let world = World::new(expected.clone()).await;
    let snapshot = world.back_up().await;
    let reader = world.open(&snapshot, 0);
    let before = world.chunks_got();
    let mut numbers = Numbers::new(4);
    for round in 0..200 {
        let (start, len) = match round {
            0 => (0, expected.len()),
            _ => {
                let start = numbers.below(expected.len() as u64) as usize;
                (start, numbers.below((expected.len() - start) as u64 + 1) as usize)
            }
        };
        let all = reader.extents(start as u64, len as u64, usize::MAX).await.expect("extents");
        let mut at = start as u64;
        for extent in &all {
            assert_eq!(extent.offset_bytes, at);
            at += extent.length_bytes;
            let held = &expected[extent.offset_bytes as usize..at as usize];
            let zero = held.iter().all(|b| *b == 0);
            assert_eq!(zero, extent.content == Content::Zero, "{extent:?}");
        }
        assert_eq!(at, (start + len) as u64, "{len} at {start}: {all:?}");
        assert!(all.windows(2).all(|pair| pair[0].content != pair[1].content), "{all:?}");
        let first = reader.extents(start as u64, len as u64, 1).await.expect("extents");
        assert_eq!(first, all[..all.len().min(1)]);
    }
    assert_eq!(world.chunks_got(), before, "pages alone tell");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_want_is_fetched_once_and_again_only_when_it_was_let_go() {
    let expected = content(5);
    let world = World::new(expected.clone()).await;
    let snapshot = world.back_up().await;
    let reader = world.open(&snapshot, 4096 * C as u64);
    // Its page is in memory from here on: all below ask for the chunk at once.
    reader.read(5 * C as u64, 1).await.expect("read");
    let before = world.chunks_got();
    let mut gate = world.faulty.gate(|op| op.kind == OpKind::Get && op.key.contains("/chunks/"));
    let mut readers: Vec<_> = (0..20).map(|_| Box::pin(reader.read(100, 50))).collect();
    for reader in &mut readers {
        assert!(futures::poll!(reader).is_pending());
    }
    gate.reached().await;
    // The first one goes away without hurting the others.
    drop(readers.remove(0));
    gate.open();
    for found in futures::future::join_all(readers).await {
        assert_eq!(found.expect("read"), expected[100..150]);
    }
    assert_eq!(world.chunks_got() - before, 1, "one fetch for all");
    reader.read(0, expected.len()).await.expect("read");
    let once = world.chunks_got() - before;
    reader.read(0, expected.len()).await.expect("read");
    assert_eq!(world.chunks_got() - before, once, "everything is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_share_very_little_memory() {
    let expected = Arc::new(content(6));
    let world = World::new(expected.to_vec()).await;
    let snapshot = world.back_up().await;
    // Room for eight chunks.
    let reader = world.open(&snapshot, 0);
    let tasks: Vec<_> = (0..32_u64)
        .map(|n| {
            let (reader, expected) = (Arc::clone(&reader), Arc::clone(&expected));
            tokio::spawn(async move {
                let mut numbers = Numbers::new(n);
                for _ in 0..40 {
                    let start = numbers.below(expected.len() as u64) as usize;
                    let len = (numbers.below(20 * C as u64) as usize).min(expected.len() - start);
                    let found = reader.read(start as u64, len).await.expect("read");
                    assert!(found == expected[start..start + len], "{len} bytes at {start}");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("right");
    }
}

#[tokio::test]
async fn one_who_goes_straight_on_finds_the_next_chunks_there() {
    let expected = content(7);
    let world = World::new(expected.clone()).await;
    let snapshot = world.back_up().await;
    let reader = world.open(&snapshot, 4096 * C as u64);
    let before = world.chunks_got();
    for chunk in 1500..1504 {
        reader.read((chunk * C) as u64, C).await.expect("read");
    }
    // What was announced comes without anybody waiting for it.
    while world.chunks_got() - before < 4 + 4 {
        tokio::task::yield_now().await;
    }
    reader.read(0, 1).await.expect("read");
    reader.read(20 * C as u64, 1).await.expect("read");
    let jumps = world.chunks_got() - before;
    assert!(jumps <= 4 + 8 + 2, "one who jumps is not followed: {jumps}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_hurts_those_who_read_then_and_nobody_later() {
    let expected = content(8);
    let world = World::new(expected.clone()).await;
    let snapshot = world.back_up().await;
    let reader = world.open(&snapshot, 64 * C as u64);
    assert_eq!(reader.read(0, 10).await.expect("read"), expected[..10]);
    let faults = [Fault::Status(503), Fault::TimeoutBefore, Fault::CutBody];
    for (fault, chunk) in faults.into_iter().zip([1600, 1650, 1700]) {
        world.faulty.fail_always(Some(fault));
        let (away, kept) = tokio::join!(reader.read((chunk * C) as u64, 10), reader.read(5, 10));
        assert_eq!(away.expect_err("the store is away").kind(), ErrorKind::Unavailable);
        assert_eq!(kept.expect("in memory"), expected[5..15]);
        world.faulty.fail_always(None);
        let back = reader.read((chunk * C) as u64, 10).await.expect("the store is back");
        assert_eq!(back, expected[chunk * C..chunk * C + 10]);
        // A hiccup is not noticed.
        world.faulty.fail_at(world.faulty.ops().len(), fault);
        let start = (chunk + 20) * C;
        assert_eq!(reader.read(start as u64, C).await.expect("read"), expected[start..start + C]);
    }
}

#[tokio::test]
async fn damage_is_an_error_and_never_zeros() {
    let inner = Arc::new(InMemory::new());
    let repository = init_on(store(inner.clone()), CHUNK, true).await;
    let project = default(&repository).await;
    let expected = content(9);
    let volume = MemoryVolume::new(expected.clone());
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    let names = by_hand::names(&*inner, "").await;
    for name in names.iter().filter(|name| name.contains("/chunks/")).take(20) {
        let mut bytes = by_hand::get(&*inner, name).await.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        by_hand::put(&*inner, name, bytes).await;
    }
    let snapshot = latest(&project, "v").await;
    let reader = Snapshots::new(&project, 0).open(&snapshot).expect("opened");
    let mut damaged = 0;
    for start in (0..expected.len()).step_by(C) {
        let len = C.min(expected.len() - start);
        match reader.read(start as u64, len).await {
            Ok(found) => assert!(found == expected[start..start + len], "at {start}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                damaged += 1;
            }
        }
    }
    assert!(damaged >= 20, "{damaged}");
}
