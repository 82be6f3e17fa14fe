//! Several hosts share one job: each volume is done by exactly one of them.

use std::collections::BTreeSet;
use std::fs;

use crate::bench::{Bench, random};

const VOLUMES: usize = 12;

fn name(n: usize) -> String {
    format!("volume-{n:02}")
}

/// The volumes that a command told of.
fn told(lines: &[serde_json::Value]) -> BTreeSet<String> {
    let volumes = lines.iter().filter(|line| line["message_type"] == "volume");
    volumes.map(|line| line["volume"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn each_volume_is_backed_up_verified_and_restored_by_one_of_three() {
    let bench = Bench::with_repository();
    let all: BTreeSet<String> = (0..VOLUMES).map(name).collect();
    for (n, volume) in all.iter().enumerate() {
        fs::write(bench.path(volume), random(n as u64 + 1, 5_000)).expect("written");
    }
    // Counted from 1 or from 0, as a scheduler likes it.
    for shards in [["1/3", "2/3", "3/3"], ["0/3", "1/3", "2/3"]] {
        let mut done: Vec<String> = Vec::new();
        for shard in shards {
            let mut args = vec!["backup", "--shard", shard];
            args.extend(all.iter().map(String::as_str));
            let told = told(&bench.json(&args));
            assert!((1..VOLUMES).contains(&told.len()), "{shard}: {told:?}");
            done.extend(told);
        }
        assert_eq!(done.len(), VOLUMES, "none is done twice");
        assert_eq!(done.into_iter().collect::<BTreeSet<_>>(), all);
    }
    let mut snapshots = 0;
    let mut restored: Vec<String> = Vec::new();
    for shard in ["1/3", "2/3", "3/3"] {
        let report = bench.json(&["verify", "--read-data", "--shard", shard]).remove(0);
        snapshots += report["snapshots"].as_u64().expect("a number");
        restored.extend(told(&bench.json(&["restore", "--all", "--to", "out/", "--shard", shard])));
    }
    assert_eq!(snapshots as usize, 2 * VOLUMES);
    assert_eq!(restored.len(), VOLUMES);
    for volume in &all {
        assert!(bench.read(&format!("out/{volume}.raw")) == bench.read(volume), "{volume}");
    }
}

#[test]
fn a_share_that_is_none_is_refused() {
    let bench = Bench::with_repository();
    for shard in ["4/3", "1/0", "a", "1"] {
        let said = bench.cuttle(&["backup", "--shard", shard, "x"]).output().expect("run cuttle");
        assert_eq!(said.status.code(), Some(1), "{shard}: {said:?}");
        assert!(String::from_utf8_lossy(&said.stderr).contains("expected I/N"), "{shard}: {said:?}");
    }
}
