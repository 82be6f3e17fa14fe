//! What a backup builds on: the parent, its manifest, and what of it may not be referenced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::backup::context::Context;
use crate::backup::fetched;
use crate::backup::presence::{Look, LostReport};
use crate::backup::resumed::Resumed;
use crate::backup::who::Past;
use crate::backup::who::{Live, Who, base_of};
use crate::error::{Error, ErrorKind, Result};
use crate::format::REFS_PER_PAGE;
use crate::format::names::ContentName;
use crate::format::record::{SnapshotOrigin, VolumeRecord};
use crate::repo::Project;
use crate::repo::forbidden::Forbidden;
use crate::repo::history::SnapshotEntry;
use crate::repo::manifest::Manifest;
use crate::repo::origin::listed;
use crate::repo::session::{Rival, Session};
use crate::source::StreamHeader;
use crate::units::{Generation, Geometry, Sequence, SnapshotId};
use crate::volume::Identity;

/// A backup that has been under way for longer than a night is nothing that one may go on relying on.
const IN_PROGRESS_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const FANOUT: u64 = REFS_PER_PAGE as u64;

pub(super) struct Ground {
    /// The backup's number, or in a dry run what it would be.
    pub sequence: Sequence,
    pub parent: Option<SnapshotEntry>,
    /// Where there is no parent: the snapshot that the volume was cloned from, and its volume.
    pub origin: Option<(VolumeRecord, SnapshotEntry)>,
    /// The manifest of the one or the other; of nothing where there is none that can be read.
    pub before: Arc<Manifest>,
    pub forbidden: Arc<Forbidden>,
    pub generation: Generation,
    /// Whose backup it is; zeros in a dry run.
    pub session: SnapshotId,
    /// What an interrupted backup left in bundles.
    pub resumed: Arc<Resumed>,
    /// Bundles of which the one or the other needs little.
    pub sparse: BTreeSet<ContentName>,
    /// Whether the generation may well hold chunks of this volume that no snapshot shows.
    pub learn: bool,
    /// The parent's manifest cannot be read: nothing is compared with it.
    pub is_unreadable: bool,
    pub lost: LostReport,
}

impl Ground {
    /// As the protocol wants it: everything is looked at after the registration.
    pub(super) async fn registered(
        cx: &Context<'_>,
        session: &Session,
        who: &Who,
        header: Option<&StreamHeader>,
    ) -> Result<Self> {
        let settled = session.settle_dead().await?;
        if cx.options.yields
            && let Some(rival) = session.rival(&settled).await?
        {
            return Err(in_progress(session, &rival));
        }
        let newest = session.parent().await?;
        let parent = match header {
            Some(header) => base_of(header, newest, &Live::Confirmed(session)).await?,
            None => newest,
        };
        let origin = match (&parent, &who.cloned_from) {
            (None, Some(from)) => session.origin(&from.image, from.rbd_snap_id).await?,
            _ => None,
        };
        let built_upon = upon(&session.volume, parent.as_ref(), origin.as_ref());
        let interrupted_since =
            parent.as_ref().map_or(Sequence(0), |p| p.snapshot.sequence) < session.log.last();
        let mut ground = Self {
            sequence: session.sequence,
            before: manifest_of(cx.project, built_upon.map(|(_, snapshot)| snapshot))?,
            forbidden: Arc::default(),
            generation: session.generation,
            session: session.snapshot_id,
            resumed: Arc::default(),
            sparse: BTreeSet::new(),
            learn: parent.is_none() || interrupted_since || !settled.is_empty(),
            is_unreadable: false,
            lost: LostReport::default(),
            parent: None,
            origin: None,
        };
        let mut forbidden = session.forbidden.clone();
        if let Some((volume, parent)) = built_upon {
            let sequence = session.sequence;
            let look = Look { cx, volume, sequence, parent, before: &ground.before };
            let mut seen = look.look(&forbidden).await?;
            ground.sparse = std::mem::take(&mut seen.sparse);
            if !seen.new.is_empty()
                && let Err(e) = cx.project.lost_records().remember(forbidden.lost_mut(), &seen.new).await
            {
                if e.kind() == ErrorKind::Interrupted {
                    return Err(e);
                }
                cx.remark(format!("what was found lost could not be recorded: {e}"));
            }
            if !seen.new.is_empty() {
                cx.among.fleet.kept.forget();
            }
            ground.is_unreadable = seen.is_unreadable;
            ground.lost = look.forbid(seen, &mut forbidden).await?;
        }
        let since = parent.as_ref().map_or(Sequence(0), |p| p.snapshot.sequence);
        ground.resumed = Arc::new(Resumed::find(session, since, &forbidden).await?);
        ground.settled(cx, parent, origin, forbidden)
    }

