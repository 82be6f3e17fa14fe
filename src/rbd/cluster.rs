//! A connection to a cluster.

use std::ffi::{CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use super::api::{self, Api, Handle};
use super::config::CephConfig;
use super::errno::{self, EACCES, EIO, ENOENT, c_string, check};
use super::keyring;
use super::name;
use crate::error::{Error, ErrorKind, Result};

/// An answer of the monitors that takes longer is an error, unless the configuration sets a limit of its own.
const MON_TIMEOUT_S: &str = "60";
/// An answer of an OSD that takes longer is an error, unless the configuration sets a limit of its own. Long enough
/// for a cluster that has lost a host to recover; without it a backup of a dead placement group would never end.
const OSD_TIMEOUT_S: &str = "600";
/// Ceph's number of the release that knows clones of unprotected snapshots.
const RELEASE_MIMIC: i8 = 13;
/// Longest list of pools taken.
const POOL_LIST_LEN_MAX: usize = 16 << 20;

/// A connected cluster. Cheap to clone; closed when the last clone and everything opened from it is gone.
#[derive(Clone)]
pub struct Cluster {
    pub(super) inner: Arc<Connection>,
}

pub(super) struct Connection {
    pub api: &'static Api,
    pub rados: Handle,
    fsid: String,
}

// SAFETY: librados documents a connected rados_t as usable from many threads; it is configured before it is shared.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: `rados` came from rados_create2 and is shut down once. Pools and images hold an Arc of this, so
        // nothing of it is open. librados accepts this call on a handle that never connected.
        unsafe { (self.api.rados_shutdown)(self.rados) }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.inner.fsid)
    }
}

impl Cluster {
    /// Connects. An absent library, configuration or key and a cluster that does not answer within the configuration's
    /// timeout are errors that say what to do.
    pub fn connect(config: &CephConfig) -> Result<Self> {
        let api = api::get()?;
        let user = config.user_name()?;
        let (c_user, c_name) = (c_string(user)?, c_string(config.cluster_name.as_deref().unwrap_or("ceph"))?);
        let mut rados: Handle = ptr::null_mut();
        // SAFETY: the strings live during the call; the handle is written only on success.
        let code = unsafe { (api.rados_create2)(&mut rados, c_name.as_ptr(), c_user.as_ptr(), 0) };
        check(code, || format!("preparing a connection to Ceph as {user}"))?;
        let mut connection = Connection { api, rados, fsid: String::new() };
        connection.configure(config)?;
        // SAFETY: a created and configured handle that is not connected yet.
        let code = unsafe { (api.rados_connect)(rados) };
        if code < 0 {
            return Err(connection.connect_error(code, user, config));
        }
        connection.fsid = connection.read_fsid()?;
        Ok(Self { inner: Arc::new(connection) })
    }

    /// The cluster's identity.
    pub fn fsid(&self) -> &str {
        &self.inner.fsid
    }

    /// Whether a clone can be made of a snapshot only once that is protected, as librbd decides it (`clone format 1`, in `CloneRequest`).
    pub(super) fn protects_parents(&self) -> Result<bool> {
        match &self.inner.get("rbd_default_clone_format")?[..] {
            "1" => return Ok(true),
            "2" => return Ok(false),
            _ => {}
        }
        let (mut able, mut required) = (-1_i8, -1_i8);
        // SAFETY: writes two numbers.
        let code = unsafe {
            (self.inner.api.rados_get_min_compatible_client)(self.inner.rados, &mut able, &mut required)
        };
        check(code, || "asking which clients the cluster lets in".to_owned())?;
        Ok(able.max(required) < RELEASE_MIMIC)
    }

