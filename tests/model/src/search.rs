//! Breadth-first search over all reachable states.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use crate::laws::{self, Violation};
use crate::rules::{Reduction, Rules};
use crate::step::{self, Step};
use crate::world::World;

/// The quiet end is tried from one state in so many.
const QUIET_ONE_IN: u64 = 8;

/// What a search went through.
#[derive(Debug)]
pub struct Report {
    pub states: u64,
    /// Steps from the first state to the farthest.
    pub depth: u32,
    /// Most states that waited for their turn at once.
    pub frontier_max: usize,
    /// Bytes of fingerprints and waiting states at the end of the search, about.
    pub bytes: u64,
    pub seconds: f64,
    /// Whether all reachable states were seen.
    pub complete: bool,
    pub violation: Option<Violation>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>12} states{} {:>3} steps deep, {:>8} at once, {:>6} MiB, {:>6.1} s",
            self.states,
            if self.complete { " " } else { "+" },
            self.depth,
            self.frontier_max,
            self.bytes >> 20,
            self.seconds
        )
    }
}

/// Goes through all states, or `states_max` of them, and stops at the first violation.
///
/// Of a visited state 64 bits are kept. Among n states the chance that any two share them, so that one may be missed, is
/// about n² / 2^65: 3 in a million for 10^7 states, 3 in ten thousand for 10^8.
pub fn search(rules: &Rules, states_max: u64) -> Report {
    search_for(rules, states_max, &|world, print| broken(world, print, rules))
}

/// As [`search`], for states of which `judge` says something. It is also told the fingerprint.
pub fn search_for(
    rules: &Rules,
    states_max: u64,
    judge: &dyn Fn(&World, u64) -> Option<Violation>,
) -> Report {
    let begun = Instant::now();
    let first = rules.first();
    let mut seen: HashSet<u64, BuildHasherDefault<Same>> = HashSet::default();
    seen.insert(fingerprint(&first));
    let mut report = Report {
        states: 1,
        depth: 0,
        frontier_max: 1,
        bytes: 0,
        seconds: 0.0,
        complete: true,
        violation: judge(&first, 0),
    };
    let (mut level, mut later, mut steps) = (vec![first], Vec::new(), Vec::new());
    'levels: while !level.is_empty() && report.violation.is_none() {
        for world in &level {
            step::next(world, rules, &mut steps);
            for (_, then) in &steps {
                let print = fingerprint(then);
                if !seen.insert(print) {
                    continue;
                }
                report.states += 1;
                later.push(*then);
                report.violation = judge(then, print);
                report.complete = report.states < states_max;
                if report.violation.is_some() || !report.complete {
                    break 'levels;
                }
            }
        }
        report.depth += u32::from(!later.is_empty());
        report.frontier_max = report.frontier_max.max(later.len());
        std::mem::swap(&mut level, &mut later);
        later.clear();
    }
    let waiting = (level.capacity() + later.capacity()) * size_of::<World>();
    // A byte for each place beside its eight, and an eighth of the places stays free.
    report.bytes = (seen.capacity() * 9 * 8 / 7 + waiting) as u64;
    report.seconds = begun.elapsed().as_secs_f64();
    report
}

fn broken(world: &World, print: u64, rules: &Rules) -> Option<Violation> {
    let quiet = |landed| laws::check_quiet(world, rules, landed);
    let window = || if rules.window && rules.quiet { laws::check_window(world) } else { None };
    match laws::check(world, rules).or_else(window) {
        None if rules.quiet && print.is_multiple_of(QUIET_ONE_IN) => quiet(false).or_else(|| quiet(true)),
        found => found,
    }
}

/// A shortest way to a violation, with the state after each step; `None` when there is none within `states_max`.
pub fn trace(rules: &Rules, states_max: u64) -> Option<(Vec<(Step, World)>, Violation)> {
    let first = rules.first();
    let mut seen: HashSet<u64, BuildHasherDefault<Same>> = HashSet::default();
    seen.insert(fingerprint(&first));
    // Each state with the place of the one before it.
    let (mut states, mut steps) = (vec![(first, 0u32)], Vec::new());
    let mut at = 0;
    while at < states.len() && (states.len() as u64) < states_max {
        step::next(&states[at].0, rules, &mut steps);
        for (_, then) in &steps {
            let print = fingerprint(then);
            if seen.insert(print) {
                states.push((*then, at as u32));
                if let Some(found) = broken(then, print, rules) {
                    return Some((replay(rules, &way(&states)), found));
                }
            }
        }
        at += 1;
    }
    None
}

/// Such a way, a line for each step.
pub fn way_text(way: &[(Step, World)]) -> String {
    way.iter().zip(1..).map(|((step, _), number)| format!("{number:>3}  {step}\n")).collect()
}

/// The states from the first to the last.
fn way(states: &[(World, u32)]) -> Vec<World> {
    let mut at = states.len() - 1;
    let mut way = vec![states[at].0];
    while at != 0 {
        at = states[at].1 as usize;
        way.push(states[at].0);
    }
    way.reverse();
    way
}

/// Goes the way again, this time with pruners that keep their numbers.
fn replay(rules: &Rules, way: &[World]) -> Vec<(Step, World)> {
    let named = Rules { reduction: rules.reduction.min(Reduction::Tidied), ..*rules };
    let mut world = rules.first();
    let mut out = Vec::new();
    let mut steps = Vec::new();
    for wanted in &way[1..] {
        step::next(&world, &named, &mut steps);
        let taken = steps.iter().find(|(_, then)| {
            let mut sorted = *then;
            step::tidy(&mut sorted, rules);
            sorted == *wanted
        });
        let &(step, then) = taken.expect("a step that was taken can be taken again");
        out.push((step, then));
        world = then;
    }
    out
}

fn fingerprint(world: &World) -> u64 {
    let mut print = 0x9e37_79b9_7f4a_7c15;
    for word in world.words() {
        // The finaliser of splitmix64: a bijection, so states that differ in one word never meet.
        let mut x: u64 = print ^ word;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        print = (x ^ (x >> 31)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    print
}

/// Fingerprints need no second hashing.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers of 64 bits are kept")
    }

    fn write_u64(&mut self, print: u64) {
        self.0 = print;
    }
}
