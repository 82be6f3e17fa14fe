//! How many connections there are, and which one goes when there is no room: whoever sits there without asking for
//! anything cannot keep others out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// Counts connections.
pub(super) struct Door {
    places: Arc<Semaphore>,
    state: Mutex<State>,
    became_idle: Notify,
}

#[derive(Default)]
struct State {
    /// Grows with every change.
    now: u64,
    /// Who is idle, by since when.
    idle: BTreeMap<u64, Option<AbortHandle>>,
}

/// A connection's place, until it is dropped.
pub(super) struct Place {
    door: Arc<Door>,
    own: Mutex<Own>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Own {
    idle_since: Option<u64>,
    task: Option<AbortHandle>,
}

/// A request is under way, until this is dropped.
pub(super) struct Busy(Arc<Place>);

impl Door {
    pub(super) fn new(connections_max: usize) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(connections_max.max(1)));
        Arc::new(Self { places, state: Mutex::default(), became_idle: Notify::new() })
    }

    /// Takes a place; where there is none, the connection that has been idle longest is ended.
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
            }
        };
        let place = Place { door: Arc::clone(self), own: Mutex::default(), _permit: permit };
        place.now_idle();
        place
    }

    fn end_one(&self) -> bool {
        let oldest = self.lock().idle.pop_first();
        if let Some((_, task)) = oldest {
            task.inspect(AbortHandle::abort);
            return true;
        }
        false
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
        Busy(Arc::clone(self))
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_idle(&self) {
        let mut own = self.own();
        let mut state = self.door.lock();
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
}

impl Drop for Place {
    fn drop(&mut self) {
        self.no_longer_idle();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.now_idle();
    }
}
