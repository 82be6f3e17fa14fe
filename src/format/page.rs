//! Manifest pages and the refs in them (repo-format.md §7).

use std::collections::HashMap;

use crate::error::Result;
use crate::format::CLOSURE_LEN_MAX;
use crate::format::envelope::{HEADER_LEN_BYTES, damaged};
use crate::format::names::{ContentKind, ContentName};
use crate::units::{ChunkId, Generation};

/// Refs in a page that is not the last of its level.
pub const REFS_PER_PAGE: usize = 1024;
/// Highest level of a root.
pub const LEVEL_MAX: u8 = 4;
pub(super) const REF_LEN_BYTES: usize = 48;
const PAGE_HEADER_LEN_BYTES: usize = 16;
const BUNDLE_LEN_BYTES: usize = 36;
const LINK_LEN_BYTES: usize = 12;
const END_LEN_BYTES: usize = 44;
/// Every ref with the longest closure, each of whose links lies in a bundle of its own.
pub(super) const PAGE_LEN_BYTES_MAX: usize = PAGE_HEADER_LEN_BYTES
    + REFS_PER_PAGE
        * (REF_LEN_BYTES
            + CLOSURE_LEN_MAX * LINK_LEN_BYTES
            + END_LEN_BYTES
            + (CLOSURE_LEN_MAX + 1) * BUNDLE_LEN_BYTES);

/// A piece begins with the id of what it holds.
pub const PIECE_ID_LEN_BYTES: usize = 32;
/// The chunk is a piece of a bundle.
const IS_PIECE: u8 = 1;
/// The full object at the end of its chain is an object of its own.
const ENDS_IN_OBJECT: u8 = 2;

/// A stored chunk or page, as a manifest names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Of the object, or of the piece.
    pub name: ContentName,
    /// Size of the whole object in the store, or of the piece.
    pub sealed_len_bytes: u32,
}

impl ObjectRef {
    /// What the object in the store is, for what a leaf refers to.
    pub fn chunk_kind(&self) -> ContentKind {
        self.name.chunk_kind()
    }
}

/// What a manifest says of one chunk or page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PageRef {
    /// Reads as zeros; nothing is stored.
    #[default]
    Zero,
    /// A chunk or page that is not all zero.
    Stored {
        /// Of the content, however it is stored.
        id: ChunkId,
        /// Where it is, and how large.
        object: ObjectRef,
        /// What must be decoded first, from the direct base to the full object; empty when full.
        closure: Vec<ObjectRef>,
    },
}

impl PageRef {
    /// What is stored in full, as an object of its own.
    pub fn full(object: ObjectRef) -> Self {
        Self::Stored { id: object.name.id, object, closure: Vec::new() }
    }

    /// Whether nothing is stored.
    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Zero)
    }

    /// Where it is; `None` where nothing is stored.
    pub fn object(&self) -> Option<&ObjectRef> {
        match self {
            Self::Zero => None,
            Self::Stored { object, .. } => Some(object),
        }
    }

    /// The id, where something is stored.
    pub fn id(&self) -> Option<ChunkId> {
        match self {
            Self::Zero => None,
            Self::Stored { id, .. } => Some(*id),
        }
    }

    /// The object and everything needed to decode it.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        let (object, closure) = match self {
            Self::Zero => (None, &[][..]),
            Self::Stored { object, closure, .. } => (Some(object), &closure[..]),
        };
        object.into_iter().chain(closure)
    }
}

/// One page of a manifest's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// 0 refers to chunks, k to pages of level k − 1; at most [`LEVEL_MAX`].
    pub level: u8,
    /// At most [`REFS_PER_PAGE`], in the order of the volume.
    pub refs: Vec<PageRef>,
}

/// The bundles that a page names, in the order in which it comes to them.
#[derive(Default)]
struct Bundles {
    names: Vec<ContentName>,
    places: HashMap<ContentName, u32>,
}

impl Bundles {
    fn place(&mut self, bundle: ContentName) -> u32 {
        *self.places.entry(bundle).or_insert_with(|| {
            self.names.push(bundle);
            (self.names.len() - 1) as u32
        })
    }
}

