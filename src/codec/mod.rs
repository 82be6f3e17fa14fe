//! Pure CPU: identify, compress and seal what goes out; authenticate, decompress and re-hash what comes in.
//!
//! Everything here runs on a CPU thread and touches no store. repo-format.md §4 is the layout.

mod bundle;
mod delta;
mod exact;
mod patch;

use std::cell::RefCell;

use bytes::Bytes;
use zeroize::{Zeroize, Zeroizing};
use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

use crate::error::{Error, Result};
use crate::format::envelope::{
    Compression, HEADER_LEN_BYTES, Header, Parts, Sealing, TAG_LEN_BYTES, aad, damaged,
};
use crate::format::names::ObjectName;
use crate::format::{ObjectType, Record};
use crate::keys::{ObjectKey, SealingKey, Secret, random_array};
use crate::units::ChunkId;

pub use bundle::{Bundle, Piece};
pub use delta::{Joined, SealedDelta, seal_delta};
pub(crate) use exact::seal_to_len;

/// Compression level unless told otherwise: what a backup's speed is best spent on.
pub const LEVEL_DEFAULT: i32 = 1;
/// Largest window of a frame, as a power of two (repo-format.md §4).
const WINDOW_LOG_MAX: u32 = 24;
/// An object ready for the store: nothing but this module makes one, so that no plaintext is ever uploaded.
#[derive(Debug, Clone)]
pub struct Sealed {
    name: ObjectName,
    bytes: Bytes,
    /// The object's key: who sealed it may put it under another name, and need not be able to open what others sealed.
    secret: Option<Secret>,
}

impl Sealed {
    /// What it is sealed as; of a piece, a name that no object has.
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// Header and body.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Header included.
    pub fn len_bytes(&self) -> u32 {
        self.bytes.len() as u32
    }
}

/// Where an object belongs and what protects it.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Of the repository; zeros for the repository object itself.
    pub repo_id: &'a [u8; 16],
    /// Bound to the object: it opens under no other.
    pub name: &'a ObjectName,
    /// `None` where nothing is sealed.
    pub key: Option<&'a SealingKey>,
}

impl Place<'_> {
    fn sealing(&self) -> Sealing {
        self.key.map_or(Sealing::None, SealingKey::sealing)
    }
}

/// A delta's base.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// Objects below the delta: 1 where the base is full.
    pub depth: u8,
    /// Its plaintext: at most a chunk.
    pub plain: &'a [u8],
}

/// Per thread: the compressor's tables and the buffers between the steps.
struct Scratch {
    compressor: CCtx<'static>,
    decompressor: DCtx<'static>,
    compressed: Vec<u8>,
    /// As long as the longest so far: cutting and growing it would fill it with zeros each time.
    opened: Vec<u8>,
    /// The same.
    patch: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        compressor: CCtx::create(),
        decompressor: DCtx::create(),
        compressed: Vec::new(),
        opened: Vec::new(),
        patch: Vec::new(),
    });
}

/// The keyed BLAKE3 of a plaintext.
pub fn identify(id_key: &[u8; 32], plain: &[u8]) -> ChunkId {
    ChunkId(*blake3::keyed_hash(id_key, plain).as_bytes())
}

/// Whether all bytes are zero.
pub fn is_zero(plain: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    // A non-zero chunk nearly always shows in its first block; memcmp is fast even in unoptimised builds.
    plain.chunks(ZEROS.len()).all(|c| c == &ZEROS[..c.len()])
}

/// Compresses and seals a plaintext as the object of that name.
pub fn seal(place: Place<'_>, plain: &[u8], level: i32) -> Result<Sealed> {
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { compressor, compressed, .. } = scratch;
        compressed.clear();
        compressed.reserve(zstd_safe::compress_bound(plain.len()));
        compressor.set_parameter(CParameter::CompressionLevel(level)).map_err(zstd_defect)?;
        compressor.compress2(compressed, plain).map_err(zstd_defect)?;
        if compressed.len() < plain.len() {
            finish(place, plain.len(), Compression::Zstd, 0, compressed)
        } else {
            finish(place, plain.len(), Compression::None, 0, plain)
        }
    })
}

