//! Making an image: a new one, or a clone of another one's snapshot.

use std::ffi::c_int;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use super::api::{Api, Handle, option};
use super::errno::{c_string, check};
use super::image::{Access, Image, OpenBy};
use super::name::c_name;
use super::pool::Pool;
use crate::error::{ErrorKind, Result};

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

/// The snapshot that an image is cloned from, as it is called now: librbd takes names. Whoever cares which it was looks at the clone.
#[derive(Debug, Clone, Copy)]
pub struct CloneOf<'a> {
    /// Where its image lies.
    pub pool: &'a Pool,
    /// Escaped.
    pub image: &'a str,
    /// As Ceph has it.
    pub snapshot: &'a str,
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

    fn of(api: &'static Api, create: &CreateOptions) -> Result<Self> {
        let options = Self::new(api);
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
        Ok(options)
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
        let options = Options::of(self.inner.api, create)?;
        let c_name = c_name(name)?;
        // SAFETY: an open ioctx; the name and the options live during the call.
        let code = unsafe {
            (self.inner.api.rbd_create4)(self.inner.ioctx, c_name.as_ptr(), create.size_bytes, options.handle)
        };
        check(code, || format!("creating image {}/{name} of {} bytes", self.path(), create.size_bytes))
            .map(|_| ())
    }

    /// Creates an image that shows a snapshot, and has its size and its image's metadata. Whether its snapshot must be protected for that
    /// is the cluster's to say (`rbd_default_clone_format`, and which clients it lets in): then it is.
    pub fn clone_image(&self, name: &str, of: &CloneOf<'_>, create: &CreateOptions) -> Result<()> {
        // librbd opens the parent, and closes it at once where it refuses: too fast for itself (see `closing.rs`). So it is not made to refuse.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let is_protected = || {
            let parent = Image::open(of.pool, OpenBy::Name(of.image), Access::ReadOnly)?;
            parent.snapshots().is_protected(of.snapshot)
        };
        if !of.pool.cluster().protects_parents()? || is_protected()? {
            let made = self.clone_as_it_is(name, of, create);
            // A pool may have another format of its own.
            let refused = made.as_ref().is_err_and(|error| error.kind() == ErrorKind::Invalid);
            if !refused || is_protected()? {
                return made;
            }
        }
        let parent = Image::open(of.pool, OpenBy::Name(of.image), Access::ReadWrite)?;
        let protected = parent.snapshots().protect(of.snapshot);
        drop(parent);
        // Another process that clones it may have been faster.
        if protected.is_err() && !is_protected()? {
            return protected;
        }
        self.clone_as_it_is(name, of, create)
    }

    fn clone_as_it_is(&self, name: &str, of: &CloneOf<'_>, create: &CreateOptions) -> Result<()> {
        let options = Options::of(self.inner.api, create)?;
        let (c_image, c_snapshot, c_made) = (c_name(of.image)?, c_string(of.snapshot)?, c_name(name)?);
        // SAFETY: two open ioctxs; the names and the options live during the call.
        let code = unsafe {
            (self.inner.api.rbd_clone3)(
                of.pool.inner.ioctx,
                c_image.as_ptr(),
                c_snapshot.as_ptr(),
                self.inner.ioctx,
                c_made.as_ptr(),
                options.handle,
            )
        };
        let (of, path) = (format!("{}/{}@{}", of.pool.path(), of.image, of.snapshot), self.path());
        check(code, || format!("cloning {of} as {path}/{name}")).map(|_| ())
    }
}
