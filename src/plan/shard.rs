//! A share of a project's volumes, for several hosts that do one job without talking to each other.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Most shares.
const SHARDS_MAX: u32 = 1 << 20;

/// The I-th of N shares. Each volume is in exactly one of them, by its name alone, whoever asks and whatever other volumes there
/// are.
///
/// I goes from 1 to N. 0 is N, too, so that what counts its jobs from 0 (`JOB_COMPLETION_INDEX` of Kubernetes, array jobs)
/// needs no arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    of: u32,
}

impl Shard {
    /// The share `index` of `of`.
    ///
    /// # Errors
    /// `Invalid` unless `index` is at most `of`, and `of` at least 1.
    pub fn new(index: u32, of: u32) -> Result<Self> {
        match (1..=SHARDS_MAX).contains(&of) && index <= of {
            true => Ok(Self { index: index % of, of }),
            false => {
                Err(Error::invalid(format!("shard {index}/{of}: expected I/N with I from 1 to N, or from 0"))
                    .help("of three hosts one says 1/3, one 2/3, one 3/3"))
            }
        }
    }

    /// Whether a volume is in this share.
    pub fn has(&self, volume_name: &str) -> bool {
        let hash = blake3::hash(volume_name.as_bytes());
        let head = u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]));
        head % u64::from(self.of) == u64::from(self.index)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?))) {
            Some((index, of)) => Self::new(index, of),
            None => Err(Error::invalid(format!("shard {s:?}: expected I/N, such as 1/3"))),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = if self.index == 0 { self.of } else { self.index };
        write!(f, "{index}/{}", self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(s: &str) -> Shard {
        s.parse().expect(s)
    }

    #[test]
    fn each_volume_is_in_one_share_and_shares_are_about_equal() {
        for of in [1, 2, 3, 8, 100] {
            let shards: Vec<Shard> = (1..=of).map(|i| Shard::new(i, of).expect("one")).collect();
            let mut sizes = vec![0; of as usize];
            for n in 0..10_000 {
                let name = format!("vms/volume-{n}");
                let has: Vec<usize> = (0..shards.len()).filter(|i| shards[*i].has(&name)).collect();
                assert_eq!(has.len(), 1, "{name} of {of}");
                sizes[has[0]] += 1;
            }
            let even = 10_000 / of;
            assert!(sizes.iter().all(|n| (even * 6 / 10..=even * 14 / 10).contains(n)), "{of}: {sizes:?}");
        }
    }

    /// Hosts of other versions come to the same: this never changes.
    #[test]
    fn a_volume_stays_where_it_is() {
        let of = |name: &str| (1..=5).find(|i| Shard::new(*i, 5).expect("one").has(name));
        let found: Vec<_> = ["vms/db", "vms/web", "images/debian-12", "a"].map(of).into();
        assert_eq!(found, [Some(5), Some(4), Some(2), Some(3)]);
    }

    #[test]
    fn counted_from_one_or_from_nought() {
        assert_eq!(shard("0/8"), shard("8/8"));
        assert_eq!(shard("0/8").to_string(), "8/8");
        assert_eq!(shard("3/8").to_string(), "3/8");
        for bad in ["", "1", "/", "9/8", "-1/8", "0/0", "1/0", "a/b", "1/4294967296", "2/2000000"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }
}
