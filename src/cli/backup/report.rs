//! What a run of backups came to.

use std::time::Duration;

use serde::Serialize;

use cuttle::backup::BackupReport;
use cuttle::format::record::BackupStats;
use cuttle::store::Ledger;

use crate::cli::failure::Failure;
use crate::cli::report::Report;
use crate::cli::several::{self, Fate, Tally};
use crate::cli::table::Column;
use crate::cli::{Context, Exit, human};

/// Gathers what became of each volume, and tells it.
pub struct Gathered<'a> {
    context: &'a Context<'a>,
    /// How many volumes there will be.
    expected: usize,
    summary: Summary,
}

#[derive(Serialize)]
struct DoneLine<'a> {
    status: &'static str,
    source: &'a str,
    #[serde(flatten)]
    report: &'a BackupReport,
}

#[derive(Serialize)]
struct FailedLine<'a> {
    status: &'static str,
    source: &'a str,
    volume: &'a str,
    error: &'a Failure,
}

/// A volume has its row in the summary; as it ends, only JSON tells of it.
impl Report for DoneLine<'_> {
    const MESSAGE_TYPE: &'static str = "volume";
}

impl Report for FailedLine<'_> {
    const MESSAGE_TYPE: &'static str = "volume";
}

#[derive(Serialize)]
struct Summary {
    #[serde(skip)]
    rows: Vec<Vec<String>>,
    dry_run: bool,
    #[serde(flatten)]
    tally: Tally,
    /// Of those that are well, the ones of which no snapshot was made, as nothing changed.
    volumes_unchanged: u64,
    #[serde(flatten)]
    stats: BackupStats,
    levels: Option<[i32; 2]>,
    seconds: f64,
    ledger: Ledger,
}

impl<'a> Gathered<'a> {
    pub fn new(context: &'a Context<'a>, expected: usize) -> Self {
        let summary = Summary {
            rows: Vec::new(),
            dry_run: context.global.dry_run,
            tally: Tally::default(),
            volumes_unchanged: 0,
            stats: BackupStats::default(),
            levels: None,
            seconds: 0.0,
            ledger: Ledger::default(),
        };
        Self { context, expected, summary }
    }

    /// Takes up what became of a volume and each of its states that was backed up; an error is told at once.
    pub fn add(
        &mut self,
        source: &str,
        volume: &str,
        done: &[BackupReport],
        fate: &Fate<()>,
    ) -> cuttle::Result<()> {
        let ui = self.context.ui;
        self.summary.tally.add(fate);
        match fate {
            Fate::Failed(error) => ui.error(error, (self.expected > 1).then_some(source)),
            Fate::Skipped(why) => ui.remark(&format!("{source}: {}", why.message)),
            Fate::Done(_) | Fate::NotStarted(_) => {}
        }
        for report in done {
            add_stats(&mut self.summary.stats, &report.stats);
            self.summary.levels = widened(self.summary.levels, report.levels);
            let hurt = report.lost.needs_somebody();
            self.summary.tally.volumes_hurt += u64::from(hurt);
            self.summary.volumes_unchanged += u64::from(report.unchanged);
            self.summary.rows.push(row(report));
            if self.summary.dry_run {
                ui.remark(&format!("{} {}", report.volume, report.plan));
            }
            let status = match (hurt, report.unchanged) {
                (true, _) => "hurt",
                (false, true) => "unchanged",
                (false, false) => "ok",
            };
            ui.report(&DoneLine { status, source, report })?;
        }
        if let Some((status, note, error)) = fate.not_done() {
            let mut row = vec![String::new(); COLUMNS.len()];
            (row[0], row[COLUMNS.len() - 1]) = (volume.to_owned(), note);
            self.summary.rows.push(row);
            ui.report(&FailedLine { status, source, volume, error })?;
        }
        Ok(())
    }

    /// Tells the totals.
    pub fn finish(mut self, ledger: Ledger, elapsed: Duration) -> cuttle::Result<Exit> {
        (self.summary.ledger, self.summary.seconds) = (ledger, elapsed.as_secs_f64());
        self.context.ui.report(&self.summary)?;
        Ok(self.summary.tally.exit())
    }
}

