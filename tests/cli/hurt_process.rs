//! The command killed at any moment, and disks that fill up: the next run succeeds, and no snapshot is broken.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::bench::{Bench, random};
use crate::support::Numbers;
use crate::support::devices::SmallDisk;
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Small chunks make many objects of a small volume.
const CHUNK_BYTES: u64 = 32 << 10;
/// Cycles of kill and recovery.
const CYCLES: u64 = 24;

fn start(bench: &Bench, args: &[&str]) -> Child {
    let mut command = bench.process(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("start cuttle")
}

/// Kills a process at the moment that `is` says. Whether it was still running is returned.
fn kill_when(mut child: Child, is: impl Fn() -> bool) -> bool {
    while !is() {
        if child.try_wait().expect("look at the process").is_some() {
            return false;
        }
        std::thread::yield_now();
    }
    child.kill().expect("kill the process");
    let status = child.wait().expect("wait");
    status.code().is_none()
}

/// Objects and unfinished files in a repository.
fn files(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|e| if e.path().is_dir() { files(&e.path()) } else { 1 }).sum()
}

fn verified(bench: &Bench, context: &str) -> Value {
    let report = bench.json(&["verify", "--read-data"]).remove(0);
    assert!(report["damage"].as_array().is_some_and(Vec::is_empty), "{context}: {report}");
    report
}

