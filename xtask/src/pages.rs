//! `cargo xtask pages [DIR]`: what is made from the command line itself: docs/options.md, and with DIR the manual pages and
//! completions that packages ship.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The tests that make them: the command line is no library's, and what makes pages is no part of the program.
const MAKERS: &str = "cli::tests::pages";

pub fn command(args: &[String]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--quiet", "--bin", "cuttle", MAKERS]).env("CUTTLE_RENEW", "1");
    match args {
        [] => {}
        [dir] if !dir.starts_with('-') => {
            command.env("CUTTLE_SHIPPED", std::path::absolute(dir).with_context(|| format!("find {dir}"))?);
        }
        _ => bail!("usage: cargo xtask pages [DIR]"),
    }
    let status = command.status().context("run cargo")?;
    ensure!(status.success(), "the pages are not made");
    Ok(())
}
