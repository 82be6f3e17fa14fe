//! Streams as a source: real ones of a real cluster, raw bytes, and what is refused before the first extent.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::apply::apply;
use cuttle::ErrorKind;
use cuttle::diff::{DiffHeader, DiffVersion, DiffWriter, Limits, write_image_header};
use cuttle::source::diff_stream::open;
use cuttle::source::states::States;
use cuttle::source::{StreamEvent, StreamSource};
use cuttle::volume::ImageLayout;

/// One line of `expected.tsv`.
struct Expected {
    onto: Option<String>,
    size_bytes: u64,
    blake3: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/diff")
}

fn expected() -> HashMap<String, Expected> {
    let table = fs::read_to_string(folder().join("expected.tsv")).expect("expected.tsv");
    let line = |line: &str| {
        let [stream, onto, size, blake3] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("four columns: {line:?}")
        };
        let onto = (onto != "-").then(|| onto.to_owned());
        (
            stream.to_owned(),
            Expected { onto, size_bytes: size.parse().expect("a size"), blake3: blake3.to_owned() },
        )
    };
    table.lines().filter(|l| !l.starts_with('#')).map(line).collect()
}

fn open_fixture(name: &str) -> Box<dyn StreamSource> {
    let file = File::open(folder().join(name)).expect("a fixture");
    open(file, Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What the volume holds after a stream, and all streams that it is applied onto.
fn replay(name: &str, expected: &HashMap<String, Expected>) -> Vec<u8> {
    let base = match &expected[name].onto {
        Some(onto) => replay(onto, expected),
        None => Vec::new(),
    };
    apply(&mut *open_fixture(name), base).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn real_streams_give_what_the_image_holds() {
    let expected = expected();
    assert_eq!(expected.len(), 20);
    for (name, wanted) in &expected {
        let volume = replay(name, &expected);
        assert_eq!(volume.len() as u64, wanted.size_bytes, "{name}");
        assert_eq!(blake3::hash(&volume).to_string(), wanted.blake3, "{name}");
    }
}

#[test]
fn headers_of_real_streams() {
    let header = |name| open_fixture(name).header().clone();
    let incremental = header("plain-s1-s2.diff1");
    assert_eq!(incremental.from.as_deref(), Some("s1"));
    assert_eq!(incremental.to.as_deref(), Some("s2"));
    assert_eq!(incremental.size_bytes, Some(1500 * 1024 + 333));
    assert_eq!(header("plain-s3-head.diff1").to, None);
    let image = header("plain.image2");
    assert_eq!((image.from, image.to, image.size_bytes), (None, None, None));
    assert_eq!(image.layout.order, 14);
    assert_eq!((image.layout.stripe_unit_bytes, image.layout.stripe_count), (0, 1));
    let metadata = [("conf_rbd_qos_iops_limit", "0"), ("owner", "cuttle")];
    assert_eq!(image.layout.metadata, metadata.map(|(k, v)| (k.to_owned(), v.to_owned())));
    let striped = header("striped.image2").layout;
    assert_eq!((striped.order, striped.stripe_unit_bytes, striped.stripe_count), (15, 4096, 4));
    assert_eq!(header("blank.image2").size_bytes, Some(100 * 1024), "one diff: the size is known at once");
}

#[test]
fn a_full_export_brings_its_snapshots_in_order() {
    let mut stream = open_fixture("plain.image2");
    let mut diffs = Vec::new();
    while let Some(event) = stream.next_event().expect("an event") {
        match event {
            StreamEvent::Diff { size_bytes, to } => diffs.push((size_bytes, to)),
            StreamEvent::Extent(_) => while stream.read_data(&mut [0; 4096]).expect("data") > 0 {},
        }
    }
    let name = |n: &str| Some(n.to_owned());
    let wanted = [
        (1 << 20, name("s1")),
        (1500 * 1024 + 333, name("s2")),
        (1200 * 1024, name("s3")),
        (1200 * 1024, None),
    ];
    assert_eq!(diffs, wanted);
}

/// Each state of an export is a stream of its own, relative to the one before, and together they are the export.
#[test]
fn a_full_export_is_taken_apart_into_its_states() {
    let states = States::of(open_fixture("plain.image2"));
    let mut volume = Vec::new();
    let mut found = Vec::new();
    while let Some(mut state) = states.next_state().expect("a state") {
        let header = state.header().clone();
        volume = apply(&mut *state, volume).expect("reads");
        assert_eq!(header.size_bytes, Some(volume.len() as u64));
        assert_eq!((state.final_size_bytes(), header.layout.order), (volume.len() as u64, 14));
        found.push((header.from, header.to, blake3::hash(&volume).to_string()));
    }
    let expected = expected();
    let name = |n: &str| Some(n.to_owned());
    let wanted = [
        (None, name("s1"), "plain-s1.diff1"),
        (name("s1"), name("s2"), "plain-s1-s2.diff1"),
        (name("s2"), name("s3"), "plain-s3.diff1"),
        (name("s3"), None, "plain.image2"),
    ];
    let wanted = wanted.map(|(from, to, stream)| (from, to, expected[stream].blake3.clone()));
    assert_eq!(found, wanted);
    for (stream, count) in [("plain-s1-s2.diff1", 1), ("blank.image2", 1)] {
        let states = States::of(open_fixture(stream));
        let mut left = 0;
        while let Some(mut state) = states.next_state().expect("a state") {
            apply(&mut *state, vec![0; 2 << 20]).expect("reads");
            left += 1;
        }
        assert_eq!(left, count, "{stream}");
    }
    let raw = States::of(open(slow(&[7; 3_000_000]), Limits::default()).expect("opens"));
    let mut state = raw.next_state().expect("reads").expect("a state");
    assert_eq!(raw.next_state().err().map(|e| e.kind()), Some(ErrorKind::Internal), "not read yet");
    assert!(apply(&mut *state, Vec::new()).is_ok());
}

#[test]
fn every_cut_of_a_real_stream_is_noticed() {
    for name in ["striped-t1-head.diff1", "blank.image2"] {
        let whole = fs::read(folder().join(name)).expect("a fixture");
        for cut in 0..whole.len() {
            let read = open(io::Cursor::new(whole[..cut].to_vec()), Limits::default())
                .and_then(|mut s| apply(&mut *s, vec![0; 300 * 1024]));
            // The first bytes of a banner alone could be the start of anything, but a volume is not that short.
            assert!(read.is_err(), "{name} cut at {cut} was read");
        }
    }
}

/// What the fuzzer found to be different inputs, each read once more: none panics.
#[test]
fn saved_fuzz_inputs_are_read_or_refused() {
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz/diff_stream");
    let (mut read, mut refused) = (0, 0);
    for input in fs::read_dir(inputs).expect("saved inputs") {
        let file = File::open(input.expect("an entry").path()).expect("an input");
        let drained = open(file, Limits::default()).and_then(|mut stream| {
            while stream.next_event()?.is_some() {
                while stream.read_data(&mut [0; 64])? > 0 {}
            }
            Ok(())
        });
        *(if drained.is_ok() { &mut read } else { &mut refused }) += 1;
    }
    assert!(read > 10 && refused > 10, "both kinds are among them: {read} and {refused}");
}

/// Gives its bytes in small pieces, with interruptions between.
struct Slow(io::Cursor<Vec<u8>>, bool);

impl Read for Slow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = buf.len().min(777);
        self.0.read(&mut buf[..len])
    }
}

fn slow(bytes: &[u8]) -> Slow {
    Slow(io::Cursor::new(bytes.to_vec()), false)
}

#[test]
fn a_slow_pipe_gives_the_same() {
    let whole = fs::read(folder().join("striped.image2")).expect("a fixture");
    let mut stream = open(slow(&whole), Limits::default()).expect("opens");
    let volume = apply(&mut *stream, Vec::new()).expect("reads");
    assert_eq!(blake3::hash(&volume).to_string(), expected()["striped.image2"].blake3);
}

#[test]
fn what_has_no_banner_is_raw() {
    for len in [1, 11, 12, 13, 1 << 20, (1 << 20) + 1, 3_000_003] {
        let bytes = crate::support::Numbers::new(len as u64).bytes(len);
        let mut stream = open(slow(&bytes), Limits::default()).expect("opens");
        let header = stream.header();
        assert_eq!((&header.from, &header.to, header.size_bytes), (&None, &None, None));
        assert!(apply(&mut *stream, Vec::new()).expect("reads") == bytes, "{len} bytes are as they were");
        assert_eq!(stream.final_size_bytes(), len as u64);
    }
}

#[test]
fn raw_bytes_have_a_limit() {
    let limits = Limits { size_bytes_max: 1000 };
    let volume = |len| apply(&mut *open(slow(&vec![1; len]), limits).expect("opens"), Vec::new());
    assert_eq!(volume(1000).expect("within").len(), 1000);
    assert_eq!(volume(1001).expect_err("above").kind(), ErrorKind::Invalid);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (bytes, kind, message) in [
        (&b""[..], ErrorKind::Invalid, "the stream is empty"),
        (b"rbd", ErrorKind::Corrupt, "ends within its banner"),
        (b"rbd diff v1", ErrorKind::Corrupt, "ends within its banner"),
        (b"rbd image v2", ErrorKind::Corrupt, "ends where the banner was expected"),
        (b"rbd image v2\r\n and more", ErrorKind::Corrupt, "the banner: expected"),
        (b"rbd diff v3\n and more", ErrorKind::Unsupported, "\"rbd diff v3\\n\": expected one of"),
        (b"rbd image v1\n and more", ErrorKind::Unsupported, "expected one of rbd diff v1"),
        (b"rbd image diffs v2\n and more", ErrorKind::Unsupported, "expected one of rbd diff v1"),
    ] {
        let error = open(io::Cursor::new(bytes), Limits::default()).err().expect("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(message), "{error}");
    }
}

/// What this library writes of the state of a real image, it also reads as that.
#[test]
fn a_written_image_is_read_as_what_it_was() {
    let expected = expected();
    let volume = replay("plain-s3.diff1", &expected);
    let header = DiffHeader { size_bytes: volume.len() as u64, ..DiffHeader::default() };
    let mut out = Vec::new();
    write_image_header(&mut out, &open_fixture("plain.image2").header().layout, 1).expect("a head");
    let mut writer = DiffWriter::begin(out, DiffVersion::V2, &header).expect("begins");
    writer.begin_data(0, header.size_bytes).expect("fits");
    writer.data(&volume).expect("all of it");
    let out = writer.finish().expect("ends");
    let mut stream = open(io::Cursor::new(out), Limits::default()).expect("opens");
    assert_eq!(stream.header().layout, open_fixture("plain.image2").header().layout);
    assert!(apply(&mut *stream, Vec::new()).expect("reads") == volume);
}

/// Removes the images of a test, whatever became of it.
struct Images<'a>(&'a str, Vec<String>);

impl Images<'_> {
    fn rbd(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("rbd");
        command.args(["--conf", self.0]).args(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("rbd runs");
        let mut stdin = child.stdin.take().expect("its input");
        let out = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input).expect("rbd reads the stream"));
            child.wait_with_output().expect("rbd ends")
        });
        assert!(out.status.success(), "rbd {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }
}

