//! Carries plans out on a sink that takes writes in order only: chunks are fetched ahead and wait for their turn.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use crate::budget::Share;
use crate::cancel::{Cancel, interrupted};
use crate::cpu;
use crate::error::{Error, Result};
use crate::plan::restore::{Action, Plan};
use crate::progress::Outcome;
use crate::reading::need::fetch_bytes;
use crate::restore::any::pieces;
use crate::restore::work::Work;

/// Pieces that may wait for their turn.
const QUEUE_LEN_MAX: usize = 4096;

/// Carries out all plans that come, then returns.
///
/// A chunk that belongs at several offsets is fetched once where the memory in flight reaches from one to the next,
/// otherwise again.
pub(super) async fn carry_out(
    work: &Arc<Work>,
    plans: &mut mpsc::Receiver<Result<Plan>>,
    cancel: &mut Cancel,
) -> Result<()> {
    loop {
        let plan = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(interrupted()),
            plan = plans.recv() => plan,
        };
        let Some(plan) = plan else { return Ok(()) };
        let plan = plan?;
        work.announce(&plan);
        Line::new(work, plan).carry_out(cancel).await?;
    }
}

/// One piece of the volume, in the order of offsets.
enum Piece {
    Keep(Range<u64>),
    Zero(Range<u64>),
    /// The action that fetches it, and where it belongs.
    Chunk(usize, u64),
}

/// A chunk that pieces in the queue need.
#[derive(Default)]
struct Slot {
    /// Pieces in the queue that need it.
    queued: usize,
    loaded: Option<Loaded>,
}

struct Loaded {
    plain: Vec<u8>,
    _share: Share,
}

struct Line {
    work: Arc<Work>,
    plan: Plan,
    queue: VecDeque<Piece>,
    slots: HashMap<usize, Slot>,
    tasks: JoinSet<Result<(usize, Loaded)>>,
}

impl Line {
    fn new(work: &Arc<Work>, plan: Plan) -> Self {
        let (queue, slots) = (VecDeque::new(), HashMap::new());
        Self { work: Arc::clone(work), plan, queue, slots, tasks: JoinSet::new() }
    }

    async fn carry_out(mut self, cancel: &mut Cancel) -> Result<()> {
        for piece in in_order(&self.plan) {
            while self.queue.len() >= QUEUE_LEN_MAX {
                self.write_first(cancel).await?;
            }
            if let Piece::Chunk(action, _) = piece {
                self.order(action, cancel).await?;
            }
            self.queue.push_back(piece);
        }
        while !self.queue.is_empty() {
            self.write_first(cancel).await?;
        }
        Ok(())
    }

    /// Begins to fetch a chunk, unless a piece in the queue did. Where there is no memory left, the queue moves on.
    async fn order(&mut self, action: usize, cancel: &mut Cancel) -> Result<()> {
        let Some(Action::Fetch(fetch)) = self.plan.actions.get(action) else {
            return Err(Error::internal("a piece of no action"));
        };
        let bytes = fetch_bytes(fetch, self.work.project.chunk_size_bytes());
        let fetch = fetch.clone();
        let share = loop {
            if let Some(slot) = self.slots.get_mut(&action) {
                slot.queued += 1;
                return Ok(());
            }
            match self.work.budget.try_take(bytes) {
                Some(share) => break share,
                None if self.queue.is_empty() => break self.work.budget.take(bytes).await?,
                None => self.write_first(cancel).await?,
            }
        };
        self.slots.insert(action, Slot { queued: 1, loaded: None });
        let work = Arc::clone(&self.work);
        self.tasks.spawn(async move {
            let plain = work.fetch(&fetch).await?;
            Ok((action, Loaded { plain, _share: share }))
        });
        Ok(())
    }

    async fn write_first(&mut self, cancel: &mut Cancel) -> Result<()> {
        cancel.check()?;
        let (sink, work) = (Arc::clone(&self.work.sink), Arc::clone(&self.work));
        match self.queue.pop_front() {
            None => Ok(()),
            Some(Piece::Keep(range)) => {
                work.kept(&range);
                Ok(())
            }
            Some(Piece::Zero(range)) => {
                let bytes = range.end - range.start;
                write(cancel, move || sink.zero_at(range.start, bytes)).await?;
                work.step(bytes, Outcome::Zero);
                Ok(())
            }
            Some(Piece::Chunk(action, offset)) => {
                let loaded = self.loaded(action, cancel).await?;
                let bytes = loaded.plain.len() as u64;
                let loaded = write(cancel, move || {
                    sink.write_at(offset, &loaded.plain)?;
                    Ok(loaded)
                })
                .await?;
                work.step(bytes, Outcome::New);
                match self.slots.get_mut(&action) {
                    Some(slot) if slot.queued > 1 => {
                        slot.queued -= 1;
                        slot.loaded = Some(loaded);
                    }
                    _ => {
                        self.slots.remove(&action);
                        work.budget.give_back(loaded.plain);
                    }
                }
                Ok(())
            }
        }
    }

    /// The chunk of an action, once it has come.
    async fn loaded(&mut self, action: usize, cancel: &mut Cancel) -> Result<Loaded> {
        loop {
            if let Some(loaded) = self.slots.get_mut(&action).and_then(|slot| slot.loaded.take()) {
                return Ok(loaded);
            }
            let done = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(interrupted()),
                done = self.tasks.join_next() => done,
            };
            let (came, loaded) = settled(done)?;
            if let Some(slot) = self.slots.get_mut(&came) {
                slot.loaded = Some(loaded);
            }
        }
    }
}

/// All pieces of a plan by offset.
fn in_order(plan: &Plan) -> Vec<Piece> {
    let mut out = Vec::new();
    for (at, action) in plan.actions.iter().enumerate() {
        match action {
            Action::Keep { range_bytes } => out.push((range_bytes.start, Piece::Keep(range_bytes.clone()))),
            Action::Zero { range_bytes } => {
                out.extend(pieces(range_bytes.clone()).map(|piece| (piece.start, Piece::Zero(piece))));
            }
            Action::Fetch(fetch) => {
                out.extend(fetch.offsets_bytes.iter().map(|&offset| (offset, Piece::Chunk(at, offset))));
            }
        }
    }
    out.sort_unstable_by_key(|(offset, _)| *offset);
    out.into_iter().map(|(_, piece)| piece).collect()
}

/// Runs a write on a blocking thread. One that its reader holds up is not waited for when the user wants to stop.
async fn write<T: Send + 'static>(
    cancel: &mut Cancel,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(interrupted()),
        written = cpu::block(work) => written,
    }
}

fn settled<T>(done: Option<std::result::Result<Result<T>, JoinError>>) -> Result<T> {
    match done {
        Some(Ok(result)) => result,
        Some(Err(e)) => Err(Error::internal("a task failed").caused_by(e)),
        None => Err(Error::internal("a chunk was waited for that nobody fetches")),
    }
}
