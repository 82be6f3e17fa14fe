//! What fetching a chunk takes of a budget.

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
