//! What an encoder may know before it begins: the generation's chunks by listing, and those of older generations by the
//! live index of the last seal.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, stream};

use crate::backup::context::Context;
use crate::backup::encode::Encoder;
use crate::backup::fleet::Among;
use crate::backup::ground::Ground;
use crate::backup::known::Others;
use crate::backup::learned::OfGeneration;
use crate::backup::live::may_have;
use crate::error::{ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::names::{ContentName, chunks_prefix};
use crate::repo::Project;
use crate::repo::manifest::Manifest;
use crate::store::ObjectInfo;
use crate::units::{ChunkId, Generation};

/// Most chunks that come from a listing.
const LEARNED_MAX: usize = 400_000;
/// Up to so many, one listing after another is the cheapest.
const LISTED_FEW: usize = 5_000;
/// Manifest pages that are read to learn what they name.
const NAMED_PAGES_MAX: usize = 4_096;
/// Volumes whose newest snapshots are read for that: two requests each, and their pages.
const NAMED_VOLUMES_MAX: usize = 256;
/// Listings under way at once.
const LISTS_INFLIGHT_MAX: usize = 16;

/// An encoder that learned what there is, where there may well be more than the parent shows.
pub(super) async fn encoder(
    cx: &Context<'_>,
    ground: &Ground,
    volume_bytes: Option<u64>,
) -> Result<Arc<Encoder>> {
    let mut encoder = Encoder::new(cx, ground);
    let Among { fleet, is_shared } = &cx.among;
    let learned = fleet.learned.of(ground.generation);
    if ground.learn {
        cx.progress.phase("reading what is stored", None);
        let read = learned.live.read(cx.project, ground.generation, volume_bytes, &cx.cancel).await;
        if let Err(error) = read {
            if error.kind() == ErrorKind::Interrupted {
                return Err(error);
            }
            cx.remark(format!(
                "the index of what is stored cannot be read, so some of that may be uploaded again: {error}"
            ));
        }
    }
    if ground.learn && !learned.is_loaded() {
        learn_stored(&encoder.project, &learned).await?;
        learned.loaded();
    }
    if ground.learn || *is_shared {
        let forbidden = Arc::clone(&encoder.forbidden);
        encoder.known.heed(Others { learned, forbidden, are_told: *is_shared });
    }
    Ok(Arc::new(encoder))
}

/// Lists what the generation holds, so that a large backup of known content uploads nothing. What the listing
/// misses costs a create that finds it; what it shows is there, as nothing of this generation is deleted while
/// the session is open (invariant I3).
///
/// A listing proves nothing of what is in an object: anybody who may create can have put it there. What a live snapshot
/// names is known; the rest is opened once before it is used.
async fn learn_stored(project: &Project, learned: &OfGeneration) -> Result<()> {
    let mut listed = list_stored(project, learned.generation).await?;
    if !listed.is_empty() {
        learn_named(project, learned, &mut listed).await?;
        learned.list(listed.into_keys());
    }
    Ok(())
}

/// The full chunks of the generation that a listing shows, with their sizes.
async fn list_stored(project: &Project, generation: Generation) -> Result<HashMap<ChunkId, u32>> {
    let (store, name) = (project.repository().store(), project.name());
    let all = chunks_prefix(name, generation, None);
    let few: Vec<_> = store.list_stream(&all, None).take(LISTED_FEW).collect().await;
    if few.len() < LISTED_FEW {
        let few: Vec<ObjectInfo> = few.into_iter().collect::<Result<_>>()?;
        return Ok(few.iter().filter_map(|info| full_chunk(project, info)).collect());
    }
    let lists = (0..=255u8).map(|first| chunks_prefix(name, generation, Some(first)));
    let mut lists = stream::iter(lists)
        .map(|prefix| async move { store.list(&prefix, None).await })
        .buffer_unordered(LISTS_INFLIGHT_MAX);
    let mut found = HashMap::new();
    while let Some(listed) = lists.next().await {
        found.extend(listed?.iter().filter_map(|info| full_chunk(project, info)));
        if found.len() >= LEARNED_MAX {
            break;
        }
    }
    Ok(found)
}

/// Takes what the newest snapshots of the project's volumes name out of what is listed: their manifests are sealed with
/// the project's key. Whatever of it cannot be read costs a look at the chunks. The newest volumes come first, as those that
/// were made today are most like this one.
async fn learn_named(
    project: &Project,
    learned: &OfGeneration,
    listed: &mut HashMap<ChunkId, u32>,
) -> Result<()> {
    let catalog = project.volumes().once().await?;
    let newest = catalog.entries().iter().rev().take(NAMED_VOLUMES_MAX);
    let mut snapshots =
        stream::iter(newest).map(|volume| project.history(volume).latest()).buffered(LISTS_INFLIGHT_MAX);
    let mut pages = 0;
    while let Some(latest) = snapshots.next().await {
        let Ok(Some(snapshot)) = latest else { continue };
        let Ok(manifest) = Manifest::of(project, &snapshot.snapshot) else { continue };
        for number in 0..manifest.leaf_count() {
            if pages >= NAMED_PAGES_MAX || listed.is_empty() {
                return Ok(());
            }
            let Ok(leaf) = manifest.leaf(number).await else { break };
            pages += 1;
            for chunk in leaf.refs.iter().filter_map(|chunk| chunk.object()) {
                let name @ ContentName { id, .. } = chunk.name;
                if name == ContentName::plain(learned.generation, id)
                    && listed.get(&id) == Some(&chunk.sealed_len_bytes)
                {
                    listed.remove(&id);
                    learned.prove(chunk);
                }
            }
        }
    }
    Ok(())
}

/// A full chunk of a listing, as far as its size can be right.
fn full_chunk(project: &Project, info: &ObjectInfo) -> Option<(ChunkId, u32)> {
    match ObjectName::parse(&info.key)? {
        ObjectName::Chunk(_, ContentName { id, variant: 0, .. }) if may_have(project, info.size_bytes) => {
            Some((id, u32::try_from(info.size_bytes).ok()?))
        }
        _ => None,
    }
}
