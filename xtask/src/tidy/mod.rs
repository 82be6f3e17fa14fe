//! `cargo xtask tidy`: the rules of the house that the compiler does not check.

mod circles;
mod layers;
mod lock;
mod methods;
mod paths;
mod rules;
mod signatures;
mod source;

use std::path::Path;

use anyhow::{Result, bail};

use source::sources;

/// `cargo xtask tidy [--accept]`. With `--accept` the specification and the code are declared to agree as they are now.
pub fn command(args: &[String]) -> Result<()> {
    let sources = sources(Path::new("src"))?;
    let mut faults = Vec::new();
    layers::check(&sources, &mut faults)?;
    circles::check(&sources, &mut faults);
    methods::check(&sources, &mut faults);
    for source in &sources {
        rules::check(source, &mut faults);
    }
    lock::format_lock(&sources, args.iter().any(|a| a == "--accept"), &mut faults)?;
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    if !faults.is_empty() {
        bail!("{} faults", faults.len());
    }
    println!("tidy: {} files are in order", sources.len());
    Ok(())
}
