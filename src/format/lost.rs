//! What was found lost of a project (repo-format.md §6.10).

use serde::{Deserialize, Serialize};

use crate::format::names::{ContentKind, ContentName};
use crate::units::{ChunkId, Generation};

/// Chunks and pages that somebody looked for and did not find as they must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRecord {
    /// At most 16,384 (§3).
    pub names: Vec<LostName>,
    /// The name of the host that found them lost, for people.
    pub host: String,
    /// By the clock of that host; for people only.
    pub at_unix_ms: u64,
}

/// The name of a chunk or page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LostName {
    kind: Kind,
    generation: Generation,
    id: ChunkId,
    /// Of a piece: its offset in the bundle.
    variant: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
enum Kind {
    Chunk,
    Page,
    Piece,
}

impl LostName {
    /// A page, or a chunk wherever it is.
    pub fn new(kind: ContentKind, name: ContentName) -> Self {
        let (kind, variant) = match (name.offset_bytes, kind) {
            (Some(offset_bytes), _) => (Kind::Piece, offset_bytes),
            (None, ContentKind::Page) => (Kind::Page, name.variant),
            (None, _) => (Kind::Chunk, name.variant),
        };
        Self { kind, generation: name.generation, id: name.id, variant }
    }

    /// What the object is that is lost, or in which a piece is.
    pub fn kind(&self) -> ContentKind {
        match self.kind {
            Kind::Chunk => ContentKind::Chunk,
            Kind::Page => ContentKind::Page,
            Kind::Piece => ContentKind::Bundle,
        }
    }

    /// The object or piece, as manifests name it.
    pub fn name(&self) -> ContentName {
        let name = ContentName::plain(self.generation, self.id);
        match self.kind {
            Kind::Piece => ContentName { offset_bytes: Some(self.variant), ..name },
            Kind::Chunk | Kind::Page => ContentName { variant: self.variant, ..name },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{LOST_NAMES_MAX, Record};

    #[test]
    fn a_full_record_fits_and_holds_what_was_put_in() {
        let name = |n: usize| {
            let id = ChunkId(std::array::from_fn(|i| (n >> (i % 2 * 8)) as u8));
            let name = ContentName { generation: Generation(3), id, variant: n as u32, offset_bytes: None };
            LostName::new(if n.is_multiple_of(2) { ContentKind::Chunk } else { ContentKind::Page }, name)
        };
        let names: Vec<LostName> = (0..LOST_NAMES_MAX).map(name).collect();
        let record = LostRecord { names, host: "h".repeat(255), at_unix_ms: 7 };
        let bytes = record.encode().expect("it fits");
        assert_eq!(LostRecord::decode(&bytes).expect("good"), record);
        // A kind, a generation, an id and a variant (repo-format.md, section 6.10).
        assert_eq!(bytes.len(), 8 + 44 * LOST_NAMES_MAX + 8 + 255 + 8);
    }
}
