//! The seam to Ceph on a real cluster: migrations, odd names, locks, several hosts at once, what a killed restore leaves.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::support::ceph::{Ceph, OwnPool};
use crate::support::program::Cuttle;
use crate::support::{Numbers, skip};
use cuttle::rbd::{Access, CephConfig, Cluster, CreateOptions, features, lock};
use cuttle::{ErrorKind, rbd};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn back_up(cuttle: &Cuttle, ceph: &Ceph, args: &[&str]) -> crate::support::program::Night {
    cuttle.backup(&[&["--conf", &ceph.conf], args].concat())
}

/// What the newest backup of a volume holds.
fn held(cuttle: &Cuttle, volume: &str) -> Vec<u8> {
    cuttle.ok(&["restore", "-q", volume, "-"])
}

fn own(ceph: &Ceph, path: &str) -> Vec<String> {
    ceph.snapshots(path).into_iter().filter(|s| s.starts_with("cuttle-")).collect()
}

/// The command that an advice names between backticks, which is then run: `rbd …`.
fn advised(text: &str, begins: &str) -> Vec<String> {
    let command =
        text.split('`').find(|part| part.starts_with(begins)).unwrap_or_else(|| panic!("{begins}: {text}"));
    command.split_whitespace().skip(1).map(str::to_owned).collect()
}

#[test]
fn a_backup_during_a_live_migration_hurts_nobody_and_the_history_goes_on() {
    let Some(ceph) = Ceph::first() else { return };
    let (cuttle, path) = (Cuttle::in_folder(), "rbd/seam-moved");
    ceph.create(path, 24 * MIB, &["--object-size", "1M"]);
    let mut numbers = Numbers::new(41);
    let mut write = |at: u64| ceph.write(path, at * MIB + 4096, &numbers.bytes(9000));
    (0..22).for_each(&mut write);
    back_up(&cuttle, &ceph, &[&format!("rbd:{path}")]);
    write(3);
    back_up(&cuttle, &ceph, &[&format!("rbd:{path}")]);
    let [base] = own(&ceph, path).try_into().expect("one base");
    ceph.rbd(&["migration", "prepare", path, path]);
    write(4);
    let night = back_up(&cuttle, &ceph, &[&format!("rbd:{path}")]);
    assert!(night.volume()["full_read"] == true && night.volume()["parent"] == 2, "{night:?}");
    for said in ["being moved by live migration", "must stay while the image is migrated"] {
        assert!(night.notes().contains(said), "{}", night.notes());
    }
    let [kept, new] = own(&ceph, path).try_into().expect("two");
    assert_eq!(kept, base);
    assert!(held(&cuttle, path) == ceph.export(&format!("{path}@{new}")));
    // A second one goes on from it, and a dry run removes nothing either.
    back_up(&cuttle, &ceph, &["-n", &format!("rbd:{path}")]);
    back_up(&cuttle, &ceph, &[&format!("rbd:{path}")]);
    assert_eq!(own(&ceph, path).len(), 4);
    // Before, whoever wrote died here in an assertion of librbd.
    write(5);
    let expected = ceph.export(path);
    ceph.rbd(&["migration", "execute", "--no-progress", path]);
    ceph.rbd(&["migration", "commit", "--no-progress", path]);
    assert!(ceph.export(path) == expected);
    write(6);
    let night = back_up(&cuttle, &ceph, &[&format!("rbd:{path}")]);
    let [new] = own(&ceph, path).try_into().expect("what was left is tidied up");
    // What was made in the midst of a copy proves nothing of what came after it.
    assert!(night.notes().contains("all is read") && !night.notes().contains("stay"), "{night:?}");
    assert!(held(&cuttle, path) == ceph.export(&format!("{path}@{new}")));
    ceph.purge(path);
}

