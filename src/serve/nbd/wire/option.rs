//! The handshake: the greeting, options and the replies to them ("Handshake", "Option types", "Option reply types").

use super::{
    FIXED_NEWSTYLE, Fields, INIT_MAGIC, Malformed, NO_ZEROES, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    STRING_LEN_MAX, string,
};

/// What the server says first.
pub const GREETING_LEN_BYTES: usize = 18;
/// Client flags.
pub const CLIENT_FLAGS_LEN_BYTES: usize = 4;
/// What stands before an option's data.
pub const OPTION_HEADER_LEN_BYTES: usize = 16;
/// Longest data of an option: an export name and a dozen queries at their longest.
pub const OPTION_LEN_BYTES_MAX: u32 = 64 << 10;
/// Zeros behind the answer to `NBD_OPT_EXPORT_NAME`, unless the client does without.
const EXPORT_NAME_ZEROS: usize = 124;

/// What the server says first.
pub fn greeting() -> [u8; GREETING_LEN_BYTES] {
    let mut out = [0; GREETING_LEN_BYTES];
    out[..8].copy_from_slice(&INIT_MAGIC.to_be_bytes());
    out[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    out[16..].copy_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    out
}

/// What the client can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientFlags {
    /// Whether options other than the export's name may follow.
    pub is_fixed: bool,
    /// Whether the client does without the zeros behind the answer to `NBD_OPT_EXPORT_NAME`.
    pub no_zeroes: bool,
}

impl ClientFlags {
    /// A flag that the server did not offer ends the connection.
    pub fn parse(bytes: [u8; CLIENT_FLAGS_LEN_BYTES]) -> Result<Self, Malformed> {
        let flags = u32::from_be_bytes(bytes);
        if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return Err(Malformed("the client sets flags that were not offered"));
        }
        Ok(Self {
            is_fixed: flags & u32::from(FIXED_NEWSTYLE) != 0,
            no_zeroes: flags & u32::from(NO_ZEROES) != 0,
        })
    }
}

/// The head of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// The option's number; it may be one that is not known here.
    pub code: u32,
    /// As the client says; not checked.
    pub data_len_bytes: u32,
}

impl OptionHeader {
    /// Fails where the bytes do not begin with [`OPTION_MAGIC`].
    pub fn parse(bytes: [u8; OPTION_HEADER_LEN_BYTES]) -> Result<Self, Malformed> {
        let mut fields = Fields(&bytes);
        if fields.u64()? != OPTION_MAGIC {
            return Err(Malformed("an option does not begin with IHAVEOPT"));
        }
        Ok(Self { code: fields.u32()?, data_len_bytes: fields.u32()? })
    }
}

