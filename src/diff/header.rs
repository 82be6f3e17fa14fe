//! Reads what comes before the extents: the records of an image, and those at the start of a diff.

use std::io::Read;

use super::input::{Input, corrupt};
use super::name::Text;
use super::{DiffHeader, DiffVersion, Limits, METADATA_BYTES_MAX, METADATA_PAIRS_MAX};
use crate::error::{Error, Result};
use crate::volume::ImageLayout;

/// RBD's smallest and largest object size, as powers of two: 4 KiB and 32 MiB.
const ORDERS: std::ops::RangeInclusive<u64> = 12..=25;

/// Ceph before 17 writes this length before the one byte of a protection flag (Ceph tracker 53243).
const FLAG_LEN_CLAIMED_BY_OLD_CEPH: u64 = 8;

/// The first tag after a diff's header, and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tag {
    pub(super) byte: u8,
    pub(super) offset_bytes: u64,
}

/// A tag as it shows in a message.
pub(super) fn shown(tag: u8) -> String {
    format!("'{}' (0x{tag:02x})", tag.escape_ascii())
}

pub(super) fn read_tag<R: Read>(input: &mut Input<R>) -> Result<Tag> {
    let offset_bytes = input.offset_bytes();
    Ok(Tag { byte: input.u8("the next record")?, offset_bytes })
}

/// Reads the body length that version 2 puts after each tag but the end; `None` in version 1.
pub(super) fn read_body_len<R: Read>(input: &mut Input<R>, version: DiffVersion) -> Result<Option<u64>> {
    match version {
        DiffVersion::V1 => Ok(None),
        DiffVersion::V2 => input.u64("the length of a record").map(Some),
    }
}

/// Compares the length that a record claimed with the one that its body has.
pub(super) fn check_body_len(tag: Tag, claimed: Option<u64>, actual: Option<u64>) -> Result<()> {
    match claimed {
        Some(claimed) if Some(claimed) != actual => {
            let actual = actual.map_or("more than a u64 holds".to_owned(), |a| a.to_string());
            let tag_shown = shown(tag.byte);
            Err(corrupt(
                tag.offset_bytes,
                format!("record {tag_shown} says that it is {claimed} bytes long: expected {actual}"),
            ))
        }
        _ => Ok(()),
    }
}

/// Reads the records `f`, `t`, `p`, `s` of a diff and the tag that follows them.
pub(super) fn read_diff_header<R: Read>(
    input: &mut Input<R>,
    version: DiffVersion,
    limits: &Limits,
) -> Result<(DiffHeader, Tag)> {
    let start = input.offset_bytes();
    let mut header = DiffHeader::default();
    let mut size_bytes = None;
    loop {
        let tag = read_tag(input)?;
        let known = match tag.byte {
            b'f' | b't' | b's' => true,
            b'p' => version == DiffVersion::V2,
            _ => false,
        };
        if !known {
            if !b"wze".contains(&tag.byte) {
                return Err(unknown_tag(tag, "a diff of this version"));
            }
            let missing =
                || corrupt(start, "the diff has no size: expected a record 's' before the first extent");
            header.size_bytes = size_bytes.ok_or_else(missing)?;
            return Ok((header, tag));
        }
        let claimed = read_body_len(input, version)?;
        let body_start = input.offset_bytes();
        match tag.byte {
            b'f' => set(tag, &mut header.from, input.string(Text::SnapshotName)?)?,
            b't' => set(tag, &mut header.to, input.string(Text::SnapshotName)?)?,
            b'p' => {
                set(tag, &mut header.protected, read_flag(input)?)?;
                if claimed == Some(FLAG_LEN_CLAIMED_BY_OLD_CEPH) {
                    continue;
                }
            }
            _ => set(tag, &mut size_bytes, read_size(input, limits)?)?,
        }
        check_body_len(tag, claimed, Some(input.offset_bytes() - body_start))?;
    }
}

fn set<T>(tag: Tag, place: &mut Option<T>, value: T) -> Result<()> {
    if place.is_some() {
        return Err(corrupt(tag.offset_bytes, format!("a second record {}: expected one", shown(tag.byte))));
    }
    *place = Some(value);
    Ok(())
}

