//! What a verification found, as it is shown.

use serde::Serialize;

use cuttle::store::Ledger;
use cuttle::verify::repair::{Aside, Left, Mended, RepairReport};
use cuttle::verify::{AgainstReport, ByteRange, Damage, Hurt, Problem, ScrubReport, VerifyReport};
use cuttle::{Error, Result};

use crate::cli::failure::Failure;
use crate::cli::place::Place;
use crate::cli::summary::ledger_line;
use crate::cli::table::{Column, table};
use crate::cli::{Context, Exit, human};

/// Rows of a table before the rest is only counted; JSON has all.
const ROWS_MAX: usize = 50;

#[derive(Serialize)]
struct Summary<'a, T: Serialize> {
    message_type: &'static str,
    mode: &'static str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    hurt: Option<Vec<Hurt>>,
    #[serde(flatten)]
    report: &'a T,
}

/// Tells what a verification of a project found.
pub fn verified(context: &Context<'_>, report: &VerifyReport) -> Result<Exit> {
    let (ui, ok, hurt) = (context.ui, report.ok(), report.hurt());
    if ui.is_json() {
        let (message_type, mode) = ("summary", "verify");
        let hurt = Some(hurt.clone());
        ui.print_json(&Summary { message_type, mode, ok, hurt, report })?;
    } else {
        show_damage(context, &report.damage, report.damage_omitted)?;
        show_hurt(context, &hurt, report.ranges_omitted)?;
    }
    if ui.is_talkative() {
        let part = report.slice.as_ref().map(|s| format!(" (part {s})")).unwrap_or_default();
        let n = human::counted;
        let mut line = format!(
            "project {}: {}, {}, {}, {}{part} looked for",
            report.project,
            n(report.volumes, "volume"),
            n(report.snapshots, "snapshot"),
            n(report.pages, "page"),
            n(report.chunks, "chunk")
        );
        if report.read_data {
            line +=
                &format!(", {} read ({})", n(report.chunks_read, "chunk"), human::size(report.read_bytes));
        }
        ui.print(&format!("{line} in {}", human::duration(report.seconds)))?;
        if report.unfinished > 0 {
            ui.print(&format!("{} under way or left unfinished", n(report.unfinished, "backup")))?;
        }
        if report.recorded > 0 {
            ui.print(&format!(
                "{} recorded as lost: backups will not build on them, and store again what their volumes still have",
                n(report.recorded, "object")
            ))?;
        }
        ui.print(&ledger_line(&report.ledger))?;
    }
    let damaged = report.damage.len() as u64 + report.damage_omitted;
    let what = format!(
        "{} damaged or missing, {} hurt",
        human::counted(damaged, "object"),
        human::counted(hurt.len() as u64, "snapshot")
    );
    conclude(context, ok, what)
}

/// Tells what a repair mended and what stays hurt.
pub fn repaired(context: &Context<'_>, report: &RepairReport) -> Result<Exit> {
    let (ui, ok, hurt) = (context.ui, report.ok(), report.verify.hurt());
    if ui.is_json() {
        let (message_type, mode) = ("summary", "repair");
        ui.print_json(&Summary { message_type, mode, ok, hurt: Some(hurt.clone()), report })?;
    } else {
        show_mended(context, report)?;
        show_damage(context, &report.verify.damage, report.verify.damage_omitted)?;
        show_hurt(context, &hurt, report.verify.ranges_omitted)?;
    }
    if ui.is_talkative() {
        let n = human::counted;
        let (verb, mended) = (if report.dry_run { "would be mended" } else { "mended" }, report.mended.len());
        let quarantined = report.mended.iter().filter(|m| m.quarantined.is_some()).count();
        ui.print(&format!(
            "project {}: {}, {} {verb}, {} of them now in quarantine, {} left as they are, in {}",
            report.verify.project,
            n(report.verify.snapshots, "snapshot"),
            n(mended as u64, "object"),
            human::count(if report.dry_run { 0 } else { quarantined as u64 }),
            human::count(report.verify.damage.len() as u64 + report.verify.damage_omitted),
            human::duration(report.verify.seconds)
        ))?;
        if !report.verify.read_data {
            ui.print(
                "only what is missing or has a wrong size was looked for; --read-data finds all damage",
            )?;
        }
        ui.print(&ledger_line(&report.verify.ledger))?;
    }
    let damaged = report.verify.damage.len() as u64 + report.verify.damage_omitted;
    let what = format!(
        "{} not mended, {} hurt",
        human::counted(damaged, "object"),
        human::counted(hurt.len() as u64, "snapshot")
    );
    let help = "name what still has the content: --repair-from rbd:…|PATH for another volume or an older copy of it, \
                --repair-from-repo for a copy of the repository. Delete nothing by hand; what is not listed as hurt can \
                be restored";
    Ok(end(context, ok, &Error::corrupt(what).help(help)))
}

