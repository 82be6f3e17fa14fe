//! What protect, unprotect and tag share: the notes of some snapshots are changed, each on its own.

use serde::Serialize;

use cuttle::repo::Project;
use cuttle::repo::log::SnapshotEntry;
use cuttle::repo::notes::{Changed, Note, Noted};
use cuttle::{ErrorKind, Result};

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

/// Changes the notes of the snapshots that are named. One that fails does not stop the others.
pub async fn change(
    context: &Context<'_>,
    command: &str,
    specs: &[String],
    change: impl Fn(&mut Note),
) -> Result<Exit> {
    refuse_dry_run(context, command)?;
    let project = connect::project(context, false).await?;
    let mut exit = Exit::Success;
    for spec in specs {
        context.cancel.check()?;
        match change_one(&project, spec, &change).await {
            Ok((entry, changed)) => tell(context, &entry, &changed)?,
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::Unavailable) => return Err(e),
            Err(e) => {
                context.ui.error(&Failure::from(&e), Some(spec));
                exit = Exit::Failure;
            }
        }
    }
    note_requests(context, project.repository().store());
    Ok(exit)
}

async fn change_one(
    project: &Project,
    spec: &str,
    change: &impl Fn(&mut Note),
) -> Result<(SnapshotEntry, Changed)> {
    let entry = project.find_snapshot(spec).await?;
    let changed = project.change_note(&Noted::from(&entry), change).await?;
    Ok((entry, changed))
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
    let name = format!("{}@{}", entry.volume_name, entry.snapshot.sequence);
    ui.print(&printable(&format!("{name}: {protected}, {tags}{before}")))
}
