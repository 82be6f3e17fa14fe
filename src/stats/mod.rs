//! What the snapshots of a project take, and what they would take without deduplication, compression and deltas.
//!
//! All of it is read from manifest pages, each distinct one of a volume once; no chunk is looked at. What no live snapshot
//! needs, garbage that waits for a prune, is not counted; but for what lies in bundles beside what is needed, which a listing tells.

mod leaves;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::format::names::ContentKind;
use crate::format::page::{ObjectRef, Page, PageRef};
use crate::format::record::VolumeRecord;
use crate::plan::pieces::Pieces;
use crate::progress::{Outcome, Progress, Step};
use crate::repo::history::SnapshotEntry;
use crate::repo::walk::Tree;
use crate::repo::{Listed, Project};
use crate::stats::leaves::{Leaf, LeafKey, Pages, check_count};
use crate::stats::tally::{Object, Owner, Role, Tally, fingerprint};
use crate::store::Ledger;
use crate::units::VolumeName;

/// Pages read at once.
const PAGES_INFLIGHT_MAX: usize = 16;
/// Volumes whose logs are read at once. Each holds its snapshots' root pages meanwhile, 48 KiB or less for each.
const VOLUMES_INFLIGHT_MAX: usize = 4;

/// What is counted.
#[derive(Debug, Clone, Default)]
pub struct StatsOptions {
    /// Only these; none for all.
    pub volumes: Vec<VolumeName>,
    /// Find out what each snapshot alone needs. For that all volumes of the project are read, whichever are asked for.
    pub snapshots: bool,
}

/// What a project takes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StatsReport {
    /// The project's name.
    pub project: String,
    /// By name.
    pub volumes: Vec<VolumeStats>,
    /// Over all these volumes: what they share is counted once.
    pub total: Usage,
    /// In bundles that are needed: pieces that no snapshot needs, and the tables. None where there are too many to tell, or where not
    /// all volumes were asked for.
    pub dead_bytes: Option<u64>,
    /// Manifest pages read, each distinct one once.
    pub pages_read: u64,
    /// Requests of this operation alone.
    pub ledger: Ledger,
    /// How long it took.
    pub seconds: f64,
}

/// What a volume takes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VolumeStats {
    /// The volume's name.
    pub volume: String,
    /// Over its snapshots alone: what it shares with other volumes counts for each.
    #[serde(flatten)]
    pub usage: Usage,
    /// Oldest first; only when asked for.
    pub snapshots: Vec<SnapshotStats>,
}

/// What one snapshot takes.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotStats {
    /// Its number within the volume.
    pub sequence: u32,
    /// 32 hexadecimal digits.
    pub snapshot_id: String,
    /// When the store says that it was committed.
    pub committed_unix_ms: u64,
    /// The volume's size at that moment.
    pub size_bytes: u64,
    /// Objects that no other snapshot of the project needs: what a prune frees once this one is forgotten.
    pub freed_bytes: u64,
}

/// What some snapshots take.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Live snapshots.
    pub snapshot_count: u64,
    /// The volume's sizes, added up.
    pub logical_bytes: u64,
    /// Without chunks that are all zero.
    pub allocated_bytes: u64,
    /// Distinct chunks.
    pub chunks: u64,
    /// Their plaintext.
    pub unique_bytes: u64,
    /// All objects needed: chunks, what deltas are made against, and pages.
    pub stored_bytes: u64,
    /// Manifest pages among them. Roots lie in the log and are not counted.
    pub pages: u64,
    /// What these pages take in the store.
    pub page_bytes: u64,
    /// Chunks that are stored as deltas.
    pub deltas: u64,
    /// Their plaintext.
    #[serde(rename = "delta_unique_bytes")]
    pub delta_bytes: u64,
    /// What these take in the store, without what they stand on.
    #[serde(rename = "delta_bytes")]
    pub delta_stored_bytes: u64,
    /// Objects that are kept for deltas only.
    pub bases: u64,
    /// What these take in the store.
    pub base_stored_bytes: u64,
    /// What would have to be stored more without deltas, if their chunks compressed as well as the full ones.
    pub delta_saved_bytes: u64,
    /// Allocated to unique bytes.
    pub dedup_ratio: Option<f64>,
    /// Unique to stored bytes.
    pub compression_ratio: Option<f64>,
    /// 1 when all objects were counted; N when one in N was, as there are too many, and sums are estimates.
    pub one_in: u64,
}

impl Usage {
    fn finish(mut self, tally: &Tally) -> Self {
        tally.sum_up(&mut self);
        let ratio = |a: u64, b: u64| (b > 0).then(|| a as f64 / b as f64);
        self.dedup_ratio = ratio(self.allocated_bytes, self.unique_bytes);
        self.compression_ratio = ratio(self.unique_bytes, self.stored_bytes);
        self
    }

    fn add_snapshot(&mut self, size_bytes: u64) {
        self.snapshot_count += 1;
        self.logical_bytes += size_bytes;
    }
}

