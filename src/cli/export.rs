//! `cuttle export`: turns a snapshot into what other programs read.

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::PossibleValuesParser;
use serde::Serialize;

use cuttle::error::io_error;
use cuttle::export::{self, ChainLink, Export, FORMATS, Format, Output};
use cuttle::plan::restore::Totals;
use cuttle::progress::Progress;
use cuttle::repo::Project;
use cuttle::repo::history::SnapshotEntry;
use cuttle::restore::RestoreReport;
use cuttle::{Error, Result};

use super::bar::{Bar, Words};
use super::connect;
use super::place::{self, Stream, standard_output};
use super::plan::{self, Plan};
use super::report::{Report, ledger_line, lines};
use super::table::printable;
use super::{Context, Exit, human};

const WORDS: Words = Words { unit: "chunk", new: "fetched", known: "unchanged", zero: "zero" };

const EXAMPLES: &str = "\
SNAPSHOT is VOLUME (its newest), VOLUME@latest, VOLUME@SEQ, VOLUME@SNAPNAME, or the first digits of an id.
TARGET is a new file, or - for standard output, to which qcow2 is written uncompressed: its header comes first.

Formats:
  raw        the bytes
  qcow2      compressed by zstd (QEMU 5.1 or newer), holes kept; with --from an overlay on that snapshot's own export
  diff-v1    as rbd export-diff writes it, with --from what changed since; rbd import-diff takes it
  diff-v2    the same in its second version, which cuttle takes and rbd import-diff does not
  image-v2   for rbd import --export-format 2: a new image, made as the one that was backed up, with the snapshot

A file gets its name when it is whole. Only chunks that differ are fetched where --from is given, and of the unchanged not
even the manifest pages.

Examples:
  cuttle export vms/db db.qcow2 --format qcow2
  cuttle export vms/db db.qcow2 --format qcow2 -n           what that would write, and from where
  cuttle export vms/db@12 monday.qcow2 --format qcow2 --from vms/db@11 --backing sunday.qcow2
  cuttle export vms/db /srv/db/ --format qcow2 --chain      all snapshots, each on top of the one before
  cuttle export vms/db@11 - --format image-v2 | rbd import --export-format 2 - vms/db-copy
  cuttle export vms/db@12 - --format diff-v1 --from vms/db@11 | rbd import-diff - vms/db-copy";

/// Turn a snapshot into a raw, qcow2 or RBD stream, or into what changed since another one
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// What to export
    snapshot: String,
    /// Where to: a file, - or with --chain a folder
    #[arg(value_parser = place::output)]
    target: Stream,
    /// As what
    #[arg(long, value_parser = PossibleValuesParser::new(FORMATS.map(Format::name)))]
    format: String,
    /// Export only what differs from this snapshot, older or newer
    #[arg(long, value_name = "SNAPSHOT")]
    from: Option<String>,
    /// The file that --from was exported to, as the overlay shall name it: relative to the overlay's folder
    #[arg(long, value_name = "FILE", requires = "from")]
    backing: Option<PathBuf>,
    /// Export all of the volume's snapshots up to this one into a folder, each on top of the one before
    #[arg(long, conflicts_with_all = ["from", "backing", "to_name", "from_name"])]
    chain: bool,
    /// What a diff or image calls the snapshot [default: as it was called when it was backed up]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    to_name: Option<String>,
    /// What a diff calls the snapshot that it is relative to [default: likewise]
    #[arg(long, value_name = "NAME", requires = "from", hide_short_help = true)]
    from_name: Option<String>,
    /// Replace a file that exists
    #[arg(long)]
    overwrite: bool,
}

#[derive(Serialize)]
struct Summary<'a> {
    target: String,
    format: &'static str,
    from: Option<String>,
    #[serde(flatten)]
    report: &'a RestoreReport,
}

