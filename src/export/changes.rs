//! Which ranges differ between two snapshots, as `rbd diff` tells it.

use crate::cancel::{Cancel, interrupted};
use crate::error::Result;
use crate::plan::restore::{Action, Plan};
use crate::reading::difference::Difference;
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;
use crate::units::{Content, Extent};

/// Calls `found` with each range that differs, ascending and in whole chunks; neighbours are one. Reads manifest pages
/// only, of which those that both have in common are left out.
///
/// `None` for `from` finds all data. What lies beyond the end of `to` is not told of, as `rbd diff` does not.
pub async fn changes(
    project: &Project,
    from: Option<&SnapshotEntry>,
    to: &SnapshotEntry,
    cancel: &mut Cancel,
    found: &mut (dyn FnMut(Extent) -> Result<()> + Send),
) -> Result<()> {
    let mut changes = Difference::between(project, from.map(|from| &from.snapshot), &to.snapshot)?;
    let mut last: Option<Extent> = None;
    loop {
        let plan = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(interrupted()),
            plan = changes.next() => plan?,
        };
        let Some(plan) = plan else { break };
        for extent in extents(&plan) {
            match &mut last {
                Some(last)
                    if last.content == extent.content
                        && last.offset_bytes + last.length_bytes == extent.offset_bytes =>
                {
                    last.length_bytes += extent.length_bytes;
                }
                _ => {
                    if let Some(done) = last.replace(extent) {
                        found(done)?;
                    }
                }
            }
        }
    }
    last.map_or(Ok(()), found)
}

/// What a plan changes, by offset.
fn extents(plan: &Plan) -> Vec<Extent> {
    let mut extents = Vec::new();
    for action in &plan.actions {
        match action {
            Action::Keep { .. } => {}
            Action::Zero { range_bytes } => extents.push(Extent {
                offset_bytes: range_bytes.start,
                length_bytes: range_bytes.end - range_bytes.start,
                content: Content::Zero,
            }),
            Action::Fetch(fetch) => extents.extend(fetch.offsets_bytes.iter().map(|&offset_bytes| Extent {
                offset_bytes,
                length_bytes: u64::from(fetch.len_bytes),
                content: Content::Data,
            })),
        }
    }
    extents.sort_unstable_by_key(|extent| extent.offset_bytes);
    extents
}
