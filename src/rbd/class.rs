//! What the OSDs know of an image and librbd does not tell: which snapshots it has, of every kind, which was made last,
//! and what an object map says of each object.
//!
//! It is asked of Ceph's object class `rbd` on the image's own objects, as librbd itself does (`src/cls/rbd/cls_rbd.cc`:
//! `get_snapcontext`, `object_map_load`). The answers are bytes of a cluster's: they are bounded and checked.

use super::bits::{features, flags};
use super::errno::{ERANGE, c_string, check};
use super::image::Image;
use super::pool::Pool;
use crate::error::{Error, Result};

/// Longest answer taken: the map of 256,000,000 objects, which is the most that Ceph makes, and its frame.
const ANSWER_LEN_MAX: usize = (64 << 20) + 4096;
/// Room for an answer that is asked for first; where it is too small, it is asked again.
const ANSWER_LEN_FIRST: usize = 16 << 10;
/// Most snapshots taken of one image.
const SNAPSHOTS_MAX: usize = 1 << 20;
/// Version, compatible version and length, before what a map's header holds.
const MAP_HEADER_SKIP: usize = 6;

/// The snapshots of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapContext {
    /// Id of the snapshot that was made last, whether or not it is still there. Every making raises it, of whatever kind
    /// the snapshot is; nothing else changes it.
    pub seq: u64,
    /// Ids of all snapshots there are: also those of groups, of mirroring and in the trash. Ascending.
    pub snapshots: Vec<u64>,
}

impl SnapContext {
    /// u64 seq, u32 count, then the ids, the newest first.
    pub fn parse(answer: &[u8]) -> Result<Self> {
        let mut rest = answer;
        let (seq, count) = (u64::from_le_bytes(take(&mut rest)?), u32::from_le_bytes(take(&mut rest)?));
        if count as usize > SNAPSHOTS_MAX || rest.len() != count as usize * 8 {
            return Err(nonsense(format!("{count} snapshots in {} bytes", rest.len())));
        }
        let mut snapshots = Vec::with_capacity(count as usize);
        while !rest.is_empty() {
            snapshots.push(u64::from_le_bytes(take(&mut rest)?));
        }
        snapshots.reverse();
        let ascending = snapshots.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || snapshots.last().is_some_and(|newest| *newest > seq) {
            return Err(nonsense(format!("snapshots {snapshots:?}, the last one made {seq}")));
        }
        Ok(Self { seq, snapshots })
    }
}

/// What an object map says of each object.
///
/// librbd asks the cluster for no object that a valid map lacks: it reads as zero, and in a clone as the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMap {
    objects: u64,
    /// Two bits for each object, the first in the most significant; those behind the last are 0.
    states: Vec<u8>,
}

impl ObjectMap {
    /// The map: u32 length of its header; the header: u8, u8, u32, u64 count; then the states; then checksums.
    pub fn parse(answer: &[u8], objects: u64) -> Result<Self> {
        let mut rest = answer;
        let header_len = u32::from_le_bytes(take(&mut rest)?) as usize;
        let (mut header, data) = rest.split_at_checked(header_len).ok_or_else(|| {
            nonsense(format!("a map with a header of {header_len} bytes in {}", rest.len()))
        })?;
        let _: [u8; MAP_HEADER_SKIP] = take(&mut header)?;
        let count = u64::from_le_bytes(take(&mut header)?);
        if count != objects {
            return Err(nonsense(format!("a map of {count} objects, where the snapshot has {objects}")));
        }
        let states = usize::try_from(count.div_ceil(4)).ok().and_then(|len| data.get(..len));
        let states =
            states.ok_or_else(|| nonsense(format!("a map of {count} objects in {} bytes", data.len())))?;
        let mut states = states.to_vec();
        if let (Some(last), left @ 1..) = (states.last_mut(), count % 4) {
            *last &= !(0xff >> (2 * left));
        }
        Ok(Self { objects, states })
    }

    #[cfg(test)]
    pub(super) fn of(states: &[u8]) -> Self {
        let byte =
            |four: &[u8]| four.iter().enumerate().fold(0, |byte, (at, state)| byte | state << (6 - 2 * at));
        Self { objects: states.len() as u64, states: states.chunks(4).map(byte).collect() }
    }

    /// Objects that there can be, by the size of what it is the map of.
    pub fn len(&self) -> u64 {
        self.objects
    }

    /// Whether that size is 0; a map of absent objects is not empty.
    pub fn is_empty(&self) -> bool {
        self.objects == 0
    }

