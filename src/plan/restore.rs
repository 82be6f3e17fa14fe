//! What a restore does with each chunk: decided from the manifest and from what the target holds, without any I/O.
//!
//! A volume is planned window by window, so that a plan's memory does not grow with the volume.

use std::collections::HashMap;
use std::ops::{AddAssign, Range};
use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::format::page::{Page, PageRef, REFS_PER_PAGE};
use crate::units::{ChunkId, ChunkIndex, Geometry};

/// What a manifest says of a range of chunks.
#[derive(Debug, Clone)]
pub struct Window {
    geometry: Geometry,
    chunks: Range<u64>,
    /// The leaves of the range, in order; none where all of it is zero.
    leaves: Vec<Arc<Page>>,
}

/// What the target holds where one chunk belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// It reads as zeros over its whole length.
    Zero,
    /// Content of this id, over the chunk's whole length.
    Content(ChunkId),
    /// Anything but zeros; which, was not asked.
    NotZero,
}

/// What the target holds over a window.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// It reads as zeros everywhere.
    Blank,
    /// Every byte must be written.
    Nothing,
    /// What was found, one for each chunk of the window.
    Content(&'a [Local]),
}

/// What is done with some of a window's chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The target holds this range already.
    Keep {
        /// Of the volume; whole chunks.
        range_bytes: Range<u64>,
    },
    /// This range must be made to read as zeros.
    Zero {
        /// Of the volume; whole chunks.
        range_bytes: Range<u64>,
    },
    /// A chunk must be fetched and written.
    Fetch(Fetch),
}

/// One chunk and everywhere it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// What the manifest says of it; never zero.
    pub chunk: PageRef,
    /// Of its plaintext.
    pub len_bytes: u32,
    /// Whether the target reads as zeros in all these places: then zeros within need not be written, and what is thin stays so.
    pub onto_zeros: bool,
    /// Ascending; at least one.
    pub offsets_bytes: Vec<u64>,
}

/// A number of chunks and the bytes of the volume that they make up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// A chunk counts as often as it occurs.
    pub chunks: u64,
    /// Plaintext.
    pub bytes: u64,
}

/// What a plan comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// What the target holds already; zeros of a blank target too.
    pub keep: Amount,
    /// What must be zeroed.
    pub zero: Amount,
    /// What must be written with fetched data: a chunk counts as often as it is written.
    pub fetch: Amount,
    /// Chunks to fetch, each once.
    pub fetches: u64,
    /// Objects to fetch for them: one request each. More than chunks where deltas have bases.
    pub objects: u64,
    /// The size of these objects.
    pub sealed_bytes: u64,
}

/// What is done with a window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// By the first offset of each. Neighbouring ranges that are kept, and those that are zeroed, are one action.
    pub actions: Vec<Action>,
    /// What the actions come to.
    pub totals: Totals,
}

impl Window {
    /// A range of chunks that reads as zeros.
    pub fn zero(geometry: Geometry, chunks: Range<u64>) -> Self {
        let chunks = chunks.start..chunks.end.min(geometry.chunk_count());
        Self { geometry, chunks, leaves: Vec::new() }
    }

    /// The chunks of consecutive leaves, of which the first has this number.
    pub fn of_leaves(geometry: Geometry, first_leaf: u64, leaves: Vec<Arc<Page>>) -> Self {
        let start = first_leaf.saturating_mul(REFS_PER_PAGE as u64);
        let refs: u64 = leaves.iter().map(|leaf| leaf.refs.len() as u64).sum();
        Self { geometry, chunks: start..start.saturating_add(refs).min(geometry.chunk_count()), leaves }
    }

    /// Of the whole volume.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The chunks, by index.
    pub fn chunks(&self) -> Range<u64> {
        self.chunks.clone()
    }

    /// The bytes of the volume that the chunks are.
    pub fn range_bytes(&self) -> Range<u64> {
        let at = |chunk: u64| self.geometry.offset_bytes(ChunkIndex(chunk)).min(self.geometry.size_bytes);
        at(self.chunks.start)..at(self.chunks.end)
    }

    /// What the manifest says of a chunk of the window.
    pub fn get(&self, index: ChunkIndex) -> &PageRef {
        let at = index.0.saturating_sub(self.chunks.start) as usize;
        let leaf = self.leaves.get(at / REFS_PER_PAGE);
        leaf.and_then(|leaf| leaf.refs.get(at % REFS_PER_PAGE)).unwrap_or(&PageRef::Zero)
    }

    /// Whether all of it reads as zeros.
    pub fn is_zero(&self) -> bool {
        self.leaves.iter().all(|leaf| leaf.is_zero())
    }
}

