//! Whether a chunk is stored as the difference from what was in its place before, and on which object of what was there.
//!
//! A delta saves an upload and costs every reader its base. So chains are bounded in depth and in bytes, and a delta
//! must be well under what the full object would be. Where possible that is seen without compressing twice.
//!
//! A chain that is as deep as allowed does not end in a full object: the newest deltas are joined with the new one, which
//! then stands on what they stood on. Deltas of many nights so lie low in the chain and are few, those of one night on top.

use crate::format::CLOSURE_LEN_MAX;
use crate::format::page::{ObjectRef, PageRef};
use crate::units::ChunkId;

/// A delta of at most this part of the full object's estimated size is kept without making the full one.
const SURE_DIVISOR: u64 = 4;
/// Otherwise both are made, and the delta is kept if it is at most this part of the full object.
const WELL_UNDER_DIVISOR: u64 = 2;
/// What a reader of a chain fetches is at most so many times the full object at its end, or the one that would be made now.
const CHAIN_FACTOR: u64 = 2;
/// Of the ways to join, the one that joins most is taken among those whose bytes for each link that goes are at most this
/// part, in per cent, of the cheapest way's. Sizes of nights that are about alike are so taken for equal.
const ALIKE_PER_CENT: u64 = 150;
/// No delta is tried when less than this part of what is not zero stands as it was.
const UNCHANGED_DIVISOR: u64 = 4;
/// Two plaintexts are held against each other in units of so many bytes: smaller than what a file system writes, as
/// many small changes make a small delta, too.
const UNIT_BYTES: usize = 256;

/// What a delta would stand on: a stored chunk with its closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Of the content that the new one is compared with.
    top_id: ChunkId,
    /// From the direct base to the full object: the closure of a delta made on it.
    closure: Vec<ObjectRef>,
    /// The deltas above the base that the new one takes in, from the newest on.
    joined: Vec<ObjectRef>,
    /// Objects of the closure that are deltas, together.
    delta_bytes: u64,
    /// The full object.
    full_bytes: u64,
}

/// How much of a chunk is as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Likeness {
    /// Units of the chunk that are not zero.
    pub filled: u64,
    /// Of those, the units that its base has in the same place.
    pub unchanged: u64,
    /// Units of the base that are not zero.
    pub base_filled: u64,
}

/// What to make of a delta's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The delta is small enough.
    Keep,
    /// Make the full object, too, and ask [`Chain::is_well_under`].
    Compare,
}

impl Chain {
    /// What a delta on this chunk's content would stand on, where a repository allows chains of `depth_max`. `None` where
    /// nothing is stored, and where what had to be joined is more than a full object.
    pub fn below(chunk: &PageRef, depth_max: u8) -> Option<Self> {
        let top_id = chunk.id()?;
        let mut joined: Vec<ObjectRef> = chunk.objects().copied().collect();
        let (full, deltas) = joined.split_last()?;
        let full_bytes = u64::from(full.sealed_len_bytes);
        let sizes: Vec<u64> = deltas.iter().map(|o| u64::from(o.sealed_len_bytes)).collect();
        let room = usize::from(depth_max).min(CLOSURE_LEN_MAX).checked_sub(1)?;
        let count = match sizes.len().checked_sub(room) {
            None | Some(0) => 0,
            Some(count_min) => join_count(&sizes, count_min),
        };
        let (above, below) = sizes.split_at_checked(count)?;
        let closure = joined.split_off(count);
        (above.iter().sum::<u64>() <= full_bytes).then(|| Self {
            top_id,
            closure,
            joined,
            delta_bytes: below.iter().sum(),
            full_bytes,
        })
    }

    /// The content that the new one is compared with.
    pub fn top_id(&self) -> ChunkId {
        self.top_id
    }

    /// What a delta on this chain needs: from its direct base to the full object.
    pub fn closure(&self) -> &[ObjectRef] {
        &self.closure
    }

    /// The deltas between the base and the top, which the new one takes in: the top first.
    pub fn joined(&self) -> &[ObjectRef] {
        &self.joined
    }

    /// Objects below a delta that is made on this chain.
    pub fn depth(&self) -> u8 {
        self.closure.len() as u8
    }

    /// Objects below the delta at that place of [`joined`](Self::joined).
    pub fn depth_under(&self, place: usize) -> Option<u8> {
        let depth = (self.joined.len() + self.closure.len()).checked_sub(place + 1)?;
        u8::try_from(depth).ok()
    }

    /// What to make of a delta of so many bytes, as an object.
    pub fn judge(&self, delta_bytes: u64, likeness: Likeness) -> Verdict {
        // What was trimmed since makes the full object smaller than the one at the chain's end.
        let estimate = match likeness.base_filled {
            0 => self.full_bytes,
            base => self.full_bytes * likeness.filled.min(base) / base,
        };
        let estimate = estimate.min(likeness.filled * UNIT_BYTES as u64);
        let sure =
            delta_bytes <= estimate / SURE_DIVISOR && self.is_worth_fetching(delta_bytes, self.full_bytes);
        if sure { Verdict::Keep } else { Verdict::Compare }
    }

