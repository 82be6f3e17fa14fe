//! Snapshots that clones hang on stay as long as these do: without them the clones come back whole, and the next clone is read whole.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::family::Point;

/// Which of those that are to go stay, each with one that stays and hangs on it. `origins` says of snapshots, whatever becomes of them,
/// what they hang on.
pub(crate) fn hung_on(going: &BTreeSet<Point>, origins: &BTreeMap<Point, Point>) -> BTreeMap<Point, Point> {
    let mut kept = BTreeMap::new();
    let mut staying: Vec<Point> = origins.keys().filter(|clone| !going.contains(clone)).copied().collect();
    while let Some(clone) = staying.pop() {
        if let Some(origin) = origins.get(&clone)
            && going.contains(origin)
            && !kept.contains_key(origin)
        {
            kept.insert(*origin, clone);
            staying.push(*origin);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Sequence, VolumeNumber};

    #[test]
    fn a_chain_of_clones_stays_as_a_whole() {
        let at = |(volume, sequence): (u32, u32)| (VolumeNumber(volume), Sequence(sequence));
        // 3 hangs on 2, which hangs on 1; 4 goes with what it hangs on; 5 and 6 hang on each other, as no repository of ours has it.
        let origins =
            [((3, 1), (2, 4)), ((2, 4), (1, 1)), ((4, 1), (1, 2)), ((5, 1), (6, 1)), ((6, 1), (5, 1))];
        let origins = origins.map(|(clone, origin)| (at(clone), at(origin))).into();
        let going = [(2, 4), (1, 1), (1, 2), (1, 3), (4, 1), (5, 1), (6, 1)].map(at).into();
        let kept = hung_on(&going, &origins);
        assert_eq!(kept, [((2, 4), (3, 1)), ((1, 1), (2, 4))].map(|(o, c)| (at(o), at(c))).into());
    }
}
