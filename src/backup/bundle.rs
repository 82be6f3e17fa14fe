//! Collects what is too small for an object of its own, in the order in which it comes, until that fills a bundle.

use crate::budget::Share;
use crate::codec::Piece;
use crate::format::BUNDLE_LEN_BYTES_MAX;
use crate::plan::delta::Chain;
use crate::units::{ChunkId, ChunkIndex};

/// Pieces of one bundle: its table stays well within its limit.
const PIECES_MAX: usize = 8_192;
/// Runs of all deltas of one bundle, for the same reason.
const RUNS_MAX: usize = 1 << 18;
/// The part of a backup's memory that may wait for a bundle to be full, so that the rest goes on.
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

/// The bundle that is being filled.
pub(super) struct Bundler {
    len_bytes_max: u64,
    len_bytes: u64,
    runs: usize,
    pieces: Vec<Piece>,
    waiting: Vec<Waiting>,
}

impl Bundler {
    /// One for a backup with so much memory.
    pub(super) fn new(budget_bytes: u64) -> Self {
        let len_bytes_max = (BUNDLE_LEN_BYTES_MAX as u64).min(budget_bytes / BUDGET_DIVISOR);
        Self { len_bytes_max, len_bytes: 0, runs: 0, pieces: Vec::new(), waiting: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether a piece still fits. One that is larger than a bundle gets one of its own.
    pub(super) fn has_room_for(&self, piece: &Piece) -> bool {
        let is_empty = self.pieces.is_empty();
        let fits = self.len_bytes + u64::from(piece.len_bytes()) <= self.len_bytes_max
            && self.pieces.len() < PIECES_MAX
            && self.runs + runs(piece) <= RUNS_MAX;
        is_empty || fits
    }

    pub(super) fn push(&mut self, piece: Piece, waiting: Waiting) {
        self.len_bytes += u64::from(piece.len_bytes());
        self.runs += runs(&piece);
        self.pieces.push(piece);
        self.waiting.push(waiting);
    }

    /// What was collected, and the chunks that it is of.
    pub(super) fn take(&mut self) -> (Vec<Piece>, Vec<Waiting>) {
        (self.len_bytes, self.runs) = (0, 0);
        (std::mem::take(&mut self.pieces), std::mem::take(&mut self.waiting))
    }
}

fn runs(piece: &Piece) -> usize {
    piece.delta.as_ref().map_or(0, |delta| delta.runs.len())
}
