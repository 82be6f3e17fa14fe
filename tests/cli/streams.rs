//! Volumes from pipes and commands: what is not whole is no good night.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::bench::{Bench, lines, random, stderr};

fn pipe(bench: &Bench, input: &[u8], args: &[&str]) -> Output {
    let args = [&["backup", "-", "--json"][..], args].concat();
    bench.cuttle(&args).write_stdin(input).output().expect("run cuttle")
}

/// Sizes of the volume's snapshots, oldest first.
fn sizes(bench: &Bench) -> Vec<u64> {
    let listed = bench.json(&["snapshots"]).remove(0);
    listed.as_array().expect("an array").iter().filter_map(|s| s["size_bytes"].as_u64()).collect()
}

#[test]
fn fewer_raw_bytes_than_before_are_no_good_night() {
    let bench = Bench::with_repository();
    let bytes = random(50, 9_000_000);
    let volume = ["--volume", "v"];
    assert_eq!(pipe(&bench, &bytes, &volume).status.code(), Some(0));
    for dry_run in [&["--volume", "v"][..], &["--volume", "v", "-n"]] {
        let cut = pipe(&bench, &bytes[..3_000_000], dry_run);
        assert_eq!(cut.status.code(), Some(1));
        let said = stderr(&cut);
        assert!(said.contains("3000000 of the 9000000 bytes") && said.contains("--accept-smaller"), "{said}");
    }
    for empty in [&["--volume", "v"], &["--volume", "w"]] {
        let ended = pipe(&bench, b"", empty);
        assert!(stderr(&ended).contains("the stream is empty"), "{}", stderr(&ended));
        assert_eq!(ended.status.code(), Some(1));
    }
    assert_eq!(sizes(&bench), [9_000_000]);
    // What the user says of the size decides, also the first time, and where the volume grew.
    for (len, size, code) in [(8_000_000, "9000000", 1), (9_000_000, "8000000", 1), (8_000_000, "8000000", 0)]
    {
        let ended = pipe(&bench, &bytes[..len], &["--volume", "v", "--size", size]);
        assert_eq!(ended.status.code(), Some(code), "{}", stderr(&ended));
    }
    assert_eq!(
        pipe(&bench, &bytes[..1_000_000], &["--volume", "x", "--size", "1MiB"]).status.code(),
        Some(1)
    );
    let smaller = pipe(&bench, &bytes[..2_000_000], &["--volume", "v", "--accept-smaller"]);
    let report = &lines(&String::from_utf8_lossy(&smaller.stdout))[0];
    assert!(report["notes"].to_string().contains("smaller than before"), "{report}");
    assert_eq!(sizes(&bench), [9_000_000, 8_000_000, 2_000_000]);
    bench.fails(1, &["backup", "v.img", "--size", "5"]);
}

#[test]
fn a_file_that_was_cut_is_no_good_night_either() {
    let bench = Bench::with_repository();
    bench.write("v", &random(51, 100_000));
    bench.ok(&["backup", "v"]);
    bench.write("v", &random(51, 50_000));
    for args in [&["backup", "v"][..], &["backup", "v", "-n"]] {
        let said = bench.fails(1, args);
        assert!(said.contains("has 50000 bytes") && said.contains("100000"), "{said}");
    }
    bench.ok(&["backup", "v", "--accept-smaller"]);
    bench.ok(&["backup", "v"]);
}

#[test]
fn of_a_command_only_exit_code_0_is_believed() {
    let bench = Bench::with_repository();
    bench.write("disk", &random(52, 5_000_000));
    let run = |code, script| {
        let args = ["backup", "--volume", "v", "--json", "--from-command", "--", "sh", "-c", script];
        let output = bench.cuttle(&args).output().expect("run cuttle");
        assert_eq!(output.status.code(), Some(code), "{script}: {}", stderr(&output));
        (lines(&String::from_utf8_lossy(&output.stdout)).remove(0), stderr(&output))
    };
    let (report, _) = run(0, "cat disk");
    assert_eq!((&report["size_bytes"], &report["source"]), (&json!(5_000_000), &json!("sh -c cat disk")));
    // All of it came, or more than before, or nothing: the exit code alone says whether that is the volume.
    for script in
        ["cat disk; echo 'the pool is gone' >&2; exit 5", "cat disk disk; exit 5", "exit 5", "kill -9 $$"]
    {
        let (_, said) = run(1, script);
        assert!(said.contains("failed: exit status: 5") || said.contains("signal: 9"), "{said}");
        assert!(
            said.contains("the pool is gone") || !script.contains("pool"),
            "its own words are seen: {said}"
        );
    }
    run(1, "true");
    assert_eq!(sizes(&bench), [5_000_000]);
    bench.fails(1, &["backup", "--volume", "v", "--from-command", "--", "/nonexistent/program"]);
    bench.fails(1, &["backup", "--from-command", "--", "cat", "disk"]);
    let restored = bench.cuttle(&["restore", "v", "-"]).output().expect("run cuttle");
    assert!(restored.stdout == bench.read("disk"));
}

