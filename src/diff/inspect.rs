//! What a stream holds, and whether it is whole and sane: all of it is read, nothing is kept.

use std::io::{Cursor, ErrorKind as Io, Read};

use serde::Serialize;

use super::{DiffEvent, DiffHeader, DiffReader, Limits, SNIFF_BYTES, StreamKind};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::units::{Content, Extent};
use crate::volume::ImageLayout;

/// Most diffs of an image that are told of one by one; those beyond count in the totals alone.
pub const DIFFS_TOLD_MAX: usize = 4096;
/// Data is read in pieces of this.
const READ_BYTES: usize = 1 << 20;
/// What a qcow2 file begins with (QEMU's `docs/interop/qcow2.rst`).
const QCOW2_MAGIC: &[u8] = b"QFI\xfb";

/// What a stream holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// `rbd diff v1`, `rbd diff v2`, `rbd image v2`, `qcow2`, or `raw` where no banner is known.
    pub kind: &'static str,
    /// Whether the stream was checked to its end and found good; `None` where nothing can be checked: raw and qcow2.
    pub sane: Option<bool>,
    /// Why it is not: what was found, what was expected, and at which byte of the stream.
    pub problem: Option<String>,
    /// Bytes read of it.
    pub stream_bytes: u64,
    /// How an exported image is laid out.
    pub image: Option<InspectedImage>,
    /// How many diffs the stream says that it holds.
    pub diff_count: u64,
    /// At most [`DIFFS_TOLD_MAX`].
    pub diffs: Vec<InspectedDiff>,
    /// Of all diffs together.
    pub data: Total,
    /// Of all diffs together: ranges that read as zeros.
    pub zero: Total,
}

/// The records of an exported image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectedImage {
    /// 0 where the stream does not say.
    pub object_bytes: u64,
    /// Ceph's feature bits; 0 where the stream does not say.
    pub features: u64,
    /// 0 where the stream does not say.
    pub stripe_unit_bytes: u64,
    /// 0 where the stream does not say.
    pub stripe_count: u64,
    /// Pairs of key and value, in the order of the stream.
    pub metadata: Vec<(String, String)>,
}

/// One diff.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InspectedDiff {
    /// The snapshot that it is relative to; none for a full one.
    pub from: Option<String>,
    /// The snapshot that it leads to; none for the image itself.
    pub to: Option<String>,
    /// Whether that snapshot is protected; none where the stream does not say.
    pub protected: Option<bool>,
    /// The image's size after it.
    pub size_bytes: u64,
    /// Ranges with bytes.
    pub data: Total,
    /// Ranges that read as zeros.
    pub zero: Total,
}

/// A number of extents, and the bytes in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    /// As the stream has them, not joined.
    pub extents: u64,
    /// Saturates where the diffs of one stream add up to more.
    pub bytes: u64,
}

/// Reads a stream to its end, or to where it is wrong. `listen` is called with every event.
///
/// # Errors
/// Of the reader beneath, and of `listen`. What is wrong with the stream is no error but part of the answer.
pub fn inspect(
    read: impl Read,
    limits: Limits,
    listen: &mut dyn FnMut(&DiffEvent) -> Result<()>,
) -> Result<Inspection> {
    let mut read = read;
    let start = read_start(&mut read)?;
    let kind = match StreamKind::recognise(&start) {
        Ok(Some(kind)) => kind,
        Ok(None) => {
            let kind = if start.starts_with(QCOW2_MAGIC) { "qcow2" } else { "raw" };
            return Ok(Inspection { kind, stream_bytes: start.len() as u64, ..Inspection::default() });
        }
        Err(e) => {
            let stream_bytes = start.len() as u64;
            let found = Inspection { kind: "unknown", stream_bytes, ..Inspection::default() };
            return found.ended(Err(e));
        }
    };
    let found = Inspection { kind: kind.name(), ..Inspection::default() };
    match DiffReader::open(Cursor::new(start).chain(read), kind, limits) {
        Ok(reader) => found.read(reader, kind, listen),
        Err(e) => found.ended(Err(e)),
    }
}

