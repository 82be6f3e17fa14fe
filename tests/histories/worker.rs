//! A process of its own for histories, so that one which librbd ends is a finding with its seed.
//!
//! The parent writes a line for each history, `SEED` or `SEED I,J,…` for some of its steps; the child answers with the log, each line
//! of which begins with two blanks, and at last a line of JSON behind [`RESULT`].

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::operator::Operator;
use crate::steps;
use crate::support::ceph::Ceph;
use crate::world::{self, Finding, Place, Tally};

/// A history that says nothing for so long hangs: a step takes milliseconds.
const SILENCE_MAX: Duration = Duration::from_secs(180);
const RESULT: &str = "@result ";
const POOL: &str = "CUTTLE_HISTORIES_POOL";

/// What came of a history.
#[derive(Debug, Default)]
pub struct Outcome {
    pub finding: Option<Finding>,
    pub log: Vec<String>,
    pub tally: Tally,
}

/// What all processes of a run are told.
#[derive(Debug, Clone)]
pub struct Run {
    pub conf: String,
    /// Kinds of steps that are left out.
    pub without: Vec<String>,
}

/// A child, and the pool that is its own.
pub struct Worker {
    run: Run,
    pool: String,
    running: Option<Running>,
}

struct Running {
    child: Child,
    requests: Option<ChildStdin>,
    lines: Receiver<String>,
    /// What it and its operator said on standard error.
    said: File,
}

impl Worker {
    pub fn new(run: &Run, number: usize) -> Self {
        let pool = format!("histories-{}-{number}", std::process::id());
        Self { run: run.clone(), pool, running: None }
    }

    /// Runs a history, or some of its steps.
    pub fn history(&mut self, seed: u64, kept: Option<&[usize]>) -> Outcome {
        let mut outcome = Outcome::default();
        let running = self.running.get_or_insert_with(|| Running::start(&self.run, &self.pool));
        let kept = kept.map(|kept| kept.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
        let line = format!("{seed} {}\n", kept.unwrap_or_default());
        let asked = running.requests.as_mut().map(|requests| requests.write_all(line.as_bytes()));
        let mut end = if asked.is_some_and(|asked| asked.is_ok()) { None } else { Some("died") };
        while end.is_none() {
            match running.lines.recv_timeout(SILENCE_MAX) {
                Ok(line) => match line.split_once(RESULT) {
                    Some((_, result)) => {
                        let result: Value = serde_json::from_str(result).expect("what the child wrote");
                        outcome.tally = serde_json::from_value(result["tally"].clone()).expect("counts");
                        outcome.finding = result["kind"]
                            .as_str()
                            .map(|kind| Finding::new(kind, result["what"].as_str().unwrap_or_default()));
                        // Whoever has met a dead operator is of no more use.
                        if outcome.finding.as_ref().is_some_and(|f| f.kind.starts_with("operator")) {
                            self.kill();
                        }
                        break;
                    }
                    None => outcome.log.push(line),
                },
                Err(RecvTimeoutError::Timeout) => end = Some("hung"),
                Err(RecvTimeoutError::Disconnected) => end = Some("died"),
            }
        }
        if let Some(end) = end {
            let last = outcome.log.last().cloned().unwrap_or_default();
            let (status, said) = self.kill();
            let kind = if end == "hung" { end.to_owned() } else { format!("{end} of {status}") };
            outcome.finding = Some(Finding::new(&kind, format!("after:{last}: {said}")));
        }
        outcome
    }

    /// Lets the child end in good order, and its pool with it.
    pub fn end(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        running.requests = None;
        while running.lines.recv_timeout(SILENCE_MAX).is_ok() {}
        if !running.child.wait().is_ok_and(|status| status.success()) {
            self.running = Some(running);
            self.kill();
        }
    }

    /// Kills the child with all that it started, and removes its pool; how it ended, and what it said last.
    fn kill(&mut self) -> (String, String) {
        let Some(mut running) = self.running.take() else { return Default::default() };
        let early = running.child.try_wait().ok().flatten();
        if let Some(group) = rustix::process::Pid::from_raw(running.child.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let status = running.child.wait();
        let ceph = Ceph::of(self.run.conf.clone());
        ceph.ceph(&["osd", "pool", "rm", &self.pool, &self.pool, "--yes-i-really-really-mean-it"]);
        let status = match (early, status) {
            (Some(status), _) | (None, Ok(status)) => status.to_string(),
            (None, Err(error)) => error.to_string(),
        };
        (status, running.last_words())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

impl Running {
    fn start(run: &Run, pool: &str) -> Self {
        let said = tempfile::tempfile().expect("a file");
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "worker::child", "--ignored", "--nocapture"])
            .env("CUTTLE_TEST_CEPH_CONF", &run.conf)
            .env("CUTTLE_HISTORIES_WITHOUT", run.without.join(","))
            .env(POOL, pool)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said.try_clone().expect("a handle"))
            .process_group(0)
            .spawn()
            .expect("start a process for histories");
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { requests: child.stdin.take(), child, lines, said }
    }

    /// The end of what was said on standard error, but for the frames of Ceph's backtraces.
    fn last_words(&mut self) -> String {
        use std::io::{Read, Seek};
        let mut said = Vec::new();
        let _ = self.said.rewind().and_then(|()| self.said.read_to_end(&mut said));
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let telling =
            |line: &&&str| ["assert", "panicked", "Error", "signal"].iter().any(|w| line.contains(w));
        let mut told: Vec<_> = lines.iter().filter(telling).copied().take(6).collect();
        if told.is_empty() {
            told = lines.iter().rev().take(6).rev().copied().collect();
        }
        told.join(" | ").chars().take(1500).collect()
    }
}

/// The kinds that are left out, as the command line or the parent says.
pub fn without() -> Vec<String> {
    let kinds = std::env::var("CUTTLE_HISTORIES_WITHOUT").unwrap_or_default();
    kinds.split(',').filter(|kind| !kind.is_empty()).map(str::to_owned).collect()
}

/// What runs in the child.
#[test]
#[ignore = "a process of the histories' own"]
fn child() {
    let (Ok(pool), Some(ceph)) = (std::env::var(POOL), Ceph::first()) else { return };
    println!();
    let operator = Arc::new(Mutex::new(Operator::start(&ceph.conf, &pool)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let place = Place { ceph, pool, operator, runtime: runtime.expect("a runtime") };
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        let (seed, kept) = line.split_once(' ').expect("a seed and steps");
        let seed = seed.parse().expect("a seed");
        let mut steps = steps::history(seed, &without());
        if !kept.is_empty() {
            let kept: Vec<usize> = kept.split(',').map(|n| n.parse().expect("a number")).collect();
            steps = steps::only(steps, &kept);
        }
        let (result, tally) = world::run(&place, seed, &steps);
        let finding = result.err();
        let kind = finding.as_ref().map(|finding| &finding.kind);
        let what = finding.as_ref().map(|finding| &finding.what);
        println!("{RESULT}{}", json!({"kind": kind, "what": what, "tally": tally}));
    }
    let Place { operator, runtime, .. } = place;
    drop(runtime);
    let operator = Arc::into_inner(operator).and_then(|operator| operator.into_inner().ok());
    operator.expect("nobody else has it").end().expect("ended");
}
