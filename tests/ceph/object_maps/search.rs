//! All histories of a small image: the fast diff, where the rule believes it, misses nothing. Without any one of the rule's
//! conditions a history is found in which it does.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use cuttle::rbd::diff::judge::{Between, Facts, History, Verdict, judge};

use super::model::{At, Record, SNAPSHOTS_MAX, World, facts};

/// What people, Ceph and cuttle do to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Write,
    Discard,
    Resize(bool),
    Snapshot,
    Remove(u8),
    RollBack(u8),
    Begin,
    Commit,
    GiveUp,
    Toggle,
    Rebuild(Option<u8>),
}

/// A condition of the rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// (1)
    Alone,
    /// (2)
    NoneSince,
    /// (3)
    CleanBits,
    /// (4)
    Valid,
}

struct Search {
    without: Without,
    /// Where each world was first met: the one before, and what led here.
    met: HashMap<World, Option<(World, Op)>>,
    miss: Option<(Op, World, World, &'static str)>,
}

impl Search {
    /// Breadth first, so that the history it finds is a shortest one. Worlds with more snapshots are not gone into, and it
    /// ends with so many worlds.
    fn run(without: Without, snapshots_max: usize, toggles: bool, worlds_max: usize) -> Self {
        let start = World::new();
        let mut this = Self { without, met: HashMap::from([(start, None)]), miss: None };
        let mut layer = vec![start];
        while !layer.is_empty() && this.met.len() < worlds_max {
            let mut next = Vec::new();
            for world in layer {
                for op in ops(&world, snapshots_max, toggles) {
                    let after = this.step(world, op);
                    if this.miss.is_some() {
                        return this;
                    }
                    if let Entry::Vacant(new) = this.met.entry(after) {
                        new.insert(Some((world, op)));
                        next.push(after);
                    }
                }
            }
            layer = next;
        }
        this
    }

    fn step(&mut self, before: World, op: Op) -> World {
        let mut world = before;
        match op {
            Op::Write => world.write(),
            Op::Discard => world.discard(),
            Op::Resize(large) => world.resize(large),
            Op::Snapshot => drop(world.create(false)),
            Op::Remove(id) => world.remove(id),
            Op::RollBack(id) => world.roll_back(id),
            Op::Begin => {
                let base = world.base.filter(|base| world.snap(base.id).is_some());
                let (between, newer) = world.begin();
                if let Some(base) = base {
                    self.look(before, op, &world, (base, newer, between));
                }
            }
            Op::Commit => world.commit(),
            Op::GiveUp => world.pending = None,
            Op::Toggle => world.toggle(),
            Op::Rebuild(id) => world.rebuild(id),
        }
        let world = world.canonical();
        // Any moment may be the one at which the base is restored in place.
        if let Some(base) = world.base.filter(|_| op != Op::Begin) {
            let seen = world.context();
            let between = Between::Seen { before: seen.clone(), after: seen };
            self.look(before, op, &world, (base, world.now(), between));
        }
        world
    }

    fn look(&mut self, before: World, op: Op, world: &World, (base, to, between): (Record, At, Between)) {
        let (fast, slow) = (world.fast_misses(base.id, to), world.slow_misses(base.id, to));
        if !fast && !slow {
            return;
        }
        let history = World::history(base, between);
        let (broken, left_out);
        let mut facts = facts(world, base, to, &history);
        if self.without == Without::Valid {
            (facts.newer.flags, left_out) =
                (0, facts.base.map(|base| cuttle::rbd::diff::judge::End { flags: 0, ..base }));
            facts.base = left_out;
        } else {
            broken = leave_out(self.without, &history, &facts);
            facts.history = &broken;
        }
        match judge(&facts) {
            Verdict::Fast if fast => self.miss = Some((op, before, *world, "fast")),
            Verdict::Slow { maps_hold: true, .. } if slow => self.miss = Some((op, before, *world, "slow")),
            _ => {}
        }
    }

    /// What led to the miss, oldest first.
    fn story(&self) -> Vec<Op> {
        let Some((last, mut world, ..)) = self.miss else { return Vec::new() };
        let mut ops = vec![last];
        while let Some(Some((before, op))) = self.met.get(&world) {
            ops.push(*op);
            world = *before;
        }
        ops.reverse();
        ops
    }
}

/// The history as a rule without one of its conditions sees it.
fn leave_out(without: Without, history: &History, facts: &Facts<'_>) -> History {
    let mut history = history.clone();
    match without {
        Without::Alone => {
            if let Some(made) = &mut history.made {
                made.others = made.replaces.into_iter().collect();
            }
        }
        Without::NoneSince => {
            let base = facts.base.and_then(|base| base.snapshot).map_or(0, |(id, _)| id);
            if let Between::Seen { before, after } = &mut history.between {
                before.seq = base;
                after.seq = facts.newer.snapshot.map_or(base, |(id, _)| id);
            }
        }
        Without::CleanBits => {
            if let Some(made) = &mut history.made {
                made.replaced_has_clean = Some(false);
            }
        }
        Without::Nothing | Without::Valid => {}
    }
    history
}

fn ops(world: &World, snapshots_max: usize, toggles: bool) -> Vec<Op> {
    let mut ops = vec![Op::Write, Op::Discard, Op::Resize(!world.head.large)];
    if world.count() < snapshots_max.min(SNAPSHOTS_MAX) {
        ops.push(Op::Snapshot);
        if world.pending.is_none() {
            ops.push(Op::Begin);
        }
    }
    for snap in world.snaps() {
        ops.extend([Op::Remove(snap.id), Op::RollBack(snap.id), Op::Rebuild(Some(snap.id))]);
    }
    if world.pending.is_some() {
        ops.extend([Op::Commit, Op::GiveUp]);
    }
    if toggles {
        ops.extend([Op::Toggle, Op::Rebuild(None)]);
    }
    ops
}

/// Worlds that the test of every day looks at: about five times as many as the last of the misses below is found in.
/// `CUTTLE_TEST_WORLDS` says more.
const WORLDS_MAX: usize = 120_000;

#[test]
fn the_whole_rule_misses_nothing() {
    let worlds_max =
        std::env::var("CUTTLE_TEST_WORLDS").ok().and_then(|w| w.parse().ok()).unwrap_or(WORLDS_MAX);
    for (snapshots_max, toggles) in [(3, false), (2, true)] {
        let began = std::time::Instant::now();
        let search = Search::run(Without::Nothing, snapshots_max, toggles, worlds_max);
        println!("{} worlds with {snapshots_max} snapshots, {:?}", search.met.len(), began.elapsed());
        assert!(search.miss.is_none(), "{:?} missed after {:?}", search.miss, search.story());
        assert!(search.met.len() > 10_000, "the search went nowhere: {}", search.met.len());
    }
}

/// Each condition is needed.
#[test]
fn a_rule_without_one_of_its_conditions_misses_something() {
    for (without, toggles) in [
        (Without::Alone, false),
        (Without::NoneSince, false),
        (Without::CleanBits, false),
        (Without::Valid, true),
    ] {
        let search = Search::run(without, 3, toggles, WORLDS_MAX);
        println!("without {without:?}: {} worlds, {:?}", search.met.len(), search.story());
        assert!(
            search.miss.is_some(),
            "without {without:?} no miss was found in {} worlds",
            search.met.len()
        );
    }
}
