//! `cargo xtask bench --fleet`: what an unchanged volume costs in a run of few and of very many, and one alone in a project of very many.
//! The repository and the volumes, small files, lie in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Run, build, timed};

const DIR: &str = "/dev/shm/cuttle-bench-fleet";
const FEW: usize = 10;
const SOME: usize = 1_000;
const MANY: usize = 10_000;
const FILE_BYTES: usize = 8 << 10;
/// Runs of few are repeated so often, as each is over at once; the fastest counts.
const RUNS: usize = 10;
/// What must be reached: 1,000 volumes, one of many beyond one alone, and a volume among many beyond one among few.
const SOME_MAX_SECONDS: f64 = 20.0;
const ONE_MORE_MAX_SECONDS: f64 = 0.5;
const EACH_RATIO_MAX: f64 = 1.2;

pub fn run() -> Result<()> {
    build()?;
    let dir = Path::new(DIR);
    let _ = fs::remove_dir_all(dir);
    let result = bench(dir);
    fs::remove_dir_all(dir)?;
    ensure!(result?, "a bar was missed");
    Ok(())
}

fn bench(dir: &Path) -> Result<bool> {
    let files = dir.join("files");
    fs::create_dir_all(&files)?;
    let all: Vec<PathBuf> = (0..MANY).map(|n| files.join(format!("volume-{n:05}.img"))).collect();
    for (n, file) in all.iter().enumerate() {
        fs::write(file, n.to_le_bytes().repeat(FILE_BYTES / 8))?;
    }
    let of = |count: usize| -> Result<(Run, Run)> {
        let home = dir.join(format!("of-{count}"));
        fs::create_dir_all(&home)?;
        fs::write(home.join("key"), [7; 32])?;
        cuttle(&home, &["init"], &[])?;
        let first = cuttle(&home, &["backup"], &all[..count])?;
        println!("{count:>6} volumes, first night      {:>8.2} s {:>6.0} MiB", first.seconds, first.peak_mib);
        let night = fastest(count, || cuttle(&home, &["backup"], &all[..count]))?;
        println!("{count:>6} volumes, nothing changed  {:>8.2} s {:>6.0} MiB", night.seconds, night.peak_mib);
        let one = fastest(1, || cuttle(&home, &["backup"], &all[count / 2..=count / 2]))?;
        println!("{:>6} of {count:<6} volumes         {:>8.2} s {:>6.0} MiB", 1, one.seconds, one.peak_mib);
        Ok((night, one))
    };
    let (_, alone) = of(1)?;
    let [(few, _), (some, _), (many, one)] = [of(FEW)?, of(SOME)?, of(MANY)?];
    // What a program takes to begin is no volume's.
    let each = |run: Run, count: usize| (run.seconds - alone.seconds).max(0.0) / (count - 1) as f64;
    let (among_few, among_some, among_many) = (each(few, FEW), each(some, SOME), each(many, MANY));
    println!(
        "a volume more: {:.2} ms among {FEW}, {:.2} among {SOME}, {:.2} among {MANY}",
        among_few * 1e3,
        among_some * 1e3,
        among_many * 1e3
    );
    let more = one.seconds - alone.seconds;
    println!("one of {MANY} takes {more:.2} s more than alone");
    Ok(some.seconds <= SOME_MAX_SECONDS
        && more <= ONE_MORE_MAX_SECONDS
        && among_many <= among_few * EACH_RATIO_MAX)
}

fn fastest(count: usize, run: impl Fn() -> Result<Run>) -> Result<Run> {
    let runs = (0..if count < SOME { RUNS } else { 1 }).map(|_| run()).collect::<Result<Vec<_>>>()?;
    runs.into_iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds)).context("no run")
}

fn cuttle(home: &Path, args: &[&str], sources: &[PathBuf]) -> Result<Run> {
    let mut command = Command::new("target/release/cuttle");
    command.args(args).args(sources);
    command.env("CUTTLE_REPOSITORY", home.join("repo")).env("CUTTLE_KEY_FILE", home.join("key"));
    for variable in ["HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"] {
        command.env(variable, home);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    timed(command.spawn()?).with_context(|| args.join(" "))
}
