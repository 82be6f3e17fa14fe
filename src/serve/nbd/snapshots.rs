//! The exports of a [`Shelf`]: `VOLUME/SEQUENCE` and `VOLUME/latest`; the default one where only one snapshot is served.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::exports::{Exports, Image, Listed, Opened};
use crate::error::{Error, Result};
use crate::reading::snapshot::SnapshotReader;
use crate::repo::history::SnapshotEntry;
use crate::serve::{Shelf, Which};
use crate::units::Extent;

const LATEST: &str = "latest";

#[async_trait]
impl Exports for Shelf {
    async fn list(&self) -> Result<Vec<Listed>> {
        let listed = |name, snapshot| Listed { name, description: description(snapshot) };
        let volumes = self.volumes().flat_map(|(volume, snapshots)| {
            let latest = snapshots.last().map(|s| listed(format!("{volume}/{LATEST}"), s));
            latest.into_iter().chain(snapshots.iter().rev().map(|s| listed(export_name(s), s)))
        });
        Ok(volumes.collect())
    }

    async fn open(&self, name: &str) -> Result<Opened> {
        let snapshot = found(self, name).ok_or_else(|| {
            Error::not_found(format!(
                "there is no export {name:?}: expected VOLUME/NUMBER or VOLUME/{LATEST}"
            ))
        })?;
        Ok(Opened {
            name: export_name(snapshot),
            description: description(snapshot),
            image: Arc::new(Reader(Shelf::open(self, snapshot)?)),
        })
    }
}

fn found<'a>(shelf: &'a Shelf, name: &str) -> Option<&'a SnapshotEntry> {
    if name.is_empty() {
        let mut all = shelf.volumes().flat_map(|(_, snapshots)| snapshots);
        return all.next().filter(|_| all.next().is_none());
    }
    let (volume, which) = name.rsplit_once('/')?;
    let which = match which {
        LATEST => Which::Latest,
        number => Which::Sequence(number.parse().ok()?),
    };
    shelf.find(volume, which)
}

/// The name that a snapshot keeps.
fn export_name(snapshot: &SnapshotEntry) -> String {
    format!("{}/{}", snapshot.volume_name, snapshot.snapshot.sequence)
}

fn description(snapshot: &SnapshotEntry) -> String {
    let point = snapshot.snapshot.point.as_ref().map(|p| format!(", snapshot {}", p.name));
    format!(
        "backup {} of {}{}",
        snapshot.snapshot.sequence,
        snapshot.snapshot.identity,
        point.unwrap_or_default()
    )
}

struct Reader(Arc<SnapshotReader>);

#[async_trait]
impl Image for Reader {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    async fn read(&self, offset_bytes: u64, len_bytes: usize) -> Result<Bytes> {
        self.0.read(offset_bytes, len_bytes).await
    }

    async fn extents(&self, offset_bytes: u64, len_bytes: u64, extents_max: usize) -> Result<Vec<Extent>> {
        self.0.extents(offset_bytes, len_bytes, extents_max).await
    }
}
