//! Real NBD clients: `nbdinfo`, `nbdcopy`, `qemu-img`.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cuttle::serve::nbd::{self, Limits, Listener};
use serde_json::Value;

use super::shelf::{Memory, Server, disk};
use crate::support;

/// Whether programs are there; absent, the test is skipped.
fn has(programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|p| !Command::new(p).arg("--version").output().is_ok_and(|o| o.status.success()))
        .collect();
    if !missing.is_empty() {
        support::skip(&format!("{} is not installed (libnbd-bin, qemu-utils)", missing.join(", ")));
    }
    missing.is_empty()
}

fn run(program: &str, args: &[&str]) -> (bool, String, String) {
    let output = Command::new(program).args(args).output().expect("run a program");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn ok(program: &str, args: &[&str]) -> String {
    let (success, stdout, stderr) = run(program, args);
    assert!(success, "{program} {}: {stdout}{stderr}", args.join(" "));
    stdout
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn nbdinfo_shows_exports_and_what_they_can() {
    if !has(&["nbdinfo"]) {
        return;
    }
    let (one, two) = (Memory::new(disk()), Memory::new(vec![1; 512]));
    let server =
        Server::start(&[("vms/db/1", &one), ("vms/db/latest", &one), ("web é/7", &two)], Limits::default());
    let listed = json(&ok("nbdinfo", &["--list", "--json", &server.uri("")]));
    assert_eq!(listed["protocol"], "newstyle-fixed");
    let exports = listed["exports"].as_array().expect("exports");
    let names: Vec<_> = exports.iter().map(|e| e["export-name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["vms/db/1", "vms/db/latest", "web é/7"]);
    assert_eq!(exports[2]["export-size"], 512);
    assert_eq!(exports[2]["description"], "about web é/7");

    let shown = json(&ok("nbdinfo", &["--json", &server.uri("vms/db/1")]));
    assert_eq!(shown["structured"], true);
    let export = &shown["exports"][0];
    assert_eq!(export["export-size"], disk().len());
    assert_eq!(export["is_read_only"], true);
    assert_eq!(export["can_multi_conn"], true);
    assert_eq!(export["can_df"], true);
    assert_eq!(export["can_trim"], false);
    assert_eq!(export["can_zero"], false);
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    assert_eq!(export["block_size_minimum"], 1);
    assert_eq!(export["block_size_maximum"], 32 << 20);
    let (success, _, stderr) = run("nbdinfo", &[&server.uri("nothing")]);
    assert!(!success && stderr.contains("No such file"), "{stderr}");
}

#[test]
fn nbdinfo_maps_holes() {
    if !has(&["nbdinfo"]) {
        return;
    }
    let image = Memory::new(disk());
    let server = Server::start(&[("vm/1", &image)], Limits::default());
    let map = json(&ok("nbdinfo", &["--map", "--json", &server.uri("vm/1")]));
    let map: Vec<(u64, u64, u64)> = map
        .as_array()
        .expect("a map")
        .iter()
        .map(|e| {
            let number = |key: &str| e[key].as_u64().expect("a number");
            (number("offset"), number("length"), number("type"))
        })
        .collect();
    let mib = 1 << 20;
    assert_eq!(
        map,
        [
            (0, 8192, 0),
            (8192, mib - 8192, 3),
            (mib, 3 * mib, 0),
            (4 * mib, 4 * mib, 3),
            (8 * mib, 4096, 0),
            (8 * mib + 4096, mib - 4096, 3),
            (9 * mib, 700, 0),
        ]
    );
    assert_eq!(image.read_bytes.load(Ordering::SeqCst), 0, "a map costs no data");
}

#[test]
fn nbdcopy_and_qemu_img_copy_and_compare() {
    if !has(&["nbdcopy", "qemu-img"]) {
        return;
    }
    let mut content = disk();
    content.truncate(9 << 20);
    let image = Memory::new(content.clone());
    let server = Server::start(&[("vm/1", &image), ("vm/latest", &image)], Limits::default());
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (number, options) in [
        &["--connections=4"][..],
        &["--connections=1", "--requests=64", "--request-size=65536"],
        &["--synchronous"],
    ]
    .iter()
    .enumerate()
    {
        let copy = path(&format!("copy{number}"));
        for export in ["vm/1", "vm/latest"] {
            ok("nbdcopy", &[options, &[server.uri(export).as_str(), copy.as_str()][..]].concat());
            assert!(fs::read(&copy).expect("the copy") == content, "{options:?}");
        }
    }
    // Holes are not read.
    let before = image.read_bytes.load(Ordering::SeqCst);
    let (qcow2, raw) = (path("vm.qcow2"), path("vm.raw"));
    ok("qemu-img", &["convert", "-O", "qcow2", &server.uri("vm/1"), &qcow2]);
    let read = image.read_bytes.load(Ordering::SeqCst) - before;
    assert!(read < 5 << 20, "{read} bytes were read of 3 MiB of data and two blocks");
    fs::write(&raw, &content).expect("write the original");
    for other in [&qcow2, &raw] {
        ok("qemu-img", &["compare", &server.uri("vm/1"), other]);
    }
    let mut changed = content;
    changed[(2 << 20) + 5] ^= 1;
    fs::write(&raw, &changed).expect("write another");
    let (same, _, _) = run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &server.uri("vm/1"), &raw]);
    assert!(!same, "a difference is seen");
}

#[test]
fn many_read_at_once() {
    if !has(&["nbdcopy"]) {
        return;
    }
    let image = Memory::new(disk());
    let server = Server::start(&[("vm/1", &image)], Limits::default());
    let folder = tempfile::tempdir().expect("a folder");
    let children: Vec<_> = (0..8)
        .map(|n| {
            let copy = folder.path().join(n.to_string());
            Command::new("nbdcopy").arg(server.uri("vm/1")).arg(copy).spawn().expect("start nbdcopy")
        })
        .collect();
    for (n, mut child) in children.into_iter().enumerate() {
        assert!(child.wait().expect("wait").success());
        assert!(fs::read(folder.path().join(n.to_string())).expect("the copy") == disk());
    }
}

#[test]
fn a_store_that_is_away_is_an_error_of_that_reader_alone() {
    if !has(&["nbdcopy"]) {
        return;
    }
    let (good, hurt) = (Memory::new(disk()), Memory::new(disk()));
    hurt.is_hurt.store(true, Ordering::SeqCst);
    let server = Server::start(&[("good/1", &good), ("hurt/1", &hurt)], Limits::default());
    let (success, _, stderr) = run("nbdcopy", &[&server.uri("hurt/1"), "null:"]);
    assert!(!success && stderr.contains("Input/output error"), "{stderr}");
    ok("nbdcopy", &[&server.uri("good/1"), "null:"]);
    // And it is well again.
    hurt.is_hurt.store(false, Ordering::SeqCst);
    ok("nbdcopy", &[&server.uri("hurt/1"), "null:"]);
}

#[test]
fn a_unix_socket_serves_as_well() {
    if !has(&["nbdinfo"]) {
        return;
    }
    let server = Server::start(&[], Limits::default());
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    let shelf = super::shelf::Shelf([("vm/1".to_owned(), Memory::new(disk()))].into());
    let (_canceller, cancel) = cuttle::cancel::pair();
    let _runtime = server.runtime.enter();
    let listener = Listener::unix(&socket).expect("a socket");
    tokio::spawn(nbd::serve(listener, Arc::new(shelf), Limits::default(), cancel));
    let uri = format!("nbd+unix:///vm/1?socket={}", socket.display());
    assert_eq!(ok("nbdinfo", &["--size", &uri]).trim(), disk().len().to_string());
}
