//! What protect, unprotect and tag share: the notes of some snapshots are changed: all, or none.

use serde::Serialize;

use cuttle::repo::Project;
use cuttle::repo::history::SnapshotEntry;
use cuttle::repo::notes::{Changed, Note, Noted};
use cuttle::{Error, ErrorKind, Result};

use super::connect::{self, refuse_dry_run};
use super::failure::Failure;
use super::summary::note_requests;
use super::table::printable;
use super::{Context, Exit};

/// A snapshot that was found and its new note, as JSON shows them.
#[derive(Serialize)]
struct Line<'a> {
    message_type: &'static str,
    volume: &'a str,
    sequence: u32,
    snapshot_id: String,
    protected: bool,
    tags: &'a [String],
    changed: bool,
}

/// Changes the notes of the snapshots that are named; where one of them is not found, of none.
pub async fn change(
    context: &Context<'_>,
    command: &str,
    specs: &[String],
    change: impl Fn(&mut Note),
) -> Result<Exit> {
    refuse_dry_run(context, command)?;
    let project = connect::project(context, false).await?;
    let exit = match find(context, &project, specs).await? {
        Some(found) => change_all(context, &project, &found, &change).await?,
        None => Exit::Failure,
    };
    note_requests(context, project.repository().store());
    Ok(exit)
}

/// The snapshots that are named. Where one is not found all are told that are not, and that nothing was changed.
async fn find(
    context: &Context<'_>,
    project: &Project,
    specs: &[String],
) -> Result<Option<Vec<SnapshotEntry>>> {
    let mut found = Vec::new();
    for spec in specs {
        context.cancel.check()?;
        match project.volumes().snapshot(spec).await {
            Ok(entry) => found.push(entry),
            Err(e) if stops(&e) => return Err(e),
            Err(e) => context.ui.error(&Failure::from(&e), Some(spec)),
        }
    }
    if found.len() < specs.len() && specs.len() > 1 {
        context.ui.warn("nothing was changed: where not all that are named are found, none is");
    }
    Ok((found.len() == specs.len()).then_some(found))
}

/// Changes those that were found. One may be forgotten in this very moment; then the others are changed all the same.
async fn change_all(
    context: &Context<'_>,
    project: &Project,
    found: &[SnapshotEntry],
    change: &impl Fn(&mut Note),
) -> Result<Exit> {
    let mut exit = Exit::Success;
    for (done, entry) in found.iter().enumerate() {
        let left = |e: Error| match done {
            0 => e,
            _ => e.context(format!("after {done} of {} were changed", found.len())),
        };
        context.cancel.check().map_err(left)?;
        match project.notes().change(&Noted::from(entry), change).await {
            Ok(changed) => tell(context, entry, &changed)?,
            Err(e) if stops(&e) => return Err(left(e)),
            Err(e) => {
                context.ui.error(&Failure::from(&e), Some(&entry.name()));
                exit = Exit::Failure;
            }
        }
    }
    Ok(exit)
}

/// Whether an error is no fault of what was named: then the next would fare no better.
fn stops(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Unavailable)
}

/// `vms/db@3: protected, tags a, b`
fn tell(context: &Context<'_>, entry: &SnapshotEntry, changed: &Changed) -> Result<()> {
    let (ui, note) = (context.ui, &changed.note);
    if ui.is_json() {
        return ui.print_json(&Line {
            message_type: "snapshot",
            volume: &entry.volume_name,
            sequence: entry.snapshot.sequence.0,
            snapshot_id: entry.snapshot_id.to_string(),
            protected: note.protected,
            tags: &note.tags,
            changed: changed.changed,
        });
    }
    if !ui.is_talkative() {
        return Ok(());
    }
    let protected = if note.protected { "protected" } else { "not protected" };
    let tags =
        if note.tags.is_empty() { "no tags".to_owned() } else { format!("tags {}", note.tags.join(", ")) };
    let before = if changed.changed { "" } else { ", as it was" };
    let name = entry.name();
    ui.print(&printable(&format!("{name}: {protected}, {tags}{before}")))
}
