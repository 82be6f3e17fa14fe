//! What is to be mended: damaged chunks and pages, and where else their content may be found.

use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::format::names::ContentName;
use crate::format::page::{ObjectRef, PageRef};
use crate::units::{ChunkId, ChunkIndex, VolumeNumber};
use crate::verify::audit::Audit;
use crate::verify::look::insane;
use crate::verify::pages::{Manner, Pages, Visit};
use crate::verify::report::Findings;
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
    /// What it is a delta against, down to the full object; empty when it is full.
    pub(super) below: Vec<ObjectRef>,
    /// Where volumes have it, or a delta against it.
    pub(super) spots: Vec<Spot>,
    /// Other objects that hold the same content, each with its closure.
    pub(super) twins: Vec<Vec<ObjectRef>>,
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
    let ids: HashSet<ChunkId> =
        findings.chunks.keys().filter(|(_, len)| len.is_none()).map(|(name, _)| name.id).collect();
    let mut twins: HashMap<ChunkId, Vec<Vec<ObjectRef>>> = HashMap::new();
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
                        for (depth, object) in chunk.objects().enumerate() {
                            if bad(findings, object.name) {
                                clean = false;
                                targets.saw(chunk, depth, spot);
                            } else if ids.contains(&object.name.id) {
                                let chain: Vec<ObjectRef> = chunk.objects().skip(depth).copied().collect();
                                let known = twins.entry(object.name.id).or_default();
                                if known.len() < TWINS_MAX && !known.contains(&chain) {
                                    known.push(chain);
                                }
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
        target.twins = twins.get(&target.object.name.id).cloned().unwrap_or_default();
    }
    Ok(targets)
}

impl Targets {
    /// Notes that the object so deep in a chunk's closure is damaged.
    fn saw(&mut self, chunk: &PageRef, depth: usize, spot: Spot) {
        let mut chain = chunk.objects().skip(depth).copied();
        let Some(object) = chain.next() else { return };
        let target = self.chunks.entry(object.name).or_insert_with(|| ChunkTarget {
            object,
            below: chain.collect(),
            spots: Vec::new(),
            twins: Vec::new(),
        });
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
        self.chunks.retain(|name, _| needed(audit.project.content().chunk_name(*name).to_string()));
        self.pages.retain(|name, _| needed(audit.project.content().page_name(*name).to_string()));
    }
}
