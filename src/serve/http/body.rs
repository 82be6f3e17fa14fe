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
use crate::serve::qcow2::Qcow2;

pub(super) type Body = UnsyncBoxBody<Bytes, Error>;

/// Bytes read and sent at once. A connection holds three such pieces at most: read, waiting, and being sent.
const PIECE_BYTES: u64 = 128 << 10;

pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// What is read piece by piece.
pub(super) enum File {
    Raw(Arc<SnapshotReader>),
    Qcow2(Qcow2),
}

impl File {
    pub(super) fn size_bytes(&self) -> u64 {
        match self {
            Self::Raw(reader) => reader.size_bytes(),
            Self::Qcow2(file) => file.size_bytes(),
        }
    }

    async fn read(&self, offset_bytes: u64, len_bytes: usize) -> Result<Bytes> {
        match self {
            Self::Raw(reader) => reader.read(offset_bytes, len_bytes).await,
            Self::Qcow2(file) => file.read(offset_bytes, len_bytes).await,
        }
    }
}

/// A part of a file. The first piece is read before this returns, so that a store that is away is told by a status; what
/// fails later cuts the answer short of its announced length.
pub(super) async fn part(file: File, range: Range<u64>, busy: Busy) -> Result<Body> {
    let mut pieces = Pieces { file, range };
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
    file: File,
    range: Range<u64>,
}

impl Pieces {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        // Up to the next multiple: then no piece lies across two chunks.
        let end = (self.range.start / PIECE_BYTES + 1).saturating_mul(PIECE_BYTES).min(self.range.end);
        let len = end.checked_sub(self.range.start).filter(|len| *len > 0)?;
        let read = self.file.read(self.range.start, len as usize).await;
        self.range.start = end;
        Some(read)
    }
}
