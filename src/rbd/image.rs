//! An open image: at its head or at one snapshot, to read or to write.

use std::ffi::{c_int, c_void};
use std::ptr;

use super::advice;
use super::api::{Api, Handle, ImageInfo, ImageWatcher, LinkedImageSpec, SnapSpec};
use super::errno::{self, ENOENT, ERANGE, c_string, check};
use super::name;
use super::pool::Pool;
use crate::error::{Error, Result};

/// Feature bits of an image (Ceph's `rbd/features.h`).
pub mod features {
    pub const LAYERING: u64 = 1 << 0;
    pub const STRIPINGV2: u64 = 1 << 1;
    pub const EXCLUSIVE_LOCK: u64 = 1 << 2;
    pub const OBJECT_MAP: u64 = 1 << 3;
    pub const FAST_DIFF: u64 = 1 << 4;
    pub const DEEP_FLATTEN: u64 = 1 << 5;
    pub const JOURNALING: u64 = 1 << 6;
    pub const DATA_POOL: u64 = 1 << 7;
    /// A live migration is under way: the image is the copy.
    pub const MIGRATING: u64 = 1 << 9;
    /// Those that an image can be created with. The others say what is being done to one.
    pub const CREATABLE: u64 =
        LAYERING | STRIPINGV2 | EXCLUSIVE_LOCK | OBJECT_MAP | FAST_DIFF | DEEP_FLATTEN | JOURNALING;
}

/// Flags of an image's head or snapshot.
pub mod flags {
    pub const OBJECT_MAP_INVALID: u64 = 1 << 0;
    pub const FAST_DIFF_INVALID: u64 = 1 << 1;
}

/// Most bytes of keys or values taken in one page of image metadata.
const METADATA_LEN_MAX: usize = 16 << 20;
/// Pairs asked for in one page of image metadata.
const METADATA_PAGE: u64 = 64;
/// Most pairs of image metadata taken.
const METADATA_COUNT_MAX: usize = 4096;
/// Most images between a clone and what it was cloned from in the end.
const ANCESTORS_MAX: usize = 64;
/// Most watchers taken.
const WATCHERS_MAX: usize = 1024;
/// `RBD_LOCK_MODE_EXCLUSIVE`
const LOCK_MODE_EXCLUSIVE: i32 = 0;

/// An open image. It stays what it was opened as: at its head, or at one snapshot.
pub struct Image {
    pub(super) api: &'static Api,
    pub(super) image: Handle,
    name: String,
    label: String,
    pool: Pool,
}

// SAFETY: librbd takes calls on one rbd_image_t from many threads, I/O and maintenance alike. The one call that would
// change what others see, rbd_snap_set_by_id, is made before the image is shared.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: opened by rbd_open*, closed once; no I/O is under way, as all of it is awaited by callers that
        // borrow this; the pool is alive, as this holds it.
        let code = unsafe { (self.api.rbd_close)(self.image) };
        if code < 0 {
            tracing::warn!("closing {}: error {code}", self.label);
        }
    }
}

/// What a clone was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageParent {
    pub pool: String,
    pub namespace: String,
    pub image: String,
    pub image_id: String,
    pub snapshot: String,
}

impl std::fmt::Display for ImageParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let space = if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) };
        write!(f, "{}/{space}{}@{}", self.pool, self.image, self.snapshot)
    }
}

/// A client that has an image open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watcher {
    pub address: String,
    pub client: i64,
}

impl std::fmt::Display for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "client.{} at {}", self.client, self.address)
    }
}

