//! `cargo xtask bench --latency`: backups and restores of unique data to and from RGW, through a proxy that lets each byte of an answer wait
//! as if the store were far away; on the first night and after thirty. What is far away should be as fast as what is near.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{build, timed};
use crate::ceph::{self, Cluster, RGW_ACCESS_KEY, RGW_SECRET_KEY};
use crate::numbers::Numbers;
use crate::places::{cluster_directories, start_cluster};

const CHUNK_BYTES: u64 = 4 << 20;
const SIZE_GIB_DEFAULT: u64 = 4;
const FAR_MS: u64 = 100;
const NIGHTS: u64 = 30;
/// One chunk in so many changes a little each night.
const CHANGED_DIVISOR: u64 = 3;
/// Of the speed without latency.
const SPEED_MIN: f64 = 0.85;

pub fn run(args: &[String]) -> Result<()> {
    let size_gib = args.first().map_or(Ok(SIZE_GIB_DEFAULT), |arg| arg.parse().context("a size in GiB"))?;
    ceph::install()?;
    build()?;
    let [_, directory] = cluster_directories("latency")?;
    let cluster = start_cluster(&directory, true)?;
    let here = directory.with_extension("bench");
    let _ = fs::remove_dir_all(&here);
    fs::create_dir_all(&here)?;
    let result = bench(&cluster, &here, size_gib);
    ceph::down(&directory)?;
    fs::remove_dir_all(&here)?;
    ensure!(result?, "a bar was missed");
    Ok(())
}

fn bench(cluster: &Cluster, here: &Path, size_gib: u64) -> Result<bool> {
    let url = cluster.rgw_url().context("the cluster has no RGW")?;
    let user = format!("{RGW_ACCESS_KEY}:{RGW_SECRET_KEY}");
    let put = ["-sS", "--fail", "-X", "PUT", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user];
    let headers = ["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"];
    let made = Command::new("curl").args(put).args(headers).arg(format!("{url}/bench")).status()?;
    ensure!(made.success(), "the bucket cannot be made");
    let upstream = url.trim_start_matches("http://").to_owned();
    let mut disk = Disk::new(here.join("disk.img"), size_gib << 30)?;
    let [near, far] = ["near", "far"].map(|name| Repository {
        program: PathBuf::from("target/release/cuttle"),
        home: here.join(name),
        url: format!("s3://bench/{name}"),
    });
    let near_at = format!("http://127.0.0.1:{}", proxy(&upstream, Duration::ZERO)?);
    let far_at = format!("http://127.0.0.1:{}", proxy(&upstream, Duration::from_millis(FAR_MS))?);
    for repository in [&near, &far] {
        fs::create_dir_all(&repository.home)?;
        fs::write(repository.home.join("key"), [7; 32])?;
        repository.run(&near_at, &["init"], None)?;
    }
    let mut reached = true;
    let mut held_against = |what: &str, near: f64, far: f64| {
        println!("{what:<34}{near:>8.2} s near, {far:>8.2} s at {FAR_MS} ms: {:.2} of the speed", near / far);
        reached &= near / far >= SPEED_MIN;
    };
    let back = here.join("back.img");
    let restored = |repository: &Repository, endpoint: &str, disk: &Disk| -> Result<f64> {
        let _ = fs::remove_file(&back);
        let seconds = repository.run(endpoint, &["restore", "disk", &back.to_string_lossy()], None)?;
        ensure!(Command::new("cmp").arg(&disk.path).arg(&back).status()?.success(), "it came back wrong");
        Ok(seconds)
    };
    let first = disk.whole(&here.join("first.diff"))?;
    let args = ["backup", "-", "--volume", "disk"];
    let times = [(&near, &near_at), (&far, &far_at)]
        .map(|(repository, endpoint)| repository.run(endpoint, &args, Some(&first)));
    let [near_seconds, far_seconds] = times;
    held_against("backup", near_seconds?, far_seconds?);
    fs::remove_file(&first)?;
    held_against("restore", restored(&near, &near_at, &disk)?, restored(&near, &far_at, &disk)?);
    let mut last = (0.0, 0.0);
    for night in 2..=NIGHTS {
        let stream = disk.night(night, &here.join("night.diff"))?;
        let near_seconds = near.run(&near_at, &args, Some(&stream))?;
        // On the last night both have the same before them; the others are not what is measured.
        let endpoint = if night == NIGHTS { &far_at } else { &near_at };
        last = (near_seconds, far.run(endpoint, &args, Some(&stream))?);
    }
    println!("{:<34}{:>8.2} s near, {:>8.2} s at {FAR_MS} ms", format!("night {NIGHTS}"), last.0, last.1);
    let (near_seconds, far_seconds) = (restored(&near, &near_at, &disk)?, restored(&near, &far_at, &disk)?);
    held_against(&format!("restore after {NIGHTS} nights"), near_seconds, far_seconds);
    Ok(reached)
}

