//! Reads an open file at any offset, for sources and for what a sink's target holds.

use std::fs::File;
use std::io::ErrorKind as Io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::ReadAt;
use crate::error::{Error, Result, io_error};

/// An open file or block device; read by `pread`, so from any thread.
pub(crate) struct FileReader {
    pub(crate) file: Arc<File>,
    pub(crate) path: PathBuf,
    /// The size when it was opened; nothing beyond is read.
    pub(crate) size_bytes: u64,
}

impl ReadAt for FileReader {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<()> {
        let (len, path) = (buf.len(), self.path.display());
        let doing = || format!("read {len} bytes at offset {offset_bytes} of {path}");
        if offset_bytes.checked_add(len as u64).is_none_or(|end| end > self.size_bytes) {
            return Err(Error::invalid(format!("{}: expected them within {}", doing(), self.size_bytes)));
        }
        self.file.read_exact_at(buf, offset_bytes).map_err(|e| match e.kind() {
            Io::UnexpectedEof => Error::conflict(format!(
                "{}: it became shorter than the {} bytes that it had when it was opened",
                doing(),
                self.size_bytes
            )),
            _ => io_error(doing(), e),
        })
    }
}
