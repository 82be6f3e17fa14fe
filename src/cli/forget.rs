//! `cuttle forget`: lets go of snapshots, by name or by policy.

use clap::ValueEnum;
use jiff::tz::TimeZone;
use serde::Serialize;

use cuttle::forget::{self, Fate, ForgetReport, Judged};
use cuttle::plan::retention::{Policy, Within};
use cuttle::plan::selection::{Glob, TagList};
use cuttle::plan::times::Times;
use cuttle::repo::Keeper;
use cuttle::store::Ledger;
use cuttle::{Error, Result};

use super::failure::Failure;
use super::prune;
use super::report::{Report, ledger_line, lines};
use super::snapshots::short;
use super::table::{Column, table};
use super::{Context, Exit, connect, human};

const RETENTION: &str = "Policy";

const EXAMPLES: &str = "\
A snapshot stays when one of the --keep rules wants it: the newest N, the newest of each of the newest N hours, days, weeks
(from Monday), months or years that have one, or all within a time. While such a rule has places left, the oldest stays
too, so that the history reaches as far back as it can. N may be `unlimited`. Each volume is looked at for itself. Times are
those at which the store took the backups, and --keep-within counts from the volume's newest snapshot that is looked at. Hours, days and so on
are those of UTC, or of another time zone with --time-zone.

Where the store's times contradict those that the backups' hosts wrote down by more than two days (a repository that was
copied), lie in the future or run against the sequence, nothing of that volume is forgotten until --times says whose count.

A policy never takes what is protected (`cuttle protect`), nor what the next incremental is based on, and so leaves each
volume one snapshot at least, nor what a clone that stays was cloned from: without it, the clone comes back whole. By name
anything goes that is not protected; what the next backup will miss is said. SNAPSHOT is VOLUME@latest, VOLUME@SEQ,
VOLUME@SNAPNAME, or the first digits of an id.

What only forgotten snapshots needed is freed by a prune, 14 days later at the earliest; until then `cuttle recall` brings them back.

Examples:
  cuttle forget -n --keep-daily 7 --keep-weekly 4 --keep-monthly 12    what would go, and why the others stay
  cuttle forget --keep-daily 7 --keep-weekly 4 --keep-monthly 12
  cuttle forget --keep-within 30d --volume 'vms/*' --tag nightly       some of them; the others stay
  cuttle forget --keep-daily 7 --keep-weekly 4 --prune                 and free what only they needed
  cuttle forget vms/db@3 vms/db@4                                      these two

Exit code 1 when something could not be forgotten, or not be looked at.";

/// Let go of snapshots, by name or by policy
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// What to forget; without any, what the policy does not keep
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Then delete what no snapshot needs any more, as `cuttle prune` does; with --dry-run, say what that would be
    #[arg(long)]
    prune: bool,
}

#[derive(Debug, clap::Args)]
#[group(id = "policy", multiple = true, conflicts_with = "snapshots")]
struct PolicyArgs {
    /// Keep the newest N
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = RETENTION)]
    keep_last: Option<u32>,
    /// Keep the newest of each of N hours
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = RETENTION)]
    keep_hourly: Option<u32>,
    /// Keep the newest of each of N days
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = RETENTION)]
    keep_daily: Option<u32>,
    /// Keep the newest of each of N weeks
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = RETENTION)]
    keep_weekly: Option<u32>,
    /// Keep the newest of each of N months
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = RETENTION)]
    keep_monthly: Option<u32>,
    /// Keep the newest of each of N years
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = RETENTION)]
    keep_yearly: Option<u32>,
    /// Keep all that are older than the volume's newest by less than this, such as 30d or 2y5m7d3h
    #[arg(long, value_name = "TIME", help_heading = RETENTION)]
    keep_within: Option<Within>,
    /// Only volumes whose names match, such as 'vms/*'; may be repeated
    #[arg(long = "volume", value_name = "PATTERN", help_heading = RETENTION)]
    volumes: Vec<Glob>,
    /// Only snapshots that have all these tags; may be repeated: one of the lists must match; '' for those without any tag
    #[arg(long = "tag", value_name = "TAG[,TAG…]", help_heading = RETENTION)]
    tags: Vec<TagList>,
    /// Whose hours, days, weeks, months and years count: utc, local, or a name such as Europe/Berlin [default: utc]
    #[arg(long, value_name = "ZONE", value_parser = parse_zone, help_heading = RETENTION)]
    time_zone: Option<TimeZone>,
    /// Go by these times, although the store's and those that the backups' hosts wrote down contradict each other
    #[arg(long, value_name = "WHOSE", help_heading = RETENTION)]
    times: Option<Whose>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Whose {
    /// Those that the hosts wrote down: the repository was copied
    Sealed,
    /// The store's: the hosts' clocks were wrong
    Store,
}

/// A zone that cannot be found is an error: as UTC it would forget other snapshots.
fn parse_zone(text: &str) -> Result<TimeZone> {
    let found = match text {
        "utc" => Ok(TimeZone::UTC),
        "local" => TimeZone::try_system(),
        name => TimeZone::get(name),
    };
    found.map_err(|e| {
        Error::invalid(format!("time zone {text:?}: {e}")).help(
            "expected utc, local, or a name such as Europe/Berlin, which needs the system's time zone database \
             (the package tzdata); for local TZ or /etc/localtime must name one that is there",
        )
    })
}

fn parse_count(text: &str) -> Result<u32> {
    match text.parse() {
        _ if matches!(text, "unlimited" | "-1") => Ok(u32::MAX),
        Ok(n) if n > 0 => Ok(n),
        _ => Err(Error::invalid("expected a number from 1 on, or unlimited")),
    }
}

