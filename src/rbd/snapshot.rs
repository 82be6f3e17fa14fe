//! The snapshots of an image.

use std::ptr;

use super::api::SnapInfo;
use super::errno::{self, EDQUOT, EEXIST, ENOENT, ERANGE, c_string};
use super::image::Image;
use crate::error::{Error, ErrorKind, Result};

/// Most snapshots taken of one image.
const SNAPSHOTS_MAX: usize = 1 << 20;
/// `RBD_SNAP_NAMESPACE_TYPE_USER`: made by a user, not by a group, the trash or mirroring.
const NAMESPACE_USER: i32 = 0;

/// A snapshot that a user, or cuttle, made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Unique in its pool, and never used again.
    pub id: u64,
    /// As Ceph has it; unique in its image, and free again once it is removed.
    pub name: String,
    /// Size of the image when it was made.
    pub size_bytes: u64,
}

/// An image's snapshots.
#[derive(Clone, Copy)]
pub struct Snapshots<'a>(&'a Image);

impl Image {
    /// Its snapshots, as the cluster has them when they are asked for.
    pub fn snapshots(&self) -> Snapshots<'_> {
        Snapshots(self)
    }
}

impl Snapshots<'_> {
    /// Those in the user namespace, by id: those of groups, mirroring and the trash are left out.
    ///
    /// A handle that is open read-only sees what there was when it was opened.
    pub fn list(self) -> Result<Vec<Snapshot>> {
        let mut found = self.all()?;
        let mut users = Vec::with_capacity(found.len());
        for snapshot in found.drain(..) {
            let mut namespace = NAMESPACE_USER;
            // SAFETY: an open image; the number is written on success.
            let code = unsafe {
                (self.0.api.rbd_snap_get_namespace_type)(self.0.handle, snapshot.id, &mut namespace)
            };
            if code == -ENOENT {
                continue; // Removed in between.
            }
            self.0.check(code, || format!("reading the kind of snapshot {}", snapshot.name))?;
            if namespace == NAMESPACE_USER {
                users.push(snapshot);
            }
        }
        users.sort_by_key(|s| s.id);
        Ok(users)
    }

    fn all(self) -> Result<Vec<Snapshot>> {
        let blank = SnapInfo { id: 0, size: 0, name: ptr::null() };
        let mut list = vec![blank; 16];
        loop {
            let mut max = i32::try_from(list.len()).unwrap_or(i32::MAX);
            // SAFETY: writes at most `max` entries, the last one blank; sets `max` to what is needed where it is less.
            let code = unsafe { (self.0.api.rbd_snap_list)(self.0.handle, list.as_mut_ptr(), &mut max) };
            let needed = usize::try_from(max).unwrap_or(0);
            if code == -ERANGE && needed > list.len() && needed <= SNAPSHOTS_MAX {
                list.resize(needed, blank);
                continue;
            }
            self.0.check(code, || "listing its snapshots".to_owned())?;
            let count = usize::try_from(code).unwrap_or(0).min(list.len());
            let snapshots = list[..count]
                .iter()
                // SAFETY: the first `count` entries were filled with strings of the library's.
                .map(|s| Snapshot { id: s.id, name: unsafe { errno::text(s.name) }, size_bytes: s.size })
                .collect();
            // SAFETY: frees the strings up to the blank entry, once.
            unsafe { (self.0.api.rbd_snap_list_end)(list.as_mut_ptr()) };
            return Ok(snapshots);
        }
    }

    /// Makes a snapshot of the head and says which it became. A name that is taken is a conflict.
    pub fn create(self, name: &str) -> Result<Snapshot> {
        self.create_unless_taken(name)?.ok_or_else(|| {
            Error::conflict(format!("{}: making snapshot {name}: there is one of that name", self.0.label()))
        })
    }

    /// Makes a snapshot of the head and says which it became; `None` where another one has the name.
    pub fn create_unless_taken(self, name: &str) -> Result<Option<Snapshot>> {
        let c_name = c_string(name)?;
        // SAFETY: an image open for writing; the name lives during the call.
        let code = unsafe { (self.0.api.rbd_snap_create)(self.0.handle, c_name.as_ptr()) };
        match -code {
            EEXIST => return Ok(None),
            EDQUOT => return Err(self.limit_reached(name)),
            _ => self.0.check(code, || format!("making snapshot {name}"))?,
        }
        let made = self.list()?.into_iter().find(|s| s.name == name);
        made.map(Some).ok_or_else(|| {
            Error::new(
                ErrorKind::Conflict,
                format!("{}: snapshot {name} was removed right away", self.0.label()),
            )
        })
    }

    fn limit_reached(self, name: &str) -> Error {
        let mut limit = 0;
        // SAFETY: an open image; the number is written on success. Without it the message says less.
        let known = unsafe { (self.0.api.rbd_snap_get_limit)(self.0.handle, &mut limit) } >= 0;
        let (path, here) = (self.0.label(), self.all().map_or(0, |all| all.len()));
        let most = if known { format!(" of at most {limit}") } else { String::new() };
        // The next one is made before the last one goes.
        let enough = (here as u64 + 1).max(2);
        Error::conflict(format!("{path}: snapshot {name} cannot be made: the image has {here} snapshots{most}")).help(format!(
            "raise the limit with `rbd snap limit set --limit {enough} {path}`, or remove snapshots (`rbd snap ls {path}`); cuttle \
             keeps one on each image, and makes the next one before it removes that"
        ))
    }

    /// Removes a snapshot; an absent one is no error. One that is protected or has clones is a conflict.
    pub fn remove(self, name: &str) -> Result<()> {
        let c_name = c_string(name)?;
        // SAFETY: as above.
        let code = unsafe { (self.0.api.rbd_snap_remove)(self.0.handle, c_name.as_ptr()) };
        if code == -ENOENT {
            return Ok(());
        }
        self.0.check(code, || format!("removing snapshot {name}"))
    }

    /// Makes the head what a snapshot holds, its size too; what was written since is lost.
    pub fn roll_back(self, name: &str) -> Result<()> {
        let c_name = c_string(name)?;
        // SAFETY: as above.
        let code = unsafe { (self.0.api.rbd_snap_rollback)(self.0.handle, c_name.as_ptr()) };
        self.0.check(code, || format!("rolling back to snapshot {name}"))
    }

    /// Keeps a snapshot from being removed, as clones need it. One that is protected is an error.
    pub fn protect(self, name: &str) -> Result<()> {
        let c_name = c_string(name)?;
        // SAFETY: as above.
        let code = unsafe { (self.0.api.rbd_snap_protect)(self.0.handle, c_name.as_ptr()) };
        self.0.check(code, || format!("protecting snapshot {name}"))
    }

    /// Lets a snapshot be removed again. One that clones need, or that is not protected, is an error.
    pub fn unprotect(self, name: &str) -> Result<()> {
        let c_name = c_string(name)?;
        // SAFETY: as above.
        let code = unsafe { (self.0.api.rbd_snap_unprotect)(self.0.handle, c_name.as_ptr()) };
        self.0.check(code, || format!("unprotecting snapshot {name}"))
    }

    /// Whether it is kept from being removed.
    pub fn is_protected(self, name: &str) -> Result<bool> {
        let c_name = c_string(name)?;
        let mut protected = 0;
        // SAFETY: as above; the number is written on success.
        let code =
            unsafe { (self.0.api.rbd_snap_is_protected)(self.0.handle, c_name.as_ptr(), &mut protected) };
        self.0.check(code, || format!("asking whether snapshot {name} is protected"))?;
        Ok(protected != 0)
    }
}
