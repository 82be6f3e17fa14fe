//! One backup from registration to outcome: what it is compared with, the passes over the source, what failed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::backup::alive::SignsOfLife;
use crate::backup::assemble::{Assembler, Distrust};
use crate::backup::encode::Encoder;
use crate::backup::ground::Ground;
use crate::backup::origin::{Live, base_of};
use crate::backup::pipeline::Budget;
use crate::backup::presence::LostReport;
use crate::backup::volume::{Deltas, VolumePlan};
use crate::backup::{BackupOptions, BackupReport, Input, own_prefix, volume};
use crate::cancel::Cancel;
use crate::chunker::{self, Unlisted};
use crate::cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::format::page::Page;
use crate::format::record::BackupStats;
use crate::progress::Progress;
use crate::reading::sample;
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;
use crate::repo::manifest::{Manifest, ManifestBuilder};
use crate::repo::session::{Committed, Rival, Session};
use crate::source::{Changes, Content, Extent, FreezeRequest, Frozen, Volume};
use crate::units::{Geometry, Sequence};
use crate::volume::Identity;

pub(super) struct Job<'a> {
    pub project: &'a Project,
    pub options: &'a BackupOptions,
    pub progress: Arc<dyn Progress>,
    pub cancel: Cancel,
    pub identity: Identity,
    /// Who the volume was before, where it is just being moved.
    pub moved_from: Option<Identity>,
    pub notes: Vec<String>,
    pub lost: LostReport,
}

/// What a pass over the source left to be committed.
pub(super) struct Pass {
    /// `None` in a dry run.
    pub root: Option<Page>,
    pub geometry: Geometry,
    pub stats: BackupStats,
    pub full_read: bool,
    pub changed_bytes: u64,
    pub sample_cursor: u64,
}

