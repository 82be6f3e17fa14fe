//! Parents before their clones, and what clones hang on before all: then the first backup of a clone costs what it has of its own.

use std::collections::BTreeMap;

use cuttle::rbd::{Cluster, RbdSpec};
use cuttle::repo::{Writer, origin};
use cuttle::source::rbd::RbdVolume;
use cuttle::source::{ClonedFrom, Volume};
use cuttle::volume::Identity;
use cuttle::{Error, Result};
use futures::{StreamExt, stream};

use super::sources::{Job, Reached};
use crate::cli::Context;
use crate::cli::connect::blocking;

/// Images asked at once.
const ASKED_AT_ONCE: usize = 8;
/// Clones of clones: librbd allows 16 above one another.
const LEVELS_MAX: usize = 16;

/// What is known of one image.
struct Kin {
    /// Cluster and image id.
    image: (String, String),
    cloned_from: Option<((String, String), u64)>,
    /// Whether it has no backup yet.
    is_new: bool,
}

/// Says of each job after how many others it comes, and which snapshots of it are backed up first. One that cannot be asked is left to
/// its own backup, which says why.
pub async fn order(context: &Context<'_>, project: &Writer, jobs: &mut [Job]) -> Result<()> {
    let asked = stream::iter(jobs.iter())
        .map(|job| async move {
            let Reached::Image(cluster, spec) = &job.reached else { return None };
            let volume = found(context, cluster, spec.clone()).await.ok()?;
            let (identity, descent) =
                blocking(context, move || Ok((volume.identity()?, volume.descent()?))).await.ok()?;
            let cloned_from = descent
                .cloned_from
                .and_then(|ClonedFrom { image, rbd_snap_id }| Some((key(&image)?, rbd_snap_id)));
            Some((key(&identity)?, cloned_from))
        })
        .buffered(ASKED_AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    context.cancel.check()?;
    let mut kin = Vec::with_capacity(jobs.len());
    for (job, asked) in jobs.iter().zip(asked) {
        kin.push(match asked {
            Some((image, cloned_from)) => {
                // Only of what is no clone nobody need know.
                let is_new = cloned_from.is_some() && !project.volumes().has(&job.volume).await?;
                Some(Kin { image, cloned_from, is_new })
            }
            None => None,
        });
    }
    let names: Vec<String> = jobs.iter().map(|job| job.source.clone()).collect();
    for (job, Place { level, origins, parent }) in jobs.iter_mut().zip(ordered(&kin)) {
        (job.level, job.origins) = (level, origins);
        job.parent = parent.and_then(|at| names.get(at).cloned());
    }
    Ok(())
}

/// When an image's turn is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    level: usize,
    /// Which of its snapshots new clones hang on.
    origins: Vec<u64>,
    /// Of a new clone: which of the images its parent is.
    parent: Option<usize>,
}

/// Pure.
fn ordered(kin: &[Option<Kin>]) -> Vec<Place> {
    let by_image: BTreeMap<_, usize> =
        kin.iter().enumerate().filter_map(|(at, kin)| Some((&kin.as_ref()?.image, at))).collect();
    let above = |at: usize| {
        let (image, id) = kin[at].as_ref()?.cloned_from.as_ref()?;
        Some((*by_image.get(image)?, *id))
    };
    let mut out = vec![Place::default(); kin.len()];
    for at in 0..kin.len() {
        let mut up = above(at);
        while let Some((parent, _)) = up
            && out[at].level < LEVELS_MAX
        {
            out[at].level += 1;
            up = above(parent);
        }
        if let (Some((parent, id)), Some(Kin { is_new: true, .. })) = (above(at), &kin[at]) {
            out[at].parent = Some(parent);
            if !out[parent].origins.contains(&id) {
                out[parent].origins.push(id);
            }
        }
    }
    out
}

/// The snapshots of an image that are to be backed up before it. One that is in the trash has no name to be read by: its clones are read
/// as a whole.
pub async fn due(context: &Context<'_>, project: &Writer, job: &Job) -> Result<Vec<Job>> {
    let (Reached::Image(cluster, spec), false) = (&job.reached, job.origins.is_empty()) else {
        return Ok(Vec::new());
    };
    let volume = found(context, cluster, spec.clone()).await?;
    let (identity, snapshots) =
        blocking(context, move || Ok((volume.identity()?, volume.snapshots()?))).await?;
    let mut due = Vec::new();
    for snapshot in snapshots.into_iter().filter(|snapshot| job.origins.contains(&snapshot.id)) {
        if origin::listed(project, &identity, snapshot.id).await?.is_none() {
            let spec = RbdSpec { snapshot: Some(snapshot.name), ..spec.clone() };
            due.push(Job {
                source: spec.to_string(),
                volume: job.volume.clone(),
                reached: Reached::Image(cluster.clone(), spec),
                level: job.level,
                origins: Vec::new(),
                parent: None,
            });
        }
    }
    Ok(due)
}

async fn found(context: &Context<'_>, cluster: &Cluster, spec: RbdSpec) -> Result<RbdVolume, Error> {
    let cluster = cluster.clone();
    blocking(context, move || RbdVolume::open(&cluster, &spec)).await
}

fn key(image: &Identity) -> Option<(String, String)> {
    match image {
        Identity::Rbd { cluster_fsid, image_id, .. } => Some((cluster_fsid.clone(), image_id.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kin(id: &str, from: Option<(&str, u64)>, is_new: bool) -> Option<Kin> {
        let image = |id: &str| ("fsid".to_owned(), id.to_owned());
        Some(Kin { image: image(id), cloned_from: from.map(|(of, snap)| (image(of), snap)), is_new })
    }

    #[test]
    fn parents_come_first_and_only_what_new_clones_hang_on() {
        let pool = [
            kin("grandchild", Some(("child", 7)), true),
            kin("child", Some(("template", 4)), true),
            None,
            kin("other", Some(("template", 4)), true),
            kin("known", Some(("template", 5)), false),
            kin("template", None, false),
            kin("stranger", Some(("elsewhere", 1)), true),
        ];
        let found = ordered(&pool);
        let told: Vec<_> = found.iter().map(|p| (p.level, p.origins.as_slice(), p.parent)).collect();
        let none: &[u64] = &[];
        let expected = [
            (2, none, Some(1)),
            (1, &[7], Some(5)),
            (0, none, None),
            (1, none, Some(5)),
            (1, none, None),
            (0, &[4], None),
            (0, none, None),
        ];
        assert_eq!(told, expected);
        // Nothing that a cluster says makes it go on for ever.
        let circle = [kin("a", Some(("b", 1)), false), kin("b", Some(("a", 1)), false)];
        assert!(ordered(&circle).iter().all(|p| p.level == LEVELS_MAX && p.parent.is_none()));
    }
}
