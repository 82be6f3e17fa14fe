//! Deletes what a seal says, and nothing else.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::gc::SealRecord;
use crate::format::names::ContentKind;
use crate::format::table::TableEntry;
use crate::progress::{Outcome, Step};
use crate::prune::{Prune, PruneReport};
use crate::store::Deleted;

/// Deletes under way at once; the store's own limit of requests holds as well.
const DELETES_INFLIGHT_MAX: usize = 64;
/// Refusals without a success after which the rest is not asked for: it is all locked.
const REFUSALS_MAX: u64 = 100;

impl Prune {
    /// Deletes what the seal of a round says. False when the round is over meanwhile.
    pub(super) async fn remove(&mut self, seal: &SealRecord) -> Result<bool> {
        let round = seal.generation;
        self.progress.phase("deleting", None);
        for part in &seal.deleted {
            let Some(entries) = self.project.read_table(round, part).await? else {
                if self.project.is_done(round).await? {
                    return Ok(false);
                }
                return Err(self.project.part_gone(round, part).await?);
            };
            if let Some(young) = entries.iter().find(|e| e.object.name.generation >= round) {
                return Err(Error::corrupt(format!(
                    "the seal of round {round} deletes {}, which is not older",
                    young.object.name
                ))
                .help("nothing was deleted; the seal is not one that this program writes"));
            }
            self.remove_all(entries).await?;
        }
        Ok(true)
    }

    async fn remove_all(&mut self, entries: Vec<TableEntry>) -> Result<()> {
        let project = &self.project;
        let give_up = AtomicBool::new(all_refused(&self.report));
        let mut pending = stream::iter(entries)
            .map(|entry| {
                let name = ObjectName::content(project.name(), entry.kind, entry.object.name);
                let give_up = &give_up;
                async move {
                    if give_up.load(Ordering::Relaxed) {
                        return Ok((entry, Deleted::Refused));
                    }
                    let done = project.repository().store.delete_unless_refused(&name.to_string()).await?;
                    project.repository().cache.remove(&name);
                    Ok::<_, Error>((entry, done))
                }
            })
            .buffer_unordered(DELETES_INFLIGHT_MAX);
        while let Some((entry, done)) = pending.try_next().await? {
            self.cancel.check()?;
            let bytes = u64::from(entry.object.sealed_len_bytes);
            match (done, entry.kind) {
                (Deleted::Refused, _) => self.report.locked.add(bytes),
                (Deleted::Gone, ContentKind::Chunk) => self.report.deleted_chunks.add(bytes),
                (Deleted::Gone, ContentKind::Page) => self.report.deleted_pages.add(bytes),
            }
            self.progress.step(Step { bytes, chunks: 1, outcome: Outcome::New });
            give_up.store(all_refused(&self.report), Ordering::Relaxed);
        }
        Ok(())
    }
}

fn all_refused(report: &PruneReport) -> bool {
    report.deleted().objects == 0 && report.locked.objects >= REFUSALS_MAX
}
