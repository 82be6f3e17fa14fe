//! One file back: real file systems inside snapshots, mounted from the mount.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::bench::{LoopMount, Mount, can_mount};
use crate::support::Numbers;
use crate::support::program::Cuttle;

const SIZE_BYTES: u64 = 320 << 20;

fn run(program: &str, args: &[&str], path: &Path) {
    let output = Command::new(program).args(args).arg(path).output().expect("run a program");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Files of all sizes in folders.
fn fill(root: &Path) {
    let mut numbers = Numbers::new(11);
    for folder in 0..5 {
        let folder = root.join(format!("folder {folder}/within"));
        fs::create_dir_all(&folder).expect("a folder");
        for file in 0..20 {
            let len = numbers.below(200_000) as usize;
            fs::write(folder.join(format!("file {file}")), numbers.bytes(len)).expect("a file");
        }
    }
    fs::write(root.join("large"), numbers.bytes(20 << 20)).expect("a large file");
}

fn check(mkfs: &str, options: &[&str], ro: &str) {
    if !can_mount() {
        return;
    }
    if Command::new(mkfs).arg("-V").output().is_err() {
        return crate::support::skip(&format!("{mkfs} is not installed"));
    }
    let cuttle = Cuttle::in_folder();
    let disk = cuttle.home().join("disk");
    File::create(&disk).and_then(|f| f.set_len(SIZE_BYTES)).expect("a disk");
    run(mkfs, options, &disk);
    {
        let Some(mounted) = LoopMount::new(&disk, "loop") else { return };
        fill(mounted.path());
    }
    cuttle.backup(&[&disk.display().to_string(), "--volume", "vms/db"]);
    let mount = Mount::new(&cuttle, &[]);
    let (Some(before), Some(after)) =
        (LoopMount::new(&disk, ro), LoopMount::new(&mount.path("vms/db/latest.raw"), ro))
    else {
        return;
    };
    let output = Command::new("diff").arg("-r").arg(before.path()).arg(after.path()).output().expect("diff");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(fs::read(after.path().join("large")).expect("a file").len() == 20 << 20);
}

#[test]
fn ext4() {
    check("mkfs.ext4", &["-q", "-F"], "loop,ro,noload");
}

/// Without `losetup -P`, which not every kernel has: a partition by its place on the disk.
#[test]
fn a_partition_by_its_offset() {
    const OFFSET_BYTES: u64 = 1 << 20;
    if !can_mount() {
        return;
    }
    let cuttle = Cuttle::in_folder();
    let (part, disk) = (cuttle.home().join("part"), cuttle.home().join("disk"));
    File::create(&part).and_then(|f| f.set_len(64 << 20)).expect("a partition");
    run("mkfs.ext4", &["-q", "-F"], &part);
    {
        let Some(mounted) = LoopMount::new(&part, "loop") else { return };
        fs::write(mounted.path().join("file"), "back again").expect("a file");
    }
    let content = [vec![0; OFFSET_BYTES as usize], fs::read(&part).expect("the partition")].concat();
    fs::write(&disk, content).expect("a disk");
    cuttle.backup(&[&disk.display().to_string(), "--volume", "vm"]);
    let mount = Mount::new(&cuttle, &[]);
    let options = format!("loop,ro,noload,offset={OFFSET_BYTES}");
    let Some(mounted) = LoopMount::new(&mount.path("vm/1.raw"), &options) else { return };
    assert_eq!(fs::read(mounted.path().join("file")).expect("the file"), b"back again");
}

#[test]
fn xfs() {
    check("mkfs.xfs", &["-q", "-f"], "loop,ro,norecovery,nouuid");
}
