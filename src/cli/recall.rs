//! `cuttle recall`: a forgotten snapshot comes back.

use serde::Serialize;

use cuttle::forget::{self, Recalled};
use cuttle::{Error, Result};

use super::failure::Failure;
use super::plan::{self, Plan};
use super::report::Report;
use super::{Context, Exit, connect, human};

const EXAMPLES: &str = "\
What was forgotten is kept for a while: see `cuttle prune --keep-forgotten 14d`. A recalled snapshot is a new one of its volume, with the
content and the point in time of the old: nothing is uploaded, and no chunk is read. The next backup of the volume is compared with it.

Examples:
  cuttle recall vms/db@12 -n      whether it can be brought back
  cuttle recall vms/db@12
  cuttle recall vms/db@12 vms/web@9";

/// Bring forgotten snapshots back
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// VOLUME@NUMBER of a forgotten snapshot
    #[arg(required = true, value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
}

/// What came back, or would.
#[derive(Serialize)]
struct Told {
    volume: String,
    recalled_from: u32,
    sequence: Option<u32>,
    size_bytes: u64,
}

impl From<Recalled> for Told {
    fn from(recalled: Recalled) -> Self {
        Self {
            volume: recalled.volume,
            recalled_from: recalled.from.0,
            sequence: recalled.sequence.map(|s| s.0),
            size_bytes: recalled.size_bytes,
        }
    }
}

impl Report for Told {
    const MESSAGE_TYPE: &'static str = "recalled";

    fn summary(&self) -> String {
        let sequence = self.sequence.unwrap_or_default();
        format!(
            "{0}@{sequence} is {0}@{1} again ({2})",
            self.volume,
            self.recalled_from,
            human::size(self.size_bytes)
        )
    }
}

impl Plan for Told {
    fn told(&self) -> String {
        format!(
            "{}@{} would come back as a new snapshot ({})",
            self.volume,
            self.recalled_from,
            human::size(self.size_bytes)
        )
    }
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let project = connect::keeper(context).await?;
    let (mut failed, count) = (0, args.snapshots.len());
    for spec in &args.snapshots {
        let dry_run = context.global.dry_run;
        match forget::recall(&project, spec, dry_run, context.cancel.clone()).await {
            Ok(recalled) if dry_run => {
                plan::tell(context, &Told::from(recalled), &project.repository().store().ledger())?;
            }
            Ok(recalled) => context.ui.report(&Told::from(recalled))?,
            Err(e) if count == 1 || e.kind() == cuttle::ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                failed += 1;
                context.ui.error(&Failure::from(&e), Some(spec));
            }
        }
    }
    match failed {
        0 => Ok(Exit::Success),
        _ if failed < count => Ok(Exit::Failure),
        _ => Err(Error::not_found(format!("none of {count} snapshots came back"))
            .help("what each lacks is said above")),
    }
}
