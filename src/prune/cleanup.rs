//! Small objects that nobody needs after a seal: all records of what was over when the last round was sealed, outcomes and notes of
//! snapshots forgotten since, signs of life of sessions that are over, tables and ends of older rounds (repo-format.md §8.2).

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::gc::{BeginRecord, SealRecord};
use crate::format::names::gc_prefix;
use crate::format::record::{EndRecord, Outcome};
use crate::format::roster::RosterEntry;
use crate::prune::Context;
use crate::prune::remove::DELETES_MAX;
use crate::prune::survey::{Known, Survey, Surveyed};
use crate::repo::log::LogEntry;
use crate::store::Deleted;
use crate::units::{ChunkId, Generation, Sequence, VolumeNumber};

/// Outcomes read at once.
const RECORDS_INFLIGHT_MAX: usize = 8;

/// What a round that is sealed makes superfluous. Listings suffice: what they do not show is left to the next round.
pub(super) struct CleanUp<'a> {
    pub(super) cx: &'a Context,
    pub(super) begin: &'a BeginRecord,
    pub(super) seal: &'a SealRecord,
    /// What was over when the round began: of that nothing need stay but who lost.
    pub(super) known: &'a Known,
}

impl CleanUp<'_> {
    /// Deletes it, and says how many objects went.
    pub(super) async fn run(self, survey: &Survey, roster: &[RosterEntry]) -> Result<u64> {
        let cx = self.cx;
        cx.progress.phase("cleaning up", None);
        let mut gone = Superfluous { names: self.superfluous_of_rounds().await?, ..Superfluous::default() };
        for (volume, roster) in survey.volumes.iter().zip(roster) {
            cx.cancel.check()?;
            superfluous_records(cx, volume, roster, &mut gone).await?;
        }
        let Superfluous { ends, opens, names } = gone;
        let (store, mut gone) = (cx.project.store(), 0);
        // First the outcomes, then the registrations: else what is left, to whoever looks meanwhile, is a snapshot that nobody forgot.
        let in_order =
            ends.chunks(DELETES_MAX).chain(opens.chunks(DELETES_MAX)).chain(names.chunks(DELETES_MAX));
        for some in in_order {
            cx.cancel.check()?;
            let keys: Vec<String> = some.iter().map(ObjectName::to_string).collect();
            let deleted = store.delete_all_unless_refused(&keys).await?;
            gone += deleted.iter().filter(|d| **d == Deleted::Gone).count() as u64;
        }
        Ok(gone)
    }

    /// Tables, and the end of the round before: it is over, as this one's begin says.
    async fn superfluous_of_rounds(&self) -> Result<Vec<ObjectName>> {
        let (cx, round) = (self.cx, self.seal.generation);
        let tables = self.begin.condemned.iter().chain(&self.seal.live_index).chain(&self.seal.deleted);
        let named: HashSet<ChunkId> =
            tables.chain(self.seal.roster.iter().map(|p| &p.part)).map(|part| part.id).collect();
        // Sessions of this generation still go by the last seal.
        let known: HashSet<ChunkId> = self.known.parts.iter().map(|p| p.part.id).collect();
        let before = Generation(round.0.saturating_sub(1));
        let after = (before > Generation(0)).then(|| cx.project.rounds().begin_name(before).to_string());
        let prefix = gc_prefix(cx.project.name());
        let listed = cx.project.repository().store().list(&prefix, after.as_deref()).await?;
        let superfluous = |name: &ObjectName| match name {
            ObjectName::GcDone(_, generation) => *generation == before,
            ObjectName::GcPart(_, generation, id) if *generation == self.known.last_seal => {
                !known.contains(id)
            }
            ObjectName::GcPart(_, generation, id) => {
                *generation < round || (*generation == round && !named.contains(id))
            }
            _ => false,
        };
        Ok(listed.iter().filter_map(|info| ObjectName::parse(&info.key)).filter(superfluous).collect())
    }
}

/// What goes, in the order in which it does.
#[derive(Default)]
struct Superfluous {
    ends: Vec<ObjectName>,
    opens: Vec<ObjectName>,
    names: Vec<ObjectName>,
}

async fn superfluous_records(
    cx: &Context,
    volume: &Surveyed,
    roster: &RosterEntry,
    Superfluous { ends, opens, names }: &mut Superfluous,
) -> Result<()> {
    let (log, project, number) = (&volume.log, cx.project.name(), roster.volume);
    let alive = |sequence: Sequence| {
        let signs = log.signs.get(&sequence).into_iter().flat_map(|signs| signs.keys());
        signs.map(move |k| ObjectName::Alive(project.clone(), number, sequence, *k))
    };
    let notes = |sequence: Sequence| {
        let notes = log.notes.get(&sequence).into_iter().flatten();
        notes.map(move |k| ObjectName::Note(project.clone(), number, sequence, *k))
    };
    let mut ended = Vec::new();
    for (&sequence, entry) in log.entries.range(..=roster.high_water) {
        // Only of what was over when the logs were confirmed: a name that came since may be anybody's.
        let forgotten = entry.forgotten && roster.is_past(sequence);
        if forgotten || entry.ended_unix_ms.is_some() && !roster.unfinished.contains(&sequence) {
            names.extend(alive(sequence));
        }
        if forgotten {
            names.extend(notes(sequence));
            ended.push((sequence, entry));
        }
    }
    for (&sequence, entry) in &log.over {
        let slot = cx.project.slot(number, sequence);
        names.extend(alive(sequence).chain(notes(sequence)));
        // While there is a registration, an outcome that a listing lacks, or a late create brings back, would look like a snapshot that nobody forgot.
        let open = slot.open_name();
        let is_registered = entry.opened_unix_ms.is_none()
            && cx.project.repository().store().head(&open.to_string()).await?.is_some();
        names.extend((entry.forgotten && !is_registered).then(|| slot.forget_name()));
        opens.extend(entry.opened_unix_ms.map(|_| open));
        ended.push((sequence, entry));
    }
    let ended = ended.into_iter().filter(|(_, entry)| entry.ended_unix_ms.is_some());
    let mut superfluous = stream::iter(ended)
        .map(|(sequence, entry)| superfluous_end(cx, number, sequence, entry))
        .buffered(RECORDS_INFLIGHT_MAX);
    while let Some(end) = superfluous.try_next().await? {
        ends.extend(end);
    }
    Ok(())
}

/// The outcome of a forgotten snapshot. One that says "aborted" stays, whatever else there is: whoever stalled for a
/// month must still find that it lost.
async fn superfluous_end(
    cx: &Context,
    volume: VolumeNumber,
    sequence: Sequence,
    entry: &LogEntry,
) -> Result<Option<ObjectName>> {
    let name = cx.project.slot(volume, sequence).end_name();
    // Who lost stays for ever, so it is not read each time.
    let known = cx.project.read_listed_record::<EndRecord>(&name, entry.end_stamp).await;
    if known.is_ok_and(|end| !matches!(end.outcome, Outcome::Committed(_))) {
        return Ok(None);
    }
    match cx.project.read_known_record::<EndRecord>(&name).await {
        Ok(EndRecord { outcome: Outcome::Committed(_), .. }) => {
            cx.project.repository().cache.remove(&name);
            Ok(Some(name))
        }
        Ok(_) => Ok(None),
        // Somebody else removed it, or it is damaged: then nobody misses it, and nobody can tell what it was.
        Err(e) if e.kind() == ErrorKind::Corrupt => Ok(None),
        Err(e) => Err(e),
    }
}
