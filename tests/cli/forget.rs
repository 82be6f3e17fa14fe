//! Forgetting, by policy and by name, as an operator does it.

use std::fs::File;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::bench::{Bench, fails, lines, stderr};

/// One backup of `v.img` on each of these days before the last, oldest first. The store says so, by its files' times, and
/// contradicts what was sealed: a policy has to be told that the store is right.
fn nights(days_ago: &[u64]) -> Bench {
    let bench = Bench::with_repository();
    // A Wednesday at noon, 2026-09-23.
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(20_719 * 86_400 + 43_200);
    for (sequence, days) in (1..).zip(days_ago) {
        bench.write("v.img", &[sequence; 5000]);
        bench.ok(&[
            "backup",
            "v.img",
            "-q",
            "--tag",
            if sequence % 2 == 0 { "even,nightly" } else { "nightly" },
        ]);
        let end = bench.path(&format!("repo/projects/default/log/0000000001/{sequence:010}.end"));
        let file = File::options().write(true).open(end).expect("the outcome");
        file.set_modified(last - Duration::from_secs(days * 86_400)).expect("set the time");
    }
    bench
}

fn sequences(bench: &Bench, args: &[&str]) -> Vec<u64> {
    let listed = bench.json(&[&["snapshots"], args].concat()).remove(0);
    let listed = listed.as_array().expect("an array").iter();
    listed.map(|s| s["sequence"].as_u64().expect("a number")).collect()
}

fn actions(report: &Value) -> Vec<String> {
    let rows = report["snapshots"].as_array().expect("an array").iter();
    let word = |v: &Value| v.as_str().expect("a word").to_owned();
    let reasons = |r: &Value| r["reasons"].as_array().expect("an array").iter().map(word).collect::<Vec<_>>();
    rows.map(|r| format!("{} {}", word(&r["action"]), reasons(r).join(", "))).collect()
}

#[test]
fn a_policy_is_shown_and_then_done() {
    let bench = nights(&[40, 9, 8, 2, 1, 0]);
    let policy =
        ["forget", "--keep-daily", "2", "--keep-weekly", "3", "--keep-within", "1d", "--times", "store"];
    let before = bench.repository();
    let table = bench.ok(&[&policy[..], &["-n"]].concat());
    assert!(
        table.contains("REASONS") && table.contains("dry run: 2 snapshots would be forgotten, 4 kept"),
        "{table}"
    );
    assert!(table.lines().all(|l| l == l.trim_end()), "{table}");
    let planned = bench.json(&[&policy[..], &["-n"]].concat()).remove(0);
    assert!(bench.repository() == before, "nothing was stored");
    let expected = [
        "keep weekly",
        "forget ",
        "keep weekly",
        "forget ",
        // Of just a day: --keep-within takes what is younger.
        "keep daily",
        "keep daily, weekly, within 1d",
    ];
    assert_eq!(actions(&planned), expected);
    assert_eq!((&planned["dry_run"], &planned["forgotten"]), (&json!(true), &json!(2)));
    assert!(
        planned["snapshots"][0]["committed_at"].as_str().expect("a time").ends_with("T12:00:00Z"),
        "{planned}"
    );

    let done = bench.json(&policy).remove(0);
    assert_eq!((actions(&done), &done["dry_run"]), (actions(&planned), &json!(false)));
    assert_eq!(sequences(&bench, &[]), [1, 3, 5, 6]);
    assert_eq!(bench.json(&policy).remove(0)["forgotten"], json!(0));
    bench.ok(&["verify"]);
    assert_eq!(bench.ok(&[&policy[..], &["-q"]].concat()), "");
}

#[test]
fn a_dry_run_counts_what_the_prune_would_free_then() {
    let bench = nights(&[3, 2, 1, 0]);
    let policy = ["forget", "--keep-last", "1", "--times", "store", "--prune"];
    let before = bench.repository();
    let planned = bench.json(&[&policy[..], &["-n"]].concat());
    assert!(bench.repository() == before, "nothing was changed");
    let done = bench.json(&policy);
    assert_eq!(planned[0]["snapshots"], done[0]["snapshots"]);
    let count = |of: &Value, what: &str| of[what].as_u64().expect("a number");
    let planned = &planned[1]["unreferenced"];
    let deleted = ["deleted_chunks", "deleted_pages", "deleted_bundles"].map(|kind| &done[1][kind]);
    for what in ["objects", "bytes"] {
        let sum: u64 = deleted.iter().map(|of| count(of, what)).sum();
        assert!(sum > 0, "{done:?}");
        assert_eq!(count(planned, what), sum, "{what}: {planned} {done:?}");
    }
}

