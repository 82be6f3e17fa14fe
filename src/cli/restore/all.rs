//! Every volume of a project at once: after the loss of a cluster.

use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};

use cuttle::error::io_error;
use cuttle::format::record::VolumeRecord;
use cuttle::plan::placement::{self, Placed, Volume};
use cuttle::plan::selection::Glob;
use cuttle::plan::shard::Shard;
use cuttle::repo::Project;
use cuttle::repo::history::SnapshotEntry;
use cuttle::restore::INFLIGHT_BYTES_DEFAULT;
use cuttle::sink::rbd::{RESTORED, TAGS};
use cuttle::{Error, ErrorKind, Result};

use super::WORDS;
use super::destination::Destination;
use super::report::{Gathered, Restored, Told};
use super::work::{How, Reached, Task, Work};
use crate::cli::bar::Bar;
use crate::cli::connect::{self, blocking};
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::cli::place;
use crate::cli::several::Fate;
use crate::cli::{Context, Exit};

/// Volumes at once unless told otherwise: while one is made, looked at or finished, the others fetch.
const JOBS_DEFAULT: u32 = 4;
const JOBS_MAX: i64 = 64;
/// Volumes share this, so that memory does not grow with `--jobs`.
const INFLIGHT_BYTES_ALL: u64 = INFLIGHT_BYTES_DEFAULT;
/// Volumes whose newest snapshots are looked for at once.
const LOOKS_INFLIGHT_MAX: usize = 16;

const HEADING: &str = "Everything";

#[derive(Debug, clap::Args)]
pub struct AllArgs {
    /// Restore every volume: the newest snapshot of each
    #[arg(long, requires = "to", conflicts_with_all = ["snapshot", "target", "instant"], help_heading = HEADING)]
    all: bool,
    /// Where all volumes go: rbd:POOL, rbd:POOL/NAMESPACE, or a folder, with a / in its path
    #[arg(long, value_name = "DESTINATION", value_parser = place::parse::<Destination>, requires = "all", conflicts_with = "snapshot", help_heading = HEADING)]
    to: Option<Destination>,
    /// Only volumes whose names match, such as 'vms/*'; may be repeated
    #[arg(long = "volume", value_name = "PATTERN", requires = "all", conflicts_with = "snapshot", help_heading = HEADING)]
    volumes: Vec<Glob>,
    /// Only volumes in the I-th of N shares, as `backup --shard` has them: for several hosts that share the work
    #[arg(long, value_name = "I/N", requires = "all", conflicts_with = "snapshot", help_heading = HEADING)]
    shard: Option<Shard>,
    /// Restore so many volumes at once
    #[arg(short, long, value_name = "N", default_value_t = JOBS_DEFAULT, requires = "all", conflicts_with = "snapshot", help_heading = HEADING)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=JOBS_MAX))]
    jobs: u32,
    /// Most that all of them receive per second, such as 50MiB; the same as --limit-download
    #[arg(long, value_name = "SIZE", value_parser = human::parse_size_nonzero, requires = "all", conflicts_with = "snapshot", help_heading = HEADING)]
    max_bandwidth: Option<u64>,
}

pub async fn run(context: &Context<'_>, options: AllArgs, how: How) -> Result<Exit> {
    let started = Instant::now();
    let to = options.to.as_ref().ok_or_else(|| Error::internal("--all without --to"))?;
    let mut global = context.global.clone();
    let limit = &mut global.repository.limit_download;
    *limit = options.max_bandwidth.into_iter().chain(*limit).min();
    let context = &Context { global: &global, ui: context.ui, cancel: context.cancel.clone() };
    let project = connect::project(context, false).await?;
    let reach = reach(context, to).await?;
    let found = find(&project, &options.volumes).await?;
    let volumes: Vec<Volume<'_>> =
        found.snapshots.iter().map(|s| Volume { name: &s.volume_name, number: s.snapshot.volume }).collect();
    // A volume's name there may depend on what others there are, so all are placed, whoever restores them.
    let placed = placement::place(&volumes, to.naming());
    let is_ours = |name: &str| options.shard.is_none_or(|shard| shard.has(name));
    let ours: Vec<_> =
        found.snapshots.iter().zip(placed).filter(|(snapshot, _)| is_ours(&snapshot.volume_name)).collect();
    let failed: Vec<_> = found.failed.into_iter().filter(|(name, _)| is_ours(name)).collect();
    let mut report = Gathered::new(context, to, ours.len() + failed.len());
    for name in found.without.iter().filter(|name| is_ours(name)) {
        report.without_snapshot(name)?;
    }
    for (name, failure) in failed {
        report.add(Told::only(&name), &Fate::Failed(failure))?;
    }
    let several = ours.len() > 1;
    let at_once = u64::from(options.jobs.max(1)).min(ours.len().max(1) as u64);
    let work = Work { context, project: &project, how: &how, inflight_bytes: INFLIGHT_BYTES_ALL / at_once };
    let mut running = stream::iter(ours)
        .map(|(snapshot, Placed { volume, name })| {
            let task = name.map(|name| task(reach(name), snapshot));
            async move {
                let began = Instant::now();
                let shown = task.as_ref().map(|task| task.reached.to_string()).unwrap_or_default();
                let fate = Fate::of(&context.cancel, async { restore(work, task?, several).await }).await;
                (volume, shown, began.elapsed().as_secs_f64(), fate)
            }
        })
        .buffer_unordered(options.jobs as usize);
    while let Some((volume, target, seconds, fate)) = running.next().await {
        report.add(Told { volume, target: &target, seconds }, &fate)?;
    }
    report.finish(project.repository().store().ledger(), started.elapsed())
}

