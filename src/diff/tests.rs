//! What the reader takes and refuses, and that it reads what the writer wrote.

use std::io::Read;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::test_runner::RngSeed;

use super::{
    DiffEvent, DiffHeader, DiffReader, DiffVersion, DiffWriter, Limits, METADATA_VALUE_LEN_MAX, NAME_LEN_MAX,
    StreamKind, write_image_header,
};
use crate::error::{ErrorKind, Result};
use crate::units::{Content, Extent};
use crate::volume::ImageLayout;

/// A stream built byte by byte, with whatever mistakes a test wants.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn v1() -> Self {
        Self(b"rbd diff v1\n".to_vec())
    }

    fn v2() -> Self {
        Self(b"rbd diff v2\n".to_vec())
    }

    fn image() -> Self {
        Self(b"rbd image v2\n".to_vec())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn num(self, n: u64) -> Self {
        self.bytes(&n.to_le_bytes())
    }

    fn str(self, text: &[u8]) -> Self {
        self.bytes(&(text.len() as u32).to_le_bytes()).bytes(text)
    }

    fn size(self, n: u64) -> Self {
        self.bytes(b"s").num(n)
    }

    fn zero(self, offset: u64, len: u64) -> Self {
        self.bytes(b"z").num(offset).num(len)
    }

    fn write(self, offset: u64, data: &[u8]) -> Self {
        self.bytes(b"w").num(offset).num(data.len() as u64).bytes(data)
    }

    /// A version 2 record.
    fn rec(self, tag: u8, body: Raw) -> Self {
        self.bytes(&[tag]).num(body.0.len() as u64).bytes(&body.0)
    }

    fn end(self) -> Self {
        self.bytes(b"e")
    }

    fn diff(self, from: Option<&str>, to: Option<&str>, size: u64) -> Self {
        let mut out = self.bytes(b"rbd diff v2\n");
        for (tag, name) in [(b'f', from), (b't', to)] {
            if let Some(name) = name {
                out = out.rec(tag, body().str(name.as_bytes()));
            }
        }
        out.rec(b's', body().num(size)).end()
    }

    fn diffs(self, count: u64) -> Self {
        self.bytes(b"Erbd image diffs v2\n").num(count)
    }
}

fn body() -> Raw {
    Raw(Vec::new())
}

fn kind_of(bytes: &[u8]) -> StreamKind {
    match bytes {
        _ if bytes.starts_with(b"rbd diff v2") => StreamKind::DiffV2,
        _ if bytes.starts_with(b"rbd image") => StreamKind::ImageV2,
        _ => StreamKind::DiffV1,
    }
}

/// Everything that a stream holds, data by extent.
fn read_all(bytes: &[u8]) -> Result<Vec<(DiffEvent, Vec<u8>)>> {
    read_with(DiffReader::open(bytes, kind_of(bytes), Limits::default())?)
}

fn read_with<R: Read>(mut reader: DiffReader<R>) -> Result<Vec<(DiffEvent, Vec<u8>)>> {
    let mut all = Vec::new();
    while let Some(event) = reader.next_event()? {
        let mut data = Vec::new();
        let mut buf = [0; 1000];
        loop {
            match reader.read_data(&mut buf)? {
                0 => break,
                n => data.extend(&buf[..n]),
            }
        }
        all.push((event, data));
    }
    Ok(all)
}

#[test]
fn reads_a_diff_of_version_1() {
    let stream = Raw::v1().bytes(b"f").str(b"old").bytes(b"t").str(b"new").size(100);
    let stream = stream.write(90, b"0123456789").zero(0, 5).write(5, b"x").end();
    let extent = |offset_bytes, length_bytes, content| {
        DiffEvent::Extent(Extent { offset_bytes, length_bytes, content })
    };
    let header = DiffHeader {
        from: Some("old".to_owned()),
        to: Some("new".to_owned()),
        protected: None,
        size_bytes: 100,
    };
    let expected = vec![
        (DiffEvent::Begin(header), vec![]),
        (extent(90, 10, Content::Data), b"0123456789".to_vec()),
        (extent(0, 5, Content::Zero), vec![]),
        (extent(5, 1, Content::Data), b"x".to_vec()),
    ];
    assert_eq!(read_all(&stream.0).expect("a good stream"), expected);
}