    /// Whether librbd takes an object to be there. Beyond the end none is.
    pub fn has(&self, object: u64) -> bool {
        let states = usize::try_from(object / 4).ok().and_then(|at| self.states.get(at));
        states.is_some_and(|states| states >> (6 - 2 * (object % 4)) & 3 != 0)
    }

    /// Whether it says of any object "as in the snapshot before" (`OBJECT_EXISTS_CLEAN`: both bits are set).
    pub fn has_clean_bit(&self) -> bool {
        self.states.iter().any(|byte| byte & (byte >> 1) & 0b0101_0101 != 0)
    }

    /// Of which objects there are, whatever else it says of them: BLAKE3 of the count and of a bit for each, in the places
    /// of the lower ones of the map.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.objects.to_le_bytes());
        for part in self.states.chunks(4096) {
            let there: Vec<u8> = part.iter().map(|byte| (byte | byte >> 1) & 0b0101_0101).collect();
            hasher.update(&there);
        }
        *hasher.finalize().as_bytes()
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (taken, rest) = bytes
        .split_first_chunk()
        .ok_or_else(|| nonsense(format!("{} bytes where {N} were expected", bytes.len())))?;
    *bytes = rest;
    Ok(*taken)
}

fn nonsense(what: String) -> Error {
    Error::corrupt(format!("the cluster's answer makes no sense: {what}"))
}

/// The image's snapshots as the cluster has them now, whatever this handle is open at and has seen.
pub fn snap_context(image: &Image) -> Result<SnapContext> {
    let answer = image.pool().exec(&format!("rbd_header.{}", image.id()?), "get_snapcontext")?;
    SnapContext::parse(&answer)
}

/// The object map of what this handle is open at, whether it is valid or not. `snap_id` is the snapshot's id; `None` for
/// the image as it is now.
pub fn object_map(image: &Image, snap_id: Option<u64>) -> Result<ObjectMap> {
    let striping = image.striping()?;
    let periods = image.size_bytes()?.div_ceil(striping.period_bytes());
    let objects = periods.saturating_mul(striping.objects_per_period());
    let of = snap_id.map(|id| format!(".{id:016x}")).unwrap_or_default();
    let answer = image.pool().exec(&format!("rbd_object_map.{}{of}", image.id()?), "object_map_load")?;
    ObjectMap::parse(&answer, objects)
}

/// The map by which librbd decides what of an object is read here: `None` where there is none, or none that is valid,
/// so that the objects themselves are asked.
pub fn map_in_use(image: &Image, snap_id: Option<u64>) -> Result<Option<ObjectMap>> {
    let used =
        image.features()? & features::OBJECT_MAP != 0 && image.flags()? & flags::OBJECT_MAP_INVALID == 0;
    used.then(|| object_map(image, snap_id)).transpose()
}

