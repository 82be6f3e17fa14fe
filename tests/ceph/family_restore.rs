//! Clones come back as clones of what they were cloned from. The truth is `rbd export` of the originals, and `rbd du`.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::Numbers;
use crate::support::ceph::{Ceph, OwnPool};
use crate::support::program::Cuttle;
use cuttle::rbd::Access;

const MIB: u64 = 1 << 20;

/// What an image takes with its snapshots, in bytes.
fn used(ceph: &Ceph, path: &str) -> u64 {
    let said: Value = serde_json::from_slice(&ceph.rbd(&["du", "--format", "json", path])).expect("JSON");
    let images = said["images"].as_array().expect("a list");
    // A backup's snapshot has what the image itself has not changed since.
    images.iter().map(|image| image["used_size"].as_u64().expect("a number")).sum()
}

fn parent(ceph: &Ceph, path: &str) -> Option<String> {
    let said: Value = serde_json::from_slice(&ceph.rbd(&["info", "--format", "json", path])).expect("JSON");
    let at = said.get("parent")?;
    Some(format!("{}/{}@{}", at["pool"].as_str()?, at["image"].as_str()?, at["snapshot"].as_str()?))
}

/// Runs a restore of all with `--json`; its lines but the summary, and that.
fn restore_all(cuttle: &Cuttle, to: &Ceph, args: &[&str]) -> (Vec<Value>, Value) {
    let args = [&["--json", "--conf", &to.conf, "restore", "--all"], args].concat();
    let text = String::from_utf8(cuttle.ok(&args)).expect("UTF-8");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let summary = lines.pop().expect("a summary");
    (lines, summary)
}

fn protected(ceph: &Ceph, snapshot: &str) {
    ceph.rbd(&["snap", "create", "--no-progress", snapshot]);
    ceph.rbd(&["snap", "protect", snapshot]);
}

/// A template with two states that clones hang on and a later one, clones, a clone of a clone: backed up, and what each holds.
fn family(ceph: &Ceph, cuttle: &Cuttle, pool: &str, clones: u64) -> BTreeMap<String, Vec<u8>> {
    let mut numbers = Numbers::new(771);
    let of = |name: &str| format!("{pool}/{name}");
    let template = of("template");
    ceph.create(&template, 50 * MIB + 12_288, &[]);
    ceph.write(&template, 0, &numbers.bytes((34 * MIB) as usize));
    protected(ceph, &of("template@base"));
    ceph.write(&template, 9 * MIB, &numbers.bytes(MIB as usize));
    protected(ceph, &of("template@second"));
    ceph.write(&template, 40 * MIB, &numbers.bytes(700_000));
    let mut names = vec!["template".to_owned()];
    for n in 0..clones {
        let from = if n % 4 == 3 { "template@second" } else { "template@base" };
        let name = format!("clone-{n}");
        let format = if n % 2 == 0 { "1" } else { "2" };
        ceph.rbd(&["clone", "--rbd-default-clone-format", format, &of(from), &of(&name)]);
        ceph.write(&of(&name), 4 * MIB * (n % 8) + 100_000, &numbers.bytes(80_000));
        // Where the template has nothing.
        ceph.write(&of(&name), 44 * MIB + 4096, &numbers.bytes(9_000));
        ceph.discard(&of(&name), &[(4 * MIB * ((n + 3) % 8), 4 * MIB)]);
        names.push(name);
    }
    let resize = |name: &str, size: &str| {
        ceph.rbd(&["resize", "--no-progress", "--allow-shrink", "--size", size, &of(name)]);
    };
    resize("clone-0", "70000K");
    resize("clone-1", "11M");
    resize("clone-2", "11M");
    resize("clone-2", "64M");
    protected(ceph, &of("clone-0@mine"));
    ceph.rbd(&["clone", &of("clone-0@mine"), &of("grandchild")]);
    ceph.write(&of("grandchild"), 60 * MIB, &numbers.bytes(5_000));
    ceph.write(&of("clone-0"), 20 * MIB, &numbers.bytes(5_000));
    names.push("grandchild".to_owned());
    cuttle.ok(&["--conf", &ceph.conf, "backup", &format!("rbd:{pool}/*")]);
    names.into_iter().map(|name| (name.clone(), ceph.export(&of(&name)))).collect()
}

fn same(ceph: &Ceph, pool: &str, held: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in held {
        assert!(ceph.export(&format!("{pool}/{name}")) == *bytes, "{name} is another");
    }
}

fn purge(ceph: &Ceph, pool: &str, held: &BTreeMap<String, Vec<u8>>) {
    ceph.purge(&format!("{pool}/grandchild"));
    held.keys().for_each(|name| ceph.purge(&format!("{pool}/{name}")));
}

