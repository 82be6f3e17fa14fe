//! One volume on its way to its target, alone or beside others.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use cuttle::format::record::Snapshot;
use cuttle::progress::Progress;
use cuttle::rbd::{Cluster, RbdSpec};
use cuttle::repo::Project;
use cuttle::repo::history::SnapshotEntry;
use cuttle::restore::rewind::{self, Rewind};
use cuttle::restore::{self, RestoreOptions, RestoreReport};
use cuttle::sink::pipe::PipeSink;
use cuttle::sink::raw_file::RawFileSink;
use cuttle::sink::rbd::{Keep, RbdSink, RestoreTarget};
use cuttle::sink::{Existing, Sink};
use cuttle::source::rbd_head::RbdHead;
use cuttle::source::rbd_held::Held;
use cuttle::{Error, Result};

use crate::cli::Context;
use crate::cli::bar::Bar;
use crate::cli::connect::{self, blocking};
use crate::cli::place::{Target, standard_output};

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
    /// Restore clones whole, and not as clones of what they were cloned from
    #[arg(long)]
    pub flatten: bool,
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
    pub async fn restore(&self, task: Task, bar: Arc<Bar>) -> Result<Done> {
        let Self { context, project, how, .. } = *self;
        let (compare, rewind) = (!how.no_compare, !how.no_rewind);
        let (snapshot, mut options) = (task.snapshot.clone(), self.options());
        let head = match &task.reached {
            Reached::Image(cluster, spec) if compare && rewind => Some((cluster.clone(), spec.clone())),
            _ => None,
        };
        let head = Head { image: head };
        let (progress, cancel): (Arc<dyn Progress>, _) = (bar, context.cancel.clone());
        let mut not_rewound_because = None;
        let mut rewind = async |existing: &Existing, sink: Option<&Arc<dyn Sink>>| {
            let found = head.look(context, project, &snapshot, existing, sink).await?;
            Ok::<_, Error>(found.and_then(|found| found.map_err(|why| not_rewound_because = Some(why)).ok()))
        };
        let how = how.clone();
        options.holds = task.holds();
        let report = match context.global.dry_run {
            true => {
                let existing = blocking(context, move || task.preview(&how)).await?;
                options.rewind = rewind(&existing, None).await?;
                restore::plan(project, &snapshot, existing, options, progress, cancel).await?
            }
            false => {
                let sink = blocking(context, move || task.open(&how)).await?;
                options.rewind = rewind(&sink.existing(), Some(&sink)).await?;
                restore::run(project, &snapshot, sink, options, progress, cancel).await?
            }
        };
        Ok(Done { report, not_rewound_because })
    }

    /// Whether an earlier run has restored this very snapshot to the target: an image says so, a file is read.
    pub async fn is_restored(
        &self,
        reached: &Reached,
        snapshot: &SnapshotEntry,
        bar: Arc<Bar>,
    ) -> Result<bool> {
        let context = self.context;
        match reached {
            Reached::Image(cluster, spec) => {
                let (cluster, spec, id) = (cluster.clone(), spec.clone(), snapshot.snapshot_id.to_string());
                blocking(context, move || RbdSink::is_restored(&cluster, &spec, &id)).await
            }
            Reached::File(path) => {
                let size_bytes = snapshot.snapshot.size_bytes;
                if !std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == size_bytes) {
                    return Ok(false);
                }
                let path = path.clone();
                let existing =
                    blocking(context, move || RawFileSink::preview(&path, size_bytes, true)).await?;
                let (project, cancel) = (self.project, context.cancel.clone());
                let plan = restore::plan(project, snapshot, existing, self.options(), bar, cancel).await?;
                Ok(plan.totals.keep.bytes == size_bytes)
            }
            Reached::Stdout(_) => Ok(false),
        }
    }
}

/// What is known of a target without reading it, or why nothing is.
type Looked = Option<std::result::Result<Rewind, String>>;

