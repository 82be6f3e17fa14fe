//! Files that are not whole yet: written under a name of their own, and given theirs in the end.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;

use super::write_error;
use crate::error::{Error, Result, io_error};

/// What is added to the name of a file that is not whole yet.
pub const PARTIAL_SUFFIX: &str = ".cuttle-partial";

/// A new file that nobody takes for a whole one. Dropped before [`PartialFile::finish`], it is removed.
#[derive(Debug)]
pub struct PartialFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
    overwrite: bool,
    finished: bool,
}

impl PartialFile {
    /// Begins an empty file. A target that exists is refused unless it may be overwritten; it stays until the end.
    pub fn create(target: &Path, overwrite: bool) -> Result<Self> {
        check_target(target, overwrite)?;
        let (file, path) = open_partial(target)?;
        file.set_len(0).map_err(|e| io_error(format!("empty {}", path.display()), e))?;
        Ok(Self { file, path, target: target.to_owned(), overwrite, finished: false })
    }

    /// Refuses what [`create`](Self::create) would; changes nothing.
    pub fn check(target: &Path, overwrite: bool) -> Result<()> {
        check_target(target, overwrite)?;
        check_folder(target)
    }

    /// The file under its temporary name, open to read and write.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes the content durable and gives the file its name.
    pub fn finish(&mut self) -> Result<()> {
        let doing = format!("write {} to its disk", self.path.display());
        self.file.sync_all().map_err(|e| write_error(&doing, e))?;
        if self.overwrite {
            let doing = format!("rename {} to {}", self.path.display(), self.target.display());
            std::fs::rename(&self.path, &self.target).map_err(|e| io_error(doing, e))?;
            self.finished = true;
            return sync_folder(&self.target);
        }
        rename_new(&self.path, &self.target)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.finished {
            // It is of no use to anybody; where it stays, the next run begins it anew.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Refuses a name that is taken.
fn check_target(target: &Path, overwrite: bool) -> Result<()> {
    match target.symlink_metadata() {
        Ok(metadata) if !metadata.is_file() => {
            Err(Error::invalid(format!("{} is no file: expected a file or a new name", target.display())))
        }
        Ok(_) if !overwrite => Err(Error::conflict(format!("file {} exists already", target.display()))
            .help("Name another target, or add --overwrite to replace this one when all is written.")),
        _ => Ok(()),
    }
}

/// Refuses a target whose folder is not there, or may not be written to: a file gets its name in it.
pub(crate) fn check_folder(target: &Path) -> Result<()> {
    let partial = partial_path(target)?;
    let doing = || format!("make {}", partial.display());
    let folder = partial.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let may = rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK);
    may.map_err(|e| io_error(doing(), e.into()))
}

/// A volume holds what only its owner may read, whatever it was read from. Whoever wants more says so with chmod.
const IMAGE_MODE: u32 = 0o600;

/// Makes or opens the partial file of a target and keeps others out of it.
pub(super) fn open_partial(target: &Path) -> Result<(File, PathBuf)> {
    let path = partial_path(target)?;
    let open = |options: &mut OpenOptions| {
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        options.read(true).write(true).mode(IMAGE_MODE).custom_flags(flags.bits() as i32).open(&path)
    };
    let file = match open(OpenOptions::new().create_new(true)) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => open(&mut OpenOptions::new()),
        other => other,
    };
    let doing = format!("make {}", path.display());
    let file = file.map_err(|e| write_error(&doing, e))?;
    lock(&file, &path)?;
    if !file.metadata().map_err(|e| io_error(&doing, e))?.is_file() {
        return Err(Error::invalid(format!("{} is no regular file: expected one", path.display()))
            .help("Move it away and run the command again."));
    }
    Ok((file, path))
}

pub(super) fn partial_path(target: &Path) -> Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| {
        Error::invalid(format!("{}: expected the name of a file to restore to", target.display()))
    })?;
    let mut partial = OsString::from(name);
    partial.push(PARTIAL_SUFFIX);
    Ok(target.with_file_name(partial))
}

/// Keeps a second restore out for as long as the file is open. Where there are no locks, none is taken.
pub(super) fn lock(file: &File, path: &Path) -> Result<()> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            Err(Error::conflict(format!("{} is in use by another restore", path.display()))
                .help("Wait for it to end, or name another target."))
        }
        _ => Ok(()),
    }
}

/// Gives the whole file its name, unless somebody took that meanwhile, and makes that durable.
pub(super) fn rename_new(partial: &Path, target: &Path) -> Result<()> {
    let (here, doing) = (rustix::fs::CWD, format!("rename {} to {}", partial.display(), target.display()));
    match rustix::fs::renameat_with(here, partial, here, target, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // The file system has no such rename: look, then rename.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if target.symlink_metadata().is_err() => {
            std::fs::rename(partial, target).map_err(|e| io_error(doing, e))?;
        }
        Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            return Err(Error::conflict(format!("{doing}: {} appeared meanwhile", target.display()))
                .help(format!("The volume is whole, in {}: rename it yourself.", partial.display())));
        }
        Err(e) => return Err(io_error(doing, e.into())),
    }
    sync_folder(target)
}

fn sync_folder(target: &Path) -> Result<()> {
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let doing = format!("write folder {} to its disk", parent.display());
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(|e| write_error(&doing, e))
}
