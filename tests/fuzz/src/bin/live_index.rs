//! Any bytes as a part of a live index: an error, or exactly the entries that encode to these bytes, ascending by id and each found where it lies. The
//! first byte tells which part of how many.
#![no_main]

use cuttle::format::live::{self, LivePart};
use cuttle::format::table::{ENTRY_LEN_BYTES, encode};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let count = 1 << (which % 9);
    let part = LivePart { number: usize::from(*which) * count / 256, count };
    assert!(live::decode(data, u32::MAX, part).is_err());
    let Ok(entries) = live::decode(data, (data.len() / ENTRY_LEN_BYTES) as u32, part) else { return };
    assert_eq!(encode(&entries), data);
    assert_eq!(live::in_order(entries.clone()), entries);
    for entry in &entries {
        assert_eq!(LivePart::of(&entry.object.name.id, count), part);
    }
});
