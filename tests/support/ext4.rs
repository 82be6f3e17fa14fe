//! A real ext4 file system whose blocks are carried over to an image as a guest's disk would write them.

#[path = "../../xtask/src/disk.rs"]
mod blocks;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::ceph::Ceph;

/// An ext4 file system in a sparse file.
pub struct Ext4 {
    dir: TempDir,
    /// What was carried over last.
    carried: Vec<u8>,
}

impl Ext4 {
    /// Makes one; where the kernel will not mount it, the test is skipped.
    pub fn new(size_bytes: u64) -> Option<Self> {
        let this = Self { dir: tempfile::tempdir().expect("a temporary folder"), carried: Vec::new() };
        fs::create_dir(this.mounted()).expect("make a mount point");
        File::create(this.file()).and_then(|f| f.set_len(size_bytes)).expect("make a sparse file");
        run("mkfs.ext4", &["-q", "-F", &this.name()]);
        let mount = Command::new("mount").args(["-o", "loop", &this.name()]).arg(this.mounted()).output();
        match mount {
            Ok(output) if output.status.success() => run("umount", &[&path(&this.mounted())]),
            other => {
                super::skip(&format!("a loop mount is not possible here, it needs root: {other:?}"));
                return None;
            }
        }
        Some(this)
    }

    /// Changes files, at the given mount point.
    pub fn change(&self, work: impl FnOnce(&Path)) {
        let mounted = Mounted::new(self);
        work(&mounted.0);
    }

    /// Tells the disk of all free space, as `fstrim` in a guest does.
    pub fn trim(&self) {
        self.change(|root| run("fstrim", &[&path(root)]));
    }

    /// Grows or shrinks the file system and its disk.
    pub fn resize(&self, size_bytes: u64) {
        let set_len = || {
            let file = File::options().write(true).open(self.file()).expect("open the disk");
            file.set_len(size_bytes).expect("resize the disk");
        };
        if size_bytes > fs::metadata(self.file()).expect("look at the disk").len() {
            set_len();
        }
        run("e2fsck", &["-f", "-y", &self.name()]);
        run("resize2fs", &[&self.name(), &format!("{}K", size_bytes / 1024)]);
        set_len();
    }

    /// Writes to the image what was written to the disk since the last time, and discards what was trimmed. The image
    /// gets the disk's size.
    pub fn carry_over(&mut self, ceph: &Ceph, image: &str) {
        let now = fs::read(self.file()).expect("read the disk");
        let stream = blocks::diff_v1(&self.carried, &now);
        ceph.rbd_with(&["import-diff", "--no-progress", "-", image], &stream);
        self.carried = now;
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn mounted(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn name(&self) -> String {
        path(&self.file())
    }
}

/// Checks that bytes are an ext4 file system without a fault.
pub fn check(bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), bytes).expect("write a temporary file");
    run("e2fsck", &["-f", "-n", &path(file.path())]);
}

/// Attempts to unmount.
const UNMOUNTS_MAX: usize = 100;

/// Unmounts at the end, also that of a test that fails.
struct Mounted(PathBuf);

impl Mounted {
    fn new(disk: &Ext4) -> Self {
        run("mount", &["-o", "loop", &disk.name(), &path(&disk.mounted())]);
        Self(disk.mounted())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Whoever looks at new file systems, as desktops and monitors do, keeps one busy for a moment.
        for _ in 0..UNMOUNTS_MAX {
            if Command::new("umount").arg(&self.0).status().is_ok_and(|status| status.success()) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("start {program}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", args.join(" "));
}
