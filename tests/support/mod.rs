//! The test kit. Each test binary uses some of it; the library's unit tests use what `src/testing.rs` names, which says how.
#![allow(dead_code)]

pub mod apply;
pub mod bench;
pub mod buckets;
pub mod by_hand;
pub mod ceph;
pub mod devices;
pub mod ext4;
pub mod fault_store;
pub mod gcs_fake;
pub mod http_script;
pub mod memory_sink;
pub mod nights;
pub mod numbers;
pub mod own_cluster;
pub mod program;
pub mod qemu;
pub mod repo;
pub mod sink_suite;
pub mod timed_store;
pub mod warnings;

use std::fs::OpenOptions;
use std::io::Write;

pub use numbers::Numbers;

/// Notes that the running test cannot do its work here, and why. Return from the test after it.
///
/// The line goes to the file named by `CUTTLE_TEST_SKIPS`, where `cargo xtask test` counts it. With
/// `CUTTLE_TEST_NO_SKIP=1`, as in CI, skipping is a failure.
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped {test}: {why}");
    assert!(std::env::var("CUTTLE_TEST_NO_SKIP").as_deref() != Ok("1"), "{test} may not be skipped: {why}");
    if let Ok(path) = std::env::var("CUTTLE_TEST_SKIPS") {
        let mut file =
            OpenOptions::new().create(true).append(true).open(path).expect("open the list of skips");
        writeln!(file, "{test}: {why}").expect("write the list of skips");
    }
}

/// The value of a variable that `cargo xtask test` sets to a server's address; absent, the test is skipped.
pub fn server(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok().filter(|v| !v.is_empty());
    if value.is_none() {
        skip(&format!("{variable} is not set: `cargo xtask test` starts this server"));
    }
    value
}
