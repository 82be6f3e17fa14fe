//! What the command says of itself is so.

use std::process::Stdio;

use serde_json::json;

use crate::bench::{Bench, lines, random, stderr};

/// Once this was 0: the outcome of a backup was that of its table.
#[test]
fn a_failure_stays_one_when_nobody_reads_of_it() {
    let bench = Bench::with_repository();
    bench.write("a", &[1; 5000]);
    bench.write("b", &[2; 5000]);
    for (args, code) in [
        (&["backup", "a", "nothing"][..], 3),
        (&["backup", "nothing", "--json"], 1),
        (&["snapshots", "nothing"], 1),
        (&["restore", "a", "b"], 1),
        (&["restore", "a", "-"], 1),
        (&["export", "a", "-", "--format", "raw"], 1),
        (&["backup", "a"], 0),
    ] {
        let mut command = bench.process(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("wait");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
    }
}

/// A full disk under the report ends no backup, and is told.
#[test]
fn a_report_that_cannot_be_written_stops_nothing() {
    let bench = Bench::with_repository();
    for name in ["a", "b", "c"] {
        bench.write(name, &random(u64::from(name.as_bytes()[0]), 5000));
    }
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut command = bench.process(&["backup", "a", "b", "c", "--json", "--jobs", "1"]);
    let output = command.stdout(full).stderr(Stdio::piped()).output().expect("run cuttle");
    let said = stderr(&output);
    assert!(output.status.code() == Some(1) && said.contains("standard output"), "{said}");
    assert_eq!(bench.json(&["snapshots"])[0].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_link_to_nothing_is_no_target() {
    let bench = Bench::with_repository();
    bench.write("v", &random(60, 50_000));
    bench.ok(&["backup", "v"]);
    std::os::unix::fs::symlink("/nonexistent/x", bench.path("link")).expect("a link");
    for args in [
        &["restore", "v", "link"][..],
        &["restore", "v", "link", "-n"],
        &["restore", "v", "link", "--overwrite"],
        &["export", "v", "link", "--format", "raw"],
    ] {
        let said = bench.fails(1, args);
        assert!(said.contains("link"), "{said}");
        assert!(!bench.path("link.cuttle-partial").exists(), "{args:?}: nothing was fetched");
    }
    std::os::unix::fs::symlink("v", bench.path("good")).expect("a link");
    bench.ok(&["restore", "v", "good", "--overwrite"]);
}

#[test]
fn an_export_says_where_it_leads() {
    let bench = Bench::with_repository();
    for (name, seed) in [("v", 61), ("v", 62), ("w", 63)] {
        bench.write(name, &random(seed, 50_000));
        bench.ok(&["backup", name]);
    }
    for (snapshot, from, says) in [
        ("v@2", "v@1", None),
        ("v@1", "v@2", Some("v@2 is newer")),
        ("v@1", "w@1", Some("w@1 is a snapshot of another volume")),
        ("v@2", "v@2", Some("v@2 is the same")),
    ] {
        let args = ["export", snapshot, "-", "--format", "diff-v1", "--from", from];
        let output = bench.cuttle(&args).output().expect("run cuttle");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("warning:"), says.is_some(), "{said}");
        assert!(says.is_none_or(|says| said.contains(says)), "{said}");
    }
}

#[test]
fn a_secret_that_opens_already_is_no_new_key() {
    let bench = Bench::with_repository();
    let keys = || bench.json(&["key", "list"])[0].as_array().map(Vec::len);
    let said = bench.fails(1, &["key", "add", "--new-key-file", "key"]);
    assert!(said.contains("opens the repository already"), "{said}");
    bench.write("password", b"a b c");
    bench.ok(&["key", "add", "--new-password-file", "password"]);
    bench.fails(1, &["key", "add", "--new-password-file", "password"]);
    assert_eq!(keys(), Some(2));
}

#[test]
fn documented_keys_are_always_there() {
    let bench = Bench::with_repository();
    bench.write("v", &random(64, 50_000));
    bench.ok(&["backup", "v"]);
    for args in [&["restore", "v", "out"][..], &["restore", "v", "out2", "-n"]] {
        let report = &bench.json(args)[0];
        assert_eq!(report.get("rewound_from"), Some(&json!(null)), "{report}");
        assert_eq!(report.get("not_rewound_because"), Some(&json!(null)), "{report}");
    }
    let failed = bench.cuttle(&["backup", "nothing", "--json"]).output().expect("run cuttle");
    let out = lines(&String::from_utf8_lossy(&failed.stdout));
    for key in ["kind", "message", "causes", "help"] {
        assert!(out[0]["error"].get(key).is_some(), "{key}: {}", out[0]);
    }
    assert!(lines(&stderr(&failed))[0].get("during").is_some(), "{}", stderr(&failed));
}
