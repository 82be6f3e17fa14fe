//! One run of a backup against the protocol: register, then exactly one outcome (repo-format.md §8.1).

use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::record::{EndRecord, OpenRecord, Outcome, Snapshot, VolumeRecord};
use crate::keys::random_array;
use crate::repo::forbidden::Forbidden;
use crate::repo::log::{SnapshotEntry, VolumeLog};
use crate::repo::project::missing;
use crate::repo::{PROGRAM, Project};
use crate::store::Created;
use crate::units::{Generation, Sequence, SnapshotId};

/// How often a registration is begun anew because the generation changed meanwhile.
const REGISTRATIONS_MAX: usize = 16;
/// How many sequences a registration tries beyond what a listing showed, before it lists again.
const SEQUENCES_AHEAD_MAX: usize = 64;

/// A registered backup.
pub struct Session {
    pub project: Project,
    pub volume: VolumeRecord,
    pub sequence: Sequence,
    pub snapshot_id: SnapshotId,
    /// The generation that all its new objects lie in.
    pub generation: Generation,
    /// What it may not reference.
    pub forbidden: Forbidden,
    /// The log as it was listed after the registration.
    pub log: VolumeLog,
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    Done,
    /// The session was to be aborted, but its own commit had landed.
    Before,
    /// Somebody aborted the session first, and says why.
    Lost {
        by: String,
        reason: String,
    },
}

impl Session {
    /// Registers a backup of a volume (steps 1 to 3).
    pub async fn register(project: &Project, volume: &VolumeRecord) -> Result<Self> {
        for _ in 0..REGISTRATIONS_MAX {
            let before = project.gc_state().await?;
            let log = project.log(volume.number).await?;
            let mut session = Self::open(project, volume, log, before.generation).await?;
            match session.confirm().await {
                Ok(true) => return Ok(session),
                Ok(false) => session.abort("a prune round began while the backup registered").await?,
                Err(error) => {
                    // Nobody else would know for long that it came to nothing.
                    if let Err(e) = session.abort(&error.to_string()).await {
                        tracing::warn!(error = %e, "backup {} could not be marked as aborted", session.sequence);
                    }
                    return Err(error);
                }
            };
        }
        Err(Error::unavailable(format!("prune rounds began {REGISTRATIONS_MAX} times during registration"))
            .help("run the backup again"))
    }

    /// Looks at the generation again, and at what must not be referenced (step 3). False when it changed.
    async fn confirm(&mut self) -> Result<bool> {
        let state = self.project.confirmed_gc_state().await?;
        if state.generation != self.generation {
            return Ok(false);
        }
        let condemned = self.project.condemned(&state).await?;
        let lost = self.project.read_lost(state.lost).await?;
        self.forbidden = Forbidden::new(self.generation, condemned, lost);
        Ok(true)
    }

    async fn open(
        project: &Project,
        volume: &VolumeRecord,
        log: VolumeLog,
        generation: Generation,
    ) -> Result<Self> {
        let environment = &project.repository().environment;
        let record = OpenRecord {
            snapshot_id: SnapshotId(random_array()?),
            generation,
            host: environment.host.clone(),
            machine: environment.machine.clone(),
            process: environment.process,
            program: PROGRAM.to_owned(),
            started_unix_ms: environment.clock.now_unix_ms(),
        };
        let mut sequence = log.last();
        for _ in 0..SEQUENCES_AHEAD_MAX {
            sequence = Sequence(sequence.0.checked_add(1).ok_or_else(|| {
                Error::unsupported(format!("the log of volume {} is full", volume.name))
                    .help("back the volume up under another name with --volume")
            })?);
            let name = ObjectName::Open(project.name().clone(), volume.number, sequence);
            // Taken by another host, or hidden by a short listing: the next one then. Numbers stay without gaps.
            if let Created::New = project.create_record(&name, &record).await? {
                return Ok(Self {
                    project: project.clone(),
                    volume: volume.clone(),
                    sequence,
                    snapshot_id: record.snapshot_id,
                    generation,
                    forbidden: Forbidden::default(),
                    log,
                });
            }
        }
        Err(Error::unavailable(format!(
            "no free sequence after {} in the log of {}",
            log.last(),
            volume.name
        ))
        .help("the store's listing is far behind; try again later"))
    }

