//! Where test servers go: free ports, and folders for clusters.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

use super::ceph::{self, Cluster};

/// The port of the monitor's newer wire protocol lies this much below that of the older.
const MON_PORT_BELOW: u16 = 3000;
/// Ports in a block given out by [`free_block`].
const BLOCK_PORTS: u16 = 100;
/// Blocks of ports that a server is offered before its failure counts.
const BLOCKS_TRIED: usize = 3;

/// An empty cluster in `directory`, with an S3 service where asked for, on ports that are free.
pub fn start_cluster(directory: &Path, with_rgw: bool) -> Result<Cluster> {
    // The manager and the OSD take ports just above the monitor's; the block's last stays free.
    let rgw_port = |port: u16| with_rgw.then_some(port + BLOCK_PORTS - 1);
    on_free_ports(MON_PORT_BELOW, |port| Cluster::start(directory, port, rgw_port(port)))
}

/// What `start` makes with the first of a block of free ports. A port that was free a moment ago may be taken when the
/// server comes to it, if only by a program being started, which holds everything of its parent for an instant: then
/// another block is tried.
pub fn on_free_ports<T>(below: u16, start: impl Fn(u16) -> Result<T>) -> Result<T> {
    for _ in 1..BLOCKS_TRIED {
        match start(free_block(below)?) {
            Ok(started) => return Ok(started),
            Err(error) => eprintln!("trying other ports: {error:#}"),
        }
    }
    start(free_block(below)?)
}

/// The first of a block of free ports, a different one on each call; the port `below` it is free, too.
///
/// Blocks lie under the range that outgoing connections take theirs from. Where the search begins depends on this
/// process, so that two runs at once do not meet.
fn free_block(below: u16) -> Result<u16> {
    const FIRST: u16 = 12_000;
    const BLOCKS: u16 = 190;
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let begin = (std::process::id() % u32::from(BLOCKS)) as u16;
    while GIVEN.load(Ordering::Relaxed) < BLOCKS {
        let block = (begin + GIVEN.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
        let first = FIRST + block * BLOCK_PORTS;
        if free(first - below) && (first..first + BLOCK_PORTS).all(free) {
            return Ok(first);
        }
    }
    bail!("no {BLOCK_PORTS} free ports in a row")
}

/// A place for a cluster, without what an interrupted run left there. The same each time for one `name`.
///
/// On a memory file system where there is enough memory: commits of a small cluster are then three times faster.
/// Short, since sockets in it have a limit of 107 bytes.
pub fn cluster_directory(name: &str) -> Result<PathBuf> {
    let [memory, disk] = cluster_directories(name)?;
    let roomy = memory_available_kib().unwrap_or(0) >= MEMORY_FOR_CLUSTERS_KIB;
    Ok(if roomy && Path::new("/dev/shm").is_dir() { memory } else { disk })
}

/// As [`cluster_directory`]: the place in memory, and the one on disk.
pub fn cluster_directories(name: &str) -> Result<[PathBuf; 2]> {
    let hash = name.bytes().fold(FNV_OFFSET, |h, b| (h ^ u64::from(b)).wrapping_mul(FNV_PRIME));
    let short = format!("cuttle-test-{:08x}", hash as u32);
    let places = [Path::new("/dev/shm").join(&short), std::env::temp_dir().join(&short)];
    places.iter().try_for_each(|place| ceph::down(place))?;
    Ok(places)
}

/// The constants of the FNV-1a hash.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;
/// What clusters and their data may need, with room for building and running the tests.
const MEMORY_FOR_CLUSTERS_KIB: u64 = 12 << 20;

fn memory_available_kib() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_server_that_fails_gets_other_ports_until_its_failure_counts() {
        let offered = RefCell::new(Vec::new());
        let start = |fails: usize| {
            offered.borrow_mut().clear();
            on_free_ports(0, |port| {
                offered.borrow_mut().push(port);
                if offered.borrow().len() > fails { Ok(port) } else { bail!("port {port} is taken") }
            })
        };
        let port = start(2).expect("the third block is not taken");
        assert_eq!(offered.borrow().last(), Some(&port));
        assert!(offered.borrow().windows(2).all(|w| w[0] != w[1]), "{offered:?}");
        assert!(start(BLOCKS_TRIED).is_err());
        assert_eq!(offered.borrow().len(), BLOCKS_TRIED);
    }
}
