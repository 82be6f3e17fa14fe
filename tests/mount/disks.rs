//! Whole disks inside snapshots, by the commands of docs/read.md: partitions, and LVM on one of them. What the kernel here has not,
//! partitions of loop devices or the device mapper, is done without as far as that goes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::bench::{LoopMount, Mount, can_mount, umount};
use crate::support::program::Cuttle;

const MIB: u64 = 1 << 20;
/// Of the first partition.
const FS: (u64, u64) = (MIB, 64 * MIB);
/// Of the second, with LVM on it.
const LVM: (u64, u64) = (65 * MIB, 100 * MIB);

/// Runs a program that must succeed; its standard output.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("run {program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn has_device_mapper() -> bool {
    Command::new("dmsetup").arg("version").output().is_ok_and(|said| said.status.success())
}

/// A loop device, gone when this is dropped.
struct Loop(String);

impl Loop {
    fn new(args: &[&str]) -> Self {
        Self(run("losetup", &[args, &["--show"]].concat()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// `--offset` and `--sizelimit` of a partition.
fn limits((offset_bytes, size_bytes): (u64, u64)) -> [String; 4] {
    ["-o".into(), offset_bytes.to_string(), "--sizelimit".into(), size_bytes.to_string()]
}

/// A GPT disk: ext4 with a file, and a volume group, which has a logical volume where the kernel can make one.
fn make(disk: &Path, group: &str) {
    let path = disk.to_str().expect("UTF-8");
    File::create(disk).and_then(|f| f.set_len(170 * MIB)).expect("a disk");
    let part = disk.with_extension("part");
    File::create(&part).and_then(|f| f.set_len(FS.1)).expect("a partition");
    run("mkfs.ext4", &["-q", "-F", part.to_str().expect("UTF-8")]);
    let note = disk.with_extension("note");
    fs::write(&note, "back again").expect("a file");
    let write = format!("write {} file", note.display());
    run("debugfs", &["-w", "-R", &write, part.to_str().expect("UTF-8")]);
    let script = disk.with_extension("sfdisk");
    let sectors = |(offset, size): (u64, u64)| format!("start={},size={}\n", offset / 512, size / 512);
    fs::write(&script, format!("label: gpt\n{}{}", sectors(FS), sectors(LVM))).expect("a script");
    let status = Command::new("sfdisk").args(["-q", path]).stdin(File::open(&script).expect("it")).status();
    assert!(status.expect("run sfdisk").success());
    let whole = File::options().write(true).open(disk).expect("the disk");
    whole.write_all_at(&fs::read(&part).expect("the partition"), FS.0).expect("written");
    let place = limits(LVM);
    let device = Loop::new(&[&["-f"][..], &place.each_ref().map(String::as_str), &[path]].concat());
    run("pvcreate", &["-q", "--devices", &device.0, &device.0]);
    run("vgcreate", &["-q", "--devices", &device.0, group, &device.0]);
    if has_device_mapper() {
        run("lvcreate", &["-q", "-y", "--devices", &device.0, "-L", "48M", "-n", "root", group]);
        let root = format!("/dev/{group}/root");
        run("mkfs.ext4", &["-q", "-F", &root]);
        run("debugfs", &["-w", "-R", &write, &root]);
        run("vgchange", &["-an", "--devices", &device.0, group]);
    }
}

#[test]
fn partitions_and_lvm() {
    if !can_mount() {
        return;
    }
    for program in ["sfdisk", "losetup", "vgs", "debugfs"] {
        if Command::new(program).arg("-V").output().is_err() {
            return crate::support::skip(&format!("{program} is not installed"));
        }
    }
    let cuttle = Cuttle::in_folder();
    let (disk, group) = (cuttle.home().join("disk"), format!("cuttle_test_{}", std::process::id()));
    make(&disk, &group);
    cuttle.backup(&[&disk.display().to_string(), "--volume", "rbd/vm1"]);
    fs::remove_file(&disk).expect("the disk is gone");
    let mount = Mount::new(&cuttle, &[]);
    let file = mount.path("rbd/vm1/1.raw");
    let path = file.to_str().expect("UTF-8");

    // losetup -rPf --show FILE
    let device = Loop::new(&["-rPf", path]);
    let listed = run("sfdisk", &["-d", path]);
    assert!(listed.contains("start=        2048") && listed.contains("start=      133120"), "{listed}");
    // Programs that list block devices make a partition's node appear; where it never does, its place will do.
    let (first, second) = (format!("{}p1", device.0), format!("{}p2", device.0));
    let has_partitions = Path::new(&first).exists();
    // Of one file there is one loop device for all of it or several for parts.
    let device = Some(device).filter(|_| has_partitions);
    let (image, options) = match has_partitions {
        true => (Path::new(&first), "ro,noload".to_owned()),
        false => (file.as_path(), format!("loop,ro,noload,offset={}", FS.0)),
    };
    let mounted = LoopMount::new(image, &options).expect("mounted");
    assert_eq!(fs::read(mounted.path().join("file")).expect("the file"), b"back again");
    drop(mounted);

    let place = limits(LVM);
    let by_place = (!has_partitions)
        .then(|| Loop::new(&[&["-rf"][..], &place.each_ref().map(String::as_str), &[path]].concat()));
    let physical = by_place.as_ref().map_or(second.as_str(), |device| device.0.as_str());
    // vgs --devices /dev/loop0p2
    let found = run("vgs", &["--devices", physical, "--noheadings", "-o", "vg_name"]);
    assert_eq!(found, group);
    if has_device_mapper() {
        // vgchange -ay --devices /dev/loop0p2 vg0 && mount -o ro,noload /dev/vg0/root /mnt/old
        run("vgchange", &["-ay", "--devices", physical, &group]);
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().to_str().expect("UTF-8");
        run("mount", &["-o", "ro,noload", &format!("/dev/{group}/root"), at]);
        let back = fs::read(folder.path().join("file"));
        // umount /mnt/old && vgchange -an --devices /dev/loop0p2 vg0 && losetup -d /dev/loop0
        assert!(umount(folder.path()));
        run("vgchange", &["-an", "--devices", physical, &group]);
        assert_eq!(back.expect("the file"), b"back again");
    }
    drop((by_place, device));
}
