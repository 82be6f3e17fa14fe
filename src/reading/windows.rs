//! A manifest in windows of bounded size, in order.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::Result;
use crate::format::REFS_PER_PAGE;
use crate::plan::restore::Window;
use crate::repo::manifest::Manifest;

/// Leaves in a window: 32 GiB of a volume at 4 MiB a chunk, at most 6 MiB of refs.
const WINDOW_LEAVES: u64 = 8;
/// Leaves in a window that is compared with a volume: this much is read before anything is fetched or reported.
const WINDOW_LEAVES_COMPARED: u64 = 1;
/// Leaves read at once.
const LEAVES_INFLIGHT_MAX: usize = 8;

/// Reads a manifest window by window.
pub(crate) struct Windows {
    manifest: Manifest,
    next_leaf: u64,
    leaves: u64,
    zero_leaves_max: u64,
}

impl Windows {
    /// Where a volume is compared with the manifest, all windows are short; otherwise a range of zeros is one window,
    /// however long it is.
    pub(crate) fn new(manifest: Manifest, compared: bool) -> Self {
        let (leaves, zero_leaves_max) = match compared {
            true => (WINDOW_LEAVES_COMPARED, WINDOW_LEAVES_COMPARED),
            false => (WINDOW_LEAVES, u64::MAX),
        };
        Self { manifest, next_leaf: 0, leaves, zero_leaves_max }
    }

    /// The next window, or `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Window>> {
        let geometry = self.manifest.geometry();
        let first = self.next_leaf;
        let left = self.manifest.leaf_count().saturating_sub(first);
        if left == 0 {
            return Ok(None);
        }
        let zeros = self.zero_leaves(first).await?.min(left);
        let count = self.leaves.min(left);
        if zeros >= count {
            let zeros = zeros.min(self.zero_leaves_max);
            self.next_leaf = first + zeros;
            let chunks = first * REFS_PER_PAGE as u64..self.next_leaf.saturating_mul(REFS_PER_PAGE as u64);
            return Ok(Some(Window::zero(geometry, chunks)));
        }
        let manifest = &self.manifest;
        let leaves: Vec<Arc<_>> = stream::iter(first..first + count)
            .map(|number| manifest.leaf(number))
            .buffered(LEAVES_INFLIGHT_MAX)
            .try_collect()
            .await?;
        self.next_leaf = first + count;
        Ok(Some(Window::of_leaves(geometry, first, leaves)))
    }

    /// How many leaves from here on are zero.
    async fn zero_leaves(&self, first: u64) -> Result<u64> {
        let (mut at, end) = (first, self.manifest.leaf_count());
        while at < end && at - first < self.zero_leaves_max {
            match self.manifest.zero_leaves_at(at).await? {
                0 => break,
                step => at += step,
            }
        }
        Ok(at - first)
    }
}