/// Decides what is done with each chunk of a window.
///
/// # Errors
/// `Internal` when `target` does not tell of every chunk of the window.
pub fn plan(window: &Window, target: Target<'_>) -> Result<Plan> {
    let count = window.chunks.end.saturating_sub(window.chunks.start);
    if let Target::Content(found) = target
        && found.len() as u64 != count
    {
        return Err(Error::internal(format!("{} chunks were looked at: expected {count}", found.len())));
    }
    let mut planner = Planner::default();
    match target {
        // However large it is, a range of zeros is one action.
        Target::Blank if window.is_zero() => planner.keep(count, window.range_bytes()),
        Target::Nothing if window.is_zero() => planner.zero(count, window.range_bytes()),
        _ => {
            for index in window.chunks() {
                planner.chunk(window, ChunkIndex(index), &target);
            }
        }
    }
    Ok(planner.plan)
}

#[derive(Default)]
struct Planner {
    plan: Plan,
    /// Where in the actions an id is fetched. The length belongs to it: a hostile manifest may contradict itself.
    fetched: HashMap<(ChunkId, u32), usize>,
}

impl Planner {
    fn chunk(&mut self, window: &Window, index: ChunkIndex, target: &Target<'_>) {
        let range = window.geometry.range_bytes(index);
        let wanted = window.get(index);
        let local = match target {
            Target::Blank => Some(Local::Zero),
            Target::Nothing => None,
            Target::Content(found) => found.get((index.0 - window.chunks.start) as usize).copied(),
        };
        match (wanted.id(), local) {
            (None, Some(Local::Zero)) => self.keep(1, range),
            (Some(id), Some(Local::Content(held))) if id == held => self.keep(1, range),
            (None, _) => self.zero(1, range),
            (Some(_), local) => self.fetch(wanted, local == Some(Local::Zero), range),
        }
    }

    fn keep(&mut self, chunks: u64, range_bytes: Range<u64>) {
        if range_bytes.is_empty() {
            return;
        }
        self.plan.totals.keep += Amount { chunks, bytes: range_bytes.end - range_bytes.start };
        match self.plan.actions.last_mut() {
            Some(Action::Keep { range_bytes: last }) if last.end == range_bytes.start => {
                last.end = range_bytes.end;
            }
            _ => self.plan.actions.push(Action::Keep { range_bytes }),
        }
    }

    fn zero(&mut self, chunks: u64, range_bytes: Range<u64>) {
        if range_bytes.is_empty() {
            return;
        }
        self.plan.totals.zero += Amount { chunks, bytes: range_bytes.end - range_bytes.start };
        match self.plan.actions.last_mut() {
            Some(Action::Zero { range_bytes: last }) if last.end == range_bytes.start => {
                last.end = range_bytes.end;
            }
            _ => self.plan.actions.push(Action::Zero { range_bytes }),
        }
    }

    fn fetch(&mut self, chunk: &PageRef, onto_zeros: bool, range_bytes: Range<u64>) {
        let Some(id) = chunk.id() else { return };
        let len_bytes = (range_bytes.end - range_bytes.start) as u32;
        let totals = &mut self.plan.totals;
        totals.fetch += Amount { chunks: 1, bytes: u64::from(len_bytes) };
        let at = *self.fetched.entry((id, len_bytes)).or_insert(self.plan.actions.len());
        if let Some(Action::Fetch(fetch)) = self.plan.actions.get_mut(at) {
            fetch.onto_zeros &= onto_zeros;
            fetch.offsets_bytes.push(range_bytes.start);
            return;
        }
        totals.fetches += 1;
        totals.objects += chunk.objects().count() as u64;
        totals.sealed_bytes += chunk.objects().map(|o| u64::from(o.sealed_len_bytes)).sum::<u64>();
        let offsets_bytes = vec![range_bytes.start];
        self.plan.actions.push(Action::Fetch(Fetch {
            chunk: chunk.clone(),
            len_bytes,
            onto_zeros,
            offsets_bytes,
        }));
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.chunks += other.chunks;
        self.bytes += other.bytes;
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.keep += other.keep;
        self.zero += other.zero;
        self.fetch += other.fetch;
        self.fetches += other.fetches;
        self.objects += other.objects;
        self.sealed_bytes += other.sealed_bytes;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, ProptestConfig, any, proptest};
    use proptest::{collection, prop_assert, prop_assert_eq, prop_oneof};

    use super::*;
    use crate::format::names::ContentName;
    use crate::format::page::ObjectRef;
    use crate::units::Generation;

    const CHUNK: u32 = 4096;

