//! How much of the bundles that stay is needed: what is left is dead pieces, and the tables.

use std::collections::HashSet;

use crate::format::names::ContentName;
use crate::format::page::ObjectRef;

/// Pieces that are told apart, about 80 MiB. Beyond it nobody knows how much is needed.
const PIECES_MAX: usize = 1 << 22;

/// Distinct pieces.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    seen: HashSet<(u64, u32)>,
    bundles: HashSet<ContentName>,
    bytes: u64,
    overflows: bool,
}

impl Pieces {
    /// Counts an object that is needed, if it is a piece.
    pub(crate) fn add(&mut self, object: &ObjectRef) {
        let Some(offset_bytes) = object.name.offset_bytes.filter(|_| !self.overflows) else { return };
        self.overflows = self.seen.len() >= PIECES_MAX;
        // A bundle's id is a keyed hash, so a part of it tells bundles apart.
        let id = u64::from_be_bytes(std::array::from_fn(|at| object.name.id.0[at]));
        if self.seen.insert((id, offset_bytes)) {
            self.bundles.insert(object.name.object());
            self.bytes += u64::from(object.sealed_len_bytes);
        }
    }

    /// Whether something in a bundle is needed.
    pub(crate) fn needs(&self, bundle: &ContentName) -> bool {
        self.bundles.contains(bundle)
    }

    /// What of the bundles that are needed takes so many bytes and is not needed itself; `None` where there are too many to tell.
    pub(crate) fn dead_bytes(&self, bundles_bytes: u64) -> Option<u64> {
        (!self.overflows).then(|| bundles_bytes.saturating_sub(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{ChunkId, Generation};

    #[test]
    fn pieces_count_once_and_objects_of_their_own_do_not() {
        let piece = |offset_bytes| ObjectRef {
            name: ContentName { generation: Generation(1), id: ChunkId([7; 32]), variant: 0, offset_bytes },
            sealed_len_bytes: 100,
        };
        let mut pieces = Pieces::default();
        [Some(200), Some(300), Some(200), None].map(piece).iter().for_each(|object| pieces.add(object));
        assert!(pieces.needs(&piece(None).name));
        assert_eq!(pieces.dead_bytes(450), Some(250));
        assert_eq!(pieces.dead_bytes(100), Some(0), "a listing was short");
    }
}
