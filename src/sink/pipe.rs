//! Restores to a pipe or any other writer: the raw bytes, ascending.

use std::io::{ErrorKind as Io, Write};
use std::sync::{Mutex, PoisonError};

use super::{Existing, Order, Sink, ZEROS, check_range, write_error};
use crate::error::{Error, Result};

/// Writes a volume's bytes in order, zeros too.
pub struct PipeSink<W> {
    size_bytes: u64,
    state: Mutex<State<W>>,
}

struct State<W> {
    out: W,
    written_bytes: u64,
}

impl<W: Write + Send> PipeSink<W> {
    /// A volume of this size; what is written must come to just that.
    pub fn new(out: W, size_bytes: u64) -> Self {
        Self { size_bytes, state: Mutex::new(State { out, written_bytes: 0 }) }
    }

    /// Gives the writer back.
    pub fn into_inner(self) -> W {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).out
    }

    fn append(&self, offset_bytes: u64, length_bytes: u64, data: Option<&[u8]>) -> Result<()> {
        check_range(offset_bytes, length_bytes, self.size_bytes)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if offset_bytes != state.written_bytes {
            let written = state.written_bytes;
            return Err(Error::internal(format!(
                "a write at offset {offset_bytes}: expected it at {written}"
            )));
        }
        let mut left = length_bytes;
        while left > 0 {
            let piece = data.unwrap_or(&ZEROS[..left.min(ZEROS.len() as u64) as usize]);
            state.out.write_all(piece).map_err(|e| self.failed(state.written_bytes, e))?;
            state.written_bytes += piece.len() as u64;
            left -= piece.len() as u64;
        }
        Ok(())
    }

    fn failed(&self, written_bytes: u64, e: std::io::Error) -> Error {
        let size = self.size_bytes;
        if e.kind() == Io::BrokenPipe {
            return Error::unavailable(format!(
                "the reader of the output stopped after {written_bytes} of {size} bytes"
            ))
            .help("Look at the messages and the exit code of the command that reads it.")
            .caused_by(e);
        }
        write_error(&format!("write to the output after {written_bytes} of {size} bytes"), e)
    }
}

impl<W: Write + Send> Sink for PipeSink<W> {
    fn order(&self) -> Order {
        Order::Ascending
    }

    fn existing(&self) -> Existing {
        Existing::Nothing
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.append(offset_bytes, data.len() as u64, Some(data))
    }

    fn zero_at(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.append(offset_bytes, length_bytes, None)
    }

    fn finish(&self) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.written_bytes != self.size_bytes {
            let (written, size) = (state.written_bytes, self.size_bytes);
            return Err(Error::internal(format!("{written} bytes were written: expected {size}")));
        }
        let written = state.written_bytes;
        state.out.flush().map_err(|e| self.failed(written, e))
    }
}