impl Inspection {
    fn read<R: Read>(
        mut self,
        mut reader: DiffReader<R>,
        kind: StreamKind,
        listen: &mut dyn FnMut(&DiffEvent) -> Result<()>,
    ) -> Result<Self> {
        self.diff_count = reader.diff_count();
        self.image = (kind == StreamKind::ImageV2).then(|| image(reader.layout()));
        let (mut diffs_begun, mut buffer) = (0, vec![0; READ_BYTES]);
        let ended = loop {
            let event = match reader.next_event() {
                Ok(Some(event)) => event,
                Ok(None) => break Ok(()),
                Err(e) => break Err(e),
            };
            listen(&event)?;
            match event {
                DiffEvent::Begin(header) => {
                    diffs_begun += 1;
                    if self.diffs.len() < DIFFS_TOLD_MAX {
                        self.diffs.push(diff(header));
                    }
                }
                DiffEvent::Extent(extent) => {
                    let told = self.diffs.last_mut().filter(|_| diffs_begun <= DIFFS_TOLD_MAX);
                    count(&extent, &mut self.data, &mut self.zero);
                    if let Some(told) = told {
                        count(&extent, &mut told.data, &mut told.zero);
                    }
                    if let Err(e) = skip(&mut reader, &mut buffer) {
                        break Err(e);
                    }
                }
            }
        };
        self.stream_bytes = reader.offset_bytes();
        self.ended(ended)
    }

    fn ended(mut self, ended: Result<()>) -> Result<Self> {
        self.sane = Some(ended.is_ok());
        match ended {
            Ok(()) => Ok(self),
            Err(e) => match e.kind() {
                ErrorKind::Corrupt | ErrorKind::Invalid | ErrorKind::Unsupported => {
                    self.problem = Some(e.message().to_owned());
                    Ok(self)
                }
                _ => Err(e),
            },
        }
    }
}

fn image(layout: &ImageLayout) -> InspectedImage {
    InspectedImage {
        object_bytes: if layout.order == 0 { 0 } else { 1 << layout.order.min(63) },
        features: layout.features,
        stripe_unit_bytes: layout.stripe_unit_bytes,
        stripe_count: layout.stripe_count,
        metadata: layout.metadata.clone(),
    }
}

fn diff(header: DiffHeader) -> InspectedDiff {
    let DiffHeader { from, to, protected, size_bytes } = header;
    InspectedDiff { from, to, protected, size_bytes, ..InspectedDiff::default() }
}

fn count(extent: &Extent, data: &mut Total, zero: &mut Total) {
    let total = if extent.content == Content::Data { data } else { zero };
    total.extents += 1;
    // Extents of one diff are disjoint, but of many diffs the sum may be anything.
    total.bytes = total.bytes.saturating_add(extent.length_bytes);
}

fn skip<R: Read>(reader: &mut DiffReader<R>, buffer: &mut [u8]) -> Result<()> {
    while reader.read_data(buffer)? > 0 {}
    Ok(())
}

fn read_start(read: &mut impl Read) -> Result<Vec<u8>> {
    let mut start = Vec::with_capacity(SNIFF_BYTES);
    loop {
        match read.by_ref().take((SNIFF_BYTES - start.len()) as u64).read_to_end(&mut start) {
            Ok(_) => return Ok(start),
            Err(e) if e.kind() == Io::Interrupted => {}
            Err(e) => return Err(io_error("read the start of the stream", e)),
        }
    }
}

/// Refuses a stream that is not whole and sane, or that is none.
pub fn require_sane(found: &Inspection) -> Result<()> {
    match (&found.problem, found.sane) {
        (None, Some(true)) => Ok(()),
        (Some(problem), _) => Err(Error::corrupt(problem.clone())
            .help("The stream is damaged or was cut off; nothing of it was used. Make it again.")),
        (None, _) => Err(Error::invalid(format!("the stream is {}: expected an rbd diff", found.kind))
            .help("`rbd export-diff` and `cuttle export --format diff-v1` make diffs")),
    }
}
