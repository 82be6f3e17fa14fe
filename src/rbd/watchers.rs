//! Who has an image open to write.

use std::ptr;

use super::api::ImageWatcher;
use super::errno::{self, ERANGE};
use super::image::Image;
use crate::error::Result;

/// Most watchers taken.
const WATCHERS_MAX: usize = 1024;

/// A client that has an image open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watcher {
    /// The client's address as the cluster has it, with port and nonce: `10.0.0.7:0/1234567`.
    pub address: String,
    /// The number that the cluster gave the client.
    pub client: i64,
}

impl std::fmt::Display for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "client.{} at {}", self.client, self.address)
    }
}

/// Clients that have the image open for writing; this handle itself too, unless it is read-only.
pub fn watchers(image: &Image) -> Result<Vec<Watcher>> {
    let blank = ImageWatcher { addr: ptr::null_mut(), id: 0, cookie: 0 };
    let mut list = vec![blank; 16];
    loop {
        let mut count = list.len();
        // SAFETY: writes at most `count` entries; sets `count` to what there is.
        let code = unsafe { (image.api.rbd_watchers_list)(image.handle, list.as_mut_ptr(), &mut count) };
        if code == -ERANGE && count > list.len() && count <= WATCHERS_MAX {
            list.resize(count, blank);
            continue;
        }
        image.check(code, || "listing its watchers".to_owned())?;
        let count = count.min(list.len());
        let watchers = list[..count]
            .iter()
            // SAFETY: the first `count` entries were filled with strings of the library's.
            .map(|w| Watcher { address: unsafe { errno::text(w.addr) }, client: w.id })
            .collect();
        // SAFETY: frees exactly those strings, once.
        unsafe { (image.api.rbd_watchers_list_cleanup)(list.as_mut_ptr(), count) };
        return Ok(watchers);
    }
}