impl Job<'_> {
    pub(super) async fn run(mut self, input: Input) -> Result<BackupReport> {
        let volume = self.project.volumes().ensure(&self.options.volume, &self.identity).await?;
        let session = Session::register(self.project, &volume).await?;
        let _alive = SignsOfLife::of(&session, self.options.alive_every);
        let result = self.registered(&session, input).await;
        let Err(error) = result else { return result };
        // The outcome is settled in any case: if not here, then by the next backup of this host, or by prune.
        match session.give_up(&error.to_string()).await {
            // What it needed was then deleted, rightly: that is no damage.
            Ok(Committed::Lost { by, reason }) if error.kind() == ErrorKind::Corrupt => {
                Err(lost(&session, &by, &reason).caused_by(error))
            }
            Ok(Committed::Done | Committed::Lost { .. }) => Err(error),
            Ok(Committed::Before) => Err(error.help(format!(
                "backup {} was committed all the same and can be restored; the next one goes on from it",
                session.sequence
            ))),
            Err(e) => {
                self.note(format!("backup {} could not be marked as aborted: {e}", session.sequence));
                Err(error)
            }
        }
    }

    pub(super) async fn registered(&mut self, session: &Session, input: Input) -> Result<BackupReport> {
        let settled = session.settle_dead().await?;
        if self.options.yields
            && let Some(rival) = session.rival(&settled).await?
        {
            return Err(in_progress(session, &rival));
        }
        let newest = session.parent().await?;
        let parent = match &input {
            Input::Stream(source) => base_of(source.header(), newest, &Live::Confirmed(session)).await?,
            Input::Volume(_) => newest,
        };
        let interrupted_since =
            parent.as_ref().map_or(Sequence(0), |p| p.snapshot.sequence) < session.log.last();
        let mut before = self.manifest_of(parent.as_ref())?;
        let mut forbidden = session.forbidden.clone();
        let is_torn = match &parent {
            Some(parent) => self.look(session, parent, &before, &mut forbidden).await?,
            None => false,
        };
        if is_torn {
            before = self.manifest_of(None)?;
        }
        let hurt = self.lost.parent_hurt_chunks > 0;
        let ground = Ground {
            before,
            forbidden: Arc::new(forbidden),
            generation: session.generation,
            seed: session.snapshot_id,
            // What is lost here may be stored elsewhere.
            learn: parent.is_none() || interrupted_since || !settled.is_empty() || is_torn || hurt,
            is_torn,
            dry_run: false,
            parent,
        };
        let done = match input {
            Input::Volume(volume) => self.volume(session, &ground, volume).await,
            Input::Stream(source) => self.stream(session, &ground, source).await,
        };
        match done {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                Err(self.unless_forgotten(error, session, &ground).await)
            }
            done => done,
        }
    }

    /// What only a forgotten parent needed is deleted, rightly, also while a backup goes on from it: that is no damage.
    async fn unless_forgotten(&self, error: Error, session: &Session, ground: &Ground) -> Error {
        let Some(sequence) = ground.parent.as_ref().map(|p| p.snapshot.sequence) else { return error };
        match self.project.slot(session.volume.number, sequence).is_forgotten().await {
            Ok(true) => Error::conflict(format!(
                "backup {sequence} of {}, which this one went on from, was forgotten and pruned meanwhile",
                session.volume.name
            ))
            .help("run the backup again; what it uploaded is found and not uploaded twice")
            .caused_by(error),
            _ => error,
        }
    }

    pub(super) fn manifest_of(&self, parent: Option<&SnapshotEntry>) -> Result<Arc<Manifest>> {
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

    pub(super) async fn volume(
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
                if let Err(e) = cpu::block(move || frozen.committed()).await {
                    self.note(format!("older snapshots of the source could not be removed: {e}"));
                }
            }
            Err(_) => {
                let frozen = Arc::clone(&frozen);
                if let Err(e) = cpu::block(move || frozen.discard()).await {
                    self.note(format!("the snapshot made for this backup could not be removed: {e}"));
                }
            }
        }
        let mut report = result?;
        report.notes = std::mem::take(&mut self.notes);
        Ok(report)
    }

    pub(super) async fn freeze(
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
        let parent = ground.compared_with().filter(|_| same && !due && !self.options.full);
        let request =
            FreezeRequest { own_name, own_prefix, parent: parent.and_then(|p| p.snapshot.point.clone()) };
        let frozen: Arc<dyn Frozen> = cpu::block(move || volume.freeze(&request)).await?.into();
        for note in frozen.notes() {
            self.note(note);
        }
        Ok(frozen)
    }

    pub(super) async fn frozen(
        &mut self,
        session: &Session,
        ground: &Ground,
        frozen: &Arc<dyn Frozen>,
    ) -> Result<BackupReport> {
        let passed = match self.check_frozen_size(ground, frozen) {
            Ok(()) => self.passes(ground, frozen).await,
            Err(e) => Err(e),
        };
        let checked = Arc::clone(frozen);
        match (passed, cpu::block(move || checked.check()).await) {
            (Ok(pass), Ok(())) => self.commit(session, ground, pass, frozen.point(), frozen.layout()).await,
            // A source that went away is why it could not be read.
            (Err(e), Err(gone)) if gone.kind() == ErrorKind::Conflict => Err(gone.caused_by(e)),
            (Err(e), _) | (_, Err(e)) => Err(e),
        }
    }

    /// Reads what changed; all, when that was found to be wrong.
    async fn passes(&mut self, ground: &Ground, frozen: &Arc<dyn Frozen>) -> Result<Pass> {
        if let Some(pass) = self.pass(ground, frozen, None).await? {
            return Ok(pass);
        }
        let all = self.pass(ground, frozen, Some(everything(frozen)?)).await?;
        all.ok_or_else(|| Error::internal("a full read was found to miss changes"))
    }

    /// Reads what changed, or `all`. `None` when the source was found to have missed changes.
    pub(super) async fn pass(
        &mut self,
        ground: &Ground,
        frozen: &Arc<dyn Frozen>,
        all: Option<Changes>,
    ) -> Result<Option<Pass>> {
        // A source that was found wrong is read, and nothing else is asked of it.
        let base = frozen.base_reader().filter(|_| all.is_none());
        let changes = match all {
            Some(all) => all,
            None => {
                self.progress.phase("finding what changed", None);
                let frozen = Arc::clone(frozen);
                cpu::block(move || frozen.changes()).await?
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
            Unlisted::Unchanged => ground.must_read(geometry).await?,
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
            forbidden: Arc::clone(&ground.forbidden),
            deltas: base.zip(self.delta_depth_max()).map(|(base, depth_max)| Deltas { base, depth_max }),
        };
        let changed_bytes = extents.iter().map(|e| e.length_bytes).sum();
        let pass = self.carry_out(ground, plan, frozen.check_command()).await?;
        let sample_cursor = sample.next_cursor;
        Ok(pass.map(|pass| Pass { full_read, changed_bytes, sample_cursor, ..pass }))
    }

    pub(super) async fn carry_out(
        &mut self,
        ground: &Ground,
        plan: VolumePlan,
        check_command: Option<String>,
    ) -> Result<Option<Pass>> {
        let (geometry, read_bytes) = (plan.geometry, plan.read_bytes());
        let encoder = self.encoder(ground).await?;
        let builder = (!ground.dry_run).then(|| {
            let (before, forbidden) = (Arc::clone(&ground.before), Arc::clone(&ground.forbidden));
            ManifestBuilder::new(before, geometry, ground.generation, forbidden)
        });
        self.progress.phase("backing up", Some(plan.total_bytes()));
        let mut assembler =
            Assembler::new(self.project, Arc::clone(&encoder), builder, Arc::clone(&self.progress));
        let budget = Budget::new(self.options.inflight_bytes, geometry.chunk_size_bytes);
        let mut cancel = self.cancel.clone();
        volume::run(Arc::new(plan), encoder, budget, &mut assembler, &mut cancel).await?;
        if let Some(distrust) = assembler.distrust {
            let check = check_command.map(|command| format!(" (`{command}`)")).unwrap_or_default();
            self.note(why_distrusted(distrust, ground, geometry, &check));
            return Ok(None);
        }
        assembler.stats.read_bytes = read_bytes.min(geometry.size_bytes);
        self.finish(assembler, geometry).await.map(Some)
    }

    pub(super) async fn finish(&mut self, assembler: Assembler, geometry: Geometry) -> Result<Pass> {
        self.progress.phase("writing the manifest", None);
        self.lost.kept_hurt_chunks = assembler.kept_lost;
        let (root, stats) = assembler.finish().await?;
        Ok(Pass { root, geometry, stats, full_read: true, changed_bytes: 0, sample_cursor: 0 })
    }

    pub(super) async fn encoder(&self, ground: &Ground) -> Result<Arc<Encoder>> {
        let (level, check) = (self.options.level, self.options.check_encoding);
        let forbidden = Arc::clone(&ground.forbidden);
        let encoder = Encoder::new(self.project, ground.generation, level, check, forbidden);
        if ground.learn {
            encoder.learn_live().await?;
            encoder.learn_stored().await?;
        }
        Ok(Arc::new(encoder))
    }

    /// How deep deltas may be; `None` where there are to be none.
    pub(super) fn delta_depth_max(&self) -> Option<u8> {
        let allowed = self.project.repository().record().delta_depth_max;
        Some(allowed).filter(|depth| *depth > 0 && !self.options.no_delta)
    }

    pub(super) fn note(&mut self, note: String) {
        self.progress.warn(&note);
        self.notes.push(note);
    }
}

