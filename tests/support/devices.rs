//! Block devices and small file systems for tests that run as root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A loop device over a file; detached when dropped.
pub struct LoopDevice(pub PathBuf);

impl LoopDevice {
    /// `None` where this machine or user can make none.
    pub fn attach(file: &Path) -> Option<Self> {
        let out = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let path = String::from_utf8(out.stdout).ok()?;
        out.status.success().then(|| Self(PathBuf::from(path.trim())))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// A memory file system of a fixed size; unmounted when dropped.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    /// `None` where this machine or user can mount none.
    pub fn mount(folder: &Path, size_bytes: u64) -> Option<Self> {
        let size = format!("size={size_bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).stderr(Stdio::null());
        mount.status().ok()?.success().then(|| Self(folder.to_owned()))
    }

    /// Makes it larger.
    pub fn grow(&self, size_bytes: u64) {
        let size = format!("remount,size={size_bytes}");
        let status = Command::new("mount").args(["-o", &size]).arg(&self.0).status().expect("run mount");
        assert!(status.success(), "remount with {size_bytes} bytes");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
