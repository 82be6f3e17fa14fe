//! Ctrl-C: a clean end, and the next run goes on.

use std::io::Write;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::bench::{Bench, lines, random, stderr};

/// Longest wait for what must come at once.
const PATIENCE: Duration = Duration::from_secs(60);

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process number")).expect("a process");
    kill_process(pid, signal).expect("send a signal");
}

/// Looks again and again until it is so.
fn wait_until(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "waited for {what}");
        std::thread::yield_now();
    }
}

fn start(bench: &Bench, args: &[&str]) -> Child {
    let mut command = bench.process(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("start cuttle")
}

#[test]
fn a_backup_that_waits_for_its_source_ends_cleanly_and_the_next_goes_on() {
    for (kind, seed) in [(Signal::INT, 20), (Signal::TERM, 21)] {
        let bench = Bench::with_repository();
        let bytes = random(seed, 13 << 20);
        let mut child = start(&bench, &["backup", "-", "--volume", "v", "--json"]);
        // The stream stays open, so the backup waits for more of it.
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(&bytes).expect("write to the backup");
        wait_until("three chunks to be stored", || bench.chunks().len() >= 3);
        signal(&child, kind);
        let output = child.wait_with_output().expect("wait");
        drop(input);
        assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
        let out = lines(&String::from_utf8_lossy(&output.stdout));
        assert_eq!(out[0]["error"]["kind"], "interrupted");
        assert_eq!(bench.json(&["snapshots"])[0], json!([]), "half a volume is no snapshot");

        let again =
            bench.cuttle(&["backup", "-", "--volume", "v", "--json"]).write_stdin(bytes.clone()).output();
        let report = lines(&String::from_utf8_lossy(&again.expect("run cuttle").stdout));
        assert_eq!(
            (&report[0]["known_chunks"], &report[0]["new_chunks"]),
            (&json!(3), &json!(1)),
            "{report:?}"
        );
        let restored = bench.cuttle(&["restore", "v", "-"]).output().expect("run cuttle");
        assert!(restored.stdout == bytes);
    }
}

#[test]
fn a_backup_that_has_not_read_anything_ends_too() {
    let bench = Bench::with_repository();
    let state = bench.path("state/cuttle");
    std::fs::remove_dir_all(&state).expect("forget the repository");
    let mut child = start(&bench, &["backup", "-", "--volume", "v"]);
    // Waiting would close it otherwise, and an empty stream is an error.
    let input = child.stdin.take();
    // What it remembers of the repository is there when it has opened it; long before, it listens for signals.
    wait_until("the repository to be opened", || state.exists());
    signal(&child, Signal::INT);
    let status = child.wait().expect("wait");
    drop(input);
    assert_eq!(status.code(), Some(130));
}

#[test]
fn a_restore_whose_reader_stops_reading_ends_cleanly() {
    let bench = Bench::with_repository();
    bench.write("v", &random(30, 9 << 20));
    bench.ok(&["backup", "v"]);
    let mut child = start(&bench, &["restore", "v", "-"]);
    let mut out = child.stdout.take().expect("a pipe");
    // Then nobody reads any more, and the pipe is full.
    std::io::Read::read_exact(&mut out, &mut [0; 1000]).expect("read the beginning");
    signal(&child, Signal::INT);
    assert_eq!(child.wait().expect("wait").code(), Some(130));
}
