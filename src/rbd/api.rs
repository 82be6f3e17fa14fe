//! The C functions used, resolved one by one, and the types that cross the border.

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

use libloading::os::unix::Library;

use crate::error::{Error, Result};

const LIBRADOS: &str = "librados.so.2";
const LIBRBD: &str = "librbd.so.1";

pub(super) type Handle = *mut c_void;
pub(super) type ProgressCallback = unsafe extern "C" fn(u64, u64, *mut c_void) -> c_int;
pub(super) type DiffCallback = unsafe extern "C" fn(u64, usize, c_int, *mut c_void) -> c_int;

/// `rbd_image_info_t` of librbd.h.
#[repr(C)]
pub(super) struct ImageInfo {
    pub size: u64,
    pub obj_size: u64,
    pub num_objs: u64,
    pub order: c_int,
    pub block_name_prefix: [c_char; 24],
    pub parent_pool: i64,
    pub parent_name: [c_char; 96],
}

/// `rbd_image_spec_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ImageSpec {
    pub id: *mut c_char,
    pub name: *mut c_char,
}

/// `rbd_snap_info_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct SnapInfo {
    pub id: u64,
    pub size: u64,
    pub name: *const c_char,
}

/// `rbd_linked_image_spec_t`.
#[repr(C)]
pub(super) struct LinkedImageSpec {
    pub pool_id: i64,
    pub pool_name: *mut c_char,
    pub pool_namespace: *mut c_char,
    pub image_id: *mut c_char,
    pub image_name: *mut c_char,
    pub trash: bool,
}

/// `rbd_snap_spec_t`.
#[repr(C)]
pub(super) struct SnapSpec {
    pub id: u64,
    pub namespace_type: c_int,
    pub name: *mut c_char,
}

/// `rbd_image_watcher_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ImageWatcher {
    pub addr: *mut c_char,
    pub id: i64,
    pub cookie: u64,
}

/// `rbd_image_migration_status_t`.
#[repr(C)]
pub(super) struct MigrationStatus {
    pub source_pool_id: i64,
    pub source_pool_namespace: *mut c_char,
    pub source_image_name: *mut c_char,
    pub source_image_id: *mut c_char,
    pub dest_pool_id: i64,
    pub dest_pool_namespace: *mut c_char,
    pub dest_image_name: *mut c_char,
    pub dest_image_id: *mut c_char,
    pub state: c_int,
    pub state_description: *mut c_char,
}

/// `RBD_IMAGE_OPTION_*` of librbd.h.
pub(super) mod option {
    use std::ffi::c_int;
    pub(crate) const FORMAT: c_int = 0;
    pub(crate) const FEATURES: c_int = 1;
    pub(crate) const ORDER: c_int = 2;
    pub(crate) const STRIPE_UNIT: c_int = 3;
    pub(crate) const STRIPE_COUNT: c_int = 4;
    pub(crate) const DATA_POOL: c_int = 10;
}

macro_rules! api {
    (
        librados { $(fn $rados:ident($($rados_arg:ty),* $(,)?) $(-> $rados_ret:ty)?;)* }
        librbd { $(fn $rbd:ident($($rbd_arg:ty),* $(,)?) $(-> $rbd_ret:ty)?;)* }
        librbd_optional { $(fn $opt:ident($($opt_arg:ty),* $(,)?) $(-> $opt_ret:ty)?;)* }
    ) => {
        /// Every function that is called; the optional ones are absent from older releases.
        pub(super) struct Api {
            $(pub $rados: unsafe extern "C" fn($($rados_arg),*) $(-> $rados_ret)?,)*
            $(pub $rbd: unsafe extern "C" fn($($rbd_arg),*) $(-> $rbd_ret)?,)*
            $(pub $opt: Option<unsafe extern "C" fn($($opt_arg),*) $(-> $opt_ret)?>,)*
        }

        fn resolve(librados: &Library, librbd: &Library) -> Result<Api> {
            Ok(Api {
                $($rados: {
                    let name = stringify!($rados);
                    // SAFETY: the type is that of librados.h, which has kept it since the soname exists.
                    let found = unsafe {
                        librados.get::<unsafe extern "C" fn($($rados_arg),*) $(-> $rados_ret)?>(name)
                    };
                    *found.map_err(|e| missing_symbol(LIBRADOS, name, e))?
                },)*
                $($rbd: {
                    let name = stringify!($rbd);
                    // SAFETY: the type is that of librbd.h, which has kept it since the soname exists.
                    let found = unsafe {
                        librbd.get::<unsafe extern "C" fn($($rbd_arg),*) $(-> $rbd_ret)?>(name)
                    };
                    *found.map_err(|e| missing_symbol(LIBRBD, name, e))?
                },)*
                $($opt: {
                    // SAFETY: as above.
                    let found = unsafe {
                        librbd.get::<unsafe extern "C" fn($($opt_arg),*) $(-> $opt_ret)?>(stringify!($opt))
                    };
                    found.ok().map(|symbol| *symbol)
                },)*
            })
        }
    };
}

