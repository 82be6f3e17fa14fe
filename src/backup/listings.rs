//! Listings of chunks and pages that the backups of one process made when they looked at what they build on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::format::names::{ContentKind, ContentName};

/// Most names that are remembered (16 MiB): a thirtieth of what 120 TiB take. Beyond it, each look lists for itself.
const NAMES_MAX: usize = 1 << 20;
/// What an entry costs beside its names, in names.
const PAGE_WEIGHT: usize = 16;

/// A page of a listing: what it shows of the names from the first that it would show to its last.
#[derive(Debug)]
struct ListedPage {
    /// `None` where it is the last page.
    last: Option<ContentName>,
    /// A part of the name, and the object's size, ascending. This is a hint, which needs no more of the name: two that are equal by
    /// chance make one look miss what the next finds.
    shown: Vec<(u64, u32)>,
}

/// What was listed, by the first name that each page would show.
#[derive(Debug, Default)]
pub(super) struct Listings(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    pages: BTreeMap<(ContentKind, ContentName), ListedPage>,
    weight: usize,
}

impl Listings {
    /// The size of an object as a listing showed it, or that it showed none; `None` where nothing was listed around it.
    pub(super) fn size_bytes(&self, kind: ContentKind, name: ContentName) -> Option<Option<u64>> {
        let all = self.pages();
        let ((found, _), page) = all.pages.range(..=(kind, name)).next_back()?;
        if *found != kind || page.last.is_some_and(|last| name > last) {
            return None;
        }
        let at = page.shown.binary_search_by_key(&mark(name), |(mark, _)| *mark).ok();
        Some(at.and_then(|at| page.shown.get(at)).map(|(_, size)| u64::from(*size)))
    }

    /// Whether nothing of a kind was listed yet.
    pub(super) fn is_empty(&self, kind: ContentKind) -> bool {
        !self.pages().pages.keys().any(|(found, _)| *found == kind)
    }

    /// Remembers a page of a listing that shows all from `first` on: to its last name, or where `is_last` to the end.
    pub(super) fn put(
        &self,
        kind: ContentKind,
        first: ContentName,
        listed: &[(ContentName, u64)],
        is_last: bool,
    ) {
        let last = match is_last {
            true => None,
            false => match listed.iter().map(|(name, _)| *name).max() {
                Some(last) => Some(last),
                None => return,
            },
        };
        let mut all = self.pages();
        let weight = listed.len() + PAGE_WEIGHT;
        if all.weight + weight > NAMES_MAX {
            return;
        }
        all.weight += weight;
        let size = |size_bytes: u64| u32::try_from(size_bytes).unwrap_or(u32::MAX);
        let mut shown: Vec<_> = listed.iter().map(|(name, bytes)| (mark(*name), size(*bytes))).collect();
        shown.sort_unstable();
        all.pages.insert((kind, first), ListedPage { last, shown });
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An id is a hash already; its first bytes are alike within a page.
fn mark(name: ContentName) -> u64 {
    let tail = u64::from_le_bytes(std::array::from_fn(|i| name.id.0[i + 24]));
    tail ^ u64::from(name.variant).rotate_left(32) ^ u64::from(name.generation.0).rotate_left(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{ChunkId, Generation};

    fn name(n: u8) -> ContentName {
        ContentName::plain(Generation(1), ChunkId([n; 32]))
    }

    #[test]
    fn only_what_was_listed_around_a_name_says_anything_of_it() {
        let listings = Listings::default();
        assert!(listings.is_empty(ContentKind::Chunk));
        listings.put(ContentKind::Chunk, name(10), &[(name(12), 7), (name(20), 8)], false);
        listings.put(ContentKind::Chunk, name(30), &[(name(31), 9)], true);
        for (n, expected) in [
            (9, None),
            (10, Some(None)),
            (12, Some(Some(7))),
            (13, Some(None)),
            (20, Some(Some(8))),
            (21, None),
            (30, Some(None)),
            (31, Some(Some(9))),
            (99, Some(None)),
        ] {
            assert_eq!(listings.size_bytes(ContentKind::Chunk, name(n)), expected, "{n}");
            assert_eq!(listings.size_bytes(ContentKind::Page, name(n)), None, "{n}");
        }
        assert!(listings.is_empty(ContentKind::Page) && !listings.is_empty(ContentKind::Chunk));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let listings = Listings::default();
        let listed: Vec<_> = (0..200).map(|n| (name(n), 1)).collect();
        for generation in 0..2 * (NAMES_MAX / listed.len()) as u32 {
            let first = ContentName { generation: Generation(generation), ..name(0) };
            listings.put(ContentKind::Chunk, first, &listed, false);
        }
        assert!(listings.pages().weight <= NAMES_MAX);
    }
}