    /// Names of all pools.
    pub fn pools(&self) -> Result<Vec<String>> {
        let mut buf: Vec<u8> = vec![0; 4096];
        loop {
            // SAFETY: writes at most `len` bytes into the buffer and returns how many there are to write.
            let code = unsafe {
                (self.inner.api.rados_pool_list)(self.inner.rados, buf.as_mut_ptr().cast(), buf.len())
            };
            let needed = check(code, || "listing pools".to_owned())? as usize;
            if needed <= buf.len() {
                // The list ends with an empty string.
                let names = errno::strings_of(&buf[..needed]);
                return Ok(names.into_iter().filter(|n| !n.is_empty()).collect());
            }
            if needed > POOL_LIST_LEN_MAX {
                return Err(Error::invalid(format!("list of pools of {needed} bytes: too long")));
            }
            buf.resize(needed, 0);
        }
    }

    /// The name of the pool with this number, escaped (see `name.rs`).
    pub(super) fn pool_name(&self, id: i64) -> Result<String> {
        let mut buf = [0_u8; 1024];
        // SAFETY: writes at most `len` bytes with a NUL.
        let code = unsafe {
            (self.inner.api.rados_pool_reverse_lookup)(
                self.inner.rados,
                id,
                buf.as_mut_ptr().cast(),
                buf.len(),
            )
        };
        check(code, || format!("looking for pool {id}"))?;
        Ok(name::escape(buf.split(|b| *b == 0).next().unwrap_or_default()))
    }
}

impl Connection {
    fn configure(&self, config: &CephConfig) -> Result<()> {
        self.read_conf_file(config)?;
        self.set_unless("client_mount_timeout", &config.connect_timeout.as_secs().max(1).to_string(), "300")?;
        self.set_unless("rados_mon_op_timeout", MON_TIMEOUT_S, "0")?;
        self.set_unless("rados_osd_op_timeout", OSD_TIMEOUT_S, "0")?;
        // Whole chunks are read and written once: the client's cache only adds a copy, a lock and memory.
        self.set("rbd_cache", "false")?;
        if let Some(mon_host) = &config.mon_host {
            self.set("mon_host", mon_host)?;
        }
        if let Some(keyring) = &config.keyring {
            self.set("keyring", &keyring.to_string_lossy())?;
        }
        self.parse_args(&config.args)
    }

    fn read_conf_file(&self, config: &CephConfig) -> Result<()> {
        let path = config.conf.as_deref().map(c_path).transpose()?;
        let c_path = path.as_ref().map_or(ptr::null(), |p| p.as_ptr());
        // SAFETY: the path is null or lives during the call.
        let code = unsafe { (self.api.rados_conf_read_file)(self.rados, c_path) };
        let unneeded = config.conf.is_none() && (config.mon_host.is_some() || !config.args.is_empty());
        if code == -ENOENT && unneeded {
            return Ok(());
        }
        check(code, || match &config.conf {
            Some(path) => format!("reading Ceph's configuration {}", path.display()),
            None => "no Ceph configuration was named, and reading /etc/ceph/ceph.conf".to_owned(),
        })
        .map(|_| ())
        .map_err(|e| e.help("name it with --conf or CEPH_CONF; copy it from a node of the cluster"))
    }

