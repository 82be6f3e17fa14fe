//! The one door from async code to other threads: CPU work goes to rayon, calls that block to threads that may wait.
//!
//! A simulation shuts the door for its own thread ([`inline`]): then nothing runs beside it, and a run can be repeated
//! exactly.

use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rayon::iter::ParallelIterator;
use rayon::slice::ParallelSlice;
use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind, Result};

thread_local! {
    static INLINE: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, [`run`] and [`block`] do their work on the thread that it was made on, at once.
#[derive(Debug)]
pub struct Inline {
    before: bool,
    // Of use on its own thread only.
    _thread: PhantomData<*const ()>,
}

/// Keeps all work of this thread on this thread, for simulations that must replay exactly. Slow, and blocks: for nothing
/// else.
pub fn inline() -> Inline {
    Inline { before: INLINE.replace(true), _thread: PhantomData }
}

impl Drop for Inline {
    fn drop(&mut self) {
        INLINE.set(self.before);
    }
}

/// How much CPU work goes on at once.
pub fn threads() -> usize {
    if INLINE.get() { 1 } else { rayon::current_num_threads() }
}

/// Runs `work` on a CPU thread. `work` must not wait for anything.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if INLINE.get() {
        return work();
    }
    let (answer, wait) = oneshot::channel();
    rayon::spawn(move || {
        // What panics here would end the process, and with it what all others do.
        let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(&*panic)));
        // The asker may be gone; then nobody wants the answer.
        let _ = answer.send(done);
    });
    wait.await.unwrap_or_else(|_| Err(Error::internal("a CPU thread ended without an answer")))
}

/// A panic as an error: a defect, but of one piece of work and not of all.
pub fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let said = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it does not say why");
    Error::internal(format!("this is a defect of cuttle: {said}"))
        .help("please report it, with what standard error says above")
}

/// Runs what blocks (librbd, file systems) away from the async threads. It goes on to its end, whoever waits.
pub async fn block<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if INLINE.get() {
        return work();
    }
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(Error::new(ErrorKind::Internal, "a blocking call ended without an answer").caused_by(e))
    })
}

/// Starts a thread of its own for what waits again and again, and must not take the place of what only blocks once.
pub fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(|_| ()).map_err(|e| Error::unavailable("a thread could not be started").caused_by(e))
}

/// Does `work` with each piece of `bytes` on CPU threads and waits for all: for threads that may wait, not for async
/// code. The last piece may be short.
pub fn pieces<T: Send>(
    bytes: &[u8],
    piece_bytes: usize,
    work: impl Fn(&[u8]) -> Result<T> + Send + Sync,
) -> Result<Vec<T>> {
    match INLINE.get() {
        true => bytes.chunks(piece_bytes).map(work).collect(),
        false => bytes.par_chunks(piece_bytes).map(work).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::{block, inline, run};

    async fn where_work_runs() -> [thread::ThreadId; 2] {
        let here = || Ok(thread::current().id());
        [run(here).await.expect("an answer"), block(here).await.expect("an answer")]
    }

    #[tokio::test]
    async fn what_panics_fails_alone() {
        let error = run(|| -> crate::error::Result<()> { panic!("at {}", 7) }).await.expect_err("a panic");
        assert_eq!(error.kind(), crate::error::ErrorKind::Internal);
        assert!(error.message().contains("at 7"), "{error}");
        run(|| Ok(())).await.expect("the next one is served");
    }

    #[tokio::test]
    async fn work_stays_here_while_the_door_is_shut_and_only_then() {
        let here = thread::current().id();
        assert!(where_work_runs().await.iter().all(|id| *id != here));
        {
            let _outer = inline();
            drop(inline());
            assert_eq!(where_work_runs().await, [here; 2]);
        }
        assert!(where_work_runs().await.iter().all(|id| *id != here));
    }
}
