//! What the operations read alike, within a memory budget: what differs between two snapshots, one of them at any
//! offset, what a volume holds and whether that is the snapshot, and which chunks of a volume are re-read out of distrust.

pub(crate) mod compare;
pub(crate) mod difference;
mod kept;
pub(crate) mod local;
pub(crate) mod need;
pub(crate) mod sample;
pub mod snapshot;

use crate::error::{Error, ErrorKind, Result};
use crate::format::record::Snapshot;
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;

/// Refuses a snapshot whose chunks are not those of its repository: their ids could not be compared.
pub(crate) fn check_chunk_size(project: &Project, snapshot: &Snapshot) -> Result<()> {
    let (found, expected) = (snapshot.chunk_size_bytes, project.chunk_size_bytes());
    if found == expected {
        return Ok(());
    }
    let sequence = snapshot.sequence;
    Err(Error::corrupt(format!(
        "snapshot {sequence} has chunks of {found} bytes, its repository of {expected}"
    )))
}

/// What is missing of a snapshot that was forgotten meanwhile is no damage.
pub(crate) async fn explained(project: &Project, snapshot: &SnapshotEntry, error: Error) -> Error {
    let at = (snapshot.snapshot.volume, snapshot.snapshot.sequence);
    if error.kind() != ErrorKind::Corrupt || !project.slot(at.0, at.1).is_gone().await.unwrap_or(false) {
        return error;
    }
    Error::conflict("the snapshot was forgotten, and a prune deleted what only it needed")
        .help("nothing wrong was read; use another one, see `cuttle snapshots`")
        .caused_by(error)
}
