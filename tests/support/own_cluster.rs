//! A cluster of one test's own, which may be thrown away.

#[allow(dead_code)]
#[path = "../../xtask/src/ceph.rs"]
mod ceph;
#[allow(dead_code)]
#[path = "../../xtask/src/places.rs"]
mod places;

use std::path::PathBuf;

use super::ceph::Ceph;

/// A running cluster, gone with its data when this is dropped.
pub struct OwnCluster {
    pub ceph: Ceph,
    _running: Running,
}

/// Stops what it holds.
struct Running(PathBuf);

impl Drop for Running {
    fn drop(&mut self) {
        // A test that fails is heard of for its own reason; what stays is removed at the next start.
        let _ = ceph::down(&self.0);
    }
}

impl OwnCluster {
    /// Starts an empty cluster. Only for tests that have the shared clusters as well: then Ceph is installed.
    pub fn start(name: &str) -> Self {
        let directory = places::cluster_directory(name).expect("a folder for a cluster");
        let running = Running(directory.clone());
        let cluster = places::start_cluster(&directory, false).expect("start a cluster");
        let conf = cluster.conf().display().to_string();
        Self { ceph: Ceph::of(conf), _running: running }
    }
}
