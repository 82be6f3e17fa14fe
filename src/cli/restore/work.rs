//! One volume on its way to its target, alone or beside others.

use std::fs::File;
use std::sync::Arc;

use cuttle::progress::Progress;
use cuttle::rbd::{Cluster, RbdSpec};
use cuttle::repo::Project;
use cuttle::repo::history::SnapshotEntry;
use cuttle::restore::rewind::{self, Rewind};
use cuttle::restore::{self, RestoreOptions, RestoreReport};
use cuttle::sink::pipe::PipeSink;
use cuttle::sink::raw_file::RawFileSink;
use cuttle::sink::rbd::{RbdSink, RestoreTarget};
use cuttle::sink::{Existing, Sink};
use cuttle::source::rbd_head::RbdHead;
use cuttle::{Error, Result};

use crate::cli::Context;
use crate::cli::bar::Bar;
use crate::cli::connect::blocking;
use crate::cli::place::Place;

/// How volumes are restored, however many.
#[derive(Debug, Clone, clap::Args)]
pub struct How {
    /// Write into what is there already; what it holds is lost
    #[arg(long)]
    pub overwrite: bool,
    /// Fetch and write everything, without reading what the target holds; faster where that has little in common with the snapshot
    #[arg(long, requires = "overwrite")]
    no_compare: bool,
    /// Read all of an existing image, even where its own snapshots tell what it changed
    #[arg(long, conflicts_with = "no_compare")]
    no_rewind: bool,
    /// Read all of the target again, and compare it with the snapshot, before the restore counts as done
    #[arg(long)]
    verify: bool,
    /// Set the image's recorded configuration (`rbd config image`, metadata conf_…) on a new image
    #[arg(long, hide_short_help = true)]
    pub image_config: bool,
    /// Pool for the data of a new image, beside the one that holds the image
    #[arg(long, value_name = "POOL", hide_short_help = true)]
    pub data_pool: Option<String>,
}

/// What restores of one run share.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    pub context: &'a Context<'a>,
    pub project: &'a Project,
    pub how: &'a How,
    /// Memory for one volume.
    pub inflight_bytes: u64,
}

/// What was done, or would be.
pub struct Done {
    pub report: RestoreReport,
    /// Why all of an image was read to find out what it holds.
    pub not_rewound_because: Option<String>,
}

impl Work<'_> {
    fn options(&self) -> RestoreOptions {
        RestoreOptions {
            inflight_bytes: self.inflight_bytes,
            compare: !self.how.no_compare,
            verify: self.how.verify,
            ..RestoreOptions::default()
        }
    }

    /// Restores, or with `--dry-run` only finds out what that would be.
    pub async fn restore(&self, target: Target, bar: Arc<Bar>) -> Result<Done> {
        let Self { context, project, how, .. } = *self;
        let (compare, rewind) = (!how.no_compare, !how.no_rewind);
        let (snapshot, mut options) = (target.snapshot.clone(), self.options());
        let cluster = target.cluster.clone().filter(|_| compare && rewind);
        let head = Head { place: target.place.clone(), cluster };
        let (progress, cancel): (Arc<dyn Progress>, _) = (bar, context.cancel.clone());
        let mut not_rewound_because = None;
        let mut rewind = async |existing: &Existing, sink: Option<&Arc<dyn Sink>>| {
            let found = head.look(context, project, &snapshot, existing, sink).await?;
            Ok::<_, Error>(found.and_then(|found| found.map_err(|why| not_rewound_because = Some(why)).ok()))
        };
        let how = how.clone();
        let report = match context.global.dry_run {
            true => {
                let existing = blocking(context, move || target.preview(&how)).await?;
                options.rewind = rewind(&existing, None).await?;
                restore::plan(project, &snapshot, existing, options, progress, cancel).await?
            }
            false => {
                let sink = blocking(context, move || target.open(&how)).await?;
                options.rewind = rewind(&sink.existing(), Some(&sink)).await?;
                restore::run(project, &snapshot, sink, options, progress, cancel).await?
            }
        };
        Ok(Done { report, not_rewound_because })
    }

    /// Whether an earlier run has restored this very snapshot to the target: an image says so, a file is read.
    pub async fn is_restored(&self, target: &Target, bar: Arc<Bar>) -> Result<bool> {
        let (context, snapshot) = (self.context, target.snapshot.clone());
        match (&target.place, &target.cluster) {
            (Place::Rbd(spec), Some(cluster)) => {
                let (cluster, spec, id) = (cluster.clone(), spec.clone(), snapshot.snapshot_id.to_string());
                blocking(context, move || RbdSink::is_restored(&cluster, &spec, &id)).await
            }
            (Place::File(path), _) => {
                let size_bytes = snapshot.snapshot.size_bytes;
                if !std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == size_bytes) {
                    return Ok(false);
                }
                let path = path.clone();
                let existing =
                    blocking(context, move || RawFileSink::preview(&path, size_bytes, true)).await?;
                let (project, cancel) = (self.project, context.cancel.clone());
                let plan = restore::plan(project, &snapshot, existing, self.options(), bar, cancel).await?;
                Ok(plan.totals.keep.bytes == size_bytes)
            }
            _ => Ok(false),
        }
    }
}

