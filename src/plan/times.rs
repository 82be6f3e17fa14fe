//! Which times of snapshots a retention policy may go by, and when none can be relied on.
//!
//! The store's modification times count, as no client can forge them; but a repository that was copied has those of the copy,
//! and a store's clock may be wrong. What was sealed by the writer's clock cannot be changed, and may have been wrong from the
//! first. Where the two contradict each other nobody can tell which is right, so a person says.

use crate::units::Sequence;

/// How far the two clocks may be apart, and commits out of order: a backup may take a day.
const APART_MAX_MS: u64 = 2 * 24 * 3_600_000;
/// How far the clocks of one store's machines may be apart.
const FUTURE_MAX_MS: u64 = 3_600_000;

/// Which times count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Times {
    /// The store's, where nothing contradicts them.
    #[default]
    Checked,
    /// The store's, whatever contradicts them.
    Store,
    /// Those that the writers sealed.
    Sealed,
}

/// The times of one live snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timed {
    /// Its number within the volume.
    pub sequence: Sequence,
    /// By the store.
    pub committed_unix_ms: u64,
    /// By its writer.
    pub started_unix_ms: u64,
}

/// What is wrong with a snapshot's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contradiction {
    /// Store and writer are more than two days apart.
    Apart,
    /// The store says that it was made after now.
    Future,
    /// The store says that it was made more than two days before an older backup.
    BeforeOlder(Sequence),
}

impl Timed {
    /// The time that counts.
    pub(crate) fn at(&self, times: Times) -> u64 {
        match times {
            Times::Checked | Times::Store => self.committed_unix_ms,
            Times::Sealed => self.started_unix_ms,
        }
    }
}

/// Whether the store's now has to be asked for, as a time lies after `host_now_unix_ms`.
pub(crate) fn may_be_in_the_future(snapshots: &[Timed], host_now_unix_ms: u64) -> bool {
    snapshots.iter().any(|s| s.committed_unix_ms > host_now_unix_ms.saturating_add(FUTURE_MAX_MS))
}

/// The snapshots of one volume whose times contradict something, by sequence. `now_unix_ms` is the time of an object that was
/// just created, where that was asked for.
pub(crate) fn contradictions(snapshots: &[Timed], now_unix_ms: Option<u64>) -> Vec<(Timed, Contradiction)> {
    let mut by_sequence = snapshots.to_vec();
    by_sequence.sort_unstable_by_key(|s| s.sequence);
    let mut newest_so_far: Option<Timed> = None;
    let mut out = Vec::new();
    for snapshot in by_sequence {
        let is_future =
            now_unix_ms.is_some_and(|now| snapshot.committed_unix_ms > now.saturating_add(FUTURE_MAX_MS));
        let before = newest_so_far.filter(|older| {
            older.committed_unix_ms > snapshot.committed_unix_ms.saturating_add(APART_MAX_MS)
        });
        let found = if is_future {
            Some(Contradiction::Future)
        } else if snapshot.committed_unix_ms.abs_diff(snapshot.started_unix_ms) > APART_MAX_MS {
            Some(Contradiction::Apart)
        } else {
            before.map(|older| Contradiction::BeforeOlder(older.sequence))
        };
        out.extend(found.map(|found| (snapshot, found)));
        if newest_so_far.is_none_or(|newest| newest.committed_unix_ms < snapshot.committed_unix_ms) {
            newest_so_far = Some(snapshot);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * 3_600_000;

    /// Snapshots as days after 2026 began: by the store, by the writer.
    fn check(what: &str, days: &[(u64, u64)], now: Option<u64>, expected: &[(u32, Contradiction)]) {
        let at = |day: u64| if day == 0 { 0 } else { (20_454 + day) * DAY_MS };
        let snapshots: Vec<Timed> = (1..)
            .zip(days)
            .map(|(sequence, (store, writer))| Timed {
                sequence: Sequence(sequence),
                committed_unix_ms: at(*store),
                started_unix_ms: at(*writer),
            })
            .collect();
        let found = contradictions(&snapshots, now.map(at));
        let found: Vec<(u32, Contradiction)> = found.into_iter().map(|(s, c)| (s.sequence.0, c)).collect();
        assert_eq!(found, expected, "{what}");
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        use Contradiction::{Apart, BeforeOlder, Future};
        check("nothing", &[], Some(1), &[]);
        check("nights", &[(1, 1), (2, 2), (3, 3)], Some(3), &[]);
        check("a day and two for a backup", &[(3, 1), (4, 2), (4, 3)], None, &[]);
        check("committed in another order", &[(4, 3), (3, 3)], None, &[]);
        check("copied on day 40", &[(40, 1), (40, 2), (40, 39), (41, 41)], None, &[(1, Apart), (2, Apart)]);
        check(
            "one from the future",
            &[(1, 1), (3600, 2), (3, 3)],
            Some(3),
            &[(2, Future), (3, BeforeOlder(Sequence(2)))],
        );
        check("one from the future, unasked", &[(1, 1), (3600, 3600)], None, &[]);
        check("store and writer in the future", &[(1, 1), (3600, 3600)], Some(3), &[(2, Future)]);
        check("both clocks were set back", &[(1, 1), (2, 2), (0, 0)], None, &[(3, BeforeOlder(Sequence(2)))]);
        check("the writer's clock is of 1970", &[(1, 0), (2, 2)], None, &[(1, Apart)]);
    }

    #[test]
    fn the_store_is_asked_only_when_something_is_late() {
        let at = |ms| [Timed { sequence: Sequence(1), committed_unix_ms: ms, started_unix_ms: 0 }];
        assert!(!may_be_in_the_future(&at(DAY_MS), DAY_MS));
        assert!(!may_be_in_the_future(&at(DAY_MS + FUTURE_MAX_MS), DAY_MS));
        assert!(may_be_in_the_future(&at(2 * DAY_MS), DAY_MS));
    }
}
