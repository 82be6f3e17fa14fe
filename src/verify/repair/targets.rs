//! What is to be mended: damaged chunks and pages, and where else their content may be found.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::error::Result;
use crate::format::names::ContentName;
use crate::format::page::{ObjectRef, PageRef};
use crate::repo::bundles;
use crate::units::{ChunkId, ChunkIndex, VolumeNumber};
use crate::verify::audit::Audit;
use crate::verify::look::insane;
use crate::verify::pages::{Manner, Pages, Visit};
use crate::verify::report::{Findings, looked};
use crate::verify::subject::Subject;

/// Places of one chunk that are remembered.
const SPOTS_MAX: usize = 16;
/// Other objects with the same content that are remembered.
const TWINS_MAX: usize = 4;

/// A place in a volume where a chunk belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) volume: VolumeNumber,
    pub(super) offset_bytes: u64,
    pub(super) len_bytes: u32,
}

/// A damaged chunk object.
#[derive(Debug)]
pub(super) struct ChunkTarget {
    pub(super) object: ObjectRef,
    /// What it holds, where a manifest says it: of the pieces that deltas stand on only the bundle's table does.
    pub(super) id: Option<ChunkId>,
    /// A delta that stands on it: its bundle's table may say what this one holds.
    above: Option<ContentName>,
    /// What it is a delta against, down to the full object; empty when it is full.
    pub(super) below: Vec<ObjectRef>,
    /// Where volumes have it, or a delta against it.
    pub(super) spots: Vec<Spot>,
    /// Where else the same content is stored.
    pub(super) twins: Vec<PageRef>,
}

impl ChunkTarget {
    /// Whether the two are pieces of one bundle.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        let (one, other) = (self.object.name, other.object.name);
        one.offset_bytes.is_some() && other.offset_bytes.is_some() && one.object() == other.object()
    }
}

/// All that is damaged and needed.
#[derive(Debug, Default)]
pub(super) struct Targets {
    pub(super) chunks: HashMap<ContentName, ChunkTarget>,
    pub(super) pages: HashMap<ContentName, ObjectRef>,
}

/// Finds what there is to know of each damaged object, by a walk over all pages.
pub(super) async fn find(audit: &Audit, subjects: &[Subject], findings: &mut Findings) -> Result<Targets> {
    let mut targets = Targets::default();
    let bad = |findings: &Findings, name: ContentName| findings.chunks.contains_key(&(name, None));
    let mut ids = damaged_ids(audit, findings).await?;
    let mut twins: HashMap<ChunkId, Vec<PageRef>> = HashMap::new();
    let mut pages = Pages::new(audit, Manner::Often);
    for subject in subjects {
        audit.cancel.check()?;
        let geometry = subject.geometry;
        let mut visitor = |findings: &mut Findings, visit: Visit<'_>| {
            let mut clean = true;
            match visit {
                Visit::Bad { object, .. } => drop(targets.pages.insert(object.name, object)),
                Visit::Leaf { first, page, generation } => {
                    for (at, chunk) in page.refs.iter().enumerate() {
                        // What no writer writes is not mended either.
                        if insane(audit, chunk, generation).is_some() {
                            continue;
                        }
                        let index = ChunkIndex(first.0 + at as u64);
                        let spot = Spot {
                            volume: subject.volume,
                            offset_bytes: geometry.offset_bytes(index),
                            len_bytes: geometry.chunk_len_bytes(index),
                        };
                        let mut is_hurt = false;
                        for (depth, object) in chunk.objects().enumerate() {
                            if bad(findings, object.name) {
                                (clean, is_hurt) = (false, true);
                                targets.saw(chunk, depth, spot);
                            }
                        }
                        let Some(id) = chunk.id() else { continue };
                        if chunk.object().is_some_and(|object| bad(findings, object.name)) {
                            ids.extend([id]);
                        } else if !is_hurt && ids.contains(&id) {
                            let known = twins.entry(id).or_default();
                            if known.len() < TWINS_MAX && !known.contains(chunk) {
                                known.push(chunk.clone());
                            }
                        }
                    }
                }
            }
            Ok(clean)
        };
        pages.snapshot(subject, findings, &mut visitor).await?;
    }
    for target in targets.chunks.values_mut() {
        target.id = target.id.or(ids.of(target.object.name));
        if let (None, Some(above)) = (target.id, target.above) {
            target.id = base_of(audit, above).await?;
        }
        target.twins = target.id.and_then(|id| twins.get(&id).cloned()).unwrap_or_default();
    }
    Ok(targets)
}

