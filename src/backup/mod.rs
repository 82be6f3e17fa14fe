//! Backup: what changed in a volume becomes new chunks, and a manifest that lists every chunk of it.

mod assemble;
mod encode;
mod pipeline;
mod sample;
mod stream;
mod volume;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::backup::assemble::Assembler;
use crate::backup::encode::Encoder;
use crate::backup::pipeline::Budget;
use crate::backup::stream::StreamPlan;
use crate::backup::volume::VolumePlan;
use crate::cancel::Cancel;
use crate::chunker::{self, Unlisted};
use crate::codec::LEVEL_DEFAULT;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::gc::Condemned;
use crate::format::page::Page;
use crate::format::record::{BackupStats, Snapshot, VolumeRecord};
use crate::progress::Progress;
use crate::repo::log::SnapshotEntry;
use crate::repo::manifest::{Manifest, ManifestBuilder};
use crate::repo::session::{Committed, Session};
use crate::repo::{PROGRAM, Project};
use crate::source::{Changes, Content, Extent, FreezeRequest, Frozen, StreamSource, Volume};
use crate::units::{Generation, Geometry, Sequence, SnapshotId, VolumeName, hex};
use crate::volume::{Identity, ImageLayout, SnapshotPoint};

/// Plaintext in flight unless told otherwise.
pub const INFLIGHT_BYTES_DEFAULT: u64 = 96 << 20;
/// Backups after which a volume is read whole again unless told otherwise.
pub const FULL_EVERY_DEFAULT: u32 = 30;

/// What is backed up.
pub enum Input {
    Volume(Arc<dyn Volume>),
    Stream(Box<dyn StreamSource>),
}

#[derive(Debug, Clone)]
pub struct BackupOptions {
    pub volume: VolumeName,
    pub tags: Vec<String>,
    /// Read the whole volume, whatever the source says of changes.
    pub full: bool,
    /// Read the whole volume when so many backups did not; 0: never.
    pub full_every: u32,
    /// The volume was replaced on purpose (restored, moved): go on under the same name.
    pub accept_new_identity: bool,
    pub inflight_bytes: u64,
    pub level: i32,
    /// Decode every new chunk before it is uploaded.
    pub check_encoding: bool,
    /// Read and count, but upload nothing.
    pub dry_run: bool,
}

impl BackupOptions {
    pub fn new(volume: VolumeName) -> Self {
        Self {
            volume,
            tags: Vec::new(),
            full: false,
            full_every: FULL_EVERY_DEFAULT,
            accept_new_identity: false,
            inflight_bytes: INFLIGHT_BYTES_DEFAULT,
            level: LEVEL_DEFAULT,
            check_encoding: false,
            dry_run: false,
        }
    }
}

/// What a backup did.
#[derive(Debug, Clone, Serialize)]
pub struct BackupReport {
    pub volume: String,
    /// `None` in a dry run.
    pub sequence: Option<u32>,
    pub snapshot_id: Option<String>,
    pub size_bytes: u64,
    /// Whether everything was read, not only reported changes.
    pub full_read: bool,
    pub parent: Option<u32>,
    #[serde(flatten)]
    pub stats: BackupStats,
    /// What the operator should know: why a volume was read whole, a slow diff, leftovers that could not be removed.
    pub notes: Vec<String>,
    pub seconds: f64,
}

