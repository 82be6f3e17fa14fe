//! Keys of roles by the command line: making them, and what each does and refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::bench::{Bench, by, fails, ok};

fn with_roles() -> Bench {
    let bench = Bench::with_repository();
    bench.sparse("disk.img");
    for role in ["backup", "restore", "keeper", "admin"] {
        let said =
            bench.ok(&["key", "add", "--role", role, "--out", &format!("{role}.key"), "--label", role]);
        assert!(said.contains(&format!("of the role {role} of project default")), "{said}");
    }
    bench
}

#[test]
fn each_role_does_what_it_is_for_and_names_who_does_the_rest() {
    let bench = with_roles();
    let mode = fs::metadata(bench.path("backup.key")).expect("a key file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    ok(&mut by(&bench, "backup.key", &["backup", "disk.img", "-n"]));
    ok(&mut by(&bench, "backup.key", &["backup", "disk.img"]));
    ok(&mut by(&bench, "backup.key", &["backup", "disk.img"]));
    for (key, args, wanted) in [
        ("backup.key", &["restore", "disk.img", "out"][..], Some("restore or admin")),
        ("backup.key", &["verify", "--read-data"], Some("restore or admin")),
        ("backup.key", &["export", "disk.img", "--format", "raw", "out.raw"], Some("restore or admin")),
        ("backup.key", &["forget", "disk.img@1"], Some("keeper or admin")),
        ("backup.key", &["protect", "disk.img@1"], Some("keeper or admin")),
        ("backup.key", &["prune"], Some("keeper or admin")),
        ("backup.key", &["key", "add", "--role", "admin", "--out", "more.key"], Some("role admin")),
        ("backup.key", &["project", "create", "mine"], Some("key of the repository")),
        ("backup.key", &["verify"], None),
        ("backup.key", &["snapshots"], None),
        ("backup.key", &["stats"], None),
        ("restore.key", &["backup", "disk.img"], Some("backup or admin")),
        ("restore.key", &["forget", "disk.img@1"], Some("keeper or admin")),
        ("restore.key", &["verify", "--read-data"], None),
        ("restore.key", &["restore", "disk.img", "out"], None),
        ("keeper.key", &["restore", "disk.img", "out2"], Some("restore or admin")),
        ("keeper.key", &["backup", "disk.img"], Some("backup or admin")),
        ("keeper.key", &["verify", "--repair"], Some("role admin")),
        ("keeper.key", &["tag", "disk.img", "--add", "kept"], None),
        ("keeper.key", &["forget", "disk.img@1"], None),
        ("keeper.key", &["prune"], None),
        ("admin.key", &["restore", "disk.img", "out3"], None),
        ("admin.key", &["backup", "disk.img"], None),
    ] {
        let mut command = by(&bench, key, args);
        match wanted {
            None => drop(ok(&mut command)),
            Some(wanted) => {
                let said = fails(12, &mut command);
                assert!(said.contains(wanted), "{key} {args:?}: {said}");
            }
        }
    }
    assert!(!bench.path("more.key").exists() && !bench.path("out2").exists());
    let whole = fs::read(bench.path("disk.img")).expect("a disk");
    assert!(fs::read(bench.path("out")).expect("restored") == whole);
    assert!(fs::read(bench.path("out3")).expect("restored") == whole);
}

#[test]
fn keys_of_roles_are_listed_and_the_last_one_is_removed_with_a_yes() {
    let bench = with_roles();
    let said = bench.ok(&["key", "list"]);
    assert!(
        said.lines().next().is_some_and(|head| head.contains("ROLE") && head.contains("PROJECT")),
        "{said}"
    );
    for role in ["repository", "backup", "restore", "keeper", "admin"] {
        assert!(said.lines().any(|line| line.split_whitespace().nth(1) == Some(role)), "{role}: {said}");
    }
    let listed = bench.json(&["key", "list"]).remove(0);
    let keys = listed.as_array().expect("a list");
    assert_eq!(keys.len(), 5);
    let id = |role: &str| {
        let key = keys.iter().find(|key| key["role"] == role).expect("it is listed");
        key["key_id"].as_str().expect("an id").to_owned()
    };
    // Who has a key of the project sees its keys.
    let seen = ok(&mut by(&bench, "keeper.key", &["key", "list"]));
    assert!(seen.contains(&id("backup")) && !seen.contains(&id("repository")), "{seen}");
    let host = id("backup");
    bench.ok(&["key", "remove", "-n", &host]);
    let said = bench.fails(1, &["key", "remove", &host]);
    assert!(said.contains("last of its role") && said.contains("--yes"), "{said}");
    bench.ok(&["key", "remove", &host, "--yes"]);
    fails(12, &mut by(&bench, "backup.key", &["backup", "disk.img"]));
    // A file that is there is never written over, and then no key is made.
    let before = fs::read(bench.path("keeper.key")).expect("a key file");
    bench.fails(1, &["key", "add", "--role", "backup", "--out", "keeper.key"]);
    assert!(fs::read(bench.path("keeper.key")).expect("a key file") == before);
    assert_eq!(bench.json(&["key", "list"]).remove(0).as_array().map(Vec::len), Some(4));
    bench.ok(&["key", "add", "--role", "backup", "--out", "new.key", "-n"]);
    assert!(!bench.path("new.key").exists());
}

#[test]
fn a_tenants_key_opens_the_tenants_project_alone() {
    let bench = Bench::with_repository();
    bench.sparse("disk.img");
    bench.ok(&["project", "create", "tenant-a"]);
    bench.ok(&["--project", "tenant-a", "key", "add", "--role", "admin", "--out", "a.key"]);
    bench.ok(&["backup", "disk.img"]);
    ok(&mut by(&bench, "a.key", &["--project", "tenant-a", "backup", "disk.img"]));
    let said = fails(12, &mut by(&bench, "a.key", &["snapshots"]));
    assert!(said.contains("--project"), "{said}");
    let listed = ok(&mut by(&bench, "a.key", &["--project", "tenant-a", "--json", "key", "list"]));
    assert!(listed.contains("tenant-a") && !listed.contains("default"), "{listed}");
    // And makes the keys of his hosts himself.
    ok(&mut by(
        &bench,
        "a.key",
        &["--project", "tenant-a", "key", "add", "--role", "backup", "--out", "h.key"],
    ));
    ok(&mut by(&bench, "h.key", &["--project", "tenant-a", "backup", "disk.img"]));
}

#[test]
fn a_policy_is_printed_without_a_repository() {
    let bench = Bench::new();
    let said = bench.ok(&["policy", "--role", "backup=host-7", "--for", "rgw", "-r", "s3://backups/ceph"]);
    let policy: serde_json::Value = serde_json::from_str(&said).expect("JSON, and nothing else");
    assert_eq!(policy["Statement"][0]["Principal"]["AWS"], "arn:aws:iam:::user/host-7");
    assert!(said.contains("ceph/projects/default/log/*"), "{said}");
    let said =
        bench.ok(&["policy", "--role", "keeper", "--for", "gcs", "-r", "gs://b", "--project", "tenant-a"]);
    assert!(said.contains("objects/projects/tenant-a/retention/"), "{said}");
    for args in [
        &["policy", "--role", "backup=a'b", "--for", "gcs", "-r", "gs://b"][..],
        &["policy", "--role", "nobody", "--for", "gcs", "-r", "gs://b"],
        &["policy", "--role", "backup", "--role", "keeper", "--for", "aws", "-r", "s3://b"],
        &["policy", "--role", "backup", "--for", "aws", "-r", "/srv/backups"],
    ] {
        bench.fails(1, args);
    }
}
