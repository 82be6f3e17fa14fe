//! Deltas: what is sealed instead of a chunk, and what a delta that takes others in must hold of them (repo-format.md §4).

use zstd::zstd_safe::{self, CParameter};

use super::{
    Base, Place, SCRATCH, Scratch, Sealed, check_header, decompress_patch, finish, patch, unseal, zstd_defect,
};
use crate::error::{Error, Result};
use crate::format::envelope::{Compression, Header, damaged};
use crate::format::patch::Runs;

/// Deltas are small, so a better level costs them little.
const LEVEL_DELTA_MIN: i32 = 6;

/// What a delta takes in besides what differs from the plaintext that it is made of: the parts in which the named base may be
/// another than that plaintext.
#[derive(Debug, Clone, Default)]
pub struct Joined(Runs);

impl Joined {
    /// Adds what a delta between the two replaces, as the table of its bundle says.
    pub fn add(&mut self, runs: &Runs) {
        self.0 = patch::union(&self.0, runs);
    }

    /// Adds what a delta between the two replaces. It must make a plaintext of `plain_len` bytes.
    pub fn take_in(&mut self, place: Place<'_>, object: &[u8], depth: u8, plain_len: usize) -> Result<()> {
        let header = Header::decode(object, object.len() as u64)?;
        check_header(&header, &place, depth, plain_len)?;
        if header.plain_len_bytes as usize != plain_len {
            return Err(damaged(format!(
                "plaintext of {} bytes, expected {plain_len}",
                header.plain_len_bytes
            )));
        }
        let runs = SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { decompressor, opened, patch, .. } = scratch;
            let key = place.key.map(|key| key.of(&header.salt)).transpose()?;
            let body = unseal(place, key, object, &header, opened)?;
            patch::runs(decompress_patch(decompressor, body, plain_len, patch)?, plain_len)
        })?;
        self.add(&runs);
        Ok(())
    }

    /// Makes a plaintext another wherever the named base may be another.
    fn scribble_over(&self, plain: &mut [u8]) {
        for run in &self.0 {
            plain.get_mut(run.clone()).unwrap_or_default().iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
}

/// A delta, and what it replaces.
pub struct SealedDelta {
    /// Under the name of a piece.
    pub sealed: Sealed,
    /// What it replaces of its base, ascending.
    pub runs: Runs,
}

/// Seals a chunk as what differs from its base, whose plaintext may be another than `base` says within `joined`. The result
/// decodes back whatever the base holds there, or it is an error.
pub fn seal_delta(
    place: Place<'_>,
    plain: &[u8],
    base: Base<'_>,
    joined: &Joined,
    level: i32,
) -> Result<SealedDelta> {
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { compressor, decompressor, compressed, opened, patch } = scratch;
        patch::make(base.plain, plain, &joined.0, patch);
        compressed.clear();
        compressed.reserve(zstd_safe::compress_bound(patch.len()));
        let level = level.max(LEVEL_DELTA_MIN);
        compressor.set_parameter(CParameter::CompressionLevel(level)).map_err(zstd_defect)?;
        compressor.compress2(compressed, &patch[..]).map_err(zstd_defect)?;
        opened.clear();
        opened.extend_from_slice(base.plain);
        joined.scribble_over(opened);
        let patch = decompress_patch(decompressor, compressed, plain.len(), patch)?;
        let runs = patch::runs(patch, plain.len())?;
        patch::apply(patch, plain.len(), opened)?;
        if opened != plain {
            return Err(Error::internal("a delta does not decode to what it was made from")
                .help("this machine's memory or processor is not to be trusted; test it"));
        }
        let sealed = finish(place, plain.len(), Compression::ZstdPatch, base.depth, compressed)?;
        Ok(SealedDelta { sealed, runs })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::{REPO, key, piece_name, sample};
    use crate::codec::{identify, open, seal};
    use crate::error::ErrorKind;
    use crate::format::ObjectName;
    use crate::format::envelope::HEADER_LEN_BYTES;

    /// A chunk on two nights, and the delta's name.
    fn two_nights() -> (Vec<u8>, Vec<u8>, ObjectName) {
        let old = sample(0);
        let mut new = old.clone();
        new[1000..1010].copy_from_slice(b"0123456789");
        let name = piece_name(identify(&[0; 32], &new));
        (old, new, name)
    }

    #[test]
    fn only_the_delta_that_was_asked_for_is_joined() {
        let (old, new, name) = two_nights();
        let (key, base) = (key(1), Base { depth: 1, plain: &old });
        let place = Place { repo_id: &REPO, name: &name, key: Some(&key) };
        let SealedDelta { sealed, runs } =
            seal_delta(place, &new, base, &Joined::default(), 1).expect("sealed");
        let full = seal(place, &new, 1).expect("sealed");
        let take_in = |body: &[u8], depth, len| {
            let mut joined = Joined::default();
            joined.take_in(place, body, depth, len).map(|()| joined)
        };
        let joined = take_in(sealed.bytes(), 1, new.len()).expect("joined");
        let mut told = Joined::default();
        told.add(&runs);
        for joined in [joined, told] {
            let mut scribbled = new.clone();
            joined.scribble_over(&mut scribbled);
            let differs: Vec<usize> = (0..new.len()).filter(|at| scribbled[*at] != new[*at]).collect();
            assert_eq!(differs, (960..1024).collect::<Vec<_>>(), "all of each unit that changed");
        }
        let mut hurt = sealed.bytes().to_vec();
        hurt[HEADER_LEN_BYTES + 3] ^= 1;
        for (what, body, depth, len) in [
            ("a full object", &full.bytes()[..], 1, new.len()),
            ("another depth", sealed.bytes(), 2, new.len()),
            ("a shorter place", sealed.bytes(), 1, new.len() - 1),
            ("a longer place", sealed.bytes(), 1, new.len() + 1),
            ("a flipped bit", &hurt, 1, new.len()),
            ("half of it", &sealed.bytes()[..100], 1, new.len()),
        ] {
            assert_eq!(take_in(body, depth, len).expect_err(what).kind(), ErrorKind::Corrupt, "{what}");
        }
    }

    #[test]
    fn a_delta_needs_its_base() {
        let (old, new, name) = two_nights();
        let (key, base) = (key(1), Base { depth: 1, plain: &old });
        let place = Place { repo_id: &REPO, name: &name, key: Some(&key) };
        let sealed = seal_delta(place, &new, base, &Joined::default(), 1).expect("sealed").sealed;
        assert!(sealed.len_bytes() < 360, "{} bytes for ten changed ones", sealed.len_bytes());
        let mut out = Vec::new();
        open(place, sealed.bytes(), Some(base), 1 << 20, &mut out).expect("opened");
        assert_eq!(out, new);
        assert!(open(place, sealed.bytes(), None, 1 << 20, &mut out).is_err(), "without a base");
        let deeper = Base { depth: 2, ..base };
        assert!(open(place, sealed.bytes(), Some(deeper), 1 << 20, &mut out).is_err(), "another depth");
    }
}
