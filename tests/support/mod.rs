//! What tests share.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod apply;
pub mod devices;
pub mod sink_suite;

use std::io::Write;

/// Notes that a test could not run, and why. Fails instead where nothing may be skipped.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CUTTLE_TEST_NO_SKIP").is_none_or(|v| v != "1"), "may not be skipped: {why}");
    println!("skipped: {why}");
    if let Some(path) = std::env::var_os("CUTTLE_TEST_SKIPS") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        let noted = file.and_then(|mut f| writeln!(f, "{why}"));
        noted.expect("note a skipped test");
    }
}

/// Pseudo-random numbers from a seed, the same each time.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 32) as u8).collect()
    }
}
