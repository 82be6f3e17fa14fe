//! `cargo xtask model`: the exhaustive search of the protocol in `tests/model`, by command.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The arguments are the program's own: see `tests/model/src/main.rs`.
pub fn command(args: &[String]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The package is optimised in every profile.
    command.args(["run", "--quiet", "--package", "cuttle-model", "--"]).args(args);
    let status = command.status().context("running cargo")?;
    ensure!(status.success(), "the model found something");
    Ok(())
}
