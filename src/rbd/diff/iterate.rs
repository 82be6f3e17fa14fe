//! librbd's own comparison. Nobody but [`super::compare`] may ask for it: it knows when the answer may be believed.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;

use crate::error::{Error, Result};
use crate::rbd::advice;
use crate::rbd::bits::features;
use crate::rbd::errno::{ECANCELED, c_string};
use crate::rbd::image::Image;

/// What to compare, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// Name of the earlier snapshot; `None` compares with nothing, so finds all data.
    pub from: Option<&'a str>,
    /// The range looked at. Aligned to the stripe period, unless it is the image's end.
    pub offset_bytes: u64,
    pub length_bytes: u64,
    /// Whole objects from the object map: fast where the map is valid; librbd lists the objects itself where not.
    pub whole_object: bool,
    /// Whether what a clone's parent holds counts as its data, where it is compared with nothing.
    pub with_parent: bool,
}

/// A range that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffRange {
    /// Where it begins in the newer end; it may lie beyond the size of the older.
    pub offset_bytes: u64,
    /// As librbd tells it; in the fast diff, of whole objects.
    pub length_bytes: u64,
    /// False where the object, or part of it, is no longer there.
    pub exists: bool,
}

/// What the callback works on.
struct State<'a> {
    found: &'a mut dyn FnMut(DiffRange) -> Result<()>,
    failed: Option<Error>,
    panicked: Option<Box<dyn Any + Send>>,
}

/// Calls `found` with each range that differs; an error from it ends the search and is returned.
///
/// The ranges come in ascending order, but for striped images. librbd collects a request's ranges before it reports the first, so ask for a large image piecewise.
pub(super) fn iterate(
    image: &Image,
    request: Request<'_>,
    found: &mut dyn FnMut(DiffRange) -> Result<()>,
) -> Result<()> {
    if image.features()? & features::MIGRATING != 0 {
        // Not an error of librbd's but a signal that ends the process, where the image is imported.
        return Err(Error::conflict(format!(
            "{}: Ceph cannot tell what changed in an image under live migration",
            image.label()
        ))
        .help(format!(
            "end the migration first: see `{}`",
            advice::show_watchers(&format!("{}/{}", image.pool().path(), image.name()))
        )));
    }
    let from = request.from.map(c_string).transpose()?;
    let mut state = State { found, failed: None, panicked: None };
    // SAFETY: an open image; the name is null or lives during the call. The callback is only called during the
    // call, one at a time, with the state that outlives it.
    let code = unsafe {
        (image.api.rbd_diff_iterate2)(
            image.handle,
            from.as_ref().map_or(ptr::null(), |name| name.as_ptr()),
            request.offset_bytes,
            request.length_bytes,
            u8::from(request.with_parent),
            u8::from(request.whole_object),
            on_range,
            (&raw mut state).cast(),
        )
    };
    if let Some(panic) = state.panicked {
        resume_unwind(panic);
    }
    if let Some(error) = state.failed {
        return Err(error);
    }
    image.check(code, || match request.from {
        Some(from) => format!("finding what changed since snapshot {from}"),
        None => "finding what holds data".to_owned(),
    })
}

/// Hands one range on. Nothing unwinds out of it.
///
/// # Safety
/// `state` points to a [`State`] that nobody else uses during the call.
unsafe extern "C" fn on_range(offset: u64, length: usize, exists: c_int, state: *mut c_void) -> c_int {
    // SAFETY: the caller's promise; librbd calls from one thread at a time.
    let state = unsafe { &mut *state.cast::<State<'_>>() };
    if state.failed.is_some() || state.panicked.is_some() {
        return -ECANCELED;
    }
    let range = DiffRange { offset_bytes: offset, length_bytes: length as u64, exists: exists != 0 };
    match catch_unwind(AssertUnwindSafe(|| (state.found)(range))) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            state.failed = Some(error);
            -ECANCELED
        }
        Err(panic) => {
            state.panicked = Some(panic);
            -ECANCELED
        }
    }
}
