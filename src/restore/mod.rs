//! Restores a snapshot: plans window by window what the target lacks, fetches it, checks it and writes it.
//!
//! Whatever fails stops the restore. What was written until then is right, so a second run goes on from there. Memory
//! is bounded by [`RestoreOptions::inflight_bytes`], whatever the volume's size: a share is taken before a chunk is
//! fetched and given back when it is written.

mod any;
mod ascending;
pub(crate) mod fill;
pub(crate) mod planner;
mod proof;
pub mod rewind;
mod work;

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::budget::Budget;
use crate::cancel::Cancel;
use crate::cpu;
use crate::error::{Context, Error, Result};
use crate::format::record::Snapshot;
use crate::plan::restore::Totals;
use crate::progress::{Outcome, Progress, Step};
use crate::reading::difference::Difference;
use crate::reading::explained;
use crate::reading::local::LocalReader;
use crate::reading::need::reading_budget;
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;
use crate::restore::fill::fill;
use crate::restore::planner::{Found, Planned, Planner};
use crate::restore::rewind::Rewind;
use crate::sink::{Existing, Sink};
use crate::store::Ledger;

/// Memory in flight unless asked otherwise: more than 16 chunks of 4 MiB, sealed and plain.
pub const INFLIGHT_BYTES_DEFAULT: u64 = 96 << 20;

/// How a restore is done.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Bytes in memory at once, of sealed objects and of plaintext together. What one chunk needs is always allowed.
    pub inflight_bytes: u64,
    /// Whether a target that says it is blank is believed. Otherwise zeros are written too.
    pub trust_blank: bool,
    /// Whether what the target holds is read, so that only what differs is fetched. Otherwise everything is.
    pub compare: bool,
    /// What is known of the target without reading it; only where it is compared.
    pub rewind: Option<Rewind>,
    /// The snapshot that a target holds which is [`Existing::Backup`].
    pub holds: Option<Snapshot>,
    /// Whether all of the target is read again and held against the manifest, before it counts as whole.
    pub verify: bool,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            inflight_bytes: INFLIGHT_BYTES_DEFAULT,
            trust_blank: true,
            compare: true,
            rewind: None,
            holds: None,
            verify: false,
        }
    }
}

/// What a restore did, or would do.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreReport {
    /// The volume's name.
    pub volume: String,
    /// The snapshot's number within the volume.
    pub sequence: u32,
    /// 32 hexadecimal digits.
    pub snapshot_id: String,
    /// Size of the volume.
    pub size_bytes: u64,
    /// Nothing was fetched but metadata, and nothing written.
    pub dry_run: bool,
    /// Of the whole volume: kept, zeroed, fetched.
    #[serde(flatten)]
    pub totals: Totals,
    /// Bytes of the target that were read to find out what it holds.
    pub target_read_bytes: u64,
    /// The backup that told what the target holds, together with what that changed since.
    pub rewound_from: Option<u32>,
    /// Bytes of the target that were read again in the end and are the snapshot's: all of them, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_bytes: Option<u64>,
    /// Bytes received from the store, metadata included.
    pub downloaded_bytes: u64,
    /// Requests to the store, metadata included.
    pub requests: u64,
    /// The requests by kind.
    pub ledger: Ledger,
    /// How long it took.
    pub seconds: f64,
}

