//! Backs up a volume that can be read anywhere: plan the spans, read them with several threads, encode, assemble.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc};

use crate::backup::assemble::{Assembler, Item};
use crate::backup::bases::{self, Wanted, WantedSender};
use crate::backup::encode::{Before, Encoded, Encoder, Found};
use crate::backup::pipeline::{Budget, Held, ItemSender, Line, collect, spawn_thread};
use crate::cancel::{Cancel, interrupted};
use crate::chunker::Span;
use crate::error::{Context, Result};
use crate::format::gc::Condemned;
use crate::plan::delta::Chain;
use crate::repo::manifest::Manifest;
use crate::source::ReadAt;
use crate::units::{ChunkIndex, Geometry};

/// Chunks planned ahead of the readers.
const WORK_AHEAD_MAX: usize = 64;
const FANOUT: u64 = 1024;

/// What is read, and compared with what.
pub struct VolumePlan {
    pub reader: Arc<dyn ReadAt>,
    pub geometry: Geometry,
    pub spans: Vec<Span>,
    /// Unreported chunks to look at all the same.
    pub samples: Vec<ChunkIndex>,
    /// The parent's manifest, or zeros.
    pub before: Arc<Manifest>,
    pub condemned: Arc<Condemned>,
    /// Where new chunks may become deltas.
    pub deltas: Option<Deltas>,
}

/// What deltas are made against.
pub struct Deltas {
    /// The content of the parent's snapshot.
    pub base: Arc<dyn ReadAt>,
    pub depth_max: u8,
}

impl VolumePlan {
    /// Bytes that will be looked at: for the progress bar.
    pub fn total_bytes(&self) -> u64 {
        let span = |s: &Span| {
            let last = ChunkIndex(s.first.0 + s.count - 1);
            self.geometry.range_bytes(last).end - self.geometry.offset_bytes(s.first)
        };
        let samples: u64 = self.samples.iter().map(|i| u64::from(self.geometry.chunk_len_bytes(*i))).sum();
        self.spans.iter().map(span).sum::<u64>() + samples
    }

    /// Bytes that will be read from the source.
    pub fn read_bytes(&self) -> u64 {
        let chunk = u64::from(self.geometry.chunk_size_bytes);
        let read: u64 = self.spans.iter().filter(|s| s.read).map(|s| s.count).sum();
        (read + self.samples.len() as u64) * chunk
    }
}

/// One chunk for a reader.
struct Work {
    index: ChunkIndex,
    before: Option<Before>,
    /// What a delta would stand on.
    chain: Option<Chain>,
    sample: bool,
}

