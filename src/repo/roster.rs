//! What the newest seal says of the volumes' logs: which sequences are over for good (repo-format.md §8.2).
//!
//! What a seal proves: it is a record that opened, and the round that it is of had read every log, confirmed. What it calls over is
//! over for ever, so any seal may be gone by, and an older one only says less. Who reads may therefore go by the one that this
//! process saw first, and by none where none opens. Who registers must not: it goes by the seal that its own generation leads to, as
//! by that and older ones, and by no other, prunes clean up while it is at work (§8.1, step 3).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::gc::RosterPart;
use crate::format::roster::{self, RosterEntry};
use crate::repo::Project;
use crate::repo::found::Found;
use crate::repo::rounds::{NewestRound, Rounds, Stage};
use crate::units::{Generation, Sequence, VolumeNumber};

/// The roster of one seal. Its parts are read when they are asked for, each once.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    /// The sealed round; 0 for none.
    pub(crate) seal: Generation,
    parts: Vec<RosterPart>,
    read: Mutex<BTreeMap<VolumeNumber, Arc<Vec<RosterEntry>>>>,
    /// Nothing was cleaned up by this seal yet: where a part of it does not open, the seal before says enough.
    falls_back: bool,
}

impl Roster {
    /// What it says of one volume: nothing of those that came later.
    pub(crate) async fn entry(&self, project: &Project, volume: VolumeNumber) -> Result<Option<RosterEntry>> {
        let at = self.parts.partition_point(|part| part.last_volume < volume);
        if at == self.parts.len() {
            return Ok(None);
        }
        let part = match self.part(project, at).await {
            Err(e) if self.falls_back && e.kind() == ErrorKind::Corrupt => {
                tracing::warn!("{e}: the seal before is gone by instead");
                let before = Box::pin(project.rounds().roster_before(self.seal)).await?;
                return Box::pin(before.entry(project, volume)).await;
            }
            part => part?,
        };
        Ok(part.iter().find(|entry| entry.volume == volume).cloned())
    }

    /// What it says of all volumes, ascending.
    pub(crate) async fn all(&self, project: &Project) -> Result<Vec<RosterEntry>> {
        let mut all = Vec::new();
        for at in 0..self.parts.len() {
            all.extend_from_slice(&self.part(project, at).await?);
        }
        Ok(all)
    }

    async fn part(&self, project: &Project, at: usize) -> Result<Arc<Vec<RosterEntry>>> {
        let RosterPart { last_volume, part } = self.parts[at];
        if let Some(read) = self.read().get(&last_volume) {
            return Ok(Arc::clone(read));
        }
        let parts = project.parts(self.seal);
        let after = at.checked_sub(1).map_or(VolumeNumber(0), |before| self.parts[before].last_volume);
        let Some(plain) = parts.read(&part).await? else {
            return Err(Error::corrupt(format!("{}, a part of what was sealed, is missing", parts.name(part.id)))
                .help("run the same command again: a prune may have ended meanwhile; if that does not help, see `cuttle verify`"));
        };
        let entries =
            roster::decode(&plain, part.entries, after, last_volume).context(parts.name(part.id))?;
        let entries = Arc::new(entries);
        self.read().insert(last_volume, Arc::clone(&entries));
        Ok(entries)
    }

