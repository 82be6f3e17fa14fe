//! `cargo xtask simulate [--seeds N] [--seed S]`: worlds in which everything goes wrong, see tests/simulation.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const HELP: &str = "\
cargo xtask simulate [--seeds N] [--seed S]
cargo xtask simulate --lies
  --seeds N   so many worlds, on all processors, up to the first in which something is wrong (1000000)
  --seed S    the first of them; without --seeds this one alone, with its whole log
  --lies      worlds in which a store lies, up to one that shows it, for the lies that few worlds show";

/// Worlds unless told otherwise.
const SEEDS_DEFAULT: u64 = 1_000_000;

pub fn command(args: &[String]) -> Result<()> {
    let (mut seeds, mut seed, mut lies) = (None, None, false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let slot = match arg.as_str() {
            "--seeds" => &mut seeds,
            "--seed" => &mut seed,
            "--lies" => {
                lies = true;
                continue;
            }
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            other => bail!("{other:?} is not known\n{HELP}"),
        };
        let value = args.next().with_context(|| format!("{arg} needs a number"))?;
        *slot = Some(value.parse::<u64>().with_context(|| format!("{arg} {value}"))?);
    }
    let test = match (lies, seed, seeds) {
        (true, ..) => "runs::every_rare_lie_is_found_out",
        (false, Some(_), None) => "runs::one_world",
        (false, ..) => "runs::by_command",
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--package", "cuttle-backup", "--test", "simulation", "--"])
        .args(["--ignored", "--exact", test, "--nocapture"])
        // Nearly as fast as a release, with all assertions, and without building every dependency once more.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "2")
        .env("CUTTLE_SIMULATE_SEED", seed.unwrap_or(0).to_string())
        .env("CUTTLE_SIMULATE_SEEDS", seeds.unwrap_or(SEEDS_DEFAULT).to_string())
        .status()
        .context("run cargo")?;
    ensure!(status.success(), "something is wrong in one of the worlds");
    Ok(())
}