/// Carries out a plan. When it returns, everything that the assembler's manifest names is durable.
pub async fn run(
    plan: Arc<VolumePlan>,
    encoder: Arc<Encoder>,
    budget: Arc<Budget>,
    assembler: &mut Assembler,
    cancel: &mut Cancel,
) -> Result<()> {
    let (items_tx, mut items) = mpsc::unbounded_channel();
    let line = Line { encoder, budget: Arc::clone(&budget), items: items_tx.clone() };
    let wanted = match &plan.deltas {
        Some(deltas) => Some(bases::spawn(&deltas.base, plan.geometry, &line)?),
        None => None,
    };
    let (work_tx, work_rx) = mpsc::channel(WORK_AHEAD_MAX);
    let work_rx = Arc::new(Mutex::new(work_rx));
    let readers = plan.reader.reads_inflight();
    // What is read waits for a CPU thread in few buffers, used again while the processor's cache still holds them.
    let slots = Arc::new(Semaphore::new(readers + rayon::current_num_threads()));
    for n in 0..readers {
        let reader = Reader {
            slots: Arc::clone(&slots),
            plan: Arc::clone(&plan),
            line: line.clone(),
            wanted: wanted.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        let work_rx = Arc::clone(&work_rx);
        spawn_thread(format!("read-{n}"), move || reader.run(&work_rx))?;
    }
    // The items end when the last of these threads does.
    drop((line, wanted));
    let planner = tokio::spawn({
        let plan = Arc::clone(&plan);
        async move {
            if let Err(error) = produce(&plan, &work_tx, &items_tx).await {
                let _ = items_tx.send(Err(error));
            }
        }
    });
    let result = collect(assembler, &mut items, cancel).await;
    if result.is_err() || assembler.distrust.is_some() {
        budget.stop();
    }
    planner.abort();
    result
}

/// Walks the spans leaf by leaf. Chunks known to be zero go straight to the assembler, where the parent has something.
async fn produce(plan: &VolumePlan, work: &mpsc::Sender<Work>, items: &ItemSender) -> Result<()> {
    let mut samples = plan.samples.iter().copied().peekable();
    for span in &plan.spans {
        let end = span.first.0 + span.count;
        let mut index = span.first.0;
        while index < end {
            while let Some(sample) = samples.next_if(|s| s.0 < index) {
                send_read(plan, sample, true, work).await?;
            }
            if !span.read && plan.before.leaf_ref_or_zero(index / FANOUT).await?.is_zero() {
                // A whole leaf of zeros that was zero before, or the part of it within the span.
                let next = ((index / FANOUT + 1) * FANOUT).min(end);
                send_zeros(plan, index, next, items);
                index = next;
                continue;
            }
            if span.read {
                send_read(plan, ChunkIndex(index), false, work).await?;
            } else {
                let before = plan.before.chunk(ChunkIndex(index)).await?;
                let encoded = if before.is_zero() { Encoded::Same } else { Encoded::Zero };
                send_item(plan, ChunkIndex(index), encoded, items);
            }
            index += 1;
        }
    }
    for sample in samples {
        send_read(plan, sample, true, work).await?;
    }
    Ok(())
}

async fn send_read(
    plan: &VolumePlan,
    index: ChunkIndex,
    sample: bool,
    work: &mpsc::Sender<Work>,
) -> Result<()> {
    let before = plan.before.chunk(index).await?;
    let condemned = before.objects().any(|o| plan.condemned.contains(&o.name.id));
    // A chunk whose length changed is another chunk.
    let recut = plan.before.geometry().chunk_len_bytes(index) != plan.geometry.chunk_len_bytes(index);
    let before = (!condemned && !recut).then_some(Before { chunk: before, stands: true });
    let chain = match (&plan.deltas, &before) {
        (Some(deltas), Some(before)) if !sample => Chain::below(&before.chunk, deltas.depth_max),
        _ => None,
    };
    // Closed only when the pipeline stopped; then nobody waits for an answer.
    let _ = work.send(Work { index, before, chain, sample }).await;
    Ok(())
}

fn send_item(plan: &VolumePlan, index: ChunkIndex, encoded: Encoded, items: &ItemSender) {
    let len_bytes = plan.geometry.chunk_len_bytes(index);
    let _ = items.send(Ok(Item { index, len_bytes, encoded, permit: None, sample: false }));
}

fn send_zeros(plan: &VolumePlan, first: u64, end: u64, items: &ItemSender) {
    let last = plan.geometry.range_bytes(ChunkIndex(end - 1));
    let bytes = last.end - plan.geometry.offset_bytes(ChunkIndex(first));
    let encoded = Encoded::StillZero { chunks: end - first, bytes };
    let _ =
        items.send(Ok(Item { index: ChunkIndex(first), len_bytes: 0, encoded, permit: None, sample: false }));
}

struct Reader {
    slots: Arc<Semaphore>,
    plan: Arc<VolumePlan>,
    line: Line,
    wanted: Option<WantedSender>,
    runtime: tokio::runtime::Handle,
}

impl Reader {
    fn run(self, work: &Mutex<mpsc::Receiver<Work>>) {
        loop {
            let next = work.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(next) = next else { return };
            if self.line.budget.is_stopped() {
                return;
            }
            if let Err(error) = self.read(next) {
                let _ = self.line.items.send(Err(error));
                return;
            }
        }
    }

    fn read(&self, work: Work) -> Result<()> {
        let Work { index, before, chain, sample } = work;
        let permits = if chain.is_some() { bases::PERMITS } else { 1 };
        let permit = self.line.budget.acquire(&self.runtime, permits)?;
        let slot =
            self.runtime.block_on(Arc::clone(&self.slots).acquire_owned()).map_err(|_| interrupted())?;
        let geometry = self.plan.geometry;
        let len_bytes = geometry.chunk_len_bytes(index);
        let mut plain = self.line.budget.buffer(len_bytes);
        let offset_bytes = geometry.offset_bytes(index);
        self.plan
            .reader
            .read_at(offset_bytes, &mut plain)
            .context(format!("read {len_bytes} bytes at offset {offset_bytes} of the source"))?;
        let held = Held { index, plain, sample, permit, slot };
        let (line, wanted) = (self.line.clone(), self.wanted.clone());
        rayon::spawn(move || {
            let encoded = match (line.encoder.look(&held.plain, before.as_ref()), chain, wanted) {
                (Found::Settled(encoded), ..) => Ok(encoded),
                // Only now is it worth reading the base, which no CPU thread waits for.
                (Found::New(id), Some(chain), Some(wanted)) => {
                    return wanted.send(Wanted { held, id, chain });
                }
                (Found::New(id), ..) => line.encoder.encode_new(id, &held.plain, None),
            };
            line.pass_on(held, encoded);
        });
        Ok(())
    }
}
