//! `cargo xtask bench --ceph`: what an incremental of a 1 TiB thin image costs, beside Ceph's own tools on the same cluster.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Run, timed};
use crate::ceph;
use crate::places::{cluster_directory, start_cluster};

/// Each run is repeated so often; the median counts.
const RUNS: usize = 5;

pub fn run() -> Result<()> {
    ceph::install()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    ensure!(Command::new(cargo).args(["build", "--release", "--bin", "cuttle"]).status()?.success());
    let directory = cluster_directory("bench")?;
    let cluster = start_cluster(&directory, false)?;
    let here = PathBuf::from("/dev/shm/cuttle-bench-ceph");
    let _ = fs::remove_dir_all(&here);
    fs::create_dir_all(&here)?;
    let bench = Bench {
        conf: cluster.conf(),
        here: here.clone(),
        cuttle: fs::canonicalize("target/release/cuttle")?,
    };
    let result = bench.all();
    ceph::down(&directory)?;
    fs::remove_dir_all(&here)?;
    result
}

struct Bench {
    conf: PathBuf,
    here: PathBuf,
    cuttle: PathBuf,
}

impl Bench {
    fn all(&self) -> Result<()> {
        self.rbd(&["create", "--size", "1T", "thin"])?;
        self.cuttle(&["init"])?;
        self.write(0)?;
        let first = self.cuttle(&["backup", "rbd:thin"])?;
        println!(
            "first backup of 1 TiB with 40 MiB written: {:.2} s, peak {:.0} MiB",
            first.seconds, first.peak_mib
        );
        println!("\n{:<44}{:>10}{:>12}", "", "seconds", "peak MiB");
        for (what, changed) in [("nothing changed", false), ("40 MiB changed", true)] {
            let (mut ours, mut diff, mut export) = (Vec::new(), Vec::new(), Vec::new());
            for night in 0..RUNS {
                self.rbd(&["snap", "create", "thin@before"])?;
                if changed {
                    self.write(night as u64 + 1)?;
                }
                ours.push(self.cuttle(&["backup", "rbd:thin"])?);
                self.rbd(&["snap", "create", "thin@after"])?;
                diff.push(self.rbd(&["diff", "--whole-object", "--from-snap", "before", "thin@after"])?);
                export.push(self.rbd(&[
                    "export-diff",
                    "--no-progress",
                    "--from-snap",
                    "before",
                    "thin@after",
                    "-",
                ])?);
                self.rbd(&["snap", "rm", "--no-progress", "thin@before"])?;
                self.rbd(&["snap", "rm", "--no-progress", "thin@after"])?;
            }
            let [ours, diff, export] = [ours, diff, export].map(median);
            for (tool, run) in [
                ("cuttle backup", &ours),
                ("rbd diff --whole-object", &diff),
                ("rbd export-diff to /dev/null", &export),
            ] {
                let name = format!("{what}: {tool}");
                println!("{name:<44}{:>10.2}{:>12.0}", run.seconds, run.peak_mib);
            }
            println!("{what}: {:.2} s beyond rbd diff", ours.seconds - diff.seconds);
        }
        Ok(())
    }

    /// Ten objects of random bytes, spread over the image, by one diff.
    fn write(&self, round: u64) -> Result<()> {
        let mut random = fs::File::open("/dev/urandom")?;
        let mut stream = b"rbd diff v1\ns".to_vec();
        stream.extend((1u64 << 40).to_le_bytes());
        for i in 0..10u64 {
            stream.push(b'w');
            stream.extend((((i * 26_003 + round * 977) % 262_144) << 22).to_le_bytes());
            stream.extend((4u64 << 20).to_le_bytes());
            let mut data = vec![0; 4 << 20];
            random.read_exact(&mut data)?;
            stream.extend(data);
        }
        stream.push(b'e');
        let file = self.here.join("changes.diff");
        fs::write(&file, stream)?;
        self.rbd(&["import-diff", "--no-progress", &file.to_string_lossy(), "thin"]).map(|_| ())
    }

    fn rbd(&self, args: &[&str]) -> Result<Run> {
        self.go(Path::new("rbd"), args)
    }

    fn cuttle(&self, args: &[&str]) -> Result<Run> {
        self.go(&self.cuttle, args)
    }

    fn go(&self, program: &Path, args: &[&str]) -> Result<Run> {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("CEPH_CONF", &self.conf)
            .env("CUTTLE_PASSWORD", "a passphrase for a benchmark");
        command.env("CUTTLE_REPOSITORY", self.here.join("repo")).stdin(Stdio::null()).stdout(Stdio::null());
        for variable in ["HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"] {
            command.env(variable, &self.here);
        }
        timed(command.stderr(Stdio::null()).spawn().with_context(|| format!("start {}", program.display()))?)
            .with_context(|| format!("{} {}", program.display(), args.join(" ")))
    }
}

fn median(mut runs: Vec<Run>) -> Run {
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let middle = runs.len() / 2;
    runs.swap_remove(middle)
}
