//! Prune rounds: what begins, seals and ends them, and what sessions must know of them (repo-format.md §8).
//!
//! Nothing here is believed by its name. The row of `gc/{g}.begin` tells the generation; whether the newest of them opens
//! decides only what is condemned: where nobody can tell, everything is.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::format::ObjectName;
use crate::format::gc::{BeginRecord, Condemned, DoneRecord, SealRecord};
use crate::format::names::gc_prefix;
use crate::repo::found::Found;
use crate::repo::project::missing;
use crate::repo::row;
use crate::repo::{Keeping, Project};
use crate::store::Created;
use crate::units::Generation;

/// The newest generation, and what became of the round that began it.
#[derive(Debug)]
pub(crate) struct NewestRound {
    pub(crate) newest: Generation,
    pub(crate) stage: Stage,
}

#[derive(Debug)]
pub(crate) enum Stage {
    /// It is over; so it is for generation 0.
    Over {
        last_seal: Generation,
    },
    Begun(BeginRecord),
    /// Its begin does not open, and nothing says that it is over. Nobody can tell what it condemned, nor whether it ever was.
    Unreadable(String),
}

/// What came before a round whose begin does not open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Preceding {
    /// The newest round that is over.
    pub(crate) over: Generation,
    /// The newest seal up to there.
    pub(crate) last_seal: Generation,
}

/// A project's prune rounds in the store.
#[derive(Clone, Copy)]
pub(crate) struct Rounds<'a> {
    pub(super) project: &'a Project,
}

