//! A bandwidth limit: bytes are booked one after the other on a line of a given speed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Transfers up to this do not wait for their turn, only later ones for theirs: records of a few hundred bytes, by which
/// a backup registers or is given up, are not held up by the data that waits.
const UNDELAYED_BYTES_MAX: u64 = 16 << 10;

/// Spaces transfers so that their long-run average keeps to a speed. Without a limit it costs nothing.
#[derive(Debug)]
pub(crate) struct Bandwidth {
    bytes_per_second: Option<u64>,
    /// When all that was booked so far will have passed.
    free_at: Mutex<Option<Instant>>,
}

impl Bandwidth {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.map(|b| b.max(1)), free_at: Mutex::new(None) }
    }

    /// Waits for everything booked before, then lets `bytes` through. What is small is booked, but let through at once.
    pub(crate) async fn pass(&self, bytes: u64) {
        let Some(speed) = self.bytes_per_second else { return };
        let begin = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let begin = free_at.map_or(now, |t| t.max(now));
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(speed);
            *free_at = Some(begin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4)));
            begin
        };
        if bytes > UNDELAYED_BYTES_MAX {
            sleep_until(begin).await;
        }
    }
}
