//! Carries plans out on a sink that takes writes at any offset: many chunks in flight, each written when it comes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

use crate::budget::Share;
use crate::cancel::{Cancel, interrupted};
use crate::codec;
use crate::cpu;
use crate::error::{Error, Result};
use crate::plan::restore::{Action, Fetch, Plan};
use crate::progress::Outcome;
use crate::reading::need::fetch_bytes;
use crate::restore::work::Work;
use crate::sink::Existing;
use crate::units::Content;

/// Chunks and ranges in flight, however small they are.
const TASKS_MAX: usize = 256;
/// Threads that write, whatever the sink says.
const WRITERS_MAX: usize = 64;
/// Zeros of this length and at multiples of it are not written to a blank target: a thin volume whose chunks hold little stays
/// thin. The largest unit in which an OSD or a file system takes space; with smaller ones, a chunk would be too many writes.
const HOLE_LEN: usize = 64 << 10;
/// In a LUKS volume zeros of this length, the unit of its encryption and of what an OSD knows to be a hole, are never content: they
/// were not there. librbd shows holes as zeros, and decrypts zeros that are there to noise.
const LUKS_HOLE_LEN: usize = 4 << 10;
/// What a LUKS volume begins with, and a clone's with a key of its own.
const LUKS_MAGICS: [&[u8]; 2] = [b"LUKS\xba\xbe", b"RBDL\xba\xbe"];

/// Carries out all plans that come, then returns. Before it returns an error, no write is under way any more.
pub(super) async fn carry_out(
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
        let mut is_first = true;
        while let Some(plan) = self.until(cancel, plans.recv()).await? {
            let plan = plan?;
            self.work.announce(&plan);
            let mut actions = plan.actions;
            if std::mem::take(&mut is_first) {
                self.look_at_start(cancel, &mut actions).await?;
            }
            for action in actions {
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

    /// Finds out from its first bytes how the volume is to be written, before anything else is.
    async fn look_at_start(&mut self, cancel: &mut Cancel, actions: &mut Vec<Action>) -> Result<()> {
        let start =
            |action: &Action| matches!(action, Action::Fetch(fetch) if fetch.offsets_bytes.contains(&0));
        if let Some(at) = actions.iter().position(start) {
            if let Action::Fetch(fetch) = actions.remove(at) {
                self.fetch(cancel, fetch).await?;
                while self.one_done(cancel).await? {}
            }
            return Ok(());
        }
        // It stays as it is: then the target shows it.
        if let Existing::Content(reader) | Existing::Backup(Some(reader)) = self.work.sink.existing() {
            let mut start = [0; LUKS_MAGICS[0].len()];
            if reader.size_bytes() >= start.len() as u64 {
                let start = cpu::block(move || reader.read_at(0, &mut start).map(|()| start)).await?;
                self.work.luks.store(is_luks(&start), Ordering::Relaxed);
            }
        }
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
    let plain = work.fetch(&fetch).await?;
    if fetch.offsets_bytes.contains(&0) {
        work.luks.store(is_luks(&plain), Ordering::Relaxed);
    }
    let (sink, luks) = (Arc::clone(&work.sink), work.luks.load(Ordering::Relaxed));
    // Zeros that are there are no hole of a LUKS volume.
    let blank = work.blank || (fetch.onto_zeros && !luks);
    let bytes = u64::from(fetch.len_bytes) * fetch.offsets_bytes.len() as u64;
    let plain = write(writers, move || {
        let parts = parts(&plain, luks, blank);
        for &offset in &fetch.offsets_bytes {
            for (range, content) in parts.iter().cloned() {
                let at = offset + range.start as u64;
                match content {
                    Content::Data => sink.write_at(at, &plain[range])?,
                    Content::Zero => sink.zero_at(at, range.len() as u64)?,
                }
            }
        }
        Ok(plain)
    })
    .await?;
    work.budget.give_back(plain);
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

fn is_luks(start: &[u8]) -> bool {
    LUKS_MAGICS.iter().any(|magic| start.starts_with(magic))
}

/// What is written of a chunk, and what is zeroed. To a blank target no zeros need be written that are a hole or may be one.
fn parts(plain: &[u8], luks: bool, blank: bool) -> Vec<(Range<usize>, Content)> {
    let hole_len = match (luks, blank) {
        (true, _) => LUKS_HOLE_LEN,
        (false, true) => HOLE_LEN,
        (false, false) => return std::iter::once((0..plain.len(), Content::Data)).collect(),
    };
    let mut out: Vec<(Range<usize>, Content)> = Vec::new();
    for (at, block) in (0..).step_by(hole_len).zip(plain.chunks(hole_len)) {
        let end = at + block.len();
        let content = if codec::is_zero(block) { Content::Zero } else { Content::Data };
        match out.last_mut() {
            Some((last, of)) if *of == content => last.end = end,
            _ => out.push((at..end, content)),
        }
    }
    if blank {
        out.retain(|(_, content)| *content == Content::Data);
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
        assert_eq!(parts(&plain, false, true), []);
        plain[HOLE_LEN - 1] = 1;
        plain[3 * HOLE_LEN] = 1;
        plain[5 * HOLE_LEN - 1] = 1;
        *plain.last_mut().expect("not empty") = 1;
        let expected = [0..HOLE_LEN, 3 * HOLE_LEN..5 * HOLE_LEN, 9 * HOLE_LEN..plain.len()];
        assert_eq!(parts(&plain, false, true), expected.map(|range| (range, Content::Data)));
        assert_eq!(parts(&plain, false, false), [(0..plain.len(), Content::Data)]);
    }

    /// librbd shows a hole in a LUKS volume as zeros, and decrypts zeros that are there to noise.
    #[test]
    fn holes_of_a_luks_volume_stay_holes() {
        const B: usize = LUKS_HOLE_LEN;
        let mut plain = vec![1; 6 * B + 3];
        plain[B..3 * B].fill(0);
        plain[5 * B..].fill(0);
        // Too short to be one, or not at its place.
        plain[3 * B + 8..5 * B - 8].fill(0);
        let (data, holes) = ([0..B, 3 * B..5 * B], [B..3 * B, 5 * B..6 * B + 3]);
        assert_eq!(parts(&plain, true, true), data.clone().map(|range| (range, Content::Data)));
        let [d0, d1] = data;
        let [h0, h1] = holes;
        let all = [(d0, Content::Data), (h0, Content::Zero), (d1, Content::Data), (h1, Content::Zero)];
        assert_eq!(parts(&plain, true, false), all);
        assert!(
            is_luks(b"LUKS\xba\xbe\0\x02") && is_luks(b"RBDL\xba\xbe") && !is_luks(b"LUKS") && !is_luks(b"")
        );
    }
}
