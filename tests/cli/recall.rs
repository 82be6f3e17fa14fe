//! What was forgotten by mistake comes back.

use std::fs;

use crate::bench::{Bench, fails, ok};

/// As an operator has it: nobody said how long what is forgotten is kept.
fn usual(bench: &Bench, args: &[&str]) -> String {
    ok(bench.cuttle(args).env_remove("CUTTLE_KEEP_FORGOTTEN"))
}

#[test]
fn forgotten_snapshots_are_kept_and_brought_back() {
    let bench = Bench::with_repository();
    for night in 0..3u8 {
        bench.write("disk.img", &crate::bench::random(u64::from(night) + 1, 300_000));
        usual(&bench, &["backup", "disk.img"]);
    }
    usual(&bench, &["forget", "disk.img@1", "disk.img@2", "--prune"]);
    let said = usual(&bench, &["prune"]);
    assert!(said.contains("2 forgotten snapshots still kept") && said.contains("cuttle recall"), "{said}");
    let said = usual(&bench, &["prune", "-n"]);
    assert!(said.contains("0 objects"), "{said}");
    let said = usual(&bench, &["recall", "disk.img@2", "-n"]);
    assert!(said.contains("would come back"), "{said}");
    let said = usual(&bench, &["recall", "disk.img@2"]);
    assert!(said.contains("disk.img@4 is disk.img@2 again"), "{said}");
    usual(&bench, &["restore", "disk.img@4", "out"]);
    assert!(fs::read(bench.path("out")).expect("restored") == crate::bench::random(2, 300_000));
    let listed = bench.json(&["snapshots"]).remove(0);
    assert_eq!(listed[1]["recalled_from"], 2, "{listed}");
    usual(&bench, &["verify", "--read-data"]);
    // Whoever does not want that says so, once or for every prune of a host.
    bench.fails(1, &["prune", "--keep-forgotten", "soon"]);
    let said = fails(1, bench.cuttle(&["prune"]).env("CUTTLE_KEEP_FORGOTTEN", "soon"));
    assert!(said.contains("CUTTLE_KEEP_FORGOTTEN"), "{said}");
    let said = usual(&bench, &["prune", "--keep-forgotten", "0"]);
    assert!(said.contains("deleted") && !said.contains("still kept"), "{said}");
    let said = bench.fails(1, &["recall", "disk.img@1"]);
    assert!(said.contains("not among the forgotten snapshots"), "{said}");
    usual(&bench, &["verify", "--read-data"]);
    // The next night goes on from what came back.
    usual(&bench, &["backup", "disk.img"]);
    usual(&bench, &["verify", "--read-data"]);
}
