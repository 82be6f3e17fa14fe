//! A pool, or one namespace of it, and the images there.

use std::ptr;
use std::sync::Arc;

use super::advice;
use super::api::{Api, Handle, ImageSpec};
use super::cluster::{Cluster, Connection};
use super::errno::{self, ENOENT, ERANGE, check};
use super::name::{self, c_name};
use crate::error::{Error, ErrorKind, Result};

/// Most images or bytes of names taken in one listing.
const LIST_LEN_MAX: usize = 16 << 20;

/// A pool's namespace, opened. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    pub(super) inner: Arc<IoCtx>,
}

pub(super) struct IoCtx {
    pub api: &'static Api,
    pub ioctx: Handle,
    name: String,
    namespace: String,
    cluster: Arc<Connection>,
}

// SAFETY: a rados_ioctx_t may be used from many threads as long as its settings do not change; the namespace is set
// before it is shared, and nothing else ever is.
unsafe impl Send for IoCtx {}
// SAFETY: as above.
unsafe impl Sync for IoCtx {}

impl Drop for IoCtx {
    fn drop(&mut self) {
        // SAFETY: created by rados_ioctx_create, destroyed once; the connection is alive, as this holds it.
        unsafe { (self.api.rados_ioctx_destroy)(self.ioctx) }
    }
}

/// An image as a listing names it; the name is escaped (see `name.rs`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageEntry {
    /// Escaped, and unique in its namespace.
    pub name: String,
    /// As Ceph has it; a rename keeps it.
    pub id: String,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({}/{})", self.inner.name, self.inner.namespace)
    }
}

impl Cluster {
    /// Opens a pool, and in it a namespace; an empty namespace is the default one.
    pub fn pool(&self, name: &str, namespace: &str) -> Result<Pool> {
        Pool::open(self, name, namespace).map_err(|e| {
            if e.kind() != ErrorKind::NotFound || e.help_text().is_some() {
                return e;
            }
            let known = self.pools().unwrap_or_default().join(", ");
            Error::not_found(format!("no pool {name:?} in cluster {}", self.fsid()))
                .help(format!("pools there: {known}"))
                .caused_by(e)
        })
    }
}

impl Pool {
    fn open(cluster: &Cluster, name: &str, namespace: &str) -> Result<Self> {
        let api = cluster.inner.api;
        let mut ioctx: Handle = ptr::null_mut();
        let c_name = c_name(name)?;
        // SAFETY: a connected cluster; the name lives during the call; written only on success.
        let code = unsafe { (api.rados_ioctx_create)(cluster.inner.rados, c_name.as_ptr(), &mut ioctx) };
        check(code, || format!("opening pool {name}"))?;
        let inner = IoCtx {
            api,
            ioctx,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            cluster: cluster.inner.clone(),
        };
        if !namespace.is_empty() {
            let c_namespace = name::c_name(namespace)?;
            let mut exists = false;
            // SAFETY: an open ioctx; the name lives during the call.
            let code = unsafe { (api.rbd_namespace_exists)(inner.ioctx, c_namespace.as_ptr(), &mut exists) };
            check(code, || format!("looking for namespace {namespace} in pool {name}"))?;
            if !exists {
                return Err(Error::not_found(format!("no namespace {namespace:?} in pool {name}"))
                    .help(format!("see `{}`", advice::list_namespaces(name))));
            }
            // SAFETY: an open ioctx that nobody else has yet.
            unsafe { (api.rados_ioctx_set_namespace)(inner.ioctx, c_namespace.as_ptr()) };
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The pool's name alone, escaped.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Empty for the default namespace.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// The identity of the cluster that the pool is in.
    pub fn cluster(&self) -> Cluster {
        Cluster { inner: self.inner.cluster.clone() }
    }

    /// The pool and namespace as part of an image's full name: `pool` or `pool/namespace`.
    pub fn path(&self) -> String {
        if self.inner.namespace.is_empty() {
            self.inner.name.clone()
        } else {
            format!("{}/{}", self.inner.name, self.inner.namespace)
        }
    }

    /// Namespaces of the pool, but for the default one.
    pub fn namespaces(&self) -> Result<Vec<String>> {
        let mut buf: Vec<u8> = vec![0; 1024];
        loop {
            let mut len = buf.len();
            // SAFETY: writes at most `len` bytes; sets `len` to what is needed.
            let code = unsafe {
                (self.inner.api.rbd_namespace_list)(self.inner.ioctx, buf.as_mut_ptr().cast(), &mut len)
            };
            if code == -ERANGE && len > buf.len() && len <= LIST_LEN_MAX {
                buf.resize(len, 0);
                continue;
            }
            check(code, || format!("listing the namespaces of pool {}", self.name()))?;
            return Ok(errno::strings_of(&buf[..len.min(buf.len())]));
        }
    }

    /// Images of the namespace, by name. Those in the trash are not among them.
    pub fn images(&self) -> Result<Vec<ImageEntry>> {
        let api = self.inner.api;
        let blank = ImageSpec { id: ptr::null_mut(), name: ptr::null_mut() };
        let mut specs = vec![blank; 64];
        loop {
            let mut count = specs.len();
            // SAFETY: writes at most `count` entries; sets `count` to what there is.
            let code = unsafe { (api.rbd_list2)(self.inner.ioctx, specs.as_mut_ptr(), &mut count) };
            if code == -ERANGE && count > specs.len() && count <= LIST_LEN_MAX {
                specs.resize(count, blank);
                continue;
            }
            check(code, || format!("listing the images of {}", self.path()))?;
            let count = count.min(specs.len());
            let mut entries: Vec<_> = specs[..count]
                .iter()
                // SAFETY: the first `count` entries were filled with strings of the library's.
                .map(|s| unsafe { ImageEntry { name: name::taken(s.name), id: errno::text(s.id) } })
                .collect();
            // SAFETY: frees exactly those strings, once.
            unsafe { (api.rbd_image_spec_list_cleanup)(specs.as_mut_ptr(), count) };
            entries.sort();
            return Ok(entries);
        }
    }

    /// Removes an image that has no snapshots. Nothing by that name is no error.
    pub fn remove_image(&self, name: &str) -> Result<()> {
        let c_name = c_name(name)?;
        // SAFETY: an open ioctx; the name lives during the call.
        let code = unsafe { (self.inner.api.rbd_remove)(self.inner.ioctx, c_name.as_ptr()) };
        if code == -ENOENT {
            return Ok(());
        }
        check(code, || format!("removing image {}/{name}", self.path())).map(|_| ())
    }

    /// Gives an image another name. One that has it already is a conflict.
    pub fn rename_image(&self, from: &str, to: &str) -> Result<()> {
        let (c_from, c_to) = (c_name(from)?, c_name(to)?);
        // SAFETY: an open ioctx; the names live during the call.
        let code = unsafe { (self.inner.api.rbd_rename)(self.inner.ioctx, c_from.as_ptr(), c_to.as_ptr()) };
        check(code, || format!("renaming image {}/{from} to {to}", self.path())).map(|_| ())
    }
}
