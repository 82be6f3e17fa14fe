//! What an encoder may know before it begins: the generation's chunks by listing, and those of older generations by the
//! live index of the last seal.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, stream};

use crate::backup::context::Context;
use crate::backup::encode::Encoder;
use crate::backup::ground::Ground;
use crate::backup::known::Known;
use crate::error::{ErrorKind, Result};
use crate::format::gc::PartRef;
use crate::format::names::{ContentKind, ContentName, chunks_prefix};
use crate::format::table::TableEntry;
use crate::format::{HEADER_LEN_BYTES, ObjectName};
use crate::repo::content::chunk_object_len_bytes_max;
use crate::repo::found::Found;
use crate::repo::manifest::Manifest;
use crate::store::ObjectInfo;
use crate::units::{ChunkId, Generation};

/// Most chunks that come from a listing, and from a live index.
const LEARNED_MAX: usize = 400_000;
/// Up to so many, one listing after another is the cheapest.
const LISTED_FEW: usize = 5_000;
/// Manifest pages that are read to learn what they name.
const NAMED_PAGES_MAX: usize = 4_096;
/// Listings under way at once.
const LISTS_INFLIGHT_MAX: usize = 16;

/// An encoder that learned what there is, where there may well be more than the parent shows.
pub(super) async fn encoder(cx: &Context<'_>, ground: &Ground) -> Result<Arc<Encoder>> {
    let encoder = Encoder::new(cx, ground);
    if ground.learn {
        learn_live(&encoder).await?;
        learn_stored(&encoder).await?;
    }
    Ok(Arc::new(encoder))
}

/// Reads the live index of the round that began the session's generation, or of the one before while that is not
/// sealed. Every chunk in it was live then, and stays until a round that waits for this session, unless a round under
/// way condemned it (invariants I4, I6). An index that is damaged or gone costs uploads, not the backup.
async fn learn_live(encoder: &Encoder) -> Result<()> {
    match read_live(encoder).await {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tracing::warn!(%error, "the live index cannot be read; known content may be uploaded again");
            Ok(())
        }
        done => done,
    }
}

async fn read_live(encoder: &Encoder) -> Result<()> {
    let Some((generation, parts)) = newest_index(encoder).await? else { return Ok(()) };
    for part in &parts {
        if encoder.known.count() >= LEARNED_MAX {
            break;
        }
        // A later round ended: this session has been ended by it, too.
        let Some(entries) = encoder.project.parts(generation).read_table(part).await? else { break };
        entries.iter().for_each(|entry| learn_entry(encoder, entry));
    }
    Ok(())
}

async fn newest_index(encoder: &Encoder) -> Result<Option<(Generation, Vec<PartRef>)>> {
    let newest = encoder.generation.0;
    for generation in [newest, newest.saturating_sub(1)].into_iter().filter(|g| *g > 0) {
        match encoder.project.rounds().look_seal(Generation(generation)).await? {
            Found::Opens(seal) => return Ok(Some((seal.generation, seal.live_index))),
            Found::Absent => {}
            // It may be a seal, and delete what the one before names.
            Found::Foreign(_) => return Ok(None),
        }
    }
    Ok(None)
}

fn learn_entry(encoder: &Encoder, entry: &TableEntry) {
    let (name, size_bytes) = (entry.object.name, u64::from(entry.object.sealed_len_bytes));
    let may_be = entry.kind == ContentKind::Chunk && name.generation <= encoder.generation;
    if may_be
        && name.variant == 0
        && may_have(encoder, size_bytes)
        && !encoder.forbidden.name(entry.kind, name)
    {
        encoder.known.know(name.id, Known::of(&entry.object));
    }
}

/// Lists what the generation holds, so that a large backup of known content uploads nothing. What the listing
/// misses costs a create that finds it; what it shows is there, as nothing of this generation is deleted while
/// the session is open (invariant I3).
///
/// A listing proves nothing of what is in an object: anybody who may create can have put it there. What a live snapshot
/// names is known; the rest is opened once before it is used.
async fn learn_stored(encoder: &Encoder) -> Result<()> {
    let mut listed = list_stored(encoder).await?;
    if !listed.is_empty() {
        learn_named(encoder, &mut listed).await?;
        encoder.known.saw_listed(listed.into_keys());
    }
    Ok(())
}

/// The full chunks of the generation that a listing shows, with their sizes.
async fn list_stored(encoder: &Encoder) -> Result<HashMap<ChunkId, u32>> {
    let (store, name) = (encoder.project.repository().store(), encoder.project.name());
    let all = chunks_prefix(name, encoder.generation, None);
    let few: Vec<_> = store.list_stream(&all, None).take(LISTED_FEW).collect().await;
    if few.len() < LISTED_FEW {
        let few: Vec<ObjectInfo> = few.into_iter().collect::<Result<_>>()?;
        return Ok(few.iter().filter_map(|info| full_chunk(encoder, info)).collect());
    }
    let lists = (0..=255u8).map(|first| chunks_prefix(name, encoder.generation, Some(first)));
    let mut lists = stream::iter(lists)
        .map(|prefix| async move { store.list(&prefix, None).await })
        .buffer_unordered(LISTS_INFLIGHT_MAX);
    let mut found = HashMap::new();
    while let Some(listed) = lists.next().await {
        found.extend(listed?.iter().filter_map(|info| full_chunk(encoder, info)));
        if found.len() >= LEARNED_MAX {
            break;
        }
    }
    Ok(found)
}

/// Takes what the newest snapshots of the project's volumes name out of what is listed: their manifests are sealed with
/// the project's key. Whatever of it cannot be read costs a look at the chunks.
async fn learn_named(encoder: &Encoder, listed: &mut HashMap<ChunkId, u32>) -> Result<()> {
    let mut pages = 0;
    for volume in encoder.project.volumes().once().await?.entries() {
        let Ok(Some(snapshot)) = encoder.project.history(volume).latest().await else { continue };
        let Ok(manifest) = Manifest::of(&encoder.project, &snapshot.snapshot) else { continue };
        for number in 0..manifest.leaf_count() {
            if pages >= NAMED_PAGES_MAX || listed.is_empty() {
                return Ok(());
            }
            let Ok(leaf) = manifest.leaf(number).await else { break };
            pages += 1;
            for chunk in leaf.refs.iter().filter_map(|chunk| chunk.object()) {
                let ContentName { id, generation, variant } = chunk.name;
                if (generation, variant) == (encoder.generation, 0)
                    && listed.get(&id) == Some(&chunk.sealed_len_bytes)
                {
                    listed.remove(&id);
                    encoder.known.know(id, Known::of(chunk));
                }
            }
        }
    }
    Ok(())
}

/// A full chunk of a listing, as far as its size can be right and nothing forbids it.
fn full_chunk(encoder: &Encoder, info: &ObjectInfo) -> Option<(ChunkId, u32)> {
    match ObjectName::parse(&info.key)? {
        ObjectName::Chunk(_, name @ ContentName { id, variant: 0, .. })
            if may_have(encoder, info.size_bytes) && !encoder.forbidden.name(ContentKind::Chunk, name) =>
        {
            Some((id, u32::try_from(info.size_bytes).ok()?))
        }
        _ => None,
    }
}

/// Whether a chunk's object may be so large.
fn may_have(encoder: &Encoder, size_bytes: u64) -> bool {
    let max = chunk_object_len_bytes_max(encoder.project.chunk_size_bytes());
    (HEADER_LEN_BYTES as u64..=max).contains(&size_bytes)
}