/// Which image to open.
#[derive(Debug, Clone, Copy)]
pub enum OpenBy<'a> {
    Name(&'a str),
    /// By id, which a rename does not change; the name is for messages.
    Id {
        name: &'a str,
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
        let mut image: Handle = ptr::null_mut();
        // SAFETY: an open ioctx; the key lives during the call; null asks for the head; written only on success.
        let code = unsafe { open(ioctx, c_key.as_ptr(), &mut image, ptr::null()) };
        if code == -ENOENT {
            let help = format!("see `{}`", advice::list_images(&pool.path()));
            return Err(
                Error::not_found(format!("no image {label} in cluster {}", pool.cluster().fsid())).help(help)
            );
        }
        check(code, || format!("opening image {label}"))?;
        let mut opened = Self { api, image, name: name.to_owned(), label, pool: pool.clone() };
        if let Access::Snapshot(snap_id) = access {
            // SAFETY: an open image that nobody else has yet.
            let code = unsafe { (api.rbd_snap_set_by_id)(opened.image, snap_id) };
            opened.check(code, || format!("opening snapshot id {snap_id}"))?;
            opened.label = format!("{} at snapshot id {snap_id}", opened.label);
        }
        Ok(opened)
    }

    /// `pool/[namespace/]image`, and the snapshot's id where it is open at one. For messages.
    pub fn label(&self) -> &str {
        &self.label
    }

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
        let code = unsafe { (self.api.rbd_get_id)(self.image, buf.as_mut_ptr().cast(), buf.len()) };
        self.check(code, || "reading its id".to_owned()).map_err(|e| {
            e.help("images of format 1 have none and are not supported: convert with `rbd migration`")
        })?;
        Ok(errno::text_of(&buf))
    }

    /// Size of the head or of the snapshot it is open at.
    pub fn size_bytes(&self) -> Result<u64> {
        self.number(self.api.rbd_get_size, "its size")
    }

    /// Object size as a power of two.
    pub fn order(&self) -> Result<u8> {
        let mut info = std::mem::MaybeUninit::<ImageInfo>::zeroed();
        // SAFETY: writes at most the given size; all bytes zero are a valid value of this plain struct.
        let (code, info) = unsafe {
            let code = (self.api.rbd_stat)(self.image, info.as_mut_ptr(), size_of::<ImageInfo>());
            (code, info.assume_init())
        };
        self.check(code, || "reading its object size".to_owned())?;
        u8::try_from(info.order).ok().filter(|order| (1..64).contains(order)).ok_or_else(|| {
            Error::corrupt(format!("{}: object size 2^{}: expected 2^12 to 2^25", self.label, info.order))
        })
    }

    /// Bits of [`features`].
    pub fn features(&self) -> Result<u64> {
        self.number(self.api.rbd_get_features, "its features")
    }

    /// Bits of [`flags`], of the head or of the snapshot it is open at.
    pub fn flags(&self) -> Result<u64> {
        self.number(self.api.rbd_get_flags, "its flags")
    }

    pub fn stripe_unit_bytes(&self) -> Result<u64> {
        self.number(self.api.rbd_get_stripe_unit, "its stripe unit")
    }

    pub fn stripe_count(&self) -> Result<u64> {
        self.number(self.api.rbd_get_stripe_count, "its stripe count")
    }

    /// Size of a whole number of objects, and of stripes over them.
    pub fn period_bytes(&self) -> Result<u64> {
        Ok((1_u64 << self.order()?).saturating_mul(self.stripe_count()?.max(1)))
    }

    /// How far a clone's parent shows through, from offset 0; 0 without a parent.
    pub fn parent_overlap_bytes(&self) -> Result<u64> {
        self.number(self.api.rbd_get_overlap, "its overlap with the parent")
    }

    /// What a clone was made from.
    pub fn parent(&self) -> Result<Option<ImageParent>> {
        let null = ptr::null_mut();
        let mut image = LinkedImageSpec {
            pool_id: -1,
            pool_name: null,
            pool_namespace: null,
            image_id: null,
            image_name: null,
            trash: false,
        };
        let mut snap = SnapSpec { id: 0, namespace_type: 0, name: null };
        // SAFETY: both structs are filled on success and untouched otherwise.
        let code = unsafe { (self.api.rbd_get_parent)(self.image, &mut image, &mut snap) };
        if code == -ENOENT {
            return Ok(None);
        }
        self.check(code, || "reading its parent".to_owned())?;
        // SAFETY: the strings are the library's, or null; they are freed once, after they were copied.
        let parent = unsafe {
            let parent = ImageParent {
                pool: name::taken(image.pool_name),
                namespace: name::taken(image.pool_namespace),
                image: name::taken(image.image_name),
                image_id: errno::text(image.image_id),
                snapshot: errno::text(snap.name),
            };
            (self.api.rbd_linked_image_spec_cleanup)(&mut image);
            (self.api.rbd_snap_spec_cleanup)(&mut snap);
            parent
        };
        Ok(Some(parent))
    }

    /// Whether a live migration is under way, of this image or of one that it was cloned from, however far up: librbd looks
    /// there too when it is asked what a clone holds.
    pub fn is_migrating(&self) -> Result<bool> {
        if self.features()? & features::MIGRATING != 0 {
            return Ok(true);
        }
        let mut parent = self.parent()?;
        for _ in 0..ANCESTORS_MAX {
            let Some(ImageParent { pool, namespace, image, image_id, .. }) = parent else { return Ok(false) };
            let pool = self.pool.cluster().pool(&pool, &namespace)?;
            // By id: it may lie in the trash.
            let ancestor = Self::open(&pool, OpenBy::Id { name: &image, id: &image_id }, Access::ReadOnly)?;
            if ancestor.features()? & features::MIGRATING != 0 {
                return Ok(true);
            }
            parent = ancestor.parent()?;
        }
        Err(Error::unsupported(format!("{}: a clone of clones, more than {ANCESTORS_MAX} deep", self.label))
            .help("flatten it, or one of those that it was cloned from, with `rbd flatten`"))
    }

    /// Image metadata, sorted by key.
    pub fn metadata(&self) -> Result<Vec<(String, String)>> {
        let mut all: Vec<(String, String)> = Vec::new();
        loop {
            let start = c_string(all.last().map_or("", |(key, _)| key))?;
            let page = self.metadata_page(&start)?;
            if page.is_empty() {
                all.sort();
                return Ok(all);
            }
            all.extend(page);
            if all.len() > METADATA_COUNT_MAX {
                return Err(Error::invalid(format!(
                    "{}: more than {METADATA_COUNT_MAX} metadata keys",
                    self.label
                )));
            }
        }
    }

    fn metadata_page(&self, start: &std::ffi::CStr) -> Result<Vec<(String, String)>> {
        let (mut keys, mut values) = (vec![0_u8; 4096], vec![0_u8; 16384]);
        loop {
            let (mut keys_len, mut values_len) = (keys.len(), values.len());
            // SAFETY: writes at most the given lengths; sets them to what there is to write.
            let code = unsafe {
                (self.api.rbd_metadata_list)(
                    self.image,
                    start.as_ptr(),
                    METADATA_PAGE,
                    keys.as_mut_ptr().cast(),
                    &mut keys_len,
                    values.as_mut_ptr().cast(),
                    &mut values_len,
                )
            };
            let grown = keys_len > keys.len() || values_len > values.len();
            if code == -ERANGE && grown && keys_len.max(values_len) <= METADATA_LEN_MAX {
                keys.resize(keys_len.max(keys.len()), 0);
                values.resize(values_len.max(values.len()), 0);
                continue;
            }
            self.check(code, || "listing its metadata".to_owned())?;
            let keys = errno::strings_of(&keys[..keys_len.min(keys.len())]);
            let values = errno::strings_of(&values[..values_len.min(values.len())]);
            return Ok(keys.into_iter().zip(values).collect());
        }
    }

    pub fn set_metadata(&self, key: &str, value: &str) -> Result<()> {
        let (c_key, c_value) = (c_string(key)?, c_string(value)?);
        // SAFETY: an open image; the strings live during the call.
        let code = unsafe { (self.api.rbd_metadata_set)(self.image, c_key.as_ptr(), c_value.as_ptr()) };
        self.check(code, || format!("setting metadata {key}"))
    }

    /// Removes a metadata pair; an absent one is no error.
    pub fn remove_metadata(&self, key: &str) -> Result<()> {
        let c_key = c_string(key)?;
        // SAFETY: as above.
        let code = unsafe { (self.api.rbd_metadata_remove)(self.image, c_key.as_ptr()) };
        if code == -ENOENT { Ok(()) } else { self.check(code, || format!("removing metadata {key}")) }
    }

    /// Clients that have the image open for writing; this handle itself too, unless it is read-only.
    pub fn watchers(&self) -> Result<Vec<Watcher>> {
        let blank = ImageWatcher { addr: ptr::null_mut(), id: 0, cookie: 0 };
        let mut list = vec![blank; 16];
        loop {
            let mut count = list.len();
            // SAFETY: writes at most `count` entries; sets `count` to what there is.
            let code = unsafe { (self.api.rbd_watchers_list)(self.image, list.as_mut_ptr(), &mut count) };
            if code == -ERANGE && count > list.len() && count <= WATCHERS_MAX {
                list.resize(count, blank);
                continue;
            }
            self.check(code, || "listing its watchers".to_owned())?;
            let count = count.min(list.len());
            let watchers = list[..count]
                .iter()
                // SAFETY: the first `count` entries were filled with strings of the library's.
                .map(|w| Watcher { address: unsafe { errno::text(w.addr) }, client: w.id })
                .collect();
            // SAFETY: frees exactly those strings, once.
            unsafe { (self.api.rbd_watchers_list_cleanup)(list.as_mut_ptr(), count) };
            return Ok(watchers);
        }
    }

    /// Takes the exclusive lock and does not hand it over while the handle is open: nobody else can write.
    pub fn lock(&self) -> Result<()> {
        // SAFETY: an image open for writing.
        let code = unsafe { (self.api.rbd_lock_acquire)(self.image, LOCK_MODE_EXCLUSIVE) };
        self.check(code, || "taking its exclusive lock".to_owned())
    }

    /// Changes the head's size; what is cut off is lost, what is added reads as zero.
    pub fn resize(&self, size_bytes: u64) -> Result<()> {
        // SAFETY: an image open for writing.
        let code = unsafe { (self.api.rbd_resize)(self.image, size_bytes) };
        self.check(code, || format!("resizing it to {size_bytes} bytes"))
    }

    /// Makes the head's object map anew, from the objects that there are: one request for each that there can be.
    pub fn rebuild_object_map(&self) -> Result<()> {
        unsafe extern "C" fn go_on(_: u64, _: u64, _: *mut c_void) -> c_int {
            0
        }
        // SAFETY: an image open for writing; the callback takes any arguments and keeps none.
        let code = unsafe { (self.api.rbd_rebuild_object_map)(self.image, go_on, ptr::null_mut()) };
        self.check(code, || "rebuilding its object map".to_owned())
    }

    fn number(&self, get: unsafe extern "C" fn(Handle, *mut u64) -> i32, what: &str) -> Result<u64> {
        let mut value = 0;
        // SAFETY: an open image; the number is written on success.
        let code = unsafe { get(self.image, &mut value) };
        self.check(code, || format!("reading {what}"))?;
        Ok(value)
    }

    pub(super) fn check(&self, code: i32, doing: impl FnOnce() -> String) -> Result<()> {
        check(code, || format!("{}: {}", self.label, doing())).map(|_| ())
    }
}
