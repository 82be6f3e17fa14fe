//! A real RGW whose quota is reached: that is said, and what is forgotten makes room, with nothing raised.

use std::process::Command;

use crate::support::Numbers;
use crate::support::buckets::S3;
use crate::support::ceph::Ceph;
use crate::support::program::Cuttle;

const MIB: usize = 1 << 20;
const QUOTA_BYTES: usize = 64 * MIB;

/// A user of the test RGW whose buckets may hold so much.
fn user_with_quota(ceph: &Ceph, endpoint: &str) -> S3 {
    let admin = |args: &[&str]| {
        let said = Command::new("radosgw-admin").args(["--conf", &ceph.conf]).args(args).output();
        let said = said.expect("run radosgw-admin");
        assert!(said.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said.stderr));
    };
    let user = format!("quota-{}", std::process::id());
    let (key, secret) = (format!("AK{user}"), format!("SK{user}"));
    admin(&[
        "user",
        "create",
        "--uid",
        &user,
        "--display-name",
        &user,
        "--access-key",
        &key,
        "--secret",
        &secret,
    ]);
    let quota = ["--uid", &user, "--quota-scope", "bucket"];
    admin(&[&["quota", "set", "--max-size", &QUOTA_BYTES.to_string()], &quota[..]].concat());
    admin(&[&["quota", "enable"], &quota[..]].concat());
    S3::new(endpoint, &key, &secret)
}

#[test]
fn a_quota_that_is_reached_is_said_and_what_is_forgotten_makes_room() {
    let Some(ceph) = Ceph::first() else { return };
    let Some(endpoint) = crate::support::server("CUTTLE_TEST_RGW") else { return };
    let s3 = user_with_quota(&ceph, &endpoint);
    let bucket = format!("quota-{}", std::process::id());
    let cuttle = Cuttle::on_s3(&s3, &bucket, "full");
    let path = cuttle.home().join("volume.raw");
    let disk = path.display().to_string();
    let mut numbers = Numbers::new(11);
    let mut night = || {
        std::fs::write(&path, numbers.bytes(20 * MIB)).expect("written");
        cuttle.run(&["backup", &disk, "--volume", "vms/db"], &[])
    };
    for n in 1..=2 {
        let said = night();
        assert_eq!(said.code, Some(0), "night {n}: {}", said.stderr);
    }
    let full = (3..=4).map(|_| night()).find(|said| said.code != Some(0)).expect("the quota is reached");
    assert!(full.stderr.contains("quota"), "{}", full.stderr);
    assert!(!full.stderr.contains("credentials"), "{}", full.stderr);
    // As it is, nothing can be stored; what is there can be restored, and be let go of.
    cuttle.ok(&["restore", "vms/db@1", &cuttle.home().join("restored.raw").display().to_string()]);
    cuttle.ok(&["forget", "vms/db@1"]);
    let pruned = cuttle.json(&["prune"]).pop().expect("a summary");
    assert!(
        pruned["deleted_chunks"]["bytes"].as_u64().is_some_and(|bytes| bytes > 15 * MIB as u64),
        "{pruned}"
    );
    let said = night();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    cuttle.ok(&["verify", "--read-data"]);
}
