//! What a clone's image is made of: a clone of what it was cloned from, where the cluster has that, and otherwise whole.

use std::collections::BTreeMap;

use cuttle::plan::family::{self, Node, Order, Point};
use cuttle::plan::placement::{self, Naming, Volume};
use cuttle::rbd::{Cluster, RbdSpec};
use cuttle::repo::history::SnapshotEntry;
use cuttle::repo::{Project, origin};
use cuttle::sink::rbd::RbdSink;
use cuttle::source::rbd_held::{BackedUp, Held};
use cuttle::units::VolumeNumber;
use cuttle::volume::Identity;
use cuttle::{ErrorKind, Result};

use super::work::{Ground, Reached, Work};
use crate::cli::connect::blocking;

/// The ground, and what is told of it.
pub struct Found {
    pub ground: Ground,
    /// What the image is a clone of.
    pub clone_of: Option<String>,
    /// Why a clone comes back whole, without what it was cloned from.
    pub whole_because: Option<String>,
}

impl Found {
    pub fn as_it_is() -> Self {
        Self { ground: Ground::AsItIs, clone_of: None, whole_because: None }
    }

    fn whole(because: String) -> Self {
        Self { whole_because: Some(because), ..Self::as_it_is() }
    }
}

/// Looks for what a clone was cloned from: at `parent`, where this run restored it, or where it may be.
pub async fn ground(
    work: &Work<'_>,
    reached: &Reached,
    snapshot: &SnapshotEntry,
    parent: Option<&RbdSpec>,
) -> Result<Found> {
    let Reached::Image(cluster, spec) = reached else { return Ok(Found::as_it_is()) };
    let Some(named) = snapshot.snapshot.origin.as_ref().filter(|_| !work.how.flatten) else {
        return Ok(Found::as_it_is());
    };
    let (at, target) = (cluster.clone(), spec.clone());
    // What is there stays the image that it is: then only what it holds is compared.
    if !blocking(work.context, move || RbdSink::is_absent(&at, &target)).await? {
        return Ok(Found::as_it_is());
    }
    let Some((volume, origin)) = origin::of(work.project, &snapshot.snapshot).await? else {
        return Ok(Found::whole(format!(
            "snapshot {} of volume {}, which it was cloned from, is forgotten",
            named.sequence, named.volume.0
        )));
    };
    let name = origin.name();
    let places = match parent {
        Some(parent) => vec![parent.clone()],
        None => places(&origin, spec, &Volume { name: &volume.name, number: volume.number }),
    };
    let (at, record) = (cluster.clone(), origin.snapshot.clone());
    let found = match held(work, at, origin, places).await {
        Err(e) if matches!(e.kind(), ErrorKind::Invalid | ErrorKind::Denied) => {
            return Ok(Found::whole(format!("what it was cloned from, {name}, cannot be looked at: {e}")));
        }
        found => found?,
    };
    Ok(match found {
        Some(held) => {
            let clone_of = Some(held.to_string());
            Found { ground: Ground::Clone(Box::new(held), Box::new(record)), clone_of, whole_because: None }
        }
        None => Found::whole(format!(
            "the cluster has no snapshot that is known to be {name}, which it was cloned from; to have it as a clone, restore \
             both in one run: cuttle restore --all --to rbd:{} --volume '{}' --volume '{}'",
            pool(spec),
            volume.name,
            snapshot.volume_name
        )),
    })
}

/// Whether a snapshot of an image is noted to hold this backup: then the image need not become it once more.
pub async fn is_kept(work: &Work<'_>, reached: &Reached, snapshot: &SnapshotEntry) -> Result<bool> {
    let Reached::Image(cluster, spec) = reached else { return Ok(false) };
    let mut entry = snapshot.clone();
    // The original, elsewhere, does not count.
    entry.snapshot.identity = Identity::Stream;
    held(work, cluster.clone(), entry, vec![spec.clone()]).await.map(|held| held.is_some())
}

async fn held(
    work: &Work<'_>,
    cluster: Cluster,
    of: SnapshotEntry,
    places: Vec<RbdSpec>,
) -> Result<Option<Held>> {
    let find = move || {
        let (id, record) = (of.snapshot_id.to_string(), &of.snapshot);
        let of = BackedUp { snapshot_id: &id, identity: &record.identity, point: record.point.as_ref() };
        Held::find(&cluster, of, &places)
    };
    blocking(work.context, find).await
}

/// Where an origin may have been restored to: beside the clone, or where the original was. What lies there still has to prove itself.
fn places(origin: &SnapshotEntry, beside: &RbdSpec, volume: &Volume<'_>) -> Vec<RbdSpec> {
    let named = placement::place(&[*volume], Naming::Image).into_iter().filter_map(|placed| placed.name.ok());
    let mut places: Vec<_> = named.map(|image| RbdSpec { image, snapshot: None, ..beside.clone() }).collect();
    if let Identity::Rbd { pool, namespace, image, .. } = &origin.snapshot.identity {
        let (pool, namespace, image) = (pool.clone(), namespace.clone(), image.clone());
        places.push(RbdSpec { pool, namespace, image, snapshot: None });
    }
    places
}

fn pool(spec: &RbdSpec) -> String {
    match spec.namespace.as_str() {
        "" => spec.pool.clone(),
        namespace => format!("{}/{namespace}", spec.pool),
    }
}

/// What an RBD snapshot is called that is made of what was restored, so that clones can be made of it: as the one that was read.
pub fn kept_name(snapshot: &SnapshotEntry) -> String {
    let point = snapshot.snapshot.point.as_ref().filter(|point| !point.own);
    point.map_or_else(|| format!("backup-{}", snapshot.snapshot.sequence), |point| point.name.clone())
}

/// How each of the snapshots that are wanted is restored, and the records of what they pass on the way.
pub async fn order(
    project: &Project,
    wanted: &[SnapshotEntry],
) -> Result<(Vec<Order>, BTreeMap<Point, SnapshotEntry>)> {
    let volumes: BTreeMap<VolumeNumber, Point> = wanted.iter().map(|s| (s.snapshot.volume, at(s))).collect();
    let (mut origins, mut left) = (BTreeMap::new(), wanted.to_vec());
    while let Some(clone) = left.pop() {
        let Some(named) = &clone.snapshot.origin else { continue };
        // One that is newer than what is wanted was made meanwhile.
        let passed = volumes.get(&named.volume).is_some_and(|last| named.sequence <= last.1);
        if !passed || origins.contains_key(&(named.volume, named.sequence)) {
            continue;
        }
        if let Some((_, origin)) = origin::of(project, &clone.snapshot).await? {
            left.push(origin.clone());
            origins.insert(at(&origin), origin);
        }
    }
    let node = |s: &SnapshotEntry| Node {
        point: at(s),
        origin: s.snapshot.origin.as_ref().map(|origin| (origin.volume, origin.sequence)),
    };
    let nodes = |of: &mut dyn Iterator<Item = &SnapshotEntry>| of.map(node).collect::<Vec<_>>();
    Ok((family::order(&nodes(&mut wanted.iter()), &nodes(&mut origins.values())), origins))
}

fn at(snapshot: &SnapshotEntry) -> Point {
    (snapshot.snapshot.volume, snapshot.snapshot.sequence)
}
