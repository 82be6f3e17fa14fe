//! `cuttle restore`: brings a snapshot back, or the newest of every volume.

mod all;
mod destination;
mod family;
mod report;
mod work;

use serde::Serialize;

use cuttle::Result;
use cuttle::plan::restore as restore_plan;
use cuttle::restore::{INFLIGHT_BYTES_DEFAULT, RestoreReport};

use super::bar::{Bar, Words};
use super::connect;
use super::place::{self, Target};
use super::report::{Report, ledger_line, lines};
use super::table::{Column, printable, table};
use super::{Context, Exit, human, instant};
use family::Found;
pub use work::How;
use work::{Done, Reached, Task, Work};

const WORDS: Words = Words { unit: "chunk", new: "fetched", known: "kept", zero: "zero" };

const EXAMPLES: &str = "\
SNAPSHOT is VOLUME (its newest), VOLUME@latest, VOLUME@SEQ, VOLUME@SNAPNAME, or the first digits of an id.

TARGET is one of
  rbd:[POOL/[NAMESPACE/]]IMAGE    a new image, made as the one that was backed up, or with --overwrite an existing one
  PATH                            a new file, or with --overwrite an existing file or block device
  -                               standard output: the raw bytes

With --instant the image can be used within seconds, and Ceph copies the rest in the background. Holes stay holes.

Only what the target does not hold already is fetched. An image that still has the RBD snapshot of some backup is not read
to find that out: fast-diff tells what it changed since, the manifests tell the rest. A restore that was interrupted goes on where it was when the same
command is run again.

Examples:
  cuttle restore vms/db rbd:vms/db-restored
  cuttle restore vms/db@12 rbd:vms/db --overwrite      back to an older night, in place
  cuttle restore -n vms/db rbd:vms/db --overwrite      what that would fetch
  cuttle restore --instant vms/db rbd:vms/db           a new image that can be used at once, while it is copied
  cuttle restore --instant --history 7 vms/db rbd:vms/db     its last seven nights become RBD snapshots of it
  cuttle restore vms/db - | qemu-img convert -O qcow2 /dev/stdin db.qcow2
  cuttle restore --all --to rbd:newpool -n             every volume: what that would be
  cuttle restore --all --to rbd:newpool --volume 'vms/*' --jobs 8 --max-bandwidth 200MiB
  cuttle restore --all --to /mnt/disks/                as files: /mnt/disks/vms/db.raw

With --all the newest snapshot of each volume goes to an image that is named as the last part of the volume's name (vms/db
becomes newpool/db), or to a file DIR/VOLUME.raw. One that fails does not stop the others; then the exit code is 3. Run
again, it goes on: what is restored already is left as it is, and an image that is in use again is not touched. Such an image has the
metadata cuttle.restored, the snapshot's id, and cuttle.tags. With --overwrite all images are compared and made the same.";

/// Restore a snapshot to an RBD image, a file, a block device or standard output
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// What to restore
    #[arg(required_unless_present = "all")]
    snapshot: Option<String>,
    /// Where to: an image, the path of a file or block device, or - for standard output
    #[arg(required_unless_present = "all", value_parser = place::parse::<Target>)]
    target: Option<Target>,
    #[command(flatten)]
    all: all::AllArgs,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    instant: instant::Options,
}

#[derive(Serialize)]
struct Summary<'a> {
    target: String,
    /// The RBD snapshot that it was made a clone of.
    clone_of: Option<String>,
    /// Why a clone was restored whole.
    whole_because: Option<String>,
    /// Why all of an image was read to find out what it holds.
    not_rewound_because: Option<String>,
    #[serde(flatten)]
    report: &'a RestoreReport,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    match (args.snapshot, args.target) {
        (Some(snapshot), Some(target)) if args.instant.instant => {
            instant::run(context, &snapshot, target, &args.how, args.instant).await
        }
        (Some(snapshot), Some(target)) => one(context, &snapshot, target, args.how).await,
        _ => all::run(context, args.all, args.how).await,
    }
}

async fn one(context: &Context<'_>, snapshot: &str, target: Target, how: How) -> Result<Exit> {
    // Refused before anyone types a password.
    let reached = Reached::from(context, target.clone()).await?;
    let project = connect::data(context).await?;
    let snapshot = project.volumes().snapshot(snapshot).await?;
    let name = snapshot.name();
    let bar = Bar::new(context.ui, &name, WORDS, false);
    let work = Work { context, project: &project, how: &how, inflight_bytes: INFLIGHT_BYTES_DEFAULT };
    let Found { ground, clone_of, whole_because } = family::ground(&work, &reached, &snapshot, None).await?;
    if let Some(why) = &whole_because {
        context.ui.remark(&format!("{name}: restored whole: {why}"));
    }
    let task = Task::new(reached, snapshot, ground);
    let done = work.restore(task, bar.clone()).await;
    bar.done();
    let Done { mut report, not_rewound_because } = done?;
    // All that the command asked of the store, also to find the snapshot.
    report.ledger = project.repository().store().ledger();
    (report.requests, report.downloaded_bytes) = (report.ledger.requests(), report.ledger.downloaded_bytes);
    let target_name = target.to_string();
    let summary =
        Summary { target: target_name, clone_of, whole_because, not_rewound_because, report: &report };
    // Where standard output is the volume, nothing else goes there.
    match target == Target::Stdout && !report.dry_run {
        true => context.ui.report_aside(&summary)?,
        false => context.ui.report(&summary)?,
    }
    Ok(Exit::Success)
}

impl Report for Summary<'_> {
    fn summary(&self) -> String {
        let Self { target, report, .. } = self;
        let (totals, size) = (&report.totals, human::size(report.size_bytes));
        let from = printable(&format!("{}@{}", report.volume, report.sequence));
        let target = match &self.clone_of {
            Some(parent) => format!("{target}, a clone of {}", printable(parent)),
            None => target.clone(),
        };
        let told = if report.dry_run {
            let row = |what: &str, amount: restore_plan::Amount| {
                vec![what.to_owned(), human::count(amount.chunks), human::size(amount.bytes)]
            };
            let columns = [Column::Text("ACTION"), Column::Number("CHUNKS"), Column::Number("BYTES")];
            let rows = [row("keep", totals.keep), row("zero", totals.zero), row("fetch", totals.fetch)];
            let objects = human::counted(totals.objects, "object");
            lines([
                format!("dry run: {from} ({size}) to {target}; nothing was written"),
                table(&columns, rows),
                format!("to download: {} in {objects}", human::size(totals.sealed_bytes)),
            ])
        } else {
            let [fetch, zero, keep] = [totals.fetch, totals.zero, totals.keep].map(|s| human::size(s.bytes));
            let time = human::duration(report.seconds);
            let proved = report
                .verified_bytes
                .map(|bytes| format!("; re-read {} of {size}: it is the snapshot", human::size(bytes)));
            format!(
                "restored {from} ({size}) to {target} in {time}: {fetch} fetched, {zero} zeroed, {keep} left as it was{}",
                proved.unwrap_or_default()
            )
        };
        lines([told, ledger_line(&report.ledger)])
    }
}
