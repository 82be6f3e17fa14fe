//! A raw file or a block device as a volume.
//!
//! Nothing holds it still while it is read. For a regular file [`Frozen::check`] finds out whether it changed; for a
//! block device nothing can, so it must be a snapshot, or unused.

use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{SeekFrom as SparseSeek, seek};
use rustix::io::Errno;

use super::file_reader::FileReader;
use super::{Changes, Content, Extent, FreezeRequest, Frozen, ReadAt, Volume};
use crate::error::{Error, Result, io_error};
use crate::volume::{Identity, ImageLayout, SnapshotPoint};

/// Holes shorter than this are read as data: finding and planning around them costs more than reading zeros.
const HOLE_BYTES_MIN: u64 = 64 << 10;
/// Most data extents that are listed of one file (24 MiB of memory); what follows is one more.
const EXTENTS_MAX: usize = 1 << 20;

/// A raw file or a block device, before it is read.
#[derive(Debug)]
pub struct RawFile {
    path: PathBuf,
    kind: FileKind,
}

impl RawFile {
    /// Finds the file and checks that it is one that can be read anywhere; opens nothing yet.
    pub fn find(path: &Path) -> Result<Self> {
        let doing = || format!("find {}", path.display());
        let path = std::path::absolute(path).map_err(|e| io_error(doing(), e))?;
        let metadata = std::fs::metadata(&path).map_err(|e| io_error(doing(), e))?;
        let kind = FileKind::of(&path, &metadata)?;
        Ok(Self { path, kind })
    }
}

impl Volume for RawFile {
    fn identity(&self) -> Result<Identity> {
        match self.path.to_str() {
            Some(path) => Ok(Identity::File { path: path.to_owned() }),
            None => Err(Error::unsupported(format!("path {}: expected UTF-8", self.path.display()))),
        }
    }

    fn freeze(&self, _request: &FreezeRequest) -> Result<Box<dyn Frozen>> {
        let file =
            File::open(&self.path).map_err(|e| io_error(format!("open {}", self.path.display()), e))?;
        // Holes are looked up in the stored file: file systems have told them wrongly of data not written out yet
        // (OpenZFS issue 15526). Where this does nothing, as on a read-only file system, nothing is unwritten.
        let _ = rustix::fs::fdatasync(&file);
        let state = State::of(&file, &self.path)?;
        if state.kind != self.kind {
            return Err(changed(&self.path, "it is now a file of another kind"));
        }
        let reader =
            FileReader { file: Arc::new(file), path: self.path.clone(), size_bytes: state.size_bytes };
        Ok(Box::new(FrozenFile { reader: Arc::new(reader), state }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Regular,
    BlockDevice,
}

impl FileKind {
    fn of(path: &Path, metadata: &Metadata) -> Result<Self> {
        let file_type = metadata.file_type();
        let what = match file_type {
            t if t.is_file() => return Ok(Self::Regular),
            t if t.is_block_device() => return Ok(Self::BlockDevice),
            t if t.is_dir() => "a directory",
            t if t.is_fifo() => "a named pipe",
            t if t.is_char_device() => "a character device",
            _ => "neither file nor block device",
        };
        let error =
            Error::invalid(format!("{} is {what}: expected a file or a block device", path.display()));
        Err(if file_type.is_fifo() { error.help("Read a pipe with `-` and --volume NAME.") } else { error })
    }
}

/// What must not change while a file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    kind: FileKind,
    size_bytes: u64,
    /// Which file it is, whatever its name.
    id: FileId,
    /// Seconds and nanoseconds; not compared for a block device, whose node does not tell of its content.
    modified: Option<(i64, i64)>,
}

impl State {
    fn of(file: &File, path: &Path) -> Result<Self> {
        let doing = || format!("look at {}", path.display());
        let metadata = file.metadata().map_err(|e| io_error(doing(), e))?;
        let kind = FileKind::of(path, &metadata)?;
        let size_bytes = match kind {
            FileKind::Regular => metadata.len(),
            FileKind::BlockDevice => {
                let mut file = file;
                file.seek(SeekFrom::End(0)).map_err(|e| io_error(doing(), e))?
            }
        };
        let modified = (kind == FileKind::Regular).then(|| (metadata.mtime(), metadata.mtime_nsec()));
        Ok(Self { kind, size_bytes, id: FileId::of(&metadata), modified })
    }
}

/// Which file or device one is: device and inode number, or the number of the block device, whose node may be made
/// again at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileId {
    Inode(u64, u64),
    Device(u64),
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            Self::Device(metadata.rdev())
        } else {
            Self::Inode(metadata.dev(), metadata.ino())
        }
    }
}

