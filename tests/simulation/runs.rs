//! Many worlds, one again, and those that must go wrong.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::lies::{LIES, Lie, RARE_LIES};
use crate::world::{Outcome, run};

/// Worlds of an ordinary test run.
const SEEDS_DEFAULT: u64 = 2_000;
/// Worlds within which each lie is found out, where the one in which it showed last does not show it any more.
const SEEDS_TO_FIND_A_LIE_MAX: u64 = 10_000;
/// Lines of a log that are shown.
const LINES_SHOWN_MAX: usize = 400;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("a number"))
}

/// Shows what led to a violation, and how to see it again.
fn explain(seed: u64, what: &str) -> String {
    let lines = run(seed, None, true).lines;
    let from = lines.len().saturating_sub(LINES_SHOWN_MAX);
    let log = lines[from..].join("\n");
    format!("{log}\nseed {seed}: {what}\nagain: cargo xtask simulate --seed {seed}")
}

/// Runs worlds on all processors and stops at the first in which something is wrong.
fn many(first: u64, count: u64) {
    let (next, requests, begun) = (AtomicU64::new(first), AtomicU64::new(0), Instant::now());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let worker = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return None;
            }
            let outcome = run(seed, None, false);
            requests.fetch_add(outcome.requests, Ordering::Relaxed);
            if let Some(what) = outcome.violation {
                next.store(first + count, Ordering::Relaxed);
                return Some((seed, what));
            }
            if (seed - first + 1).is_multiple_of(10_000) {
                println!("{} worlds in {:.0} s", seed - first + 1, begun.elapsed().as_secs_f64());
            }
        }
    };
    let found = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().filter_map(|w| w.join().expect("no panic outside a world")).min()
    });
    if let Some((seed, what)) = found {
        panic!("{}", explain(seed, &what));
    }
    println!(
        "{count} worlds, {} requests, {:.1} s",
        requests.load(Ordering::Relaxed),
        begun.elapsed().as_secs_f64()
    );
}

#[test]
fn nothing_is_lost_in_thousands_of_worlds() {
    many(0, number("CUTTLE_SIMULATE_CI").unwrap_or(SEEDS_DEFAULT));
}

/// For `cargo xtask simulate`, which says how many and from where.
#[test]
#[ignore = "as long as one likes: cargo xtask simulate"]
fn by_command() {
    many(number("CUTTLE_SIMULATE_SEED").unwrap_or(0), number("CUTTLE_SIMULATE_SEEDS").unwrap_or(1));
}

/// For `cargo xtask simulate --seed S`: the whole log of one world.
#[test]
#[ignore = "shows one world: cargo xtask simulate --seed S"]
fn one_world() {
    let Outcome { digest, requests, lines, violation } =
        run(number("CUTTLE_SIMULATE_SEED").unwrap_or(0), None, true);
    lines.iter().for_each(|line| println!("{line}"));
    println!("{requests} requests, digest {digest:016x}");
    assert_eq!(violation, None);
}

#[test]
fn a_seed_gives_the_same_log_again_and_in_another_process() {
    let program = std::env::current_exe().expect("this program");
    for seed in [3, 5, 8] {
        let (once, twice) = (run(seed, None, true), run(seed, None, true));
        assert!(once.lines.len() > 100, "seed {seed}: only {} lines", once.lines.len());
        assert_eq!(once.lines, twice.lines);
        assert_eq!(once.digest, run(seed, None, false).digest);
        let other = Command::new(&program)
            .args(["--exact", "runs::one_world", "--ignored", "--nocapture"])
            .env("CUTTLE_SIMULATE_SEED", seed.to_string())
            .output()
            .expect("started");
        let other = String::from_utf8(other.stdout).expect("text");
        assert!(other.contains(&once.lines.join("\n")), "seed {seed}: another process did something else");
    }
    assert_ne!(run(3, None, false).digest, run(5, None, false).digest);
}

/// The first world that shows a lie, and what is seen there.
fn found_out(lie: Lie, known: u64) -> Option<(u64, String)> {
    // That nothing comes to rest where nothing is true shows nothing.
    let shows = |what: &String| !what.contains("come to rest") && !what.contains("nobody ends");
    let found = |seed| run(seed, Some(lie), false).violation.filter(shows).map(|what| (seed, what));
    found(known).or_else(|| (0..SEEDS_TO_FIND_A_LIE_MAX).find_map(found))
}

#[test]
fn every_lie_is_found_out() {
    all_found_out(LIES);
}

/// For `cargo xtask simulate --lies`.
#[test]
#[ignore = "searches thousands of worlds: cargo xtask simulate --lies"]
fn every_rare_lie_is_found_out() {
    all_found_out(RARE_LIES);
}

fn all_found_out<const N: usize>(lies: [(Lie, u64); N]) {
    let unseen: Vec<Lie> = std::thread::scope(|scope| {
        let looks = lies.map(|(lie, known)| (lie, scope.spawn(move || found_out(lie, known))));
        let found = looks.map(|(lie, look)| (lie, look.join().expect("no panic outside a world")));
        for (lie, found) in &found {
            println!("{lie:?}: {found:?}");
        }
        found.into_iter().filter(|(_, found)| found.is_none()).map(|(lie, _)| lie).collect()
    });
    assert!(unseen.is_empty(), "not found out: {unseen:?}");
}
