//! A backup whose source is a stream.

use std::sync::Arc;

use crate::backup::BackupReport;
use crate::backup::assemble::Assembler;
use crate::backup::ground::Ground;
use crate::backup::job::{Job, Pass};
use crate::backup::pipeline::Budget;
use crate::backup::stream::{self, StreamPlan};
use crate::error::{Error, Result};
use crate::repo::manifest::{Manifest, ManifestBuilder};
use crate::repo::session::Session;
use crate::source::StreamSource;
use crate::units::Geometry;
use crate::volume::{ImageLayout, ObjectsBy, SnapshotPoint};

impl Job<'_> {
    pub(super) async fn stream(
        &mut self,
        session: &Session,
        ground: &Ground,
        source: Box<dyn StreamSource>,
    ) -> Result<BackupReport> {
        let header = source.header().clone();
        self.check_stream(ground, header.from.as_deref())?;
        if let (true, Some(from)) = (ground.is_torn, &header.from) {
            return Err(Error::corrupt(format!(
                "the stream is a diff from snapshot {from:?}, and the manifest of that backup cannot be read"
            ))
            .help("export a full stream, without --from-snap, and repair the repository with `cuttle verify --read-data --repair`"));
        }
        let pass = self.stream_pass(ground, source).await?;
        let point = header.to.map(|name| SnapshotPoint {
            name,
            rbd_snap_id: 0,
            own: false,
            made: None,
            objects: ObjectsBy::Unknown,
        });
        // A diff carries no layout; what the last backup knew of the image still holds.
        let layout = match (&ground.parent, header.layout == ImageLayout::default()) {
            (Some(parent), true) => parent.snapshot.layout.clone(),
            _ => header.layout,
        };
        let mut report = self.commit(session, ground, pass, point, layout).await?;
        report.notes = std::mem::take(&mut self.notes);
        Ok(report)
    }

    pub(super) async fn stream_pass(
        &mut self,
        ground: &Ground,
        source: Box<dyn StreamSource>,
    ) -> Result<Pass> {
        let (incremental, has_end) = (source.header().from.is_some(), source.header().has_end);
        let chunk_size_bytes = self.project.chunk_size_bytes();
        let encoder = self.encoder(ground).await?;
        // What a full stream does not mention is zero, whatever was there.
        let base = match incremental {
            true => Arc::clone(&ground.before),
            false => Arc::new(Manifest::zero(self.project, Geometry::new(0, chunk_size_bytes)?)),
        };
        let geometry = base.geometry();
        let builder = (!ground.dry_run)
            .then(|| ManifestBuilder::new(base, geometry, ground.generation, Arc::clone(&ground.forbidden)));
        self.progress.phase("backing up", source.header().size_bytes.filter(|_| !incremental));
        let mut assembler =
            Assembler::new(self.project, Arc::clone(&encoder), builder, Arc::clone(&self.progress));
        let plan = StreamPlan {
            project: self.project.clone(),
            before: Arc::clone(&ground.before),
            forbidden: Arc::clone(&ground.forbidden),
            encoder,
            budget: Budget::new(self.options.inflight_bytes, chunk_size_bytes),
            progress: Arc::clone(&self.progress),
            chunk_size_bytes,
            delta_depth_max: self.delta_depth_max(),
        };
        let mut cancel = self.cancel.clone();
        let size_bytes = stream::run(&plan, source, &mut assembler, &mut cancel).await?;
        self.check_size(ground, size_bytes, !has_end)?;
        let pass = self.finish(assembler, Geometry::new(size_bytes, chunk_size_bytes)?).await?;
        if self.lost.kept_hurt_chunks > 0 {
            self.note(format!(
                "THIS BACKUP IS HURT: it goes on naming {} chunks that are lost, as the stream does not have them. Repair them \
                 with `cuttle verify --read-data --repair --repair-from IMAGE`, or back up a full stream",
                self.lost.kept_hurt_chunks
            ));
        }
        let sample_cursor = ground.parent.as_ref().map_or(0, |p| p.snapshot.sample_cursor);
        // Only what the stream gave was read.
        let changed_bytes = pass.stats.read_bytes;
        Ok(Pass { full_read: !incremental, changed_bytes, sample_cursor, ..pass })
    }
}
