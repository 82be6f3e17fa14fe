//! Answers to requests, as the bytes before their data ("Simple reply message", "Structured reply types").

use super::option::limited;
use super::{BASE_ALLOCATION_ID, Errno, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC};

/// The last chunk of a structured reply.
const FLAG_DONE: u16 = 1;

/// Bits of `base:allocation`.
const STATE_HOLE: u32 = 1 << 0;
const STATE_ZERO: u32 = 1 << 1;

/// Most extents told in one reply ("NBD_REPLY_TYPE_BLOCK_STATUS": not more than 2^20). Half a MiB.
pub const DESCRIPTORS_MAX: usize = 1 << 16;

/// A stretch with one status. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Never 0.
    pub length_bytes: u32,
    /// Whether it is a hole that reads as zeros; otherwise it is data.
    pub is_zero: bool,
}

/// A simple reply. The data of a read that succeeds follows it.
pub fn simple(cookie: u64, error: Option<Errno>) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    out.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend(error.map_or(0, |e| e as u32).to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out
}

/// A chunk of a structured reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// It is all well, and there is no more.
    None,
    /// As many bytes of data follow, at least one.
    Data {
        /// Where it lies in the export.
        offset_bytes: u64,
        /// Bytes of data that follow the chunk's own.
        length_bytes: u32,
    },
    /// At least one zero.
    Hole {
        /// Where it lies in the export.
        offset_bytes: u64,
        /// How many zeros.
        length_bytes: u32,
    },
    /// At least one.
    BlockStatus(&'a [Descriptor]),
    /// The request failed as a whole; the message is for people.
    Error(Errno, &'a str),
    /// The request failed at this offset of the export; what came before stands.
    ErrorAt(Errno, &'a str, u64),
}

impl Chunk<'_> {
    /// The chunk's bytes, without the data that follows one of data.
    pub fn bytes(&self, cookie: u64, is_last: bool) -> Vec<u8> {
        let mut payload = Vec::new();
        let (kind, data_len) = self.payload(&mut payload);
        let mut out = Vec::with_capacity(20 + payload.len());
        out.extend(STRUCTURED_REPLY_MAGIC.to_be_bytes());
        out.extend(if is_last { FLAG_DONE } else { 0 }.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(cookie.to_be_bytes());
        out.extend((payload.len() as u32 + data_len).to_be_bytes());
        out.extend(payload);
        out
    }

    /// The type, and how many bytes of data come behind the payload.
    fn payload(&self, out: &mut Vec<u8>) -> (u16, u32) {
        match *self {
            Self::None => (0, 0),
            Self::Data { offset_bytes, length_bytes } => {
                out.extend(offset_bytes.to_be_bytes());
                (1, length_bytes)
            }
            Self::Hole { offset_bytes, length_bytes } => {
                out.extend(offset_bytes.to_be_bytes());
                out.extend(length_bytes.to_be_bytes());
                (2, 0)
            }
            Self::BlockStatus(descriptors) => {
                out.extend(BASE_ALLOCATION_ID.to_be_bytes());
                for one in descriptors {
                    out.extend(one.length_bytes.to_be_bytes());
                    let status = if one.is_zero { STATE_HOLE | STATE_ZERO } else { 0 };
                    out.extend(status.to_be_bytes());
                }
                (5, 0)
            }
            Self::Error(error, message) => {
                message_into(out, error, message);
                ((1 << 15) + 1, 0)
            }
            Self::ErrorAt(error, message, offset_bytes) => {
                message_into(out, error, message);
                out.extend(offset_bytes.to_be_bytes());
                ((1 << 15) + 2, 0)
            }
        }
    }
}

fn message_into(out: &mut Vec<u8>, error: Errno, message: &str) {
    let message = limited(message);
    out.extend((error as u32).to_be_bytes());
    out.extend((message.len() as u16).to_be_bytes());
    out.extend(message.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: u64 = u64::from_be_bytes(*b"a cookie");

    #[test]
    fn simple_replies_are_written_as_the_document_says() {
        assert_eq!(simple(COOKIE, None), b"\x67\x44\x66\x98\0\0\0\0a cookie");
        for (error, code) in [
            (Errno::Perm, 1),
            (Errno::Io, 5),
            (Errno::Inval, 22),
            (Errno::Overflow, 75),
            (Errno::Shutdown, 108),
        ] {
            let expected = [&b"\x67\x44\x66\x98\0\0\0"[..], &[code], b"a cookie"].concat();
            assert_eq!(simple(COOKIE, Some(error)), expected);
        }
    }

    #[test]
    fn chunks_are_written_as_the_document_says() {
        let descriptors = [
            Descriptor { length_bytes: 4096, is_zero: false },
            Descriptor { length_bytes: 512, is_zero: true },
        ];
        let (offset_bytes, length_bytes) = (0x0102, 0x0304);
        let cases: Vec<(Chunk<'_>, bool, &[u8], &[u8])> = vec![
            (Chunk::None, true, b"\0\x01\0\0", b"\0\0\0\0"),
            (
                Chunk::Data { offset_bytes, length_bytes },
                false,
                b"\0\0\0\x01",
                b"\0\0\x03\x0c\0\0\0\0\0\0\x01\x02",
            ),
            (
                Chunk::Hole { offset_bytes, length_bytes },
                true,
                b"\0\x01\0\x02",
                b"\0\0\0\x0c\0\0\0\0\0\0\x01\x02\0\0\x03\x04",
            ),
            (
                Chunk::BlockStatus(&descriptors),
                true,
                b"\0\x01\0\x05",
                b"\0\0\0\x14\0\0\0\x01\0\0\x10\0\0\0\0\0\0\0\x02\0\0\0\0\x03",
            ),
            (Chunk::Error(Errno::Inval, "no"), true, b"\0\x01\x80\x01", b"\0\0\0\x08\0\0\0\x16\0\x02no"),
            (
                Chunk::ErrorAt(Errno::Io, "no", 7),
                true,
                b"\0\x01\x80\x02",
                b"\0\0\0\x10\0\0\0\x05\0\x02no\0\0\0\0\0\0\0\x07",
            ),
        ];
        for (chunk, is_last, kind, rest) in cases {
            let expected = [b"\x66\x8e\x33\xef", kind, b"a cookie", rest].concat();
            assert_eq!(chunk.bytes(COOKIE, is_last), expected, "{chunk:?}");
        }
    }
}
