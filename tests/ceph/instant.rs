//! Instant restore into a real cluster: used before it is copied, interrupted, resumed, with its history, byte for byte.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::Numbers;
use crate::support::ceph::{Ceph, OwnPool};
use crate::support::program::Cuttle;
use cuttle::rbd::Access;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

/// A restore in the background, ended when this is dropped.
struct Running {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn begin(cuttle: &Cuttle, ceph: &Ceph, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cuttle"));
        command.env_clear().envs(cuttle.variables()).args(["--json", "--conf", &ceph.conf]);
        let said = File::create(cuttle.home().join("said")).expect("a file");
        command.args(["restore", "--instant"]).args(args).stdout(Stdio::piped()).stderr(said);
        let mut child = command.spawn().expect("start cuttle");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, out }
    }

    /// The next line that it prints.
    fn says(&mut self, message_type: &str) -> Value {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a line");
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        assert_eq!(value["message_type"], message_type, "{value}");
        value
    }

    fn ends(mut self) {
        assert!(self.child.wait().expect("it ends").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Data here and there in a large volume, so that copying takes a while and most of it is holes.
fn volume(seed: u64, size: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut out = vec![0; size];
    for at in (0..size - MIB).step_by(7 * MIB) {
        out[at + 4096..at + MIB].copy_from_slice(&numbers.bytes(MIB - 4096));
    }
    out
}

fn export(ceph: &Ceph, path: &str) -> Vec<u8> {
    ceph.rbd(&["export", "--no-progress", path, "-"])
}

#[test]
fn an_image_is_used_before_it_is_copied_and_is_whole_in_the_end() {
    let Some(ceph) = Ceph::second() else { return };
    let cuttle = Cuttle::in_folder();
    let target = "rbd/instant-used";
    ceph.purge(target);
    // A real file system, in which a file is found before anything was copied.
    let path = cuttle.home().join("fs.raw");
    File::create(&path).and_then(|f| f.set_len(512 * MIB as u64)).expect("a sparse file");
    let disk = path.display().to_string();
    let run = |program: &str, args: &[&str]| {
        let said = Command::new(program).args(args).output().expect("run it");
        assert!(said.status.success(), "{program}: {said:?}");
        said.stdout
    };
    run("mkfs.ext4", &["-q", "-F", &disk]);
    let secret = cuttle.home().join("secret.txt");
    std::fs::write(&secret, Numbers::new(3).bytes(3 * MIB)).expect("written");
    run("debugfs", &["-w", "-R", &format!("write {} secret.txt", secret.display()), &disk]);
    cuttle.ok(&["backup", &disk, "--volume", "vms/fs"]);
    let mut expected = std::fs::read(&path).expect("read");

    // What would be done is what is then done, and to say it makes nothing.
    let dry = ["--conf", &ceph.conf, "restore", "--instant", "-n", "vms/fs", &format!("rbd:{target}")];
    let told = cuttle.json(&dry).remove(0);
    let plan = &told["plan"];
    assert_eq!((&told["message_type"], &told["dry_run"]), (&json!("plan"), &json!(true)), "{told}");
    assert_eq!((&plan["sequence"], &plan["size_bytes"]), (&json!(1), &json!(expected.len())), "{told}");
    assert!(ceph.open(&ceph.spec(target), Access::ReadOnly).is_err(), "nothing was made");

    let mut restore = Running::begin(&cuttle, &ceph, &["vms/fs", &format!("rbd:{target}")]);
    restore.says("usable");
    // What is written meanwhile stays, in places that are copied and in those that are not.
    let image = ceph.open(&ceph.spec(target), Access::ReadWrite).expect("open");
    let size = image.size_bytes().expect("its size");
    assert_eq!(size, expected.len() as u64);
    for (n, at) in [(1_u8, 300 * MIB), (2, 301 * MIB + 512), (3, expected.len() - 4096), (4, 200 * MIB)] {
        image.write_at(at as u64, &[n; 4096]).expect("write");
        expected[at..at + 4096].fill(n);
    }
    image.flush().expect("flush");
    let mut early = vec![0; expected.len()];
    for (n, piece) in early.chunks_mut(4 * MIB).enumerate() {
        image.read_at((n * 4 * MIB) as u64, piece).expect("read");
    }
    assert!(early == expected, "read through the migration");
    drop(image);
    let copy = cuttle.home().join("early.raw");
    std::fs::write(&copy, &early).expect("written");
    let file = run("debugfs", &["-R", "cat secret.txt", &copy.display().to_string()]);
    assert!(file == std::fs::read(&secret).expect("read"), "a file from the image");
    let summary = restore.says("summary");
    assert!(summary["usable_seconds"].as_f64().is_some_and(|s| s < 30.0), "{summary}");
    restore.ends();
    assert!(export(&ceph, target) == expected, "the image after all is copied");
    let status = ceph.rbd(&["status", "--format", "json", target]);
    assert!(!String::from_utf8_lossy(&status).contains("migration"), "it depends on nothing");
    ceph.purge(target);
}

#[test]
fn an_interrupted_restore_goes_on_and_a_finished_one_is_no_longer_resumed() {
    let Some(ceph) = Ceph::second() else { return };
    let cuttle = Cuttle::in_folder();
    let target = "rbd/instant-resumed";
    ceph.purge(target);
    let expected = volume(5, 400 * MIB);
    let mut older = expected.clone();
    older[100 * MIB..103 * MIB].fill(9);
    older[350 * MIB..351 * MIB].fill(9);
    cuttle.backup_of("vms/db", &older);
    cuttle.backup_of("vms/db", &expected);
    cuttle.backup_of("vms/other", &volume(6, 20 * MIB));
    let spec = format!("rbd:{target}");
    let (address, advice) = {
        let mut restore = Running::begin(&cuttle, &ceph, &["--history", "1", "vms/db", &spec]);
        let usable = restore.says("usable");
        // Killed here.
        let text = |key: &str| usable[key].as_str().unwrap_or_else(|| panic!("no {key}")).to_owned();
        (text("address"), text("resume"))
    };
    let restore = |args: &[&str]| {
        let mut all = vec!["--conf", &ceph.conf, "restore", "--instant"];
        all.extend(args);
        cuttle.run(&all, &[])
    };
    let again = restore(&["vms/db", &spec]);
    assert_ne!(again.code, Some(0), "a new one does not take its place");
    let other = restore(&["--resume", "--listen", &address, "vms/other", &spec]);
    assert_ne!(other.code, Some(0), "another volume is not what it needs");
    assert!(restore(&["--resume", "vms/db", &spec]).stderr.contains("--listen"));
    let program = Path::new(env!("CARGO_BIN_EXE_cuttle")).parent().expect("a folder").display().to_string();
    let mut shell = Command::new("sh");
    shell.env_clear().envs(cuttle.variables()).env("PATH", format!("{program}:/usr/bin:/bin"));
    let said = shell.args(["-c", &advice]).output().expect("run sh");
    assert!(said.status.success(), "{advice}: {}", String::from_utf8_lossy(&said.stderr));
    assert!(export(&ceph, target) == expected);
    assert!(export(&ceph, &format!("{target}@backup-1")) == older, "its history as well");
    let said = restore(&["--resume", "--listen", &address, "vms/db", &spec]);
    assert!(said.code == Some(1) && said.stderr.contains("nothing to resume"), "{}", said.stderr);
    ceph.purge(target);
}

#[test]
fn history_comes_back_as_snapshots() {
    let Some(ceph) = Ceph::second() else { return };
    let cuttle = Cuttle::in_folder();
    let target = "rbd/instant-history";
    ceph.purge(target);
    let mut content = volume(8, 40 * MIB);
    let mut nights = Vec::new();
    for night in 0..5_u8 {
        content[MIB * usize::from(night) + 100..][..9000].fill(night + 1);
        match night {
            // A hole, and then data again.
            2 => content[12 * MIB..16 * MIB].fill(0),
            4 => content[13 * MIB..14 * MIB].fill(6),
            _ => {}
        }
        // Grows by whole objects, shrinks by one.
        content.resize([40, 48, 48, 44, 44][usize::from(night)] * MIB, 0);
        cuttle.backup_of("vms/db", &content);
        nights.push(content.clone());
    }
    let args = ["--conf", &ceph.conf, "--json", "restore", "--instant", "--history", "3", "vms/db"];
    let spec = format!("rbd:{target}");
    cuttle.ok(&[&args[..], &[&spec]].concat());
    assert_eq!(ceph.snapshots(target), ["backup-2", "backup-3", "backup-4"]);
    for sequence in 2..=4 {
        let found = export(&ceph, &format!("{target}@backup-{sequence}"));
        assert!(found == nights[sequence - 1], "snapshot {sequence}");
    }
    assert!(export(&ceph, target) == nights[4]);
    ceph.purge(target);

    // Sizes within objects, one above the other and back.
    for (tail, value) in [(512, 1), (3 * 512, 2), (0, 3), (MIB + 1024, 4)] {
        content.resize(44 * MIB + tail, value);
        cuttle.backup_of("vms/db", &content);
        nights.push(content.clone());
    }
    cuttle.ok(&[&args[..], &[&spec]].concat());
    for sequence in 6..=8 {
        let found = export(&ceph, &format!("{target}@backup-{sequence}"));
        assert!(found == nights[sequence - 1], "snapshot {sequence}");
    }
    assert!(export(&ceph, target) == content);
    ceph.purge(target);

    // Not of whole sectors: refused with a history, before anything is made.
    content.resize(44 * MIB + 100, 1);
    cuttle.backup_of("vms/db", &content);
    let said = cuttle.run(&[&args[..], &[&spec]].concat(), &[]);
    assert!(said.code == Some(1) && said.stderr.contains("whole sectors"), "{}", said.stderr);
    let mut listed = String::new();
    ceph.rbd(&["ls", "rbd"]).as_slice().read_to_string(&mut listed).expect("names");
    assert!(!listed.contains("instant-history"), "{listed}");
    // Alone it comes back all the same.
    let said = cuttle.run(&[&args[..5], &["vms/db", &spec]].concat(), &[]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(export(&ceph, target) == content);
    ceph.purge(target);
}

/// Of a large volume with little in it only that little is copied, and of its history what changed: into a pool that has not
/// room for more.
#[test]
fn a_thin_volume_stays_thin() {
    const SIZE: u64 = 20 << 30;
    const OBJECT: u64 = 4 << 20;
    let Some(ceph) = Ceph::second() else { return };
    let pool = OwnPool::new(&ceph, "instant-thin");
    ceph.ceph(&["osd", "pool", "set-quota", "instant-thin", "max_bytes", "1073741824"]);
    let cuttle = Cuttle::in_folder();
    let path = cuttle.home().join("thin.raw");
    let file = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    file.set_len(SIZE).expect("sparse");
    let disk = path.display().to_string();
    let mut numbers = Numbers::new(11);
    // Some across two objects, the last at the very end.
    let places: Vec<u64> = (0..100).map(|n| n * 50 * OBJECT + 3 * MIB as u64 + n * 4096).collect();
    for at in places.iter().copied().chain([SIZE - MIB as u64]) {
        file.write_all_at(&numbers.bytes(MIB), at).expect("written");
    }
    cuttle.ok(&["backup", &disk, "--volume", "vms/thin"]);
    file.write_all_at(&numbers.bytes(MIB), places[7]).expect("written");
    cuttle.ok(&["backup", &disk, "--volume", "vms/thin"]);

    let (target, spec) = ("instant-thin/image", "rbd:instant-thin/image");
    // Writes into a full pool wait: better an end than none.
    let mut command = Command::new("timeout");
    command.args(["300", env!("CARGO_BIN_EXE_cuttle")]).env_clear().envs(cuttle.variables());
    command.args(["--conf", &ceph.conf, "restore", "--instant", "--history", "1", "vms/thin", spec]);
    let said = command.output().expect("run it");
    assert!(said.status.success(), "{said:?}");
    let touched: BTreeSet<u64> = places
        .iter()
        .flat_map(|at| [at / OBJECT, (at + MIB as u64 - 1) / OBJECT])
        .chain([SIZE / OBJECT - 1])
        .collect();
    let used: Value = serde_json::from_slice(&ceph.rbd(&["du", "--format", "json", target])).expect("JSON");
    let used: Vec<u64> =
        used["images"].as_array().expect("images").iter().filter_map(|i| i["used_size"].as_u64()).collect();
    // Which clusters of a chunk are zero, only its content could tell: whole chunks are copied, and so large are objects.
    let changed = BTreeSet::from([places[7] / OBJECT, (places[7] + MIB as u64 - 1) / OBJECT]);
    assert_eq!(used, [touched.len() as u64 * OBJECT, changed.len() as u64 * OBJECT]);
    let image = ceph.open(&ceph.spec(target), Access::ReadOnly).expect("open");
    assert_eq!(image.size_bytes().expect("its size"), SIZE);
    let (mut found, mut expected) = (vec![0; OBJECT as usize], vec![0; OBJECT as usize]);
    // All that is there, and some that is not: `rbd du` says that the rest are holes.
    for object in touched.iter().flat_map(|n| [*n, n.saturating_sub(1)]) {
        image.read_at(object * OBJECT, &mut found).expect("read");
        file.read_exact_at(&mut expected, object * OBJECT).expect("read");
        assert!(found == expected, "object {object}");
    }
    drop(image);
    ceph.rbd(&["snap", "purge", "--no-progress", target]);
    ceph.rbd(&["rm", "--no-progress", target]);
    drop(pool);
}

#[test]
fn a_backup_beside_an_instant_restore_hurts_neither() {
    let Some(ceph) = Ceph::second() else { return };
    let cuttle = Cuttle::in_folder();
    let target = "rbd/instant-beside";
    ceph.purge(target);
    let expected = volume(8, 60 * MIB);
    let mut older = expected.clone();
    older[30 * MIB..33 * MIB].fill(9);
    cuttle.backup_of("vms/db", &older);
    cuttle.backup_of("vms/db", &expected);
    let spec = format!("rbd:{target}");
    let slow = ["--limit-download", "4MiB", "--history", "1", "vms/db", &spec];
    let mut restore = Running::begin(&cuttle, &ceph, &slow);
    restore.says("usable");
    // Before, this process ended with SIGFPE; and whatever it leaves, the restore's snapshots are not its own.
    let night = cuttle.backup(&["--conf", &ceph.conf, &spec]);
    assert!(night.notes().contains("live migration"), "{}", night.notes());
    restore.says("summary");
    restore.ends();
    for _ in 0..2 {
        assert!(export(&ceph, target) == expected);
        assert!(export(&ceph, &format!("{target}@backup-1")) == older, "its history as well");
        assert!(cuttle.ok(&["restore", "-q", target, "-"]) == expected);
        cuttle.backup(&["--conf", &ceph.conf, &spec]);
        assert_eq!(ceph.snapshots(target).len(), 2, "one base, and the history");
    }
    ceph.purge(target);
}
