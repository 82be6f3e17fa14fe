//! Carries plans out on a sink that takes writes at any offset: many chunks in flight, each written when it comes.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

use crate::cancel::{Cancel, interrupted};
use crate::codec;
use crate::cpu;
use crate::error::{Error, Result};
use crate::plan::restore::{Action, Fetch, Plan};
use crate::progress::Outcome;
use crate::reading::budget::{Share, fetch_bytes};
use crate::restore::Work;

/// Chunks and ranges in flight, however small they are.
const TASKS_MAX: usize = 256;
/// Threads that write, whatever the sink says.
const WRITERS_MAX: usize = 64;
/// Zeros of this length and at multiples of it are not written to a blank target: a thin volume whose chunks hold little stays
/// thin. The largest unit in which an OSD or a file system takes space; with smaller ones, a chunk would be too many writes.
const HOLE_LEN: usize = 64 << 10;

/// Carries out all plans that come, then returns. Before it returns an error, no write is under way any more.
pub(crate) async fn carry_out(
    work: &Arc<Work>,
    plans: &mut mpsc::Receiver<Result<Plan>>,
    cancel: &mut Cancel,
) -> Result<()> {
    let writers_max = work.sink.writes_inflight().clamp(1, WRITERS_MAX);
    let writers = Arc::new(Semaphore::new(writers_max));
    let mut crew = Crew { work: Arc::clone(work), tasks: JoinSet::new(), writers: Arc::clone(&writers) };
    let result = crew.carry_out(plans, cancel).await;
    if result.is_err() {
        crew.tasks.shutdown().await;
        // A thread that writes cannot be called back, but it ends.
        let _all = writers.acquire_many(writers_max as u32).await;
    }
    result
}

struct Crew {
    work: Arc<Work>,
    tasks: JoinSet<Result<()>>,
    writers: Arc<Semaphore>,
}

impl Crew {
    async fn carry_out(
        &mut self,
        plans: &mut mpsc::Receiver<Result<Plan>>,
        cancel: &mut Cancel,
    ) -> Result<()> {
        while let Some(plan) = self.until(cancel, plans.recv()).await? {
            for action in plan?.actions {
                match action {
                    Action::Keep { range_bytes } => self.work.kept(&range_bytes),
                    Action::Zero { range_bytes } => self.zero(cancel, range_bytes).await?,
                    Action::Fetch(fetch) => self.fetch(cancel, fetch).await?,
                }
            }
        }
        while self.one_done(cancel).await? {}
        Ok(())
    }

    async fn zero(&mut self, cancel: &mut Cancel, range_bytes: Range<u64>) -> Result<()> {
        for piece in pieces(range_bytes) {
            self.room(cancel).await?;
            let (work, writers) = (Arc::clone(&self.work), Arc::clone(&self.writers));
            self.tasks.spawn(async move {
                let bytes = piece.end - piece.start;
                let sink = Arc::clone(&work.sink);
                write(&writers, move || sink.zero_at(piece.start, bytes)).await?;
                work.step(bytes, Outcome::Zero);
                Ok(())
            });
        }
        Ok(())
    }

    async fn fetch(&mut self, cancel: &mut Cancel, fetch: Fetch) -> Result<()> {
        self.room(cancel).await?;
        let budget = self.work.budget.clone();
        let bytes = fetch_bytes(&fetch, self.work.project.chunk_size_bytes());
        let share = self.until(cancel, budget.take(bytes)).await??;
        let (work, writers) = (Arc::clone(&self.work), Arc::clone(&self.writers));
        self.tasks.spawn(async move { fetch_and_write(&work, &writers, fetch, share).await });
        Ok(())
    }

    async fn room(&mut self, cancel: &mut Cancel) -> Result<()> {
        cancel.check()?;
        while self.tasks.len() >= TASKS_MAX {
            self.one_done(cancel).await?;
        }
        Ok(())
    }

    /// Waits for a task to end; false when there is none.
    async fn one_done(&mut self, cancel: &mut Cancel) -> Result<bool> {
        let done = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(interrupted()),
            done = self.tasks.join_next() => done,
        };
        done.map_or(Ok(false), |done| settled(done).map(|()| true))
    }

    /// Waits for something, and meanwhile for the failure of a task and the wish to stop.
    async fn until<T>(&mut self, cancel: &mut Cancel, wait: impl Future<Output = T>) -> Result<T> {
        tokio::pin!(wait);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(interrupted()),
                Some(done) = self.tasks.join_next() => settled(done)?,
                value = &mut wait => return Ok(value),
            }
        }
    }
}

async fn fetch_and_write(
    work: &Arc<Work>,
    writers: &Arc<Semaphore>,
    fetch: Fetch,
    share: Share,
) -> Result<()> {
    let buffers = work.fetch(&fetch).await?;
    let (sink, blank) = (Arc::clone(&work.sink), work.blank);
    let bytes = u64::from(fetch.len_bytes) * fetch.offsets_bytes.len() as u64;
    let buffers = write(writers, move || {
        let whole = 0..buffers.plain.len();
        let data = if blank { data_ranges(&buffers.plain) } else { vec![whole] };
        for &offset in &fetch.offsets_bytes {
            for range in &data {
                sink.write_at(offset + range.start as u64, &buffers.plain[range.clone()])?;
            }
        }
        Ok(buffers)
    })
    .await?;
    work.buffers.give(buffers);
    drop(share);
    work.step(bytes, Outcome::New);
    Ok(())
}

/// Runs a write on a blocking thread, which holds one of the writers' permits until it is over, whoever waits.
async fn write<T: Send + 'static>(
    writers: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let writer = Arc::clone(writers).acquire_owned().await;
    let writer = writer.map_err(|_| Error::internal("the writers are closed"))?;
    cpu::block(move || {
        let result = work();
        drop(writer);
        result
    })
    .await
}

fn settled(done: std::result::Result<Result<()>, JoinError>) -> Result<()> {
    done.map_err(|e| Error::internal("a task failed").caused_by(e))?
}

/// All but the zeros that need not be written.
fn data_ranges(plain: &[u8]) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for (at, block) in (0..).step_by(HOLE_LEN).zip(plain.chunks(HOLE_LEN)) {
        let end = at + block.len();
        match out.last_mut() {
            _ if codec::is_zero(block) => {}
            Some(last) if last.end == at => last.end = end,
            _ => out.push(at..end),
        }
    }
    out
}

/// Cuts a range of zeros, so that a restore can be stopped within it and shows its progress.
pub(crate) fn pieces(range_bytes: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    const ZERO_BYTES_MAX: u64 = 1 << 30;
    let end = range_bytes.end;
    (range_bytes.start..end)
        .step_by(ZERO_BYTES_MAX as usize)
        .map(move |start| start..end.min(start.saturating_add(ZERO_BYTES_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_not_zero_is_written_and_no_hole() {
        let mut plain = vec![0; 9 * HOLE_LEN + 10];
        assert_eq!(data_ranges(&plain), []);
        plain[HOLE_LEN - 1] = 1;
        plain[3 * HOLE_LEN] = 1;
        plain[5 * HOLE_LEN - 1] = 1;
        *plain.last_mut().expect("not empty") = 1;
        let expected = [0..HOLE_LEN, 3 * HOLE_LEN..5 * HOLE_LEN, 9 * HOLE_LEN..plain.len()];
        assert_eq!(data_ranges(&plain), expected);
    }
}
