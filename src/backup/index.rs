//! A live index, as far as it was read: its entries lie in a scratch file, and memory knows where; so it may name any number of chunks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Result;
use crate::format::live::LivePart;
use crate::format::page::ObjectRef;
use crate::format::table::{self, ENTRY_LEN_BYTES, TableEntry};
use crate::repo::scratch::{Block, Scratch};
use crate::units::ChunkId;

/// Entries that a lookup reads: 7 KiB. Of 25 million, memory then knows 200,000 places.
const BLOCK_ENTRIES: usize = 128;

/// Parts that were read, asked by many threads.
pub(super) struct Index {
    scratch: Scratch,
    parts: Vec<OnceLock<Blocks>>,
    warned: AtomicBool,
}

/// Where the entries of a part are: cut by what follows in an id, of which each block has as much.
type Blocks = Box<[Block]>;

impl Index {
    /// An index of so many parts, none of which was read yet.
    pub(super) fn new(scratch: Scratch, parts: usize) -> Self {
        Self { scratch, parts: (0..parts).map(|_| OnceLock::new()).collect(), warned: AtomicBool::new(false) }
    }

    #[cfg(test)]
    fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// Takes the entries of a part: those of its plaintext.
    pub(super) fn add(&self, number: usize, plain: &[u8], entries: &[TableEntry]) -> Result<()> {
        let mut blocks = vec![Block::default(); entries.len() / BLOCK_ENTRIES + 1];
        let place = |entry: &TableEntry| self.place(&entry.object.name.id, entries.len() / BLOCK_ENTRIES + 1);
        let mut rest = plain;
        for block in entries.chunk_by(|a, b| place(a) == place(b)) {
            let (bytes, after) = rest.split_at(block.len() * ENTRY_LEN_BYTES);
            blocks[place(&block[0])] = self.scratch.put(bytes)?;
            rest = after;
        }
        if let Some(part) = self.parts.get(number) {
            let _ = part.set(blocks.into());
        }
        Ok(())
    }

    /// The object that holds a chunk, as far as the index was read. All of the id is compared.
    pub(super) fn find(&self, id: &ChunkId) -> Option<ObjectRef> {
        let blocks = self.parts.get(LivePart::of(id, self.parts.len()).number)?.get()?;
        let block = blocks.get(self.place(id, blocks.len())).filter(|block| block.len_bytes() > 0)?;
        match self.scratch.get(block).and_then(|bytes| table::decode_all(&bytes)) {
            Ok(entries) => entries.iter().map(|entry| entry.object).find(|object| object.name.id == *id),
            Err(error) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!("what is stored already may be uploaded again: {error}");
                }
                None
            }
        }
    }

    /// Which of so many blocks of its part has an id, by the bits that its part's number does not have.
    fn place(&self, id: &ChunkId, blocks: usize) -> usize {
        let first = u64::from_be_bytes(std::array::from_fn(|at| id.0[at]));
        let bits = self.parts.len().trailing_zeros();
        let next = (first << bits) >> 32;
        ((next * blocks as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::live::{decode, in_order};
    use crate::format::names::{ContentKind, ContentName};
    use crate::repo::Cache;
    use crate::units::Generation;

    fn object(n: u32) -> ObjectRef {
        let id = ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        ObjectRef { name: ContentName::plain(Generation(n % 50), id), sealed_len_bytes: 100 + n }
    }

    /// The plaintext of a part of an index of so many chunks.
    fn part(number: usize, count: usize, chunks: u32) -> Vec<u8> {
        let of_part = |object: &ObjectRef| LivePart::of(&object.name.id, count).number == number;
        let entry = |object| TableEntry { kind: ContentKind::Chunk, object };
        table::encode(&in_order((0..chunks).map(object).filter(of_part).map(entry).collect()))
    }

    fn add(index: &Index, number: usize, plain: &[u8]) {
        let part = LivePart { number, count: index.part_count() };
        let entries = decode(plain, (plain.len() / ENTRY_LEN_BYTES) as u32, part).expect("good");
        index.add(number, plain, &entries).expect("room");
    }

    #[test]
    fn what_was_read_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        for (chunks, count) in [(0, 1), (1, 1), (1_000, 1), (1_000, 256), (30_000, 4)] {
            let index = Index::new(Cache::new(Some(dir.path()), &[1; 16]).scratch(), count);
            for read in [0, count / 2, count] {
                (0..read).for_each(|number| add(&index, number, &part(number, count, chunks)));
                for n in 0..chunks {
                    let object = object(n);
                    let is_read = LivePart::of(&object.name.id, count).number < read;
                    assert_eq!(index.find(&object.name.id), is_read.then_some(object), "{n} of {chunks}");
                    let mut other = object.name.id;
                    other.0[31] ^= 1;
                    assert_eq!(index.find(&other), None, "all of an id is compared");
                }
            }
        }
        assert_eq!(Index::new(Cache::new(None, &[1; 16]).scratch(), 0).find(&object(1).name.id), None);
    }

    #[test]
    fn what_the_disk_does_not_give_back_is_not_found() {
        let index = Index::new(Cache::new(None, &[1; 16]).scratch(), 1);
        add(&index, 0, &part(0, 1, 500));
        index.scratch.clear();
        assert_eq!(index.find(&object(7).name.id), None);
    }
}
