//! Who is not root mounts with `fusermount3`, reads, and unmounts; nobody else may read, root neither.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::bench::{Mount, can_mount};
use crate::support::program::Cuttle;

/// `nobody`, everywhere.
const NOBODY: u32 = 65534;
const AS_NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// A folder with all in it becomes nobody's.
fn give(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).expect("given away");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            give(&entry.expect("an entry").path());
        }
    }
}

#[test]
fn who_is_not_root_mounts_too() {
    if !can_mount() {
        return;
    }
    for program in ["setpriv", "fusermount3"] {
        if Command::new(program).arg("--version").output().is_err() {
            return crate::support::skip(&format!("{program} is not installed"));
        }
    }
    let cuttle = Cuttle::in_folder();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let disk = cuttle.home().join("disk");
    cuttle.backup_of("vm", &content);
    // Where the program was built nobody may not look.
    let program = cuttle.home().join("cuttle");
    fs::copy(env!("CARGO_BIN_EXE_cuttle"), &program).expect("copied");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    give(cuttle.home());
    let folder = tempfile::tempdir().expect("a folder");
    give(folder.path());
    // With the device as udev makes it, which containers do not have: in a view of the file systems of its own.
    let device = cuttle.home().join("fuse");
    let place = "mknod -m 666 \"$0\" c 10 229 && mount --bind \"$0\" /dev/fuse && exec setpriv \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", place]).arg(&device).args(AS_NOBODY).arg(&program);
    command.arg("--json").arg("mount").arg(folder.path()).env_clear().envs(cuttle.variables());
    let mount = Mount::begin(command, folder);

    let file = mount.path("vm/latest.raw");
    let view = mount.id().to_string();
    let read = |as_whom: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["-t", &view, "-m", "setpriv"]).args(as_whom).arg("cmp").arg(&file).arg(&disk);
        command.output().expect("run nsenter").status.success()
    };
    assert!(read(&AS_NOBODY), "who mounted it reads it");
    assert!(!read(&[]), "root does not");
    mount.interrupt();
    assert_eq!(mount.ended(), Some(0));
}
