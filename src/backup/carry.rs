//! Empties bundles of which the volume needs little (repo-format.md §4.1): what it needs of them is carried into a bundle of this session, so
//! that they go once no older snapshot needs them either.
//!
//! What it costs follows what changed: only leaves that are written anyway are looked at, and no key but that of tables is needed.
//! It saves room and nothing else, so whatever stands in its way leaves things as they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::backup::bundle::BUNDLE_MAX;
use crate::backup::manifest::Draft;
use crate::backup::store::Storer;
use crate::budget::Budget;
use crate::codec::Piece;
use crate::cpu;
use crate::error::{ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::bundle::PieceRecord;
use crate::format::envelope::damaged;
use crate::format::names::ContentName;
use crate::format::page::{ObjectRef, PageRef, REFS_PER_PAGE};
use crate::plan::bundles::Load;
use crate::repo::Project;
use crate::repo::content::Body;
use crate::repo::forbidden::Forbidden;
use crate::repo::neighbours::Neighbours;
use crate::units::ChunkIndex;

/// One backup carries no more. What is left is left to the next.
const CARRIED_BYTES_MAX: u64 = 64 << 20;
const FANOUT: u64 = REFS_PER_PAGE as u64;

/// Where a piece was, and where its chunk is in the volume.
#[derive(Clone, Copy)]
struct Wanted {
    object: ObjectRef,
    first: ChunkIndex,
}

/// What is carried, once all else is durable, so that the backup's memory is free.
pub(super) async fn run<D: Draft>(
    storer: &mut Storer<D>,
    sparse: &BTreeSet<ContentName>,
    forbidden: &Forbidden,
    budget: &Budget,
) -> Result<()> {
    if sparse.is_empty() {
        return Ok(());
    }
    let chunks = chunks(storer, sparse, forbidden).await?;
    let wanted = wanted(&chunks, sparse);
    let mut carried = HashMap::new();
    match carry(storer, &wanted, budget, &mut carried).await {
        Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
        Err(error) => tracing::info!(%error, "what little is needed of some bundles stays in them"),
        Ok(()) => {}
    }
    for (index, chunk) in chunks {
        let moved = moved(&chunk, &carried);
        if moved != chunk {
            storer.draft.set(index, moved).await?;
        }
    }
    Ok(())
}

/// The chunks that need something of these bundles, in leaves that are written anyway.
async fn chunks<D: Draft>(
    storer: &mut Storer<D>,
    sparse: &BTreeSet<ContentName>,
    forbidden: &Forbidden,
) -> Result<Vec<(ChunkIndex, PageRef)>> {
    let (mut out, mut bytes) = (Vec::new(), 0);
    let chunk_count = storer.draft.geometry().chunk_count();
    for leaf in storer.draft.changed_leaves() {
        for index in (leaf * FANOUT..((leaf + 1) * FANOUT).min(chunk_count)).map(ChunkIndex) {
            let chunk = storer.draft.get(index).await?;
            let pieces = chunk.objects().filter(|object| is_in(object, sparse));
            let chunk_bytes: u64 = pieces.map(|piece| u64::from(piece.sealed_len_bytes)).sum();
            if bytes + chunk_bytes > CARRIED_BYTES_MAX {
                return Ok(out);
            }
            if chunk_bytes > 0 && !forbidden.chunk(&chunk) {
                bytes += chunk_bytes;
                out.push((index, chunk));
            }
        }
    }
    Ok(out)
}

fn is_in(object: &ObjectRef, bundles: &BTreeSet<ContentName>) -> bool {
    object.name.offset_bytes.is_some() && bundles.contains(&object.name.object())
}

/// Each piece once, by bundle: so each table is read once, and neighbours with one request.
fn wanted(chunks: &[(ChunkIndex, PageRef)], sparse: &BTreeSet<ContentName>) -> Vec<Wanted> {
    let mut wanted = BTreeMap::new();
    for (first, chunk) in chunks {
        for object in chunk.objects().filter(|object| is_in(object, sparse)) {
            wanted.entry(object.name).or_insert(Wanted { object: *object, first: *first });
        }
    }
    wanted.into_values().collect()
}

async fn carry<D: Draft>(
    storer: &mut Storer<D>,
    wanted: &[Wanted],
    budget: &Budget,
    carried: &mut HashMap<ContentName, ObjectRef>,
) -> Result<()> {
    let (mut group, mut load) = (Vec::new(), Load::default());
    for wanted in wanted {
        let Some(record) = storer.encoder.tables.piece(&wanted.object).await? else { continue };
        let (bytes, runs) = (u64::from(wanted.object.sealed_len_bytes), record.run_count());
        let with = load.and(Load { pieces: 1, bytes, runs });
        load = match with.is_within(&BUNDLE_MAX) || group.is_empty() {
            true => with,
            false => {
                bundle(storer, std::mem::take(&mut group), budget, carried).await?;
                Load { pieces: 1, bytes, runs }
            }
        };
        group.push((*wanted, record));
    }
    bundle(storer, group, budget, carried).await
}

/// Puts pieces into a bundle of this session, in the order of the volume.
async fn bundle<D: Draft>(
    storer: &mut Storer<D>,
    mut group: Vec<(Wanted, PieceRecord)>,
    budget: &Budget,
    carried: &mut HashMap<ContentName, ObjectRef>,
) -> Result<()> {
    group.sort_by_key(|(wanted, _)| wanted.first);
    // As they come, as pieces, and as a bundle.
    let _share = budget.take(3 * BUNDLE_MAX.bytes).await?;
    let (project, objects) =
        (storer.encoder.project.clone(), group.iter().map(|(wanted, _)| wanted.object).collect::<Vec<_>>());
    let neighbours = Neighbours::new(&project, BUNDLE_MAX.bytes);
    neighbours.announce(objects.iter());
    let bodies = neighbours.get_all(&objects).await?;
    let pieces = cpu::run(move || {
        let pieces = group.into_iter().zip(bodies).filter_map(|((wanted, record), body)| {
            let piece = as_stored(&project, record, body).inspect_err(|error| {
                let place = project.content().chunk_label(wanted.object.name);
                tracing::warn!(%error, "{place} is damaged and stays where it is; run `cuttle verify`");
            });
            Some((wanted.object.name, piece.ok()?))
        });
        Ok(pieces.collect::<Vec<_>>())
    });
    let (names, pieces): (Vec<_>, Vec<_>) = pieces.await?.into_iter().unzip();
    if pieces.is_empty() {
        return Ok(());
    }
    let refs = storer.draft.put_bundle(pieces).await?;
    storer.carried(&refs);
    carried.extend(names.into_iter().zip(refs));
    Ok(())
}

/// The very bytes that are stored: what they hold is bound to its id, and not to where it lies. That they open, nobody need know; that
/// they are what was written, their checksum shows.
fn as_stored(project: &Project, record: PieceRecord, body: Body) -> Result<Piece> {
    if body.id != record.id {
        return Err(damaged("a piece that has another id than the table of its bundle says"));
    }
    let name = ObjectName::Piece(project.name().clone(), body.id);
    Piece::stored(project.place(&name), body.id, body.sealed, record.into_delta_parts()?)
}

/// A chunk's ref, with the places where its pieces are now.
fn moved(chunk: &PageRef, carried: &HashMap<ContentName, ObjectRef>) -> PageRef {
    let to = |object: &ObjectRef| carried.get(&object.name).copied().unwrap_or(*object);
    match chunk {
        PageRef::Zero => PageRef::Zero,
        PageRef::Stored { id, object, closure } => {
            PageRef::Stored { id: *id, object: to(object), closure: closure.iter().map(to).collect() }
        }
    }
}
