//! A read-only NBD server: fixed newstyle, structured replies, `base:allocation`.
//!
//! | file | what it is |
//! |---|---|
//! | `wire/` | messages to and from bytes |
//! | `exports.rs`, `snapshots.rs` | what is served, as the server sees it, and as it is |
//! | `handshake.rs` | until a client has chosen an export |
//! | `transmission.rs`, `status.rs` | its requests, and the answers |
//! | `output.rs` | the way back to the client |
//!
//! No client can hold up another. What each may take is limited: time for a handshake and for each message, requests
//! at once, bytes read but not taken, and the number of connections on either side of the handshake.

pub mod exports;
mod handshake;
mod listener;
mod output;
mod snapshots;
mod status;
mod transmission;
pub mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cancel::Cancel;
use exports::Exports;
use handshake::Offer;
pub use listener::Listener;
use output::Output;

/// Longest read ("Size constraints": what clients expect to be able to ask for).
const READ_LEN_BYTES_MAX: u32 = 32 << 20;
/// Most requests come in one packet.
const READ_BUFFER_BYTES: usize = 8 << 10;
/// How long to wait when the machine has no more files to accept a connection with.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What clients may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections that have not chosen an export yet. One more waits.
    pub handshakes_max: usize,
    /// Connections that read. One more is turned away. Each may hold 8 MiB.
    pub connections_max: usize,
    /// For a whole handshake, pauses included.
    pub handshake_timeout: Duration,
    /// From the first byte of a message to its last.
    pub message_timeout: Duration,
    /// For a client to take anything of what it asked for.
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes_max: 128,
            connections_max: 64,
            handshake_timeout: Duration::from_secs(60),
            message_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(60),
        }
    }
}

/// Serves until cancelled; then what was asked for is still answered. Clients that go away or misbehave are only logged.
pub async fn serve(listener: Listener, exports: Arc<dyn Exports>, limits: Limits, mut cancel: Cancel) {
    let server = Arc::new(Server {
        exports,
        handshakes: Arc::new(Semaphore::new(limits.handshakes_max)),
        seats: Arc::new(Semaphore::new(limits.connections_max)),
        limits,
        cancel: cancel.clone(),
    });
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let slot = Arc::clone(&server.handshakes).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((slot, listener.accept().await?))
        };
        let next = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            next = next => next,
        };
        match next {
            Ok((slot, (reader, writer))) => {
                let server = Arc::clone(&server);
                connections.spawn(async move { server.attend(reader, writer, slot).await });
            }
            Err(e) => {
                tracing::debug!("nbd: accept: {e}");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

struct Server {
    exports: Arc<dyn Exports>,
    limits: Limits,
    handshakes: Arc<Semaphore>,
    seats: Arc<Semaphore>,
    cancel: Cancel,
}

impl Server {
    async fn attend<R, W>(&self, reader: R, writer: W, slot: OwnedSemaphorePermit)
    where
        R: AsyncRead + Unpin + Send,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let output = Arc::new(Output::new(writer, self.limits.stall_timeout));
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
        if let Err(e) = self.talk(&mut reader, &output, slot).await {
            tracing::debug!("nbd: a client was left: {e}");
        }
        output.close().await;
    }

    async fn talk<R, W>(
        &self,
        reader: &mut R,
        output: &Arc<Output<W>>,
        slot: OwnedSemaphorePermit,
    ) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let mut cancel = self.cancel.clone();
        let offer = Offer { exports: self.exports.as_ref(), seats: &self.seats };
        let haggled = handshake::haggle(reader, output, offer, &self.limits);
        let agreed = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            agreed = timeout(self.limits.handshake_timeout, haggled) => {
                agreed.map_err(|_| io::ErrorKind::TimedOut)??
            }
        };
        let Some(agreed) = agreed else { return Ok(()) };
        drop(slot);
        transmission::transmit(reader, output, agreed, &self.limits, cancel).await
    }
}