/// Seals what an object holds once more, under another name: full or delta, it needs what it needed before.
pub fn rename(from: Place<'_>, object: &Sealed, to: Place<'_>) -> Result<Sealed> {
    let header = Header::decode(&object.bytes, object.bytes.len() as u64)?;
    let plain_len = header.plain_len_bytes as usize;
    let mut opened = Vec::new();
    let key = object.secret.as_ref().map(ObjectKey::again).transpose()?;
    let compressed = unseal(from, key, &object.bytes, &header, &mut opened)?;
    finish(to, plain_len, header.compression, header.depth, compressed)
}

/// Seals a record under its name, and reads it back before anybody else has to.
pub fn seal_record<R: Record + PartialEq>(place: Place<'_>, record: &R) -> Result<Sealed> {
    if place.name.object_type() != R::OBJECT_TYPE {
        return Err(Error::internal(format!("{} cannot hold a {:?} record", place.name, R::OBJECT_TYPE)));
    }
    let plain = Zeroizing::new(record.encode()?);
    let sealed = seal(place, &plain, LEVEL_DEFAULT)?;
    if open_record::<R>(place, &sealed.bytes)? != *record {
        return Err(Error::internal(format!("{} does not decode to what it was made from", place.name)));
    }
    Ok(sealed)
}

/// Opens the record of that name.
pub fn open_record<R: Record>(place: Place<'_>, object: &[u8]) -> Result<R> {
    let mut plain = Zeroizing::new(Vec::new());
    let record = open(place, object, None, R::OBJECT_TYPE.plain_len_bytes_max(), &mut plain)
        .and_then(|_| R::decode(&plain))
        .map_err(|e| e.context(place.name));
    if R::OBJECT_TYPE == ObjectType::Project {
        wipe();
    }
    record
}

/// Wipes this thread's buffers after a record that holds a key. Who seals one opens it, too.
fn wipe() {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.compressed.zeroize();
        scratch.opened.zeroize();
        scratch.patch.zeroize();
        // Their windows may hold what went through them.
        scratch.compressor = CCtx::create();
        scratch.decompressor = DCtx::create();
    });
}

/// Authenticates and decompresses an object into `out`, which is made exactly as long as the plaintext.
///
/// `base` is the plaintext of a delta's base, and must be given for deltas only.
pub fn open(
    place: Place<'_>,
    object: &[u8],
    base: Option<Base<'_>>,
    plain_len_bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<()> {
    if let Some(base) = base {
        out.clear();
        out.extend_from_slice(base.plain);
    }
    open_onto(place, object, base.map_or(0, |base| base.depth), plain_len_bytes_max, out)
}

/// As [`open`], but `out` holds the base's plaintext already, and becomes what is made of it. `depth`: objects below it in its
/// chain, none where it must be full. After an error `out` holds anything.
pub fn open_onto(
    place: Place<'_>,
    object: &[u8],
    depth: u8,
    plain_len_bytes_max: usize,
    out: &mut Vec<u8>,
) -> Result<()> {
    let header = Header::decode(object, object.len() as u64)?;
    check_header(&header, &place, depth, plain_len_bytes_max)?;
    let plain_len = header.plain_len_bytes as usize;
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { decompressor, opened, patch, .. } = scratch;
        let key = place.key.map(|key| key.of(&header.salt)).transpose()?;
        let compressed = unseal(place, key, object, &header, opened)?;
        if header.compression == Compression::ZstdPatch {
            return patch::apply(
                decompress_patch(decompressor, compressed, plain_len, patch)?,
                plain_len,
                out,
            );
        }
        set_len(out, plain_len);
        decompress(decompressor, compressed, header.compression, out)
    })
}

/// Whether somebody of its project sealed an object as the one of that name: what one can tell who cannot open it.
///
/// # Errors
/// `Corrupt` where nobody did.
pub(crate) fn check_mark(place: Place<'_>, object: &[u8]) -> Result<()> {
    let header = Header::decode(object, object.len() as u64)?;
    check_header(&header, &place, header.depth, place.name.object_type().plain_len_bytes_max())?;
    let (parts, name) = (Parts::of(object, header.sealing)?, place.name.to_string());
    match place.key {
        Some(key) => key.check(&parts.digest(place.repo_id, &name), parts.attested),
        None => parts.check(place.repo_id, &name),
    }
}

