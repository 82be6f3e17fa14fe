//! One round: begun, decided, sealed, carried out, over. Every step may be done by several prunes at once.

use std::collections::{BTreeMap, HashSet};

use crate::error::{ErrorKind, Result};
use crate::format::gc::{BeginRecord, Condemned, DoneRecord, SealRecord, prefix};
use crate::format::names::ContentName;
use crate::format::roster::RosterEntry;
use crate::format::table::TableEntry;
use crate::plan::roster::{Lost, VolumeState, lost};
use crate::prune::cleanup::CleanUp;
use crate::prune::lost::unfit_for_index;
use crate::prune::remove::{remove, remove_all};
use crate::prune::settle::Settling;
use crate::prune::survey::{Known, Survey, Surveyed, stopped};
use crate::prune::unmarked::{Found as Loose, Sieve};
use crate::prune::{Context, Prune};
use crate::repo::found::Found;
use crate::units::{Generation, VolumeNumber};

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
    /// The seal that stands, and the logs and the roster as they were found here.
    Sealed(SealRecord, Survey, Vec<RosterEntry>),
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
        let found = self.look(newest, last_seal).await?;
        if !must && (found.entries.is_empty() || self.was_refused(&found).await?) {
            return Ok(Start::Nothing);
        }
        self.creates.decide(&self.cx).await?;
        let generation = Generation(newest.0.saturating_add(1));
        let more = found.is_truncated();
        let condemned = Condemned::new(found.entries.iter().map(|e| prefix(&e.object.name.id)).collect());
        let condemned = self.cx.project.parts(generation).put_condemned(&condemned).await?;
        let begin = BeginRecord { generation, last_seal, condemned };
        let Some((begin, own)) = self.cx.project.rounds().begin(begin).await? else {
            return Ok(Start::Taken);
        };
        if own {
            self.report.rounds_begun += 1;
            self.begun = Some(generation);
            return Ok(Start::Begun(Begun { begin, entries: Some(found.entries), more }));
        }
        self.report.rounds_joined += 1;
        Ok(Start::Begun(Begun::found(begin)))
    }

    /// What there is to delete, given the newest generation and the last seal.
    pub(super) async fn look(&mut self, newest: Generation, last_seal: Generation) -> Result<Loose> {
        self.know(last_seal).await?;
        self.candidates(newest).await
    }

    /// Whether nothing is to be deleted but what the last seal deletes and the store refused to: no round is needed to ask
    /// again, as nobody may reference that ever after.
    async fn was_refused(&mut self, found: &Loose) -> Result<bool> {
        let last = self.known.last_seal;
        if last == Generation(0) || found.is_truncated() {
            return Ok(false);
        }
        let Found::Opens(seal) = self.cx.project.rounds().look_seal(last).await? else { return Ok(false) };
        let mut left: HashSet<&ContentName> = found.entries.iter().map(|e| &e.object.name).collect();
        for part in &seal.deleted {
            // One that another round of somebody else removed is as good as empty.
            for refused in self.cx.project.parts(last).read_table(part).await?.unwrap_or_default() {
                if refused.object.name.generation < last {
                    left.remove(&refused.object.name);
                }
            }
        }
        // A round that this run finished was refused just now.
        if left.is_empty() && self.report.rounds_finished == 0 {
            self.cx.progress.phase("deleting", None);
            remove_all(&self.cx, &found.entries, &mut self.report).await?;
        }
        Ok(left.is_empty())
    }

    /// Does what is left of a round.
    pub(super) async fn finish(&mut self, begun: Begun) -> Result<Outcome> {
        let round = begun.begin.generation;
        if self.cx.project.rounds().is_over(round).await? {
            self.marker.forget();
            return Ok(Outcome::Done);
        }
        self.know(begun.begin.last_seal).await?;
        match self.creates.decide(&self.cx).await {
            // What a seal lets go of already is deleted before anything is written.
            Err(e)
                if e.kind() == ErrorKind::NoSpace
                    && self.cx.project.rounds().look_seal(round).await?.opens() => {}
            decide => drop(decide?),
        }
        let decided = match self.decide(&begun).await {
            // Somebody else ended it meanwhile, and what it takes to decide may be gone.
            Err(_) if self.cx.project.rounds().is_over(round).await? => {
                self.marker.forget();
                return Ok(Outcome::Done);
            }
            decided => decided?,
        };
        let (seal, survey, roster) = match decided {
            Decided::Sealed(seal, survey, roster) => (seal, survey, roster),
            Decided::Waiting => {
                self.report.round_open = true;
                return Ok(Outcome::Waiting);
            }
            Decided::Never => return self.end_without_seal(&begun.begin).await,
        };
        if self.carried_out != Some(round) {
            let is_open = remove(&self.cx, &seal, &mut self.report).await?;
            self.report.rounds_finished += 1;
            if !is_open {
                return Ok(Outcome::Done);
            }
            self.carried_out = Some(round);
        }
        self.report.deleted_records +=
            CleanUp { cx: &self.cx, begin: &begun.begin, seal: &seal, known: &self.known }
                .run(&survey, &roster)
                .await?;
        self.creates.decide(&self.cx).await?;
        self.end(DoneRecord { generation: round, last_seal: round }).await
    }

    /// The logs, once no session of an older generation is under way; `None` where one is, and waiting is not wanted.
    async fn settle(&mut self, round: Generation) -> Result<Option<Survey>> {
        let (creates, report) = (&mut self.creates, &mut self.report);
        Settling { cx: &self.cx, known: &self.known, round, creates, report }.settle().await
    }

    /// Learns what a seal says of the volumes, unless it is known.
    pub(super) async fn know(&mut self, last_seal: Generation) -> Result<()> {
        if self.known.last_seal != last_seal {
            self.known = Known::read(&self.cx, last_seal).await?;
        }
        Ok(())
    }

    /// Comes to a seal that may be carried out.
    async fn decide(&mut self, begun: &Begun) -> Result<Decided> {
        let round = begun.begin.generation;
        if let Found::Absent = self.cx.project.rounds().look_seal(round).await? {
            let Some(survey) = self.settle(round).await? else { return Ok(Decided::Waiting) };
            if let Some((seal, roster, true)) = self.seal(begun, &survey).await? {
                return Ok(Decided::Sealed(seal, survey, roster));
            }
        }
        let Found::Opens(seal) = self.cx.project.rounds().look_seal(round).await? else {
            return Ok(Decided::Never);
        };
        // Whoever made it: what is deleted is answered for here. What is looked at now is no older than the seal.
        let Some(mut survey) = self.settle(round).await? else { return Ok(Decided::Waiting) };
        let roster = self.judge(&begun.begin, &mut survey, &seal).await?;
        Ok(Decided::Sealed(seal, survey, roster))
    }

    /// Makes it public that a round is over. Where something that does not open stands there, the next round must say it.
    pub(super) async fn end(&mut self, done: DoneRecord) -> Result<Outcome> {
        let said = self.cx.project.rounds().end(&done).await?;
        if !said {
            self.cx.progress.warn(&format!(
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
    async fn seal(
        &mut self,
        begun: &Begun,
        survey: &Survey,
    ) -> Result<Option<(SealRecord, Vec<RosterEntry>, bool)>> {
        let generation = begun.begin.generation;
        let mut deleted = Vec::new();
        let condemned = match begun.entries {
            Some(_) => Condemned::default(),
            None => self.cx.project.rounds().condemned_by(&begun.begin).await?,
        };
        self.marker.first_pass(&self.known);
        loop {
            self.cx.progress.phase("manifests", None);
            self.marker.cover(&self.cx.project, survey, &self.cx.cancel).await?;
            match &begun.entries {
                Some(entries) => {
                    let marks = &self.marker.marks;
                    let loose =
                        |e: &&TableEntry| marks.covers(&e.object.name) && !marks.contains(&e.object.name);
                    deleted.extend(entries.iter().filter(loose));
                }
                None => {
                    let (cx, marks) = (&self.cx, &self.marker.marks);
                    let sieve = Sieve { cx, marks, below: generation, condemned: Some(&condemned) };
                    let room = self.condemned_max().saturating_sub(deleted.len());
                    deleted.extend(sieve.sift(room).await?.entries);
                }
            }
            if !self.marker.next_pass() {
                break;
            }
        }
        self.marker.suspects.is_complete = true;
        let roster = self.marker.roster(survey);
        check_roster(&self.cx, &self.known, survey, &roster).await?;
        self.report.snapshots = Some(roster.iter().map(|entry| entry.live.len() as u64).sum());
        let deleted = self.cx.project.parts(generation).put_table(&deleted).await?;
        // It spares later backups uploads, and is by far the largest: in a full store it is done without.
        let live_index = match self.scarce {
            true => Vec::new(),
            false => {
                let unfit = unfit_for_index(&self.cx).await?;
                self.marker.live.put(&self.cx, generation, unfit).await?
            }
        };
        let parts = self.cx.project.parts(generation).put_roster(&roster).await?;
        self.cx.cancel.check()?;
        let seal = SealRecord { generation, roster: parts, live_index, deleted, copied: false };
        let sealed = self.cx.project.rounds().seal(seal).await?;
        if let Some((_, true)) = sealed {
            self.marker.decided(generation);
        }
        Ok(sealed.map(|(seal, own)| (seal, roster, own)))
    }
}

/// Everything that the last seal knew must be there still, or be forgotten.
pub(super) async fn check_roster(
    cx: &Context,
    known: &Known,
    survey: &Survey,
    now: &[RosterEntry],
) -> Result<()> {
    let states: BTreeMap<VolumeNumber, VolumeState> = survey
        .volumes
        .iter()
        .zip(now)
        .map(|(volume, now)| (volume.record.number, state(volume, now)))
        .collect();
    for lost in lost(known.roster(), &states) {
        // A listing may not show yet that it was forgotten.
        if let Lost::Snapshot(volume, sequence) = lost
            && cx.project.slot(volume, sequence).is_forgotten().await?
        {
            continue;
        }
        return Err(stopped(lost.to_string()));
    }
    Ok(())
}

fn state(volume: &Surveyed, now: &RosterEntry) -> VolumeState {
    let forgotten = volume.log.entries.iter().filter(|(_, e)| e.forgotten).map(|(s, _)| *s);
    VolumeState {
        last: volume.log.last(),
        live: now.live.iter().copied().collect(),
        forgotten: forgotten.collect(),
    }
}
