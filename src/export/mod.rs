//! Turns snapshots into what other programs read. One file is one format; [`FORMATS`] is the table of them.
//!
//! A format is a [`Sink`] that is written in ascending order by the pipeline of a restore, which fetches,
//! decodes and checks: memory is bounded there, and nothing wrong is ever handed to a format. Where an export is
//! relative to another snapshot, a sink is told only of what differs from it.

mod chain;
mod changes;
mod diff;
mod image;
mod output;
mod qcow2;
mod raw;

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::repo::history::SnapshotEntry;
use crate::sink::Sink;
use crate::units::Extent;
use crate::volume::ImageLayout;

pub use self::chain::{ChainLink, chain};
pub use self::changes::changes;
pub use self::output::Output;

/// A kind of file or stream that a snapshot can be turned into.
pub trait Format: Send + Sync {
    /// As on the command line.
    fn name(&self) -> &'static str;

    /// Whether it can hold only what differs from another snapshot.
    fn takes_base(&self) -> bool;

    /// Whether it has to know beforehand where data will be: [`Exported::extents`].
    fn wants_extents(&self, _output: &Output) -> bool {
        false
    }

    /// Begins an export. Refuses what the format or the output cannot hold, before anything is written.
    fn open(&self, output: Output, what: &Exported) -> Result<Arc<dyn Sink>>;
}

/// All formats.
pub const FORMATS: [&dyn Format; 5] =
    [&raw::Raw, &qcow2::Qcow2, &diff::DIFF_V1, &diff::DIFF_V2, &image::ImageV2];

/// The format of a name.
pub fn format(name: &str) -> Result<&'static dyn Format> {
    FORMATS.into_iter().find(|f| f.name() == name).ok_or_else(|| {
        let names = FORMATS.map(Format::name).join(", ");
        Error::invalid(format!("format {name:?}: expected one of {names}"))
    })
}

/// What is exported.
#[derive(Debug, Clone)]
pub struct Exported {
    pub size_bytes: u64,
    pub chunk_size_bytes: u32,
    pub layout: ImageLayout,
    /// The snapshot's name, for formats that have such.
    pub name: String,
    /// What the export is relative to.
    pub base: Option<Base>,
    /// What will be written, as [`changes()`] lists it: 24 bytes of memory for each range. Only for formats that ask.
    pub extents: Vec<Extent>,
}

/// The snapshot that an export is relative to.
#[derive(Debug, Clone)]
pub struct Base {
    pub size_bytes: u64,
    pub name: String,
    /// The file that holds it, as the export shall name it: relative to the export's own folder, or absolute.
    pub file: Option<PathBuf>,
}

impl Exported {
    pub fn new(snapshot: &SnapshotEntry, base: Option<&SnapshotEntry>) -> Self {
        let record = &snapshot.snapshot;
        Self {
            size_bytes: record.size_bytes,
            chunk_size_bytes: record.chunk_size_bytes,
            layout: record.layout.clone(),
            name: snapshot_name(snapshot),
            base: base.map(|base| Base {
                size_bytes: base.snapshot.size_bytes,
                name: snapshot_name(base),
                file: None,
            }),
            extents: Vec::new(),
        }
    }
}

/// What a snapshot is called: as the RBD snapshot that was read, or by its number where there was none.
pub fn snapshot_name(snapshot: &SnapshotEntry) -> String {
    let record = &snapshot.snapshot;
    record.point.as_ref().map_or_else(|| format!("cuttle-{}", record.sequence), |point| point.name.clone())
}
