//! Collecting the extents of a diff within a fixed amount of memory.

use std::ops::Range;

use crate::units::{Content, Extent};

/// Most ranges kept: 16 MiB of them. Beyond that they are widened.
const RANGES_MAX: usize = 1 << 20;
/// Ranges are first widened to this: the smallest RBD object, and no less than the smallest chunk.
const WIDEN_BYTES_FIRST: u64 = 4 << 10;

/// A volume's extents. They may come in any order and overlap; where they do, data wins over zero.
///
/// When there are too many they are widened to ever larger blocks: a block that holds any data, or is not zero as a
/// whole, becomes data. More is read then, never less.
#[derive(Debug)]
pub(super) struct ExtentSet {
    size_bytes: u64,
    ranges_max: usize,
    widen_bytes: u64,
    data: Vec<Range<u64>>,
    zero: Vec<Range<u64>>,
}

impl ExtentSet {
    /// For a volume of a size: what lies beyond is cut off.
    pub(super) fn new(size_bytes: u64) -> Self {
        Self::with_max(size_bytes, RANGES_MAX)
    }

    fn with_max(size_bytes: u64, ranges_max: usize) -> Self {
        Self { size_bytes, ranges_max, widen_bytes: 1, data: Vec::new(), zero: Vec::new() }
    }

    pub(super) fn add(&mut self, range: Range<u64>, content: Content) {
        let range = range.start..range.end.min(self.size_bytes);
        if range.is_empty() {
            return;
        }
        let list = if content == Content::Data { &mut self.data } else { &mut self.zero };
        match list.last_mut() {
            Some(last) if last.start <= range.start && range.start <= last.end => {
                last.end = last.end.max(range.end);
            }
            _ => list.push(range),
        }
        if self.data.len() + self.zero.len() > self.ranges_max {
            self.shrink();
        }
    }

    /// The extents, ascending, disjoint and merged.
    pub(super) fn finish(self) -> Vec<Extent> {
        let data = union(self.data);
        let zero = subtract(union(self.zero), &data);
        let extent = |content| {
            move |r: Range<u64>| Extent { offset_bytes: r.start, length_bytes: r.end - r.start, content }
        };
        let mut extents: Vec<Extent> = data
            .into_iter()
            .map(extent(Content::Data))
            .chain(zero.into_iter().map(extent(Content::Zero)))
            .collect();
        extents.sort_unstable_by_key(|e| e.offset_bytes);
        extents
    }

    /// Merges, then widens until half of the limit is free. Ends, as one block in the end covers all.
    fn shrink(&mut self) {
        self.data = union(std::mem::take(&mut self.data));
        self.zero = subtract(union(std::mem::take(&mut self.zero)), &self.data);
        while self.data.len() + self.zero.len() > self.ranges_max / 2 {
            self.widen_bytes = (self.widen_bytes * 4).max(WIDEN_BYTES_FIRST);
            let (block, size) = (self.widen_bytes, self.size_bytes);
            let down = |offset: u64| offset - offset % block;
            let up = |offset: u64| offset.checked_next_multiple_of(block).unwrap_or(size).min(size);
            // A block that is zero only in part counts as data, for its other part is not known to be zero.
            let edges = self.zero.iter().flat_map(|z| {
                let head = (z.start != down(z.start)).then(|| down(z.start)..up(z.start));
                let tail = (z.end != up(z.end)).then(|| down(z.end)..up(z.end));
                head.into_iter().chain(tail)
            });
            let data = union(self.data.iter().map(|d| down(d.start)..up(d.end)).chain(edges).collect());
            self.zero = subtract(std::mem::take(&mut self.zero), &data);
            self.data = data;
        }
    }
}

/// Sorts and merges ranges that overlap or touch.
fn union(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|r| r.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// What of `from` is not in `less`; both ascending and disjoint.
fn subtract(from: Vec<Range<u64>>, less: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::with_capacity(from.len());
    let mut first = 0;
    for range in from {
        while first < less.len() && less[first].end <= range.start {
            first += 1;
        }
        let mut at = range.start;
        for hole in less[first..].iter().take_while(|hole| hole.start < range.end) {
            if at < hole.start {
                left.push(at..hole.start);
            }
            at = at.max(hole.end);
        }
        if at < range.end {
            left.push(at..range.end);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 1 << 20;

    fn ranges() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
        proptest::collection::vec((0..SIZE + 9000, 0..20_000_u64, any::<bool>()), 0..60)
    }

    fn content_at(extents: &[Extent], offset: u64) -> Option<Content> {
        let hit = |e: &&Extent| (e.offset_bytes..e.offset_bytes + e.length_bytes).contains(&offset);
        extents.iter().find(hit).map(|e| e.content)
    }

    fn check_shape(extents: &[Extent]) {
        for pair in extents.windows(2) {
            let end = pair[0].offset_bytes + pair[0].length_bytes;
            let merged = end == pair[1].offset_bytes && pair[0].content == pair[1].content;
            assert!(end <= pair[1].offset_bytes && !merged, "{pair:?}");
        }
        assert!(extents.iter().all(|e| e.length_bytes > 0 && e.offset_bytes + e.length_bytes <= SIZE));
    }

    proptest! {
        #[test]
        fn extents_say_what_was_added(added in ranges(), probes in proptest::collection::vec(0..SIZE, 50)) {
            let mut set = ExtentSet::new(SIZE);
            let mut widened = ExtentSet::with_max(SIZE, 8);
            for &(start, length, data) in &added {
                let content = if data { Content::Data } else { Content::Zero };
                set.add(start..start + length, content);
                widened.add(start..start + length, content);
                prop_assert!(widened.data.len() + widened.zero.len() <= 8);
            }
            let (exact, widened) = (set.finish(), widened.finish());
            check_shape(&exact);
            check_shape(&widened);
            let edges = added.iter().flat_map(|&(s, l, _)| [s, s.saturating_sub(1), s + l, (s + l).saturating_sub(1)]);
            for at in probes.into_iter().chain(edges).filter(|&at| at < SIZE) {
                let hit = |want: bool| added.iter().any(|&(s, l, data)| data == want && (s..s + l).contains(&at));
                let expected = match (hit(true), hit(false)) {
                    (true, _) => Some(Content::Data),
                    (_, true) => Some(Content::Zero),
                    _ => None,
                };
                prop_assert_eq!(content_at(&exact, at), expected);
                // Widened, it may only say more to be data.
                let wide = content_at(&widened, at);
                prop_assert!(wide == expected || wide == Some(Content::Data), "at {}: {:?} {:?}", at, wide, expected);
            }
        }
    }
}