/// What is known of a target without reading it, or why nothing is.
type Looked = Option<std::result::Result<Rewind, String>>;

/// An image that may know what it changed.
struct Head {
    place: Place,
    cluster: Option<Cluster>,
}

impl Head {
    /// What is known of the image without reading it. Where that is nothing, it is said why.
    async fn look(
        &self,
        context: &Context<'_>,
        project: &Project,
        snapshot: &SnapshotEntry,
        existing: &Existing,
        sink: Option<&Arc<dyn Sink>>,
    ) -> Result<Looked> {
        let (Place::Rbd(spec), Some(cluster), Existing::Content(_)) =
            (self.place.clone(), self.cluster.clone(), existing)
        else {
            return Ok(None);
        };
        let path = spec.path();
        let mut head = blocking(context, move || RbdHead::open(&cluster, &spec)).await?;
        if let Some(sink) = sink {
            let sink = Arc::clone(sink);
            head = head.to_be_written(move || sink.distrust());
        }
        let found = rewind::find(project, snapshot, Arc::new(head)).await?;
        match &found {
            Ok(found) => {
                if let Some(remark) = &found.since.remark {
                    context.ui.warn(&format!("{path}: {remark}"));
                }
                let point = found.base.point.as_ref().map_or("", |p| p.name.as_str());
                context.ui.remark(&format!("{path}: only what changed since its snapshot {point} is read"));
            }
            Err(why) => context.ui.remark(&format!("{path}: all of it is read and compared: {why}")),
        }
        Ok(Some(found))
    }
}

/// Where a snapshot goes.
pub struct Target {
    pub place: Place,
    /// Where it is an image.
    pub cluster: Option<Cluster>,
    /// Where it is standard output.
    pub output: Option<File>,
    pub snapshot: SnapshotEntry,
    /// What a finished restore leaves on an image, see [`RestoreTarget::leave`].
    pub leave: Vec<(&'static str, String)>,
}

impl Target {
    fn size_bytes(&self) -> u64 {
        self.snapshot.snapshot.size_bytes
    }

    fn open(mut self, how: &How) -> Result<Arc<dyn Sink>> {
        let size_bytes = self.size_bytes();
        Ok(match (&self.place, self.output.take()) {
            (Place::Rbd(spec), _) => Arc::new(self.image(spec, how, RbdSink::open)?),
            (Place::File(path), _) => Arc::new(RawFileSink::open(path, size_bytes, how.overwrite)?),
            (Place::Stream, Some(output)) => Arc::new(PipeSink::new(output, size_bytes)),
            (Place::Stream | Place::Command(_), _) => {
                return Err(Error::internal("standard output is not open"));
            }
        })
    }

    /// What opening it would find; changes nothing.
    fn preview(self, how: &How) -> Result<Existing> {
        match &self.place {
            Place::Rbd(spec) => self.image(spec, how, RbdSink::preview),
            Place::File(path) => RawFileSink::preview(path, self.size_bytes(), how.overwrite),
            Place::Stream | Place::Command(_) => Ok(Existing::Nothing),
        }
    }

    fn image<T>(
        &self,
        spec: &RbdSpec,
        how: &How,
        open: impl FnOnce(&Cluster, &RbdSpec, &RestoreTarget<'_>) -> Result<T>,
    ) -> Result<T> {
        let cluster = self.cluster.as_ref().ok_or_else(|| Error::internal("an image without a cluster"))?;
        let target = RestoreTarget {
            size_bytes: self.size_bytes(),
            layout: &self.snapshot.snapshot.layout,
            mark: &self.snapshot.snapshot_id.to_string(),
            overwrite: how.overwrite,
            data_pool: how.data_pool.as_deref(),
            image_config: how.image_config,
            leave: &self.leave,
        };
        open(cluster, spec, &target)
    }
}
