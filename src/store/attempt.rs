//! Attempts and retries: one place that counts, limits, times and repeats whatever is asked of a store.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;

use crate::error::{Error, Result};

use super::adaptive::{AdaptiveLimit, Signal};
use super::bandwidth::Bandwidth;
use super::bodies::Bodies;
use super::fault::{Fault, TimedOut};
use super::ledger::{Counters, RequestKind};
use super::limits::Limits;

/// How one attempt ended.
pub(crate) type Attempt<T> = std::result::Result<T, Fault>;

/// How a provider deletes many objects with one request.
#[derive(Debug, Clone)]
pub(crate) struct Bulk {
    /// A client whose `delete_stream` does that.
    pub(crate) client: Arc<dyn ObjectStore>,
    /// Names in one request.
    pub(crate) names_max: usize,
}

/// What all clones of a [`Store`](super::Store) share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) object_store: Arc<dyn ObjectStore>,
    pub(crate) url: String,
    /// See [`place`](super::place).
    pub(crate) place: String,
    pub(crate) limits: Limits,
    pub(crate) counters: Arc<Counters>,
    /// The HTTP layer counts real requests; without one every operation is one request.
    pub(crate) counted_below: bool,
    /// Whether creates may rely on the store; otherwise they look before they write.
    pub(crate) create_if_absent: AtomicBool,
    /// Deletes many objects with one request, where the provider does.
    pub(crate) bulk: Option<Bulk>,
    /// Where a local store is.
    pub(crate) local_dir: Option<PathBuf>,
    pub(crate) upload: Bandwidth,
    pub(crate) download: Bandwidth,
    pub(super) bodies: Arc<Bodies>,
    adaptive: Arc<AdaptiveLimit>,
    answered: AtomicBool,
    jitter: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        object_store: Arc<dyn ObjectStore>,
        url: String,
        limits: Limits,
        counters: Arc<Counters>,
        counted_below: bool,
    ) -> Self {
        let seed = limits.jitter_seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Self {
            object_store,
            place: url.clone(),
            url,
            counters,
            counted_below,
            create_if_absent: AtomicBool::new(true),
            bulk: None,
            local_dir: None,
            upload: Bandwidth::new(limits.upload_bytes_per_second),
            download: Bandwidth::new(limits.download_bytes_per_second),
            bodies: Arc::default(),
            adaptive: AdaptiveLimit::new(limits.requests_inflight_max),
            answered: AtomicBool::new(false),
            jitter: AtomicU64::new(seed),
            limits,
        }
    }

    /// One attempt, within the limit of requests in flight.
    pub(crate) async fn once<T>(
        &self,
        kind: RequestKind,
        attempt: impl Future<Output = Attempt<T>>,
    ) -> Attempt<T> {
        let permit = self.adaptive.acquire().await;
        if !self.counted_below {
            self.counters.request(kind);
        }
        let result = self.observe(attempt.await);
        self.adaptive.finish(permit, signal(&result));
        result
    }

    /// Notes what an attempt's end says about the store.
    pub(crate) fn observe<T>(&self, result: Attempt<T>) -> Attempt<T> {
        if signal(&result) == Signal::SlowDown {
            self.counters.throttled();
        }
        if result.as_ref().map_or_else(Fault::answered, |_| true) {
            self.heard();
        }
        result
    }

    /// The store answered, so that its address is right and patience is in order.
    pub(crate) fn heard(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Attempts until one succeeds, one fails for good, or there were enough of them.
    pub(crate) async fn repeat<T, F>(&self, kind: RequestKind, mut attempt: impl FnMut() -> F) -> Attempt<T>
    where
        F: Future<Output = Attempt<T>>,
    {
        let mut patience = Patience::default();
        loop {
            match self.once(kind, attempt()).await {
                Ok(value) => return Ok(value),
                Err(fault) => patience.wait(self, fault).await?,
            }
        }
    }

    /// Ends a future of object_store that takes longer than it may.
    pub(crate) async fn within<T>(
        &self,
        timeout: Duration,
        future: impl Future<Output = object_store::Result<T>>,
    ) -> Attempt<T> {
        match tokio::time::timeout(timeout, future).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Fault::in_doubt(TimedOut(timeout))),
        }
    }

    /// Requests allowed in flight now.
    pub(crate) fn inflight_limit(&self) -> usize {
        self.adaptive.limit()
    }

    /// The object's address for messages.
    pub(crate) fn place(&self, key: &str) -> String {
        if key.is_empty() { self.url.clone() } else { format!("{}/{key}", self.url) }
    }

    /// A random number, good enough to keep clients from retrying in step (SplitMix64).
    fn jitter(&self) -> u64 {
        let mut z = self.jitter.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn signal<T>(result: &Attempt<T>) -> Signal {
    match result {
        Ok(_) => Signal::Success,
        Err(fault) => fault.signal(),
    }
}

/// Counts the attempts of one operation and waits between them.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    attempts: u32,
}