/// Tells what became of an object that was put aside.
pub fn put_aside(context: &Context<'_>, aside: &Aside) -> Result<Exit> {
    let ui = context.ui;
    if ui.is_json() {
        let (message_type, mode) = ("summary", "quarantine");
        ui.print_json(&Summary { message_type, mode, ok: true, hurt: None, report: aside })?;
    } else if ui.is_talkative() {
        ui.print(&format!("{}: {}", aside.object, aside.found))?;
        for known in &aside.known {
            ui.print(&format!("known: {known}"))?;
        }
        let verb = if aside.dry_run { "would be" } else { "is" };
        for done in &aside.done {
            ui.print(&format!("what {verb} said now: {done}"))?;
        }
        if let Some(copy) = &aside.quarantined {
            ui.print(&format!(
                "its bytes {} in {copy}",
                if aside.dry_run { "would be kept" } else { "are" }
            ))?;
        }
    }
    Ok(Exit::Success)
}

fn show_mended(context: &Context<'_>, report: &RepairReport) -> Result<()> {
    let rows = |n: usize| n.min(ROWS_MAX);
    if !report.mended.is_empty() {
        let title = if report.dry_run { "WOULD BE MENDED" } else { "MENDED" };
        let columns = [Column::Text(title), Column::Text("FROM")];
        let row = |m: &Mended| vec![m.object.clone(), m.from.clone()];
        context.ui.print(&table(&columns, report.mended[..rows(report.mended.len())].iter().map(row)))?;
        show_more(context, report.mended.len().saturating_sub(ROWS_MAX) as u64, "object")?;
    }
    if !report.left.is_empty() {
        let columns = [Column::Text("NOT MENDED"), Column::Text("WHY")];
        let row = |l: &Left| vec![l.object.clone(), l.why.clone()];
        context.ui.print(&table(&columns, report.left[..rows(report.left.len())].iter().map(row)))?;
        show_more(context, report.left.len().saturating_sub(ROWS_MAX) as u64, "object")?;
    }
    Ok(())
}

/// Tells what a look without keys found.
pub fn scrubbed(context: &Context<'_>, report: &ScrubReport) -> Result<Exit> {
    let (ui, ok) = (context.ui, report.ok());
    if ui.is_json() {
        ui.print_json(&Summary { message_type: "summary", mode: "no_key", ok, hurt: None, report })?;
    } else {
        show_damage(context, &report.damage, report.damage_omitted)?;
    }
    if ui.is_talkative() {
        let part = match &report.slice {
            Some(slice) => format!(" (part {slice}, {} left to other parts)", human::count(report.skipped)),
            None => String::new(),
        };
        let (objects, bytes) = (human::counted(report.objects, "object"), human::size(report.bytes));
        ui.print(&format!("{objects}{part}, {bytes}, read in {}", human::duration(report.seconds)))?;
        if report.unknown > 0 {
            let names =
                report.unknown_names.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
            let n = human::counted(report.unknown, "object");
            ui.print(&format!("{n} not of this format, such as {names}"))?;
        }
        if report.quarantined > 0 {
            ui.print(&format!("{} in quarantine", human::counted(report.quarantined, "object")))?;
        }
        ui.print(
            "without a key this cannot tell whether objects are authentic, nor whether any snapshot is whole",
        )?;
        ui.print(&ledger_line(&report.ledger))?;
    }
    let damaged = report.damage.len() as u64 + report.damage_omitted;
    conclude(context, ok, format!("{} damaged", human::counted(damaged, "object")))
}

