//! `cargo xtask bench --restore`: an image comes back from RGW, beside `rbd import-diff` of a plain local file, on one real cluster; and
//! how soon one that is restored instantly can be used.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};

use super::{build, make_image, timed};
use crate::ceph::{self, Cluster, RGW_ACCESS_KEY, RGW_SECRET_KEY};
use crate::places::{cluster_directories, start_cluster};

/// Turn by turn, so often; the fastest of each counts.
const RUNS: usize = 3;
const SIZE_GIB: u64 = 3;
const FROM: &str = "/usr/lib/x86_64-linux-gnu";
/// What must be reached.
const OF_IMPORT_MIN: f64 = 0.8;
const USABLE_MAX_SECONDS: f64 = 3.0;

/// Time on the clock, and that of the processors, which program and cluster share here.
struct Cost {
    seconds: f64,
    own_cpu_seconds: f64,
    cluster_cpu_seconds: f64,
}

impl Cost {
    fn cpu_seconds(&self) -> f64 {
        self.own_cpu_seconds + self.cluster_cpu_seconds
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, own_cpu_seconds, cluster_cpu_seconds } = self;
        write!(f, "{seconds:.2} s; CPU {own_cpu_seconds:.2} s, of the cluster {cluster_cpu_seconds:.2} s")
    }
}

pub fn run() -> Result<()> {
    ceph::install()?;
    build()?;
    let here = PathBuf::from("/dev/shm/cuttle-bench-restore");
    for (place, directory) in ["in memory", "on disk"].into_iter().zip(cluster_directories("bench")?) {
        println!("a cluster whose data lies {place}");
        let cluster = start_cluster(&directory, true)?;
        let _ = fs::remove_dir_all(&here);
        fs::create_dir_all(&here)?;
        let result = bench(&cluster, &here);
        ceph::down(&directory)?;
        fs::remove_dir_all(&here)?;
        result?;
    }
    Ok(())
}

fn bench(cluster: &Cluster, here: &Path) -> Result<()> {
    let image = here.join("fs.img");
    make_image(&image, SIZE_GIB, FROM)?;
    let url = cluster.rgw_url().context("the cluster has no RGW")?;
    let command = |program: &Path, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).env("CEPH_CONF", cluster.conf()).env("CUTTLE_KEY_FILE", here.join("key"));
        command.env("CUTTLE_REPOSITORY", "s3://bench/repository").env("AWS_ENDPOINT_URL", &url);
        command.env("AWS_ACCESS_KEY_ID", RGW_ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", RGW_SECRET_KEY);
        command.env("AWS_REGION", "us-east-1").env("AWS_ALLOW_HTTP", "true");
        for variable in ["HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"] {
            command.env(variable, here);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let go = |program: &Path, args: &[&str]| -> Result<Cost> {
        let what = format!("{} {}", program.display(), args.join(" "));
        let before = cluster.cpu_seconds()?;
        let run = timed(command(program, args).spawn().context(what.clone())?).context(what)?;
        let cluster_cpu_seconds = cluster.cpu_seconds()? - before;
        Ok(Cost { seconds: run.seconds, own_cpu_seconds: run.cpu_seconds, cluster_cpu_seconds })
    };
    let (cuttle, rbd) = (fs::canonicalize("target/release/cuttle")?, PathBuf::from("rbd"));
    let [key, diff] = ["key", "whole.diff"].map(|name| here.join(name));
    fs::write(&key, [7; 32])?;
    let user = format!("{RGW_ACCESS_KEY}:{RGW_SECRET_KEY}");
    let bucket = format!("{url}/bench");
    let put = ["-sS", "--fail", "-X", "PUT", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user, &bucket];
    let made =
        Command::new("curl").args(put).args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]).status()?;
    ensure!(made.success(), "the bucket cannot be made");
    go(&cuttle, &["init"])?;
    go(&rbd, &["import", "--no-progress", &image.to_string_lossy(), "source"])?;
    fs::remove_file(&image)?;
    go(&rbd, &["export-diff", "--no-progress", "source", &diff.to_string_lossy()])?;
    go(&cuttle, &["backup", "rbd:source"])?;
    let size = fs::metadata(&diff)?.len() as f64 / f64::from(1 << 20);
    let (mut imports, mut restores) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        go(&rbd, &["create", "--size", &format!("{SIZE_GIB}G"), "imported"])?;
        imports.push(go(&rbd, &["import-diff", "--no-progress", &diff.to_string_lossy(), "imported"])?);
        go(&rbd, &["rm", "--no-progress", "imported"])?;
        restores.push(go(&cuttle, &["restore", "rbd/source", "rbd:restored"])?);
        go(&rbd, &["rm", "--no-progress", "restored"])?;
    }
    let fastest =
        |runs: Vec<Cost>| runs.into_iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds)).context("no run");
    let (import, restore) = (fastest(imports)?, fastest(restores)?);
    println!("{size:.0} MiB of data");
    println!("rbd import-diff of a local file   {import}");
    println!("cuttle restore from RGW           {restore}");
    let (speed, work) = (import.seconds / restore.seconds, import.cpu_seconds() / restore.cpu_seconds());
    println!("speed of the restore, of rbd import-diff: {speed:.2}, at least {OF_IMPORT_MIN}");
    println!("what it would be if all processors of this machine were busy all the time: {work:.2}");
    let import_reached = speed >= OF_IMPORT_MIN;
    go(&rbd, &["rm", "--no-progress", "source"]).ok();

    // A thin image of 100 GiB: how long until it can be used.
    go(&rbd, &["create", "--size", "100G", "thin"])?;
    go(&rbd, &["import-diff", "--no-progress", &diff.to_string_lossy(), "thin"])?;
    go(&rbd, &["resize", "--no-progress", "--size", "100G", "thin"])?;
    go(&cuttle, &["backup", "rbd:thin"])?;
    let mut usable = f64::INFINITY;
    for _ in 0..RUNS {
        let began = Instant::now();
        let args = ["--json", "restore", "--instant", "rbd/thin", "rbd:instant"];
        let mut child = command(&cuttle, &args).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
        let seconds = began.elapsed().as_secs_f64();
        ensure!(line.contains("usable"), "instant restore said {line:?}");
        usable = usable.min(seconds);
        // Ceph would copy all 100 GiB, holes as well: it is not waited for.
        child.kill()?;
        child.wait()?;
        go(&rbd, &["migration", "abort", "--no-progress", "instant"])?;
    }
    println!("instant restore of 100 GiB: usable after {usable:.2} s, at most {USABLE_MAX_SECONDS}");
    if !import_reached || usable > USABLE_MAX_SECONDS {
        println!("A BAR WAS MISSED");
    }
    Ok(())
}
