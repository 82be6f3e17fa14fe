//! Whether everything that the last round knew is still there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::format::roster::RosterEntry;
use crate::units::{Sequence, VolumeNumber};

/// One volume as its confirmed log shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VolumeState {
    /// The highest one there is, of whatever outcome; 0 for none.
    pub last: Sequence,
    /// Those with a snapshot that is not forgotten.
    pub live: BTreeSet<Sequence>,
    /// Those with a `.forget`.
    pub forgotten: BTreeSet<Sequence>,
}

/// What the last round knew and is not there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The catalog has fewer volumes.
    Volume(VolumeNumber),
    /// The volume's log ends below what it had.
    Log {
        /// Whose log it is.
        volume: VolumeNumber,
        /// Where it ends now.
        last: Sequence,
        /// Where it ended in the last seal.
        high_water: Sequence,
    },
    /// The snapshot is neither live nor forgotten.
    Snapshot(VolumeNumber, Sequence),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(volume) => write!(f, "volume {volume} was in the catalog and is not any more"),
            Self::Log { volume, last, high_water } => {
                write!(f, "the log of volume {volume} ends at {last}, and ended at {high_water} before")
            }
            Self::Snapshot(volume, sequence) => write!(
                f,
                "snapshot {sequence} of volume {volume} was live when the last prune looked, is not now, and was not forgotten"
            ),
        }
    }
}

/// Holds the roster of the last seal against the volumes of now.
pub(crate) fn lost(roster: &[RosterEntry], volumes: &BTreeMap<VolumeNumber, VolumeState>) -> Vec<Lost> {
    let mut lost = Vec::new();
    for entry in roster {
        let Some(now) = volumes.get(&entry.volume) else {
            lost.push(Lost::Volume(entry.volume));
            continue;
        };
        let (volume, last, high_water) = (entry.volume, now.last, entry.high_water);
        if last < high_water {
            lost.push(Lost::Log { volume, last, high_water });
        }
        let gone = |s: &&Sequence| !now.live.contains(s) && !now.forgotten.contains(s);
        lost.extend(entry.live.iter().filter(gone).map(|s| Lost::Snapshot(volume, *s)));
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(last: u32, live: &[u32], forgotten: &[u32]) -> VolumeState {
        let set = |of: &[u32]| of.iter().copied().map(Sequence).collect();
        VolumeState { last: Sequence(last), live: set(live), forgotten: set(forgotten) }
    }

    fn entry(volume: u32, high_water: u32, live: &[u32]) -> RosterEntry {
        let live = live.iter().copied().map(Sequence).collect();
        let (volume, high_water) = (VolumeNumber(volume), Sequence(high_water));
        RosterEntry { volume, high_water, live, unfinished: Vec::new(), kept: Vec::new() }
    }

    fn volumes<const N: usize>(states: [VolumeState; N]) -> BTreeMap<VolumeNumber, VolumeState> {
        (1..).map(VolumeNumber).zip(states).collect()
    }

    #[test]
    fn what_shrank_is_named_and_what_was_forgotten_is_not() {
        let roster = [entry(1, 5, &[2, 3, 5]), entry(2, 1, &[1])];
        let whole = volumes([state(7, &[3, 7], &[2, 5]), state(1, &[1], &[])]);
        assert_eq!(lost(&roster, &whole), []);
        let short = volumes([state(4, &[2, 3], &[])]);
        let (one, two) = (VolumeNumber(1), VolumeNumber(2));
        let expected = [
            Lost::Log { volume: one, last: Sequence(4), high_water: Sequence(5) },
            Lost::Snapshot(one, Sequence(5)),
            Lost::Volume(two),
        ];
        assert_eq!(lost(&roster, &short), expected);
        assert_eq!(lost(&roster, &volumes([])), [Lost::Volume(one), Lost::Volume(two)]);
        assert_eq!(lost(&[entry(0, 0, &[])], &whole), [Lost::Volume(VolumeNumber(0))]);
    }
}
