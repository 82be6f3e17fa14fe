//! What the restore of many volumes came to.

use std::time::Duration;

use serde::Serialize;

use cuttle::plan::restore::Totals;
use cuttle::repo::history::SnapshotEntry;
use cuttle::restore::RestoreReport;
use cuttle::store::Ledger;

use super::destination::Destination;
use crate::cli::failure::Failure;
use crate::cli::report::Report;
use crate::cli::several::{self, Fate, Tally};
use crate::cli::table::Column;
use crate::cli::{Context, Exit, human};

/// A volume that is there.
pub struct Restored {
    pub snapshot: SnapshotEntry,
    /// Absent where an earlier run had restored it.
    pub report: Option<RestoreReport>,
    /// What its image became before, so that clones can hang on it.
    pub passed: Vec<Step>,
    /// The RBD snapshot that was made of it in the end, for the same.
    pub rbd_snapshot: Option<String>,
    /// The RBD snapshot that it was made a clone of.
    pub clone_of: Option<String>,
    /// Why a clone was restored whole.
    pub whole_because: Option<String>,
}

/// A snapshot that an image became on its way to another one.
pub struct Step {
    pub snapshot: SnapshotEntry,
    pub report: RestoreReport,
    pub rbd_snapshot: String,
    pub clone_of: Option<String>,
}

/// What is told of one snapshot that was restored.
struct Became<'a> {
    /// It went on from there to another.
    is_passed: bool,
    snapshot: &'a SnapshotEntry,
    report: Option<&'a RestoreReport>,
    rbd_snapshot: Option<&'a str>,
    clone_of: Option<&'a str>,
    whole_because: Option<&'a str>,
}

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
    volume: &'a str,
    target: &'a str,
    sequence: u32,
    snapshot_id: String,
    tags: &'a [String],
    /// The RBD snapshot that was made of it, for clones to hang on.
    rbd_snapshot: Option<&'a str>,
    clone_of: Option<&'a str>,
    whole_because: Option<&'a str>,
    size_bytes: u64,
    #[serde(flatten)]
    totals: Totals,
    target_read_bytes: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct OtherLine<'a> {
    status: &'static str,
    volume: &'a str,
    /// `None` where it is not known where the volume would go.
    target: Option<&'a str>,
    error: Option<&'a Failure>,
    seconds: f64,
}

/// Which volume, where it goes, and how long that took.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    pub volume: &'a str,
    /// Empty where there is none.
    pub target: &'a str,
    pub seconds: f64,
}

impl<'a> Told<'a> {
    /// A volume with which nothing was begun.
    pub fn only(volume: &'a str) -> Self {
        Self { volume, target: "", seconds: 0.0 }
    }
}

#[derive(Serialize)]
struct Summary {
    #[serde(skip)]
    rows: Vec<Vec<String>>,
    to: String,
    dry_run: bool,
    #[serde(flatten)]
    tally: Tally,
    /// Among those that are ok.
    volumes_already_restored: u64,
    volumes_without_snapshot: u64,
    size_bytes: u64,
    #[serde(flatten)]
    totals: Totals,
    seconds: f64,
    ledger: Ledger,
}

impl<'a> Gathered<'a> {
    pub fn new(context: &'a Context<'a>, to: &Destination, expected: usize) -> Self {
        let summary = Summary {
            rows: Vec::new(),
            to: to.to_string(),
            dry_run: context.global.dry_run,
            tally: Tally::default(),
            volumes_already_restored: 0,
            volumes_without_snapshot: 0,
            size_bytes: 0,
            totals: Totals::default(),
            seconds: 0.0,
            ledger: Ledger::default(),
        };
        Self { context, expected, summary }
    }

    /// Takes up a volume of which all snapshots are forgotten, or none was ever made.
    pub fn without_snapshot(&mut self, volume: &str) -> cuttle::Result<()> {
        self.summary.volumes_without_snapshot += 1;
        self.other(Told::only(volume), "no_snapshot", "no snapshot", None)
    }

    /// Takes up what became of a volume; an error is told at once.
    pub fn add(&mut self, told: Told<'_>, fate: &Fate<Restored>) -> cuttle::Result<()> {
        self.summary.tally.add(fate);
        if let Fate::Failed(error) = fate {
            self.context.ui.error(error, (self.expected > 1).then_some(told.volume));
        }
        if let Some((status, note, error)) = fate.not_done() {
            self.other(told, status, &note, Some(error))?;
        }
        if let Fate::Done(restored) = fate {
            self.done(told, restored)?;
        }
        Ok(())
    }