#[test]
fn an_image_that_is_imported_is_read_whole_beside_the_others() {
    let Some(ceph) = Ceph::first() else { return };
    let cuttle = Cuttle::in_folder();
    let (a, m) = ("rbd/seam-import-a", "rbd/seam-import-m");
    ceph.purge(m);
    let source = cuttle.home().join("source.raw");
    fs::write(&source, Numbers::new(42).bytes(5 << 20)).expect("written");
    ceph.create(a, 4 * MIB, &[]);
    let spec = format!(r#"{{"type":"raw","stream":{{"type":"file","file_path":"{}"}}}}"#, source.display());
    ceph.rbd(&["migration", "prepare", "--import-only", "--source-spec", &spec, m]);
    for _ in 0..2 {
        // Before, the process ended with SIGFPE, and no volume had a backup.
        let night = back_up(&cuttle, &ceph, &[&format!("rbd:{m}"), &format!("rbd:{a}")]);
        assert_eq!(night.volumes.iter().filter(|v| v["status"] == "ok").count(), 2);
        let imported = night.volumes.iter().find(|v| v["volume"] == m).expect("it");
        assert!(imported["full_read"] == true, "{imported}");
        assert!(imported["notes"].to_string().contains("live migration"), "{imported}");
    }
    assert!(held(&cuttle, m) == fs::read(&source).expect("there"));
    // librbd looks into a clone's parents, too (found by the histories, seed 51737).
    let (clone, newest) = ("rbd/seam-import-c", own(&ceph, m).pop().expect("a snapshot"));
    ceph.purge(clone);
    ceph.rbd(&["clone", "--rbd-default-clone-format", "2", &format!("{m}@{newest}"), clone]);
    for _ in 0..2 {
        let night = back_up(&cuttle, &ceph, &[&format!("rbd:{clone}")]);
        assert!(night.volume()["full_read"] == true && night.notes().contains("live migration"), "{night:?}");
    }
    assert!(held(&cuttle, clone) == fs::read(&source).expect("there"));
    ceph.purge(clone);
    let conf = ["--conf", &ceph.conf];
    let said = cuttle.fails(1, &[&conf[..], &["restore", a, &format!("rbd:{m}"), "--overwrite"]].concat());
    assert!(said.contains("under live migration"), "{said}");
    ceph.rbd(&["migration", "execute", "--no-progress", m]);
    ceph.rbd(&["migration", "commit", "--no-progress", m]);
    ceph.purge(a);
    ceph.purge(m);
}

/// Found by the histories (seed 20266): librbd 16.2 reads past the end of a source that was shrunk within an object.
#[test]
fn a_read_that_fails_at_the_source_of_a_migration_says_how_that_ends() {
    let Some(ceph) = Ceph::first() else { return };
    let (cuttle, path) = (Cuttle::in_folder(), "rbd/seam-shrunk");
    ceph.create(path, 4 * MIB, &["--object-size", "1M"]);
    ceph.write(path, 0, &Numbers::new(43).bytes(3 << 20));
    let resize =
        |size_bytes: u64| ceph.open(&ceph.spec(path), Access::ReadWrite).expect("open").resize(size_bytes);
    resize(2 * MIB + 4608).expect("shrunk");
    let expected = ceph.export(path);
    ceph.rbd(&["migration", "prepare", path]);
    resize(4 * MIB).expect("grown");
    let conf = ["--conf", &ceph.conf];
    let said = cuttle.fails(1, &[&conf[..], &["backup", &format!("rbd:{path}")]].concat());
    assert!(said.contains("Invalid argument") && said.contains("under live migration"), "{said}");
    let abort = advised(&said, "rbd migration abort");
    ceph.rbd(&abort.iter().map(String::as_str).collect::<Vec<_>>());
    back_up(&cuttle, &ceph, &[&format!("rbd:{path}")]);
    assert!(held(&cuttle, path) == expected);
    ceph.purge(path);
}

#[test]
fn whatever_name_ceph_takes_is_backed_up_and_comes_back() {
    let Some(ceph) = Ceph::first() else { return };
    let cuttle = Cuttle::in_folder();
    let (_from, _to) = (OwnPool::new(&ceph, "seam-odd"), OwnPool::new(&ceph, "seam-new"));
    // One that was connected before may remember pools of these names that are gone.
    let ceph = &Ceph::of(ceph.conf.clone());
    let names = ["100%25", "%2A", "%E2%80%AEgpj", "a%2Fb", "a%40b", "b%FFd", "bad%0Aname", "good"];
    let pool = ceph.cluster.pool("seam-odd", "").expect("open");
    for name in names {
        pool.create_image(name, &CreateOptions { size_bytes: MIB, ..CreateOptions::default() }).expect(name);
        ceph.write(&format!("seam-odd/{name}"), 0, name.as_bytes());
    }
    let listed = |pool: &str| -> Vec<String> {
        let pool = ceph.cluster.pool(pool, "").expect("open");
        pool.images().expect("list").into_iter().map(|entry| entry.name).collect()
    };
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(listed("seam-odd"), sorted);
    assert!(ceph.rbd(&["ls", "seam-odd"]).windows(8).any(|w| w == b"bad\nname"), "as Ceph itself says it");
    let night = back_up(&cuttle, ceph, &["--jobs", "8", "rbd:seam-odd/*"]);
    assert_eq!(night.volumes.len(), names.len());
    back_up(&cuttle, ceph, &["rbd:seam-odd/%2A"]);
    cuttle.ok(&["--conf", &ceph.conf, "restore", "--all", "--to", "rbd:seam-new", "-q"]);
    assert_eq!(listed("seam-new"), sorted);
    for name in names {
        let mut start = vec![0; name.len()];
        let image = ceph.open(&ceph.spec(&format!("seam-new/{name}")), Access::ReadOnly).expect("open");
        image.read_at(0, &mut start).expect("read");
        assert_eq!(start, name.as_bytes());
    }
    // One that is longer than a volume's name may be fails alone.
    let long = "%0A".repeat(400);
    pool.create_image(&long, &CreateOptions { size_bytes: MIB, ..CreateOptions::default() }).expect("long");
    let said = cuttle.run(&["--json", "backup", "--conf", &ceph.conf, "rbd:seam-odd/*"], &[]);
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    let lines = String::from_utf8(said.stdout).expect("UTF-8");
    for part in [r#""volumes_ok":8"#, r#""volumes_failed":1"#] {
        assert!(lines.contains(part), "{part}: {lines}");
    }
    // Two volumes that would become one image do not stop the rest.
    back_up(&cuttle, ceph, &["rbd:seam-new/good"]);
    let said = cuttle.run(
        &[
            "--json",
            "restore",
            "--conf",
            &ceph.conf,
            "--all",
            "--to",
            "rbd:seam-new",
            "--volume",
            "*/good",
            "--overwrite",
        ],
        &[],
    );
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    let first: Value = serde_json::from_str(
        String::from_utf8_lossy(&said.stdout).lines().find(|l| l.contains("\"restored\"")).expect("one"),
    )
    .expect("JSON");
    assert_eq!(first["volume"], "seam-odd/good");
}

#[test]
fn a_taken_name_is_gone_around_and_a_limit_is_named() {
    let Some(ceph) = Ceph::first() else { return };
    let cuttle = Cuttle::in_folder();
    let (path, renamed) = ("rbd/seam-named", "rbd/seam-renamed");
    ceph.purge(renamed);
    ceph.create(path, 4 * MIB, &[]);
    back_up(&cuttle, &ceph, &[&format!("rbd:{path}")]);
    ceph.rbd(&["rename", path, renamed]);
    for _ in 0..2 {
        let night = back_up(&cuttle, &ceph, &[&format!("rbd:{renamed}")]);
        assert_eq!(night.notes(), "[]");
        assert_eq!(own(&ceph, renamed).len(), 1);
    }
    ceph.rbd(&["snap", "limit", "set", "--limit", "1", renamed]);
    let said = cuttle.fails(1, &["--conf", &ceph.conf, "backup", &format!("rbd:{renamed}")]);
    assert!(said.contains("1 snapshots of at most 1"), "{said}");
    let advised = advised(&said, "rbd snap limit");
    ceph.rbd(&advised.iter().map(String::as_str).collect::<Vec<_>>());
    back_up(&cuttle, &ceph, &[&format!("rbd:{renamed}")]);
    ceph.purge(renamed);
}

/// Somebody who writes to an image; killed when this is dropped.
struct Writer(Child);

impl Writer {
    fn begin(ceph: &Ceph, path: &str) -> Self {
        let mut command = Command::new("rbd");
        command.args(["--conf", &ceph.conf, "bench", "--io-type", "write", "--io-size", "4096"]);
        command.args(["--io-threads", "1", "--io-total", "100G", path]);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start rbd bench"))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a number")).expect("a process");
        kill_process(pid, signal).expect("send a signal");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_lock_of_a_client_that_hangs_is_left_to_it_where_that_is_wanted() {
    let Some(ceph) = Ceph::first() else { return };
    let (cuttle, path) = (Cuttle::in_folder(), "rbd/seam-locked");
    ceph.create(path, 8 * MIB, &[]);
    let writer = Writer::begin(&ceph, path);
    let owner = || {
        let image = ceph.open(&ceph.spec(path), Access::ReadWrite).expect("open");
        lock::owner(&image, 1000).expect("ask")
    };
    while !owner().is_some_and(|owner| owner.watches) {}
    assert!(owner().expect("an owner").answers);
    let back_up = ["--conf", &ceph.conf, "backup", "--no-break-lock", &format!("rbd:{path}")];
    writer.signal(Signal::STOP);
    let said = cuttle.fails(1, &back_up);
    assert!(said.contains("does not answer") && said.contains("rbd lock ls"), "{said}");
    assert_eq!(ceph.snapshots(path), [""; 0]);
    writer.signal(Signal::CONT);
    cuttle.ok(&back_up);
    assert_eq!(own(&ceph, path).len(), 1);
}

#[test]
fn hosts_that_meet_at_the_same_volumes_share_them() {
    let Some(ceph) = Ceph::first() else { return };
    let cuttle = Cuttle::in_folder();
    let _pool = OwnPool::new(&ceph, "seam-hosts");
    let ceph = &Ceph::of(ceph.conf.clone());
    let mut numbers = Numbers::new(43);
    let names = ["a", "b", "c"].map(|name| format!("seam-hosts/{name}"));
    for name in &names {
        ceph.create(name, 24 * MIB, &["--object-size", "1M"]);
    }
    for round in 1..=3_u64 {
        for name in &names {
            (0..10).for_each(|at| ceph.write(name, (round + 2 * at) * MIB, &numbers.bytes(100_000)));
        }
        let args = ["--json", "backup", "--conf", &ceph.conf, "--jobs", "3", "rbd:seam-hosts/*"];
        let said = thread::scope(|scope| {
            let hosts = [(); 3].map(|()| scope.spawn(|| cuttle.run(&args, &[])));
            hosts.map(|host| host.join().expect("it ends"))
        });
        let mut done = Vec::new();
        for said in said {
            assert_eq!(said.code, Some(0), "round {round}: {}", said.stderr);
            let lines = String::from_utf8(said.stdout).expect("UTF-8");
            for line in lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")) {
                match line["status"].as_str() {
                    Some("ok") => done.push(line["volume"].as_str().expect("a name").to_owned()),
                    Some("skipped") => assert!(
                        line["error"]["message"].as_str().expect("text").starts_with("in progress on ")
                    ),
                    _ => assert_eq!(line["message_type"], "summary"),
                }
            }
        }
        assert!(names.iter().all(|name| done.contains(name)), "round {round}: {done:?}");
        for name in &names {
            let [base] = own(ceph, name).try_into().expect("one base stays");
            assert!(held(&cuttle, name) == ceph.export(&format!("{name}@{base}")), "round {round}: {name}");
        }
    }
}

