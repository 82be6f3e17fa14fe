//! `cargo xtask test`: starts every test server, runs all tests, counts what was skipped, stops the servers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::ceph::{self, Cluster};
use crate::places::{cluster_directory, start_cluster};
use crate::servers::{self, Server};

/// What was started, and the variables that tell the tests of it.
#[derive(Default)]
struct Running {
    clusters: Vec<Cluster>,
    servers: Vec<Server>,
    variables: Vec<(&'static str, String)>,
}

/// `cargo xtask test [ARGUMENTS OF cargo test]`.
///
/// What cannot be installed or started here, without root or network, is left out: its tests are skipped and counted.
/// With `CI=true` that is an error.
pub fn command(args: &[String]) -> Result<()> {
    let ci = std::env::var("CI").as_deref() == Ok("true");
    let root = target_directory().join("servers");
    fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
    let starting = thread::spawn({
        let root = root.clone();
        move || start_all(&root)
    });
    // Building takes as long as starting servers; the two go well together.
    let built = cargo_test(args, &["--no-run"]).status().context("running cargo");
    let (mut running, failures) =
        starting.join().map_err(|_| anyhow::anyhow!("starting servers panicked"))?;
    for failure in &failures {
        eprintln!("left out: {failure:#}");
    }
    let result = if ci && !failures.is_empty() {
        Err(anyhow::anyhow!("in CI no server may be left out"))
    } else {
        built.and_then(|built| run_tests(built, args, &root, ci, &running.variables))
    };
    for cluster in running.clusters.drain(..) {
        let conf = cluster.conf();
        ceph::down(conf.parent().unwrap_or(&conf))?;
    }
    result
}

fn run_tests(
    built: ExitStatus,
    args: &[String],
    root: &Path,
    ci: bool,
    variables: &[(&'static str, String)],
) -> Result<()> {
    ensure!(built.success(), "the tests do not build");
    let skips = root.join("skips.txt");
    fs::write(&skips, "")?;
    let mut command = cargo_test(args, &["--no-fail-fast"]);
    command.envs(variables.iter().map(|(name, value)| (name, value))).env("CUTTLE_TEST_SKIPS", &skips);
    if ci {
        command.env("CUTTLE_TEST_NO_SKIP", "1");
    }
    let status = command.status().context("running cargo")?;
    report_skips(&fs::read_to_string(&skips)?);
    ensure!(status.success(), "tests failed");
    Ok(())
}

fn cargo_test(args: &[String], options: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--workspace"]).args(options).args(args);
    command
}

fn start_all(root: &Path) -> (Running, Vec<anyhow::Error>) {
    let mut running = Running::default();
    let mut failures = Vec::new();
    // Before the others: two apt at once would meet at its lock.
    let installed = ceph::install();
    failures.extend(servers::tools().err().map(|error| error.context("tools")));
    thread::scope(|scope| {
        let ceph = scope.spawn(|| start_clusters(root, installed));
        let servers = [
            ("CUTTLE_TEST_MOTO", scope.spawn(|| servers::moto(root))),
            ("CUTTLE_TEST_MOTO_IAM", scope.spawn(|| servers::moto_with_iam(root))),
            ("CUTTLE_TEST_AZURITE", scope.spawn(|| servers::azurite(root))),
            ("CUTTLE_TEST_S3RVER", scope.spawn(|| servers::s3rver(root))),
        ];
        for (variable, started) in servers {
            match started.join() {
                Ok(Ok(server)) => {
                    running.variables.push((variable, server.url.clone()));
                    running.servers.push(server);
                }
                Ok(Err(error)) => failures.push(error.context(variable)),
                Err(_) => failures.push(anyhow::anyhow!("{variable}: the start panicked")),
            }
        }
        match ceph.join() {
            Ok((clusters, result)) => {
                for (cluster, variable) in
                    clusters.iter().zip(["CUTTLE_TEST_CEPH_CONF", "CUTTLE_TEST_CEPH_CONF_2"])
                {
                    running.variables.push((variable, cluster.conf().display().to_string()));
                    running.variables.extend(cluster.rgw_url().map(|url| ("CUTTLE_TEST_RGW", url)));
                }
                running.clusters = clusters;
                failures.extend(result.err().map(|error| error.context("Ceph")));
            }
            Err(_) => failures.push(anyhow::anyhow!("Ceph: the start panicked")),
        }
    });
    (running, failures)
}

/// Two clusters, one after the other; the first has an RGW. What was started is returned even when the rest failed.
fn start_clusters(root: &Path, installed: Result<()>) -> (Vec<Cluster>, Result<()>) {
    let mut clusters = Vec::new();
    let result = (|| {
        installed?;
        for number in 1..=2 {
            let directory = cluster_directory(&format!("{}-{number}", root.display()))?;
            clusters.push(start_cluster(&directory, number == 1)?);
        }
        Ok(())
    })();
    (clusters, result)
}

/// Cargo's target directory: this program lies in `target/PROFILE/xtask`.
fn target_directory() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().nth(2).map_or_else(|| PathBuf::from("target"), Path::to_path_buf)
}

/// Lines are `TEST: WHY`.
fn report_skips(lines: &str) {
    let mut tests_by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in lines.lines() {
        let (test, why) = line.split_once(": ").unwrap_or((line, "no reason given"));
        tests_by_reason.entry(why).or_default().push(test);
    }
    let count: usize = tests_by_reason.values().map(Vec::len).sum();
    println!("{count} tests skipped");
    for (why, tests) in tests_by_reason {
        println!("  {} because {why}: {}", tests.len(), tests.join(", "));
    }
}
