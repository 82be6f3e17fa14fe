//! Deltas: what is sealed instead of a chunk, and what a delta that takes others in must hold of them (repo-format.md §4).

use zstd::zstd_safe::{self, CParameter};

use super::{
    Base, Place, SCRATCH, Scratch, Sealed, check_header, decompress_patch, finish, patch, unseal, zstd_defect,
};
use crate::error::{Error, Result};
use crate::format::envelope::{Compression, DeltaBase, Header, damaged};

/// Deltas are small, so a better level costs them little.
const LEVEL_DELTA_MIN: i32 = 6;

/// What a delta takes in besides what differs from the plaintext that it is made of: the parts in which the named base may be
/// another than that plaintext.
#[derive(Debug, Clone, Default)]
pub struct Joined(patch::Runs);

impl Joined {
    /// Adds what a delta between the two replaces. It must make a plaintext of `plain_len` bytes.
    pub fn take_in(
        &mut self,
        place: Place<'_>,
        object: &[u8],
        base: DeltaBase,
        plain_len: usize,
    ) -> Result<()> {
        let header = Header::decode(object, object.len() as u64)?;
        check_header(&header, &place, Some(&base), plain_len)?;
        if header.plain_len_bytes as usize != plain_len {
            return Err(damaged(format!(
                "plaintext of {} bytes, expected {plain_len}",
                header.plain_len_bytes
            )));
        }
        let runs = SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { decompressor, opened, patch, .. } = scratch;
            let body = unseal(place, object, &header, opened)?;
            patch::runs(decompress_patch(decompressor, body, plain_len, patch)?, plain_len)
        })?;
        self.0 = patch::union(&self.0, &runs);
        Ok(())
    }

    /// Makes a plaintext another wherever the named base may be another.
    fn scribble_over(&self, plain: &mut [u8]) {
        for run in &self.0 {
            plain.get_mut(run.clone()).unwrap_or_default().iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
}

/// Seals a chunk as what differs from its base, whose plaintext may be another than `base` says within `joined`. The result
/// decodes back whatever the base holds there, or it is an error.
pub fn seal_delta(
    place: Place<'_>,
    plain: &[u8],
    base: Base<'_>,
    joined: &Joined,
    level: i32,
) -> Result<Sealed> {
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
        patch::apply(patch, plain.len(), opened)?;
        if opened != plain {
            return Err(Error::internal("a delta does not decode to what it was made from")
                .help("this machine's memory or processor is not to be trusted; test it"));
        }
        let delta = DeltaBase { name: base.name, depth: base.depth };
        finish(place, plain.len(), Compression::ZstdPatch, Some(delta), compressed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::{REPO, chunk_name, key, sample};
    use crate::codec::{identify, open, seal};
    use crate::error::ErrorKind;
    use crate::format::ObjectName;
    use crate::format::names::ContentName;
    use crate::units::Generation;

    /// A chunk on two nights, the first one's name and the delta's.
    fn two_nights() -> (Vec<u8>, Vec<u8>, ContentName, ObjectName) {
        let old = sample(0);
        let mut new = old.clone();
        new[1000..1010].copy_from_slice(b"0123456789");
        let base_name = ContentName { generation: Generation(0), id: identify(&[0; 32], &old), variant: 0 };
        let name = chunk_name(identify(&[0; 32], &new), 77);
        (old, new, base_name, name)
    }

    #[test]
    fn only_the_delta_that_was_asked_for_is_joined() {
        let (old, new, base_name, name) = two_nights();
        let (key, base) = (key(1), Base { name: base_name, depth: 1, plain: &old });
        let place = Place { repo_id: &REPO, name: &name, key: Some(&key) };
        let sealed = seal_delta(place, &new, base, &Joined::default(), 1).expect("sealed");
        let full = seal(place, &new, 1).expect("sealed");
        let under = DeltaBase { name: base_name, depth: 1 };
        let take_in = |body: &[u8], base, len| {
            let mut joined = Joined::default();
            joined.take_in(place, body, base, len).map(|()| joined)
        };
        let joined = take_in(sealed.bytes(), under, new.len()).expect("joined");
        let mut scribbled = new.clone();
        joined.scribble_over(&mut scribbled);
        let differs: Vec<usize> = (0..new.len()).filter(|at| scribbled[*at] != new[*at]).collect();
        assert_eq!(differs, (960..1024).collect::<Vec<_>>(), "all of each unit that changed");
        let mut hurt = sealed.bytes().to_vec();
        *hurt.last_mut().expect("not empty") ^= 1;
        let other = ContentName { variant: 1, ..base_name };
        for (what, body, base, len) in [
            ("a full object", &full.bytes()[..], under, new.len()),
            ("another base", sealed.bytes(), DeltaBase { name: other, depth: 1 }, new.len()),
            ("another depth", sealed.bytes(), DeltaBase { depth: 2, ..under }, new.len()),
            ("a shorter place", sealed.bytes(), under, new.len() - 1),
            ("a longer place", sealed.bytes(), under, new.len() + 1),
            ("a flipped bit", &hurt, under, new.len()),
            ("half of it", &sealed.bytes()[..100], under, new.len()),
        ] {
            assert_eq!(take_in(body, base, len).expect_err(what).kind(), ErrorKind::Corrupt, "{what}");
        }
    }

    #[test]
    fn a_delta_needs_its_very_base() {
        let (old, new, base_name, name) = two_nights();
        let (key, base) = (key(1), Base { name: base_name, depth: 1, plain: &old });
        let place = Place { repo_id: &REPO, name: &name, key: Some(&key) };
        let sealed = seal_delta(place, &new, base, &Joined::default(), 1).expect("sealed");
        assert!(sealed.len_bytes() < 400, "{} bytes for ten changed ones", sealed.len_bytes());
        let mut out = Vec::new();
        open(place, sealed.bytes(), Some(base), 1 << 20, &mut out).expect("opened");
        assert_eq!(out, new);
        assert!(open(place, sealed.bytes(), None, 1 << 20, &mut out).is_err(), "without a base");
        let deeper = Base { depth: 2, ..base };
        assert!(open(place, sealed.bytes(), Some(deeper), 1 << 20, &mut out).is_err(), "another depth");
        let other = ContentName { variant: 5, ..base_name };
        assert!(open(place, sealed.bytes(), Some(Base { name: other, ..base }), 1 << 20, &mut out).is_err());
    }
}