impl Drop for Images<'_> {
    fn drop(&mut self) {
        for image in &self.1 {
            for task in [&["snap", "purge"][..], &["rm"]] {
                let mut command = Command::new("rbd");
                let _ = command.args(["--conf", self.0]).args(task).arg(image).output();
            }
        }
    }
}

/// The streams of this library are taken by Ceph's own importer and mean the same there.
#[test]
fn ceph_takes_what_is_written() {
    let Ok(conf) = std::env::var("CUTTLE_TEST_CEPH_CONF") else {
        return crate::support::skip("importing written streams needs a Ceph cluster");
    };
    let name = |part: &str| format!("streams-{part}-{}", std::process::id());
    let (full, diff) = (name("image"), name("diff"));
    let ceph = Images(&conf, vec![full.clone(), diff.clone()]);
    let layout = ImageLayout {
        order: 16,
        features: 1,
        metadata: vec![("k".into(), "v".into())],
        ..Default::default()
    };
    let header = |from: Option<&str>, to: Option<&str>, size_bytes| DiffHeader {
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
        protected: to.map(|_| false),
        size_bytes,
    };
    let mut out = Vec::new();
    write_image_header(&mut out, &layout, 2).expect("a head");
    let mut first =
        DiffWriter::begin(out, DiffVersion::V2, &header(None, Some("a"), 300_000)).expect("begins");
    first.begin_data(100_001, 9).expect("fits");
    first.data(b"something").expect("all of it");
    let second =
        DiffWriter::begin(first.finish().expect("ends"), DiffVersion::V2, &header(Some("a"), None, 200_000));
    let mut second = second.expect("begins");
    second.begin_data(199_990, 10).expect("fits");
    second.data(b"0123456789").expect("all of it");
    second.zero(100_002, 2).expect("free");
    let image = second.finish().expect("ends");
    ceph.rbd(&["import", "--export-format", "2", "-", &full], &image);
    let wanted = apply(&mut *open(io::Cursor::new(image), Limits::default()).expect("opens"), Vec::new());
    let wanted = wanted.expect("reads");
    assert!(ceph.rbd(&["export", &full, "-"], b"") == wanted, "the image is the same in Ceph");
    assert_eq!(ceph.rbd(&["image-meta", "get", &full, "k"], b""), b"v\n");

    ceph.rbd(&["create", "--size", "1M", &diff], b"");
    let mut v1 =
        DiffWriter::begin(Vec::new(), DiffVersion::V1, &header(None, Some("b"), 200_000)).expect("begins");
    v1.zero(5, 50_000).expect("free");
    v1.begin_data(100_001, 99_999).expect("fits");
    v1.data(&wanted[100_001..]).expect("all of it");
    ceph.rbd(&["import-diff", "-", &diff], &v1.finish().expect("ends"));
    assert!(ceph.rbd(&["export", &format!("{diff}@b"), "-"], b"") == wanted, "the diff is the same in Ceph");
}
