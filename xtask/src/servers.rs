//! The stand-ins for cloud storage that tests run against: installed under `target/servers`, started on free ports.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::places::on_free_ports;

/// Versions are part of what the tests were seen to pass with; raise them on purpose.
const MOTO: &str = "moto[server]==5.2.5";
const AZURITE: &str = "azurite@3.37.0";
const S3RVER: &str = "s3rver@3.7.1";
/// A server that does not listen by then has failed. On an idle machine each takes 1 to 4 s.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Written into a directory when its installation is complete.
const COMPLETE: &str = ".complete";

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    pub url: String,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its data lives in memory or in a directory that the next start removes: nothing to shut down in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// S3 with object lock, tags and storage classes. Accepts any credentials, until a test asks for more.
pub fn moto(root: &Path) -> Result<Server> {
    moto_as("moto", root)
}

/// The same apart from it, for the test that makes it look at who asks.
pub fn moto_with_iam(root: &Path) -> Result<Server> {
    moto_as("moto-iam", root)
}

fn moto_as(name: &str, root: &Path) -> Result<Server> {
    // Two of them are one installation.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let installing = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let home = install(root, MOTO, |home| {
        let venv = || run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(home));
        if venv().is_err() {
            apt_install(&["python3", "python3-venv"])?;
            venv()?;
        }
        let pip = home.join("bin/pip");
        run(Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check", MOTO]))
    })?;
    drop(installing);
    on_free_ports(0, |port| {
        // Not by the script's first line, which names the folder that it was installed in.
        let mut command = Command::new(home.join("bin/python3"));
        command.arg(home.join("bin/moto_server")).args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        start(name, root, command, port)
    })
}

/// Azure Blob Storage, with Azure's well-known emulator account.
pub fn azurite(root: &Path) -> Result<Server> {
    let home = install(root, AZURITE, |home| npm_install(home, AZURITE))?;
    on_free_ports(0, |port| {
        let mut command = Command::new("node");
        command.arg(home.join("node_modules/azurite/dist/src/blob/main.js"));
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
        command.args(["--inMemoryPersistence", "--disableTelemetry", "--silent"]);
        start("azurite", root, command, port)
    })
}

/// S3 that ignores `If-None-Match`: what the probe of create-if-absent has to find out. Keys `S3RVER`/`S3RVER`.
pub fn s3rver(root: &Path) -> Result<Server> {
    let home = install(root, S3RVER, |home| npm_install(home, S3RVER))?;
    let data = root.join("s3rver-data");
    if data.exists() {
        fs::remove_dir_all(&data)?;
    }
    fs::create_dir_all(&data)?;
    on_free_ports(0, |port| {
        let mut command = Command::new("node");
        command.arg(home.join("node_modules/s3rver/bin/s3rver.js"));
        command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "--silent", "-d"]).arg(&data);
        start("s3rver", root, command, port)
    })
}

/// Programs that tests read volumes with or look at pages with, and the Debian packages that bring them.
const TOOLS: [(&str, &str); 11] = [
    ("qemu-img", "qemu-utils"),
    ("nbdkit", "nbdkit"),
    ("nbdinfo", "libnbd-bin"),
    ("fusermount3", "fuse3"),
    ("mkfs.xfs", "xfsprogs"),
    ("debugfs", "e2fsprogs"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("chromium", "chromium"),
    ("sfdisk", "fdisk"),
    ("lvm", "lvm2"),
];

/// Installs what of [`TOOLS`] is missing.
pub fn tools() -> Result<()> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &str| {
        let folders: Vec<_> = std::env::split_paths(&paths).collect();
        folders.iter().chain([&"/usr/sbin".into(), &"/sbin".into()]).any(|dir| dir.join(program).exists())
    };
    let missing: Vec<&str> = TOOLS.iter().filter(|(program, _)| !there(program)).map(|(_, p)| *p).collect();
    if missing.is_empty() { Ok(()) } else { apt_install(&missing) }
}

/// Installs packages by apt; needs root. Never at the cost of another package: whoever installed that needs it.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    // Servers are installed at the same time, and apt has a lock that it does not wait for.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    eprintln!("installing {}", packages.join(" "));
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        run(command.args(args).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update", "-q"])?;
    apt(&[&["install", "-y", "-q", "--no-install-recommends", "--no-remove"], packages].concat())
}

/// The directory of a package, filled by `fill` unless an earlier run did.
fn install(root: &Path, package: &str, fill: impl Fn(&Path) -> Result<()>) -> Result<PathBuf> {
    let name: String =
        package.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let home = root.join(name);
    if home.join(COMPLETE).exists() {
        return Ok(home);
    }
    eprintln!("installing {package}");
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("removing {}", home.display()))?;
    }
    fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
    fill(&home).with_context(|| format!("installing {package}"))?;
    fs::write(home.join(COMPLETE), package)?;
    Ok(home)
}

fn npm_install(home: &Path, package: &str) -> Result<()> {
    let npm = || run(Command::new("npm").arg("--version"));
    if npm().is_err() {
        apt_install(&["nodejs", "npm"])?;
    }
    fs::write(home.join("package.json"), "{\"private\":true}\n")?;
    let mut command = Command::new("npm");
    command.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", package]);
    run(command.current_dir(home))
}

/// Runs a program to its end; what it said is part of the error.
fn run(command: &mut Command) -> Result<()> {
    let what = format!("{:?}", command.get_program());
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {what}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what} failed ({}): {}", output.status, said.trim());
    Ok(())
}

fn start(name: &str, root: &Path, mut command: Command, port: u16) -> Result<Server> {
    let log = root.join(format!("{name}.log"));
    let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).current_dir(root);
    let child = command.spawn().with_context(|| format!("starting {name}"))?;
    let mut server = Server { url: format!("http://127.0.0.1:{port}"), child };
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = server.child.try_wait()? {
            bail!("{name} ended at once ({status}): see {}", log.display());
        }
        ensure!(began.elapsed() < START_TIMEOUT, "{name} does not listen: see {}", log.display());
        thread::sleep(POLL);
    }
    Ok(server)
}
