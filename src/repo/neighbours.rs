//! Pieces of bundles that lie near one another, fetched with one request for all who need some of them.
//!
//! Who is about to read chunks says so; who then reads a piece gets it out of the part of the bundle that it was planned with. Memory
//! is bounded, and nobody waits for it: where there is none, or a request fails, a piece is read by itself, and its reader is told
//! what is wrong with it alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use crate::budget::{Budget, Share};
use crate::error::Result;
use crate::format::names::{ContentKind, ContentName};
use crate::format::page::ObjectRef;
use crate::format::{CLOSURE_LEN_MAX, ObjectName};
use crate::plan::neighbours::{Run, runs};
use crate::repo::Project;
use crate::repo::content::Body;

/// Bundles of which something is expected, before all is forgotten: a reader that goes anywhere leaves more and more.
const BUNDLES_MAX: usize = 1 << 16;

/// What readers of one operation are about to need.
pub(crate) struct Neighbours {
    project: Project,
    budget: Budget,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    planned: HashMap<ContentName, Vec<Planned>>,
    /// What was asked for, the oldest first.
    asked: VecDeque<(ContentName, u32)>,
}

struct Planned {
    run: Run,
    part: Part,
}

enum Part {
    /// Nobody needed any of it yet.
    Due,
    Coming(Coming),
    /// It was there, and had to make room.
    Gone,
}

/// `None` where the store did not give it.
type Coming = Shared<BoxFuture<'static, Option<Arc<Loaded>>>>;

struct Loaded {
    bytes: Bytes,
    _share: Share,
}

impl Neighbours {
    pub(crate) fn new(project: &Project, memory_bytes: u64) -> Self {
        Self { project: project.clone(), budget: Budget::new(memory_bytes), state: Mutex::default() }
    }

    /// Says that these are about to be read, each once.
    pub(crate) fn announce<'a>(&self, objects: impl Iterator<Item = &'a ObjectRef>) {
        let planned = runs(objects);
        let mut state = self.lock();
        if state.planned.len() > BUNDLES_MAX {
            // Readers that changed their minds left so much; what they wait for they have.
            *state = State::default();
        }
        for (bundle, runs) in planned {
            let runs = runs.into_iter().map(|run| Planned { run, part: Part::Due });
            state.planned.entry(bundle).or_default().extend(runs);
        }
    }

    /// A chunk's objects and pieces, in their order.
    pub(crate) async fn get_all(&self, objects: &[ObjectRef]) -> Result<Vec<Body>> {
        let bodies = stream::iter(objects.to_vec()).map(|object| self.get(object));
        bodies.buffered(CLOSURE_LEN_MAX + 1).try_collect().await
    }

    async fn get(&self, object: ObjectRef) -> Result<Body> {
        let content = self.project.content();
        match self.piece(&object).await {
            Some(bytes) => {
                content.check_chunk_len(&object)?;
                content.body(&object, bytes)
            }
            None => content.get_chunk_object(object).await,
        }
    }

    /// A piece out of what was read with its neighbours; `None` where it is to be read by itself.
    pub(crate) async fn piece(&self, object: &ObjectRef) -> Option<Bytes> {
        let start = object.name.offset_bytes?;
        let end = start.checked_add(object.sealed_len_bytes)?;
        let (coming, run_start) = self.part(object.name.object(), start, end)?;
        let loaded = coming.await?;
        let within = (start - run_start) as usize..(end - run_start) as usize;
        // A copy, so that what is left of the part can go.
        loaded.bytes.get(within).map(Bytes::copy_from_slice)
    }

    fn part(&self, bundle: ContentName, start: u32, end: u32) -> Option<(Coming, u32)> {
        let mut state = self.lock();
        let planned = state.planned.get_mut(&bundle)?;
        let at = planned.iter().position(|p| p.run.range.start <= start && end <= p.run.range.end)?;
        let Planned { run, part } = &mut planned[at];
        run.wanted = run.wanted.saturating_sub(1);
        let (range, is_last) = (run.range.clone(), run.wanted == 0);
        let found = match part {
            Part::Coming(coming) => Some(coming.clone()),
            // For one piece alone not all of it is read.
            Part::Due if !is_last => self.ask(&mut state, bundle, &range),
            Part::Due | Part::Gone => None,
        };
        if is_last {
            state.forget(&bundle, range.start);
        }
        Some((found?, range.start))
    }

    /// Begins to read a part of a bundle, where there is memory for it.
    fn ask(&self, state: &mut State, bundle: ContentName, range: &std::ops::Range<u32>) -> Option<Coming> {
        let len_bytes = u64::from(range.end - range.start);
        let share = loop {
            match self.budget.try_take(len_bytes) {
                Some(share) => break share,
                None if state.make_room() => {}
                None => {
                    state.set(&bundle, range.start, Part::Gone);
                    return None;
                }
            }
        };
        let project = self.project.clone();
        let bytes = u64::from(range.start)..u64::from(range.end);
        let load = async move {
            let key = ObjectName::content(project.name(), ContentKind::Bundle, bundle).to_string();
            match project.repository().store().get_range(&key, bytes).await {
                Ok(Some(bytes)) => Some(Arc::new(Loaded { bytes, _share: share })),
                Ok(None) => None,
                Err(error) => {
                    tracing::debug!(%error, "pieces are read one by one");
                    None
                }
            }
        };
        let coming = load.boxed().shared();
        state.set(&bundle, range.start, Part::Coming(coming.clone()));
        state.asked.push_back((bundle, range.start));
        Some(coming)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn set(&mut self, bundle: &ContentName, start: u32, part: Part) {
        let planned = self.planned.get_mut(bundle).into_iter().flatten();
        if let Some(found) = planned.into_iter().find(|p| p.run.range.start == start) {
            found.part = part;
        }
    }

    fn forget(&mut self, bundle: &ContentName, start: u32) {
        if let Some(planned) = self.planned.get_mut(bundle) {
            planned.retain(|p| p.run.range.start != start || p.run.wanted > 0);
            if planned.is_empty() {
                self.planned.remove(bundle);
            }
        }
    }

    /// Lets go of the oldest part that came and that somebody may still want. False where there is none.
    fn make_room(&mut self) -> bool {
        for _ in 0..self.asked.len() {
            let Some((bundle, start)) = self.asked.pop_front() else { return false };
            let planned = self.planned.get(&bundle).into_iter().flatten();
            match planned.into_iter().find(|p| p.run.range.start == start).map(|p| &p.part) {
                Some(Part::Coming(coming)) if coming.peek().is_some() => {
                    self.set(&bundle, start, Part::Gone);
                    return true;
                }
                Some(Part::Coming(_)) => self.asked.push_back((bundle, start)),
                _ => {}
            }
        }
        false
    }
}
