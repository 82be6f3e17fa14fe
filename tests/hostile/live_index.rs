//! A live index that lies about lengths, counts, order and places costs a first backup uploads, at once and in little memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ALLOCATOR;
use crate::support::Numbers;
use crate::support::by_hand::ByHand;
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, in_memory, latest, options, read_back, reopen, secret,
};
use cuttle::format::gc::PartRef;
use cuttle::format::names::{ContentKind, ContentName};
use cuttle::format::page::ObjectRef;
use cuttle::format::table::{self, TableEntry};
use cuttle::units::{ChunkId, Generation};

const TIME_MAX: Duration = Duration::from_secs(5);
const MEMORY_BYTES_MAX: usize = 64 << 20;
const ROUND: Generation = Generation(1);

fn entry(first: u8, rest: u8) -> TableEntry {
    let mut id = [rest; 32];
    id[0] = first;
    let name = ContentName::plain(Generation(0), ChunkId(id));
    TableEntry { kind: ContentKind::Chunk, object: ObjectRef { name, sealed_len_bytes: 4_000 } }
}

#[tokio::test]
async fn an_index_that_lies_ends_in_a_remark_and_uploads() {
    let _alone = crate::ALONE.lock().await;
    let (objects, project) = in_memory().await;
    let content = Numbers::new(1).bytes(8 * CHUNK as usize);
    back_up(&project, &MemoryVolume::new(content.clone()), &options("v")).await.expect("backed up");
    let hand = ByHand::open(objects.clone(), &secret(), "default").await;
    let good = hand.full_chunks().await;
    let (len, with) = (good.len() as u32, |entries: &[TableEntry]| table::encode(entries));
    let mut of_generation = entry(0, 1);
    of_generation.object.name.generation = Generation(2);
    let mut too_long = entry(0, 1);
    too_long.object.sealed_len_bytes = u32::MAX;
    let page = TableEntry { kind: ContentKind::Page, ..entry(0, 1) };
    let swapped: Vec<TableEntry> = good.iter().rev().copied().collect();
    // What is said of each: parts, a plaintext and how many entries it has, and what is said of it.
    let said: Vec<(&str, usize, Vec<u8>, u32, &str)> = vec![
        ("nothing is wrong", 1, with(&good), len, ""),
        ("three parts", 3, with(&good), len, "a live index of 3 parts, expected 0 or a power of two"),
        ("512 parts", 512, with(&good), len, "a live index of 512 parts"),
        ("entries without end", 1, with(&good), u32::MAX, "expected 4294967295 entries"),
        ("an entry too few", 1, with(&good), len + 1, "entries of 56"),
        ("half an entry", 1, with(&good)[..100].to_vec(), 2, "entries of 56"),
        ("disorder", 1, with(&swapped), len, "before"),
        ("twice", 1, with(&[entry(0, 1), entry(0, 1)]), 2, "before"),
        ("of another part", 256, with(&[entry(77, 1)]), 1, "of a live index has 4d"),
        ("a page", 1, with(&[page]), 1, "expected full chunks"),
        ("of a generation to come", 1, with(&[of_generation]), 1, "a generation up to 1"),
        ("longer than any chunk", 1, with(&[too_long]), 1, "expected a size that chunks have"),
    ];
    for (what, count, plain, entries, expected) in said {
        let objects = Arc::new(objects.fork());
        let hand = ByHand::open(objects.clone(), &secret(), "default").await;
        hand.begin_round(1, &[ChunkId([1; 32])]).await;
        let part = hand.put_part(ROUND, &plain, entries).await;
        seal(objects, vec![part; count], &content, (what, expected)).await;
    }
    // An object that is smaller or larger than its part is said to be.
    for sealed_len_bytes in [0, u32::MAX] {
        let objects = Arc::new(objects.fork());
        let hand = ByHand::open(objects.clone(), &secret(), "default").await;
        hand.begin_round(1, &[ChunkId([1; 32])]).await;
        let part = hand.put_part(ROUND, &with(&good), len).await;
        seal(objects, vec![PartRef { sealed_len_bytes, ..part }], &content, ("a lie about its size", ""))
            .await;
    }
}

/// Seals the round with such an index, and backs up what is stored as another volume.
async fn seal(
    objects: Arc<object_store::memory::InMemory>,
    live_index: Vec<PartRef>,
    content: &[u8],
    (what, expected): (&str, &str),
) {
    let hand = ByHand::open(objects.clone(), &secret(), "default").await;
    hand.put_seal(ROUND, Vec::new(), live_index, &[]).await;
    hand.end_round(1).await;
    let project = reopen(objects).await.expect("opens");
    let start = Instant::now();
    ALLOCATOR.set_limit(ALLOCATOR.allocated() + MEMORY_BYTES_MAX).expect("a limit above what is in use");
    let volume = MemoryVolume::new(content.to_vec());
    let report = back_up(&project, &volume, &options("new")).await.expect(what);
    assert!(start.elapsed() < TIME_MAX, "{what}: {:?}", start.elapsed());
    ALLOCATOR.set_limit(usize::MAX).expect("no limit");
    let read = read_back(&project, &latest(&project, "new").await).await.expect(what);
    assert!(read == content, "{what}: another content");
    match expected {
        "" => {
            assert!(report.stats.new_chunks == 0 && report.remarks.is_empty(), "{what}: {:?}", report.remarks)
        }
        _ => {
            assert!(report.stats.new_chunks > 0, "{what}");
            let said = report.remarks.concat();
            assert!(report.remarks.len() == 1 && said.contains(expected), "{what}: {said}");
        }
    }
}
