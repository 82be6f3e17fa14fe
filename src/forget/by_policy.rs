//! Forgetting by policy: every volume for itself, then everything that nothing keeps.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::forget::{Fate, ForgetReport, Judged, carry_out};
use crate::format::record::VolumeRecord;
use crate::plan::family::Point;
use crate::plan::retention::{Candidate, Decision, Policy, decide, origins};
use crate::plan::times::{Contradiction, Timed, Times, contradictions, may_be_in_the_future};
use crate::repo::Keeper;
use crate::repo::catalog::Catalog;
use crate::repo::history::SnapshotEntry;

/// Volumes looked at once. Each holds its snapshots' root pages meanwhile, 48 KiB or less for each.
const VOLUMES_INFLIGHT_MAX: usize = 8;
/// Snapshots that are named in one message.
const NAMED_MAX: usize = 8;
/// Where an object is made to learn what time the store has.
const PROBE_PREFIX: &str = "probe";

/// Forgets what the policy does not keep; with `dry_run`, only says what that is.
///
/// A volume that has a damaged record, or times that contradict each other, keeps all it has, and is among the report's failures.
///
/// # Errors
/// A policy that keeps nothing or is for no volume that there is, a store that does not answer, an interruption.
pub async fn by_policy(
    project: &Keeper,
    policy: &Policy,
    dry_run: bool,
    cancel: Cancel,
) -> Result<ForgetReport> {
    policy.check()?;
    let before = project.repository().store().ledger();
    let catalog = project.volumes().confirmed().await?;
    let mut volumes: Vec<&VolumeRecord> =
        catalog.entries().iter().filter(|v| policy.is_for_volume(&v.name)).collect();
    if volumes.is_empty() && !policy.volumes.is_empty() {
        let patterns: Vec<String> =
            policy.volumes.iter().map(|glob| format!("{:?}", glob.to_string())).collect();
        return Err(Error::not_found(format!("no volume matches {}", patterns.join(" or ")))
            .help("see `cuttle snapshots` for all volumes"));
    }
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let mut report = ForgetReport::new(project, dry_run);
    let stop = &cancel;
    let mut hanging = Hanging::default();
    let mut judged = stream::iter(volumes)
        .map(|volume| async move {
            stop.check()?;
            match project.history(volume).all().await {
                Ok(snapshots) => {
                    let hanging = Hanging::of(&snapshots);
                    match believed(project, policy.times, &snapshots, dry_run).await? {
                        Ok(()) => Ok((volume, hanging, Ok(judge(policy, &snapshots)))),
                        Err(e) => Ok((volume, hanging, Err(e))),
                    }
                }
                Err(e) if e.kind() == ErrorKind::Corrupt => Ok((volume, Hanging::default(), Err(e))),
                Err(e) => Err(e),
            }
        })
        .buffered(VOLUMES_INFLIGHT_MAX);
    while let Some((volume, found, judged)) = judged.try_next().await? {
        hanging.add(found);
        match judged {
            Ok(judged) => report.snapshots.extend(judged),
            Err(e) => report.failures.push((volume.name.clone(), e)),
        }
    }
    drop(judged);
    let going: BTreeSet<Point> = report.snapshots.iter().filter(|j| goes(j)).map(Judged::point).collect();
    if !hanging.others.is_disjoint(&going) {
        for volume in catalog.entries().iter().filter(|v| !policy.is_for_volume(&v.name)) {
            cancel.check()?;
            match project.history(volume).all().await {
                Ok(snapshots) => hanging.add(Hanging::of(&snapshots)),
                // What its damaged record hung on is not known; without that, it comes back whole.
                Err(e) if e.kind() == ErrorKind::Corrupt => report.failures.push((volume.name.clone(), e)),
                Err(e) => return Err(e),
            }
        }
    }
    keep_origins(&mut report.snapshots, &going, &hanging, &catalog);
    if !dry_run {
        carry_out(project, &mut report.snapshots, &cancel, || Fate::Kept).await?;
    }
    report.ledger = project.repository().store().ledger() - before;
    Ok(report)
}

fn goes(judged: &Judged) -> bool {
    matches!(judged.fate, Fate::Forgotten)
}

/// Which live snapshots hang on which.
#[derive(Default)]
struct Hanging {
    origins: BTreeMap<Point, Point>,
    /// Those that were read from a snapshot which others made: what clones of other volumes may hang on. Of cuttle's own, which goes once
    /// the next is there, nobody makes clones.
    others: BTreeSet<Point>,
}

