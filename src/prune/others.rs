//! What other prunes left: seals that are carried out here, and rounds of which something does not open.
//!
//! Whoever deletes answers for it. So a seal that somebody else made is held against an own complete mark, and what cannot be
//! read deletes nothing (repo-format.md §8.2).

use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::gc::{BeginRecord, Condemned, DoneRecord, SealRecord};
use crate::format::roster::RosterEntry;
use crate::prune::round::{Outcome, check_roster};
use crate::prune::survey::{Survey, Surveyed};
use crate::prune::{Context, Prune};
use crate::repo::found::Found;
use crate::units::{Generation, Sequence};

impl Prune {
    /// Holds a seal that was found against what the round condemned and what is referenced, complete as for a seal of one's
    /// own. An honest one deletes nothing else.
    pub(super) async fn judge(
        &mut self,
        begin: &BeginRecord,
        survey: &mut Survey,
        seal: &SealRecord,
    ) -> Result<Vec<RosterEntry>> {
        let round = seal.generation;
        let sealed = self.cx.project.rounds().roster_said(round, &seal.roster).all(&self.cx.project).await?;
        // How long what is forgotten is kept, whoever made the seal decided: but what it does not call over is marked, as it can be recalled by it.
        let said = |number| sealed.iter().find(|said| said.volume == number);
        let recallable = |volume: &Surveyed| {
            let number = volume.record.number;
            let forgotten = volume.log.forgotten().map(|(s, _)| (number, s));
            forgotten.filter(|(_, s)| said(number).is_none_or(|said| !said.is_past(*s))).collect::<Vec<_>>()
        };
        survey.kept = survey.volumes.iter().flat_map(recallable).collect();
        let condemned = match seal.deleted.is_empty() {
            true => Condemned::default(),
            false => self.cx.project.rounds().condemned_by(begin).await?,
        };
        // What was marked before may have been forgotten when the seal was made, whatever a listing shows.
        self.marker.forget();
        self.marker.first_pass(&self.known);
        self.marker.ask_all();
        loop {
            self.cx.progress.phase("manifests", None);
            self.marker.cover(&self.cx.project, survey, &self.cx.cancel).await?;
            for part in &seal.deleted {
                let Some(entries) = self.cx.project.parts(round).read_table(part).await? else {
                    return Err(self.cx.project.parts(round).gone(part).await?);
                };
                for entry in &entries {
                    let name = &entry.object.name;
                    let why = if name.generation >= round {
                        "is not older than the round"
                    } else if !condemned.contains(&name.id) {
                        "was not condemned when the round began"
                    } else if self.marker.marks.contains(name) {
                        "is needed by a live snapshot"
                    } else {
                        continue;
                    };
                    return Err(differs(&self.cx, round, name, why));
                }
            }
            if !self.marker.next_pass() {
                break;
            }
        }
        let roster = self.marker.roster(survey);
        check_roster(&self.cx, &self.known, survey, &roster).await?;
        for known in self.known.roster() {
            // What is over stays so: of that, something was deleted perhaps.
            let back = |s: &&Sequence| known.is_past(**s);
            let named =
                said(known.volume).map(|said| said.live.iter().chain(&said.unfinished).chain(&said.kept));
            if let Some(sequence) = named.into_iter().flatten().find(back) {
                let open = self.cx.project.slot(known.volume, *sequence).open_name();
                return Err(differs(&self.cx, round, &open, "was over before, and is named again"));
            }
        }
        for now in &roster {
            let said = said(now.volume);
            let wrong = |s: &&Sequence| said.is_some_and(|said| said.is_past(**s));
            if let Some(sequence) = now.live.iter().chain(&now.unfinished).find(wrong) {
                let open = self.cx.project.slot(now.volume, *sequence).open_name();
                return Err(differs(&self.cx, round, &open, "is not over"));
            }
        }
        self.report.snapshots = Some(roster.iter().map(|entry| entry.live.len() as u64).sum());
        // What is marked here and was forgotten when the seal was made is deleted all the same.
        self.marker.forget();
        Ok(roster)
    }

    /// Ends a round whose seal does not open: nobody can decide it any more, so it deletes nothing.
    pub(super) async fn end_without_seal(&mut self, begin: &BeginRecord) -> Result<Outcome> {
        let round = begin.generation;
        let seal = ObjectName::GcSeal(self.cx.project.name().clone(), round);
        self.cx
            .progress
            .warn(&format!("{seal} does not open: round {round} deletes nothing, the next one does"));
        self.report.rounds_finished += 1;
        self.end(DoneRecord { generation: round, last_seal: begin.last_seal }).await?;
        Ok(Outcome::Again)
    }

    /// Ends a round whose begin does not open. Perhaps it never was; perhaps somebody is at it, or at one before it that was
    /// not over. So every round that is not sealed is sealed to delete nothing, whoever comes later.
    pub(super) async fn end_without_begin(&mut self, round: Generation, why: &str) -> Result<()> {
        let name = self.cx.project.rounds().begin_name(round);
        self.cx.progress.warn(&format!("{name} does not open, so that round {round} deletes nothing: {why}"));
        self.creates.decide(&self.cx).await?;
        let before = self.cx.project.rounds().preceding(round).await?;
        self.know(before.last_seal).await?;
        let mut last_seal = before.last_seal;
        let mut roster = self.known.roster().to_vec();
        for generation in (before.over.0 + 1..=round.0).map(Generation) {
            let nothing = SealRecord {
                generation,
                roster: self.cx.project.parts(generation).put_roster(&roster).await?,
                live_index: Vec::new(),
                deleted: Vec::new(),
                copied: true,
            };
            let sealed = match self.cx.project.rounds().look_seal(generation).await? {
                Found::Absent => self.cx.project.rounds().seal(nothing).await?.map(|(seal, _)| seal),
                found => found.opened(),
            };
            if let Some(seal) = sealed {
                let said = self.cx.project.rounds().roster_said(generation, &seal.roster);
                (last_seal, roster) = (generation, said.all(&self.cx.project).await?);
            }
        }
        self.marker.forget();
        self.end(DoneRecord { generation: round, last_seal }).await.map(drop)
    }
}

fn differs(cx: &Context, round: Generation, name: &impl std::fmt::Display, why: &str) -> Error {
    let seal = ObjectName::GcSeal(cx.project.name().clone(), round);
    Error::corrupt(format!("nothing is deleted: {seal} gives up {name}, which {why}")).help(format!(
        "whoever made it has this project's key, or a program that is wrong. Find out who prunes; then put it aside with \
         `cuttle verify --quarantine {seal}`, and the next prune ends the round without it"
    ))
}