impl Rounds<'_> {
    /// The newest generation as a listing shows it (repo-format.md §8.1, step 1).
    pub(crate) async fn generation(self) -> Result<Generation> {
        let memory = &self.project.repository().memory;
        let expected = memory.generation(self.project.name());
        // What lies below what this host saw is as it was then: a year of rounds is not listed every night.
        let before = expected.0.checked_sub(1).filter(|g| *g > 0).map(Generation);
        let after = before.map(|before| self.begin_name(before).to_string());
        let prefix = gc_prefix(self.project.name());
        let listed = self.project.repository().store().list(&prefix, after.as_deref()).await?;
        let listed: BTreeSet<u32> = listed
            .iter()
            .filter_map(|info| match ObjectName::parse(&info.key) {
                Some(ObjectName::GcBegin(_, g)) => Some(g.0),
                _ => None,
            })
            .collect();
        let from = before.map_or(0, |before| before.0);
        let opens = |g| async move {
            let begun = self.look_begin(Generation(g)).await?.opens();
            Ok(begun || self.look_done(Generation(g)).await?.opens())
        };
        let newest = Generation(row::end(from, &listed, expected.0, opens).await?);
        match newest < expected {
            true => Err(memory.generation_went_back(self.project.name(), newest, expected)),
            false => Ok(newest),
        }
    }

    /// Looks for the newest round that this host saw: usually one GET, of its end.
    ///
    /// # Errors
    /// `Conflict` where rounds end before it.
    pub(crate) async fn recall(self) -> Result<()> {
        let expected = self.project.repository().memory.generation(self.project.name());
        if expected == Generation(0) {
            return Ok(());
        }
        if let Found::Opens(done) = self.look_done(expected).await? {
            self.project.rosters().heard(done.last_seal);
            return Ok(());
        }
        self.generation().await.map(drop)
    }

    /// The newest generation, confirmed by a request that must find nothing: a short listing never hides a round (§8.1,
    /// step 3). And whether its round is over, as its own objects say.
    pub(crate) async fn newest(self) -> Result<NewestRound> {
        let listed = self.generation().await?;
        let mut newest = listed;
        while let Some(next) = row::follows(newest.0).map(Generation) {
            if matches!(self.look_begin(next).await?, Found::Absent) {
                break;
            }
            newest = next;
            if newest.0 - listed.0 > row::FOREIGN_MAX {
                return Err(row::endless(self.begin_name(next)));
            }
        }
        let stage = self.stage(newest).await?;
        if !matches!(stage, Stage::Unreadable(_)) {
            self.project.repository().memory.saw_generation(self.project.name(), newest);
        }
        Ok(NewestRound { newest, stage })
    }

    /// Whether nothing follows a generation, by the request that step 3 of §8.1 is about. What stands beyond a gap only
    /// [`newest`](Self::newest) finds.
    pub(super) async fn is_newest(self, generation: Generation) -> Result<bool> {
        match row::follows(generation.0) {
            Some(next) => Ok(matches!(self.look_begin(Generation(next)).await?, Found::Absent)),
            None => Ok(true),
        }
    }

    async fn stage(self, newest: Generation) -> Result<Stage> {
        if newest == Generation(0) {
            return Ok(Stage::Over { last_seal: newest });
        }
        if let Found::Opens(done) = self.look_done(newest).await? {
            return Ok(Stage::Over { last_seal: done.last_seal });
        }
        Ok(match self.look_begin(newest).await? {
            Found::Opens(begin) => Stage::Begun(begin),
            Found::Foreign(why) => Stage::Unreadable(why),
            Found::Absent => Stage::Unreadable("it is missing".to_owned()),
        })
    }

    /// What the newest round may delete.
    pub(crate) async fn condemned(self, rounds: &NewestRound) -> Result<Condemned> {
        match &rounds.stage {
            Stage::Over { .. } => Ok(Condemned::default()),
            Stage::Begun(begin) => self.condemned_by(begin).await,
            Stage::Unreadable(_) => Ok(Condemned::everything()),
        }
    }

    /// What one round may delete.
    pub(crate) async fn condemned_by(self, begin: &BeginRecord) -> Result<Condemned> {
        let mut all = Condemned::default();
        let parts = self.project.parts(begin.generation);
        for part in &begin.condemned {
            let Some(plain) = parts.read(part).await? else {
                return Err(parts.gone(part).await?);
            };
            let name = parts.name(part.id);
            all = all.merge(Condemned::decode(&plain, part.entries).map_err(|e| e.context(name))?);
        }
        Ok(all)
    }

    /// Whether a round is over: it says so itself, or a later one that was begun or ended.
    pub(crate) async fn is_over(self, generation: Generation) -> Result<bool> {
        if self.look_done(generation).await?.opens() {
            return Ok(true);
        }
        let Some(next) = row::follows(generation.0).map(Generation) else { return Ok(false) };
        match self.look_begin(next).await? {
            Found::Opens(_) => Ok(true),
            Found::Absent => Ok(false),
            Found::Foreign(_) => {
                let rounds = self.newest().await?;
                Ok(match rounds.stage {
                    // One before it may have been begun all the same.
                    Stage::Unreadable(_) => self.preceding(rounds.newest).await?.over >= generation,
                    Stage::Begun(_) | Stage::Over { .. } => rounds.newest > generation,
                })
            }
        }
    }

    /// What came before a round whose begin does not open.
    pub(crate) async fn preceding(self, round: Generation) -> Result<Preceding> {
        for steps in 1..=row::FOREIGN_MAX {
            let Some(lower) = round.0.checked_sub(steps).filter(|g| *g > 0).map(Generation) else {
                return Ok(Preceding { over: Generation(0), last_seal: Generation(0) });
            };
            if let Found::Opens(done) = self.look_done(lower).await? {
                return Ok(Preceding { over: lower, last_seal: done.last_seal });
            }
            if let Found::Opens(begin) = self.look_begin(lower).await? {
                // A round is begun only when the one before is over.
                return Ok(Preceding { over: Generation(lower.0 - 1), last_seal: begin.last_seal });
            }
        }
        Err(row::endless(self.begin_name(Generation(round.0.saturating_sub(row::FOREIGN_MAX)))))
    }

    pub(crate) async fn look_begin(self, generation: Generation) -> Result<Found<BeginRecord>> {
        let of = |begin: &BeginRecord| {
            is_of(begin.generation, generation)?;
            comes_before(begin.last_seal, generation)
        };
        self.project.look_bound(&self.begin_name(generation), of).await
    }

    /// What a round keeps and deletes; nothing while that is not decided.
    pub(crate) async fn look_seal(self, generation: Generation) -> Result<Found<SealRecord>> {
        let name = ObjectName::GcSeal(self.project.name().clone(), generation);
        self.project.look_bound(&name, |seal: &SealRecord| is_of(seal.generation, generation)).await
    }

    pub(super) async fn look_done(self, generation: Generation) -> Result<Found<DoneRecord>> {
        let name = ObjectName::GcDone(self.project.name().clone(), generation);
        let of = |done: &DoneRecord| {
            is_of(done.generation, generation)?;
            comes_before(done.last_seal, Generation(generation.0.saturating_add(1)))
        };
        self.project.look_bound(&name, of).await
    }

    pub(crate) fn begin_name(self, generation: Generation) -> ObjectName {
        ObjectName::GcBegin(self.project.name().clone(), generation)
    }
}

