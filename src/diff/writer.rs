//! Writes diffs and the head of an image, under the rules that the reader enforces.

use std::io::Write;

use super::banner::{BANNER_DIFF_V1, BANNER_DIFF_V2, BANNER_IMAGE_DIFFS_V2, BANNER_IMAGE_V2};
use super::covered::{Clash, Covered};
use super::name::Text;
use super::{DiffHeader, DiffVersion};
use crate::error::{Error, Result, io_error};
use crate::volume::ImageLayout;

/// Writes one diff: header, extents in any order, end.
///
/// Buffers nothing: hand it a buffered writer.
pub struct DiffWriter<W> {
    out: W,
    version: DiffVersion,
    size_bytes: u64,
    covered: Covered,
    missing_bytes: u64,
}

impl<W: Write> DiffWriter<W> {
    /// Writes the banner and the header.
    pub fn begin(out: W, version: DiffVersion, header: &DiffHeader) -> Result<Self> {
        let size_bytes = header.size_bytes;
        let mut writer = Self { out, version, size_bytes, covered: Covered::new(), missing_bytes: 0 };
        writer.put(match version {
            DiffVersion::V1 => BANNER_DIFF_V1,
            DiffVersion::V2 => BANNER_DIFF_V2,
        })?;
        for (tag, name) in [(b'f', &header.from), (b't', &header.to)] {
            if let Some(name) = name {
                Text::SnapshotName.check(name).map_err(Error::invalid)?;
                writer.tag(tag, 4 + name.len() as u64)?;
                writer.put(&string(name))?;
            }
        }
        if let (Some(protected), DiffVersion::V2) = (header.protected, version) {
            writer.tag(b'p', 1)?;
            writer.put(&[u8::from(protected)])?;
        }
        writer.tag(b's', 8)?;
        writer.put(&size_bytes.to_le_bytes())?;
        Ok(writer)
    }

    /// A range that reads as zero.
    pub fn zero(&mut self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.extent(b'z', offset_bytes, length_bytes)
    }

    /// Begins a range of data; [`DiffWriter::data`] must bring all of it.
    pub fn begin_data(&mut self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.extent(b'w', offset_bytes, length_bytes)?;
        self.missing_bytes = length_bytes;
        Ok(())
    }

    /// The next bytes of the range that was begun.
    pub fn data(&mut self, data: &[u8]) -> Result<()> {
        let left = self.missing_bytes.checked_sub(data.len() as u64).ok_or_else(|| {
            Error::internal(format!(
                "{} bytes of data for an extent that lacks {}",
                data.len(),
                self.missing_bytes
            ))
        })?;
        self.put(data)?;
        self.missing_bytes = left;
        Ok(())
    }

    /// Writes the end and gives the writer back, not flushed.
    pub fn finish(mut self) -> Result<W> {
        self.check_complete()?;
        self.put(b"e")?;
        Ok(self.out)
    }

    fn check_complete(&self) -> Result<()> {
        match self.missing_bytes {
            0 => Ok(()),
            missing => Err(Error::internal(format!("the extent before lacks {missing} bytes of data"))),
        }
    }

    fn extent(&mut self, tag: u8, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.check_complete()?;
        let what = format!("an extent of {length_bytes} bytes at offset {offset_bytes}");
        let end =
            offset_bytes.checked_add(length_bytes).filter(|&end| end <= self.size_bytes && length_bytes > 0);
        let end = end.ok_or_else(|| {
            Error::internal(format!("{what}: expected at least one byte and within {}", self.size_bytes))
        })?;
        self.covered.add(offset_bytes..end).map_err(|clash| match clash {
            Clash::Overlap(with) => Error::internal(format!("{what} overlaps {}..{}", with.start, with.end)),
            Clash::Forgotten { .. } => Error::internal(format!("{what} comes too far out of order")),
        })?;
        // A body of 16 more bytes than a u64 holds cannot be within any size.
        self.tag(tag, if tag == b'w' { length_bytes.saturating_add(16) } else { 16 })?;
        self.put(&offset_bytes.to_le_bytes())?;
        self.put(&length_bytes.to_le_bytes())
    }

    fn tag(&mut self, tag: u8, body_bytes: u64) -> Result<()> {
        self.put(&[tag])?;
        match self.version {
            DiffVersion::V1 => Ok(()),
            DiffVersion::V2 => self.put(&body_bytes.to_le_bytes()),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        put(&mut self.out, bytes)
    }
}

/// Writes the head of an image; `diff_count` version 2 diffs must follow, of which the last names no snapshot.
pub fn write_image_header<W: Write>(out: &mut W, layout: &ImageLayout, diff_count: u64) -> Result<()> {
    let mut head = BANNER_IMAGE_V2.to_vec();
    let mut number = |tag: u8, value: u64| {
        head.push(tag);
        head.extend(8u64.to_le_bytes());
        head.extend(value.to_le_bytes());
    };
    if layout.order > 0 {
        number(b'O', u64::from(layout.order));
    }
    number(b'T', layout.features);
    let unstriped = if layout.order > 0 { 1 << layout.order.min(63) } else { 0 };
    let unit = if layout.stripe_unit_bytes > 0 { layout.stripe_unit_bytes } else { unstriped };
    number(b'U', unit);
    number(b'C', layout.stripe_count.max(1));
    for (key, value) in &layout.metadata {
        Text::MetadataKey.check(key).map_err(Error::invalid)?;
        Text::MetadataValue.check(value).map_err(Error::invalid)?;
        let (key, value) = (string(key), string(value));
        head.push(b'M');
        head.extend(((key.len() + value.len()) as u64).to_le_bytes());
        head.extend(key);
        head.extend(value);
    }
    head.push(b'E');
    head.extend(BANNER_IMAGE_DIFFS_V2);
    head.extend(diff_count.to_le_bytes());
    put(out, &head)
}

/// A length and the bytes. Names and values are checked to be far below 2^32 bytes before.
fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn put<W: Write>(out: &mut W, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(|e| io_error("write the stream", e))
}
