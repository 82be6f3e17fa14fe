//! Applies a diff to an RBD image, and only to one that is in the state which the diff is relative to.
//!
//! `rbd import-diff` looks whether the snapshots' names are there, and no further: a diff that is applied to an image
//! which was written to since makes a mixture of both, under the new snapshot's name. Here the image is compared first
//! (`state.rs`). A diff in a file is checked to its end before the image is touched; one from a pipe cannot be.

mod state;
mod write;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Instant;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::diff::inspect::{Total, inspect, require_sane};
use crate::diff::{DiffEvent, DiffHeader, DiffReader, Limits, SNIFF_BYTES, StreamKind};
use crate::error::{Error, Result, io_error};
use crate::progress::Progress;
use crate::rbd::{Cluster, Image, RbdSpec, advice};

/// Where the diff is read from.
pub enum Input {
    /// A file, which is read twice.
    File(File),
    /// What arrives once.
    Pipe(Box<dyn Read + Send>),
}

/// How an import is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportOptions {
    /// Whether an image that was changed since the diff's snapshot is rolled back to it. Otherwise it is refused.
    pub discard_changes: bool,
    /// Whether all is checked and nothing is written.
    pub dry_run: bool,
    /// The most that a stream may claim.
    pub limits: Limits,
}

/// What was done, or would be.
#[derive(Debug, Clone, Serialize)]
pub struct ImportReport {
    /// The snapshot that the diff is relative to.
    pub from: Option<String>,
    /// The snapshot that was made.
    pub to: Option<String>,
    /// The image's size after the diff.
    pub size_bytes: u64,
    /// What the diff writes.
    pub data: Total,
    /// What the diff makes read as zeros.
    pub zero: Total,
    /// Whether changes made since `from` were rolled back.
    pub discarded_changes: bool,
    /// Nothing was written.
    pub dry_run: bool,
    /// How long it took.
    pub seconds: f64,
}

/// Applies a diff to an image. Blocks.
///
/// # Errors
/// `Conflict` where the image is not in the state that the diff is relative to; `Corrupt` where the diff is damaged. Once
/// writing has begun, an error leaves the image between both states, without the new snapshot, and says how to go back.
pub fn import(
    input: Input,
    cluster: &Cluster,
    spec: &RbdSpec,
    options: ImportOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<ImportReport> {
    let started = Instant::now();
    let mut report = ImportReport {
        from: None,
        to: None,
        size_bytes: 0,
        data: Total::default(),
        zero: Total::default(),
        discarded_changes: false,
        dry_run: options.dry_run,
        seconds: 0.0,
    };
    let read: Box<dyn Read + Send> = match input {
        Input::Pipe(read) => read,
        Input::File(mut file) => {
            progress.phase("check", None);
            let found = inspect(&file, options.limits, &mut |_| cancel.check())?;
            require_sane(&found)?;
            (report.data, report.zero) = (found.data, found.zero);
            file.seek(SeekFrom::Start(0)).map_err(|e| io_error("go back to the start of the diff", e))?;
            Box::new(file)
        }
    };
    let mut reader = open(read, options.limits)?;
    let Some(DiffEvent::Begin(header)) = reader.next_event()? else {
        return Err(Error::internal("a diff that does not begin"));
    };
    (report.from, report.to, report.size_bytes) = (header.from.clone(), header.to.clone(), header.size_bytes);
    progress.phase("compare", None);
    let image = state::open(cluster, spec, &header, options.dry_run)?;
    if let Err(changed) = state::require_unchanged(&image, header.from.as_deref(), progress, cancel) {
        let from = header.from.as_deref().filter(|_| options.discard_changes && state::is_changed(&changed));
        let from = from.ok_or(changed)?;
        report.discarded_changes = true;
        if !options.dry_run {
            image.snapshots().roll_back(from)?;
        }
    }
    if !options.dry_run {
        progress.phase("import", None);
        let applied = apply(&image, &mut reader, &header, progress, cancel);
        (report.data, report.zero) = applied.map_err(|e| unfinished(e, spec, &header))?;
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn open(mut read: Box<dyn Read + Send>, limits: Limits) -> Result<DiffReader<impl Read>> {
    let mut start = Vec::with_capacity(SNIFF_BYTES);
    let doing = "read the start of the diff";
    read.by_ref().take(SNIFF_BYTES as u64).read_to_end(&mut start).map_err(|e| io_error(doing, e))?;
    match StreamKind::recognise(&start)? {
        Some(kind @ (StreamKind::DiffV1 | StreamKind::DiffV2)) => {
            DiffReader::open(std::io::Cursor::new(start).chain(read), kind, limits)
        }
        Some(StreamKind::ImageV2) => Err(Error::invalid("the stream is a whole image: expected a diff")
            .help("make the image of it with `rbd import --export-format 2`")),
        None => Err(Error::invalid("the stream is no rbd diff: it has no banner")),
    }
}

/// Cuts or grows the image, writes all extents, and makes the snapshot.
fn apply<R: Read>(
    image: &Image,
    reader: &mut DiffReader<R>,
    header: &DiffHeader,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(Total, Total)> {
    if image.size_bytes()? != header.size_bytes {
        image.resize(header.size_bytes)?;
    }
    let totals = write::extents(image, reader, progress, cancel)?;
    image.flush()?;
    if let Some(to) = &header.to {
        image.snapshots().create(to)?;
        if header.protected == Some(true) {
            image.snapshots().protect(to)?;
        }
    }
    Ok(totals)
}

fn unfinished(error: Error, spec: &RbdSpec, header: &DiffHeader) -> Error {
    let path = spec.path();
    let back = match &header.from {
        Some(from) => format!(
            "the image lies between the two snapshots now: run the command again with --discard-changes, or go back with \
             `{}`",
            advice::roll_back(&path, from)
        ),
        None => format!(
            "the image holds part of the diff now: remove it and make it anew with `rbd create`: {path}"
        ),
    };
    error.context(format!("import into {spec}")).help(back)
}
