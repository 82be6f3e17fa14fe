//! All of a volume, read and held against a manifest.

use std::ops::Range;

use crate::cancel::{Cancel, interrupted};
use crate::error::Result;
use crate::format::record::Snapshot;
use crate::plan::restore::Local;
use crate::progress::{Outcome, Progress, Step};
use crate::reading::local::LocalReader;
use crate::repo::walk::{Reading, Tree, Walk};
use crate::repo::windows::{Part, Windows};
use crate::units::ChunkIndex;

/// Tells of each chunk, ascending, of which the volume holds something else than the snapshot. What lies beyond its end reads as zeros.
pub(crate) async fn compare(
    local: &LocalReader,
    snapshot: &Snapshot,
    progress: &dyn Progress,
    cancel: &mut Cancel,
    differs: &mut (dyn FnMut(Range<u64>) -> Result<()> + Send),
) -> Result<()> {
    let walk = Walk::over(Reading(local.project.clone()), Tree::of(snapshot)?);
    let mut windows = Windows::compared(walk);
    while let Some(Part { window, .. }) = windows.next().await? {
        let found = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(interrupted()),
            found = local.look(&window) => found?,
        };
        for (index, found) in window.chunks().map(ChunkIndex).zip(found) {
            if found != window.get(index).id().map_or(Local::Zero, Local::Content) {
                differs(window.geometry().range_bytes(index))?;
            }
        }
        let (range, chunks) = (window.range_bytes(), window.chunks());
        progress.step(Step {
            bytes: range.end - range.start,
            chunks: chunks.end - chunks.start,
            outcome: Outcome::Known,
        });
    }
    Ok(())
}