    /// As the repository shows itself to somebody who stores nothing: for a dry run.
    pub(super) async fn listed(cx: &Context<'_>, who: &Who, header: Option<&StreamHeader>) -> Result<Self> {
        let project = cx.project;
        let volume = project.volumes().find(&cx.options.volume).await?;
        let volume = volume.as_ref();
        let (mut snapshots, last) = match volume {
            Some(volume) => {
                (project.history(volume).snapshots().await?, project.log(volume.number).read().await?.last())
            }
            None => (Vec::new(), Sequence(0)),
        };
        let newest = snapshots.pop();
        let parent = match header {
            Some(header) => base_of(header, newest, &Live::Listed(snapshots)).await?,
            None => newest,
        };
        let origin = match (&parent, &who.cloned_from) {
            (None, Some(from)) => listed(project, &from.image, from.rbd_snap_id).await?,
            _ => None,
        };
        let built_upon = match (volume, &parent) {
            (Some(volume), Some(parent)) => Some((volume, parent)),
            _ => origin.as_ref().map(|(volume, snapshot)| (volume, snapshot)),
        };
        let rounds = project.rounds().newest().await?;
        let condemned = project.rounds().condemned(&rounds).await?;
        let mut forbidden = Forbidden::new(rounds.newest, condemned, project.lost_records().read().await?);
        let mut ground = Self {
            sequence: Sequence(last.0.saturating_add(1)),
            before: manifest_of(project, built_upon.map(|(_, snapshot)| snapshot))?,
            forbidden: Arc::default(),
            generation: rounds.newest,
            session: SnapshotId([0; 16]),
            resumed: Arc::default(),
            sparse: BTreeSet::new(),
            learn: parent.as_ref().map_or(Sequence(0), |p| p.snapshot.sequence) < last || parent.is_none(),
            is_unreadable: false,
            lost: LostReport::default(),
            parent: None,
            origin: None,
        };
        if let Some((volume, parent)) = built_upon {
            let look = Look { cx, volume, sequence: ground.sequence, parent, before: &ground.before };
            let seen = look.look(&forbidden).await?;
            ground.is_unreadable = seen.is_unreadable;
            ground.lost = look.forbid(seen, &mut forbidden).await?;
        }
        ground.settled(cx, parent, origin, forbidden)
    }

    fn settled(
        mut self,
        cx: &Context<'_>,
        parent: Option<SnapshotEntry>,
        origin: Option<(VolumeRecord, SnapshotEntry)>,
        forbidden: Forbidden,
    ) -> Result<Self> {
        if self.is_unreadable {
            self.before = manifest_of(cx.project, None)?;
        }
        // What is lost here may be stored elsewhere.
        self.learn |= self.is_unreadable || self.lost.parent_hurt_chunks > 0;
        (self.parent, self.origin, self.forbidden) = (parent, origin, Arc::new(forbidden));
        Ok(self)
    }

    /// What plans are made from.
    pub(super) fn past<'a>(&'a self, cx: &'a Context<'_>, who: &'a Who) -> Past<'a> {
        Past {
            options: cx.options,
            who,
            parent: self.parent.as_ref(),
            origin: self.origin.as_ref().map(|(_, snapshot)| snapshot),
            is_unreadable: self.is_unreadable,
            chunk_size_bytes: cx.project.chunk_size_bytes(),
            delta_depth_max: cx.project.repository().record().delta_depth_max,
            fetches: fetched::is_wanted(cx.project, cx.options.delta),
        }
    }