    /// Whether a delta is so much smaller than the full object that it is worth its chain.
    pub fn is_well_under(&self, delta_bytes: u64, full_bytes: u64) -> bool {
        delta_bytes <= full_bytes / WELL_UNDER_DIVISOR && self.is_worth_fetching(delta_bytes, full_bytes)
    }

    fn is_worth_fetching(&self, delta_bytes: u64, full_bytes: u64) -> bool {
        self.full_bytes + self.delta_bytes + delta_bytes <= CHAIN_FACTOR * full_bytes.max(self.full_bytes)
    }
}

/// How many of the newest deltas to join, at least `count_min` of them; `sizes` are in bytes from the newest on.
///
/// Joining writes the joined deltas' bytes once more, and makes room for as many nights as links go.
fn join_count(sizes: &[u64], count_min: usize) -> usize {
    let ways = || {
        let total = sizes.iter().scan(0, |total, size| {
            *total += size;
            Some(*total)
        });
        (1..).zip(total).skip(count_min - 1).map(|(count, total): (u64, u64)| (count, total / count))
    };
    let Some(cheapest) = ways().map(|(_, each)| each).min() else { return count_min };
    let alike = ways().filter(|(_, each)| each * 100 <= cheapest * ALIKE_PER_CENT);
    alike.map(|(count, _)| count as usize).max().unwrap_or(count_min)
}

impl Likeness {
    /// Holds two plaintexts of one length against each other, place by place.
    pub fn of(plain: &[u8], base: &[u8]) -> Self {
        const ZEROS: [u8; UNIT_BYTES] = [0; UNIT_BYTES];
        let mut out = Self::default();
        for (now, then) in plain.chunks(UNIT_BYTES).zip(base.chunks(UNIT_BYTES)) {
            let filled = now != &ZEROS[..now.len()];
            let unchanged = now == then;
            let base_filled = if unchanged { filled } else { then != &ZEROS[..then.len()] };
            out.filled += u64::from(filled);
            out.unchanged += u64::from(filled && unchanged);
            out.base_filled += u64::from(base_filled);
        }
        out
    }

    /// Whether a delta may come to anything.
    pub fn is_worth_a_try(&self) -> bool {
        self.unchanged > 0 && self.unchanged >= self.filled / UNCHANGED_DIVISOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::names::ContentName;
    use crate::units::Generation;

    fn chunk(sizes: &[u32]) -> PageRef {
        let object = |(n, size): (usize, &u32)| ObjectRef {
            name: ContentName::plain(Generation(0), ChunkId([n as u8 + 1; 32])),
            sealed_len_bytes: *size,
        };
        let mut objects = sizes.iter().enumerate().map(object);
        match objects.next() {
            None => PageRef::Zero,
            Some(object) => PageRef::Stored { id: object.name.id, object, closure: objects.collect() },
        }
    }

    #[test]
    fn a_chain_that_is_full_is_joined() {
        const AS_DEEP_AS_IT_GETS: [u32; 16] = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1000];
        for (what, sizes, depth_max, expected) in [
            ("zeros", &[][..], 7, None),
            ("no deltas", &[1000], 0, None),
            ("a full object", &[1000], 1, Some((0, 1))),
            ("as deep as allowed", &[100, 1000], 1, Some((1, 1))),
            ("one more", &[100, 1000], 2, Some((0, 2))),
            ("deeper than allowed now", &[100, 10, 100, 100, 1000], 2, Some((4, 1))),
            ("no deltas any more", &[100, 100, 1000], 0, None),
            ("more to join than a full object", &[600, 500, 1000], 1, None),
            ("as deep as any repository allows", &AS_DEEP_AS_IT_GETS, 255, Some((15, 1))),
        ] {
            let chain = Chain::below(&chunk(sizes), depth_max);
            let found = chain.as_ref().map(|c| (c.joined().len(), c.depth()));
            assert_eq!(found, expected, "{what}");
            let whole = chain.map(|c| [c.joined, c.closure].concat()).unwrap_or_default();
            assert!(whole.is_empty() || whole.iter().eq(chunk(sizes).objects()), "{what}");
        }
    }

