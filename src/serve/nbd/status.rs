//! What a client is told of zeros and data ("NBD_CMD_BLOCK_STATUS").

use super::exports::Image;
use super::wire::reply::{DESCRIPTORS_MAX, Descriptor};
use crate::error::{Error, Result};
use crate::units::Content;

/// Extents are asked for in windows of this, so that a volume of small chunks takes no more memory than one of large.
const WINDOW_LEN_BYTES: u64 = 256 << 20;

/// The descriptors of a range that is not empty and lies within the image: one or more. They may end early, where there
/// would be too many.
pub async fn descriptors(
    image: &dyn Image,
    offset_bytes: u64,
    length_bytes: u32,
    is_one: bool,
) -> Result<Vec<Descriptor>> {
    let end = offset_bytes.saturating_add(u64::from(length_bytes));
    let most = if is_one { 1 } else { DESCRIPTORS_MAX };
    let mut told: Vec<Descriptor> = Vec::new();
    let mut at = offset_bytes;
    while at < end {
        let window = WINDOW_LEN_BYTES.min(end - at);
        for extent in image.extents(at, window).await? {
            let is_zero = extent.content == Content::Zero;
            // Each is within the range, whose length is a u32.
            let length = u32::try_from(extent.length_bytes)
                .map_err(|e| Error::internal("an extent is longer than its range").caused_by(e))?;
            let count = told.len();
            match told.last_mut() {
                Some(last) if last.is_zero == is_zero => {
                    last.length_bytes = last.length_bytes.saturating_add(length);
                }
                _ if count == most => return Ok(told),
                _ => told.push(Descriptor { length_bytes: length, is_zero }),
            }
        }
        at += window;
    }
    Ok(told)
}
