//! `cargo xtask bench`: backups and restores of a real file-system image, held against the ceiling of the same bytes and beside other
//! tools, all in one run. Source and repositories lie in memory, so that no disk hides anything. Ratios count, not seconds.

mod ceph;
mod delta;
mod fleet;
mod latency;
mod nights;
mod repositories;
mod restore;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::ceph::process_cpu_seconds;

const HELP: &str = "cargo xtask bench --ceph, --restore, --nights, --latency [GIB], --fleet or --prune, or cargo xtask bench [--delta] [--size GIB] [--from DIR]   (default: an image of 16 GiB, with\n--delta of 6, that holds /usr/lib)";
/// Every run is done so often, and so is the ceiling, in turn with those of cuttle.
const TIMES: usize = 3;
const FROM_DEFAULT: &str = "/usr/lib";

/// What one run of a command took.
#[derive(Clone, Copy)]
pub struct Run {
    pub seconds: f64,
    pub peak_mib: f64,
    /// User and system time, as last seen while it lived.
    pub cpu_seconds: f64,
}

pub fn command(args: &[String]) -> Result<()> {
    if args == ["--ceph"] {
        return ceph::run();
    }
    if args == ["--restore"] {
        return restore::run();
    }
    if args.first().is_some_and(|a| a == "--latency") {
        return latency::run(&args[1..]);
    }
    if args == ["--fleet"] {
        return fleet::run();
    }
    if args == ["--prune"] {
        return prune();
    }
    if args.first().is_some_and(|a| a == "--nights") {
        let dir = PathBuf::from("/dev/shm/cuttle-bench-nights");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let result = nights::command(&dir, &args[1..]);
        fs::remove_dir_all(&dir)?;
        return result;
    }
    let is_delta = args.first().is_some_and(|a| a == "--delta");
    let (mut size_gib, mut from) = (if is_delta { 6u64 } else { 16 }, FROM_DEFAULT.to_owned());
    let mut args = args.iter().skip(usize::from(is_delta));
    while let Some(arg) = args.next() {
        let value = args.next().context(HELP)?;
        match arg.as_str() {
            "--size" => size_gib = value.parse().context(HELP)?,
            "--from" => from.clone_from(value),
            _ => bail!(HELP),
        }
    }
    let dir = PathBuf::from("/dev/shm/cuttle-bench");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    // Huge pages for files of any size, or the kernel's page allocation takes a third as long as the work that is to be measured.
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "huge=always,size=90%", "cuttle-bench"])
        .arg(&dir)
        .status()
        .is_ok_and(|s| s.success());
    println!("memory file system: {}", if mounted { "tmpfs with huge pages" } else { "/dev/shm as it is" });
    let result = match is_delta {
        true => delta::run(&dir, size_gib, &from),
        false => run_all(&dir, size_gib, &from),
    };
    if mounted {
        ensure!(Command::new("umount").arg(&dir).status()?.success(), "{} stays mounted", dir.display());
    }
    fs::remove_dir_all(&dir)?;
    result
}

/// The repositories lie in memory. The bench measures each prune in a process of its own.
fn prune() -> Result<()> {
    let dir = PathBuf::from("/dev/shm/cuttle-bench");
    fs::create_dir_all(&dir)?;
    let done = Command::new(cargo()).args(["bench", "--quiet", "--bench", "prune", "--"]).arg(&dir).status();
    fs::remove_dir_all(&dir)?;
    ensure!(done?.success(), "the bench failed");
    Ok(())
}

