//! How hard to compress: as hard as what a backup waits for makes worth it.

use std::fmt;
use std::str::FromStr;

/// What is tried, the easiest first: beyond the last one zstd takes long for little.
const LEVELS: [i32; 4] = [1, 3, 6, 9];
/// New chunks between two decisions, so that the last one shows.
const CHUNKS_EACH: u32 = 16;
/// A store is slow when what waits for it is this part of a backup's memory: then hardly anything is left to be read into …
const SLOW_DIVISOR: u64 = 2;
/// … and the processor is, when it is not even this part.
const FAST_DIVISOR: u64 = 8;
/// In per cent of the plaintext: what hardly gets smaller is not tried harder.
const WORTH_PER_CENT: u64 = 95;

/// The compression level of zstd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Level {
    /// 1 where the processor is what a backup waits for; harder while it is the store, or the way there.
    #[default]
    Auto,
    /// Always the same.
    Fixed(i32),
}

impl Level {
    /// The least and the greatest that may be chosen.
    pub const RANGE: [i32; 2] = [-7, 19];
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [least, greatest] = Self::RANGE;
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(level)) if (least..=greatest).contains(&level) => Ok(Self::Fixed(level)),
            _ => Err(format!("{text} is neither auto nor a level from {least} to {greatest}")),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(level) => level.fmt(f),
        }
    }
}

/// Decides as a backup goes on.
#[derive(Debug)]
pub(crate) struct Gauge {
    level: Level,
    /// Of [`LEVELS`].
    at: usize,
    chunks: u32,
    plain_bytes: u64,
    sealed_bytes: u64,
}

impl Gauge {
    pub(crate) fn new(level: Level) -> Self {
        Self { level, at: 0, chunks: 0, plain_bytes: 0, sealed_bytes: 0 }
    }

    pub(crate) fn level(&self) -> i32 {
        match self.level {
            Level::Auto => LEVELS[self.at],
            Level::Fixed(level) => level,
        }
    }

    /// A new chunk is on its way to the store, for which so much of the memory waits now.
    pub(crate) fn stored(
        &mut self,
        plain_bytes: u64,
        sealed_bytes: u64,
        waiting_bytes: u64,
        memory_bytes: u64,
    ) {
        self.chunks += 1;
        self.plain_bytes += plain_bytes;
        self.sealed_bytes += sealed_bytes;
        if self.chunks < CHUNKS_EACH {
            return;
        }
        let is_worth_it = self.sealed_bytes * 100 <= self.plain_bytes * WORTH_PER_CENT;
        if waiting_bytes < memory_bytes / FAST_DIVISOR || !is_worth_it {
            self.at = self.at.saturating_sub(1);
        } else if waiting_bytes >= memory_bytes / SLOW_DIVISOR {
            self.at = (self.at + 1).min(LEVELS.len() - 1);
        }
        (self.chunks, self.plain_bytes, self.sealed_bytes) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(gauge: &mut Gauge, chunks: u32, sealed_bytes: u64, waiting_bytes: u64) -> i32 {
        (0..chunks).for_each(|_| gauge.stored(100, sealed_bytes, waiting_bytes, 800));
        gauge.level()
    }

    #[test]
    fn a_slow_store_makes_it_harder_and_a_fast_one_easier() {
        let mut gauge = Gauge::new(Level::Auto);
        assert_eq!(after(&mut gauge, 15, 50, 700), 1, "it takes a while to tell");
        assert_eq!(after(&mut gauge, 1, 50, 700), 3);
        assert_eq!(after(&mut gauge, 16, 50, 200), 3, "as it should be");
        assert_eq!(after(&mut gauge, 160, 50, 400), 9);
        assert_eq!(after(&mut gauge, 16, 50, 99), 6);
        assert_eq!(after(&mut gauge, 160, 50, 0), 1);
    }

    #[test]
    fn what_does_not_get_smaller_is_not_tried_harder() {
        let mut gauge = Gauge::new(Level::Auto);
        assert_eq!(after(&mut gauge, 160, 96, 800), 1);
        assert_eq!(after(&mut gauge, 32, 60, 800), 6);
        assert_eq!(after(&mut gauge, 160, 101, 800), 1);
    }

    #[test]
    fn what_was_asked_for_stays() {
        let mut gauge = Gauge::new("-3".parse().expect("a level"));
        assert_eq!(after(&mut gauge, 160, 50, 800), -3);
        assert_eq!("auto".parse(), Ok(Level::Auto));
        assert!("20".parse::<Level>().is_err() && "hard".parse::<Level>().is_err());
    }
}
