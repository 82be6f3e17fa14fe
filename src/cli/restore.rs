//! `cuttle restore`: brings a snapshot back.

use std::sync::Arc;

use serde::Serialize;

use cuttle::plan::restore as restore_plan;
use cuttle::progress::Progress;
use cuttle::rbd::{Cluster, RbdSpec};
use cuttle::repo::log::SnapshotEntry;
use cuttle::restore::{self, RestoreOptions, RestoreReport};
use cuttle::sink::pipe::PipeSink;
use cuttle::sink::raw_file::RawFileSink;
use cuttle::sink::rbd::{RbdSink, RestoreTarget};
use cuttle::sink::{Existing, Sink};
use cuttle::{Error, Result};

use super::bar::Words;
use super::connect::{self, blocking};
use super::place::{Place, standard_output};
use super::summary::ledger_line;
use super::table::{Column, printable, table};
use super::ui::json_text;
use super::{Context, Exit, human, instant};

const WORDS: Words = Words { unit: "chunk", new: "fetched", known: "kept", zero: "zero" };

const EXAMPLES: &str = "\
SNAPSHOT is VOLUME (its newest), VOLUME@latest, VOLUME@SEQ, VOLUME@SNAPNAME, or the first digits of an id.

TARGET is one of
  rbd:[POOL/[NAMESPACE/]]IMAGE    a new image, made as the one that was backed up, or with --overwrite an existing one
  PATH                            a new file, or with --overwrite an existing file or block device
  -                               standard output: the raw bytes

With --instant the image can be used within seconds, and Ceph copies the rest in the background. It copies holes as zeros: the pool
needs room for all of the volume, and `rbd sparsify` gives it back afterwards.

Only what the target does not hold already is fetched. A restore that was interrupted goes on where it was when the same
command is run again.

Examples:
  cuttle restore vms/db rbd:vms/db-restored
  cuttle restore vms/db@12 rbd:vms/db --overwrite      back to an older night, in place
  cuttle restore -n vms/db rbd:vms/db --overwrite      what that would fetch
  cuttle restore --instant vms/db rbd:vms/db           a new image that can be used at once, while it is copied
  cuttle restore --instant --history 7 vms/db rbd:vms/db     its last seven nights become RBD snapshots of it
  cuttle restore vms/db - | qemu-img convert -O qcow2 /dev/stdin db.qcow2

JSON: {\"message_type\":\"summary\",\"target\",\"volume\",\"sequence\",\"snapshot_id\",\"size_bytes\",\"dry_run\",\"keep\":{\"chunks\",\"bytes\"},
\"zero\":{…},\"fetch\":{…},\"fetches\",\"objects\",\"sealed_bytes\",\"downloaded_bytes\",\"requests\",\"ledger\":{…},\"seconds\"}, on standard
error where the target is -. With --instant: {\"message_type\":\"usable\",\"target\",\"address\",\"seconds\"}, then a summary with
\"history\":[{\"name\",\"sequence\"}] and \"usable_seconds\".";

/// Restore a snapshot to an RBD image, a file, a block device or standard output
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// What to restore
    snapshot: String,
    /// Where to
    target: String,
    /// Write into what is there already; what it holds is lost
    #[arg(long)]
    overwrite: bool,
    /// Fetch and write everything, without reading what the target holds; faster where that has little in common with the snapshot
    #[arg(long, requires = "overwrite")]
    no_compare: bool,
    /// Pool for the data of a new image, beside the one that holds the image
    #[arg(long, value_name = "POOL", hide_short_help = true)]
    data_pool: Option<String>,
    #[command(flatten)]
    instant: instant::Options,
}

#[derive(Serialize)]
struct Summary<'a> {
    message_type: &'static str,
    target: String,
    #[serde(flatten)]
    report: &'a RestoreReport,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let place = Place::parse(&args.target)?;
    if args.instant.instant {
        return instant::run(context, &args.snapshot, place, args.data_pool, args.instant).await;
    }
    // Refused before anyone types a password.
    let output = if place == Place::Stream { Some(standard_output()?) } else { None };
    let project = connect::project(context, false).await?;
    let snapshot = project.find_snapshot(&args.snapshot).await?;
    let cluster = match &place {
        Place::Rbd(_) => Some(connect::cluster(context).await?),
        _ => None,
    };
    let options = RestoreOptions { compare: !args.no_compare, ..RestoreOptions::default() };
    let target = Target { place: place.clone(), cluster, output, snapshot: snapshot.clone(), args };
    let bar = context.ui.progress(&name(&snapshot), WORDS, false);
    let (progress, cancel): (Arc<dyn Progress>, _) = (bar.clone(), context.cancel.clone());
    let report = match context.global.dry_run {
        true => {
            let existing = blocking(context, move || target.preview()).await?;
            restore::plan(&project, &snapshot, existing, options, progress, cancel).await
        }
        false => {
            let sink = blocking(context, move || target.open()).await?;
            restore::run(&project, &snapshot, sink, options, progress, cancel).await
        }
    };
    bar.done();
    let mut report = report?;
    // All that the command asked of the store, also to find the snapshot.
    report.ledger = project.repository().store().ledger();
    (report.requests, report.downloaded_bytes) = (report.ledger.requests(), report.ledger.downloaded_bytes);
    tell(context, &place, &report)?;
    Ok(Exit::Success)
}

