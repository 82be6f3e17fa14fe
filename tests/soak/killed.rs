//! The program killed at random, again and again: the next run succeeds, and nothing is lost.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::expected::{Expected, KEEP_LAST, listed};
use crate::images::{Hash, Image};
use crate::place::{Place, Said};
use crate::settled;
use crate::support::Numbers;

const HOST: &str = "host";
const VOLUMES: usize = 3;
const KINDS: [&str; 3] = ["backup", "forget", "prune"];
/// After it has been silent for so long, a killed backup may be ended by a prune.
const PRUNE: [&str; 3] = ["prune", "--lease", "1s"];

/// Cycles after which it says how far it is.
const TOLD_EVERY: u64 = 20;

struct Soak<'a> {
    place: &'a Place,
    numbers: Numbers,
    images: Vec<Image>,
    expected: Expected,
    /// How long a run of each kind takes that is left alone.
    lasts: BTreeMap<&'static str, Duration>,
    /// Kills by the kind of command and what it left.
    kills: BTreeMap<(&'static str, String), usize>,
    deleted: u64,
    aborted: usize,
}

/// Kills so many processes; every third time all that was hurt is mended. Then checks what is left.
pub fn run(place: &Place, cycles: u64, seed: u64) {
    place.init();
    println!("seed {seed}: {cycles} cycles");
    let begun = Instant::now();
    let pool = Image::pool_for(VOLUMES);
    let image = |n: usize| Image::new(place.root(), &format!("volume-{n}"), seed * 1000 + n as u64, pool);
    let mut soak = Soak {
        place,
        numbers: Numbers::new(seed),
        images: (0..VOLUMES).map(image).collect(),
        expected: Expected::with_kills(),
        lasts: BTreeMap::new(),
        kills: BTreeMap::new(),
        deleted: 0,
        aborted: 0,
    };
    for volume in 0..VOLUMES * 3 {
        soak.backup(volume % VOLUMES);
    }
    soak.prune();
    soak.forget();
    for cycle in 0..cycles {
        let volume = cycle as usize / KINDS.len() % VOLUMES;
        soak.kill(KINDS[cycle as usize % KINDS.len()], volume);
        if cycle as usize % KINDS.len() == KINDS.len() - 1 {
            soak.mend(volume, cycle);
        }
        if (cycle + 1).is_multiple_of(TOLD_EVERY) {
            println!("{} cycles in {:.0} s", cycle + 1, begun.elapsed().as_secs_f64());
        }
    }
    soak.mend(0, 0);
    let hit: usize = soak.kills.iter().filter(|((_, left), _)| left != ENDED).map(|(_, n)| n).sum();
    for ((kind, left), count) in &soak.kills {
        println!("{count:>4} × {kind}: {left}");
    }
    println!(
        "{hit} of {cycles} killed, {} objects deleted, {} backups aborted by prunes",
        soak.deleted, soak.aborted
    );
    settled::check(place, &soak.expected, &PRUNE);
    assert!(hit as u64 * 3 > cycles, "too few were killed in time");
}

/// What is noted of a process that ended before it was killed.
const ENDED: &str = "had ended";

