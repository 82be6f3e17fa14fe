//! Fills a sink with a snapshot: what it lacks is planned ahead, fetched, checked and written. Restores and exports end here.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::budget::Budget;
use crate::cancel::Cancel;
use crate::cpu;
use crate::error::{Error, Result};
use crate::plan::restore::Fetch;
use crate::progress::{Outcome, Progress, Step};
use crate::repo::Project;
use crate::restore::planner::{Planned, Planner};
use crate::restore::{any, ascending};
use crate::sink::{Order, Sink};

/// Chunks of a local store that are read and decoded at once, for each thread that decodes. It answers at once, so more of them
/// would only wait for their turn, and be gone from the CPU's cache when it comes: a restore takes 7 % longer.
const LOCAL_CHUNKS_PER_THREAD: usize = 3;

/// Carries out all that is planned. What was written is right when this fails, and nothing is being written any more to a sink that takes any order.
pub(crate) async fn fill(
    planner: Planner,
    sink: Arc<dyn Sink>,
    progress: Arc<dyn Progress>,
    cancel: &mut Cancel,
) -> Result<Planned> {
    if planner.distrusts_target() {
        let sink = Arc::clone(&sink);
        cpu::block(move || sink.distrust()).await?;
    }
    let order = sink.order();
    let work = Arc::new(Work {
        project: planner.project.clone(),
        sink,
        budget: planner.budget.clone(),
        progress,
        blank: planner.target_is_blank(),
        luks: AtomicBool::new(false),
        ahead: Semaphore::new(chunks_ahead_max(&planner.project)),
    });
    let (sender, mut plans) = mpsc::channel(1);
    // Dropped with this function, whatever ends it.
    let mut planning = JoinSet::new();
    planning.spawn(planner.send(sender));
    match order {
        Order::Any => any::carry_out(&work, &mut plans, cancel).await?,
        Order::Ascending => ascending::carry_out(&work, &mut plans, cancel).await?,
    }
    let planned = match planning.join_next().await {
        Some(Ok(planned)) => planned,
        _ => return Err(Error::internal("the planning task failed")),
    };
    cancel.check()?;
    Ok(planned)
}

/// What all tasks share.
pub(super) struct Work {
    pub(super) project: Project,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) budget: Budget,
    progress: Arc<dyn Progress>,
    /// Whether the target reads as zeros everywhere, so that zeros need not be written.
    pub(super) blank: bool,
    /// Whether it is a LUKS volume, as its first chunk shows; that is fetched before all others.
    pub(super) luks: AtomicBool,
    /// For each chunk from before its objects are read until it is decoded.
    ahead: Semaphore,
}

fn chunks_ahead_max(project: &Project) -> usize {
    match project.repository().store().is_local() {
        true => LOCAL_CHUNKS_PER_THREAD * cpu::threads(),
        false => Semaphore::MAX_PERMITS,
    }
}

impl Work {
    /// Fetches a chunk with all it needs, and decodes it. The caller holds the memory that this takes.
    pub(super) async fn fetch(&self, fetch: &Fetch) -> Result<Vec<u8>> {
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
        let budget = self.budget.clone();
        // Taken on the CPU thread and not sooner: the fewer buffers go around, the more of them the CPU's cache holds.
        self.project.content().fetch_chunk_into(&fetch.chunk, fetch.len_bytes, move || budget.buffer()).await
    }

    pub(super) fn step(&self, bytes: u64, outcome: Outcome) {
        let chunks = bytes.div_ceil(u64::from(self.project.chunk_size_bytes()));
        self.progress.step(Step { bytes, chunks, outcome });
    }

    pub(super) fn kept(&self, range_bytes: &Range<u64>) {
        self.step(range_bytes.end - range_bytes.start, Outcome::Known);
    }
}
