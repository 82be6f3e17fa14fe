//! Verification as an operator runs it, before and after damage.

use std::fs;

use serde_json::json;

use crate::bench::{Bench, SPARSE_BYTES, fails, lines, ok, stderr};

fn with_backup() -> Bench {
    let bench = Bench::with_repository();
    bench.sparse("disk.img");
    bench.ok(&["backup", "disk.img"]);
    bench
}

#[test]
fn what_is_whole_verifies() {
    let bench = with_backup();
    let said = bench.ok(&["verify"]);
    assert!(said.contains("1 snapshot") && said.contains("requests: "), "{said}");
    let found = bench.json(&["verify", "--read-data"]).remove(0);
    assert_eq!((&found["mode"], &found["ok"]), (&json!("verify"), &json!(true)));
    assert_eq!((&found["chunks_read"], &found["damage"]), (&json!(3), &json!([])));
    bench.ok(&["verify", "disk.img@latest", "--read-data", "-q"]);
    // The parts make up the whole.
    let read = |n: u32| {
        let found = bench.json(&["verify", "--read-data", "--slice", &format!("{n}/4")]).remove(0);
        found["chunks_read"].as_u64().expect("a number")
    };
    assert_eq!((1..=4).map(read).sum::<u64>(), 3);
    for args in [
        &["verify", "--slice", "5/4"][..],
        &["verify", "--slice", "x"],
        &["verify", "nothing"],
        &["verify", "--no-key", "--read-data"],
    ] {
        bench.fails(1, args);
    }
}

#[test]
fn damage_is_told_and_fails_at_the_end() {
    let bench = with_backup();
    let chunks = bench.chunks();
    let mut bytes = fs::read(&chunks[0]).expect("read a chunk");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&chunks[0], bytes).expect("damage a chunk");

    bench.ok(&["verify"]);
    let output = bench.cuttle(&["verify", "--read-data", "--json"]).output().expect("run cuttle");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let found = &lines(&String::from_utf8_lossy(&output.stdout))[0];
    assert_eq!((&found["ok"], &found["damage"][0]["problem"]), (&json!(false), &json!("damaged")));
    assert_eq!((&found["hurt"][0]["volume"], &found["hurt"][0]["sequence"]), (&json!("disk.img"), &json!(1)));
    assert_eq!(found["hurt"][0]["ranges"].as_array().map(Vec::len), Some(1), "{found}");
    let error = lines(&stderr(&output)).pop().expect("an error");
    assert_eq!(error["kind"], "corrupt");

    fs::remove_file(&chunks[1]).expect("remove a chunk");
    let output = bench.cuttle(&["verify", "-q"]).output().expect("run cuttle");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("missing") && said.contains("HURT VOLUME") && said.contains("disk.img"), "{said}");
    assert!(stderr(&output).contains("1 snapshot hurt"), "{}", stderr(&output));

    // Nothing wrong is restored.
    bench.fails(1, &["restore", "disk.img", "out.img"]);
    assert!(!bench.path("out.img").exists());
}

#[test]
fn without_a_key_checksums_tell() {
    let bench = with_backup();
    let found = lines(&ok(&mut bench.bare(&["-r", "repo", "verify", "--no-key", "--json"]))).remove(0);
    assert_eq!((&found["mode"], &found["ok"]), (&json!("no_key"), &json!(true)));
    // What is kept for a full store is nobody's to check.
    let files = bench.repository();
    let objects = files.iter().filter(|(name, _)| !name.contains("/reserve/"));
    assert_eq!(found["objects"].as_u64(), Some(objects.count() as u64));

    let said = fails(1, &mut bench.bare(&["-r", "repo", "verify"]));
    assert!(said.contains("cuttle verify --no-key"), "{said}");
    fails(12, bench.bare(&["-r", "repo", "verify"]).env("CUTTLE_PASSWORD", "wrong"));

    let chunk = bench.chunks().remove(0);
    let bytes = fs::read(&chunk).expect("read a chunk");
    fs::write(&chunk, &bytes[..bytes.len() - 1]).expect("cut a chunk");
    let said = fails(1, &mut bench.bare(&["-r", "repo", "verify", "--no-key"]));
    assert!(said.contains("1 object damaged"), "{said}");
    bench.fails(10, &["-r", "nowhere", "verify", "--no-key"]);
}

