//! Reads what a plan says of a volume that can be read anywhere: many chunks at once, each encoded where it was read.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::backup::delta::{Below, fetch_joined, memory_chunks};
use crate::backup::encode::{Before, Encoded, Encoder, Found};
use crate::backup::fetched::Fetched;
use crate::backup::manifest::Draft;
use crate::backup::plan::ChunkPlan;
use crate::backup::store::{Item, Storer};
use crate::budget::{Budget, shrink};
use crate::cancel::{Cancel, interrupted};
use crate::cpu;
use crate::error::{Context, Error, Result};
use crate::format::REFS_PER_PAGE;
use crate::plan::delta::Chain;
use crate::repo::forbidden::Forbidden;
use crate::repo::manifest::Manifest;
use crate::source::ReadAt;
use crate::units::{ChunkId, ChunkIndex};

/// Chunks planned ahead of the readers.
const WORK_AHEAD_MAX: usize = 64;
const FANOUT: u64 = REFS_PER_PAGE as u64;

/// What is read, and compared with what.
pub(super) struct Reading {
    pub plan: Arc<ChunkPlan>,
    pub source: Arc<dyn ReadAt>,
    /// The parent's manifest, or zeros.
    pub before: Arc<Manifest>,
    pub forbidden: Arc<Forbidden>,
    /// Where new chunks may become deltas.
    pub deltas: Option<Deltas>,
    pub budget: Budget,
}

/// What deltas are made against.
pub(super) struct Deltas {
    /// The content of the parent's snapshot.
    pub base: Content,
    pub depth_max: u8,
}

/// Who has it.
pub(super) enum Content {
    Source(Arc<dyn ReadAt>),
    Repository(Fetched),
}

impl Content {
    fn is_slow(&self) -> bool {
        matches!(self, Self::Repository(fetched) if fetched.is_slow())
    }
}

/// What a look for a base comes to.
enum BaseContent {
    There(Vec<u8>),
    /// The source's is not what the repository has.
    TooShort,
    /// The repository has lost it.
    Lost,
}

/// One chunk for a reader.
struct Work {
    index: ChunkIndex,
    before: Option<Before>,
    /// What a delta would stand on.
    chain: Option<Chain>,
    sample: bool,
}

/// Items from the readers. Unbounded, as the budget bounds what can be in it.
type ItemSender = mpsc::UnboundedSender<Result<Item>>;
type Items = mpsc::UnboundedReceiver<Result<Item>>;

/// Reads and stores. When it returns, everything that the draft names is durable, or the source was found wrong.
pub(super) async fn run<D: Draft>(
    reading: Reading,
    storer: &mut Storer<D>,
    cancel: &mut Cancel,
) -> Result<()> {
    let (items_tx, mut items) = mpsc::unbounded_channel();
    let (work_tx, work_rx) = mpsc::channel(WORK_AHEAD_MAX);
    let reads = reading.source.reads_inflight();
    let reading = Arc::new(reading);
    let reader = Reader {
        work: Arc::new(Mutex::new(work_rx)),
        reads: Arc::new(Semaphore::new(reads)),
        reading: Arc::clone(&reading),
        encoder: Arc::clone(&storer.encoder),
        items: items_tx.clone(),
    };
    // Dropped with this function, whatever ends it.
    let mut tasks = JoinSet::new();
    // What is read waits for a CPU thread in few buffers, used again while the processor's cache still holds them.
    for _ in 0..reads + cpu::threads() {
        tasks.spawn(reader.clone().run());
    }
    drop(reader);
    tasks.spawn(async move {
        if let Err(error) = produce(&reading, &work_tx, &items_tx).await {
            let _ = items_tx.send(Err(error));
        }
    });
    collect(storer, &mut items, cancel).await?;
    if storer.distrust.is_some() {
        return Ok(());
    }
    // All items came, unless a task ended without sending its own.
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|e| Error::internal("a task of the backup failed").caused_by(e))?;
    }
    Ok(())
}

