//! In which order volumes are restored so that clones come back as clones, and which older snapshots parents pass on their way.

use std::collections::{BTreeMap, BTreeSet};

use crate::units::{Sequence, VolumeNumber};

/// Clones of clones: librbd allows 16 above one another.
const LEVELS_MAX: usize = 16;

/// A snapshot of a volume.
pub type Point = (VolumeNumber, Sequence);

/// A snapshot, and what its image was cloned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// The snapshot.
    pub point: Point,
    /// The snapshot that its record names as its origin.
    pub origin: Option<Point>,
}

/// How one volume is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// After how many others above it.
    pub level: usize,
    /// What the image becomes one after the other, ascending; the last is what is wanted. Clones hang on all before that.
    pub steps: Vec<Sequence>,
    /// Whether clones hang on the last, too.
    pub keeps_last: bool,
    /// What the image is made a clone of, where that is restored in the same run.
    pub parent: Option<Point>,
    /// The volume above all that it comes from: what hangs together stays together.
    pub root: VolumeNumber,
}

/// Orders what is wanted, one snapshot of each volume. `origins` are the snapshots of these volumes that others hang on.
pub fn order(wanted: &[Node], origins: &[Node]) -> Vec<Order> {
    let named: BTreeMap<Point, Node> = origins.iter().map(|node| (node.point, *node)).collect();
    let steps = |last: Sequence, volume| -> Vec<Sequence> {
        let older: BTreeSet<Sequence> =
            named.keys().filter(|p| p.0 == volume && p.1 < last).map(|p| p.1).collect();
        older.into_iter().chain([last]).collect()
    };
    let last: BTreeMap<VolumeNumber, &Node> = wanted.iter().map(|node| (node.point.0, node)).collect();
    // An image is made as its first step, so that is what says whose clone it is.
    let parent = |volume: VolumeNumber| {
        let last = last.get(&volume)?;
        let first = steps(last.point.1, volume).first().map_or(last.point, |first| (volume, *first));
        let origin = named.get(&first).unwrap_or(last).origin?;
        named.contains_key(&origin).then_some(origin)
    };
    let ordered = wanted.iter().map(|node| {
        let (volume, sequence) = node.point;
        let (mut level, mut root) = (0, volume);
        while let Some(above) = parent(root)
            && level <= LEVELS_MAX
        {
            (level, root) = (level + 1, above.0);
        }
        let in_circle = level > LEVELS_MAX;
        Order {
            level: if in_circle { 0 } else { level },
            steps: steps(sequence, volume),
            keeps_last: named.contains_key(&node.point),
            parent: parent(volume).filter(|_| !in_circle),
            root: if in_circle { volume } else { root },
        }
    });
    ordered.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at: (u32, u32)) -> Point {
        (VolumeNumber(at.0), Sequence(at.1))
    }

    fn node(at: (u32, u32), origin: Option<(u32, u32)>) -> Node {
        Node { point: point(at), origin: origin.map(point) }
    }

    #[test]
    fn parents_pass_what_clones_hang_on() {
        // A template at 9 with clones of 2 and 5, of which one is at 3 what another hangs on; one of a volume that is not wanted.
        let wanted = [
            node((4, 1), Some((2, 3))),
            node((2, 7), Some((1, 5))),
            node((3, 1), Some((1, 2))),
            node((1, 9), None),
            node((5, 1), Some((8, 1))),
        ];
        let origins = [node((1, 5), None), node((1, 2), None), node((2, 3), Some((1, 5)))];
        let found = order(&wanted, &origins);
        let told: Vec<_> = found
            .iter()
            .map(|o| (o.level, o.steps.iter().map(|s| s.0).collect::<Vec<_>>(), o.parent, o.root.0))
            .collect();
        assert_eq!(
            told,
            [
                (2, vec![1], Some(point((2, 3))), 1),
                (1, vec![3, 7], Some(point((1, 5))), 1),
                (1, vec![1], Some(point((1, 2))), 1),
                (0, vec![2, 5, 9], None, 1),
                (0, vec![1], None, 5),
            ]
        );
        assert!(order(&[node((1, 2), None)], &[node((1, 2), None)])[0].keeps_last);
        assert!(found.iter().all(|o| !o.keeps_last));
        // Nothing that records say makes it go on for ever.
        let circle = [node((1, 1), Some((2, 1))), node((2, 1), Some((1, 1)))];
        let found = order(&circle, &circle);
        assert!(found.iter().all(|o| o.level == 0 && o.parent.is_none()));
    }
}
