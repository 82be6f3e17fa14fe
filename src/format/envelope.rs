//! The header that every object begins with (repo-format.md §4).

use crate::error::{Error, Result};
use crate::format::names::ObjectName;
use crate::format::{
    BUNDLE_TABLE_LEN_BYTES_MAX, CLOSURE_LEN_MAX, FORMAT_VERSION, GC_PART_LEN_BYTES_MAX, PAGE_LEN_BYTES_MAX,
    RECORD_LEN_BYTES_MAX,
};
use crate::units::CHUNK_SIZE_BYTES_MAX;

/// Length of the header.
pub const HEADER_LEN_BYTES: usize = 88;
/// The part of the header that the checksum and the AEAD cover.
pub const HEADER_BOUND_LEN_BYTES: usize = 56;
/// Length of the AES-256-GCM tag of a sealed body.
pub const TAG_LEN_BYTES: usize = 16;
/// Length of the Ed25519 signature behind the tag of what is decided.
pub const SIGNATURE_LEN_BYTES: usize = 64;
/// Length of the mark behind the tag of a chunk.
pub const MARK_LEN_BYTES: usize = 16;
/// How much larger than its plaintext a body may be: the tag and, where a codec does not give up in time, some slack.
const BODY_SLACK_BYTES: usize = 1024;

/// What every object begins with.
pub const MAGIC: [u8; 7] = *b"cuttle\0";

macro_rules! byte_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $value:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$of])* $variant = $value),* }

        impl $name {
            fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($value => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

byte_enum! {
    /// What an object is (§2).
    ObjectType {
        /// The repository record (§6.1).
        Repository = 1,
        /// A key slot (§6.2).
        Key = 2,
        /// A project record (§6.3).
        Project = 3,
        /// A catalog entry (§6.4).
        Volume = 4,
        /// A backup registers (§6.5).
        Open = 5,
        /// Its one outcome (§6.6).
        End = 6,
        /// A snapshot is no longer wanted (§6.7).
        Forget = 7,
        /// Tags and protection (§6.8).
        Note = 8,
        /// A chunk: a full object, or a piece of a bundle.
        Chunk = 9,
        /// A manifest page (§7).
        Page = 10,
        /// A prune round begins (§8.2).
        GcBegin = 11,
        /// What a round keeps and deletes (§8.2).
        GcSeal = 12,
        /// A round is over (§8.2).
        GcDone = 13,
        /// A part of a begin's or seal's table (§8.2).
        GcPart = 14,
        /// A sign of life of a backup (§6.9).
        Alive = 15,
        /// Names that were found lost (§6.10).
        Lost = 16,
        /// A bundle, of which this is the table (§4.1).
        Bundle = 17,
        /// The slot of a key that opens one project (§6.11).
        RoleKey = 18,
    }
}

byte_enum! {
    /// How the body is protected.
    Sealing {
        /// Not at all: only the checksum finds accidents.
        None = 0,
        /// Encrypted and authenticated, with a tag of 16 bytes at the end.
        Aes256Gcm = 1,
        /// The same, and behind the tag the signature of who may decide.
        Signed = 2,
        /// Encrypted to a public key, and behind the tag a mark that one of the project sealed it.
        Public = 3,
    }
}

byte_enum! {
    /// How the plaintext is compressed.
    Compression {
        /// The plaintext itself.
        None = 0,
        /// One zstd frame of the plaintext.
        Zstd = 1,
        /// One zstd frame of a patch on the base's plaintext.
        ZstdPatch = 2,
    }
}

impl ObjectType {
    /// Most bytes that the plaintext of this type may have (§3).
    pub fn plain_len_bytes_max(self) -> usize {
        match self {
            Self::Chunk => CHUNK_SIZE_BYTES_MAX as usize,
            Self::Page => PAGE_LEN_BYTES_MAX,
            Self::GcPart => GC_PART_LEN_BYTES_MAX,
            Self::Bundle => BUNDLE_TABLE_LEN_BYTES_MAX,
            _ => RECORD_LEN_BYTES_MAX,
        }
    }

    /// How it is protected where anything is. What decides about the objects of others is signed, and chunks are sealed to whoever may
    /// read them.
    pub fn sealing(self) -> Sealing {
        match self {
            Self::Repository | Self::Key | Self::RoleKey => Sealing::None,
            Self::Chunk => Sealing::Public,
            Self::Forget | Self::Note | Self::GcBegin | Self::GcSeal | Self::GcDone => Sealing::Signed,
            _ => Sealing::Aes256Gcm,
        }
    }

    /// Most bytes that a whole object of this type may have.
    pub fn object_len_bytes_max(self) -> usize {
        HEADER_LEN_BYTES + self.plain_len_bytes_max() + BODY_SLACK_BYTES
    }
}

impl ObjectName {
    /// The type that an object of this name must have.
    pub fn object_type(&self) -> ObjectType {
        match self {
            Self::Repository => ObjectType::Repository,
            Self::Key { .. } => ObjectType::Key,
            Self::Project(_) => ObjectType::Project,
            Self::Volume(..) => ObjectType::Volume,
            Self::Open(..) => ObjectType::Open,
            Self::End(..) => ObjectType::End,
            Self::Forget(..) => ObjectType::Forget,
            Self::Note(..) => ObjectType::Note,
            Self::Alive(..) => ObjectType::Alive,
            Self::Chunk(..) => ObjectType::Chunk,
            Self::Page(..) => ObjectType::Page,
            Self::Bundle(..) => ObjectType::Bundle,
            // A piece holds a chunk.
            Self::Piece(..) => ObjectType::Chunk,
            Self::GcBegin(..) => ObjectType::GcBegin,
            Self::GcSeal(..) => ObjectType::GcSeal,
            Self::GcDone(..) => ObjectType::GcDone,
            Self::GcPart(..) => ObjectType::GcPart,
            Self::Lost(..) => ObjectType::Lost,
            Self::RoleKey { .. } => ObjectType::RoleKey,
        }
    }
}

/// An object's header, without its checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Equal to that of the object's name.
    pub object_type: ObjectType,
    /// `None` only in unencrypted repositories, and for the repository's and the keys' objects.
    pub sealing: Sealing,
    /// `ZstdPatch` where `depth` is above 0, and nowhere else.
    pub compression: Compression,
    /// Length of the plaintext, within the limit of the type (§3).
    pub plain_len_bytes: u32,
    /// Length of what follows the header, the tag included.
    pub body_len_bytes: u32,
    /// New for every seal: random, or the key that was sent along to a public key.
    pub salt: [u8; 32],
    /// Objects below this one in its chain: 0 when it is full. Which they are only manifests say.
    pub depth: u8,
}

impl Sealing {
    /// How much longer a body is than what it holds.
    pub fn around_len_bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Aes256Gcm => TAG_LEN_BYTES,
            Self::Signed | Self::Public => TAG_LEN_BYTES + self.attested_len_bytes(),
        }
    }

    /// What stands behind the tag, and shows who sealed it.
    pub fn attested_len_bytes(self) -> usize {
        match self {
            Self::None | Self::Aes256Gcm => 0,
            Self::Signed => SIGNATURE_LEN_BYTES,
            Self::Public => MARK_LEN_BYTES,
        }
    }
}

