//! `cargo xtask lint`: formatting, clippy, documentation and the rules of the house; `cargo xtask ci`: that, the tests and the fuzzers.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{fuzz, test, tidy};

pub fn lint() -> Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["fmt", "--manifest-path", "tests/fuzz/Cargo.toml", "--check"], &[])?;
    tidy::command(&[])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    cargo(
        &["doc", "--workspace", "--no-deps", "--document-private-items"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )
}

pub fn ci() -> Result<()> {
    lint()?;
    test::command(&[])?;
    fuzz::command(&[])
}

fn cargo(args: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    println!("cargo {}", args.join(" "));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let status = command.args(args).envs(variables.iter().copied()).status().context("run cargo")?;
    ensure!(status.success(), "cargo {} failed", args.join(" "));
    Ok(())
}