/// Authenticates an object of that header with its key. What was compressed is in `opened`, or in the object itself where nothing is sealed.
fn unseal<'a>(
    place: Place<'_>,
    key: Option<ObjectKey>,
    object: &'a [u8],
    header: &Header,
    opened: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    let (parts, name) = (Parts::of(object, header.sealing)?, place.name.to_string());
    let (Some(key), Some(authority)) = (key, place.key) else {
        parts.check(place.repo_id, &name)?;
        return Ok(parts.sealed);
    };
    // A mark is no news to who opens what it marks.
    if header.sealing == Sealing::Signed {
        authority.check(&parts.digest(place.repo_id, &name), parts.attested)?;
    }
    let compressed_len = parts.sealed.len().saturating_sub(TAG_LEN_BYTES);
    if opened.len() < compressed_len {
        set_len(opened, compressed_len);
    }
    let compressed = &mut opened[..compressed_len];
    key.open(&aad(parts.bound, place.repo_id, &name), parts.sealed, compressed)?;
    Ok(compressed)
}

/// Makes a buffer that long; its content is anything. Fresh memory comes zeroed from the system, so it is not filled.
fn set_len(buffer: &mut Vec<u8>, len: usize) {
    if buffer.capacity() < len {
        *buffer = vec![0; len];
    } else {
        buffer.resize(len, 0);
    }
}

fn check_header(header: &Header, place: &Place<'_>, depth: u8, plain_max: usize) -> Result<()> {
    let expected_type = place.name.object_type();
    if header.object_type != expected_type {
        return Err(damaged(format!("it is a {:?}, expected a {expected_type:?}", header.object_type)));
    }
    let expected_sealing = place.sealing();
    if header.sealing != expected_sealing {
        return Err(damaged(format!("sealed by {:?}, expected {expected_sealing:?}", header.sealing)));
    }
    if header.plain_len_bytes as usize > plain_max {
        return Err(damaged(format!("plaintext of {} bytes, at most {plain_max}", header.plain_len_bytes)));
    }
    if header.depth != depth {
        return Err(damaged(format!("{} objects below it, the manifest says {depth}", header.depth)));
    }
    Ok(())
}

/// Header, checksum and, with a key, encryption around compressed bytes.
fn finish(
    place: Place<'_>,
    plain_len: usize,
    compression: Compression,
    depth: u8,
    compressed: &[u8],
) -> Result<Sealed> {
    let object_type = place.name.object_type();
    let sealing = place.sealing();
    let too_long = plain_len > object_type.plain_len_bytes_max();
    let body_len = compressed.len() + sealing.around_len_bytes();
    if too_long || HEADER_LEN_BYTES + body_len > object_type.object_len_bytes_max() {
        return Err(Error::internal(format!("a {object_type:?} of {plain_len} bytes is over its limit")));
    }
    let (salt, key) = match place.key {
        Some(key) => key.of_new().map(|(salt, key)| (salt, Some(key)))?,
        None => (random_array()?, None),
    };
    let header = Header {
        object_type,
        sealing,
        compression,
        plain_len_bytes: plain_len as u32,
        body_len_bytes: body_len as u32,
        salt,
        depth,
    };
    let name = place.name.to_string();
    let fill = |bound: &[u8], sealed: &mut [u8]| {
        let (ciphertext, tag) = sealed.split_at_mut(compressed.len());
        match &key {
            None => ciphertext.copy_from_slice(compressed),
            Some(key) => {
                tag.copy_from_slice(&key.seal(&aad(bound, place.repo_id, &name), compressed, ciphertext)?);
            }
        }
        Ok(())
    };
    let attest = |digest: &[u8; 32], out: &mut [u8]| place.key.map_or(Ok(()), |key| key.attest(digest, out));
    let bytes = header.envelop(place.repo_id, &name, fill, attest)?;
    let secret = key.map(ObjectKey::into_secret);
    Ok(Sealed { name: place.name.clone(), bytes: Bytes::from(bytes), secret })
}

/// Decompresses a patch that makes a plaintext of `plain_len` bytes into `memory`, which grows where it must.
fn decompress_patch<'a>(
    decompressor: &mut DCtx<'_>,
    body: &[u8],
    plain_len: usize,
    memory: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    let claimed = zstd_safe::get_frame_content_size(body).ok().flatten().unwrap_or_default();
    let len_max = patch::len_bytes_max(plain_len);
    let len = usize::try_from(claimed).ok().filter(|len| *len <= len_max);
    let len = len.ok_or_else(|| damaged(format!("patch of {claimed} bytes, at most {len_max}")))?;
    if memory.len() < len {
        set_len(memory, len);
    }
    let patch = &mut memory[..len];
    decompress(decompressor, body, Compression::ZstdPatch, patch)?;
    Ok(patch)
}

