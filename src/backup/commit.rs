//! What makes a snapshot exist, and what a dry run shows instead.

use std::sync::Arc;

use crate::backup::ground::Ground;
use crate::backup::job::{Job, Pass, lost};
use crate::backup::origin::{Live, base_of};
use crate::backup::{BackupReport, Input, own_prefix};
use crate::cpu;
use crate::error::{Context, Error, Result};
use crate::format::gc::Condemned;
use crate::format::record::Snapshot;
use crate::repo::PROGRAM;
use crate::repo::forbidden::Forbidden;
use crate::repo::session::{Committed, Session};
use crate::units::SnapshotId;
use crate::volume::{Identity, ImageLayout, SnapshotPoint};

impl Job<'_> {
    pub(super) async fn commit(
        &mut self,
        session: &Session,
        ground: &Ground,
        pass: Pass,
        point: Option<SnapshotPoint>,
        layout: ImageLayout,
    ) -> Result<BackupReport> {
        let root = pass.root.as_ref().ok_or_else(|| Error::internal("a backup without a manifest"))?;
        let environment = &self.project.repository().environment;
        let parent = ground.compared_with();
        let read = point.clone();
        let snapshot = Snapshot {
            volume: session.volume.number,
            sequence: session.sequence,
            generation: session.generation,
            size_bytes: pass.geometry.size_bytes,
            chunk_size_bytes: pass.geometry.chunk_size_bytes,
            identity: self.identity.clone(),
            point,
            layout,
            host: environment.host.clone(),
            program: PROGRAM.to_owned(),
            started_unix_ms: environment.clock.now_unix_ms(),
            tags: self.options.tags.clone(),
            parent: parent.map(|p| p.snapshot.sequence),
            full_read: pass.full_read,
            nights_since_full: match pass.full_read {
                true => 0,
                false => parent.map_or(0, |p| p.snapshot.nights_since_full.saturating_add(1)),
            },
            sample_cursor: pass.sample_cursor,
            stats: pass.stats,
            root: root.encode(),
        };
        self.cancel.check()?;
        match session.commit(snapshot).await.context("commit the backup")? {
            Committed::Done | Committed::Before => Ok(BackupReport {
                volume: session.volume.name.clone(),
                sequence: Some(session.sequence.0),
                snapshot_id: Some(session.snapshot_id.to_string()),
                point: read,
                ..self.report(ground, &pass)
            }),
            Committed::Lost { by, reason } => Err(lost(session, &by, &reason)),
        }
    }

    pub(super) fn report(&self, ground: &Ground, pass: &Pass) -> BackupReport {
        BackupReport {
            volume: self.options.volume.to_string(),
            sequence: None,
            snapshot_id: None,
            point: None,
            size_bytes: pass.geometry.size_bytes,
            full_read: pass.full_read,
            changed_bytes: pass.changed_bytes,
            parent: ground.compared_with().map(|p| p.snapshot.sequence.0),
            parent_known_by: match (&self.identity, pass.full_read) {
                (_, true) => None,
                (Identity::Stream, false) => Some("name"),
                (_, false) => Some("id"),
            },
            stats: pass.stats,
            lost: self.lost,
            notes: self.notes.clone(),
            seconds: 0.0,
        }
    }

    /// Reads and counts against the newest snapshot, registers nothing and uploads nothing.
    pub(super) async fn dry_run(mut self, input: Input) -> Result<BackupReport> {
        let catalog = self.project.volumes().confirmed().await?;
        let mut snapshots = match catalog.by_name(&self.options.volume) {
            Some(volume) => self.project.history(volume).snapshots().await?,
            None => Vec::new(),
        };
        let newest = snapshots.pop();
        let parent = match &input {
            Input::Stream(source) => base_of(source.header(), newest, &Live::Listed(snapshots)).await?,
            Input::Volume(_) => newest,
        };
        let generation = self.project.rounds().generation().await?;
        let lost = self.project.lost_records().read().await?;
        let ground = Ground {
            before: self.manifest_of(parent.as_ref())?,
            forbidden: Arc::new(Forbidden::new(generation, Condemned::default(), lost)),
            generation,
            seed: SnapshotId(crate::keys::random_array()?),
            learn: parent.is_none(),
            is_torn: false,
            dry_run: true,
            parent,
        };
        let pass = match input {
            Input::Volume(volume) => {
                let prefix = own_prefix(self.project);
                let own_name = format!("{prefix}dry-run-{}", ground.seed);
                let frozen = self.freeze(&ground, volume, prefix, own_name).await?;
                let pass = match self.check_frozen_size(&ground, &frozen) {
                    Ok(()) => self.pass(&ground, &frozen, None).await,
                    Err(e) => Err(e),
                };
                if let Err(e) = cpu::block(move || frozen.discard()).await {
                    self.note(format!("the snapshot made for this dry run stays: {e}"));
                }
                pass?.ok_or_else(|| {
                    Error::corrupt("the source cannot be relied on; a backup would read all of it")
                })?
            }
            Input::Stream(source) => {
                self.check_stream(&ground, source.header().from.as_deref())?;
                if source.header().states > 1 {
                    self.note(format!(
                        "the stream holds {} states of the volume, each of which becomes a snapshot: here they are read as one",
                        source.header().states
                    ));
                }
                self.stream_pass(&ground, source).await?
            }
        };
        Ok(self.report(&ground, &pass))
    }
}
