//! `cargo xtask bench`: backups and restores of a real file-system image, held against the ceiling of the same bytes and beside other
//! tools, all in one run. Source and repositories lie in memory, so that no disk hides anything. Ratios count, not seconds.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const HELP: &str = "cargo xtask bench --ceph, or cargo xtask bench [--delta] [--size GIB] [--from DIR]   (default: an image of 16 GiB, with\n--delta of 6, that holds /usr/lib)";
const FROM_DEFAULT: &str = "/usr/lib";

/// What one run of a command took.
pub struct Run {
    pub seconds: f64,
    pub peak_mib: f64,
}

pub fn command(args: &[String]) -> Result<()> {
    if args == ["--ceph"] {
        return crate::bench_ceph::run();
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
    // Huge pages, or the kernel's page allocation takes a third as long as the work that is to be measured.
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "huge=within_size,size=90%", "cuttle-bench"])
        .arg(&dir)
        .status()
        .is_ok_and(|s| s.success());
    println!("memory file system: {}", if mounted { "tmpfs with huge pages" } else { "/dev/shm as it is" });
    let result = match is_delta {
        true => crate::bench_delta::run(&dir, size_gib, &from),
        false => run_all(&dir, size_gib, &from),
    };
    if mounted {
        ensure!(Command::new("umount").arg(&dir).status()?.success(), "{} stays mounted", dir.display());
    }
    fs::remove_dir_all(&dir)?;
    result
}

fn run_all(dir: &Path, size_gib: u64, from: &str) -> Result<()> {
    let image = dir.join("fs.img");
    make_image(&image, size_gib, from)?;
    build()?;
    let cargo = cargo();
    ensure!(Command::new(&cargo).args(["bench", "--no-run", "--bench", "ceiling"]).status()?.success());
    let ceiling =
        Command::new(&cargo).args(["bench", "--quiet", "--bench", "ceiling", "--"]).arg(&image).output()?;
    let text = String::from_utf8(ceiling.stdout)?;
    let number = |name: &str| -> Result<f64> {
        let rest =
            text.split(&format!("\"{name}\":")).nth(1).with_context(|| format!("no {name} in {text}"))?;
        Ok(rest.split([',', '}']).next().unwrap_or_default().parse()?)
    };
    let (bytes, seal, open) = (number("bytes")?, number("seal_seconds")?, number("open_seconds")?);
    println!("image: {size_gib} GiB, {:.2} GiB of non-zero chunks", bytes / f64::from(1 << 30));
    println!("ceiling: hash + zstd 1 + seal {seal:.2} s, unseal + unzstd + hash {open:.2} s\n");
    println!("{:<10}{:>12}{:>12}{:>12}{:>10}", "", "backup 1", "backup 2", "restore", "peak MiB");
    let mut all = Vec::new();
    for tool in TOOLS {
        if let Some(runs) = tool.run(dir, &image)? {
            print(tool.name, &runs);
            all.push((tool.name, runs));
        } else {
            println!("{:<10}not installed", tool.name);
        }
    }
    let Some(((_, ours), others)) = all.split_first() else { bail!("nothing ran") };
    println!("\nof the ceiling: backup {:.2}, restore {:.2}", seal / ours[0].seconds, open / ours[2].seconds);
    for (at, what) in ["backup 1", "backup 2", "restore"].iter().enumerate() {
        let best = others.iter().map(|(_, r)| r[at].seconds).fold(f64::INFINITY, f64::min);
        println!("{what}: {:.1} times as fast as the best of the others", best / ours[at].seconds);
    }
    Ok(())
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

fn print(name: &str, runs: &[Run; 3]) {
    let peak = runs.iter().map(|r| r.peak_mib).fold(0.0, f64::max);
    let [first, second, restore] = runs.each_ref().map(|r| format!("{:.2} s", r.seconds));
    println!("{name:<10}{first:>12}{second:>12}{restore:>12}{peak:>10.0}");
}

/// A real ext4 file system, filled without mounting it.
pub fn make_image(image: &Path, size_gib: u64, from: &str) -> Result<()> {
    let file = fs::File::create(image)?;
    file.set_len(size_gib << 30)?;
    let status = Command::new("mkfs.ext4").args(["-q", "-F", "-d", from]).arg(image).status();
    ensure!(status.context("mkfs.ext4")?.success(), "mkfs.ext4 -d {from} failed: is the image large enough?");
    Ok(())
}

/// A backup tool: how it makes a repository, backs up a file, and restores it.
struct Tool {
    name: &'static str,
    program: &'static str,
    init: &'static [&'static str],
    backup: &'static [&'static str],
    restore: &'static [&'static str],
}

