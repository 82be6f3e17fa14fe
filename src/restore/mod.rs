//! Restores a snapshot: plans window by window what the target lacks, fetches it, checks it and writes it.
//!
//! Whatever fails stops the restore. What was written until then is right, so a second run goes on from there. Memory
//! is bounded by [`RestoreOptions::inflight_bytes`], whatever the volume's size: a share is taken before a chunk is
//! fetched and given back when it is written.

mod any;
mod ascending;
pub mod instant;
mod planner;
mod proof;
pub mod rewind;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::budget::Budget;
use crate::cancel::Cancel;
use crate::cpu;
use crate::error::{Context, Error, Result};
use crate::format::CLOSURE_LEN_MAX;
use crate::format::page::ObjectRef;
use crate::plan::restore::{Fetch, Totals};
use crate::progress::{Outcome, Progress, Step};
use crate::reading::explained;
use crate::repo::Project;
use crate::repo::log::SnapshotEntry;
use crate::restore::planner::{Planned, Planner};
use crate::restore::rewind::Rewind;
use crate::sink::{Existing, Order, Sink};
use crate::store::Ledger;

/// Memory in flight unless asked otherwise: more than 16 chunks of 4 MiB, sealed and plain.
pub const INFLIGHT_BYTES_DEFAULT: u64 = 96 << 20;

/// Chunks of a local store that are read and decoded at once, for each thread that decodes. It answers at once, so more of them
/// would only wait for their turn, and be gone from the CPU's cache when it comes: a restore takes 7 % longer.
const LOCAL_CHUNKS_PER_THREAD: usize = 3;

/// How a restore is done.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Bytes in memory at once, of sealed objects and of plaintext together. What one chunk needs is always allowed.
    pub inflight_bytes: u64,
    /// Whether a target that says it is blank is believed. Otherwise zeros are written too.
    pub trust_blank: bool,
    /// Whether what the target holds is read, so that only what differs is fetched. Otherwise everything is.
    pub compare: bool,
    /// A snapshot that the target is known to hold: only what differs from it is fetched, by the pages of both, and the
    /// target is not read. Beyond that snapshot's end the target reads as zeros.
    pub since: Option<SnapshotEntry>,
    /// What is known of the target without reading it; only where it is compared.
    pub rewind: Option<Rewind>,
    /// What it is called in messages: an export is a restore into another format.
    pub doing: &'static str,
    /// Whether all of the target is read again and held against the manifest, before it counts as whole.
    pub verify: bool,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            inflight_bytes: INFLIGHT_BYTES_DEFAULT,
            trust_blank: true,
            compare: true,
            since: None,
            rewind: None,
            doing: "restore",
            verify: false,
        }
    }
}

