//! Snapshots as files of a FUSE mount: `VOLUME/SEQUENCE.raw` and `VOLUME/latest.raw`.
//!
//! | file | what it is |
//! |---|---|
//! | `tree.rs` | volume names as folders, pure |
//! | `current.rs` | which snapshots there are now |
//! | `content.rs` | a file's bytes and holes |
//! | `filesystem.rs` | answers to the kernel |

mod content;
pub mod current;
mod filesystem;
mod tree;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::mount::{UnmountFlags, unmount};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::cancel::Cancel;
use crate::error::{Error, Result, io_error};
use current::Current;
use filesystem::{Owner, SnapshotFiles};

/// How often it is tried to unmount what is still in use.
const UNMOUNT_RETRY: Duration = Duration::from_secs(1);

/// Where and for whom.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// A folder that exists.
    pub mountpoint: PathBuf,
    /// Whether other users may read, and not only who mounts. For others than root, `/etc/fuse.conf` has to allow it.
    pub allow_other: bool,
}

/// What a mount tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The files are there.
    Mounted,
    /// It was to end, but is in use; it ends when it is not.
    Busy,
}

/// Mounts a project's snapshots and answers until it is unmounted, by whomever, or `cancel` unmounts it.
pub async fn run(
    current: Current,
    options: &MountOptions,
    mut tell: impl FnMut(Event) -> Result<()>,
    mut cancel: Cancel,
) -> Result<()> {
    let mountpoint = checked(&options.mountpoint)?;
    // Before it is mounted: what is wrong with the repository is said here, not by each file.
    current.volumes().await?;
    let mut session = start(current, &mountpoint, options.allow_other).await?;
    tell(Event::Mounted)?;
    let mut is_told = false;
    tokio::select! {
        ended = &mut session => return over(ended),
        () = cancel.cancelled() => {}
    }
    while !is_unmounted(&mountpoint).await {
        if !is_told {
            tell(Event::Busy)?;
            is_told = true;
        }
        tokio::select! {
            ended = &mut session => return over(ended),
            () = tokio::time::sleep(UNMOUNT_RETRY) => {}
        }
    }
    over(session.await)
}

fn checked(mountpoint: &Path) -> Result<PathBuf> {
    let doing = || format!("mount on {}", mountpoint.display());
    let found = mountpoint.canonicalize().map_err(|e| {
        io_error(doing(), e).help("make the folder first; after a crash, `fusermount3 -u` frees it")
    })?;
    match found.is_dir() {
        true => Ok(found),
        false => Err(Error::invalid(format!("{}: it is not a folder", doing()))),
    }
}

type Running = JoinHandle<io::Result<()>>;

async fn start(current: Current, mountpoint: &Path, allow_other: bool) -> Result<Running> {
    let started_unix_ms = current.project().repository().environment.clock.now_unix_ms();
    let started = UNIX_EPOCH + Duration::from_millis(started_unix_ms);
    let owner = Owner {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        is_open: allow_other,
    };
    let name = format!("cuttle:{}", current.project().name());
    let files = SnapshotFiles::new(current, owner, started, Handle::current());
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
        MountOption::DefaultPermissions,
        MountOption::FSName(name),
        MountOption::Subtype("cuttle".to_owned()),
    ];
    config.acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
    let at = mountpoint.to_owned();
    let mounted = spawn_blocking(move || Session::new(files, &at, &config)).await;
    let session = mounted
        .map_err(|e| Error::internal("the mount ended without an answer").caused_by(e))?
        .map_err(|e| refused(mountpoint, e))?;
    Ok(spawn_blocking(move || session.run()))
}

fn refused(mountpoint: &Path, error: io::Error) -> Error {
    Error::unsupported(format!("mount on {}: {error}", mountpoint.display()))
        .help("it needs /dev/fuse (modprobe fuse); others than root need to be allowed to open it, and fusermount3 (package fuse3)")
        .caused_by(error)
}

fn over(ended: std::result::Result<io::Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended
        .map_err(|e| Error::internal("the mount ended in a defect").caused_by(e))?
        .map_err(|e| io_error("answer the kernel", e))
}

/// Unmounts; false where it is in use.
async fn is_unmounted(mountpoint: &Path) -> bool {
    let at = mountpoint.to_owned();
    let done = spawn_blocking(move || match unmount(&at, UnmountFlags::NOFOLLOW) {
        Ok(()) => true,
        // Others than root have to ask the program that mounted it.
        Err(rustix::io::Errno::PERM) => {
            let asked = Command::new("fusermount3").arg("-u").arg("-q").arg("--").arg(&at).status();
            asked.is_ok_and(|status| status.success())
        }
        Err(_) => false,
    });
    done.await.unwrap_or(false)
}
