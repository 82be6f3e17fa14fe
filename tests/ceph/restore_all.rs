//! All volumes of a project at once: after the loss of a cluster, or as files.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::Numbers;
use crate::support::ceph::{Ceph, OwnPool, layout};
use crate::support::program::{Cuttle, Said};

const MIB: u64 = 1 << 20;

/// What a run with `--json` said: a line for each volume, by name, and the summary.
struct Run {
    code: i32,
    volumes: Vec<Value>,
    /// What images became on their way, for clones to hang on.
    passed: Vec<Value>,
    summary: Value,
    stderr: String,
}

impl Run {
    fn of(said: Said) -> Self {
        let text = String::from_utf8(said.stdout).expect("UTF-8");
        let mut volumes: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        let summary = volumes.pop().unwrap_or_else(|| panic!("no summary: {}", said.stderr));
        assert_eq!(summary["message_type"], "summary");
        volumes.sort_by_key(|v| v["volume"].as_str().map(str::to_owned));
        let (passed, volumes) = volumes.into_iter().partition(|v| v["status"] == "passed");
        Self { code: said.code.expect("a code"), volumes, passed, summary, stderr: said.stderr }
    }

    /// `volume status` of each.
    fn told(&self) -> Vec<String> {
        let text = |v: &Value, name: &str| v[name].as_str().unwrap_or("?").to_owned();
        self.volumes.iter().map(|v| format!("{} {}", text(v, "volume"), text(v, "status"))).collect()
    }
}

fn restore_all(cuttle: &Cuttle, args: &[&str]) -> Run {
    Run::of(cuttle.run(&[&["--json", "restore", "--all"], args].concat(), &[]))
}

/// Volumes from files, with tags; what each holds.
fn volumes(cuttle: &Cuttle, names: &[&str]) -> Vec<Vec<u8>> {
    let mut numbers = Numbers::new(91);
    let mut held = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let source = cuttle.home().join("source");
        let mut bytes = numbers.bytes((5 * MIB) as usize + 700 * at);
        bytes[MIB as usize..2 * MIB as usize].fill(0);
        fs::write(&source, &bytes).expect("write");
        let tag = format!("tag-{at}");
        cuttle.backup(&[
            source.to_str().expect("UTF-8"),
            "--volume",
            name,
            "--tag",
            &tag,
            "--accept-new-identity",
        ]);
        held.push(bytes);
    }
    held
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => out.extend(files(&path)),
            false => out.push(path),
        }
    }
    out.sort();
    out
}

/// Where a chunk of a volume lies that no other volume has: each backup adds its own.
fn objects(cuttle: &Cuttle) -> Vec<PathBuf> {
    files(&cuttle.home().join("repository"))
        .into_iter()
        .filter(|p| p.to_string_lossy().contains("/chunks/"))
        .collect()
}