impl Report for Summary {
    fn summary(&self) -> String {
        several::told(&COLUMNS, &self.rows, self.totals(), &self.ledger)
    }
}

impl Summary {
    fn totals(&self) -> String {
        let volumes = human::counted(self.tally.volumes_ok - self.volumes_unchanged, "volume");
        let mut done = match self.dry_run {
            true => format!("dry run, nothing was stored: {volumes} read"),
            false => format!("{volumes} backed up"),
        };
        if self.volumes_unchanged > 0 {
            done += &format!(", {} unchanged", human::count(self.volumes_unchanged));
        }
        let text = self.tally.told(&done);
        let [read, new, stored] =
            [self.stats.read_bytes, self.stats.new_bytes, self.stats.stored_bytes].map(human::size);
        let mut stored = if self.dry_run { format!("{stored} to store") } else { format!("{stored} stored") };
        if self.stats.delta_chunks > 0 {
            let deltas = human::counted(self.stats.delta_chunks, "delta");
            stored += &format!(" ({deltas} of {})", human::size(self.stats.delta_bytes));
        }
        if let Some([least, greatest]) = self.levels.filter(|levels| *levels != [1; 2]) {
            stored += &match least == greatest {
                true => format!(" at level {least}"),
                false => format!(" at level {least} to {greatest}, as the store is slow"),
            };
        }
        format!("{text}: {read} read, {new} new, {stored} in {}", human::duration(self.seconds))
    }
}

const COLUMNS: [Column; 10] = [
    Column::Text("VOLUME"),
    Column::Number("SEQ"),
    Column::Number("SIZE"),
    Column::Number("READ"),
    Column::Number("NEW"),
    Column::Number("STORED"),
    Column::Number("DELTAS"),
    Column::Number("KNOWN/ZERO CHUNKS"),
    Column::Number("TIME"),
    Column::Text("NOTE"),
];

fn row(report: &BackupReport) -> Vec<String> {
    let stats = &report.stats;
    let mut note = match report.parent {
        Some(_) if report.unchanged => "unchanged, none made".to_owned(),
        None => match &report.origin {
            Some(origin) => format!("clone of {origin}"),
            None => "first".to_owned(),
        },
        Some(_) if report.full_read => "all read".to_owned(),
        Some(parent) if report.parent_known_by == Some("name") => {
            format!("changes since {parent}, by name only")
        }
        Some(parent) => format!("changes since {parent}"),
    };
    if let Some(point) = report.point.as_ref().filter(|point| !point.own) {
        note = format!("snapshot {}, {note}", point.name);
    }
    if report.lost.needs_somebody() {
        note = format!("HURT, {note}");
    }
    if !report.remarks.is_empty() {
        note += &format!(", {}", human::counted(report.remarks.len() as u64, "warning"));
    }
    vec![
        report.volume.clone(),
        report.sequence.map(|s| s.to_string()).unwrap_or_default(),
        human::size(report.size_bytes),
        human::size(stats.read_bytes),
        human::size(stats.new_bytes),
        human::size(stats.stored_bytes),
        human::count(stats.delta_chunks),
        format!("{}/{}", human::count(stats.known_chunks), human::count(stats.zero_chunks)),
        human::duration(report.seconds),
        note,
    ]
}

fn widened(all: Option<[i32; 2]>, one: Option<[i32; 2]>) -> Option<[i32; 2]> {
    match (all, one) {
        (Some([least, greatest]), Some([low, high])) => Some([least.min(low), greatest.max(high)]),
        (all, one) => all.or(one),
    }
}

fn add_stats(all: &mut BackupStats, one: &BackupStats) {
    all.read_bytes += one.read_bytes;
    all.new_chunks += one.new_chunks;
    all.new_bytes += one.new_bytes;
    all.stored_bytes += one.stored_bytes;
    all.known_chunks += one.known_chunks;
    all.zero_chunks += one.zero_chunks;
    all.delta_chunks += one.delta_chunks;
    all.delta_bytes += one.delta_bytes;
}
