//! `cuttle prune`: what no snapshot needs any more is deleted.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use cuttle::plan::lease::LEASE_DEFAULT;
use cuttle::progress::Progress;
use cuttle::prune::{self, Counted, PruneOptions, PruneReport, Waiting};
use cuttle::repo::Project;
use cuttle::{Error, Result};

use super::bar::Words;
use super::failure::Failure;
use super::summary::ledger_line;
use super::table::{Column, printable, table};
use super::{Context, Exit, connect, human};

const WORDS: Words = Words { unit: "object", new: "deleted", known: "", zero: "" };

const EXAMPLES: &str = "\
It deletes chunks and manifest pages of one project that no snapshot needs, while backups, restores and other prunes
go on. It may be stopped at any moment and run from any host; the next one goes on where it was. It needs credentials
that may delete. What the store keeps locked is left, counted, and deleted by a later prune.

A backup that was under way when it began is waited for. One that gave no sign of life for longer than the lease, by
the store's clock, is ended as aborted: whatever comes of it later, it is no snapshot. One of this machine whose process is gone is
ended at once.

When a manifest, a log or an earlier round is damaged or shrank, nothing is deleted, and it says what. Chunks and pages
that snapshots need and the store does not have are named and remembered, and the exit code is 1.

Examples:
  cuttle prune -n                 what would be deleted, and what that would ask of the store
  cuttle prune                    delete it
  cuttle prune --no-wait          do not wait for backups under way; the next prune finishes the round
  cuttle prune --lease 3d         give silent backups three days

JSON: {\"message_type\":\"summary\",\"dry_run\",\"volumes\",\"snapshots\",\"pages\",\"stored\":{\"objects\",\"bytes\"},
\"unreferenced\":{…},\"deleted_chunks\":{…},\"deleted_pages\":{…},\"deleted_records\",\"swept\":{…},\"locked\":{…},
\"lost_objects\",\"lost\":[{\"object\",\"snapshot\"}],\"recorded\",
\"rounds_begun\",\"rounds_joined\",\"rounds_finished\",\"round_open\",\"aborted\":[…],\"waiting\":[{\"volume\",\"sequence\",
\"host\",\"process\",\"last_sign_unix_ms\"}],\"deletes_to_come\",\"puts_to_come\",\"lists_to_come\",\"ledger\":{…},\"seconds\"};
\"snapshots\" and \"stored\" are null where an earlier round waits and they were not counted";

/// Delete what no snapshot needs any more
#[derive(Debug, Default, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Silence after which a backup under way is taken for dead: 90m, 24h, 3d [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = human::parse_duration)]
    lease: Option<Duration>,
    /// Do not wait for backups under way: leave the round for the next prune
    #[arg(long)]
    no_wait: bool,
}

#[derive(Serialize)]
struct Summary<'a> {
    message_type: &'static str,
    #[serde(flatten)]
    report: &'a PruneReport,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let project = connect::project(context, false).await?;
    pruned(context, &project, args).await
}

/// Prunes an open project, and tells about it.
pub async fn pruned(context: &Context<'_>, project: &Project, args: Args) -> Result<Exit> {
    let options = PruneOptions {
        dry_run: context.global.dry_run,
        lease: args.lease.unwrap_or(LEASE_DEFAULT),
        wait: !args.no_wait,
        ..PruneOptions::default()
    };
    let bar = context.ui.progress(&format!("project {}", project.name()), WORDS, false);
    let progress: Arc<dyn Progress> = bar.clone();
    let result = prune::run(project, options, progress, context.cancel.clone()).await;
    bar.done();
    let mut report = result?;
    if !report.dry_run {
        connect::keep_room(context, project).await;
    }
    report.ledger = project.repository().store().ledger();
    tell(context, &report)?;
    if report.lost_objects == 0 {
        return Ok(Exit::Success);
    }
    context.ui.error(&Failure::from(&lost(&report)), None);
    Ok(Exit::Failure)
}

