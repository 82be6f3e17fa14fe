//! Reads a stream of diffs, front to back, once.

use std::io::Read;

use super::banner::BANNER_DIFF_V2;
use super::covered::{Clash, Covered};
use super::header::{self, Tag};
use super::input::{Input, corrupt};
use super::{COVERED_RANGES_MAX, DiffEvent, DiffVersion, Limits, StreamKind};
use crate::error::{Error, Result};
use crate::units::{Content, Extent};
use crate::volume::ImageLayout;

/// Reads one stream. Holds one small buffer and the ranges seen of the current diff, whatever the lengths in it.
///
/// Every error but those of the reader beneath names the byte of the stream. After an error the reader is spent.
pub struct DiffReader<R> {
    input: Input<R>,
    kind: StreamKind,
    version: DiffVersion,
    limits: Limits,
    layout: ImageLayout,
    diffs_total: u64,
    diffs_begun: u64,
    current: Option<Current>,
    last_to: Option<String>,
    unread_bytes: u64,
    spent: bool,
}

/// The diff that is being read.
struct Current {
    size_bytes: u64,
    covered: Covered,
    /// The first tag after the header, until it is used.
    peeked: Option<Tag>,
}

impl<R: Read> DiffReader<R> {
    /// Reads the banner, which must be that of `kind`, and of an image its records.
    pub fn open(read: R, kind: StreamKind, limits: Limits) -> Result<Self> {
        let mut input = Input::new(read);
        input.require(kind.banner(), "the banner")?;
        let (layout, diffs_total) = match kind {
            StreamKind::ImageV2 => header::read_image_header(&mut input)?,
            StreamKind::DiffV1 | StreamKind::DiffV2 => (ImageLayout::default(), 1),
        };
        Ok(Self {
            input,
            kind,
            version: if kind == StreamKind::DiffV1 { DiffVersion::V1 } else { DiffVersion::V2 },
            limits,
            layout,
            diffs_total,
            diffs_begun: 0,
            current: None,
            last_to: None,
            unread_bytes: 0,
            spent: false,
        })
    }

    /// The records of an image; empty for a diff.
    pub fn layout(&self) -> &ImageLayout {
        &self.layout
    }

    /// How many diffs the stream says that it holds.
    pub fn diff_count(&self) -> u64 {
        self.diffs_total
    }

    /// How many bytes of the stream were read.
    pub fn offset_bytes(&self) -> u64 {
        self.input.offset_bytes()
    }

    /// The next event, or `None` when the stream has ended as it should, with nothing behind it.
    pub fn next_event(&mut self) -> Result<Option<DiffEvent>> {
        if self.spent || self.unread_bytes > 0 {
            return Err(Error::internal(format!(
                "a stream was read on at byte {} after an error or before its data",
                self.input.offset_bytes()
            )));
        }
        self.spent = true;
        let event = self.advance()?;
        self.spent = false;
        Ok(event)
    }

