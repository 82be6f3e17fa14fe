//! Streams that lie about lengths end in an error at once and in little memory.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::ALLOCATOR;
use cuttle::Result;
use cuttle::diff::Limits;
use cuttle::diff::inspect::inspect;
use cuttle::source::StreamEvent;
use cuttle::source::diff_stream::open;

const TIME_MAX: Duration = Duration::from_secs(1);
const MEMORY_BYTES_MAX: usize = 64 << 20;

/// Reads a stream to its end or error; gives the error's text.
fn drain(read: impl Read + Send + 'static) -> Result<()> {
    let mut stream = open(read, Limits::default())?;
    let mut buf = vec![0; 1 << 20];
    while let Some(event) = stream.next_event()? {
        if let StreamEvent::Extent(_) = event {
            while stream.read_data(&mut buf)? > 0 {}
        }
    }
    Ok(())
}

fn num(n: u64) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

fn stream(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Repeats a record with a rising number in it, without holding the stream in memory.
struct Endless {
    head: io::Cursor<Vec<u8>>,
    record: fn(u64) -> Vec<u8>,
    at: u64,
    end: u64,
}

impl Read for Endless {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.head.read(buf)?;
        if n > 0 || self.at == self.end {
            return Ok(n);
        }
        let records = (self.at..(self.at + 1000).min(self.end)).flat_map(self.record).collect();
        self.at = (self.at + 1000).min(self.end);
        self.head = io::Cursor::new(records);
        self.head.read(buf)
    }
}

fn hostile() -> Vec<(&'static str, Box<dyn Read + Send>)> {
    let huge = num(u64::MAX);
    let v1 = b"rbd diff v1\n";
    let v2 = b"rbd diff v2\n";
    let image = b"rbd image v2\n";
    let sized = [b"s".to_vec(), num(4 << 50)].concat();
    let diffs = [b"E".to_vec(), b"rbd image diffs v2\n".to_vec(), huge.clone()].concat();
    let files = vec![
        ("a name of 4 GiB", stream(&[v1, b"f", &[0xff; 4], &[b'a'; 10_000]])),
        ("a size of 2^64", stream(&[v1, b"s", &huge])),
        ("data of 4 PiB", stream(&[v1, &sized, b"w", &num(0), &num(4 << 50), b"abc"])),
        ("data of 2^64", stream(&[v1, &sized, b"w", &num(0), &huge])),
        ("zeros of 2^64", stream(&[v1, &sized, b"z", &num(1), &huge])),
        ("zeros at 2^64", stream(&[v1, &sized, b"z", &huge, &num(1)])),
        ("a record of 2^64", stream(&[v2, b"f", &huge, &[4, 0, 0, 0], b"abcd"])),
        (
            "a data record of 2^64",
            stream(&[v2, b"s", &num(8), &num(4 << 50), b"w", &huge, &num(0), &num(4 << 50)]),
        ),
        ("an unknown record of 2^64", stream(&[v2, b"x", &huge])),
        ("metadata of 2^64", stream(&[image, b"M", &huge, &[0xff; 4]])),
        ("2^64 diffs", stream(&[image, &diffs])),
        ("an order of 2^64", stream(&[image, b"O", &num(8), &huge])),
    ];
    let mut all: Vec<(&str, Box<dyn Read + Send>)> =
        files.into_iter().map(|(name, bytes)| (name, Box::new(io::Cursor::new(bytes)) as _)).collect();
    let head = |parts: &[&[u8]]| io::Cursor::new(stream(parts));
    let extents = |at| [b"z".to_vec(), num(at * 2), num(1)].concat();
    let backwards = |at| [b"z".to_vec(), num((1 << 40) - at * 2), num(1)].concat();
    let metadata = |at: u64| {
        let key = format!("{at:08}");
        let body = [&[8, 0, 0, 0][..], key.as_bytes(), &[0; 4]].concat();
        [b"M".to_vec(), num(body.len() as u64), body].concat()
    };
    all.push((
        "600,000 extents",
        Box::new(Endless { head: head(&[v1, &sized]), record: extents, at: 0, end: 600_000 }),
    ));
    all.push((
        "extents backwards",
        Box::new(Endless { head: head(&[v1, &sized]), record: backwards, at: 1, end: u64::MAX }),
    ));
    all.push((
        "metadata without end",
        Box::new(Endless { head: head(&[image]), record: metadata, at: 0, end: u64::MAX }),
    ));
    all
}

/// One test alone in its process, so that the allocator counts nothing else.
#[test]
fn hostile_streams_end_in_an_error_at_once_and_in_little_memory() {
    let _alone = crate::ALONE.blocking_lock();
    let before = ALLOCATOR.allocated();
    ALLOCATOR.set_limit(before + MEMORY_BYTES_MAX).expect("a limit above what is in use");
    for (name, read) in hostile() {
        let start = Instant::now();
        let error = drain(read).expect_err(name);
        let took = start.elapsed();
        assert!(error.message().contains("of the stream"), "{name}: {error}");
        // A stream that is in truth that long takes its time.
        assert!(took < TIME_MAX || name.contains("extents"), "{name}: {took:?}");
        assert!(ALLOCATOR.allocated() < before + (1 << 20), "{name}: something stayed allocated");
    }
    for (name, read) in hostile() {
        let start = Instant::now();
        let found = inspect(read, Limits::default(), &mut |_| Ok(())).expect(name);
        let problem = found.problem.expect(name);
        assert!(found.sane == Some(false) && problem.contains("of the stream"), "{name}: {problem}");
        assert!(start.elapsed() < TIME_MAX || name.contains("extents"), "{name}");
    }
}
