//! Seals a plaintext as an object of a given size: for repair, which puts it where manifests say an object of that size is.
//!
//! Nearly always the writer's own level gives the writer's size. Where it does not (another level, another zstd), a
//! smaller frame is brought to that size without a byte of its content changed (RFC 8878, 3.1.1): by the content
//! checksum, by a wider field for the content size, and by empty raw blocks before the first block.

use zstd::zstd_safe::{self, CCtx, CParameter};

use super::{Base, Place, Sealed, finish, open, patch, zstd_defect};
use crate::error::{Error, Result};
use crate::format::envelope::{Compression, HEADER_LEN_BYTES};

/// Levels in the order in which they are tried: likely ones first.
const LEVELS: [i32; 26] =
    [1, 3, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, -1, -2, -3, -4, -5, -6, -7];
const EMPTY_RAW_BLOCK: [u8; 3] = [0; 3];
/// Magic number and descriptor.
const FRAME_START_LEN_BYTES: usize = 5;

/// Seals a plaintext as an object of exactly `len_bytes`, or says that it cannot be done. What it gives was opened again
/// and compared.
pub(crate) fn seal_to_len(
    place: Place<'_>,
    plain: &[u8],
    base: Option<Base<'_>>,
    len_bytes: u32,
) -> Result<Option<Sealed>> {
    let around = HEADER_LEN_BYTES + place.sealing().around_len_bytes();
    let Some(room) = (len_bytes as usize).checked_sub(around) else { return Ok(None) };
    let (compression, body) = match base {
        None if room == plain.len() => (Compression::None, plain.to_vec()),
        _ => {
            let mut patch = Vec::new();
            let (compression, content) = match base {
                Some(base) => {
                    patch::make(base.plain, plain, &patch::Runs::new(), &mut patch);
                    (Compression::ZstdPatch, &patch[..])
                }
                None => (Compression::Zstd, plain),
            };
            match frame_of_len(content, room)? {
                Some(frame) => (compression, frame),
                None => return Ok(None),
            }
        }
    };
    let sealed = finish(place, plain.len(), compression, base.map_or(0, |base| base.depth), &body)?;
    let mut back = Vec::new();
    open(place, &sealed.bytes, base, plain.len(), &mut back)?;
    if back != plain || sealed.len_bytes() != len_bytes {
        return Err(Error::internal(format!("{} does not decode to what it was made from", place.name)));
    }
    Ok(Some(sealed))
}

fn frame_of_len(content: &[u8], len: usize) -> Result<Option<Vec<u8>>> {
    for level in LEVELS {
        for checksum in [false, true] {
            let frame = compressed(content, level, checksum)?;
            if let Some(stretched) = stretched(&frame, content.len(), len) {
                return Ok(Some(stretched));
            }
        }
    }
    Ok(None)
}

fn compressed(content: &[u8], level: i32, checksum: bool) -> Result<Vec<u8>> {
    let mut compressor = CCtx::create();
    for parameter in [CParameter::CompressionLevel(level), CParameter::ChecksumFlag(checksum)] {
        compressor.set_parameter(parameter).map_err(zstd_defect)?;
    }
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(content.len()));
    compressor.compress2(&mut out, content).map_err(zstd_defect)?;
    Ok(out)
}

/// The same frame with exactly `len` bytes, where it can be brought to that.
fn stretched(frame: &[u8], content_len: usize, len: usize) -> Option<Vec<u8>> {
    let spare = len.checked_sub(frame.len())?;
    if spare == 0 {
        return Some(frame.to_vec());
    }
    let (start, rest) = frame.split_at_checked(FRAME_START_LEN_BYTES)?;
    let descriptor = *start.last()?;
    let single_segment = descriptor & 0x20 != 0;
    let size_len = match descriptor >> 6 {
        0 if single_segment => 1,
        0 => 0,
        code => 1 << code,
    };
    let (window, rest) = rest.split_at_checked(usize::from(!single_segment))?;
    let (size, blocks) = rest.split_at_checked(size_len)?;
    for (code, wide) in
        [(2u8, &(content_len as u32).to_le_bytes()[..]), (3, &(content_len as u64).to_le_bytes())]
            .into_iter()
            .filter(|(_, wide)| wide.len() > size.len())
            .chain([(descriptor >> 6, size)])
    {
        let grown = wide.len() - size.len();
        let Some(left) = spare.checked_sub(grown).filter(|left| left % EMPTY_RAW_BLOCK.len() == 0) else {
            continue;
        };
        let descriptor = descriptor & 0x3f | code << 6;
        let padding = EMPTY_RAW_BLOCK.repeat(left / EMPTY_RAW_BLOCK.len());
        return Some([&start[..4], &[descriptor], window, wide, &padding, blocks].concat());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Joined, LEVEL_DEFAULT, identify, seal, seal_delta};
    use crate::format::ObjectName;
    use crate::format::names::ContentName;
    use crate::units::{Generation, ProjectName};

    fn text(len: usize, seed: u32) -> Vec<u8> {
        (0..len as u32).map(|i| ((i.wrapping_mul(i / 7 + seed)) as u8) & 0x1f).collect()
    }

    fn name(plain: &[u8], variant: u32) -> ContentName {
        ContentName { generation: Generation(0), id: identify(&[0; 32], plain), variant, offset_bytes: None }
    }

    fn with_place<T>(name: ContentName, with: impl FnOnce(Place<'_>) -> T) -> T {
        let project: ProjectName = "default".parse().expect("valid");
        let name = ObjectName::Chunk(project, name);
        let key = crate::keys::tests::of_chunks(1);
        with(Place { repo_id: &[3; 16], name: &name, key: Some(&key) })
    }

    #[test]
    fn what_any_level_made_is_made_again_at_its_size() {
        for len in [1, 255, 256, 4096, 65_792, 300_000] {
            let (base_plain, mut plain) = (text(len, 3), text(len, 3));
            plain[len / 2] ^= 1;
            let (full, delta) = (name(&plain, 0), name(&plain, 9));
            let base = Base { depth: 1, plain: &base_plain };
            for level in [LEVEL_DEFAULT, -7, 3, 9, 19] {
                with_place(full, |place| {
                    let theirs = seal(place, &plain, level).expect("sealed").len_bytes();
                    let ours = seal_to_len(place, &plain, None, theirs).expect("sealed");
                    assert_eq!(ours.expect("possible").len_bytes(), theirs, "{len} bytes, level {level}");
                });
                with_place(delta, |place| {
                    let theirs = seal_delta(place, &plain, base, &Joined::default(), level)
                        .expect("sealed")
                        .sealed
                        .len_bytes();
                    let ours = seal_to_len(place, &plain, Some(base), theirs).expect("sealed");
                    assert_eq!(ours.expect("possible").len_bytes(), theirs, "{len} bytes, level {level}");
                });
            }
        }
    }

    #[test]
    fn a_frame_is_stretched_to_any_size_but_a_few_and_never_cut() {
        for len in [1000, 70_000] {
            let plain = text(len, 5);
            with_place(name(&plain, 0), |place| {
                let smallest = LEVELS.map(|level| seal(place, &plain, level).expect("sealed").len_bytes());
                let smallest = *smallest.iter().min().expect("some");
                for more in 8..60 {
                    let sealed = seal_to_len(place, &plain, None, smallest + more).expect("sealed");
                    assert_eq!(sealed.map(|s| s.len_bytes()), Some(smallest + more));
                }
                for too_small in [0, 103, smallest - 1] {
                    assert!(seal_to_len(place, &plain, None, too_small).expect("tried").is_none());
                }
            });
        }
    }
}
