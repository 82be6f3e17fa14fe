//! Whether a local directory's file system has hard links: with them a file gets its name only where there is none.
//! exFAT, FAT and many FUSE file systems have none.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// Tries it in a folder of its own below `dir`.
pub(super) fn has_links(dir: &Path) -> io::Result<bool> {
    let folder = tempfile::Builder::new().prefix(".cuttle-probe-").tempdir_in(dir)?;
    let file = folder.path().join("a");
    fs::write(&file, b"probe")?;
    let linked = fs::hard_link(&file, folder.path().join("b"));
    folder.close()?;
    match linked {
        Ok(()) => Ok(true),
        // Permissions are not it: the file could be made. FAT says EPERM, FUSE mostly ENOSYS or EPERM.
        Err(e)
            if matches!(
                Errno::from_io_error(&e),
                Some(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::MLINK)
            ) =>
        {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::has_links;

    #[test]
    fn nothing_is_left() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(has_links(dir.path()).expect("probe"));
        assert_eq!(dir.path().read_dir().expect("read").count(), 0);
        assert!(has_links(&dir.path().join("absent")).is_err());
    }
}
