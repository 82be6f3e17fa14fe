//! Reading and writing an open image's bytes, from any number of threads.

use super::bits::features;
use super::image::Image;
use super::{advice, errno};
use crate::error::{Error, ErrorKind, Result};

/// `LIBRADOS_OP_FLAG_FADVISE_SEQUENTIAL | LIBRADOS_OP_FLAG_FADVISE_NOCACHE`: a backup reads each byte once, and should
/// not push what guests use out of the OSDs' caches.
const READ_FLAGS: i32 = 0x10 | 0x40;
/// `LIBRADOS_OP_FLAG_FADVISE_SEQUENTIAL`
const WRITE_FLAGS: i32 = 0x10;
/// Most bytes zeroed by one call: bounds the requests that librbd has in flight.
const ZERO_LEN_MAX: u64 = 1 << 30;
/// Bytes written at a time where the library cannot zero.
const ZERO_BUFFER_LEN: u64 = 1 << 20;

impl Image {
    /// Fills all of `buf`. Reading past the end is an error.
    pub fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let rest = &mut buf[done..];
            let at = offset_bytes + done as u64;
            // SAFETY: an open image; writes at most `len` bytes into the buffer, all before it returns.
            let code = unsafe {
                (self.api.rbd_read2)(self.handle, at, rest.len(), rest.as_mut_ptr().cast(), READ_FLAGS)
            };
            let count = count(self, code, rest.len(), || format!("reading {} bytes at {at}", rest.len()))?;
            if count == 0 {
                return Err(Error::invalid(format!(
                    "{}: nothing to read at {at}: past its end",
                    self.label()
                )));
            }
            done += count;
        }
        Ok(())
    }

    /// Writes all of `data`. Writing past the end is an error.
    pub fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let rest = &data[done..];
            let at = offset_bytes + done as u64;
            // SAFETY: an image open for writing; reads `len` bytes of the buffer, all before it returns.
            let code = unsafe {
                (self.api.rbd_write2)(self.handle, at, rest.len(), rest.as_ptr().cast(), WRITE_FLAGS)
            };
            let count = count(self, code, rest.len(), || format!("writing {} bytes at {at}", rest.len()))?;
            if count == 0 {
                return Err(Error::invalid(format!(
                    "{}: nothing written at {at}: past its end",
                    self.label()
                )));
            }
            done += count;
        }
        Ok(())
    }

    /// Makes a range read as zeros, whatever it held and whatever a parent holds there, and frees its space.
    ///
    /// Never by discard: librbd skips discards that are small or unaligned.
    pub fn zero_at(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        let (mut at, end) = (offset_bytes, offset_bytes.saturating_add(length_bytes));
        while at < end {
            let length = (end - at).min(ZERO_LEN_MAX);
            let Some(write_zeroes) = self.api.rbd_write_zeroes else {
                let length = length.min(ZERO_BUFFER_LEN);
                self.write_at(at, &vec![0; length as usize])?;
                at += length;
                continue;
            };
            // SAFETY: an image open for writing; no memory is involved.
            let code = unsafe { write_zeroes(self.handle, at, length as usize, 0, 0) };
            let count = count(self, code, length as usize, || format!("zeroing {length} bytes at {at}"))?;
            if count == 0 {
                return Err(Error::invalid(format!(
                    "{}: nothing zeroed at {at}: past its end",
                    self.label()
                )));
            }
            at += count as u64;
        }
        Ok(())
    }

    /// Makes all writes durable.
    pub fn flush(&self) -> Result<()> {
        // SAFETY: an open image.
        let code = unsafe { (self.api.rbd_flush)(self.handle) };
        self.check(code, || "flushing it".to_owned())
    }
}

fn count(image: &Image, code: isize, asked: usize, doing: impl FnOnce() -> String) -> Result<usize> {
    match usize::try_from(code) {
        Ok(count) if count <= asked => Ok(count),
        Ok(count) => Err(Error::new(
            ErrorKind::Internal,
            format!("{}: {}: librbd says {count}", image.label(), doing()),
        )),
        Err(_) => {
            let code = i32::try_from(code).unwrap_or(-errno::EIO);
            Err(explained(image, errno::error(code, format!("{}: {}", image.label(), doing()))))
        }
    }
}

/// What is not copied yet of an image under live migration is read from its source, and fails where that does: it may be
/// out of reach, or smaller than the image is by now (`EINVAL` of librbd 16.2, where the image was grown since).
fn explained(image: &Image, error: Error) -> Error {
    if image.features().is_ok_and(|bits| bits & features::MIGRATING == 0) {
        return error;
    }
    let path = format!("{}/{}", image.pool().path(), image.name());
    let [execute, commit] = advice::end_migration(&path);
    error.help(format!(
        "the image is under live migration, and what is not copied yet is read from its source (`{}` tells which): end the \
         migration first, with `{execute}` and `{commit}`, or `{}`",
        advice::show_watchers(&path),
        advice::abort_migration(&path),
    ))
}
