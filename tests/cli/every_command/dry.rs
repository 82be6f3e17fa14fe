//! `-n`: a command says what it would do, and does nothing; what only reads does as without. What it says is what is then done.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::rows::Row;
use super::run::{Place, Trouble, World};
use super::{commands, each_row};

/// Commands that only read: `-n` makes no difference.
const READ: [&str; 9] =
    ["snapshots", "log", "diff", "inspect", "stats", "key-list", "project-list", "policy", "completions"];
/// Those that do not end by themselves, and refuse it.
const ENDLESS: [&str; 2] = ["serve", "mount"];
/// Those that need a cluster, which tests/ceph has, and what was forgotten and is kept, which recall.rs has.
const ELSEWHERE: [&str; 2] = ["import-diff", "recall"];
/// All others: what they say is held against what they then do. A % is a key's id.
const PLANNED: [(&str, &str); 30] = [
    ("init", "init -r new --chunk-size 32KiB"),
    ("init", "init -r deep/new --delta-depth 3"),
    ("init", "init -r mnt"),
    ("backup", "backup x y --jobs 1"),
    ("backup", "backup v --accept-new-identity"),
    ("backup", "backup --volume c --from-command -- cat x"),
    ("restore", "restore v out"),
    ("restore", "restore v x --overwrite"),
    ("restore", "restore v -"),
    ("restore", "restore --all --to all/"),
    ("export", "export v out --format raw"),
    ("export", "export v x --format raw --overwrite"),
    ("export", "export v out --format qcow2"),
    ("export", "export v out --format qcow2 --from v@1 --backing below"),
    ("export", "export v - --format qcow2"),
    ("export", "export v - --format diff-v1 --from v@1"),
    ("export", "export v@1 out --format image-v2"),
    ("export", "export v mnt --format qcow2 --chain"),
    ("export", "export v deep/chain --format qcow2 --chain"),
    ("verify", "verify -r hurt"),
    ("forget", "forget --keep-last 1"),
    ("forget", "forget v@1"),
    ("protect", "protect v@1"),
    ("unprotect", "unprotect v@1"),
    ("tag", "tag v@1 v@2 --add x"),
    ("prune", "prune"),
    ("key-add", "key add --new-key-file key2 --label night"),
    ("key-remove", "key remove %"),
    ("project-create", "project create tenant"),
    // Which tries nothing then, and tells of the key alone.
    ("whoami", "whoami"),
];
/// What a run has of its own: that something was done, how long it took, what it asked of the store and read of the target,
/// which it may have made longer.
const OF_A_RUN: [&str; 8] = [
    "message_type",
    "dry_run",
    "status",
    "seconds",
    "ledger",
    "requests",
    "downloaded_bytes",
    "target_read_bytes",
];

/// All that a command could change, and what it keeps of copies in its cache, which nothing is decided by.
fn files(dir: &Path, out: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true if path.ends_with("home/.cache") => {}
            true => {
                let is_home = path.ends_with("home");
                files(&path, out);
                out.extend((!is_home).then_some((path, Vec::new())));
            }
            false => out.push((path.clone(), fs::read(&path).expect("a file"))),
        }
    }
    out.sort();
}

fn state(place: &Place) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    files(place.dir.path(), &mut found);
    found
}

fn with_n(row: &Row) -> Row {
    Row { args: [&["-n"][..], &row.args].concat(), ..row.clone() }
}

#[test]
fn with_n_no_command_changes_anything() {
    each_row(|world, row| {
        let place = world.place();
        let before = state(&place);
        let dry = with_n(row);
        let ended = place.start(&dry, Trouble::None).end();
        let mut wrong = Vec::new();
        if before != state(&place) {
            wrong.push(format!("{dry}: changes something"));
        }
        let refused = ended.stderr.contains("knows no --dry-run");
        let expected = if ENDLESS.contains(&row.command) { 1 } else { row.code };
        if ended.code != Some(expected) || refused != ENDLESS.contains(&row.command) {
            wrong.push(format!("{dry}: {ended}, expected {expected}"));
        }
        wrong
    });
}

