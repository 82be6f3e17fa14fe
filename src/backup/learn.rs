//! What an encoder may know before it begins: the generation's chunks by listing, and those of older generations by the
//! live index of the last seal.

use futures::{StreamExt, stream};

use crate::backup::encode::{Encoder, Known};
use crate::error::{ErrorKind, Result};
use crate::format::gc::PartRef;
use crate::format::names::{ContentKind, ContentName, chunks_prefix};
use crate::format::table::TableEntry;
use crate::format::{HEADER_LEN_BYTES, ObjectName};
use crate::repo::chunks::chunk_object_len_bytes_max;
use crate::store::ObjectInfo;
use crate::units::Generation;

/// Most chunks that come from a listing, and from a live index.
const LEARNED_MAX: usize = 400_000;
/// Up to so many, one listing after another is the cheapest.
const LISTED_FEW: usize = 5_000;
/// Listings under way at once.
const LISTS_INFLIGHT_MAX: usize = 16;

impl Encoder {
    /// Reads the live index of the round that began the session's generation, or of the one before while that is not
    /// sealed. Every chunk in it was live then, and stays until a round that waits for this session, unless a round under
    /// way condemned it (invariants I4, I6). An index that is damaged or gone costs uploads, not the backup.
    pub async fn learn_live(&self) -> Result<()> {
        match self.read_live().await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(%error, "the live index cannot be read; known content may be uploaded again");
                Ok(())
            }
            done => done,
        }
    }

    async fn read_live(&self) -> Result<()> {
        let Some((generation, parts)) = self.newest_index().await? else { return Ok(()) };
        for part in &parts {
            if self.known_count() >= LEARNED_MAX {
                break;
            }
            // A later round ended: this session has been ended by it, too.
            let Some(entries) = self.project().read_table(generation, part).await? else { break };
            entries.iter().for_each(|entry| self.learn_entry(entry));
        }
        Ok(())
    }

    async fn newest_index(&self) -> Result<Option<(Generation, Vec<PartRef>)>> {
        let newest = self.generation().0;
        for generation in [newest, newest.saturating_sub(1)] {
            if generation > 0
                && let Some(seal) = self.project().read_seal(Generation(generation)).await?
            {
                return Ok(Some((seal.generation, seal.live_index)));
            }
        }
        Ok(None)
    }

    fn learn_entry(&self, entry: &TableEntry) {
        let (name, size_bytes) = (entry.object.name, u64::from(entry.object.sealed_len_bytes));
        let may_be = entry.kind == ContentKind::Chunk && name.generation <= self.generation();
        if may_be && name.variant == 0 && self.may_have(size_bytes) && !self.forbidden.name(entry.kind, name)
        {
            self.know(name.id, Known::of(&entry.object));
        }
    }

    /// Lists what the generation holds, so that a large backup of known content uploads nothing. What the listing
    /// misses costs a create that finds it; what it shows is there, as nothing of this generation is deleted while
    /// the session is open (invariant I3).
    pub async fn learn_stored(&self) -> Result<()> {
        let (store, name) = (self.project().repository().store(), self.project().name());
        let all = chunks_prefix(name, self.generation(), None);
        let few: Vec<_> = store.list_stream(&all, None).take(LISTED_FEW).collect().await;
        if few.len() < LISTED_FEW {
            return few.into_iter().try_for_each(|info| info.map(|info| self.learn_listed(&info)));
        }
        let lists = (0..=255u8).map(|first| chunks_prefix(name, self.generation(), Some(first)));
        let mut lists = stream::iter(lists)
            .map(|prefix| async move { store.list(&prefix, None).await })
            .buffer_unordered(LISTS_INFLIGHT_MAX);
        while let Some(listed) = lists.next().await {
            listed?.iter().for_each(|info| self.learn_listed(info));
            if self.known_count() >= 2 * LEARNED_MAX {
                break;
            }
        }
        Ok(())
    }

    /// Takes what a listing shows for what its name says, as far as its size can be right.
    fn learn_listed(&self, info: &ObjectInfo) {
        if let Some(ObjectName::Chunk(_, name @ ContentName { id, generation, variant: 0 })) =
            ObjectName::parse(&info.key)
            && self.may_have(info.size_bytes)
            && !self.forbidden.name(ContentKind::Chunk, name)
            && let Ok(sealed_len_bytes) = u32::try_from(info.size_bytes)
        {
            self.know(id, Known::Stored { generation, sealed_len_bytes, variant: 0 });
        }
    }

    /// Whether a chunk's object may be so large.
    fn may_have(&self, size_bytes: u64) -> bool {
        let max = chunk_object_len_bytes_max(self.project().chunk_size_bytes());
        (HEADER_LEN_BYTES as u64..=max).contains(&size_bytes)
    }
}
