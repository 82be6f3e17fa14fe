//! What listings show of a project's chunks and pages.

use futures::{Stream, StreamExt};

use crate::error::Result;
use crate::format::ObjectName;
use crate::format::names::{ContentKind, ContentName, content_prefix, generation_prefix};
use crate::repo::Project;
use crate::store::ObjectInfo;
use crate::units::Generation;

/// A chunk or page as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) kind: ContentKind,
    pub(crate) name: ContentName,
    pub(crate) size_bytes: u64,
}

impl Project {
    /// The generations that have objects of a kind, ascending.
    pub(crate) async fn generations_of(&self, kind: ContentKind) -> Result<Vec<Generation>> {
        let found = self.repository().store.list_prefixes(&content_prefix(self.name(), kind)).await?;
        let mut generations: Vec<Generation> =
            found.iter().filter_map(|name| name.parse().ok().map(Generation)).collect();
        generations.sort_unstable();
        Ok(generations)
    }

    /// All of a kind and generation, or those whose ids begin with one byte. Foreign names are left out.
    pub(crate) fn list_content(
        &self,
        kind: ContentKind,
        generation: Generation,
        first: Option<u8>,
    ) -> impl Stream<Item = Result<Listed>> + Send + use<> {
        let prefix = generation_prefix(self.name(), kind, generation, first);
        let listed = |info: Result<ObjectInfo>| {
            let (key, size_bytes) = match info {
                Ok(info) => (info.key, info.size_bytes),
                Err(e) => return Some(Err(e)),
            };
            let (kind, name) = match ObjectName::parse(&key)? {
                ObjectName::Chunk(_, name) => (ContentKind::Chunk, name),
                ObjectName::Page(_, name) => (ContentKind::Page, name),
                _ => return None,
            };
            Some(Ok(Listed { kind, name, size_bytes }))
        };
        let listing = self.repository().store.list_stream(&prefix, None);
        listing.filter_map(move |info| std::future::ready(listed(info)))
    }
}
