//! Bundles: many small chunks in one object (repo-format.md §4.1).

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::format::envelope::damaged;
use crate::format::page::PIECE_ID_LEN_BYTES;
use crate::format::patch::Runs;
use crate::units::ChunkId;

/// Runs of one delta that a table keeps. Whoever wants to know those of a delta with more opens it.
const RUNS_MAX: usize = 1 << 15;

/// What a bundle begins with: its pieces, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRecord {
    pieces: Vec<PieceRecord>,
}

/// One piece of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceRecord {
    /// Of the content.
    pub id: ChunkId,
    /// Of the piece, its id included.
    pub len_bytes: u32,
    /// Of the content.
    plain_len_bytes: u32,
    /// `None`: a full chunk.
    delta: Option<DeltaRecord>,
}

/// What the table says of a delta.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DeltaRecord {
    /// That in its header.
    depth: u8,
    /// Of what it stands on.
    base: Option<ChunkId>,
    /// What it replaces, ascending: offset and length. `None`: too many.
    runs: Option<Vec<(u32, u32)>>,
}

/// What a writer tells of a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaParts {
    /// Of what it stands on, where the writer knows it.
    pub base: Option<ChunkId>,
    /// What it replaces.
    pub runs: Runs,
}

impl BundleRecord {
    /// Adds a piece.
    pub fn push(
        &mut self,
        id: ChunkId,
        len_bytes: u32,
        plain_len_bytes: u32,
        depth: u8,
        delta: Option<&DeltaParts>,
    ) {
        let delta = delta.map(|DeltaParts { base, runs }| {
            let few = (runs.len() <= RUNS_MAX).then_some(runs);
            let runs = few.map(|runs| runs.iter().map(|run| (run.start as u32, run.len() as u32)).collect());
            DeltaRecord { depth, base: *base, runs }
        });
        self.pieces.push(PieceRecord { id, len_bytes, plain_len_bytes, delta });
    }

    /// All pieces, and where each begins when the table itself takes so many bytes of the bundle.
    pub fn pieces(&self, table_len_bytes: u32) -> impl Iterator<Item = (u32, &PieceRecord)> {
        self.pieces.iter().scan(table_len_bytes, |next, piece| {
            let offset_bytes = *next;
            *next = offset_bytes.checked_add(piece.len_bytes)?;
            Some((offset_bytes, piece))
        })
    }
}

impl PieceRecord {
    /// How many chunks are below it in its chain: 0 for a full one.
    pub fn depth(&self) -> u8 {
        self.delta.as_ref().map_or(0, |delta| delta.depth)
    }

    /// Of what a delta stands on, where the table says it.
    pub fn base(&self) -> Option<ChunkId> {
        self.delta.as_ref()?.base
    }

    /// How many runs the table has of it.
    pub fn run_count(&self) -> usize {
        self.delta.as_ref().and_then(|delta| delta.runs.as_ref()).map_or(0, Vec::len)
    }

    /// What is told of it in the table of another bundle; `None` of a full chunk. Fails where this table has not all of it.
    pub fn into_delta_parts(self) -> Result<Option<DeltaParts>> {
        if self.delta.is_none() {
            return Ok(None);
        }
        let runs = self.runs(self.plain_len_bytes as usize)?;
        let runs = runs.ok_or_else(|| damaged("a bundle's table has not the runs of a delta"))?;
        Ok(Some(DeltaParts { base: self.base(), runs }))
    }

    /// What a delta that makes a chunk of so many bytes replaces, where the table says it. `None` for one that makes another.
    pub fn runs(&self, plain_len: usize) -> Result<Option<Runs>> {
        let told = self.delta.as_ref().filter(|_| self.plain_len_bytes as usize == plain_len);
        let Some(runs) = told.and_then(|delta| delta.runs.as_ref()) else { return Ok(None) };
        let mut out = Runs::new();
        for (offset, len) in runs {
            let (start, len) = (*offset as usize, *len as usize);
            let is_apart = out.last().is_none_or(|last| start > last.end);
            if len == 0 || start + len > plain_len || !is_apart {
                return Err(damaged(
                    "a bundle's table has runs that are empty, touch, or end beyond the chunk",
                ));
            }
            out.push(start..start + len);
        }
        Ok(Some(out))
    }
}

/// Takes a piece apart: the id of what it holds, and the envelope.
pub fn split(piece: &[u8]) -> Result<(ChunkId, &[u8])> {
    match piece.split_first_chunk::<PIECE_ID_LEN_BYTES>() {
        Some((id, envelope)) => Ok((ChunkId(*id), envelope)),
        None => Err(damaged(format!("a piece of {} bytes", piece.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Record;

    #[test]
    fn a_table_tells_where_pieces_are_and_what_they_replace() {
        let mut table = BundleRecord::default();
        let delta = DeltaParts { base: Some(ChunkId([3; 32])), runs: vec![0..4, 8..9] };
        table.push(ChunkId([1; 32]), 200, 9, 1, Some(&delta));
        table.push(ChunkId([2; 32]), 300, 9, 0, None);
        let table = BundleRecord::decode(&table.encode().expect("it fits")).expect("good");
        let pieces: Vec<_> = table.pieces(1000).collect();
        assert_eq!(pieces.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1000, 1200]);
        assert_eq!(pieces[0].1.runs(9).expect("sane"), Some(vec![0..4, 8..9]));
        assert_eq!(pieces[1].1.runs(9).expect("sane"), None);
        assert_eq!((pieces[0].1.base(), pieces[1].1.base()), (Some(ChunkId([3; 32])), None));
        assert_eq!(pieces[0].1.runs(8).expect("sane"), None, "it makes another chunk");
    }

    #[test]
    fn runs_that_no_patch_has_are_refused() {
        let piece = |runs: &[(u32, u32)]| PieceRecord {
            id: ChunkId([1; 32]),
            len_bytes: 200,
            plain_len_bytes: 100,
            delta: Some(DeltaRecord { depth: 1, base: None, runs: Some(runs.to_vec()) }),
        };
        for bad in [&[(0, 0)][..], &[(0, 4), (4, 1)], &[(5, 1), (0, 1)], &[(u32::MAX, u32::MAX)]] {
            assert!(piece(bad).runs(100).is_err(), "{bad:?}");
        }
    }
}