#[test]
fn reads_an_image() {
    let stream = Raw::image()
        .rec(b'O', body().num(22))
        .rec(b'T', body().num(61))
        .rec(b'U', body().num(1 << 22))
        .rec(b'C', body().num(1))
        .rec(b'M', body().str(b"z").str(b"1"))
        .rec(b'M', body().str(b"a/b@c").str("ü\n".as_bytes()))
        .diffs(3)
        .diff(None, Some("one"), 10)
        .diff(Some("one"), Some("two"), 20)
        .diff(Some("two"), None, 5);
    let reader = DiffReader::open(&stream.0[..], StreamKind::ImageV2, Limits::default()).expect("opens");
    let layout = ImageLayout {
        order: 22,
        features: 61,
        stripe_unit_bytes: 0,
        stripe_count: 1,
        metadata: vec![("a/b@c".to_owned(), "ü\n".to_owned()), ("z".to_owned(), "1".to_owned())],
        parent: None,
    };
    assert_eq!(reader.layout(), &layout);
    assert_eq!(reader.diff_count(), 3);
    let sizes: Vec<u64> = read_with(reader)
        .expect("reads")
        .into_iter()
        .map(|(event, _)| match event {
            DiffEvent::Begin(header) => header.size_bytes,
            DiffEvent::Extent(_) => unreachable!("no extents were written"),
        })
        .collect();
    assert_eq!(sizes, [10, 20, 5]);
}

/// One stream that must be refused: its kind, what the message must say, and at which byte it must say it is.
fn refused(name: &str, stream: Raw, kind: ErrorKind, message: &str) {
    let error = match read_all(&stream.0) {
        Ok(events) => panic!("{name}: accepted as {events:?}"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), kind, "{name}: {error}");
    assert!(error.message().contains(message), "{name}: found {:?}, expected {message:?}", error.message());
}

#[test]
fn refuses_what_is_wrong_in_version_1() {
    let refused = |name: &str, stream: Raw, message: &str| refused(name, stream, ErrorKind::Corrupt, message);
    let v1 = Raw::v1;
    let sized = || Raw::v1().size(100);
    refused("banner", body().bytes(b"rbd diff v9\n"), "at byte 0 of the stream: the banner: expected");
    refused(
        "second from",
        v1().bytes(b"f").str(b"a").bytes(b"f").str(b"a"),
        "at byte 18 of the stream: a second",
    );
    refused(
        "second to",
        v1().bytes(b"t").str(b"a").bytes(b"t").str(b"b"),
        "at byte 18 of the stream: a second",
    );
    refused("second size", sized().size(100), "at byte 21 of the stream: a second record 's'");
    refused("no size", v1().bytes(b"f").str(b"a").end(), "the diff has no size");
    refused("no size before extent", v1().zero(0, 1), "the diff has no size");
    refused(
        "from after extent",
        sized().zero(0, 1).bytes(b"f").str(b"a"),
        "at byte 38 of the stream: record 'f'",
    );
    refused("to after extent", sized().zero(0, 1).bytes(b"t").str(b"a"), "record 't' (0x74) after an extent");
    refused("size after extent", sized().zero(0, 1).size(100), "record 's' (0x73) after an extent");
    refused(
        "long name",
        v1().bytes(b"f").str(&[b'a'; NAME_LEN_MAX as usize + 1]),
        "of 4097 bytes: expected at most",
    );
    refused(
        "name of 4 GiB",
        v1().bytes(b"f").bytes(&[0xff; 4]),
        "at byte 13 of the stream: snapshot name of 4294967295",
    );
    refused("empty name", v1().bytes(b"t").str(b""), "expected at least one byte");
    for bad in ["a\0b", "a/b", "a@b"] {
        refused("forbidden", v1().bytes(b"t").str(bad.as_bytes()), "in it");
    }
    refused(
        "no UTF-8",
        v1().bytes(b"f").str(b"a\xff"),
        "at byte 13 of the stream: snapshot name: expected UTF-8",
    );
    refused(
        "zero length z",
        sized().zero(5, 0),
        "at byte 21 of the stream: an extent of no length at offset 5",
    );
    refused("zero length w", sized().write(5, b""), "an extent of no length at offset 5");
    refused(
        "beyond the size",
        sized().zero(90, 11),
        "an extent of 11 bytes at offset 90: expected it within 100",
    );
    refused("data beyond the size", sized().write(100, b"a"), "an extent of 1 bytes at offset 100");
    refused("overflow", sized().zero(u64::MAX, 2), "an extent of 2 bytes at offset 18446744073709551615");
    refused(
        "overlap z",
        sized().zero(0, 50).zero(49, 1),
        "at byte 38 of the stream: the extent of bytes 49..50 overlaps 0..50",
    );
    refused("overlap w", sized().write(10, b"abc").write(0, &[1; 11]), "overlaps 10..13");
    refused("same twice", sized().zero(0, 100).zero(0, 100), "overlaps 0..100");
    refused(
        "no end",
        sized().zero(0, 50),
        "at byte 38 of the stream: the stream ends where the next record was expected",
    );
    refused(
        "cut data",
        sized().bytes(b"w").num(0).num(50).bytes(b"abc"),
        "at byte 41 of the stream: the stream ends where 47 more",
    );
    refused("cut number", sized().bytes(b"z").num(0).bytes(b"\0\0"), "at byte 32 of the stream");
    refused("after the end", sized().end().bytes(b"e"), "at byte 22 of the stream: bytes after the end");
    refused("two diffs", sized().end().bytes(&Raw::v1().size(100).end().0), "bytes after the end of diff 1");
}

