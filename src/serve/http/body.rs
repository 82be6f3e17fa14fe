//! Bodies of answers: a page at once, a volume piece by piece.

use std::ops::Range;
use std::sync::Arc;

use futures::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;

use super::door::Busy;
use crate::error::{Error, Result};
use crate::reading::snapshot::SnapshotReader;

pub(super) type Body = UnsyncBoxBody<Bytes, Error>;

/// Bytes read and sent at once. A connection holds three such pieces at most: read, waiting, and being sent.
const PIECE_BYTES: u64 = 128 << 10;

pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A part of a volume. The first piece is read before this returns, so that a store that is away is told by a status; what
/// fails later cuts the answer short of its announced length.
pub(super) async fn part(reader: Arc<SnapshotReader>, range: Range<u64>, busy: Busy) -> Result<Body> {
    let mut pieces = Pieces { reader, range };
    let Some(first) = pieces.next().await else { return Ok(whole(Bytes::new())) };
    let first = first?;
    let (sender, receiver) = mpsc::channel(1);
    // It reads on whether or not the client takes anything, so it never sits on a chunk; it ends with the receiver.
    tokio::spawn(async move {
        while let Some(piece) = pieces.next().await {
            let failed = piece.is_err();
            if let Err(error) = &piece {
                tracing::warn!(%error, "an answer is cut short");
            }
            if sender.send(piece).await.is_err() || failed {
                return;
            }
        }
    });
    let state = (Some(first), receiver, busy);
    let frames = stream::unfold(state, |(first, mut receiver, busy)| async move {
        let piece = match first {
            Some(first) => Ok(first),
            None => receiver.recv().await?,
        };
        Some((piece.map(Frame::data), (None, receiver, busy)))
    });
    Ok(StreamBody::new(frames).boxed_unsync())
}

struct Pieces {
    reader: Arc<SnapshotReader>,
    range: Range<u64>,
}

impl Pieces {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        // Up to the next multiple: then no piece lies across two chunks.
        let end = (self.range.start / PIECE_BYTES + 1).saturating_mul(PIECE_BYTES).min(self.range.end);
        let len = end.checked_sub(self.range.start).filter(|len| *len > 0)?;
        let read = self.reader.read(self.range.start, len as usize).await;
        self.range.start = end;
        Some(read)
    }
}
