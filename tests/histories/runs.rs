//! Many histories, one again, and a finding made small.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::operator::Operator;
use crate::steps;
use crate::support::ceph::Ceph;
use crate::support::skip;
use crate::worker::{Outcome, Run, Worker, without};
use crate::world::{Finding, Tally};

/// Histories of an ordinary test run, and how long they may take; fewer are run where that is not enough.
const SEEDS_DEFAULT: u64 = 40;
const SECONDS_DEFAULT: u64 = 80;
/// Histories after which a process begins anew, with a new pool: nothing piles up.
const SEEDS_PER_PROCESS: u64 = 60;
/// Findings of one kind that are made small, and for how long that is tried.
const SHRUNK_OF_A_KIND_MAX: usize = 1;
const SHRINKING_MAX: Duration = Duration::from_secs(150);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().expect("a number"))
}

struct Found {
    seed: u64,
    finding: Finding,
}

/// What a run showed.
#[derive(Default)]
struct Report {
    histories: u64,
    found: Vec<Found>,
    tally: Tally,
}

/// How much is run.
#[derive(Clone, Copy)]
struct Amount {
    first: u64,
    count: u64,
    seconds_max: Option<u64>,
}

fn many(run: &Run, amount: Amount) -> Report {
    let (next, begun) = (AtomicU64::new(amount.first), Instant::now());
    let report = Mutex::new(Report::default());
    let in_time = || amount.seconds_max.is_none_or(|max| begun.elapsed().as_secs() < max);
    let work = |number: usize| {
        let mut worker = Worker::new(run, number);
        for turn in 1.. {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= amount.first + amount.count || !in_time() {
                return;
            }
            let outcome = worker.history(seed, None);
            report.lock().expect("not poisoned").add(seed, outcome, begun);
            if turn % SEEDS_PER_PROCESS == 0 {
                worker.end();
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        (0..workers).for_each(|number| drop(scope.spawn(move || work(number))));
    });
    report.into_inner().expect("not poisoned")
}

impl Report {
    fn add(&mut self, seed: u64, outcome: Outcome, begun: Instant) {
        self.histories += 1;
        for (kind, count) in outcome.tally {
            *self.tally.entry(kind).or_default() += count;
        }
        if let Some(finding) = outcome.finding {
            println!("seed {seed}: {}: {}", finding.kind, finding.what);
            self.found.push(Found { seed, finding });
        }
        if self.histories.is_multiple_of(100) {
            println!(
                "{} histories, {} findings, {:.0} s",
                self.histories,
                self.found.len(),
                begun.elapsed().as_secs_f64()
            );
        }
    }

    fn print(&self) {
        for (kind, count) in &self.tally {
            println!("{count:>8} {kind}");
        }
        let mut kinds: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for found in &self.found {
            kinds.entry(&found.finding.kind).or_default().push(found.seed);
        }
        for (kind, seeds) in kinds {
            println!("{:>8} FOUND {kind}: seeds {seeds:?}", seeds.len());
        }
    }
}

/// Leaves out steps for as long as the same kind of thing is found: first many at once, then each.
fn shrink(run: &Run, seed: u64, kind: &str) -> (Vec<usize>, Outcome) {
    let mut worker = Worker::new(run, 99);
    let begun = Instant::now();
    let mut kept: Vec<usize> = (0..steps::count(&steps::history(seed, &run.without))).collect();
    let mut smallest = worker.history(seed, Some(&kept));
    let mut piece = kept.len() / 2;
    while piece > 0 {
        let (mut at, before) = (0, kept.len());
        while at < kept.len() && begun.elapsed() < SHRINKING_MAX {
            let end = kept.len().min(at + piece);
            let fewer: Vec<usize> = kept[..at].iter().chain(&kept[end..]).copied().collect();
            let outcome = worker.history(seed, Some(&fewer));
            if outcome.finding.as_ref().is_some_and(|found| found.kind == kind) {
                (kept, smallest) = (fewer, outcome);
            } else {
                at = end;
            }
        }
        // Once single steps are left out, it is over when none is any more.
        piece = if piece == 1 && kept.len() < before { 1 } else { piece / 2 };
        if begun.elapsed() >= SHRINKING_MAX {
            break;
        }
    }
    (kept, smallest)
}

/// Shows one of each kind of what was found, as small as can be, and how to see it again.
fn explain(run: &Run, report: &Report) -> String {
    let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
    let mut out = String::new();
    for Found { seed, finding } in &report.found {
        let times = shown.entry(&finding.kind).or_default();
        *times += 1;
        if *times > SHRUNK_OF_A_KIND_MAX {
            continue;
        }
        let (kept, outcome) = shrink(run, *seed, &finding.kind);
        let what = outcome.finding.map_or_else(
            || format!("{}, but not again: {}", finding.kind, finding.what),
            |finding| format!("{}: {}", finding.kind, finding.what),
        );
        let steps = kept.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let without = match run.without.is_empty() {
            true => String::new(),
            false => format!(" --without {}", run.without.join(",")),
        };
        out += &format!(
            "\n{}\nseed {seed}: {what}\nagain: cargo xtask soak --histories 1 --seed {seed}{without} --steps {steps}\n",
            outcome.log.join("\n")
        );
    }
    out
}

/// What a run needs; where it is missing, the test is skipped.
fn prepared() -> Option<Run> {
    let ceph = Ceph::first()?;
    if !Operator::is_installed() {
        skip("python3-rbd and python3-rados are not installed");
        return None;
    }
    // Pools are this test's own, and it removes them.
    ceph.ceph(&["config", "set", "mon", "mon_allow_pool_delete", "true"]);
    Some(Run { conf: ceph.conf, without: without() })
}

fn judge(run: &Run, report: &Report) {
    assert!(report.found.is_empty(), "{}", explain(run, report));
}

#[test]
fn histories_of_images_are_backed_up_and_brought_back_exactly() {
    let Some(run) = prepared() else { return };
    let report = many(&run, Amount { first: 1, count: SEEDS_DEFAULT, seconds_max: Some(SECONDS_DEFAULT) });
    report.print();
    judge(&run, &report);
}

/// For `cargo xtask soak --histories N`.
#[test]
#[ignore = "as long as one likes: cargo xtask soak --histories N"]
fn by_command() {
    let Some(run) = prepared() else { return };
    let (first, count) = (number("CUTTLE_SOAK_SEED", 1), number("CUTTLE_SOAK_HISTORIES", 2000));
    let kept = std::env::var("CUTTLE_HISTORIES_STEPS").ok().filter(|kept| !kept.is_empty());
    if count > 1 {
        let begun = Instant::now();
        let report = many(&run, Amount { first, count, seconds_max: None });
        report.print();
        println!("{} histories in {:.0} s", report.histories, begun.elapsed().as_secs_f64());
        return judge(&run, &report);
    }
    let kept = kept.map(|kept| kept.split(',').map(|n| n.parse().expect("a number")).collect::<Vec<_>>());
    let outcome = Worker::new(&run, 0).history(first, kept.as_deref());
    outcome.log.iter().for_each(|line| println!("{line}"));
    assert_eq!(outcome.finding, None);
}
