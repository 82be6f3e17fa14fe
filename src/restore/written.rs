//! Reads again what a restore wrote, and holds it against the manifest.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::chunker::{self, Unlisted};
use crate::cpu;
use crate::error::{Error, Result};
use crate::plan::restore::Action;
use crate::reading::changes::Changes;
use crate::reading::local::LocalReader;
use crate::repo::log::SnapshotEntry;
use crate::restore::Work;
use crate::source::Extent;

/// # Errors
/// `Corrupt` where the target does not hold what was written to it.
pub(crate) async fn check(
    work: &Work,
    snapshot: &SnapshotEntry,
    written: &[Extent],
    cancel: &Cancel,
) -> Result<()> {
    let sink = Arc::clone(&work.sink);
    let reader = cpu::block(move || sink.read_back()).await?;
    work.progress.phase("verify", Some(written.iter().map(|e| e.length_bytes).sum()));
    let (project, budget, buffers) = (work.project.clone(), work.budget.clone(), Arc::clone(&work.buffers));
    let local = LocalReader::new(project, reader, budget, buffers);
    // Where nothing was written, the target is believed: it is the snapshot.
    let snapshot = &snapshot.snapshot;
    let spans = chunker::spans(written, snapshot.geometry()?, Unlisted::Unchanged, &BTreeSet::new());
    let mut changes = Changes::between(&work.project, Some(snapshot), snapshot)?.written_since(local, spans);
    while let Some(plan) = changes.next().await? {
        cancel.check()?;
        for action in plan.actions {
            let at = match action {
                Action::Keep { .. } => continue,
                Action::Zero { range_bytes } => range_bytes.start,
                Action::Fetch(fetch) => fetch.offsets_bytes.first().copied().unwrap_or_default(),
            };
            return Err(Error::corrupt(format!(
                "the target does not hold at offset {at} what was written there a moment ago"
            ))
            .help(
                "something else writes to it, or its storage is faulty; find out which, then restore again",
            ));
        }
    }
    Ok(())
}
