//! What a session may not reference (repo-format.md §8.1, step 4).

use std::sync::Arc;

use crate::format::gc::Condemned;
use crate::format::names::{ContentKind, ContentName};
use crate::format::page::PageRef;
use crate::repo::lost::Lost;
use crate::units::Generation;

/// Names that rounds under way may delete, and names that were found lost.
#[derive(Debug, Clone, Default)]
pub struct Forbidden {
    /// The session's. Rounds delete only what is older.
    generation: Generation,
    condemned: Arc<Condemned>,
    lost: Arc<Lost>,
}

impl Forbidden {
    /// For a session registered in that generation.
    pub fn new(generation: Generation, condemned: Condemned, lost: Lost) -> Self {
        Self::sharing(generation, Arc::new(condemned), Arc::new(lost))
    }

    /// As [`new`](Self::new), of what others know, too.
    pub(super) fn sharing(generation: Generation, condemned: Arc<Condemned>, lost: Arc<Lost>) -> Self {
        Self { generation, condemned, lost }
    }

    /// Whether everything may be referenced.
    pub fn is_empty(&self) -> bool {
        self.condemned.is_empty() && self.lost.is_empty()
    }

    /// The names that were found lost.
    pub fn lost(&self) -> &Lost {
        &self.lost
    }

    /// The same, to add what was found since; others that share it do not see that.
    pub fn lost_mut(&mut self) -> &mut Lost {
        Arc::make_mut(&mut self.lost)
    }

    /// Whether an object may not be referenced.
    pub fn name(&self, kind: ContentKind, name: ContentName) -> bool {
        self.is_condemned(name) || self.lost.contains(kind, name)
    }

    /// Whether a chunk, or something that it takes to decode it, may not be referenced.
    pub fn chunk(&self, chunk: &PageRef) -> bool {
        chunk.objects().any(|object| self.name(ContentKind::Chunk, object.name))
    }

    /// Whether a page may not be referenced; zeros always may.
    pub fn page(&self, page: &PageRef) -> bool {
        page.object().is_some_and(|object| self.name(ContentKind::Page, object.name))
    }

    /// Whether a round under way may delete a chunk, or something that it takes to decode it.
    pub fn condemns_chunk(&self, chunk: &PageRef) -> bool {
        chunk.objects().any(|object| self.is_condemned(object.name))
    }

    fn is_condemned(&self, name: ContentName) -> bool {
        name.generation < self.generation && self.condemned.contains(&name.id)
    }
}