struct FrozenFile {
    reader: Arc<FileReader>,
    state: State,
}

impl Frozen for FrozenFile {
    fn layout(&self) -> ImageLayout {
        ImageLayout::default()
    }

    fn point(&self) -> Option<SnapshotPoint> {
        None
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        self.reader.clone()
    }

    fn changes(&self) -> Result<Changes> {
        data_extents(&self.reader).map(Changes::All)
    }

    fn base_reader(&self) -> Option<Arc<dyn ReadAt>> {
        None
    }

    fn remarks(&self) -> Vec<String> {
        let path = self.reader.path.display();
        vec![match self.state.kind {
            FileKind::Regular => {
                format!(
                    "nothing holds {path} still while it is read; if it changes, the backup fails at the end"
                )
            }
            FileKind::BlockDevice => format!(
                "nothing holds {path} still while it is read, and changes to a device cannot be noticed: \
                 read a snapshot of it, or a device that nothing writes to"
            ),
        }]
    }

    fn check(&self) -> Result<()> {
        let path = &self.reader.path;
        let now = State::of(&self.reader.file, path)?;
        if now.size_bytes != self.state.size_bytes {
            let (before, now) = (self.state.size_bytes, now.size_bytes);
            return Err(changed(path, &format!("its size was {before} bytes and is now {now}")));
        }
        if now.modified != self.state.modified {
            return Err(changed(path, "it was written to"));
        }
        let named =
            std::fs::metadata(path).map_err(|e| io_error(format!("find {} again", path.display()), e))?;
        if FileId::of(&named) != self.state.id {
            return Err(changed(path, "another file has its name now"));
        }
        Ok(())
    }

    fn committed(&self) -> Result<()> {
        Ok(())
    }

    fn discard(&self) -> Result<()> {
        Ok(())
    }
}

fn changed(path: &Path, how: &str) -> Error {
    Error::conflict(format!("{} changed while it was read: {how}", path.display())).help(
        "Stop what writes to it (shut the virtual machine down), or back up a copy that stays as it is: a snapshot of \
         the file system or logical volume that holds it, or `cp --reflink=always`.",
    )
}

/// The parts of a file that may hold data, as its file system tells them; all of it where it does not.
fn data_extents(reader: &FileReader) -> Result<Vec<Extent>> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < reader.size_bytes {
        let found = match next_data(reader, at)? {
            // What is left is not looked into: it is read, which is always right.
            Some(_) if extents.len() >= EXTENTS_MAX => Some((at, reader.size_bytes)),
            found => found,
        };
        let Some((start, end)) = found else { break };
        at = end;
        match extents.last_mut() {
            Some(last) if start - (last.offset_bytes + last.length_bytes) < HOLE_BYTES_MIN => {
                last.length_bytes = end - last.offset_bytes;
            }
            _ => extents.push(Extent {
                offset_bytes: start,
                length_bytes: end - start,
                content: Content::Data,
            }),
        }
    }
    Ok(extents)
}

/// The first range of data at or after an offset that lies within the size; `None` where only a hole follows.
fn next_data(reader: &FileReader, at: u64) -> Result<Option<(u64, u64)>> {
    let failed = |e: Errno| io_error(format!("find the holes of {}", reader.path.display()), e.into());
    let start = match seek(&reader.file, SparseSeek::Data(at)) {
        Ok(start) => start.max(at),
        Err(Errno::NXIO) => return Ok(None),
        // The file system cannot tell.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY) => {
            return Ok(Some((at, reader.size_bytes)));
        }
        Err(e) => return Err(failed(e)),
    };
    if start >= reader.size_bytes {
        return Ok(None);
    }
    let end = match seek(&reader.file, SparseSeek::Hole(start)) {
        Ok(end) if end > start => end.min(reader.size_bytes),
        Ok(_) | Err(Errno::NXIO) => reader.size_bytes,
        Err(e) => return Err(failed(e)),
    };
    Ok(Some((start, end)))
}