/// `{repo}`, `{image}`, `{dir}` and `{out}` are replaced. `{out}` is a directory for tools that restore paths.
const TOOLS: [Tool; 4] = [
    Tool {
        name: "cuttle",
        program: "target/release/cuttle",
        init: &["init", "-r", "{repo}"],
        backup: &["backup", "-r", "{repo}", "{image}"],
        restore: &["restore", "-r", "{repo}", "fs.img", "{out}/fs.img"],
    },
    Tool {
        name: "restic",
        program: "restic",
        init: &["init", "-r", "{repo}"],
        backup: &["backup", "-r", "{repo}", "--force", "{image}"],
        restore: &["restore", "-r", "{repo}", "latest", "--target", "{out}"],
    },
    Tool {
        name: "rustic",
        program: "rustic",
        init: &["init", "-r", "{repo}"],
        backup: &["backup", "-r", "{repo}", "--force", "{image}"],
        restore: &["restore", "-r", "{repo}", "latest", "{out}"],
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
            "{repo}::{now}",
            "{image}",
        ],
        restore: &["extract", "--sparse", "{repo}::{last}"],
    },
];

impl Tool {
    /// Two backups and a restore; `None` where the tool is not installed.
    fn run(&self, dir: &Path, image: &Path) -> Result<Option<[Run; 3]>> {
        let here = dir.join(self.name);
        let (repo, out) = (here.join("repo"), here.join("out"));
        fs::create_dir_all(&out)?;
        let program = match self.program.contains('/') {
            true => fs::canonicalize(self.program)?,
            false => PathBuf::from(self.program),
        };
        let mut night = 0;
        let mut go = |args: &[&str]| -> Result<Run> {
            night += 1;
            let fill = |arg: &&str| {
                arg.replace("{repo}", &repo.to_string_lossy())
                    .replace("{image}", &image.to_string_lossy())
                    .replace("{out}", &out.to_string_lossy())
                    .replace("{now}", &format!("n{}", night - 1))
                    .replace("{last}", "n2")
            };
            let args: Vec<String> = args.iter().map(fill).collect();
            let mut command = Command::new(&program);
            command.args(args).current_dir(&out).stdout(Stdio::null()).stdin(Stdio::null());
            for variable in ["CUTTLE_PASSWORD", "RESTIC_PASSWORD", "RUSTIC_PASSWORD", "BORG_PASSPHRASE"] {
                command.env(variable, "a passphrase for a benchmark");
            }
            for variable in ["HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"] {
                command.env(variable, &here);
            }
            timed(command.stderr(Stdio::null()).spawn().context(self.name)?)
        };
        if go(self.init).is_err() {
            return Ok(None);
        }
        let runs = [go(self.backup)?, go(self.backup)?, go(self.restore)?];
        fs::remove_dir_all(&here)?;
        Ok(Some(runs))
    }
}

/// Waits for a process; its peak memory is what the kernel shows while it lives.
pub fn timed(mut child: Child) -> Result<Run> {
    let (start, status) = (Instant::now(), format!("/proc/{}/status", child.id()));
    let mut peak_kib = 0f64;
    loop {
        if let Ok(text) = fs::read_to_string(&status)
            && let Some(line) = text.lines().find(|l| l.starts_with("VmHWM:"))
            && let Some(kib) = line.split_whitespace().nth(1)
        {
            peak_kib = peak_kib.max(kib.parse().unwrap_or(0.0));
        }
        if let Some(exit) = child.try_wait()? {
            ensure!(exit.success(), "it ended with {exit}");
            return Ok(Run { seconds: start.elapsed().as_secs_f64(), peak_mib: peak_kib / 1024.0 });
        }
        thread::sleep(Duration::from_millis(10));
    }
}
