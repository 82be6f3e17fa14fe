//! The command line: what can be said, and how it is answered. Nothing else prints, reads the environment or asks.
//!
//! One file holds one command. What they share: [`global`] (options), [`connect`] (from options to an open project),
//! [`secret`], [`place`] (SOURCE and TARGET), [`plan`] (what `-n` tells), [`ui`] with [`bar`] and [`table`] (everything that is shown).

mod backup;
mod bar;
mod completions;
mod confirm;
mod connect;
mod diff;
mod environment;
mod exit;
mod export;
mod failure;
mod forget;
mod global;
mod human;
mod import_diff;
mod init;
mod inspect;
mod instant;
mod key;
mod log;
mod logging;
mod machine;
mod mount;
mod notes;
mod place;
mod plan;
mod policy;
mod producer;
mod project;
mod protect;
mod prune;
mod recall;
mod report;
mod restore;
mod role;
mod secret;
mod serve;
mod several;
mod signals;
mod snapshots;
mod stats;
mod table;
mod tag;
mod terminal;
mod ui;
mod verify;
mod whoami;

use std::io::ErrorKind as Io;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use cuttle::Result;
use cuttle::cancel::Cancel;

pub use exit::Exit;
pub use global::Global;
pub use ui::Ui;

const ABOUT: &str = "Content-addressed, deduplicating backups of Ceph RBD volumes to object storage";

const EXAMPLES: &str = "\
Examples:
  export CUTTLE_REPOSITORY=s3://my-bucket/ceph CUTTLE_PASSWORD_FILE=/etc/cuttle/password
  cuttle init                                     make the repository, once
  cuttle backup rbd:vms/web rbd:vms/db            back up two images; run it every night
  cuttle backup 'rbd:vms/*'                       all images of a pool
  cuttle snapshots                                what can be restored
  cuttle log                                      what happened: backups, forgets, prunes
  cuttle whoami                                   what this host's key and credentials can do
  cuttle restore vms/db rbd:vms/db-restored       the latest snapshot into a new image
  cuttle restore --all --to rbd:newpool           every volume, after the loss of a cluster
  cuttle export vms/db db.qcow2 --format qcow2    a disk image for anything but Ceph
  cuttle serve                                    all snapshots as raw images over HTTP, read-only
  cuttle mount /mnt/backups                       snapshots as files, to get one file back
  cuttle verify --slice 3/30 --read-data          read a thirtieth of all data and check it
  cuttle forget --keep-daily 7 --keep-weekly 4    let go of older snapshots
  cuttle prune                                    delete what no snapshot needs any more

Environment:
{variables}  AWS_*, GOOGLE_*, AZURE_*  credentials, as the providers name them

Exit codes:
  0    all went well
  1    it failed, verify found damage, or something could not be forgotten
  3    some of several volumes failed, the others are backed up or restored
  10   there is no repository
  12   the password or key is wrong
  130  interrupted

Output:
  Listings, summaries, JSON and raw data go to standard output; progress, warnings and errors to standard
  error. With --json, each warning and error is a line of JSON too. What the keys mean is in docs/json.md.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "cuttle", version, about = ABOUT, subcommand_required = true)]
#[command(arg_required_else_help = true, max_term_width = 110, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Backup(backup::Args),
    Snapshots(snapshots::Args),
    Log(log::Args),
    Restore(restore::Args),
    Export(export::Args),
    Diff(diff::Args),
    Inspect(inspect::Args),
    ImportDiff(import_diff::Args),
    Serve(serve::Args),
    Verify(verify::Args),
    Forget(forget::Args),
    Protect(protect::Args),
    Unprotect(protect::UnprotectArgs),
    Tag(tag::Args),
    Stats(stats::Args),
    Recall(recall::Args),
    Prune(prune::Args),
    Mount(mount::Args),
    Key(key::Args),
    Project(project::Args),
    Policy(policy::Args),
    Whoami(whoami::Args),
    Completions(completions::Args),
}

/// The command line: as it is derived, and what the environment may say in the help of each option.
pub fn command() -> clap::Command {
    let examples = EXAMPLES.replace("{variables}", &environment::described());
    Cli::command().after_long_help(examples).mut_args(|arg| match environment::told(arg.get_id().as_str()) {
        Some(told) => {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            arg.help(format!("{help} {told}"))
        }
        None => arg,
    })
}

/// What was said, or why that makes no sense.
pub fn parse() -> clap::error::Result<Cli> {
    Cli::from_arg_matches(&command().try_get_matches()?)
}

/// What every command gets.
pub struct Context<'a> {
    pub global: &'a Global,
    pub ui: &'a Ui,
    pub cancel: Cancel,
}

/// Carries a command out, and says so when it fails.
pub async fn run(cli: Cli, ui: &Ui) -> Exit {
    logging::start(ui);
    let cancel = match signals::watch(ui) {
        Ok(cancel) => cancel,
        Err(e) => return ui.failed(&e),
    };
    let context = Context { global: &cli.global, ui, cancel };
    match dispatch(&context, cli.command).await {
        Ok(exit) => exit,
        Err(e) => ui.failed(&e),
    }
}

async fn dispatch(context: &Context<'_>, command: Command) -> Result<Exit> {
    match command {
        Command::Init(args) => init::run(context, args).await,
        Command::Backup(args) => backup::run(context, args).await,
        Command::Snapshots(args) => snapshots::run(context, args).await,
        Command::Log(args) => log::run(context, args).await,
        Command::Restore(args) => restore::run(context, args).await,
        Command::Export(args) => export::run(context, args).await,
        Command::Diff(args) => diff::run(context, args).await,
        Command::Inspect(args) => inspect::run(context, args).await,
        Command::ImportDiff(args) => import_diff::run(context, args).await,
        Command::Serve(args) => serve::run(context, args).await,
        Command::Verify(args) => verify::run(context, args).await,
        Command::Forget(args) => forget::run(context, args).await,
        Command::Protect(args) => protect::protect(context, args).await,
        Command::Unprotect(args) => protect::unprotect(context, args).await,
        Command::Tag(args) => tag::run(context, args).await,
        Command::Stats(args) => stats::run(context, args).await,
        Command::Recall(args) => recall::run(context, args).await,
        Command::Prune(args) => prune::run(context, args).await,
        Command::Mount(args) => mount::run(context, args).await,
        Command::Key(args) => key::run(context, args).await,
        Command::Project(args) => project::run(context, args).await,
        Command::Policy(args) => policy::run(context, &args),
        Command::Whoami(args) => whoami::run(context, args).await,
        Command::Completions(args) => completions::run(context, &args),
    }
}

/// Answers what is no command: help, version, or a mistake.
pub fn usage(said: &clap::Error) -> Exit {
    match said.print() {
        _ if said.use_stderr() => Exit::Failure,
        // Where nobody reads it, nothing more can be said. Half a page of help on a full disk is another matter.
        Err(e) if e.kind() != Io::BrokenPipe => Exit::Failure,
        _ => Exit::Success,
    }
}

#[cfg(test)]
mod tests;