impl Page {
    /// A page of so many zero refs.
    pub fn zero(level: u8, count: usize) -> Self {
        Self { level, refs: vec![PageRef::Zero; count] }
    }

    /// Whether all that it covers reads as zeros.
    pub fn is_zero(&self) -> bool {
        self.refs.iter().all(PageRef::is_zero)
    }

    /// The one spelling of the page (§7), over which its id is.
    pub fn encode(&self) -> Vec<u8> {
        let mut bundles = Bundles::default();
        let (mut refs, mut links, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for r in &self.refs {
            let PageRef::Stored { id, object, closure } = r else {
                refs.extend([0; REF_LEN_BYTES]);
                continue;
            };
            let own_end = closure.last().is_some_and(|end| end.name.offset_bytes.is_none());
            let mut flags = if own_end { ENDS_IN_OBJECT } else { 0 };
            refs.extend(id.0);
            match object.name.offset_bytes {
                None => {
                    refs.extend(object.name.generation.0.to_le_bytes());
                    refs.extend(object.name.variant.to_le_bytes());
                }
                Some(offset) => {
                    flags |= IS_PIECE;
                    refs.extend(bundles.place(object.name.object()).to_le_bytes());
                    refs.extend(offset.to_le_bytes());
                }
            }
            refs.extend(object.sealed_len_bytes.to_le_bytes());
            refs.extend([closure.len() as u8, flags, 0, 0]);
            for link in closure {
                match link.name.offset_bytes {
                    None => put_object(&mut ends, link),
                    Some(offset) => {
                        links.extend(bundles.place(link.name.object()).to_le_bytes());
                        links.extend(offset.to_le_bytes());
                        links.extend(link.sealed_len_bytes.to_le_bytes());
                    }
                }
            }
        }
        let mut out = vec![self.level, 0, 0, 0];
        out.extend((self.refs.len() as u32).to_le_bytes());
        out.extend(((links.len() / LINK_LEN_BYTES) as u32).to_le_bytes());
        out.extend((bundles.names.len() as u32).to_le_bytes());
        for bundle in &bundles.names {
            out.extend(bundle.id.0);
            out.extend(bundle.generation.0.to_le_bytes());
        }
        for part in [refs, links, ends] {
            out.extend(part);
        }
        out
    }

    /// Reads a page that must be of the given level and count. Allocates no more than a small multiple of the input's length.
    pub fn decode(bytes: &[u8], level: u8, count: usize) -> Result<Self> {
        let Some((head, rest)) = bytes.split_at_checked(PAGE_HEADER_LEN_BYTES) else {
            return Err(damaged(format!("a page of {} bytes has no header", bytes.len())));
        };
        let found_count = u32_at(head, 4) as usize;
        let (link_count, bundle_count) = (u32_at(head, 8) as usize, u32_at(head, 12) as usize);
        if head[0] != level || found_count != count || count > REFS_PER_PAGE || head[1..4] != [0; 3] {
            return Err(damaged(format!(
                "a page of level {} with {found_count} refs, expected level {level} with {count}",
                head[0]
            )));
        }
        let short = || {
            damaged(format!(
                "a page of {} bytes says it has {found_count} refs, {link_count} links and {bundle_count} bundles",
                bytes.len()
            ))
        };
        let cut = |rest: &mut &[u8], entries: usize, len: usize| {
            let (part, after) = rest.split_at_checked(entries.checked_mul(len)?)?;
            *rest = after;
            Some(part.to_vec())
        };
        let mut rest = rest;
        let bundles = cut(&mut rest, bundle_count, BUNDLE_LEN_BYTES).ok_or_else(short)?;
        let refs = cut(&mut rest, count, REF_LEN_BYTES).ok_or_else(short)?;
        let links = cut(&mut rest, link_count, LINK_LEN_BYTES).ok_or_else(short)?;
        let mut reader = Reader {
            bundles: bundles.chunks_exact(BUNDLE_LEN_BYTES).map(bundle_name).collect(),
            links: links.chunks_exact(LINK_LEN_BYTES),
            ends: rest.chunks_exact(END_LEN_BYTES),
        };
        if !reader.ends.remainder().is_empty() {
            return Err(short());
        }
        let refs = refs.chunks_exact(REF_LEN_BYTES).map(|entry| reader.page_ref(entry, level));
        let page = Self { level, refs: refs.collect::<Result<_>>()? };
        // One spelling for each page, so that equal pages have equal ids: all that is there is used, in its order.
        if page.encode() != bytes {
            return Err(damaged("a page is not spelled as a writer spells it"));
        }
        Ok(page)
    }
}

/// Takes a page's parts as its refs come to them.
struct Reader<'a> {
    bundles: Vec<ContentName>,
    links: std::slice::ChunksExact<'a, u8>,
    ends: std::slice::ChunksExact<'a, u8>,
}

