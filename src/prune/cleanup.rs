//! Small objects that nobody needs after a seal: outcomes and notes of forgotten snapshots, signs of life of sessions that
//! are over, tables of older rounds (repo-format.md §8.2).

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::gc::{BeginRecord, RosterEntry, SealRecord};
use crate::format::names::parts_prefix;
use crate::format::record::{EndRecord, Outcome};
use crate::prune::Context;
use crate::prune::remove::DELETES_MAX;
use crate::repo::log::LogEntry;
use crate::store::Deleted;
use crate::units::{ChunkId, Sequence, VolumeNumber};

/// Logs listed at once.
const LOGS_INFLIGHT_MAX: usize = 8;

/// Deletes what the seal of a round makes superfluous, and says how many objects went. Listings suffice: what they do not show is left to the next.
pub(super) async fn clean_up(
    cx: &Context,
    begin: &BeginRecord,
    seal: &SealRecord,
    roster: &[RosterEntry],
) -> Result<u64> {
    cx.progress.phase("cleaning up", None);
    let names: Vec<Vec<ObjectName>> = stream::iter(roster)
        .map(|entry| superfluous_records(cx, entry))
        .buffered(LOGS_INFLIGHT_MAX)
        .try_collect()
        .await?;
    let mut names: Vec<ObjectName> = names.into_iter().flatten().collect();
    names.extend(superfluous_parts(cx, begin, seal).await?);
    let (store, mut gone) = (cx.project.store(), 0);
    for some in names.chunks(DELETES_MAX) {
        cx.cancel.check()?;
        let keys: Vec<String> = some.iter().map(ObjectName::to_string).collect();
        let deleted = store.delete_all_unless_refused(&keys).await?;
        gone += deleted.iter().filter(|d| **d == Deleted::Gone).count() as u64;
    }
    Ok(gone)
}

async fn superfluous_records(cx: &Context, roster: &RosterEntry) -> Result<Vec<ObjectName>> {
    cx.cancel.check()?;
    let log = cx.project.log(roster.volume).listed().await?;
    let mut names = Vec::new();
    for (&sequence, entry) in log.entries.range(..=roster.high_water) {
        // Only of what was over when the logs were confirmed: a name that came since may be anybody's.
        let forgotten = entry.forgotten && roster.is_past(sequence);
        if forgotten || entry.ended_unix_ms.is_some() && !roster.unfinished.contains(&sequence) {
            let alive = |k: &u32| ObjectName::Alive(cx.project.name().clone(), roster.volume, sequence, *k);
            names.extend(log.signs.get(&sequence).into_iter().flat_map(|signs| signs.keys()).map(alive));
        }
        if forgotten {
            let note = |k: &u32| ObjectName::Note(cx.project.name().clone(), roster.volume, sequence, *k);
            names.extend(log.notes.get(&sequence).into_iter().flatten().map(note));
            names.extend(superfluous_end(cx, roster.volume, sequence, entry).await?);
        }
    }
    Ok(names)
}

/// The outcome of a forgotten snapshot. One that says "aborted" stays, whatever else there is: whoever stalled for a
/// month must still find that it lost.
async fn superfluous_end(
    cx: &Context,
    volume: VolumeNumber,
    sequence: Sequence,
    entry: &LogEntry,
) -> Result<Option<ObjectName>> {
    if entry.ended_unix_ms.is_none() {
        return Ok(None);
    }
    let name = cx.project.slot(volume, sequence).end_name();
    match cx.project.read_known_record::<EndRecord>(&name).await {
        Ok(EndRecord { outcome: Outcome::Committed(_), .. }) => {
            cx.project.repository().cache.remove(&name);
            Ok(Some(name))
        }
        Ok(_) => Ok(None),
        // Somebody else removed it, or it is damaged: then nobody misses it, and nobody can tell what it was.
        Err(e) if e.kind() == ErrorKind::Corrupt => Ok(None),
        Err(e) => Err(e),
    }
}

async fn superfluous_parts(cx: &Context, begin: &BeginRecord, seal: &SealRecord) -> Result<Vec<ObjectName>> {
    let round = seal.generation;
    let parts = begin.condemned.iter().chain(&seal.live_index).chain(&seal.deleted);
    let named: HashSet<ChunkId> = parts.map(|part| part.id).collect();
    let prefix = parts_prefix(cx.project.name(), None);
    let listed = cx.project.repository().store().list(&prefix, None).await?;
    let superfluous = |name: &ObjectName| match name {
        ObjectName::GcPart(_, generation, id) => {
            *generation < round || (*generation == round && !named.contains(id))
        }
        _ => false,
    };
    let names = listed.iter().filter_map(|info| ObjectName::parse(&info.key));
    Ok::<_, Error>(names.filter(superfluous).collect())
}
