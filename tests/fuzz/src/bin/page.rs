//! Any bytes as a manifest page or a table of a prune round: an error, or exactly what encodes to these bytes.
#![no_main]

use cuttle::format::gc::Condemned;
use cuttle::format::page::{Page, PageRef};
use cuttle::format::{CLOSURE_LEN_MAX, REFS_PER_PAGE, table};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(table) = Condemned::decode(data, (data.len() / 8) as u32) {
        assert_eq!(table.encode(), data);
    }
    if let Ok(entries) = table::decode(data, (data.len() / table::ENTRY_LEN_BYTES) as u32) {
        assert_eq!(table::encode(&entries), data);
    }
    let Some(head) = data.first_chunk::<8>() else { return };
    let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let Ok(page) = Page::decode(data, head[0], count) else { return };
    assert_eq!(page.encode(), data);
    assert!(page.refs.len() == count && count <= REFS_PER_PAGE);
    for page_ref in &page.refs {
        let objects = page_ref.objects().count();
        assert!(objects <= CLOSURE_LEN_MAX + 1 && page_ref.is_zero() == (objects == 0));
        assert!(matches!(page_ref, PageRef::Zero) || page.level == 0 || objects == 1);
    }
    // Another level or count is another page.
    assert!(Page::decode(data, head[0].wrapping_add(1), count).is_err());
    assert!(Page::decode(data, head[0], count + 1).is_err());
});