    fn parse_args(&self, args: &[String]) -> Result<()> {
        if args.is_empty() {
            return Ok(());
        }
        let owned = args.iter().map(|a| c_string(a)).collect::<Result<Vec<_>>>()?;
        // The first word is taken for the program's name.
        let argv: Vec<*const c_char> =
            [c"cuttle".as_ptr()].into_iter().chain(owned.iter().map(|a| a.as_ptr())).collect();
        let mut rest: Vec<*const c_char> = vec![ptr::null(); argv.len()];
        let count = i32::try_from(argv.len()).map_err(|_| Error::invalid("too many Ceph arguments"))?;
        // SAFETY: both arrays have `count` entries; the strings live during the call.
        let code = unsafe {
            (self.api.rados_conf_parse_argv_remainder)(self.rados, count, argv.as_ptr(), rest.as_mut_ptr())
        };
        check(code, || format!("Ceph arguments {}", args.join(" ")))?;
        // SAFETY: each entry is null or one of the strings handed in, which still live.
        let unknown: Vec<_> =
            rest.iter().skip(1).filter(|p| !p.is_null()).map(|&p| unsafe { errno::text(p) }).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("Ceph does not know the argument {}", unknown.join(" ")))
            .help("see CEPH_ARGS and the Ceph options given"))
    }

    fn set(&self, option: &str, value: &str) -> Result<()> {
        let (c_option, c_value) = (c_string(option)?, c_string(value)?);
        // SAFETY: the strings live during the call, before the handle is connected.
        let code = unsafe { (self.api.rados_conf_set)(self.rados, c_option.as_ptr(), c_value.as_ptr()) };
        check(code, || format!("setting Ceph's option {option} to {value}")).map(|_| ())
    }

    /// Sets an option that still has Ceph's default.
    fn set_unless(&self, option: &str, value: &str, default: &str) -> Result<()> {
        if same_number(&self.get(option)?, default) { self.set(option, value) } else { Ok(()) }
    }

    /// The user's key, where it is of another type than all had for long.
    fn unknown_key(&self, user: &str) -> Option<keyring::Key> {
        let [inline, file, rings] =
            ["key", "keyfile", "keyring"].map(|option| self.get(option).unwrap_or_default());
        keyring::find(user, &inline, &file, &rings).filter(|key| key.kind != keyring::AES)
    }

    fn get(&self, option: &str) -> Result<String> {
        let c_option = c_string(option)?;
        let mut buf = [0_u8; 4096];
        // SAFETY: writes at most `len` bytes with a NUL.
        let code = unsafe {
            (self.api.rados_conf_get)(self.rados, c_option.as_ptr(), buf.as_mut_ptr().cast(), buf.len())
        };
        check(code, || format!("reading Ceph's option {option}"))?;
        Ok(errno::text_of(&buf))
    }

    fn read_fsid(&self) -> Result<String> {
        let mut buf = [0_u8; 64];
        // SAFETY: writes at most `len` bytes with a NUL.
        let code = unsafe { (self.api.rados_cluster_fsid)(self.rados, buf.as_mut_ptr().cast(), buf.len()) };
        check(code, || "asking for the cluster's fsid".to_owned())?;
        Ok(errno::text_of(&buf))
    }

    fn connect_error(&self, code: i32, user: &str, config: &CephConfig) -> Error {
        let conf =
            config.conf.as_deref().map_or("Ceph's default configuration".into(), |c| c.to_string_lossy());
        let error = errno::error(code, format!("connecting to Ceph as {user} by {conf}"));
        match -code {
            // Without a keyring librados says ENOENT, of a key that the cluster does not take EACCES.
            ENOENT => Error::new(ErrorKind::Denied, format!("{error}: no keyring holds a key of {user}"))
                .help("name the keyring with --keyring, or the user with --id"),
            EACCES => Error::new(ErrorKind::Denied, format!("{error}: the cluster does not take this key"))
                .help("see `ceph auth get` for the user, and its keyring here"),
            EIO if let Some(key) = self.unknown_key(user) => Error::unsupported(format!(
                "{error}: the key of {user} in {} is of a type that librados here does not know: type {}{}, expected 1 (aes)",
                key.place,
                key.kind,
                if key.kind == keyring::AES256K { " (aes256k)" } else { "" },
            ))
            .help(
                "install the cluster's own version of librbd1 here (such keys need Ceph 19.2.6, 20.2.4 or newer), or make this user \
                 a key of the older type: `ceph mon set auth_allowed_ciphers aes,aes256k`, then `ceph auth get-or-create \
                 client.ID mon 'profile rbd' osd 'profile rbd pool=POOL' --key-type aes`",
            ),
            _ => Error::unavailable(format!("{error}, after {} s at most", config.connect_timeout.as_secs()))
                .help("are the monitors named there up and reachable? `ceph -s` with the same options tells more"),
        }
    }
}

/// Whether two settings are the same number: by release, Ceph shows 300 or 300.000000.
fn same_number(a: &str, b: &str) -> bool {
    matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a == b)
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::invalid(format!("{}: a NUL byte cannot be in a path", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_compared_as_numbers() {
        for (text, same) in [("300", true), ("300.000000", true), ("30", false), ("3", false), ("5m", false)]
        {
            assert_eq!(same_number(text, "300"), same, "{text}");
        }
    }
}