impl Keeping<Rounds<'_>> {
    /// Begins a round, or finds that it was begun; whichever record stands is returned, and whether it is this one. `None`
    /// where something stands there that does not open.
    pub(crate) async fn begin(self, begin: BeginRecord) -> Result<Option<(BeginRecord, bool)>> {
        match self.project.create_record(&self.begin_name(begin.generation), &begin).await? {
            Created::New => {
                self.project.repository().memory.saw_generation(self.project.name(), begin.generation);
                Ok(Some((begin, true)))
            }
            Created::Exists { .. } => {
                let found = self.look_begin(begin.generation).await?.opened();
                Ok(found.map(|found| (found, false)))
            }
        }
    }

    /// Seals a round, or finds that it was sealed; whether it is by this record. `None` where something stands there that does
    /// not open: nobody can seal it any more.
    pub(crate) async fn seal(self, seal: SealRecord) -> Result<Option<(SealRecord, bool)>> {
        let name = ObjectName::GcSeal(self.project.name().clone(), seal.generation);
        match self.project.create_record(&name, &seal).await? {
            Created::New => Ok(Some((seal, true))),
            Created::Exists { .. } => match self.look_seal(seal.generation).await? {
                Found::Opens(found) => Ok(Some((found, false))),
                Found::Foreign(_) => Ok(None),
                Found::Absent => Err(missing(&name)),
            },
        }
    }

    /// Ends a round; that somebody else did is as good. False where something stands there that does not open: then only the
    /// next round's begin can say it.
    pub(crate) async fn end(self, done: &DoneRecord) -> Result<bool> {
        let name = ObjectName::GcDone(self.project.name().clone(), done.generation);
        match self.project.create_record(&name, done).await? {
            Created::New => Ok(true),
            Created::Exists { .. } => Ok(self.look_done(done.generation).await?.opens()),
        }
    }
}

fn is_of(found: Generation, expected: Generation) -> std::result::Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("it says that it is of generation {found}")),
    }
}

fn comes_before(last_seal: Generation, generation: Generation) -> std::result::Result<(), String> {
    match last_seal < generation {
        true => Ok(()),
        false => Err(format!("it says that round {last_seal} was sealed before it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    /// Planted names after a round, whose own end does not open either, say nothing of it; one that opens does.
    #[tokio::test]
    async fn a_round_is_over_once_a_later_one_opens_whatever_is_planted_around_it() {
        let bench = Bench::new(true).await;
        let project = &bench.project;
        let begin = async |generation: u32| {
            let generation = Generation(generation);
            let condemned =
                project.parts(generation).put_condemned(&Condemned::default()).await.expect("a table");
            let begin = BeginRecord { generation, last_seal: Generation(0), condemned };
            assert!(project.rounds().begin(begin).await.expect("asked").is_some_and(|(_, own)| own));
        };
        let plant = async |name: &str| bench.put(&format!("projects/default/gc/{name}"), Vec::new()).await;
        begin(1).await;
        plant("0000000001.done").await;
        plant("0000000002.begin").await;
        assert!(!project.rounds().is_over(Generation(1)).await.expect("asked"));
        begin(3).await;
        assert!(project.rounds().is_over(Generation(1)).await.expect("asked"));
        plant("0000000004.begin").await;
        assert!(
            project.rounds().is_over(Generation(1)).await.expect("asked"),
            "the newest that opens says it"
        );
        assert!(!project.rounds().is_over(Generation(3)).await.expect("asked"));
    }
}
