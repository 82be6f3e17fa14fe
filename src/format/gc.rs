//! Prune rounds (repo-format.md §8.2).

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::format::envelope::damaged;
use crate::units::{ChunkId, Generation, VolumeNumber};

/// A round begins generation `generation` and condemns names of older ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginRecord {
    /// Equal to g in the object's name.
    pub generation: Generation,
    /// The newest round before whose seal opens; 0 for none. Its roster is what this one is held against.
    pub last_seal: Generation,
    /// Parts of the condemned table.
    pub condemned: Vec<PartRef>,
}

/// What a round keeps and what it deletes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealRecord {
    /// Equal to g in the object's name.
    pub generation: Generation,
    /// Parts of the roster: what it says of each volume's log.
    pub roster: Vec<RosterPart>,
    /// Parts of the table of full chunks that may be deduplicated against.
    pub live_index: Vec<PartRef>,
    /// Parts of the table of what the round deletes.
    pub deleted: Vec<PartRef>,
    /// It repeats the roster of another seal, as nobody could decide its round: nothing is recalled or kept by it.
    pub copied: bool,
}

/// A round is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneRecord {
    /// Equal to g in the object's name.
    pub generation: Generation,
    /// The newest round whose seal opens: this one, unless it ended without.
    pub last_seal: Generation,
}

/// A part of a seal's roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterPart {
    /// It has the volumes up to this one, above that of the part before.
    pub last_volume: VolumeNumber,
    /// The object, and how many volumes it has.
    pub part: PartRef,
}

/// An object that holds a part of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRef {
    /// Over the plaintext; the last part of the object's name.
    pub id: ChunkId,
    /// Size of the object, header included.
    pub sealed_len_bytes: u32,
    /// Entries of the table that are in this part.
    pub entries: u32,
}

/// The first 8 bytes of the ids that a round may delete. A prefix that matches by chance costs a re-upload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condemned {
    prefixes: Vec<[u8; 8]>,
    /// Whatever the id.
    everything: bool,
}

impl Condemned {
    /// Of prefixes in any order, each as often as it likes.
    pub fn new(mut prefixes: Vec<[u8; 8]>) -> Self {
        prefixes.sort_unstable();
        prefixes.dedup();
        Self { prefixes, everything: false }
    }

    /// Every id: for a round of which nobody can tell what it condemned.
    pub fn everything() -> Self {
        Self { prefixes: Vec::new(), everything: true }
    }

    /// Whether nothing is condemned.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty() && !self.everything
    }

    /// Number of prefixes; 0 where every id is condemned.
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// Ascending and distinct.
    pub fn prefixes(&self) -> &[[u8; 8]] {
        &self.prefixes
    }

    /// Whether an id is condemned, or one that begins alike.
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.everything || self.prefixes.binary_search(&prefix(id)).is_ok()
    }

    /// Adds the set of another part or round.
    pub fn merge(self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        let mut prefixes = self.prefixes;
        prefixes.extend(other.prefixes);
        Self { everything: self.everything || other.everything, ..Self::new(prefixes) }
    }

    /// The plaintext of a part: the prefixes alone, ascending.
    pub fn encode(&self) -> Vec<u8> {
        self.prefixes.concat()
    }

    /// Reads a part that must have so many entries, ascending and distinct.
    pub fn decode(bytes: &[u8], entries: u32) -> Result<Self> {
        let (prefixes, rest) = bytes.as_chunks::<8>();
        let ascending = prefixes.windows(2).all(|w| w[0] < w[1]);
        if !rest.is_empty() || prefixes.len() != entries as usize || !ascending {
            return Err(damaged(format!(
                "a condemned table of {} bytes, expected {entries} ascending entries of 8",
                bytes.len()
            )));
        }
        Ok(Self { prefixes: prefixes.to_vec(), everything: false })
    }
}

/// The part of an id that a condemned table keeps.
pub fn prefix(id: &ChunkId) -> [u8; 8] {
    std::array::from_fn(|i| id.0[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condemned_table_holds_what_was_put_in() {
        let id = |b| ChunkId([b; 32]);
        let set = Condemned::new(vec![prefix(&id(3)), prefix(&id(1)), prefix(&id(3))]);
        let back = Condemned::decode(&set.encode(), 2).expect("good");
        assert_eq!(back, set);
        assert!(back.contains(&id(1)) && back.contains(&id(3)) && !back.contains(&id(2)));
    }

    #[test]
    fn disorder_and_wrong_counts_are_refused() {
        let bytes = [[2u8; 8], [1; 8]].concat();
        assert!(Condemned::decode(&bytes, 2).is_err());
        let bytes = [[1u8; 8], [2; 8]].concat();
        assert!(Condemned::decode(&bytes, 3).is_err());
        assert!(Condemned::decode(&bytes[..15], 1).is_err());
    }
}
