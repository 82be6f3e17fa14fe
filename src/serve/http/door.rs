//! How many connections there are, and which one goes when there is no room: whoever sits there without asking for
//! anything, or takes next to nothing of what it asked for, cannot keep others out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::steady::Stalled;

/// How often it is looked whether somebody stalls, while somebody waits at the door.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Counts connections.
pub(super) struct Door {
    places: Arc<Semaphore>,
    state: Mutex<State>,
    became_idle: Notify,
    /// Who takes next to nothing for so long makes room.
    patience: Duration,
}

#[derive(Default)]
struct State {
    /// Grows with every change.
    now: u64,
    /// Who is idle, by since when.
    idle: BTreeMap<u64, Option<AbortHandle>>,
    /// Who has a request under way, by the same numbers.
    busy: BTreeMap<u64, (Stalled, Option<AbortHandle>)>,
}

/// A connection's place, until it is dropped.
pub(super) struct Place {
    door: Arc<Door>,
    own: Mutex<Own>,
    stalled: Stalled,
    _permit: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Own {
    idle_since: Option<u64>,
    task: Option<AbortHandle>,
    busy_since: Option<u64>,
}

/// A request is under way, until this is dropped.
pub(super) struct Busy(Arc<Place>);

impl Door {
    pub(super) fn new(connections_max: usize, patience: Duration) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(connections_max.max(1)));
        Arc::new(Self { places, state: Mutex::default(), became_idle: Notify::new(), patience })
    }

    /// Takes a place; where there is none, the connection that has been idle longest is ended, or else the one that has
    /// been stalled longest, if that is long.
    pub(super) async fn enter(self: &Arc<Self>) -> Place {
        let permit = loop {
            let idle = self.became_idle.notified();
            if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
                break permit;
            }
            let ended = self.end_one();
            let free = Arc::clone(&self.places).acquire_owned();
            tokio::select! {
                Ok(permit) = free => break permit,
                () = idle, if !ended => {}
                () = sleep(LOOK_AGAIN), if !ended => {}
            }
        };
        let place = Place {
            door: Arc::clone(self),
            own: Mutex::default(),
            stalled: Stalled::default(),
            _permit: permit,
        };
        place.now_idle();
        place
    }

    fn end_one(&self) -> bool {
        let oldest = self.lock().idle.pop_first();
        if let Some((_, task)) = oldest {
            task.inspect(AbortHandle::abort);
            return true;
        }
        let mut state = self.lock();
        let since = |(at, (stalled, _)): (&u64, &(Stalled, _))| stalled.since().map(|since| (since, *at));
        let longest = state.busy.iter().filter_map(since).min();
        let Some((_, at)) = longest.filter(|(since, _)| since.elapsed() >= self.patience) else {
            return false;
        };
        if let Some((_, Some(task))) = state.busy.remove(&at) {
            task.abort();
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Tells which task to end.
    pub(super) fn is_of(&self, task: AbortHandle) {
        let mut own = self.own();
        let mut state = self.door.lock();
        if let Some(entry) = own.idle_since.and_then(|since| state.idle.get_mut(&since)) {
            *entry = Some(task.clone());
        }
        own.task = Some(task);
    }

    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.no_longer_idle();
        self.stalled.end();
        let mut own = self.own();
        let mut state = self.door.lock();
        state.now += 1;
        let now = state.now;
        state.busy.insert(now, (self.stalled.clone(), own.task.clone()));
        own.busy_since = Some(now);
        Busy(Arc::clone(self))
    }

    /// What the connection tells of its client.
    pub(super) fn stalled(&self) -> Stalled {
        self.stalled.clone()
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_idle(&self) {
        let mut own = self.own();
        let mut state = self.door.lock();
        if let Some(since) = own.busy_since.take() {
            state.busy.remove(&since);
        }
        state.now += 1;
        let now = state.now;
        state.idle.insert(now, own.task.clone());
        own.idle_since = Some(now);
        drop(state);
        self.door.became_idle.notify_one();
    }

    fn no_longer_idle(&self) {
        if let Some(since) = self.own().idle_since.take() {
            self.door.lock().idle.remove(&since);
        }
    }

    fn no_longer_busy(&self) {
        if let Some(since) = self.own().busy_since.take() {
            self.door.lock().busy.remove(&since);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.no_longer_idle();
        self.no_longer_busy();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.now_idle();
    }
}