/// What a restore did, or would do.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreReport {
    pub volume: String,
    pub sequence: u32,
    pub snapshot_id: String,
    pub size_bytes: u64,
    /// Nothing was fetched but metadata, and nothing written.
    pub dry_run: bool,
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
    let planner = Planner::new(project, snapshot, sink.existing(), &options, &*progress, &cancel).await?;
    if planner.distrusts_target() {
        let sink = Arc::clone(&sink);
        cpu::block(move || sink.distrust()).await.context(format!("{} {}", options.doing, name(snapshot)))?;
    }
    progress.phase("restore", Some(snapshot.snapshot.size_bytes));
    let work = Arc::new(Work {
        project: project.clone(),
        sink: Arc::clone(&sink),
        budget: planner.budget.clone(),
        progress: Arc::clone(&progress),
        blank: planner.target_is_blank(),
        luks: AtomicBool::new(false),
        ahead: Semaphore::new(chunks_ahead_max(project)),
    });
    let (sender, mut plans) = mpsc::channel(1);
    // Dropped with this function, whatever ends it.
    let mut planning = JoinSet::new();
    planning.spawn(planner.send(sender));
    let order = sink.order();
    let done = match order {
        Order::Any => any::carry_out(&work, &mut plans, &mut cancel).await,
        Order::Ascending => ascending::carry_out(&work, &mut plans, &mut cancel).await,
    };
    if let Err(error) = done {
        return Err(explained(project, snapshot, error).await.context(format!(
            "{} {}",
            options.doing,
            name(snapshot)
        )));
    }
    let planned = match planning.join_next().await {
        Some(Ok(planned)) => planned,
        _ => return Err(Error::internal("the planning task failed")),
    };
    cancel.check()?;
    let verified_bytes = match options.verify {
        true => Some(
            proof::check(&work, snapshot, &mut cancel)
                .await
                .context(format!("verify what was restored of {}", name(snapshot)))?,
        ),
        false => None,
    };
    cpu::block(move || sink.finish()).await.context(format!("{} {}", options.doing, name(snapshot)))?;
    Ok(RestoreReport { verified_bytes, ..started.report(project, snapshot, &planned, false) })
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
    let mut planner = Planner::new(project, snapshot, existing, &options, &*progress, &cancel).await?;
    progress.phase("plan", Some(snapshot.snapshot.size_bytes));
    let mut totals = Totals::default();
    loop {
        let plan = match planner.next().await {
            Ok(None) => break,
            Ok(Some(plan)) => plan,
            Err(error) => {
                let error = explained(project, snapshot, error).await;
                return Err(error.context(format!("plan {}", name(snapshot))));
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
    Ok(started.report(project, snapshot, &planner.planned(totals), true))
}

/// `volume@sequence`, as a user names a snapshot.
pub(crate) fn name(snapshot: &SnapshotEntry) -> String {
    format!("{}@{}", snapshot.volume_name, snapshot.snapshot.sequence)
}

/// When it began and what the store had been asked by then.
struct Started {
    at: Instant,
    ledger: Ledger,
}

impl Started {
    fn now(project: &Project) -> Self {
        Self { at: Instant::now(), ledger: project.repository().store.ledger() }
    }

    fn report(
        &self,
        project: &Project,
        snapshot: &SnapshotEntry,
        planned: &Planned,
        dry_run: bool,
    ) -> RestoreReport {
        let ledger = project.repository().store.ledger() - self.ledger;
        RestoreReport {
            volume: snapshot.volume_name.clone(),
            sequence: snapshot.snapshot.sequence.0,
            snapshot_id: snapshot.snapshot_id.to_string(),
            size_bytes: snapshot.snapshot.size_bytes,
            dry_run,
            totals: planned.totals,
            target_read_bytes: planned.target_read_bytes,
            rewound_from: planned.rewound_from,
            verified_bytes: None,
            downloaded_bytes: ledger.downloaded_bytes,
            requests: ledger.requests(),
            ledger,
            seconds: self.at.elapsed().as_secs_f64(),
        }
    }
}

/// What all tasks of a restore share.
pub(crate) struct Work {
    project: Project,
    sink: Arc<dyn Sink>,
    budget: Budget,
    progress: Arc<dyn Progress>,
    /// Whether the target reads as zeros everywhere, so that zeros need not be written.
    blank: bool,
    /// Whether it is a LUKS volume, as its first chunk shows; that is fetched before all others.
    luks: AtomicBool,
    /// For each chunk from before its objects are read until it is decoded.
    ahead: Semaphore,
}

fn chunks_ahead_max(project: &Project) -> usize {
    match project.repository().store.is_local() {
        true => LOCAL_CHUNKS_PER_THREAD * cpu::threads(),
        false => Semaphore::MAX_PERMITS,
    }
}

impl Work {
    /// Fetches a chunk with all it needs, and decodes it. The caller holds the memory that this takes.
    async fn fetch(&self, fetch: &Fetch) -> Result<Vec<u8>> {
        let at = fetch.offsets_bytes.first().copied().unwrap_or_default();
        let chunk = || match fetch.chunk.id() {
            Some(id) => format!("chunk {id} at offset {at}"),
            None => format!("zeros at offset {at}"),
        };
        self.open(fetch).await.map_err(|e| {
            let e = e.context(chunk());
            match e.help_text() {
                Some(_) => e,
                None => e.help("nothing wrong was written; run the same command again to go on from here"),
            }
        })
    }

    async fn open(&self, fetch: &Fetch) -> Result<Vec<u8>> {
        let _ahead =
            self.ahead.acquire().await.map_err(|_| Error::internal("nobody reads ahead any more"))?;
        let objects: Vec<ObjectRef> = fetch.chunk.objects().copied().collect();
        let bodies: Vec<_> = stream::iter(objects.clone())
            .map(|object| self.project.get_chunk_object(object))
            .buffered(CLOSURE_LEN_MAX + 1)
            .try_collect()
            .await?;
        let (project, len_bytes, budget) = (self.project.clone(), fetch.len_bytes, self.budget.clone());
        cpu::run(move || {
            // Taken here and not sooner: the fewer buffers go around, the more of them the CPU's cache holds.
            let mut plain = budget.buffer();
            project.open_chunk_into(&objects, &bodies, len_bytes, &mut plain)?;
            Ok(plain)
        })
        .await
    }

    fn step(&self, bytes: u64, outcome: Outcome) {
        let chunks = bytes.div_ceil(u64::from(self.project.chunk_size_bytes()));
        self.progress.step(Step { bytes, chunks, outcome });
    }

    fn kept(&self, range_bytes: &Range<u64>) {
        self.step(range_bytes.end - range_bytes.start, Outcome::Known);
    }
}

#[cfg(test)]
mod tests;
