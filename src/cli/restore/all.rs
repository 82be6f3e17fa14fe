//! Every volume of a project at once: after the loss of a cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};

use cuttle::error::io_error;
use cuttle::format::record::VolumeRecord;
use cuttle::plan::family::{Order, Point};
use cuttle::plan::placement::{self, Placed, Volume};
use cuttle::plan::selection::Glob;
use cuttle::plan::shard::Shard;
use cuttle::rbd::RbdSpec;
use cuttle::repo::Project;
use cuttle::repo::history::SnapshotEntry;
use cuttle::restore::INFLIGHT_BYTES_DEFAULT;
use cuttle::sink::rbd::{Keep, RESTORED, TAGS};
use cuttle::units::VolumeNumber;
use cuttle::{Error, ErrorKind, Result};

use super::WORDS;
use super::destination::Destination;
use super::family::{self, Found as Basis};
use super::report::{Gathered, Restored, Step, Told};
use super::work::{Ground, How, Reached, Task, Work};
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
    let project = connect::data(context).await?;
    let reach = reach(context, to).await?;
    let found = find(&project, &options.volumes).await?;
    let volumes: Vec<Volume<'_>> =
        found.snapshots.iter().map(|s| Volume { name: &s.volume_name, number: s.snapshot.volume }).collect();
    // A volume's name there may depend on what others there are, so all are placed, whoever restores them.
    let placed = placement::place(&volumes, to.naming());
    let is_ours = |name: &str| options.shard.is_none_or(|shard| shard.has(name));
    let (orders, passed) = match how.flatten || matches!(to, Destination::Folder(_)) {
        true => family::order(&project, &whole(&found.snapshots)).await?,
        false => family::order(&project, &found.snapshots).await?,
    };
    let roots: BTreeMap<_, _> =
        found.snapshots.iter().map(|s| (s.snapshot.volume, s.volume_name.as_str())).collect();
    // A family stays together, on one host.
    let root = |order: &Order, name| roots.get(&order.root).copied().unwrap_or(name);
    let mut ours = Vec::new();
    for ((snapshot, Placed { volume, name }), order) in found.snapshots.iter().zip(placed).zip(orders) {
        if is_ours(root(&order, volume)) {
            ours.push(Member { snapshot, order, reached: name.map(&reach) });
        }
    }
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
    let levels = ours.iter().map(|member| member.order.level + 1).max().unwrap_or(0);
    let mut parents = BTreeMap::new();
    for level in 0..levels {
        let (now, later) = ours.into_iter().partition(|member| member.order.level == level);
        ours = later;
        let (now, before): (Vec<Member<'_>>, _) = (now, &parents);
        let passed = &passed;
        let mut running = stream::iter(now)
            .map(|member| async move {
                let began = Instant::now();
                let (volume, number) = (&member.snapshot.volume_name, member.snapshot.snapshot.volume);
                let shown = member.reached.as_ref().map(ToString::to_string).unwrap_or_default();
                let family = Family { passed, parents: before };
                let fate = Fate::of(&context.cancel, restore(work, member, family, several)).await;
                (volume, number, shown, began.elapsed().as_secs_f64(), fate)
            })
            .buffer_unordered(options.jobs as usize);
        let mut done = Vec::new();
        while let Some((volume, number, target, seconds, fate)) = running.next().await {
            done.push((number, Parent::of(&target, &fate)));
            report.add(Told { volume, target: &target, seconds }, &fate)?;
        }
        drop(running);
        parents.extend(done);
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

/// A volume on its way.
struct Member<'a> {
    snapshot: &'a SnapshotEntry,
    order: Order,
    reached: Result<Reached>,
}

/// What became of a volume that clones may hang on.
struct Parent {
    spec: Option<RbdSpec>,
    failed: bool,
    /// Nothing was done, but it would be.
    planned: bool,
}

impl Parent {
    fn of(target: &str, fate: &Fate<Restored>) -> Self {
        let (failed, planned) = match fate {
            Fate::Done(Restored { report, .. }) => (false, report.as_ref().is_some_and(|r| r.dry_run)),
            _ => (true, false),
        };
        Self { spec: target.parse().ok(), failed, planned }
    }
}

/// What is known of those that were restored before.
#[derive(Clone, Copy)]
struct Family<'a> {
    /// The snapshots that clones hang on.
    passed: &'a BTreeMap<Point, SnapshotEntry>,
    parents: &'a BTreeMap<VolumeNumber, Parent>,
}