    fn object(id: u8) -> ObjectRef {
        let name = ContentName::plain(Generation(0), ChunkId([id; 32]));
        ObjectRef { name, sealed_len_bytes: 1000 + u32::from(id) }
    }

    /// 0 is the zero ref, anything else a chunk; ids from 100 on are deltas with two objects below them.
    fn page_ref(id: u8) -> PageRef {
        match id {
            0 => PageRef::Zero,
            100.. => {
                let closure = vec![object(1), object(2)];
                PageRef::Stored { id: object(id).name.id, object: object(id), closure }
            }
            _ => PageRef::full(object(id)),
        }
    }

    fn window(ids: &[u8], last_len: u32) -> Window {
        let size = (ids.len() as u64 * u64::from(CHUNK)).saturating_sub(u64::from(CHUNK - last_len));
        let geometry = Geometry::new(size, CHUNK).expect("valid");
        let leaves = ids
            .chunks(REFS_PER_PAGE)
            .map(|ids| Arc::new(Page { level: 0, refs: ids.iter().map(|id| page_ref(*id)).collect() }))
            .collect();
        Window::of_leaves(geometry, 0, leaves)
    }

    /// A chunk of the model target: 0 zeros, otherwise the content of that id; 255 is content of no chunk.
    fn local(id: u8, known: bool) -> Local {
        match id {
            0 => Local::Zero,
            255 if !known => Local::NotZero,
            _ => Local::Content(ChunkId([id; 32])),
        }
    }

    /// Does what the plan says to a model of the target, in which every byte of a chunk is its id.
    fn carry_out(plan: &Plan, target: &mut [u8]) {
        let chunk = u64::from(CHUNK);
        let chunks = |r: &Range<u64>| (r.start / chunk) as usize..r.end.div_ceil(chunk) as usize;
        for action in &plan.actions {
            match action {
                Action::Keep { .. } => {}
                Action::Zero { range_bytes } => target[chunks(range_bytes)].fill(0),
                Action::Fetch(fetch) => {
                    for offset in &fetch.offsets_bytes {
                        target[(offset / chunk) as usize] = fetch.chunk.id().expect("stored").0[0];
                    }
                }
            }
        }
    }

    fn check(ids: &[u8], held: Option<&[u8]>, blank: bool, last_len: u32) {
        let window = window(ids, last_len);
        let locals: Vec<Local> = held.unwrap_or_default().iter().map(|id| local(*id, false)).collect();
        let target = match held {
            Some(_) => Target::Content(&locals),
            None if blank => Target::Blank,
            None => Target::Nothing,
        };
        let plan = plan(&window, target).expect("planned");
        let mut model = held.map_or_else(|| vec![if blank { 0 } else { 254 }; ids.len()], <[u8]>::to_vec);
        let before = model.clone();
        carry_out(&plan, &mut model);
        assert_eq!(model, ids, "{plan:?}");
        check_shape(&plan, &window);
        check_effort(&plan, &before, ids, held.is_some() || blank);
    }

    /// Every byte of the window is in exactly one action, neighbours are merged, and totals are sums.
    fn check_shape(plan: &Plan, window: &Window) {
        let mut pieces = Vec::new();
        let mut sums = Totals::default();
        let mut firsts = Vec::new();
        for action in &plan.actions {
            match action {
                Action::Keep { range_bytes } | Action::Zero { range_bytes } => {
                    firsts.push(range_bytes.start);
                    pieces.push((range_bytes.clone(), std::mem::discriminant(action)));
                    let bytes = range_bytes.end - range_bytes.start;
                    let amount = Amount { chunks: bytes.div_ceil(u64::from(CHUNK)), bytes };
                    match action {
                        Action::Keep { .. } => sums.keep += amount,
                        _ => sums.zero += amount,
                    }
                }
                Action::Fetch(fetch) => {
                    firsts.push(fetch.offsets_bytes[0]);
                    sums.fetches += 1;
                    for object in fetch.chunk.objects() {
                        sums.objects += 1;
                        sums.sealed_bytes += u64::from(object.sealed_len_bytes);
                    }
                    for offset in &fetch.offsets_bytes {
                        let range = *offset..offset + u64::from(fetch.len_bytes);
                        pieces.push((range, std::mem::discriminant(action)));
                        sums.fetch += Amount { chunks: 1, bytes: u64::from(fetch.len_bytes) };
                    }
                }
            }
        }
        assert_eq!(sums, plan.totals);
        assert!(firsts.is_sorted(), "{firsts:?}");
        pieces.sort_by_key(|(range, _)| range.start);
        let mut at = window.range_bytes().start;
        for (range, _) in &pieces {
            assert_eq!(range.start, at, "a gap or an overlap in {plan:?}");
            at = range.end;
        }
        assert_eq!(at, window.range_bytes().end);
        let fetch = std::mem::discriminant(&Action::Fetch(Fetch {
            chunk: PageRef::Zero,
            len_bytes: 0,
            onto_zeros: false,
            offsets_bytes: Vec::new(),
        }));
        for pair in pieces.windows(2) {
            assert!(pair[0].1 != pair[1].1 || pair[0].1 == fetch, "neighbours not merged in {plan:?}");
        }
    }

