//! What one process that backs up many volumes need not ask again for each of them: the generation, what its round condemns, and
//! what is known to be lost (repo-format.md §8.1).
//!
//! Why this may be older than a session's registration:
//!
//! - **The generation** is only where step 1 begins. A session that took an old one is told by step 3, whose request is made for each
//!   session, after its registration, and never answered from here: the next number's `begin` must not be there.
//! - **What a round condemns** never changes once it was read, and matters only to sessions of the round's own generation, which they
//!   confirmed. A round that is over meanwhile deletes nothing any more: then what is kept says too much, which costs uploads.
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
use crate::repo::rounds::{NewestRound, Stage};
use crate::units::Generation;

/// How long it is good, by this process's monotonic clock: nothing that is safe rests on it.
const GOOD_FOR: Duration = Duration::from_secs(60);

/// What sessions of one process and project share. Cheap to make; each knows of nothing at first.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Option<Read>>);

#[derive(Debug, Clone)]
struct Read {
    at: Instant,
    generation: Generation,
    condemned: Arc<Condemned>,
    lost: Arc<Lost>,
}

impl Kept {
    /// Where a registration may begin.
    pub(super) fn generation(&self, project: &Project) -> Option<Generation> {
        let generation = self.read()?.generation;
        // What this process began or saw since is newer.
        (generation >= project.repository().memory.generation(project.name())).then_some(generation)
    }

    /// What a session of a generation may not reference, where that is known. The session has confirmed its generation.
    pub(super) fn forbidden(&self, generation: Generation) -> Option<Forbidden> {
        let Read { condemned, lost, .. } = self.read().filter(|read| read.generation == generation)?;
        Some(Forbidden::sharing(generation, condemned, lost))
    }

    /// Reads what the newest round condemns and what is lost, and keeps it. Only what opens is kept.
    pub(super) async fn fill(&self, project: &Project, rounds: &NewestRound) -> Result<Forbidden> {
        let at = Instant::now();
        let generation = rounds.newest;
        let condemned = Arc::new(project.rounds().condemned(rounds).await?);
        let lost = Arc::new(project.lost_records().read().await?);
        let keeps = !matches!(rounds.stage, Stage::Unreadable(_));
        let read = Read { at, generation, condemned: Arc::clone(&condemned), lost: Arc::clone(&lost) };
        *self.kept() = keeps.then_some(read);
        Ok(Forbidden::sharing(generation, condemned, lost))
    }

    /// What is condemned and lost, for who references nothing.
    pub(crate) async fn look(&self, project: &Project) -> Result<Forbidden> {
        match self.read() {
            Some(Read { generation, condemned, lost, .. }) => {
                Ok(Forbidden::sharing(generation, condemned, lost))
            }
            None => self.fill(project, &project.rounds().newest().await?).await,
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

    fn read(&self) -> Option<Read> {
        self.kept().clone().filter(|read| read.at.elapsed() < GOOD_FOR)
    }
}
