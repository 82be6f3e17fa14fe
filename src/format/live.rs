//! The live index: which full chunks there are, in the parts of a seal (repo-format.md §8.2).
//!
//! It has no part, or a power of two of them, and the first bits of an id are the number of its part: so whoever looks for an id knows where it
//! would be, and each part has its share of all, wherever that was referenced.

use crate::error::Result;
use crate::format::envelope::damaged;
use crate::format::names::{ContentKind, ContentName};
use crate::format::table::{self, TableEntry};
use crate::units::ChunkId;

/// Most parts (§3): a part has at least all ids of one first byte.
pub const LIVE_PARTS_MAX: usize = 256;

/// One of the parts that a live index has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivePart {
    /// Counted from 0.
    pub number: usize,
    /// Of how many, a power of two.
    pub count: usize,
}

impl LivePart {
    /// The part that has an id, of as many as [`check_count`] lets pass.
    pub fn of(id: &ChunkId, count: usize) -> Self {
        Self { number: usize::from(id.0[0]) * count / LIVE_PARTS_MAX, count }
    }
}

/// Refuses a number of parts that no index has.
///
/// # Errors
/// `Corrupt`.
pub fn check_count(count: usize) -> Result<()> {
    if count == 0 || (count.is_power_of_two() && count <= LIVE_PARTS_MAX) {
        return Ok(());
    }
    Err(damaged(format!(
        "a live index of {count} parts, expected 0 or a power of two up to {LIVE_PARTS_MAX}"
    )))
}

/// Puts the entries of a part in their order. Of one id the newest generation stays.
pub fn in_order(mut entries: Vec<TableEntry>) -> Vec<TableEntry> {
    let order = |entry: &TableEntry| (entry.object.name.id, std::cmp::Reverse(entry.object.name.generation));
    entries.sort_unstable_by_key(order);
    entries.dedup_by_key(|entry| entry.object.name.id);
    entries
}

/// Reads a part that must have so many entries, ascending by id.
///
/// # Errors
/// `Corrupt` where it is no such part.
pub fn decode(bytes: &[u8], entries: u32, part: LivePart) -> Result<Vec<TableEntry>> {
    let entries = table::decode(bytes, entries)?;
    let LivePart { number, count } = part;
    let is_plain = |entry: &TableEntry| {
        let ContentName { generation, id, .. } = entry.object.name;
        entry.kind == ContentKind::Chunk && entry.object.name == ContentName::plain(generation, id)
    };
    if let Some(other) = entries.iter().find(|entry| !is_plain(entry)) {
        return Err(damaged(format!(
            "a live index names {:?} {}, expected full chunks",
            other.kind, other.object.name
        )));
    }
    if let Some(two) = entries.windows(2).find(|two| two[0].object.name.id >= two[1].object.name.id) {
        return Err(damaged(format!(
            "a live index has {} before {}",
            two[0].object.name.id, two[1].object.name.id
        )));
    }
    match entries.iter().find(|entry| LivePart::of(&entry.object.name.id, count) != part) {
        None => Ok(entries),
        Some(other) => {
            Err(damaged(format!("part {number} of {count} of a live index has {}", other.object.name.id)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::page::ObjectRef;
    use crate::units::Generation;

    fn entry(first: u8, rest: u8, generation: u32) -> TableEntry {
        let mut id = [rest; 32];
        id[0] = first;
        let name = ContentName::plain(Generation(generation), ChunkId(id));
        TableEntry { kind: ContentKind::Chunk, object: ObjectRef { name, sealed_len_bytes: 200 } }
    }

    fn part(number: usize, count: usize) -> LivePart {
        LivePart { number, count }
    }

    #[test]
    fn a_part_holds_what_was_put_in_once_by_the_newest_generation() {
        let entries =
            in_order(vec![entry(0x81, 2, 7), entry(0x80, 9, 3), entry(0x81, 2, 9), entry(0xff, 1, 3)]);
        assert_eq!(entries, [entry(0x80, 9, 3), entry(0x81, 2, 9), entry(0xff, 1, 3)]);
        let bytes = table::encode(&entries);
        assert_eq!(decode(&bytes, 3, part(1, 2)).expect("good"), entries);
        assert!(decode(&[], 0, part(3, 4)).expect("good").is_empty());
    }

    #[test]
    fn what_is_not_as_it_is_written_is_refused() {
        let refused = |entries: &[TableEntry], count, part| {
            decode(&table::encode(entries), count, part).map_or_else(|e| e.to_string(), |_| String::new())
        };
        let good = [entry(0x80, 1, 3), entry(0x81, 2, 7)];
        assert!(refused(&good, 2, part(0, 1)).is_empty() && refused(&good, 2, part(1, 2)).is_empty());
        assert!(refused(&good, 2, part(0, 2)).contains("part 0 of 2 of a live index has 80"));
        assert!(refused(&good, 1, part(0, 1)).contains("expected 1 entries"));
        assert!(refused(&good, u32::MAX, part(0, 1)).contains("expected 4294967295 entries"));
        assert!(refused(&[good[1], good[0]], 2, part(0, 1)).contains("before"));
        assert!(refused(&[good[0], good[0]], 2, part(0, 1)).contains("before"), "one id twice");
        let page = TableEntry { kind: ContentKind::Page, ..good[0] };
        assert!(refused(&[page], 1, part(0, 1)).contains("expected full chunks"));
        let mut variant = good[0];
        variant.object.name.variant = 5;
        assert!(refused(&[variant], 1, part(0, 1)).contains("expected full chunks"));
    }

    #[test]
    fn parts_are_a_power_of_two_and_follow_from_the_first_bits() {
        assert!([0, 1, 2, 64, 256].iter().all(|count| check_count(*count).is_ok()));
        assert!([3, 255, 257, 512, usize::MAX].iter().all(|count| check_count(*count).is_err()));
        let id = ChunkId([0b1010_0000; 32]);
        assert_eq!([1, 2, 8, 256].map(|count| LivePart::of(&id, count).number), [0, 1, 0b101, 0b1010_0000]);
    }
}