    /// The snapshot that is built upon, with its volume, which is `own` where it has a parent.
    pub(super) fn built_upon<'a>(
        &'a self,
        own: &'a VolumeRecord,
    ) -> Option<(&'a VolumeRecord, &'a SnapshotEntry)> {
        upon(own, self.parent.as_ref(), self.origin.as_ref())
    }

    /// What the backup records of what its image was cloned from: what was found now, or what its parent has, as long as it is
    /// still a clone of that.
    pub(super) fn origin_of(&self, who: &Who) -> Option<SnapshotOrigin> {
        let from = who.cloned_from.as_ref()?;
        let Identity::Rbd { image_id, .. } = &from.image else { return None };
        if let Some((volume, snapshot)) = &self.origin {
            return Some(SnapshotOrigin {
                volume: volume.number,
                sequence: snapshot.snapshot.sequence,
                snapshot_id: snapshot.snapshot_id,
                image_id: image_id.clone(),
                rbd_snap_id: from.rbd_snap_id,
            });
        }
        let parent = &self.parent.as_ref()?.snapshot;
        let is_same = |was: &SnapshotOrigin| was.image_id == *image_id && was.rbd_snap_id == from.rbd_snap_id;
        parent.origin.clone().filter(|was| parent.identity.is_same(&who.identity) && is_same(was))
    }

    /// Chunks of the parent that may not be built upon: those that a prune round may delete, and those that are lost.
    pub(super) async fn forbidden_chunks(&self) -> Result<BTreeSet<u64>> {
        let mut out = BTreeSet::new();
        if self.forbidden.is_empty() {
            return Ok(out);
        }
        for number in 0..self.before.leaf_count() {
            if self.before.leaf_ref(number).await?.is_zero() {
                continue;
            }
            let leaf = self.before.leaf(number).await?;
            let hurt = leaf.refs.iter().enumerate().filter(|(_, r)| self.forbidden.chunk(r));
            out.extend(hurt.map(|(at, _)| number * FANOUT + at as u64));
        }
        Ok(out)
    }
}

/// The snapshot that is built upon, with its volume.
fn upon<'a>(
    volume: &'a VolumeRecord,
    parent: Option<&'a SnapshotEntry>,
    origin: Option<&'a (VolumeRecord, SnapshotEntry)>,
) -> Option<(&'a VolumeRecord, &'a SnapshotEntry)> {
    parent.map(|parent| (volume, parent)).or(origin.map(|(volume, snapshot)| (volume, snapshot)))
}

fn manifest_of(project: &Project, parent: Option<&SnapshotEntry>) -> Result<Arc<Manifest>> {
    let manifest = match parent {
        Some(parent) => Manifest::of(project, &parent.snapshot)?,
        None => Manifest::zero(project, Geometry::new(0, project.chunk_size_bytes())?),
    };
    if manifest.geometry().chunk_size_bytes != project.chunk_size_bytes() {
        return Err(Error::corrupt(format!(
            "the parent has chunks of {} bytes, the repository {}",
            manifest.geometry().chunk_size_bytes,
            project.chunk_size_bytes()
        )));
    }
    Ok(Arc::new(manifest))
}

/// Somebody else backs the volume up.
fn in_progress(session: &Session, rival: &Rival) -> Error {
    let Rival { sequence, host, process, for_how_long } = rival;
    let minutes = for_how_long.as_secs() / 60;
    let name = &session.volume.name;
    if *for_how_long < IN_PROGRESS_MAX {
        return Error::busy(format!("in progress on {host}, {minutes} min"))
            .help(format!("backup {sequence} of {name}, process {process}"));
    }
    let hours = minutes / 60;
    Error::conflict(format!("backup {sequence} of {name} has been in progress on {host} for {hours} h")).help(format!(
        "see whether process {process} there is stuck; once it is gone, run the backup again (from another host: an hour and a half \
         after its last sign of life)"
    ))
}