/// Takes items until all senders are gone, and waits for the uploads.
async fn collect<D: Draft>(storer: &mut Storer<D>, items: &mut Items, cancel: &mut Cancel) -> Result<()> {
    let mut more = true;
    while more || !storer.uploads.is_empty() {
        // What is stored makes room for more, so it goes first; it is never more than came in.
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(interrupted()),
            Some(durable) = storer.uploads.next(), if !storer.uploads.is_empty() => storer.stored(durable?).await?,
            item = items.recv(), if more => match item {
                Some(item) => storer.accept(item?).await?,
                None => {
                    more = false;
                    storer.flush();
                }
            },
        }
        // A source that misses changes: there is no point in going on with this plan.
        if storer.distrust.is_some() {
            return Ok(());
        }
    }
    Ok(())
}

/// Walks the spans leaf by leaf. Chunks known to be zero go straight to be stored, where the parent has something.
async fn produce(reading: &Reading, work: &mpsc::Sender<Work>, items: &ItemSender) -> Result<()> {
    let plan = &reading.plan;
    let mut samples = plan.sample.iter().copied().peekable();
    for span in &plan.spans {
        let end = span.first.0 + span.count;
        let mut index = span.first.0;
        while index < end {
            while let Some(sample) = samples.next_if(|s| s.0 < index) {
                send_read(reading, sample, true, work).await?;
            }
            if !span.read && reading.before.leaf_ref_or_zero(index / FANOUT).await?.is_zero() {
                // A whole leaf of zeros that was zero before, or the part of it within the span.
                let next = ((index / FANOUT + 1) * FANOUT).min(end);
                send_zeros(plan, index, next, items);
                index = next;
                continue;
            }
            if span.read {
                send_read(reading, ChunkIndex(index), false, work).await?;
            } else {
                let before = reading.before.chunk(ChunkIndex(index)).await?;
                let encoded = if before.is_zero() { Encoded::Same } else { Encoded::Zero };
                send_item(plan, ChunkIndex(index), encoded, items);
            }
            index += 1;
        }
    }
    for sample in samples {
        send_read(reading, sample, true, work).await?;
    }
    Ok(())
}

async fn send_read(
    reading: &Reading,
    index: ChunkIndex,
    sample: bool,
    work: &mpsc::Sender<Work>,
) -> Result<()> {
    let before = reading.before.chunk(index).await?;
    let forbidden = reading.forbidden.chunk(&before);
    // A chunk whose length changed is another chunk.
    let recut =
        reading.before.geometry().chunk_len_bytes(index) != reading.plan.geometry.chunk_len_bytes(index);
    let before = (!forbidden && !recut).then_some(Before { chunk: before, stands: true });
    let chain = match (&reading.deltas, &before) {
        (Some(deltas), Some(before)) if !sample && !deltas.base.is_slow() => {
            Chain::below(&before.chunk, deltas.depth_max)
        }
        _ => None,
    };
    // Closed only when the pipeline stopped; then nobody waits for an answer.
    let _ = work.send(Work { index, before, chain, sample }).await;
    Ok(())
}

fn send_item(plan: &ChunkPlan, index: ChunkIndex, encoded: Encoded, items: &ItemSender) {
    let len_bytes = plan.geometry.chunk_len_bytes(index);
    let _ = items.send(Ok(Item { index, len_bytes, encoded, share: None, sample: false }));
}

fn send_zeros(plan: &ChunkPlan, first: u64, end: u64, items: &ItemSender) {
    let last = plan.geometry.range_bytes(ChunkIndex(end - 1));
    let bytes = last.end - plan.geometry.offset_bytes(ChunkIndex(first));
    let encoded = Encoded::StillZero { chunks: end - first, bytes };
    let _ =
        items.send(Ok(Item { index: ChunkIndex(first), len_bytes: 0, encoded, share: None, sample: false }));
}

/// Takes chunks from the source to where they are stored, one after the other.
#[derive(Clone)]
struct Reader {
    work: Arc<Mutex<mpsc::Receiver<Work>>>,
    /// The source is asked for so much at once.
    reads: Arc<Semaphore>,
    reading: Arc<Reading>,
    encoder: Arc<Encoder>,
    items: ItemSender,
}

impl Reader {
    async fn run(self) {
        loop {
            let next = self.work.lock().await.recv().await;
            let Some(next) = next else { return };
            let item = self.item(next).await;
            let failed = item.is_err();
            // Who stores is gone only when the backup failed already.
            let _ = self.items.send(item);
            if failed {
                return;
            }
        }
    }

