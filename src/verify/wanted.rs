//! The chunk objects that snapshots need, as a table of bounded size: what does not fit is left to the next pass.

use crate::format::page::{ObjectRef, PageRef};
use crate::units::ChunkId;

/// A full chunk and the length that its plaintext must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Full {
    pub(crate) object: ObjectRef,
    /// What it must hold.
    pub(crate) id: ChunkId,
    pub(crate) len_bytes: u32,
}

/// A delta with all it needs: the full object first, the chunk itself last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Chain {
    pub(crate) objects: Box<[ObjectRef]>,
    /// What it must come to.
    pub(crate) id: ChunkId,
    pub(crate) len_bytes: u32,
}

impl Chain {
    pub(crate) fn root(&self) -> ObjectRef {
        self.objects[0]
    }
}

/// Needed objects whose ids lie in a range. A delta lies where the full object is that its chain ends in, so that a
/// chain is never torn.
#[derive(Debug)]
pub(crate) struct Wanted {
    from: ChunkId,
    /// First id that is left to the next pass.
    until: Option<ChunkId>,
    objects_max: usize,
    chain_objects: usize,
    /// Sorted and distinct after [`Wanted::finish`].
    pub(crate) full: Vec<Full>,
    pub(crate) chains: Vec<Chain>,
}

impl Wanted {
    /// A table of at most about `objects_max` objects, whose ids begin with `from`.
    pub(crate) fn new(from: ChunkId, objects_max: usize) -> Self {
        let (full, chains) = (Vec::new(), Vec::new());
        Self { from, until: None, objects_max: objects_max.max(2), chain_objects: 0, full, chains }
    }

    /// Adds what a chunk needs.
    pub(crate) fn add(&mut self, chunk: &PageRef, len_bytes: u32) {
        let PageRef::Stored { id, object, closure } = chunk else { return };
        let root = closure.last().unwrap_or(object);
        if root.name.id < self.from || self.until.is_some_and(|until| root.name.id >= until) {
            return;
        }
        match closure.is_empty() {
            true => self.full.push(Full { object: *object, id: *id, len_bytes }),
            false => {
                let objects: Box<[ObjectRef]> = closure.iter().rev().chain([object]).copied().collect();
                self.chain_objects += objects.len();
                self.chains.push(Chain { objects, id: *id, len_bytes });
            }
        }
        while self.len() > self.objects_max {
            self.shrink();
        }
    }

    /// Sorts the table. Where the next pass has to begin, if one is needed.
    pub(crate) fn finish(&mut self) -> Option<ChunkId> {
        self.sort();
        self.until
    }

    fn len(&self) -> usize {
        self.full.len() + self.chain_objects
    }

    fn sort(&mut self) {
        self.full.sort_unstable();
        self.full.dedup();
        self.chains.sort_unstable();
        self.chains.dedup();
        self.chain_objects = self.chains.iter().map(|c| c.objects.len()).sum();
    }

    /// Drops duplicates and, where that does not help enough, the upper half of the range.
    fn shrink(&mut self) {
        self.sort();
        if self.len() <= self.objects_max / 2 {
            return;
        }
        let full = self.full.iter().map(|f| f.object.name.id);
        let mut ids: Vec<ChunkId> = full.chain(self.chains.iter().map(|c| c.root().name.id)).collect();
        let middle = ids.len() / 2;
        let (_, median, _) = ids.select_nth_unstable(middle);
        let mut until = *median;
        if until == self.from {
            // Half of all hangs on one object: keep that one, and only that one.
            match ids.into_iter().filter(|id| *id > until).min() {
                Some(next) => until = next,
                None => {
                    self.objects_max *= 2;
                    return;
                }
            }
        }
        self.until = Some(until);
        self.full.retain(|f| f.object.name.id < until);
        self.chains.retain(|c| c.root().name.id < until);
        self.chain_objects = self.chains.iter().map(|c| c.objects.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{Strategy, proptest};
    use proptest::{collection, prop_assert, prop_assert_eq};

    use super::*;
    use crate::format::names::ContentName;
    use crate::units::Generation;

    fn object(id: u16, variant: u32) -> ObjectRef {
        let head = id.to_be_bytes();
        let id = ChunkId(std::array::from_fn(|i| head[i % 2]));
        ObjectRef {
            name: ContentName { generation: Generation(0), id, variant, offset_bytes: None },
            sealed_len_bytes: 200,
        }
    }

    fn chunk(id: u16, depth: u32) -> PageRef {
        let closure: Vec<ObjectRef> = (1..=depth).map(|d| object(id % 7, depth - d)).collect();
        PageRef::Stored { id: object(id, depth).name.id, object: object(id, depth), closure }
    }

    fn chunks() -> impl Strategy<Value = Vec<(u16, u32)>> {
        collection::vec((0u16..500, proptest::prop_oneof![proptest::strategy::Just(0u32), 0u32..4]), 0..600)
    }

    proptest! {
        #[test]
        fn all_passes_together_see_each_chunk_once(chunks in chunks(), objects_max in 1usize..200) {
            let mut seen = Vec::new();
            let mut from = ChunkId([0; 32]);
            let mut passes = 0;
            loop {
                let mut wanted = Wanted::new(from, objects_max);
                for (id, depth) in &chunks {
                    wanted.add(&chunk(*id, *depth), 4096);
                    let bound = wanted.objects_max + 4;
                    prop_assert!(wanted.len() <= bound, "{} objects, at most {bound}", wanted.len());
                }
                let next = wanted.finish();
                seen.extend(wanted.full.iter().map(|f| vec![f.object]));
                seen.extend(wanted.chains.iter().map(|c| c.objects.to_vec()));
                passes += 1;
                prop_assert!(passes < 2000);
                match next {
                    Some(next) => {
                        prop_assert!(next > from);
                        from = next;
                    }
                    None => break,
                }
            }
            let expected: BTreeSet<Vec<ObjectRef>> = chunks
                .iter()
                .map(|(id, depth)| chunk(*id, *depth).objects().rev_collect())
                .collect();
            let distinct: BTreeSet<Vec<ObjectRef>> = seen.iter().cloned().collect();
            prop_assert_eq!(distinct.len(), seen.len(), "seen twice");
            prop_assert_eq!(distinct, expected);
        }
    }

    trait RevCollect<'a> {
        fn rev_collect(self) -> Vec<ObjectRef>;
    }

    impl<'a, I: Iterator<Item = &'a ObjectRef>> RevCollect<'a> for I {
        fn rev_collect(self) -> Vec<ObjectRef> {
            let mut all: Vec<ObjectRef> = self.copied().collect();
            all.reverse();
            all
        }
    }

    #[test]
    fn zeros_need_nothing() {
        let mut wanted = Wanted::new(ChunkId([0; 32]), 10);
        wanted.add(&PageRef::Zero, 4096);
        assert_eq!(wanted.finish(), None);
        assert!(wanted.full.is_empty() && wanted.chains.is_empty());
    }
}
