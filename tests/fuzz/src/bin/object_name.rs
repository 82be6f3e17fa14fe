//! Any text as a name in a listing: none of ours, or one that is spelled in this way only and leads nowhere else.
#![no_main]

use cuttle::format::ObjectName;
use cuttle::format::names::parse_slot;
use cuttle::units::{ChunkId, ProjectName, VolumeName};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(name) = ObjectName::parse(text) {
        assert_eq!(name.to_string(), text);
        assert!(text.split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
        assert!(text.bytes().all(|c| c.is_ascii_alphanumeric() || b"/._-".contains(&c)));
        let _ = name.object_type();
    }
    if let Ok(name) = text.parse::<ProjectName>() {
        assert_eq!(name.as_str(), text);
        assert!(ObjectName::parse(&format!("projects/{name}/project")).is_some());
    }
    if let Ok(name) = text.parse::<VolumeName>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(id) = text.parse::<ChunkId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(slot) = parse_slot(text) {
        assert_eq!(format!("{slot:016x}"), text);
    }
});
