//! Streams that arrive once, on standard input or from a file: diffs and exports of `rbd`, or raw bytes.

use std::io::{Cursor, ErrorKind as Io, Read};

use super::raw_stream::RawStream;
use super::{StreamEvent, StreamHeader, StreamSource};
use crate::diff::{DiffEvent, DiffHeader, DiffReader, Limits, SNIFF_BYTES, StreamKind};
use crate::error::{Error, Result, io_error};

/// Opens a stream of any kind: recognised by its banner, and raw bytes where there is none.
///
/// Reads up to the first extent. A stream without any byte is refused: it is what a failed command leaves in a pipe.
pub fn open(read: impl Read + Send + 'static, limits: Limits) -> Result<Box<dyn StreamSource>> {
    let mut read = read;
    let start = read_start(&mut read)?;
    let kind = StreamKind::recognise(&start)?;
    let whole = Cursor::new(start).chain(read);
    match kind {
        Some(kind) => Ok(Box::new(DiffStream::open(whole, kind, limits)?)),
        None => Ok(Box::new(RawStream::new(whole, limits))),
    }
}

fn read_start(read: &mut impl Read) -> Result<Vec<u8>> {
    let mut start = Vec::with_capacity(SNIFF_BYTES);
    while start.len() < SNIFF_BYTES {
        let mut buf = [0; SNIFF_BYTES];
        match read.read(&mut buf[..SNIFF_BYTES - start.len()]) {
            Ok(0) => break,
            Ok(n) => start.extend(&buf[..n]),
            Err(e) if e.kind() == Io::Interrupted => {}
            Err(e) => return Err(io_error("read the start of the stream", e)),
        }
    }
    Ok(start)
}

/// A stream of one diff or of a full export.
struct DiffStream<R> {
    reader: DiffReader<R>,
    header: StreamHeader,
    /// The first diff's beginning, which was read for the header.
    first: Option<DiffHeader>,
    size_bytes: u64,
}

impl<R: Read + Send> DiffStream<R> {
    fn open(read: R, kind: StreamKind, limits: Limits) -> Result<Self> {
        let mut reader = DiffReader::open(read, kind, limits)?;
        let Some(DiffEvent::Begin(first)) = reader.next_event()? else {
            return Err(Error::internal("a stream that does not begin with a diff"));
        };
        let header = StreamHeader {
            from: first.from.clone(),
            to: first.to.clone().filter(|_| kind != StreamKind::ImageV2),
            size_bytes: (reader.diff_count() == 1).then_some(first.size_bytes),
            layout: reader.layout().clone(),
            has_end: true,
            states: reader.diff_count(),
        };
        Ok(Self { reader, header, size_bytes: first.size_bytes, first: Some(first) })
    }
}

impl<R: Read + Send> StreamSource for DiffStream<R> {
    fn header(&self) -> &StreamHeader {
        &self.header
    }

    fn next_event(&mut self) -> Result<Option<StreamEvent>> {
        let event = match self.first.take() {
            Some(first) => Some(DiffEvent::Begin(first)),
            None => self.reader.next_event()?,
        };
        Ok(event.map(|event| match event {
            DiffEvent::Begin(DiffHeader { to, size_bytes, .. }) => {
                self.size_bytes = size_bytes;
                StreamEvent::Diff { size_bytes, to }
            }
            DiffEvent::Extent(extent) => StreamEvent::Extent(extent),
        }))
    }

    fn read_data(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.reader.read_data(buf)
    }

    fn final_size_bytes(&self) -> u64 {
        self.size_bytes
    }
}
