//! Requests and their answers: several at once, in whatever order they are done.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::exports::Image;
use super::handshake::{Agreed, broken};
use super::output::{Message, Output};
use super::status::descriptors;
use super::wire::reply::{Chunk, simple};
use super::wire::request::{Command, FLAG_DF, FLAG_REQ_ONE, REQUEST_LEN_BYTES, Request};
use super::wire::{Errno, Malformed};
use super::{Limits, READ_LEN_BYTES_MAX};
use crate::budget::{Budget, Share};
use crate::cancel::Cancel;
use crate::error::Error;
use crate::units::{Content, Extent};

/// Requests of one connection that are worked on at once; more wait in the socket.
const REQUESTS_INFLIGHT_MAX: usize = 64;
/// Data is read and sent in pieces of this, aligned to it.
const PIECE_LEN_BYTES: u64 = 1 << 20;
/// Extents that a read learns of at once.
const EXTENTS_MAX: usize = 1024;
/// Pieces that one connection has in memory at most, read but not taken by the client.
const INFLIGHT_BYTES_MAX: u64 = 8 << 20;

/// What answers need.
struct Session<W> {
    agreed: Agreed,
    output: Arc<Output<W>>,
    budget: Budget,
}

/// Answers requests until the client says goodbye, or does what it must not, or the server ends.
pub(super) async fn transmit<R, W>(
    reader: &mut R,
    output: &Arc<Output<W>>,
    agreed: Agreed,
    limits: &Limits,
    mut cancel: Cancel,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let budget = Budget::new(INFLIGHT_BYTES_MAX);
    let session = Arc::new(Session { agreed, output: Arc::clone(output), budget });
    let slots = Arc::new(Semaphore::new(REQUESTS_INFLIGHT_MAX));
    // Dropped, it ends what is in flight: that is how a client that went away is let go.
    let mut inflight = JoinSet::new();
    loop {
        while let Some(done) = inflight.try_join_next() {
            done.map_err(io::Error::other)?;
        }
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            Ok(next_request(reader, limits).await?.map(|request| (slot, request)))
        };
        let (slot, request) = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            () = output.broken() => return Err(io::ErrorKind::BrokenPipe.into()),
            next = next => match next {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(()),
                Err(e) => return Err(e),
            },
        };
        if request.command == Command::Disconnect {
            break;
        }
        if request.command == Command::Write {
            skip(reader, request.length_bytes, limits).await?;
        }
        inflight.spawn(answer(Arc::clone(&session), request, slot));
    }
    let rest = async { while inflight.join_next().await.is_some() {} };
    timeout(limits.stall_timeout, rest).await.map_err(|_| io::ErrorKind::TimedOut)?;
    Ok(())
}

/// The next request; `None` where the client closed the connection between two. It may take its time between them.
async fn next_request<R: AsyncRead + Unpin>(reader: &mut R, limits: &Limits) -> io::Result<Option<Request>> {
    let mut bytes = [0; REQUEST_LEN_BYTES];
    if reader.read(&mut bytes[..1]).await? == 0 {
        return Ok(None);
    }
    timeout(limits.message_timeout, reader.read_exact(&mut bytes[1..]))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    Request::parse(&bytes).map(Some).map_err(broken)
}

