//! What live snapshots need and listings do not show: confirmed by a request for the very name, told, and remembered
//! (repo-format.md §8.6).

use std::collections::{BTreeMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::lost::LostName;
use crate::format::names::{ContentKind, ContentName};
use crate::plan::marks::fingerprint;
use crate::prune::Prune;
use crate::prune::report::LostObject;
use crate::prune::survey::Survey;
use crate::units::{Generation, VolumeNumber};

/// Missing objects that are named in a report; more are counted.
const NAMED_MAX: usize = 100;
/// Missing objects that are asked for by name: more of them take no more to be believed.
const CONFIRMED_MAX: usize = 10_000;
const HEADS_INFLIGHT_MAX: usize = 32;

impl Prune {
    /// Looks out for what is recorded as lost, so that the record can go when nobody needs it.
    pub(super) async fn watch_lost(&mut self) -> Result<()> {
        self.marker.suspects.recorded = self.project.lost_records().read().await?.names().copied().collect();
        Ok(())
    }

    /// The fingerprints of what is marked and not listed. Asked only when a count says that there are some.
    pub(super) async fn unlisted(&self, below: Generation) -> Result<HashSet<u64>> {
        let mut left = self.marker.marks.fingerprints();
        for kind in [ContentKind::Chunk, ContentKind::Page] {
            for generation in self.project.content().generations(kind).await? {
                if generation >= below {
                    continue;
                }
                self.cancel.check()?;
                let mut listing = std::pin::pin!(self.project.content().list(kind, generation, None));
                while let Some(listed) = listing.try_next().await? {
                    left.remove(&fingerprint(&listed.name));
                }
            }
        }
        Ok(left)
    }

    /// Walks the manifests once more for the names behind fingerprints, and tells and records what is not there.
    pub(super) async fn name_lost(&mut self, survey: &Survey, unlisted: HashSet<u64>) -> Result<()> {
        self.progress.phase("missing objects", None);
        self.marker.forget();
        self.marker.suspects.unlisted = unlisted;
        self.marker.first_pass(&self.known);
        self.marker.cover(&self.project, survey, &self.cancel).await?;
        self.marker.suspects.is_complete = true;
        self.marker.suspects.unlisted = HashSet::new();
        let named = std::mem::take(&mut self.marker.suspects.named);
        let mut lost = Vec::new();
        let mut heads = stream::iter(named.keys().take(CONFIRMED_MAX).copied().collect::<Vec<_>>())
            .map(|name| self.is_lost(name))
            .buffer_unordered(HEADS_INFLIGHT_MAX);
        while let Some(one) = heads.try_next().await? {
            self.cancel.check()?;
            lost.extend(one);
        }
        drop(heads);
        lost.sort_unstable();
        let volumes: BTreeMap<VolumeNumber, &str> =
            survey.volumes.iter().map(|v| (v.record.number, v.record.name.as_str())).collect();
        let mut still_needed = Vec::new();
        self.report.lost.clear();
        for name in lost {
            let Some((volume, sequence)) = named.get(&name) else { continue };
            // Forgotten meanwhile, and perhaps pruned: nobody misses it.
            if self.project.slot(*volume, *sequence).is_forgotten().await? {
                continue;
            }
            still_needed.push(name);
            if self.report.lost.len() < NAMED_MAX {
                self.report.lost.push(LostObject {
                    object: self.content_name(name).to_string(),
                    snapshot: format!("{}@{sequence}", volumes.get(volume).copied().unwrap_or_default()),
                });
            }
        }
        self.report.lost_objects = still_needed.len() as u64;
        if self.options.dry_run || still_needed.is_empty() {
            return Ok(());
        }
        let mut known = self.project.lost_records().read().await?;
        match self.project.lost_records().remember(&mut known, &still_needed).await {
            Ok(new) => self.report.recorded += new as u64,
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::Internal) => return Err(e),
            Err(e) => self.progress.warn(&format!("what was found lost could not be recorded: {e}")),
        }
        Ok(())
    }

    async fn is_lost(&self, name: LostName) -> Result<Option<LostName>> {
        let key = self.content_name(name).to_string();
        let found = self.project.repository().store().head(&key).await?;
        Ok::<_, Error>(found.is_none().then_some(name))
    }

    fn content_name(&self, name: LostName) -> ObjectName {
        ObjectName::content(self.project.name(), name.kind(), name.name())
    }

    /// Names that the live index must not have: a backup would take them for stored.
    pub(super) async fn unfit_for_index(&self) -> Result<HashSet<ContentName>> {
        let lost = self.project.lost_records().read().await?;
        let chunks = lost.names().filter(|name| name.kind() == ContentKind::Chunk);
        Ok(chunks.map(LostName::name).collect())
    }

    /// Removes records of what nobody needs any more.
    pub(super) async fn settle_lost(&mut self) -> Result<()> {
        let suspects = &self.marker.suspects;
        if suspects.recorded.is_empty() || !suspects.is_complete {
            return Ok(());
        }
        let lost = self.project.lost_records().read().await?;
        let dead = |name: &LostName| suspects.recorded.contains(name) && !suspects.needed.contains(name);
        let gone = self.project.lost_records().settle(&lost, dead).await?;
        self.report.deleted_records += gone as u64;
        Ok(())
    }
}
