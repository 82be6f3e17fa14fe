//! Which chunks and pages are referenced: 64-bit fingerprints of their names, within bounded memory.
//!
//! A fingerprint that two names share keeps garbage alive until a later round; it never lets go of anything.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use crate::format::names::ContentName;

/// Marks kept at once. A table of 2^25 places of 9 bytes holds them at its usual load: 300 MiB.
pub const MARKS_MAX: usize = (1 << 25) / 8 * 7;
/// Values of an id's first byte, by which the names are cut into ranges.
const FIRST_BYTES: u16 = 256;
const LOW_BITS: u64 = u64::MAX >> 8;

/// The fingerprints are spread well already: ids are keyed hashes.
#[derive(Debug, Clone, Copy, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, n: u64) {
        // The top byte alone is the same for all of a narrow range.
        self.0 = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// What was found referenced, of names whose ids begin with a byte of one range. When there are too many, the upper half
/// of the range is dropped, for another pass.
#[derive(Debug)]
pub struct Marks {
    set: HashSet<u64, BuildHasherDefault<Spread>>,
    first_bytes: Range<u16>,
    marks_max: usize,
}

impl Marks {
    /// No marks, over all names.
    pub fn new(marks_max: usize) -> Self {
        Self { set: HashSet::default(), first_bytes: 0..FIRST_BYTES, marks_max: marks_max.max(1) }
    }

    /// The first bytes of the ids that these marks tell about.
    pub fn first_bytes(&self) -> Range<u16> {
        self.first_bytes.clone()
    }

    /// Whether they tell about every name.
    pub fn is_complete(&self) -> bool {
        self.first_bytes == (0..FIRST_BYTES)
    }

    /// Begins the pass over what was dropped. False when there is nothing left.
    pub fn next_range(&mut self) -> bool {
        self.restart_at(self.first_bytes.end)
    }

    /// Begins anew, over all names.
    pub fn restart(&mut self) {
        self.restart_at(0);
    }

    fn restart_at(&mut self, first: u16) -> bool {
        self.set.clear();
        self.first_bytes = first..FIRST_BYTES;
        !self.first_bytes.is_empty()
    }

    /// Whether a name is in the range that these marks tell about.
    pub fn covers(&self, name: &ContentName) -> bool {
        self.first_bytes.contains(&u16::from(name.id.0[0]))
    }

    /// Marks a name. True when it is in the range and was not marked before.
    pub fn insert(&mut self, name: &ContentName) -> bool {
        if !self.covers(name) || !self.set.insert(fingerprint(name)) {
            return false;
        }
        while self.set.len() > self.marks_max && self.first_bytes.len() > 1 {
            self.shrink();
        }
        self.covers(name)
    }

    /// Whether a name of the range is marked.
    pub fn contains(&self, name: &ContentName) -> bool {
        self.set.contains(&fingerprint(name))
    }

    /// A copy of the fingerprints, to find out which of them no listing shows.
    pub fn fingerprints(&self) -> HashSet<u64> {
        self.set.iter().copied().collect()
    }

    /// Number of marks kept now.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether no name of the range is marked.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Drops the upper half of the range. One of a single byte cannot be halved: then there are more marks than there
    /// should be.
    fn shrink(&mut self) {
        let half = self.first_bytes.len() / 2;
        self.first_bytes.end = self.first_bytes.start + half as u16;
        let range = self.first_bytes.clone();
        self.set.retain(|mark| range.contains(&((mark >> 56) as u16)));
    }
}

/// The first byte of the id, then the next seven mixed with generation and variant.
pub fn fingerprint(name: &ContentName) -> u64 {
    let id = u64::from_be_bytes(std::array::from_fn(|i| name.id.0[i]));
    let rest = u64::from(name.generation.0) << 32 | u64::from(name.variant);
    id ^ (mix(rest) & LOW_BITS)
}

/// SplitMix64's finish; 0 stays 0.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{any, proptest};
    use proptest::{collection, prop_assert, prop_assert_eq};

    use super::*;
    use crate::units::{ChunkId, Generation};

    fn name((id, generation, variant): (u16, u8, u8)) -> ContentName {
        let bytes = id.to_le_bytes();
        let id = ChunkId(std::array::from_fn(|i| bytes[i % 2]));
        ContentName {
            id,
            generation: Generation(generation.into()),
            variant: variant.into(),
            offset_bytes: None,
        }
    }

    proptest! {
        #[test]
        fn all_passes_together_know_each_name_and_no_other(
            marked in collection::btree_set(any::<(u16, u8, u8)>(), 0..300),
            others in collection::btree_set(any::<(u16, u8, u8)>(), 0..100),
            marks_max in 1usize..400,
        ) {
            let mut marks = Marks::new(marks_max);
            let mut seen = BTreeSet::new();
            let mut asked = 0;
            loop {
                for name in marked.iter().copied().map(name) {
                    marks.insert(&name);
                    prop_assert!(marks.len() <= marks_max || marks.first_bytes().len() == 1);
                }
                for n in marked.iter().chain(&others).filter(|n| marks.covers(&name(**n))) {
                    asked += 1;
                    prop_assert_eq!(marks.contains(&name(*n)), marked.contains(n), "{:?}", n);
                    seen.insert(*n);
                }
                if !marks.next_range() {
                    break;
                }
            }
            prop_assert_eq!(seen.len(), marked.union(&others).count());
            prop_assert!(asked >= seen.len());
        }
    }

    #[test]
    fn generation_and_variant_tell_names_apart() {
        let mut marks = Marks::new(10);
        assert!(marks.insert(&name((1, 2, 3))) && !marks.insert(&name((1, 2, 3))));
        for other in [(1, 2, 4), (1, 3, 3), (1, 3, 2), (2, 2, 3), (1, 0, 0)] {
            assert!(!marks.contains(&name(other)), "{other:?}");
        }
    }
}
