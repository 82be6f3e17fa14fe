//! Getting data out: exports, lists of changes, and what streams hold.

use serde_json::{Value, json};

use crate::bench::{Bench, SPARSE_BYTES, random};

const MIB: usize = 1 << 20;

/// Three nights of a sparse volume: the second writes into one chunk, the third zeroes another and shrinks.
fn with_backups() -> Bench {
    let bench = Bench::with_repository();
    bench.sparse("disk.img");
    bench.ok(&["backup", "disk.img"]);
    let mut bytes = bench.read("disk.img");
    bytes[20 * MIB] = 1;
    bench.write("disk.img", &bytes);
    bench.ok(&["backup", "disk.img"]);
    bytes.truncate(32 * MIB);
    bytes[4 * MIB..8 * MIB].fill(0);
    bench.write("disk.img", &bytes);
    bench.ok(&["backup", "disk.img", "--accept-smaller"]);
    bench
}

#[test]
fn changes_are_listed_in_the_shapes_of_rbd() {
    let bench = with_backups();
    assert_eq!(
        bench.ok(&["diff", "disk.img@1", "disk.img@2"]),
        "Offset    Length   Type\n20971520  4194304  data\n"
    );
    assert_eq!(
        bench.ok(&["diff", "disk.img@1", "disk.img@3"]),
        "Offset    Length   Type\n4194304   4194304  zero\n20971520  4194304  data\n"
    );
    assert_eq!(
        bench.ok(&["diff", "disk.img@2", "disk.img", "--format", "json"]),
        "[{\"offset\":4194304,\"length\":4194304,\"exists\":\"false\"}]\n"
    );
    assert_eq!(
        bench.ok(&["diff", "disk.img@2", "disk.img", "--format", "xml"]),
        "<extents><extent><offset>4194304</offset><length>4194304</length><exists>false</exists></extent></extents>\n"
    );
    // Data in 5 to 9 MiB and at 33 MiB, in chunks of 4 MiB, neighbours as one.
    let all = bench.json(&["diff", "disk.img@1"]).remove(0);
    let last = SPARSE_BYTES - 32 * MIB as u64;
    let listed = |offset: u64, length: u64| json!({"offset": offset, "length": length, "exists": "true"});
    assert_eq!(all, json!([listed(4 << 20, 8 << 20), listed(32 << 20, last)]));
    assert_eq!(bench.ok(&["diff", "disk.img@2", "disk.img@2"]), "");
    assert_eq!(bench.ok(&["diff", "disk.img@2", "disk.img@2", "--format", "json"]), "[]\n");
    assert_eq!(bench.ok(&["diff", "disk.img@2", "disk.img@2", "--format", "xml"]), "<extents></extents>\n");
}