#[test]
fn a_restored_image_is_proven_against_its_backup() {
    let Some(ceph) = Ceph::first() else { return };
    let cuttle = Cuttle::in_folder();
    let (path, copy) = ("rbd/seam-proof", "rbd/seam-proof-copy");
    ceph.purge(copy);
    ceph.create(path, 9 * MIB, &[]);
    ceph.write(path, 5 * MIB, &Numbers::new(44).bytes(70_000));
    back_up(&cuttle, &ceph, &[&format!("rbd:{path}")]);
    let conf = ["--conf", &ceph.conf];
    cuttle.ok(&[&conf[..], &["restore", path, &format!("rbd:{copy}")]].concat());
    let against = |place: &str, more: &[&str]| {
        let place = format!("rbd:{place}");
        cuttle.run(&[&conf[..], &["verify", path, "--against", &place], more].concat(), &[])
    };
    for more in [&[][..], &["--as-it-is"]] {
        let said = against(copy, more);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
    }
    ceph.write(copy, 8 * MIB, b"x");
    assert_eq!(against(copy, &[]).code, Some(1));
    assert_eq!(ceph.snapshots(copy), [""; 0], "what was made for it is gone again");
    // The image that was backed up has gone on: what it is now proves nothing, unless that is asked for.
    let [base] = own(&ceph, path).try_into().expect("one base");
    assert_eq!(against(path, &[]).code, Some(0));
    ceph.rbd(&["snap", "rm", "--no-progress", &format!("{path}@{base}")]);
    let said = against(path, &[]);
    assert!(said.code == Some(1) && said.stderr.contains("--as-it-is"), "{}", said.stderr);
    assert_eq!(against(path, &["--as-it-is"]).code, Some(0));
    ceph.purge(path);
    ceph.purge(copy);
}