/// Backs up one volume.
pub async fn run(
    project: &Project,
    input: Input,
    options: &BackupOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<BackupReport> {
    let started = Instant::now();
    let identity = match &input {
        Input::Volume(volume) => {
            let volume = Arc::clone(volume);
            blocking(move || volume.identity()).await?
        }
        Input::Stream(_) => Identity::Stream,
    };
    let job = Job { project, options, progress, cancel, identity, notes: Vec::new() };
    let mut report = match options.dry_run {
        true => job.dry_run(input).await?,
        false => job.run(input).await?,
    };
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

struct Job<'a> {
    project: &'a Project,
    options: &'a BackupOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
    identity: Identity,
    notes: Vec<String>,
}

/// What a pass over the source left to be committed.
struct Pass {
    /// `None` in a dry run.
    root: Option<Page>,
    geometry: Geometry,
    stats: BackupStats,
    full_read: bool,
    sample_cursor: u64,
}

/// What a pass works against.
struct Ground {
    before: Arc<Manifest>,
    parent: Option<SnapshotEntry>,
    condemned: Arc<Condemned>,
    generation: Generation,
    /// Seeds the choice of samples.
    seed: SnapshotId,
    /// Whether the generation may well hold chunks of this volume that no snapshot shows.
    learn: bool,
    dry_run: bool,
}

impl Job<'_> {
    async fn run(mut self, input: Input) -> Result<BackupReport> {
        let volume = self.project.ensure_volume(&self.options.volume, &self.identity).await?;
        let session = Session::register(self.project, &volume).await?;
        let result = self.registered(&session, input).await;
        let Err(error) = result else { return result };
        // The outcome is settled in any case: if not here, then by the next backup of this host, or by prune.
        match session.abort(&error.to_string()).await {
            Ok(false) => Err(error),
            Ok(true) => Err(error.help(format!(
                "backup {} was committed all the same and can be restored; the next one goes on from it",
                session.sequence
            ))),
            Err(e) => {
                self.note(format!("backup {} could not be marked as aborted: {e}", session.sequence));
                Err(error)
            }
        }
    }

    async fn registered(&mut self, session: &Session, input: Input) -> Result<BackupReport> {
        let settled = session.settle_dead().await?;
        let parent = session.parent().await?;
        let interrupted_since =
            parent.as_ref().map_or(Sequence(0), |p| p.snapshot.sequence) < session.log.last();
        let ground = Ground {
            before: self.manifest_of(parent.as_ref())?,
            condemned: Arc::new(session.condemned.clone()),
            generation: session.generation,
            seed: session.snapshot_id,
            learn: parent.is_none() || interrupted_since || !settled.is_empty(),
            dry_run: false,
            parent,
        };
        match input {
            Input::Volume(volume) => self.volume(session, &ground, volume).await,
            Input::Stream(source) => self.stream(session, &ground, source).await,
        }
    }

    fn manifest_of(&self, parent: Option<&SnapshotEntry>) -> Result<Arc<Manifest>> {
        let manifest = match parent {
            Some(parent) => Manifest::of(self.project, &parent.snapshot)?,
            None => Manifest::zero(self.project, Geometry::new(0, self.project.chunk_size_bytes())?),
        };
        if manifest.geometry().chunk_size_bytes != self.project.chunk_size_bytes() {
            return Err(Error::corrupt(format!(
                "the parent has chunks of {} bytes, the repository {}",
                manifest.geometry().chunk_size_bytes,
                self.project.chunk_size_bytes()
            )));
        }
        Ok(Arc::new(manifest))
    }

    async fn volume(
        &mut self,
        session: &Session,
        ground: &Ground,
        volume: Arc<dyn Volume>,
    ) -> Result<BackupReport> {
        let prefix = own_prefix(self.project);
        let own_name = format!("{prefix}{:010}", session.sequence);
        let frozen = self.freeze(ground, volume, prefix, own_name).await?;
        let result = self.frozen(session, ground, &frozen).await;
        match &result {
            Ok(_) => {
                let frozen = Arc::clone(&frozen);
                // The backup stands. A snapshot too many costs space, not safety.
                if let Err(e) = blocking(move || frozen.committed()).await {
                    self.note(format!("older snapshots of the source could not be removed: {e}"));
                }
            }
            Err(_) => {
                let frozen = Arc::clone(&frozen);
                if let Err(e) = blocking(move || frozen.discard()).await {
                    self.note(format!("the snapshot made for this backup could not be removed: {e}"));
                }
            }
        }
        let mut report = result?;
        report.notes = std::mem::take(&mut self.notes);
        Ok(report)
    }

    async fn freeze(
        &mut self,
        ground: &Ground,
        volume: Arc<dyn Volume>,
        own_prefix: String,
        own_name: String,
    ) -> Result<Arc<dyn Frozen>> {
        let same = self.check_identity(ground.parent.as_ref())?;
        let nights = ground.parent.as_ref().map_or(0, |p| p.snapshot.nights_since_full);
        let due = self.options.full_every > 0 && nights + 1 >= self.options.full_every;
        if due && ground.parent.is_some() && !self.options.full {
            self.note(format!(
                "{} backups since all of the volume was read: reading all of it (--full-every {})",
                nights + 1,
                self.options.full_every
            ));
        }
        let parent = ground.parent.as_ref().filter(|_| same && !due && !self.options.full);
        let request =
            FreezeRequest { own_name, own_prefix, parent: parent.and_then(|p| p.snapshot.point.clone()) };
        let frozen: Arc<dyn Frozen> = blocking(move || volume.freeze(&request)).await?.into();
        for note in frozen.notes() {
            self.note(note);
        }
        Ok(frozen)
    }

    async fn frozen(
        &mut self,
        session: &Session,
        ground: &Ground,
        frozen: &Arc<dyn Frozen>,
    ) -> Result<BackupReport> {
        let mut pass = self.pass(ground, frozen, None).await?;
        if pass.is_none() {
            pass = self.pass(ground, frozen, Some(everything(frozen)?)).await?;
        }
        let pass = pass.ok_or_else(|| Error::internal("a full read was found to miss changes"))?;
        let checked = Arc::clone(frozen);
        blocking(move || checked.check()).await?;
        self.commit(session, ground, pass, frozen.point(), frozen.layout()).await
    }

    /// Reads what changed, or `all`. `None` when the source was found to have missed changes.
    async fn pass(
        &mut self,
        ground: &Ground,
        frozen: &Arc<dyn Frozen>,
        all: Option<Changes>,
    ) -> Result<Option<Pass>> {
        let changes = match all {
            Some(all) => all,
            None => {
                self.progress.phase("finding what changed", None);
                let frozen = Arc::clone(frozen);
                blocking(move || frozen.changes()).await?
            }
        };
        let reader = frozen.reader();
        let geometry = Geometry::new(reader.size_bytes(), self.project.chunk_size_bytes())?;
        let (extents, unlisted) = match &changes {
            Changes::All(extents) => (extents, Unlisted::Zero),
            Changes::Since(extents) => (extents, Unlisted::Unchanged),
        };
        let forced = match unlisted {
            Unlisted::Zero => BTreeSet::new(),
            Unlisted::Unchanged => must_read(ground, geometry).await?,
        };
        let spans = chunker::spans(extents, geometry, unlisted, &forced);
        let cursor = ground.parent.as_ref().map_or(0, |p| p.snapshot.sample_cursor);
        let sample = match unlisted {
            Unlisted::Zero => sample::Sample { chunks: Vec::new(), next_cursor: cursor },
            Unlisted::Unchanged => {
                let mut sample = sample::choose(&ground.before, &spans, cursor, ground.seed).await?;
                sample.chunks.retain(|i| geometry.chunk_len_bytes(*i) > 0);
                sample
            }
        };
        let full_read = unlisted == Unlisted::Zero;
        let plan = VolumePlan {
            reader,
            geometry,
            spans,
            samples: sample.chunks,
            before: Arc::clone(&ground.before),
            condemned: Arc::clone(&ground.condemned),
        };
        let pass = self.carry_out(ground, plan).await?;
        Ok(pass.map(|pass| Pass { full_read, sample_cursor: sample.next_cursor, ..pass }))
    }

    async fn carry_out(&mut self, ground: &Ground, plan: VolumePlan) -> Result<Option<Pass>> {
        let (geometry, read_bytes) = (plan.geometry, plan.read_bytes());
        let encoder = self.encoder(ground).await?;
        let builder = (!ground.dry_run).then(|| {
            let (before, condemned) = (Arc::clone(&ground.before), Arc::clone(&ground.condemned));
            ManifestBuilder::new(before, geometry, ground.generation, condemned)
        });
        self.progress.phase("backing up", Some(plan.total_bytes()));
        let mut assembler =
            Assembler::new(self.project, Arc::clone(&encoder), builder, Arc::clone(&self.progress));
        let budget = Budget::new(self.options.inflight_bytes, geometry.chunk_size_bytes);
        let mut cancel = self.cancel.clone();
        volume::run(Arc::new(plan), encoder, budget, &mut assembler, &mut cancel).await?;
        if let Some(missed) = assembler.missed {
            self.note(format!(
                "THE SOURCE MISSED A CHANGE: the chunk at offset {} differs from the last backup, but was not reported as \
                 changed. Reading all of the volume. Check the image with `rbd object-map check` and rebuild the map; for \
                 known causes see Ceph's trackers 61616, 53784 and 63770",
                geometry.offset_bytes(missed)
            ));
            return Ok(None);
        }
        assembler.stats.read_bytes = read_bytes.min(geometry.size_bytes);
        self.finish(assembler, geometry).await.map(Some)
    }

    async fn finish(&mut self, assembler: Assembler, geometry: Geometry) -> Result<Pass> {
        self.progress.phase("writing the manifest", None);
        let (root, stats) = assembler.finish().await?;
        Ok(Pass { root, geometry, stats, full_read: true, sample_cursor: 0 })
    }

    async fn encoder(&self, ground: &Ground) -> Result<Arc<Encoder>> {
        let encoder =
            Encoder::new(self.project, ground.generation, self.options.level, self.options.check_encoding);
        if ground.learn {
            encoder.learn_stored().await?;
        }
        Ok(Arc::new(encoder))
    }

    async fn stream(
        &mut self,
        session: &Session,
        ground: &Ground,
        source: Box<dyn StreamSource>,
    ) -> Result<BackupReport> {
        let header = source.header().clone();
        self.check_stream(ground, header.from.as_deref())?;
        let pass = self.stream_pass(ground, source, header.from.is_some()).await?;
        let point = header.to.map(|name| SnapshotPoint { name, rbd_snap_id: 0, own: false });
        // A diff carries no layout; what the last backup knew of the image still holds.
        let layout = match (&ground.parent, header.layout == ImageLayout::default()) {
            (Some(parent), true) => parent.snapshot.layout.clone(),
            _ => header.layout,
        };
        let mut report = self.commit(session, ground, pass, point, layout).await?;
        report.notes = std::mem::take(&mut self.notes);
        Ok(report)
    }

    async fn stream_pass(
        &mut self,
        ground: &Ground,
        source: Box<dyn StreamSource>,
        incremental: bool,
    ) -> Result<Pass> {
        let chunk_size_bytes = self.project.chunk_size_bytes();
        let encoder = self.encoder(ground).await?;
        // What a full stream does not mention is zero, whatever was there.
        let base = match incremental {
            true => Arc::clone(&ground.before),
            false => Arc::new(Manifest::zero(self.project, Geometry::new(0, chunk_size_bytes)?)),
        };
        let geometry = base.geometry();
        let builder = (!ground.dry_run)
            .then(|| ManifestBuilder::new(base, geometry, ground.generation, Arc::clone(&ground.condemned)));
        self.progress.phase("backing up", source.header().size_bytes.filter(|_| !incremental));
        let mut assembler =
            Assembler::new(self.project, Arc::clone(&encoder), builder, Arc::clone(&self.progress));
        let plan = StreamPlan {
            project: self.project.clone(),
            before: Arc::clone(&ground.before),
            generation: ground.generation,
            condemned: Arc::clone(&ground.condemned),
            encoder,
            budget: Budget::new(self.options.inflight_bytes, chunk_size_bytes),
            progress: Arc::clone(&self.progress),
            chunk_size_bytes,
        };
        let mut cancel = self.cancel.clone();
        let size_bytes = stream::run(&plan, source, &mut assembler, &mut cancel).await?;
        let pass = self.finish(assembler, Geometry::new(size_bytes, chunk_size_bytes)?).await?;
        let sample_cursor = ground.parent.as_ref().map_or(0, |p| p.snapshot.sample_cursor);
        Ok(Pass { full_read: !incremental, sample_cursor, ..pass })
    }

    async fn commit(
        &mut self,
        session: &Session,
        ground: &Ground,
        pass: Pass,
        point: Option<SnapshotPoint>,
        layout: ImageLayout,
    ) -> Result<BackupReport> {
        let root = pass.root.ok_or_else(|| Error::internal("a backup without a manifest"))?;
        let environment = &self.project.repository().environment;
        let parent = ground.parent.as_ref();
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
                ..self.report(ground, pass.geometry, pass.full_read, pass.stats)
            }),
            Committed::Lost { by, reason } => Err(Error::conflict(format!(
                "backup {} of {} was aborted by {by}: {reason}",
                session.sequence, session.volume.name
            ))
            .help("run the backup again; what it uploaded is found and not uploaded twice")),
        }
    }

    fn report(
        &self,
        ground: &Ground,
        geometry: Geometry,
        full_read: bool,
        stats: BackupStats,
    ) -> BackupReport {
        BackupReport {
            volume: self.options.volume.to_string(),
            sequence: None,
            snapshot_id: None,
            size_bytes: geometry.size_bytes,
            full_read,
            parent: ground.parent.as_ref().map(|p| p.snapshot.sequence.0),
            stats,
            notes: self.notes.clone(),
            seconds: 0.0,
        }
    }

    /// Reads and counts against the newest snapshot, registers nothing and uploads nothing.
    async fn dry_run(mut self, input: Input) -> Result<BackupReport> {
        let catalog = self.project.confirmed_catalog().await?;
        let parent = match catalog.by_name(&self.options.volume) {
            Some(volume) => self.newest(volume).await?,
            None => None,
        };
        let state = self.project.gc_state().await?;
        let ground = Ground {
            before: self.manifest_of(parent.as_ref())?,
            condemned: Arc::new(Condemned::default()),
            generation: state.generation,
            seed: SnapshotId(crate::keys::random_array()?),
            learn: parent.is_none(),
            dry_run: true,
            parent,
        };
        let pass = match input {
            Input::Volume(volume) => {
                let prefix = own_prefix(self.project);
                let own_name = format!("{prefix}dry-run-{}", ground.seed);
                let frozen = self.freeze(&ground, volume, prefix, own_name).await?;
                let pass = self.pass(&ground, &frozen, None).await;
                blocking(move || frozen.discard()).await?;
                pass?.ok_or_else(|| {
                    Error::corrupt("the source missed a change; a backup would read all of it")
                })?
            }
            Input::Stream(source) => {
                let from = source.header().from.clone();
                self.check_stream(&ground, from.as_deref())?;
                self.stream_pass(&ground, source, from.is_some()).await?
            }
        };
        Ok(self.report(&ground, pass.geometry, pass.full_read, pass.stats))
    }

    async fn newest(&self, volume: &VolumeRecord) -> Result<Option<SnapshotEntry>> {
        Ok(self.project.snapshots(volume).await?.pop())
    }

    /// Refuses a mixed-up volume. Returns whether the parent was read from this very volume.
    fn check_identity(&mut self, parent: Option<&SnapshotEntry>) -> Result<bool> {
        let Some(parent) = parent else { return Ok(true) };
        let (before, now) = (&parent.snapshot.identity, &self.identity);
        let same = match (before, now) {
            (
                Identity::Rbd { cluster_fsid: fsid, image_id: id, .. },
                Identity::Rbd { cluster_fsid, image_id, .. },
            ) => fsid == cluster_fsid && id == image_id,
            // A stream says nothing of its origin; the whole volume is read and compared.
            (Identity::Stream, _) => return Ok(false),
            (before, now) => before == now,
        };
        if !same && !self.options.accept_new_identity {
            return Err(Error::conflict(format!(
                "volume {} was backed up from {before}, this is {now}",
                self.options.volume
            ))
            .help(
                "if the volume was replaced on purpose, go on with --accept-new-identity (all of it is read once); \
                 otherwise give this one another name with --volume",
            ));
        }
        if !same {
            self.note(format!(
                "the volume is another one than before: {now}, was {before}; reading all of it"
            ));
        }
        Ok(same)
    }

    /// An incremental stream must continue the newest snapshot.
    fn check_stream(&mut self, ground: &Ground, from: Option<&str>) -> Result<()> {
        let parent = ground.parent.as_ref();
        let held = parent.and_then(|p| p.snapshot.point.as_ref()).map(|p| p.name.as_str());
        match from {
            None => {
                if parent.is_some() {
                    self.note(
                        "the stream is a full one, not a diff from the last backup's snapshot".to_owned(),
                    );
                }
                Ok(())
            }
            Some(from) if held == Some(from) => Ok(()),
            Some(from) => {
                let volume = &self.options.volume;
                let found = match (parent, held) {
                    (None, _) => format!("volume {volume} has no backup yet"),
                    (Some(p), None) => {
                        format!("backup {} of {volume} is of no named snapshot", p.snapshot.sequence)
                    }
                    (Some(p), Some(held)) => {
                        format!("backup {} of {volume} is of snapshot {held:?}", p.snapshot.sequence)
                    }
                };
                Err(Error::conflict(format!("the stream is a diff from snapshot {from:?}, but {found}"))
                    .help(match held {
                        Some(held) => {
                            format!("export the diff with --from-snap {held}, or a full one without it")
                        }
                        None => "export a full stream first, without --from-snap".to_owned(),
                    }))
            }
        }
    }

    fn note(&mut self, note: String) {
        self.progress.warn(&note);
        self.notes.push(note);
    }
}

