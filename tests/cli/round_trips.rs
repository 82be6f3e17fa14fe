//! What goes in comes out: sparse files, streams of `rbd`, standard output.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

use serde_json::json;

use crate::bench::{Bench, SPARSE_BYTES, lines, random, stderr};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/diff/");

#[test]
fn a_sparse_file_comes_back_and_a_second_night_costs_what_changed() {
    let bench = Bench::with_repository();
    bench.sparse("disk.img");
    let first = bench.json(&["backup", "disk.img", "--tag", "a", "--tag", "b"]);
    let (volume, summary) = (&first[0], &first[1]);
    assert_eq!(volume["message_type"], "volume");
    assert_eq!((&volume["status"], &volume["volume"]), (&json!("ok"), &json!("disk.img")));
    assert_eq!((&volume["sequence"], &volume["parent"]), (&json!(1), &json!(null)));
    assert_eq!((&volume["new_chunks"], &volume["zero_chunks"]), (&json!(3), &json!(6)));
    assert_eq!((&summary["message_type"], &summary["volumes_ok"]), (&json!("summary"), &json!(1)));
    assert!(summary["ledger"]["put_requests"].as_u64().expect("a number") >= 5, "{summary}");

    let file = OpenOptions::new().write(true).open(bench.path("disk.img")).expect("open");
    file.write_all_at(&random(9, 100), 20 << 20).expect("write");
    drop(file);
    let second = bench.json(&["backup", "disk.img"]);
    assert_eq!((&second[0]["sequence"], &second[0]["new_chunks"]), (&json!(2), &json!(1)));

    let listed = bench.json(&["snapshots"]).remove(0);
    let listed = listed.as_array().expect("an array");
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["tags"], json!(["a", "b"]));
    assert_eq!(listed[0]["size_bytes"], json!(SPARSE_BYTES));
    assert_eq!(listed[0]["source"], json!({ "kind": "file", "path": bench.text("disk.img") }));
    assert!(listed[0]["committed_at"].as_str().expect("a time").ends_with('Z'));
    assert_eq!(listed[0]["snapshot"], "disk.img@1");

    let report = bench.json(&["restore", "disk.img", "out.img"]).remove(0);
    assert_eq!(report["fetch"]["chunks"], json!(4), "{report}");
    assert!(bench.read("out.img") == bench.read("disk.img"), "the restored file is the same");
    let blocks = fs::metadata(bench.path("out.img")).expect("metadata").blocks();
    assert!(blocks * 512 < 24 << 20, "holes stay holes: {blocks} blocks");

    // Back to the first night, in place: only what differs is fetched or zeroed.
    let short = &listed[0]["snapshot_id"].as_str().expect("an id")[..8];
    let report = bench.json(&["restore", short, "out.img", "--overwrite"]).remove(0);
    assert_eq!((&report["fetch"]["chunks"], &report["zero"]["chunks"]), (&json!(0), &json!(1)), "{report}");
    let (before, after) = (bench.read("disk.img"), bench.read("out.img"));
    assert!(after[20 << 20..(20 << 20) + 100] == [0; 100] && after[..20 << 20] == before[..20 << 20]);

    // The same without looking at what is there.
    let report = bench.json(&["restore", "disk.img", "out.img", "--overwrite", "--no-compare"]).remove(0);
    assert_eq!((&report["fetch"]["chunks"], &report["keep"]["chunks"]), (&json!(4), &json!(0)), "{report}");
    assert!(bench.read("out.img") == before);
}

#[test]
fn streams_of_rbd_are_full_or_continue_the_last_one() {
    let bench = Bench::with_repository();
    let backup = |stream: &str, code: i32| {
        let input = fs::read(format!("{FIXTURES}{stream}")).expect("a fixture");
        let output = bench.cuttle(&["backup", "-", "--volume", "p/v", "--json"]).write_stdin(input).output();
        let output = output.expect("run cuttle");
        assert_eq!(output.status.code(), Some(code), "{stream}: {}", stderr(&output));
        output
    };
    backup("plain-s1.diff1", 0);
    let refused = backup("plain-s2-s3.diff1", 1);
    let error = &lines(&stderr(&refused))[0];
    assert_eq!((&error["message_type"], &error["kind"]), (&json!("error"), &json!("conflict")));
    assert!(error["help"].as_str().expect("help").contains("--from-snap s1"), "{error}");
    backup("plain-s1-s2.diff1", 0);

    let expected = fs::read_to_string(format!("{FIXTURES}expected.tsv")).expect("the expected");
    let expected = expected.lines().find(|l| l.starts_with("plain-s1-s2.diff1\t")).expect("a line");
    let expected: Vec<&str> = expected.split('\t').collect();
    for spec in ["p/v", "p/v@latest", "p/v@s2"] {
        let output = bench.cuttle(&["restore", spec, "-"]).output().expect("run cuttle");
        assert_eq!(output.stdout.len().to_string(), expected[2], "{spec}: {}", stderr(&output));
        assert_eq!(blake3::hash(&output.stdout).to_hex().as_str(), expected[3], "{spec}");
    }
    let listed = bench.json(&["snapshots", "p/v", "--latest", "1"]).remove(0);
    assert_eq!(listed[0]["point"]["name"], "s2");
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["parent"]), (Some(1), &json!(1)));
    bench.fails(1, &["restore", "p/v@s3", "x"]);
}

