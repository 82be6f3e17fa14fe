//! Any text as a path and as a Range header: what is found lies within the image, and a volume's path leads back to it.
#![no_main]

use cuttle::range::{Wanted, wanted};
use cuttle::target::{Target, encode, parse};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((size, text)) = data.split_first_chunk::<8>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let size_bytes = u64::from_le_bytes(*size);
    for value in [text.to_owned(), format!("bytes={text}")] {
        if let Wanted::Part(range) = wanted(&value, size_bytes) {
            assert!(range.start < range.end && range.end <= size_bytes, "{value:?} of {size_bytes}");
        }
    }
    let asked = parse(text).or_else(|| parse(&format!("/{text}")));
    if let Some(Target::Image { volume, sequence: Some(sequence) }) = asked.map(|asked| asked.target) {
        let path = format!("/{}/{sequence}.raw", encode(&volume));
        let again = parse(&path).map(|asked| asked.target);
        // Encoded it may be too long to be looked at.
        assert!(
            again.is_none() || again == Some(Target::Image { volume, sequence: Some(sequence) }),
            "{path}"
        );
    }
});