/// What a client asks for before it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientOption<'a> {
    /// 1, `NBD_OPT_EXPORT_NAME`: read this export, without any further option.
    ExportName(&'a str),
    /// 2, `NBD_OPT_ABORT`: the client goes.
    Abort,
    /// 3, `NBD_OPT_LIST`: which exports there are.
    List,
    /// 5, `NBD_OPT_STARTTLS`.
    StartTls,
    /// 6, `NBD_OPT_INFO`: tell of an export.
    Info(InfoRequest<'a>),
    /// 7, `NBD_OPT_GO`: tell of an export, then read it.
    Go(InfoRequest<'a>),
    /// 8, `NBD_OPT_STRUCTURED_REPLY`: answer in chunks from now on.
    StructuredReply,
    /// 9, `NBD_OPT_LIST_META_CONTEXT`: which contexts an export has.
    ListMetaContext(MetaRequest<'a>),
    /// 10, `NBD_OPT_SET_META_CONTEXT`: choose contexts for the export that is read next.
    SetMetaContext(MetaRequest<'a>),
    /// Any other number; its data is not looked at.
    Unknown,
}

/// Data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// The export's name; empty for the default one.
    pub export: &'a str,
    /// Whether its name is asked for (`NBD_INFO_NAME`).
    pub wants_name: bool,
    /// Whether its description is asked for (`NBD_INFO_DESCRIPTION`).
    pub wants_description: bool,
    /// Whether the client heeds block sizes (`NBD_INFO_BLOCK_SIZE`).
    pub wants_block_size: bool,
}

/// Data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaRequest<'a> {
    /// The export's name; empty for the default one.
    pub export: &'a str,
    /// As the client gave them, each with its namespace and a colon; none asks for all when listing.
    pub queries: Vec<&'a str>,
}

impl<'a> ClientOption<'a> {
    /// Takes an option's data apart; what is left over is an error, but for options whose data is to be ignored.
    pub fn parse(code: u32, data: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(data);
        let option = match code {
            1 => return string(data).map(Self::ExportName),
            // Data is to be ignored.
            2 => return Ok(Self::Abort),
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info(InfoRequest::parse(&mut fields)?),
            7 => Self::Go(InfoRequest::parse(&mut fields)?),
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext(MetaRequest::parse(&mut fields)?),
            10 => Self::SetMetaContext(MetaRequest::parse(&mut fields)?),
            _ => return Ok(Self::Unknown),
        };
        fields.end()?;
        Ok(option)
    }
}

impl<'a> InfoRequest<'a> {
    fn parse(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        let export = fields.string()?;
        let mut request =
            Self { export, wants_name: false, wants_description: false, wants_block_size: false };
        for _ in 0..fields.u16()? {
            match fields.u16()? {
                1 => request.wants_name = true,
                2 => request.wants_description = true,
                3 => request.wants_block_size = true,
                // The export itself is always told; what is unknown is ignored.
                _ => {}
            }
        }
        Ok(request)
    }
}

impl<'a> MetaRequest<'a> {
    fn parse(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        let export = fields.string()?;
        let count = fields.u32()?;
        // Nothing is reserved by a number that is only claimed: each query takes at least four bytes of the data.
        let mut queries = Vec::new();
        for _ in 0..count {
            let query = fields.string()?;
            if !query.contains(':') {
                return Err(Malformed("a query has no namespace"));
            }
            queries.push(query);
        }
        Ok(Self { export, queries })
    }
}

/// Replies to an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionReply<'a> {
    /// `NBD_REP_ACK`: done, and no more replies to this option.
    Ack,
    /// `NBD_REP_SERVER`: one export of a list.
    Server {
        /// What a client asks for; cut at [`STRING_LEN_MAX`].
        name: &'a str,
        /// For people; cut likewise.
        description: &'a str,
    },
    /// `NBD_INFO_EXPORT`: always told.
    InfoExport {
        /// Size of the export.
        size_bytes: u64,
        /// Transmission flags.
        flags: u16,
    },
    /// `NBD_INFO_NAME`: the name that the export keeps for ever.
    InfoName(&'a str),
    /// `NBD_INFO_DESCRIPTION`: for people.
    InfoDescription(&'a str),
    /// `NBD_INFO_BLOCK_SIZE`: what requests should look like.
    InfoBlockSize {
        /// Requests are multiples of this.
        min_bytes: u32,
        /// Requests of multiples of this are served best.
        preferred_bytes: u32,
        /// Longest data of one request or reply.
        payload_bytes_max: u32,
    },
    /// `NBD_REP_META_CONTEXT`: one context that there is, or that was chosen.
    MetaContext {
        /// What block status replies call it; of no meaning in a list.
        id: u32,
        /// With its namespace, such as [`BASE_ALLOCATION`](super::BASE_ALLOCATION).
        name: &'a str,
    },
    /// The option is refused, with a message for people.
    Error(OptionError, &'a str),
}

/// Why an option is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum OptionError {
    /// `NBD_REP_ERR_UNSUP`: the server does not know the option, or cannot do it.
    Unsupported = (1 << 31) + 1,
    /// `NBD_REP_ERR_POLICY`: not now, or not for this client.
    Policy = (1 << 31) + 2,
    /// `NBD_REP_ERR_INVALID`: its data makes no sense, or it comes out of order.
    Invalid = (1 << 31) + 3,
    /// `NBD_REP_ERR_UNKNOWN`: no such export.
    Unknown = (1 << 31) + 6,
    /// `NBD_REP_ERR_TOO_BIG`: its data is longer than is read.
    TooBig = (1 << 31) + 9,
}

impl OptionReply<'_> {
    /// Appends the reply to the option of this code.
    pub fn write(&self, code: u32, out: &mut Vec<u8>) {
        let mut data = Vec::new();
        let kind = self.data(&mut data);
        out.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        out.extend(code.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
    }

    /// The reply's type; its data is appended.
    fn data(&self, data: &mut Vec<u8>) -> u32 {
        let info = |data: &mut Vec<u8>, kind: u16| data.extend(kind.to_be_bytes());
        match *self {
            Self::Ack => 1,
            Self::Server { name, description } => {
                let name = limited(name);
                data.extend((name.len() as u32).to_be_bytes());
                data.extend(name.as_bytes());
                data.extend(limited(description).as_bytes());
                2
            }
            Self::InfoExport { size_bytes, flags } => {
                info(data, 0);
                data.extend(size_bytes.to_be_bytes());
                data.extend(flags.to_be_bytes());
                3
            }
            Self::InfoName(name) => {
                info(data, 1);
                data.extend(limited(name).as_bytes());
                3
            }
            Self::InfoDescription(text) => {
                info(data, 2);
                data.extend(limited(text).as_bytes());
                3
            }
            Self::InfoBlockSize { min_bytes, preferred_bytes, payload_bytes_max } => {
                info(data, 3);
                for size in [min_bytes, preferred_bytes, payload_bytes_max] {
                    data.extend(size.to_be_bytes());
                }
                3
            }
            Self::MetaContext { id, name } => {
                data.extend(id.to_be_bytes());
                data.extend(limited(name).as_bytes());
                4
            }
            Self::Error(error, message) => {
                data.extend(limited(message).as_bytes());
                error as u32
            }
        }
    }
}

/// The answer to `NBD_OPT_EXPORT_NAME`, which has no other form.
pub fn export_name_reply(size_bytes: u64, flags: u16, client: ClientFlags) -> Vec<u8> {
    let mut out = Vec::with_capacity(10 + EXPORT_NAME_ZEROS);
    out.extend(size_bytes.to_be_bytes());
    out.extend(flags.to_be_bytes());
    if !client.no_zeroes {
        out.extend([0; EXPORT_NAME_ZEROS]);
    }
    out
}

/// As much of a text as a string may hold.
pub(super) fn limited(text: &str) -> &str {
    let fits = |at: &usize| text.is_char_boundary(*at);
    let end = (0..=STRING_LEN_MAX.min(text.len())).rev().find(fits).unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ClientOption as O;

    fn string32(s: &str) -> Vec<u8> {
        [&(s.len() as u32).to_be_bytes()[..], s.as_bytes()].concat()
    }

    fn info(export: &str, kinds: &[u16]) -> Vec<u8> {
        let mut out = string32(export);
        out.extend((kinds.len() as u16).to_be_bytes());
        out.extend(kinds.iter().flat_map(|k| k.to_be_bytes()));
        out
    }

    fn meta(export: &str, queries: &[&str]) -> Vec<u8> {
        let mut out = string32(export);
        out.extend((queries.len() as u32).to_be_bytes());
        out.extend(queries.iter().flat_map(|q| string32(q)));
        out
    }

    #[test]
    fn the_greeting_is_fixed_newstyle() {
        assert_eq!(&greeting()[..], b"NBDMAGICIHAVEOPT\0\x03");
    }

    #[test]
    fn client_flags_beyond_what_was_offered_are_refused() {
        let parse = |n: u32| ClientFlags::parse(n.to_be_bytes());
        for (n, is_fixed, no_zeroes) in
            [(0, false, false), (1, true, false), (2, false, true), (3, true, true)]
        {
            assert_eq!(parse(n), Ok(ClientFlags { is_fixed, no_zeroes }));
        }
        for n in [4, 5, 1 << 16, u32::MAX] {
            assert!(parse(n).is_err(), "{n}");
        }
    }

    #[test]
    fn an_option_begins_with_its_magic() {
        let good = *b"IHAVEOPT\0\0\0\x07\0\0\x01\0";
        assert_eq!(OptionHeader::parse(good), Ok(OptionHeader { code: 7, data_len_bytes: 256 }));
        assert!(OptionHeader::parse(*b"NBDMAGIC\0\0\0\x07\0\0\x01\0").is_err());
    }

    #[test]
    fn options_are_read_as_the_document_says() {
        let request = |export, name, description, block| InfoRequest {
            export,
            wants_name: name,
            wants_description: description,
            wants_block_size: block,
        };
        let allocation = || MetaRequest { export: "a/1", queries: vec!["base:allocation", "qemu:"] };
        let cases: Vec<(u32, Vec<u8>, ClientOption<'_>)> = vec![
            (1, b"vm/1".to_vec(), O::ExportName("vm/1")),
            (1, vec![], O::ExportName("")),
            (2, b"any data".to_vec(), O::Abort),
            (3, vec![], O::List),
            (5, vec![], O::StartTls),
            (6, info("vm/1", &[0, 1, 99]), O::Info(request("vm/1", true, false, false))),
            (7, info("", &[]), O::Go(request("", false, false, false))),
            (7, info("é", &[3, 2]), O::Go(request("é", false, true, true))),
            (8, vec![], O::StructuredReply),
            (9, meta("a/1", &[]), O::ListMetaContext(MetaRequest { export: "a/1", queries: vec![] })),
            (10, meta("a/1", &["base:allocation", "qemu:"]), O::SetMetaContext(allocation())),
            (4, b"?".to_vec(), O::Unknown),
            (11, vec![], O::Unknown),
            (u32::MAX, vec![], O::Unknown),
        ];
        for (code, data, expected) in cases {
            assert_eq!(ClientOption::parse(code, &data), Ok(expected), "{code}");
        }
    }

    #[test]
    fn wrong_options_are_refused() {
        let long = "x".repeat(STRING_LEN_MAX + 1);
        let cut = |mut data: Vec<u8>| {
            data.pop();
            data
        };
        let more = |data: Vec<u8>| [data, vec![0]].concat();
        let cases: Vec<(u32, Vec<u8>)> = vec![
            (1, vec![0xff]),
            (1, b"a\0b".to_vec()),
            (1, long.clone().into_bytes()),
            (3, vec![1]),
            (5, vec![1]),
            (8, vec![1]),
            (7, vec![]),
            (7, cut(info("vm/1", &[0, 1]))),
            (7, more(info("vm/1", &[]))),
            (7, info(&long, &[])),
            (7, [&u32::MAX.to_be_bytes()[..], b"vm"].concat()),
            (7, [string32("vm"), u16::MAX.to_be_bytes().to_vec()].concat()),
            (9, vec![0, 0]),
            (10, cut(meta("vm/1", &["base:allocation"]))),
            (10, more(meta("vm/1", &["base:allocation"]))),
            (10, meta("vm/1", &["allocation"])),
            (10, [string32("vm"), u32::MAX.to_be_bytes().to_vec()].concat()),
        ];
        for (code, data) in cases {
            assert!(ClientOption::parse(code, &data).is_err(), "{code} {data:?}");
        }
    }

    #[test]
    fn replies_are_written_as_the_document_says() {
        let written = |reply: OptionReply<'_>| {
            let mut out = Vec::new();
            reply.write(7, &mut out);
            assert_eq!(&out[..12], b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07");
            out.split_off(12)
        };
        assert_eq!(written(OptionReply::Ack), b"\0\0\0\x01\0\0\0\0");
        let server = OptionReply::Server { name: "a/1", description: "hm" };
        assert_eq!(written(server), b"\0\0\0\x02\0\0\0\x09\0\0\0\x03a/1hm");
        let export = OptionReply::InfoExport { size_bytes: 0x0102, flags: 3 };
        assert_eq!(written(export), b"\0\0\0\x03\0\0\0\x0c\0\0\0\0\0\0\0\0\x01\x02\0\x03");
        assert_eq!(written(OptionReply::InfoName("a/1")), b"\0\0\0\x03\0\0\0\x05\0\x01a/1");
        assert_eq!(written(OptionReply::InfoDescription("hm")), b"\0\0\0\x03\0\0\0\x04\0\x02hm");
        let sizes = OptionReply::InfoBlockSize { min_bytes: 1, preferred_bytes: 4096, payload_bytes_max: 2 };
        assert_eq!(written(sizes), b"\0\0\0\x03\0\0\0\x0e\0\x03\0\0\0\x01\0\0\x10\0\0\0\0\x02");
        let context = OptionReply::MetaContext { id: 1, name: "base:x" };
        assert_eq!(written(context), b"\0\0\0\x04\0\0\0\x0a\0\0\0\x01base:x");
        for (error, code) in [
            (OptionError::Unsupported, 1_u8),
            (OptionError::Policy, 2),
            (OptionError::Invalid, 3),
            (OptionError::Unknown, 6),
            (OptionError::TooBig, 9),
        ] {
            let expected = [&[0x80, 0, 0, code, 0, 0, 0, 2][..], b"no"].concat();
            assert_eq!(written(OptionReply::Error(error, "no")), expected);
        }
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let long = "é".repeat(STRING_LEN_MAX);
        let mut out = Vec::new();
        OptionReply::Error(OptionError::Unknown, &format!("x{long}")).write(7, &mut out);
        assert_eq!(out.len(), 20 + STRING_LEN_MAX - 1);
        assert!(std::str::from_utf8(&out[20..]).is_ok());
    }

    #[test]
    fn the_old_way_in_has_its_zeros() {
        let client = |no_zeroes| ClientFlags { is_fixed: true, no_zeroes };
        assert_eq!(export_name_reply(5, 3, client(true)), b"\0\0\0\0\0\0\0\x05\0\x03");
        assert_eq!(export_name_reply(5, 3, client(false)).len(), 134);
    }
}
