//! The changed blocks of a disk as `rbd diff v1`, for `rbd import-diff`: what a guest would have written and trimmed.

/// The block size of the file systems that the disks hold.
const BLOCK_BYTES: usize = 4096;

/// What makes a disk that held `before` hold `now`, whose size it gets. A block that became zero counts as trimmed.
pub fn diff_v1(before: &[u8], now: &[u8]) -> Vec<u8> {
    let mut stream = b"rbd diff v1\ns".to_vec();
    stream.extend((now.len() as u64).to_le_bytes());
    for (tag, start, end) in changed_runs(before, now) {
        stream.push(tag);
        stream.extend((start as u64).to_le_bytes());
        stream.extend(((end - start) as u64).to_le_bytes());
        if tag == b'w' {
            stream.extend(&now[start..end]);
        }
    }
    stream.push(b'e');
    stream
}

/// Ranges that differ: written (`w`), or trimmed (`z`). What the disk grew by was zero before.
fn changed_runs(before: &[u8], now: &[u8]) -> Vec<(u8, usize, usize)> {
    let mut runs: Vec<(u8, usize, usize)> = Vec::new();
    for start in (0..now.len()).step_by(BLOCK_BYTES) {
        let end = now.len().min(start + BLOCK_BYTES);
        let block = &now[start..end];
        let is_zero = || block.iter().all(|b| *b == 0);
        if before.get(start..end).map_or_else(is_zero, |old| old == block) {
            continue;
        }
        let tag = if is_zero() { b'z' } else { b'w' };
        match runs.last_mut() {
            Some((last, _, last_end)) if *last == tag && *last_end == start => *last_end = end,
            _ => runs.push((tag, start, end)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::changed_runs;

    #[test]
    fn writes_and_trims_are_told_apart() {
        let before = [vec![1; 4096], vec![2; 4096], vec![0; 4096]].concat();
        let now = [vec![1; 4096], vec![0; 4096], vec![3; 4096], vec![3; 4096], vec![0; 4096]].concat();
        assert_eq!(changed_runs(&before, &now), [(b'z', 4096, 8192), (b'w', 8192, 16384)]);
        assert_eq!(changed_runs(&now, &before), [(b'w', 4096, 8192), (b'z', 8192, 12288)]);
    }
}