/// What an export would write.
#[derive(Serialize)]
struct Planned<'a> {
    target: String,
    format: &'static str,
    from: Option<String>,
    volume: &'a str,
    sequence: u32,
    snapshot_id: &'a str,
    size_bytes: u64,
    #[serde(flatten)]
    totals: Totals,
}

/// What is made: one file or stream, or many files in a folder.
enum To {
    One(Output),
    Folder(PathBuf),
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let format = export::format(&args.format)?;
    check(&args, format)?;
    // Refused before anyone types a password.
    let to = to(context, &args)?;
    let project = connect::data(context).await?;
    let snapshot = project.volumes().snapshot(&args.snapshot).await?;
    let output = match to {
        To::Folder(folder) => return chain(context, &project, &snapshot, &args, &folder).await,
        To::One(output) => output,
    };
    let from = match &args.from {
        Some(from) => Some(project.volumes().snapshot(from).await?),
        None => None,
    };
    if let Some(from) = &from {
        tell_direction(context, from, &snapshot);
    }
    let mut export = Export::new(format, snapshot, from);
    let what = &mut export.what;
    if let Some(name) = args.to_name {
        what.name = name;
    }
    if let Some(base) = &mut what.base {
        base.file = args.backing;
        base.name = args.from_name.unwrap_or_else(|| base.name.clone());
    }
    one(context, &project, export, &args.target, output).await?;
    Ok(Exit::Success)
}

fn check(args: &Args, format: &dyn Format) -> Result<()> {
    let name = format.name();
    if args.from.is_some() && !format.takes_base() {
        return Err(Error::invalid(format!("format {name} holds a whole volume: expected no --from")));
    }
    let overlay = format.takes_backing();
    if (args.chain || args.backing.is_some()) && !overlay {
        return Err(Error::invalid(format!("format {name} has no backing files: expected qcow2")));
    }
    if args.from.is_some() && overlay && args.backing.is_none() {
        return Err(Error::invalid("a qcow2 file with --from needs --backing FILE")
            .help("export the snapshot given with --from first; or all in one: --chain"));
    }
    Ok(())
}

fn to(context: &Context<'_>, args: &Args) -> Result<To> {
    Ok(match &args.target {
        Stream::File(folder) if args.chain => To::Folder(folder.clone()),
        Stream::File(path) => To::One(Output::File { path: path.clone(), overwrite: args.overwrite }),
        Stream::Standard if args.chain => {
            return Err(Error::invalid("--chain makes several files: expected a folder"));
        }
        Stream::Standard if context.global.dry_run => To::One(Output::Pipe(Box::new(io::sink()))),
        Stream::Standard => To::One(Output::Pipe(Box::new(standard_output(context.ui)?))),
    })
}

/// Exports all snapshots that the folder does not hold yet. A file has its name only when it is whole, and the snapshot's
/// id is part of it, so what is there already is what would be made.
async fn chain(
    context: &Context<'_>,
    project: &Project,
    newest: &SnapshotEntry,
    args: &Args,
    folder: &Path,
) -> Result<Exit> {
    let format = export::format(&args.format)?;
    if !context.global.dry_run {
        std::fs::create_dir_all(folder)
            .map_err(|e| io_error(format!("make folder {}", folder.display()), e))?;
    }
    let mut below: Option<ChainLink> = None;
    for link in export::chain(project, newest).await? {
        let path = folder.join(&link.file);
        if path.exists() && !args.overwrite {
            context.ui.remark(&format!("{} is there already", path.display()));
            below = Some(link);
            continue;
        }
        let from = below.as_ref().map(|below| below.snapshot.clone());
        let mut export = Export::new(format, link.snapshot.clone(), from);
        if let (Some(base), Some(below)) = (&mut export.what.base, &below) {
            base.file = Some(below.file.clone());
        }
        let target = Stream::File(path.clone());
        let output = match context.global.dry_run && !folder.exists() {
            // The folder would be made, and nothing is in it.
            true => Output::Pipe(Box::new(io::sink())),
            false => Output::File { path, overwrite: args.overwrite },
        };
        one(context, project, export, &target, output).await?;
        below = Some(link);
    }
    Ok(Exit::Success)
}

