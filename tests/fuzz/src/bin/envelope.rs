//! Any bytes as an object: an error, or a header that says what the bytes are and keeps every limit.
#![no_main]

use cuttle::format::envelope::{HEADER_BOUND_LEN_BYTES, HEADER_LEN_BYTES, Header, checksum, scrub};

const REPO_ID: [u8; 16] = [3; 16];
const NAME: &str = "projects/default/project";

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let decoded = Header::decode(data, data.len() as u64);
    if let Ok(header) = &decoded {
        assert_eq!(header.encode(), data[..HEADER_BOUND_LEN_BYTES]);
        assert_eq!(data.len(), HEADER_LEN_BYTES + header.body_len_bytes as usize);
        assert!(header.plain_len_bytes as usize <= header.object_type.plain_len_bytes_max());
        assert!(data.len() <= header.object_type.object_len_bytes_max());
    }
    // No fuzzer finds a checksum; with the right one the rest decides.
    let Some((head, body)) = data.split_at_checked(HEADER_LEN_BYTES) else {
        assert!(scrub(data, &REPO_ID, NAME).is_err());
        return;
    };
    let sum = checksum(&head[..HEADER_BOUND_LEN_BYTES], &REPO_ID, NAME, body);
    let object = [&head[..HEADER_BOUND_LEN_BYTES], &sum, body].concat();
    assert_eq!(scrub(&object, &REPO_ID, NAME).is_ok(), decoded.is_ok());
    assert!(scrub(&object, &REPO_ID, "repository").is_err());
});
