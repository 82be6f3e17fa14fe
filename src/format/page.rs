//! Manifest pages and the refs in them (repo-format.md §7).

use crate::error::Result;
use crate::format::CLOSURE_LEN_MAX;
use crate::format::envelope::{HEADER_LEN_BYTES, damaged};
use crate::format::names::ContentName;
use crate::units::{ChunkId, Generation};

/// Refs in a page that is not the last of its level.
pub const REFS_PER_PAGE: usize = 1024;
/// Highest level of a root.
pub const LEVEL_MAX: u8 = 4;
pub(super) const REF_LEN_BYTES: usize = 48;
pub(super) const PAGE_HEADER_LEN_BYTES: usize = 16;

/// A stored chunk or page, as a manifest names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    pub name: ContentName,
    /// Size of the whole object in the store.
    pub sealed_len_bytes: u32,
}

/// What a manifest says of one chunk or page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PageRef {
    /// Reads as zeros; nothing is stored.
    #[default]
    Zero,
    Stored {
        object: ObjectRef,
        /// What must be decoded first, from the direct base to the full object; empty when full.
        closure: Vec<ObjectRef>,
    },
}

impl PageRef {
    pub fn full(object: ObjectRef) -> Self {
        Self::Stored { object, closure: Vec::new() }
    }

    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Zero)
    }

    pub fn object(&self) -> Option<&ObjectRef> {
        match self {
            Self::Zero => None,
            Self::Stored { object, .. } => Some(object),
        }
    }

    /// The id, where something is stored.
    pub fn id(&self) -> Option<ChunkId> {
        self.object().map(|o| o.name.id)
    }

    /// The object and everything needed to decode it.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        let (object, closure) = match self {
            Self::Zero => (None, &[][..]),
            Self::Stored { object, closure } => (Some(object), &closure[..]),
        };
        object.into_iter().chain(closure)
    }
}

/// One page of a manifest's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub level: u8,
    pub refs: Vec<PageRef>,
}

impl Page {
    pub fn zero(level: u8, count: usize) -> Self {
        Self { level, refs: vec![PageRef::Zero; count] }
    }

    pub fn is_zero(&self) -> bool {
        self.refs.iter().all(PageRef::is_zero)
    }

    pub fn encode(&self) -> Vec<u8> {
        let closures: usize = self.refs.iter().map(|r| r.objects().count().saturating_sub(1)).sum();
        let mut out =
            Vec::with_capacity(PAGE_HEADER_LEN_BYTES + REF_LEN_BYTES * (self.refs.len() + closures));
        out.extend([self.level, 0, 0, 0]);
        out.extend((self.refs.len() as u32).to_le_bytes());
        out.extend((closures as u32).to_le_bytes());
        out.extend([0; 4]);
        for r in &self.refs {
            match r {
                PageRef::Zero => out.extend([0; REF_LEN_BYTES]),
                PageRef::Stored { object, closure } => put_ref(&mut out, object, closure.len()),
            }
        }
        for r in &self.refs {
            if let PageRef::Stored { closure, .. } = r {
                for (i, object) in closure.iter().enumerate() {
                    put_ref(&mut out, object, closure.len() - 1 - i);
                }
            }
        }
        out
    }

