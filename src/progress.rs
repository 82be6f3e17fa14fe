//! How an operation tells what it is doing. The library calls it; only the command line prints.

/// What became of some bytes, for the counts beside a progress bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Uploaded (backup) or fetched (restore, verify).
    New,
    /// Already where it should be; nothing was transferred.
    Known,
    /// All zero; nothing is stored or fetched.
    Zero,
}

/// One step forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the volume, not of what was transferred.
    pub bytes: u64,
    /// Chunks that these bytes are; 0 where it is not counted in chunks.
    pub chunks: u64,
    /// What became of them.
    pub outcome: Outcome,
}

/// Receives an operation's progress; called from many threads.
pub trait Progress: Send + Sync {
    /// A new phase begins; `total_bytes` where it is known.
    fn phase(&self, name: &str, total_bytes: Option<u64>);
    /// Some bytes are done with; called often, and must not block.
    fn step(&self, step: Step);
    /// Something that the operator must see even when all goes on.
    fn warn(&self, message: &str);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _name: &str, _total_bytes: Option<u64>) {}
    fn step(&self, _step: Step) {}
    fn warn(&self, _message: &str) {}
}
