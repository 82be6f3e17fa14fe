//! The way to one client: whole messages, one after the other, and no waiting for one who does not take them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::time::timeout;

/// Messages and the heads of messages are gathered in it; data goes past it.
const BUFFER_BYTES: usize = 16 << 10;

/// Writes messages of many tasks to one client.
pub(super) struct Output<W> {
    writer: Mutex<tokio::io::BufWriter<W>>,
    stall_timeout: Duration,
    is_broken: AtomicBool,
    broke: Notify,
}

impl<W: AsyncWrite + Unpin> Output<W> {
    /// A client that takes nothing for `stall_timeout` is given up.
    pub(super) fn new(writer: W, stall_timeout: Duration) -> Self {
        Self {
            writer: Mutex::new(tokio::io::BufWriter::with_capacity(BUFFER_BYTES, writer)),
            stall_timeout,
            is_broken: AtomicBool::new(false),
            broke: Notify::new(),
        }
    }

    /// Writes a message of two parts.
    pub(super) async fn send(&self, head: &[u8], data: &[u8]) -> io::Result<()> {
        let mut message = self.begin().await?;
        message.write(head).await?;
        message.write(data).await?;
        message.end().await
    }

    /// Begins a message whose parts come later. Nobody else writes before it ends.
    pub(super) async fn begin(&self) -> io::Result<Message<'_, W>> {
        let writer = self.writer.lock().await;
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(Message { output: self, writer, is_whole: false })
    }

    /// Returns when the client cannot be written to any more.
    pub(super) async fn broken(&self) {
        let broke = self.broke.notified();
        if !self.is_broken.load(Ordering::Relaxed) {
            broke.await;
        }
    }

    /// Says that there is no more.
    pub(super) async fn close(&self) {
        let mut writer = self.writer.lock().await;
        // The client may have gone; it is over in any case.
        let _ = timeout(self.stall_timeout, writer.shutdown()).await;
    }
}

/// A message under way. Dropped before its end, the connection is broken: what follows could not be told from it.
pub(super) struct Message<'a, W: AsyncWrite + Unpin> {
    output: &'a Output<W>,
    writer: MutexGuard<'a, tokio::io::BufWriter<W>>,
    is_whole: bool,
}

impl<W: AsyncWrite + Unpin> Message<'_, W> {
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = within(self.output.stall_timeout, self.writer.write(bytes)).await?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    pub(super) async fn end(mut self) -> io::Result<()> {
        within(self.output.stall_timeout, self.writer.flush()).await?;
        self.is_whole = true;
        Ok(())
    }
}

impl<W: AsyncWrite + Unpin> Drop for Message<'_, W> {
    fn drop(&mut self) {
        if !self.is_whole {
            self.output.is_broken.store(true, Ordering::Relaxed);
            self.output.broke.notify_waiters();
        }
    }
}

async fn within<T>(limit: Duration, write: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, write).await.map_err(|_| io::ErrorKind::TimedOut)?
}
