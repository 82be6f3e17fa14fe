//! Deletes what a seal says, and nothing else.

use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::gc::SealRecord;
use crate::format::names::ContentKind;
use crate::format::table::TableEntry;
use crate::progress::{Outcome, Step};
use crate::prune::{Context, PruneReport};
use crate::store::Deleted;

/// Names that are given to the store at once.
pub(super) const DELETES_MAX: usize = 8_000;
/// Refusals without a success after which the rest is not asked for: it is all locked.
const REFUSALS_MAX: usize = 100;

/// Deletes what the seal of a round says. False when the round is over meanwhile.
pub(super) async fn remove(cx: &Context, seal: &SealRecord, report: &mut PruneReport) -> Result<bool> {
    let round = seal.generation;
    cx.progress.phase("deleting", None);
    for part in &seal.deleted {
        let Some(entries) = cx.project.parts(round).read_table(part).await? else {
            if cx.project.rounds().is_over(round).await? {
                return Ok(false);
            }
            return Err(cx.project.parts(round).gone(part).await?);
        };
        if let Some(young) = entries.iter().find(|e| e.object.name.generation >= round) {
            return Err(Error::corrupt(format!(
                "the seal of round {round} deletes {}, which is not older",
                young.object.name
            ))
            .help("nothing was deleted; the seal is not one that this program writes"));
        }
        remove_all(cx, &entries, report).await?;
    }
    Ok(true)
}

/// Deletes what some seal says, and counts.
pub(super) async fn remove_all(
    cx: &Context,
    mut entries: &[TableEntry],
    report: &mut PruneReport,
) -> Result<()> {
    while !entries.is_empty() {
        cx.cancel.check()?;
        // The first few tell whether all is locked.
        let some = if report.deleted().objects == 0 { REFUSALS_MAX } else { DELETES_MAX };
        let (now, later) = entries.split_at(some.min(entries.len()));
        entries = later;
        let done = match all_refused(report) {
            true => vec![Deleted::Refused; now.len()],
            false => remove_some(cx, now).await?,
        };
        for (entry, done) in now.iter().zip(done) {
            let bytes = u64::from(entry.object.sealed_len_bytes);
            match (done, entry.kind) {
                (Deleted::Refused, _) => report.locked.add(bytes),
                (Deleted::Gone, ContentKind::Chunk) => report.deleted_chunks.add(bytes),
                (Deleted::Gone, ContentKind::Bundle) => report.deleted_bundles.add(bytes),
                (Deleted::Gone, ContentKind::Page) => report.deleted_pages.add(bytes),
            }
            cx.progress.step(Step { bytes, chunks: 1, outcome: Outcome::New });
        }
    }
    Ok(())
}

async fn remove_some(cx: &Context, entries: &[TableEntry]) -> Result<Vec<Deleted>> {
    let repository = cx.project.repository();
    let content = |entry: &TableEntry| ObjectName::content(cx.project.name(), entry.kind, entry.object.name);
    let names: Vec<ObjectName> = entries.iter().map(content).collect();
    let keys: Vec<String> = names.iter().map(ObjectName::to_string).collect();
    let done = cx.project.store().delete_all_unless_refused(&keys).await?;
    names.iter().for_each(|name| repository.cache.remove(name));
    Ok(done)
}

fn all_refused(report: &PruneReport) -> bool {
    report.deleted().objects == 0 && report.locked.objects >= REFUSALS_MAX as u64
}