impl Reader<'_> {
    fn page_ref(&mut self, entry: &[u8], level: u8) -> Result<PageRef> {
        if entry.iter().all(|&b| b == 0) {
            return Ok(PageRef::Zero);
        }
        let (closure_len, flags) = (usize::from(entry[44]), entry[45]);
        let (is_piece, own_end) = (flags & IS_PIECE != 0, flags & ENDS_IN_OBJECT != 0);
        let is_delta = closure_len > 0;
        let is_known = flags & !(IS_PIECE | ENDS_IN_OBJECT) == 0 && entry[46..48] == [0; 2];
        // A delta is always a piece.
        let is_one = !(is_delta && !is_piece || own_end && !is_delta || level > 0 && is_piece);
        if closure_len > CLOSURE_LEN_MAX || !is_known || !is_one {
            return Err(damaged(format!(
                "a ref of level {level} with a closure of {closure_len}, flags {flags}"
            )));
        }
        let id = ChunkId(std::array::from_fn(|i| entry[i]));
        let object = match is_piece {
            true => self.piece(u32_at(entry, 32), u32_at(entry, 36), u32_at(entry, 40))?,
            false => one_object(entry)?,
        };
        let mut closure = Vec::with_capacity(closure_len);
        for place in 0..closure_len {
            let link = match own_end && place + 1 == closure_len {
                true => {
                    one_object(self.ends.next().ok_or_else(|| damaged("a page lacks the ends of chains"))?)?
                }
                false => {
                    let link = self.links.next().ok_or_else(|| damaged("a page lacks links of chains"))?;
                    self.piece(u32_at(link, 0), u32_at(link, 4), u32_at(link, 8))?
                }
            };
            closure.push(link);
        }
        // A chain that comes back to itself could never be decoded.
        let mut names: Vec<_> = closure.iter().map(|o: &ObjectRef| o.name).chain([object.name]).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() != closure_len + 1 {
            return Err(damaged("a closure names an object twice"));
        }
        Ok(PageRef::Stored { id, object, closure })
    }

    fn piece(&self, bundle: u32, offset_bytes: u32, sealed_len_bytes: u32) -> Result<ObjectRef> {
        let Some(bundle) = self.bundles.get(bundle as usize) else {
            return Err(damaged(format!("a piece of bundle {bundle}, of {}", self.bundles.len())));
        };
        let is_sane = sealed_len_bytes as usize >= PIECE_ID_LEN_BYTES + HEADER_LEN_BYTES
            && offset_bytes.checked_add(sealed_len_bytes).is_some();
        if !is_sane {
            return Err(damaged(format!("a piece of {sealed_len_bytes} bytes at {offset_bytes}")));
        }
        let name = ContentName { offset_bytes: Some(offset_bytes), ..*bundle };
        Ok(ObjectRef { name, sealed_len_bytes })
    }
}

fn bundle_name(entry: &[u8]) -> ContentName {
    ContentName::plain(Generation(u32_at(entry, 32)), ChunkId(std::array::from_fn(|i| entry[i])))
}

/// Level of the root over `chunk_count` chunks: the lowest, at least 1, that has one page only.
pub fn root_level(chunk_count: u64) -> u8 {
    let mut level = 1;
    while pages_of_level(chunk_count, level) > 1 {
        level += 1;
    }
    level
}

/// Number of pages at a level: each covers 1,024^(level + 1) chunks.
pub fn pages_of_level(chunk_count: u64, level: u8) -> u64 {
    (0..=level).fold(chunk_count, |n, _| n.div_ceil(REFS_PER_PAGE as u64))
}

