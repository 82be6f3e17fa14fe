//! Exit codes, errors and output, as scripts rely on them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bench::{Bench, fails, lines, ok, stderr};

#[test]
fn exit_codes() {
    let bench = Bench::new();
    bench.write("a.img", &[1; 5000]);
    bench.fails(10, &["snapshots"]);
    bench.fails(10, &["backup", "a.img"]);
    assert!(!bench.path("repo").exists(), "only init makes a repository");
    bench.ok(&["init"]);
    let said = bench.fails(1, &["init"]);
    assert!(said.contains("already"), "{said}");

    // Some failed, all failed, none failed.
    let said = bench.fails(3, &["backup", "a.img", "nothing.img"]);
    assert!(
        said.contains("error: find nothing.img") && said.contains("help: for an RBD image write rbd:"),
        "{said}"
    );
    bench.fails(1, &["backup", "nothing.img", "neither.img"]);
    bench.fails(1, &["backup", "nothing.img"]);
    bench.ok(&["backup", "a.img"]);

    // What cannot be meant.
    for args in [
        &["backup"][..],
        &["backup", "--nonsense", "a.img"],
        &["nonsense"],
        &[],
        &["backup", "-"],
        &["backup", "a.img", "a.img", "--volume", "v"],
        &["backup", "a.img", "./x/a.img"],
        &["backup", "rbd:a/b/c/d"],
        &["backup", "a.img", "--limit-upload", "5"],
        &["snapshots", "no-such-volume"],
        &["snapshots", "--project", "Bad Name"],
        &["restore", "a.img", ""],
        &["restore", "nothing", "x"],
        &["restore", "a.img", "a.img"],
        &["init", "-n"],
        &["project", "create", "default", "--dry-run"],
        &["serve", "-n"],
        &["mount", "x", "--dry-run"],
        &["export", "a.img", "rbd:p/x", "--format", "raw"],
        &["export", "a.img", "-", "--format", "qcow2", "--chain"],
        &["restore", "a.img", "rbd:p/x@s"],
        &["restore", "a.img", "x", "--instant"],
        &["inspect", "rbd:p/x"],
        &["import-diff", "x", "y"],
        &["verify", "a.img", "--against", "-"],
        &["verify", "a.img", "--against", "rbd:p/x", "-n"],
        &["verify", "--repair", "--repair-from", "rbd:p/*"],
        &["--id", "a", "--name", "client.b", "backup", "rbd:x/y"],
    ] {
        bench.fails(1, args);
    }
    assert!(ok(&mut bench.bare(&["--version"])).starts_with("cuttle "));
}

#[test]
fn a_failed_source_is_told_in_json_too() {
    let bench = Bench::with_repository();
    bench.write("a.img", &[1; 5000]);
    let output = bench.cuttle(&["--json", "backup", "a.img", "b.img"]).output().expect("run cuttle");
    assert_eq!(output.status.code(), Some(3));
    let out = lines(&String::from_utf8_lossy(&output.stdout));
    let failed = out.iter().find(|l| l["status"] == "failed").expect("a failed volume");
    assert_eq!((&failed["source"], &failed["error"]["kind"]), (&json!("b.img"), &json!("not_found")));
    let summary = out.last().expect("a summary");
    assert_eq!((&summary["volumes_ok"], &summary["volumes_failed"]), (&json!(1), &json!(1)));
    let said = lines(&stderr(&output));
    assert!(said.iter().any(|l| l["message_type"] == "error" && l["during"] == "b.img"), "{said:?}");

    let said = lines(&fails(10, &mut bench.cuttle(&["-r", "/nonexistent/x", "snapshots", "--json"])));
    assert_eq!(said[0]["kind"], "no_repository");
}

#[test]
fn repositories_that_cannot_be_opened_say_so_at_once() {
    let bench = Bench::new();
    let began = Instant::now();
    let said = bench.fails(1, &["-r", "s3://bucket/x", "snapshots"]);
    assert!(said.contains("credentials") && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    bench.fails(1, &["-r", "gs://bucket/x", "snapshots"]);
    bench.fails(1, &["-r", "az://container/x", "snapshots"]);
    bench.fails(1, &["-r", "ftp://x", "snapshots"]);
    assert!(began.elapsed() < Duration::from_secs(20), "no address that does not answer is asked");

    let said = fails(1, &mut bench.bare(&["snapshots"]));
    assert!(said.contains("no repository is given") && said.contains("CUTTLE_REPOSITORY"), "{said}");

    bench.ok(&["init"]);
    let said = bench.fails(1, &["snapshots", "-o", "fsnc=true"]);
    assert!(said.contains("did you mean: fsync"), "{said}");
    bench.fails(1, &["snapshots", "-o", "fsync"]);
    bench.ok(&["-o", "fsync=false", "snapshots"]);
    bench.ok(&["snapshots", "-o", "fsync=false"]);
}

#[test]
fn the_repository_may_be_named_in_many_ways() {
    let bench = Bench::with_repository();
    bench.write("where", format!("{}\n", bench.text("repo")).as_bytes());
    let url = format!("file://{}", bench.text("repo"));
    for repo in ["repo", "./repo/", "../", &url] {
        let mut command = bench.bare(&["-r", repo, "snapshots"]);
        command.env("CUTTLE_KEY_FILE", bench.path("key"));
        if repo == "../" {
            std::fs::create_dir_all(bench.path("repo/inside")).expect("a folder");
            command.current_dir(bench.path("repo/inside"));
        }
        ok(&mut command);
    }
    let mut command = bench.bare(&["snapshots"]);
    command.env("CUTTLE_KEY_FILE", bench.path("key")).env("CUTTLE_REPOSITORY_FILE", bench.path("where"));
    ok(&mut command);
    let said = fails(1, command.env("CUTTLE_REPOSITORY", "x"));
    assert!(said.contains("both set"), "{said}");
}

#[test]
fn quiet_says_nothing_and_json_nothing_else() {
    let bench = Bench::with_repository();
    bench.write("a.img", &[1; 5000]);
    assert_eq!(bench.ok(&["-q", "backup", "a.img"]), "");
    assert_eq!(bench.ok(&["restore", "a.img", "out", "--quiet"]), "");
    assert!(bench.ok(&["snapshots", "-q"]).contains("a.img"), "what was asked for is shown");
    let output = bench.cuttle(&["backup", "a.img", "-v"]).output().expect("run cuttle");
    let said = stderr(&output);
    assert!(!said.contains('\x1b') && !said.contains("backing up"), "no bar and no color in a log: {said}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("VOLUME") && table.contains("requests: "), "{table}");
    assert!(table.lines().all(|l| l == l.trim_end()), "no blanks at the end of a line");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let bench = Bench::with_repository();
    for args in [&["completions", "zsh"][..], &["snapshots", "--json"], &["project", "list"]] {
        let mut command = bench.process(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("wait");
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{args:?}");
    }
}