#[test]
fn refuses_unknown_records_and_sizes() {
    refused(
        "tag",
        Raw::v1().size(9).bytes(b"x"),
        ErrorKind::Unsupported,
        "at byte 21 of the stream: record 'x' (0x78)",
    );
    refused("tag first", Raw::v1().bytes(b"\xff"), ErrorKind::Unsupported, "record '\\xff' (0xff)");
    refused("p in v1", Raw::v1().size(9).bytes(b"p"), ErrorKind::Unsupported, "record 'p' (0x70)");
    refused(
        "tag in v2",
        Raw::v2().rec(b's', body().num(9)).rec(b'x', body()),
        ErrorKind::Unsupported,
        "record 'x'",
    );
    refused("tag in image", Raw::image().rec(b'X', body()), ErrorKind::Unsupported, "rbd image v2");
    refused(
        "size",
        Raw::v1().size(u64::MAX),
        ErrorKind::Invalid,
        "at byte 13 of the stream: image size 18446744073709551615",
    );
    let limits = Limits { size_bytes_max: 99 };
    let stream = Raw::v1().size(100).end();
    let error = DiffReader::open(&stream.0[..], StreamKind::DiffV1, limits).and_then(read_with);
    assert_eq!(error.expect_err("above the cap").kind(), ErrorKind::Invalid);
}

#[test]
fn refuses_what_is_wrong_in_version_2() {
    let refused = |name: &str, stream: Raw, message: &str| refused(name, stream, ErrorKind::Corrupt, message);
    let v2 = Raw::v2;
    let sized = || Raw::v2().rec(b's', body().num(100));
    let extent = |offset: u64, len: u64| body().num(offset).num(len);
    refused(
        "p twice",
        v2().rec(b'p', body().bytes(b"\x01")).rec(b'p', body().bytes(b"\x01")),
        "a second record 'p'",
    );
    refused("p of 2", v2().rec(b'p', body().bytes(b"\x02")), "protection flag 2: expected 0 or 1");
    refused(
        "p late",
        sized().rec(b'z', extent(0, 1)).rec(b'p', body().bytes(b"\x01")),
        "record 'p' (0x70) after",
    );
    refused(
        "s of 9",
        v2().rec(b's', body().num(1).bytes(b"\0")),
        "at byte 12 of the stream: record 's' (0x73) says that it is 9",
    );
    refused("p of 2 bytes", v2().bytes(b"p").num(2).bytes(b"\0"), "says that it is 2 bytes long: expected 1");
    refused("f too long", v2().bytes(b"f").num(6).str(b"a"), "says that it is 6 bytes long: expected 5");
    refused(
        "z of 17",
        sized().rec(b'z', extent(0, 1).bytes(b"\0")),
        "says that it is 17 bytes long: expected 16",
    );
    refused("w of 16", sized().bytes(b"w").num(16).num(0).num(4).bytes(b"abcd"), "expected 20");
    refused("w overflow", sized().bytes(b"w").num(8).num(0).num(u64::MAX), "more than a u64 holds");
    refused(
        "huge body",
        sized().bytes(b"z").num(u64::MAX).num(0).num(4),
        "says that it is 18446744073709551615",
    );
    refused("after the end", sized().end().bytes(b"\0"), "at byte 30 of the stream: bytes after the end");
}

