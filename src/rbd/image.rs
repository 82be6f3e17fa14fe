//! An open image: at its head or at one snapshot, to read or to write.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::time::Instant;

use super::advice;
use super::api::{Api, Handle, ImageInfo};
use super::closing::Closing;
use super::errno::{self, ENOENT, c_string, check};
use super::name;
use super::pool::Pool;
use crate::error::{Error, Result};

/// An open image. It stays what it was opened as: at its head, or at one snapshot.
pub struct Image {
    pub(super) api: &'static Api,
    pub(super) handle: Handle,
    name: String,
    label: String,
    pool: Pool,
    writes: bool,
    /// When it was opened as it is; see [`Closing`].
    since: Instant,
}

// SAFETY: librbd takes calls on one rbd_image_t from many threads, I/O and maintenance alike. The one call that would
// change what others see, rbd_snap_set_by_id, is made before the image is shared.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Drop for Image {
    fn drop(&mut self) {
        let label = std::mem::take(&mut self.label);
        let (api, handle, since, pool) = (self.api, self.handle, self.since, self.pool.clone());
        let closing = Closing { api, handle, label, since, pool };
        if self.writes { closing.now() } else { closing.later() }
    }
}

/// How an image's bytes lie in objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Striping {
    /// Object size as a power of two.
    pub order: u8,
    /// Bytes of one unit: a divisor of the object size, and equal to it without striping.
    pub unit_bytes: u64,
    /// Objects in one stripe; 0 or 1 without striping.
    pub count: u64,
}

impl Striping {
    /// Size of a whole number of objects, and of stripes over them.
    pub fn period_bytes(&self) -> u64 {
        (1_u64 << self.order).saturating_mul(self.objects_per_period())
    }

    /// Over how many objects a stripe goes.
    pub fn objects_per_period(&self) -> u64 {
        self.count.max(1)
    }
}

/// Which image to open.
#[derive(Debug, Clone, Copy)]
pub enum OpenBy<'a> {
    /// By its name, escaped: whatever image has that name now.
    Name(&'a str),
    /// By id, which a rename does not change; the name is for messages.
    Id {
        /// What it was called when it was found.
        name: &'a str,
        /// As Ceph has it.
        id: &'a str,
    },
}

/// What to open of an image, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The head as it is now, without registering with the cluster: later changes are not noticed.
    ReadOnly,
    /// The snapshot with this id, to read.
    Snapshot(u64),
    /// The head, to write and to manage snapshots.
    ReadWrite,
}

impl Image {
    /// Opens it; `NotFound` where there is no such image. With [`Access::ReadWrite`] the cluster counts the handle as a watcher.
    pub fn open(pool: &Pool, by: OpenBy<'_>, access: Access) -> Result<Self> {
        let (api, ioctx) = (pool.inner.api, pool.inner.ioctx);
        let write = access == Access::ReadWrite;
        let (open, name, c_key) = match by {
            OpenBy::Name(name) if write => (api.rbd_open, name, name::c_name(name)?),
            OpenBy::Name(name) => (api.rbd_open_read_only, name, name::c_name(name)?),
            OpenBy::Id { name, id } if write => (api.rbd_open_by_id, name, c_string(id)?),
            OpenBy::Id { name, id } => (api.rbd_open_by_id_read_only, name, c_string(id)?),
        };
        let label = format!("{}/{name}", pool.path());
        let mut handle: Handle = ptr::null_mut();
        // SAFETY: an open ioctx; the key lives during the call; null asks for the head; written only on success.
        let code = unsafe { open(ioctx, c_key.as_ptr(), &mut handle, ptr::null()) };
        if code == -ENOENT {
            let help = format!("see `{}`", advice::list_images(&pool.path()));
            return Err(
                Error::not_found(format!("no image {label} in cluster {}", pool.cluster().fsid())).help(help)
            );
        }
        check(code, || format!("opening image {label}"))?;
        let (name, pool, since) = (name.to_owned(), pool.clone(), Instant::now());
        let mut opened = Self { api, handle, name, label, pool, writes: write, since };
        if let Access::Snapshot(snap_id) = access {
            // SAFETY: an open image that nobody else has yet.
            let code = unsafe { (api.rbd_snap_set_by_id)(opened.handle, snap_id) };
            opened.check(code, || format!("opening snapshot id {snap_id}"))?;
            opened.label = format!("{} at snapshot id {snap_id}", opened.label);
            opened.since = Instant::now();
        }
        Ok(opened)
    }