fn restored_equals(bench: &Bench, spec: &str, expected: &[u8], context: &str) {
    let output = bench.cuttle(&["restore", spec, "-"]).output().expect("run cuttle");
    assert_eq!(output.status.code(), Some(0), "{context}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == expected, "{context}: {spec} holds something else");
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.ok(&["init", "--chunk-size", "32KiB"]);
    bench
}

/// Changes a third of a volume's chunks.
fn edit(bench: &Bench, numbers: &mut Numbers, size_bytes: u64) {
    let file = File::options().write(true).open(bench.path("disk.img")).expect("open the volume");
    for _ in 0..size_bytes / CHUNK_BYTES / 3 {
        let at = numbers.below(size_bytes - 100);
        file.write_all_at(&numbers.bytes(100), at).expect("write");
    }
}

#[test]
fn a_backup_killed_at_any_moment_leaves_nothing_broken() {
    let bench = bench();
    let size_bytes = 4 * MIB + 77;
    bench.write("disk.img", &random(1, size_bytes as usize));
    let mut numbers = Numbers::new(2);
    let repo = bench.path("repo");
    // How many objects a backup makes.
    let before = files(&repo);
    bench.ok(&["backup", "disk.img"]);
    let made = files(&repo) - before;
    assert!(made > size_bytes / CHUNK_BYTES, "{made}");
    // Many objects, not one bundle: there is more to be interrupted.
    let backup = ["backup", "disk.img", "--delta", "never"];
    let (mut killed, mut last) = (0, 1);
    for cycle in 0..CYCLES {
        edit(&bench, &mut numbers, size_bytes);
        let volume = bench.read("disk.img");
        // From the first moment to the last object, and some at random.
        let after = match cycle {
            0..12 => cycle * made / 3 / 12,
            _ => numbers.below(made / 3),
        };
        let target = files(&repo) + after;
        let child = start(&bench, &backup);
        let hit = kill_when(child, || files(&repo) >= target);
        killed += u64::from(hit);
        let context = format!("cycle {cycle}, killed after {after} objects: {hit}");
        verified(&bench, &context);
        if cycle % 2 == 0 {
            bench.ok(&backup);
            let report = verified(&bench, &context);
            assert_eq!(report["unfinished"], 0, "{context}: {report}");
            restored_equals(&bench, "disk.img", &volume, &context);
            let snapshots = bench.json(&["snapshots"]).remove(0);
            let found = snapshots.as_array().expect("a list").len();
            assert!(found > last, "{context}: {snapshots}");
            last = found;
        }
    }
    assert!(killed >= CYCLES * 2 / 3, "only {killed} of {CYCLES} were killed in time");
}

/// The first backup, again and again from nothing.
#[test]
fn a_first_backup_killed_at_any_moment_goes_on() {
    let size_bytes = 2 * MIB;
    for cycle in 0..6 {
        let bench = bench();
        bench.write("disk.img", &random(3, size_bytes as usize));
        let repo = bench.path("repo");
        let target = files(&repo) + cycle * size_bytes / CHUNK_BYTES / 6;
        kill_when(start(&bench, &["backup", "disk.img"]), || files(&repo) >= target);
        let context = format!("cycle {cycle}");
        verified(&bench, &context);
        let report = bench.json(&["backup", "disk.img"]).remove(0);
        let known = report["known_chunks"].as_u64().expect("a count");
        assert!(known + 24 >= cycle * size_bytes / CHUNK_BYTES / 6, "{context}: {report}");
        restored_equals(&bench, "disk.img", &bench.read("disk.img"), &context);
        assert_eq!(verified(&bench, &context)["unfinished"], 0, "{context}");
    }
}

/// Chunks of a partial file that are right; any other is zero.
fn right_chunks(partial: &Path, volume: &[u8], context: &str) -> usize {
    let Ok(held) = fs::read(partial) else { return 0 };
    let mut right = 0;
    let chunks = held.chunks(CHUNK_BYTES as usize).zip(volume.chunks(CHUNK_BYTES as usize));
    for (at, (held, expected)) in chunks.enumerate() {
        // A write that was cut off by the kill is a part of what is right.
        let cut = held.iter().zip(expected).all(|(h, e)| h == e || *h == 0);
        assert!(cut, "{context}: chunk {at} holds what was never in the volume");
        right += usize::from(held == expected);
    }
    right
}

#[test]
fn a_restore_killed_at_any_moment_goes_on_where_it_was() {
    let bench = bench();
    let volume = random(5, 8 * MIB as usize + 5);
    bench.write("disk.img", &volume);
    bench.ok(&["backup", "disk.img"]);
    let mut numbers = Numbers::new(6);
    let (target, partial) = (bench.path("target"), bench.path("target.cuttle-partial"));
    let mut killed = 0;
    for cycle in 0..CYCLES {
        let after_bytes = match cycle {
            0..12 => cycle * volume.len() as u64 / 12,
            _ => numbers.below(volume.len() as u64),
        };
        let written = || fs::metadata(&partial).map_or(0, |m| m.blocks() * 512);
        let hit = kill_when(start(&bench, &["restore", "disk.img", "target"]), || written() >= after_bytes);
        killed += u64::from(hit);
        let context = format!("cycle {cycle}, killed after {after_bytes} bytes: {hit}");
        let right = right_chunks(&partial, &volume, &context);
        if hit && !target.exists() {
            let report = bench.json(&["restore", "disk.img", "target"]).remove(0);
            assert!(report["keep"]["chunks"].as_u64() >= Some(right as u64), "{context}: {report}");
        }
        assert!(bench.read("target") == volume, "{context}: other bytes");
        assert!(!partial.exists(), "{context}");
        fs::remove_file(&target).expect("removed");
    }
    verified(&bench, "after all");
    assert!(killed >= CYCLES * 2 / 3, "only {killed} of {CYCLES} were killed in time");
}

/// Over what is there: what was not restored yet is as it was.
#[test]
fn a_restore_in_place_killed_at_any_moment_goes_on_where_it_was() {
    let bench = bench();
    let volume = random(7, 4 * MIB as usize);
    bench.write("disk.img", &volume);
    bench.ok(&["backup", "disk.img"]);
    let old = random(8, volume.len());
    let mut killed = 0;
    for cycle in 0..8 {
        bench.write("target", &old);
        let at = (cycle * volume.len() / 8) as u64;
        let file = File::open(bench.path("target")).expect("opened");
        let reached = || {
            let mut byte = [0; 16];
            file.read_exact_at(&mut byte, at).is_ok() && byte == volume[at as usize..][..16]
        };
        let args = ["restore", "disk.img", "target", "--overwrite"];
        killed += u64::from(kill_when(start(&bench, &args), reached));
        for (held, (new, old)) in bench.read("target").iter().zip(volume.iter().zip(&old)) {
            assert!(held == new || held == old, "cycle {cycle}: a byte of neither");
        }
        bench.ok(&args);
        assert!(bench.read("target") == volume, "cycle {cycle}");
    }
    assert!(killed >= 4, "only {killed} of 8 were killed in time");
}

/// Mounts a small disk in a folder of the bench, or skips the test.
fn small_disk(bench: &Bench, name: &str, size_bytes: u64) -> Option<SmallDisk> {
    let folder = bench.path(name);
    fs::create_dir_all(&folder).expect("a folder");
    let disk = SmallDisk::mount(&folder, size_bytes);
    if disk.is_none() {
        crate::support::skip("no small disk can be mounted: not root");
    }
    disk
}

#[test]
fn a_full_repository_disk_breaks_nothing_and_room_is_all_it_takes() {
    let bench = Bench::new();
    let Some(disk) = small_disk(&bench, "repo", 3 * MIB) else { return };
    bench.ok(&["init", "--chunk-size", "32KiB"]);
    let (small, large) = (random(9, MIB as usize), random(10, 5 * MIB as usize));
    bench.write("small.img", &small);
    bench.write("large.img", &large);
    bench.ok(&["backup", "small.img"]);
    for _ in 0..2 {
        let said = bench.fails(1, &["backup", "large.img"]);
        assert!(said.contains("No space left") || said.contains("full"), "{said}");
        assert!(said.contains("room") || said.contains("space"), "{said}");
        assert!(said.contains("large.img"), "{said}");
        verified(&bench, "full");
        restored_equals(&bench, "small.img", &small, "full");
        let snapshots = bench.json(&["snapshots"]).remove(0);
        assert_eq!(snapshots.as_array().map(Vec::len), Some(1), "{snapshots}");
    }
    disk.grow(20 * MIB);
    let report = bench.json(&["backup", "large.img"]).remove(0);
    assert!(report["known_chunks"].as_u64() > Some(20), "what was uploaded is not uploaded twice: {report}");
    restored_equals(&bench, "large.img", &large, "grown");
    restored_equals(&bench, "small.img", &small, "grown");
    assert_eq!(verified(&bench, "grown")["unfinished"], 0);
}

/// To the last byte: nothing at all can be written before something is deleted.
#[test]
fn in_a_full_repository_disk_what_is_forgotten_makes_room() {
    let bench = Bench::new();
    let Some(_disk) = small_disk(&bench, "repo", 6 * MIB) else { return };
    bench.ok(&["init", "--chunk-size", "32KiB"]);
    let (kept, old) = (random(12, MIB as usize), random(13, 2 * MIB as usize));
    bench.write("kept.img", &kept);
    bench.write("old.img", &old);
    bench.ok(&["backup", "kept.img"]);
    bench.ok(&["backup", "old.img"]);
    let mut filler = File::create(bench.path("repo/filler")).expect("a file");
    for size in [4096, 1] {
        while filler.write_all(&vec![1; size]).is_ok() {}
    }
    bench.fails(1, &["tag", "old.img@1", "--add", "night"]);
    bench.ok(&["forget", "old.img@1"]);
    let report = bench.json(&["prune"]).remove(0);
    assert!(report["deleted_chunks"]["bytes"].as_u64() >= Some(2 * MIB), "{report}");
    restored_equals(&bench, "kept.img", &kept, "pruned");
    verified(&bench, "pruned");
    // There is room again, and for the next time too.
    let pieces = || fs::read_dir(bench.path("repo/projects/default/reserve")).expect("a folder").count();
    assert_eq!(pieces(), 8);
    bench.write("new.img", &random(14, MIB as usize));
    bench.ok(&["backup", "new.img"]);
    let scrubbed = bench.json(&["verify", "--no-key"]).remove(0);
    assert_eq!(scrubbed["unknown"], 1, "the filler, and not the reserve: {scrubbed}");
}

#[test]
fn a_full_target_disk_stops_the_restore_which_then_goes_on() {
    let bench = bench();
    let volume = random(11, 5 * MIB as usize);
    bench.write("disk.img", &volume);
    bench.ok(&["backup", "disk.img"]);
    let Some(disk) = small_disk(&bench, "small", 2 * MIB) else { return };
    let said = bench.fails(1, &["restore", "disk.img", "small/target"]);
    assert!(said.contains("No space left") || said.contains("full"), "{said}");
    assert!(said.contains("small/target") && said.contains("Free some space"), "{said}");
    assert!(!bench.path("small/target").exists());
    let right = right_chunks(&bench.path("small/target.cuttle-partial"), &volume, "full");
    assert!(right > 20, "{right}");
    disk.grow(20 * MIB);
    let report = bench.json(&["restore", "disk.img", "small/target"]).remove(0);
    assert!(report["keep"]["chunks"].as_u64() >= Some(right as u64), "{report}");
    assert!(bench.read("small/target") == volume);
}
