//! `cargo xtask bench --nights`: thirty nights of four kinds of volume, with seven daily and four weekly backups kept and a prune each
//! night: what the repositories grow to beside other tools, and how fast the newest and the deepest snapshot come back.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::build;
use super::repositories::{Cuttle, Other, Tool};
use crate::numbers::Numbers;

const HELP: &str = "cargo xtask bench --nights [--depth N] [--volume database|log|files|rewrite]";
const NIGHTS: usize = 30;
const DAILY: usize = 7;
const WEEKLY: usize = 4;
const BLOCK: usize = 4096;
/// Restores are repeated so often; the fastest counts.
const RESTORES: usize = 5;
/// What must be reached.
const GROWTH_MIN: f64 = 5.0;
const RESTORE_MIN: f64 = 0.7;
/// By how much a repository may grow more for what is dead in bundles.
const BUNDLES_MAX: f64 = 1.25;

pub fn command(dir: &Path, args: &[String]) -> Result<()> {
    let (mut depth, mut only) = ("7".to_owned(), None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().context(HELP)?.clone();
        match arg.as_str() {
            "--depth" => depth = value,
            "--volume" => only = Some(value),
            _ => anyhow::bail!(HELP),
        }
    }
    build()?;
    let pool = pool(Path::new("/usr/lib"))?;
    println!(
        "{:<10}{:<18}{:>12}{:>12}{:>12}{:>10}",
        "volume", "tool", "first MiB", "last MiB", "growth MiB", "kept"
    );
    let mut reached = true;
    for volume in VOLUMES.iter().filter(|v| only.as_ref().is_none_or(|name| name == v.name)) {
        reached &= nights(dir, volume, &pool, &depth)?;
    }
    ensure!(reached, "a bar was missed");
    Ok(())
}

/// A volume and what a day does to it.
struct Volume {
    name: &'static str,
    size_bytes: usize,
    day: fn(&mut Vec<u8>, &mut Numbers, &[u8], usize),
}

const VOLUMES: [Volume; 4] = [
    // One page in fifty is written anew, anywhere.
    Volume {
        name: "database",
        size_bytes: 512 << 20,
        day: |data, numbers, pool, _| {
            for at in (0..data.len()).step_by(BLOCK) {
                if numbers.below(50) == 0 {
                    data[at..at + BLOCK].copy_from_slice(real(numbers, pool));
                }
            }
        },
    },
    // Grows by a few MiB a day; its head is overwritten.
    Volume {
        name: "log",
        size_bytes: 192 << 20,
        day: |data, numbers, pool, night| {
            let start = (64 << 20) + night * (4 << 20);
            for at in std::iter::once(0).chain((start..start + (4 << 20)).step_by(BLOCK)) {
                data[at..at + BLOCK].copy_from_slice(real(numbers, pool));
            }
        },
    },
    // Files of all sizes come, go (trimmed) and are overwritten.
    Volume {
        name: "files",
        size_bytes: 256 << 20,
        day: |data, numbers, pool, _| {
            for file in 0..60 {
                let most = 1 << numbers.below(8);
                let blocks = 1 + numbers.below(most) as usize;
                let at = numbers.below((data.len() / BLOCK - blocks) as u64) as usize * BLOCK;
                for block in data[at..at + blocks * BLOCK].chunks_mut(BLOCK) {
                    match file % 3 {
                        0 => block.fill(0),
                        _ => block.copy_from_slice(real(numbers, pool)),
                    }
                }
            }
        },
    },
    // One file of 16 MiB is written anew each day, in place.
    Volume {
        name: "rewrite",
        size_bytes: 128 << 20,
        day: |data, numbers, pool, _| {
            for block in data[32 << 20..48 << 20].chunks_mut(BLOCK) {
                block.copy_from_slice(real(numbers, pool));
            }
        },
    },
];

