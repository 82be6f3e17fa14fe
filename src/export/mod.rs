//! Turns snapshots into what other programs read. One file is one format; [`FORMATS`] is the table of them.
//!
//! A format is a [`Sink`] that is written in ascending order by what fills the target of a restore, which fetches,
//! decodes and checks: memory is bounded there, and nothing wrong is ever handed to a format. Where an export is
//! relative to another snapshot, a sink is told only of what differs from it.

mod chain;
mod changes;
mod diff;
mod image;
mod output;
mod qcow2;
mod raw;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::cpu;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::reading::difference::Difference;
use crate::reading::explained;
use crate::reading::local::LocalReader;
use crate::reading::need::reading_budget;
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;
use crate::restore::fill::fill;
use crate::restore::planner::{Found, Planner};
use crate::restore::{INFLIGHT_BYTES_DEFAULT, RestoreReport, Started, plan_all};
use crate::sink::{Existing, Sink};
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

    /// Whether it names a file that holds the snapshot which it is relative to.
    fn takes_backing(&self) -> bool {
        false
    }

    /// What the user should know before.
    fn remark(&self, _what: &Exported) -> Option<String> {
        None
    }

    /// Whether it has to know beforehand where data will be: [`Exported::extents`].
    fn wants_extents(&self, _output: &Output) -> bool {
        false
    }

    /// Begins an export. Refuses what the format or the output cannot hold, before anything is written.
    fn open(&self, output: Output, what: &Exported) -> Result<Arc<dyn Sink>>;

    /// What [`open`](Self::open) would find at the output, or why it would refuse; changes nothing.
    fn preview(&self, output: &Output, what: &Exported) -> Result<Existing> {
        output.check()?;
        Ok(self.open(Output::Pipe(Box::new(io::sink())), what)?.existing())
    }
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

/// One snapshot on its way into a format.
pub struct Export {
    /// Into what it is turned.
    pub format: &'static dyn Format,
    /// What is exported.
    pub snapshot: SnapshotEntry,
    /// What it is relative to: older or newer, even of another volume.
    pub from: Option<SnapshotEntry>,
    /// The same as the format is told it; a caller may set the base's file.
    pub what: Exported,
}

impl Export {
    /// Nothing is looked at yet: whether the format takes a base is not checked.
    pub fn new(format: &'static dyn Format, snapshot: SnapshotEntry, from: Option<SnapshotEntry>) -> Self {
        let what = Exported::new(&snapshot, from.as_ref());
        Self { format, snapshot, from, what }
    }
}

/// Exports a snapshot. What it came to is what a restore to such a target comes to.
///
/// # Errors
/// `Conflict` where the file exists, before anything is read; otherwise as those of a restore.
pub async fn run(
    project: &Project,
    export: Export,
    output: Output,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<RestoreReport> {
    let (started, mut cancel) = (Started::now(project), cancel);
    let Export { format, snapshot, from, what } =
        look(project, export, &output, &*progress, &mut cancel).await?;
    let sink = cpu::block(move || format.open(output, &what)).await?;
    let planner = planner(project, &snapshot, from.as_ref(), sink.existing(), &cancel)?;
    progress.phase("restore", Some(snapshot.snapshot.size_bytes));
    let filled = async {
        let planned = fill(planner, Arc::clone(&sink), progress, &mut cancel).await?;
        cpu::block(move || sink.finish()).await?;
        Ok(planned)
    };
    match filled.await {
        Ok(planned) => Ok(started.report(project, &snapshot, &planned)),
        Err(error) => {
            let error = explained(project, &snapshot, error).await;
            Err(error.context(format!("export {}", snapshot.name())))
        }
    }
}

/// Finds out what an export would write; changes nothing.
///
/// # Errors
/// As those of [`run`] before it reads or writes data.
pub async fn plan(
    project: &Project,
    export: Export,
    output: Output,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<RestoreReport> {
    let (started, mut cancel) = (Started::now(project), cancel);
    let Export { format, snapshot, from, what } =
        look(project, export, &output, &*progress, &mut cancel).await?;
    let existing = cpu::block(move || format.preview(&output, &what)).await?;
    let planner = planner(project, &snapshot, from.as_ref(), existing, &cancel)?;
    let planned = plan_all(project, &snapshot, planner, &*progress).await?;
    Ok(RestoreReport { dry_run: true, ..started.report(project, &snapshot, &planned) })
}

/// Tells what the user should know before, and finds out what the format has to.
async fn look(
    project: &Project,
    mut export: Export,
    output: &Output,
    progress: &dyn Progress,
    cancel: &mut Cancel,
) -> Result<Export> {
    if let Some(remark) = export.format.remark(&export.what) {
        progress.warn(&format!("{} {remark}", export.snapshot.name()));
    }
    if export.format.wants_extents(output) {
        let extents = &mut export.what.extents;
        let mut found = |extent| {
            extents.push(extent);
            Ok(())
        };
        changes(project, export.from.as_ref(), &export.snapshot, cancel, &mut found).await?;
    }
    Ok(export)
}

/// What fills an output that holds this.
fn planner(
    project: &Project,
    snapshot: &SnapshotEntry,
    from: Option<&SnapshotEntry>,
    existing: Existing,
    cancel: &Cancel,
) -> Result<Planner> {
    let budget = reading_budget(INFLIGHT_BYTES_DEFAULT);
    let found = match (from, existing) {
        (Some(from), _) => {
            Found::Since(Box::new(Difference::between(project, Some(&from.snapshot), &snapshot.snapshot)?))
        }
        (None, Existing::Blank) => Found::Blank,
        (None, Existing::Content(content)) => {
            Found::Content(LocalReader::new(project.clone(), content, budget.clone()))
        }
        (None, Existing::Nothing | Existing::Backup(_)) => Found::Nothing,
    };
    Planner::new(project, snapshot, found, budget, cancel)
}

/// What is exported, as a format is told.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The volume's size.
    pub size_bytes: u64,
    /// The repository's chunk size: every range but the last begins and ends at a multiple.
    pub chunk_size_bytes: u32,
    /// The image's, as it was backed up; all zeros and empty for what was none.
    pub layout: ImageLayout,
    /// The snapshot's name, for formats that have such.
    pub name: String,
    /// What the export is relative to.
    pub base: Option<Since>,
    /// What will be written, as [`changes()`] lists it: 24 bytes of memory for each range. Only for formats that ask.
    pub extents: Vec<Extent>,
}

/// The snapshot that an export is relative to.
#[derive(Debug, Clone)]
pub struct Since {
    /// Its size, which may differ from that of what is exported.
    pub size_bytes: u64,
    /// What it is called: see [`snapshot_name`].
    pub name: String,
    /// The file that holds it, as the export shall name it: relative to the export's own folder, or absolute.
    pub file: Option<PathBuf>,
}

impl Exported {
    /// What the snapshots' records say. The base has no file yet, and `extents` is empty.
    pub fn new(snapshot: &SnapshotEntry, base: Option<&SnapshotEntry>) -> Self {
        let record = &snapshot.snapshot;
        Self {
            size_bytes: record.size_bytes,
            chunk_size_bytes: record.chunk_size_bytes,
            layout: record.layout.clone(),
            name: snapshot_name(snapshot),
            base: base.map(|base| Since {
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