/// A memory that is there is as little changed as one that is not made; not even where it is to count no more.
#[test]
fn with_n_what_this_host_remembers_stays_as_it_is() {
    let (world, keys) = (World::new(), "key list");
    let place = world.place();
    assert_eq!(place.start(&row(keys, "key-list", 0), Trouble::None).end().code, Some(0));
    let before = state(&place);
    assert!(before.iter().any(|(path, _)| path.to_string_lossy().contains("/state/cuttle/repository-")));
    for args in
        ["snapshots -n", "snapshots -n --trust-store", "backup -n x --trust-store", "snapshots -n -r hurt"]
    {
        let ended = place.start(&row(args, "snapshots", 0), Trouble::None).end();
        assert_eq!(ended.code, Some(0), "{args}: {ended}");
        assert!(before == state(&place), "{args}: changes something");
    }
}

fn row(args: &str, command: &'static str, code: i32) -> Row {
    let args = args.to_owned().leak().split(' ').collect();
    Row { command, args, code, stdout_is_data: false, serves: false, once: false }
}

/// What a run tells of what it did or would do, line by line.
fn told(place: &Place, row: &Row) -> Vec<Map<String, Value>> {
    let json = Row { args: [&["--json"][..], &row.args].concat(), ..row.clone() };
    let ended = place.start(&json, Trouble::None).end();
    assert_eq!(ended.code, Some(row.code), "{json}: {ended}");
    // Data may stand there, too.
    let said = [ended.stdout, ended.stderr.into_bytes()].join(&b'\n');
    let lines = said.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    lines
        .filter(|line: &Map<_, _>| line["message_type"] != "error" && line["message_type"] != "warning")
        .collect()
}

#[test]
fn what_n_says_is_then_done() {
    let planned = PLANNED.map(|(command, _)| command);
    let kinds = [&planned[..], &READ, &ENDLESS, &ELSEWHERE].concat();
    let known: BTreeSet<String> = kinds.into_iter().map(str::to_owned).collect();
    assert_eq!(known, commands(), "each command is of one of these kinds");
    let (world, mut wrong) = (World::new(), Vec::new());
    for (command, args) in PLANNED {
        let place = world.place();
        let args = match command {
            "key-remove" => {
                let added = told(&place, &row("key add --new-key-file key2", "key-add", 0));
                args.replace('%', added[0]["key_id"].as_str().expect("an id"))
            }
            _ => args.to_owned(),
        };
        let real = row(&args, command, if command == "verify" { 1 } else { 0 });
        let before = state(&place);
        let would = told(&place, &with_n(&real));
        if before != state(&place) {
            wrong.push(format!("{args}: -n changes something"));
        }
        let did = told(&place, &real);
        if would.is_empty() || would.len() != did.len() {
            wrong.push(format!("{args}: {would:?}, and then {did:?}"));
        }
        let other = would.iter().zip(&did).flat_map(|(would, did)| differs(command, would, did));
        wrong.extend(other.map(|(key, would)| format!("{args}: {key} was to be {would}")));
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What a run told otherwise than what was said before: all of a plan, or of a line that is the same with and without `-n`.
fn differs(command: &str, would: &Map<String, Value>, did: &Map<String, Value>) -> Vec<(String, Value)> {
    let plan = would["message_type"] == "plan";
    let said = would.get("plan").and_then(Value::as_object).filter(|_| plan).unwrap_or(would);
    let of_a_run = |key: &str| OF_A_RUN.contains(&key) || is_of_prune(command, key);
    let said: Vec<_> = said.iter().filter(|(key, value)| !of_a_run(key) && !value.is_null()).collect();
    assert!(!said.is_empty(), "{command}: {would:?} says nothing");
    let other = said.into_iter().filter(|(key, value)| did.get(*key) != Some(*value));
    other.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// A prune counts requests that it would make, and then tells of what it made.
fn is_of_prune(command: &str, key: &str) -> bool {
    let only = key.ends_with("_to_come") || key.starts_with("rounds_") || key.starts_with("deleted_");
    command == "prune" && (only || ["marks", "pages"].contains(&key))
}
