//! How many requests may be in flight: additive increase, multiplicative decrease.
//!
//! Each success adds 1/limit, so a full round of successes adds one. An answer that asks to slow down
//! halves the limit, once for all requests that were already under way then: one burst of refusals is
//! one signal, not thirty-two.

use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a finished request says about the store's load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Success,
    SlowDown,
    /// Says nothing about load.
    Neutral,
}

/// Lets at most `limit` requests through at once, and moves `limit` between 1 and the maximum.
#[derive(Debug)]
pub(crate) struct AdaptiveLimit {
    semaphore: Arc<Semaphore>,
    limit_max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Current limit; its fraction is progress towards the next whole one.
    limit: f64,
    /// Permits still out that must not come back, because the limit fell while they were out.
    withheld: usize,
    /// Counts decreases; a permit remembers under which it was given.
    epoch: u64,
}

/// The right to one request. Dropping it without [`AdaptiveLimit::finish`] is a neutral end.
#[derive(Debug)]
pub(crate) struct Permit {
    inner: Option<OwnedSemaphorePermit>,
    owner: Arc<AdaptiveLimit>,
    epoch: u64,
}

impl AdaptiveLimit {
    pub(crate) fn new(limit_max: usize) -> Arc<Self> {
        let limit_max = limit_max.clamp(1, Semaphore::MAX_PERMITS);
        let state = State { limit: limit_max as f64, withheld: 0, epoch: 0 };
        Arc::new(Self { semaphore: Arc::new(Semaphore::new(limit_max)), limit_max, state: Mutex::new(state) })
    }

    pub(crate) async fn acquire(self: &Arc<Self>) -> Permit {
        // The semaphore is never closed; were it, requests would go through unlimited rather than not at all.
        let inner = Arc::clone(&self.semaphore).acquire_owned().await.ok();
        Permit { inner, owner: Arc::clone(self), epoch: self.lock().epoch }
    }

    /// Requests allowed in flight now.
    pub(crate) fn limit(&self) -> usize {
        self.lock().limit as usize
    }

    /// Returns a permit and learns from how its request ended.
    pub(crate) fn finish(&self, permit: Permit, signal: Signal) {
        {
            let mut state = self.lock();
            match signal {
                Signal::Success => self.increase(&mut state),
                Signal::SlowDown if permit.epoch == state.epoch => self.decrease(&mut state),
                Signal::SlowDown | Signal::Neutral => {}
            }
        }
        drop(permit);
    }

    fn increase(&self, state: &mut State) {
        let before = state.limit as usize;
        state.limit = (state.limit + 1.0 / state.limit).min(self.limit_max as f64);
        for _ in before..state.limit as usize {
            if state.withheld > 0 {
                state.withheld -= 1;
            } else {
                self.semaphore.add_permits(1);
            }
        }
    }

    fn decrease(&self, state: &mut State) {
        let before = state.limit as usize;
        state.limit = (state.limit / 2.0).floor().max(1.0);
        state.epoch += 1;
        let fewer = before - state.limit as usize;
        state.withheld += fewer - self.semaphore.forget_permits(fewer);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while holding the lock; a poisoned count is still a count.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        let mut state = self.owner.lock();
        if state.withheld > 0 {
            state.withheld -= 1;
            inner.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AdaptiveLimit, Signal};

    #[tokio::test]
    async fn slow_down_halves_once_per_burst_and_success_restores() {
        let limit = AdaptiveLimit::new(8);
        let mut burst = Vec::new();
        for _ in 0..8 {
            burst.push(limit.acquire().await);
        }
        for permit in burst {
            limit.finish(permit, Signal::SlowDown);
        }
        assert_eq!(limit.limit(), 4);
        assert_eq!(limit.semaphore.available_permits(), 4);

        for expected in [2, 1, 1] {
            let permit = limit.acquire().await;
            limit.finish(permit, Signal::SlowDown);
            assert_eq!(limit.limit(), expected);
            assert_eq!(limit.semaphore.available_permits(), expected);
        }
        for _ in 0..200 {
            let permit = limit.acquire().await;
            limit.finish(permit, Signal::Success);
        }
        assert_eq!(limit.limit(), 8);
        assert_eq!(limit.semaphore.available_permits(), 8);
    }

    #[tokio::test]
    async fn permits_dropped_without_an_end_come_back() {
        let limit = AdaptiveLimit::new(2);
        drop(limit.acquire().await);
        let (a, b) = (limit.acquire().await, limit.acquire().await);
        limit.finish(a, Signal::SlowDown);
        assert_eq!(limit.semaphore.available_permits(), 0);
        drop(b);
        assert_eq!(limit.semaphore.available_permits(), 1);
    }
}