#[test]
fn a_command_is_stopped_with_the_backup() {
    let bench = Bench::with_repository();
    let script = "echo $$ > pid; trap 'echo stopped > told; exit 0' TERM; while :; do sleep 0.05; done";
    let mut command = bench.process(&["backup", "--volume", "v", "--from-command", "--", "sh", "-c", script]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("start cuttle");
    let began = Instant::now();
    let pid: u32 = loop {
        let text = std::fs::read_to_string(bench.path("pid")).unwrap_or_default();
        if let Ok(pid) = text.trim().parse() {
            break pid;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the command is started");
        std::thread::yield_now();
    };
    kill_process(Pid::from_child(&child), Signal::TERM).expect("a signal");
    assert_eq!(child.wait().expect("wait").code(), Some(130));
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the command has ended");
    assert!(bench.path("told").exists(), "and could clean up");
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/diff").join(name)).expect("a fixture")
}

/// The blake3 of what a snapshot holds.
fn content(bench: &Bench, snapshot: &str) -> String {
    let restored = bench.cuttle(&["restore", snapshot, "-"]).output().expect("run cuttle");
    assert_eq!(restored.status.code(), Some(0), "{}", stderr(&restored));
    blake3::hash(&restored.stdout).to_string()
}

fn wanted(stream: &str) -> String {
    let table = String::from_utf8(fixture("expected.tsv")).expect("UTF-8");
    let line = table.lines().find(|line| line.starts_with(&format!("{stream}\t"))).expect("a line");
    line.rsplit('\t').next().expect("a sum").to_owned()
}

/// A real export of an image with three snapshots: a backup of each and of the image, under their names.
#[test]
fn an_export_with_snapshots_becomes_a_backup_of_each() {
    let bench = Bench::with_repository();
    let dry_run = pipe(&bench, &fixture("plain.image2"), &["--volume", "v", "-n"]);
    assert!(stderr(&dry_run).contains("4 states"), "{}", stderr(&dry_run));
    let ended = pipe(&bench, &fixture("plain.image2"), &["--volume", "v", "--tag", "t"]);
    assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
    let mut out = lines(&String::from_utf8_lossy(&ended.stdout));
    let summary = out.pop().expect("a summary");
    assert_eq!((summary["volumes_ok"].as_u64(), out.len()), (Some(1), 4));
    let told = |line: &Value| {
        (
            line["sequence"].as_u64(),
            line["point"]["name"].as_str().map(str::to_owned),
            line["parent_known_by"].clone(),
        )
    };
    let name = |n: &str| Some(n.to_owned());
    let expected = [
        (Some(1), name("s1"), json!(null)),
        (Some(2), name("s2"), json!("name")),
        (Some(3), name("s3"), json!("name")),
        (Some(4), None, json!("name")),
    ];
    assert_eq!(out.iter().map(told).collect::<Vec<_>>(), expected);
    for (snapshot, stream) in [
        ("v@s1", "plain-s1.diff1"),
        ("v@s2", "plain-s1-s2.diff1"),
        ("v@s3", "plain-s3.diff1"),
        ("v", "plain.image2"),
    ] {
        assert_eq!(content(&bench, snapshot), wanted(stream), "{snapshot}");
    }
    // Diffs go on from the newest snapshot, beside which the image was: from it and not from the image, again and again.
    for sequence in [5, 6] {
        let diff = pipe(&bench, &fixture("plain-s3-head.diff1"), &["--volume", "v"]);
        assert_eq!(diff.status.code(), Some(0), "{}", stderr(&diff));
        let report = &lines(&String::from_utf8_lossy(&diff.stdout))[0];
        assert_eq!((&report["sequence"], &report["parent"]), (&json!(sequence), &json!(3)));
        assert_eq!(content(&bench, "v"), wanted("plain-s3-head.diff1"));
    }
    let other = pipe(&bench, &fixture("plain-s2-s3.diff1"), &["--volume", "v"]);
    assert_eq!(other.status.code(), Some(1), "s2 is not what the volume was last backed up from");
    bench.ok(&["verify", "--read-data"]);
}

/// Wherever an export is cut, what is whole of it stays, and the command says that the rest is missing.
#[test]
fn an_export_that_was_cut_leaves_the_states_that_are_whole() {
    let whole = fixture("plain.image2");
    let cuts = [whole.len() / 8, whole.len() / 2, whole.len() * 3 / 4, whole.len() - 1];
    let mut left = Vec::new();
    for cut in cuts {
        let bench = Bench::with_repository();
        let ended = pipe(&bench, &whole[..cut], &["--volume", "v"]);
        assert_eq!(ended.status.code(), Some(1), "cut at {cut}");
        let mut out = lines(&String::from_utf8_lossy(&ended.stdout));
        let summary = out.pop().expect("a summary");
        assert_eq!((&summary["volumes_ok"], &summary["volumes_failed"]), (&json!(0), &json!(1)));
        let failed = out.pop().expect("a failed volume");
        let committed = out.len();
        let message = failed["error"]["message"].as_str().expect("a message").to_owned();
        assert_eq!(message.contains("s1 as backup 1"), committed > 0, "{message}");
        let streams = ["plain-s1.diff1", "plain-s1-s2.diff1", "plain-s3.diff1"];
        for (sequence, stream) in (1..=committed).zip(streams) {
            assert_eq!(content(&bench, &format!("v@{sequence}")), wanted(stream), "cut at {cut}");
        }
        assert_eq!(sizes(&bench).len(), committed);
        left.push(committed);
    }
    assert!(left.is_sorted() && left[0] < 3 && left[3] == 3, "{left:?}");
}
