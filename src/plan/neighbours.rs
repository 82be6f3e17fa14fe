//! Which pieces of bundles are read together: what lies between them costs less than another request.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::names::ContentName;
use crate::format::page::ObjectRef;

/// Most bytes that nobody asked for between two pieces of one request.
const GAP_BYTES_MAX: u32 = 64 << 10;
/// Most bytes of one request for several pieces.
const RUN_BYTES_MAX: u32 = 2 << 20;

/// A part of a bundle that is read with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) range: Range<u32>,
    /// How often something in it is wanted.
    pub(crate) wanted: usize,
}

/// The parts of bundles that hold more than one of these objects, by bundle.
pub(crate) fn runs<'a>(objects: impl Iterator<Item = &'a ObjectRef>) -> BTreeMap<ContentName, Vec<Run>> {
    let mut pieces: Vec<(ContentName, Range<u32>)> = Vec::new();
    for object in objects {
        let Some(start) = object.name.offset_bytes else { continue };
        let end = start.saturating_add(object.sealed_len_bytes);
        if end - start <= RUN_BYTES_MAX {
            pieces.push((object.name.object(), start..end));
        }
    }
    pieces.sort_unstable_by_key(|(bundle, range)| (*bundle, range.start, range.end));
    let mut runs: BTreeMap<ContentName, Vec<(Run, bool)>> = BTreeMap::new();
    for (bundle, piece) in pieces {
        let of_bundle = runs.entry(bundle).or_default();
        match of_bundle.last_mut() {
            Some((run, is_shared)) if joins(&run.range, &piece) => {
                *is_shared |= piece.start != run.range.start || piece.end != run.range.end;
                run.range.end = run.range.end.max(piece.end);
                run.wanted += 1;
            }
            _ => of_bundle.push((Run { range: piece, wanted: 1 }, false)),
        }
    }
    runs.into_iter()
        .map(|(bundle, runs)| {
            (bundle, runs.into_iter().filter(|(_, shared)| *shared).map(|(run, _)| run).collect())
        })
        .filter(|(_, runs): &(_, Vec<Run>)| !runs.is_empty())
        .collect()
}

fn joins(run: &Range<u32>, piece: &Range<u32>) -> bool {
    let is_near = piece.start <= run.end.saturating_add(GAP_BYTES_MAX);
    is_near && run.end.max(piece.end) - run.start <= RUN_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{ChunkId, Generation};

    fn piece(bundle: u8, offset: u32, len: u32) -> ObjectRef {
        let name = ContentName::plain(Generation(0), ChunkId([bundle; 32]));
        ObjectRef { name: ContentName { offset_bytes: Some(offset), ..name }, sealed_len_bytes: len }
    }

    #[test]
    fn what_lies_near_is_read_together() {
        let far = GAP_BYTES_MAX + 1;
        let mut pieces = vec![
            piece(1, 5000, 100),
            piece(1, 1000, 100),
            piece(1, 5100 + far, 100),
            piece(1, 5200 + far, 100),
            piece(2, 5200 + far, 100),
            piece(1, 1000, 100),
            piece(3, 0, RUN_BYTES_MAX),
            piece(3, RUN_BYTES_MAX, 100),
        ];
        pieces.push(ObjectRef { name: pieces[0].name.object(), sealed_len_bytes: 9 });
        let found = runs(pieces.iter());
        let of = |bundle: u8| {
            found.iter().find(|(name, _)| name.id == ChunkId([bundle; 32])).map(|(_, runs)| runs.clone())
        };
        let near = Run { range: 1000..5100, wanted: 3 };
        assert_eq!(of(1), Some(vec![near, Run { range: 5100 + far..5300 + far, wanted: 2 }]));
        assert_eq!((of(2), of(3)), (None, None), "one piece alone is read as it is");
    }
}
