//! Any bytes as a stream: an error, or extents that keep what the trait promises.
#![no_main]

use std::io::Cursor;

use cuttle::diff::Limits;
use cuttle::source::diff_stream::open;
use cuttle::source::{Content, StreamEvent};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(mut stream) = open(Cursor::new(data.to_vec()), Limits::default()) else { return };
    let whole_diff = stream.header().size_bytes;
    let (mut size, mut read) = (None, 0);
    let mut seen: Vec<(u64, u64)> = Vec::new();
    let mut buf = [0; 100];
    loop {
        match stream.next_event() {
            Err(_) => return,
            Ok(None) => break,
            Ok(Some(StreamEvent::Diff { size_bytes, .. })) => {
                size = Some(size_bytes);
                seen.clear();
            }
            Ok(Some(StreamEvent::Extent(extent))) => {
                let (start, end) = (extent.offset_bytes, extent.offset_bytes + extent.length_bytes);
                assert!(start < end && size.is_none_or(|s| end <= s));
                assert!(seen.iter().all(|&(s, e)| end <= s || e <= start));
                seen.push((start, end));
                let mut left = if extent.content == Content::Data { extent.length_bytes } else { 0 };
                while let Ok(n @ 1..) = stream.read_data(&mut buf) {
                    left = left.checked_sub(n as u64).expect("no more data than the extent has");
                    read += n;
                }
                if left > 0 {
                    return;
                }
            }
        }
    }
    assert!(read <= data.len());
    assert!(whole_diff.is_none_or(|s| s == stream.final_size_bytes()));
});
