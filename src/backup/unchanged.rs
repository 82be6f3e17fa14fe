//! A look at whether there is anything to back up, before anything is registered (`--skip-unchanged`).
//!
//! It creates nothing and references nothing, so it needs no `.open` (repo-format.md §8.1): no prune waits for it, and none deletes anything
//! that it relies on, as nothing of the store rests on it. What it proves: the newest snapshot of the volume was live when its `.forget` was asked
//! for, and since the snapshot of the source that it was read from the source reports no change; a few chunks were read and are as they were;
//! nothing that the snapshot needs is known to be lost, or is in the part that was looked at.
//!
//! What it does not prove: that the snapshot stays. Who forgets it meanwhile, or after, has the volume's state in none, until the next backup. Nor that
//! it is a backup of this night: what was written and taken back since is not in it, and its time is the old one. And it is never a full
//! read: where one is due (`full_every`) a backup is made.
//!
//! Whatever is doubtful is left to a backup, which says why. What it is told are the chunks that differ though nothing says that they changed: it
//! reads them again, from a source that holds still.

use std::sync::Arc;

use crate::backup::BackupReport;
use crate::backup::context::Context;
use crate::backup::plan::{self, Asked};
use crate::backup::presence::{Look, LostReport};
use crate::backup::who::{Past, Who};
use crate::codec;
use crate::cpu;
use crate::error::Result;
use crate::format::record::{BackupStats, VolumeRecord};
use crate::keys::random_array;
use crate::reading::sample;
use crate::repo::history::SnapshotEntry;
use crate::repo::manifest::Manifest;
use crate::source::{Present, Volume};
use crate::units::{ChunkIndex, Sequence, SnapshotId};

/// What a look shows.
pub(super) enum Shown {
    /// There is nothing to back up: what its newest snapshot is.
    Unchanged(Box<BackupReport>),
    /// A backup is to be made. Chunks that it must read whatever the source says of them.
    Changed(Vec<ChunkIndex>),
}

/// Looks at a volume that can be read anywhere.
pub(super) async fn look(cx: &Context<'_>, who: &Who, volume: &Arc<dyn Volume>) -> Result<Shown> {
    let changed = Ok(Shown::Changed(Vec::new()));
    let Some((record, parent)) = newest(cx).await? else { return changed };
    let past = Past {
        options: cx.options,
        who,
        parent: Some(&parent),
        origin: None,
        is_unreadable: false,
        chunk_size_bytes: cx.project.chunk_size_bytes(),
        delta_depth_max: 0,
        fetches: false,
    };
    let Asked { since: Some(since), .. } = plan::ask(&past)? else { return changed };
    let before = Manifest::of(cx.project, &parent.snapshot)?;
    if !is_whole(cx, &record, &parent, &before).await? {
        return changed;
    }
    cx.progress.phase("finding what changed", None);
    let now = Arc::clone(volume);
    let Some(now) = cpu::block(move || now.present()).await?.map(Arc::new) else { return changed };
    let head = Arc::clone(&now);
    let has_changed = cpu::block(move || {
        let changed = !head.head.has(&since) || !head.head.changed_since(&since)?.changes.is_empty();
        Ok(changed)
    });
    let is_other =
        now.layout != parent.snapshot.layout || now.reader.size_bytes() != parent.snapshot.size_bytes;
    if is_other || has_changed.await? {
        return changed;
    }
    // Nothing is committed that would say where the next sample goes on: it is all at random.
    let (cursor, seed) = (u64::from_le_bytes(random_array()?), SnapshotId(random_array()?));
    let drawn = sample::choose(&before, &[], cursor, seed).await?.chunks;
    let doubted = differing(cx, &now, &before, &drawn).await?;
    match doubted.is_empty() {
        true => Ok(Shown::Unchanged(Box::new(report(cx, &parent, &before, &drawn)))),
        false => Ok(Shown::Changed(doubted)),
    }
}

/// The newest live snapshot, where nothing came after it: whatever did, somebody has to see to.
async fn newest(cx: &Context<'_>) -> Result<Option<(VolumeRecord, SnapshotEntry)>> {
    let project = cx.project;
    let Some(volume) = project.volumes().find(&cx.options.volume).await? else { return Ok(None) };
    let log = project.log(volume.number).read().await?;
    let Some((sequence, entry)) = log.candidates().next().filter(|(s, _)| *s == log.last()) else {
        return Ok(None);
    };
    let Some(found) = project.history(&volume).outcome_if_any(sequence, entry).await? else {
        return Ok(None);
    };
    let is_forgotten = project.slot(volume.number, sequence).is_forgotten().await?;
    Ok((!is_forgotten).then_some((volume, found)))
}

/// Whether nothing that a snapshot needs is known to be lost, as far as this look sees.
async fn is_whole(
    cx: &Context<'_>,
    volume: &VolumeRecord,
    parent: &SnapshotEntry,
    before: &Manifest,
) -> Result<bool> {
    let forbidden = cx.among.fleet.kept.look(cx.project).await?;
    // No sequence is taken that would say which part is next.
    let sequence = Sequence(u32::from_le_bytes(random_array()?).max(1));
    Look { cx, volume, sequence, parent, before }.is_whole(&forbidden).await
}

/// Those of some chunks that are not what a manifest says.
async fn differing(
    cx: &Context<'_>,
    now: &Arc<Present>,
    before: &Manifest,
    chunks: &[ChunkIndex],
) -> Result<Vec<ChunkIndex>> {
    let mut differing = Vec::new();
    for index in chunks.iter().copied() {
        cx.cancel.check()?;
        let len_bytes = before.geometry().chunk_len_bytes(index);
        let _share = cx.budget.take(u64::from(len_bytes)).await?;
        let (now, offset_bytes) = (Arc::clone(now), before.geometry().offset_bytes(index));
        let plain = cpu::block(move || {
            let mut plain = vec![0; len_bytes as usize];
            now.reader.read_at(offset_bytes, &mut plain)?;
            Ok(plain)
        });
        let (plain, project) = (plain.await?, cx.project.clone());
        let id = cpu::run(move || Ok((!codec::is_zero(&plain)).then(|| project.identify(&plain)))).await?;
        if before.chunk(index).await?.id() != id {
            differing.push(index);
        }
    }
    Ok(differing)
}

fn report(cx: &Context<'_>, parent: &SnapshotEntry, before: &Manifest, read: &[ChunkIndex]) -> BackupReport {
    let snapshot = &parent.snapshot;
    let read_bytes = read.iter().map(|index| u64::from(before.geometry().chunk_len_bytes(*index))).sum();
    BackupReport {
        volume: cx.options.volume.to_string(),
        sequence: Some(snapshot.sequence.0),
        snapshot_id: Some(parent.snapshot_id.to_string()),
        unchanged: true,
        point: snapshot.point.clone(),
        size_bytes: snapshot.size_bytes,
        full_read: false,
        changed_bytes: 0,
        parent: Some(snapshot.sequence.0),
        origin: None,
        parent_known_by: Some("id"),
        stats: BackupStats { read_bytes, known_chunks: read.len() as u64, ..BackupStats::default() },
        levels: None,
        lost: LostReport::default(),
        plan: plan::unchanged(snapshot, before.geometry(), read),
        remarks: Vec::new(),
        seconds: 0.0,
    }
}