    /// The newest live snapshot of the volume, confirmed live now, that is after the registration (step 4).
    pub async fn parent(&self) -> Result<Option<SnapshotEntry>> {
        for (sequence, entry) in self.log.candidates() {
            if sequence >= self.sequence {
                continue;
            }
            let Some(found) = self.project.outcome(&self.volume, sequence, entry).await? else { continue };
            if !self.project.is_forgotten(self.volume.number, sequence).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Makes the snapshot exist (step 6). Everything it references must be durable by now.
    pub async fn commit(&self, snapshot: Snapshot) -> Result<Committed> {
        self.end(Outcome::Committed(Box::new(snapshot))).await
    }

    /// Gives the session up. That another abort was first is not an error. Whether the session's own commit was, whose
    /// answer got lost, is told: then the snapshot stands.
    pub async fn abort(&self, reason: &str) -> Result<bool> {
        Ok(matches!(self.give_up(reason).await?, Committed::Before))
    }

    /// As [`abort`](Self::abort), and tells who was first.
    pub async fn give_up(&self, reason: &str) -> Result<Committed> {
        let by = self.project.repository().environment.host.clone();
        let aborted = Outcome::Aborted { by, reason: reason.to_owned() };
        self.end(aborted).await
    }

    async fn end(&self, outcome: Outcome) -> Result<Committed> {
        let name = ObjectName::End(self.project.name().clone(), self.volume.number, self.sequence);
        let record = EndRecord { snapshot_id: self.snapshot_id, outcome };
        if let Created::New = self.project.create_record(&name, &record).await? {
            let memory = &self.project.repository().memory;
            memory.saw_sequence(self.project.name(), self.volume.number, self.sequence);
            // The outcome stands, whatever this host can write down about it.
            if let Err(error) = memory.save() {
                tracing::warn!(%error, "what this host remembers of the repository could not be saved");
            }
            return Ok(Committed::Done);
        }
        // Settled by reading it back: a retry may have met its own success.
        let found: EndRecord = self.project.read_record(&name).await?.ok_or_else(|| missing(&name))?;
        match found.outcome {
            _ if found == record => Ok(Committed::Done),
            Outcome::Aborted { by, reason } => Ok(Committed::Lost { by, reason }),
            Outcome::Committed(_) if found.snapshot_id == self.snapshot_id => Ok(Committed::Before),
            Outcome::Committed(_) => {
                Err(Error::corrupt(format!("{name} holds the outcome of another backup")))
            }
        }
    }

    /// Aborts older sessions of this volume that this very machine began and whose process is dead: their outcome is
    /// settled at once, instead of after a lease. Returns their sequences.
    pub async fn settle_dead(&self) -> Result<Vec<Sequence>> {
        let environment = &self.project.repository().environment;
        let mut settled = Vec::new();
        let unfinished: Vec<Sequence> = self.log.unfinished().filter(|s| *s < self.sequence).collect();
        for sequence in unfinished {
            let name = ObjectName::Open(self.project.name().clone(), self.volume.number, sequence);
            let Some(open) = self.project.read_record::<OpenRecord>(&name).await? else { continue };
            let mine = open.machine == environment.machine && !environment.machine.is_empty();
            if mine && open.process != environment.process && !(environment.is_process_alive)(open.process) {
                let end = ObjectName::End(self.project.name().clone(), self.volume.number, sequence);
                let outcome = Outcome::Aborted {
                    by: environment.host.clone(),
                    reason: format!("its process {} on {} is dead", open.process, open.host),
                };
                // Whoever creates the outcome first decides; either way it is settled.
                self.project
                    .create_record(&end, &EndRecord { snapshot_id: open.snapshot_id, outcome })
                    .await?;
                settled.push(sequence);
            }
        }
        Ok(settled)
    }
}