fn run_all(dir: &Path, size_gib: u64, from: &str) -> Result<()> {
    let image = dir.join("fs.img");
    make_image(&image, size_gib, from)?;
    build()?;
    let cargo = cargo();
    ensure!(Command::new(&cargo).args(["bench", "--no-run", "--bench", "ceiling"]).status()?.success());
    println!(
        "{:<14}{:>12}{:>12}{:>12}{:>12}{:>12}{:>10}",
        "", "backup 1", "backup 2", "restore", "in place", "list", "peak MiB"
    );
    let (mut all, mut ceilings) = (Vec::new(), Vec::new());
    for tool in TOOLS {
        let ours = all.is_empty();
        let mut before_each = || -> Result<()> {
            if ours {
                ceilings.push(ceiling(&image)?);
            }
            Ok(())
        };
        if let Some(runs) = tool.run(dir, &image, &mut before_each)? {
            print(tool.name, &runs);
            all.push((tool.name, runs));
        } else {
            println!("{:<14}not installed", tool.name);
        }
    }
    // As many of those before backups count as there are backups, and of those before restores.
    let (up, down) = ceilings.split_at(TIMES);
    let least =
        |of: &[Ceiling], seconds: fn(&Ceiling) -> f64| of.iter().map(seconds).fold(f64::INFINITY, f64::min);
    let (seal, open) = (least(up, |c| c.seal), least(down, |c| c.open));
    let bytes = up.first().map_or(0.0, |c| c.bytes);
    println!("\nimage: {size_gib} GiB, {:.2} GiB of non-zero chunks", bytes / f64::from(1 << 30));
    println!("ceiling: hash + zstd 1 + seal {seal:.2} s, unseal + unzstd + hash {open:.2} s");
    let Some(((_, ours), others)) = all.split_first() else { bail!("nothing ran") };
    println!(
        "of the ceiling: backup {:.2}, restore {:.2} in place, {:.2} with the allocation of the memory that it goes to",
        seal / ours[0].seconds,
        open / ours[3].seconds,
        open / ours[2].seconds
    );
    // To list the snapshots takes what every command takes before it begins: the key's derivation from a passphrase, above all.
    let [first, _, restore, again, start] = ours.each_ref().map(|run| run.seconds);
    println!(
        "less the {start:.2} s that unlocking takes each time: backup {:.2}, restore {:.2} in place, {:.2}",
        seal / (first - start),
        open / (again - start),
        open / (restore - start)
    );
    for (at, what) in ["backup 1", "backup 2", "restore", "restore in place"].iter().enumerate() {
        let best = others.iter().min_by(|a, b| a.1[at].seconds.total_cmp(&b.1[at].seconds));
        let Some((name, best)) = best else { break };
        println!(
            "{what}: {:.1} times as fast as the best of the others, {name}",
            best[at].seconds / ours[at].seconds
        );
    }
    Ok(())
}

/// What the bytes themselves cost, on all cores.
struct Ceiling {
    bytes: f64,
    seal: f64,
    open: f64,
}

fn ceiling(image: &Path) -> Result<Ceiling> {
    let output =
        Command::new(cargo()).args(["bench", "--quiet", "--bench", "ceiling", "--"]).arg(image).output()?;
    let text = String::from_utf8(output.stdout)?;
    let number = |name: &str| -> Result<f64> {
        let rest =
            text.split(&format!("\"{name}\":")).nth(1).with_context(|| format!("no {name} in {text}"))?;
        Ok(rest.split([',', '}']).next().unwrap_or_default().parse()?)
    };
    Ok(Ceiling { bytes: number("bytes")?, seal: number("seal_seconds")?, open: number("open_seconds")? })
}

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The program that is measured.
pub fn build() -> Result<()> {
    let built = Command::new(cargo()).args(["build", "--release", "--bin", "cuttle"]).status()?;
    ensure!(built.success(), "cuttle does not build");
    Ok(())
}

fn print(name: &str, runs: &[Run; 5]) {
    let peak = runs.iter().map(|r| r.peak_mib).fold(0.0, f64::max);
    let shown =
        |run: &Run| if run.seconds.is_finite() { format!("{:.2} s", run.seconds) } else { "-".to_owned() };
    let [first, second, restore, again, start] = runs.each_ref().map(shown);
    println!("{name:<14}{first:>12}{second:>12}{restore:>12}{again:>12}{start:>12}{peak:>10.0}");
}

