//! Any bytes as a diff or an export: an error, or extents that keep what the reader promises.
#![no_main]

use cuttle::diff::{DiffEvent, DiffReader, Limits, SNIFF_BYTES, StreamKind};
use cuttle::units::Content;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(Some(kind)) = StreamKind::recognise(&data[..data.len().min(SNIFF_BYTES)]) else { return };
    let Ok(mut reader) = DiffReader::open(data, kind, Limits::default()) else { return };
    let (mut size_bytes, mut diffs) = (0, 0);
    let mut seen: Vec<(u64, u64)> = Vec::new();
    while let Ok(event) = reader.next_event() {
        match event {
            None => {
                assert_eq!(diffs, reader.diff_count());
                assert_eq!(reader.offset_bytes(), data.len() as u64);
                return;
            }
            Some(DiffEvent::Begin(header)) => {
                (size_bytes, diffs) = (header.size_bytes, diffs + 1);
                seen.clear();
            }
            Some(DiffEvent::Extent(extent)) => {
                let (start, end) = (extent.offset_bytes, extent.offset_bytes + extent.length_bytes);
                assert!(start < end && end <= size_bytes);
                assert!(seen.iter().all(|&(s, e)| end <= s || e <= start));
                seen.push((start, end));
                let mut left = if extent.content == Content::Data { extent.length_bytes } else { 0 };
                while let Ok(n @ 1..) = reader.read_data(&mut [0; 100]) {
                    left = left.checked_sub(n as u64).expect("no more data than the extent has");
                }
                if left > 0 {
                    return;
                }
            }
        }
    }
});
