//! A real one-node Ceph cluster on loopback, for the tests and the demo: a monitor, a manager, one BlueStore OSD on a
//! sparse file and, where asked for, an RGW (S3). Everything of a cluster lives in one directory; several run side by
//! side on different ports. Needs Debian's or Ubuntu's packages, which [`install`] brings.
//!
//! What is easily got wrong: an OSD must be made with the very uuid that `ceph osd new` registered, or it never boots;
//! and a daemon is known by the configuration file on its command line, never by a pid file that may be stale.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Port of the first cluster's monitor unless told otherwise: Ceph's own. The manager and the OSD take ports above it.
pub const MON_PORT_DEFAULT: u16 = 6789;
/// The monitor's port of the newer wire protocol lies this much below the older one's, as Ceph's defaults do.
const MON_V2_PORT_OFFSET: u16 = 3000;
/// Ports that one cluster's manager and OSD may take, from the one above the monitor's.
const DAEMON_PORTS: u16 = 90;
/// Size of the OSD's file. It is sparse: only what is written takes space.
const OSD_SIZE_BYTES: u64 = 20 << 30;
/// A step that takes longer has failed. On an idle machine none takes 5 s.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);
/// A directory with this file in it was made here, and may be removed.
const MARKER: &str = "cuttle-test-cluster";
// The bindings for Python are what the histories' operator is written with (tests/histories).
const PACKAGES: [&str; 8] =
    ["ceph-mon", "ceph-mgr", "ceph-osd", "ceph-common", "librbd1", "python3-rados", "python3-rbd", "radosgw"];
const BINARIES: [&str; 8] =
    ["ceph-mon", "ceph-mgr", "ceph-osd", "ceph", "rbd", "ceph-authtool", "radosgw", "radosgw-admin"];
const DAEMONS: [&str; 4] = ["ceph-mon", "ceph-mgr", "ceph-osd", "radosgw"];
/// The S3 user of every RGW started here.
pub const RGW_ACCESS_KEY: &str = "AKTEST";
pub const RGW_SECRET_KEY: &str = "SKTEST";
/// Users without buckets of their own, and their keys.
const RGW_ROLES: [(&str, &str, &str); 3] = [
    ("backup-host", "AKHOST", "SKHOST"),
    ("pruner", "AKPRUNE", "SKPRUNE"),
    ("restorer", "AKRESTORE", "SKRESTORE"),
];

/// `cargo xtask ceph up|down DIR [--port N] [--rgw N]`.
pub fn command(args: &[String]) -> Result<()> {
    let usage = "usage: cargo xtask ceph up DIR [--port N] [--rgw N]\n       cargo xtask ceph down DIR";
    let (action, dir, mut rest) = match args {
        [action, dir, rest @ ..] => (action.as_str(), PathBuf::from(dir), rest),
        _ => bail!("{usage}"),
    };
    let (mut port, mut rgw) = (MON_PORT_DEFAULT, None);
    while let [name, value, tail @ ..] = rest {
        let number = value.parse().with_context(|| format!("{name} {value}: expected a port number"))?;
        match name.as_str() {
            "--port" => port = number,
            "--rgw" => rgw = Some(number),
            _ => bail!("unknown option {name}\n{usage}"),
        }
        rest = tail;
    }
    ensure!(rest.is_empty(), "{usage}");
    match action {
        "up" => {
            install()?;
            let began = Instant::now();
            let cluster = Cluster::start(&dir, port, rgw)?;
            eprintln!("cluster up in {:.1} s", began.elapsed().as_secs_f64());
            println!("CEPH_CONF={}", cluster.conf().display());
            if let Some(url) = cluster.rgw_url() {
                println!("RGW={url} (access key {RGW_ACCESS_KEY}, secret key {RGW_SECRET_KEY})");
            }
            Ok(())
        }
        "down" => down(&dir),
        _ => bail!("{usage}"),
    }
}

/// Whether every program and library that a cluster needs is on this machine.
pub fn installed() -> bool {
    let on_path = |name: &str| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(name).is_file()))
    };
    BINARIES.iter().all(|name| on_path(name)) && has_bindings()
}

fn has_bindings() -> bool {
    let said =
        Command::new("/usr/bin/python3").args(["-c", "import rados, rbd"]).stderr(Stdio::null()).status();
    said.is_ok_and(|status| status.success())
}

/// Installs Ceph's packages by apt where they are missing; needs root for that.
pub fn install() -> Result<()> {
    if installed() {
        return Ok(());
    }
    eprintln!("installing {}", PACKAGES.join(" "));
    let apt = |args: &[&str]| -> Result<()> {
        let status = Command::new("apt-get")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("running apt-get: this needs Debian or Ubuntu")?;
        ensure!(status.success(), "apt-get {} failed ({status}): it needs root and network", args.join(" "));
        Ok(())
    };
    apt(&["update", "-q"])?;
    apt(&[&["install", "-y", "-q", "--no-install-recommends"], PACKAGES.as_slice()].concat())?;
    ensure!(installed(), "apt-get succeeded but some of {} are still missing", BINARIES.join(", "));
    Ok(())
}

