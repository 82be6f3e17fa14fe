//! Making an image.

use std::ffi::c_int;
use std::ptr;

use super::api::{Api, Handle, option};
use super::errno::{c_string, check};
use super::name::c_name;
use super::pool::Pool;
use crate::error::Result;

/// What an image is created with. `None` leaves it to the cluster's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// 0 is possible.
    pub size_bytes: u64,
    /// Object size as a power of two.
    pub order: Option<u8>,
    /// Bits of [`features`](super::features), of those that an image can be created with.
    pub features: Option<u64>,
    /// Stripe unit in bytes, and stripe count.
    pub striping: Option<(u64, u64)>,
    /// A pool that holds the data, beside the one that holds the image.
    pub data_pool: Option<String>,
}

/// librbd's set of options, freed with it.
struct Options {
    api: &'static Api,
    handle: Handle,
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: made by rbd_image_options_create, destroyed once.
        unsafe { (self.api.rbd_image_options_destroy)(self.handle) }
    }
}

impl Options {
    fn new(api: &'static Api) -> Self {
        let mut handle: Handle = ptr::null_mut();
        // SAFETY: writes the new handle; it cannot fail.
        unsafe { (api.rbd_image_options_create)(&mut handle) };
        Self { api, handle }
    }

    fn number(&self, name: c_int, value: u64) -> Result<()> {
        // SAFETY: a set of options that is alive.
        let code = unsafe { (self.api.rbd_image_options_set_uint64)(self.handle, name, value) };
        check(code, || format!("image option {name} = {value}")).map(|_| ())
    }

    fn text(&self, name: c_int, value: &str) -> Result<()> {
        let c_value = c_string(value)?;
        // SAFETY: as above; the string lives during the call.
        let code = unsafe { (self.api.rbd_image_options_set_string)(self.handle, name, c_value.as_ptr()) };
        check(code, || format!("image option {name} = {value}")).map(|_| ())
    }
}

impl Pool {
    /// Creates an image in which all reads as zero. One that exists is a conflict.
    pub fn create_image(&self, name: &str, create: &CreateOptions) -> Result<()> {
        let options = Options::new(self.inner.api);
        options.number(option::FORMAT, 2)?;
        if let Some(order) = create.order {
            options.number(option::ORDER, u64::from(order))?;
        }
        if let Some(features) = create.features {
            options.number(option::FEATURES, features)?;
        }
        if let Some((unit_bytes, count)) = create.striping {
            options.number(option::STRIPE_UNIT, unit_bytes)?;
            options.number(option::STRIPE_COUNT, count)?;
        }
        if let Some(data_pool) = &create.data_pool {
            options.text(option::DATA_POOL, data_pool)?;
        }
        let c_name = c_name(name)?;
        // SAFETY: an open ioctx; the name and the options live during the call.
        let code = unsafe {
            (self.inner.api.rbd_create4)(self.inner.ioctx, c_name.as_ptr(), create.size_bytes, options.handle)
        };
        check(code, || format!("creating image {}/{name} of {} bytes", self.path(), create.size_bytes))
            .map(|_| ())
    }
}
