//! The full chunks that marking comes across, on their way into the live index. They lie by the first byte of their ids, as do the passes of
//! marking and the parts of the index.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::cpu;
use crate::error::{Error, Result};
use crate::format::gc::PartRef;
use crate::format::live::{LIVE_PARTS_MAX, in_order};
use crate::format::names::{ContentKind, ContentName};
use crate::format::page::ObjectRef;
use crate::format::table::{self, ENTRIES_PER_PART_MAX, TableEntry};
use crate::prune::Context;
use crate::repo::scratch::{Block, Scratch};
use crate::units::Generation;

/// Entries in memory, of 64 bytes each; more of them go to the scratch file.
const IN_MEMORY_MAX: usize = 1 << 17;
/// Parts that are made at once, of some 20 MiB each.
const PARTS_INFLIGHT_MAX: usize = 4;

/// What a live index is made of.
pub(super) struct Live {
    buckets: Vec<Bucket>,
    in_memory: usize,
    in_memory_max: usize,
    scratch: Arc<Scratch>,
    /// For a dry run, which makes none.
    only_counts: bool,
    /// Why it is not all of them: an index may be incomplete, and costs uploads then.
    left_out: Option<Error>,
}

/// The entries of one first byte.
#[derive(Default)]
struct Bucket {
    len: usize,
    entries: Vec<TableEntry>,
    blocks: Vec<Block>,
}

impl Live {
    pub(super) fn new(scratch: Scratch) -> Self {
        let buckets = (0..LIVE_PARTS_MAX).map(|_| Bucket::default()).collect();
        let (scratch, in_memory_max) = (Arc::new(scratch), IN_MEMORY_MAX);
        Self { buckets, in_memory: 0, in_memory_max, scratch, only_counts: false, left_out: None }
    }

    /// Keeps none: how many there are is all that is asked for.
    pub(super) fn only_count(&mut self) {
        self.only_counts = true;
    }

    /// Takes a full chunk without variant, each name once.
    pub(super) fn add(&mut self, object: &ObjectRef) {
        if self.left_out.is_some() {
            return;
        }
        let bucket = &mut self.buckets[usize::from(object.name.id.0[0])];
        if bucket.len == ENTRIES_PER_PART_MAX {
            self.left_out = Some(Error::invalid("there are more chunks than it may name"));
            return;
        }
        bucket.len += 1;
        if self.only_counts {
            return;
        }
        bucket.entries.push(TableEntry { kind: ContentKind::Chunk, object: *object });
        self.in_memory += 1;
        if self.in_memory >= self.in_memory_max {
            self.put_down();
        }
    }

    fn put_down(&mut self) {
        for bucket in self.buckets.iter_mut().filter(|bucket| !bucket.entries.is_empty()) {
            let entries = std::mem::take(&mut bucket.entries);
            match self.scratch.put(&table::encode(&entries)) {
                Ok(block) => bucket.blocks.push(block),
                Err(error) => {
                    bucket.len -= entries.len();
                    self.left_out.get_or_insert(error);
                }
            }
        }
        self.in_memory = 0;
    }

    /// Forgets the ids that begin with one of these bytes.
    pub(super) fn forget_range(&mut self, first_bytes: Range<u16>) {
        for first in first_bytes {
            let bucket = std::mem::take(&mut self.buckets[usize::from(first)]);
            self.in_memory -= bucket.entries.len();
        }
    }

    pub(super) fn clear(&mut self) {
        self.forget_range(0..LIVE_PARTS_MAX as u16);
        self.scratch.clear();
        self.left_out = None;
    }

    /// How many parts it takes: a power of two, and as few as have no more than so many entries each; none for nothing.
    pub(super) fn parts(&self, entries_max: usize) -> usize {
        if self.buckets.iter().all(|bucket| bucket.len == 0) {
            return 0;
        }
        let fits = |count: &usize| {
            let len = |part: &[Bucket]| part.iter().map(|bucket| bucket.len).sum::<usize>();
            self.buckets.chunks(LIVE_PARTS_MAX / count).all(|part| len(part) <= entries_max)
        };
        (0..8).map(|bits| 1 << bits).find(fits).unwrap_or(LIVE_PARTS_MAX)
    }

    /// Uploads it, without what is unfit. What cannot be had any more of what was put down is left out, and told.
    pub(super) async fn put(
        &self,
        cx: &Context,
        round: Generation,
        unfit: HashSet<ContentName>,
    ) -> Result<Vec<PartRef>> {
        let unfit = Arc::new(unfit);
        let count = self.parts(cx.options.live_part_entries_max.min(ENTRIES_PER_PART_MAX));
        let puts = self.buckets.chunks(LIVE_PARTS_MAX / count.max(1)).take(count).map(|buckets| {
            let take_up = self.take_up(buckets, &unfit);
            async move {
                let (entries, left_out) = cpu::block(move || Ok(take_up())).await?;
                let part = cx.project.parts(round).put_live(entries).await?;
                Ok::<_, Error>((part, left_out))
            }
        });
        let parts: Vec<_> = stream::iter(puts).buffered(PARTS_INFLIGHT_MAX).try_collect().await?;
        let lost = parts.iter().find_map(|(_, left_out)| left_out.as_ref());
        if let Some(why) = self.left_out.as_ref().or(lost) {
            cx.progress.warn(&format!(
                "the index of what is stored is incomplete, so first backups may upload more than they need to: {why}"
            ));
        }
        Ok(parts.into_iter().map(|(part, _)| part).collect())
    }

