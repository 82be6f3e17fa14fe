//! Ranges of bytes, cut and joined.

use std::ops::Range;

use crate::units::Extent;

/// How ranges are joined.
pub(super) struct Joining {
    pub period_bytes: u64,
    /// The longest gap that is closed.
    pub gap_bytes: u64,
    pub size_bytes: u64,
}

/// Cuts a range.
pub(super) fn pieces(range: Range<u64>, piece_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        let piece = start..range.end.min(start.saturating_add(piece_bytes.max(1)));
        start = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The ranges widened to whole periods, those with a small gap between them as one.
pub(super) fn joined(held: &[Extent], how: Joining) -> Vec<Range<u64>> {
    let Joining { period_bytes, gap_bytes, size_bytes } = how;
    let mut out: Vec<Range<u64>> = Vec::new();
    for extent in held {
        let start = extent.offset_bytes / period_bytes * period_bytes;
        let end = extent.offset_bytes.saturating_add(extent.length_bytes);
        let end = end.checked_next_multiple_of(period_bytes).unwrap_or(size_bytes).min(size_bytes);
        match out.last_mut() {
            Some(last) if start <= last.end.saturating_add(gap_bytes) => last.end = last.end.max(end),
            _ => out.push(start..end),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Content;

    #[test]
    fn ranges_are_cut_and_joined() {
        assert_eq!(pieces(3..10, 4).collect::<Vec<_>>(), [3..7, 7..10]);
        assert_eq!(pieces(3..3, 4).count(), 0);
        assert_eq!(pieces(0..u64::MAX, u64::MAX).collect::<Vec<_>>(), std::slice::from_ref(&(0..u64::MAX)));
        let data = |offset_bytes, length_bytes| Extent { offset_bytes, length_bytes, content: Content::Data };
        let held = [data(5, 1), data(12, 9), data(49, 1), data(88, 2)];
        let by = |gap_bytes, size_bytes| Joining { period_bytes: 10, gap_bytes, size_bytes };
        // Periods of 10: 0..30, then a gap of one (40..50), then one of three.
        assert_eq!(joined(&held, by(10, 89)), [0..50, 80..89]);
        assert_eq!(joined(&held, by(30, 89)), std::slice::from_ref(&(0..89)));
        assert_eq!(joined(&held[..1], by(10, 8)), std::slice::from_ref(&(0..8)));
    }
}