#[test]
fn refuses_what_is_wrong_in_an_image() {
    let refused = |name: &str, stream: Raw, message: &str| refused(name, stream, ErrorKind::Corrupt, message);
    let image = Raw::image;
    refused(
        "order twice",
        image().rec(b'O', body().num(22)).rec(b'O', body().num(22)),
        "a second record 'O'",
    );
    refused(
        "order",
        image().rec(b'O', body().num(26)),
        "at byte 22 of the stream: image order 26: expected 12 to 25",
    );
    refused("order 64", image().rec(b'O', body().num(u64::MAX)), "image order 18446744073709551615");
    refused("length", image().bytes(b"T").num(9).num(1), "says that it is 9 bytes long: expected 8");
    let pair = |key: &[u8], value: &[u8]| body().str(key).str(value);
    refused(
        "key twice",
        image().rec(b'M', pair(b"a", b"1")).rec(b'M', pair(b"a", b"2")).diffs(1),
        "\"a\" twice",
    );
    refused("key", image().rec(b'M', pair(b"", b"1")), "metadata key: expected at least one byte");
    refused("value", image().rec(b'M', pair(b"a", b"\xff")), "metadata value: expected UTF-8");
    let long = vec![b'v'; METADATA_VALUE_LEN_MAX as usize + 1];
    refused("long value", image().rec(b'M', pair(b"a", &long)), "metadata value of 65537 bytes");
    let many = (0..17).fold(image(), |s, i: u8| s.rec(b'M', pair(&[b'a' + i], &long[1..])));
    refused("much metadata", many, "image metadata: expected at most");
    let many = (0..5000).fold(image(), |s, i| s.rec(b'M', pair(format!("{i}").as_bytes(), b"")));
    refused("many pairs", many, "image metadata: expected at most 4096 pairs");
    refused(
        "second banner",
        image().bytes(b"Erbd image diffs v3\n"),
        "the banner before the diffs: expected",
    );
    refused("no diffs", image().diffs(0), "0 diffs");
    refused(
        "too few",
        image().diffs(2).diff(None, Some("a"), 1),
        "the stream ends where diff 2 of 2 was expected",
    );
    refused(
        "too many",
        image().diffs(1).diff(None, None, 1).diff(None, None, 1),
        "bytes after the end of diff 1",
    );
    refused(
        "2^64 diffs",
        image().diffs(u64::MAX).diff(None, Some("a"), 1),
        "the stream ends where diff 2 of 1844",
    );
    refused(
        "first has from",
        image().diffs(1).diff(Some("a"), None, 1),
        "relative to snapshot \"a\": expected nothing",
    );
    let two = |from, to| image().diffs(2).diff(None, to, 1).diff(from, None, 1);
    refused("other from", two(Some("b"), Some("a")), "relative to snapshot \"b\": expected snapshot \"a\"");
    refused("no from", two(None, Some("a")), "relative to nothing: expected snapshot \"a\"");
    refused("no to", two(Some("a"), None), "diff 1 of 2 names no snapshot");
    refused(
        "v1 inside",
        image().diffs(1).bytes(&Raw::v1().size(1).end().0),
        "diff 1 of 1: expected \"rbd diff v2\\n\"",
    );
}

