//! What lies between two manifests, or what one holds, in windows of bounded size, in order.

use std::convert::Infallible;
use std::sync::Arc;

use crate::error::Result;
use crate::format::page::{Page, REFS_PER_PAGE, count_of_page};
use crate::plan::restore::Window;
use crate::repo::walk::{Visit, Walk, Walker};

/// Leaves in a window: 32 GiB of a volume at 4 MiB a chunk, at most 6 MiB of refs.
const WINDOW_LEAVES: usize = 8;
/// Leaves in a window that is compared with a volume: this much is read before anything is fetched or reported.
const WINDOW_LEAVES_COMPARED: usize = 1;

/// Reads window by window.
pub(crate) struct Windows<W: Walker> {
    pub(crate) walk: Walk<W>,
    leaves_max: usize,
    skipped_max: u64,
    /// What did not fit into the last window.
    held: Option<Visit<Infallible>>,
}

/// A window.
pub(crate) struct Part {
    pub(crate) window: Window,
    /// What the first manifest has there, leaf by leaf. `None` where both have the same: then the window shows zeros.
    pub(crate) from: Option<Vec<Arc<Page>>>,
}

impl<W: Walker<Flaw = Infallible>> Windows<W> {
    /// What both have is one window, however long it is.
    pub(crate) fn new(walk: Walk<W>) -> Self {
        Self { walk, leaves_max: WINDOW_LEAVES, skipped_max: u64::MAX, held: None }
    }

    /// All windows are short, as a volume is compared with the manifest.
    pub(crate) fn compared(walk: Walk<W>) -> Self {
        let skipped_max = WINDOW_LEAVES_COMPARED as u64;
        Self { skipped_max, ..Self::new(walk) }.short()
    }

    /// Windows of leaves are short, as some of what they are compared with is read.
    pub(crate) fn short(self) -> Self {
        Self { leaves_max: WINDOW_LEAVES_COMPARED, ..self }
    }

    /// The next window, or `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>> {
        let (_, geometry) = self.walk.geometries();
        let (mut first, mut leaves, mut from) = (0, Vec::new(), Vec::new());
        while leaves.len() < self.leaves_max {
            let visit = match self.held.take() {
                Some(visit) => Some(visit),
                None => self.walk.next().await?,
            };
            let room = (self.leaves_max - leaves.len()) as u64;
            match visit {
                None => break,
                Some(Visit::Flawed(_, never)) => match never {},
                Some(Visit::Leaf(leaf)) => {
                    if leaves.is_empty() {
                        first = leaf.number;
                    }
                    leaves.push(leaf.page);
                    from.push(leaf.from);
                }
                Some(Visit::Skipped(range)) if leaves.is_empty() => {
                    let end = range.end.min(range.start.saturating_add(self.skipped_max));
                    self.held = (end < range.end).then(|| Visit::Skipped(end..range.end));
                    let chunk = |leaf: u64| leaf.saturating_mul(REFS_PER_PAGE as u64);
                    let window = Window::zero(geometry, chunk(range.start)..chunk(end));
                    return Ok(Some(Part { window, from: None }));
                }
                // To a plan it is as good when both are zero.
                Some(Visit::Skipped(range)) if range.end - range.start < room => {
                    for number in range {
                        let count = count_of_page(geometry.chunk_count(), 0, number);
                        let zero = Arc::new(Page::zero(0, count));
                        leaves.push(Arc::clone(&zero));
                        from.push(zero);
                    }
                }
                skipped => {
                    self.held = skipped;
                    break;
                }
            }
        }
        let is_end = leaves.is_empty();
        let window = Window::of_leaves(geometry, first, leaves);
        Ok((!is_end).then_some(Part { window, from: Some(from) }))
    }
}