/// What snapshots that cuttle makes of a source begin with: other repositories and projects have their own.
pub fn own_prefix(project: &Project) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&project.repository().record().repo_id);
    hasher.update(project.name().as_str().as_bytes());
    format!("cuttle-{}-", hex(&hasher.finalize().as_bytes()[..4]))
}

/// All of the volume, for when what the source says cannot be trusted.
fn everything(frozen: &Arc<dyn Frozen>) -> Result<Changes> {
    let length_bytes = frozen.reader().size_bytes();
    Ok(Changes::All(vec![Extent { offset_bytes: 0, length_bytes, content: Content::Data }]))
}

/// Chunks that an incremental reads although nothing was reported: those whose length changed with the volume's size, and
/// those that a prune round may delete.
async fn must_read(ground: &Ground, geometry: Geometry) -> Result<BTreeSet<u64>> {
    let before = ground.before.geometry();
    let mut out = BTreeSet::new();
    if before.size_bytes != geometry.size_bytes {
        let cut = geometry.index_of(before.size_bytes.min(geometry.size_bytes));
        if before.chunk_len_bytes(cut) != geometry.chunk_len_bytes(cut) {
            out.insert(cut.0);
        }
    }
    if !ground.condemned.is_empty() {
        for number in 0..ground.before.leaf_count() {
            if ground.before.leaf_ref(number).await?.is_zero() {
                continue;
            }
            let leaf = ground.before.leaf(number).await?;
            let hurt = leaf
                .refs
                .iter()
                .enumerate()
                .filter(|(_, r)| r.objects().any(|o| ground.condemned.contains(&o.name.id)));
            out.extend(hurt.map(|(at, _)| number * 1024 + at as u64));
        }
    }
    Ok(out)
}

/// Runs what blocks (librbd, file systems) away from the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(Error::new(ErrorKind::Internal, "a blocking call ended without an answer").caused_by(e))
    })
}
