//! `cuttle protect` and `cuttle unprotect`: snapshots that nothing may forget.

use cuttle::Result;

use super::{Context, Exit, notes};

const EXAMPLES: &str = "\
A protected snapshot is kept by every retention policy, and `cuttle forget` refuses it by name. SNAPSHOT is VOLUME (its
newest), VOLUME@latest, VOLUME@SEQ, VOLUME@SNAPNAME, or the first digits of an id. Where one of several is not found, none
is changed.

Examples:
  cuttle protect vms/db@14            keep this one until it is unprotected
  cuttle unprotect vms/db@14";

/// Keep snapshots, whatever a policy says
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// What to protect
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<String>,
}

/// Let protected snapshots be forgotten again
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct UnprotectArgs {
    /// What to protect no longer
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<String>,
}

pub async fn protect(context: &Context<'_>, args: Args) -> Result<Exit> {
    notes::change(context, &args.snapshots, |note| note.protected = true).await
}

pub async fn unprotect(context: &Context<'_>, args: UnprotectArgs) -> Result<Exit> {
    notes::change(context, &args.snapshots, |note| note.protected = false).await
}
