//! What a client asks while it reads ("Request message", "Request types").

use super::{Fields, Malformed, REQUEST_MAGIC};

/// A request's head, which is all of it but for the data of a write.
pub const REQUEST_LEN_BYTES: usize = 28;

/// Command flags that mean something here.
pub const FLAG_DF: u16 = 1 << 2;
/// Only the first extent of the range is asked for.
pub const FLAG_REQ_ONE: u16 = 1 << 3;

/// The request's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// 0: bytes of a range.
    Read,
    /// Its data follows and has to be skipped.
    Write,
    /// 2: the client goes; there is no reply.
    Disconnect,
    /// 3: nothing to do where nothing is written.
    Flush,
    /// 4: frees a range, which is a write.
    Trim,
    /// 5: prefetches a range.
    Cache,
    /// 6: zeros a range, which is a write.
    WriteZeroes,
    /// 7: what is zero and what is data.
    BlockStatus,
    /// Any other type.
    Unknown,
}

/// A request as it came: nothing of it is checked against the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub command: Command,
    /// As sent; those that mean nothing here are in it, too.
    pub flags: u16,
    /// The client's name for it, which every reply repeats.
    pub cookie: u64,
    /// Where the range begins; it may lie beyond the export's end.
    pub offset_bytes: u64,
    /// How long the range is; 0 is possible.
    pub length_bytes: u32,
}

impl Request {
    /// Fails where the bytes do not begin with [`REQUEST_MAGIC`].
    pub fn parse(bytes: &[u8; REQUEST_LEN_BYTES]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        if fields.u32()? != REQUEST_MAGIC {
            return Err(Malformed("a request does not begin with its magic number"));
        }
        let flags = fields.u16()?;
        let command = match fields.u16()? {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::WriteZeroes,
            7 => Command::BlockStatus,
            _ => Command::Unknown,
        };
        let (cookie, offset_bytes, length_bytes) = (fields.u64()?, fields.u64()?, fields.u32()?);
        Ok(Self { command, flags, cookie, offset_bytes, length_bytes })
    }

    /// The end of what it asks for, where that lies within an export of this size.
    pub fn end_within(&self, size_bytes: u64) -> Option<u64> {
        self.offset_bytes.checked_add(u64::from(self.length_bytes)).filter(|end| *end <= size_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(magic: u32, kind: u16) -> [u8; REQUEST_LEN_BYTES] {
        let mut out = [0; REQUEST_LEN_BYTES];
        out[..4].copy_from_slice(&magic.to_be_bytes());
        out[4..6].copy_from_slice(&0x0104_u16.to_be_bytes());
        out[6..8].copy_from_slice(&kind.to_be_bytes());
        out[8..16].copy_from_slice(b"a cookie");
        out[16..24].copy_from_slice(&0x1122_3344_5566_7788_u64.to_be_bytes());
        out[24..].copy_from_slice(&0x99aa_bbcc_u32.to_be_bytes());
        out
    }

    #[test]
    fn requests_are_read_as_the_document_says() {
        use Command::*;
        let all = [Read, Write, Disconnect, Flush, Trim, Cache, WriteZeroes, BlockStatus, Unknown];
        for (kind, command) in all.into_iter().enumerate() {
            let expected = Request {
                command,
                flags: 0x0104,
                cookie: u64::from_be_bytes(*b"a cookie"),
                offset_bytes: 0x1122_3344_5566_7788,
                length_bytes: 0x99aa_bbcc,
            };
            assert_eq!(Request::parse(&bytes(REQUEST_MAGIC, kind as u16)), Ok(expected));
        }
        assert_eq!(Request::parse(&bytes(REQUEST_MAGIC, 99)).map(|r| r.command), Ok(Unknown));
        // The magic of extended requests, which were not negotiated.
        assert!(Request::parse(&bytes(0x21e4_1c71, 0)).is_err());
    }

    #[test]
    fn an_end_lies_within_the_export_and_never_wraps() {
        let request = |offset_bytes, length_bytes| Request {
            command: Command::Read,
            flags: 0,
            cookie: 0,
            offset_bytes,
            length_bytes,
        };
        for (offset, length, size, expected) in [
            (0, 0, 0, Some(0)),
            (0, 10, 10, Some(10)),
            (1, 10, 10, None),
            (10, 0, 10, Some(10)),
            (11, 0, 10, None),
            (u64::MAX, 1, u64::MAX, None),
            (u64::MAX - 1, u32::MAX, u64::MAX, None),
        ] {
            assert_eq!(request(offset, length).end_within(size), expected, "{offset}+{length} of {size}");
        }
    }
}