/// Real bytes, for what is written to be as compressible as what people have.
fn pool(from: &Path) -> Result<Vec<u8>> {
    const WANTED: usize = 96 << 20;
    let (mut folders, mut pool) = (vec![from.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(&folder)?.flatten().map(|e| e.path()).collect();
        entries.sort();
        for path in entries {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_file() && metadata.len() < 4 << 20 && pool.len() < WANTED {
                pool.extend(fs::read(&path).unwrap_or_default());
            }
        }
    }
    ensure!(pool.len() >= WANTED / 2, "{} holds too little to tell anything", from.display());
    Ok(pool)
}

/// The nights kept at the end of a night: the newest seven, and the last of each of the newest four weeks.
pub fn kept(night: usize) -> Vec<usize> {
    let daily = night.saturating_sub(DAILY - 1).max(1)..=night;
    let weeks = (1..=night).filter(|n| n % 7 == 0 || *n == night).rev().take(WEEKLY);
    let mut kept: Vec<usize> = daily.chain(weeks).collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}

fn nights(dir: &Path, volume: &Volume, pool: &[u8], depth: &str) -> Result<bool> {
    let init = ["init", "--delta-depth", depth];
    let mut tools: Vec<Box<dyn Tool>> = vec![
        Box::new(Cuttle::new(dir, "cuttle", &init)?),
        Box::new(Cuttle::new(dir, "cuttle, no deltas", &["init", "--no-delta"])?),
    ];
    tools.extend(Other::all(dir).map(|other| Box::new(other) as Box<dyn Tool>));
    let (mut growth, mut reached) = (Vec::new(), true);
    let mut restores = Vec::new();
    for tool in tools {
        let (name, home) = (tool.name(), tool.home());
        if tool.init().is_err() {
            println!("{:<10}{name:<18}not installed", volume.name);
            continue;
        }
        let mut numbers = Numbers::new(1);
        let image = dir.join("disk.img");
        let (mut data, mut before) = (vec![0; volume.size_bytes], Vec::new());
        for block in data[..volume.size_bytes / 4 * 3].chunks_mut(BLOCK) {
            block.copy_from_slice(real(&mut numbers, pool));
        }
        let mut first_bytes = 0;
        for night in 1..=NIGHTS {
            if night > 1 {
                (volume.day)(&mut data, &mut numbers, pool, night);
            }
            fs::write(&image, &data)?;
            tool.night(&image, &before, &data, night)?;
            if night == 1 {
                first_bytes = size_of(&home)?;
            }
            if name.starts_with("cuttle") {
                tool.restore(night, dir)?;
                ensure!(fs::read(dir.join("back.img"))? == data, "{name}: night {night} came back wrong");
            }
            before.clone_from(&data);
        }
        let (last_bytes, dead_bytes) = (size_of(&home)?, tool.dead_bytes()?);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let grown = mib(last_bytes) - mib(first_bytes);
        println!(
            "{:<10}{name:<18}{:>12.1}{:>12.1}{grown:>12.1}{:>10}",
            volume.name,
            mib(first_bytes),
            mib(last_bytes),
            kept(NIGHTS).len()
        );
        if dead_bytes > 0 {
            let times = grown / (grown - mib(dead_bytes));
            println!("{:<10}{name:<18}grows {times:.2} times what it would without bundles", volume.name);
            reached &= times <= BUNDLES_MAX;
        }
        growth.push((name.to_owned(), grown, mib(last_bytes)));
        if name.starts_with("cuttle") {
            let times = kept(NIGHTS).into_iter().map(|night| fastest(&*tool, night, dir));
            restores.push(times.collect::<Result<Vec<f64>>>()?);
        }
        let _ = fs::remove_dir_all(&home);
    }
    let [ours, others @ ..] = growth.as_slice() else { return Ok(false) };
    let others: Vec<_> = others.iter().filter(|(name, ..)| !name.starts_with("cuttle")).collect();
    let best =
        |of: fn(&(String, f64, f64)) -> f64| others.iter().map(|o| of(o)).fold(f64::INFINITY, f64::min);
    let (times, whole) = (best(|o| o.1) / ours.1, best(|o| o.2) / ours.2);
    println!(
        "{:<10}grows {times:.1} times less than the best of the others, and is {whole:.1} times smaller",
        volume.name
    );
    reached &= volume.name != "database" || times >= GROWTH_MIN;
    if let [deltas, full] = restores.as_slice() {
        let ratios: Vec<f64> = deltas.iter().zip(full).map(|(deltas, full)| full / deltas).collect();
        let newest = ratios.last().copied().unwrap_or_default();
        let (night, slowest) =
            kept(NIGHTS).into_iter().zip(ratios).min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0));
        println!(
            "{:<10}restore: {newest:.2} of the speed of full chunks for the newest, {slowest:.2} for the slowest, of night {night}",
            volume.name
        );
        reached &= volume.name != "database" || newest.min(slowest) >= RESTORE_MIN;
    }
    Ok(reached)
}

fn fastest(tool: &dyn Tool, night: usize, dir: &Path) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..RESTORES {
        let began = Instant::now();
        tool.restore(night, dir)?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn size_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Caches are not the repository.
        if ["cache", "state", "nobody"].iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.size() };
    }
    Ok(bytes)
}

/// A block's worth of real bytes, in which no other block's content lies at the same place.
fn real<'a>(numbers: &mut Numbers, pool: &'a [u8]) -> &'a [u8] {
    let at = numbers.below((pool.len() - BLOCK) as u64) as usize;
    &pool[at..at + BLOCK]
}