#[test]
fn all_volumes_become_files_and_a_second_run_finds_them() {
    let cuttle = Cuttle::in_folder();
    let names = ["vms/db", "vms/tenant/db", "web"];
    let held = volumes(&cuttle, &names);
    let folder = cuttle.home().join("disks");
    let to = format!("{}/", folder.display());

    let planned = restore_all(&cuttle, &["--to", &to, "-n"]);
    assert_eq!(planned.told(), ["vms/db planned", "vms/tenant/db planned", "web planned"]);
    assert!(!folder.exists(), "a dry run writes nothing");

    let some = restore_all(&cuttle, &["--to", &to, "--volume", "vms/*", "--jobs", "1"]);
    assert_eq!(
        (some.code, some.told()),
        (0, vec!["vms/db restored".into(), "vms/tenant/db restored".into()])
    );
    let all = restore_all(&cuttle, &["--to", &to, "--max-bandwidth", "1GiB"]);
    assert_eq!(all.told(), ["vms/db already_restored", "vms/tenant/db already_restored", "web restored"]);
    assert_eq!(all.summary["volumes_ok"], 3);
    assert_eq!(all.summary["volumes_already_restored"], 2);
    assert_eq!(all.summary["fetch"], planned.volumes[2]["fetch"]);
    assert_eq!(all.volumes[2]["tags"], serde_json::json!(["tag-2"]));
    for (name, bytes) in names.iter().zip(&held) {
        assert!(fs::read(folder.join(format!("{name}.raw"))).expect("a file") == *bytes, "{name}");
    }

    // A file that holds anything else is refused, and made the same only where that is allowed.
    let path = folder.join("web.raw");
    let mut other = held[2].clone();
    other[4 * MIB as usize] ^= 1;
    fs::write(&path, &other).expect("write");
    let refused = restore_all(&cuttle, &["--to", &to]);
    assert_eq!(refused.told()[2], "web failed");
    assert_eq!(refused.code, 3);
    assert!(refused.stderr.contains("exists"), "{}", refused.stderr);
    assert!(fs::read(&path).expect("a file") == other);
    let again = restore_all(&cuttle, &["--to", &to, "--overwrite", "--verify"]);
    assert_eq!(again.told(), names.map(|name| format!("{name} restored")));
    assert_eq!(again.summary["fetches"], 1, "only what differs: {}", again.summary);
    assert!(fs::read(&path).expect("a file") == held[2]);

    let text = String::from_utf8(cuttle.ok(&["restore", "--all", "--to", &to])).expect("UTF-8");
    for part in ["vms/tenant/db", "tag-1", "already restored", "0 volumes restored to", "requests: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_run_that_is_interrupted_tells_what_it_left() {
    let cuttle = Cuttle::in_folder();
    volumes(&cuttle, &["a", "b", "c"]);
    let to = format!("{}/", cuttle.home().join("disks").display());
    let begun = || {
        files(&cuttle.home().join("disks"))
            .iter()
            .any(|path| path.extension().is_some_and(|e| e == "cuttle-partial"))
    };
    let (child, first) = stopped_after_one(&cuttle, &["--to", &to], begun, Signal::INT);
    // Of two chunks the second waits for the first, which is 1 MiB at least.
    assert!(first["seconds"].as_f64().expect("a number") > 0.4, "slower than the machine is: {first}");
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(130));
    let rest = String::from_utf8(output.stdout).expect("UTF-8");
    let rest: Vec<Value> = rest.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let statuses = rest.iter().map(|line| line["status"].as_str().unwrap_or("-")).collect::<Vec<_>>();
    assert_eq!(statuses, ["failed", "not_started", "-"], "{first} {rest:?}");
    let done = [&rest[2]["volumes_ok"], &rest[2]["volumes_failed"], &rest[2]["volumes_not_started"]];
    assert_eq!(done, [1, 1, 1]);
    assert_eq!(restore_all(&cuttle, &["--to", &to]).summary["volumes_already_restored"], 1);
}

/// Starts a run so slow that it is ended while the second volume is under way, once that has begun; the first's line.
fn stopped_after_one(
    cuttle: &Cuttle,
    args: &[&str],
    second_has_begun: impl Fn() -> bool,
    how: Signal,
) -> (Child, Value) {
    let slow = [&["restore", "--all", "--jobs", "1", "--max-bandwidth", "2MiB", "--json"], args].concat();
    let mut child =
        cuttle.command(&slow).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start");
    // Unbuffered, so that the rest stays in the pipe.
    let mut line = Vec::new();
    let said = child.stdout.as_mut().expect("a pipe");
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        said.read_exact(&mut byte).expect("the first volume's line");
        line.extend(byte);
    }
    let patience = Instant::now();
    while !second_has_begun() {
        assert!(patience.elapsed() < Duration::from_secs(60), "no second volume");
        thread::sleep(Duration::from_millis(5));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process number")).expect("a process");
    kill_process(pid, how).expect("send a signal");
    (child, serde_json::from_slice(&line).expect("JSON"))
}