impl Pool {
    /// Asks the object class `rbd` on an object.
    fn exec(&self, object: &str, method: &str) -> Result<Vec<u8>> {
        let (c_object, c_method) = (c_string(object)?, c_string(method)?);
        let mut answer = vec![0_u8; ANSWER_LEN_FIRST];
        loop {
            // SAFETY: an open ioctx; the names live during the call; no input; writes at most `len` bytes and returns how
            // many, or that they are too few.
            let code = unsafe {
                (self.inner.api.rados_exec)(
                    self.inner.ioctx,
                    c_object.as_ptr(),
                    c"rbd".as_ptr(),
                    c_method.as_ptr(),
                    std::ptr::null(),
                    0,
                    answer.as_mut_ptr().cast(),
                    answer.len(),
                )
            };
            if code == -ERANGE && answer.len() < ANSWER_LEN_MAX {
                let len = answer.len().saturating_mul(16).min(ANSWER_LEN_MAX);
                answer.resize(len, 0);
                continue;
            }
            let len = check(code, || format!("asking {method} of object {object} in {}", self.path()))?;
            answer.truncate(len as usize);
            return Ok(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context(seq: u64, ids: &[u64]) -> Vec<u8> {
        let mut bytes = seq.to_le_bytes().to_vec();
        bytes.extend((ids.len() as u32).to_le_bytes());
        ids.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
        bytes
    }

    fn map(states: &[u8]) -> Vec<u8> {
        let mut bytes = 14_u32.to_le_bytes().to_vec();
        bytes.extend([1, 1]);
        bytes.extend(8_u32.to_le_bytes());
        bytes.extend((states.len() as u64).to_le_bytes());
        for four in states.chunks(4) {
            bytes.push(four.iter().enumerate().fold(0, |byte, (at, state)| byte | state << (6 - 2 * at)));
        }
        bytes
    }

    #[test]
    fn a_snapshot_context_is_read() {
        let read = SnapContext::parse(&context(12, &[9, 7, 2])).expect("sane");
        assert_eq!(read, SnapContext { seq: 12, snapshots: vec![2, 7, 9] });
        assert_eq!(SnapContext::parse(&context(0, &[])).expect("sane"), SnapContext::default());
        let claimed = [&7_u64.to_le_bytes()[..], &u32::MAX.to_le_bytes()[..]].concat();
        for (what, bytes) in [
            ("nothing", Vec::new()),
            ("cut", context(9, &[9, 7])[..27].to_vec()),
            ("more behind", [context(9, &[9]), vec![0]].concat()),
            ("out of order", context(9, &[7, 9])),
            ("twice", context(9, &[9, 9])),
            ("newer than the newest", context(8, &[9])),
            ("a count without ids", claimed),
        ] {
            let error = SnapContext::parse(&bytes).expect_err(what);
            assert!(error.message().contains("makes no sense"), "{what}: {error}");
        }
    }

    fn parsed(states: &[u8]) -> ObjectMap {
        ObjectMap::parse(&map(states), states.len() as u64).expect("sane")
    }

    #[test]
    fn an_object_is_there_unless_the_map_lacks_it_and_the_digest_is_of_that_alone() {
        for len in 0..20_u64 {
            let states: Vec<u8> = (0..len).map(|n| (n * n % 4) as u8).collect();
            let map = parsed(&states);
            for (object, state) in (0..).zip(&states) {
                assert_eq!(map.has(object), *state != 0, "{object} of {len}");
            }
            assert!(!map.has(len) && !map.has(u64::MAX));
            let alike: Vec<u8> = states.iter().map(|state| if *state == 0 { 0 } else { 3 }).collect();
            assert_eq!(map.digest(), parsed(&alike).digest());
            for at in 0..states.len() {
                let mut other = states.clone();
                other[at] = u8::from(other[at] == 0);
                assert_ne!(map.digest(), parsed(&other).digest(), "{at} of {len}");
            }
            assert_ne!(map.digest(), parsed(&[states, vec![0]].concat()).digest());
        }
    }

    #[test]
    fn a_clean_bit_is_found_wherever_it_is() {
        for len in 0..20 {
            assert!(!parsed(&vec![1; len]).has_clean_bit());
            assert!(!parsed(&vec![2; len]).has_clean_bit());
            for at in 0..len {
                let mut states = vec![1; len];
                states[at] = 3;
                assert!(parsed(&states).has_clean_bit(), "{at} of {len}");
            }
        }
        // What lies behind the last object in its byte, and the checksums, say nothing of objects.
        let mut padded = map(&[1, 0, 1]);
        *padded.last_mut().expect("a byte") |= 3;
        padded.extend([0xff; 12]);
        assert!(!ObjectMap::parse(&padded, 3).expect("sane").has_clean_bit());
        for (what, bytes, objects) in [
            ("nothing", Vec::new(), 0),
            ("no header", 14_u32.to_le_bytes().to_vec(), 0),
            ("a header that is too short", [&2_u32.to_le_bytes()[..], &[0; 40]].concat(), 0),
            ("a header beyond the end", [&u32::MAX.to_le_bytes()[..], &[0; 40]].concat(), 0),
            ("another number of objects", map(&[1; 9]), 8),
            ("too few bytes", map(&[1; 9])[..20].to_vec(), 9),
            ("the last byte is missing", map(&[1; 9])[..4 + 14 + 2].to_vec(), 9),
        ] {
            assert!(ObjectMap::parse(&bytes, objects).is_err(), "{what}");
        }
    }

    proptest! {
        /// Whatever the cluster answers, it is an error or it is understood; it never costs more than it is long.
        #[test]
        fn hostile_answers_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..200), objects in 0..40_u64) {
            let _ = SnapContext::parse(&bytes);
            let _ = ObjectMap::parse(&bytes, objects);
        }

        #[test]
        fn mutated_answers_are_errors_or_understood(
            states in proptest::collection::vec(0..4_u8, 0..40), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut bytes = map(&states);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = ObjectMap::parse(&bytes, states.len() as u64);
            bytes.truncate(at);
            prop_assert!(ObjectMap::parse(&bytes, states.len() as u64).is_err() || at >= 18 + states.len().div_ceil(4));
        }
    }
}
