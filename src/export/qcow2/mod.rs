//! qcow2, version 3, with clusters compressed by zstd: flat, or an overlay that holds what differs from its backing file.
//!
//! Written here and by no crate: `imago`, which was looked at first, reads compressed clusters and cannot write them. What
//! is needed is small, as a file is written once and in ascending order: tables when they are full, the header last.
//! To a pipe the header must come first, and where things will be shows beforehand only of what is not compressed: so
//! there ([`pipe`]) clusters are stored as they are, and the volume's manifest is read before.

mod backing;
mod pipe;
mod space;
mod writer;

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use zstd::bulk::Compressor;

use self::writer::{Stored, Writer};
use super::output::Stream;
use super::{Exported, Format, Output};
use crate::codec::is_zero;
use crate::cpu;
use crate::error::{Error, Result};
use crate::qcow2::{Backing, Layout, SECTOR_BYTES};
use crate::sink::partial::PartialFile;
use crate::sink::{Existing, Order, Sink, check_range};

/// zstd's own default.
const LEVEL: i32 = 3;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

pub(super) struct Qcow2;

impl Format for Qcow2 {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn takes_base(&self) -> bool {
        true
    }

    fn takes_backing(&self) -> bool {
        true
    }

    fn remark(&self, what: &Exported) -> Option<String> {
        let size_bytes = what.size_bytes;
        (!size_bytes.is_multiple_of(SECTOR_BYTES)).then(|| {
            format!("has {size_bytes} bytes, no multiple of 512: the qcow2 file is filled up with zeros")
        })
    }

    fn wants_extents(&self, output: &Output) -> bool {
        matches!(output, Output::Pipe(_))
    }

    fn preview(&self, output: &Output, what: &Exported) -> Result<Existing> {
        let (layout, backing) = begin(output, what)?;
        match output {
            Output::File { path, overwrite } => PartialFile::check(path, *overwrite)?,
            Output::Pipe(_) => {
                let nowhere = Stream::open(Output::Pipe(Box::new(io::sink())))?;
                pipe::PipeSink::begin(nowhere, layout, what, backing)?;
            }
        }
        Ok(Existing::Blank)
    }

    fn open(&self, output: Output, what: &Exported) -> Result<Arc<dyn Sink>> {
        let (layout, backing) = begin(&output, what)?;
        let (path, overwrite) = match output {
            Output::File { path, overwrite } => (path, overwrite),
            Output::Pipe(write) => {
                let stream = Stream::open(Output::Pipe(write))?;
                return Ok(Arc::new(pipe::PipeSink::begin(stream, layout, what, backing)?));
            }
        };
        let writer = Writer::begin(PartialFile::create(&path, overwrite)?, layout, backing);
        Ok(Arc::new(Qcow2Sink { layout, size_bytes: what.size_bytes, writer: Mutex::new(Some(writer)) }))
    }
}

/// How the file is laid out, and what is below it.
fn begin(output: &Output, what: &Exported) -> Result<(Layout, Option<Backing>)> {
    let layout = Layout::new(what.size_bytes, what.chunk_size_bytes)?;
    let overlay = match output {
        Output::File { path, .. } => path,
        Output::Pipe(_) => Path::new(""),
    };
    Ok((layout, what.base.as_ref().map(|base| backing::find(base, overlay)).transpose()?))
}

/// A qcow2 file that is being written.
struct Qcow2Sink {
    layout: Layout,
    size_bytes: u64,
    writer: Mutex<Option<Writer>>,
}

impl Qcow2Sink {
    fn with(&self, work: impl FnOnce(&mut Writer) -> Result<()>) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.as_mut().map_or_else(|| Err(finished()), work)
    }

    /// The guest cluster that a range begins with. Ranges begin with chunks, and clusters are never larger.
    fn first_cluster(&self, offset_bytes: u64, length_bytes: u64) -> Result<u64> {
        check_range(offset_bytes, length_bytes, self.size_bytes)?;
        match offset_bytes.is_multiple_of(self.layout.cluster_bytes()) {
            true => Ok(offset_bytes >> self.layout.cluster_bits),
            false => {
                Err(Error::internal(format!("a range at offset {offset_bytes} begins within a cluster")))
            }
        }
    }
}

impl Sink for Qcow2Sink {
    fn order(&self) -> Order {
        Order::Ascending
    }

    /// What is not written reads as zeros, or as the backing file.
    fn existing(&self) -> Existing {
        Existing::Blank
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let first = self.first_cluster(offset_bytes, data.len() as u64)?;
        let cluster_bytes = self.layout.cluster_bytes() as usize;
        let stored = cpu::pieces(data, cluster_bytes, |plain| store(plain, cluster_bytes))?;
        self.with(|writer| (first..).zip(stored).try_for_each(|(guest, stored)| writer.put(guest, stored)))
    }

    fn zero_at(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        let first = self.first_cluster(offset_bytes, length_bytes)?;
        let count = length_bytes.div_ceil(self.layout.cluster_bytes());
        self.with(|writer| writer.zero(first..first + count))
    }

    fn finish(&self) -> Result<()> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        writer.ok_or_else(finished)?.finish()
    }
}

fn finished() -> Error {
    Error::internal("a qcow2 file was written to after its end")
}

/// Compresses one cluster; the volume's last may be short and is filled up with zeros.
fn store(plain: &[u8], cluster_bytes: usize) -> Result<Stored> {
    if is_zero(plain) {
        return Ok(Stored::Zero);
    }
    let mut filled = plain.to_vec();
    filled.resize(cluster_bytes, 0);
    let compressed = COMPRESSOR.with_borrow_mut(|compressor| {
        let compressor = match compressor {
            Some(compressor) => compressor,
            None => compressor.insert(Compressor::new(LEVEL)?),
        };
        compressor.compress(&filled)
    });
    let compressed =
        compressed.map_err(|e| Error::internal("a cluster could not be compressed").caused_by(e))?;
    Ok(match compressed.len() < cluster_bytes {
        true => Stored::Compressed(compressed),
        false => Stored::Plain(filled),
    })
}