/// What is damaged holds, as far as that is known without it.
#[derive(Default)]
struct Ids {
    by_name: HashMap<ContentName, ChunkId>,
    all: HashSet<ChunkId>,
}

impl Ids {
    fn of(&self, name: ContentName) -> Option<ChunkId> {
        self.by_name.get(&name).copied()
    }

    fn contains(&self, id: &ChunkId) -> bool {
        self.all.contains(id)
    }

    fn extend(&mut self, ids: impl IntoIterator<Item = ChunkId>) {
        self.all.extend(ids);
    }
}

/// What a delta stands on, by its bundle's table.
async fn base_of(audit: &Audit, delta: ContentName) -> Result<Option<ChunkId>> {
    let Ok(Some(table)) = looked(bundles::table(&audit.project, delta.object()).await)? else {
        return Ok(None);
    };
    let found = table.pieces().find(|(offset_bytes, _)| Some(*offset_bytes) == delta.offset_bytes);
    Ok(found.and_then(|(_, piece)| piece.base()))
}

/// The ids of damaged objects are their names; those of pieces are in their bundles' tables, where these are sound.
async fn damaged_ids(audit: &Audit, findings: &Findings) -> Result<Ids> {
    let mut ids = Ids::default();
    let mut bundles: BTreeSet<ContentName> = BTreeSet::new();
    for (name, _) in findings.chunks.keys().filter(|(_, len)| len.is_none()) {
        match name.offset_bytes {
            None => drop(ids.by_name.insert(*name, name.id)),
            Some(_) => drop(bundles.insert(name.object())),
        }
    }
    for bundle in bundles {
        audit.cancel.check()?;
        let Ok(Some(table)) = looked(bundles::table(&audit.project, bundle).await)? else { continue };
        let pieces = table.pieces().map(|(offset_bytes, piece)| {
            (ContentName { offset_bytes: Some(offset_bytes), ..bundle }, piece.id)
        });
        ids.by_name.extend(pieces.filter(|(name, _)| findings.chunks.contains_key(&(*name, None))));
    }
    ids.all = ids.by_name.values().copied().collect();
    Ok(ids)
}

impl Targets {
    /// Notes that the object so deep in a chunk's closure is damaged.
    fn saw(&mut self, chunk: &PageRef, depth: usize, spot: Spot) {
        let mut chain = chunk.objects().skip(depth).copied();
        let Some(object) = chain.next() else { return };
        let target = self.chunks.entry(object.name).or_insert_with(|| ChunkTarget {
            object,
            id: None,
            above: None,
            below: chain.collect(),
            spots: Vec::new(),
            twins: Vec::new(),
        });
        match depth.checked_sub(1) {
            None => target.id = chunk.id(),
            Some(above) => target.above = chunk.objects().nth(above).map(|above| above.name),
        }
        if target.spots.contains(&spot) {
            return;
        }
        // Where the chunk itself belongs is a better place to look than where a delta against it does.
        let at = if depth == 0 { 0 } else { target.spots.len() };
        target.spots.insert(at, spot);
        target.spots.truncate(SPOTS_MAX);
    }

    /// Drops what is not among these objects.
    pub(super) fn retain(&mut self, audit: &Audit, objects: &HashSet<&str>) {
        let needed = |name: String| objects.contains(name.as_str());
        self.chunks.retain(|name, _| needed(audit.project.content().chunk_label(*name)));
        self.pages.retain(|name, _| needed(audit.project.content().page_name(*name).to_string()));
    }
}
