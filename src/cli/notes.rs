//! What protect, unprotect and tag share: the notes of some snapshots are changed: all, or none.

use serde::Serialize;

use cuttle::repo::Keeper;
use cuttle::repo::history::SnapshotEntry;
use cuttle::repo::notes::{Changed, Note, Noted};
use cuttle::{Error, ErrorKind, Result};

use super::connect;
use super::failure::Failure;
use super::report::{Report, note_requests};
use super::table::printable;
use super::{Context, Exit};

/// A snapshot and its new note.
#[derive(Serialize)]
struct Line<'a> {
    volume: &'a str,
    sequence: u32,
    snapshot_id: String,
    protected: bool,
    tags: &'a [String],
    changed: bool,
    dry_run: bool,
}

/// Changes the notes of the snapshots that are named; where one of them is not found, of none.
pub async fn change(context: &Context<'_>, specs: &[String], change: impl Fn(&mut Note)) -> Result<Exit> {
    let project = connect::keeper(context).await?;
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
    project: &Keeper,
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
    project: &Keeper,
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
        let noted = Noted::from(entry);
        let changed = match context.global.dry_run {
            true => Ok(would_change(noted, change)),
            false => project.notes().change(&noted, change).await,
        };
        match changed {
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

/// What a change would come to, unless somebody else changes the note meanwhile.
fn would_change(noted: Noted, change: &impl Fn(&mut Note)) -> Changed {
    let mut note = noted.note.clone();
    change(&mut note);
    Changed { changed: note != noted.note, note }
}

fn tell(context: &Context<'_>, entry: &SnapshotEntry, changed: &Changed) -> Result<()> {
    context.ui.report(&Line {
        volume: &entry.volume_name,
        sequence: entry.snapshot.sequence.0,
        snapshot_id: entry.snapshot_id.to_string(),
        protected: changed.note.protected,
        tags: &changed.note.tags,
        changed: changed.changed,
        dry_run: context.global.dry_run,
    })
}

/// `vms/db@3: protected, tags a, b`
impl Report for Line<'_> {
    const MESSAGE_TYPE: &'static str = "snapshot";

    fn summary(&self) -> String {
        let protected = if self.protected { "protected" } else { "not protected" };
        let tags = match self.tags.is_empty() {
            true => "no tags".to_owned(),
            false => format!("tags {}", self.tags.join(", ")),
        };
        let before = if self.changed { "" } else { ", as it was" };
        let dry = if self.dry_run { "dry run: " } else { "" };
        printable(&format!("{dry}{}@{}: {protected}, {tags}{before}", self.volume, self.sequence))
    }
}