#[test]
fn accepts_what_is_unusual_but_right() {
    let sized = || Raw::v1().size(100);
    for (name, stream) in [
        ("out of order", sized().zero(50, 50).write(0, b"abc").zero(3, 47).end()),
        ("header in another order", Raw::v1().size(1).bytes(b"t").str(b"a").bytes(b"f").str(b"b").end()),
        ("no extents", sized().end()),
        ("no bytes", Raw::v1().size(0).end()),
        ("a long name", Raw::v1().bytes(b"t").str(&[b'a'; NAME_LEN_MAX as usize]).size(0).end()),
        ("what Ceph before 17 says of p", {
            Raw::v2().bytes(b"p").num(8).bytes(b"\x01").rec(b's', body().num(0)).end()
        }),
        ("the same snapshot", Raw::v1().bytes(b"f").str(b"a").bytes(b"t").str(b"a").size(0).end()),
        ("a bare image", Raw::image().diffs(1).diff(None, None, 0)),
        ("a later diff over an earlier one", {
            let zero = || {
                body().bytes(b"rbd diff v2\n").rec(b's', body().num(8)).rec(b'z', body().num(0).num(8)).end()
            };
            let second = body().bytes(b"rbd diff v2\n").rec(b'f', body().str(b"a")).bytes(&zero().0[12..]);
            let first = body().bytes(b"rbd diff v2\n").rec(b't', body().str(b"a")).bytes(&zero().0[12..]);
            Raw::image().diffs(2).bytes(&first.0).bytes(&second.0)
        }),
    ] {
        assert!(read_all(&stream.0).is_ok(), "{name}: {:?}", read_all(&stream.0));
    }
}

#[test]
fn a_spent_reader_says_so() {
    let stream = Raw::v1().size(9).write(0, b"abc").end();
    let mut reader = DiffReader::open(&stream.0[..], StreamKind::DiffV1, Limits::default()).expect("opens");
    assert!(reader.next_event().is_ok());
    assert!(reader.next_event().is_ok());
    assert_eq!(reader.next_event().expect_err("data unread").kind(), ErrorKind::Internal);
}

#[test]
fn the_writer_keeps_the_rules() {
    let header = DiffHeader { size_bytes: 10, ..DiffHeader::default() };
    let writer = || DiffWriter::begin(Vec::new(), DiffVersion::V1, &header).expect("begins");
    assert!(writer().zero(0, 0).is_err());
    assert!(writer().zero(5, 6).is_err());
    assert!(writer().zero(u64::MAX, 2).is_err());
    assert!(writer().begin_data(0, u64::MAX).is_err());
    assert!(writer().data(b"a").is_err());
    let mut overlapping = writer();
    overlapping.zero(0, 5).expect("free");
    assert!(overlapping.zero(4, 1).is_err());
    let mut short = writer();
    short.begin_data(0, 2).expect("free");
    short.data(b"a").expect("one of two");
    assert!(short.zero(5, 1).is_err());
    assert!(short.finish().is_err());
    let named = DiffHeader { to: Some("a@b".to_owned()), ..DiffHeader::default() };
    assert!(DiffWriter::begin(Vec::new(), DiffVersion::V2, &named).is_err());
}

/// Disjoint extents in any order, with their data.
fn extents() -> impl Strategy<Value = (u64, Vec<(Extent, Vec<u8>)>)> {
    let one = (1u64..5000, 0u64..3000, any::<bool>(), any::<u8>());
    let shuffled = proptest::collection::vec(one, 0..12).prop_map(|parts| {
        let mut at = 0;
        let list: Vec<_> = parts
            .into_iter()
            .map(|(length_bytes, gap, data, seed)| {
                let content = if data { Content::Data } else { Content::Zero };
                let extent = Extent { offset_bytes: at + gap, length_bytes, content };
                at = extent.offset_bytes + length_bytes;
                let bytes = (0..if data { length_bytes } else { 0 }).map(|i| seed.wrapping_add(i as u8));
                (extent, bytes.collect::<Vec<u8>>())
            })
            .collect();
        (at, list)
    });
    shuffled.prop_flat_map(|(end, list)| ((end..end + 100), Just(list).prop_shuffle()))
}

fn header(size_bytes: u64, names: (Option<String>, Option<String>)) -> DiffHeader {
    DiffHeader { from: names.0, to: names.1, protected: None, size_bytes }
}

