//! What live snapshots need and listings do not show: confirmed by a request for the very name, told, and remembered
//! (repo-format.md §8.6).

use std::collections::{BTreeMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::lost::LostName;
use crate::format::names::{ContentKind, ContentName};
use crate::plan::marks::{Marks, fingerprint};
use crate::prune::Context;
use crate::prune::mark::{Marker, Suspects};
use crate::prune::report::LostObject;
use crate::prune::survey::{Known, Survey};
use crate::repo::Listed;
use crate::units::{Generation, VolumeNumber};

/// Missing objects that are named in a report; more are counted.
const NAMED_MAX: usize = 100;
/// Missing objects that are asked for by name: more of them take no more to be believed.
const CONFIRMED_MAX: usize = 10_000;
const HEADS_INFLIGHT_MAX: usize = 32;

/// What was missing.
#[derive(Default)]
pub(super) struct Named {
    pub(super) objects: u64,
    /// The first of them.
    pub(super) named: Vec<LostObject>,
    /// How many are remembered since now.
    pub(super) recorded: u64,
}

/// The fingerprints of what is marked and not listed. Asked only when a count says that there are some.
pub(super) async fn not_listed(cx: &Context, marks: &Marks, below: Generation) -> Result<HashSet<u64>> {
    let mut left = marks.fingerprints();
    for kind in ContentKind::ALL {
        let each = |listed: Listed| {
            left.remove(&fingerprint(&listed.name));
        };
        cx.project.content().each(kind, below, &cx.cancel, each).await?;
    }
    Ok(left)
}

/// Walks the manifests once more for the names behind fingerprints, and tells and records what is not there.
pub(super) async fn name_lost(
    cx: &Context,
    marker: &mut Marker,
    survey: &Survey,
    known: &Known,
    unlisted: HashSet<u64>,
) -> Result<Named> {
    let mut found = Named::default();
    cx.progress.phase("missing objects", None);
    marker.forget();
    marker.suspects.unlisted = unlisted;
    marker.first_pass(known);
    marker.cover(&cx.project, survey, &cx.cancel).await?;
    marker.suspects.is_complete = true;
    marker.suspects.unlisted = HashSet::new();
    let named = std::mem::take(&mut marker.suspects.named);
    let mut lost = Vec::new();
    let mut heads = stream::iter(named.keys().take(CONFIRMED_MAX).copied().collect::<Vec<_>>())
        .map(|name| is_lost(cx, name))
        .buffer_unordered(HEADS_INFLIGHT_MAX);
    while let Some(one) = heads.try_next().await? {
        cx.cancel.check()?;
        lost.extend(one);
    }
    drop(heads);
    lost.sort_unstable();
    let volumes: BTreeMap<VolumeNumber, &str> =
        survey.volumes.iter().map(|v| (v.record.number, v.record.name.as_str())).collect();
    let mut still_needed = Vec::new();
    for name in lost {
        let Some((volume, sequence)) = named.get(&name) else { continue };
        // Forgotten meanwhile, and perhaps pruned: nobody misses it.
        if cx.project.slot(*volume, *sequence).is_gone().await? {
            continue;
        }
        still_needed.push(name);
        if found.named.len() < NAMED_MAX {
            found.named.push(LostObject {
                object: content_name(cx, name).to_string(),
                snapshot: format!("{}@{sequence}", volumes.get(volume).copied().unwrap_or_default()),
            });
        }
    }
    found.objects = still_needed.len() as u64;
    if cx.options.dry_run || still_needed.is_empty() {
        return Ok(found);
    }
    let mut known = cx.project.lost_records().read().await?;
    match cx.project.lost_records().remember(&mut known, &still_needed).await {
        Ok(new) => found.recorded = new as u64,
        Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::Internal) => return Err(e),
        Err(e) => cx.progress.warn(&format!("what was found lost could not be recorded: {e}")),
    }
    Ok(found)
}

async fn is_lost(cx: &Context, name: LostName) -> Result<Option<LostName>> {
    let key = content_name(cx, name).to_string();
    let found = cx.project.repository().store().head(&key).await?;
    Ok::<_, Error>(found.is_none().then_some(name))
}

fn content_name(cx: &Context, name: LostName) -> ObjectName {
    ObjectName::content(cx.project.name(), name.kind(), name.name())
}

/// Names that the live index must not have: a backup would take them for stored.
pub(super) async fn unfit_for_index(cx: &Context) -> Result<HashSet<ContentName>> {
    let lost = cx.project.lost_records().read().await?;
    let chunks = lost.names().filter(|name| name.kind() == ContentKind::Chunk);
    Ok(chunks.map(LostName::name).collect())
}

/// Removes records of what nobody needs any more, and says how many.
pub(super) async fn settle_lost(cx: &Context, suspects: &Suspects) -> Result<u64> {
    if suspects.recorded.is_empty() || !suspects.is_complete {
        return Ok(0);
    }
    let lost = cx.project.lost_records().read().await?;
    let dead = |name: &LostName| suspects.recorded.contains(name) && !suspects.needed.contains(name);
    let gone = cx.project.lost_records().settle(&lost, dead).await?;
    Ok(gone as u64)
}
