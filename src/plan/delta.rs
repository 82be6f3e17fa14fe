//! Whether a chunk is stored as the difference from what was in its place before.
//!
//! A delta saves an upload and costs every reader its base. So chains are bounded in depth and in bytes, and a delta
//! must be well under what the full object would be. Where possible that is seen without compressing twice.

use crate::format::CLOSURE_LEN_MAX;
use crate::format::page::{ObjectRef, PageRef};

/// A delta of at most this part of the full object's estimated size is kept without making the full one.
const SURE_DIVISOR: u64 = 4;
/// Otherwise both are made, and the delta is kept if it is at most this part of the full object.
const WELL_UNDER_DIVISOR: u64 = 2;
/// The deltas of a chain together are at most this part of the full object at its end, so a reader fetches at most one
/// and a half times what a full object would be.
const CHAIN_DIVISOR: u64 = 2;
/// No delta is tried when less than this part of what is not zero stands as it was.
const UNCHANGED_DIVISOR: u64 = 4;
/// Two plaintexts are held against each other in units of so many bytes: smaller than what a file system writes, as
/// many small changes make a small delta, too.
const UNIT_BYTES: usize = 256;

/// What a delta would stand on: a stored chunk with its closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// From the direct base to the full object: the closure of a delta made on it.
    closure: Vec<ObjectRef>,
    /// Objects of the chain that are deltas, together.
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
    Keep,
    /// Make the full object, too, and ask [`is_well_under`].
    Compare,
    Refuse,
}

impl Chain {
    /// The chain that ends at this chunk. `None` where nothing is stored or where one more would be too many: in depth,
    /// of which the repository allows `depth_max`, or in bytes.
    pub fn below(chunk: &PageRef, depth_max: u8) -> Option<Self> {
        let closure: Vec<ObjectRef> = chunk.objects().copied().collect();
        let (full, deltas) = closure.split_last()?;
        let full_bytes = u64::from(full.sealed_len_bytes);
        let delta_bytes = deltas.iter().map(|o| u64::from(o.sealed_len_bytes)).sum();
        let fits = closure.len() <= usize::from(depth_max).min(CLOSURE_LEN_MAX);
        (fits && delta_bytes < full_bytes / CHAIN_DIVISOR).then_some(Self {
            closure,
            delta_bytes,
            full_bytes,
        })
    }

    /// The direct base.
    pub fn base(&self) -> Option<&ObjectRef> {
        self.closure.first()
    }

    /// Objects below a delta that is made on this chain.
    pub fn depth(&self) -> u8 {
        self.closure.len() as u8
    }

    /// The ref of a delta that was made on this chain.
    pub fn extended_by(&self, object: ObjectRef) -> PageRef {
        PageRef::Stored { object, closure: self.closure.clone() }
    }

    /// What to make of a delta of so many bytes, as an object.
    pub fn judge(&self, delta_bytes: u64, likeness: Likeness) -> Verdict {
        if self.delta_bytes + delta_bytes > self.full_bytes / CHAIN_DIVISOR {
            return Verdict::Refuse;
        }
        // What was trimmed since makes the full object smaller than the one at the chain's end.
        let estimate = match likeness.base_filled {
            0 => self.full_bytes,
            base => self.full_bytes * likeness.filled.min(base) / base,
        };
        if delta_bytes <= estimate / SURE_DIVISOR { Verdict::Keep } else { Verdict::Compare }
    }
}

/// Whether a delta is so much smaller than the full object that it is worth its base.
pub fn is_well_under(delta_bytes: u64, full_bytes: u64) -> bool {
    delta_bytes <= full_bytes / WELL_UNDER_DIVISOR
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
    use crate::units::{ChunkId, Generation};

    fn chunk(sizes: &[u32]) -> PageRef {
        let object = |(n, size): (usize, &u32)| ObjectRef {
            name: ContentName { generation: Generation(0), id: ChunkId([n as u8 + 1; 32]), variant: 0 },
            sealed_len_bytes: *size,
        };
        let mut objects = sizes.iter().enumerate().map(object);
        match objects.next() {
            None => PageRef::Zero,
            Some(object) => PageRef::Stored { object, closure: objects.collect() },
        }
    }

    #[test]
    fn chains_are_bounded_in_depth_and_bytes() {
        for (what, sizes, depth_max, expected) in [
            ("zeros", &[][..], 7, None),
            ("no deltas", &[1000], 0, None),
            ("a full object", &[1000], 1, Some(1)),
            ("as deep as allowed", &[100, 1000], 1, None),
            ("one more", &[100, 1000], 2, Some(2)),
            ("too many bytes", &[300, 200, 1000], 7, None),
            ("nearly too many", &[300, 199, 1000], 7, Some(3)),
            ("more than any repository allows", &[2; 16], 255, None),
        ] {
            let chain = Chain::below(&chunk(sizes), depth_max);
            assert_eq!(chain.as_ref().map(Chain::depth), expected, "{what}");
        }
        let longest: Vec<u32> = [vec![1; 14], vec![1000]].concat();
        assert_eq!(Chain::below(&chunk(&longest), 255).map(|c| c.depth()), Some(15));
    }

    #[test]
    fn a_delta_is_made_on_the_whole_chain() {
        let below = chunk(&[100, 200, 1000]);
        let chain = Chain::below(&below, 7).expect("room");
        let object = ObjectRef { sealed_len_bytes: 5, ..*chain.base().expect("a base") };
        let extended = chain.extended_by(object);
        assert_eq!(extended.object(), Some(&object));
        assert!(extended.objects().skip(1).eq(below.objects()));
    }

    #[test]
    fn sizes_are_judged() {
        let chain = Chain::below(&chunk(&[100, 1000]), 7).expect("room");
        let full = Likeness { filled: 16, unchanged: 15, base_filled: 16 };
        let trimmed = Likeness { filled: 4, ..full };
        for (what, delta, likeness, expected) in [
            ("a small one", 250, full, Verdict::Keep),
            ("a larger one", 251, full, Verdict::Compare),
            ("the chain's share", 400, full, Verdict::Compare),
            ("over the chain's share", 401, full, Verdict::Refuse),
            ("a quarter is left", 62, trimmed, Verdict::Keep),
            ("a quarter is left, more", 63, trimmed, Verdict::Compare),
            ("filled up", 250, Likeness { base_filled: 1, ..full }, Verdict::Keep),
            ("nothing to go by", 250, Likeness { base_filled: 0, ..full }, Verdict::Keep),
        ] {
            assert_eq!(chain.judge(delta, likeness), expected, "{what}");
        }
        assert!(is_well_under(500, 1000) && !is_well_under(501, 1000));
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
