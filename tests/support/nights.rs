//! A volume over some nights, of which each is backed up.

use cuttle::repo::Keeper;
use cuttle::repo::history::SnapshotEntry;

use super::Numbers;
use super::repo::{MemoryVolume, back_up, latest, options};

/// A volume over some nights: writes, zeros, growing and shrinking.
pub async fn nights(project: &Keeper, seed: u64, count: usize) -> Vec<(SnapshotEntry, Vec<u8>)> {
    let mut numbers = Numbers::new(seed);
    let len = numbers.below(3_000_000) as usize;
    let volume = MemoryVolume::new(numbers.bytes(len));
    let mut out = Vec::new();
    for _ in 0..count {
        back_up(project, &volume, &options("v")).await.expect("backed up");
        out.push((latest(project, "v").await, volume.content()));
        volume.edit(|content| {
            for _ in 0..numbers.below(8) {
                match numbers.below(5) {
                    0 => content.truncate(numbers.below(content.len() as u64 + 1) as usize),
                    1 => content.resize(content.len() + numbers.below(200_000) as usize, 0),
                    _ if content.is_empty() => {}
                    kind => {
                        let at = numbers.below(content.len() as u64) as usize;
                        let len = (numbers.below(100_000) as usize).min(content.len() - at);
                        match kind {
                            2 => content[at..at + len].fill(0),
                            _ => content[at..at + len].copy_from_slice(&numbers.bytes(len)),
                        }
                    }
                }
            }
        });
    }
    out
}
