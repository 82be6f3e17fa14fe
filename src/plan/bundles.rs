//! Which pieces share a bundle, and when so little of a bundle is needed that what is needed moves out.
//!
//! A bundle goes only as a whole, so pieces should lie with such as live as long. A chain is joined from its top
//! (`plan/delta.rs`): of a night's deltas those that lie deepest go first, and full chunks and the deltas that stand on one stay
//! longest. So pieces of one depth share a bundle, as far as there are enough of them for one.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use crate::format::names::ContentName;
use crate::format::page::ObjectRef;

/// A session makes at most one bundle for so many pieces that it has, or one for each depth where it has fewer.
const PIECES_EACH_MIN: usize = 256;
/// What is worth a bundle of its own, as a part of a chunk: a PUT costs what some hundred KiB cost in a month.
const WORTH_DIVISOR: u64 = 8;
/// A bundle of which less than this part is needed is emptied …
const NEEDED_DIVISOR: u64 = 4;
/// … if what nobody needs of it is at least this part of a chunk.
const DEAD_DIVISOR: u64 = 32;
/// Bundles of one manifest that are told apart, about 20 MiB.
const BUNDLES_MAX: usize = 1 << 18;

/// What lies in a bundle, or is to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) pieces: usize,
    pub(crate) bytes: u64,
    /// Of all deltas.
    pub(crate) runs: usize,
}

impl Load {
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            pieces: self.pieces + other.pieces,
            bytes: self.bytes + other.bytes,
            runs: self.runs + other.runs,
        }
    }

    pub(crate) fn is_within(&self, max: &Self) -> bool {
        self.pieces <= max.pieces && self.bytes <= max.bytes && self.runs <= max.runs
    }
}

/// The depths that share a bundle at a session's end, given what waits of each, and the most that fits into one.
pub(crate) fn shared(depths: &[Load], max: &Load, chunk_size_bytes: u32) -> Vec<Range<usize>> {
    let of = |range: &Range<usize>| depths[range.clone()].iter().copied().fold(Load::default(), Load::and);
    let mut groups: Vec<Range<usize>> =
        (0..depths.len()).filter(|at| depths[*at].pieces > 0).map(|at| at..at + 1).collect();
    let pieces = of(&(0..depths.len())).pieces;
    let count_max = if pieces < PIECES_EACH_MIN { depths.len() } else { pieces.div_ceil(PIECES_EACH_MIN) };
    let worth_bytes = u64::from(chunk_size_bytes) / WORTH_DIVISOR;
    loop {
        // The two neighbours that are least together, where one of them is not worth a bundle, or there are too many.
        let mergeable = (1..groups.len()).filter_map(|at| {
            let [left, right] = [&groups[at - 1], &groups[at]].map(of);
            let both = left.and(right);
            let is_wanted = groups.len() > count_max || left.bytes.min(right.bytes) < worth_bytes;
            (is_wanted && both.is_within(max)).then_some((both.bytes, at))
        });
        let Some((_, at)) = mergeable.min() else { return groups };
        groups[at - 1].end = groups[at].end;
        groups.remove(at);
    }
}

/// What one manifest needs of bundles.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    bundles: HashMap<ContentName, Need>,
}

#[derive(Debug, Default)]
struct Need {
    bytes: u64,
    /// Where the last piece of it ends: the bundle is at least so long.
    end: u64,
}

impl Needs {
    /// Counts an object that is needed, if it is a piece.
    pub(crate) fn add(&mut self, object: &ObjectRef) {
        let Some(offset_bytes) = object.name.offset_bytes else { return };
        let bundle = object.name.object();
        if self.bundles.len() >= BUNDLES_MAX && !self.bundles.contains_key(&bundle) {
            return;
        }
        let need = self.bundles.entry(bundle).or_default();
        need.bytes += u64::from(object.sealed_len_bytes);
        need.end = need.end.max(u64::from(offset_bytes) + u64::from(object.sealed_len_bytes));
    }

    /// The bundles of which little is needed. Other snapshots may need more of them, and keep them; but not for ever.
    pub(crate) fn sparse(&self, chunk_size_bytes: u32) -> BTreeSet<ContentName> {
        let dead_bytes_min = u64::from(chunk_size_bytes) / DEAD_DIVISOR;
        let sparse = self.bundles.iter().filter(|(_, need)| {
            need.bytes < need.end / NEEDED_DIVISOR && need.end - need.bytes >= dead_bytes_min
        });
        sparse.map(|(bundle, _)| *bundle).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{ChunkId, Generation};

    const CHUNK: u32 = 4 << 20;
    const MAX: Load = Load { pieces: 9_000, bytes: 8 << 20, runs: 100 };

    fn depths(each: &[(usize, u64)]) -> Vec<Load> {
        each.iter().map(|(pieces, kib)| Load { pieces: *pieces, bytes: kib << 10, runs: 1 }).collect()
    }

    #[test]
    fn depths_that_are_worth_it_get_a_bundle_each() {
        let of = |each: &[(usize, u64)]| shared(&depths(each), &MAX, CHUNK);
        assert!(of(&[]).is_empty());
        assert_eq!(of(&[(0, 0), (10, 40)]), std::slice::from_ref(&(1..2)));
        assert_eq!(of(&[(10, 1024), (0, 0), (20, 1024)]), [0..1, 2..3]);
        assert_eq!(
            of(&[(10, 1024), (1, 4), (1, 4), (20, 1024)]),
            [0..3, 3..4],
            "small ones join a neighbour"
        );
        assert_eq!(of(&[(10, 8000), (1, 400)]), [0..1, 1..2], "what does not fit stays apart");
    }

    #[test]
    fn many_pieces_make_at_most_one_bundle_for_256() {
        let even = |pieces: usize| depths(&[(pieces / 8, 1024); 8]);
        assert_eq!(shared(&even(248), &MAX, CHUNK).len(), 8);
        assert_eq!(shared(&even(256), &MAX, CHUNK).len(), 1);
        assert_eq!(shared(&even(800), &MAX, CHUNK).len(), 4);
        assert_eq!(shared(&even(8_000), &MAX, CHUNK).len(), 8);
    }

    #[test]
    fn sparse_is_a_bundle_of_which_little_is_needed_and_much_is_not() {
        let piece = |id, kib: u32, len_kib: u32| ObjectRef {
            name: ContentName {
                generation: Generation(1),
                id: ChunkId([id; 32]),
                variant: 0,
                offset_bytes: Some(kib << 10),
            },
            sealed_len_bytes: len_kib << 10,
        };
        let mut needs = Needs::default();
        // One far out; one at the beginning, of which nobody knows what is behind it; one that is needed; a small one.
        [piece(1, 900, 10), piece(2, 0, 10), piece(3, 0, 500), piece(3, 900, 20), piece(4, 90, 10)]
            .iter()
            .for_each(|object| needs.add(object));
        needs.add(&ObjectRef { name: piece(5, 0, 0).name.object(), sealed_len_bytes: 9 });
        assert_eq!(needs.sparse(CHUNK).into_iter().collect::<Vec<_>>(), [piece(1, 0, 0).name.object()]);
    }
}