impl From<PolicyArgs> for Policy {
    fn from(args: PolicyArgs) -> Self {
        Self {
            last: args.keep_last.unwrap_or(0),
            hourly: args.keep_hourly.unwrap_or(0),
            daily: args.keep_daily.unwrap_or(0),
            weekly: args.keep_weekly.unwrap_or(0),
            monthly: args.keep_monthly.unwrap_or(0),
            yearly: args.keep_yearly.unwrap_or(0),
            within: args.keep_within,
            volumes: args.volumes,
            tags: args.tags,
            time_zone: args.time_zone.unwrap_or(TimeZone::UTC),
            times: match args.times {
                None => Times::Checked,
                Some(Whose::Sealed) => Times::Sealed,
                Some(Whose::Store) => Times::Store,
            },
        }
    }
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let policy = Policy::from(args.policy);
    if args.snapshots.is_empty() {
        // Refused before anyone types a password.
        policy.check()?;
    }
    let project = connect::keeper(context).await?;
    let report = forgotten(context, &project, &args.snapshots, &policy).await?;
    let told = tell(context, &report)?;
    if !args.prune {
        return Ok(told);
    }
    // A dry run forgot nothing: it counts as if it had.
    let going = report.snapshots.iter().filter(|j| report.dry_run && matches!(j.fate, Fate::Forgotten));
    let as_if_forgotten = going.map(|j| (j.noted.volume, j.noted.sequence)).collect();
    let pruned = prune::pruned(context, &project, prune::Args::default(), as_if_forgotten).await?;
    Ok(if told == Exit::Success { pruned } else { told })
}

async fn forgotten(
    context: &Context<'_>,
    project: &Keeper,
    specs: &[String],
    policy: &Policy,
) -> Result<ForgetReport> {
    let (dry_run, cancel) = (context.global.dry_run, context.cancel.clone());
    let mut report = match specs.is_empty() {
        true => forget::by_policy(project, policy, dry_run, cancel).await?,
        false => forget::by_name(project, specs, dry_run, cancel).await?,
    };
    report.ledger = project.repository().store().ledger();
    Ok(report)
}

#[derive(Serialize)]
struct Summary<'a> {
    project: &'a str,
    dry_run: bool,
    kept: u64,
    forgotten: u64,
    snapshots: Vec<Row<'a>>,
    ledger: Ledger,
}

#[derive(Serialize)]
struct Row<'a> {
    volume: &'a str,
    sequence: u32,
    snapshot_id: String,
    committed_at: Option<String>,
    tags: &'a [String],
    protected: bool,
    action: &'static str,
    reasons: &'a [String],
    #[serde(skip)]
    committed_unix_ms: Option<u64>,
}

fn tell(context: &Context<'_>, report: &ForgetReport) -> Result<Exit> {
    let ui = context.ui;
    ui.report(&Summary {
        project: &report.project,
        dry_run: report.dry_run,
        kept: report.kept(),
        forgotten: report.forgotten(),
        snapshots: report.snapshots.iter().map(row).collect(),
        ledger: report.ledger,
    })?;
    for (what, error) in &report.failures {
        ui.error(&Failure::from(error), Some(what));
    }
    for judged in &report.snapshots {
        let error = match &judged.fate {
            Fate::Refused => &Error::conflict(format!("{} is protected", judged.name()))
                .help(format!("let it go first: cuttle unprotect {}", judged.name())),
            Fate::Failed(error) => error,
            Fate::Kept | Fate::Forgotten => continue,
        };
        ui.error(&Failure::from(error), Some(&judged.name()));
    }
    Ok(if report.ok() { Exit::Success } else { Exit::Failure })
}

fn row(judged: &Judged) -> Row<'_> {
    let committed_unix_ms = (judged.committed_unix_ms > 0).then_some(judged.committed_unix_ms);
    Row {
        volume: &judged.volume_name,
        sequence: judged.noted.sequence.0,
        snapshot_id: judged.noted.snapshot_id.to_string(),
        committed_at: committed_unix_ms.and_then(human::utc_time),
        tags: &judged.noted.note.tags,
        protected: judged.noted.note.protected,
        action: action(&judged.fate),
        reasons: &judged.reasons,
        committed_unix_ms,
    }
}

fn action(fate: &Fate) -> &'static str {
    match fate {
        Fate::Kept => "keep",
        Fate::Forgotten => "forget",
        Fate::Refused => "refused",
        Fate::Failed(_) => "failed",
    }
}

impl Report for Summary<'_> {
    fn summary(&self) -> String {
        use Column::{Number, Text};
        let columns = [
            Text("ID"),
            Text("VOLUME"),
            Number("SEQ"),
            Text("TIME"),
            Text("TAGS"),
            Text("ACTION"),
            Text("REASONS"),
        ];
        let row = |row: &Row<'_>| {
            vec![
                short(&row.snapshot_id),
                row.volume.to_owned(),
                row.sequence.to_string(),
                row.committed_unix_ms.map_or_else(|| "?".to_owned(), human::local_time),
                row.tags.join(","),
                row.action.to_owned(),
                row.reasons.join(", "),
            ]
        };
        let judged = match self.snapshots.is_empty() {
            true => String::new(),
            false => table(&columns, self.snapshots.iter().map(row)),
        };
        let forgotten = human::counted(self.forgotten, "snapshot");
        let kept = match self.kept {
            0 => String::new(),
            n => format!(", {} kept", human::count(n)),
        };
        let told = match self.dry_run {
            true => format!("dry run: {forgotten} would be forgotten{kept}"),
            false => format!("{forgotten} forgotten{kept}"),
        };
        lines([judged, told, ledger_line(&self.ledger)])
    }
}
