//! What there is to know of this machine and its environment.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use cuttle::clock::SystemClock;
use cuttle::repo::Environment;
use cuttle::units::hex;

use super::environment::{
    CACHE_DIR, CACHE_DIRECTORY, HOME, STATE_DIRECTORY, Variable, XDG_CACHE_HOME, XDG_STATE_HOME,
};
use super::global::Global;

/// Prefixes of the variables that the stores understand.
const STORE_VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// The variables that configure stores. What is not UTF-8 is no value that any of them takes.
pub fn store_variables() -> Vec<(String, String)> {
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    env::vars_os()
        .filter_map(text)
        .filter(|(name, _)| STORE_VARIABLES.iter().any(|p| name.starts_with(p)))
        .collect()
}

/// The host, this process, and where to keep copies and memories.
pub fn environment(global: &Global) -> Environment {
    let options = &global.repository;
    let uname = rustix::system::uname();
    let cache_dir = match options.no_cache {
        true => None,
        false => options
            .cache_dir
            .clone()
            .or_else(|| CACHE_DIR.path())
            .or_else(|| own_dir(&XDG_CACHE_HOME, ".cache", &CACHE_DIRECTORY)),
    };
    let memory_dir = own_dir(&XDG_STATE_HOME, ".local/state", &STATE_DIRECTORY);
    if memory_dir.is_none() {
        // Some commands open two repositories.
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(
                "neither XDG_STATE_HOME nor HOME is set, nor a state folder given by the service manager (StateDirectory=cuttle): \
                 this host remembers nothing, so a store that was rolled back will not be noticed"
            );
        });
    }
    Environment {
        host: uname.nodename().to_string_lossy().into_owned(),
        machine: machine(),
        process: std::process::id(),
        is_process_alive,
        clock: Arc::new(SystemClock),
        cache_dir,
        memory_dir,
        remembers: !global.dry_run,
        trust_store: options.trust_store,
    }
}

/// The folder of ours below an XDG base folder, or the one that a service manager gave us.
fn own_dir(xdg: &Variable, below_home: &str, service: &Variable) -> Option<PathBuf> {
    let base = xdg.path().filter(|p| p.is_absolute());
    let base = base.or_else(|| HOME.path().map(|home| home.join(below_home)));
    base.map(|base| base.join("cuttle")).or_else(|| service.path())
}

/// Names this machine, its boot and its space of process numbers, so that "no such process" means that it is dead.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default();
    let boot = read("/proc/sys/kernel/random/boot_id");
    // In a container the same number is another process.
    let space = fs::read_link(Path::new("/proc/self/ns/pid")).unwrap_or_default();
    if boot.is_empty() || space.as_os_str().is_empty() {
        return String::new();
    }
    let text = format!("cuttle machine\0{}\0{boot}\0{}", read("/etc/machine-id"), space.display());
    hex(&blake3::hash(text.as_bytes()).as_bytes()[..16])
}

fn is_process_alive(process: u32) -> bool {
    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else { return true };
    // Only this answer says so; a process that may not be asked is alive.
    test_kill_process(pid) != Err(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use super::{is_process_alive, machine};

    #[test]
    fn this_process_lives_and_the_machine_has_a_name() {
        assert!(is_process_alive(std::process::id()));
        // Larger than any process number may be.
        assert!(!is_process_alive(0x7fff_fffe));
        assert_eq!(machine(), machine());
        assert_eq!(machine().len(), 32);
    }
}
