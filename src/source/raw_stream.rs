//! Raw bytes that arrive once, and whose number shows only at their end.

use std::io::{ErrorKind as Io, Read};

use super::{Content, Extent, StreamEvent, StreamHeader, StreamSource};
use crate::diff::Limits;
use crate::error::{Error, Result, io_error};
use crate::volume::ImageLayout;

/// Length of the extents that raw bytes are cut into, as it must be known before the data; a quarter of a usual chunk.
const EXTENT_BYTES: usize = 1 << 20;

pub(super) struct RawStream<R> {
    read: R,
    limits: Limits,
    header: StreamHeader,
    /// The current extent; what is left of it begins at `taken`.
    extent: Vec<u8>,
    taken: usize,
    size_bytes: u64,
}

impl<R: Read + Send> RawStream<R> {
    pub(super) fn new(read: R, limits: Limits) -> Self {
        let header = StreamHeader {
            from: None,
            to: None,
            size_bytes: None,
            layout: ImageLayout::default(),
            has_end: false,
            states: 1,
        };
        Self { read, limits, header, extent: Vec::new(), taken: 0, size_bytes: 0 }
    }

    fn fill(&mut self) -> Result<()> {
        self.extent.resize(EXTENT_BYTES, 0);
        self.taken = 0;
        let mut filled = 0;
        while filled < EXTENT_BYTES {
            match self.read.read(&mut self.extent[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == Io::Interrupted => {}
                Err(e) => {
                    let at = self.size_bytes + filled as u64;
                    return Err(io_error(format!("read the stream at byte {at}"), e));
                }
            }
        }
        self.extent.truncate(filled);
        Ok(())
    }
}

impl<R: Read + Send> StreamSource for RawStream<R> {
    fn header(&self) -> &StreamHeader {
        &self.header
    }

    fn next_event(&mut self) -> Result<Option<StreamEvent>> {
        if self.taken < self.extent.len() {
            return Err(Error::internal("a stream was read on before its data"));
        }
        self.fill()?;
        let (offset_bytes, length_bytes) = (self.size_bytes, self.extent.len() as u64);
        self.size_bytes += length_bytes;
        if self.size_bytes > self.limits.size_bytes_max {
            return Err(Error::invalid(format!(
                "the stream is longer than {} bytes, which is the most that a volume may have",
                self.limits.size_bytes_max
            )));
        }
        let extent = Extent { offset_bytes, length_bytes, content: Content::Data };
        Ok((length_bytes > 0).then_some(StreamEvent::Extent(extent)))
    }

    fn read_data(&mut self, buf: &mut [u8]) -> Result<usize> {
        let left = &self.extent[self.taken..];
        let n = left.len().min(buf.len());
        buf[..n].copy_from_slice(&left[..n]);
        self.taken += n;
        Ok(n)
    }

    fn final_size_bytes(&self) -> u64 {
        self.size_bytes
    }
}
