//! What makes one plaintext of another of about the same content: the runs that differ, in place (repo-format.md §4).
//!
//! A volume changes in place: what a guest does not write stays where it was. So a patch is as small as what was written, is made at
//! the speed of comparing, and is applied at the speed of copying what changed, however deep a chain of them is.

use crate::error::Result;
pub(super) use crate::format::patch::{Runs, len_bytes_max};
use crate::format::patch::{decode, encode};

/// Plaintexts are compared in units of so many bytes: smaller than what a file system writes, larger than a run's entry.
const UNIT_BYTES: usize = 64;
/// The patch that makes `plain` of `base`, and of whatever differs from it within `also`. What is beyond the base's end counts
/// as zero there.
pub(super) fn make(base: &[u8], plain: &[u8], also: &Runs, out: &mut Vec<u8>) {
    let runs = union(&differences(base, plain), also);
    encode(runs, plain, out);
}

/// What lies in either.
pub(super) fn union(one: &Runs, other: &Runs) -> Runs {
    let mut all = [one.as_slice(), other].concat();
    all.sort_by_key(|run| run.start);
    all.dedup_by(|run, last| {
        let touches = run.start <= last.end;
        if touches {
            last.end = last.end.max(run.end);
        }
        touches
    });
    all
}

fn differences(base: &[u8], plain: &[u8]) -> Runs {
    const ZEROS: [u8; UNIT_BYTES] = [0; UNIT_BYTES];
    let mut runs = Runs::new();
    let differs = |start: usize, unit: &[u8]| match base.get(start..start + unit.len()) {
        Some(then) => then != unit,
        None => {
            let there = base.get(start..).unwrap_or_default();
            !unit.starts_with(there) || unit[there.len()..] != ZEROS[..unit.len() - there.len()]
        }
    };
    for (start, unit) in (0..).step_by(UNIT_BYTES).zip(plain.chunks(UNIT_BYTES)) {
        if !differs(start, unit) {
            continue;
        }
        let end = start + unit.len();
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

/// Applies a patch to a base's plaintext, which becomes `plain_len` bytes long. After an error it holds anything.
pub(super) fn apply(patch: &[u8], plain_len: usize, plain: &mut Vec<u8>) -> Result<()> {
    plain.resize(plain_len, 0);
    decode(patch, plain_len, |start, bytes| plain[start..start + bytes.len()].copy_from_slice(bytes))
}

/// The parts that a patch replaces.
pub(super) fn runs(patch: &[u8], plain_len: usize) -> Result<Runs> {
    let mut runs = Runs::new();
    decode(patch, plain_len, |start, bytes| runs.push(start..start + bytes.len()))?;
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use proptest::{collection, prop_assert, prop_assert_eq};

    use super::*;

    proptest! {
        #[test]
        fn apply_is_the_inverse_of_make(
            base in collection::vec(any::<u8>(), 0..2000),
            len in 0usize..2000,
            edits in collection::vec((0usize..2000, 1usize..200, any::<u8>()), 0..8),
        ) {
            let mut plain = base.clone();
            plain.resize(len, 0);
            for (at, len, byte) in edits {
                let end = (at + len).min(plain.len());
                if at < end {
                    plain[at..end].fill(byte);
                }
            }
            let mut patch = Vec::new();
            make(&base, &plain, &Runs::new(), &mut patch);
            prop_assert!(patch.len() <= len_bytes_max(plain.len()));
            let mut made = base;
            apply(&patch, plain.len(), &mut made).expect("applies");
            prop_assert_eq!(made, plain);
        }

        #[test]
        fn patches_are_joined(
            nights in collection::vec(collection::vec((0usize..2000, 1usize..200, 0u8..3), 0..5), 2..6),
        ) {
            let mut contents = vec![vec![0; 2000]];
            for edits in nights {
                let mut plain = contents[contents.len() - 1].clone();
                for (at, len, byte) in edits {
                    let end = (at + len).min(plain.len());
                    plain[at..end].fill(byte);
                }
                contents.push(plain);
            }
            let [first, between @ .., before, last] = contents.as_slice() else { unreachable!() };
            let mut also = Runs::new();
            let mut patch = Vec::new();
            let mut base = first;
            for plain in between.iter().chain([before]) {
                make(base, plain, &Runs::new(), &mut patch);
                also = union(&also, &runs(&patch, 2000).expect("made just now"));
                base = plain;
            }
            make(before, last, &also, &mut patch);
            let mut made = first.clone();
            apply(&patch, 2000, &mut made).expect("applies");
            prop_assert_eq!(&made, last);
        }

        #[test]
        fn hostile_patches_are_refused_or_stay_within_bounds(
            patch in collection::vec(any::<u8>(), 0..60),
            words in collection::vec(0u32..200, 0..12),
            len in 0usize..150,
        ) {
            let of_words: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            for patch in [patch, of_words] {
                let mut plain = vec![7; 100];
                let applied = apply(&patch, len, &mut plain).is_ok();
                prop_assert!(!applied || plain.len() == len);
                let runs = runs(&patch, len);
                prop_assert_eq!(runs.is_ok(), applied);
                prop_assert!(runs.unwrap_or_default().is_sorted_by(|a, b| a.end < b.start));
            }
        }
    }

    #[test]
    fn only_what_a_patch_may_be_is_applied() {
        let patch = |words: &[u32], data: &[u8]| {
            let head: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            [&head, data].concat()
        };
        for (what, bytes, good) in [
            ("nothing", vec![], false),
            ("no runs", patch(&[0], &[]), true),
            ("one run", patch(&[1, 2, 3], b"abc"), true),
            ("the last bytes", patch(&[1, 97, 3], b"abc"), true),
            ("two runs", patch(&[2, 2, 3, 6, 1], b"abcd"), true),
            ("runs that touch", patch(&[2, 2, 3, 5, 1], b"abcd"), false),
            ("runs that overlap", patch(&[2, 2, 3, 4, 1], b"abcd"), false),
            ("runs in no order", patch(&[2, 6, 1, 2, 3], b"abcd"), false),
            ("an empty run", patch(&[1, 2, 0], &[]), false),
            ("beyond the end", patch(&[1, 98, 3], b"abc"), false),
            ("far beyond", patch(&[1, u32::MAX, u32::MAX], b"abc"), false),
            ("cut short", patch(&[1, 2, 3], b"ab"), false),
            ("too much", patch(&[1, 2, 3], b"abcd"), false),
            ("too many runs", patch(&[u32::MAX, 2, 3], b"abc"), false),
        ] {
            assert_eq!(apply(&bytes, 100, &mut vec![0; 90]).is_ok(), good, "{what}");
        }
    }
}
