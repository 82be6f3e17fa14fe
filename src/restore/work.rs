//! What all tasks of a restore share.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Semaphore;

use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::format::page::{ObjectRef, PageRef};
use crate::plan::restore::{Action, Fetch, Plan};
use crate::progress::{Outcome, Progress, Step};
use crate::repo::Project;
use crate::repo::neighbours::Neighbours;
use crate::sink::Sink;

pub(super) struct Work {
    pub(super) project: Project,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) budget: Budget,
    pub(super) neighbours: Neighbours,
    pub(super) progress: Arc<dyn Progress>,
    /// Whether the target reads as zeros everywhere, so that zeros need not be written.
    pub(super) blank: bool,
    /// Whether it is a LUKS volume, as its first chunk shows; that is fetched before all others.
    pub(super) luks: AtomicBool,
    /// For each chunk from before its objects are read until it is decoded.
    pub(super) ahead: Semaphore,
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
        if fetch.chunk.is_zero() {
            return Ok(vec![0; fetch.len_bytes as usize]);
        }
        let objects: Vec<ObjectRef> = fetch.chunk.objects().copied().collect();
        let bodies = self.neighbours.get_all(&objects).await?;
        self.project
            .content()
            .decode_chunk(&fetch.chunk, bodies, fetch.len_bytes, move || budget.buffer())
            .await
    }

    /// Looks ahead at what a plan fetches.
    pub(super) fn announce(&self, plan: &Plan) {
        let chunks = plan.actions.iter().filter_map(|action| match action {
            Action::Fetch(fetch) => Some(&fetch.chunk),
            Action::Keep { .. } | Action::Zero { .. } => None,
        });
        self.neighbours.announce(chunks.flat_map(PageRef::objects));
    }

    pub(super) fn step(&self, bytes: u64, outcome: Outcome) {
        let chunks = bytes.div_ceil(u64::from(self.project.chunk_size_bytes()));
        self.progress.step(Step { bytes, chunks, outcome });
    }

    pub(super) fn kept(&self, range_bytes: &Range<u64>) {
        self.step(range_bytes.end - range_bytes.start, Outcome::Known);
    }
}