fn encode(version: DiffVersion, header: &DiffHeader, extents: &[(Extent, Vec<u8>)], out: Vec<u8>) -> Vec<u8> {
    let mut writer = DiffWriter::begin(out, version, header).expect("begins");
    for (extent, data) in extents {
        match extent.content {
            Content::Zero => writer.zero(extent.offset_bytes, extent.length_bytes).expect("zero"),
            Content::Data => {
                writer.begin_data(extent.offset_bytes, extent.length_bytes).expect("begin data");
                data.chunks(700).for_each(|piece| writer.data(piece).expect("data"));
            }
        }
    }
    writer.finish().expect("finish")
}

fn expected(header: &DiffHeader, extents: &[(Extent, Vec<u8>)]) -> Vec<(DiffEvent, Vec<u8>)> {
    let begin = (DiffEvent::Begin(header.clone()), Vec::new());
    std::iter::once(begin).chain(extents.iter().map(|(e, d)| (DiffEvent::Extent(*e), d.clone()))).collect()
}

fn name() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[a-zA-Z0-9._ äß-]{1,20}")
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_written_is_read(
        (size, extents) in extents(),
        names in (name(), name()),
        protected in any::<Option<bool>>(),
    ) {
        let mut header = header(size, names);
        let v1 = encode(DiffVersion::V1, &header, &extents, Vec::new());
        prop_assert_eq!(read_all(&v1).expect("v1"), expected(&header, &extents));
        header.protected = protected;
        let v2 = encode(DiffVersion::V2, &header, &extents, Vec::new());
        prop_assert_eq!(read_all(&v2).expect("v2"), expected(&header, &extents));
        let short_reads = DiffReader::open(OneByte(&v2), StreamKind::DiffV2, Limits::default()).and_then(read_with);
        prop_assert_eq!(short_reads.expect("read byte by byte"), expected(&header, &extents));
    }

    #[test]
    fn an_image_that_is_written_is_read(
        diffs in proptest::collection::vec(extents(), 1..4),
        order in 12u8..=25,
        metadata in proptest::collection::btree_map("[a-z/@]{1,9}", ".{0,20}", 0..4),
    ) {
        let layout = ImageLayout {
            order,
            features: 61,
            stripe_unit_bytes: 4096 * u64::from(order != 12),
            stripe_count: 4,
            metadata: metadata.into_iter().collect(),
            parent: None,
        };
        let mut stream = Vec::new();
        write_image_header(&mut stream, &layout, diffs.len() as u64).expect("writes");
        let mut events = Vec::new();
        let mut from = None;
        for (i, (size, extents)) in diffs.iter().enumerate() {
            let to = (i + 1 < diffs.len()).then(|| format!("s{i}"));
            let header = header(*size, (from, to.clone()));
            stream = encode(DiffVersion::V2, &header, extents, stream);
            events.extend(expected(&header, extents));
            from = to;
        }
        let reader = DiffReader::open(&stream[..], StreamKind::ImageV2, Limits::default()).expect("opens");
        prop_assert_eq!(reader.layout(), &layout);
        prop_assert_eq!(read_with(reader).expect("reads"), events);
    }

    /// Nothing tells all changes of a stream, so some are read; but none panics, and every truncation is noticed.
    #[test]
    fn damage_gives_an_error_or_a_stream(
        (size, extents) in extents(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        how in 0..4,
    ) {
        let mut stream = encode(DiffVersion::V2, &header(size, (None, Some("s".to_owned()))), &extents, Vec::new());
        let at = at.index(stream.len());
        match how {
            0 => stream[at] = byte,
            1 => stream.truncate(at),
            2 => stream.insert(at, byte),
            _ => drop(stream.remove(at)),
        }
        let kind = StreamKind::DiffV2;
        let mut consumed = 0;
        let read = DiffReader::open(&stream[..], kind, Limits::default()).and_then(|mut reader| {
            while reader.next_event()?.is_some() {
                while reader.read_data(&mut [0; 512])? > 0 {}
                consumed = reader.offset_bytes();
            }
            Ok(())
        });
        prop_assert!(consumed <= stream.len() as u64);
        prop_assert!(how != 1 || read.is_err(), "cut off at {} and read", at);
    }
}

/// Gives one byte at a time, as a slow pipe may.
struct OneByte<'a>(&'a [u8]);

impl Read for OneByte<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = buf.len().min(1);
        self.0.read(&mut buf[..n])
    }
}