/// Number of refs in page `number` of a level.
pub fn count_of_page(chunk_count: u64, level: u8, number: u64) -> usize {
    let below = match level {
        0 => chunk_count,
        _ => pages_of_level(chunk_count, level - 1),
    };
    let first = number.saturating_mul(REFS_PER_PAGE as u64);
    below.saturating_sub(first).min(REFS_PER_PAGE as u64) as usize
}

/// 44 bytes: an object's name and size.
pub(super) fn put_object(out: &mut Vec<u8>, object: &ObjectRef) {
    out.extend(object.name.id.0);
    out.extend(object.name.generation.0.to_le_bytes());
    out.extend(object.name.variant.to_le_bytes());
    out.extend(object.sealed_len_bytes.to_le_bytes());
}

pub(super) fn one_object(entry: &[u8]) -> Result<ObjectRef> {
    let sealed_len_bytes = u32_at(entry, 40);
    if (sealed_len_bytes as usize) < HEADER_LEN_BYTES {
        return Err(damaged(format!("a ref to an object of {sealed_len_bytes} bytes")));
    }
    let name = ContentName {
        id: ChunkId(std::array::from_fn(|i| entry[i])),
        generation: Generation(u32_at(entry, 32)),
        variant: u32_at(entry, 36),
        offset_bytes: None,
    };
    Ok(ObjectRef { name, sealed_len_bytes })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, proptest};
    use proptest::{collection, prop_assert_eq, prop_oneof};

    use super::*;

    fn object() -> impl Strategy<Value = ObjectRef> {
        (any::<[u8; 32]>(), any::<u32>(), any::<u32>(), 128u32..).prop_map(|(id, g, variant, len)| {
            ObjectRef {
                name: ContentName { id: ChunkId(id), generation: Generation(g), variant, offset_bytes: None },
                sealed_len_bytes: len,
            }
        })
    }

    fn piece() -> impl Strategy<Value = ObjectRef> {
        (0u8..5, 0u32..1 << 30, 160u32..1 << 30).prop_map(|(bundle, offset, sealed_len_bytes)| {
            let name = ContentName::plain(Generation(bundle.into()), ChunkId([bundle; 32]));
            ObjectRef { name: ContentName { offset_bytes: Some(offset), ..name }, sealed_len_bytes }
        })
    }

    fn page() -> impl Strategy<Value = Page> {
        let links =
            (piece(), any::<[u8; 32]>(), collection::vec(piece(), 0..4), proptest::option::of(object()));
        let pieces = links.prop_map(|(object, id, mut closure, end)| {
            closure.extend(end);
            PageRef::Stored { id: ChunkId(id), object, closure }
        });
        let zero = proptest::strategy::Just(PageRef::Zero);
        let refs = collection::vec(prop_oneof![zero, object().prop_map(PageRef::full), pieces], 0..40);
        refs.prop_map(|refs| Page { level: 0, refs })
    }

    proptest! {
        #[test]
        fn decode_is_the_inverse_of_encode(page in page()) {
            let bytes = page.encode();
            prop_assert_eq!(Page::decode(&bytes, 0, page.refs.len()).expect("good"), page);
        }

        #[test]
        fn damaged_pages_never_panic(page in page(), at in any::<usize>(), with in any::<u8>(), cut in any::<usize>()) {
            let mut bytes = page.encode();
            let at = at % bytes.len();
            bytes[at] ^= with;
            bytes.truncate(cut % (bytes.len() + 1));
            if let Ok(other) = Page::decode(&bytes, 0, page.refs.len()) {
                prop_assert_eq!(other.encode(), bytes);
            }
        }
    }

    #[test]
    fn the_tree_has_the_shape_of_the_specification() {
        for (chunks, level, pages) in [
            (0, 1, 0),
            (1, 1, 1),
            (1024, 1, 1),
            (1025, 1, 2),
            (1 << 20, 1, 1024),
            ((1 << 20) + 1, 2, 1025),
            (1 << 30, 2, 1 << 20),
            (1 << 40, 3, 1 << 30),
        ] {
            assert_eq!(root_level(chunks), level, "{chunks} chunks");
            assert_eq!(pages_of_level(chunks, 0), pages, "{chunks} chunks");
        }
        assert_eq!(count_of_page(1025, 0, 0), 1024);
        assert_eq!(count_of_page(1025, 0, 1), 1);
        assert_eq!(count_of_page(1025, 0, 2), 0);
        assert_eq!(count_of_page(1025, 1, 0), 2);
    }

    fn piece_at(offset: u32) -> ObjectRef {
        let bundle = ContentName::plain(Generation(0), ChunkId([7; 32]));
        ObjectRef { name: ContentName { offset_bytes: Some(offset), ..bundle }, sealed_len_bytes: 200 }
    }

    fn page_of(closure: Vec<ObjectRef>) -> Page {
        Page {
            level: 0,
            refs: vec![PageRef::Stored { id: ChunkId([1; 32]), object: piece_at(100), closure }],
        }
    }

    #[test]
    fn a_closure_that_bites_its_tail_is_refused() {
        assert!(Page::decode(&page_of(vec![piece_at(300), piece_at(600)]).encode(), 0, 1).is_ok());
        assert!(Page::decode(&page_of(vec![piece_at(300), piece_at(100)]).encode(), 0, 1).is_err());
    }

    #[test]
    fn what_no_writer_writes_is_refused() {
        let good = page_of(vec![piece_at(300)]).encode();
        let changed = |at: usize, with: u8| {
            let mut bytes = good.clone();
            bytes[at] = with;
            Page::decode(&bytes, 0, 1).map(|_| ())
        };
        let the_ref = PAGE_HEADER_LEN_BYTES + BUNDLE_LEN_BYTES;
        assert!(changed(the_ref + 45, IS_PIECE).is_ok());
        for (what, at, with) in [
            ("a delta that is an object of its own", the_ref + 45, 0),
            ("a flag that nobody knows", the_ref + 45, IS_PIECE | 4),
            ("an end that is not there", the_ref + 45, IS_PIECE | ENDS_IN_OBJECT),
            ("a bundle that is not there", the_ref + 32, 1),
            ("a link's bundle that is not there", the_ref + REF_LEN_BYTES, 1),
            ("a piece beyond all bundles", the_ref + 39, 0xff),
            ("bytes that nobody reads", the_ref + 46, 1),
        ] {
            let is_refused = changed(at, with).is_err();
            // Offsets are only bounded by what a u32 holds.
            assert!(is_refused || what.starts_with("a piece beyond"), "{what}");
        }
        let mut unused = good.clone();
        unused[12] = 2;
        unused.splice(the_ref..the_ref, [9; BUNDLE_LEN_BYTES]);
        assert!(Page::decode(&unused, 0, 1).is_err(), "a bundle that nothing refers to");
        let mut claims = good;
        claims[12..16].fill(0xff);
        assert!(Page::decode(&claims, 0, 1).is_err(), "4 billion bundles");
    }

    /// A volume of 1 TiB, each of whose chunks has a chain of 7, is 256 such pages.
    #[test]
    fn pages_of_deep_chains_are_a_third_of_what_names_would_take() {
        let end = |n: usize| {
            let name = ContentName::plain(Generation(0), ChunkId([n as u8; 32]));
            ObjectRef { name, sealed_len_bytes: 2 << 20 }
        };
        let link = |n: usize, night: u8| {
            let name = ContentName::plain(Generation(night.into()), ChunkId([night; 32]));
            let offset_bytes = Some((n * 16_000) as u32);
            ObjectRef { name: ContentName { offset_bytes, ..name }, sealed_len_bytes: 16_000 }
        };
        let chunk = |n: usize| {
            let closure = (1..7).map(|night| link(n, night)).chain([end(n)]).collect();
            PageRef::Stored { id: ChunkId([n as u8; 32]), object: link(n, 0), closure }
        };
        let page = Page { level: 0, refs: (0..REFS_PER_PAGE).map(chunk).collect() };
        let len = page.encode().len();
        assert_eq!(len, 16 + 7 * 36 + 1024 * (48 + 6 * 12 + 44));
        assert!(len * 2 < 16 + 1024 * 8 * 48);
    }
}
