//! `cuttle completions` and `cuttle man`: what packages ship beside the program.

use std::io;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use cuttle::Result;
use cuttle::error::io_error;

use super::{Cli, Context, Exit};

const EXAMPLES: &str = "\
Examples:
  cuttle completions bash > /etc/bash_completion.d/cuttle
  cuttle completions zsh > /usr/share/zsh/site-functions/_cuttle
  cuttle completions fish > ~/.config/fish/completions/cuttle.fish";

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    shell: Shell,
}

/// Write manual pages into a folder
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub struct ManArgs {
    dir: PathBuf,
}

pub fn run(context: &Context<'_>, args: &Args) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cuttle", &mut script);
    context.ui.print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Success)
}

pub fn man(args: &ManArgs) -> Result<Exit> {
    let doing = |e: io::Error| io_error(format!("write manual pages into {}", args.dir.display()), e);
    std::fs::create_dir_all(&args.dir).map_err(doing)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(doing)?;
    Ok(Exit::Success)
}
