//! Which names and texts a stream may hold.

use super::{METADATA_VALUE_LEN_MAX, NAME_LEN_MAX};

/// What kind of text a string of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    SnapshotName,
    MetadataKey,
    MetadataValue,
}

impl Text {
    pub(super) fn len_max(self) -> u32 {
        match self {
            Self::SnapshotName | Self::MetadataKey => NAME_LEN_MAX,
            Self::MetadataValue => METADATA_VALUE_LEN_MAX,
        }
    }

    pub(super) fn what(self) -> &'static str {
        match self {
            Self::SnapshotName => "snapshot name",
            Self::MetadataKey => "metadata key",
            Self::MetadataValue => "metadata value",
        }
    }

    /// The text of some bytes, or what is wrong with them. `/` and `@` separate the parts of an image's name, so no
    /// snapshot that Ceph's own tools can name has them.
    pub(super) fn decode(self, bytes: Vec<u8>) -> Result<String, String> {
        let what = self.what();
        let text = String::from_utf8(bytes)
            .map_err(|e| format!("{what}: expected UTF-8, found {:?}", e.as_bytes()))?;
        self.check(&text).map(|()| text)
    }

    pub(super) fn check(self, text: &str) -> Result<(), String> {
        let what = self.what();
        let forbidden: &[char] = match self {
            Self::SnapshotName => &['\0', '/', '@'],
            Self::MetadataKey => &['\0'],
            Self::MetadataValue => &[],
        };
        if text.is_empty() && self != Self::MetadataValue {
            return Err(format!("{what}: expected at least one byte, found none"));
        }
        if text.len() as u64 > u64::from(self.len_max()) {
            return Err(format!("{what} of {} bytes: expected at most {}", text.len(), self.len_max()));
        }
        match text.chars().find(|c| forbidden.contains(c)) {
            Some(found) => Err(format!("{what} {text:?}: expected no {found:?} in it")),
            None => Ok(()),
        }
    }
}
