//! A prune in a full store. A round writes a little before it may delete anything: its begin, its seal, their tables. For that
//! there is the reserve (repo-format.md §8.7); and what an earlier seal lets go of is deleted before anything is written.

use crate::error::{Error, ErrorKind, Result};
use crate::prune::Prune;

/// Objects that a round condemns where there is room for nothing but the reserve: at most 45 bytes each, in two tables.
const CONDEMNED_SCARCE: usize = 4_096;

impl Prune {
    /// As [`rounds`](Self::rounds), and where the store takes nothing more, in the room that the reserve leaves and that each
    /// round makes.
    pub(super) async fn rounds_in_any_room(&mut self) -> Result<()> {
        let mut freed_before = None;
        loop {
            let full = match self.rounds().await {
                Err(e) if e.kind() == ErrorKind::NoSpace => e,
                done => return done,
            };
            let reserve = match self.cx.project.reserve().give_up().await {
                Ok(bytes) => bytes,
                Err(e) => {
                    tracing::debug!(error = %e, "the reserve is not given up");
                    0
                }
            };
            if reserve > 0 {
                self.cx.progress.warn(&format!(
                    "the store takes nothing more: {} KiB that were kept for that are given up, to begin with",
                    reserve >> 10
                ));
            }
            let freed = (self.report.deleted().objects, self.report.deleted_records);
            if reserve == 0 && freed_before.replace(freed) == Some(freed) {
                return Err(self.no_room(full));
            }
            self.scarce = true;
        }
    }

    /// How many objects the next round condemns, at most.
    pub(super) fn condemned_max(&self) -> usize {
        match self.scarce {
            true => self.cx.options.condemned_max.min(CONDEMNED_SCARCE),
            false => self.cx.options.condemned_max,
        }
    }

    fn no_room(&self, full: Error) -> Error {
        full.context("prune writes a little before it may delete anything, and there is no room for it").help(format!(
            "freed so far: {} bytes of chunks and pages, {} small objects. Stop what writes there. Then raise the quota by a few MiB, \
             or delete something else in the same place, for as long as the next prune takes",
            self.report.deleted().bytes,
            self.report.deleted_records
        ))
    }
}