/// A real ext4 file system, filled without mounting it.
pub fn make_image(image: &Path, size_gib: u64, from: &str) -> Result<()> {
    let file = fs::File::create(image)?;
    file.set_len(size_gib << 30)?;
    let status = Command::new("mkfs.ext4").args(["-q", "-F", "-d", from]).arg(image).status();
    ensure!(status.context("mkfs.ext4")?.success(), "mkfs.ext4 -d {from} failed: is the image large enough?");
    Ok(())
}

/// Touches as much memory as a tool's repository and restored image will take. On a virtual machine the first touch of a page costs
/// more than anything that is measured here, and it would be the first tool that pays.
fn warm_up(dir: &Path, image: &Path) -> Result<()> {
    let scratch = dir.join("warm-up");
    let mut file = fs::File::create(&scratch)?;
    let piece = vec![1; 4 << 20];
    let wanted_bytes = 2 * fs::metadata(image)?.blocks() * 512;
    for _ in 0..wanted_bytes / piece.len() as u64 {
        file.write_all(&piece)?;
    }
    Ok(fs::remove_file(&scratch)?)
}

/// A backup tool: how it makes a repository, backs up a file, and restores it.
struct Tool {
    name: &'static str,
    program: &'static str,
    init: &'static [&'static str],
    backup: &'static [&'static str],
    restore: &'static [&'static str],
    /// Restores all of it once more, into the file that is there; empty for a tool that leaves it when it looks the same.
    again: &'static [&'static str],
    /// Lists the snapshots.
    list: &'static [&'static str],
}

/// `{repo}`, `{image}`, `{dir}` and `{out}` are replaced. `{out}` is a directory for tools that restore paths.
const TOOLS: [Tool; 5] = [
    Tool {
        name: "cuttle",
        program: "target/release/cuttle",
        init: &["init", "-r", "{repo}"],
        backup: &["backup", "-r", "{repo}", "{image}"],
        restore: &["restore", "-r", "{repo}", "fs.img", "{out}/fs.img"],
        again: &["restore", "-r", "{repo}", "fs.img", "{out}/fs.img", "--overwrite", "--no-compare"],
        list: &["snapshots", "-r", "{repo}"],
    },
    Tool {
        name: "restic",
        program: "restic",
        init: &["init", "-r", "{repo}"],
        backup: &["backup", "-r", "{repo}", "--force", "{image}"],
        restore: &["restore", "-r", "{repo}", "latest", "--target", "{out}"],
        again: &["restore", "-r", "{repo}", "latest", "--target", "{out}"],
        list: &["snapshots", "-r", "{repo}"],
    },
    Tool {
        name: "rustic",
        program: "rustic",
        init: &["init", "-r", "{repo}", "--set-compression", "1"],
        backup: &["backup", "-r", "{repo}", "--force", "{image}"],
        restore: &["restore", "-r", "{repo}", "latest", "{out}"],
        again: &[],
        list: &["snapshots", "-r", "{repo}"],
    },
    Tool {
        name: "rustic, fixed",
        program: "rustic",
        init: &[
            "init",
            "-r",
            "{repo}",
            "--set-chunker",
            "fixed_size",
            "--set-chunk-size",
            "4MiB",
            "--set-compression",
            "1",
        ],
        backup: &["backup", "-r", "{repo}", "--force", "{image}"],
        restore: &["restore", "-r", "{repo}", "latest", "{out}"],
        again: &[],
        list: &["snapshots", "-r", "{repo}"],
    },
    Tool {
        name: "borg",
        program: "borg",
        init: &["init", "--encryption", "repokey-blake2", "{repo}"],
        backup: &[
            "create",
            "--chunker-params",
            "fixed,4194304",
            "--compression",
            "zstd,1",
            "--files-cache",
            "disabled",
            "{repo}::{night}",
            "{image}",
        ],
        restore: &["extract", "--sparse", "{repo}::{night}"],
        again: &["extract", "--sparse", "{repo}::{night}"],
        list: &["list", "{repo}"],
    },
];

