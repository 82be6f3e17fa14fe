//! Verifies a project: that everything its snapshots need is there, and with `read_data` that it is what it must be.
//!
//! It goes on after damage and reports exactly what is hurt; whether that fails is the caller's to say, by
//! [`VerifyReport::ok`]. Memory is bounded whatever the repository's size: chunks are looked at in passes over ranges of
//! their ids, as many as it takes.

mod against;
mod audit;
mod data;
mod hurt;
mod logs;
mod metadata;
mod pages;
mod present;
mod report;
mod scrub;
mod slice;
mod wanted;

use std::sync::Arc;
use std::time::Instant;

use crate::cancel::Cancel;
use crate::error::Result;
use crate::format::page::{ObjectRef, PageRef};
use crate::progress::Progress;
use crate::reading::budget::{Budget, Buffers};
use crate::repo::Project;
use crate::units::{ChunkId, ChunkIndex, Generation, Geometry};
use crate::verify::audit::Audit;
use crate::verify::metadata::Metadata;
use crate::verify::pages::{Manner, Visit, Walk};
use crate::verify::report::{Findings, Flaw};
use crate::verify::wanted::Wanted;

pub use against::{AgainstReport, against};
pub use report::{ByteRange, Damage, Hurt, Problem, VerifyReport};
pub use scrub::{ScrubOptions, ScrubReport, scrub};
pub use slice::Slice;

/// Memory in flight unless asked otherwise.
pub const INFLIGHT_BYTES_DEFAULT: u64 = 96 << 20;
/// Chunk objects that one pass looks at (about 96 MiB, as much again while they are looked for).
const OBJECTS_PER_PASS_MAX: usize = 1 << 20;

/// How a verification is done.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// What to verify, as a user names snapshots; empty for all of the project, its logs, keys and prune rounds.
    pub snapshots: Vec<String>,
    /// Fetch every chunk, authenticate, decompress and re-hash it.
    pub read_data: bool,
    /// With `read_data`: of which chunks the data is read. Without: which chunks are looked for. A delta counts with the
    /// full chunk that its chain ends in. N runs with `n/N` cover everything, each object once.
    pub slice: Option<Slice>,
    /// Bytes in memory at once, of objects and plaintext together. What one chunk needs is always allowed.
    pub inflight_bytes: u64,
    /// Chunk objects that one pass over the pages looks at.
    pub objects_per_pass_max: usize,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            snapshots: Vec::new(),
            read_data: false,
            slice: None,
            inflight_bytes: INFLIGHT_BYTES_DEFAULT,
            objects_per_pass_max: OBJECTS_PER_PASS_MAX,
        }
    }
}