/// Decompresses into exactly `out.len()` bytes.
fn decompress(
    decompressor: &mut DCtx<'_>,
    body: &[u8],
    compression: Compression,
    out: &mut [u8],
) -> Result<()> {
    if compression == Compression::None {
        if body.len() != out.len() {
            return Err(damaged(format!("{} bytes uncompressed, expected {}", body.len(), out.len())));
        }
        out.copy_from_slice(body);
        return Ok(());
    }
    check_frame(body, out.len())?;
    match decompressor.decompress(out, body) {
        Ok(written) if written == out.len() => Ok(()),
        Ok(written) => Err(damaged(format!("{written} bytes decompressed, expected {}", out.len()))),
        Err(code) => Err(damaged(format!("zstd: {}", zstd_safe::get_error_name(code)))),
    }
}

/// Exactly one zstd frame, with its content size, no dictionary and a bounded window (RFC 8878, 3.1.1).
fn check_frame(body: &[u8], content_len: usize) -> Result<()> {
    const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let refuse = |what: &str| Err(damaged(format!("zstd frame: {what}")));
    if !body.starts_with(&ZSTD_MAGIC) || body.len() < 6 {
        return refuse("no frame here");
    }
    if zstd_safe::find_frame_compressed_size(body) != Ok(body.len()) {
        return refuse("cut short, or followed by something");
    }
    if zstd_safe::get_frame_content_size(body).ok().flatten() != Some(content_len as u64) {
        return refuse("its content size is not what it should hold");
    }
    if zstd_safe::get_dict_id_from_frame(body).is_some() {
        return refuse("it wants a dictionary");
    }
    let single_segment = body[4] & 0x20 != 0;
    if !single_segment && 10 + u32::from(body[5] >> 3) > WINDOW_LOG_MAX {
        return refuse("its window is too large");
    }
    Ok(())
}

fn zstd_defect(code: usize) -> Error {
    Error::internal(format!("zstd: {}", zstd_safe::get_error_name(code)))
}