api! {
    librados {
        fn rados_create2(*mut Handle, *const c_char, *const c_char, u64) -> c_int;
        fn rados_conf_read_file(Handle, *const c_char) -> c_int;
        fn rados_conf_parse_argv_remainder(Handle, c_int, *const *const c_char, *mut *const c_char) -> c_int;
        fn rados_conf_set(Handle, *const c_char, *const c_char) -> c_int;
        fn rados_conf_get(Handle, *const c_char, *mut c_char, usize) -> c_int;
        fn rados_connect(Handle) -> c_int;
        fn rados_shutdown(Handle);
        fn rados_get_min_compatible_client(Handle, *mut i8, *mut i8) -> c_int;
        fn rados_cluster_fsid(Handle, *mut c_char, usize) -> c_int;
        fn rados_pool_reverse_lookup(Handle, i64, *mut c_char, usize) -> c_int;
        fn rados_pool_list(Handle, *mut c_char, usize) -> c_int;
        fn rados_ioctx_create(Handle, *const c_char, *mut Handle) -> c_int;
        fn rados_ioctx_destroy(Handle);
        fn rados_ioctx_set_namespace(Handle, *const c_char);
        fn rados_exec(
            Handle, *const c_char, *const c_char, *const c_char, *const c_char, usize, *mut c_char, usize,
        ) -> c_int;
        fn rados_notify2(
            Handle, *const c_char, *const c_char, c_int, u64, *mut *mut c_char, *mut usize,
        ) -> c_int;
        fn rados_buffer_free(*mut c_char);
    }
    librbd {
        fn rbd_list2(Handle, *mut ImageSpec, *mut usize) -> c_int;
        fn rbd_image_spec_list_cleanup(*mut ImageSpec, usize);
        fn rbd_namespace_list(Handle, *mut c_char, *mut usize) -> c_int;
        fn rbd_namespace_exists(Handle, *const c_char, *mut bool) -> c_int;
        fn rbd_image_options_create(*mut Handle);
        fn rbd_image_options_destroy(Handle);
        fn rbd_image_options_set_string(Handle, c_int, *const c_char) -> c_int;
        fn rbd_image_options_set_uint64(Handle, c_int, u64) -> c_int;
        fn rbd_create4(Handle, *const c_char, u64, Handle) -> c_int;
        fn rbd_clone3(
            Handle, *const c_char, *const c_char, Handle, *const c_char, Handle,
        ) -> c_int;
        fn rbd_remove(Handle, *const c_char) -> c_int;
        fn rbd_rename(Handle, *const c_char, *const c_char) -> c_int;
        fn rbd_migration_status(Handle, *const c_char, *mut MigrationStatus, usize) -> c_int;
        fn rbd_migration_status_cleanup(*mut MigrationStatus);
        fn rbd_open(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
        fn rbd_open_by_id(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
        fn rbd_open_read_only(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
        fn rbd_open_by_id_read_only(Handle, *const c_char, *mut Handle, *const c_char) -> c_int;
        fn rbd_close(Handle) -> c_int;
        fn rbd_get_id(Handle, *mut c_char, usize) -> c_int;
        fn rbd_get_name(Handle, *mut c_char, *mut usize) -> c_int;
        fn rbd_stat(Handle, *mut ImageInfo, usize) -> c_int;
        fn rbd_get_size(Handle, *mut u64) -> c_int;
        fn rbd_get_features(Handle, *mut u64) -> c_int;
        fn rbd_get_flags(Handle, *mut u64) -> c_int;
        fn rbd_get_overlap(Handle, *mut u64) -> c_int;
        fn rbd_get_stripe_unit(Handle, *mut u64) -> c_int;
        fn rbd_get_stripe_count(Handle, *mut u64) -> c_int;
        fn rbd_get_parent(Handle, *mut LinkedImageSpec, *mut SnapSpec) -> c_int;
        fn rbd_linked_image_spec_cleanup(*mut LinkedImageSpec);
        fn rbd_snap_spec_cleanup(*mut SnapSpec);
        fn rbd_metadata_list(
            Handle, *const c_char, u64, *mut c_char, *mut usize, *mut c_char, *mut usize,
        ) -> c_int;
        fn rbd_metadata_set(Handle, *const c_char, *const c_char) -> c_int;
        fn rbd_metadata_remove(Handle, *const c_char) -> c_int;
        fn rbd_watchers_list(Handle, *mut ImageWatcher, *mut usize) -> c_int;
        fn rbd_watchers_list_cleanup(*mut ImageWatcher, usize);
        fn rbd_lock_acquire(Handle, c_int) -> c_int;
        fn rbd_lock_get_owners(Handle, *mut c_int, *mut *mut c_char, *mut usize) -> c_int;
        fn rbd_lock_get_owners_cleanup(*mut *mut c_char, usize);
        fn rbd_snap_get_limit(Handle, *mut u64) -> c_int;
        fn rbd_snap_list(Handle, *mut SnapInfo, *mut c_int) -> c_int;
        fn rbd_snap_list_end(*mut SnapInfo);
        fn rbd_snap_get_namespace_type(Handle, u64, *mut c_int) -> c_int;
        fn rbd_snap_set_by_id(Handle, u64) -> c_int;
        fn rbd_snap_create(Handle, *const c_char) -> c_int;
        fn rbd_snap_remove(Handle, *const c_char) -> c_int;
        fn rbd_snap_rollback(Handle, *const c_char) -> c_int;
        fn rbd_snap_protect(Handle, *const c_char) -> c_int;
        fn rbd_snap_unprotect(Handle, *const c_char) -> c_int;
        fn rbd_snap_is_protected(Handle, *const c_char, *mut c_int) -> c_int;
        fn rbd_resize(Handle, u64) -> c_int;
        fn rbd_rebuild_object_map(Handle, ProgressCallback, *mut c_void) -> c_int;
        fn rbd_diff_iterate2(
            Handle, *const c_char, u64, u64, u8, u8, DiffCallback, *mut c_void,
        ) -> c_int;
        fn rbd_read2(Handle, u64, usize, *mut c_char, c_int) -> isize;
        fn rbd_write2(Handle, u64, usize, *const c_char, c_int) -> isize;
        fn rbd_flush(Handle) -> c_int;
    }
    librbd_optional {
        fn rbd_write_zeroes(Handle, u64, usize, c_int, c_int) -> isize;
    }
}

/// The loaded libraries. A failed attempt is not remembered: the package may be installed meanwhile.
pub(super) fn get() -> Result<&'static Api> {
    static API: OnceLock<Api> = OnceLock::new();
    if let Some(api) = API.get() {
        return Ok(api);
    }
    let api = load(LIBRADOS, LIBRBD)?;
    Ok(API.get_or_init(|| api))
}

fn load(librados: &str, librbd: &str) -> Result<Api> {
    let open = |name: &str| {
        // SAFETY: the constructors of Ceph's libraries only set up their own static data.
        unsafe { Library::new(name) }.map_err(|e| {
            Error::unsupported(format!("Ceph's library {name} cannot be loaded: {e}")).help(
                "install the package librbd1 (Debian, Ubuntu: `apt-get install librbd1`; RHEL, Fedora: `dnf install librbd1`)",
            )
        })
    };
    let (librados, librbd) = (open(librados)?, open(librbd)?);
    let api = resolve(&librados, &librbd)?;
    // Never unloaded: the function pointers, and threads of the libraries' own, outlive everything here.
    std::mem::forget((librados, librbd));
    Ok(api)
}

fn missing_symbol(library: &str, name: &str, error: libloading::Error) -> Error {
    Error::unsupported(format!("{library} has no {name}: it is older than Ceph 16"))
        .help("install the package librbd1 of Ceph 16 (Pacific) or newer")
        .caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn an_absent_library_names_the_package() {
        let error = load("librados-absent.so.2", LIBRBD).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("librados-absent.so.2"), "{error}");
        assert!(error.help_text().is_some_and(|h| h.contains("librbd1")), "{error:?}");
    }

    #[test]
    fn a_library_without_the_symbols_is_refused() {
        // The C library has none of them, and is everywhere.
        let error = load("libc.so.6", "libc.so.6").map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("rados_create2"), "{error}");
    }
}
