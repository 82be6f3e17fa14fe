//! What is served, for programs.

use jiff::Timestamp;
use serde::Serialize;

use super::target::encode;
use crate::error::{Error, Result};
use crate::serve::Shelf;

#[derive(Serialize)]
struct Listed<'a> {
    snapshot: String,
    volume: &'a str,
    sequence: u32,
    snapshot_id: String,
    size_bytes: u64,
    committed_at: Option<String>,
    /// The RBD snapshot that was read.
    point: Option<&'a str>,
    tags: &'a [String],
    protected: bool,
    latest: bool,
    /// Relative to the index.
    path: String,
}

/// By volume, oldest first; docs/json.md has the keys.
pub(super) fn json(shelf: &Shelf) -> Result<String> {
    let mut all = Vec::new();
    for (volume, snapshots) in shelf.volumes() {
        for (at, entry) in snapshots.iter().enumerate() {
            let sequence = entry.snapshot.sequence.0;
            all.push(Listed {
                snapshot: format!("{volume}@{sequence}"),
                volume,
                sequence,
                snapshot_id: entry.snapshot_id.to_string(),
                size_bytes: entry.snapshot.size_bytes,
                committed_at: time(entry.committed_unix_ms).map(|time| time.to_string()),
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

fn time(unix_ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()
}