#[test]
fn what_a_restore_left_that_was_killed_as_it_made_an_image_stops_no_other() {
    let Some(ceph) = Ceph::first() else { return };
    let (cuttle, path) = (Cuttle::in_folder(), "rbd/seam-made");
    ceph.purge(path);
    let source = cuttle.home().join("source");
    fs::write(&source, Numbers::new(45).bytes(3 << 20)).expect("written");
    cuttle.backup(&[source.to_str().expect("UTF-8"), "--volume", "v/seam-made"]);
    let partial = format!("{path}.cuttle-partial");
    for mark in [None, Some("another")] {
        ceph.purge(path);
        ceph.create(&partial, MIB, &[]);
        if let Some(mark) = mark {
            ceph.rbd(&["image-meta", "set", &partial, "cuttle.restore", mark]);
        }
        cuttle.ok(&["--conf", &ceph.conf, "restore", "--all", "--to", "rbd:rbd"]);
        assert!(ceph.export(path) == fs::read(&source).expect("there"));
        assert!(ceph.open(&ceph.spec(&partial), Access::ReadOnly).is_err(), "it is gone");
    }
    ceph.purge(path);
}

#[test]
fn a_clone_with_a_luks_key_of_its_own_is_not_taken_for_one_that_can_be_opened() {
    let Some(ceph) = Ceph::first() else { return };
    let (cuttle, path) = (Cuttle::in_folder(), "rbd/seam-luks");
    ceph.create(path, 4 * MIB, &[]);
    ceph.write(path, 0, b"RBDL\xba\xbe\0\x02");
    let said = cuttle.fails(1, &["--conf", &ceph.conf, "backup", &format!("rbd:{path}")]);
    for part in ["LUKS key of its own", "rbd flatten", "--luks-clones"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(ceph.snapshots(path), [""; 0]);
    back_up(&cuttle, &ceph, &["--luks-clones", &format!("rbd:{path}")]);
    ceph.write(path, 0, b"LUKS\xba\xbe\0\x02");
    back_up(&cuttle, &ceph, &[&format!("rbd:{path}")]);
    ceph.purge(path);
}

#[test]
fn the_feature_bits_of_a_migration_are_not_what_an_image_is_made_with() {
    assert_eq!(features::CREATABLE & features::MIGRATING, 0);
}

#[test]
fn a_key_of_a_newer_type_is_named() {
    if rbd::available().is_err() {
        return skip("librados is not installed");
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (conf, keyring) = (dir.path().join("ceph.conf"), dir.path().join("keyring"));
    fs::write(&conf, "[global]\nmon_host = 127.0.0.1:1\n").expect("written");
    fs::write(
        &keyring,
        "[client.new]\n\tkey = AgBSNv5mAAAAACAA0pQmKOvXcFYvW3vY1Rq5V9KUJijr13BWL1t72NUauVc=\n",
    )
    .expect("written");
    let config = CephConfig {
        conf: Some(conf),
        keyring: Some(keyring.clone()),
        user: Some("client.new".to_owned()),
        connect_timeout: std::time::Duration::from_secs(1),
        ..CephConfig::default()
    };
    let error = Cluster::connect(&config).map(drop).expect_err("nobody is there");
    if error.kind() == ErrorKind::Unavailable {
        return skip("librados here knows keys of this type");
    }
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let text = error.message();
    assert!(text.contains("aes256k") && text.contains(&keyring.display().to_string()), "{text}");
    assert!(error.help_text().is_some_and(|help| help.contains("--key-type aes")), "{error:?}");
}
