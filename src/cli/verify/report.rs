//! What a verification found, as it is shown.

use serde::Serialize;

use cuttle::store::Ledger;
use cuttle::verify::repair::{Aside, Left, Mended, RepairReport};
use cuttle::verify::{AgainstReport, ByteRange, FlawedObject, Hurt, Problem, ScrubReport, VerifyReport};
use cuttle::{Error, Result};

use crate::cli::failure::Failure;
use crate::cli::place::Readable;
use crate::cli::report::{Report, ledger_line, lines};
use crate::cli::table::{Column, table};
use crate::cli::{Context, Exit, human};

/// Rows of a table before the rest is only counted; JSON has all.
const ROWS_MAX: usize = 50;

/// What every verification tells.
#[derive(Serialize)]
struct Summary<'a, T> {
    mode: &'static str,
    ok: bool,
    /// Where the report does not say it itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hurt: Option<Vec<Hurt>>,
    #[serde(flatten)]
    report: &'a T,
}

/// Tells what a verification of a project found.
pub fn verified(context: &Context<'_>, report: &VerifyReport) -> Result<Exit> {
    let (ok, hurt) = (report.ok(), report.hurt());
    let damaged = damaged(&report.damage, report.damage_omitted);
    let what =
        format!("{damaged} damaged or missing, {} hurt", human::counted(hurt.len() as u64, "snapshot"));
    context.ui.report(&Summary {
        mode: "verify",
        ok,
        dry_run: Some(context.global.dry_run),
        hurt: Some(hurt),
        report,
    })?;
    conclude(context, ok, what)
}

impl Report for Summary<'_, VerifyReport> {
    fn answer(&self) -> String {
        let (report, hurt) = (self.report, self.hurt.as_deref().unwrap_or_default());
        lines([damage_table(&report.damage, report.damage_omitted), hurt_table(hurt, report.ranges_omitted)])
    }

    fn summary(&self) -> String {
        let (report, n) = (self.report, human::counted);
        let part = report.slice.as_ref().map(|s| format!(" (part {s})")).unwrap_or_default();
        let mut looked = format!(
            "project {}: {}, {}, {}, {}{part} looked for",
            report.project,
            n(report.volumes, "volume"),
            n(report.snapshots, "snapshot"),
            n(report.pages, "page"),
            n(report.chunks, "chunk")
        );
        if report.read_data {
            let size = human::size(report.read_bytes);
            looked += &format!(", {} read ({size})", n(report.chunks_read, "chunk"));
        }
        let mut told = vec![format!("{looked} in {}", human::duration(report.seconds))];
        if report.unfinished > 0 {
            told.push(format!("{} under way or left unfinished", n(report.unfinished, "backup")));
        }
        if report.recorded > 0 {
            let verb = if self.dry_run == Some(true) { "would be recorded" } else { "recorded" };
            told.push(format!(
                "{} {verb} as lost: backups will not build on them, and store again what their volumes still have",
                n(report.recorded, "object")
            ));
        }
        told.push(ledger_line(&report.ledger));
        lines(told)
    }
}

/// Tells what a repair mended and what stays hurt.
pub fn repaired(context: &Context<'_>, report: &RepairReport) -> Result<Exit> {
    let (ok, hurt) = (report.ok(), report.verify.hurt());
    let damaged = damaged(&report.verify.damage, report.verify.damage_omitted);
    let what = format!("{damaged} not mended, {} hurt", human::counted(hurt.len() as u64, "snapshot"));
    let help = "name what still has the content: --repair-from rbd:…|PATH for another volume or an older copy of it, \
                --repair-from-repo for a copy of the repository. Delete nothing by hand; what is not listed as hurt can \
                be restored";
    context.ui.report(&Summary { mode: "repair", ok, dry_run: None, hurt: Some(hurt), report })?;
    Ok(end(context, ok, &Error::corrupt(what).help(help)))
}

