//! What a seal says of the volumes' logs (repo-format.md §8.2).

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::format::GC_PART_LEN_BYTES_MAX;
use crate::format::envelope::damaged;
use crate::units::{Sequence, VolumeNumber};

/// Most volumes in one part (§3): who looks at one volume of ten thousand reads no more.
pub const VOLUMES_PER_PART_MAX: usize = 512;
/// Most plaintext of a part that a writer makes, unless a single volume takes more.
const PART_LEN_BYTES_GOAL: usize = 4 << 20;

/// A volume's log when a round was sealed. Up to the high water, what is in no list is over for good, whatever stands
/// under its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    /// Its number in the catalog.
    pub volume: VolumeNumber,
    /// The last sequence of its log, whatever became of it.
    pub high_water: Sequence,
    /// Sequences of its live snapshots, ascending.
    pub live: Vec<Sequence>,
    /// Sequences without an outcome, ascending.
    pub unfinished: Vec<Sequence>,
    /// Sequences of snapshots that were forgotten not long ago, ascending: nothing that they need was deleted.
    pub kept: Vec<Sequence>,
}

impl RosterEntry {
    /// Whether a sequence was over, and no live snapshot: so it stays.
    pub fn is_past(&self, sequence: Sequence) -> bool {
        let listed = |list: &[Sequence]| list.binary_search(&sequence).is_ok();
        let is_listed = [&self.live, &self.unfinished, &self.kept].into_iter().any(|list| listed(list));
        sequence <= self.high_water && !is_listed
    }

    fn len_bytes(&self) -> usize {
        4 + 4 + 8 + 8 + 8 + 4 * (self.live.len() + self.unfinished.len() + self.kept.len())
    }

    fn is_in_order(&self) -> bool {
        let ascends = |list: &[Sequence]| {
            list.windows(2).all(|w| w[0] < w[1])
                && list.first().is_none_or(|s| *s > Sequence(0))
                && list.last().is_none_or(|s| *s <= self.high_water)
        };
        ascends(&self.live) && ascends(&self.unfinished) && ascends(&self.kept)
    }
}

/// A roster, ascending by volume, as its parts hold it.
pub fn parts_of(roster: &[RosterEntry]) -> Vec<&[RosterEntry]> {
    let mut parts = Vec::new();
    let mut rest = roster;
    while !rest.is_empty() {
        let (mut count, mut len_bytes) = (0, 8);
        for entry in rest.iter().take(VOLUMES_PER_PART_MAX) {
            len_bytes += entry.len_bytes();
            if count > 0 && len_bytes > PART_LEN_BYTES_GOAL {
                break;
            }
            count += 1;
        }
        let (part, after) = rest.split_at(count);
        parts.push(part);
        rest = after;
    }
    parts
}

/// The plaintext of a part.
pub fn encode(part: &[RosterEntry]) -> Result<Vec<u8>> {
    bincode::serde::encode_to_vec(part, config()).map_err(|e| crate::Error::internal(e.to_string()))
}

/// Reads a part that must have so many volumes, all of them above `after` and the last of them `last`.
pub fn decode(
    bytes: &[u8],
    entries: u32,
    after: VolumeNumber,
    last: VolumeNumber,
) -> Result<Vec<RosterEntry>> {
    let (roster, read): (Vec<RosterEntry>, usize) = bincode::serde::decode_from_slice(bytes, config())
        .map_err(|e| damaged(format!("a part of a roster does not decode: {e}")))?;
    let ascends = roster.windows(2).all(|w| w[0].volume < w[1].volume);
    let bounds =
        roster.first().is_some_and(|e| e.volume > after) && roster.last().is_some_and(|e| e.volume == last);
    if read != bytes.len() || roster.len() != entries as usize || !ascends || !bounds {
        return Err(damaged(format!(
            "a part of a roster with {} volumes, expected {entries} of those after {after} up to {last}, ascending",
            roster.len()
        )));
    }
    match roster.iter().find(|entry| !entry.is_in_order()) {
        Some(entry) => {
            Err(damaged(format!("the sequences of volume {} in a roster are not in order", entry.volume)))
        }
        None => Ok(roster),
    }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<GC_PART_LEN_BYTES_MAX>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(volume: u32, high_water: u32, live: &[u32]) -> RosterEntry {
        let live = live.iter().copied().map(Sequence).collect();
        let (volume, high_water) = (VolumeNumber(volume), Sequence(high_water));
        RosterEntry { volume, high_water, live, unfinished: Vec::new(), kept: Vec::new() }
    }

    #[test]
    fn a_roster_comes_back_and_its_parts_follow_one_another() {
        let roster: Vec<RosterEntry> = (1..=1_100).map(|n| entry(n, n, &[n])).collect();
        let parts = parts_of(&roster);
        assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), [512, 512, 76]);
        let mut after = VolumeNumber(0);
        for part in parts {
            let last = part[part.len() - 1].volume;
            let bytes = encode(part).expect("encodes");
            assert_eq!(decode(&bytes, part.len() as u32, after, last).expect("good"), part);
            assert!(decode(&bytes, part.len() as u32 + 1, after, last).is_err());
            assert!(decode(&bytes, part.len() as u32, last, last).is_err());
            assert!(decode(&bytes[..bytes.len() - 1], part.len() as u32, after, last).is_err());
            after = last;
        }
    }

    #[test]
    fn a_volume_with_very_many_snapshots_has_a_part_of_its_own() {
        let many: Vec<u32> = (1..=1_100_000).collect();
        let roster = [entry(1, 1, &[1]), entry(2, 2_000_000, &many), entry(3, 1, &[1])];
        assert_eq!(parts_of(&roster).iter().map(|p| p.len()).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn disorder_is_refused() {
        let (first, last) = (VolumeNumber(0), VolumeNumber(2));
        let bad = [
            vec![entry(2, 1, &[1]), entry(2, 1, &[1])],
            vec![entry(1, 2, &[2, 1]), entry(2, 1, &[1])],
            vec![entry(1, 2, &[1]), entry(2, 1, &[2])],
            vec![entry(1, 2, &[0]), entry(2, 1, &[1])],
        ];
        for roster in bad {
            let bytes = encode(&roster).expect("encodes");
            assert!(decode(&bytes, 2, first, last).is_err(), "{roster:?}");
        }
    }
}
