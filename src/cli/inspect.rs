//! `cuttle inspect`: what a diff or export holds, and whether it is whole.

use serde::Serialize;

use cuttle::Result;
use cuttle::diff::inspect::{InspectedDiff, Inspection, Total, inspect};
use cuttle::diff::{DiffEvent, Limits};
use cuttle::units::{Content, Extent};

use super::connect::blocking;
use super::place::{self, Stream};
use super::report::{Report, lines};
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
  cuttle inspect --extents monday.diff";

/// Show what an RBD diff or export holds, and whether it is whole and sane
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// A file, or - for standard input
    #[arg(value_parser = place::input)]
    file: Stream,
    /// List all extents, in the stream's order
    #[arg(long)]
    extents: bool,
}

#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    found: &'a Inspection,
}

#[derive(Serialize)]
struct Listed {
    diff: u64,
    offset: u64,
    length: u64,
    exists: bool,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let file = args.file.open()?;
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
    context.ui.report(&Summary { found: &found })?;
    Ok(if found.sane == Some(false) { Exit::Failure } else { Exit::Success })
}

fn list(ui: &Ui, diff: u64, extent: &Extent) -> Result<()> {
    let exists = extent.content == Content::Data;
    let (offset, length) = (extent.offset_bytes, extent.length_bytes);
    ui.report(&Listed { diff, offset, length, exists })
}

impl Report for Listed {
    const MESSAGE_TYPE: &'static str = "extent";

    fn answer(&self) -> String {
        format!("{}  {}  {}", self.offset, self.length, if self.exists { "data" } else { "zero" })
    }
}

impl Report for Summary<'_> {
    fn answer(&self) -> String {
        let found = self.found;
        let bytes =
            format!("{} ({} bytes)", human::size(found.stream_bytes), human::count(found.stream_bytes));
        let mut told = match (found.sane, &found.problem) {
            (None, _) => vec![format!("kind: {}; nothing was checked", found.kind)],
            (Some(true), _) => vec![format!("kind: {}, whole and sane, {bytes}", found.kind)],
            (Some(false), problem) => vec![
                format!("kind: {}, NOT sane, read {bytes}", found.kind),
                format!("problem: {}", printable(problem.as_deref().unwrap_or_default())),
            ],
        };
        if let Some(image) = &found.image {
            let striping = match image.stripe_unit_bytes {
                0 => "not striped".to_owned(),
                unit => format!("striped by {} over {}", human::size(unit), image.stripe_count),
            };
            let object = human::size(image.object_bytes);
            told.push(format!("image: objects of {object}, features {}, {striping}", image.features));
            let metadata = |(key, value): &(String, String)| {
                format!("metadata: {} = {}", printable(key), printable(value))
            };
            told.extend(image.metadata.iter().map(metadata));
        }
        if !found.diffs.is_empty() {
            told.push(diffs(&found.diffs));
        }
        let more = found.diff_count.saturating_sub(found.diffs.len() as u64);
        if found.sane == Some(true) && more > 0 && !found.diffs.is_empty() {
            told.push(format!("and {} more", human::counted(more, "diff")));
        }
        lines(told)
    }
}

fn diffs(diffs: &[InspectedDiff]) -> String {
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
    table(&columns, diffs.iter().map(row))
}