#[test]
fn policies_that_cannot_be_meant() {
    let bench = nights(&[1, 0]);
    for args in [
        &["forget"][..],
        &["forget", "-n"],
        &["forget", "--keep-last", "0"],
        &["forget", "--keep-last", "-1"],
        &["forget", "--keep-within", "soon"],
        &["forget", "--volume", "v.img"],
        &["forget", "--keep-last", "1", "--volume", "w*"],
        &["forget", "v.img@1", "--keep-last", "1"],
        &["forget", "v.img@1", "--volume", "v.img"],
        &["forget", "v.img"],
        &["forget", "v.img@7"],
    ] {
        bench.fails(1, args);
    }
    let said = fails(1, &mut bench.bare(&["forget", "--volume", "v.img"]));
    assert!(said.contains("does not say what to keep") && said.contains("--keep-daily"), "{said}");
    assert_eq!(sequences(&bench, &[]), [1, 2]);
    let kept = bench
        .json(&["forget", "--keep-last", "unlimited", "--time-zone", "local", "--times", "store"])
        .remove(0);
    assert_eq!(kept["kept"], json!(2));
}

/// What was sealed says today.
#[test]
fn times_that_contradict_each_other_stop_a_policy() {
    let bench = nights(&[2, 1, 0]);
    let said = bench.fails(1, &["forget", "--keep-last", "1"]);
    assert!(said.contains("v.img@1, v.img@2, v.img@3") && said.contains("--times sealed"), "{said}");
    bench.fails(1, &["forget", "--keep-last", "1", "--time-zone", "Europe/Nowhere"]);
    assert_eq!(sequences(&bench, &[]), [1, 2, 3]);
    assert_eq!(
        bench.json(&["forget", "--keep-last", "1", "--times", "sealed"]).remove(0)["forgotten"],
        json!(2)
    );
}

#[test]
fn by_name_unless_protected() {
    let bench = nights(&[3, 2, 1, 0]);
    bench.ok(&["protect", "v.img@1"]);
    let output = bench.cuttle(&["forget", "v.img@1", "v.img@2", "v.img@9", "--json"]).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    let report = &lines(&String::from_utf8_lossy(&output.stdout))[0];
    assert_eq!(actions(report), ["refused protected", "forget "]);
    let errors = lines(&stderr(&output));
    assert_eq!((&errors[0]["kind"], &errors[0]["during"]), (&json!("not_found"), &json!("v.img@9")));
    assert_eq!(errors[1]["help"], json!("let it go first: cuttle unprotect v.img@1"));
    assert_eq!(sequences(&bench, &[]), [1, 3, 4]);

    let said = bench.ok(&["forget", "-n", "v.img@latest"]);
    assert!(said.contains("the next backup of v.img reads everything"), "{said}");
    // Policies keep it as well.
    let done = bench.json(&["forget", "--keep-last", "1", "--times", "store"]).remove(0);
    assert_eq!(actions(&done), ["keep protected", "forget ", "keep last"]);
    bench.ok(&["unprotect", "v.img@1"]);
    bench.ok(&["forget", "v.img@1", "v.img@4"]);
    assert_eq!(sequences(&bench, &[]), Vec::<u64>::new());
    // A backup goes on from nothing, and finds what its predecessors left in the generation's bundles, where this small chunk is.
    let again = bench.json(&["backup", "v.img"]);
    assert_eq!((&again[0]["sequence"], &again[0]["new_chunks"]), (&json!(5), &json!(0)));
}

#[test]
fn only_some_snapshots() {
    let bench = nights(&[5, 4, 3, 2, 1, 0]);
    assert_eq!(sequences(&bench, &["--tag", "even"]), [2, 4, 6]);
    assert_eq!(sequences(&bench, &["--tag", "even,nightly", "--latest", "1"]), [6]);
    assert_eq!(sequences(&bench, &["--tag", ""]), Vec::<u64>::new());
    assert_eq!(sequences(&bench, &["--tag", "x", "--tag", "nightly"]).len(), 6);
    let some = ["forget", "--keep-last", "1", "--tag", "even", "--volume", "*.img", "--times", "store"];
    let done = bench.json(&some).remove(0);
    assert_eq!(actions(&done), ["forget ", "forget ", "keep last"]);
    assert_eq!(sequences(&bench, &[]), [1, 3, 5, 6]);
}

#[test]
fn forgetting_goes_straight_on_to_pruning() {
    let bench = nights(&[2, 1, 0]);
    let said = bench.json(&["forget", "--keep-last", "1", "--times", "store", "--prune"]);
    assert_eq!(said.len(), 2, "a summary of each");
    assert_eq!(said[0]["forgotten"], json!(2));
    // A small chunk of each night that went.
    assert_eq!(said[1]["deleted_bundles"]["objects"], json!(2), "{}", said[1]);
    assert_eq!(sequences(&bench, &[]), [3]);
    bench.ok(&["verify", "--read-data"]);
}
