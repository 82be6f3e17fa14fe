//! `cuttle project`: the projects of a repository.

use clap::Subcommand;
use serde::Serialize;

use cuttle::Result;
use cuttle::units::ProjectName;

use super::connect::{keep_room, repository};
use super::plan::{self, Plan};
use super::report::Report;
use super::{Context, Exit};

const EXAMPLES: &str = "\
A project shares no data with another, not even equal chunks, and has its own keys: give each tenant one.

Examples:
  cuttle project create tenant-a -n       whether it can be made
  cuttle project create tenant-a
  cuttle --project tenant-a backup rbd:tenant-a/db
  cuttle project list";

/// List and make projects
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the projects
    List,
    /// Make a project
    Create {
        /// 1 to 63 of a-z, 0-9, '.', '_' and '-'
        name: ProjectName,
    },
}

#[derive(Serialize)]
struct Listed {
    project: String,
}

#[derive(Serialize)]
struct Created {
    project: String,
}

impl Report for Created {
    const MESSAGE_TYPE: &'static str = "project_created";

    fn summary(&self) -> String {
        format!("made project {}", self.project)
    }
}

impl Plan for Created {
    fn told(&self) -> String {
        format!("project {} would be made", self.project)
    }
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let ui = context.ui;
    match args.command {
        Command::List => {
            let mut names = repository(context, false).await?.projects().await?;
            names.sort();
            if ui.is_json() {
                let listed: Vec<_> = names.iter().map(|n| Listed { project: n.to_string() }).collect();
                ui.print_list(&listed)?;
            } else {
                names.iter().try_for_each(|name| ui.print(name.as_str()))?;
            }
        }
        Command::Create { name } => {
            let repository = repository(context, false).await?;
            let new = Created { project: name.to_string() };
            if context.global.dry_run {
                repository.check_new_project(&name).await?;
                plan::tell(context, &new, &repository.store().ledger())?;
                return Ok(Exit::Success);
            }
            let project = repository.create_project(&name).await?;
            keep_room(context, &project).await;
            ui.report(&new)?;
        }
    }
    Ok(Exit::Success)
}