impl Patience {
    /// After a failed attempt: waits and returns, or hands the fault back when there is no point in going on.
    pub(crate) async fn wait(&mut self, shared: &Shared, fault: Fault) -> Attempt<()> {
        self.attempts += 1;
        let limits = &shared.limits;
        let answered = shared.answered.load(Ordering::Relaxed);
        let attempts_max = if answered { limits.attempts_max } else { limits.attempts_first_contact_max };
        if !fault.again() || self.attempts >= attempts_max {
            return Err(fault);
        }
        shared.counters.retry();
        tokio::time::sleep(self.delay(shared, fault.retry_after)).await;
        Ok(())
    }

    fn delay(&self, shared: &Shared, retry_after: Option<Duration>) -> Duration {
        let limits = &shared.limits;
        let doubled = limits.backoff_first.saturating_mul(1 << (self.attempts - 1).min(16));
        let ceiling = doubled.min(limits.backoff_max);
        let half = ceiling / 2;
        // Rounding aside: half fixed, half random.
        let random = half.mul_f64((shared.jitter() >> 11) as f64 / (1u64 << 53) as f64);
        let asked = retry_after.unwrap_or_default().min(limits.backoff_max);
        (half + random).max(asked)
    }
}

/// Longest key, in bytes; what S3 and GCS allow.
const KEY_LEN_MAX: usize = 1024;

/// Checks a key: segments of `a-z A-Z 0-9 . _ -`, none empty or of dots alone, joined by `/`.
pub(crate) fn key_path(key: &str) -> Result<Path> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(plain);
    if key.len() > KEY_LEN_MAX || !key.split('/').all(segment) {
        return Err(Error::invalid(format!(
            "object key {key:?}: expected at most {KEY_LEN_MAX} bytes, segments of a-z, A-Z, 0-9, '.', '_', '-' joined by '/'"
        )));
    }
    Path::parse(key).map_err(|e| Error::invalid(format!("object key {key:?}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::{Patience, Shared};
    use crate::store::Limits;
    use crate::store::ledger::Counters;
    use object_store::memory::InMemory;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn delays_double_up_to_the_maximum_and_half_of_each_is_random() {
        let limits = Limits {
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(2),
            jitter_seed: Some(3),
            ..Limits::default()
        };
        let shared = Shared::new(
            Arc::new(InMemory::new()),
            String::new(),
            limits,
            Arc::new(Counters::default()),
            false,
        );
        for (attempts, expected_ms) in [(1, 100), (2, 200), (3, 400), (5, 1600), (6, 2000), (60, 2000)] {
            let delays: Vec<Duration> =
                (0..100).map(|_| Patience { attempts }.delay(&shared, None)).collect();
            let (low, high) = (Duration::from_millis(expected_ms / 2), Duration::from_millis(expected_ms));
            assert!(delays.iter().all(|d| (low..=high).contains(d)), "{attempts}: {delays:?}");
            let spread = *delays.iter().max().expect("some") - *delays.iter().min().expect("some");
            assert!(spread > low / 2, "{attempts}: {spread:?}");
        }
        let asked = |seconds| Patience { attempts: 1 }.delay(&shared, Some(Duration::from_secs(seconds)));
        assert_eq!(asked(1), Duration::from_secs(1));
        assert_eq!(asked(100_000), Duration::from_secs(2));
        assert!(asked(0) >= Duration::from_millis(50));
    }
}