/// Tells how a snapshot and something else compare.
pub fn compared(
    context: &Context<'_>,
    place: &Place,
    report: &AgainstReport,
    ledger: &Ledger,
) -> Result<Exit> {
    let (ui, ok) = (context.ui, report.ok());
    let name = format!("{}@{}", report.volume, report.sequence);
    if ui.is_json() {
        ui.print_json(&Summary { message_type: "summary", mode: "against", ok, hurt: None, report })?;
    } else if !ok {
        let rows = report.differing.iter().take(ROWS_MAX).map(range_row).collect::<Vec<_>>();
        ui.print(&table(&[Column::Number("OFFSET"), Column::Number("LENGTH")], rows))?;
        let more = (report.differing.len() as u64).saturating_sub(ROWS_MAX as u64) + report.ranges_omitted;
        show_more(context, more, "range")?;
    }
    if ui.is_talkative() {
        let (size, time) = (human::size(report.size_bytes), human::duration(report.seconds));
        if ok {
            ui.print(&format!("{name} ({size}) and {place} are the same; compared in {time}"))?;
        }
        ui.print(&ledger_line(ledger))?;
    }
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

fn show_damage(context: &Context<'_>, damage: &[Damage], omitted: u64) -> Result<()> {
    if damage.is_empty() {
        return Ok(());
    }
    let columns = [Column::Text("PROBLEM"), Column::Text("OBJECT"), Column::Text("WHAT WAS FOUND")];
    let row = |d: &Damage| vec![problem(d.problem).to_owned(), d.object.clone(), d.message.clone()];
    context.ui.print(&table(&columns, damage.iter().take(ROWS_MAX).map(row)))?;
    show_more(context, (damage.len() as u64).saturating_sub(ROWS_MAX as u64) + omitted, "object")
}

fn show_hurt(context: &Context<'_>, hurt: &[Hurt], omitted: u64) -> Result<()> {
    if hurt.is_empty() {
        return Ok(());
    }
    let columns = [
        Column::Text("HURT VOLUME"),
        Column::Number("SEQ"),
        Column::Number("OFFSET"),
        Column::Number("LENGTH"),
    ];
    let mut rows = Vec::new();
    for snapshot in hurt {
        let mut row = |range: [String; 2]| {
            let [offset, length] = range;
            rows.push(vec![snapshot.volume.clone(), snapshot.sequence.to_string(), offset, length]);
        };
        if snapshot.whole {
            row(["0".to_owned(), "all of it".to_owned()]);
            continue;
        }
        for range in &snapshot.ranges {
            row([range.offset_bytes.to_string(), human::size(range.length_bytes)]);
        }
    }
    let more = (rows.len() as u64).saturating_sub(ROWS_MAX as u64) + omitted;
    rows.truncate(ROWS_MAX);
    context.ui.print(&table(&columns, rows))?;
    show_more(context, more, "range")
}

fn show_more(context: &Context<'_>, more: u64, what: &str) -> Result<()> {
    match more {
        0 => Ok(()),
        n => context.ui.print(&format!("… and {} more; --json lists them", human::counted(n, what))),
    }
}

fn range_row(range: &ByteRange) -> Vec<String> {
    vec![range.offset_bytes.to_string(), human::size(range.length_bytes)]
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