#[test]
fn a_family_comes_back_as_a_family() {
    let (Some(first), Some(second)) = (Ceph::first(), Ceph::second()) else { return };
    let cuttle = Cuttle::in_folder();
    let (pool, clones) = ("restored-family", 20);
    let (_one, _other) = (OwnPool::new(&first, pool), OwnPool::new(&second, pool));
    // A connection from before the pools were made may know others of these names.
    let (first, second) = (&Ceph::of(first.conf.clone()), &Ceph::of(second.conf.clone()));
    let held = family(first, &cuttle, pool, clones);
    let to = format!("rbd:{pool}");

    let (planned, all) = restore_all(&cuttle, second, &["--to", &to, "-n"]);
    let (lines, summary) = restore_all(&cuttle, second, &["--to", &to, "--verify"]);
    same(second, pool, &held);
    assert_eq!(summary["volumes_ok"], clones + 2, "{summary}");
    // The plan is what was done.
    let key = |v: &Value| {
        ["volume", "sequence", "rbd_snapshot", "clone_of", "whole_because", "keep", "zero", "fetch"]
            .map(|k| v[k].clone())
    };
    let sorted = |lines: &[Value]| {
        let mut keys: Vec<_> = lines.iter().map(|line| format!("{:?}", key(line))).collect();
        keys.sort();
        keys
    };
    assert_eq!(sorted(&planned), sorted(&lines));
    assert_eq!(all["sealed_bytes"], summary["sealed_bytes"]);
    for n in 0..clones {
        let from = if n % 4 == 3 { "second" } else { "base" };
        let name = format!("{pool}/clone-{n}");
        assert_eq!(parent(second, &name), Some(format!("{pool}/template@{from}")), "{name}");
    }
    assert_eq!(parent(second, &format!("{pool}/grandchild")), Some(format!("{pool}/clone-0@mine")));
    let total = |ceph: &Ceph| -> u64 { (0..clones).map(|n| used(ceph, &format!("{pool}/clone-{n}"))).sum() };
    let (there, here) = (total(first), total(second));
    assert!(here as f64 <= 1.2 * there as f64, "{clones} clones take {here} bytes, the originals {there}");

    // Again: all is there.
    let (again, _) = restore_all(&cuttle, second, &["--to", &to]);
    assert!(again.iter().all(|line| line["status"] == "already_restored"), "{again:?}");
    // The parent is there: one clone by itself becomes one of it, also where the template moved on; whole where that is wanted.
    second.write(&format!("{pool}/template"), 0, b"later");
    for (at, args) in [(0, &[][..]), (1, &["--flatten"][..])] {
        let target = format!("{pool}/by-itself-{at}");
        let image = format!("rbd:{target}");
        let line = [&["--json", "--conf", &second.conf, "restore", "restored-family/clone-5", &image], args]
            .concat();
        let dry: Value = serde_json::from_slice(&cuttle.ok(&[&line[..], &["-n"]].concat())).expect("JSON");
        let said: Value = serde_json::from_slice(&cuttle.ok(&line)).expect("JSON");
        assert_eq!(
            (&dry["clone_of"], &dry["fetch"], &dry["zero"]),
            (&said["clone_of"], &said["fetch"], &said["zero"])
        );
        let expected = (at == 0).then(|| format!("{pool}/template@base"));
        assert_eq!(
            (said["clone_of"].as_str(), parent(second, &target)),
            (expected.as_deref(), expected.clone())
        );
        assert!(second.export(&target) == held["clone-5"]);
        second.purge(&target);
    }
    // A snapshot of that name that holds something else.
    purge(second, pool, &held);
    let template = format!("{pool}/template");
    second.create(&template, 50 * MIB + 12_288, &[]);
    second.write(&template, 3 * MIB, b"another");
    protected(second, &format!("{template}@base"));
    let image = format!("rbd:{pool}/clone-5");
    let said = cuttle.ok(&["--json", "--conf", &second.conf, "restore", "restored-family/clone-5", &image]);
    let said: Value = serde_json::from_slice(&said).expect("JSON");
    assert!(
        said["clone_of"].is_null()
            && said["whole_because"].as_str().is_some_and(|why| why.contains("restored-family/template@1")),
        "{said}"
    );
    assert!(second.export(&format!("{pool}/clone-5")) == held["clone-5"]);
    // The very original.
    let image = format!("rbd:{pool}/beside");
    cuttle.ok(&["--conf", &first.conf, "restore", "restored-family/clone-5", &image]);
    assert_eq!(parent(first, &format!("{pool}/beside")), Some(format!("{pool}/template@base")));
    assert!(first.export(&format!("{pool}/beside")) == held["clone-5"]);
}

/// Killed while the template is filled, and while a clone is: never does a clone hang on what is not whole, and in the end all is there.
#[test]
fn a_family_that_was_killed_is_gone_on_with() {
    let (Some(first), Some(second)) = (Ceph::first(), Ceph::second()) else { return };
    let cuttle = Cuttle::in_folder();
    let pool = "killed-family";
    let (_one, _other) = (OwnPool::new(&first, pool), OwnPool::new(&second, pool));
    // A connection from before the pools were made may know others of these names.
    let (first, second) = (&Ceph::of(first.conf.clone()), &Ceph::of(second.conf.clone()));
    let held = family(first, &cuttle, pool, 4);
    let to = format!("rbd:{pool}");
    for begun in ["template", "clone-0"] {
        let args = ["restore", "--conf", &second.conf, "--all", "--to", &to, "--jobs", "1", "-q"];
        let mut child = cuttle.command(&args).args(["--max-bandwidth", "2MiB"]).spawn().expect("start");
        let patience = Instant::now();
        while second.open(&second.spec(&format!("{pool}/{begun}")), Access::ReadOnly).is_err() {
            assert!(patience.elapsed() < Duration::from_secs(120), "no {begun}");
            assert!(child.try_wait().expect("a child").is_none(), "it ended before {begun} was there");
            thread::sleep(Duration::from_millis(5));
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        if begun == "template" {
            assert_eq!(second.snapshots(&format!("{pool}/template")), Vec::<String>::new());
        }
    }
    let (lines, _) = restore_all(&cuttle, second, &["--to", &to]);
    let template = lines.iter().filter(|line| line["volume"] == "killed-family/template");
    assert_eq!(template.map(|line| &line["status"]).collect::<Vec<_>>(), ["already_restored"]);
    same(second, pool, &held);
    assert_eq!(second.snapshots(&format!("{pool}/template")), ["base", "second"]);
    for n in 0..4 {
        assert!(parent(second, &format!("{pool}/clone-{n}")).is_some(), "clone-{n}");
    }
}
