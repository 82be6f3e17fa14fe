//! Several hosts back the same images up at once, as cron jobs do that nobody told of each other.

use std::collections::BTreeMap;
use std::process::Stdio;

use crate::support::Numbers;
use crate::support::ceph::{Ceph, OwnPool};
use crate::support::program::Cuttle;

const POOL: &str = "hosts";
const HOSTS: usize = 3;
const IMAGES: usize = 3;
const SIZE_BYTES: u64 = 8 << 20;
/// Rounds of a test run; more by `CUTTLE_TEST_HOSTS_ROUNDS`.
const ROUNDS: usize = 3;

/// What became of the images in one round, by their names: a status of each host.
type Fates = BTreeMap<String, Vec<String>>;

/// Nobody fails, nobody is ended by librbd, and each image is backed up by one of them at least. What the others do of it is
/// to skip it, or, where that one is done, to back it up once more, or to find that nothing changed.
#[test]
fn three_hosts_at_once_on_the_same_images() {
    let Some(ceph) = Ceph::first() else { return };
    let _pool = OwnPool::new(&ceph, POOL);
    let cuttle = Cuttle::in_folder();
    let images: Vec<String> = (0..IMAGES).map(|n| format!("{POOL}/image-{n}")).collect();
    images.iter().for_each(|image| ceph.create(image, SIZE_BYTES, &[]));
    let rounds = std::env::var("CUTTLE_TEST_HOSTS_ROUNDS").map_or(ROUNDS, |n| n.parse().expect("a number"));
    let mut numbers = Numbers::new(3);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..rounds {
        for image in &images {
            let offset = numbers.next() % (SIZE_BYTES - 4096);
            ceph.write(image, offset, &numbers.bytes(4096));
        }
        let fates = at_once(&ceph, &cuttle, &images, round);
        for image in &images {
            let of = fates.get(image).unwrap_or_else(|| panic!("round {round}: nobody told of {image}"));
            assert_eq!(of.len(), HOSTS, "round {round}: {image}: {of:?}");
            assert!(of.iter().any(|status| status == "ok"), "round {round}: {image}: {of:?}");
            of.iter().for_each(|status| *counts.entry(status.clone()).or_default() += 1);
        }
        for image in &images {
            let own = ceph.snapshots(image);
            assert_eq!(own.len(), 1, "round {round}: {image}: one base stays: {own:?}");
        }
    }
    println!("{rounds} rounds: {counts:?}");
    for image in &images {
        assert!(cuttle.ok(&["restore", image, "-"]) == ceph.export(image), "{image}");
    }
    cuttle.ok(&["verify", "--read-data"]);
}

fn at_once(ceph: &Ceph, cuttle: &Cuttle, images: &[String], round: usize) -> Fates {
    let start = |host: usize| {
        let mut args = vec!["--json".to_owned(), "backup".into(), "--conf".into(), ceph.conf.clone()];
        // The last looks first.
        args.extend((host == HOSTS - 1).then(|| "--skip-unchanged".to_owned()));
        let first = (round + host) % IMAGES;
        args.extend((0..IMAGES).map(|n| format!("rbd:{}", images[(first + n) % IMAGES])));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = cuttle.command(&args);
        command.env("HOME", cuttle.home().join(format!("host-{host}")));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("start cuttle")
    };
    let running: Vec<_> = (0..HOSTS).map(start).collect();
    let mut fates = Fates::new();
    for (host, child) in running.into_iter().enumerate() {
        let said = child.wait_with_output().expect("wait for cuttle");
        let stderr = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(0), "round {round}, host {host}: {}: {stderr}", said.status);
        for line in String::from_utf8_lossy(&said.stdout).lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            if line["message_type"] == "volume" {
                let word = |key: &str| line[key].as_str().expect("a word").to_owned();
                fates.entry(word("volume")).or_default().push(word("status"));
            }
        }
    }
    fates
}
