//! What `rbd import --export-format 2` takes: an image as it was made, with the snapshot that is exported.

use std::sync::Arc;

use super::diff::{DiffSink, header};
use super::output::Stream;
use super::{Exported, Format, Output};
use crate::diff::{DiffHeader, DiffVersion, DiffWriter, write_image_header};
use crate::error::Result;
use crate::sink::Sink;

pub(super) struct ImageV2;

impl Format for ImageV2 {
    fn name(&self) -> &'static str {
        "image-v2"
    }

    fn takes_base(&self) -> bool {
        false
    }

    /// Two diffs: the one that leads to the snapshot, so that a later diff from it can be applied, and an empty one from
    /// there to the image itself.
    fn open(&self, output: Output, what: &Exported) -> Result<Arc<dyn Sink>> {
        let mut stream = Stream::open(output)?;
        write_image_header(&mut stream, &what.layout, 2)?;
        let head = DiffHeader {
            from: Some(what.name.clone()),
            size_bytes: what.size_bytes,
            ..DiffHeader::default()
        };
        let sink = DiffSink::begin(stream, DiffVersion::V2, header(what), move |stream| {
            DiffWriter::begin(stream, DiffVersion::V2, &head)?.finish()?.finish()
        })?;
        Ok(Arc::new(sink))
    }
}
