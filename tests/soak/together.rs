//! Backups, prunes and forgets at once, none of which ever waits for the others' consent.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::expected::{Expected, KEEP_LAST};
use crate::images::Image;
use crate::place::Place;
use crate::settled;

/// How many processes of each kind run at once.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    pub backups: usize,
    pub prunes: usize,
    pub forgets: usize,
}

/// Volumes of each backup.
const VOLUMES_EACH: usize = 2;
/// Hosts that the backups are spread over.
const HOSTS: usize = 4;

/// What was done. Sums of what the reports said.
#[derive(Debug, Default)]
struct Done {
    backup_runs: usize,
    acknowledged: usize,
    new_chunks: u64,
    known_chunks: u64,
    prune_runs: usize,
    longest_prune: Duration,
    rounds_begun: u64,
    rounds_joined: u64,
    rounds_finished: u64,
    deleted_chunks: u64,
    deleted_pages: u64,
    deleted_bundles: u64,
    aborted: usize,
    forget_runs: usize,
    forgotten: usize,
    failures: Vec<String>,
}

struct Soak<'a> {
    place: &'a Place,
    until: Instant,
    /// Set when something went wrong: nobody begins anything any more.
    stop: AtomicBool,
    expected: Mutex<Expected>,
    done: Mutex<Done>,
}

/// Lets the crowd loose for a time, then checks what it left.
pub fn run(place: &Place, crowd: Crowd, time: Duration, seed: u64) {
    place.init();
    let soak = Soak {
        place,
        until: Instant::now() + time,
        stop: AtomicBool::new(false),
        expected: Mutex::default(),
        done: Mutex::default(),
    };
    println!("seed {seed}: {crowd:?} for {time:?}");
    thread::scope(|scope| {
        for number in 0..crowd.backups {
            let soak = &soak;
            scope.spawn(move || soak.backups(number, crowd, seed));
        }
        for number in 0..crowd.prunes {
            let soak = &soak;
            scope.spawn(move || soak.prunes(&format!("pruner-{number}")));
        }
        for number in 0..crowd.forgets {
            let soak = &soak;
            scope.spawn(move || soak.forgets(&format!("forgetter-{number}")));
        }
    });
    // In a short run those beside the backups may have found all in use.
    soak.prune("pruner-last");
    let done = soak.done.into_inner().expect("no panic");
    println!("{done:#?}");
    assert!(done.failures.is_empty(), "{}", done.failures.join("\n"));
    let expected = soak.expected.into_inner().expect("no panic");
    settled::check(place, &expected, &["prune"]);
    assert!(done.rounds_finished > 0 && done.deleted_chunks > 0, "nothing was pruned");
}

impl Soak<'_> {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until && !self.stop.load(Ordering::Relaxed)
    }

    /// Runs a command that must succeed; if not, everything stops.
    fn run(&self, host: &str, args: &[&str]) -> Option<Vec<Value>> {
        let said = self.place.run(host, &[args, &["--json"]].concat());
        if said.code == Some(0) {
            return Some(said.lines);
        }
        self.stop.store(true, Ordering::Relaxed);
        let what = format!("cuttle {} on {host}: {:?}, {}", args.join(" "), said.code, said.stderr);
        self.done.lock().expect("no panic").failures.push(what);
        None
    }

    fn backups(&self, number: usize, crowd: Crowd, seed: u64) {
        let pool = Image::pool_for(crowd.backups * VOLUMES_EACH);
        let image = |n: usize| {
            let n = number * VOLUMES_EACH + n;
            Image::new(self.place.root(), &format!("volume-{n}"), seed * 1000 + n as u64, pool)
        };
        let mut images: Vec<Image> = (0..VOLUMES_EACH).map(image).collect();
        let host = format!("host-{}", number % HOSTS);
        while self.goes_on() {
            let contents: BTreeMap<_, _> =
                images.iter_mut().map(|i| (i.volume.clone(), i.change())).collect();
            let sources: Vec<&str> = contents.keys().map(String::as_str).collect();
            let Some(lines) = self.run(&host, &[&["backup"], sources.as_slice()].concat()) else { return };
            let acknowledged = self.expected.lock().expect("no panic").backed_up(&lines, &contents);
            assert_eq!(acknowledged, VOLUMES_EACH, "{lines:?}");
            let mut done = self.done.lock().expect("no panic");
            let summary = lines.last().expect("a summary");
            done.backup_runs += 1;
            done.acknowledged += acknowledged;
            done.new_chunks += count(&summary["new_chunks"]);
            done.known_chunks += count(&summary["known_chunks"]);
        }
    }

    fn prunes(&self, host: &str) {
        while self.goes_on() && self.prune(host) {}
    }

    /// False where it failed.
    fn prune(&self, host: &str) -> bool {
        let begun = Instant::now();
        let Some(lines) = self.run(host, &["prune"]) else { return false };
        let report = lines.last().expect("a summary");
        let mut done = self.done.lock().expect("no panic");
        done.prune_runs += 1;
        done.longest_prune = done.longest_prune.max(begun.elapsed());
        done.rounds_begun += count(&report["rounds_begun"]);
        done.rounds_joined += count(&report["rounds_joined"]);
        done.rounds_finished += count(&report["rounds_finished"]);
        done.deleted_chunks += count(&report["deleted_chunks"]["objects"]);
        done.deleted_pages += count(&report["deleted_pages"]["objects"]);
        done.deleted_bundles += count(&report["deleted_bundles"]["objects"]);
        done.aborted += report["aborted"].as_array().map_or(0, Vec::len);
        true
    }

    fn forgets(&self, host: &str) {
        let keep = KEEP_LAST.to_string();
        while self.goes_on() {
            let Some(lines) = self.run(host, &["forget", "--keep-last", &keep]) else { return };
            let forgotten = self.expected.lock().expect("no panic").forgot(&lines);
            let mut done = self.done.lock().expect("no panic");
            done.forget_runs += 1;
            done.forgotten += forgotten;
        }
    }
}

fn count(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}