/// Verifies snapshots of a project.
///
/// # Errors
/// Only what keeps it from looking: a store that does not answer, a snapshot that does not exist, an interruption.
/// Damage is not an error but in the report.
pub async fn run(
    project: &Project,
    options: VerifyOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<VerifyReport> {
    let (started, before) = (Instant::now(), project.repository().store.ledger());
    let audit = Arc::new(Audit {
        project: project.clone(),
        budget: Budget::new(options.inflight_bytes),
        buffers: Buffers::new(options.inflight_bytes, project.chunk_size_bytes()),
        progress,
        cancel,
    });
    let mut findings = Findings::default();
    audit.progress.phase("metadata", None);
    let metadata = match options.snapshots.is_empty() {
        true => Metadata::of_project(&audit, &mut findings).await?,
        false => Metadata::of_snapshots(&audit, &options.snapshots, &mut findings).await?,
    };
    let mut report = VerifyReport {
        project: project.name().to_string(),
        volumes: metadata.volumes,
        snapshots: metadata.subjects.len() as u64,
        unfinished: metadata.unfinished,
        read_data: options.read_data,
        slice: options.slice.map(|s| s.to_string()),
        ..VerifyReport::default()
    };
    let mut from = Some(ChunkId([0; 32]));
    let mut manner = Manner::Fresh;
    while let Some(first) = from {
        from = pass(&audit, &metadata, &options, (first, manner), (&mut findings, &mut report)).await?;
        manner = Manner::Again;
    }
    if !findings.chunks.is_empty() || !findings.pages.is_empty() {
        audit.progress.phase("damage", None);
        report.ranges_omitted = audit.find_hurt(&metadata.subjects, &mut findings).await?;
    }
    (report.damage, report.damage_omitted) = (findings.damage, findings.omitted);
    report.ledger = project.repository().store.ledger() - before;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// One pass over all pages, for the chunks from one id on. Where the next pass begins, if one is needed.
async fn pass(
    audit: &Arc<Audit>,
    metadata: &Metadata,
    options: &VerifyOptions,
    (from, manner): (ChunkId, Manner),
    (findings, report): (&mut Findings, &mut VerifyReport),
) -> Result<Option<ChunkId>> {
    audit.progress.phase("pages", None);
    // What is not read is at least looked for.
    let table_slice = if options.read_data { None } else { options.slice };
    let mut wanted = Wanted::new(from, options.objects_per_pass_max);
    let mut walk = Walk::new(audit, manner);
    for subject in &metadata.subjects {
        let geometry = subject.geometry;
        let mut visitor = |findings: &mut Findings, visit: Visit<'_>| {
            match visit {
                Visit::Bad { name, flaw, .. } => {
                    findings.page(name, audit.project.page_name(name).to_string(), flaw)?;
                }
                Visit::Leaf { first, page, generation } => {
                    for (at, chunk) in page.refs.iter().enumerate() {
                        if let Some((object, flaw)) = insane(audit, chunk, generation) {
                            let name = audit.project.chunk_name(object.name).to_string();
                            findings.chunk((object.name, None), name, flaw)?;
                        } else if in_slice(table_slice, chunk) {
                            wanted.add(chunk, len_bytes(geometry, first, at));
                        }
                    }
                }
            }
            Ok(true)
        };
        walk.snapshot(subject, findings, &mut visitor).await?;
    }
    if manner == Manner::Fresh {
        report.pages = walk.pages;
    }
    let next = wanted.finish();
    // Reading everything finds what is missing as well.
    if !options.read_data || options.slice.is_some() {
        audit.progress.phase("objects", None);
        report.chunks += audit.find_objects(&wanted, (from, next), findings).await?;
    }
    if options.read_data {
        let bytes = wanted.full.iter().filter(|f| in_slice_id(options.slice, &f.object)).count() as u64
            * u64::from(audit.project.chunk_size_bytes());
        audit.progress.phase("data", Some(bytes));
        let (chunks, bytes) = audit.read_objects(wanted, options.slice, findings).await?;
        report.chunks_read += chunks;
        report.read_bytes += bytes;
        report.chunks = report.chunks.max(report.chunks_read);
    }
    Ok(next)
}

/// What is wrong with a ref in itself, and which object it is about.
fn insane(audit: &Audit, chunk: &PageRef, newest: Generation) -> Option<(ObjectRef, Flaw)> {
    let PageRef::Stored { object, closure } = chunk else { return None };
    if !closure.is_empty() && object.name.variant == 0 {
        return Some((
            *object,
            Flaw::damaged("its manifest says that it is a delta, its name that it is not"),
        ));
    }
    chunk.objects().find_map(|o| {
        if o.name.generation > newest {
            let flaw = Flaw::damaged(format!(
                "generation {}, but the page that names it is of {newest}",
                o.name.generation
            ));
            return Some((*o, flaw));
        }
        audit.sane(o).err().map(|flaw| (*o, flaw))
    })
}

fn in_slice(slice: Option<Slice>, chunk: &PageRef) -> bool {
    chunk.objects().last().is_none_or(|root| in_slice_id(slice, root))
}

fn in_slice_id(slice: Option<Slice>, root: &ObjectRef) -> bool {
    slice.is_none_or(|slice| slice.contains(&root.name.id))
}

fn len_bytes(geometry: Geometry, first: ChunkIndex, at: usize) -> u32 {
    geometry.chunk_len_bytes(ChunkIndex(first.0 + at as u64))
}

#[cfg(test)]
mod tests;
