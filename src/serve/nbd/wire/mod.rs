//! The messages of the NBD protocol, to and from bytes: no I/O, no waiting.
//!
//! Source of every name and number: the NBD protocol document,
//! <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>. All numbers are big-endian.

pub mod option;
pub mod reply;
pub mod request;

/// `NBDMAGIC`, the server's first words.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, the server's next words and the head of each option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Head of each reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Head of each request (`NBD_REQUEST_MAGIC`).
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Head of a reply in the old form (`NBD_SIMPLE_REPLY_MAGIC`).
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Head of each chunk of a structured reply (`NBD_STRUCTURED_REPLY_MAGIC`).
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, the server's and the client's: the same two bits.
pub const FIXED_NEWSTYLE: u16 = 1 << 0;
/// No zeros behind the answer to `NBD_OPT_EXPORT_NAME`.
pub const NO_ZEROES: u16 = 1 << 1;

/// Transmission flags.
pub const HAS_FLAGS: u16 = 1 << 0;
/// Writes are refused (`NBD_FLAG_READ_ONLY`).
pub const READ_ONLY: u16 = 1 << 1;
/// The client may send a flush (`NBD_FLAG_SEND_FLUSH`).
pub const SEND_FLUSH: u16 = 1 << 2;
/// The client may ask for a read in one piece (`NBD_FLAG_SEND_DF`).
pub const SEND_DF: u16 = 1 << 7;
/// All connections of a client show the same (`NBD_FLAG_CAN_MULTI_CONN`).
pub const CAN_MULTI_CONN: u16 = 1 << 8;

/// Longest string: a name, a query or a message ("Values", strings).
pub const STRING_LEN_MAX: usize = 4096;
/// The one metadata context there is.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Its id, which a client takes as it comes.
pub const BASE_ALLOCATION_ID: u32 = 1;

/// What goes wrong with a request ("Error values").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// A write to what is read-only.
    Perm = 1,
    /// The store did not give the bytes, or gave wrong ones.
    Io = 5,
    /// A request that makes no sense, or was not agreed on.
    Inval = 22,
    /// Too long to be answered in one piece.
    Overflow = 75,
    /// The server is about to stop.
    Shutdown = 108,
}

/// Bytes that are not such a message, and what is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Takes fields off the front of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("it ends early"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string behind its length in 32 bits.
    fn string(&mut self) -> Result<&'a str, Malformed> {
        let len = self.u32()? as usize;
        let (head, rest) = self.0.split_at_checked(len).ok_or(Malformed("a string ends early"))?;
        self.0 = rest;
        string(head)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("there is more than expected")) }
    }
}

fn string(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.len() > STRING_LEN_MAX {
        return Err(Malformed("a string has more than 4096 bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a string is not UTF-8"))?;
    if text.contains('\0') { Err(Malformed("a string holds a NUL")) } else { Ok(text) }
}
