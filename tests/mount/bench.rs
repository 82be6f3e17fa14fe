//! A repository that is mounted, and images that are mounted out of it.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support;
use crate::support::program::Cuttle;
use tempfile::TempDir;

/// Whether this machine can mount; otherwise the test is skipped.
pub fn can_mount() -> bool {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    let has_fuse = std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !is_root || !has_fuse {
        support::skip("a mount needs root and /dev/fuse");
    }
    is_root && has_fuse
}

/// `cuttle mount`, under way.
pub struct Mount {
    child: Child,
    pub folder: TempDir,
}

impl Mount {
    pub fn new(cuttle: &Cuttle, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().display().to_string();
        Self::begin(cuttle.command(&[&["--json", "mount", &at][..], options].concat()), folder)
    }

    /// By a command that mounts on this folder.
    pub fn begin(mut command: Command, folder: TempDir) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .expect("start cuttle");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("read its output");
        if !line.contains("\"mounted\"") {
            let mut said = String::new();
            let _ = child.stderr.take().expect("its errors").read_to_string(&mut said);
            panic!("{line}{said}");
        }
        Self { child, folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("interrupt");
    }

    /// The next line on standard error, and all that follow.
    pub fn stderr(&mut self) -> BufReader<std::process::ChildStderr> {
        BufReader::new(self.child.stderr.take().expect("its errors"))
    }

    /// Its exit code, once it has ended by itself.
    pub fn ended(mut self) -> Option<i32> {
        let code = self.child.wait().expect("wait").code();
        assert!(std::fs::read_dir(self.folder.path()).expect("the folder").next().is_none());
        code
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            umount(self.folder.path());
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A file system in an image, mounted from a file on some folder.
pub struct LoopMount(TempDir);

impl LoopMount {
    /// `None` where loop devices are missing; the test is skipped.
    pub fn new(image: &Path, options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let output = Command::new("mount").args(["-o", options]).arg(image).arg(folder.path()).output();
        let output = output.expect("run mount");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("loop device"), "mount {}: {said}", image.display());
            support::skip("an image can only be mounted with loop devices");
            return None;
        }
        Some(Self(folder))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        umount(self.0.path());
    }
}

pub fn umount(folder: &Path) -> bool {
    // Whoever looks at new file systems, as monitors do, keeps one busy for a moment.
    (0..100).any(|attempt| {
        if attempt > 0 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Command::new("umount").arg(folder).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    })
}
