//! `cuttle inspect`: what a diff or export holds, and whether it is whole.

use std::fs::File;
use std::path::PathBuf;

use serde::Serialize;

use cuttle::diff::inspect::{InspectedDiff, Inspection, Total, inspect};
use cuttle::diff::{DiffEvent, Limits};
use cuttle::error::io_error;
use cuttle::units::{Content, Extent};
use cuttle::{Error, Result};

use super::connect::blocking;
use super::place::standard_input;
use super::table::{Column, printable, table};
use super::ui::Ui;
use super::{Context, Exit, human};

const EXAMPLES: &str = "\
Reads all of it and keeps nothing, so a stream on standard input may be of any length. These streams have no checksum:
what is found is what breaks their rules, such as an end that is missing, extents that overlap or lie beyond the size,
unknown records. Ceph's own import looks for none of these. The message names the byte of the stream.

Exits with 1 where the stream is not whole and sane. Raw bytes and qcow2 files are recognised and not checked; for qcow2
there is qemu-img check.

Examples:
  cuttle inspect monday.diff
  rbd export-diff --from-snap a vms/db@b - | cuttle inspect -
  cuttle inspect --extents monday.diff

JSON: {\"message_type\":\"summary\",\"kind\",\"sane\",\"problem\",\"stream_bytes\",\"image\":{\"object_bytes\",\"features\",
\"stripe_unit_bytes\",\"stripe_count\",\"metadata\"},\"diff_count\",\"diffs\":[{\"from\",\"to\",\"protected\",\"size_bytes\",
\"data\":{\"extents\",\"bytes\"},\"zero\":{…}}],\"data\":{…},\"zero\":{…}}; with --extents before it a line for each:
{\"message_type\":\"extent\",\"diff\",\"offset\",\"length\",\"exists\"}.";

/// Show what an RBD diff or export holds, and whether it is whole and sane
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// A file, or - for standard input
    file: PathBuf,
    /// List all extents, in the stream's order
    #[arg(long)]
    extents: bool,
}

#[derive(Serialize)]
struct Summary<'a> {
    message_type: &'static str,
    #[serde(flatten)]
    found: &'a Inspection,
}

#[derive(Serialize)]
struct Listed {
    message_type: &'static str,
    diff: u64,
    offset: u64,
    length: u64,
    exists: bool,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    super::connect::refuse_dry_run(context, "inspect")?;
    let file = match args.file.to_str() {
        Some("-") => standard_input()?,
        _ => {
            let doing = || format!("open {}", args.file.display());
            let file = File::open(&args.file).map_err(|e| io_error(doing(), e))?;
            let metadata = file.metadata().map_err(|e| io_error(doing(), e))?;
            if metadata.is_dir() {
                return Err(Error::invalid(format!("{} is a folder: expected a file", args.file.display())));
            }
            file
        }
    };
    let (ui, cancel) = (context.ui.clone(), context.cancel.clone());
    let found = blocking(context, move || {
        let mut diffs: u64 = 0;
        inspect(file, Limits::default(), &mut |event| {
            cancel.check()?;
            match event {
                DiffEvent::Begin(_) => diffs += 1,
                DiffEvent::Extent(extent) if args.extents => list(&ui, diffs, extent)?,
                DiffEvent::Extent(_) => {}
            }
            Ok(())
        })
    })
    .await?;
    match context.ui.is_json() {
        true => context.ui.print_json(&Summary { message_type: "summary", found: &found })?,
        false => show(context.ui, &found)?,
    }
    Ok(if found.sane == Some(false) { Exit::Failure } else { Exit::Success })
}

fn list(ui: &Ui, diff: u64, extent: &Extent) -> Result<()> {
    let exists = extent.content == Content::Data;
    let (offset, length) = (extent.offset_bytes, extent.length_bytes);
    if ui.is_json() {
        return ui.print_json(&Listed { message_type: "extent", diff, offset, length, exists });
    }
    ui.print(&format!("{offset}  {length}  {}", if exists { "data" } else { "zero" }))
}

fn show(ui: &Ui, found: &Inspection) -> Result<()> {
    let bytes = format!("{} ({} bytes)", human::size(found.stream_bytes), human::count(found.stream_bytes));
    match (found.sane, &found.problem) {
        (None, _) => {
            ui.print(&format!("kind: {}; nothing was checked", found.kind))?;
        }
        (Some(true), _) => ui.print(&format!("kind: {}, whole and sane, {bytes}", found.kind))?,
        (Some(false), problem) => {
            ui.print(&format!("kind: {}, NOT sane, read {bytes}", found.kind))?;
            ui.print(&format!("problem: {}", printable(problem.as_deref().unwrap_or_default())))?;
        }
    }
    if let Some(image) = &found.image {
        let striping = match image.stripe_unit_bytes {
            0 => "not striped".to_owned(),
            unit => format!("striped by {} over {}", human::size(unit), image.stripe_count),
        };
        let object = human::size(image.object_bytes);
        ui.print(&format!("image: objects of {object}, features {}, {striping}", image.features))?;
        for (key, value) in &image.metadata {
            ui.print(&format!("metadata: {} = {}", printable(key), printable(value)))?;
        }
    }
    if found.diffs.is_empty() {
        return Ok(());
    }
    use Column::{Number, Text};
    let columns = [
        Text("FROM"),
        Text("TO"),
        Number("SIZE"),
        Number("DATA"),
        Number("EXTENTS"),
        Number("ZERO"),
        Number("EXTENTS"),
    ];
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    let numbers = |total: &Total| [human::size(total.bytes), human::count(total.extents)];
    let row = |diff: &InspectedDiff| {
        let names = [name(&diff.from), name(&diff.to), human::size(diff.size_bytes)];
        names.into_iter().chain(numbers(&diff.data)).chain(numbers(&diff.zero)).collect::<Vec<_>>()
    };
    ui.print(&table(&columns, found.diffs.iter().map(row)))?;
    let told = found.diffs.len() as u64;
    if found.sane == Some(true) && told < found.diff_count {
        ui.print(&format!("and {} more", human::counted(found.diff_count - told, "diff")))?;
    }
    Ok(())
}
