//! What one process that backs up many volumes need not ask again for each of them: the generation, what its round condemns, what
//! is known to be lost, and which sequences a seal says are over (repo-format.md §8.1).
//!
//! Why this may be older than a session's registration:
//!
//! - **The generation** is only where step 1 begins. A session that took an old one is told by step 3, whose request is made for each
//!   session, after its registration, and never answered from here: the next number's `begin` must not be there.
//! - **What a round condemns** never changes once it was read, and matters only to sessions of the round's own generation, which they
//!   confirmed. A round that is over meanwhile deletes nothing any more: then what is kept says too much, which costs uploads.
//! - **What is over** is so for ever; but what is not over is recalled only together with what the same reading says is condemned. The seal that a session must go by follows from its generation alone: later ones are not cleaned
//!   up by before the session is over.
//! - **What is lost** decides what is stored again, never what is deleted: a record too many costs uploads, and what the newest record
//!   would have said is found by whoever looks next (§8.6).
//!
//! A listing of rounds also shows what stands beyond a gap, which no request for the next number does. So whatever is kept is read anew
//! after a minute: a few requests in a minute for all volumes together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Result;
use crate::format::gc::Condemned;
use crate::repo::Project;
use crate::repo::forbidden::Forbidden;
use crate::repo::lost::Lost;
use crate::repo::roster::Roster;
use crate::repo::rounds::{NewestRound, Stage};
use crate::units::Generation;

/// How long it is good, by this process's monotonic clock: nothing that is safe rests on it.
const GOOD_FOR: Duration = Duration::from_secs(60);

/// What sessions of one process and project share. Cheap to make; each knows of nothing at first.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Option<Read>>);

#[derive(Debug, Clone)]
pub(super) struct Read {
    at: Instant,
    pub(super) generation: Generation,
    condemned: Arc<Condemned>,
    lost: Arc<Lost>,
    pub(super) roster: Arc<Roster>,
    /// The seal by which forgotten snapshots are recalled, as far as it opens: that of this generation, or where its round is under way, of the one
    /// before. Where another was sealed last, one between may have given up what that keeps. `None`: by none.
    pub(super) recalls_by: Option<Generation>,
}

impl Read {
    /// What a session of its generation may not reference.
    pub(super) fn forbidden(&self) -> Forbidden {
        Forbidden::sharing(self.generation, Arc::clone(&self.condemned), Arc::clone(&self.lost))
    }
}

impl Kept {
    /// What a registration goes by, as it is kept or is read now. That nothing follows its generation is for the session to confirm.
    pub(super) async fn read(&self, project: &Project) -> Result<Read> {
        let seen = project.repository().memory.generation(project.name());
        // What this process began or saw since is newer.
        if let Some(read) = self.fresh().filter(|read| read.generation >= seen) {
            return Ok(read);
        }
        self.fill(project, &project.rounds().newest().await?).await
    }

    /// Reads what the newest round condemns, what is over and what is lost, and keeps it. Only what opens is kept.
    async fn fill(&self, project: &Project, rounds: &NewestRound) -> Result<Read> {
        let at = Instant::now();
        let generation = rounds.newest;
        let roster = Arc::new(project.rounds().roster(rounds).await?);
        project.rosters().keep(&roster);
        let condemned = Arc::new(project.rounds().condemned(rounds).await?);
        let lost = Arc::new(project.lost_records().read().await?);
        let recalls_by = match &rounds.stage {
            Stage::Over { last_seal } => Some(*last_seal).filter(|seal| *seal == generation),
            Stage::Begun(begin) => {
                Some(begin.last_seal).filter(|seal| seal.0.saturating_add(1) == generation.0)
            }
            Stage::Unreadable(_) => None,
        };
        let read = Read { at, generation, condemned, lost, roster, recalls_by };
        if let Stage::Unreadable(why) = &rounds.stage {
            let name = project.rounds().begin_name(generation);
            tracing::warn!(
                "{name} does not open ({why}), so nobody can tell what a prune may delete: what older generations hold is \
                 uploaded again. The next prune sets this right"
            );
            *self.kept() = None;
        } else {
            *self.kept() = Some(read.clone());
        }
        Ok(read)
    }

    /// What is condemned and lost, for who references nothing.
    pub(crate) async fn look(&self, project: &Project) -> Result<Forbidden> {
        match self.fresh() {
            Some(read) => Ok(read.forbidden()),
            None => Ok(self.fill(project, &project.rounds().newest().await?).await?.forbidden()),
        }
    }

    /// The next who asks reads it anew.
    pub(crate) fn forget(&self) {
        *self.kept() = None;
    }

    /// Never held over a request: no volume waits for another's.
    fn kept(&self) -> MutexGuard<'_, Option<Read>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> Option<Read> {
        self.kept().clone().filter(|read| read.at.elapsed() < GOOD_FOR)
    }
}