impl Soak<'_> {
    /// Every command succeeds, in one order or another, and everything is as it was said to be.
    fn mend(&mut self, volume: usize, cycle: u64) {
        // The dead backup is settled by the next one of the same volume, or by the prune when its lease is over.
        match cycle as usize / KINDS.len() % 4 {
            0 => {
                self.prune();
                self.backup(volume);
            }
            _ => {
                self.backup(volume);
                self.prune();
            }
        }
        // Last, so that the next prune has something to delete.
        self.forget();
        let snapshots = listed(&self.place.ok(HOST, &["snapshots"]));
        let wrong = self.expected.compare(&snapshots);
        assert!(wrong.is_empty(), "after cycle {cycle}: {}", wrong.join("\n"));
    }

    fn kill(&mut self, kind: &'static str, volume: usize) {
        let contents = if kind == "backup" { self.change(volume) } else { BTreeMap::new() };
        let keep = KEEP_LAST.to_string();
        let name = self.images[volume].volume.clone();
        let args: Vec<&str> = match kind {
            "backup" => vec!["backup", &name, "--json"],
            "forget" => vec!["forget", "--keep-last", &keep, "--json"],
            _ => [PRUNE.as_slice(), &["--json"]].concat(),
        };
        let lasts = self.lasts.get(kind).copied().unwrap_or_default();
        let delay = lasts.mul_f64(self.numbers.below(1000) as f64 / 1000.0);
        let mut child = self.place.start(HOST, &args);
        thread::sleep(delay);
        child.kill().expect("kill the process");
        let said = Said::from(child.wait_with_output().expect("wait for the process"));
        assert!(said.code.is_none_or(|code| code == 0), "cuttle {}: {}", args.join(" "), said.stderr);
        let left = if said.code.is_some() { ENDED.to_owned() } else { self.left(kind, volume) };
        *self.kills.entry((kind, left)).or_default() += 1;
        self.expected.backed_up(&said.lines, &contents);
        self.expected.forgot(&said.lines);
    }

    /// What a killed process left in the store.
    fn left(&self, kind: &str, volume: usize) -> String {
        match kind {
            "backup" => {
                // Volumes were first backed up in order, so they have these numbers.
                let log = self.place.objects(&format!("log/{:010}/", volume + 1));
                let last = |end: &str| log.iter().filter(|name| name.ends_with(end)).max().cloned();
                let stem = |name: Option<String>| name.and_then(|n| Some(n.rsplit_once('.')?.0.to_owned()));
                let done = stem(last(".open")) == stem(last(".end"));
                if done { "nothing, or all" } else { "a session without an end" }.to_owned()
            }
            "prune" => {
                let mut rounds = self.place.objects("gc/");
                rounds.retain(|name| !name.contains("/parts/"));
                let number = |name: &String| Some(name.rsplit('/').next()?.split_once('.')?.0.to_owned());
                let Some(newest) = rounds.iter().filter_map(number).max() else {
                    return "no round yet".to_owned();
                };
                let has = |end: &str| rounds.iter().any(|name| name.ends_with(&format!("{newest}.{end}")));
                match (has("seal"), has("done")) {
                    (_, true) => "no open round".to_owned(),
                    (true, false) => "a round sealed and not done".to_owned(),
                    (false, false) => "a round begun and not sealed".to_owned(),
                }
            }
            _ => "killed".to_owned(),
        }
    }

    fn change(&mut self, volume: usize) -> BTreeMap<String, Hash> {
        let image = &mut self.images[volume];
        let content = image.change();
        self.expected.attempted(&image.volume, content);
        BTreeMap::from([(image.volume.clone(), content)])
    }

    fn timed<T>(&mut self, kind: &'static str, run: impl FnOnce(&Place) -> T) -> T {
        let begun = Instant::now();
        let out = run(self.place);
        self.lasts.insert(kind, begun.elapsed());
        out
    }

    fn backup(&mut self, volume: usize) {
        let contents = self.change(volume);
        let name = self.images[volume].volume.clone();
        let lines = self.timed("backup", |place| place.ok(HOST, &["backup", &name]));
        assert_eq!(self.expected.backed_up(&lines, &contents), 1, "{lines:?}");
    }

    fn forget(&mut self) {
        let keep = KEEP_LAST.to_string();
        let lines = self.timed("forget", |place| place.ok(HOST, &["forget", "--keep-last", &keep]));
        self.expected.forgot(&lines);
    }

    fn prune(&mut self) {
        let report = self.timed("prune", |place| place.summary(HOST, &PRUNE));
        for kind in ["deleted_chunks", "deleted_pages", "deleted_bundles"] {
            self.deleted += report[kind]["objects"].as_u64().expect("a number");
        }
        self.aborted += report["aborted"].as_array().map_or(0, Vec::len);
        assert_eq!(report["round_open"], false, "{report}");
    }
}
