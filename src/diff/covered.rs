//! Which ranges of a diff were seen already, to find overlaps with bounded memory.

use std::collections::BTreeMap;
use std::ops::Range;

/// Most disjoint ranges that a reader remembers of one diff: about 8 MiB of memory.
///
/// Beyond it the lower half is forgotten: what starts below the forgotten part's end can no longer be told from an
/// overlap and is refused. Streams in ascending order, which is what Ceph writes, are never refused for it.
pub const COVERED_RANGES_MAX: usize = 1 << 18;

/// Why a range cannot be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Clash {
    /// It overlaps this one.
    Overlap(Range<u64>),
    /// It begins below this offset, where the ranges seen were forgotten.
    Forgotten { below_bytes: u64 },
}

/// A set of disjoint ranges; neighbours that touch are one.
#[derive(Debug)]
pub(super) struct Covered {
    ranges: BTreeMap<u64, u64>,
    ranges_max: usize,
    floor_bytes: u64,
}

impl Covered {
    pub(super) fn new() -> Self {
        Self::with_max(COVERED_RANGES_MAX)
    }

    pub(super) fn with_max(ranges_max: usize) -> Self {
        Self { ranges: BTreeMap::new(), ranges_max, floor_bytes: 0 }
    }

    /// Adds a range that is not empty, or says what it clashes with.
    pub(super) fn add(&mut self, range: Range<u64>) -> Result<(), Clash> {
        if range.start < self.floor_bytes {
            return Err(Clash::Forgotten { below_bytes: self.floor_bytes });
        }
        let before = self.ranges.range(..=range.start).next_back().map(|(&s, &e)| s..e);
        let after = self.ranges.range(range.start..).next().map(|(&s, &e)| s..e);
        if let Some(before) = before.clone().filter(|b| b.end > range.start) {
            return Err(Clash::Overlap(before));
        }
        if let Some(after) = after.clone().filter(|a| a.start < range.end) {
            return Err(Clash::Overlap(after));
        }
        let mut joined = range;
        if let Some(before) = before.filter(|b| b.end == joined.start) {
            joined.start = before.start;
        }
        if let Some(after) = after.filter(|a| a.start == joined.end) {
            self.ranges.remove(&after.start);
            joined.end = after.end;
        }
        self.ranges.insert(joined.start, joined.end);
        if self.ranges.len() > self.ranges_max {
            self.forget_lower_half();
        }
        Ok(())
    }

    fn forget_lower_half(&mut self) {
        let Some(&first_kept) = self.ranges.keys().nth(self.ranges.len() / 2) else { return };
        let kept = self.ranges.split_off(&first_kept);
        if let Some((_, &end)) = self.ranges.last_key_value() {
            self.floor_bytes = end;
        }
        self.ranges = kept;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};
    use proptest::test_runner::RngSeed;

    use super::{Clash, Covered};

    fn config() -> ProptestConfig {
        ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn agrees_with_a_bitmap(ranges in proptest::collection::vec((0usize..60, 1usize..8), 0..40)) {
            let mut covered = Covered::new();
            let mut bitmap = [false; 80];
            for (start, len) in ranges {
                let free = bitmap[start..start + len].iter().all(|b| !b);
                let added = covered.add(start as u64..(start + len) as u64);
                prop_assert_eq!(free, added.is_ok());
                if free {
                    bitmap[start..start + len].fill(true);
                }
                let runs = bitmap.iter().zip(std::iter::once(&false).chain(&bitmap)).filter(|(b, a)| **b && !**a);
                prop_assert_eq!(runs.count(), covered.ranges.len());
            }
        }
    }

    #[test]
    fn ascending_ranges_never_end() {
        let mut covered = Covered::with_max(8);
        for i in 0..10_000 {
            assert_eq!(covered.add(i * 10..i * 10 + 5), Ok(()));
            assert!(covered.ranges.len() <= 8);
        }
        assert_eq!(covered.add(99_990..99_991), Err(Clash::Overlap(99_990..99_995)));
        assert_eq!(covered.add(99_985..99_990), Ok(()), "near the end the order may still vary");
        let floor = covered.floor_bytes;
        assert_eq!(
            covered.add(7..8),
            Err(Clash::Forgotten { below_bytes: floor }),
            "refused although it is free"
        );
    }

    #[test]
    fn touching_ranges_are_one() {
        let mut covered = Covered::with_max(2);
        for start in [0, 20, 10, 30] {
            covered.add(start..start + 10).expect("disjoint");
        }
        assert_eq!(covered.ranges.len(), 1);
        assert_eq!(covered.floor_bytes, 0);
    }
}
