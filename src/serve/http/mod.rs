//! Snapshots over HTTP/1.1, with ranges: what curl, qemu and librbd's migration read.
//!
//! | path | answer |
//! |---|---|
//! | `/VOLUME/SEQ.raw`, `/VOLUME/latest.raw` | the volume's bytes: GET and HEAD, single ranges, strong ETags |
//! | `/VOLUME/SEQ.qcow2`, `/VOLUME/SEQ,SEQ.qcow2` | the same as qcow2, with its holes, and with older snapshots in it |
//! | `/`, `/VOLUME/` | pages for people |
//! | `/index.json` | the same for programs |
//!
//! Each may stand behind `/@TOKEN`. Clients are not trusted: see [`Limits`] for what each may take.

mod access;
mod answer;
mod body;
mod door;
mod listing;
mod page;
pub mod range;
mod steady;
pub mod target;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::cancel::Cancel;
use crate::error::{Error, Result, io_error};
use crate::serve::Shelf;

pub use access::{Access, Token};
pub use tls::Tls;

use answer::Answers;
use door::{Door, Place};
use steady::Steady;

/// After an accept that failed, as when no more files may be open.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// What hyper may hold of one connection, each way.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// What clients may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once, each with one request in flight and at most half a MiB of memory. When they are all taken, the
    /// one that has been idle longest makes room.
    pub connections_max: usize,
    /// Bytes of a request's head.
    pub head_bytes_max: usize,
    /// Header fields of a request.
    pub headers_max: usize,
    /// Time for a whole request head or TLS handshake, the silence before it included.
    pub head_timeout: Duration,
    /// Time in which a client must take something of an answer.
    pub stall_timeout: Duration,
    /// After so long a client that takes next to nothing of its answer makes room, where there is none for another.
    pub patience: Duration,
    /// Time to finish answers when the server stops.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            head_bytes_max: 16 << 10,
            headers_max: 64,
            head_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            patience: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(3),
        }
    }
}

/// Where and for whom.
pub struct HttpOptions {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who may read, and by what that is known.
    pub access: Access,
    /// A certificate and its key; `None` serves without TLS.
    pub tls: Option<Tls>,
    /// Where the same snapshots are served over NBD, for the index page.
    pub nbd: Option<SocketAddr>,
    /// What clients may take, each and together.
    pub limits: Limits,
}

impl HttpOptions {
    /// On this machine alone, at a free port.
    pub fn on_loopback(access: Access) -> Self {
        let listen = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0);
        Self { listen, access, tls: None, nbd: None, limits: Limits::default() }
    }
}

/// A server that listens.
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    answers: Arc<Answers>,
    tls: Option<Tls>,
    limits: Arc<Limits>,
}

impl HttpServer {
    /// Listens; serves nothing yet.
    ///
    /// # Errors
    /// `Invalid` where other machines could read without a token, unless [`Access::Anybody`] says that they may.
    pub async fn bind(shelf: Arc<Shelf>, options: HttpOptions) -> Result<Self> {
        let listen = options.listen;
        if matches!(options.access, Access::ThisMachine) && !listen.ip().is_loopback() {
            return Err(Error::invalid(format!("{listen} can be reached from other machines"))
                .help("ask for a token, or listen on 127.0.0.1"));
        }
        let failed = |e| io_error(format!("listen on {listen}"), e);
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let answers = Arc::new(Answers { shelf, access: options.access, scheme, address, nbd: options.nbd });
        Ok(Self { listener, address, answers, tls: options.tls, limits: Arc::new(options.limits) })
    }

    /// Where it listens: the real port, also where a free one was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:8080`, without a slash at its end.
    pub fn url(&self) -> String {
        format!("{}://{}", self.answers.scheme, self.address)
    }

    /// Serves until cancelled; then answers under way have a moment to finish.
    pub async fn run(self, cancel: Cancel) -> Result<()> {
        let (door, mut stop) = (Door::new(self.limits.connections_max, self.limits.patience), cancel.clone());
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.accept(&door) => accepted,
            };
            let (stream, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let (answers, limits) = (Arc::clone(&self.answers), Arc::clone(&self.limits));
            let (tls, cancel) = (self.tls.clone(), cancel.clone());
            let place = Arc::new(place);
            let known = Arc::clone(&place);
            let task = connections.spawn(async move {
                match tls {
                    None => converse(stream, &answers, &limits, &known, cancel).await,
                    Some(tls) => match timeout(limits.head_timeout, tls.accept(stream)).await {
                        Ok(Ok(stream)) => converse(stream, &answers, &limits, &known, cancel).await,
                        other => tracing::debug!(?other, "a TLS handshake failed"),
                    },
                }
            });
            place.is_of(task);
        }
        drop(self.listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(self.limits.drain_timeout, drained).await;
        connections.shutdown().await;
        Ok(())
    }

    async fn accept(&self, door: &Arc<Door>) -> std::io::Result<(TcpStream, Place)> {
        let (stream, _) = self.listener.accept().await?;
        // Answers are written whole; waiting for more only costs time.
        stream.set_nodelay(true)?;
        Ok((stream, door.enter().await))
    }
}

/// One connection, from its first request to its last.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    answers: &Arc<Answers>,
    limits: &Limits,
    place: &Arc<Place>,
    cancel: Cancel,
) {
    let service = service_fn(|request| {
        let (answers, busy) = (Arc::clone(answers), place.busy());
        async move { Ok::<_, std::convert::Infallible>(answers.answer(&request, busy).await) }
    });
    let io = TokioIo::new(Steady::new(stream, limits.stall_timeout, place.stalled()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_headers(limits.headers_max)
        .max_header_size(limits.head_bytes_max)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(io, service);
    let (mut connection, mut cancel) = (std::pin::pin!(connection), cancel);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
