//! Restores to a raw file or a block device.
//!
//! A new file is written under the name `TARGET.cuttle-partial` and gets its own name when it is whole, so that no
//! half restored file is ever taken for a volume. A partial file that is there already is gone on with.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

pub use super::partial::PARTIAL_SUFFIX;
use super::partial::{lock, open_partial, partial_path, rename_new};
use super::{Existing, Order, Sink, WRITES_INFLIGHT_DEFAULT, ZEROS, check_range, full};
use crate::error::{Error, Result, io_error};
use crate::source::ReadAt;
use crate::source::file_reader::FileReader;

/// A device is asked to zero ranges in multiples of this, the largest sector size in use.
const DEVICE_ALIGN_BYTES: u64 = 4096;

/// File systems let one write at a time into a file; threads that wait for their turn spin, and decode nothing.
const FILE_WRITES_INFLIGHT: usize = 1;

/// A file or block device that takes a volume.
pub struct RawFileSink {
    file: Arc<File>,
    /// The name that is written to.
    path: PathBuf,
    /// The name that a new file gets in the end.
    rename_to: Option<PathBuf>,
    size_bytes: u64,
    blank: bool,
    zero_align_bytes: u64,
    writes_inflight: usize,
    /// Whether the file system or device can zero a range without being written to, as far as was seen.
    can_zero: AtomicBool,
}

impl RawFileSink {
    /// Opens a target for a volume of a size.
    ///
    /// A file or device that exists is written in place, and only with `overwrite`; a file is cut or grown to the
    /// size at once, a device must be at least as large, and what it has beyond is left alone.
    pub fn open(target: &Path, size_bytes: u64, overwrite: bool) -> Result<Self> {
        match std::fs::metadata(target) {
            Ok(metadata) => Self::open_existing(target, &metadata, size_bytes, overwrite),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                check_free(target)?;
                Self::open_partial(target, size_bytes)
            }
            Err(e) => Err(io_error(format!("find {}", target.display()), e)),
        }
    }

    /// What [`RawFileSink::open`] would find, or why it would refuse; changes nothing. What is read may be shorter or
    /// longer than the volume.
    pub fn preview(target: &Path, size_bytes: u64, overwrite: bool) -> Result<Existing> {
        let (path, exists) = match std::fs::metadata(target) {
            Ok(metadata) => {
                check_existing(target, &metadata, size_bytes, overwrite)?;
                (target.to_owned(), true)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                check_free(target)?;
                (partial_path(target)?, false)
            }
            Err(e) => return Err(io_error(format!("find {}", target.display()), e)),
        };
        let mut file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !exists => return Ok(Existing::Blank),
            other => other.map_err(|e| io_error(format!("open {}", path.display()), e))?,
        };
        let size_bytes = file
            .seek(SeekFrom::End(0))
            .map_err(|e| io_error(format!("find the size of {}", path.display()), e))?;
        Ok(Existing::Content(Arc::new(FileReader { file: Arc::new(file), path, size_bytes })))
    }

    fn open_partial(target: &Path, size_bytes: u64) -> Result<Self> {
        let (file, path) = open_partial(target)?;
        let doing = format!("make {}", path.display());
        let metadata = file.metadata().map_err(|e| io_error(&doing, e))?;
        let sink = Self::new(file, path, size_bytes, metadata.len() == 0);
        sink.set_size()?;
        Ok(Self { rename_to: Some(target.to_owned()), ..sink })
    }

    fn open_existing(target: &Path, metadata: &Metadata, size_bytes: u64, overwrite: bool) -> Result<Self> {
        let shown = target.display();
        let device = check_existing(target, metadata, size_bytes, overwrite)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if device {
            // Refused by the kernel while the device is mounted, part of something else, or open for another restore.
            options.custom_flags(OFlags::EXCL.bits() as i32);
        }
        let mut file = options.open(target).map_err(|e| match Errno::from_io_error(&e) {
            Some(Errno::BUSY) => Error::conflict(format!(
                "{shown} is in use: it is mounted, part of another device, or another restore writes to it"
            ))
            .help("Unmount it, or name another target.")
            .caused_by(e),
            _ => io_error(format!("open {shown} to write"), e),
        })?;
        if !device {
            lock(&file, target)?;
            let sink = Self::new(file, target.to_owned(), size_bytes, metadata.len() == 0);
            return sink.set_size().map(|()| sink);
        }
        let found =
            file.seek(SeekFrom::End(0)).map_err(|e| io_error(format!("find the size of {shown}"), e))?;
        if found < size_bytes {
            return Err(Error::invalid(format!(
                "block device {shown} has {found} bytes: expected at least {size_bytes}, the volume's size"
            ))
            .help("Grow the device or name a larger one."));
        }
        let sink = Self::new(file, target.to_owned(), size_bytes, false);
        let writes_inflight = WRITES_INFLIGHT_DEFAULT;
        Ok(Self { zero_align_bytes: DEVICE_ALIGN_BYTES, writes_inflight, ..sink })
    }

    fn new(file: File, path: PathBuf, size_bytes: u64, blank: bool) -> Self {
        Self {
            file: Arc::new(file),
            path,
            rename_to: None,
            size_bytes,
            blank,
            zero_align_bytes: 1,
            writes_inflight: FILE_WRITES_INFLIGHT,
            can_zero: AtomicBool::new(true),
        }
    }

    fn sync(&self) -> Result<()> {
        let doing = format!("write {} to its disk", self.path.display());
        self.file.sync_all().map_err(|e| write_error(&doing, e))
    }

    fn set_size(&self) -> Result<()> {
        let doing = format!("give {} a size of {} bytes", self.path.display(), self.size_bytes);
        self.file.set_len(self.size_bytes).map_err(|e| write_error(&doing, e))
    }

    fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.file.write_all_at(data, offset_bytes).map_err(|e| {
            let path = self.path.display();
            write_error(&format!("write {} bytes at offset {offset_bytes} of {path}", data.len()), e)
        })
    }

    fn write_zeros(&self, mut offset_bytes: u64, end: u64) -> Result<()> {
        while offset_bytes < end {
            let len = (end - offset_bytes).min(ZEROS.len() as u64);
            self.write(offset_bytes, &ZEROS[..len as usize])?;
            offset_bytes += len;
        }
        Ok(())
    }

    /// Zeroes a range by the file system's or the device's own means; false where it has none.
    fn zero_unwritten(&self, offset_bytes: u64, length_bytes: u64) -> Result<bool> {
        for how in [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE] {
            if !self.can_zero.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let flags = how | FallocateFlags::KEEP_SIZE;
            loop {
                match rustix::fs::fallocate(&*self.file, flags, offset_bytes, length_bytes) {
                    Ok(()) => return Ok(true),
                    Err(Errno::INTR) => {}
                    // Kinds of file systems and devices say in many ways that they cannot; writing settles it.
                    Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::NODEV | Errno::PERM) => break,
                    Err(e) => {
                        let path = self.path.display();
                        let doing = format!("zero {length_bytes} bytes at offset {offset_bytes} of {path}");
                        return Err(write_error(&doing, e.into()));
                    }
                }
            }
        }
        self.can_zero.store(false, Ordering::Relaxed);
        Ok(false)
    }
}

