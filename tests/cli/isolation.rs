//! Projects share nothing.

use std::collections::BTreeSet;

use serde_json::json;

use crate::bench::Bench;
use crate::support::buckets::gcs_config;
use crate::support::gcs_fake::GcsFake;

#[test]
fn projects_are_made_listed_and_shut_off() {
    let bench = Bench::with_repository();
    bench.sparse("disk.img");
    assert_eq!(bench.ok(&["project", "list"]), "default\n");
    let created = bench.json(&["project", "create", "tenant-a"]).remove(0);
    assert_eq!(created, json!({ "message_type": "project_created", "schema": 1, "project": "tenant-a" }));
    bench.fails(1, &["project", "create", "tenant-a"]);
    assert_eq!(
        bench.json(&["project", "list"])[0],
        json!([{ "project": "default" }, { "project": "tenant-a" }])
    );

    let first = bench.json(&["backup", "disk.img"]);
    let second = bench.json(&["--project", "tenant-a", "backup", "disk.img"]);
    assert_eq!(first[0]["new_chunks"], second[0]["new_chunks"], "nothing is known across projects");
    bench.fails(1, &["backup", "disk.img", "--project", "nobody"]);
    bench.fails(1, &["restore", "disk.img", "x", "--project", "nobody"]);
    let mut command = bench.cuttle(&["snapshots", "--json"]);
    let output = command.env("CUTTLE_PROJECT", "tenant-a").output().expect("run cuttle");
    let id = bench.json(&["snapshots"]).remove(0)[0]["snapshot_id"].as_str().expect("an id").to_owned();
    assert!(!String::from_utf8_lossy(&output.stdout).contains(&id));
    bench.fails(1, &["--project", "tenant-a", "restore", &id, "x"]);

    let names = |project: &str| -> BTreeSet<String> {
        let mine = |name: &String| name.contains(&format!("/projects/{project}/"));
        let last = |name: String| name.rsplit('/').next().map(str::to_owned);
        bench.chunks().into_iter().filter(mine).filter_map(last).collect()
    };
    // The third is small, and lies in a bundle.
    assert_eq!((names("default").len(), names("tenant-a").len()), (2, 2));
    assert!(names("default").is_disjoint(&names("tenant-a")), "equal chunks have other names");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_of_one_project_is_below_the_other() {
    let bench = Bench::new();
    bench.sparse("disk.img");
    let fake = GcsFake::start("bucket").await;
    let config = gcs_config(&fake.url, "bucket", "p");
    let run = |args: &[&str]| {
        let mut command = bench.cuttle(args);
        command.env("CUTTLE_REPOSITORY", &config.url).envs(config.environment.clone());
        let output = command.output().expect("run cuttle");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let both = |args: &[&str], project: &str, other: &str| {
        fake.take_seen();
        run(&[args, &["--project", project]].concat());
        let seen = fake.take_seen();
        let below = |name: &str| seen.iter().filter(|r| r.contains(&format!("projects/{name}"))).count();
        assert!(below(project) > 0, "{args:?}: {seen:#?}");
        assert_eq!(below(other), 0, "{args:?}: {seen:#?}");
    };
    tokio::task::block_in_place(|| {
        run(&["init"]);
        run(&["project", "create", "tenant-a"]);
        for (project, other) in [("default", "tenant-a"), ("tenant-a", "default")] {
            both(&["backup", "disk.img"], project, other);
            both(&["backup", "disk.img"], project, other);
            both(&["snapshots"], project, other);
            both(&["restore", "disk.img", &format!("out-{project}")], project, other);
        }
        assert!(bench.read("out-default") == bench.read("disk.img"));
        assert!(bench.read("out-tenant-a") == bench.read("disk.img"));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_asks_for_the_keys_only() {
    let bench = Bench::new();
    bench.sparse("disk.img");
    bench.write("other", &[3; 32]);
    let fake = GcsFake::start("bucket").await;
    let config = gcs_config(&fake.url, "bucket", "");
    let run = |args: &[&str], code: i32| {
        let mut command = bench.cuttle(args);
        command.env("CUTTLE_REPOSITORY", &config.url).envs(config.environment.clone());
        assert_eq!(command.output().expect("run cuttle").status.code(), Some(code), "{args:?}");
    };
    tokio::task::block_in_place(|| {
        run(&["init"], 0);
        run(&["backup", "disk.img"], 0);
        for args in [&["backup", "disk.img"][..], &["restore", "disk.img", "out"], &["snapshots"]] {
            fake.take_seen();
            run(&[args, &["--key-file", "other"]].concat(), 12);
            let seen = fake.take_seen();
            let is_key = |r: &str| r.contains("projects/default/keys/");
            let fine = |r: &&String| r.starts_with("GET ") && (!r.contains("projects/") || is_key(r));
            assert!(!seen.is_empty() && seen.iter().all(|r| fine(&r)), "{seen:#?}");
        }
    });
}
