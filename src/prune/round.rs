//! One round: begun, decided, sealed, carried out, over. Every step may be done by several prunes at once.

use std::collections::{BTreeSet, HashSet};

use crate::error::{Error, ErrorKind, Result};
use crate::format::gc::{BeginRecord, Condemned, RosterEntry, SealRecord, prefix};
use crate::format::names::ContentName;
use crate::format::table::TableEntry;
use crate::plan::roster::{Lost, VolumeState, lost};
use crate::prune::survey::{Survey, Surveyed, stopped};
use crate::prune::unmarked::Found;
use crate::prune::{PROBE_PREFIX, Prune};
use crate::units::{Generation, Sequence};

/// Probes that must fail before the store is taken for one that overwrites.
const PROBES_MAX: usize = 3;

/// A round that was begun.
pub(super) struct Begun {
    begin: BeginRecord,
    /// What it condemned by full name, where this run condemned it.
    entries: Option<Vec<TableEntry>>,
    /// There is more to delete than one round condemns, or somebody else began.
    pub(super) more: bool,
}

/// How far a round came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// Sessions are under way, and waiting is not wanted.
    Waiting,
}

impl Begun {
    pub(super) fn found(begin: BeginRecord) -> Self {
        Self { begin, entries: None, more: true }
    }
}

impl Prune {
    /// Begins the round after `newest` when there is something to delete. The round that results may be somebody else's.
    pub(super) async fn begin(&mut self, newest: Generation) -> Result<Option<Begun>> {
        let mut found = self.candidates(newest).await?;
        if found.entries.is_empty() || self.was_refused(newest, &found).await? {
            return Ok(None);
        }
        match self.begin_with(newest, &mut found).await {
            Err(e) if e.kind() == ErrorKind::NoSpace => Err(self.without_room(newest, &found, e).await),
            begun => begun,
        }
    }

    /// A full store takes not even the little that a round has to write before it may delete. What needs no writing is done
    /// here, so that the next prune may find room: what the last seal lets go of.
    async fn without_room(&mut self, newest: Generation, found: &Found, error: Error) -> Error {
        if let Err(e) = self.make_room(newest, found).await {
            tracing::debug!(error = %e, "nothing could be made room with");
        }
        let freed = self.report.deleted();
        let records = self.report.deleted_records;
        error.context("prune writes a little before it may delete anything, and the store takes nothing").help(format!(
            "freed so far: {} bytes of chunks and pages, {records} small objects. Run it again: that may be enough. Otherwise raise the \
             quota by a few MiB, or delete something else in the same place, for as long as the prune takes",
            freed.bytes
        ))
    }

    async fn make_room(&mut self, newest: Generation, found: &Found) -> Result<()> {
        if newest == Generation(0) {
            return Ok(());
        }
        let begin = self.project.read_begin(newest).await?;
        let Some(seal) = self.project.read_seal(newest).await? else { return Ok(()) };
        let mut left: HashSet<ContentName> = HashSet::new();
        for part in &seal.deleted {
            let entries = self.project.read_table(newest, part).await?.unwrap_or_default();
            left.extend(entries.iter().map(|e| e.object.name).filter(|name| name.generation < newest));
        }
        let left: Vec<TableEntry> =
            found.entries.iter().filter(|e| left.contains(&e.object.name)).copied().collect();
        self.remove_all(&left).await?;
        self.clean_up(&begin, &seal).await
    }

    async fn begin_with(&mut self, newest: Generation, found: &mut Found) -> Result<Option<Begun>> {
        self.creates_decide().await?;
        let generation = Generation(newest.0.saturating_add(1));
        let more = found.is_truncated();
        let condemned = Condemned::new(found.entries.iter().map(|e| prefix(&e.object.name.id)).collect());
        let condemned = self.project.put_condemned(generation, &condemned).await?;
        let (begin, own) = self.project.begin_round(BeginRecord { generation, condemned }).await?;
        if own {
            self.report.rounds_begun += 1;
            let entries = Some(std::mem::take(&mut found.entries));
            return Ok(Some(Begun { begin, entries, more }));
        }
        self.report.rounds_joined += 1;
        Ok(Some(Begun::found(begin)))
    }

    /// Whether nothing is to be deleted but what the last round deletes and the store refused to: no round is needed to ask
    /// again, as nobody may reference that ever after.
    async fn was_refused(&mut self, newest: Generation, found: &Found) -> Result<bool> {
        let Some(seal) = self.project.read_seal(newest).await?.filter(|_| !found.is_truncated()) else {
            return Ok(false);
        };
        let mut left: HashSet<&ContentName> = found.entries.iter().map(|e| &e.object.name).collect();
        for part in &seal.deleted {
            // One that another round of somebody else removed is as good as empty.
            for refused in self.project.read_table(newest, part).await?.unwrap_or_default() {
                if refused.object.name.generation < newest {
                    left.remove(&refused.object.name);
                }
            }
        }
        // A round that this run finished was refused just now.
        if left.is_empty() && self.report.rounds_finished == 0 {
            self.progress.phase("deleting", None);
            self.remove_all(&found.entries).await?;
        }
        Ok(left.is_empty())
    }

    /// Does what is left of a round.
    pub(super) async fn finish(&mut self, begun: Begun) -> Result<Outcome> {
        let round = begun.begin.generation;
        if self.project.is_done(round).await? {
            self.marker.forget();
            return Ok(Outcome::Done);
        }
        let seal = match self.project.read_seal(round).await? {
            Some(seal) => {
                self.marker.forget();
                seal
            }
            None => {
                self.creates_decide().await?;
                let Some(survey) = self.settle(round).await? else {
                    self.report.round_open = true;
                    return Ok(Outcome::Waiting);
                };
                self.seal(&begun, &survey).await?
            }
        };
        if self.remove(&seal).await? {
            self.clean_up(&begun.begin, &seal).await?;
            self.project.end_round(round).await?;
        }
        self.report.rounds_finished += 1;
        Ok(Outcome::Done)
    }

