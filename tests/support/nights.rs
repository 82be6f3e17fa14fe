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
        volume.edit(|content| numbers.edit(content, 100_000));
    }
    out
}
