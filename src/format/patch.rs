//! A delta's plaintext: the runs of a chunk that replace its base's bytes (repo-format.md §4).
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 4 | number of runs, N |
//! | 4 | 8 × N | each run's offset and length in the chunk, 4 bytes each: ascending, apart from each other, not empty |
//! | 4 + 8 × N | their sum | the bytes of all runs, in order |

use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::envelope::damaged;

/// Length of the count of runs.
const COUNT_LEN_BYTES: usize = 4;
/// Length of a run's offset and length.
pub const RUN_LEN_BYTES: usize = 8;
/// A patch is at most so much longer than the plaintext that it makes.
const LEN_OVER_MAX: usize = COUNT_LEN_BYTES + RUN_LEN_BYTES;

/// The parts of a plaintext that a patch replaces: in order, apart from each other, none of them empty.
pub type Runs = Vec<Range<usize>>;

/// Most bytes of a patch that makes so long a plaintext.
pub fn len_bytes_max(plain_len: usize) -> usize {
    plain_len + LEN_OVER_MAX
}

/// The patch that has these runs of a plaintext.
pub fn encode(runs: Runs, plain: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend((runs.len() as u32).to_le_bytes());
    for run in &runs {
        out.extend((run.start as u32).to_le_bytes());
        out.extend((run.len() as u32).to_le_bytes());
    }
    for run in runs {
        out.extend(&plain[run]);
    }
}

/// Takes a patch of a plaintext of `plain_len` bytes apart: where each of its runs begins, and its bytes.
pub fn decode(patch: &[u8], plain_len: usize, mut run: impl FnMut(usize, &[u8])) -> Result<()> {
    let (count, rest) = patch.split_first_chunk().ok_or_else(|| refuse("cut short"))?;
    let count = u32::from_le_bytes(*count) as usize;
    let table_len = count.checked_mul(RUN_LEN_BYTES).filter(|len| *len <= rest.len());
    let (table, mut data) = rest.split_at(table_len.ok_or_else(|| refuse("more runs than it has room for"))?);
    let mut free_from = None;
    let (entries, _) = table.as_chunks::<RUN_LEN_BYTES>();
    for [o0, o1, o2, o3, l0, l1, l2, l3] in entries {
        let start = u32::from_le_bytes([*o0, *o1, *o2, *o3]) as usize;
        let len = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        if len == 0 || free_from.is_some_and(|end| start <= end) {
            return Err(refuse("its runs are empty or not in order"));
        }
        let end = start.checked_add(len).filter(|end| *end <= plain_len);
        let end = end.ok_or_else(|| refuse("a run beyond the end"))?;
        let (bytes, behind) = data.split_at_checked(len).ok_or_else(|| refuse("cut short"))?;
        run(start, bytes);
        (data, free_from) = (behind, Some(end));
    }
    if data.is_empty() { Ok(()) } else { Err(refuse("more bytes than its runs have")) }
}

fn refuse(what: &str) -> Error {
    damaged(format!("patch: {what}"))
}