/// An image that may know what it changed.
struct Head {
    image: Option<(Cluster, RbdSpec)>,
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
        let (Some((cluster, spec)), Existing::Content(_)) = (self.image.clone(), existing) else {
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

/// Where a snapshot goes, with what it is reached by.
pub enum Reached {
    Image(Cluster, RbdSpec),
    File(PathBuf),
    Stdout(Box<dyn Write + Send>),
}

impl Reached {
    /// Connects where the target is an image, and opens standard output unless nothing will be written.
    pub async fn from(context: &Context<'_>, target: Target) -> Result<Self> {
        Ok(match target {
            Target::Image(spec) => Self::Image(connect::cluster(context).await?, spec),
            Target::File(path) => Self::File(path),
            Target::Stdout if context.global.dry_run => Self::Stdout(Box::new(io::sink())),
            Target::Stdout => Self::Stdout(Box::new(standard_output(context.ui)?)),
        })
    }
}

impl Reached {
    /// The same once more; standard output is written once.
    pub fn again(&self) -> Result<Self> {
        match self {
            Self::Image(cluster, spec) => Ok(Self::Image(cluster.clone(), spec.clone())),
            Self::File(path) => Ok(Self::File(path.clone())),
            Self::Stdout(_) => Err(Error::internal("standard output for several snapshots")),
        }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(_, spec) => spec.fmt(f),
            Self::File(path) => path.display().fmt(f),
            Self::Stdout(_) => f.write_str("-"),
        }
    }
}

/// What a target is, before anything of the snapshot is written to it.
#[derive(Clone)]
pub enum Ground {
    /// What is there, or nothing.
    AsItIs,
    /// A new image is made a clone of this, which is that snapshot.
    Clone(Box<Held>, Box<Snapshot>),
    /// What this very run will have made by then, which holds that snapshot: only where nothing is done.
    Planned(Box<Snapshot>),
}

/// A snapshot, and where it goes.
pub struct Task {
    pub reached: Reached,
    pub snapshot: SnapshotEntry,
    /// What a finished restore leaves on an image, see [`RestoreTarget::leave`].
    pub leave: Vec<(&'static str, String)>,
    pub ground: Ground,
    /// The snapshot that the image ends as, in hexadecimal digits: by this a run knows its image again.
    pub ends_as: String,
    /// The RBD snapshot that is made of it when all is there.
    pub keep: Option<Keep>,
}

impl Task {
    /// A snapshot that is all the image becomes.
    pub fn new(reached: Reached, snapshot: SnapshotEntry, ground: Ground) -> Self {
        let ends_as = snapshot.snapshot_id.to_string();
        Self { reached, snapshot, leave: Vec::new(), ground, ends_as, keep: None }
    }

    fn holds(&self) -> Option<Snapshot> {
        match &self.ground {
            Ground::AsItIs => None,
            Ground::Clone(_, holds) | Ground::Planned(holds) => Some((**holds).clone()),
        }
    }

    fn size_bytes(&self) -> u64 {
        self.snapshot.snapshot.size_bytes
    }

    fn open(self, how: &How) -> Result<Arc<dyn Sink>> {
        let size_bytes = self.size_bytes();
        Ok(match self.reached {
            Reached::Image(ref cluster, ref spec) => {
                Arc::new(RbdSink::open(cluster, spec, &self.image(how))?)
            }
            Reached::File(path) => Arc::new(RawFileSink::open(&path, size_bytes, how.overwrite)?),
            Reached::Stdout(output) => Arc::new(PipeSink::new(output, size_bytes)),
        })
    }

    /// What opening it would find; changes nothing.
    fn preview(self, how: &How) -> Result<Existing> {
        match (&self.reached, &self.ground) {
            (_, Ground::Planned(_)) => return Ok(Existing::Backup(None)),
            (Reached::Image(cluster, spec), Ground::Clone(..)) if RbdSink::is_absent(cluster, spec)? => {
                return Ok(Existing::Backup(None));
            }
            _ => {}
        }
        match &self.reached {
            Reached::Image(cluster, spec) => RbdSink::preview(cluster, spec, &self.image(how)),
            Reached::File(path) => RawFileSink::preview(path, self.size_bytes(), how.overwrite),
            Reached::Stdout(_) => Ok(Existing::Nothing),
        }
    }

    fn image<'a>(&'a self, how: &'a How) -> RestoreTarget<'a> {
        RestoreTarget {
            size_bytes: self.size_bytes(),
            layout: &self.snapshot.snapshot.layout,
            mark: &self.ends_as,
            overwrite: how.overwrite,
            data_pool: how.data_pool.as_deref(),
            image_config: how.image_config,
            leave: &self.leave,
            origin: match &self.ground {
                Ground::Clone(held, _) => Some(held),
                _ => None,
            },
            keep: self.keep.clone(),
        }
    }
}