#[test]
fn a_damaged_volume_does_not_keep_the_others() {
    let cuttle = Cuttle::in_folder();
    let held = volumes(&cuttle, &["a"]);
    let of_a = objects(&cuttle);
    let more = volumes(&cuttle, &["b/*"]);
    assert!(more[0] == held[0], "shared with a");
    let source = cuttle.home().join("other");
    fs::write(&source, Numbers::new(7).bytes(3 << 20)).expect("write");
    cuttle.backup(&[source.to_str().expect("UTF-8"), "--volume", "c"]);
    cuttle.backup(&[source.to_str().expect("UTF-8"), "--volume", "../c", "--accept-new-identity"]);
    cuttle.backup(&[source.to_str().expect("UTF-8"), "--volume", "empty", "--accept-new-identity"]);
    cuttle.ok(&["forget", "empty@1"]);
    let ends = |cuttle: &Cuttle| {
        let all = files(&cuttle.home().join("repository")).into_iter();
        all.filter(|path| path.extension().is_some_and(|e| e == "end")).collect::<Vec<_>>()
    };
    let before = ends(&cuttle);
    cuttle.backup(&[source.to_str().expect("UTF-8"), "--volume", "log", "--accept-new-identity"]);
    let of_log = ends(&cuttle).into_iter().find(|path| !before.contains(path)).expect("a record");
    fs::write(of_log, b"damaged").expect("write");
    let largest = of_a.iter().max_by_key(|p| fs::metadata(p).expect("a file").len()).expect("a chunk");
    let mut bytes = fs::read(largest).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(largest, bytes).expect("write");

    let to = format!("{}/", cuttle.home().join("disks").display());
    let run = restore_all(&cuttle, &["--to", &to, "--no-cache"]);
    let told = ["../c failed", "a failed", "b/* failed", "c restored", "empty no_snapshot", "log failed"];
    assert_eq!(run.told(), told);
    assert_eq!((run.code, &run.volumes[1]["error"]["kind"]), (3, &Value::from("corrupt")));
    let told = ["volumes_ok", "volumes_failed", "volumes_not_started", "volumes_without_snapshot"];
    assert_eq!(told.map(|name| run.summary[name].as_u64()), [Some(1), Some(4), Some(0), Some(1)]);
    assert!(fs::read(format!("{to}c.raw")).expect("a file") == fs::read(&source).expect("a file"));
    assert!(!Path::new(&format!("{to}a.raw")).exists() && !cuttle.home().join("c.raw").exists());
    // All that is asked for failed.
    assert_eq!(restore_all(&cuttle, &["--to", &to, "--volume", "a"]).code, 1);
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_written() {
    let cuttle = Cuttle::in_folder();
    cuttle.fails(1, &["restore", "--all", "--to", "disks/"]);
    volumes(&cuttle, &["a", "b"]);
    let folder = cuttle.home().join("disks/");
    let to = folder.to_str().expect("UTF-8");
    for args in [
        &["--all"][..],
        &["--all", "--to", "rbd:"],
        &["--all", "--to", "pool"],
        &["--all", "--to", to, "--volume", "x*"],
        &["--all", "--to", to, "a", "x"],
        &["--all", "--to", to, "--instant"],
        &["--all", "--to", to, "--jobs", "0"],
        &["a", "x", "--to", to],
        &["a", "x", "--volume", "a"],
        &["a", "x", "--max-bandwidth", "1MiB"],
        &["a", "x", "--jobs", "2"],
        &["a"],
    ] {
        let said = cuttle.run(&[&["restore"], args].concat(), &[]);
        assert_ne!(said.code, Some(0), "{args:?}");
        assert!(!said.stderr.is_empty() && !folder.exists(), "{args:?}");
    }
}

/// Backs up images of every make; their volumes' names.
fn makes(ceph: &Ceph, cuttle: &Cuttle) -> [&'static str; 6] {
    let makes: [(&str, &[&str]); 4] = [
        ("large", &["--object-size", "8M"]),
        ("plain", &["--image-feature", "layering"]),
        ("striped", &["--object-size", "1M", "--stripe-unit", "65536", "--stripe-count", "3"]),
        ("parent", &[]),
    ];
    let mut numbers = Numbers::new(33);
    let mut fill = |path: &str| {
        for _ in 0..3 {
            let (at, length) = (numbers.below(7 * MIB), 1 + numbers.below(MIB) as usize);
            ceph.write(path, at, &numbers.bytes(length));
        }
    };
    for (name, args) in makes {
        let path = format!("all/{name}");
        ceph.create(&path, 17 * MIB + 512, args);
        fill(&path);
        ceph.rbd(&["image-meta", "set", &path, "owner", name]);
        ceph.rbd(&["image-meta", "set", &path, "conf_rbd_qos_iops_limit", "5000"]);
    }
    ceph.rbd(&["snap", "create", "--no-progress", "all/parent@golden"]);
    ceph.rbd(&["snap", "protect", "all/parent@golden"]);
    ceph.rbd(&["clone", "all/parent@golden", "all/clone"]);
    fill("all/clone");
    ceph.rbd(&["namespace", "create", "all/tenant"]);
    ceph.create("all/tenant/small", 9 * MIB + 4096, &["--object-size", "1M"]);
    fill("all/tenant/small");
    cuttle.backup(&[
        "--conf",
        &ceph.conf,
        "rbd:all/*",
        "rbd:all/tenant/small",
        "--tag",
        "nightly,paid",
        "--jobs",
        "3",
    ]);
    ["all/clone", "all/large", "all/parent", "all/plain", "all/striped", "all/tenant/small"]
}

fn image_of(volume: &str) -> String {
    format!("back/{}", volume.rsplit('/').next().expect("a last part"))
}

/// The recorded metadata without what cuttle adds, and that.
fn metadata(ceph: &Ceph, image: &str) -> (Value, Value, Value) {
    let (_, mut metadata) = layout(ceph, image);
    let mut take = |key: &str| match &mut metadata {
        Value::Object(pairs) => pairs.remove(key).unwrap_or_default(),
        _ => Value::Null,
    };
    let (restored, tags) = (take("cuttle.restored"), take("cuttle.tags"));
    if let Value::Object(pairs) = &mut metadata {
        // What is noted of the snapshots that clones hang on.
        pairs.retain(|key, _| !key.starts_with("cuttle.snapshot."));
    }
    if metadata.as_object().is_some_and(serde_json::Map::is_empty) {
        metadata = Value::Null;
    }
    (metadata, restored, tags)
}

#[test]
fn a_pool_comes_back_on_another_cluster() {
    let (Some(ceph), Some(second)) = (Ceph::first(), Ceph::second()) else { return };
    let cuttle = Cuttle::in_folder();
    let (pool, target) = (OwnPool::new(&ceph, "all"), OwnPool::new(&second, "back"));
    let names = makes(&ceph, &cuttle);
    let base = ["--conf", &*second.conf, "--to", "rbd:back"];
    let images = || second.rbd(&["ls", "back"]);
    let run = |more: &[&str]| restore_all(&cuttle, &[&base, more].concat());

    let planned = run(&["-n"]);
    assert_eq!(planned.told(), names.map(|name| format!("{name} planned")));
    assert_eq!(planned.passed[0]["volume"], "all/parent", "its clone hangs on an older snapshot");
    assert!(images().is_empty(), "a dry run makes nothing");
    // One of them is there by chance, and nobody's to overwrite.
    second.create("back/plain", 4 * MIB, &[]);
    let first = run(&["--volume", "*/plain", "--volume", "*/small", "--volume", "*/striped"]);
    let told = ["all/plain failed", "all/striped restored", "all/tenant/small restored"];
    assert_eq!((first.code, first.told()), (3, told.map(str::to_owned).to_vec()));
    assert!(first.stderr.contains("rbd:back/plain exists"), "{}", first.stderr);
    second.purge("back/plain");
    // What a machine writes meanwhile is not taken from it.
    second.write("back/striped", 3 * MIB, b"in use again");
    let in_use = second.export("back/striped");

    let all = run(&["--jobs", "3", "--verify", "--image-config"]);
    assert_eq!(all.code, 0, "{}", all.stderr);
    let again = |name: &str| matches!(name, "all/striped" | "all/tenant/small");
    let expected = names.map(|n| format!("{n} {}", if again(n) { "already_restored" } else { "restored" }));
    assert_eq!(all.told(), expected);
    for (name, line) in names.iter().zip(&all.volumes) {
        let image = image_of(name);
        let point = cuttle.latest(name)["point"]["name"].as_str().expect("a name").to_owned();
        let bytes = ceph.export(&format!("{name}@{point}"));
        let found = second.export(&image);
        assert!(found == if *name == "all/striped" { in_use.clone() } else { bytes }, "{name}");
        if *name != "all/clone" {
            assert_eq!(layout(&second, &image).0, layout(&ceph, name).0, "{name}");
        }
        let (kept, restored, tags) = metadata(&second, &image);
        let mut recorded = metadata(&ceph, name).0;
        // Nobody asked for it then.
        if let (true, Some(pairs)) = (again(name), recorded.as_object_mut()) {
            pairs.retain(|key, _| !key.starts_with("conf_"));
        }
        assert_eq!(kept, recorded, "{name}");
        assert_eq!((restored, tags), (line["snapshot_id"].clone(), "nightly,paid".into()), "{name}");
    }
    // To overwrite means to be sure.
    let sure = run(&["--overwrite", "--volume", "all/striped"]);
    assert_eq!((sure.told(), &sure.summary["fetches"]), (vec!["all/striped restored".into()], &1.into()));
    assert!(second.export("back/striped") != in_use);
    the_nights_go_on(&cuttle, &second);
    drop((pool, target));
}

/// The note of a finished restore is no part of the volume, and not taken for that of an unfinished one.
fn the_nights_go_on(cuttle: &Cuttle, second: &Ceph) {
    let conf = ["--conf", &*second.conf];
    let args = [&conf[..], &["rbd:back/large", "--volume", "all/large", "--accept-new-identity"]].concat();
    let night = cuttle.backup(&args);
    assert!(!night.notes().contains("unfinished") && night.number("new_bytes") == 0, "{night:?}");
    assert_eq!(cuttle.backup(&args[..5]).notes(), "[]");
    // A newer snapshot is another one: what is there is not taken for it.
    let newer = restore_all(cuttle, &["--to", "rbd:back", conf[0], conf[1], "--volume", "all/large"]);
    assert_eq!((newer.code, newer.told()), (1, vec!["all/large failed".into()]));
    assert!(newer.stderr.contains("was restored to it"), "{}", newer.stderr);
    // Overwritten by something else, the image says nothing of the restore before.
    cuttle.ok(&[&["restore", "all/parent", "rbd:back/large", "--overwrite"], &conf[..]].concat());
    assert_eq!(metadata(second, "back/large").1, Value::Null);
}

#[test]
fn of_two_volumes_of_one_name_the_first_gets_it() {
    let Some(ceph) = Ceph::first() else { return };
    let cuttle = Cuttle::in_folder();
    let pool = OwnPool::new(&ceph, "alike");
    volumes(&cuttle, &["web", "a/db", "b/n/db"]);
    let args = ["--conf", &*ceph.conf, "restore", "--all", "--to", "rbd:alike"];
    for more in [&["-n"][..], &[]] {
        assert!(ceph.rbd(&["ls", "alike"]).is_empty(), "-n writes nothing");
        let said = cuttle.fails(3, &[&args, more].concat());
        for part in ["a/db becomes db, and b/n/db cannot", "--volume 'b/n/db'"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    assert_eq!(ceph.rbd(&["ls", "alike"]), b"db\nweb\n");
    let said = cuttle.fails(1, &["--conf", &ceph.conf, "restore", "--all", "--to", "rbd:alike/nowhere"]);
    assert!(said.contains("nowhere") && !said.contains("web"), "told once: {said}");
    drop(pool);
}

#[test]
fn a_run_that_was_killed_is_gone_on_with() {
    let Some(ceph) = Ceph::first() else { return };
    let cuttle = Cuttle::in_folder();
    let pool = OwnPool::new(&ceph, "killed");
    let names = ["a", "b", "c"];
    let held = volumes(&cuttle, &names);
    let base = ["--conf", &*ceph.conf, "--to", "rbd:killed"];
    let begun = || ceph.rbd(&["ls", "killed"]).split(|byte| *byte == b'\n').count() > 2;
    let (mut child, first) = stopped_after_one(&cuttle, &base, begun, Signal::KILL);
    child.wait().expect("wait");

    let done = first["volume"].as_str().expect("a name");
    assert_eq!(first["status"], "restored");
    let rest = restore_all(&cuttle, &base);
    assert_eq!(rest.code, 0, "{}", rest.stderr);
    let status = |name: &str| if name == done { "already_restored" } else { "restored" };
    assert_eq!(rest.told(), names.map(|name| format!("{name} {}", status(name))));
    for (name, bytes) in names.iter().zip(&held) {
        assert!(ceph.export(&format!("killed/{name}")) == *bytes, "{name}");
    }
    drop(pool);
}
