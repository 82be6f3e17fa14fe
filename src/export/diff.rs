//! What `rbd import-diff` takes: what changed since a snapshot, or all data. It takes the first version only; the second is
//! what images of format 2 are made of, and is taken by a backup and by an import here.

use std::sync::{Arc, Mutex, PoisonError};

use super::output::Stream;
use super::{Exported, Format, Output};
use crate::diff::{DiffHeader, DiffVersion, DiffWriter};
use crate::error::{Error, Result};
use crate::sink::{Existing, Order, Sink};

/// `rbd export-diff` in one of its two versions.
pub(super) struct Diff {
    version: DiffVersion,
    name: &'static str,
}

pub(super) const DIFF_V1: Diff = Diff { version: DiffVersion::V1, name: "diff-v1" };
pub(super) const DIFF_V2: Diff = Diff { version: DiffVersion::V2, name: "diff-v2" };

impl Format for Diff {
    fn name(&self) -> &'static str {
        self.name
    }

    fn takes_base(&self) -> bool {
        true
    }

    fn open(&self, output: Output, what: &Exported) -> Result<Arc<dyn Sink>> {
        let stream = Stream::open(output)?;
        Ok(Arc::new(DiffSink::begin(stream, self.version, header(what), Stream::finish)?))
    }
}

/// What a diff to a snapshot says of itself.
pub(super) fn header(what: &Exported) -> DiffHeader {
    DiffHeader {
        from: what.base.as_ref().map(|base| base.name.clone()),
        to: Some(what.name.clone()),
        protected: None,
        size_bytes: what.size_bytes,
    }
}

/// What is done when a diff is written.
type AtEnd = Box<dyn FnOnce(Stream) -> Result<()> + Send>;

/// Writes one diff, in the order of offsets.
pub(super) struct DiffSink {
    state: Mutex<Option<(DiffWriter<Stream>, AtEnd)>>,
}

impl DiffSink {
    pub(super) fn begin(
        stream: Stream,
        version: DiffVersion,
        header: DiffHeader,
        at_end: impl FnOnce(Stream) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let writer = DiffWriter::begin(stream, version, &header)?;
        Ok(Self { state: Mutex::new(Some((writer, Box::new(at_end)))) })
    }

    fn with(&self, work: impl FnOnce(&mut DiffWriter<Stream>) -> Result<()>) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_mut().map_or_else(|| Err(finished()), |(writer, _)| work(writer))
    }
}

impl Sink for DiffSink {
    fn order(&self) -> Order {
        Order::Ascending
    }

    /// What a diff does not name is as it was, or zero where it is relative to nothing.
    fn existing(&self) -> Existing {
        Existing::Blank
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.with(|writer| {
            writer.begin_data(offset_bytes, data.len() as u64)?;
            writer.data(data)
        })
    }

    fn zero_at(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.with(|writer| writer.zero(offset_bytes, length_bytes))
    }

    fn finish(&self) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (writer, at_end) = state.ok_or_else(finished)?;
        at_end(writer.finish()?)
    }
}

fn finished() -> Error {
    Error::internal("a diff was written to after its end")
}
