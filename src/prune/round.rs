//! One round: begun, decided, sealed, carried out, over. Every step may be done by several prunes at once.

use std::collections::{BTreeMap, HashSet};

use crate::error::{Error, ErrorKind, Result};
use crate::format::gc::{BeginRecord, Condemned, DoneRecord, RosterEntry, SealRecord, prefix};
use crate::format::names::ContentName;
use crate::format::table::TableEntry;
use crate::plan::roster::{Lost, VolumeState, lost};
use crate::prune::survey::{Survey, Surveyed, stopped};
use crate::prune::unmarked::Found as Loose;
use crate::prune::{PROBE_PREFIX, Prune};
use crate::repo::found::Found;
use crate::units::{Generation, VolumeNumber};

/// Probes that must fail before the store is taken for one that overwrites.
const PROBES_MAX: usize = 3;

/// A round that was begun.
pub(super) struct Begun {
    pub(super) begin: BeginRecord,
    /// What it condemned by full name, where this run condemned it.
    entries: Option<Vec<TableEntry>>,
    /// There is more to delete than one round condemns, or somebody else began.
    pub(super) more: bool,
}

/// How far a round came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// It is over, and what it should have deleted or said is left to the next.
    Again,
    /// Sessions are under way, and waiting is not wanted.
    Waiting,
}

impl Begun {
    pub(super) fn found(begin: BeginRecord) -> Self {
        Self { begin, entries: None, more: true }
    }
}

/// What came of deciding what a round deletes.
enum Decided {
    /// The seal that stands, and the roster as it was found here.
    Sealed(SealRecord, Vec<RosterEntry>),
    /// Sessions are under way, and waiting is not wanted.
    Waiting,
    /// What stands in the seal's place does not open.
    Never,
}

/// What a look for something to delete came to.
pub(super) enum Start {
    Nothing,
    Begun(Begun),
    /// Something that does not open took the round's number.
    Taken,
}

impl Prune {
    /// Begins the round after `newest` when there is something to delete, or where `must` says so. The round that results may
    /// be somebody else's.
    pub(super) async fn begin(
        &mut self,
        newest: Generation,
        last_seal: Generation,
        must: bool,
    ) -> Result<Start> {
        self.know(last_seal).await?;
        let found = self.candidates(newest).await?;
        if !must && (found.entries.is_empty() || self.was_refused(&found).await?) {
            return Ok(Start::Nothing);
        }
        self.creates_decide().await?;
        let generation = Generation(newest.0.saturating_add(1));
        let more = found.is_truncated();
        let condemned = Condemned::new(found.entries.iter().map(|e| prefix(&e.object.name.id)).collect());
        let condemned = self.project.parts(generation).put_condemned(&condemned).await?;
        let begin = BeginRecord { generation, last_seal, condemned };
        let Some((begin, own)) = self.project.rounds().begin(begin).await? else { return Ok(Start::Taken) };
        if own {
            self.report.rounds_begun += 1;
            self.begun = Some(generation);
            return Ok(Start::Begun(Begun { begin, entries: Some(found.entries), more }));
        }
        self.report.rounds_joined += 1;
        Ok(Start::Begun(Begun::found(begin)))
    }

