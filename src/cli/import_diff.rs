//! `cuttle import-diff`: applies a diff to an image that is in the state for it.

use std::sync::Arc;

use serde::Serialize;

use cuttle::import::{ImportOptions, ImportReport, Input, import};
use cuttle::progress::Progress;
use cuttle::rbd::RbdSpec;
use cuttle::{Result, cpu};

use super::bar::{Bar, Words};
use super::connect;
use super::place::{self, Stream};
use super::report::{Report, lines};
use super::table::printable;
use super::{Context, Exit, human};

const WORDS: Words = Words { unit: "piece", new: "written", known: "", zero: "zeroed" };

const EXAMPLES: &str = "\
Does what rbd import-diff does, and looks first. Refused, with nothing written:
  - a file that is not whole and sane (one on standard input cannot be checked before)
  - an image without the snapshot that the diff is relative to, or with the one that it leads to
  - an image that was written to or resized since that snapshot: librbd says where, and what is there is compared
  - a full diff onto an image that holds data
  - an image that is open elsewhere

The snapshot that the diff leads to is made at the end, when all is written. Where an import was interrupted, the same
command with --discard-changes begins again.

Examples:
  cuttle import-diff monday.diff rbd:vms/db-copy
  cuttle import-diff -n monday.diff rbd:vms/db-copy        only look whether it could be applied
  cuttle export vms/db@12 - --format diff-v1 --from vms/db@11 | cuttle import-diff - rbd:vms/db-copy";

/// Apply an RBD diff to an image, and refuse an image in the wrong state
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The diff: a file, or - for standard input
    #[arg(value_parser = place::input)]
    file: Stream,
    /// The image: rbd:[POOL/[NAMESPACE/]]IMAGE
    #[arg(value_parser = place::image)]
    image: RbdSpec,
    /// Roll the image back where it was changed since the snapshot that the diff is relative to
    #[arg(long)]
    discard_changes: bool,
}

#[derive(Serialize)]
struct Summary<'a> {
    target: &'a str,
    #[serde(flatten)]
    report: &'a ImportReport,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let (file, spec) = (args.file.open()?, args.image);
    // What cannot be read twice is as good as a pipe.
    let input = match args.file != Stream::Standard && file.metadata().is_ok_and(|m| m.is_file()) {
        true => Input::File(file),
        false => Input::Pipe(Box::new(file)),
    };
    let cluster = connect::cluster(context).await?;
    let options = ImportOptions {
        discard_changes: args.discard_changes,
        dry_run: context.global.dry_run,
        ..ImportOptions::default()
    };
    let target = spec.to_string();
    let bar = Bar::new(context.ui, &target, WORDS, false);
    let (progress, cancel): (Arc<dyn Progress>, _) = (bar.clone(), context.cancel.clone());
    // Waited for even when it is to stop: it says what became of the image.
    let report = cpu::block(move || import(input, &cluster, &spec, options, &*progress, &cancel)).await;
    bar.done();
    context.ui.report(&Summary { target: &target, report: &report? })?;
    Ok(Exit::Success)
}

impl Report for Summary<'_> {
    fn summary(&self) -> String {
        let Self { target, report } = self;
        let name = |name: &Option<String>| name.as_deref().map_or_else(|| "-".to_owned(), printable);
        let (from, to, time) = (name(&report.from), name(&report.to), human::duration(report.seconds));
        let [data, zero] = [report.data, report.zero].map(|total| human::size(total.bytes));
        let was = if report.dry_run { "would be" } else { "were" };
        let discarded = match report.discarded_changes {
            true => format!("changes since {from} {was} discarded"),
            false => String::new(),
        };
        let told = match report.dry_run {
            true => format!("dry run: the diff from {from} to {to} can be applied to {target}"),
            false => format!(
                "imported the diff from {from} to {to} into {target} in {time}: {data} of data, {zero} zeroed"
            ),
        };
        lines([discarded, told])
    }
}
