//! What librados and librbd return, as errors of ours.

use std::ffi::{CString, c_char, c_int};

use crate::error::{Error, ErrorKind, Result};

/// Numbers of errno.h that are asked for by name.
pub(super) const ENOENT: i32 = 2;
pub(super) const EIO: i32 = 5;
pub(super) const EACCES: i32 = 13;
pub(super) const ERANGE: i32 = 34;
const EPERM: i32 = 1;
const EBUSY: i32 = 16;
pub(super) const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const EROFS: i32 = 30;
const EDOM: i32 = 33;
const ENOTSUP: i32 = 95;
pub(super) const ETIMEDOUT: i32 = 110;
pub(super) const EDQUOT: i32 = 122;
pub(super) const ECANCELED: i32 = 125;

/// The non-negative result, or an error that says what was being done.
pub(super) fn check(code: c_int, doing: impl FnOnce() -> String) -> Result<u32> {
    u32::try_from(code).map_err(|_| error(code, doing()))
}

/// An error for a negative result.
pub(super) fn error(code: c_int, doing: impl std::fmt::Display) -> Error {
    let errno = code.saturating_neg();
    let kind = match errno {
        ENOENT => ErrorKind::NotFound,
        EEXIST | EBUSY | EROFS => ErrorKind::Conflict,
        EPERM | EACCES | EINVAL | EDOM | ERANGE => ErrorKind::Invalid,
        ENOTSUP => ErrorKind::Unsupported,
        ECANCELED => ErrorKind::Interrupted,
        _ => ErrorKind::Unavailable,
    };
    let cause = std::io::Error::from_raw_os_error(errno);
    let error = Error::new(kind, format!("{doing}: {cause}")).caused_by(cause);
    match errno {
        EPERM | EACCES => error.help(
            "the Ceph user lacks a capability: `mon 'profile rbd' osd 'profile rbd pool=POOL'` is enough for backup and \
             restore",
        ),
        EROFS => error.help(
            "the image cannot be changed here: it is a non-primary mirror, or another client holds its exclusive lock",
        ),
        _ => error,
    }
}

/// A name as C wants it.
pub(super) fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("{text:?}: a NUL byte cannot be in a name")))
}

/// Text that C handed out; empty where the pointer is null.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string that lives during the call.
pub(super) unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the rest is the caller's promise.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The text of a buffer up to its first NUL.
pub(super) fn text_of(buf: &[u8]) -> String {
    let end = buf.iter().position(|&b| b == 0).unwrap_or(buf.len());
    String::from_utf8_lossy(&buf[..end]).into_owned()
}

/// The strings of a buffer in which each ends with a NUL.
pub(super) fn strings_of(buf: &[u8]) -> Vec<String> {
    let body = buf.strip_suffix(&[0]).unwrap_or(buf);
    if buf.is_empty() {
        return Vec::new();
    }
    body.split(|&b| b == 0).map(|s| String::from_utf8_lossy(s).into_owned()).collect()
}
