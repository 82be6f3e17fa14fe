//! Forgetting by policy: every volume for itself, then everything that nothing keeps.

use futures::{StreamExt, TryStreamExt, stream};

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::forget::{Fate, ForgetReport, Judged, carry_out};
use crate::format::record::VolumeRecord;
use crate::plan::retention::{Candidate, Decision, Policy, decide};
use crate::repo::Project;
use crate::repo::log::SnapshotEntry;

/// Volumes looked at once. Each holds its snapshots' root pages meanwhile, 48 KiB or less for each.
const VOLUMES_INFLIGHT_MAX: usize = 8;

/// Forgets what the policy does not keep; with `dry_run`, only says what that is.
///
/// A volume that has a damaged record keeps all it has, and is among the report's failures.
///
/// # Errors
/// A policy that keeps nothing or is for no volume that there is, a store that does not answer, an interruption.
pub async fn by_policy(
    project: &Project,
    policy: &Policy,
    dry_run: bool,
    cancel: Cancel,
) -> Result<ForgetReport> {
    policy.check()?;
    let before = project.repository().store.ledger();
    let catalog = project.confirmed_catalog().await?;
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
    let mut judged = stream::iter(volumes)
        .map(|volume| async move {
            stop.check()?;
            match project.all_snapshots(volume).await {
                Ok(snapshots) => Ok((volume, Ok(judge(policy, &snapshots)))),
                Err(e) if e.kind() == ErrorKind::Corrupt => Ok((volume, Err(e))),
                Err(e) => Err(e),
            }
        })
        .buffered(VOLUMES_INFLIGHT_MAX);
    while let Some((volume, judged)) = judged.try_next().await? {
        match judged {
            Ok(judged) => report.snapshots.extend(judged),
            Err(e) => report.failures.push((volume.name.clone(), e)),
        }
    }
    drop(judged);
    if !dry_run {
        carry_out(project, &mut report.snapshots, &cancel, || Fate::Kept).await?;
    }
    report.ledger = project.repository().store.ledger() - before;
    Ok(report)
}

/// What becomes of a volume's live snapshots, oldest first. Those that the policy is not for are left out.
fn judge(policy: &Policy, snapshots: &[SnapshotEntry]) -> Vec<Judged> {
    let candidates: Vec<Candidate> = snapshots.iter().map(candidate).collect();
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

/// What counts of a snapshot. Its writer's clock does not.
pub(super) fn candidate(entry: &SnapshotEntry) -> Candidate {
    Candidate {
        sequence: entry.snapshot.sequence,
        committed_unix_ms: entry.committed_unix_ms,
        protected: entry.protected,
        tags: entry.tags.clone(),
    }
}