#[test]
fn raw_bytes_on_standard_input_and_their_limit() {
    let bench = Bench::with_repository();
    let bytes = random(3, 5_000_001);
    let backup = |args: &[&str]| {
        let args = [&["backup", "-", "--volume", "raw"], args].concat();
        bench.cuttle(&args).write_stdin(bytes.clone()).output().expect("run cuttle")
    };
    let refused = backup(&["--max-size", "4MiB"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("4194304"), "{}", stderr(&refused));
    let done = backup(&[]);
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    let output = bench.cuttle(&["restore", "raw", "-", "--json"]).output().expect("run cuttle");
    assert!(output.stdout == bytes, "nothing but the volume is on standard output");
    assert_eq!(lines(&stderr(&output))[0]["target"], "-");
    // An empty stream is what a failed command leaves in a pipe.
    let empty = bench.cuttle(&["backup", "-", "--volume", "raw"]).write_stdin("").output().expect("run");
    assert_eq!(empty.status.code(), Some(1));
}

#[test]
fn a_dry_run_says_what_would_be_and_does_nothing() {
    let bench = Bench::with_repository();
    bench.sparse("disk.img");
    let before = bench.repository();
    let report = bench.json(&["backup", "disk.img", "-n"]);
    assert_eq!((&report[0]["new_chunks"], &report[1]["dry_run"]), (&json!(3), &json!(true)));
    assert!(bench.repository() == before, "nothing was stored");

    bench.ok(&["backup", "disk.img"]);
    let report = bench.json(&["restore", "-n", "disk.img", "out.img"]).remove(0);
    assert_eq!((&report["fetch"]["chunks"], &report["fetches"]), (&json!(3), &json!(3)));
    assert!(!bench.path("out.img").exists() && !bench.path("out.img.cuttle-partial").exists());
    let table = bench.ok(&["restore", "-n", "disk.img", "out.img"]);
    assert!(table.contains("fetch        3"), "{table}");

    // What is there already counts, also where it is shorter than the volume.
    let head = bench.read("disk.img")[..10 << 20].to_vec();
    bench.write("short.img", &head);
    bench.fails(1, &["restore", "-n", "disk.img", "short.img"]);
    let args = ["restore", "-n", "disk.img", "short.img", "--overwrite"];
    let report = bench.json(&args).remove(0);
    assert_eq!(report["fetch"]["chunks"], json!(1), "{report}");
    assert!(bench.read("short.img") == head, "nothing was written");

    // A restore that was interrupted is gone on with.
    bench.write("new.img.cuttle-partial", &head);
    let report = bench.json(&["restore", "-n", "disk.img", "new.img"]).remove(0);
    assert_eq!(report["fetch"]["chunks"], json!(1), "{report}");
    let report = bench.json(&["restore", "disk.img", "new.img"]).remove(0);
    assert_eq!(report["fetch"]["chunks"], json!(1), "{report}");
    assert!(bench.read("new.img") == bench.read("disk.img"));
}

#[test]
fn several_volumes_at_once() {
    let bench = Bench::with_repository();
    let names: Vec<String> = (0..5).map(|n| format!("v{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        let file = File::create(bench.path(name)).expect("make a file");
        file.set_len(9 << 20).expect("set its size");
        file.write_all_at(&random(n as u64, 100_000), 5 << 20).expect("write");
    }
    let args: Vec<&str> =
        ["backup", "--jobs", "3"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let lines = bench.json(&args);
    assert_eq!((lines.len(), &lines[5]["volumes_ok"]), (6, &json!(5)));
    let listed = bench.json(&["snapshots"]).remove(0);
    let volumes: Vec<_> = listed.as_array().expect("an array").iter().map(|s| &s["volume"]).collect();
    assert_eq!(volumes, ["v0", "v1", "v2", "v3", "v4"]);
    for name in &names {
        bench.ok(&["restore", name, "out", "--overwrite", "-q"].map(|a| a));
        assert!(bench.read("out") == bench.read(name));
    }
}
