//! Which chunks are re-read although nothing says that they changed, so that a source that misses changes is found out.

use crate::chunker::{self, Span};
use crate::error::Result;
use crate::format::{REFS_PER_PAGE, context};
use crate::repo::manifest::Manifest;
use crate::units::{ChunkIndex, SnapshotId};

/// Chunks re-read in turn, at least.
const ROTATING_MIN: u64 = 6;
/// Chunks re-read in turn, at most.
const ROTATING_MAX: u64 = 256;
/// Chunks re-read at random, for each re-read in turn: one in two.
const RANDOM_DIVISOR: u64 = 2;
/// Leaves read to find stored chunks in turn.
const LEAVES_MAX: usize = 4;
/// Leaf refs looked at to find leaves that are not zero.
const LEAF_REFS_MAX: u64 = 4096;
/// Leaves read for the random part.
const RANDOM_LEAVES_MAX: u64 = 2;
const FANOUT: u64 = REFS_PER_PAGE as u64;

/// The sample, and where the next one begins.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Ascending, stored in the parent, not in the changed spans.
    pub chunks: Vec<ChunkIndex>,
    pub next_cursor: u64,
}

/// Chooses chunks of the parent that were not reported as changed: a slice that rotates over the volume from night to
/// night, and a few at random by the snapshot's id. Its cost follows what changed, within fixed bounds.
pub(crate) async fn choose(
    parent: &Manifest,
    changed: &[Span],
    cursor: u64,
    seed: SnapshotId,
) -> Result<Sample> {
    let chunk_count = parent.geometry().chunk_count();
    if chunk_count == 0 {
        return Ok(Sample::default());
    }
    let changed_chunks: u64 = changed.iter().map(|s| s.count).sum();
    let rotating = (changed_chunks / 8).clamp(ROTATING_MIN, ROTATING_MAX);
    let mut sample = rotate(parent, changed, cursor % chunk_count, rotating).await?;
    let random = at_random(parent, changed, rotating / RANDOM_DIVISOR, seed).await?;
    sample.chunks.extend(random);
    sample.chunks.sort_unstable();
    sample.chunks.dedup();
    Ok(sample)
}

async fn rotate(parent: &Manifest, changed: &[Span], cursor: u64, wanted: u64) -> Result<Sample> {
    let (chunk_count, leaf_count) = (parent.geometry().chunk_count(), parent.leaf_count());
    let mut out = Sample { chunks: Vec::new(), next_cursor: cursor };
    let mut leaves_read = 0;
    let mut number = cursor / FANOUT;
    for _ in 0..leaf_count.min(LEAF_REFS_MAX) + 1 {
        if parent.leaf_ref(number).await?.is_zero() {
            number = (number + 1) % leaf_count;
            out.next_cursor = number * FANOUT;
            continue;
        }
        if leaves_read == LEAVES_MAX {
            break;
        }
        leaves_read += 1;
        let leaf = parent.leaf(number).await?;
        let from = out.next_cursor % FANOUT;
        for (at, chunk) in leaf.refs.iter().enumerate().skip(from as usize) {
            let index = ChunkIndex(number * FANOUT + at as u64);
            out.next_cursor = (index.0 + 1) % chunk_count;
            if !chunk.is_zero() && !chunker::contains(changed, index) && !out.chunks.contains(&index) {
                out.chunks.push(index);
                if out.chunks.len() as u64 >= wanted {
                    return Ok(out);
                }
            }
        }
        number = (number + 1) % leaf_count;
        out.next_cursor = number * FANOUT;
    }
    Ok(out)
}

async fn at_random(
    parent: &Manifest,
    changed: &[Span],
    wanted: u64,
    seed: SnapshotId,
) -> Result<Vec<ChunkIndex>> {
    let leaf_count = parent.leaf_count();
    let mut draws = Draws::new(seed);
    let mut out = Vec::new();
    for _ in 0..RANDOM_LEAVES_MAX {
        // The next leaf that is not zero, from a random one on.
        let mut number = draws.below(leaf_count);
        for _ in 0..leaf_count.min(LEAF_REFS_MAX) {
            if !parent.leaf_ref(number).await?.is_zero() {
                break;
            }
            number = (number + 1) % leaf_count;
        }
        let leaf = parent.leaf(number).await?;
        let stored: Vec<u64> = (0..leaf.refs.len() as u64)
            .filter(|at| {
                !leaf.refs[*at as usize].is_zero()
                    && !chunker::contains(changed, ChunkIndex(number * FANOUT + at))
            })
            .collect();
        for _ in 0..wanted.div_ceil(RANDOM_LEAVES_MAX) {
            if !stored.is_empty() {
                let at = stored[draws.below(stored.len() as u64) as usize];
                out.push(ChunkIndex(number * FANOUT + at));
            }
        }
    }
    Ok(out)
}

/// Numbers that follow from a seed: the BLAKE3 stream of a snapshot's id.
struct Draws(blake3::OutputReader);

impl Draws {
    fn new(seed: SnapshotId) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context::SAMPLE);
        hasher.update(&seed.0);
        Self(hasher.finalize_xof())
    }

    fn below(&mut self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % end.max(1)
    }
}