/// The type of object a listing or a request names, for messages.
pub fn describe(object_type: ObjectType) -> &'static str {
    match object_type {
        ObjectType::Repository => "repository record",
        ObjectType::Key | ObjectType::RoleKey => "key slot",
        ObjectType::Project => "project record",
        ObjectType::Volume => "catalog entry",
        ObjectType::Open | ObjectType::End | ObjectType::Forget | ObjectType::Note => "log entry",
        ObjectType::Chunk => "chunk",
        ObjectType::Page => "manifest page",
        ObjectType::GcBegin | ObjectType::GcSeal | ObjectType::GcDone | ObjectType::GcPart => "prune record",
        ObjectType::Alive => "sign of life",
        ObjectType::Lost => "record of what was lost",
        ObjectType::Bundle => "bundle",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::format::envelope::MARK_LEN_BYTES;
    use crate::format::names::ContentName;
    use crate::units::{Generation, ProjectName};

    pub(super) const REPO: [u8; 16] = [3; 16];

    pub(super) fn chunk_name(id: ChunkId, variant: u32) -> ObjectName {
        let project: ProjectName = "default".parse().expect("valid");
        ObjectName::Chunk(project, ContentName { variant, ..ContentName::plain(Generation(0), id) })
    }

    pub(super) fn piece_name(id: ChunkId) -> ObjectName {
        ObjectName::Piece("default".parse().expect("valid"), id)
    }

    pub(super) fn key(byte: u8) -> SealingKey {
        crate::keys::tests::of_chunks(byte)
    }

    pub(super) fn sample(seed: u8) -> Vec<u8> {
        (0..40_000u32).map(|i| ((i * i / 7) as u8).wrapping_add(seed) & 0x3f).collect()
    }

    fn opened(place: Place<'_>, object: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        open(place, object, None, 1 << 20, &mut out).map(|()| out)
    }

    #[test]
    fn open_is_the_inverse_of_seal() {
        let mut random = vec![0; 10_000];
        crate::keys::random(&mut random).expect("random");
        for plain in [Vec::new(), vec![0; 5000], sample(0), random] {
            for key in [None, Some(key(1))] {
                let name = chunk_name(identify(&[0; 32], &plain), 0);
                let place = Place { repo_id: &REPO, name: &name, key: key.as_ref() };
                let sealed = seal(place, &plain, 1).expect("sealed");
                assert_eq!(opened(place, sealed.bytes()).expect("opened"), plain);
                crate::format::envelope::scrub(sealed.bytes(), &REPO, &name.to_string()).expect("scrubbed");
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_every_byte_is_found() {
        let plain = sample(0)[..600].to_vec();
        for key in [None, Some(key(1))] {
            let name = chunk_name(ChunkId([1; 32]), 0);
            let place = Place { repo_id: &REPO, name: &name, key: key.as_ref() };
            let sealed = seal(place, &plain, 1).expect("sealed").bytes().to_vec();
            for at in 0..sealed.len() {
                let mut hurt = sealed.clone();
                hurt[at] ^= 1 << (at % 8);
                // The checksum and the mark are not read where the AEAD speaks; a scrub finds it.
                let unread = (56..88).contains(&at) || at >= sealed.len() - MARK_LEN_BYTES;
                assert_eq!(opened(place, &hurt).is_ok(), unread && key.is_some(), "byte {at}");
                assert!(check_mark(place, &hurt).is_err() || (56..88).contains(&at), "byte {at}");
                let scrub = crate::format::envelope::scrub(&hurt, &REPO, &name.to_string());
                assert!(scrub.is_err(), "scrub missed byte {at}");
            }
        }
    }

    #[test]
    fn an_object_is_good_in_its_place_only() {
        let plain = sample(0);
        let name = chunk_name(ChunkId([1; 32]), 0);
        let other_name = chunk_name(ChunkId([2; 32]), 0);
        let (mine, theirs) = (key(1), key(2));
        let place = Place { repo_id: &REPO, name: &name, key: Some(&mine) };
        let sealed = seal(place, &plain, 1).expect("sealed");
        for (what, place) in [
            ("another name", Place { name: &other_name, ..place }),
            ("another repository", Place { repo_id: &[4; 16], ..place }),
            ("another key", Place { key: Some(&theirs), ..place }),
            ("no key", Place { key: None, ..place }),
        ] {
            let error = opened(place, sealed.bytes()).expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}");
        }
        let open_place = Place { key: None, ..place };
        let unsealed = seal(open_place, &plain, 1).expect("sealed");
        assert!(opened(place, unsealed.bytes()).is_err(), "an unsealed object in a sealed place");
        assert!(opened(Place { name: &other_name, ..open_place }, unsealed.bytes()).is_err());
    }

    #[test]
    fn hostile_frames_are_refused_before_they_grow() {
        let one = zstd::bulk::compress(&vec![7u8; 1000], 1).expect("compressed");
        let two = [&one[..], &one[..]].concat();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &one[..]].concat();
        let mut bomb = zstd::bulk::compress(&vec![0u8; 1 << 20], 1).expect("compressed");
        for (what, body) in [("two frames", &two), ("a skippable frame", &skippable), ("a bomb", &bomb)] {
            let mut out = vec![0; 1000];
            assert!(decompress(&mut DCtx::create(), body, Compression::Zstd, &mut out).is_err(), "{what}");
        }
        bomb.truncate(bomb.len() / 2);
        assert!(decompress(&mut DCtx::create(), &bomb, Compression::Zstd, &mut vec![0; 1 << 20]).is_err());
    }

    #[test]
    fn a_renamed_object_is_good_under_its_new_name_only() {
        let (old, mut new) = (sample(0), sample(0));
        new[7] ^= 1;
        let id = identify(&[0; 32], &new);
        let (name, renamed) = (chunk_name(id, 7), chunk_name(id, 8));
        let base = Base { depth: 1, plain: &old };
        let mine = key(1);
        for key in [None, Some(&mine)] {
            let from = Place { repo_id: &REPO, name: &name, key };
            let to = Place { name: &renamed, ..from };
            for (sealed, base) in [
                (seal(from, &new, 1).expect("sealed"), None),
                (seal_delta(from, &new, base, &Joined::default(), 1).expect("sealed").sealed, Some(base)),
            ] {
                let again = rename(from, &sealed, to).expect("renamed");
                assert_eq!((again.name(), again.len_bytes()), (&renamed, sealed.len_bytes()));
                let mut out = Vec::new();
                open(to, again.bytes(), base, 1 << 20, &mut out).expect("opened");
                assert_eq!(out, new);
                assert!(open(from, again.bytes(), base, 1 << 20, &mut out).is_err(), "the old name");
            }
        }
    }
}