    fn done(&mut self, told: Told<'_>, restored: &Restored) -> cuttle::Result<()> {
        for Step { snapshot, report, rbd_snapshot, clone_of } in &restored.passed {
            self.became(
                Told { seconds: report.seconds, ..told },
                &Became {
                    is_passed: true,
                    snapshot,
                    report: Some(report),
                    rbd_snapshot: Some(rbd_snapshot),
                    clone_of: clone_of.as_deref(),
                    whole_because: None,
                },
            )?;
        }
        self.summary.volumes_already_restored += u64::from(restored.report.is_none());
        self.summary.size_bytes += restored.snapshot.snapshot.size_bytes;
        self.became(
            told,
            &Became {
                is_passed: false,
                snapshot: &restored.snapshot,
                report: restored.report.as_ref(),
                rbd_snapshot: restored.rbd_snapshot.as_deref(),
                clone_of: restored.clone_of.as_deref(),
                whole_because: restored.whole_because.as_deref(),
            },
        )
    }

    fn became(&mut self, told: Told<'_>, became: &Became<'_>) -> cuttle::Result<()> {
        let Told { volume, target, seconds } = told;
        let &Became { is_passed, snapshot: entry, report, rbd_snapshot, clone_of, whole_because } = became;
        let (sequence, size_bytes) = (entry.snapshot.sequence.0, entry.snapshot.size_bytes);
        let (status, outcome) = match report {
            _ if is_passed => ("passed", "passed"),
            None => ("already_restored", "already restored"),
            Some(report) if report.dry_run => ("planned", "would be restored"),
            Some(_) => ("restored", "restored"),
        };
        let totals = report.map(|r| r.totals).unwrap_or_default();
        let at = rbd_snapshot.map(|name| format!("{target}@{name}")).unwrap_or_else(|| target.to_owned());
        let outcome = clone_of.map_or_else(|| outcome.to_owned(), |of| format!("{outcome}, clone of {of}"));
        self.summary.totals += totals;
        self.summary.rows.push(vec![
            volume.to_owned(),
            sequence.to_string(),
            at,
            human::size(size_bytes),
            human::size(totals.fetch.bytes),
            human::size(totals.sealed_bytes),
            human::duration(seconds),
            entry.tags.join(","),
            outcome,
        ]);
        self.context.ui.report(&DoneLine {
            status,
            volume,
            target,
            sequence,
            snapshot_id: entry.snapshot_id.to_string(),
            tags: &entry.tags,
            rbd_snapshot,
            clone_of,
            whole_because,
            size_bytes,
            totals,
            target_read_bytes: report.map_or(0, |r| r.target_read_bytes),
            seconds,
        })
    }

    fn other(
        &mut self,
        Told { volume, target, seconds }: Told<'_>,
        status: &'static str,
        outcome: &str,
        error: Option<&Failure>,
    ) -> cuttle::Result<()> {
        let mut row = vec![String::new(); COLUMNS.len()];
        (row[0], row[2], row[COLUMNS.len() - 1]) = (volume.to_owned(), target.to_owned(), outcome.to_owned());
        if !target.is_empty() {
            row[TIME] = human::duration(seconds);
        }
        self.summary.rows.push(row);
        let target = Some(target).filter(|target| !target.is_empty());
        self.context.ui.report(&OtherLine { status, volume, target, error, seconds })
    }

    /// Tells the totals.
    pub fn finish(mut self, ledger: Ledger, elapsed: Duration) -> cuttle::Result<Exit> {
        (self.summary.ledger, self.summary.seconds) = (ledger, elapsed.as_secs_f64());
        self.context.ui.report(&self.summary)?;
        Ok(self.summary.tally.exit())
    }
}

/// A volume has its row in the summary; as it ends, only JSON tells of it.
impl Report for DoneLine<'_> {
    const MESSAGE_TYPE: &'static str = "volume";
}

impl Report for OtherLine<'_> {
    const MESSAGE_TYPE: &'static str = "volume";
}

impl Report for Summary {
    fn summary(&self) -> String {
        several::told(&COLUMNS, &self.rows, self.totals(), &self.ledger)
    }
}

impl Summary {
    fn totals(&self) -> String {
        let volumes = human::counted(self.tally.volumes_ok - self.volumes_already_restored, "volume");
        let mut done = match self.dry_run {
            true => format!("dry run, nothing was written: {volumes} would be restored to {}", self.to),
            false => format!("{volumes} restored to {}", self.to),
        };
        if self.volumes_already_restored > 0 {
            done += &format!(", {} already restored", human::count(self.volumes_already_restored));
        }
        let [size, fetch, sealed] =
            [self.size_bytes, self.totals.fetch.bytes, self.totals.sealed_bytes].map(human::size);
        let (told, time) = (self.tally.told(&done), human::duration(self.seconds));
        format!("{told}: {size}, of which {fetch} written, {sealed} fetched for that, in {time}")
    }
}

/// The column of the time.
const TIME: usize = 6;

const COLUMNS: [Column; 9] = [
    Column::Text("VOLUME"),
    Column::Number("SEQ"),
    Column::Text("TARGET"),
    Column::Number("SIZE"),
    Column::Number("WRITTEN"),
    Column::Number("FETCHED"),
    Column::Number("TIME"),
    Column::Text("TAGS"),
    Column::Text("OUTCOME"),
];
