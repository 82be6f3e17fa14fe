//! Tables of chunks, pages and bundles in the parts of a prune round: the live index and what is deleted (repo-format.md §8.2).

use crate::error::Result;
use crate::format::GC_PART_LEN_BYTES_MAX;
use crate::format::envelope::damaged;
use crate::format::names::ContentKind;
use crate::format::page::{ObjectRef, REF_LEN_BYTES, one_object, put_object};

/// Length of an entry: a kind, padding, and a ref.
pub const ENTRY_LEN_BYTES: usize = 8 + REF_LEN_BYTES;
/// Entries that fit into one part.
pub const ENTRIES_PER_PART_MAX: usize = GC_PART_LEN_BYTES_MAX / ENTRY_LEN_BYTES;
/// Condemned prefixes that fit into one part.
pub const PREFIXES_PER_PART_MAX: usize = GC_PART_LEN_BYTES_MAX / 8;

/// A stored chunk, page or bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableEntry {
    /// What is stored there.
    pub kind: ContentKind,
    /// Its name, never that of a piece, and its size.
    pub object: ObjectRef,
}

/// The plaintext of a part; the caller keeps to [`ENTRIES_PER_PART_MAX`].
pub fn encode(entries: &[TableEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * ENTRY_LEN_BYTES);
    for entry in entries {
        let kind = match entry.kind {
            ContentKind::Chunk => 0,
            ContentKind::Page => 1,
            ContentKind::Bundle => 2,
        };
        out.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        put_object(&mut out, &entry.object);
        out.extend([0; 4]);
    }
    out
}

/// Reads as many entries as the bytes have.
pub fn decode_all(bytes: &[u8]) -> Result<Vec<TableEntry>> {
    decode(bytes, (bytes.len() / ENTRY_LEN_BYTES) as u32)
}

/// Reads a part that must have so many entries.
pub fn decode(bytes: &[u8], entries: u32) -> Result<Vec<TableEntry>> {
    let (found, rest) = bytes.as_chunks::<ENTRY_LEN_BYTES>();
    if !rest.is_empty() || found.len() != entries as usize {
        return Err(damaged(format!(
            "a table of {} bytes, expected {entries} entries of {ENTRY_LEN_BYTES}",
            bytes.len()
        )));
    }
    found.iter().map(one_entry).collect()
}

fn one_entry(entry: &[u8; ENTRY_LEN_BYTES]) -> Result<TableEntry> {
    let (head, object) = entry.split_at(8);
    let kind = match head {
        [0, 0, 0, 0, 0, 0, 0, 0] => ContentKind::Chunk,
        [1, 0, 0, 0, 0, 0, 0, 0] => ContentKind::Page,
        [2, 0, 0, 0, 0, 0, 0, 0] => ContentKind::Bundle,
        other => return Err(damaged(format!("a table's entry begins with {other:02x?}"))),
    };
    let (object, end) = object.split_at(REF_LEN_BYTES - 4);
    if end != [0; 4] {
        return Err(damaged(format!("a table's entry ends with {end:02x?}")));
    }
    one_object(object).map(|object| TableEntry { kind, object })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::names::ContentName;
    use crate::units::{ChunkId, Generation};

    fn entry(n: u8, kind: ContentKind) -> TableEntry {
        let name = ContentName {
            generation: Generation(3),
            id: ChunkId([n; 32]),
            variant: u32::from(n),
            offset_bytes: None,
        };
        TableEntry { kind, object: ObjectRef { name, sealed_len_bytes: 200 } }
    }

    #[test]
    fn a_table_holds_what_was_put_in_in_its_order() {
        let table = [entry(2, ContentKind::Page), entry(1, ContentKind::Chunk), entry(9, ContentKind::Page)];
        assert_eq!(decode(&encode(&table), 3).expect("good"), table);
        assert_eq!(encode(&table).len(), 3 * ENTRY_LEN_BYTES);
    }

    #[test]
    fn whatever_is_changed_in_it_is_refused_or_another_entry() {
        let table = [entry(2, ContentKind::Page)];
        let bytes = encode(&table);
        assert!(decode(&bytes, 2).is_err() && decode(&bytes[1..], 1).is_err());
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x80;
            match decode(&bytes, 1) {
                Ok(other) => assert_eq!(encode(&other), bytes, "byte {at}"),
                Err(_) => assert!(!(8..48).contains(&at), "byte {at}"),
            }
        }
    }
}
