//! Reads all of a target again once a restore has ended, and holds it against the manifest: that it is the snapshot, not only
//! that what was written to it is.

use std::sync::Arc;

use crate::cancel::{Cancel, interrupted};
use crate::cpu;
use crate::error::{Error, Result};
use crate::plan::restore::Local;
use crate::progress::{Outcome, Step};
use crate::reading::local::LocalReader;
use crate::reading::windows::Windows;
use crate::repo::log::SnapshotEntry;
use crate::repo::manifest::Manifest;
use crate::restore::Work;
use crate::units::ChunkIndex;

/// How many bytes were read again, and are the snapshot's: all of it.
///
/// # Errors
/// `Corrupt` where the target is not the snapshot.
pub(crate) async fn check(work: &Work, snapshot: &SnapshotEntry, cancel: &mut Cancel) -> Result<u64> {
    let sink = Arc::clone(&work.sink);
    let reader = cpu::block(move || sink.read_back()).await?;
    let (size_bytes, found_bytes) = (snapshot.snapshot.size_bytes, reader.size_bytes());
    if found_bytes < size_bytes {
        return Err(differs(format!("it ends at {found_bytes} of {size_bytes} bytes")));
    }
    work.progress.phase("verify", Some(size_bytes));
    let local = LocalReader::new(work.project.clone(), reader, work.budget.clone());
    let mut windows = Windows::new(Manifest::of(&work.project, &snapshot.snapshot)?, true);
    while let Some(window) = windows.next().await? {
        let found = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(interrupted()),
            found = local.look(&window) => found?,
        };
        for (index, found) in window.chunks().map(ChunkIndex).zip(found) {
            if found != window.get(index).id().map_or(Local::Zero, Local::Content) {
                let at = window.geometry().offset_bytes(index);
                return Err(differs(format!("at offset {at} it holds something else")));
            }
        }
        let (range, chunks) = (window.range_bytes(), window.chunks());
        work.progress.step(Step {
            bytes: range.end - range.start,
            chunks: chunks.end - chunks.start,
            outcome: Outcome::Known,
        });
    }
    Ok(local.read_bytes())
}

fn differs(how: String) -> Error {
    Error::corrupt(format!("the target is not what was restored: {how}")).help(
        "something else writes to it, its storage is faulty, or what it said of its changes was wrong; restore again with \
         --no-rewind, and find out which",
    )
}
