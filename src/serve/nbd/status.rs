//! What a client is told of zeros and data ("NBD_CMD_BLOCK_STATUS").

use super::exports::Image;
use super::wire::reply::{DESCRIPTORS_MAX, Descriptor};
use crate::error::{Error, Result};
use crate::units::Content;

/// The descriptors of a range that is not empty and lies within the image: one or more. They may end early, where there
/// would be too many.
pub(super) async fn descriptors(
    image: &dyn Image,
    offset_bytes: u64,
    length_bytes: u32,
    is_one: bool,
) -> Result<Vec<Descriptor>> {
    let most = if is_one { 1 } else { DESCRIPTORS_MAX };
    let extents = image.extents(offset_bytes, u64::from(length_bytes), most).await?;
    let told = extents.iter().map(|extent| {
        // Each is within the range, whose length is a u32.
        let length_bytes = u32::try_from(extent.length_bytes)
            .map_err(|e| Error::internal("an extent is longer than its range").caused_by(e))?;
        Ok(Descriptor { length_bytes, is_zero: extent.content == Content::Zero })
    });
    told.collect()
}
