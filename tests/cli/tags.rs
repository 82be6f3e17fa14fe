//! Tags and protection, as an operator changes and sees them.

use serde_json::{Value, json};

use crate::bench::{Bench, ok};

fn two_nights() -> Bench {
    let bench = Bench::with_repository();
    for (content, tags) in [(1, "nightly"), (2, "even,nightly")] {
        bench.write("v.img", &[content; 5000]);
        bench.ok(&["backup", "v.img", "-q", "--tag", tags]);
    }
    bench
}

#[test]
fn tags_are_changed_and_protection_shows() {
    let bench = two_nights();
    let tags = |sequence: u32| {
        let listed = bench.json(&["snapshots"]).remove(0);
        let of = |s: &&Value| s["sequence"] == sequence;
        listed.as_array().expect("an array").iter().find(of).expect("listed")["tags"].clone()
    };
    let changed = bench.json(&["tag", "v.img@1", "v.img@2", "--add", "a,b", "--remove", "nightly"]);
    assert_eq!((&changed[0]["tags"], &changed[0]["changed"]), (&json!(["a", "b"]), &json!(true)));
    assert_eq!(tags(2), json!(["even", "a", "b"]));
    let planned = bench.json(&["protect", "v.img@2", "-n"]).remove(0);
    assert!(!bench.ok(&["snapshots"]).contains("protected"), "nothing was changed");
    let mut done = bench.json(&["protect", "v.img@2"]).remove(0);
    assert_eq!((&planned["dry_run"], &planned["changed"]), (&json!(true), &json!(true)));
    done["dry_run"] = json!(true);
    assert_eq!(planned, done);
    let said = bench.ok(&["tag", "v.img@2", "--set", "c"]);
    assert_eq!(said.trim_end(), "v.img@2: protected, tags c");
    assert!(bench.ok(&["snapshots"]).contains("c (protected)"));
    let again = bench.json(&["tag", "v.img@2", "--set", "c"]);
    assert_eq!((&again[0]["protected"], &again[0]["changed"]), (&json!(true), &json!(false)));
    bench.ok(&["tag", "v.img@2", "--set", ""]);
    assert_eq!(tags(2), json!([]));
    for args in [
        &["tag", "v.img@2"][..],
        &["tag", "--add", "x"],
        &["tag", "v.img@2", "--set", "x", "--add", "y"],
        &["tag", "v.img@2", "--add", ""],
        &["tag", "v.img@9", "--add", "x"],
        &["protect", "v.img@9"],
        &["protect"],
    ] {
        bench.fails(1, args);
    }
    // All or none.
    for args in [&["unprotect", "nothing", "v.img@2"][..], &["tag", "v.img@1", "v.img@9", "--add", "x"]] {
        assert!(bench.fails(1, args).contains("nothing was changed"));
    }
    assert!(ok(&mut bench.cuttle(&["snapshots"])).contains("protected"));
    assert_eq!(tags(1), json!(["a", "b"]));
    bench.ok(&["unprotect", "v.img@1", "v.img@2"]);
    assert!(!ok(&mut bench.cuttle(&["snapshots"])).contains("protected"));
}