impl Report for Summary<'_, RepairReport> {
    fn answer(&self) -> String {
        let (report, hurt) = (self.report, self.hurt.as_deref().unwrap_or_default());
        let title = if report.dry_run { "WOULD BE MENDED" } else { "MENDED" };
        let mended = |m: &Mended| vec![m.object.clone(), m.from.clone()];
        let left = |l: &Left| vec![l.object.clone(), l.why.clone()];
        let verify = &report.verify;
        lines([
            some(&[Column::Text(title), Column::Text("FROM")], &report.mended, mended, 0, "object"),
            some(&[Column::Text("NOT MENDED"), Column::Text("WHY")], &report.left, left, 0, "object"),
            damage_table(&verify.damage, verify.damage_omitted),
            hurt_table(hurt, verify.ranges_omitted),
        ])
    }

    fn summary(&self) -> String {
        let (report, verify, n) = (self.report, &self.report.verify, human::counted);
        let (verb, mended) = (if report.dry_run { "would be mended" } else { "mended" }, report.mended.len());
        let quarantined = report.mended.iter().filter(|m| m.quarantined.is_some()).count();
        let partly = match verify.read_data {
            true => "",
            false => "only what is missing or has a wrong size was looked for; --read-data finds all damage",
        };
        lines([
            format!(
                "project {}: {}, {} {verb}, {} of them now in quarantine, {} left as they are, in {}",
                verify.project,
                n(verify.snapshots, "snapshot"),
                n(mended as u64, "object"),
                human::count(if report.dry_run { 0 } else { quarantined as u64 }),
                human::count(verify.damage.len() as u64 + verify.damage_omitted),
                human::duration(verify.seconds)
            ),
            partly.to_owned(),
            ledger_line(&verify.ledger),
        ])
    }
}

/// Tells what became of an object that was put aside.
pub fn put_aside(context: &Context<'_>, aside: &Aside) -> Result<Exit> {
    context.ui.report(&Summary { mode: "quarantine", ok: true, dry_run: None, hurt: None, report: aside })?;
    Ok(Exit::Success)
}

impl Report for Summary<'_, Aside> {
    fn summary(&self) -> String {
        let aside = self.report;
        let mut told = vec![format!("{}: {}", aside.object, aside.found)];
        told.extend(aside.known.iter().map(|known| format!("known: {known}")));
        let verb = if aside.dry_run { "would be" } else { "is" };
        told.extend(aside.done.iter().map(|done| format!("what {verb} said now: {done}")));
        let kept = if aside.dry_run { "would be kept" } else { "are" };
        told.extend(aside.quarantined.iter().map(|copy| format!("its bytes {kept} in {copy}")));
        lines(told)
    }
}

/// Tells what a look without keys found.
pub fn scrubbed(context: &Context<'_>, report: &ScrubReport) -> Result<Exit> {
    let ok = report.ok();
    context.ui.report(&Summary { mode: "no_key", ok, dry_run: None, hurt: None, report })?;
    conclude(context, ok, format!("{} damaged", damaged(&report.damage, report.damage_omitted)))
}

impl Report for Summary<'_, ScrubReport> {
    fn answer(&self) -> String {
        damage_table(&self.report.damage, self.report.damage_omitted)
    }

    fn summary(&self) -> String {
        let report = self.report;
        let part = match &report.slice {
            Some(slice) => format!(" (part {slice}, {} left to other parts)", human::count(report.skipped)),
            None => String::new(),
        };
        let (objects, bytes) = (human::counted(report.objects, "object"), human::size(report.bytes));
        let mut told = vec![format!("{objects}{part}, {bytes}, read in {}", human::duration(report.seconds))];
        if report.unknown > 0 {
            let names =
                report.unknown_names.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
            let n = human::counted(report.unknown, "object");
            told.push(format!("{n} not of this format, such as {names}"));
        }
        if report.quarantined > 0 {
            told.push(format!("{} in quarantine", human::counted(report.quarantined, "object")));
        }
        told.push(
            "without a key this cannot tell whether objects are authentic, nor whether any snapshot is whole"
                .to_owned(),
        );
        told.push(ledger_line(&report.ledger));
        lines(told)
    }
}

/// How a snapshot and something else compare.
#[derive(Serialize)]
struct Compared<'a> {
    mode: &'static str,
    ok: bool,
    against: String,
    #[serde(flatten)]
    report: &'a AgainstReport,
    ledger: &'a Ledger,
}

