//! What makes a snapshot exist, and what a dry run shows instead.

use std::sync::Arc;

use crate::backup::job::{Ground, Job, Pass, lost};
use crate::backup::{BackupReport, Input, own_prefix};
use crate::cpu;
use crate::error::{Context, Error, Result};
use crate::format::record::{Snapshot, VolumeRecord};
use crate::repo::PROGRAM;
use crate::repo::forbidden::Forbidden;
use crate::repo::log::SnapshotEntry;
use crate::repo::session::{Committed, Session};
use crate::units::SnapshotId;
use crate::volume::{ImageLayout, SnapshotPoint};

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
            size_bytes: pass.geometry.size_bytes,
            full_read: pass.full_read,
            changed_bytes: pass.changed_bytes,
            parent: ground.compared_with().map(|p| p.snapshot.sequence.0),
            stats: pass.stats,
            lost: self.lost,
            notes: self.notes.clone(),
            seconds: 0.0,
        }
    }

    /// Reads and counts against the newest snapshot, registers nothing and uploads nothing.
    pub(super) async fn dry_run(mut self, input: Input) -> Result<BackupReport> {
        let catalog = self.project.confirmed_catalog().await?;
        let parent = match catalog.by_name(&self.options.volume) {
            Some(volume) => self.newest(volume).await?,
            None => None,
        };
        let state = self.project.gc_state().await?;
        let lost = self.project.read_lost(state.lost.clone()).await?;
        let condemned = self.project.condemned(&state).await?;
        let ground = Ground {
            before: self.manifest_of(parent.as_ref())?,
            forbidden: Arc::new(Forbidden::new(state.generation, condemned, lost)),
            generation: state.generation,
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
                let pass = self.pass(&ground, &frozen, None).await;
                cpu::block(move || frozen.discard()).await?;
                pass?.ok_or_else(|| {
                    Error::corrupt("the source cannot be relied on; a backup would read all of it")
                })?
            }
            Input::Stream(source) => {
                let from = source.header().from.clone();
                self.check_stream(&ground, from.as_deref())?;
                self.stream_pass(&ground, source, from.is_some()).await?
            }
        };
        Ok(self.report(&ground, &pass))
    }

    pub(super) async fn newest(&self, volume: &VolumeRecord) -> Result<Option<SnapshotEntry>> {
        Ok(self.project.snapshots(volume).await?.pop())
    }
}