impl Sink for RawFileSink {
    fn order(&self) -> Order {
        Order::Any
    }

    fn writes_inflight(&self) -> usize {
        self.writes_inflight
    }

    fn existing(&self) -> Existing {
        if self.blank {
            return Existing::Blank;
        }
        let (file, path) = (self.file.clone(), self.path.clone());
        Existing::Content(Arc::new(FileReader { file, path, size_bytes: self.size_bytes }))
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        check_range(offset_bytes, data.len() as u64, self.size_bytes)?;
        self.write(offset_bytes, data)
    }

    fn zero_at(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        check_range(offset_bytes, length_bytes, self.size_bytes)?;
        let end = offset_bytes + length_bytes;
        let align = self.zero_align_bytes;
        let inner_start = offset_bytes.next_multiple_of(align).min(end);
        let inner_end = (end - end % align).max(inner_start);
        self.write_zeros(offset_bytes, inner_start)?;
        if inner_end > inner_start && !self.zero_unwritten(inner_start, inner_end - inner_start)? {
            self.write_zeros(inner_start, inner_end)?;
        }
        self.write_zeros(inner_end, end)
    }

    fn read_back(&self) -> Result<Arc<dyn ReadAt>> {
        self.sync()?;
        // Else it is memory that is read. That it could not be dropped is no reason to read nothing.
        let _ = rustix::fs::fadvise(&*self.file, 0, None, rustix::fs::Advice::DontNeed);
        let (file, path) = (self.file.clone(), self.path.clone());
        Ok(Arc::new(FileReader { file, path, size_bytes: self.size_bytes }))
    }

    fn finish(&self) -> Result<()> {
        self.sync()?;
        match &self.rename_to {
            Some(target) => rename_new(&self.path, target),
            None => Ok(()),
        }
    }
}

/// Refuses a name that a link has which leads nowhere. The whole file could not get it in the end.
fn check_free(target: &Path) -> Result<()> {
    match std::fs::read_link(target) {
        Ok(to) => Err(Error::invalid(format!(
            "{} is a link to {}, and there is nothing: expected a file, a block device or a new name",
            target.display(),
            to.display()
        ))
        .help("Name what it should lead to as the target, or remove the link.")),
        Err(_) => Ok(()),
    }
}

/// Refuses what cannot be or may not be written to. Whether it is a device.
fn check_existing(target: &Path, metadata: &Metadata, size_bytes: u64, overwrite: bool) -> Result<bool> {
    let shown = target.display();
    let device = metadata.file_type().is_block_device();
    if !metadata.is_file() && !device {
        let what = if metadata.is_dir() { "a directory" } else { "no file or block device" };
        return Err(Error::invalid(format!(
            "{shown} is {what}: expected a file, a block device or a new name"
        )));
    }
    if !overwrite {
        let what = if device { "block device" } else { "file" };
        return Err(Error::conflict(format!(
            "{what} {shown} exists already, and {size_bytes} bytes would go into it"
        ))
        .help("Name another target, or add --overwrite to write into this one in place."));
    }
    Ok(device)
}

/// An error of writing, with what to do where the target is full.
fn write_error(doing: &str, e: std::io::Error) -> Error {
    match Errno::from_io_error(&e) {
        Some(Errno::FBIG) => Error::unsupported(format!("{doing}: its file system takes no file that large"))
            .help("Restore to another file system or to a block device.")
            .caused_by(e),
        Some(errno) if full(errno).is_some() => super::write_error(doing, e).help(
            "Free some space and run the same command again: what was written is kept and not fetched again.",
        ),
        _ => super::write_error(doing, e),
    }
}
