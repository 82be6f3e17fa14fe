//! Writes the extents of a diff: one thread reads, some write, and little is in between.

use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::cancel::Cancel;
use crate::diff::inspect::Total;
use crate::diff::{DiffEvent, DiffReader};
use crate::error::{Error, Result};
use crate::progress::{Outcome, Progress, Step};
use crate::rbd::Image;
use crate::units::{Content, Extent};

/// Threads that write.
const WRITERS: usize = 8;
/// Pieces that wait for one.
const QUEUE_LEN_MAX: usize = 4;
/// What is written at once; with the queue and the writers this bounds the memory to 52 MiB.
const PIECE_BYTES: u64 = 4 << 20;

enum Piece {
    Data(u64, Vec<u8>),
    Zero(u64, u64),
}

/// Writes all extents of the diff that was begun, and reads the stream to its end. The extents of a diff are disjoint,
/// so they may be written in any order.
pub(super) fn extents<R: Read>(
    image: &Image,
    reader: &mut DiffReader<R>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(Total, Total)> {
    let (sender, receiver) = sync_channel(QUEUE_LEN_MAX);
    let (receiver, failed) = (Mutex::new(receiver), Mutex::new(None));
    let sent = thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| write(image, &receiver, &failed, progress));
        }
        // Moved in, so that the writers see the end whatever ends this.
        send(reader, sender, &mut || {
            cancel.check()?;
            check(&failed)
        })
    });
    check(&failed)?;
    sent
}

/// Reads the diff and hands its pieces on.
fn send<R: Read>(
    reader: &mut DiffReader<R>,
    sender: SyncSender<Piece>,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<(Total, Total)> {
    let mut totals = (Total::default(), Total::default());
    while let Some(event) = reader.next_event()? {
        let DiffEvent::Extent(extent) = event else {
            return Err(Error::internal("a second diff in one stream"));
        };
        let total = if extent.content == Content::Data { &mut totals.0 } else { &mut totals.1 };
        total.extents += 1;
        total.bytes = total.bytes.saturating_add(extent.length_bytes);
        cut(extent, reader, &mut |piece| {
            go_on()?;
            sender.send(piece).map_err(|_| Error::internal("nobody writes any more"))
        })?;
    }
    Ok(totals)
}

/// Cuts an extent into pieces, in order, reading its data.
fn cut<R: Read>(
    extent: Extent,
    reader: &mut DiffReader<R>,
    send: &mut dyn FnMut(Piece) -> Result<()>,
) -> Result<()> {
    if extent.content == Content::Zero {
        return send(Piece::Zero(extent.offset_bytes, extent.length_bytes));
    }
    let mut done = 0;
    while done < extent.length_bytes {
        let mut data = vec![0; (extent.length_bytes - done).min(PIECE_BYTES) as usize];
        let mut filled = 0;
        while filled < data.len() {
            filled += reader.read_data(data.get_mut(filled..).unwrap_or_default())?;
        }
        let offset_bytes = extent.offset_bytes + done;
        done += data.len() as u64;
        send(Piece::Data(offset_bytes, data))?;
    }
    Ok(())
}

fn check(failed: &Mutex<Option<Error>>) -> Result<()> {
    failed.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
}

/// Writes what comes until nothing more does. After a failure it only empties the queue, so that nobody waits.
fn write(
    image: &Image,
    pieces: &Mutex<Receiver<Piece>>,
    failed: &Mutex<Option<Error>>,
    progress: &dyn Progress,
) {
    let mut broken = false;
    loop {
        let piece = pieces.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(piece) = piece else { return };
        if broken {
            continue;
        }
        let (written, step) = match &piece {
            Piece::Data(at, data) => (image.write_at(*at, data), (data.len() as u64, Outcome::New)),
            Piece::Zero(at, len) => (image.zero_at(*at, *len), (*len, Outcome::Zero)),
        };
        match written {
            Ok(()) => progress.step(Step { bytes: step.0, chunks: 1, outcome: step.1 }),
            Err(e) => {
                broken = true;
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
            }
        }
    }
}
