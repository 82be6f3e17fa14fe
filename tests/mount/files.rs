//! Names, bytes, holes, times; how a mount ends.

use std::fs::{self, File};
use std::io::{BufRead, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::bench::{Mount, can_mount, umount};
use crate::support::Numbers;
use crate::support::program::Cuttle;

const MIB: usize = 1 << 20;

/// Data in the first and the fourth chunk of 4 MiB, and a tail that is no whole page.
fn content(seed: u64) -> Vec<u8> {
    let mut content = vec![0; 24 * MIB + 700];
    let mut numbers = Numbers::new(seed);
    content[..5000].copy_from_slice(&numbers.bytes(5000));
    content[12 * MIB..16 * MIB].copy_from_slice(&numbers.bytes(4 * MIB));
    content[24 * MIB + 100..].copy_from_slice(&numbers.bytes(600));
    content
}

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| name(entry).into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

#[test]
fn snapshots_are_files_with_their_bytes() {
    if !can_mount() {
        return;
    }
    let cuttle = Cuttle::in_folder();
    cuttle.backup_of("vms/db", &content(1));
    cuttle.backup_of("vms/db", &content(2));
    cuttle.backup_of("tiny", b"x");
    let mount = Mount::new(&cuttle, &[]);
    assert_eq!(names(mount.folder.path()), ["tiny", "vms"]);
    assert_eq!(names(&mount.path("vms")), ["db"]);
    assert_eq!(names(&mount.path("vms/db")), ["1.raw", "2.raw", "latest.raw"]);
    for (name, expected) in [("1.raw", content(1)), ("2.raw", content(2)), ("latest.raw", content(2))] {
        let path = mount.path("vms/db").join(name);
        assert!(fs::read(&path).expect("read") == expected, "{name}");
        let metadata = fs::metadata(&path).expect("metadata");
        assert_eq!((metadata.len(), metadata.mode() & 0o7777), (expected.len() as u64, 0o400));
        assert!(metadata.blocks() > 0 && metadata.blocks() * 512 < metadata.len(), "it says to be sparse");
    }
    let inode = |name: &str| fs::metadata(mount.path("vms/db").join(name)).expect("metadata").ino();
    assert_eq!(inode("latest.raw"), inode("2.raw"));
    assert_ne!(inode("1.raw"), inode("2.raw"));
    assert_eq!(fs::read(mount.path("tiny/1.raw")).expect("read"), b"x");

    let time = cuttle.latest("vms/db")["committed_at"].as_str().expect("a time").to_owned();
    let stamp: jiff::Timestamp = time.parse().expect("a time");
    let modified = fs::metadata(mount.path("vms/db/2.raw")).expect("metadata").mtime();
    assert_eq!(modified, stamp.as_second());

    for missing in ["vms/db/3.raw", "vms/db/01.raw", "vms/latest.raw", "nothing", "vms/db/1"] {
        let error = fs::metadata(mount.path(missing)).expect_err(missing);
        assert_eq!(error.kind(), ErrorKind::NotFound, "{missing}");
    }
    let error = File::options().write(true).open(mount.path("vms/db/1.raw")).expect_err("read-only");
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    assert!(fs::remove_file(mount.path("vms/db/1.raw")).is_err());
}

#[test]
fn holes_are_holes() {
    if !can_mount() {
        return;
    }
    let cuttle = Cuttle::in_folder();
    cuttle.backup_of("vm", &content(1));
    let mount = Mount::new(&cuttle, &["--allow-other"]);
    let path = mount.path("vm/latest.raw");
    assert_eq!(fs::metadata(&path).expect("metadata").mode() & 0o7777, 0o444);
    let file = File::open(&path).expect("open");
    let (mib, size) = (MIB as u64, content(1).len() as u64);
    for (at, data, hole) in [
        (0, Some(0), 4 * mib),
        (mib, Some(mib), 4 * mib),
        (4 * mib, Some(12 * mib), 4 * mib),
        (5 * mib, Some(12 * mib), 5 * mib),
        (12 * mib, Some(12 * mib), 16 * mib),
        (16 * mib, Some(24 * mib), 16 * mib),
        (size - 1, Some(size - 1), size),
    ] {
        let found = seek(&file, SeekFrom::Data(at));
        assert_eq!(found, data.ok_or(Errno::NXIO), "data from {at}");
        assert_eq!(seek(&file, SeekFrom::Hole(at)), Ok(hole), "hole from {at}");
    }
    for at in [size, size + 5] {
        assert_eq!(seek(&file, SeekFrom::Data(at)), Err(Errno::NXIO));
        assert_eq!(seek(&file, SeekFrom::Hole(at)), Err(Errno::NXIO));
    }
    // A copy is as sparse.
    let copy = cuttle.home().join("copy");
    let status = std::process::Command::new("cp").arg(&path).arg(&copy).status().expect("run cp");
    assert!(status.success() && fs::read(&copy).expect("the copy") == content(1));
    let held = fs::metadata(&copy).expect("metadata").blocks() * 512;
    assert!(held < 10 * mib, "the copy holds {held} bytes");
}

#[test]
fn many_read_at_once() {
    if !can_mount() {
        return;
    }
    let cuttle = Cuttle::in_folder();
    cuttle.backup_of("vm", &content(1));
    cuttle.backup_of("vm", &content(2));
    // Room for two chunks: what one reader needs is another's next victim.
    let mount = Mount::new(&cuttle, &["--memory", "16MiB"]);
    std::thread::scope(|scope| {
        for reader in 0..8_u64 {
            let path = mount.path(if reader % 2 == 0 { "vm/1.raw" } else { "vm/2.raw" });
            scope.spawn(move || {
                let expected = content(reader % 2 + 1);
                let file = File::open(path).expect("open");
                let mut numbers = Numbers::new(reader + 100);
                for _ in 0..40 {
                    let at = numbers.below(expected.len() as u64) as usize;
                    let len = (numbers.below(300_000) as usize).min(expected.len() - at);
                    let mut found = vec![9; len];
                    file.read_exact_at(&mut found, at as u64).expect("read");
                    assert!(found == expected[at..at + len], "{len} bytes at {at}");
                }
            });
        }
    });
}

#[test]
fn it_ends_when_it_is_unmounted() {
    if !can_mount() {
        return;
    }
    let cuttle = Cuttle::in_folder();
    let mount = Mount::new(&cuttle, &[]);
    assert!(names(mount.folder.path()).is_empty());
    assert!(umount(mount.folder.path()));
    assert_eq!(mount.ended(), Some(0));
}

#[test]
fn it_ends_on_a_signal_once_nothing_uses_it() {
    if !can_mount() {
        return;
    }
    let cuttle = Cuttle::in_folder();
    cuttle.backup_of("vm", &content(1));
    let mut mount = Mount::new(&cuttle, &[]);
    let file = File::open(mount.path("vm/1.raw")).expect("open");
    mount.interrupt();
    let mut lines = mount.stderr().lines();
    let said = lines.find(|line| line.as_ref().is_ok_and(|l| l.contains("in use")));
    assert!(said.is_some(), "it says why it does not end");
    let mut found = vec![0; 5000];
    file.read_exact_at(&mut found, 0).expect("it still serves");
    assert!(found == content(1)[..5000]);
    drop(file);
    assert_eq!(mount.ended(), Some(0));
}

#[test]
fn what_cannot_be_mounted_on_is_said() {
    let cuttle = Cuttle::in_folder();
    let missing = cuttle.home().join("missing").display().to_string();
    assert!(cuttle.fails(1, &["mount", &missing]).contains("make the folder first"));
    let file = cuttle.home().join("key").display().to_string();
    assert!(cuttle.fails(1, &["mount", &file]).contains("not a folder"));
}
