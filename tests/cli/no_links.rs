//! A repository on a file system that has no hard links, as exFAT, FAT and many FUSE mounts: one writer at a time, said at once.

use std::process::Command;

use crate::bench::{Bench, stderr};
use crate::support;

/// What such a file system answers.
const SHIM: &str = "#include <errno.h>\n\
    int link(const char *a, const char *b) { errno = EPERM; return -1; }\n\
    int linkat(int d, const char *a, int e, const char *b, int f) { errno = EPERM; return -1; }\n";

#[test]
fn a_file_system_without_hard_links_is_for_one_writer_at_a_time() {
    let bench = Bench::new();
    bench.write("shim.c", SHIM.as_bytes());
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(bench.path("shim.so")).arg(bench.path("shim.c"));
    if !cc.status().is_ok_and(|status| status.success()) {
        return support::skip("there is no C compiler");
    }
    let run = |args: &[&str]| {
        let output =
            bench.cuttle(args).env("LD_PRELOAD", bench.path("shim.so")).output().expect("run cuttle");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        stderr(&output)
    };
    let said = run(&["init"]);
    assert!(said.contains("no hard links") && said.contains("one program"), "{said}");
    bench.sparse("a.img");
    for args in [
        &["backup", "a.img"][..],
        &["backup", "a.img"],
        &["forget", "a.img@1"],
        &["prune"],
        &["verify", "--read-data"],
        &["restore", "a.img", "out"],
    ] {
        run(args);
    }
    assert!(bench.read("out") == bench.read("a.img"));
    let found = bench.json(&["init", "-r", &bench.text("other")]).remove(0);
    assert_eq!(found["create_if_absent"], true, "where there are links: {found}");
}