impl Tool {
    /// A first backup, a second one, a restore to a new file, one into a file that is there; `None` where the tool is not installed.
    /// Each is done some times, and the best counts. `before_each` comes before each first backup and each pair of restores.
    fn run(
        &self,
        dir: &Path,
        image: &Path,
        before_each: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Option<[Run; 5]>> {
        let here = dir.join(self.name);
        let out = here.join("out");
        let mut runs = [(); 5].map(|()| Vec::new());
        for _ in 0..TIMES {
            let _ = fs::remove_dir_all(&here);
            fs::create_dir_all(&out)?;
            if self.go(self.init, &here, image, 0).is_err() {
                return Ok(None);
            }
            before_each()?;
            warm_up(dir, image)?;
            runs[0].push(self.go(self.backup, &here, image, 0)?);
        }
        for night in 1..=TIMES {
            runs[1].push(self.go(self.backup, &here, image, night)?);
        }
        for _ in 0..TIMES {
            fs::remove_dir_all(&out)?;
            fs::create_dir_all(&out)?;
            before_each()?;
            warm_up(dir, image)?;
            runs[2].push(self.go(self.restore, &here, image, TIMES)?);
            runs[3].push(match self.again {
                [] => Run { seconds: f64::INFINITY, peak_mib: 0.0, cpu_seconds: 0.0 },
                again => self.go(again, &here, image, TIMES)?,
            });
        }
        for _ in 0..TIMES {
            runs[4].push(self.go(self.list, &here, image, TIMES)?);
        }
        fs::remove_dir_all(&here)?;
        Ok(Some(runs.map(best)))
    }

    fn go(&self, args: &[&str], here: &Path, image: &Path, night: usize) -> Result<Run> {
        let fill = |arg: &&str| {
            arg.replace("{repo}", &here.join("repo").to_string_lossy())
                .replace("{image}", &image.to_string_lossy())
                .replace("{out}", &here.join("out").to_string_lossy())
                .replace("{night}", &format!("night-{night}"))
        };
        let args: Vec<String> = args.iter().map(fill).collect();
        let program = match self.program.contains('/') {
            true => fs::canonicalize(self.program)?,
            false => PathBuf::from(self.program),
        };
        let mut command = Command::new(program);
        command.args(args).current_dir(here.join("out")).stdout(Stdio::null()).stdin(Stdio::null());
        for variable in ["CUTTLE_PASSWORD", "RESTIC_PASSWORD", "RUSTIC_PASSWORD", "BORG_PASSPHRASE"] {
            command.env(variable, "a passphrase for a benchmark");
        }
        for variable in ["HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"] {
            command.env(variable, here);
        }
        timed(command.stderr(Stdio::null()).spawn().context(self.name)?)
    }
}

/// The shortest time and the highest peak.
fn best(runs: Vec<Run>) -> Run {
    let seconds = runs.iter().map(|r| r.seconds).fold(f64::INFINITY, f64::min);
    let highest = |of: fn(&Run) -> f64| runs.iter().map(of).fold(0.0, f64::max);
    Run { seconds, peak_mib: highest(|r| r.peak_mib), cpu_seconds: highest(|r| r.cpu_seconds) }
}

/// Waits for a process; its peak memory is what the kernel shows while it lives.
pub fn timed(mut child: Child) -> Result<Run> {
    let (start, pid) = (Instant::now(), child.id().to_string());
    let status = format!("/proc/{pid}/status");
    let (mut peak_kib, mut cpu_seconds) = (0f64, 0f64);
    loop {
        if let Ok(text) = fs::read_to_string(&status)
            && let Some(line) = text.lines().find(|l| l.starts_with("VmHWM:"))
            && let Some(kib) = line.split_whitespace().nth(1)
        {
            peak_kib = peak_kib.max(kib.parse().unwrap_or(0.0));
        }
        cpu_seconds = process_cpu_seconds(&pid).unwrap_or(cpu_seconds).max(cpu_seconds);
        if let Some(exit) = child.try_wait()? {
            ensure!(exit.success(), "it ended with {exit}");
            return Ok(Run {
                seconds: start.elapsed().as_secs_f64(),
                peak_mib: peak_kib / 1024.0,
                cpu_seconds,
            });
        }
        thread::sleep(Duration::from_millis(10));
    }
}