    /// Reads on in the data of the current extent: at least one byte while any are left, then 0.
    pub fn read_data(&mut self, buf: &mut [u8]) -> Result<usize> {
        let wanted = self.unread_bytes.min(buf.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let unread = self.unread_bytes;
        let read = self.input.read_some(&mut buf[..wanted], format_args!("{unread} more bytes of data"))?;
        self.unread_bytes -= read as u64;
        Ok(read)
    }

    fn advance(&mut self) -> Result<Option<DiffEvent>> {
        let tag = match &mut self.current {
            None => return self.begin_diff(),
            Some(current) => match current.peeked.take() {
                Some(tag) => tag,
                None => header::read_tag(&mut self.input)?,
            },
        };
        match tag.byte {
            b'w' => self.extent(tag, Content::Data).map(Some),
            b'z' => self.extent(tag, Content::Zero).map(Some),
            b'e' => {
                self.current = None;
                self.begin_diff()
            }
            b'f' | b't' | b's' => Err(self.misplaced(tag)),
            b'p' if self.version == DiffVersion::V2 => Err(self.misplaced(tag)),
            _ => Err(header::unknown_tag(tag, self.kind.name())),
        }
    }

    fn misplaced(&self, tag: Tag) -> Error {
        let shown = header::shown(tag.byte);
        corrupt(tag.offset_bytes, format!("record {shown} after an extent: expected it before the first"))
    }

    fn begin_diff(&mut self) -> Result<Option<DiffEvent>> {
        if self.diffs_begun == self.diffs_total {
            return self.end();
        }
        if self.kind == StreamKind::ImageV2 {
            let what = format!("diff {} of {}", self.diffs_begun + 1, self.diffs_total);
            self.input.require(BANNER_DIFF_V2, &what)?;
        }
        let start = self.input.offset_bytes();
        let (header, tag) = header::read_diff_header(&mut self.input, self.version, &self.limits)?;
        if self.kind == StreamKind::ImageV2 {
            self.check_chain(start, header.from.as_deref(), header.to.as_deref())?;
        }
        self.diffs_begun += 1;
        self.last_to = header.to.clone();
        self.current =
            Some(Current { size_bytes: header.size_bytes, covered: Covered::new(), peeked: Some(tag) });
        Ok(Some(DiffEvent::Begin(header)))
    }

    /// In an image each diff continues where the one before ended, and only the last leads to the image itself.
    fn check_chain(&self, at: u64, from: Option<&str>, to: Option<&str>) -> Result<()> {
        let place = format!("diff {} of {}", self.diffs_begun + 1, self.diffs_total);
        if from != self.last_to.as_deref() {
            let name = |n: Option<&str>| n.map_or("nothing".to_owned(), |n| format!("snapshot {n:?}"));
            let (expected, found) = (name(self.last_to.as_deref()), name(from));
            return Err(corrupt(at, format!("{place} is relative to {found}: expected {expected}")));
        }
        if to.is_none() && self.diffs_begun + 1 < self.diffs_total {
            return Err(corrupt(at, format!("{place} names no snapshot: expected a record 't'")));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Option<DiffEvent>> {
        if self.input.at_end()? {
            return Ok(None);
        }
        let what =
            format!("bytes after the end of diff {}: expected the stream to end here", self.diffs_total);
        Err(corrupt(self.input.offset_bytes(), what))
    }

    fn extent(&mut self, tag: Tag, content: Content) -> Result<DiffEvent> {
        let Some(current) = &mut self.current else {
            return Err(Error::internal("an extent outside of a diff"));
        };
        let claimed = header::read_body_len(&mut self.input, self.version)?;
        let offset_bytes = self.input.u64("an extent's offset")?;
        let length_bytes = self.input.u64("an extent's length")?;
        let data_bytes = if content == Content::Data { length_bytes } else { 0 };
        header::check_body_len(tag, claimed, data_bytes.checked_add(16))?;
        if length_bytes == 0 {
            let what = format!("an extent of no length at offset {offset_bytes}: expected at least one byte");
            return Err(corrupt(tag.offset_bytes, what));
        }
        let size = current.size_bytes;
        let Some(end) = offset_bytes.checked_add(length_bytes).filter(|&end| end <= size) else {
            return Err(corrupt(
                tag.offset_bytes,
                format!(
                    "an extent of {length_bytes} bytes at offset {offset_bytes}: expected it within {size} bytes"
                ),
            ));
        };
        current.covered.add(offset_bytes..end).map_err(|clash| clashing(tag, offset_bytes..end, clash))?;
        self.unread_bytes = data_bytes;
        Ok(DiffEvent::Extent(Extent { offset_bytes, length_bytes, content }))
    }
}

fn clashing(tag: Tag, range: std::ops::Range<u64>, clash: Clash) -> Error {
    let what = format!("the extent of bytes {}..{}", range.start, range.end);
    match clash {
        Clash::Overlap(with) => corrupt(
            tag.offset_bytes,
            format!("{what} overlaps {}..{}, seen before: expected disjoint extents", with.start, with.end),
        ),
        Clash::Forgotten { below_bytes } => Error::unsupported(format!(
            "at byte {} of the stream: {what} comes too late: of more than {COVERED_RANGES_MAX} separate extents only \
             those from {below_bytes} on are remembered, so it cannot be told whether it overlaps one",
            tag.offset_bytes
        ))
        .help("Export with --whole-object, which gives fewer and larger extents."),
    }
}