/// Where a volume goes, by the name that it gets there.
type Reach = Box<dyn Fn(String) -> Reached>;

/// Connects where images are to be made: a cluster that lacks the pool or the namespace fails here, and not once per volume.
async fn reach(context: &Context<'_>, to: &Destination) -> Result<Reach> {
    let space = match to.clone() {
        Destination::Folder(folder) => return Ok(Box::new(move |name| Reached::File(folder.join(name)))),
        Destination::Pool(space) => space,
    };
    let cluster = connect::cluster(context).await?;
    let (at, wanted) = (cluster.clone(), space.clone());
    blocking(context, move || at.pool(&wanted.pool, &wanted.namespace).map(drop)).await?;
    Ok(Box::new(move |name| Reached::Image(cluster.clone(), space.image(name))))
}

/// What there is to restore.
struct Found {
    /// The newest of each volume, large ones first: the last to end is then a small one.
    snapshots: Vec<SnapshotEntry>,
    /// Volumes that have none.
    without: Vec<String>,
    /// Volumes whose records are damaged.
    failed: Vec<(String, Failure)>,
}

async fn find(project: &Project, patterns: &[Glob]) -> Result<Found> {
    let catalog = project.volumes().confirmed().await?;
    let wanted = |v: &&VolumeRecord| patterns.is_empty() || patterns.iter().any(|glob| glob.matches(&v.name));
    let volumes: Vec<&VolumeRecord> = catalog.entries().iter().filter(wanted).collect();
    let looked: Vec<_> = stream::iter(volumes)
        .map(|volume| async move {
            match project.history(volume).latest().await {
                Err(e) if e.kind() != ErrorKind::Corrupt => Err(e),
                found => Ok((volume.name.clone(), found)),
            }
        })
        .buffered(LOOKS_INFLIGHT_MAX)
        .try_collect()
        .await?;
    let mut found = Found { snapshots: Vec::new(), without: Vec::new(), failed: Vec::new() };
    for (name, snapshot) in looked {
        match snapshot {
            Ok(Some(snapshot)) => found.snapshots.push(snapshot),
            Ok(None) => found.without.push(name),
            Err(e) => found.failed.push((name, Failure::from(&e))),
        }
    }
    if found.snapshots.is_empty() && found.failed.is_empty() {
        return Err(Error::not_found("there is no snapshot of any volume that is meant")
            .help("see `cuttle snapshots` for all there are; look at --project and --volume"));
    }
    found.snapshots.sort_by(|a, b| {
        b.snapshot.size_bytes.cmp(&a.snapshot.size_bytes).then_with(|| a.volume_name.cmp(&b.volume_name))
    });
    Ok(found)
}

fn task(reached: Reached, snapshot: &SnapshotEntry) -> Task {
    let mut leave = vec![(RESTORED, snapshot.snapshot_id.to_string())];
    if !snapshot.tags.is_empty() {
        leave.push((TAGS, snapshot.tags.join(",")));
    }
    Task { reached, snapshot: snapshot.clone(), leave }
}

async fn restore(work: Work<'_>, task: Task, several: bool) -> Result<Restored> {
    let (snapshot, context) = (task.snapshot.clone(), work.context);
    let bar = Bar::new(context.ui, &snapshot.volume_name, WORDS, several);
    let done = async {
        // To overwrite means to be sure of the content; without it, what an earlier run finished is not touched again.
        if !work.how.overwrite && work.is_restored(&task, bar.clone()).await? {
            return Ok(None);
        }
        if let (Reached::File(path), false) = (&task.reached, context.global.dry_run) {
            let folder = path.parent().unwrap_or(path).to_owned();
            let make = move || {
                std::fs::create_dir_all(&folder)
                    .map_err(|e| io_error(format!("make the folder {}", folder.display()), e))
            };
            blocking(context, make).await?;
        }
        work.restore(task, Arc::clone(&bar)).await.map(|done| Some(done.report))
    };
    let done = done.await;
    bar.done();
    Ok(Restored { report: done?, snapshot })
}
