//! A part of all objects, so that N runs look at everything once.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::units::ChunkId;

/// The n-th of N parts of the space of ids, counted from 1. The parts are disjoint, about equal, and make up all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    number: u32,
    of: u32,
}

impl Slice {
    /// `Invalid` unless `number` is from 1 to `of`.
    pub fn new(number: u32, of: u32) -> Result<Self> {
        if (1..=of).contains(&number) {
            return Ok(Self { number, of });
        }
        Err(Error::invalid(format!("slice {number}/{of}: expected n/N with n from 1 to N"))
            .help("run 1/7 on Mondays, 2/7 on Tuesdays and so on to look at everything in a week"))
    }

    /// Whether this part has the id: by its first 64 bits.
    pub fn contains(&self, id: &ChunkId) -> bool {
        let head = u64::from_be_bytes(std::array::from_fn(|i| id.0[i]));
        let part = (u128::from(head) * u128::from(self.of)) >> 64;
        part == u128::from(self.number - 1)
    }
}

impl FromStr for Slice {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let parts = s.split_once('/').and_then(|(n, of)| Some((n.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) => Self::new(number, of),
            None => Err(Error::invalid(format!("slice {s:?}: expected n/N, such as 3/7"))),
        }
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Numbers;

    #[test]
    fn each_id_is_in_exactly_one_slice_and_slices_are_about_equal() {
        let mut numbers = Numbers::new(1);
        for of in [1, 2, 3, 7, 256, 1000] {
            let slices: Vec<Slice> = (1..=of).map(|n| Slice::new(n, of).expect("valid")).collect();
            let mut counts = vec![0; of as usize];
            let edges = [[0; 32], [0xff; 32]].into_iter();
            let ids = edges.chain((0..3000).map(|_| {
                let head = numbers.next().to_be_bytes();
                std::array::from_fn(|i| head[i % 8])
            }));
            for id in ids {
                let id = ChunkId(id);
                let found: Vec<usize> = (0..slices.len()).filter(|i| slices[*i].contains(&id)).collect();
                assert_eq!(found.len(), 1, "{id} of {of}");
                counts[found[0]] += 1;
            }
            let most = counts.iter().max().expect("some");
            assert!(*most <= 2 * 3000 / of as usize + 20, "{counts:?}");
        }
    }

    #[test]
    fn only_real_parts_are_taken() {
        for good in ["1/1", "1/7", "7/7", "4294967295/4294967295"] {
            assert_eq!(good.parse::<Slice>().expect(good).to_string(), good);
        }
        for bad in ["", "1", "0/7", "8/7", "0/0", "1/0", "-1/7", "1/7/2", "a/b", "1/4294967296"] {
            assert!(bad.parse::<Slice>().is_err(), "{bad}");
        }
    }
}