/// Reads what was to be written past.
async fn skip<R: AsyncRead + Unpin>(reader: &mut R, length_bytes: u32, limits: &Limits) -> io::Result<()> {
    if length_bytes > READ_LEN_BYTES_MAX {
        return Err(broken(Malformed("a write is longer than any that makes sense")));
    }
    let mut data = reader.take(u64::from(length_bytes));
    let mut nowhere = tokio::io::sink();
    let skipped = tokio::io::copy(&mut data, &mut nowhere);
    match timeout(limits.stall_timeout, skipped).await.map_err(|_| io::ErrorKind::TimedOut)?? {
        skipped if skipped == u64::from(length_bytes) => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn answer<W: AsyncWrite + Unpin + Send>(
    session: Arc<Session<W>>,
    request: Request,
    _slot: OwnedSemaphorePermit,
) {
    let sent = match session.refusal(&request) {
        Some((error, why)) => session.refuse(&request, error, why).await,
        None => match request.command {
            Command::Read if session.agreed.structured => session.read_structured(&request).await,
            Command::Read => session.read_simple(&request).await,
            Command::BlockStatus => session.block_status(&request).await,
            // There is nothing to be flushed, and a hint may be ignored.
            _ => session.output.send(&simple(request.cookie, None), &[]).await,
        },
    };
    // Where the client is gone, the loop that reads from it learns of that too.
    if let Err(e) = sent {
        tracing::debug!("nbd: an answer was not taken: {e}");
    }
}

impl<W: AsyncWrite + Unpin> Session<W> {
    fn image(&self) -> &dyn Image {
        self.agreed.opened.image.as_ref()
    }

    /// Why a request is refused, before anything is read.
    fn refusal(&self, request: &Request) -> Option<(Errno, &'static str)> {
        let known_flags = match request.command {
            Command::Write | Command::Trim | Command::WriteZeroes => {
                return Some((Errno::Perm, "a snapshot is read-only"));
            }
            Command::Unknown | Command::Disconnect => return Some((Errno::Inval, "unknown command")),
            Command::BlockStatus if !self.agreed.allocation => {
                return Some((Errno::Inval, "base:allocation was not chosen for this export"));
            }
            Command::Read if self.agreed.structured => FLAG_DF,
            Command::BlockStatus => FLAG_REQ_ONE,
            Command::Read | Command::Flush | Command::Cache => 0,
        };
        if request.flags & !known_flags != 0 {
            return Some((Errno::Inval, "unknown flags"));
        }
        if request.end_within(self.image().size_bytes()).is_none() {
            return Some((Errno::Inval, "it goes beyond the end of the snapshot"));
        }
        let length = request.length_bytes;
        match request.command {
            Command::BlockStatus if length == 0 => Some((Errno::Inval, "an empty range has no status")),
            Command::Read if length > READ_LEN_BYTES_MAX => Some(match self.agreed.structured {
                true => (Errno::Overflow, "at most 32 MiB are read at once"),
                false => (Errno::Inval, "at most 32 MiB are read at once"),
            }),
            Command::Read if request.flags & FLAG_DF != 0 && u64::from(length) > PIECE_LEN_BYTES => {
                Some((Errno::Overflow, "at most 1 MiB is sent in one piece"))
            }
            _ => None,
        }
    }

    async fn refuse(&self, request: &Request, error: Errno, why: &str) -> io::Result<()> {
        let reply = match self.agreed.structured {
            true => Chunk::Error(error, why).bytes(request.cookie, true),
            false => simple(request.cookie, Some(error)),
        };
        self.output.send(&reply, &[]).await
    }

    /// Says that the bytes are not to be had. The operator reads why in the log, the client's user where it shows it.
    async fn fail(&self, request: &Request, at: u64, error: &Error) -> io::Result<()> {
        tracing::warn!("nbd: {} at offset {at}: {error}", self.agreed.opened.name);
        let reply = match self.agreed.structured {
            true => Chunk::ErrorAt(Errno::Io, error.message(), at).bytes(request.cookie, true),
            false => simple(request.cookie, Some(Errno::Io)),
        };
        self.output.send(&reply, &[]).await
    }

    /// Room for a piece, until the client has taken it.
    async fn room(&self, length_bytes: u64) -> io::Result<Share> {
        self.budget.take(length_bytes).await.map_err(io::Error::other)
    }

    /// Holes as holes, data piece by piece.
    async fn read_structured(&self, request: &Request) -> io::Result<()> {
        let mut at = request.offset_bytes;
        let end = at.saturating_add(u64::from(request.length_bytes));
        if at == end {
            return self.output.send(&Chunk::None.bytes(request.cookie, true), &[]).await;
        }
        if request.flags & FLAG_DF != 0 {
            return self.read_unfragmented(request).await;
        }
        while at < end {
            let extents = match self.image().extents(at, end - at, EXTENTS_MAX).await {
                Ok(extents) => extents,
                Err(e) => return self.fail(request, at, &e).await,
            };
            for extent in extents {
                at = extent.offset_bytes.saturating_add(extent.length_bytes);
                if let Err((at, e)) = self.send_extent(request.cookie, extent, at == end).await? {
                    return self.fail(request, at, &e).await;
                }
            }
        }
        Ok(())
    }

    /// All of it as one piece of data, of which [`Session::refusal`] saw to it that it is no longer than others.
    async fn read_unfragmented(&self, request: &Request) -> io::Result<()> {
        let Request { cookie, offset_bytes, length_bytes, .. } = *request;
        let _room = self.room(u64::from(length_bytes)).await?;
        match self.image().read(offset_bytes, length_bytes as usize).await {
            Ok(data) => {
                let chunk = Chunk::Data { offset_bytes, length_bytes };
                self.output.send(&chunk.bytes(cookie, true), &data).await
            }
            Err(e) => self.fail(request, offset_bytes, &e).await,
        }
    }

    /// Sends one extent; or says where it could not be read. Its chunks are the last of the reply where it is the last.
    async fn send_extent(
        &self,
        cookie: u64,
        extent: Extent,
        is_last: bool,
    ) -> io::Result<Result<(), (u64, Error)>> {
        let Extent { offset_bytes, length_bytes, content } = extent;
        let end = offset_bytes.saturating_add(length_bytes);
        if content == Content::Zero {
            // No longer than the request, whose length is a u32.
            let hole = Chunk::Hole { offset_bytes, length_bytes: length_bytes as u32 };
            self.output.send(&hole.bytes(cookie, is_last), &[]).await?;
            return Ok(Ok(()));
        }
        for (at, len) in pieces(offset_bytes, end) {
            let _room = self.room(len as u64).await?;
            let data = match self.image().read(at, len).await {
                Ok(data) => data,
                Err(e) => return Ok(Err((at, e))),
            };
            let chunk = Chunk::Data { offset_bytes: at, length_bytes: len as u32 };
            let is_last = is_last && at + len as u64 == end;
            self.output.send(&chunk.bytes(cookie, is_last), &data).await?;
        }
        Ok(Ok(()))
    }

    /// A header that says all is well, then all the data. What fails behind the header ends the connection, as there is
    /// no other way to say so; so a read of one piece is read before its header is sent.
    async fn read_simple(&self, request: &Request) -> io::Result<()> {
        let end = request.offset_bytes.saturating_add(u64::from(request.length_bytes));
        // Kept for all pieces: who holds the output must not wait for room that others hold who wait for the output.
        let _room = self.room(PIECE_LEN_BYTES.min(u64::from(request.length_bytes))).await?;
        let mut message = None;
        for (at, len) in pieces(request.offset_bytes, end) {
            let data = match self.image().read(at, len).await {
                Ok(data) => data,
                Err(e) if message.is_none() => return self.fail(request, at, &e).await,
                Err(e) => {
                    tracing::warn!("nbd: {} at offset {at}: {e}", self.agreed.opened.name);
                    return Err(io::Error::other(e));
                }
            };
            let mut under_way = match message {
                Some(message) => message,
                None => self.begin_simple(request).await?,
            };
            under_way.write(&data).await?;
            message = Some(under_way);
        }
        match message {
            Some(message) => message.end().await,
            None => self.output.send(&simple(request.cookie, None), &[]).await,
        }
    }

    async fn begin_simple(&self, request: &Request) -> io::Result<Message<'_, W>> {
        let mut message = self.output.begin().await?;
        message.write(&simple(request.cookie, None)).await?;
        Ok(message)
    }

    async fn block_status(&self, request: &Request) -> io::Result<()> {
        let is_one = request.flags & FLAG_REQ_ONE != 0;
        match descriptors(self.image(), request.offset_bytes, request.length_bytes, is_one).await {
            Ok(told) => self.output.send(&Chunk::BlockStatus(&told).bytes(request.cookie, true), &[]).await,
            Err(e) => self.fail(request, request.offset_bytes, &e).await,
        }
    }
}

/// Offsets and lengths of the pieces of a range, which end at multiples of a piece's length.
fn pieces(start: u64, end: u64) -> impl Iterator<Item = (u64, usize)> {
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let next = (at - at % PIECE_LEN_BYTES).saturating_add(PIECE_LEN_BYTES).min(end);
        let piece = (at, (next - at) as usize);
        at = next;
        Some(piece)
    })
}