    /// `pool/[namespace/]image`, and the snapshot's id where it is open at one. For messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Where the image lies.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What it was called when it was looked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The image's id: a rename keeps it, a re-created image has another.
    pub fn id(&self) -> Result<String> {
        let mut buf = [0_u8; 256];
        // SAFETY: writes at most `len` bytes with a NUL.
        let code = unsafe { (self.api.rbd_get_id)(self.handle, buf.as_mut_ptr().cast(), buf.len()) };
        self.check(code, || "reading its id".to_owned()).map_err(|e| {
            e.help("images of format 1 have none and are not supported: convert with `rbd migration`")
        })?;
        Ok(errno::text_of(&buf))
    }

    /// Size of the head or of the snapshot it is open at.
    pub fn size_bytes(&self) -> Result<u64> {
        self.number(self.api.rbd_get_size, "its size")
    }

    /// Bits of [`features`](super::features).
    pub fn features(&self) -> Result<u64> {
        self.number(self.api.rbd_get_features, "its features")
    }

    /// Bits of [`flags`](super::flags), of the head or of the snapshot it is open at.
    pub fn flags(&self) -> Result<u64> {
        self.number(self.api.rbd_get_flags, "its flags")
    }

    /// How its bytes lie in objects.
    pub fn striping(&self) -> Result<Striping> {
        Ok(Striping {
            order: self.order()?,
            unit_bytes: self.number(self.api.rbd_get_stripe_unit, "its stripe unit")?,
            count: self.number(self.api.rbd_get_stripe_count, "its stripe count")?,
        })
    }

    fn order(&self) -> Result<u8> {
        let mut info = std::mem::MaybeUninit::<ImageInfo>::zeroed();
        // SAFETY: writes at most the given size; all bytes zero are a valid value of this plain struct.
        let (code, info) = unsafe {
            let code = (self.api.rbd_stat)(self.handle, info.as_mut_ptr(), size_of::<ImageInfo>());
            (code, info.assume_init())
        };
        self.check(code, || "reading its object size".to_owned())?;
        u8::try_from(info.order).ok().filter(|order| (1..64).contains(order)).ok_or_else(|| {
            Error::corrupt(format!("{}: object size 2^{}: expected 2^12 to 2^25", self.label, info.order))
        })
    }

    /// Changes the head's size; what is cut off is lost, what is added reads as zero.
    pub fn resize(&self, size_bytes: u64) -> Result<()> {
        // SAFETY: an image open for writing.
        let code = unsafe { (self.api.rbd_resize)(self.handle, size_bytes) };
        self.check(code, || format!("resizing it to {size_bytes} bytes"))
    }

    /// Makes the head's object map anew, from the objects that there are: one request for each that there can be.
    pub fn rebuild_object_map(&self) -> Result<()> {
        unsafe extern "C" fn go_on(_: u64, _: u64, _: *mut c_void) -> c_int {
            0
        }
        // SAFETY: an image open for writing; the callback takes any arguments and keeps none.
        let code = unsafe { (self.api.rbd_rebuild_object_map)(self.handle, go_on, ptr::null_mut()) };
        self.check(code, || "rebuilding its object map".to_owned())
    }

    pub(super) fn number(
        &self,
        get: unsafe extern "C" fn(Handle, *mut u64) -> i32,
        what: &str,
    ) -> Result<u64> {
        let mut value = 0;
        // SAFETY: an open image; the number is written on success.
        let code = unsafe { get(self.handle, &mut value) };
        self.check(code, || format!("reading {what}"))?;
        Ok(value)
    }

    pub(super) fn check(&self, code: i32, doing: impl FnOnce() -> String) -> Result<()> {
        check(code, || format!("{}: {}", self.label, doing())).map(|_| ())
    }
}

/// What an image is called in the cluster now, escaped; one that is opened by its id may have been renamed.
pub fn name_now(image: &Image) -> Result<String> {
    let mut buf = [0_u8; 4096];
    let mut len = buf.len();
    // SAFETY: an open image; writes at most `len` bytes with a NUL.
    let code = unsafe { (image.api.rbd_get_name)(image.handle, buf.as_mut_ptr().cast(), &mut len) };
    image.check(code, || "reading its name".to_owned())?;
    // SAFETY: a NUL-terminated string on success.
    Ok(unsafe { name::taken(buf.as_ptr().cast()) })
}