/// Something that snapshots need is gone. What nothing needs was deleted all the same.
fn lost(report: &PruneReport) -> Error {
    let first = report.lost.iter().take(3).map(|l| format!("{} (needed by {})", l.object, l.snapshot));
    let missing = human::counted(report.lost_objects, "object");
    Error::corrupt(format!(
        "{missing} that snapshots need missing from the repository: {}",
        first.collect::<Vec<_>>().join(", ")
    ))
    .help(
        "run `cuttle verify` to see all that is hurt, and `cuttle verify --repair` to bring back what the volumes still have; \
         from now on no backup builds on what is missing",
    )
}

fn tell(context: &Context<'_>, report: &PruneReport) -> Result<()> {
    let ui = context.ui;
    if ui.is_json() {
        return ui.print_json(&Summary { message_type: "summary", report });
    }
    if report.locked.objects > 0 {
        ui.warn(&format!(
            "{} could not be deleted: the store keeps them locked, or these credentials may not delete",
            objects(report.locked)
        ));
    }
    if !ui.is_talkative() {
        return Ok(());
    }
    show_waiting(context, &report.waiting)?;
    let n = human::counted;
    let mut found = vec![n(report.volumes, "volume")];
    found.extend(report.snapshots.map(|snapshots| n(snapshots, "snapshot")));
    found.extend(report.stored.map(|stored| format!("{} stored", objects(stored))));
    ui.print(&format!("project {}: {}", report.project, found.join(", ")))?;
    match report.dry_run {
        true => would(context, report)?,
        false => did(context, report)?,
    }
    ui.print(&ledger_line(&report.ledger))
}

fn would(context: &Context<'_>, report: &PruneReport) -> Result<()> {
    let ui = context.ui;
    ui.print(&format!(
        "dry run: {} would be deleted, less what backups under way need",
        objects(report.unreferenced)
    ))?;
    if report.round_open {
        ui.print("a round is open, which the next prune finishes first")?;
    }
    if report.deletes_to_come > 0 {
        let [deletes, puts, lists] =
            [report.deletes_to_come, report.puts_to_come, report.lists_to_come].map(human::count);
        ui.print(&format!("requests to come: about {deletes} delete, {puts} put, {lists} list"))?;
    }
    Ok(())
}

fn did(context: &Context<'_>, report: &PruneReport) -> Result<()> {
    let ui = context.ui;
    let time = human::duration(report.seconds);
    if report.is_idle() {
        ui.print(&format!("nothing to delete; looked in {time}"))?;
    } else if report.round_open {
        ui.print("nothing was deleted yet: the next prune goes on when these backups are over")?;
    } else {
        // Stores do not tell who was first.
        let deleted =
            if report.rounds_joined > 0 { "deleted, or found deleted by another prune," } else { "deleted" };
        ui.print(&format!(
            "{deleted} {} ({}, {}) in {time}",
            objects(report.deleted()),
            human::counted(report.deleted_chunks.objects, "chunk"),
            human::counted(report.deleted_pages.objects, "page"),
        ))?;
    }
    if report.swept.objects > 0 {
        ui.print(&format!("removed {} that a crash left", objects(report.swept)))?;
    }
    Ok(())
}

fn show_waiting(context: &Context<'_>, waiting: &[Waiting]) -> Result<()> {
    if waiting.is_empty() {
        return Ok(());
    }
    let columns = [
        Column::Text("UNDER WAY"),
        Column::Number("SEQ"),
        Column::Text("HOST"),
        Column::Number("PROCESS"),
        Column::Text("LAST SIGN OF LIFE"),
    ];
    let row = |one: &Waiting| {
        let (sequence, process) = (one.sequence.to_string(), one.process.to_string());
        let sign = human::local_time(one.last_sign_unix_ms);
        vec![printable(&one.volume), sequence, one.host.clone(), process, sign]
    };
    context.ui.print(&table(&columns, waiting.iter().map(row)))
}

/// `12 objects (3.4 GiB)`
fn objects(counted: Counted) -> String {
    format!("{} ({})", human::counted(counted.objects, "object"), human::size(counted.bytes))
}
