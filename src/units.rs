//! The words and numbers of the domain, each a type of its own so that two cannot be swapped.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Chunk size of a repository unless `init` is told otherwise.
pub const CHUNK_SIZE_BYTES_DEFAULT: u32 = 4 << 20;
/// Smallest chunk size a repository may have.
pub const CHUNK_SIZE_BYTES_MIN: u32 = 4 << 10;
/// Largest chunk size a repository may have.
pub const CHUNK_SIZE_BYTES_MAX: u32 = 16 << 20;
/// Largest volume: 4 PiB, what a manifest tree of bounded height can hold at 4 MiB a chunk.
pub const VOLUME_SIZE_BYTES_MAX: u64 = 4 << 50;
/// Longest volume name, in bytes of UTF-8.
pub const VOLUME_NAME_LEN_MAX: usize = 1024;
/// Longest project name, in bytes.
pub const PROJECT_NAME_LEN_MAX: usize = 63;

/// A chunk's identity: the BLAKE3 of its plaintext, keyed with the project's id key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
pub struct ChunkId(pub [u8; 32]);

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({self})")
    }
}

impl FromStr for ChunkId {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let mut out = [0; 32];
        hex_into(s, &mut out)?;
        Ok(Self(out))
    }
}

/// Decodes exactly `out.len()` bytes of lower-case hex.
pub fn hex_into(s: &str, out: &mut [u8]) -> Result<()> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let bytes = s.as_bytes();
    if bytes.len() == out.len() * 2 {
        let mut good = true;
        for (o, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            match (digit(pair[0]), digit(pair[1])) {
                (Some(hi), Some(lo)) => *o = hi << 4 | lo,
                _ => good = false,
            }
        }
        if good {
            return Ok(());
        }
    }
    Err(Error::invalid(format!("expected {} lower-case hex digits, found {s:?}", out.len() * 2)))
}

/// A word as a shell takes it for one.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/@._-:+,=%".contains(c);
    match !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Lower-case hex of some bytes.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// Position of a chunk in its volume: byte offset divided by the chunk size.
    ChunkIndex(u64)
}
number! {
    /// Prune rounds begun so far; part of every chunk's and page's name.
    Generation(u32)
}
number! {
    /// Position of a backup in its volume's log, counted from 1.
    Sequence(u32)
}
number! {
    /// Position of a volume in its project's catalog, counted from 1.
    VolumeNumber(u32)
}

/// Identifies one run of a backup and, once committed, its snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SnapshotId(pub [u8; 16]);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotId({self})")
    }
}

/// Name of a project (a tenant): `[a-z0-9][a-z0-9._-]{0,62}`. It is part of object names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectName(String);

impl ProjectName {
    /// As it stands in object names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProjectName {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = s.as_bytes();
        let good = bytes.first().is_some_and(|&c| plain(c))
            && bytes.len() <= PROJECT_NAME_LEN_MAX
            && bytes.iter().all(|&c| plain(c) || b"._-".contains(&c));
        if good {
            Ok(Self(s.to_owned()))
        } else {
            Err(Error::invalid(format!(
                "project name {s:?}: expected 1 to {PROJECT_NAME_LEN_MAX} of a-z, 0-9, '.', '_', '-', \
                 beginning with a letter or digit"
            )))
        }
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a volume within its project, such as `pool/image`. Never part of an object name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeName(String);

impl VolumeName {
    /// As the catalog has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let good = !s.is_empty()
            && s.len() <= VOLUME_NAME_LEN_MAX
            && !s.contains('@')
            && !s.chars().any(char::is_control);
        if good {
            Ok(Self(s.to_owned()))
        } else {
            Err(Error::invalid(format!(
                "volume name {s:?}: expected 1 to {VOLUME_NAME_LEN_MAX} bytes without '@' and control characters"
            )))
        }
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A volume's size and how it is cut into chunks. The last chunk may be short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// 0 is possible; at most [`VOLUME_SIZE_BYTES_MAX`].
    pub size_bytes: u64,
    /// A power of two.
    pub chunk_size_bytes: u32,
}

impl Geometry {
    /// Checks both limits (repo-format.md §3).
    pub fn new(size_bytes: u64, chunk_size_bytes: u32) -> Result<Self> {
        check_chunk_size(chunk_size_bytes)?;
        if size_bytes > VOLUME_SIZE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "volume size {size_bytes} bytes: expected at most {VOLUME_SIZE_BYTES_MAX}"
            )));
        }
        Ok(Self { size_bytes, chunk_size_bytes })
    }

    /// Number of chunks; 0 for an empty volume.
    pub fn chunk_count(&self) -> u64 {
        self.size_bytes.div_ceil(u64::from(self.chunk_size_bytes))
    }

    /// The chunk that a byte lies in; for one beyond the end, where a chunk would be.
    pub fn index_of(&self, offset_bytes: u64) -> ChunkIndex {
        ChunkIndex(offset_bytes / u64::from(self.chunk_size_bytes))
    }

    /// Where a chunk begins; for an index beyond the end, where it would begin.
    pub fn offset_bytes(&self, index: ChunkIndex) -> u64 {
        index.0 * u64::from(self.chunk_size_bytes)
    }

    /// Length of a chunk: the chunk size but for the volume's last one; 0 beyond the end.
    pub fn chunk_len_bytes(&self, index: ChunkIndex) -> u32 {
        let chunk = u64::from(self.chunk_size_bytes);
        match index.0.checked_mul(chunk) {
            Some(start) if start < self.size_bytes => (self.size_bytes - start).min(chunk) as u32,
            _ => 0,
        }
    }

    /// The byte range of a chunk.
    pub fn range_bytes(&self, index: ChunkIndex) -> Range<u64> {
        let start = self.offset_bytes(index);
        start..start + u64::from(self.chunk_len_bytes(index))
    }
}

/// A repository's chunk size must be a power of two between 4 KiB and 16 MiB.
pub fn check_chunk_size(chunk_size_bytes: u32) -> Result<()> {
    let range = CHUNK_SIZE_BYTES_MIN..=CHUNK_SIZE_BYTES_MAX;
    if chunk_size_bytes.is_power_of_two() && range.contains(&chunk_size_bytes) {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "chunk size {chunk_size_bytes} bytes: expected a power of two from {CHUNK_SIZE_BYTES_MIN} \
             to {CHUNK_SIZE_BYTES_MAX}"
        )))
    }
}

/// A byte range of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Where it begins in the volume.
    pub offset_bytes: u64,
    /// 0 for an empty range.
    pub length_bytes: u64,
    /// Whether it holds data or reads as zeros.
    pub content: Content,
}

/// What a range holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// Holds data, or may.
    Data,
    /// Reads as zero; nothing need be read.
    Zero,
}

/// Whether a character shows nothing and changes how what is around it is read: marks of direction, zero width, tags. Names
/// may hold them; who shows a name escapes them.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}
