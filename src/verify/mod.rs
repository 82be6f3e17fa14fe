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
mod look;
mod metadata;
mod pages;
mod present;
mod recorded;
pub mod repair;
mod report;
mod roster;
mod scrub;
mod slice;
mod subject;
mod wanted;

use std::sync::Arc;
use std::time::Instant;

use crate::cancel::Cancel;
use crate::error::Result;
use crate::plan::shard::Shard;
use crate::progress::Progress;
use crate::repo::{Project, Writer};
use crate::verify::audit::Audit;
use crate::verify::look::Look;
use crate::verify::metadata::Metadata;
use crate::verify::report::Findings;

pub use against::{AgainstReport, against};
pub use report::{ByteRange, FlawedObject, Hurt, Problem, VerifyReport};
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
    /// Where no snapshots are named: only volumes in this share, and what all of them need.
    pub shard: Option<Shard>,
    /// With `read_data`: of which chunks the data is read. Without: which chunks are looked for. A delta counts with the
    /// full chunk that its chain ends in. N runs with `n/N` cover everything, each object once.
    pub slice: Option<Slice>,
    /// Bytes in memory at once, of objects and plaintext together. What one chunk needs is always allowed.
    pub inflight_bytes: u64,
    /// Chunk objects that one pass over the pages looks at.
    pub objects_per_pass_max: usize,
    /// Remember in the repository what is found lost. Otherwise it is only said how much that would be.
    pub record: bool,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            snapshots: Vec::new(),
            shard: None,
            read_data: false,
            slice: None,
            inflight_bytes: INFLIGHT_BYTES_DEFAULT,
            objects_per_pass_max: OBJECTS_PER_PASS_MAX,
            record: true,
        }
    }
}

/// Verifies snapshots of a project.
///
/// # Errors
/// Only what keeps it from looking: a store that does not answer, a snapshot that does not exist, an interruption.
/// Damage is not an error but in the report.
pub async fn run(
    project: &Writer,
    options: VerifyOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<VerifyReport> {
    let (started, before) = (Instant::now(), project.repository().store().ledger());
    let audit = Audit::new(project, &options, progress, cancel);
    let mut findings = Findings::default();
    let metadata = Metadata::read(&audit, &options, &mut findings).await?;
    project.repository().memory.flush();
    let mut report = VerifyReport::of(project, &metadata, &options);
    let look = Look { audit: &audit, metadata: &metadata, options: &options, scope: None };
    look.run(&mut findings, &mut report).await?;
    if findings.has_content() {
        audit.progress.phase("damage", None);
        report.ranges_omitted = hurt::find(&audit, &metadata.subjects, &mut findings).await?;
    }
    (report.damage, report.damage_omitted) = (findings.damage, findings.omitted);
    recorded::remember(&audit, project, &options, &mut report, None).await?;
    report.ledger = project.repository().store().ledger() - before;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

impl VerifyReport {
    /// What is known before the pages are read.
    fn of(project: &Project, metadata: &Metadata, options: &VerifyOptions) -> Self {
        Self {
            project: project.name().to_string(),
            volumes: metadata.volumes,
            snapshots: metadata.subjects.len() as u64,
            unfinished: metadata.unfinished,
            read_data: options.read_data,
            slice: options.slice.map(|s| s.to_string()),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests;