/// Restores a snapshot into a sink that was made for its size.
///
/// # Errors
/// `Interrupted` when cancelled: the same command goes on where it was. Damage is `Corrupt` and names the chunk and
/// the offset; nothing wrong and no zeros are ever written in its place.
pub async fn run(
    project: &Project,
    snapshot: &SnapshotEntry,
    sink: Arc<dyn Sink>,
    options: RestoreOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<RestoreReport> {
    let (started, mut cancel) = (Started::now(project), cancel);
    let budget = reading_budget(options.inflight_bytes);
    let looking = Looking { project, snapshot, budget: &budget, progress: &*progress };
    let (found, rewound_from) = looking.look(sink.existing(), &options).await?;
    let planner = Planner::new(project, snapshot, found, budget.clone(), &cancel)?;
    progress.phase("restore", Some(snapshot.snapshot.size_bytes));
    let planned = match fill(planner, Arc::clone(&sink), Arc::clone(&progress), &mut cancel).await {
        Ok(planned) => planned,
        Err(error) => {
            let error = explained(project, snapshot, error).await;
            return Err(error.context(format!("restore {}", snapshot.name())));
        }
    };
    let verified_bytes = match options.verify {
        true => Some(
            proof::check(&looking, &sink, &mut cancel)
                .await
                .context(format!("verify what was restored of {}", snapshot.name()))?,
        ),
        false => None,
    };
    cpu::block(move || sink.finish()).await.context(format!("restore {}", snapshot.name()))?;
    Ok(RestoreReport { rewound_from, verified_bytes, ..started.report(project, snapshot, &planned) })
}

/// Finds out what a restore would do. `existing` is what the target holds; it is read, never written.
pub async fn plan(
    project: &Project,
    snapshot: &SnapshotEntry,
    existing: Existing,
    options: RestoreOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<RestoreReport> {
    let started = Started::now(project);
    let budget = reading_budget(options.inflight_bytes);
    let looking = Looking { project, snapshot, budget: &budget, progress: &*progress };
    let (found, rewound_from) = looking.look(existing, &options).await?;
    let planner = Planner::new(project, snapshot, found, budget.clone(), &cancel)?;
    let planned = plan_all(project, snapshot, planner, &*progress).await?;
    Ok(RestoreReport { dry_run: true, rewound_from, ..started.report(project, snapshot, &planned) })
}

/// Plans all windows and carries none of them out.
pub(crate) async fn plan_all(
    project: &Project,
    snapshot: &SnapshotEntry,
    mut planner: Planner,
    progress: &dyn Progress,
) -> Result<Planned> {
    progress.phase("plan", Some(snapshot.snapshot.size_bytes));
    let mut totals = Totals::default();
    loop {
        let plan = match planner.next().await {
            Ok(None) => return Ok(planner.planned(totals)),
            Ok(Some(plan)) => plan,
            Err(error) => {
                let error = explained(project, snapshot, error).await;
                return Err(error.context(format!("plan {}", snapshot.name())));
            }
        };
        let done = plan.totals;
        for (share, outcome) in
            [(done.keep, Outcome::Known), (done.zero, Outcome::Zero), (done.fetch, Outcome::New)]
        {
            if share.chunks > 0 {
                progress.step(Step { bytes: share.bytes, chunks: share.chunks, outcome });
            }
        }
        totals += done;
    }
}

/// What a target is read with.
pub(crate) struct Looking<'a> {
    pub(crate) project: &'a Project,
    pub(crate) snapshot: &'a SnapshotEntry,
    pub(crate) budget: &'a Budget,
    pub(crate) progress: &'a dyn Progress,
}

impl Looking<'_> {
    /// What the target holds, as far as that is known without reading all of it, and the backup that told.
    async fn look(&self, existing: Existing, options: &RestoreOptions) -> Result<(Found, Option<u32>)> {
        match existing {
            Existing::Blank if options.trust_blank => Ok((Found::Blank, None)),
            Existing::Content(content) if options.compare => {
                let content = LocalReader::new(self.project.clone(), content, self.budget.clone());
                let rewind = options.rewind.as_ref();
                match rewind::plan(&content, self.snapshot, rewind, self.progress).await? {
                    Some((base, spans)) => {
                        let changes = Difference::between(self.project, Some(base), &self.snapshot.snapshot)?;
                        let found = Found::Since(Box::new(changes.written_since(content, spans)));
                        Ok((found, Some(base.sequence.0)))
                    }
                    None => Ok((Found::Content(content), None)),
                }
            }
            Existing::Backup(reader) => {
                let holds = options.holds.as_ref();
                let holds = holds.ok_or_else(|| Error::internal("what the target holds is not told"))?;
                if let Some(reader) = reader {
                    let content = LocalReader::new(self.project.clone(), reader, self.budget.clone());
                    if !rewind::agrees(&content, self.snapshot, holds, self.progress).await? {
                        return Ok((Found::Content(content), None));
                    }
                }
                let changes = Difference::between(self.project, Some(holds), &self.snapshot.snapshot)?;
                Ok((Found::Since(Box::new(changes)), None))
            }
            Existing::Blank | Existing::Nothing | Existing::Content(_) => Ok((Found::Nothing, None)),
        }
    }
}

/// When it began and what the store had been asked by then.
pub(crate) struct Started {
    at: Instant,
    ledger: Ledger,
}

impl Started {
    pub(crate) fn now(project: &Project) -> Self {
        Self { at: Instant::now(), ledger: project.repository().store().ledger() }
    }

    pub(crate) fn report(
        &self,
        project: &Project,
        snapshot: &SnapshotEntry,
        planned: &Planned,
    ) -> RestoreReport {
        let ledger = project.repository().store().ledger() - self.ledger;
        RestoreReport {
            volume: snapshot.volume_name.clone(),
            sequence: snapshot.snapshot.sequence.0,
            snapshot_id: snapshot.snapshot_id.to_string(),
            size_bytes: snapshot.snapshot.size_bytes,
            dry_run: false,
            totals: planned.totals,
            target_read_bytes: planned.target_read_bytes,
            rewound_from: None,
            verified_bytes: None,
            downloaded_bytes: ledger.downloaded_bytes,
            requests: ledger.requests(),
            ledger,
            seconds: self.at.elapsed().as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests;
