//! Pure: which chunks a backup must look at, from the extents that its source reports.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::units::{ChunkIndex, Content, Extent, Geometry};

/// Consecutive chunks to be treated alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: ChunkIndex,
    pub count: u64,
    /// Whether the chunks are read; otherwise they are known to be zero.
    pub read: bool,
}

impl Span {
    fn end(&self) -> u64 {
        self.first.0 + self.count
    }
}

/// What the extents that are not listed hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unlisted {
    /// They read as zero.
    Zero,
    /// They are as they were.
    Unchanged,
}

/// Widens extents to whole chunks: ascending, disjoint spans. Extents are ascending; those beyond the end are cut.
///
/// A chunk is zero only where it is known to be zero as a whole; one that is partly listed is read. `forced` chunks are
/// read in any case.
pub(crate) fn spans(
    extents: &[Extent],
    geometry: Geometry,
    unlisted: Unlisted,
    forced: &BTreeSet<u64>,
) -> Vec<Span> {
    let chunk_count = geometry.chunk_count();
    let mut out = Vec::new();
    for extent in extents {
        let end_bytes = extent.offset_bytes.saturating_add(extent.length_bytes).min(geometry.size_bytes);
        if extent.offset_bytes >= end_bytes {
            continue;
        }
        let first = geometry.index_of(extent.offset_bytes).0;
        let last = geometry.index_of(end_bytes - 1).0;
        match (extent.content, unlisted) {
            (Content::Data, _) => push(&mut out, first, last + 1, true),
            (Content::Zero, Unlisted::Zero) => {}
            (Content::Zero, Unlisted::Unchanged) => {
                let whole_first =
                    first + u64::from(geometry.offset_bytes(ChunkIndex(first)) < extent.offset_bytes);
                let whole_end = last + u64::from(geometry.range_bytes(ChunkIndex(last)).end <= end_bytes);
                push(&mut out, first, whole_first.min(last + 1), true);
                push(&mut out, whole_first, whole_end, false);
                push(&mut out, whole_end.max(first), last + 1, true);
            }
        }
    }
    let out = with_forced(&out, forced.range(..chunk_count));
    match unlisted {
        Unlisted::Unchanged => out,
        Unlisted::Zero => fill_gaps(&out, chunk_count),
    }
}

/// The span that a chunk lies in.
pub(crate) fn find(spans: &[Span], index: ChunkIndex) -> Option<&Span> {
    let at = spans.partition_point(|s| s.end() <= index.0);
    spans.get(at).filter(|s| s.first <= index)
}

/// Whether a chunk lies in one of the spans.
pub(crate) fn contains(spans: &[Span], index: ChunkIndex) -> bool {
    find(spans, index).is_some()
}

/// Whether one of a range of chunks lies in one of the spans.
pub(crate) fn meets(spans: &[Span], chunks: Range<u64>) -> bool {
    let at = spans.partition_point(|s| s.end() <= chunks.start);
    spans.get(at).is_some_and(|s| s.first.0 < chunks.end)
}

/// Adds a range that does not begin before the last one's first chunk. Where two meet, reading wins.
fn push(out: &mut Vec<Span>, first: u64, end: u64, read: bool) {
    let mut first = first;
    if first >= end {
        return;
    }
    if let Some(last) = out.last_mut() {
        let last_end = last.end();
        if first < last_end && read && !last.read {
            // A read within a zero span: cut it out.
            last.count = first.saturating_sub(last.first.0);
            if last.count == 0 {
                out.pop();
            }
            push(out, first, end, true);
            push(out, end, last_end, false);
            return;
        }
        first = first.max(last_end);
        if first >= end {
            return;
        }
        if last.read == read && last_end == first {
            last.count += end - first;
            return;
        }
    }
    out.push(Span { first: ChunkIndex(first), count: end - first, read });
}

/// Makes sure that single chunks are read, whatever the spans say.
fn with_forced<'a>(spans: &[Span], forced: impl Iterator<Item = &'a u64>) -> Vec<Span> {
    let mut forced = forced.copied().peekable();
    let mut out = Vec::with_capacity(spans.len());
    for span in spans {
        while let Some(index) = forced.next_if(|i| *i < span.first.0) {
            push(&mut out, index, index + 1, true);
        }
        let mut at = span.first.0;
        while let Some(index) = forced.next_if(|i| *i < span.end()) {
            push(&mut out, at, index, span.read);
            push(&mut out, index, index + 1, true);
            at = index + 1;
        }
        push(&mut out, at, span.end(), span.read);
    }
    for index in forced {
        push(&mut out, index, index + 1, true);
    }
    out
}