/// A running cluster. It runs on when this value is dropped, until [`down`].
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    mon_port: u16,
    rgw_port: Option<u16>,
}

impl Cluster {
    /// Starts an empty cluster in `dir`, removing one that was there before. Pool `rbd` exists, and with `rgw_port` an
    /// S3 endpoint with the user [`RGW_ACCESS_KEY`] and no bucket. Takes about 10 s.
    pub fn start(dir: &Path, mon_port: u16, rgw_port: Option<u16>) -> Result<Self> {
        ensure!(mon_port > MON_V2_PORT_OFFSET + 1024, "monitor port {mon_port}: expected more than 4024");
        ensure!(mon_port < u16::MAX - DAEMON_PORTS, "monitor port {mon_port}: too high");
        down(dir)?;
        for port in [Some(mon_port), Some(mon_port - MON_V2_PORT_OFFSET), rgw_port].into_iter().flatten() {
            TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("port {port} is taken"))?;
        }
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let dir = fs::canonicalize(dir)?;
        fs::write(dir.join(MARKER), "Made and removed by `cargo xtask ceph`.\n")?;
        for sub in ["mon", "mgr", "osd0", "run", "log", "rgw"] {
            fs::create_dir(dir.join(sub))?;
        }
        let cluster = Self { dir, mon_port, rgw_port };
        let started = cluster.start_daemons().and_then(|()| cluster.start_rgw());
        if let Err(error) = started {
            // The logs stay for whoever looks; the daemons do not.
            let _ = kill_daemons(&cluster.conf());
            return Err(error.context(format!("starting Ceph in {}", cluster.dir.display())));
        }
        Ok(cluster)
    }

    pub fn conf(&self) -> PathBuf {
        self.dir.join("ceph.conf")
    }

    /// The S3 endpoint, where there is one.
    pub fn rgw_url(&self) -> Option<String> {
        self.rgw_port.map(|port| format!("http://127.0.0.1:{port}"))
    }

    /// CPU time of all daemons since they were started.
    pub fn cpu_seconds(&self) -> Result<f64> {
        daemons_of(&self.conf())?.iter().map(|pid| process_cpu_seconds(pid)).sum()
    }

    fn mon_address(&self) -> String {
        let (v1, v2) = (self.mon_port, self.mon_port - MON_V2_PORT_OFFSET);
        format!("[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]")
    }

    fn start_daemons(&self) -> Result<()> {
        let (fsid, osd_uuid) = (uuid()?, uuid()?);
        fs::write(self.conf(), self.configuration(&fsid))?;
        self.make_keyring()?;
        let monmap = self.dir.join("monmap").display().to_string();
        let address = self.mon_address();
        self.run("monmaptool", &["--create", "--fsid", &fsid, "--addv", "a", &address, &monmap])?;
        self.run("ceph-mon", &["--mkfs", "-i", "a", "--monmap", &monmap])?;
        self.run("ceph-mon", &["-i", "a"])?;
        self.run("ceph-mgr", &["-i", "x"])?;
        self.run("ceph", &["osd", "new", &osd_uuid])?;
        self.run("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", &osd_uuid])?;
        self.run("ceph-osd", &["-i", "0"])?;
        self.run("ceph", &["osd", "pool", "create", "rbd", "8"])?;
        // Answers once the OSD is up and the pool's placement groups are active.
        self.run("rbd", &["pool", "init", "rbd"])
    }

    fn start_rgw(&self) -> Result<()> {
        let Some(port) = self.rgw_port else { return Ok(()) };
        self.run("radosgw", &["-n", "client.rgw.a"])?;
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(began.elapsed() < STEP_TIMEOUT, "no RGW on port {port} after {STEP_TIMEOUT:?}");
            thread::sleep(POLL);
        }
        let keys = [format!("--access-key={RGW_ACCESS_KEY}"), format!("--secret-key={RGW_SECRET_KEY}")];
        let user = ["user", "create", "--uid=cuttle", "--display-name=cuttle", &keys[0], &keys[1]];
        self.run("radosgw-admin", &user)?;
        // Those that the bucket policy of docs/roles.md names.
        for (user, access, secret) in RGW_ROLES {
            let uid = format!("--uid={user}");
            let keys = [format!("--access-key={access}"), format!("--secret-key={secret}")];
            self.run("radosgw-admin", &["user", "create", &uid, "--display-name=role", &keys[0], &keys[1]])?;
        }
        Ok(())
    }

    fn make_keyring(&self) -> Result<()> {
        let keyring = self.dir.join("keyring").display().to_string();
        let entities: [(&str, &[&str]); 5] = [
            ("mon.", &["mon", "allow *"]),
            ("client.admin", &["mon", "allow *", "osd", "allow *", "mds", "allow *", "mgr", "allow *"]),
            ("mgr.x", &["mon", "allow profile mgr", "osd", "allow *", "mds", "allow *"]),
            ("osd.0", &["mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd"]),
            ("client.rgw.a", &["mon", "allow rw", "osd", "allow rwx"]),
        ];
        for (i, (name, caps)) in entities.iter().enumerate() {
            let mut args = vec![keyring.as_str(), "--gen-key", "-n", name];
            if i == 0 {
                args.push("--create-keyring");
            }
            for cap in caps.chunks(2) {
                args.extend(["--cap", cap[0], cap[1]]);
            }
            self.run("ceph-authtool", &args)?;
        }
        Ok(())
    }

    /// Runs one program against this cluster to its end; daemons go to the background by themselves. What it says
    /// goes to `log/up.log` and, when it fails, into the error.
    fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        let path = self.dir.join("log/up.log");
        let log = fs::File::options().create(true).append(true).open(&path)?;
        let mut command = Command::new(program);
        if !["ceph-authtool", "monmaptool"].contains(&program) {
            command.arg("--conf").arg(self.conf());
        }
        for name in ["CEPH_CONF", "CEPH_ARGS", "CEPH_KEYRING"] {
            command.env_remove(name);
        }
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if began.elapsed() > STEP_TIMEOUT {
                child.kill()?;
                child.wait()?;
                break None;
            }
            thread::sleep(POLL);
        };
        match status {
            Some(status) if status.success() => Ok(()),
            status => {
                let what = status.map_or(format!("not done after {STEP_TIMEOUT:?}"), |s| s.to_string());
                let said = fs::read_to_string(&path).unwrap_or_default();
                let tail: Vec<_> = said.lines().rev().take(8).collect();
                let tail: Vec<_> = tail.into_iter().rev().collect();
                bail!("{program} {}: {what}\n{}", args.join(" "), tail.join("\n"))
            }
        }
    }

    fn configuration(&self, fsid: &str) -> String {
        let dir = self.dir.display();
        let mon_host = self.mon_address();
        let (port_min, port_max) = (self.mon_port + 1, self.mon_port + DAEMON_PORTS);
        let rgw_port = self.rgw_port.unwrap_or(0);
        format!(
            "[global]
fsid = {fsid}
mon host = {mon_host}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
public network = 127.0.0.0/8
ms bind ipv6 = false
ms bind port min = {port_min}
ms bind port max = {port_max}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = bluestore
bluestore block size = {OSD_SIZE_BYTES}
bluestore cache autotune = false
bluestore cache size = 134217728
osd memory target = 939524096
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail warn = 1
mon data avail crit = 0
mon max pg per osd = 1000
mgr initial modules =
paxos propose interval = 0.05
paxos min wait = 0.01
keyring = {dir}/keyring
mon data = {dir}/mon
mgr data = {dir}/mgr
osd data = {dir}/osd$id
run dir = {dir}/run
pid file = {dir}/run/$name.pid
admin socket = {dir}/run/$name.asok
log file = {dir}/log/$name.log
[client]
log file =
admin socket =
pid file =
rbd default features = 61
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{rgw_port} tcp_nodelay=1
rgw data = {dir}/rgw
log file = {dir}/log/rgw.log
pid file = {dir}/run/rgw.pid
"
        )
    }
}