/// A backup that has been under way for longer than a night is nothing that one may go on relying on.
const IN_PROGRESS_MAX: Duration = Duration::from_secs(24 * 60 * 60);

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

/// Somebody ended this backup as aborted.
pub(super) fn lost(session: &Session, by: &str, reason: &str) -> Error {
    Error::conflict(format!(
        "backup {} of {} was aborted by {by}: {reason}",
        session.sequence, session.volume.name
    ))
    .help("run the backup again; what it uploaded is found and not uploaded twice")
}

/// `check` names the command that checks the source, in brackets.
fn why_distrusted(distrust: Distrust, ground: &Ground, geometry: Geometry, check: &str) -> String {
    match distrust {
        Distrust::Missed(index) => format!(
            "THE SOURCE MISSED A CHANGE: the chunk at offset {} differs from the last backup, but was not reported as \
             changed. Reading all of the volume. Check the source{check}; for known causes see Ceph's trackers 61616, \
             53784 and 63770",
            geometry.offset_bytes(index)
        ),
        Distrust::Base(index) => {
            let snapshot = ground.parent.as_ref().map(|p| &p.snapshot);
            let (sequence, point) = match snapshot {
                Some(s) => (s.sequence.0, s.point.as_ref().map_or("", |p| &p.name)),
                None => (0, ""),
            };
            format!(
                "THE BASE IS NOT WHAT WAS BACKED UP: the chunk at offset {} of the source's snapshot {point} differs from \
                 backup {sequence}, which was read from it. Either that backup or one before missed a change, and holds an \
                 older state there, or the snapshot was tampered with. Reading all of the volume, against no base. Check \
                 the source{check}, and who may write to it",
                geometry.offset_bytes(index)
            )
        }
    }
}

/// All of the volume, for when what the source says cannot be trusted.
fn everything(frozen: &Arc<dyn Frozen>) -> Result<Changes> {
    let length_bytes = frozen.reader().size_bytes();
    Ok(Changes::All(vec![Extent { offset_bytes: 0, length_bytes, content: Content::Data }]))
}
