//! A client that says exactly what a test wants, right or wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A server that does not answer by then hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Client(pub TcpStream);

/// A chunk of a structured reply.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    pub is_last: bool,
    pub kind: u16,
    pub cookie: u64,
    pub payload: Vec<u8>,
}

pub const ACK: u32 = 1;
pub const ERR_UNSUPPORTED: u32 = (1 << 31) + 1;
pub const ERR_POLICY: u32 = (1 << 31) + 2;
pub const ERR_INVALID: u32 = (1 << 31) + 3;
pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;

impl Client {
    /// Connected, and nothing said.
    pub fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Self(stream)
    }

    /// Greeted, with these client flags.
    pub fn greeted(address: SocketAddr, flags: u32) -> Self {
        let mut this = Self::silent(address);
        assert_eq!(this.take(18), b"NBDMAGICIHAVEOPT\0\x03");
        this.send(&flags.to_be_bytes());
        this
    }

    /// With structured replies and `base:allocation`, ready to ask.
    pub fn ready(address: SocketAddr, export: &str) -> Self {
        let mut this = Self::greeted(address, 3);
        assert_eq!(this.option(8, &[]), [(ACK, vec![])]);
        let replies = this.option(10, &contexts(export, &["base:allocation"]));
        assert_eq!(replies.last(), Some(&(ACK, vec![])));
        this.go(export);
        this
    }

    /// Without either, ready to ask.
    pub fn simple(address: SocketAddr, export: &str) -> Self {
        let mut this = Self::greeted(address, 3);
        this.go(export);
        this
    }

    pub fn go(&mut self, export: &str) {
        let replies = self.option(7, &info(export, &[]));
        assert_eq!(replies.last(), Some(&(ACK, vec![])), "{replies:?}");
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("send");
    }

    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.0.read_exact(&mut out).expect("receive");
        out
    }

    fn number<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("as many")
    }

    /// Whether the server closes the connection. What it said before is passed over.
    pub fn is_closed(&mut self) -> bool {
        let mut buf = vec![0; 1 << 16];
        loop {
            match self.0.read(&mut buf) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return e.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    /// Sends an option and receives its replies: types and data.
    pub fn option(&mut self, code: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send(&[b"IHAVEOPT", &code.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat());
        let mut replies = Vec::new();
        loop {
            assert_eq!(self.take(8), 0x3_e889_0455_65a9_u64.to_be_bytes());
            assert_eq!(u32::from_be_bytes(self.number()), code);
            let kind = u32::from_be_bytes(self.number());
            let len = u32::from_be_bytes(self.number());
            replies.push((kind, self.take(len as usize)));
            if kind == ACK || kind >> 31 == 1 {
                return replies;
            }
        }
    }

    pub fn request(&mut self, (flags, kind): (u16, u16), cookie: u64, offset: u64, len: u32) {
        let head = [&0x2560_9513_u32.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes()].concat();
        self.send(
            &[head, cookie.to_be_bytes().into(), offset.to_be_bytes().into(), len.to_be_bytes().into()]
                .concat(),
        );
    }

    /// The cookie and the error of a simple reply.
    pub fn simple_reply(&mut self) -> (u64, u32) {
        assert_eq!(self.take(4), 0x6744_6698_u32.to_be_bytes());
        let error = u32::from_be_bytes(self.number());
        (u64::from_be_bytes(self.number()), error)
    }

    pub fn chunk(&mut self) -> Chunk {
        assert_eq!(self.take(4), 0x668e_33ef_u32.to_be_bytes());
        let is_last = u16::from_be_bytes(self.number()) == 1;
        let kind = u16::from_be_bytes(self.number());
        let cookie = u64::from_be_bytes(self.number());
        let len = u32::from_be_bytes(self.number());
        Chunk { is_last, kind, cookie, payload: self.take(len as usize) }
    }

    /// A whole reply to a read: its bytes, and how many chunks of data and of holes brought them; or the error.
    pub fn read(&mut self, flags: u16, offset: u64, len: u32) -> Result<(Vec<u8>, usize, usize), u32> {
        self.request((flags, 0), 5, offset, len);
        let (mut out, mut data, mut holes) = (vec![0xee; len as usize], 0, 0);
        let mut covered = 0;
        loop {
            let chunk = self.chunk();
            assert_eq!(chunk.cookie, 5);
            match chunk.kind {
                0 => {}
                1 | 2 => {
                    let at = u64::from_be_bytes(chunk.payload[..8].try_into().expect("an offset"));
                    let at = usize::try_from(at - offset).expect("within the request");
                    let bytes = if chunk.kind == 1 {
                        data += 1;
                        chunk.payload[8..].to_vec()
                    } else {
                        holes += 1;
                        let len = u32::from_be_bytes(chunk.payload[8..].try_into().expect("a length"));
                        vec![0; len as usize]
                    };
                    assert!(!bytes.is_empty());
                    covered += bytes.len();
                    out[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                _ => {
                    assert!(chunk.kind >> 15 == 1 && chunk.is_last);
                    return Err(u32::from_be_bytes(chunk.payload[..4].try_into().expect("an error")));
                }
            }
            if chunk.is_last {
                assert_eq!(covered, len as usize, "each byte once");
                return Ok((out, data, holes));
            }
        }
    }

    /// Lengths and flags of a reply to a block status; or the error.
    pub fn status(&mut self, flags: u16, offset: u64, len: u32) -> Result<Vec<(u32, u32)>, u32> {
        self.request((flags, 7), 6, offset, len);
        let chunk = self.chunk();
        assert!(chunk.is_last && chunk.cookie == 6);
        let words: Vec<u32> = chunk
            .payload
            .chunks_exact(4)
            .map(|word| u32::from_be_bytes(word.try_into().expect("four bytes")))
            .collect();
        match chunk.kind {
            5 => Ok(words[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()),
            _ => Err(words[0]),
        }
    }

    /// The error of a command without data in its reply; 0 for none.
    pub fn error_of(&mut self, kind: (u16, u16), offset: u64, len: u32) -> u32 {
        self.request(kind, 9, offset, len);
        self.error()
    }

    /// The error of the next reply.
    pub fn error(&mut self) -> u32 {
        let magic = self.take(4);
        if magic == 0x6744_6698_u32.to_be_bytes() {
            let rest = self.take(12);
            return u32::from_be_bytes(rest[..4].try_into().expect("an error"));
        }
        let rest = self.take(16);
        let len = u32::from_be_bytes(rest[12..].try_into().expect("a length"));
        let payload = self.take(len as usize);
        assert!(rest[2] >> 7 == 1, "an error");
        u32::from_be_bytes(payload[..4].try_into().expect("an error"))
    }
}

pub fn info(export: &str, kinds: &[u16]) -> Vec<u8> {
    let mut out = [&(export.len() as u32).to_be_bytes()[..], export.as_bytes()].concat();
    out.extend((kinds.len() as u16).to_be_bytes());
    out.extend(kinds.iter().flat_map(|k| k.to_be_bytes()));
    out
}

pub fn contexts(export: &str, queries: &[&str]) -> Vec<u8> {
    let string = |s: &str| [&(s.len() as u32).to_be_bytes()[..], s.as_bytes()].concat();
    let mut out = string(export);
    out.extend((queries.len() as u32).to_be_bytes());
    out.extend(queries.iter().flat_map(|q| string(q)));
    out
}
