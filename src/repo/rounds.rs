//! Prune rounds: what begins, seals and ends them, and what sessions must know of them (repo-format.md §8).

use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::gc::{BeginRecord, Condemned, DoneRecord, SealRecord};
use crate::format::names::gc_prefix;
use crate::repo::Project;
use crate::repo::project::missing;
use crate::store::Created;
use crate::units::Generation;

/// The generation that a session works in, and what may not be referenced while it does.
#[derive(Debug, Clone)]
pub struct GcState {
    pub generation: Generation,
    /// Rounds begun and not done, oldest first.
    pub unfinished: Vec<Generation>,
    /// Records of what was found lost, as they are listed beside the rounds.
    pub lost: Vec<u128>,
}

/// The rounds so far, each confirmed by the objects themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rounds {
    /// The newest generation.
    pub(crate) newest: Generation,
    /// Whether the round that began it is over; so it is for generation 0.
    pub(crate) done: bool,
}

impl Project {
    /// The newest generation and the rounds that are not over, as a listing shows them (repo-format.md §8.1, step 1).
    pub async fn gc_state(&self) -> Result<GcState> {
        let memory = &self.repository().memory;
        let expected = memory.generation(self.name());
        let mut state = GcState { generation: Generation(0), unfinished: Vec::new(), lost: Vec::new() };
        let mut done = Vec::new();
        for info in self.repository().store.list(&gc_prefix(self.name()), None).await? {
            match ObjectName::parse(&info.key) {
                Some(ObjectName::GcBegin(_, g)) => {
                    state.generation = state.generation.max(g);
                    state.unfinished.push(g);
                }
                Some(ObjectName::GcDone(_, g)) => done.push(g),
                Some(ObjectName::Lost(_, record)) => state.lost.push(record),
                _ => {}
            }
        }
        state.unfinished.retain(|g| !done.contains(g));
        if state.generation < expected {
            // A listing may be short; the object itself tells.
            let begin = ObjectName::GcBegin(self.name().clone(), expected);
            if self.repository().store.head(&begin.to_string()).await?.is_none() {
                return Err(memory.generation_went_back(self.name(), state.generation, expected));
            }
            state.generation = expected;
            state.unfinished.push(expected);
        }
        memory.saw_generation(self.name(), state.generation);
        Ok(state)
    }

    /// As [`gc_state`](Self::gc_state), confirmed by a request that must find nothing: a short listing never hides a
    /// round (§8.1, step 3).
    pub async fn confirmed_gc_state(&self) -> Result<GcState> {
        let mut state = self.gc_state().await?;
        loop {
            let next = Generation(state.generation.0.saturating_add(1));
            let begin = ObjectName::GcBegin(self.name().clone(), next);
            if next == state.generation || self.repository().store.head(&begin.to_string()).await?.is_none() {
                self.repository().memory.saw_generation(self.name(), state.generation);
                return Ok(state);
            }
            // Whether it is over does not matter: what it condemned is written anew, which costs no more than uploads.
            state.generation = next;
            state.unfinished.push(next);
        }
    }

    /// What the rounds under way may delete.
    pub(crate) async fn condemned(&self, state: &GcState) -> Result<Condemned> {
        let mut all = Condemned::default();
        for &generation in &state.unfinished {
            let name = ObjectName::GcBegin(self.name().clone(), generation);
            let begin: BeginRecord = self.read_record(&name).await?.ok_or_else(|| missing(&name))?;
            all = all.merge(self.condemned_by(&begin).await?);
        }
        Ok(all)
    }

    /// What one round may delete.
    pub(crate) async fn condemned_by(&self, begin: &BeginRecord) -> Result<Condemned> {
        let mut all = Condemned::default();
        for part in &begin.condemned {
            let Some(plain) = self.read_part(begin.generation, part).await? else {
                return Err(self.part_gone(begin.generation, part).await?);
            };
            let name = self.part_name(begin.generation, part.id);
            all = all.merge(Condemned::decode(&plain, part.entries).map_err(|e| e.context(name))?);
        }
        Ok(all)
    }

    /// Which round is the newest, and whether it is over. For those who prune: sessions ask
    /// [`confirmed_gc_state`](Self::confirmed_gc_state), which may take a round for unfinished that is over.
    pub(crate) async fn rounds(&self) -> Result<Rounds> {
        let state = self.confirmed_gc_state().await?;
        for &generation in &state.unfinished {
            if self.is_done(generation).await? {
                continue;
            }
            if generation < state.generation {
                return Err(Error::corrupt(format!(
                    "prune round {generation} is not over, but {} began",
                    state.generation
                ))
                .help("someone removed objects below gc/; if the bucket keeps versions, bring them back"));
            }
            return Ok(Rounds { newest: generation, done: false });
        }
        Ok(Rounds { newest: state.generation, done: true })
    }

    pub(crate) async fn is_done(&self, generation: Generation) -> Result<bool> {
        let name = ObjectName::GcDone(self.name().clone(), generation).to_string();
        Ok(self.repository().store.head(&name).await?.is_some())
    }

    /// Begins a round, or finds that it was begun; whichever record stands is returned, and whether it is this one.
    pub(crate) async fn begin_round(&self, begin: BeginRecord) -> Result<(BeginRecord, bool)> {
        let name = ObjectName::GcBegin(self.name().clone(), begin.generation);
        match self.create_record(&name, &begin).await? {
            Created::New => {
                self.repository().memory.saw_generation(self.name(), begin.generation);
                Ok((begin, true))
            }
            Created::Exists { .. } => Ok((self.read_begin(begin.generation).await?, false)),
        }
    }

    pub(crate) async fn read_begin(&self, generation: Generation) -> Result<BeginRecord> {
        let name = ObjectName::GcBegin(self.name().clone(), generation);
        let begin: BeginRecord = self.read_record(&name).await?.ok_or_else(|| missing(&name))?;
        check_generation(&name, begin.generation, generation)?;
        Ok(begin)
    }

    /// Seals a round, or finds that it was sealed; whichever record stands is returned, and whether it is this one.
    pub(crate) async fn seal_round(&self, seal: SealRecord) -> Result<(SealRecord, bool)> {
        let name = ObjectName::GcSeal(self.name().clone(), seal.generation);
        match self.create_record(&name, &seal).await? {
            Created::New => Ok((seal, true)),
            Created::Exists { .. } => {
                let found = self.read_seal(seal.generation).await?;
                Ok((found.ok_or_else(|| missing(&name))?, false))
            }
        }
    }

    /// What a round keeps and deletes; `None` while that is not decided.
    pub(crate) async fn read_seal(&self, generation: Generation) -> Result<Option<SealRecord>> {
        let name = ObjectName::GcSeal(self.name().clone(), generation);
        let seal: Option<SealRecord> = self.read_record(&name).await?;
        seal.as_ref().map_or(Ok(()), |seal| check_generation(&name, seal.generation, generation))?;
        Ok(seal)
    }

    /// Ends a round. That somebody else did is as good.
    pub(crate) async fn end_round(&self, generation: Generation) -> Result<()> {
        let name = ObjectName::GcDone(self.name().clone(), generation);
        self.create_record(&name, &DoneRecord { generation }).await.map(drop)
    }
}

fn check_generation(name: &ObjectName, found: Generation, expected: Generation) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::corrupt(format!("{name} says that it is of generation {found}")))
}
