//! Passwords and key files.

use std::fs;

use serde_json::json;

use crate::bench::{Bench, fails, ok};

/// A repository with a password, and a backup in it.
fn with_password() -> Bench {
    let bench = Bench::new();
    bench.write("password", b"correct horse\n");
    bench.write("a.img", &[1; 5000]);
    ok(bench.bare(&["-r", "repo", "init", "--password-file", "password"]).env("X", ""));
    ok(&mut bench.bare(&["-r", "repo", "backup", "a.img", "--password-file", "password"]));
    bench
}

#[test]
fn a_password_comes_from_a_variable_a_file_or_a_command() {
    let bench = with_password();
    let cuttle = |variables: &[(&str, &str)]| {
        let mut command = bench.bare(&["-r", "repo", "snapshots"]);
        command.envs(variables.iter().copied());
        command
    };
    ok(&mut cuttle(&[("CUTTLE_PASSWORD", "correct horse")]));
    ok(&mut cuttle(&[("CUTTLE_PASSWORD_FILE", "password")]));
    ok(&mut cuttle(&[("CUTTLE_PASSWORD_COMMAND", "echo correct horse")]));
    ok(&mut bench.bare(&["-r", "repo", "--password-command", "cat password", "snapshots"]));
    // An option goes before the environment.
    ok(cuttle(&[("CUTTLE_PASSWORD", "wrong")]).args(["--password-file", "password"]));

    let said = fails(1, &mut cuttle(&[("CUTTLE_PASSWORD", "a"), ("CUTTLE_PASSWORD_FILE", "password")]));
    assert!(said.contains("CUTTLE_PASSWORD and CUTTLE_PASSWORD_FILE"), "{said}");
    let said = fails(1, &mut cuttle(&[]));
    assert!(said.contains("no password is given") && said.contains("--key-file"), "nobody is asked: {said}");
    fails(1, &mut cuttle(&[("CUTTLE_PASSWORD_FILE", "nothing")]));
    fails(1, &mut cuttle(&[("CUTTLE_PASSWORD_COMMAND", "echo correct horse; exit 1")]));
}

#[test]
fn a_wrong_secret_opens_nothing_and_touches_nothing() {
    let bench = with_password();
    // Whoever asked for more than the keys would fail in another way.
    fs::rename(bench.path("repo/projects"), bench.path("elsewhere")).expect("hide the projects");
    let before = bench.repository();
    for args in [
        &["snapshots"][..],
        &["backup", "a.img"],
        &["restore", "a.img", "out"],
        &["key", "list"],
        &["project", "create", "x"],
    ] {
        let args = [&["-r", "repo"], args].concat();
        let said = fails(12, bench.bare(&args).env("CUTTLE_PASSWORD", "wrong"));
        assert!(said.contains("opens none of the 1 key slots"), "{said}");
        fails(12, bench.bare(&args).env("CUTTLE_KEY_FILE", "key"));
    }
    assert!(bench.repository() == before && !bench.path("out").exists());
    fails(12, bench.bare(&["-r", "repo", "snapshots"]).env("CUTTLE_KEY_FILE", "password"));
}

#[test]
fn a_secret_for_what_is_not_encrypted_is_refused() {
    let bench = Bench::new();
    ok(&mut bench.bare(&["-r", "repo", "init", "--insecure-no-encryption"]));
    let before = bench.repository();
    let said = fails(12, bench.bare(&["-r", "repo", "snapshots"]).env("CUTTLE_PASSWORD", "x"));
    assert!(said.contains("is not encrypted"), "{said}");
    fails(12, &mut bench.bare(&["-r", "repo", "snapshots", "--key-file", "key"]));
    ok(&mut bench.bare(&["-r", "repo", "snapshots"]));
    ok(&mut bench.bare(&["-r", "repo", "key", "list"]));
    fails(1, &mut bench.bare(&["-r", "repo", "key", "add", "--new-key-file", "key"]));
    assert!(bench.repository() == before);
    let said =
        fails(1, &mut bench.bare(&["-r", "other", "init", "--insecure-no-encryption", "--key-file", "key"]));
    assert!(said.contains("--insecure-no-encryption and"), "{said}");
    assert!(!bench.path("other/repository").exists());

    // Somebody puts an unencrypted repository in an encrypted one's place.
    let encrypted = Bench::with_repository();
    fs::rename(encrypted.path("repo"), encrypted.path("aside")).expect("move it away");
    fs::rename(bench.path("repo"), encrypted.path("repo")).expect("put the other there");
    let said = encrypted.fails(12, &["snapshots"]);
    assert!(said.contains("put another repository in its place"), "{said}");
    let said = fails(1, &mut encrypted.bare(&["-r", "repo", "snapshots"]));
    assert!(said.contains("not the one this host saw before"), "{said}");
}

#[test]
fn keys_are_added_listed_and_removed() {
    let bench = Bench::with_repository();
    bench.write("p1", b"first");
    bench.write("k2", &[9; 40]);
    bench.write("short", &[9; 31]);
    let added = bench.json(&["key", "add", "--new-password-file", "p1", "--label", "by hand"]).remove(0);
    assert_eq!(added["message_type"], "key_added");
    bench.ok(&["key", "add", "--new-key-file", "k2"]);
    bench.fails(12, &["key", "add", "--new-key-file", "short"]);
    bench.fails(1, &["key", "add"]);
    let listed = bench.json(&["key", "list"]).remove(0);
    let kinds: Vec<_> = listed.as_array().expect("an array").iter().map(|k| &k["kind"]).collect();
    assert_eq!(kinds, ["key_file", "password", "key_file"]);
    assert_eq!((&listed[1]["label"], &listed[1]["key_id"]), (&json!("by hand"), &added["key_id"]));
    assert!(bench.ok(&["key", "list"]).contains("by hand"));

    let open = |key: &str| bench.bare(&["-r", "repo", "snapshots", "--key-file", key]);
    ok(&mut open("k2"));
    ok(&mut bench.bare(&["-r", "repo", "snapshots", "--password-file", "p1"]));
    let id = |n: usize| listed[n]["key_id"].as_str().expect("an id").to_owned();
    let removed = bench.json(&["key", "remove", &id(1)]).remove(0);
    assert_eq!((&removed["message_type"], &removed["key_id"]), (&json!("key_removed"), &added["key_id"]));
    fails(12, &mut bench.bare(&["-r", "repo", "snapshots", "--password-file", "p1"]));
    bench.fails(1, &["key", "remove", &id(1)]);
    bench.fails(1, &["key", "remove", ""]);
    bench.ok(&["key", "remove", &id(0)[..12]]);
    bench.fails(12, &["snapshots"]);
    let said = fails(1, &mut bench.bare(&["-r", "repo", "key", "remove", &id(2), "--key-file", "k2"]));
    assert!(said.contains("last key"), "{said}");
    ok(&mut open("k2"));
}
