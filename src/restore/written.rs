//! Reads again what a restore wrote, and holds it against the manifest.

use std::sync::Arc;

use crate::cancel::Cancel;
use crate::cpu;
use crate::error::{Error, Result};
use crate::plan::restore::{Action, Target, plan as plan_window};
use crate::reading::local::LocalReader;
use crate::reading::windows::Windows;
use crate::repo::log::SnapshotEntry;
use crate::repo::manifest::Manifest;
use crate::restore::Work;
use crate::restore::known::Known;
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
    let manifest = || Manifest::of(&work.project, &snapshot.snapshot);
    let known = Known::written(manifest()?, written);
    let (project, budget, buffers) = (work.project.clone(), work.budget.clone(), Arc::clone(&work.buffers));
    let local = LocalReader::new(project, reader, budget, buffers);
    let mut windows = Windows::new(manifest()?, true);
    while let Some(window) = windows.next().await? {
        cancel.check()?;
        let found = known.look(&local, &window).await?;
        for action in plan_window(&window, Target::Content(&found))?.actions {
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