#[test]
fn a_snapshot_is_compared_with_its_source() {
    let bench = with_backup();
    let said = bench.ok(&["verify", "disk.img", "--against", "disk.img"]);
    assert!(said.contains("are the same"), "{said}");
    let mut bytes = bench.read("disk.img");
    bytes[9 << 20] ^= 1;
    bench.write("other.img", &bytes);
    let output = bench.cuttle(&["verify", "disk.img", "--against", "other.img", "--json"]).output();
    let output = output.expect("run cuttle");
    assert_eq!(output.status.code(), Some(1));
    let found = &lines(&String::from_utf8_lossy(&output.stdout))[0];
    let expected = json!([{ "offset_bytes": 8 << 20, "length_bytes": 4 << 20 }]);
    assert_eq!((&found["mode"], &found["differing"]), (&json!("against"), &expected));

    bytes.push(0);
    bench.write("longer.img", &bytes);
    let said = bench.fails(1, &["verify", "disk.img", "--against", "longer.img"]);
    assert!(said.contains(&format!("longer.img has {}", SPARSE_BYTES + 1)), "{said}");
    bench.fails(1, &["verify", "--against", "disk.img"]);
    bench.fails(1, &["verify", "disk.img", "--against", "-"]);
    bench.fails(1, &["verify", "disk.img", "--against", "nothing.img"]);
}

#[test]
fn damage_is_mended_from_what_was_backed_up() {
    let bench = with_backup();
    let damage = || {
        let chunks = bench.chunks();
        let mut bytes = fs::read(&chunks[0]).expect("read a chunk");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&chunks[0], bytes).expect("damage a chunk");
        fs::remove_file(&chunks[1]).expect("remove a chunk");
    };
    let before = bench.repository();
    damage();
    let said = bench.ok(&["verify", "--read-data", "--repair", "-n"]);
    assert!(said.contains("WOULD BE MENDED") && said.contains("2 objects would be mended"), "{said}");
    bench.fails(1, &["verify", "--read-data"]);

    let found = bench.json(&["verify", "--read-data", "--repair"]).remove(0);
    assert_eq!((&found["mode"], &found["ok"]), (&json!("repair"), &json!(true)), "{found}");
    assert_eq!((&found["damage"], &found["left"], &found["hurt"]), (&json!([]), &json!([]), &json!([])));
    let mended = found["mended"].as_array().expect("a list");
    assert_eq!(mended.len(), 2);
    assert!(mended.iter().all(|m| m["from"].as_str().is_some_and(|from| from.ends_with("/disk.img"))));
    assert_eq!(mended.iter().filter(|m| !m["quarantined"].is_null()).count(), 1);
    bench.ok(&["verify", "--read-data"]);
    assert_eq!(bench.repository().len(), before.len() + 1);

    // The file is gone; an older copy of it, and then a copy of the repository, still have the content.
    fs::rename(bench.path("disk.img"), bench.path("kept.img")).expect("moved");
    damage();
    let said = bench.fails(1, &["verify", "--read-data", "--repair"]);
    assert!(said.contains("2 objects not mended") && said.contains("--repair-from"), "{said}");
    bench.ok(&["verify", "--read-data", "--repair", "--repair-from", "kept.img"]);
    bench.ok(&["-r", "copy", "init"]);
    bench.ok(&["-r", "copy", "backup", "kept.img", "--volume", "disk.img"]);
    damage();
    bench.ok(&["verify", "--read-data", "--repair", "--repair-from-repo", "copy"]);
    let said = bench.ok(&["verify", "--no-key"]);
    assert!(said.contains("in quarantine"), "{said}");

    for args in [
        &["verify", "--repair", "--no-key"][..],
        &["verify", "--repair-from", "kept.img"],
        &["verify", "--repair", "--repair-from", "-"],
        &["verify", "--repair", "--repair-from", "nothing.img"],
        &["verify", "--repair", "--repair-from-repo", "nowhere"],
    ] {
        bench
            .cuttle(args)
            .output()
            .map(|o| assert_ne!(o.status.code(), Some(0), "{args:?}"))
            .expect("run cuttle");
    }
}
