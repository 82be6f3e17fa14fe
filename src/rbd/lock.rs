//! Who holds an image's exclusive lock, and whether it answers.
//!
//! What changes an image (making a snapshot, removing one) is asked of who holds the lock. One that does not answer is
//! waited for until the cluster has forgotten it; then librbd takes the lock away, and has the cluster refuse all further
//! requests of that client: a guest that was only slow or cut off gets errors from its disk until it is started again. librbd
//! does not ask before, so it is looked at here.

use std::ptr;

use super::bits::features;
use super::errno::{self, ENOENT, ETIMEDOUT, c_string};
use super::image::Image;
use super::watchers::watchers;
use crate::error::{Error, Result};

/// `RBD_LOCK_MODE_EXCLUSIVE`
const LOCK_MODE_EXCLUSIVE: i32 = 0;
/// Most owners taken. An exclusive lock has one.
const OWNERS_MAX: usize = 16;
/// Most answers of watchers taken.
const ANSWERS_MAX: u32 = 65_536;

/// Who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOwner {
    /// The client's address as the cluster has it, with port and nonce: `10.0.0.7:0/1234567`.
    pub address: String,
    /// Whether the cluster still hears of it. One that it does not hear of any more is taken for dead.
    pub watches: bool,
    /// Whether it answered just now.
    pub answers: bool,
}

/// Takes the exclusive lock and does not hand it over while the handle is open: nobody else can write.
pub fn take(image: &Image) -> Result<()> {
    // SAFETY: an image open for writing.
    let code = unsafe { (image.api.rbd_lock_acquire)(image.handle, LOCK_MODE_EXCLUSIVE) };
    image.check(code, || "taking its exclusive lock".to_owned())
}

/// Who holds the exclusive lock, asked for a sign of life for at most `timeout_ms`; `None` where nobody does. The image
/// must be open for writing.
pub fn owner(image: &Image, timeout_ms: u64) -> Result<Option<LockOwner>> {
    if image.features()? & features::EXCLUSIVE_LOCK == 0 {
        return Ok(None);
    }
    let Some(address) = address(image)? else { return Ok(None) };
    let watchers = watchers(image)?;
    let Some(watcher) = watchers.iter().find(|w| w.address == address) else {
        return Ok(Some(LockOwner { address, watches: false, answers: false }));
    };
    let silent = silent_watchers(image, timeout_ms)?;
    Ok(Some(LockOwner { address, watches: true, answers: !silent.contains(&watcher.client) }))
}

fn address(image: &Image) -> Result<Option<String>> {
    let (mut mode, mut owners, mut count) = (0, [ptr::null_mut(); OWNERS_MAX], OWNERS_MAX);
    // SAFETY: an image open for writing; writes at most `count` pointers and sets `count` to what there is.
    let code =
        unsafe { (image.api.rbd_lock_get_owners)(image.handle, &mut mode, owners.as_mut_ptr(), &mut count) };
    if code == -ENOENT {
        return Ok(None);
    }
    image.check(code, || "asking who holds its exclusive lock".to_owned())?;
    let count = count.min(OWNERS_MAX);
    // SAFETY: the first `count` were filled with strings of the library's, freed once, after one was copied.
    let address = unsafe {
        let address = owners.iter().take(count).map(|owner| errno::text(*owner)).next();
        (image.api.rbd_lock_get_owners_cleanup)(owners.as_mut_ptr(), count);
        address
    };
    Ok(address)
}

/// Clients that have the image open and do not answer. The question is the one by which clients tell each other that an
/// image's header changed, with nothing in it: whoever hears it looks at the header again.
fn silent_watchers(image: &Image, timeout_ms: u64) -> Result<Vec<i64>> {
    let header = c_string(&format!("rbd_header.{}", image.id()?))?;
    let (mut reply, mut len): (*mut std::ffi::c_char, usize) = (ptr::null_mut(), 0);
    // SAFETY: an open ioctx; the name lives during the call; the reply is the library's, written in any case.
    let code = unsafe {
        (image.api.rados_notify2)(
            image.pool().inner.ioctx,
            header.as_ptr(),
            c"".as_ptr(),
            0,
            timeout_ms,
            &mut reply,
            &mut len,
        )
    };
    let mut answer = Vec::new();
    if !reply.is_null() {
        // SAFETY: the library's buffer of `len` bytes, copied and then freed once.
        unsafe {
            answer.extend_from_slice(std::slice::from_raw_parts(reply.cast::<u8>(), len));
            (image.api.rados_buffer_free)(reply);
        }
    }
    if code == -ETIMEDOUT {
        return silent_in(&answer)
            .ok_or_else(|| Error::unavailable(format!("{}: its watchers did not answer", image.label())));
    }
    image.check(code, || "asking its watchers".to_owned())?;
    Ok(Vec::new())
}

/// Who did not answer, from what `rados_notify2` says: u32 count of answers, each u64 client, u64 cookie, u32 length and bytes;
/// u32 count of those that did not, each u64 client, u64 cookie.
fn silent_in(mut reply: &[u8]) -> Option<Vec<i64>> {
    for _ in 0..bounded(first(&mut reply)?)? {
        first::<16>(&mut reply)?;
        let length = u32::from_le_bytes(first(&mut reply)?);
        reply = reply.get(length as usize..)?;
    }
    let mut silent = Vec::new();
    for _ in 0..bounded(first(&mut reply)?)? {
        silent.push(i64::from_le_bytes(first(&mut reply)?));
        first::<8>(&mut reply)?;
    }
    Some(silent)
}

fn bounded(count: [u8; 4]) -> Option<u32> {
    Some(u32::from_le_bytes(count)).filter(|count| *count <= ANSWERS_MAX)
}

fn first<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::silent_in;

    #[test]
    fn who_did_not_answer() {
        let mut reply = Vec::new();
        reply.extend(1_u32.to_le_bytes());
        reply.extend(7_u64.to_le_bytes());
        reply.extend(70_u64.to_le_bytes());
        reply.extend(3_u32.to_le_bytes());
        reply.extend(b"abc");
        reply.extend(2_u32.to_le_bytes());
        for client in [8_u64, 9] {
            reply.extend(client.to_le_bytes());
            reply.extend(80_u64.to_le_bytes());
        }
        assert_eq!(silent_in(&reply), Some(vec![8, 9]));
        for len in 0..reply.len() {
            assert_eq!(silent_in(&reply[..len]), None, "{len}");
        }
        assert_eq!(silent_in(&[0xff; 64]), None);
        assert_eq!(silent_in(&[0; 8]), Some(vec![]));
    }
}
