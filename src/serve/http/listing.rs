//! What is served, for programs.

use serde::Serialize;

use super::target::encode;
use crate::error::{Error, Result};
use crate::serve::Shelf;

#[derive(Serialize)]
struct Listed<'a> {
    volume: &'a str,
    sequence: u32,
    id: String,
    size_bytes: u64,
    committed_unix_ms: u64,
    /// The RBD snapshot that was read.
    point: Option<&'a str>,
    tags: &'a [String],
    protected: bool,
    latest: bool,
    /// Relative to the index.
    path: String,
}

/// `[{"volume","sequence","id","size_bytes","committed_unix_ms","point","tags","protected","latest","path"}]`, by volume,
/// oldest first.
pub(super) fn json(shelf: &Shelf) -> Result<String> {
    let mut all = Vec::new();
    for (volume, snapshots) in shelf.volumes() {
        for (at, entry) in snapshots.iter().enumerate() {
            let sequence = entry.snapshot.sequence.0;
            all.push(Listed {
                volume,
                sequence,
                id: entry.snapshot_id.to_string(),
                size_bytes: entry.snapshot.size_bytes,
                committed_unix_ms: entry.committed_unix_ms,
                point: entry.snapshot.point.as_ref().map(|p| p.name.as_str()),
                tags: &entry.tags,
                protected: entry.protected,
                latest: at + 1 == snapshots.len(),
                path: format!("{}/{sequence}.raw", encode(volume)),
            });
        }
    }
    serde_json::to_string(&all).map_err(|e| Error::internal("the listing is no JSON").caused_by(e))
}
