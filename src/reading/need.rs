//! What fetching a chunk takes of a budget.

use crate::budget::Budget;
use crate::plan::restore::Fetch;
use crate::repo::content::chunk_object_len_bytes_max;

/// Most bytes in memory while a chunk is fetched and decoded: all its objects, the plaintext, and that of a base.
pub(crate) fn fetch_bytes(fetch: &Fetch, chunk_size_bytes: u32) -> u64 {
    let max = chunk_object_len_bytes_max(chunk_size_bytes);
    let sealed: u64 = fetch.chunk.objects().map(|o| u64::from(o.sealed_len_bytes).min(max)).sum();
    let plain = match fetch.chunk.objects().count() {
        0 | 1 => u64::from(fetch.len_bytes),
        _ => 2 * u64::from(chunk_size_bytes),
    };
    sealed + plain
}

/// The budget of an operation that reads chunks, and has so much memory in all: a quarter is left to [`neighbours_bytes`].
pub(crate) fn reading_budget(inflight_bytes: u64) -> Budget {
    Budget::new(inflight_bytes / 4 * 3)
}

/// What parts of bundles may take beside such a budget.
pub(crate) fn neighbours_bytes(budget: &Budget) -> u64 {
    budget.total_bytes() / 3
}