    /// Reads a page that must be of the given level and count. Allocates no more than the input is long.
    pub fn decode(bytes: &[u8], level: u8, count: usize) -> Result<Self> {
        let Some((head, rest)) = bytes.split_at_checked(PAGE_HEADER_LEN_BYTES) else {
            return Err(damaged(format!("a page of {} bytes has no header", bytes.len())));
        };
        let found_count = u32_at(head, 4) as usize;
        let closure_count = u32_at(head, 8) as usize;
        if head[0] != level || found_count != count || head[1..4] != [0; 3] || head[12..16] != [0; 4] {
            return Err(damaged(format!(
                "a page of level {} with {found_count} refs, expected level {level} with {count}",
                head[0]
            )));
        }
        let expected_len =
            found_count.checked_add(closure_count).and_then(|entries| entries.checked_mul(REF_LEN_BYTES));
        if count > REFS_PER_PAGE || expected_len != Some(rest.len()) {
            return Err(damaged(format!(
                "a page of {} bytes says it has {found_count} refs and {closure_count} closure entries",
                bytes.len()
            )));
        }
        let (refs, closures) = rest.split_at(found_count * REF_LEN_BYTES);
        let mut closures = closures.chunks_exact(REF_LEN_BYTES);
        let mut page = Self { level, refs: Vec::with_capacity(found_count) };
        for entry in refs.chunks_exact(REF_LEN_BYTES) {
            page.refs.push(take_ref(entry, level, &mut closures)?);
        }
        if closures.next().is_some() {
            return Err(damaged("a page has closure entries that belong to no ref"));
        }
        Ok(page)
    }
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

pub(super) fn put_ref(out: &mut Vec<u8>, object: &ObjectRef, closure_len: usize) {
    out.extend(object.name.id.0);
    out.extend(object.name.generation.0.to_le_bytes());
    out.extend(object.name.variant.to_le_bytes());
    out.extend(object.sealed_len_bytes.to_le_bytes());
    out.extend([closure_len as u8, 0, 0, 0]);
}

fn take_ref<'a>(entry: &[u8], level: u8, closures: &mut impl Iterator<Item = &'a [u8]>) -> Result<PageRef> {
    if entry.iter().all(|&b| b == 0) {
        return Ok(PageRef::Zero);
    }
    let (object, closure_len) = one_ref(entry)?;
    if closure_len > CLOSURE_LEN_MAX || (closure_len > 0 && level > 0) {
        return Err(damaged(format!("a ref of level {level} has a closure of {closure_len}")));
    }
    let mut closure = Vec::with_capacity(closure_len);
    for left in (0..closure_len).rev() {
        let entry = closures.next().ok_or_else(|| damaged("a page lacks closure entries"))?;
        let (base, base_left) = one_ref(entry)?;
        if base_left != left {
            return Err(damaged(format!("a closure entry has {base_left} below it, expected {left}")));
        }
        closure.push(base);
    }
    // A chain that comes back to itself could never be decoded.
    let mut names: Vec<_> = closure.iter().map(|o| o.name).chain([object.name]).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() != closure_len + 1 {
        return Err(damaged("a closure names an object twice"));
    }
    Ok(PageRef::Stored { object, closure })
}

pub(super) fn one_ref(entry: &[u8]) -> Result<(ObjectRef, usize)> {
    let sealed_len_bytes = u32_at(entry, 40);
    if (sealed_len_bytes as usize) < HEADER_LEN_BYTES || entry[45..48] != [0; 3] {
        return Err(damaged(format!("a ref to an object of {sealed_len_bytes} bytes")));
    }
    let name = ContentName {
        id: ChunkId(std::array::from_fn(|i| entry[i])),
        generation: Generation(u32_at(entry, 32)),
        variant: u32_at(entry, 36),
    };
    Ok((ObjectRef { name, sealed_len_bytes }, entry[44] as usize))
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
                name: ContentName { id: ChunkId(id), generation: Generation(g), variant },
                sealed_len_bytes: len,
            }
        })
    }

    fn page() -> impl Strategy<Value = Page> {
        let stored = (object(), collection::vec(object(), 0..4))
            .prop_map(|(object, closure)| PageRef::Stored { object, closure });
        let refs = collection::vec(prop_oneof![proptest::strategy::Just(PageRef::Zero), stored], 0..40);
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

    #[test]
    fn a_closure_that_bites_its_tail_is_refused() {
        let name = |b| ContentName { id: ChunkId([b; 32]), generation: Generation(0), variant: 1 };
        let object = |b| ObjectRef { name: name(b), sealed_len_bytes: 200 };
        let page = |closure| Page { level: 0, refs: vec![PageRef::Stored { object: object(1), closure }] };
        let good = page(vec![object(2), object(3)]).encode();
        assert!(Page::decode(&good, 0, 1).is_ok());
        let cycle = page(vec![object(2), object(1)]).encode();
        assert!(Page::decode(&cycle, 0, 1).is_err());
    }
}
