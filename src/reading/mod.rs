//! What the operations read alike, within a memory budget: a manifest in windows, what differs between two, what a volume
//! holds, and which chunks of a volume are re-read out of distrust.

pub(crate) mod budget;
pub(crate) mod changes;
pub(crate) mod local;
pub(crate) mod sample;
pub(crate) mod windows;

use crate::error::{Error, Result};
use crate::format::record::Snapshot;
use crate::repo::Project;

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