impl Hanging {
    fn of(snapshots: &[SnapshotEntry]) -> Self {
        let at = |entry: &SnapshotEntry| (entry.snapshot.volume, entry.snapshot.sequence);
        let origin = |entry: &SnapshotEntry| {
            let origin = entry.snapshot.origin.as_ref()?;
            Some((at(entry), (origin.volume, origin.sequence)))
        };
        let is_others = |entry: &&SnapshotEntry| {
            entry.snapshot.point.as_ref().is_some_and(|point| !point.own && point.rbd_snap_id != 0)
        };
        Self {
            origins: snapshots.iter().filter_map(origin).collect(),
            others: snapshots.iter().filter(is_others).map(at).collect(),
        }
    }

    fn add(&mut self, mut other: Self) {
        self.origins.append(&mut other.origins);
        self.others.append(&mut other.others);
    }
}

/// What clones that stay hang on stays, too.
fn keep_origins(snapshots: &mut [Judged], going: &BTreeSet<Point>, hanging: &Hanging, catalog: &Catalog) {
    let kept = origins::hung_on(going, &hanging.origins);
    for judged in snapshots.iter_mut() {
        let Some((volume, sequence)) = kept.get(&judged.point()) else { continue };
        let name = catalog.by_number(*volume).map_or_else(|| volume.0.to_string(), |v| v.name.clone());
        (judged.fate, judged.reasons) = (Fate::Kept, vec![format!("origin of {name}@{sequence}")]);
    }
}

/// What becomes of a volume's live snapshots, oldest first. Those that the policy is not for are left out.
fn judge(policy: &Policy, snapshots: &[SnapshotEntry]) -> Vec<Judged> {
    let candidates: Vec<Candidate> = snapshots.iter().map(|entry| candidate(entry, policy.times)).collect();
    let judged =
        snapshots.iter().zip(decide(policy, &candidates)).filter_map(|(entry, decision)| match decision {
            Decision::Unselected => None,
            Decision::Keep(reasons) => {
                Some(Judged::new(entry, Fate::Kept, reasons.iter().map(ToString::to_string).collect()))
            }
            Decision::Forget => Some(Judged::new(entry, Fate::Forgotten, Vec::new())),
        });
    let mut judged: Vec<Judged> = judged.collect();
    judged.sort_by_key(|j| (j.committed_unix_ms, j.noted.sequence));
    judged
}

/// Whether a volume's times can be relied on. A dry run, which makes no object, takes this host's clock for the store's.
async fn believed(
    project: &Keeper,
    times: Times,
    snapshots: &[SnapshotEntry],
    dry_run: bool,
) -> Result<Result<()>> {
    if times != Times::Checked {
        return Ok(Ok(()));
    }
    let all: Vec<Timed> = snapshots.iter().map(timed).collect();
    let host_now_unix_ms = project.repository().environment.clock.now_unix_ms();
    let now_unix_ms = match may_be_in_the_future(&all, host_now_unix_ms) {
        true if !dry_run => Some(project.store().now_unix_ms(PROBE_PREFIX).await?),
        true => Some(host_now_unix_ms),
        false => None,
    };
    let found = contradictions(&all, now_unix_ms);
    let Some((first, what)) = found.first() else { return Ok(Ok(())) };
    let volume = snapshots.first().map_or("", |s| s.volume_name.as_str());
    let named: Vec<String> =
        found.iter().take(NAMED_MAX).map(|(s, _)| format!("{volume}@{}", s.sequence)).collect();
    let more = match found.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (store, sealed) = (time_text(first.committed_unix_ms), time_text(first.started_unix_ms));
    let why = match what {
        Contradiction::Apart => format!("the store says {store}, its writer {sealed}"),
        Contradiction::Future => format!("the store says {store}, and it is not so late yet"),
        Contradiction::BeforeOlder(older) => {
            format!("the store says {store}, long before the older {volume}@{older}")
        }
    };
    Ok(Err(Error::conflict(format!(
        "the times of {}{more} cannot be relied on, so nothing is forgotten: of {}@{} {why}",
        named.join(", "),
        volume,
        first.sequence
    ))
    .help(
        "a copied repository has the times of the copy: go on with --times sealed, which takes those that the backups' hosts \
         wrote down; or with --times store, if the store is right and the hosts' clocks were wrong. See `cuttle snapshots`",
    )))
}

fn timed(entry: &SnapshotEntry) -> Timed {
    Timed {
        sequence: entry.snapshot.sequence,
        committed_unix_ms: entry.committed_unix_ms,
        started_unix_ms: entry.snapshot.started_unix_ms,
    }
}

fn time_text(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{unix_ms} ms"), |time| time.strftime("%Y-%m-%d %H:%M").to_string())
}

/// What counts of a snapshot. Its writer's clock does not, unless that is asked for.
pub(super) fn candidate(entry: &SnapshotEntry, times: Times) -> Candidate {
    Candidate {
        sequence: entry.snapshot.sequence,
        committed_unix_ms: timed(entry).at(times),
        protected: entry.protected,
        tags: entry.tags.clone(),
    }
}