impl Family<'_> {
    /// What a volume's image is made of, which is `first` then.
    async fn ground(
        self,
        work: &Work<'_>,
        member: &Member<'_>,
        reached: &Reached,
        first: &SnapshotEntry,
    ) -> Result<Basis> {
        let origin = member
            .order
            .parent
            .and_then(|point| Some((self.passed.get(&point)?, self.parents.get(&point.0)?)));
        let Some((origin, parent)) = origin else { return family::ground(work, reached, first, None).await };
        if parent.failed {
            return Err(Error::conflict(format!(
                "{}, which it was cloned from, was not restored",
                origin.name()
            ))
            .help("run the command again once that can be restored, or restore this one whole: --flatten"));
        }
        let found = family::ground(work, reached, first, parent.spec.as_ref()).await?;
        if found.whole_because.is_none() || !parent.planned {
            return Ok(found);
        }
        let clone_of =
            parent.spec.as_ref().map(|spec| format!("{}@{}", spec.path(), family::kept_name(origin)));
        Ok(Basis {
            ground: Ground::Planned(Box::new(origin.snapshot.clone())),
            clone_of,
            whole_because: None,
        })
    }

    fn steps(self, member: &Member<'_>) -> Vec<SnapshotEntry> {
        let wanted = member.snapshot;
        let older =
            member.order.steps.iter().filter_map(|step| self.passed.get(&(wanted.snapshot.volume, *step)));
        let older = older.filter(|older| older.snapshot.sequence < wanted.snapshot.sequence);
        older.chain([wanted]).cloned().collect()
    }
}

/// The same without what they were cloned from.
fn whole(snapshots: &[SnapshotEntry]) -> Vec<SnapshotEntry> {
    let mut snapshots = snapshots.to_vec();
    snapshots.iter_mut().for_each(|s| s.snapshot.origin = None);
    snapshots
}

fn leave(snapshot: &SnapshotEntry) -> Vec<(&'static str, String)> {
    let mut leave = vec![(RESTORED, snapshot.snapshot_id.to_string())];
    if !snapshot.tags.is_empty() {
        leave.push((TAGS, snapshot.tags.join(",")));
    }
    leave
}

async fn restore(
    work: Work<'_>,
    mut member: Member<'_>,
    family: Family<'_>,
    several: bool,
) -> Result<Restored> {
    let reached = std::mem::replace(&mut member.reached, Err(Error::internal("restored twice")))?;
    let (snapshot, context) = (member.snapshot.clone(), work.context);
    let bar = Bar::new(context.ui, &snapshot.volume_name, WORDS, several);
    let mut restored = Restored {
        snapshot: snapshot.clone(),
        report: None,
        passed: Vec::new(),
        rbd_snapshot: None,
        clone_of: None,
        whole_because: None,
    };
    let done = async {
        // To overwrite means to be sure of the content; without it, what an earlier run finished is not touched again.
        if !work.how.overwrite && work.is_restored(&reached, &snapshot, bar.clone()).await? {
            return Ok(());
        }
        if let (Reached::File(path), false) = (&reached, context.global.dry_run) {
            let folder = path.parent().unwrap_or(path).to_owned();
            let make = move || {
                std::fs::create_dir_all(&folder)
                    .map_err(|e| io_error(format!("make the folder {}", folder.display()), e))
            };
            blocking(context, make).await?;
        }
        become_all(&work, &member, family, reached, &bar, &mut restored).await
    };
    let done = done.await;
    bar.done();
    done.map(|()| restored)
}

/// Makes the image what clones hang on, one after the other, with a snapshot of each, and in the end what is wanted. All along it is an
/// unfinished restore of that.
async fn become_all(
    work: &Work<'_>,
    member: &Member<'_>,
    family: Family<'_>,
    reached: Reached,
    bar: &Arc<Bar>,
    restored: &mut Restored,
) -> Result<()> {
    let (context, wanted) = (work.context, member.snapshot);
    let steps = family.steps(member);
    let first = steps.first().unwrap_or(wanted);
    let found = family.ground(work, member, &reached, first).await?;
    if let Some(why) = &found.whole_because {
        context.ui.remark(&format!("{}: restored whole: {why}", wanted.volume_name));
    }
    let (mut ground, mut clone_of) = (found.ground, found.clone_of);
    restored.whole_because = found.whole_because;
    for step in steps {
        let moves_on = step.snapshot.sequence < wanted.snapshot.sequence;
        if moves_on && family::is_kept(work, &reached, &step).await? {
            continue;
        }
        let name = (moves_on || member.order.keeps_last).then(|| family::kept_name(&step));
        let mut task = Task::new(reached.again()?, step.clone(), ground);
        task.ends_as = wanted.snapshot_id.to_string();
        let snapshot_id = step.snapshot_id.to_string();
        task.keep = name.clone().map(|name| Keep { name, snapshot_id, moves_on });
        if !moves_on {
            task.leave = leave(wanted);
        }
        let report = work.restore(task, Arc::clone(bar)).await?.report;
        ground = match context.global.dry_run {
            true => Ground::Planned(Box::new(step.snapshot.clone())),
            false => Ground::AsItIs,
        };
        match name.clone().filter(|_| moves_on) {
            Some(rbd_snapshot) => {
                restored.passed.push(Step {
                    snapshot: step,
                    report,
                    rbd_snapshot,
                    clone_of: clone_of.take(),
                });
            }
            None => {
                (restored.report, restored.rbd_snapshot, restored.clone_of) =
                    (Some(report), name, clone_of.take())
            }
        }
    }
    Ok(())
}
