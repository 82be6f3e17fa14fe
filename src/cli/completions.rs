//! `cuttle completions`: for whoever has the program and no package of it.

use clap_complete::Shell;

use cuttle::Result;

use super::{Context, Exit, command};

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

pub fn run(context: &Context<'_>, args: &Args) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "cuttle", &mut script);
    context.ui.print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Success)
}