impl Header {
    /// The object of this header: `fill` writes its body, given what that is bound to; `attest` what shows who sealed it, given the
    /// digest of all before that.
    pub fn envelop(
        &self,
        repo_id: &[u8; 16],
        object_name: &str,
        fill: impl FnOnce(&[u8], &mut [u8]) -> Result<()>,
        attest: impl FnOnce(&[u8; 32], &mut [u8]) -> Result<()>,
    ) -> Result<Vec<u8>> {
        let bound = self.encode();
        let mut out = vec![0; HEADER_LEN_BYTES + self.body_len_bytes as usize];
        let (head, body) = out.split_at_mut(HEADER_LEN_BYTES);
        let sealed_len = (body.len()).saturating_sub(self.sealing.attested_len_bytes());
        let (sealed, attested) = body.split_at_mut(sealed_len);
        fill(&bound, sealed)?;
        let mut hasher = hasher(&bound, repo_id, object_name);
        hasher.update(sealed);
        if !attested.is_empty() {
            attest(hasher.finalize().as_bytes(), attested)?;
            hasher.update(attested);
        }
        head[..HEADER_BOUND_LEN_BYTES].copy_from_slice(&bound);
        head[HEADER_BOUND_LEN_BYTES..].copy_from_slice(hasher.finalize().as_bytes());
        Ok(out)
    }

    /// The bytes that the checksum and the AEAD cover.
    pub fn encode(&self) -> [u8; HEADER_BOUND_LEN_BYTES] {
        let mut out = [0; HEADER_BOUND_LEN_BYTES];
        out[0..7].copy_from_slice(&MAGIC);
        out[7] = FORMAT_VERSION;
        out[8] = self.object_type as u8;
        out[9] = self.sealing as u8;
        out[10] = self.compression as u8;
        out[12..16].copy_from_slice(&self.plain_len_bytes.to_le_bytes());
        out[16..20].copy_from_slice(&self.body_len_bytes.to_le_bytes());
        out[11] = self.depth;
        out[24..56].copy_from_slice(&self.salt);
        out
    }

