//! Whether the chunk objects that are needed exist and have the size that their manifests say.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::Result;
use crate::format::ObjectName;
use crate::format::names::{ContentKind, ContentName, generation_prefix};
use crate::format::page::ObjectRef;
use crate::repo::Listed;
use crate::units::{ChunkId, Generation};
use crate::verify::audit::{Audit, wrong_size};
use crate::verify::report::{Findings, Flaw, looked};
use crate::verify::wanted::Wanted;

/// So few objects are asked for one by one, rather than listing all that there are.
const HEADS_INSTEAD_MAX: usize = 200;
/// Objects asked for at once.
const HEADS_INFLIGHT_MAX: usize = 32;

/// What a listing said of an object. What it does not show is asked for before it is called missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Doubtful,
    Good,
}

/// The needed objects, sorted and distinct, and what is known of them.
struct Marks {
    objects: Vec<ObjectRef>,
    marks: Vec<Mark>,
}

impl Marks {
    fn of(wanted: &Wanted) -> Self {
        let full = wanted.full.iter().map(|f| f.object);
        let mut objects: Vec<ObjectRef> =
            full.chain(wanted.chains.iter().flat_map(|c| c.objects.iter().copied())).collect();
        objects.sort_unstable();
        objects.dedup();
        let marks = vec![Mark::Doubtful; objects.len()];
        Self { objects, marks }
    }

    fn listed(&mut self, name: ContentName, size_bytes: u64) {
        // A bundle's name comes before those of its pieces.
        let first = self.objects.partition_point(|o| o.name < name);
        for at in first..self.objects.len() {
            if self.objects[at].name.object() != name {
                return;
            }
            if is_within(&self.objects[at], size_bytes) {
                self.marks[at] = Mark::Good;
            }
        }
    }

    fn doubtful(&self) -> impl Iterator<Item = ObjectRef> {
        let doubtful = self.objects.iter().zip(&self.marks).filter(|(_, mark)| **mark == Mark::Doubtful);
        doubtful.map(|(object, _)| *object)
    }
}

/// Up to so many generations are listed each by itself.
const GENERATIONS_APART_MAX: usize = 8;

/// Whether an object of such a size is what a manifest says, or has the piece that it says.
fn is_within(object: &ObjectRef, size_bytes: u64) -> bool {
    let len_bytes = u64::from(object.sealed_len_bytes);
    match object.name.offset_bytes {
        None => len_bytes == size_bytes,
        Some(offset) => u64::from(offset) + len_bytes <= size_bytes,
    }
}

/// Looks for all objects of the table. Returns how many there are.
pub(crate) async fn look_for(
    audit: &Audit,
    wanted: &Wanted,
    from: ChunkId,
    until: Option<ChunkId>,
    findings: &mut Findings,
) -> Result<u64> {
    let mut marks = Marks::of(wanted);
    if marks.objects.len() > HEADS_INSTEAD_MAX {
        list(audit, &mut marks, from, until).await?;
    }
    let mut heads =
        stream::iter(marks.doubtful()).map(|object| head(audit, object)).buffer_unordered(HEADS_INFLIGHT_MAX);
    while let Some((object, flaw)) = heads.try_next().await? {
        audit.cancel.check()?;
        if let Some(flaw) = flaw {
            let name = audit.project.content().chunk_label(object.name);
            findings.chunk((object.name, None), name, flaw)?;
        }
    }
    drop(heads);
    Ok(marks.objects.len() as u64)
}

async fn list(audit: &Audit, marks: &mut Marks, from: ChunkId, until: Option<ChunkId>) -> Result<()> {
    let generations: BTreeSet<(ContentKind, Generation)> =
        marks.objects.iter().map(|o| (o.chunk_kind(), o.name.generation)).collect();
    let last = until.map_or(0xff, |until| until.0[0]);
    if generations.len() > GENERATIONS_APART_MAX {
        // Many of few objects each: all together takes fewer requests.
        let kinds: BTreeSet<ContentKind> = generations.iter().map(|(kind, _)| *kind).collect();
        let newest = generations.iter().map(|(_, generation)| *generation).max().unwrap_or(Generation(0));
        for kind in kinds {
            let each = |listed: Listed| marks.listed(listed.name, listed.size_bytes);
            audit.project.content().each(kind, newest, &audit.cancel, each).await?;
        }
        return Ok(());
    }
    for (kind, generation) in generations {
        // One listing for all of a generation, unless this pass needs only a part of it.
        let prefixes: Vec<Option<u8>> = match (from.0[0], last) {
            (0, 0xff) => vec![None],
            (first, last) => (first..=last).map(Some).collect(),
        };
        for first in prefixes {
            audit.cancel.check()?;
            let prefix = generation_prefix(audit.project.name(), kind, generation, first);
            let store = audit.project.repository().store();
            let mut listing = std::pin::pin!(store.list_stream(&prefix, None));
            while let Some(info) = listing.try_next().await? {
                if let Some(ObjectName::Chunk(_, name) | ObjectName::Bundle(_, name)) =
                    ObjectName::parse(&info.key)
                {
                    marks.listed(name, info.size_bytes);
                }
            }
        }
    }
    Ok(())
}

async fn head(audit: &Audit, object: ObjectRef) -> Result<(ObjectRef, Option<Flaw>)> {
    let name = audit.project.content().object_name(object.name).to_string();
    let flaw = match looked(audit.project.repository().store().head(&name).await)? {
        Ok(Some(info)) if is_within(&object, info.size_bytes) => None,
        Ok(Some(info)) => Some(wrong_size(info.size_bytes, &object)),
        Ok(None) => Some(Flaw::missing()),
        Err(flaw) => Some(flaw),
    };
    Ok((object, flaw))
}