fn read_flag<R: Read>(input: &mut Input<R>) -> Result<bool> {
    let at = input.offset_bytes();
    match input.u8("a protection flag")? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(corrupt(at, format!("protection flag {other}: expected 0 or 1"))),
    }
}

fn read_size<R: Read>(input: &mut Input<R>, limits: &Limits) -> Result<u64> {
    let at = input.offset_bytes();
    let size_bytes = input.u64("the image's size")?;
    if size_bytes > limits.size_bytes_max {
        return Err(Error::invalid(format!(
            "at byte {at} of the stream: image size {size_bytes} bytes: expected at most {}",
            limits.size_bytes_max
        )));
    }
    Ok(size_bytes)
}

/// Reads the records of an image, its end tag, the second banner and the count of diffs.
pub(super) fn read_image_header<R: Read>(input: &mut Input<R>) -> Result<(ImageLayout, u64)> {
    let mut layout = ImageLayout::default();
    let (mut order, mut features, mut unit, mut count) = (None, None, None, None);
    let mut metadata_bytes = 0;
    loop {
        let tag = read_tag(input)?;
        if tag.byte == b'E' {
            break;
        }
        if !b"OTUCM".contains(&tag.byte) {
            return Err(unknown_tag(tag, "rbd image v2"));
        }
        let claimed = input.u64("the length of a record")?;
        let body_start = input.offset_bytes();
        let what = "a number of the image";
        match tag.byte {
            b'O' => set(tag, &mut order, read_order(input)?)?,
            b'T' => set(tag, &mut features, input.u64(what)?)?,
            b'U' => set(tag, &mut unit, input.u64(what)?)?,
            b'C' => set(tag, &mut count, input.u64(what)?)?,
            _ => {
                let pair = (input.string(Text::MetadataKey)?, input.string(Text::MetadataValue)?);
                metadata_bytes += pair.0.len() + pair.1.len();
                layout.metadata.push(pair);
            }
        }
        check_body_len(tag, Some(claimed), Some(input.offset_bytes() - body_start))?;
        if metadata_bytes > METADATA_BYTES_MAX || layout.metadata.len() > METADATA_PAIRS_MAX {
            let what = format!(
                "image metadata: expected at most {METADATA_PAIRS_MAX} pairs of {METADATA_BYTES_MAX} bytes together"
            );
            return Err(corrupt(tag.offset_bytes, what));
        }
    }
    layout.order = order.unwrap_or(0);
    layout.features = features.unwrap_or(0);
    // A stripe unit as large as the object means that the image is not striped.
    layout.stripe_unit_bytes = unit.filter(|&u| layout.order == 0 || u != 1 << layout.order).unwrap_or(0);
    layout.stripe_count = count.unwrap_or(0);
    sort_metadata(input.offset_bytes(), &mut layout.metadata)?;
    input.require(super::banner::BANNER_IMAGE_DIFFS_V2, "the banner before the diffs")?;
    let at = input.offset_bytes();
    match input.u64("the number of diffs")? {
        0 => Err(corrupt(at, "0 diffs: expected at least the one of the image itself")),
        diffs => Ok((layout, diffs)),
    }
}

fn read_order<R: Read>(input: &mut Input<R>) -> Result<u8> {
    let at = input.offset_bytes();
    let order = input.u64("the image's order")?;
    if ORDERS.contains(&order) {
        Ok(order as u8)
    } else {
        Err(corrupt(at, format!("image order {order}: expected {} to {}", ORDERS.start(), ORDERS.end())))
    }
}

fn sort_metadata(at: u64, metadata: &mut [(String, String)]) -> Result<()> {
    metadata.sort();
    match metadata.windows(2).find(|w| w[0].0 == w[1].0) {
        Some(twice) => {
            let key = &twice[0].0;
            Err(corrupt(at, format!("metadata key {key:?} twice before here: expected each key once")))
        }
        None => Ok(()),
    }
}

/// An unknown record may hold content, so it is never skipped.
pub(super) fn unknown_tag(tag: Tag, format: &str) -> Error {
    let shown = shown(tag.byte);
    Error::unsupported(format!(
        "at byte {} of the stream: record {shown}, which {format} is not known to have",
        tag.offset_bytes
    ))
    .help("The stream is damaged, or a newer Ceph wrote it. Nothing of it was skipped.")
}
