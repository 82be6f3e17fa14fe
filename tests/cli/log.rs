//! What happened, as `cuttle log` tells it: with any key, newest first, by the store's times, and whatever was planted.

use std::fs;

use serde_json::Value;

use crate::bench::{Bench, by, lines, ok};

fn events(listed: &Value) -> Vec<(String, Option<String>)> {
    let of = |line: &Value| {
        let round = || line["generation"].as_u64().map(|round| round.to_string());
        (
            line["event"].as_str().expect("an event").to_owned(),
            line["snapshot"].as_str().map(str::to_owned).or_else(round),
        )
    };
    listed.as_array().expect("an array").iter().map(of).collect()
}

/// Two nights that differ, the first of which is forgotten and pruned.
fn with_history() -> Bench {
    let bench = Bench::with_repository();
    bench.write("disk.img", &crate::bench::random(1, 9 << 20));
    bench.ok(&["backup", "disk.img"]);
    bench.write("disk.img", &crate::bench::random(2, 9 << 20));
    bench.ok(&["backup", "disk.img", "--full", "--tag", "second"]);
    bench.ok(&["protect", "disk.img@2"]);
    bench.ok(&["forget", "disk.img@1"]);
    bench.ok(&["prune"]);
    bench
}

#[test]
fn what_happened_is_told_newest_first_whatever_the_role_of_the_key() {
    let bench = with_history();
    let whole = bench.json(&["log"]).remove(0);
    let all = events(&whole);
    let told = |event: &str, of: &str| all.contains(&(event.to_owned(), Some(of.to_owned())));
    for (event, of) in [
        ("backup", "disk.img@2"),
        ("noted", "disk.img@2"),
        ("forgotten", "disk.img@1"),
        ("prune_begun", "1"),
        ("prune_sealed", "1"),
        ("prune_done", "1"),
    ] {
        assert!(told(event, of), "{event} {of}: {all:?}");
    }
    assert_eq!(all[0].0, "prune_done");
    let times: Vec<&str> = whole.as_array().expect("an array").iter().map(time).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:?}");
    let noted = find(&whole, "noted");
    assert_eq!((&noted["protected"], &noted["tags"][0]), (&Value::Bool(true), &Value::from("second")));
    let backup = find(&whole, "backup");
    assert_eq!(backup["size_bytes"], 9 << 20);
    assert!(backup["host"].is_string() && backup["snapshot_id"].is_string(), "{backup}");
    for role in ["backup", "restore", "keeper", "admin"] {
        let key = format!("{role}.key");
        bench.ok(&["key", "add", "--role", role, "--out", &key]);
        let seen = lines(&ok(&mut by(&bench, &key, &["log", "--json"]))).remove(0);
        assert_eq!(seen, whole, "{role}");
    }
    let newest = bench.json(&["log", "--latest", "2"]).remove(0);
    assert_eq!(events(&newest), all[..2]);
    let of_volume = bench.json(&["log", "disk.img", "--since", "1h"]).remove(0);
    assert!(events(&of_volume).iter().all(|(event, _)| !event.starts_with("prune")), "{of_volume}");
    let shown = bench.ok(&["log"]);
    let head = shown.lines().next().expect("a head");
    assert!(head.starts_with("TIME") && shown.lines().count() == all.len() + 1, "{shown}");
    assert!(shown.contains("prune sealed") && shown.contains("protected, tags second"), "{shown}");
    bench.fails(1, &["log", "nothing"]);
    bench.fails(1, &["log", "--latest", "0"]);
}

fn time(line: &Value) -> &str {
    line["stored_at"].as_str().expect("a time")
}

fn find<'a>(listed: &'a Value, event: &str) -> &'a Value {
    let lines = listed.as_array().expect("an array");
    lines.iter().find(|line| line["event"] == event).unwrap_or_else(|| panic!("no {event}: {listed}"))
}

/// Whatever opens as nothing is named, counts for nothing, and hides nothing that is there.
#[test]
fn what_does_not_open_is_foreign_and_what_was_begun_is_unfinished() {
    let bench = with_history();
    let log = "projects/default/log/0000000001";
    let retention = "projects/default/retention/0000000001";
    fs::remove_file(bench.path(&format!("repo/{log}/0000000002.end"))).expect("an outcome is lost");
    let planted = [
        format!("{log}/0000000002.alive.0000000001"),
        format!("{log}/4294967295.end"),
        format!("{retention}/0000000002.forget"),
        format!("{retention}/0000000002.note.0000000009"),
        "projects/default/gc/0000000009.seal".to_owned(),
        "projects/default/log/0000000077/0000000001.open".to_owned(),
    ];
    for name in &planted {
        let path = bench.path(&format!("repo/{name}"));
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, b"planted").expect("write");
    }
    let all = bench.json(&["log"]).remove(0);
    let foreign: Vec<&Value> =
        all.as_array().expect("an array").iter().filter(|line| line["event"] == "foreign").collect();
    for name in &planted[1..] {
        assert!(foreign.iter().any(|line| line["object"] == **name), "{name}: {foreign:?}");
    }
    assert_eq!(foreign.len(), planted.len() - 1, "{foreign:?}");
    assert!(foreign.iter().all(|line| line["problem"].is_string()), "{foreign:?}");
    let unfinished = find(&all, "unfinished");
    assert_eq!(unfinished["snapshot"], "disk.img@2");
    assert!(unfinished["last_sign_at"].is_string(), "{unfinished}");
    let said = bench.ok(&["log"]);
    assert!(said.lines().any(|line| line.contains("unfinished") && line.contains("sign of life")), "{said}");
}

#[test]
fn a_backup_that_was_given_up_says_by_whom_and_why() {
    let bench = Bench::with_repository();
    bench.sparse("disk.img");
    bench.ok(&["backup", "disk.img"]);
    let script = ["--", "sh", "-c", "cat disk.img; false"];
    bench.fails(1, &[&["backup", "--volume", "v", "--from-command"][..], &script].concat());
    let all = bench.json(&["log", "v"]).remove(0);
    let aborted = find(&all, "aborted");
    assert!(aborted["by"].is_string() && aborted["host"].is_string(), "{aborted}");
    assert!(aborted["reason"].as_str().is_some_and(|why| !why.is_empty()), "{aborted}");
    let empty = Bench::with_repository();
    assert_eq!(empty.json(&["log"]).remove(0), Value::Array(Vec::new()));
}
