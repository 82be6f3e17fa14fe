//! Where an export goes: a file that gets its name when it is whole, or a pipe.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use crate::error::Result;
use crate::sink::partial::PartialFile;
use crate::sink::write_error;

/// Enough to join the small records of a stream; what is larger goes past it.
const BUFFER_BYTES: usize = 256 << 10;

/// Where an export goes.
pub enum Output {
    /// A file, new unless it may be replaced.
    File {
        /// Where the file gets its name once it is whole.
        path: PathBuf,
        /// Whether a file that is there may be replaced.
        overwrite: bool,
    },
    /// Standard output, or anything else that is written once, front to back.
    Pipe(Box<dyn Write + Send>),
}

impl Output {
    /// Refuses what cannot be begun; changes nothing.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::File { path, overwrite } => PartialFile::check(path, *overwrite),
            Self::Pipe(_) => Ok(()),
        }
    }
}

/// A stream on its way to an [`Output`].
pub(super) struct Stream {
    write: BufWriter<Box<dyn Write + Send>>,
    file: Option<PartialFile>,
}

impl Stream {
    pub(super) fn open(output: Output) -> Result<Self> {
        let (write, file): (Box<dyn Write + Send>, _) = match output {
            Output::Pipe(write) => (write, None),
            Output::File { path, overwrite } => {
                let file = PartialFile::create(&path, overwrite)?;
                (Box::new(clone(file.file())?), Some(file))
            }
        };
        Ok(Self { write: BufWriter::with_capacity(BUFFER_BYTES, write), file })
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.write.flush().map_err(|e| write_error("write the end of the export", e))?;
        self.file.as_mut().map_or(Ok(()), PartialFile::finish)
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write.flush()
    }
}

fn clone(file: &File) -> Result<File> {
    file.try_clone().map_err(|e| write_error("open the export a second time", e))
}
