//! The metadata of an image: pairs of words that stay with it.

use super::errno::{self, ENOENT, ERANGE, c_string};
use super::image::Image;
use crate::error::{Error, Result};

/// Most bytes of keys or values taken in one page.
const PAGE_LEN_MAX: usize = 16 << 20;
/// Pairs asked for in one page.
const PAGE_COUNT: u64 = 64;
/// Most pairs taken.
const COUNT_MAX: usize = 4096;

/// An image's metadata.
#[derive(Clone, Copy)]
pub struct Metadata<'a>(&'a Image);

impl Image {
    /// Its pairs, as the cluster has them when they are asked for.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata(self)
    }
}

impl Metadata<'_> {
    /// All pairs, sorted by key.
    pub fn list(self) -> Result<Vec<(String, String)>> {
        let mut all: Vec<(String, String)> = Vec::new();
        loop {
            let start = c_string(all.last().map_or("", |(key, _)| key))?;
            let page = self.page(&start)?;
            if page.is_empty() {
                all.sort();
                return Ok(all);
            }
            all.extend(page);
            if all.len() > COUNT_MAX {
                return Err(Error::invalid(format!(
                    "{}: more than {COUNT_MAX} metadata keys",
                    self.0.label()
                )));
            }
        }
    }

    fn page(self, start: &std::ffi::CStr) -> Result<Vec<(String, String)>> {
        let (mut keys, mut values) = (vec![0_u8; 4096], vec![0_u8; 16384]);
        loop {
            let (mut keys_len, mut values_len) = (keys.len(), values.len());
            // SAFETY: writes at most the given lengths; sets them to what there is to write.
            let code = unsafe {
                (self.0.api.rbd_metadata_list)(
                    self.0.handle,
                    start.as_ptr(),
                    PAGE_COUNT,
                    keys.as_mut_ptr().cast(),
                    &mut keys_len,
                    values.as_mut_ptr().cast(),
                    &mut values_len,
                )
            };
            let grown = keys_len > keys.len() || values_len > values.len();
            if code == -ERANGE && grown && keys_len.max(values_len) <= PAGE_LEN_MAX {
                keys.resize(keys_len.max(keys.len()), 0);
                values.resize(values_len.max(values.len()), 0);
                continue;
            }
            self.0.check(code, || "listing its metadata".to_owned())?;
            let keys = errno::strings_of(&keys[..keys_len.min(keys.len())]);
            let values = errno::strings_of(&values[..values_len.min(values.len())]);
            return Ok(keys.into_iter().zip(values).collect());
        }
    }

    /// Sets a pair, in place of what the key had. A `conf_…` key configures librbd.
    pub fn set(self, key: &str, value: &str) -> Result<()> {
        let (c_key, c_value) = (c_string(key)?, c_string(value)?);
        // SAFETY: an open image; the strings live during the call.
        let code = unsafe { (self.0.api.rbd_metadata_set)(self.0.handle, c_key.as_ptr(), c_value.as_ptr()) };
        self.0.check(code, || format!("setting metadata {key}"))
    }

    /// Removes a pair; an absent one is no error.
    pub fn remove(self, key: &str) -> Result<()> {
        let c_key = c_string(key)?;
        // SAFETY: as above.
        let code = unsafe { (self.0.api.rbd_metadata_remove)(self.0.handle, c_key.as_ptr()) };
        if code == -ENOENT { Ok(()) } else { self.0.check(code, || format!("removing metadata {key}")) }
    }
}