    #[test]
    fn what_was_joined_before_is_joined_last() {
        for (what, sizes, count_min, expected) in [
            ("alike", &[10, 11, 9, 10, 12, 10, 8][..], 1, 7),
            ("nights on what is joined already", &[10, 11, 9, 10, 12, 10, 80], 1, 6),
            ("two levels", &[10, 11, 9, 70, 80], 1, 3),
            ("one night on a joined one", &[10, 80, 80], 1, 1),
            ("a large night on small ones", &[80, 10, 10, 10], 1, 4),
            ("all levels are full", &[20, 30, 40, 50, 60, 70, 80], 1, 3),
            ("more must go", &[10, 80, 80], 2, 3),
            ("only one", &[10], 1, 1),
        ] {
            assert_eq!(join_count(sizes, count_min), expected, "{what}");
        }
    }

    /// Thirty nights and many, as many bytes each: what is written more than once, and how deep it gets.
    #[test]
    fn joining_costs_little() {
        for (depth_max, nights, written_max) in
            [(7, 30, 55), (7, 90, 260), (4, 30, 80), (15, 30, 45), (1, 30, 465)]
        {
            let mut newest = chunk(&[1_000_000]);
            let mut written = 0;
            for night in 0..nights {
                let chain = Chain::below(&newest, depth_max).expect("room");
                let joined: u32 = chain.joined().iter().map(|o| o.sealed_len_bytes).sum();
                let name = ContentName::plain(Generation(0), ChunkId([night; 32]));
                let object = ObjectRef { name, sealed_len_bytes: 100 + joined };
                written += u64::from(object.sealed_len_bytes);
                newest = PageRef::Stored { id: name.id, object, closure: chain.closure().to_vec() };
                assert!(newest.objects().count() <= usize::from(depth_max) + 1);
                let total: u32 = newest.objects().map(|o| o.sealed_len_bytes).sum();
                assert_eq!(
                    total,
                    1_000_000 + 100 * (u32::from(night) + 1),
                    "nothing is lost or fetched twice"
                );
            }
            assert!(written <= written_max * 100, "{depth_max} deep, {nights} nights: {written} bytes");
        }
    }

    #[test]
    fn a_delta_is_made_on_what_is_not_joined() {
        let below = chunk(&[100, 200, 1000]);
        for (depth_max, joined) in [(7, 0), (2, 2), (1, 2)] {
            let chain = Chain::below(&below, depth_max).expect("room");
            assert_eq!(Some(chain.top_id()), below.id());
            assert!(chain.closure().iter().eq(below.objects().skip(joined)));
            let under: Vec<_> = (0..joined).filter_map(|place| chain.depth_under(place)).collect();
            let all: Vec<u8> = (1..3).rev().collect();
            assert_eq!(under, all[..joined], "{depth_max}");
        }
    }

    #[test]
    fn sizes_are_judged() {
        let chain = Chain::below(&chunk(&[500, 100_000]), 7).expect("room");
        let full = Likeness { filled: 1600, unchanged: 1500, base_filled: 1600 };
        let trimmed = Likeness { filled: 900, ..full };
        for (what, delta, likeness, expected) in [
            ("a small one", 25_000, full, Verdict::Keep),
            ("a larger one", 25_001, full, Verdict::Compare),
            ("half is left", 14_062, trimmed, Verdict::Keep),
            ("half is left, more", 14_063, trimmed, Verdict::Compare),
            (
                "a little is left, well packed",
                2048,
                Likeness { filled: 32, base_filled: 32, ..full },
                Verdict::Keep,
            ),
            (
                "a little is left, more",
                2049,
                Likeness { filled: 32, base_filled: 32, ..full },
                Verdict::Compare,
            ),
            ("filled up", 25_000, Likeness { base_filled: 1, ..full }, Verdict::Keep),
            ("nothing to go by", 25_000, Likeness { base_filled: 0, ..full }, Verdict::Keep),
        ] {
            assert_eq!(chain.judge(delta, likeness), expected, "{what}");
        }
        for (what, delta, full, expected) in [
            ("half", 50_000, 100_000, true),
            ("more than half", 50_001, 100_000, false),
            ("half of little", 20_000, 40_000, true),
            ("as much as a reader should fetch", 99_500, 200_000, true),
            ("more than a reader should fetch, of a small end", 99_501, 199_000, false),
        ] {
            assert_eq!(chain.is_well_under(delta, full), expected, "{what}");
        }
    }

    #[test]
    fn likeness_counts_what_is_not_zero() {
        const U: usize = UNIT_BYTES;
        let base = [vec![1; U], vec![2; U], vec![0; U], vec![3; U], vec![4; 7]].concat();
        let now = [vec![1; U], vec![0; U], vec![0; U], vec![9; U], vec![4; 7]].concat();
        let likeness = Likeness::of(&now, &base);
        assert_eq!(likeness, Likeness { filled: 3, unchanged: 2, base_filled: 4 });
        assert!(likeness.is_worth_a_try());
        assert!(!Likeness { filled: 8, unchanged: 1, base_filled: 8 }.is_worth_a_try());
        assert!(!Likeness { filled: 1, unchanged: 0, base_filled: 1 }.is_worth_a_try());
    }
}