    /// Reads and checks the header of an object of `object_len_bytes` bytes, of which at least the header is given.
    ///
    /// Nothing in the result exceeds the limits of its type.
    pub fn decode(object: &[u8], object_len_bytes: u64) -> Result<Self> {
        let Some(h) = object.get(..HEADER_LEN_BYTES) else {
            return Err(damaged(format!(
                "{object_len_bytes} bytes, shorter than a header of {HEADER_LEN_BYTES}"
            )));
        };
        if h[0..7] != MAGIC {
            return Err(damaged(format!("begins with {:02x?}, expected {MAGIC:02x?}", &h[0..7])));
        }
        if h[7] != FORMAT_VERSION {
            return Err(Error::unsupported(format!(
                "format version {}, this program reads version {FORMAT_VERSION}",
                h[7]
            ))
            .help("use a newer cuttle"));
        }
        let unknown = |what, byte| damaged(format!("unknown {what} {byte}"));
        let object_type = ObjectType::from_byte(h[8]).ok_or_else(|| unknown("object type", h[8]))?;
        let sealing = Sealing::from_byte(h[9]).ok_or_else(|| unknown("sealing", h[9]))?;
        let compression = Compression::from_byte(h[10]).ok_or_else(|| unknown("compression", h[10]))?;
        let u32_at = |at: usize| u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        let header = Self {
            object_type,
            sealing,
            compression,
            plain_len_bytes: u32_at(12),
            body_len_bytes: u32_at(16),
            salt: std::array::from_fn(|i| h[24 + i]),
            depth: h[11],
        };
        header.check(h, object_len_bytes)?;
        Ok(header)
    }

    /// As [`decode`](Self::decode) for an object that others follow: how long it is, only its header says.
    pub fn decode_prefix(bytes: &[u8]) -> Result<Self> {
        let len_bytes =
            bytes.get(16..20).and_then(|len| len.first_chunk()).map_or(0, |len| u32::from_le_bytes(*len));
        Self::decode(bytes, HEADER_LEN_BYTES as u64 + u64::from(len_bytes))
    }

    fn check(&self, h: &[u8], object_len_bytes: u64) -> Result<()> {
        let expected_len_bytes = HEADER_LEN_BYTES as u64 + u64::from(self.body_len_bytes);
        if object_len_bytes != expected_len_bytes {
            return Err(damaged(format!("{object_len_bytes} bytes, its header says {expected_len_bytes}")));
        }
        let plain_max = self.object_type.plain_len_bytes_max();
        if self.plain_len_bytes as usize > plain_max {
            return Err(damaged(format!("plaintext of {} bytes, at most {plain_max}", self.plain_len_bytes)));
        }
        let sealed_max = self.object_type.object_len_bytes_max();
        if object_len_bytes > sealed_max as u64 {
            return Err(damaged(format!("{object_len_bytes} bytes, at most {sealed_max} for its type")));
        }
        if (self.body_len_bytes as usize) < self.sealing.around_len_bytes() {
            return Err(damaged(format!(
                "sealed body of {} bytes has no room for a tag",
                self.body_len_bytes
            )));
        }
        if ![Sealing::None, self.object_type.sealing()].contains(&self.sealing) {
            return Err(damaged(format!("sealed by {:?}, which no {:?} is", self.sealing, self.object_type)));
        }
        let is_patch = self.compression == Compression::ZstdPatch;
        let may_be_delta =
            self.object_type == ObjectType::Chunk && usize::from(self.depth) <= CLOSURE_LEN_MAX;
        if h[20..24] != [0; 4] || is_patch != (self.depth > 0) || (is_patch && !may_be_delta) {
            return Err(damaged("type, compression and depth contradict each other"));
        }
        Ok(())
    }
}

/// The checksum of an object: over its bound header, where it belongs, and its body (§4).
pub fn checksum(bound: &[u8], repo_id: &[u8; 16], object_name: &str, body: &[u8]) -> [u8; 32] {
    *hasher(bound, repo_id, object_name).update(body).finalize().as_bytes()
}

fn hasher(bound: &[u8], repo_id: &[u8; 16], object_name: &str) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(bound);
    hasher.update(repo_id);
    hasher.update(&(object_name.len() as u32).to_le_bytes());
    hasher.update(object_name.as_bytes());
    hasher
}

