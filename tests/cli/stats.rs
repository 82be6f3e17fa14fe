//! What snapshots take, as an operator is told.

use serde_json::{Value, json};

use crate::bench::{Bench, SPARSE_BYTES, random};

const MIB: u64 = 1 << 20;

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number: {value}"))
}

/// Two nights of a sparse volume, and another volume with a chunk of its own and one of the first's.
fn with_backups() -> Bench {
    let bench = Bench::with_repository();
    bench.sparse("disk.img");
    bench.ok(&["backup", "disk.img"]);
    let mut bytes = bench.read("disk.img");
    let other = [&bytes[4 * MIB as usize..8 * MIB as usize], &random(5, 1000)].concat();
    bytes[20 * MIB as usize] = 1;
    bench.write("disk.img", &bytes);
    bench.write("other.img", &other);
    bench.ok(&["backup", "disk.img", "other.img"]);
    bench
}

#[test]
fn volumes_and_all_of_them() {
    let bench = with_backups();
    let report = bench.json(&["stats"]).remove(0);
    let (disk, other, total) = (&report["volumes"][0], &report["volumes"][1], &report["total"]);
    assert_eq!((&disk["volume"], &disk["snapshot_count"]), (&json!("disk.img"), &json!(2)));
    assert_eq!(number(&disk["logical_bytes"]), 2 * SPARSE_BYTES);
    // Three chunks, the last of them short, and one more in the second night.
    let short = SPARSE_BYTES - 32 * MIB;
    assert_eq!(number(&disk["allocated_bytes"]), 20 * MIB + 2 * short);
    assert_eq!((number(&disk["chunks"]), number(&disk["unique_bytes"])), (4, 12 * MIB + short));
    assert_eq!((number(&other["chunks"]), number(&other["unique_bytes"])), (2, 4 * MIB + 1000));
    assert_eq!((number(&total["chunks"]), &total["snapshot_count"]), (5, &json!(3)));
    assert_eq!((&total["one_in"], &total["deltas"], &disk["snapshots"]), (&json!(1), &json!(0), &json!([])));
    // All that lies in the store is needed.
    let stored = |kinds: &[&str]| {
        let all = bench.repository();
        let of = |name: &str| kinds.iter().any(|kind| name.contains(kind));
        all.iter().filter(|(name, _)| of(name)).map(|(_, bytes)| bytes.len() as u64).sum::<u64>()
    };
    // But for the tables of bundles.
    let (least, most) = (stored(&["/chunks/", "/pages/"]), stored(&["/chunks/", "/pages/", "/bundles/"]));
    assert!((least + 1..most).contains(&number(&total["stored_bytes"])) && most - least < 4096);

    let one = bench.json(&["stats", "other.img"]).remove(0);
    assert_eq!((&one["total"]["chunks"], one["volumes"].as_array().map(Vec::len)), (&json!(2), Some(1)));
    let table = bench.ok(&["stats"]);
    assert!(table.contains("(together)") && table.contains("requests: "), "{table}");
    assert!(table.lines().all(|l| l == l.trim_end()), "{table}");
    let quiet = bench.ok(&["stats", "-q"]);
    assert!(quiet.contains("disk.img") && !quiet.contains("requests: "), "{quiet}");
    bench.fails(1, &["stats", "nothing"]);
}

#[test]
fn what_forgetting_frees() {
    let bench = with_backups();
    let stats = || bench.json(&["stats", "--snapshots"]).remove(0);
    let before = stats();
    let rows = before["volumes"][0]["snapshots"].as_array().expect("an array");
    assert_eq!(rows.iter().map(|r| number(&r["sequence"])).collect::<Vec<_>>(), [1, 2]);
    assert!(rows[0]["committed_at"].as_str().expect("a time").ends_with('Z'), "{}", rows[0]);
    // The first night has nothing but its page for itself.
    assert!(number(&rows[0]["freed_bytes"]) < 4096, "{before}");
    let freed = number(&rows[1]["freed_bytes"]);
    let one = bench.json(&["stats", "disk.img", "--snapshots"]).remove(0);
    assert_eq!(one["volumes"][0]["snapshots"], before["volumes"][0]["snapshots"]);
    let table = bench.ok(&["stats", "disk.img", "--snapshots"]);
    assert!(table.contains("FREED"), "{table}");

    bench.ok(&["forget", "disk.img@2"]);
    let after = stats();
    let stored = |report: &Value| number(&report["total"]["stored_bytes"]);
    assert_eq!(stored(&before) - stored(&after), freed);
}
