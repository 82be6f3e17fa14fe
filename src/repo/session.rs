//! One run of a backup against the protocol: register, then exactly one outcome (repo-format.md §8.1).

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::record::{EndRecord, OpenRecord, Outcome, Snapshot, VolumeRecord};
use crate::format::roster::RosterEntry;
use crate::keys::random_array;
use crate::plan::lease::Signs;
use crate::repo::forbidden::Forbidden;
use crate::repo::found::Found;
use crate::repo::history::SnapshotEntry;
use crate::repo::kept::{Kept, Read};
use crate::repo::log::VolumeLog;
use crate::repo::memory::SeenSnapshot;
use crate::repo::project::missing;
use crate::repo::roster::Roster;
use crate::repo::row;
use crate::repo::{PROGRAM, Writer};
use crate::store::Created;
use crate::units::{Generation, Sequence, SnapshotId};

/// How often a registration is begun anew because the generation changed meanwhile.
const REGISTRATIONS_MAX: usize = 16;
/// How many sequences a registration tries beyond what a listing showed, before it lists again.
const SEQUENCES_AHEAD_MAX: usize = 64;
/// A session that gave no sign of life for so long is nobody's rival: three that it should have given by then are missing.
const SILENT_MAX: Duration = Duration::from_secs(90 * 60);

/// A registered backup.
pub struct Session {
    /// Whose project it is; it can create, and delete nothing.
    pub project: Writer,
    /// The volume's entry in the catalog.
    pub volume: VolumeRecord,
    /// The number that it registered.
    pub sequence: Sequence,
    /// Random: it tells this session from any other under the same number.
    pub snapshot_id: SnapshotId,
    /// The generation that all its new objects lie in.
    pub generation: Generation,
    /// What it may not reference.
    pub forbidden: Forbidden,
    /// The log as it was listed after the registration.
    pub log: VolumeLog,
    /// What is over for good, by the seal that its generation leads to.
    pub(super) roster: Arc<Roster>,
    /// See [`Read::recalls_by`].
    recalls_by: Option<Generation>,
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// It is durable: the snapshot is there.
    Done,
    /// The session was to be aborted, but its own commit had landed.
    Already,
    /// Somebody aborted the session first, and says why.
    Lost {
        /// What the `.end` that stands says of who wrote it.
        by: String,
        /// Why it was aborted, for people.
        reason: String,
    },
}

/// A live session of the same volume that was there first.
#[derive(Debug, Clone)]
pub struct Rival {
    /// Its number within the volume, lower than ours.
    pub sequence: Sequence,
    /// The name of its host, for people.
    pub host: String,
    /// Its process id on that host, for people.
    pub process: u32,
    /// Since its registration, by the store's clock.
    pub for_how_long: Duration,
}

/// Nobody can tell what is still whole of what was forgotten.
fn unknown(why: &str) -> Error {
    Error::conflict(format!("nothing can be recalled now: the last seal of a prune {why}"))
        .help("copies of the bucket and its older versions may have what was forgotten: docs/roles.md, \"Undo deletions\"")
}

impl Session {
    /// Registers a backup of a volume (steps 1 to 3).
    pub async fn register(project: &Writer, volume: &VolumeRecord) -> Result<Self> {
        Self::register_among(project, volume, &Kept::default()).await
    }