/// What the AEAD of a sealed body covers besides it (§4).
pub fn aad(bound: &[u8], repo_id: &[u8; 16], object_name: &str) -> Vec<u8> {
    [bound, repo_id, object_name.as_bytes()].concat()
}

/// An object taken apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    /// What checksum and AEAD cover of the header.
    pub(crate) bound: &'a [u8],
    checksum: &'a [u8],
    /// All behind the header but what shows who sealed it; the tag included.
    pub(crate) sealed: &'a [u8],
    /// What shows who sealed it.
    pub(crate) attested: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Cuts an object of that sealing; nothing in it is checked but its length.
    pub(crate) fn of(object: &'a [u8], sealing: Sealing) -> Result<Self> {
        let parts = object.split_at_checked(HEADER_LEN_BYTES);
        let (head, body) = parts.ok_or_else(|| damaged("it is shorter than a header"))?;
        let (bound, checksum) = head.split_at(HEADER_BOUND_LEN_BYTES);
        let sealed_len = body.len().checked_sub(sealing.attested_len_bytes());
        let sealed_len = sealed_len.ok_or_else(|| damaged("it is shorter than what it is sealed with"))?;
        let (sealed, attested) = body.split_at(sealed_len);
        Ok(Self { bound, checksum, sealed, attested })
    }

    /// Holds the object against its checksum.
    pub(crate) fn check(&self, repo_id: &[u8; 16], object_name: &str) -> Result<()> {
        let mut hasher = hasher(self.bound, repo_id, object_name);
        match *self.checksum == *hasher.update(self.sealed).update(self.attested).finalize().as_bytes() {
            true => Ok(()),
            false => Err(damaged("its checksum does not match its bytes and name")),
        }
    }

    /// What shows who sealed it is over this.
    pub(crate) fn digest(&self, repo_id: &[u8; 16], object_name: &str) -> [u8; 32] {
        *hasher(self.bound, repo_id, object_name).update(self.sealed).finalize().as_bytes()
    }
}

/// Checks an object as far as that is possible without keys: header, size, place and checksum.
pub fn scrub(object: &[u8], repo_id: &[u8; 16], object_name: &str) -> Result<Header> {
    let header = Header::decode(object, object.len() as u64)?;
    Parts::of(object, header.sealing)?.check(repo_id, object_name)?;
    Ok(header)
}

pub(crate) fn damaged(what: impl Into<String>) -> Error {
    Error::corrupt(what).help("run `cuttle verify` to see what is hurt")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            object_type: ObjectType::Chunk,
            sealing: Sealing::Public,
            compression: Compression::Zstd,
            plain_len_bytes: 4096,
            body_len_bytes: 100,
            salt: [7; 32],
            depth: 0,
        }
    }

    fn delta() -> Header {
        Header { compression: Compression::ZstdPatch, depth: 2, ..header() }
    }

    fn object(header: &Header) -> Vec<u8> {
        let mut out = header.encode().to_vec();
        out.resize(HEADER_LEN_BYTES + header.body_len_bytes as usize, 0);
        out
    }

    #[test]
    fn decode_is_the_inverse_of_encode() {
        for header in [header(), delta()] {
            let object = object(&header);
            assert_eq!(Header::decode(&object, object.len() as u64).expect("good"), header);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        type Edit = fn(&mut Vec<u8>);
        let edits: [(&str, Edit); 12] = [
            ("magic", |o| o[0] = b'C'),
            ("version", |o| o[7] = 2),
            ("type", |o| o[8] = 200),
            ("sealing", |o| o[9] = 4),
            ("another type's sealing", |o| o[9] = 2),
            ("compression", |o| o[10] = 3),
            ("a depth without a patch", |o| o[11] = 1),
            ("plain length", |o| o[15] = 0x7f),
            ("body length", |o| o[16] += 1),
            ("reserved", |o| o[23] = 1),
            ("a cut body", |o| o.truncate(180)),
            ("a cut header", |o| o.truncate(87)),
        ];
        for (what, edit) in edits {
            let mut object = object(&header());
            edit(&mut object);
            assert!(Header::decode(&object, object.len() as u64).is_err(), "{what} was accepted");
        }
        let mut deep = object(&delta());
        deep[11] = 16;
        assert!(Header::decode(&deep, deep.len() as u64).is_err());
        let mut page = object(&delta());
        page[8] = ObjectType::Page as u8;
        assert!(Header::decode(&page, page.len() as u64).is_err());
    }
}
