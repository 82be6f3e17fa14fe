//! A connection whose peer must take what is written to it, now and then.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A client that was waited for keeps being so until it took this much: one byte now and then is no progress.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Since when a client takes next to nothing of what is written to it; `None` while it does, or nothing is to be written.
#[derive(Debug, Clone, Default)]
pub(super) struct Stalled(Arc<Mutex<Option<Instant>>>);

impl Stalled {
    pub(super) fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    pub(super) fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Fails with `TimedOut` when a write has waited for `stall_timeout` without a byte taken.
pub(super) struct Steady<T> {
    inner: T,
    stall_timeout: Duration,
    /// Since when a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    stalled: Stalled,
    /// Taken since the client was first waited for.
    taken_bytes: u64,
}

impl<T> Steady<T> {
    pub(super) fn new(inner: T, stall_timeout: Duration, stalled: Stalled) -> Self {
        Self { inner, stall_timeout, waiting: None, stalled, taken_bytes: 0 }
    }

    fn taken(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => {
                self.taken_bytes += *bytes as u64;
                if self.taken_bytes >= PROGRESS_BYTES {
                    self.stalled.end();
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                if self.stalled.since().is_none() {
                    self.taken_bytes = 0;
                }
                self.stalled.begin();
            }
        }
        written
    }

    fn watch<R>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let stall_timeout = self.stall_timeout;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(stall_timeout)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Steady<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Steady<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, buf);
        let written = this.taken(written);
        this.watch(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        let written = this.taken(written);
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.watch(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.watch(cx, shut)
    }
}
