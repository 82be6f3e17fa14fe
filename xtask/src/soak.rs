//! `cargo xtask soak`: the real program on a real store for as long as one likes (tests/soak), and random histories of real
//! images (tests/histories).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::ceph;
use crate::places::{cluster_directory, start_cluster};

const HELP: &str = "\
cargo xtask soak [--minutes N] [--cycles N] [--store local|rgw] [--seed S]
cargo xtask soak --histories N [--seed S] [--without KIND,…]
  --minutes N   16 backups, 4 prunes and 4 forgets at once for so long (3); 0 leaves it out
  --cycles N    kill the program at random so often (200); 0 leaves it out
  --store S     in a folder, or on the S3 service of a real Ceph cluster (rgw)
  --seed S      where the random numbers begin (1)

  --histories N       so many random histories of images on a real Ceph cluster; 1 shows its log
  --without KIND,…    leave out steps of these kinds (tests/histories/steps.rs)
  --steps N,…         of one history only these steps, as a finding names them
  --conf FILE         on this cluster, instead of one of its own";

#[derive(Default, Clone)]
struct Options {
    minutes: u64,
    cycles: u64,
    seed: u64,
    store: String,
    histories: Option<u64>,
    without: String,
    steps: String,
    conf: Option<PathBuf>,
}

pub fn command(args: &[String]) -> Result<()> {
    let mut options =
        Options { minutes: 3, cycles: 200, seed: 1, store: "rgw".to_owned(), ..Options::default() };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if ["--help", "-h"].contains(&arg.as_str()) {
            println!("{HELP}");
            return Ok(());
        }
        let value = args.next().with_context(|| format!("{arg} needs a value\n{HELP}"))?;
        let number = || value.parse::<u64>().with_context(|| format!("{arg} {value}"));
        match arg.as_str() {
            "--minutes" => options.minutes = number()?,
            "--cycles" => options.cycles = number()?,
            "--seed" => options.seed = number()?,
            "--store" if ["local", "rgw"].contains(&value.as_str()) => options.store.clone_from(value),
            "--histories" => options.histories = Some(number()?),
            "--without" => options.without.clone_from(value),
            "--steps" => options.steps.clone_from(value),
            "--conf" => options.conf = Some(value.into()),
            _ => bail!("{arg} {value} is not known\n{HELP}"),
        }
    }
    if let Some(count) = options.histories {
        return histories(&options, count);
    }
    if options.store == "local" {
        return soak(&options, None);
    }
    let (directory, url) = start_rgw()?;
    // After a failure the repository is what one wants to look at.
    soak(&options, Some(url)).with_context(|| {
        let directory = directory.display();
        format!("the cluster goes on until `cargo xtask ceph down {directory}`")
    })?;
    ceph::down(&directory)
}

fn histories(options: &Options, count: u64) -> Result<()> {
    let Some(conf) = &options.conf else {
        ceph::install()?;
        let directory = cluster_directory("histories")?;
        let conf = start_cluster(&directory, false)?.conf();
        let done = histories(&Options { conf: Some(conf), ..options.clone() }, count);
        ceph::down(&directory)?;
        return done;
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--package", "cuttle-backup", "--test", "histories", "--"])
        .args(["--ignored", "--exact", "runs::by_command", "--nocapture"])
        .env("CUTTLE_TEST_CEPH_CONF", conf)
        .env("CUTTLE_SOAK_HISTORIES", count.to_string())
        .env("CUTTLE_SOAK_SEED", options.seed.to_string())
        .env("CUTTLE_HISTORIES_WITHOUT", &options.without)
        .env("CUTTLE_HISTORIES_STEPS", &options.steps)
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "something is wrong in one of the histories ({status})");
    Ok(())
}

fn start_rgw() -> Result<(PathBuf, String)> {
    ceph::install()?;
    let directory = cluster_directory("soak")?;
    let cluster = start_cluster(&directory, true)?;
    let url = cluster.rgw_url().context("the cluster has no RGW")?;
    Ok((directory, url))
}

fn soak(options: &Options, rgw: Option<String>) -> Result<()> {
    for (test, wanted) in
        [("runs::together_by_command", options.minutes), ("runs::killed_by_command", options.cycles)]
    {
        if wanted == 0 {
            continue;
        }
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["test", "--package", "cuttle-backup", "--test", "soak", "--"])
            .args(["--ignored", "--exact", test, "--nocapture"])
            .env("CUTTLE_SOAK_MINUTES", options.minutes.to_string())
            .env("CUTTLE_SOAK_CYCLES", options.cycles.to_string())
            .env("CUTTLE_SOAK_SEED", options.seed.to_string())
            .env("CUTTLE_SOAK_STORE", &options.store)
            .envs(rgw.iter().map(|url| ("CUTTLE_TEST_RGW", url)))
            .status()
            .context("run cargo")?;
        ensure!(status.success(), "{test} on {}: something is wrong ({status})", options.store);
    }
    Ok(())
}