/// `vms/db@14`
fn name(snapshot: &SnapshotEntry) -> String {
    format!("{}@{}", snapshot.volume_name, snapshot.snapshot.sequence)
}

/// Where a snapshot goes.
struct Target {
    place: Place,
    cluster: Option<Cluster>,
    output: Option<std::fs::File>,
    snapshot: SnapshotEntry,
    args: Args,
}

impl Target {
    fn size_bytes(&self) -> u64 {
        self.snapshot.snapshot.size_bytes
    }

    fn open(mut self) -> Result<Arc<dyn Sink>> {
        let size_bytes = self.size_bytes();
        Ok(match (&self.place, self.output.take()) {
            (Place::Rbd(spec), _) => Arc::new(self.image(spec, RbdSink::open)?),
            (Place::File(path), _) => Arc::new(RawFileSink::open(path, size_bytes, self.args.overwrite)?),
            (Place::Stream, Some(output)) => Arc::new(PipeSink::new(output, size_bytes)),
            (Place::Stream, None) => return Err(Error::internal("standard output is not open")),
        })
    }

    /// What opening it would find; changes nothing.
    fn preview(self) -> Result<Existing> {
        match &self.place {
            Place::Rbd(spec) => self.image(spec, RbdSink::preview),
            Place::File(path) => RawFileSink::preview(path, self.size_bytes(), self.args.overwrite),
            Place::Stream => Ok(Existing::Nothing),
        }
    }

    fn image<T>(
        &self,
        spec: &RbdSpec,
        open: impl FnOnce(&Cluster, &RbdSpec, &RestoreTarget<'_>) -> Result<T>,
    ) -> Result<T> {
        let cluster = self.cluster.as_ref().ok_or_else(|| Error::internal("an image without a cluster"))?;
        let target = RestoreTarget {
            size_bytes: self.size_bytes(),
            layout: &self.snapshot.snapshot.layout,
            mark: &self.snapshot.snapshot_id.to_string(),
            overwrite: self.args.overwrite,
            data_pool: self.args.data_pool.as_deref(),
        };
        open(cluster, spec, &target)
    }
}

fn tell(context: &Context<'_>, place: &Place, report: &RestoreReport) -> Result<()> {
    let ui = context.ui;
    // Where standard output is the volume, nothing else goes there.
    let stream = *place == Place::Stream && !report.dry_run;
    let show = |text: &str| {
        if stream {
            ui.line(text);
            return Ok(());
        }
        ui.print(text)
    };
    if ui.is_json() {
        return show(&json_text(&Summary { message_type: "summary", target: place.to_string(), report })?);
    }
    if !ui.is_talkative() {
        return Ok(());
    }
    let (totals, size) = (&report.totals, human::size(report.size_bytes));
    let from = printable(&format!("{}@{}", report.volume, report.sequence));
    if report.dry_run {
        let row = |what: &str, share: restore_plan::Share| {
            vec![what.to_owned(), human::count(share.chunks), human::size(share.bytes)]
        };
        let columns = [Column::Text("ACTION"), Column::Number("CHUNKS"), Column::Number("BYTES")];
        let rows = [row("keep", totals.keep), row("zero", totals.zero), row("fetch", totals.fetch)];
        show(&format!("dry run: {from} ({size}) to {place}; nothing was written"))?;
        show(&table(&columns, rows))?;
        let objects = human::counted(totals.objects, "object");
        show(&format!("to download: {} in {objects}", human::size(totals.sealed_bytes)))?;
    } else {
        let [fetch, zero, keep] = [totals.fetch, totals.zero, totals.keep].map(|s| human::size(s.bytes));
        let time = human::duration(report.seconds);
        show(&format!(
            "restored {from} ({size}) to {place} in {time}: {fetch} fetched, {zero} zeroed, {keep} left as it was"
        ))?;
    }
    show(&ledger_line(&report.ledger))
}
