//! The log of a run: every request and what became of it. Its digest tells whether two runs were the same.

use std::fmt::Write;

use crate::store::{Op, Request};

pub struct Log {
    digest: u64,
    line: String,
    /// Kept only where somebody wants to read it.
    pub lines: Option<Vec<String>>,
    pub step: u64,
}

impl Log {
    pub fn new(keep: bool) -> Self {
        Self { digest: FNV_BASIS, line: String::new(), lines: keep.then(Vec::new), step: 0 }
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn line(&mut self, request: &Request, what: &str) {
        self.outcome(request, what, "");
    }

    pub fn outcome(&mut self, request: &Request, how: &str, outcome: &str) {
        let Request { actor, name, op, .. } = request;
        let content = match op {
            Op::Create(bytes) | Op::Put(bytes) => fnv(FNV_BASIS, bytes),
            _ => 0,
        };
        self.event(format_args!("{actor} {} {name} {how} {outcome} {content:x}", op.word()));
    }

    pub fn event(&mut self, event: std::fmt::Arguments<'_>) {
        self.line.clear();
        let _ = write!(self.line, "{:5} {event}", self.step);
        self.digest = fnv(self.digest, self.line.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(self.line.clone());
        }
    }
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}