/// Counts what a project's snapshots take.
///
/// # Errors
/// A volume that does not exist, a page or record that is missing or damaged, a store that does not answer, an interruption.
pub async fn run(
    project: &Project,
    options: &StatsOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<StatsReport> {
    let (started, before) = (Instant::now(), project.repository().store().ledger());
    let survey = Survey { project, progress, cancel };
    survey.progress.phase("snapshots", None);
    let mut volumes = survey.volumes(options).await?;
    let owners = options.snapshots.then(|| owners(&volumes));
    let all_bytes =
        volumes.iter().flat_map(|v| v.pages.leaves.values()).map(|l| u64::from(l.sealed_len_bytes));
    survey.progress.phase("pages", Some(all_bytes.sum()));
    let mut report = StatsReport { project: project.name().to_string(), ..StatsReport::default() };
    let (mut total, mut all, mut pieces) = (Usage::default(), Tally::new(), Pieces::default());
    for volume in &mut volumes {
        let mut own = Tally::new();
        let (allocated_bytes, pages_read) =
            survey.count(volume, owners.as_ref(), [&mut own, &mut all], &mut pieces).await?;
        report.pages_read += pages_read;
        volume.usage.allocated_bytes = allocated_bytes;
        volume.usage = std::mem::take(&mut volume.usage).finish(&own);
        // No longer needed.
        volume.pages = Pages::default();
    }
    let owned_bytes = all.owned_bytes();
    for mut volume in volumes.into_iter().filter(|v| v.chosen) {
        total.snapshot_count += volume.usage.snapshot_count;
        total.logical_bytes += volume.usage.logical_bytes;
        total.allocated_bytes += volume.usage.allocated_bytes;
        for (place, snapshot) in (volume.first_place..).zip(&mut volume.snapshots) {
            snapshot.freed_bytes = owned_bytes.get(&place).copied().unwrap_or_default();
        }
        let snapshots = if options.snapshots { volume.snapshots } else { Vec::new() };
        report.volumes.push(VolumeStats { volume: volume.name, usage: volume.usage, snapshots });
    }
    report.total = total.finish(&all);
    if options.volumes.is_empty() {
        report.dead_bytes = survey.dead_bytes(&pieces).await?;
    }
    report.ledger = project.repository().store().ledger() - before;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// A volume that is looked at.
struct Surveyed {
    name: String,
    /// It was asked for, and is not only there to share objects with those that were.
    chosen: bool,
    usage: Usage,
    /// Place of its first snapshot in the list of all.
    first_place: u32,
    snapshots: Vec<SnapshotStats>,
    pages: Pages,
}

/// The only snapshots that need pages, by the pages' fingerprints.
type Owners = HashMap<u64, Owner>;

/// A page has one owner over all volumes, or several.
fn owners(volumes: &[Surveyed]) -> Owners {
    let mut owners = Owners::new();
    for pages in volumes.iter().map(|v| &v.pages) {
        let leaves = pages.leaves.iter().map(|(key, leaf)| (&key.name, leaf.owner));
        let upper = pages.upper.iter().map(|(name, (_, owner))| (name, *owner));
        for (name, owner) in leaves.chain(upper) {
            let known = owners.entry(fingerprint(name, true)).or_insert(owner);
            *known = known.and(owner);
        }
    }
    owners
}

struct Survey<'a> {
    project: &'a Project,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
}

impl Survey<'_> {
    /// Reads the logs, and what stands above the leaves.
    async fn volumes(&self, options: &StatsOptions) -> Result<Vec<Surveyed>> {
        let catalog = self.project.volumes().confirmed().await?;
        for name in &options.volumes {
            if catalog.by_name(name).is_none() {
                return Err(Error::not_found(format!(
                    "there is no volume {name} in project {}",
                    self.project.name()
                ))
                .help("see `cuttle snapshots` for all volumes"));
            }
        }
        let chosen = |volume: &VolumeRecord| {
            options.volumes.is_empty() || options.volumes.iter().any(|name| name.as_str() == volume.name)
        };
        let mut entries: Vec<&VolumeRecord> =
            catalog.entries().iter().filter(|v| options.snapshots || chosen(v)).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut logs =
            stream::iter(entries)
                .map(|volume| async move {
                    Ok::<_, Error>((volume, self.project.history(volume).snapshots().await?))
                })
                .buffered(VOLUMES_INFLIGHT_MAX);
        let (mut volumes, mut next_place, mut pages) = (Vec::new(), 0, 0);
        while let Some((volume, snapshots)) = logs.try_next().await? {
            let surveyed = self.volume(volume, &snapshots, chosen(volume), next_place).await?;
            next_place += surveyed.snapshots.len() as u32;
            pages += surveyed.pages.len();
            check_count(pages)?;
            volumes.push(surveyed);
        }
        Ok(volumes)
    }

    async fn volume(
        &self,
        volume: &VolumeRecord,
        snapshots: &[SnapshotEntry],
        chosen: bool,
        first_place: u32,
    ) -> Result<Surveyed> {
        let mut surveyed = Surveyed {
            name: volume.name.clone(),
            chosen,
            usage: Usage::default(),
            first_place,
            snapshots: Vec::with_capacity(snapshots.len()),
            pages: Pages::default(),
        };
        for (place, entry) in (first_place..).zip(snapshots) {
            self.cancel.check()?;
            let tree = Tree::of(&entry.snapshot)?;
            surveyed.pages.add(self.project, tree, place).await.map_err(unreadable)?;
            check_count(surveyed.pages.len())?;
            surveyed.usage.add_snapshot(entry.snapshot.size_bytes);
            surveyed.snapshots.push(snapshot_stats(entry));
        }
        Ok(surveyed)
    }

    /// Reads a volume's leaves. Its allocated bytes over all snapshots, and the pages read.
    async fn count(
        &self,
        volume: &Surveyed,
        owners: Option<&Owners>,
        mut tallies: [&mut Tally; 2],
        pieces: &mut Pieces,
    ) -> Result<(u64, u64)> {
        let owner = |name| match owners {
            None => Owner::Several,
            Some(owners) => owners.get(&fingerprint(name, true)).copied().unwrap_or(Owner::Several),
        };
        let page = |name, sealed_len_bytes| Object {
            sealed_len_bytes,
            role: Role::Page,
            owner: owner(name),
            chosen: volume.chosen,
        };
        for (name, (sealed_len_bytes, _)) in &volume.pages.upper {
            tallies.iter_mut().for_each(|tally| tally.add(name, page(name, *sealed_len_bytes)));
        }
        let mut read = stream::iter(&volume.pages.leaves)
            .map(|(key, leaf)| async move { Ok::<_, Error>((key, leaf, self.read(key, leaf).await?)) })
            .buffer_unordered(PAGES_INFLIGHT_MAX);
        let (mut allocated_bytes, mut pages_read) = (0, 0);
        while let Some((key, leaf, found)) = read.try_next().await? {
            self.cancel.check()?;
            let object = page(&key.name, leaf.sealed_len_bytes);
            tallies.iter_mut().for_each(|tally| tally.add(&key.name, object));
            for (at, chunk) in found.refs.iter().enumerate() {
                let len_bytes = self.len_bytes(key, leaf, at);
                if !chunk.is_zero() {
                    allocated_bytes += u64::from(len_bytes) * leaf.times;
                    tallies.iter_mut().for_each(|tally| add_chunk(tally, chunk, len_bytes, object));
                    chunk.objects().for_each(|object| pieces.add(object));
                }
            }
            pages_read += 1;
            let bytes = u64::from(leaf.sealed_len_bytes);
            self.progress.step(Step { bytes, chunks: 1, outcome: Outcome::New });
        }
        Ok((allocated_bytes, pages_read))
    }

    /// What of the bundles nobody needs, as a listing shows them.
    async fn dead_bytes(&self, pieces: &Pieces) -> Result<Option<u64>> {
        let mut bytes = 0;
        let each = |listed: Listed| bytes += if pieces.needs(&listed.name) { listed.size_bytes } else { 0 };
        let newest = self.project.repository().memory.generation(self.project.name());
        self.project.content().each(ContentKind::Bundle, newest, &self.cancel, each).await?;
        Ok(pieces.dead_bytes(bytes))
    }

    async fn read(&self, key: &LeafKey, leaf: &Leaf) -> Result<Page> {
        let object = ObjectRef { name: key.name, sealed_len_bytes: leaf.sealed_len_bytes };
        self.project.content().read_page(&object, 0, usize::from(leaf.count)).await.map_err(unreadable)
    }

    /// Length of a leaf's chunk; of the last one of a volume it may be less.
    fn len_bytes(&self, key: &LeafKey, leaf: &Leaf, at: usize) -> u32 {
        let chunk_size_bytes = self.project.chunk_size_bytes();
        match at + 1 == usize::from(leaf.count) {
            true => chunk_size_bytes.saturating_sub(key.short_bytes),
            false => chunk_size_bytes,
        }
    }
}

/// Counts a chunk with all it needs, as its leaf needs it.
fn add_chunk(tally: &mut Tally, chunk: &PageRef, len_bytes: u32, leaf: Object) {
    let PageRef::Stored { object, closure, .. } = chunk else { return };
    let role = if closure.is_empty() { Role::Full(len_bytes) } else { Role::Delta(len_bytes) };
    tally.add(&object.name, Object { sealed_len_bytes: object.sealed_len_bytes, role, ..leaf });
    for base in closure {
        tally.add(&base.name, Object { sealed_len_bytes: base.sealed_len_bytes, role: Role::Base, ..leaf });
    }
}

fn snapshot_stats(entry: &SnapshotEntry) -> SnapshotStats {
    SnapshotStats {
        sequence: entry.snapshot.sequence.0,
        snapshot_id: entry.snapshot_id.to_string(),
        committed_unix_ms: entry.committed_unix_ms,
        size_bytes: entry.snapshot.size_bytes,
        freed_bytes: 0,
    }
}

fn unreadable(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Corrupt => error.help(
            "a snapshot may have been forgotten and pruned meanwhile: run it again. If it fails again, run `cuttle verify`",
        ),
        _ => error,
    }
}