    /// What is right already is not touched, and each id is fetched once.
    fn check_effort(plan: &Plan, before: &[u8], wanted: &[u8], known: bool) {
        let right = before.iter().zip(wanted).filter(|(b, w)| b == w).count() as u64;
        assert_eq!(plan.totals.keep.chunks, if known { right } else { 0 });
        let fetched: Vec<_> = plan
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Fetch(fetch) => Some((fetch.chunk.id(), fetch.len_bytes)),
                _ => None,
            })
            .collect();
        let mut distinct = fetched.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), fetched.len(), "an id is fetched twice in {plan:?}");
    }

    #[test]
    fn every_small_window_over_every_small_target() {
        const IDS: [u8; 3] = [0, 1, 2];
        const HELD: [u8; 4] = [0, 1, 2, 255];
        for len in 0..=4u32 {
            for wanted in 0..3usize.pow(len) {
                let ids: Vec<u8> = (0..len).map(|i| IDS[wanted / 3usize.pow(i) % 3]).collect();
                for last_len in [1, CHUNK] {
                    if ids.is_empty() && last_len == 1 {
                        continue;
                    }
                    check(&ids, None, true, last_len);
                    check(&ids, None, false, last_len);
                    for held in 0..4usize.pow(len) {
                        let held: Vec<u8> = (0..len).map(|i| HELD[held / 4usize.pow(i) % 4]).collect();
                        check(&ids, Some(&held), false, last_len);
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn large_windows_too(
            chunks in collection::vec(
                (prop_oneof![Just(0u8), 1u8..4, 100u8..103], prop_oneof![Just(0u8), 1u8..4, 100u8..103, Just(255u8)]),
                1..3000,
            ),
            last_len in 1u32..=CHUNK,
        ) {
            let ids: Vec<u8> = chunks.iter().map(|(wanted, _)| *wanted).collect();
            let held: Vec<u8> = chunks.iter().map(|(_, held)| *held).collect();
            check(&ids, Some(&held), false, last_len);
            check(&ids, None, true, last_len);
            check(&ids, None, false, last_len);
        }

        #[test]
        fn windows_of_zeros_are_one_action(chunks in 1u64..1 << 40, first in 0u64..1 << 39) {
            let geometry = Geometry::new(chunks.saturating_mul(u64::from(CHUNK)).min(4 << 50), CHUNK).expect("valid");
            let window = Window::zero(geometry, first..u64::MAX);
            let range = window.range_bytes();
            let blank = plan(&window, Target::Blank).expect("planned");
            let nothing = plan(&window, Target::Nothing).expect("planned");
            if range.is_empty() {
                prop_assert!(blank.actions.is_empty() && nothing.actions.is_empty());
            } else {
                prop_assert_eq!(blank.actions, vec![Action::Keep { range_bytes: range.clone() }]);
                prop_assert_eq!(nothing.actions, vec![Action::Zero { range_bytes: range.clone() }]);
                prop_assert_eq!(nothing.totals.zero.bytes, range.end - range.start);
            }
        }

        #[test]
        fn a_target_known_in_part_is_an_error(found in 0usize..20, id in any::<u8>()) {
            let window = window(&[id; 7], CHUNK);
            let locals = vec![Local::Zero; found];
            prop_assert_eq!(plan(&window, Target::Content(&locals)).is_ok(), found == 7);
        }
    }

    #[test]
    fn a_delta_counts_with_all_it_needs() {
        let plan = plan(&window(&[100, 3, 100], CHUNK), Target::Blank).expect("planned");
        assert_eq!(plan.totals.fetches, 2);
        assert_eq!(plan.totals.objects, 4);
        assert_eq!(plan.totals.sealed_bytes, 1100 + 1001 + 1002 + 1003);
        assert_eq!(plan.totals.fetch, Amount { chunks: 3, bytes: 3 * u64::from(CHUNK) });
    }

    #[test]
    fn one_id_at_two_lengths_is_fetched_for_each() {
        let plan = plan(&window(&[5, 5], 100), Target::Nothing).expect("planned");
        assert_eq!(plan.totals.fetches, 2);
    }
}
