//! What a store is opened with, and every maximum it keeps to.

use std::time::Duration;

/// Requests in flight at once, unless asked otherwise.
pub(super) const REQUESTS_INFLIGHT_MAX_DEFAULT: usize = 32;
/// Attempts of one operation. With the delays below the last comes about two minutes after the first,
/// long enough for a provider's usual hiccup and a rebooting gateway.
pub(super) const ATTEMPTS_MAX_DEFAULT: u32 = 12;
/// Attempts while the store has never answered anything: a mistyped address should say so in seconds, and
/// one that leads nowhere within a minute or so.
pub(super) const ATTEMPTS_FIRST_CONTACT_MAX_DEFAULT: u32 = 6;
/// Delay before the second attempt; it doubles with each further one. Half of every delay is random.
pub(super) const BACKOFF_FIRST_DEFAULT: Duration = Duration::from_millis(100);
/// Longest delay between two attempts, whatever the store asks for.
pub(super) const BACKOFF_MAX_DEFAULT: Duration = Duration::from_secs(30);
/// Longest wait for a connection.
pub(super) const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Longest wait for an answer's beginning, and between two pieces of its body.
pub(super) const STALL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// An upload may take the stall timeout and, on top of it, its size at this speed.
pub(super) const UPLOAD_BYTES_PER_SECOND_MIN_DEFAULT: u64 = 64 << 10;
/// Objects that [`list`](super::Reader::list) gathers before it refuses; the stream has no such limit.
pub(super) const LIST_OBJECTS_MAX_DEFAULT: usize = 4_000_000;

/// Where a store is and how to reach it.
#[derive(Debug, Clone, Default)]
pub struct StoreConfig {
    /// A path, or a `file://`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX` URL.
    pub url: String,
    /// Options by name, as given with `-o`; they win over the environment.
    pub options: Vec<(String, String)>,
    /// The environment variables that may matter (`AWS_*`, `GOOGLE_*`, `AZURE_*`), handed in by the caller.
    pub environment: Vec<(String, String)>,
    /// Speeds, retries and timeouts.
    pub limits: Limits,
}

/// Speeds, retries and timeouts. `Limits::default()` suits the internet and the local network alike.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Long-run average of object bytes sent; `None` is unlimited. One object goes out at line speed.
    pub upload_bytes_per_second: Option<u64>,
    /// Long-run average of object bytes received; `None` is unlimited.
    pub download_bytes_per_second: Option<u64>,
    /// Upper bound of the adaptive number of requests in flight; at least 1.
    pub requests_inflight_max: usize,
    /// Attempts of one operation, the first included.
    pub attempts_max: u32,
    /// The same as long as the store has never answered: a wrong address should show soon.
    pub attempts_first_contact_max: u32,
    /// Delay before the second attempt; it doubles with each further one. Half of it is random.
    pub backoff_first: Duration,
    /// Longest delay between two attempts, whatever the store asks for.
    pub backoff_max: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for an answer's beginning, and between two pieces of its body.
    pub stall_timeout: Duration,
    /// Slowest upload that is waited for: one may take its size at this speed beside the stall timeout.
    pub upload_bytes_per_second_min: u64,
    /// Objects that a gathered listing may have; one of more is refused. A streamed one has no limit.
    pub list_objects_max: usize,
    /// Seed of the jitter; `None` takes one from the system.
    pub jitter_seed: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            upload_bytes_per_second: None,
            download_bytes_per_second: None,
            requests_inflight_max: REQUESTS_INFLIGHT_MAX_DEFAULT,
            attempts_max: ATTEMPTS_MAX_DEFAULT,
            attempts_first_contact_max: ATTEMPTS_FIRST_CONTACT_MAX_DEFAULT,
            backoff_first: BACKOFF_FIRST_DEFAULT,
            backoff_max: BACKOFF_MAX_DEFAULT,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            stall_timeout: STALL_TIMEOUT_DEFAULT,
            upload_bytes_per_second_min: UPLOAD_BYTES_PER_SECOND_MIN_DEFAULT,
            list_objects_max: LIST_OBJECTS_MAX_DEFAULT,
            jitter_seed: None,
        }
    }
}

impl Limits {
    /// Longest time one upload of this size may take before it is tried again.
    pub fn upload_timeout(&self, size_bytes: u64) -> Duration {
        let speed = self.upload_bytes_per_second_min.max(1);
        self.stall_timeout + Duration::from_secs(size_bytes / speed)
    }
}