/// Tells how a snapshot and something else compare.
pub fn compared(
    context: &Context<'_>,
    place: &Readable,
    report: &AgainstReport,
    ledger: &Ledger,
) -> Result<Exit> {
    let (ok, name) = (report.ok(), format!("{}@{}", report.volume, report.sequence));
    context.ui.report(&Compared { mode: "against", ok, against: place.to_string(), report, ledger })?;
    let (differing, sizes) =
        (human::size(report.differing_bytes), [report.size_bytes, report.other_size_bytes]);
    let sizes = match sizes[0] == sizes[1] {
        true => String::new(),
        false => format!("; the snapshot has {} bytes, {place} has {}", sizes[0], sizes[1]),
    };
    let help = "the volume was written to since, it is another one, or the backup is wrong: \
                back up again with --full, and compare a snapshot that nothing writes to";
    let error = Error::corrupt(format!("{name} and {place} differ in {differing}{sizes}")).help(help);
    Ok(end(context, ok, &error))
}

impl Report for Compared<'_> {
    fn answer(&self) -> String {
        let columns = [Column::Number("OFFSET"), Column::Number("LENGTH")];
        let row = |range: &ByteRange| range_row(range).to_vec();
        some(&columns, &self.report.differing, row, self.report.ranges_omitted, "range")
    }

    fn summary(&self) -> String {
        let (report, place) = (self.report, &self.against);
        let (size, time) = (human::size(report.size_bytes), human::duration(report.seconds));
        let same = match self.ok {
            true => format!(
                "{}@{} ({size}) and {place} are the same; compared in {time}",
                report.volume, report.sequence
            ),
            false => String::new(),
        };
        lines([same, ledger_line(self.ledger)])
    }
}

fn damaged(damage: &[FlawedObject], omitted: u64) -> String {
    human::counted(damage.len() as u64 + omitted, "object")
}

fn damage_table(damage: &[FlawedObject], omitted: u64) -> String {
    let columns = [Column::Text("PROBLEM"), Column::Text("OBJECT"), Column::Text("WHAT WAS FOUND")];
    let row = |d: &FlawedObject| vec![problem(d.problem).to_owned(), d.object.clone(), d.message.clone()];
    some(&columns, damage, row, omitted, "object")
}

fn hurt_table(hurt: &[Hurt], omitted: u64) -> String {
    let columns = [
        Column::Text("HURT VOLUME"),
        Column::Number("SEQ"),
        Column::Number("OFFSET"),
        Column::Number("LENGTH"),
    ];
    let mut rows = Vec::new();
    for snapshot in hurt {
        let ranges = match snapshot.whole {
            true => vec![["0".to_owned(), "all of it".to_owned()]],
            false => snapshot.ranges.iter().map(range_row).collect(),
        };
        let name = [snapshot.volume.clone(), snapshot.sequence.to_string()];
        rows.extend(ranges.into_iter().map(|range| [name.clone(), range].concat()));
    }
    some(&columns, &rows, Vec::clone, omitted, "range")
}

/// A table of the first rows, and how many there are beyond; nothing where there are none.
fn some<T>(
    columns: &[Column],
    all: &[T],
    row: impl Fn(&T) -> Vec<String>,
    omitted: u64,
    what: &str,
) -> String {
    if all.is_empty() {
        return String::new();
    }
    let more = match all.len().saturating_sub(ROWS_MAX) as u64 + omitted {
        0 => String::new(),
        n => format!("… and {} more; --json lists them", human::counted(n, what)),
    };
    lines([table(columns, all.iter().take(ROWS_MAX).map(row)), more])
}

fn range_row(range: &ByteRange) -> [String; 2] {
    [range.offset_bytes.to_string(), human::size(range.length_bytes)]
}

fn problem(problem: Problem) -> &'static str {
    match problem {
        Problem::Missing => "missing",
        Problem::Damaged => "damaged",
        Problem::Unreadable => "unreadable",
        Problem::Gap => "gap",
        Problem::WentBack => "went back",
    }
}

fn conclude(context: &Context<'_>, ok: bool, what: String) -> Result<Exit> {
    let error = Error::corrupt(what).help(
        "what is not listed as hurt can be restored. Delete nothing: look for older versions of these objects in the \
         bucket, or copies of it; `cuttle verify --repair` mends what the volumes still have",
    );
    Ok(end(context, ok, &error))
}

fn end(context: &Context<'_>, ok: bool, error: &Error) -> Exit {
    if ok {
        return Exit::Success;
    }
    context.ui.error(&Failure::from(error), None);
    Exit::Failure
}