    /// The entries of a part in their order, and why some are missing: as something to do on another thread.
    fn take_up(
        &self,
        buckets: &[Bucket],
        unfit: &Arc<HashSet<ContentName>>,
    ) -> impl FnOnce() -> (Vec<TableEntry>, Option<Error>) + Send + 'static {
        let mut entries: Vec<TableEntry> =
            buckets.iter().flat_map(|bucket| &bucket.entries).copied().collect();
        let blocks: Vec<Block> = buckets.iter().flat_map(|bucket| &bucket.blocks).copied().collect();
        let (scratch, unfit) = (Arc::clone(&self.scratch), Arc::clone(unfit));
        move || {
            let mut left_out = None;
            for block in &blocks {
                match scratch.get(block).and_then(|bytes| table::decode_all(&bytes)) {
                    Ok(found) => entries.extend(found),
                    Err(error) => left_out = Some(error),
                }
            }
            entries.retain(|entry| !unfit.contains(&entry.object.name));
            (in_order(entries), left_out)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::repo::Cache;
    use crate::units::ChunkId;

    fn object(n: u64) -> ObjectRef {
        let id = ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let name = ContentName::plain(Generation(n as u32 % 50), id);
        ObjectRef { name, sealed_len_bytes: 100 + n as u32 }
    }

    fn live(dir: Option<&Path>, in_memory_max: usize) -> Live {
        Live { in_memory_max, ..Live::new(Cache::new(dir, &[1; 16]).scratch()) }
    }

    fn taken_up(live: &Live, count: usize) -> Vec<Vec<ObjectRef>> {
        let parts = live.buckets.chunks(LIVE_PARTS_MAX / count);
        parts
            .map(|part| {
                let (entries, left_out) = live.take_up(part, &Arc::default())();
                assert!(left_out.is_none(), "{left_out:?}");
                entries.iter().map(|entry| entry.object).collect()
            })
            .collect()
    }

    fn sorted(objects: impl Iterator<Item = ObjectRef>) -> Vec<ObjectRef> {
        let mut objects: Vec<ObjectRef> = objects.collect();
        objects.sort_unstable_by_key(|object| object.name.id);
        objects
    }

    #[test]
    fn whatever_was_put_down_comes_back_in_parts() {
        let dir = tempfile::tempdir().expect("a folder");
        for in_memory_max in [1, 100, 700, 5_000] {
            let mut live = live(Some(dir.path()), in_memory_max);
            (0..3_000).for_each(|n| live.add(&object(n)));
            assert!(live.in_memory < in_memory_max);
            assert_eq!([3_000, 2_999, 1_600, 100, 1].map(|max| live.parts(max)), [1, 2, 2, 64, 256]);
            let parts = taken_up(&live, 4);
            assert!(parts.concat() == sorted((0..3_000).map(object)), "{in_memory_max} in memory");
            assert!((0..4).all(|n| parts[n].iter().all(|o| usize::from(o.name.id.0[0]) / 64 == n)));
            live.forget_range(128..256);
            let lower = (0..3_000).map(object).filter(|o| o.name.id.0[0] < 128);
            assert!(taken_up(&live, 1).concat() == sorted(lower), "{in_memory_max} in memory");
            live.clear();
            assert!(live.in_memory == 0 && live.parts(1) == 0 && taken_up(&live, 1).concat().is_empty());
        }
    }

    /// Where there is no cache, memory has the first half million.
    #[test]
    fn what_finds_no_room_is_left_out_and_the_rest_is_there() {
        let mut live = live(None, 1 << 16);
        (0..800_000).for_each(|n| live.add(&object(n)));
        let why = live.left_out.as_ref().expect("left out").to_string();
        assert!(why.contains("there is no cache"), "{why}");
        let found = taken_up(&live, 1).concat();
        assert!((500_000..700_000).contains(&found.len()), "{}", found.len());
        assert!(found.len() == live.buckets.iter().map(|b| b.len).sum::<usize>());
    }

    #[test]
    fn what_the_disk_does_not_give_back_is_left_out() {
        let mut live = live(None, 10);
        (0..1_000).for_each(|n| live.add(&object(n)));
        live.scratch.clear();
        (1_000..1_005).for_each(|n| live.add(&object(n)));
        let (entries, left_out) = live.take_up(&live.buckets, &Arc::default())();
        assert!(left_out.is_some() && entries.len() == 5, "{left_out:?}, {}", entries.len());
    }
}
