//! Finding the snapshot that a user named.

use crate::error::{Error, Result};
use crate::repo::catalog::{Catalog, Volumes};
use crate::repo::history::SnapshotEntry;
use crate::units::VolumeName;

impl Volumes<'_> {
    /// Finds the snapshot that a user named: `VOLUME`, `VOLUME@latest`, `VOLUME@SEQ`, `VOLUME@SNAPNAME`, or a unique
    /// prefix of a snapshot id.
    pub async fn snapshot(self, spec: &str) -> Result<SnapshotEntry> {
        let catalog = self.confirmed().await?;
        let (volume, point) = spec.rsplit_once('@').map_or((spec, "latest"), |(v, p)| (v, p));
        let named = volume.parse::<VolumeName>().ok().and_then(|name| catalog.by_name(&name).cloned());
        let found = match named {
            Some(volume) => self.project.history(&volume).at(point).await,
            None => self.by_id(&catalog, spec).await,
        };
        self.project.repository().memory.flush();
        found
    }

    async fn by_id(self, catalog: &Catalog, spec: &str) -> Result<SnapshotEntry> {
        const ID_PREFIX_LEN_MIN: usize = 4;
        let is_id = (ID_PREFIX_LEN_MIN..=32).contains(&spec.len())
            && spec.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        let mut found = Vec::new();
        if is_id {
            for volume in catalog.entries() {
                let all = self.project.history(volume).snapshots().await?;
                found.extend(all.into_iter().filter(|s| s.snapshot_id.to_string().starts_with(spec)));
            }
        }
        match found.len() {
            1 => Ok(found.swap_remove(0)),
            0 if !catalog.foreign().is_empty() => {
                let entries = catalog.foreign().iter();
                let entries: Vec<String> = entries
                    .map(|(n, why)| format!("volumes/{n:010} does not open: {why}"))
                    .take(10)
                    .collect();
                Err(Error::corrupt(format!(
                    "no volume and no snapshot is named {spec:?}, and it may be in what cannot be read: {}",
                    entries.join("; ")
                ))
                .help("run `cuttle verify`; bring the object back from a copy or a bucket version"))
            }
            0 => {
                let names: Vec<&str> = catalog.entries().iter().map(|v| v.name.as_str()).take(10).collect();
                Err(Error::not_found(format!("no volume and no snapshot is named {spec:?}")).help(format!(
                    "expected VOLUME, VOLUME@latest, VOLUME@NUMBER, VOLUME@NAME or an id; volumes of project {} are: {}",
                    self.project.name(),
                    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
                )))
            }
            n => Err(Error::invalid(format!("{n} snapshots have ids that begin with {spec}"))
                .help("give more digits, as `cuttle snapshots` shows them")),
        }
    }
}