fn fill_gaps(spans: &[Span], chunk_count: u64) -> Vec<Span> {
    let mut out = Vec::with_capacity(spans.len() * 2 + 1);
    let mut next = 0;
    for span in spans {
        push(&mut out, next, span.first.0, false);
        push(&mut out, span.first.0, span.end(), span.read);
        next = span.end();
    }
    push(&mut out, next, chunk_count, false);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, proptest};
    use proptest::{collection, prop_assert, prop_assert_eq};

    use super::*;

    const CHUNK: u32 = 4096;

    fn extent(offset_bytes: u64, length_bytes: u64, content: Content) -> Extent {
        Extent { offset_bytes, length_bytes, content }
    }

    fn check(extents: &[Extent], size_bytes: u64, unlisted: Unlisted, expected: &[(u64, u64, bool)]) {
        let geometry = Geometry::new(size_bytes, CHUNK).expect("valid");
        let found: Vec<_> = spans(extents, geometry, unlisted, &BTreeSet::new())
            .iter()
            .map(|s| (s.first.0, s.count, s.read))
            .collect();
        assert_eq!(found, expected, "{extents:?} {unlisted:?}");
    }

    #[test]
    fn extents_are_widened_to_chunks() {
        use Content::{Data, Zero};
        let (zero, unchanged) = (Unlisted::Zero, Unlisted::Unchanged);
        check(&[], 10 * 4096, zero, &[(0, 10, false)]);
        check(&[], 10 * 4096, unchanged, &[]);
        check(&[extent(5000, 1, Data)], 3 * 4096, zero, &[(0, 1, false), (1, 1, true), (2, 1, false)]);
        check(&[extent(5000, 1, Data), extent(5001, 4000, Data)], 3 * 4096, unchanged, &[(1, 2, true)]);
        check(&[extent(4096, 8192, Zero)], 4 * 4096, unchanged, &[(1, 2, false)]);
        check(&[extent(4097, 8192, Zero)], 4 * 4096, unchanged, &[(1, 1, true), (2, 1, false), (3, 1, true)]);
        check(&[extent(4097, 10, Zero)], 4 * 4096, unchanged, &[(1, 1, true)]);
        check(
            &[extent(0, 4096, Zero), extent(4096, 1, Data)],
            8192,
            unchanged,
            &[(0, 1, false), (1, 1, true)],
        );
        // The short last chunk is wholly covered where the extent reaches the end.
        check(&[extent(4096, 100, Zero)], 4196, unchanged, &[(1, 1, false)]);
        check(&[extent(4096, u64::MAX, Data)], 4196, unchanged, &[(1, 1, true)]);
    }

    #[test]
    fn a_forced_chunk_within_a_zero_extent_is_read() {
        let geometry = Geometry::new(10 * 4096, CHUNK).expect("valid");
        let extents = [extent(5 * 4096 + 1, 3 * 4096, Content::Zero)];
        let found: Vec<_> = spans(&extents, geometry, Unlisted::Unchanged, &BTreeSet::from([2, 6]))
            .iter()
            .map(|s| (s.first.0, s.count, s.read))
            .collect();
        assert_eq!(found, [(2, 1, true), (5, 2, true), (7, 1, false), (8, 1, true)]);
    }

    fn sorted_extents() -> impl Strategy<Value = Vec<Extent>> {
        collection::vec((0u64..9000, 1u64..20_000, any::<bool>()), 0..12).prop_map(|parts| {
            let mut at = 0;
            parts
                .into_iter()
                .map(|(gap, len, data)| {
                    let e = extent(at + gap, len, if data { Content::Data } else { Content::Zero });
                    at += gap + len;
                    e
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn spans_agree_with_a_chunk_by_chunk_reckoning(
            extents in sorted_extents(),
            size_bytes in 0u64..120_000,
            everything in any::<bool>(),
            forced in collection::btree_set(0u64..40, 0..5),
        ) {
            let geometry = Geometry::new(size_bytes, CHUNK).expect("valid");
            let unlisted = if everything { Unlisted::Zero } else { Unlisted::Unchanged };
            let found = spans(&extents, geometry, unlisted, &forced);
            prop_assert!(found.windows(2).all(|w| w[0].end() <= w[1].first.0));
            for index in 0..geometry.chunk_count() {
                let range = geometry.range_bytes(ChunkIndex(index));
                let touch = |e: &&Extent| e.offset_bytes < range.end && e.offset_bytes + e.length_bytes > range.start;
                let data = extents.iter().filter(touch).any(|e| e.content == Content::Data) || forced.contains(&index);
                let listed = extents.iter().any(|e| touch(&e));
                let span = found.iter().find(|s| s.first.0 <= index && index < s.end());
                prop_assert_eq!(contains(&found, ChunkIndex(index)), span.is_some());
                let covered = extents.iter().any(|e| e.offset_bytes <= range.start && e.offset_bytes + e.length_bytes >= range.end);
                let expected = match (data, everything, listed) {
                    (true, _, _) => Some(true),
                    (false, true, _) => Some(false),
                    (false, false, true) => Some(!covered),
                    (false, false, false) => None,
                };
                prop_assert_eq!(span.map(|s| s.read), expected, "chunk {}", index);
            }
        }
    }
}