    /// Never held over a request.
    fn read(&self) -> MutexGuard<'_, BTreeMap<VolumeNumber, Arc<Vec<RosterEntry>>>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rounds<'_> {
    /// What a session of the newest generation goes by.
    ///
    /// # Errors
    /// `Corrupt` where neither the seal opens nor one that would do.
    pub(crate) async fn roster(self, rounds: &NewestRound) -> Result<Roster> {
        match &rounds.stage {
            Stage::Over { last_seal } => self.roster_of(*last_seal, true).await,
            Stage::Begun(begin) => self.roster_of(begin.last_seal, false).await,
            Stage::Unreadable(_) => {
                self.roster_of(self.preceding(rounds.newest).await?.last_seal, false).await
            }
        }
    }

    /// What one seal says. `falls_back`: whether the one before it does as well.
    pub(crate) async fn roster_of(self, seal: Generation, falls_back: bool) -> Result<Roster> {
        if seal == Generation(0) {
            return Ok(Roster::default());
        }
        let why = match self.look_seal(seal).await? {
            Found::Opens(found) => {
                return Ok(Roster { seal, parts: found.roster, falls_back, ..Roster::default() });
            }
            Found::Absent => "is gone".to_owned(),
            Found::Foreign(why) => format!("does not open: {why}"),
        };
        let name = ObjectName::GcSeal(self.project.name().clone(), seal);
        if falls_back {
            tracing::warn!("{name} {why}: the seal before is gone by instead");
            return Box::pin(self.roster_before(seal)).await;
        }
        Err(Error::corrupt(format!("{name}, which says what is over, {why}")).help(
            "bring it back from a copy or from the bucket's older versions, or put it aside with `cuttle verify --quarantine`",
        ))
    }

    /// The roster of a seal that was read.
    pub(crate) fn roster_said(self, seal: Generation, parts: &[RosterPart]) -> Roster {
        Roster { seal, parts: parts.to_vec(), ..Roster::default() }
    }

    async fn roster_before(self, seal: Generation) -> Result<Roster> {
        match self.look_begin(seal).await? {
            Found::Opens(begin) => self.roster_of(begin.last_seal, false).await,
            _ => Err(Error::corrupt(format!(
                "{}, which says what was sealed before, does not open",
                self.begin_name(seal)
            ))),
        }
    }
}

/// Which roster a process goes by where it only reads.
#[derive(Debug, Default)]
pub(super) enum Known {
    #[default]
    Nothing,
    /// A round said that this one was sealed last.
    Sealed(Generation),
    Read(Arc<Roster>),
}

/// The rosters of a project, for who reads.
#[derive(Clone, Copy)]
pub(crate) struct Rosters<'a> {
    pub(super) project: &'a Project,
}

impl Rosters<'_> {
    /// What a seal says of a volume: the newest that this process knows, and nothing where none opens.
    pub(crate) async fn entry(self, volume: VolumeNumber) -> Result<Option<RosterEntry>> {
        match self.strict(volume).await {
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                // Rounds that ended since took its parts away.
                if let Some(newer) = Box::pin(self.newer(volume)).await? {
                    return Ok(newer);
                }
                tracing::warn!("{e}");
                Ok(None)
            }
            found => found,
        }
    }

    async fn strict(self, volume: VolumeNumber) -> Result<Option<RosterEntry>> {
        let rounds = self.project.rounds();
        let sealed = match &*self.known() {
            Known::Read(roster) => Err(Arc::clone(roster)),
            Known::Sealed(seal) => Ok(Some(*seal)),
            Known::Nothing => Ok(None),
        };
        let roster = match sealed {
            Err(roster) => roster,
            Ok(Some(seal)) => self.keep(&Arc::new(rounds.roster_of(seal, true).await?)),
            Ok(None) => self.keep(&Arc::new(rounds.roster(&rounds.newest().await?).await?)),
        };
        roster.entry(self.project, volume).await
    }

    /// What the newest seal of all says of a volume, where that is another one than was gone by so far.
    pub(crate) async fn newer(self, volume: VolumeNumber) -> Result<Option<Option<RosterEntry>>> {
        let rounds = self.project.rounds();
        let newest = async { rounds.roster(&rounds.newest().await?).await }.await;
        let newest = match newest {
            // What hides rounds must not hide snapshots from who reads.
            Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(None),
            newest => Arc::new(newest?),
        };
        if matches!(&*self.known(), Known::Read(known) if known.seal >= newest.seal) {
            return Ok(None);
        }
        self.keep(&newest);
        self.entry(volume).await.map(Some)
    }

    /// Whether the newest seal of all says that a sequence is over.
    pub(crate) async fn is_past(self, volume: VolumeNumber, sequence: Sequence) -> Result<bool> {
        let known = match self.newer(volume).await? {
            Some(newer) => newer,
            None => self.entry(volume).await?,
        };
        Ok(known.is_some_and(|known| known.is_past(sequence)))
    }

    /// Who reads goes by this one from now on, unless a newer one is known; by which is returned. Not for who registers: it goes by
    /// its own generation's, and whether the one before would do, too, is a matter of that generation.
    pub(crate) fn keep(self, roster: &Arc<Roster>) -> Arc<Roster> {
        let mut known = self.known();
        if let Known::Read(known) = &*known
            && known.seal >= roster.seal
        {
            return Arc::clone(known);
        }
        *known = Known::Read(Arc::clone(roster));
        Arc::clone(roster)
    }

    /// A round says that this one was sealed last: it is read when it is needed.
    pub(crate) fn heard(self, seal: Generation) {
        let mut known = self.known();
        if let Known::Nothing = *known {
            *known = Known::Sealed(seal);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.project.known_roster().lock().unwrap_or_else(PoisonError::into_inner)
    }
}
