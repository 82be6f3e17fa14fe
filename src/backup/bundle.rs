//! Collects what is too small for an object of its own, each depth by itself, until that fills a bundle.

use crate::budget::Share;
use crate::codec::Piece;
use crate::format::{BUNDLE_LEN_BYTES_MAX, CLOSURE_LEN_MAX};
use crate::plan::bundles::{Load, shared};
use crate::plan::delta::Chain;
use crate::units::{ChunkId, ChunkIndex};

/// Most that fits into one: its table stays well within its limit, too.
pub(super) const BUNDLE_MAX: Load = Load { pieces: 8_192, bytes: BUNDLE_LEN_BYTES_MAX as u64, runs: 1 << 18 };
/// The part of a backup's memory that may wait for bundles to be full, so that the rest goes on.
const BUDGET_DIVISOR: u64 = 4;

/// The chunk that a piece is of.
pub(super) struct Waiting {
    pub index: ChunkIndex,
    pub id: ChunkId,
    pub chain: Option<Chain>,
    pub len_bytes: u32,
    /// The piece's memory.
    pub share: Option<Share>,
}

/// What becomes a bundle: pieces, and the chunks that they are of.
#[derive(Default)]
pub(super) struct Filled {
    load: Load,
    pieces: Vec<(Piece, Waiting)>,
}

/// The bundles that are being filled, by the depth of what is in them.
pub(super) struct Bundler {
    waiting_bytes_max: u64,
    bundle_max: Load,
    chunk_size_bytes: u32,
    depths: [Filled; CLOSURE_LEN_MAX + 1],
}

impl Bundler {
    /// One for a backup with so much memory.
    pub(super) fn new(budget_bytes: u64, chunk_size_bytes: u32) -> Self {
        let waiting_bytes_max = budget_bytes / BUDGET_DIVISOR;
        let bundle_max = Load { bytes: waiting_bytes_max.min(BUNDLE_MAX.bytes), ..BUNDLE_MAX };
        Self { waiting_bytes_max, bundle_max, chunk_size_bytes, depths: Default::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.depths.iter().map(|depth| depth.pieces.len()).sum()
    }

    /// Takes a piece, and gives what had to make room for it. One that is larger than a bundle gets one of its own.
    pub(super) fn push(&mut self, piece: Piece, waiting: Waiting) -> Option<Filled> {
        let depth = waiting.chain.as_ref().map_or(0, |chain| usize::from(chain.depth()).min(CLOSURE_LEN_MAX));
        let waiting_bytes: u64 = self.depths.iter().map(|depth| depth.load.bytes).sum();
        let is_over = waiting_bytes + u64::from(piece.len_bytes()) > self.waiting_bytes_max;
        let full = match self.depths[depth].load.and(load(&piece)).is_within(&self.bundle_max) {
            false => Some(depth),
            true if is_over => (0..self.depths.len()).max_by_key(|at| self.depths[*at].load.bytes),
            true => None,
        };
        let filled = full.map(|at| std::mem::take(&mut self.depths[at])).filter(|f| !f.pieces.is_empty());
        self.depths[depth].push(piece, waiting);
        filled
    }

    /// All that was collected.
    pub(super) fn take(&mut self) -> Vec<Filled> {
        let depths = std::mem::take(&mut self.depths);
        let loads = depths.each_ref().map(|depth| depth.load);
        let mut depths = depths.into_iter();
        let mut at = 0;
        let groups = shared(&loads, &self.bundle_max, self.chunk_size_bytes);
        let filled = groups.into_iter().map(|group| {
            let skipped = group.start - at;
            at = group.end;
            Filled::of(depths.by_ref().skip(skipped).take(group.len()))
        });
        filled.collect()
    }
}

impl Filled {
    fn of(depths: impl Iterator<Item = Self>) -> Self {
        let mut all = Self::default();
        depths.flat_map(|depth| depth.pieces).for_each(|(piece, waiting)| all.push(piece, waiting));
        all
    }

    fn push(&mut self, piece: Piece, waiting: Waiting) {
        self.load = self.load.and(load(&piece));
        self.pieces.push((piece, waiting));
    }

    /// The pieces in the order of their volume, for neighbours to be read with one request, and the chunks that they are of.
    pub(super) fn into_parts(mut self) -> (Vec<Piece>, Vec<Waiting>) {
        self.pieces.sort_by_key(|(_, waiting)| waiting.index);
        self.pieces.into_iter().unzip()
    }
}

fn load(piece: &Piece) -> Load {
    let runs = piece.delta.as_ref().map_or(0, |delta| delta.runs.len());
    Load { pieces: 1, bytes: u64::from(piece.len_bytes()), runs }
}