#[test]
fn exports_say_what_they_hold() {
    let bench = with_backups();
    let (full, diff, image) = (bench.text("full.diff"), bench.text("some.diff"), bench.text("image"));
    bench.ok(&["export", "disk.img@1", &full, "--format", "diff-v1"]);
    let args = ["export", "disk.img@3", &diff, "--format", "diff-v2", "--from", "disk.img@1"];
    let report = bench.json(&[&args[..], &["--from-name", "a", "--to-name", "c"]].concat()).remove(0);
    assert_eq!((&report["format"], &report["from"]), (&json!("diff-v2"), &json!("disk.img@1")));
    assert_eq!(report["fetch"], json!({"chunks": 1, "bytes": 4 << 20}));
    bench.ok(&["export", "disk.img", &image, "--format", "image-v2"]);

    let found = bench.json(&["inspect", &diff]).remove(0);
    let total = |extents: u64, bytes: u64| json!({"extents": extents, "bytes": bytes});
    assert_eq!((&found["kind"], &found["sane"]), (&json!("rbd diff v2"), &json!(true)));
    let told = &found["diffs"][0];
    assert_eq!(
        (&told["from"], &told["to"], &told["size_bytes"]),
        (&json!("a"), &json!("c"), &json!(32 * MIB))
    );
    assert_eq!((&told["data"], &told["zero"]), (&total(1, 4 << 20), &total(1, 4 << 20)));
    let found = bench.json(&["inspect", &image]).remove(0);
    let names = |at: usize| (found["diffs"][at]["from"].clone(), found["diffs"][at]["to"].clone());
    assert_eq!((names(0), names(1)), ((Value::Null, json!("cuttle-3")), (json!("cuttle-3"), Value::Null)));
    let lines = bench.json(&["inspect", "--extents", &full]);
    assert_eq!(lines.len(), 4, "three extents and a summary");
    assert_eq!(lines[0]["exists"], true);
    let said = bench.ok(&["inspect", "--extents", &diff]);
    assert!(said.starts_with("4194304  4194304  zero\n20971520  4194304  data\n"), "{said}");
    assert!(said.contains("whole and sane"), "{said}");

    let whole = bench.read("some.diff");
    bench.write("cut", &whole[..whole.len() - 1]);
    let found: Value = serde_json::from_slice(
        &bench.cuttle(&["inspect", "--json", &bench.text("cut")]).assert().code(1).get_output().stdout,
    )
    .expect("JSON");
    assert_eq!(found["sane"], false);
    assert!(found["problem"].as_str().expect("a problem").contains("at byte"), "{found}");
    for (name, bytes, kind) in [("raw", &random(1, 100)[..], "raw"), ("q", b"QFI\xfb and so on", "qcow2")] {
        bench.write(name, bytes);
        let found = bench.json(&["inspect", &bench.text(name)]).remove(0);
        assert_eq!((&found["kind"], &found["sane"]), (&json!(kind), &Value::Null));
    }
}

#[test]
fn a_chain_goes_on_where_it_is() {
    let bench = with_backups();
    let folder = bench.text("chain");
    let chain = ["export", "disk.img@2", &folder, "--format", "qcow2", "--chain"];
    assert_eq!(bench.json(&chain).len(), 2);
    let files = || {
        let names = std::fs::read_dir(&folder).expect("a folder").map(|e| e.expect("an entry").file_name());
        let mut names: Vec<String> = names.map(|n| n.into_string().expect("UTF-8")).collect();
        names.sort();
        names
    };
    let before = files();
    assert_eq!(before.len(), 2, "{before:?}");
    let more = ["export", "disk.img", &folder, "--format", "qcow2", "--chain"];
    assert_eq!(bench.json(&more).len(), 1, "only what is new");
    let after = files();
    assert!(after.len() == 3 && after[..2] == before[..], "{after:?}");
    let third = bench.read(&format!("chain/{}", after[2]));
    let second = after[1].as_bytes();
    assert!(third.windows(second.len()).take(4096).any(|w| w == second), "it stands on the second");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bench = with_backups();
    let out = bench.text("out");
    for args in [
        &["export", "disk.img", &out, "--format", "raw", "--from", "disk.img@1"][..],
        &["export", "disk.img", &out, "--format", "image-v2", "--from", "disk.img@1"],
        &["export", "disk.img", &out, "--format", "qcow2", "--from", "disk.img@1"],
        &["export", "disk.img", &out, "--format", "diff-v1", "--chain"],
        &["export", "disk.img", "-", "--format", "qcow2", "--chain"],
        &["export", "disk.img", "rbd:rbd/x", "--format", "raw"],
        &["export", "-n", "disk.img", &bench.text("no-folder/out"), "--format", "raw"],
        &["import-diff", &bench.text("disk.img"), &out],
        &["inspect", &bench.text("nothing")],
        &["inspect", &bench.text("")],
    ] {
        bench.fails(1, args);
    }
    assert!(!bench.path("out").exists());
    let raw = bench.cuttle(&["export", "disk.img", "-", "--format", "raw"]).output().expect("run cuttle");
    assert!(raw.stdout == bench.read("disk.img"));
    let qcow2 = bench.cuttle(&["export", "disk.img", "-", "--format", "qcow2"]).output().expect("run cuttle");
    assert!(qcow2.status.success() && qcow2.stdout.starts_with(b"QFI\xfb"));
}
