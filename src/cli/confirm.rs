//! Asking before something is done that may not have been meant.

use std::io::{IsTerminal, stdin};

use cuttle::error::io_error;
use cuttle::{Error, Result};

use super::Context;

/// Passes where `--yes` was given, or whoever sits at the terminal says so.
///
/// # Errors
/// `Invalid` else, with nothing done.
pub fn confirmed(context: &Context<'_>, yes: bool, what: &str) -> Result<()> {
    let asks = !context.ui.is_json() && stdin().is_terminal();
    if yes || (asks && is_yes(context, what)?) {
        return Ok(());
    }
    Err(Error::invalid(format!("{what}: not done without a yes")).help("say --yes where it is meant"))
}

fn is_yes(context: &Context<'_>, what: &str) -> Result<bool> {
    context.ui.line(&format!("{what}. Go on? [y/N]"));
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(|e| io_error("ask for a yes", e))?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