/// Exports one snapshot, or with `--dry-run` only finds out what that would be.
async fn one(
    context: &Context<'_>,
    project: &Project,
    export: Export,
    target: &Stream,
    output: Output,
) -> Result<()> {
    let (format, from) = (export.format.name(), export.from.as_ref().map(SnapshotEntry::name));
    let bar = Bar::new(context.ui, &export.snapshot.name(), WORDS, false);
    let (progress, cancel): (Arc<dyn Progress>, _) = (bar.clone(), context.cancel.clone());
    let report = match context.global.dry_run {
        true => export::plan(project, export, output, progress, cancel).await,
        false => export::run(project, export, output, progress, cancel).await,
    };
    bar.done();
    let (report, shown) = (report?, target.to_string());
    if report.dry_run {
        let ledger = project.repository().store().ledger();
        return plan::tell(context, &Planned::of(shown, format, from, &report), &ledger);
    }
    let summary = Summary { target: shown, format, from, report: &report };
    // Where standard output is the export, nothing else goes there.
    match target {
        Stream::Standard => context.ui.report_aside(&summary),
        Stream::File(_) => context.ui.report(&summary),
    }
}

impl<'a> Planned<'a> {
    fn of(target: String, format: &'static str, from: Option<String>, report: &'a RestoreReport) -> Self {
        Self {
            target,
            format,
            from,
            volume: &report.volume,
            sequence: report.sequence,
            snapshot_id: &report.snapshot_id,
            size_bytes: report.size_bytes,
            totals: report.totals,
        }
    }
}

impl Plan for Planned<'_> {
    fn told(&self) -> String {
        let Self { target, format, totals, .. } = self;
        let what = exported(self.volume, self.sequence, self.from.as_deref());
        let [size, fetch, zero, sealed] =
            [self.size_bytes, totals.fetch.bytes, totals.zero.bytes, totals.sealed_bytes].map(human::size);
        let objects = human::counted(totals.objects, "object");
        format!(
            "{what} ({size}) would be exported to {target} as {format}: {fetch} of data, {zero} zeroed; to download: {sealed} \
             in {objects}"
        )
    }
}

/// `vms/db@3 since vms/db@2`
fn exported(volume: &str, sequence: u32, from: Option<&str>) -> String {
    let since = from.map(|from| format!(" since {from}")).unwrap_or_default();
    printable(&format!("{volume}@{sequence}{since}"))
}

/// Says where a change leads that is not from an older to a newer state of one volume.
fn tell_direction(context: &Context<'_>, from: &SnapshotEntry, to: &SnapshotEntry) {
    let (before, after) = (printable(&from.name()), printable(&to.name()));
    let (old, new) = (&from.snapshot, &to.snapshot);
    let says = match old.sequence.cmp(&new.sequence) {
        _ if old.volume != new.volume => "a snapshot of another volume",
        Ordering::Greater => "newer",
        Ordering::Equal => "the same: it changes nothing",
        Ordering::Less => return,
    };
    context.ui.warn(&format!(
        "--from {before} is {says}: what is exported makes {after} of whatever holds {before}"
    ));
}

impl Report for Summary<'_> {
    fn summary(&self) -> String {
        let Self { target, format, from, report } = self;
        let what = exported(&report.volume, report.sequence, from.as_deref());
        let (size, time) = (human::size(report.size_bytes), human::duration(report.seconds));
        let [fetch, zero] = [report.totals.fetch, report.totals.zero].map(|share| human::size(share.bytes));
        let told = format!(
            "exported {what} ({size}) to {target} as {format} in {time}: {fetch} of data, {zero} zeroed"
        );
        lines([told, ledger_line(&report.ledger)])
    }
}
