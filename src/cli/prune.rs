//! `cuttle prune`: what no snapshot needs any more is deleted.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use cuttle::plan::lease::LEASE_DEFAULT;
use cuttle::progress::Progress;
use cuttle::prune::{self, Counted, PruneOptions, PruneReport, Waiting};
use cuttle::repo::Keeper;
use cuttle::units::{Sequence, VolumeNumber};
use cuttle::{Error, Result};

use super::bar::{Bar, Words};
use super::environment::KEEP_FORGOTTEN;
use super::failure::Failure;
use super::report::{Report, ledger_line, lines};
use super::table::{Column, table};
use super::{Context, Exit, connect, human};

/// Between forgetting and deleting somebody can notice.
const KEEP_FORGOTTEN_DEFAULT: Duration = Duration::from_secs(14 * 24 * 3600);
const WORDS: Words = Words { unit: "object", new: "deleted", known: "", zero: "" };

const EXAMPLES: &str = "\
It deletes chunks and manifest pages of one project that no snapshot needs, while backups, restores and other prunes
go on. What snapshots need that were forgotten less than 14 days ago stays, so that `cuttle recall` can bring them back. It may be stopped at any moment and run from any host; the next one goes on where it was. It needs credentials
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
  cuttle prune --keep-forgotten 0 also what only snapshots need that were forgotten just now: they cannot be recalled then
  cuttle prune --lease 3d         give silent backups three days";

/// Delete what no snapshot needs any more
#[derive(Debug, Default, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Silence after which a backup under way is taken for dead: 90m, 24h, 3d [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = human::parse_duration)]
    lease: Option<Duration>,
    /// How long forgotten snapshots can be recalled: nothing that they need is deleted before; 0 for not at all [default: 14d]
    #[arg(long, value_name = "DURATION", value_parser = human::parse_duration)]
    keep_forgotten: Option<Duration>,
    /// Do not wait for backups under way: leave the round for the next prune
    #[arg(long)]
    no_wait: bool,
}

#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    report: &'a PruneReport,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let project = connect::keeper(context).await?;
    pruned(context, &project, args, Vec::new()).await
}

/// Prunes an open project, and tells about it. A dry run counts as if some snapshots were forgotten.
pub async fn pruned(
    context: &Context<'_>,
    project: &Keeper,
    args: Args,
    as_if_forgotten: Vec<(VolumeNumber, Sequence)>,
) -> Result<Exit> {
    let options = PruneOptions {
        dry_run: context.global.dry_run,
        as_if_forgotten,
        lease: args.lease.unwrap_or(LEASE_DEFAULT),
        keep_forgotten: keep_forgotten(args.keep_forgotten)?,
        wait: !args.no_wait,
        ..PruneOptions::default()
    };
    let bar = Bar::new(context.ui, &format!("project {}", project.name()), WORDS, false);
    let progress: Arc<dyn Progress> = bar.clone();
    let result = prune::run(project, options, progress, context.cancel.clone()).await;
    bar.done();
    let mut report = result?;
    if !report.dry_run {
        connect::keep_room(context, project).await;
    }
    report.ledger = project.repository().store().ledger();
    if report.locked.objects > 0 && !context.ui.is_json() {
        context.ui.warn(&format!(
            "{} could not be deleted: the store keeps them locked, or these credentials may not delete",
            objects(report.locked)
        ));
    }
    context.ui.report(&Summary { report: &report })?;
    if report.lost_objects == 0 {
        return Ok(Exit::Success);
    }
    context.ui.error(&Failure::from(&lost(&report)), None);
    Ok(Exit::Failure)
}

/// How long what is forgotten is kept, by option or variable.
fn keep_forgotten(given: Option<Duration>) -> Result<Duration> {
    match (given, KEEP_FORGOTTEN.text()?) {
        (Some(given), _) => Ok(given),
        (None, Some(text)) => human::parse_duration(&text)
            .map_err(|e| Error::invalid(format!("CUTTLE_KEEP_FORGOTTEN: {e}")).help("write 14d, 36h or 0")),
        (None, None) => Ok(KEEP_FORGOTTEN_DEFAULT),
    }
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

impl Report for Summary<'_> {
    fn summary(&self) -> String {
        let (report, n) = (self.report, human::counted);
        let mut found = vec![n(report.volumes, "volume")];
        found.extend(report.snapshots.map(|snapshots| n(snapshots, "snapshot")));
        found.extend(report.stored.map(|stored| format!("{} stored", objects(stored))));
        lines([
            waiting(&report.waiting),
            format!("project {}: {}", report.project, found.join(", ")),
            if report.dry_run { would(report) } else { did(report) },
            kept(report.kept_forgotten),
            ledger_line(&report.ledger),
        ])
    }
}

fn kept(forgotten: u64) -> String {
    match forgotten {
        0 => String::new(),
        n => format!(
            "{} still kept: `cuttle recall` brings them back, and what only they need goes later",
            human::counted(n, "forgotten snapshot")
        ),
    }
}

fn would(report: &PruneReport) -> String {
    let unreferenced = objects(report.unreferenced);
    let mut told =
        vec![format!("dry run: {unreferenced} would be deleted, less what backups under way need")];
    told.extend(report.dead_bytes.filter(|bytes| *bytes > 0).map(|bytes| {
        format!(
            "bundles that stay hold {} that no snapshot needs: dead pieces, and tables",
            human::size(bytes)
        )
    }));
    if report.round_open {
        told.push("a round is open, which the next prune finishes first".to_owned());
    }
    if report.deletes_to_come > 0 {
        let [deletes, puts, lists] =
            [report.deletes_to_come, report.puts_to_come, report.lists_to_come].map(human::count);
        told.push(format!("requests to come: about {deletes} delete, {puts} put, {lists} list"));
    }
    lines(told)
}

fn did(report: &PruneReport) -> String {
    let time = human::duration(report.seconds);
    let told = if report.is_idle() {
        format!("nothing to delete; looked in {time}")
    } else if report.round_open {
        "nothing was deleted yet: the next prune goes on when these backups are over".to_owned()
    } else {
        // Stores do not tell who was first.
        let deleted =
            if report.rounds_joined > 0 { "deleted, or found deleted by another prune," } else { "deleted" };
        format!(
            "{deleted} {} ({}, {}, {}) in {time}",
            objects(report.deleted()),
            human::counted(report.deleted_chunks.objects, "chunk"),
            human::counted(report.deleted_pages.objects, "page"),
            human::counted(report.deleted_bundles.objects, "bundle"),
        )
    };
    let swept = match report.swept.objects {
        0 => String::new(),
        _ => format!("removed {} that a crash left", objects(report.swept)),
    };
    lines([told, swept])
}

fn waiting(waiting: &[Waiting]) -> String {
    if waiting.is_empty() {
        return String::new();
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
        vec![one.volume.clone(), sequence, one.host.clone(), process, sign]
    };
    table(&columns, waiting.iter().map(row))
}

/// `12 objects (3.4 GiB)`
fn objects(counted: Counted) -> String {
    format!("{} ({})", human::counted(counted.objects, "object"), human::size(counted.bytes))
}