    async fn item(&self, work: Work) -> Result<Item> {
        let Work { index, before, chain, sample } = work;
        let chunk_bytes = u64::from(self.reading.plan.geometry.chunk_size_bytes);
        // A base that is fetched is there as its objects, too.
        let fetches = matches!(&self.reading.deltas, Some(Deltas { base: Content::Repository(_), .. }));
        let chunks = memory_chunks(chain.as_ref()) + u64::from(fetches && chain.is_some());
        let share = self.reading.budget.take(chunks * chunk_bytes).await?;
        let plain = self.read("the source", &self.reading.source, index).await?;
        let len_bytes = plain.len() as u32;
        let (encoder, wants_base) = (Arc::clone(&self.encoder), chain.is_some());
        let (plain, found) = cpu::run(move || {
            let found = match encoder.look(&plain, before.as_ref()) {
                Found::New(id) if !wants_base => Found::Settled(encoder.encode_new(id, &plain, None)?),
                found => found,
            };
            Ok((plain, found))
        })
        .await?;
        let (plain, encoded) = match (found, chain) {
            (Found::Settled(encoded), _) => (plain, encoded),
            // Only now is it worth reading the base.
            (Found::New(id), Some(chain)) => self.against_base(index, id, plain, chain).await?,
            (Found::New(_), None) => return Err(Error::internal("a new chunk was not encoded")),
        };
        self.reading.budget.give_back(plain);
        Ok(Item { index, len_bytes, encoded, share: Some(shrink(share, chunk_bytes)), sample })
    }

    /// Encodes a new chunk against what the parent has in its place. Gives the chunk's buffer back.
    async fn against_base(
        &self,
        index: ChunkIndex,
        id: ChunkId,
        plain: Vec<u8>,
        chain: Chain,
    ) -> Result<(Vec<u8>, Encoded)> {
        let read = self.base(index, plain.len() as u32);
        let joined = fetch_joined(&self.encoder, &chain, plain.len());
        let (base, taken_in) = tokio::try_join!(read, joined)?;
        let (encoder, budget) = (Arc::clone(&self.encoder), self.reading.budget.clone());
        cpu::run(move || {
            let base_plain = match base {
                BaseContent::There(base_plain) => base_plain,
                BaseContent::TooShort => return Ok((plain, Encoded::BaseDiffers)),
                BaseContent::Lost => {
                    let encoded = encoder.encode_new(id, &plain, None)?;
                    return Ok((plain, encoded));
                }
            };
            if !encoder.is_base(&chain, &base_plain) {
                return Ok((plain, Encoded::BaseDiffers));
            }
            let below = taken_in.map(|taken_in| Below { chain, plain: base_plain, taken_in });
            let encoded = encoder.encode_new(id, &plain, below.as_ref())?;
            budget.give_back(below.map(|below| below.plain).unwrap_or_default());
            Ok((plain, encoded))
        })
        .await
    }

    /// What the parent has in a chunk's place.
    async fn base(&self, index: ChunkIndex, len_bytes: u32) -> Result<BaseContent> {
        let end = self.reading.plan.geometry.range_bytes(index).end;
        match self.reading.deltas.as_ref().map(|deltas| &deltas.base) {
            Some(Content::Source(base)) if base.size_bytes() >= end => {
                self.read("the base", base, index).await.map(BaseContent::There)
            }
            Some(Content::Source(_)) | None => Ok(BaseContent::TooShort),
            Some(Content::Repository(fetched)) => {
                Ok(fetched.chunk(index, len_bytes).await?.map_or(BaseContent::Lost, BaseContent::There))
            }
        }
    }

    async fn read(&self, what: &'static str, reader: &Arc<dyn ReadAt>, index: ChunkIndex) -> Result<Vec<u8>> {
        let _turn = self.reads.acquire().await.map_err(|_| interrupted())?;
        let geometry = self.reading.plan.geometry;
        let (offset_bytes, len_bytes) = (geometry.offset_bytes(index), geometry.chunk_len_bytes(index));
        let (reader, mut plain) = (Arc::clone(reader), self.reading.budget.buffer());
        cpu::block(move || {
            plain.resize(len_bytes as usize, 0);
            reader
                .read_at(offset_bytes, &mut plain)
                .context(format!("read {len_bytes} bytes at offset {offset_bytes} of {what}"))?;
            Ok(plain)
        })
        .await
    }
}
