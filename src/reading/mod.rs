//! What restore, verify and servers read alike, within a memory budget: a manifest in windows, a snapshot at any offset,
//! and what a volume holds.

pub(crate) mod budget;
mod kept;
pub(crate) mod local;
pub mod snapshot;
pub(crate) mod windows;

use crate::error::{Error, ErrorKind};
use crate::repo::Project;
use crate::repo::log::SnapshotEntry;

/// What is missing of a snapshot that was forgotten meanwhile is no damage.
pub(crate) async fn explained(project: &Project, snapshot: &SnapshotEntry, error: Error) -> Error {
    let at = (snapshot.snapshot.volume, snapshot.snapshot.sequence);
    if error.kind() != ErrorKind::Corrupt || !project.is_forgotten(at.0, at.1).await.unwrap_or(false) {
        return error;
    }
    Error::conflict("the snapshot was forgotten, and a prune deleted what only it needed")
        .help("nothing wrong was read; use another one, see `cuttle snapshots`")
        .caused_by(error)
}
