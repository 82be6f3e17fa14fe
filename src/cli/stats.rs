//! `cuttle stats`: what the snapshots take.

use std::sync::Arc;

use serde::Serialize;

use cuttle::Result;
use cuttle::progress::Progress;
use cuttle::stats::{self, SnapshotStats, StatsOptions, StatsReport, Usage, VolumeStats};
use cuttle::store::Ledger;
use cuttle::units::VolumeName;

use super::bar::{Bar, Words};
use super::report::{Report, ledger_line, lines};
use super::snapshots::short;
use super::table::{Column, table};
use super::{Context, Exit, connect, human};

const WORDS: Words = Words { unit: "page", new: "read", known: "", zero: "" };

const EXAMPLES: &str = "\
LOGICAL is the sizes of all snapshots added up, ALLOCATED without what is zero, UNIQUE what is left when each chunk
counts once, STORED the objects that hold it: compressed, sealed, with manifest pages. DEDUP is allocated to unique,
COMPR unique to stored. DELTAS is about how much more would be stored without deltas. What volumes share counts in each
of them, and in the last line once.

With --snapshots, FREED is what no other snapshot of the project needs: what a prune frees once only this one is forgotten.
Forgetting several may free more than the sum, as they may share what no other needs.

Read from manifest pages alone, of which the cache holds many. Above some 3.6 million distinct objects sums are
estimates, and it is said so. What waits for a prune is not counted; what lies in
bundles beside what is needed is told in a line of its own.

Examples:
  cuttle stats
  cuttle stats vms/db --snapshots
  cuttle stats --json | jq '.total.stored_bytes'";

/// Show what snapshots take, and what forgetting them would free
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Only these volumes [default: all of the project]
    #[arg(value_name = "VOLUME")]
    volumes: Vec<VolumeName>,
    /// Show for each snapshot what forgetting it would free; reads the pages of all volumes
    #[arg(long)]
    snapshots: bool,
}

#[derive(Serialize)]
struct Summary<'a> {
    #[serde(skip)]
    report: &'a StatsReport,
    #[serde(skip)]
    with_snapshots: bool,
    project: &'a str,
    volumes: Vec<Volume<'a>>,
    total: &'a Usage,
    dead_bytes: Option<u64>,
    pages_read: u64,
    ledger: &'a Ledger,
    seconds: f64,
}

#[derive(Serialize)]
struct Volume<'a> {
    volume: &'a str,
    #[serde(flatten)]
    usage: &'a Usage,
    snapshots: Vec<Snapshot<'a>>,
}

#[derive(Serialize)]
struct Snapshot<'a> {
    volume: &'a str,
    sequence: u32,
    snapshot_id: &'a str,
    committed_at: Option<String>,
    size_bytes: u64,
    freed_bytes: u64,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let project = connect::project(context, false).await?;
    let options = StatsOptions { volumes: args.volumes, snapshots: args.snapshots };
    let bar = Bar::new(context.ui, &format!("project {}", project.name()), WORDS, false);
    let progress: Arc<dyn Progress> = bar.clone();
    let result = stats::run(&project, &options, progress, context.cancel.clone()).await;
    bar.done();
    let mut report = result?;
    report.ledger = project.repository().store().ledger();
    context.ui.report(&summary(&report, options.snapshots))?;
    if report.total.one_in > 1 {
        context.ui.remark(&format!(
            "estimated from one object in {}: there are too many to remember them all",
            human::count(report.total.one_in)
        ));
    }
    Ok(Exit::Success)
}

fn summary(report: &StatsReport, with_snapshots: bool) -> Summary<'_> {
    Summary {
        report,
        with_snapshots,
        project: &report.project,
        volumes: report.volumes.iter().map(volume).collect(),
        total: &report.total,
        dead_bytes: report.dead_bytes,
        pages_read: report.pages_read,
        ledger: &report.ledger,
        seconds: report.seconds,
    }
}

fn volume(stats: &VolumeStats) -> Volume<'_> {
    let snapshots = stats.snapshots.iter().map(|one| snapshot(&stats.volume, one)).collect();
    Volume { volume: &stats.volume, usage: &stats.usage, snapshots }
}

fn snapshot<'a>(volume: &'a str, snapshot: &'a SnapshotStats) -> Snapshot<'a> {
    Snapshot {
        volume,
        sequence: snapshot.sequence,
        snapshot_id: &snapshot.snapshot_id,
        committed_at: human::utc_time(snapshot.committed_unix_ms),
        size_bytes: snapshot.size_bytes,
        freed_bytes: snapshot.freed_bytes,
    }
}

impl Report for Summary<'_> {
    fn answer(&self) -> String {
        let snapshots = match self.with_snapshots {
            true => format!("\n{}", snapshot_table(self.report)),
            false => String::new(),
        };
        let dead = self.dead_bytes.filter(|bytes| *bytes > 0).map_or_else(String::new, |bytes| {
            format!(
                "\nbeside it, bundles hold {} that no snapshot needs: dead pieces, and tables",
                human::size(bytes)
            )
        });
        lines([usage_table(self.report), dead, snapshots])
    }

    fn summary(&self) -> String {
        let (pages, time) = (human::counted(self.pages_read, "page"), human::duration(self.seconds));
        lines([format!("{pages} read in {time}"), ledger_line(self.ledger)])
    }
}

fn usage_table(report: &StatsReport) -> String {
    use Column::{Number, Text};
    let columns = [
        Text("VOLUME"),
        Number("SNAPSHOTS"),
        Number("LOGICAL"),
        Number("ALLOCATED"),
        Number("UNIQUE"),
        Number("STORED"),
        Number("DEDUP"),
        Number("COMPR"),
        Number("DELTAS"),
    ];
    let row = |name: &str, usage: &Usage| {
        vec![
            name.to_owned(),
            human::count(usage.snapshot_count),
            human::size(usage.logical_bytes),
            human::size(usage.allocated_bytes),
            human::size(usage.unique_bytes),
            human::size(usage.stored_bytes),
            ratio(usage.dedup_ratio),
            ratio(usage.compression_ratio),
            if usage.deltas == 0 { "-".to_owned() } else { human::size(usage.delta_saved_bytes) },
        ]
    };
    let volumes = report.volumes.iter().map(|v| row(&v.volume, &v.usage));
    table(&columns, volumes.chain([row("(together)", &report.total)]))
}

fn snapshot_table(report: &StatsReport) -> String {
    use Column::{Number, Text};
    let columns = [Text("ID"), Text("VOLUME"), Number("SEQ"), Text("TIME"), Number("SIZE"), Number("FREED")];
    let all = report.volumes.iter().flat_map(|v| v.snapshots.iter().map(move |s| (v, s)));
    let row = |(volume, snapshot): (&VolumeStats, &SnapshotStats)| {
        vec![
            short(&snapshot.snapshot_id),
            volume.volume.clone(),
            snapshot.sequence.to_string(),
            human::local_time(snapshot.committed_unix_ms),
            human::size(snapshot.size_bytes),
            human::size(snapshot.freed_bytes),
        ]
    };
    table(&columns, all.map(row))
}

/// `2.5`
fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.1}"))
}
