//! When a session without an outcome is taken for dead.

use std::time::Duration;

/// Time without a sign of life after which a session may be ended: a day outlasts a reboot, a weekend's patch takes more.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// When a session was last seen alive, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signs {
    /// Of the `.open` record.
    pub opened_unix_ms: u64,
    /// Of the newest `.alive` record; `None` where there is none.
    pub alive_unix_ms: Option<u64>,
}

impl Signs {
    /// The later of both.
    pub(crate) fn last_unix_ms(&self) -> u64 {
        self.opened_unix_ms.max(self.alive_unix_ms.unwrap_or(0))
    }

    /// Whether the lease ran out. `now_unix_ms` is the store's own time: a modification time, never a client's clock.
    pub(crate) fn is_expired(&self, now_unix_ms: u64, lease: Duration) -> bool {
        let silent_ms = now_unix_ms.saturating_sub(self.last_unix_ms());
        u128::from(silent_ms) > lease.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_dead_when_its_last_sign_is_older_than_the_lease() {
        let lease = Duration::from_millis(100);
        for (opened, alive, now, expected) in [
            (1000, None, 1100, false),
            (1000, None, 1101, true),
            (1000, Some(1050), 1150, false),
            (1000, Some(1050), 1151, true),
            (1000, Some(900), 1100, false),
            (1000, None, 5, false),
            (0, None, u64::MAX, true),
        ] {
            let signs = Signs { opened_unix_ms: opened, alive_unix_ms: alive };
            assert_eq!(signs.is_expired(now, lease), expected, "{signs:?} at {now}");
        }
        let never = Signs { opened_unix_ms: 0, alive_unix_ms: None };
        assert!(!never.is_expired(u64::MAX, Duration::MAX));
    }
}