    /// Decides what the round deletes, and makes that public. What counts is whatever seal stands in the end.
    async fn seal(&mut self, begun: &Begun, survey: &Survey) -> Result<SealRecord> {
        let generation = begun.begin.generation;
        let mut deleted = Vec::new();
        let condemned = match begun.entries {
            Some(_) => Condemned::default(),
            None => self.project.condemned_by(&begun.begin).await?,
        };
        self.first_pass(Generation(generation.0.saturating_sub(1))).await?;
        loop {
            self.progress.phase("manifests", None);
            self.marker.cover(&self.project, survey, &self.cancel).await?;
            match &begun.entries {
                Some(entries) => {
                    let marks = &self.marker.marks;
                    let loose =
                        |e: &&TableEntry| marks.covers(&e.object.name) && !marks.contains(&e.object.name);
                    deleted.extend(entries.iter().filter(loose));
                }
                None => {
                    let room = self.options.condemned_max.saturating_sub(deleted.len());
                    deleted.extend(self.sift(generation, Some(&condemned), room).await?.entries);
                }
            }
            if !self.marker.next_pass() {
                break;
            }
        }
        let roster = self.marker.roster(survey);
        self.check_roster(generation, survey, &roster).await?;
        self.report.snapshots = Some(roster.iter().map(|entry| entry.live.len() as u64).sum());
        let deleted = self.project.put_table(generation, &deleted).await?;
        // It spares later backups uploads, and is by far the largest: in a full store it is done without.
        let live_index = match self.project.put_table(generation, &self.marker.live).await {
            Err(e) if e.kind() == ErrorKind::NoSpace => Vec::new(),
            written => written?,
        };
        self.cancel.check()?;
        let seal = SealRecord { generation, roster, live_index, deleted };
        let (seal, own) = self.project.seal_round(seal).await?;
        match own {
            true => self.marker.decided(generation),
            // Something that is marked here may be deleted by it.
            false => self.marker.forget(),
        }
        Ok(seal)
    }

    /// Begins to mark, when `last` is the newest round that is over.
    pub(super) async fn first_pass(&mut self, last: Generation) -> Result<()> {
        let seal = match last {
            Generation(0) => None,
            last => self.project.read_seal(last).await?,
        };
        self.marker.first_pass(last, seal.as_ref().map_or(&[], |seal| &seal.roster));
        Ok(())
    }

    /// Everything that the last seal knew must be there still, or be forgotten.
    async fn check_roster(&self, round: Generation, survey: &Survey, now: &[RosterEntry]) -> Result<()> {
        let Some(last) = round.0.checked_sub(1).filter(|g| *g > 0).map(Generation) else { return Ok(()) };
        let Some(seal) = self.project.read_seal(last).await? else {
            return Err(stopped(format!("round {last} is over, and its seal is gone")));
        };
        let states: Vec<VolumeState> =
            survey.volumes.iter().zip(now).map(|(volume, now)| state(volume, now)).collect();
        for lost in lost(&seal.roster, &states) {
            let what = match lost {
                Lost::Volume(volume) => format!("volume {volume} was in the catalog and is not any more"),
                Lost::Log { volume, last, high_water } => {
                    format!("the log of volume {volume} ends at {last}, and ended at {high_water} before")
                }
                // A listing may not show yet that it was forgotten.
                Lost::Snapshot(volume, sequence) if self.project.is_forgotten(volume, sequence).await? => {
                    continue;
                }
                Lost::Snapshot(volume, sequence) => {
                    let name = self.project.end_name(volume, sequence);
                    format!("{name} was a live snapshot, is none now, and was not forgotten")
                }
            };
            return Err(stopped(what));
        }
        Ok(())
    }

    /// Whether the store's creates decide races, tried once before the first write of a run. A repository whose store
    /// cannot do that is for one writer at a time; a prune then ends no session by itself.
    ///
    /// A probe may be wrong where a store decides races after all: who sleeps within it for longer than the lease finds
    /// it swept away. So what `init` found is not given up for it, as to overwrite what others create loses data.
    pub(super) async fn creates_decide(&mut self) -> Result<bool> {
        if let Some(known) = self.create_if_absent {
            return Ok(known);
        }
        let repository = self.project.repository();
        let decide = repository.record.create_if_absent;
        if !decide {
            self.progress.warn(
                "this store cannot create an object only where there is none: let one program write at a time. A backup \
                 that stopped without an outcome must be ended by running it again on its host",
            );
        } else if !self.probe().await? {
            return Err(Error::unavailable(
                "nothing is deleted: of several that created one object, not exactly one was told that it did, as it was \
                 when the repository was made",
            )
            .help(
                "run the same command again; should it say so again, this store overwrites what is there: let nobody \
                 write to it, and copy the repository to one that does not",
            ));
        }
        self.create_if_absent = Some(decide);
        Ok(decide)
    }

    /// Whether creates decide races. Another prune may sweep a probe away while this one sleeps, and then it has two winners; the
    /// next probe tells.
    async fn probe(&self) -> Result<bool> {
        for _ in 0..PROBES_MAX {
            if self.project.repository().store.probe_create_if_absent(PROBE_PREFIX).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn state(volume: &Surveyed, now: &RosterEntry) -> VolumeState {
    let forgotten = volume.log.entries.iter().filter(|(_, e)| e.forgotten).map(|(s, _)| *s);
    let live: BTreeSet<Sequence> = now.live.iter().copied().collect();
    VolumeState { last: volume.log.last(), live, forgotten: forgotten.collect() }
}
