//! A reader that knows where in the stream it is.

use std::fmt::Display;
use std::io::{BufRead, BufReader, ErrorKind as Io, Read};

use super::name::Text;
use crate::error::{Error, Result, io_error};

/// Enough for many small records per system call; larger reads of data bypass it.
const BUFFER_BYTES: usize = 64 << 10;

pub(super) struct Input<R> {
    read: BufReader<R>,
    offset_bytes: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(read: R) -> Self {
        Self { read: BufReader::with_capacity(BUFFER_BYTES, read), offset_bytes: 0 }
    }

    /// How many bytes were read so far.
    pub(super) fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// Reads at least one byte, or says that the stream ended where `what` was due.
    pub(super) fn read_some(&mut self, buf: &mut [u8], what: impl Display) -> Result<usize> {
        loop {
            match self.read.read(buf) {
                Ok(0) if !buf.is_empty() => return Err(self.ended(what)),
                Ok(n) => {
                    self.offset_bytes += n as u64;
                    return Ok(n);
                }
                Err(e) if e.kind() == Io::Interrupted => {}
                Err(e) => return Err(self.failed(e)),
            }
        }
    }

    pub(super) fn fill(&mut self, buf: &mut [u8], what: &str) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            done += self.read_some(&mut buf[done..], what)?;
        }
        Ok(())
    }

    pub(super) fn u8(&mut self, what: &str) -> Result<u8> {
        let mut bytes = [0];
        self.fill(&mut bytes, what).map(|()| bytes[0])
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes, what).map(|()| u32::from_le_bytes(bytes))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes, what).map(|()| u64::from_le_bytes(bytes))
    }

    /// A length and that many bytes. Nothing is allocated before the length is found within its limit.
    pub(super) fn string(&mut self, text: Text) -> Result<String> {
        let at = self.offset_bytes;
        let (what, len) = (text.what(), self.u32(text.what())?);
        if len > text.len_max() {
            return Err(corrupt(at, format!("{what} of {len} bytes: expected at most {}", text.len_max())));
        }
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes, what)?;
        text.decode(bytes).map_err(|e| corrupt(at, e))
    }

    pub(super) fn require(&mut self, banner: &[u8], what: &str) -> Result<()> {
        let at = self.offset_bytes;
        let mut found = vec![0; banner.len()];
        self.fill(&mut found, what)?;
        if found == banner {
            return Ok(());
        }
        let (banner, found) = (banner.escape_ascii(), found.escape_ascii());
        Err(corrupt(at, format!("{what}: expected \"{banner}\", found \"{found}\"")))
    }

    /// Whether nothing follows. Waits for the writer to close a pipe.
    pub(super) fn at_end(&mut self) -> Result<bool> {
        loop {
            match self.read.fill_buf() {
                Ok(rest) => return Ok(rest.is_empty()),
                Err(e) if e.kind() == Io::Interrupted => {}
                Err(e) => return Err(self.failed(e)),
            }
        }
    }

    fn failed(&self, e: std::io::Error) -> Error {
        io_error(format!("read the stream at byte {}", self.offset_bytes), e)
    }

    fn ended(&self, what: impl Display) -> Error {
        corrupt(self.offset_bytes, format!("the stream ends where {what} was expected")).help(
            "The command that writes the stream stopped early: look at its messages and exit code, and run both again.",
        )
    }
}

/// What every refusal of a stream looks like: where, what was found and what was expected.
pub(super) fn corrupt(offset_bytes: u64, what: impl Display) -> Error {
    Error::corrupt(format!("at byte {offset_bytes} of the stream: {what}"))
}