struct Repository {
    program: PathBuf,
    home: PathBuf,
    url: String,
}

impl Repository {
    /// How long it took, in seconds.
    fn run(&self, endpoint: &str, args: &[&str], stdin: Option<&Path>) -> Result<f64> {
        let mut command = Command::new(&self.program);
        command.args(args).env("CUTTLE_KEY_FILE", self.home.join("key")).env("CUTTLE_REPOSITORY", &self.url);
        command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_ACCESS_KEY_ID", RGW_ACCESS_KEY);
        command.env("AWS_SECRET_ACCESS_KEY", RGW_SECRET_KEY).env("AWS_REGION", "us-east-1");
        command.env("AWS_ALLOW_HTTP", "true");
        for variable in ["HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"] {
            command.env(variable, &self.home);
        }
        command.stdin(match stdin {
            Some(stream) => Stdio::from(File::open(stream)?),
            None => Stdio::null(),
        });
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(timed(command.spawn()?).with_context(|| args.join(" "))?.seconds)
    }
}

/// A disk of random bytes, and what a night makes of it, as `rbd export-diff` tells.
struct Disk {
    path: PathBuf,
    file: File,
    size_bytes: u64,
    numbers: Numbers,
}

impl Disk {
    fn new(path: PathBuf, size_bytes: u64) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let mut numbers = Numbers::new(1);
        for at in (0..size_bytes).step_by(CHUNK_BYTES as usize) {
            file.write_all_at(&random(&mut numbers, CHUNK_BYTES as usize), at)?;
        }
        Ok(Self { path, file, size_bytes, numbers })
    }

    fn whole(&self, stream: &Path) -> Result<PathBuf> {
        let mut out = self.stream(stream, 1)?;
        for at in (0..self.size_bytes).step_by(CHUNK_BYTES as usize) {
            let mut data = vec![0; CHUNK_BYTES as usize];
            self.file.read_exact_at(&mut data, at)?;
            extent(&mut out, at, &data)?;
        }
        out.write_all(b"e")?;
        Ok(stream.to_owned())
    }

    fn night(&mut self, night: u64, stream: &Path) -> Result<PathBuf> {
        let mut out = self.stream(stream, night)?;
        for at in (0..self.size_bytes).step_by(CHUNK_BYTES as usize) {
            if self.numbers.below(CHANGED_DIVISOR) == 0 {
                let data = random(&mut self.numbers, 4096);
                let at = at + self.numbers.below(CHUNK_BYTES / 4096) * 4096;
                self.file.write_all_at(&data, at)?;
                extent(&mut out, at, &data)?;
            }
        }
        out.write_all(b"e")?;
        Ok(stream.to_owned())
    }

    fn stream(&self, path: &Path, night: u64) -> Result<File> {
        let mut out = File::create(path)?;
        out.write_all(b"rbd diff v1\n")?;
        let names = [(b'f', night - 1), (b't', night)];
        for (tag, night) in names.into_iter().filter(|(_, night)| *night > 0) {
            let name = format!("night-{night}");
            out.write_all(&[&[tag][..], &(name.len() as u32).to_le_bytes(), name.as_bytes()].concat())?;
        }
        out.write_all(b"s")?;
        out.write_all(&self.size_bytes.to_le_bytes())?;
        Ok(out)
    }
}

fn extent(out: &mut File, at: u64, data: &[u8]) -> Result<()> {
    out.write_all(b"w")?;
    out.write_all(&at.to_le_bytes())?;
    out.write_all(&(data.len() as u64).to_le_bytes())?;
    Ok(out.write_all(data)?)
}

fn random(numbers: &mut Numbers, len: usize) -> Vec<u8> {
    (0..len / 8).flat_map(|_| numbers.next().to_le_bytes()).collect()
}

/// A port on loopback behind which a server is as far away as is said.
fn proxy(upstream: &str, latency: Duration) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (port, upstream) = (listener.local_addr()?.port(), upstream.to_owned());
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&upstream) else { continue };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
                continue;
            };
            thread::spawn(move || pass(from_client, server, Duration::ZERO));
            thread::spawn(move || pass(from_server, client, latency));
        }
    });
    Ok(port)
}

/// Every byte arrives so much later than it came; as many as come are on their way at once.
fn pass(mut from: TcpStream, mut to: TcpStream, latency: Duration) {
    let (sender, arriving) = mpsc::sync_channel::<(Instant, Vec<u8>)>(1024);
    thread::spawn(move || {
        for (due, bytes) in arriving {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if sender.send((Instant::now() + latency, buffer[..len].to_vec())).is_err() {
            return;
        }
    }
}
