//! How a stream begins, and what that tells of it.

use crate::error::{Error, Result};

/// Bytes that tell the kinds of stream from each other: as many as the shortest banner has.
pub const SNIFF_BYTES: usize = 12;

pub(super) const BANNER_DIFF_V1: &[u8] = b"rbd diff v1\n";
pub(super) const BANNER_DIFF_V2: &[u8] = b"rbd diff v2\n";
pub(super) const BANNER_IMAGE_V2: &[u8] = b"rbd image v2\n";
pub(super) const BANNER_IMAGE_DIFFS_V2: &[u8] = b"rbd image diffs v2\n";

/// What every banner of a diff or image begins with, of this version or another.
const STEMS: [&[u8]; 3] = [b"rbd diff v", b"rbd image v", b"rbd image diffs v"];
const KINDS: [StreamKind; 3] = [StreamKind::DiffV1, StreamKind::DiffV2, StreamKind::ImageV2];

/// What kind of stream a banner announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// One diff, without lengths of its records.
    DiffV1,
    /// One diff, with a length before each record's body.
    DiffV2,
    /// A full export: metadata, then version 2 diffs.
    ImageV2,
}

impl StreamKind {
    /// All of its banner, the newline included.
    pub fn banner(self) -> &'static [u8] {
        match self {
            Self::DiffV1 => BANNER_DIFF_V1,
            Self::DiffV2 => BANNER_DIFF_V2,
            Self::ImageV2 => BANNER_IMAGE_V2,
        }
    }

    /// The name that the banner spells, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::DiffV1 => "rbd diff v1",
            Self::DiffV2 => "rbd diff v2",
            Self::ImageV2 => "rbd image v2",
        }
    }

    /// The kind of the stream that begins with these bytes, [`SNIFF_BYTES`] of them unless it has fewer; `None` where
    /// they are no banner, so that the stream is raw bytes.
    pub fn recognise(start: &[u8]) -> Result<Option<Self>> {
        if start.is_empty() {
            return Err(Error::invalid(
                "the stream is empty: expected an rbd diff, an rbd export or raw bytes",
            )
            .help("The command that writes it probably failed: look at its messages and its exit code."));
        }
        let known = KINDS.into_iter().find(|k| start.starts_with(&k.banner()[..SNIFF_BYTES]));
        if known.is_some() {
            return Ok(known);
        }
        let shown = start.escape_ascii();
        if start.len() < SNIFF_BYTES && KINDS.iter().any(|k| k.banner().starts_with(start)) {
            return Err(Error::corrupt(format!("the stream ends within its banner: found only \"{shown}\""))
                .help(
                    "The command that writes the stream stopped early: look at its messages and exit code.",
                ));
        }
        if STEMS.iter().any(|stem| start.starts_with(&stem[..stem.len().min(SNIFF_BYTES)])) {
            let expected = KINDS.map(Self::name).join(", ");
            return Err(Error::unsupported(format!(
                "a stream that begins \"{shown}\": expected one of {expected}"
            )));
        }
        Ok(None)
    }
}