    /// As [`register`](Self::register), one of many in this process: what was read for another is not read again.
    pub async fn register_among(project: &Writer, volume: &VolumeRecord, kept: &Kept) -> Result<Self> {
        for _ in 0..REGISTRATIONS_MAX {
            let read = kept.read(project).await?;
            // By no other seal: above its high water no number was ever given, and below it none counts.
            let known = match read.roster.entry(project, volume.number).await {
                // Rounds that ended since took a part of it away: there is a newer one.
                Err(e)
                    if e.kind() == ErrorKind::Corrupt
                        && !project.rounds().is_newest(read.generation).await? =>
                {
                    kept.forget();
                    continue;
                }
                known => known?,
            };
            let log = project.log(volume.number).read_by(known).await?;
            let session = Self::open(project, volume, log, &read).await?;
            match session.project.rounds().is_newest(session.generation).await {
                Ok(true) => return Ok(session),
                Ok(false) => {
                    kept.forget();
                    session.abort("a prune round began while the backup registered").await?
                }
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

    async fn open(project: &Writer, volume: &VolumeRecord, log: VolumeLog, read: &Read) -> Result<Self> {
        let environment = &project.repository().environment;
        let record = OpenRecord {
            snapshot_id: SnapshotId(random_array()?),
            generation: read.generation,
            host: environment.host.clone(),
            machine: environment.machine.clone(),
            process: environment.process,
            program: PROGRAM.to_owned(),
            started_unix_ms: environment.clock.now_unix_ms(),
        };
        // Where something else stands under a number that nobody registered, it cannot be used. It is registered all the same: whoever confirms where a log
        // ends asks for the next registration alone, and must come to ours.
        let taken = log.entries.range(log.last_registered()..).map(|(s, _)| *s);
        for sequence in taken.filter(|s| *s > log.last_registered()) {
            Self::pass_by(project, volume, sequence, &record).await?;
        }
        let mut sequence = log.last();
        for _ in 0..SEQUENCES_AHEAD_MAX {
            sequence = Sequence(sequence.0.checked_add(1).ok_or_else(|| {
                Error::unsupported(format!("the log of volume {} is full", volume.name))
                    .help("back the volume up under another name with --volume")
            })?);
            let name = project.slot(volume.number, sequence).open_name();
            // Taken by another host, hidden by a short listing, or by what does not open: the next one then. Numbers stay
            // without gaps.
            if let Created::New = project.create_record(&name, &record).await? {
                project.repository().memory.saw_sequence(project.name(), volume.number, sequence);
                return Ok(Self {
                    project: project.clone(),
                    volume: volume.clone(),
                    sequence,
                    snapshot_id: record.snapshot_id,
                    generation: read.generation,
                    forbidden: read.forbidden(),
                    log,
                    roster: Arc::clone(&read.roster),
                    recalls_by: read.recalls_by,
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

    /// Registers a number under which something stands, by the id of the outcome that stands there; and ends it, where nothing says how.
    async fn pass_by(
        project: &Writer,
        volume: &VolumeRecord,
        sequence: Sequence,
        record: &OpenRecord,
    ) -> Result<()> {
        let slot = project.slot(volume.number, sequence);
        let end = project.look::<EndRecord>(&slot.end_name()).await?;
        let snapshot_id = match end.opened() {
            Some(end) => end.snapshot_id,
            None => SnapshotId(random_array()?),
        };
        let passed = OpenRecord { snapshot_id, ..record.clone() };
        if let Created::New = project.create_record(&slot.open_name(), &passed).await? {
            let why = "something else stood under its number";
            slot.end_as_aborted(snapshot_id, why.to_owned()).await?;
        }
        Ok(())
    }

    /// The newest live snapshot of the volume, confirmed live now, that is after the registration (step 4).
    pub async fn parent(&self) -> Result<Option<SnapshotEntry>> {
        for (sequence, _) in self.log.candidates() {
            if let Some(found) = self.live(sequence).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// A snapshot from before the registration, where it is confirmed live now, after it. An outcome that does not open is
    /// nothing to go on from, and an older snapshot is as good.
    pub async fn live(&self, sequence: Sequence) -> Result<Option<SnapshotEntry>> {
        let candidate = self.log.candidates().find(|(s, _)| *s == sequence && *s < self.sequence);
        let Some((_, entry)) = candidate else { return Ok(None) };
        let found = self.project.history(&self.volume).outcome_if_any(sequence, entry).await?;
        let Some(found) = found else { return Ok(None) };
        if self.project.slot(self.volume.number, sequence).is_forgotten().await? {
            return Ok(None);
        }
        if found.snapshot.generation > self.generation {
            return Err(Error::corrupt(format!(
                "{}@{sequence} was made in generation {}, and prune rounds end at {}: some are gone below gc/",
                self.volume.name, found.snapshot.generation, self.generation
            ))
            .help("bring the objects back from a copy or a bucket version; see `cuttle verify`"));
        }
        Ok(Some(found))
    }

    /// What the last seal says of the volume, and no other.
    async fn last_said(&self) -> Result<Option<RosterEntry>> {
        let seal = self.recalls_by.ok_or_else(|| unknown("was not the last round's"))?;
        if seal == Generation(0) {
            return Ok(None);
        }
        let rounds = self.project.rounds();
        match rounds.look_seal(seal).await? {
            Found::Opens(said) if said.copied => Err(unknown("repeats what another seal said")),
            Found::Opens(said) => {
                rounds.roster_said(seal, &said.roster).entry(&self.project, self.volume.number).await
            }
            Found::Absent => Err(unknown("is gone")),
            Found::Foreign(why) => Err(unknown(&format!("does not open: {why}"))),
        }
    }

    /// Sequences that are forgotten, and that the seal which the session goes by does not call over.
    pub fn all_forgotten(&self) -> impl Iterator<Item = Sequence> {
        self.log.forgotten().map(|(s, _)| s).filter(|s| *s < self.sequence)
    }

    /// A forgotten snapshot from before the registration, of which no round that was sealed has deleted anything: the last seal keeps it, or it is newer than that. It goes by
    /// no other, as for who builds on what lives: one between, that does not open any more, may have given it up. What the round under way may delete,
    /// [`forbidden`](Self::forbidden) says.
    ///
    /// # Errors
    /// `Conflict` where the last seal does not open, or repeats what another said.
    pub async fn forgotten(&self, sequence: Sequence) -> Result<Option<SnapshotEntry>> {
        let entry = self.log.entries.get(&sequence).filter(|_| self.all_forgotten().any(|s| s == sequence));
        let Some(entry) = entry else { return Ok(None) };
        if self.last_said().await?.is_some_and(|said| said.is_past(sequence)) {
            return Ok(None);
        }
        let found = self.project.history(&self.volume).outcome(sequence, entry).await?;
        Ok(found.filter(|found| found.snapshot.generation <= self.generation))
    }

    /// A live session of the volume that registered before this one. Of any number that register at once, all but one have such
    /// a rival, and that one has none: numbers are given once, and without gaps.
    pub async fn rival(&self, settled: &[Sequence]) -> Result<Option<Rival>> {
        // A number that the listing did not show and that was taken all the same is that of a session which just began.
        let begun_since = (self.log.last().0.saturating_add(1)..self.sequence.0).map(Sequence);
        let others: Vec<Sequence> = self
            .log
            .unfinished()
            .filter(|s| *s < self.sequence && !settled.contains(s))
            .chain(begun_since)
            .collect();
        if others.is_empty() {
            return Ok(None);
        }
        let (project, volume) = (&self.project, self.volume.number);
        let store = &project.repository().store;
        let own = project.slot(volume, self.sequence).open_name();
        let Some(now) = store.head(&own.to_string()).await? else { return Ok(None) };
        for sequence in others {
            let name = project.slot(volume, sequence).open_name();
            let Some(begun) = store.head(&name.to_string()).await? else { continue };
            // Whoever cannot be heard is not waited for: rot and what was put there by others must not stop backups.
            let Found::Opens(open) = project.look::<OpenRecord>(&name).await? else { continue };
            let ended = project.look::<EndRecord>(&project.slot(volume, sequence).end_name()).await?.opens();
            if ended || project.slot(volume, sequence).is_forgotten().await? {
                continue;
            }
            let opened_unix_ms = begun.modified_unix_ms;
            let mut signs = Signs { opened_unix_ms, alive_unix_ms: None };
            if signs.is_expired(now.modified_unix_ms, SILENT_MAX) {
                signs.alive_unix_ms = self.newest_sign(sequence, open.snapshot_id).await?;
            }
            if signs.is_expired(now.modified_unix_ms, SILENT_MAX) {
                continue;
            }
            let for_how_long = Duration::from_millis(now.modified_unix_ms.saturating_sub(opened_unix_ms));
            return Ok(Some(Rival { sequence, host: open.host, process: open.process, for_how_long }));
        }
        Ok(None)
    }

    /// The time of a session's newest sign of life that was listed, and that opens.
    async fn newest_sign(&self, sequence: Sequence, of: SnapshotId) -> Result<Option<u64>> {
        let listed = self.log.signs.get(&sequence).into_iter().flatten().rev();
        for (k, at_unix_ms) in listed.take(row::FOREIGN_MAX as usize) {
            if self.project.slot(self.volume.number, sequence).look_sign(*k, Some(of)).await?.opens() {
                return Ok(Some(*at_unix_ms));
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
        Ok(matches!(self.give_up(reason).await?, Committed::Already))
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
        let created = match record.outcome {
            Outcome::Committed(_) => self.project.create_record(&name, &record).await?,
            // Else a prune of another host would wait for a backup that failed as the store is full.
            Outcome::Aborted { .. } => self.project.reserve().create_record(&name, &record).await?,
        };
        if let Created::New = created {
            if let Outcome::Committed(_) = record.outcome {
                self.project.log(self.volume.number).made(SeenSnapshot::new(self.sequence, self.snapshot_id));
            }
            return Ok(Committed::Done);
        }
        // Settled by reading it back: a retry may have met its own success.
        let found: EndRecord = match self.project.look(&name).await? {
            Found::Opens(found) => found,
            Found::Absent => return Err(missing(&name)),
            Found::Foreign(why) => {
                return Err(Error::corrupt(format!("{name}, where this backup ends, does not open: {why}"))
                    .help("run the backup again: it takes the next number, and what it uploaded is not uploaded twice"));
            }
        };
        match found.outcome {
            _ if found == record => Ok(Committed::Done),
            Outcome::Aborted { by, reason } => Ok(Committed::Lost { by, reason }),
            Outcome::Committed(_) if found.snapshot_id == self.snapshot_id => Ok(Committed::Already),
            Outcome::Committed(_) => {
                Err(Error::corrupt(format!("{name} holds the outcome of another backup")))
            }
        }
    }

    /// Aborts older sessions of this volume that this very machine began and whose process is dead: their outcome is
    /// settled at once, instead of after a lease. Returns their sequences.
    pub async fn settle_dead(&self) -> Result<Vec<Sequence>> {
        let mut settled = Vec::new();
        let unfinished: Vec<Sequence> = self.log.unfinished().filter(|s| *s < self.sequence).collect();
        for sequence in unfinished {
            let name = self.project.slot(self.volume.number, sequence).open_name();
            // One that does not open is left to a prune.
            let Found::Opens(open) = self.project.look::<OpenRecord>(&name).await? else { continue };
            if let Some(reason) = self.project.repository().environment.is_dead(&open) {
                // Whoever creates the outcome first decides; either way it is settled.
                self.project
                    .slot(self.volume.number, sequence)
                    .end_as_aborted(open.snapshot_id, reason)
                    .await?;
                settled.push(sequence);
            }
        }
        Ok(settled)
    }
}