/// Stops whatever runs from `dir` and removes it. Nothing there is no error; a directory that was not made here is.
pub fn down(dir: &Path) -> Result<()> {
    let Ok(dir) = fs::canonicalize(dir) else { return Ok(()) };
    kill_daemons(&dir.join("ceph.conf"))?;
    if dir.join(MARKER).exists() {
        return fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()));
    }
    let empty = fs::read_dir(&dir)?.next().is_none();
    ensure!(empty, "{} holds no cluster made by `cargo xtask ceph` and is not empty", dir.display());
    Ok(())
}

/// Kills the daemons that were started with a configuration file, and waits until they are gone. Their data is about
/// to be removed, so nothing is asked to shut down in good order.
fn kill_daemons(conf: &Path) -> Result<()> {
    let began = Instant::now();
    loop {
        let pids = daemons_of(conf)?;
        if pids.is_empty() {
            return Ok(());
        }
        ensure!(began.elapsed() < STEP_TIMEOUT, "processes {} do not end", pids.join(", "));
        // One may have ended in between, so the outcome is seen by looking again.
        Command::new("sh")
            .arg("-c")
            .arg(format!("kill -9 {}", pids.join(" ")))
            .stderr(Stdio::null())
            .status()?;
        thread::sleep(POLL);
    }
}

/// Process ids of the Ceph daemons whose command line names this configuration file.
fn daemons_of(conf: &Path) -> Result<Vec<String>> {
    let conf = conf.to_string_lossy();
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        // A process that has just ended has no command line any more.
        let Ok(line) = fs::read(format!("/proc/{name}/cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0');
        let program = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        if DAEMONS.contains(&program) && words.any(|w| w == conf) {
            pids.push(name);
        }
    }
    Ok(pids)
}

/// User and system time of a process, from the fields 14 and 15 of `/proc/PID/stat`, in ticks of which Linux has 100 a second.
pub fn process_cpu_seconds(pid: &str) -> Result<f64> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    // The name in brackets may hold anything.
    let (_, fields) = stat.rsplit_once(')').with_context(|| format!("process {pid}: {stat}"))?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / 100.0)
}

fn uuid() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(path).with_context(|| format!("reading {path}"))?.trim().to_owned())
}