    /// Whether nothing is to be deleted but what the last seal deletes and the store refused to: no round is needed to ask
    /// again, as nobody may reference that ever after.
    async fn was_refused(&mut self, found: &Loose) -> Result<bool> {
        let last = self.known.last_seal;
        if last == Generation(0) || found.is_truncated() {
            return Ok(false);
        }
        let Found::Opens(seal) = self.project.rounds().look_seal(last).await? else { return Ok(false) };
        let mut left: HashSet<&ContentName> = found.entries.iter().map(|e| &e.object.name).collect();
        for part in &seal.deleted {
            // One that another round of somebody else removed is as good as empty.
            for refused in self.project.parts(last).read_table(part).await?.unwrap_or_default() {
                if refused.object.name.generation < last {
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
        if self.project.rounds().is_over(round).await? {
            self.marker.forget();
            return Ok(Outcome::Done);
        }
        self.know(begun.begin.last_seal).await?;
        match self.creates_decide().await {
            // What a seal lets go of already is deleted before anything is written.
            Err(e)
                if e.kind() == ErrorKind::NoSpace
                    && self.project.rounds().look_seal(round).await?.opens() => {}
            decide => drop(decide?),
        }
        let decided = match self.decide(&begun).await {
            // Somebody else ended it meanwhile, and what it takes to decide may be gone.
            Err(_) if self.project.rounds().is_over(round).await? => {
                self.marker.forget();
                return Ok(Outcome::Done);
            }
            decided => decided?,
        };
        let (seal, roster) = match decided {
            Decided::Sealed(seal, roster) => (seal, roster),
            Decided::Waiting => {
                self.report.round_open = true;
                return Ok(Outcome::Waiting);
            }
            Decided::Never => return self.end_without_seal(&begun.begin).await,
        };
        if self.carried_out != Some(round) {
            let is_open = self.remove(&seal).await?;
            self.report.rounds_finished += 1;
            if !is_open {
                return Ok(Outcome::Done);
            }
            self.carried_out = Some(round);
        }
        self.clean_up(&begun.begin, &seal, &roster).await?;
        self.creates_decide().await?;
        self.end(DoneRecord { generation: round, last_seal: round }).await
    }

    /// Comes to a seal that may be carried out.
    async fn decide(&mut self, begun: &Begun) -> Result<Decided> {
        let round = begun.begin.generation;
        if let Found::Absent = self.project.rounds().look_seal(round).await? {
            let Some(survey) = self.settle(round).await? else { return Ok(Decided::Waiting) };
            if let Some((seal, true)) = self.seal(begun, &survey).await? {
                let roster = seal.roster.clone();
                return Ok(Decided::Sealed(seal, roster));
            }
        }
        let Found::Opens(seal) = self.project.rounds().look_seal(round).await? else {
            return Ok(Decided::Never);
        };
        // Whoever made it: what is deleted is answered for here. What is looked at now is no older than the seal.
        let Some(survey) = self.settle(round).await? else { return Ok(Decided::Waiting) };
        let roster = self.judge(&begun.begin, &survey, &seal).await?;
        Ok(Decided::Sealed(seal, roster))
    }

    /// Makes it public that a round is over. Where something that does not open stands there, the next round must say it.
    pub(super) async fn end(&mut self, done: DoneRecord) -> Result<Outcome> {
        let said = self.project.rounds().end(&done).await?;
        if !said {
            self.progress.warn(&format!(
                "what stands in the place of the end of prune round {} does not open: another round is begun to say that it \
                 is over",
                done.generation
            ));
        }
        self.ended = Some(done);
        Ok(if said { Outcome::Done } else { Outcome::Again })
    }

    /// Decides what the round deletes, and makes that public. What counts is whatever seal stands in the end; whether it is
    /// this one is told. `None` where nothing that opens ever will.
    async fn seal(&mut self, begun: &Begun, survey: &Survey) -> Result<Option<(SealRecord, bool)>> {
        let generation = begun.begin.generation;
        let mut deleted = Vec::new();
        let condemned = match begun.entries {
            Some(_) => Condemned::default(),
            None => self.project.rounds().condemned_by(&begun.begin).await?,
        };
        self.marker.first_pass(&self.known);
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
                    let room = self.condemned_max().saturating_sub(deleted.len());
                    deleted.extend(self.sift(generation, Some(&condemned), room).await?.entries);
                }
            }
            if !self.marker.next_pass() {
                break;
            }
        }
        self.marker.suspects.is_complete = true;
        let roster = self.marker.roster(survey);
        self.check_roster(survey, &roster).await?;
        self.report.snapshots = Some(roster.iter().map(|entry| entry.live.len() as u64).sum());
        let deleted = self.project.parts(generation).put_table(&deleted).await?;
        // It spares later backups uploads, and is by far the largest: in a full store it is done without.
        let live_index = match self.scarce {
            true => Vec::new(),
            false => {
                let unfit = self.unfit_for_index().await?;
                self.marker.live.retain(|entry| !unfit.contains(&entry.object.name));
                self.project.parts(generation).put_table(&self.marker.live).await?
            }
        };
        self.cancel.check()?;
        let sealed =
            self.project.rounds().seal(SealRecord { generation, roster, live_index, deleted }).await?;
        if let Some((_, true)) = sealed {
            self.marker.decided(generation);
        }
        Ok(sealed)
    }

    /// Everything that the last seal knew must be there still, or be forgotten.
    pub(super) async fn check_roster(&self, survey: &Survey, now: &[RosterEntry]) -> Result<()> {
        let states: BTreeMap<VolumeNumber, VolumeState> = survey
            .volumes
            .iter()
            .zip(now)
            .map(|(volume, now)| (volume.record.number, state(volume, now)))
            .collect();
        for lost in lost(self.known.roster(), &states) {
            // A listing may not show yet that it was forgotten.
            if let Lost::Snapshot(volume, sequence) = lost
                && self.project.slot(volume, sequence).is_forgotten().await?
            {
                continue;
            }
            return Err(stopped(lost.to_string()));
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
            if self.project.store().probe_create_if_absent(PROBE_PREFIX).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn state(volume: &Surveyed, now: &RosterEntry) -> VolumeState {
    let forgotten = volume.log.entries.iter().filter(|(_, e)| e.forgotten).map(|(s, _)| *s);
    VolumeState {
        last: volume.log.last(),
        live: now.live.iter().copied().collect(),
        forgotten: forgotten.collect(),
    }
}
