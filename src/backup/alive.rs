//! Signs of life of a session, so that a prune that waits for it does not take it for dead (repo-format.md §8.1).

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::format::ObjectName;
use crate::format::record::AliveRecord;
use crate::repo::session::Session;

/// Time between two signs of life: many fit into the shortest sensible lease.
pub const ALIVE_EVERY_DEFAULT: Duration = Duration::from_secs(30 * 60);

/// Gives signs of life until it is dropped.
pub(super) struct SignsOfLife(JoinHandle<()>);

impl SignsOfLife {
    /// By this process's monotonic clock. A sign that cannot be given is a pity, not an error.
    pub(super) fn of(session: &Session, every: Duration) -> Self {
        let (project, snapshot_id) = (session.project.clone(), session.snapshot_id);
        let (volume, sequence) = (session.volume.number, session.sequence);
        Self(tokio::spawn(async move {
            let mut k = 1;
            loop {
                tokio::time::sleep(every).await;
                let name = ObjectName::Alive(project.name().clone(), volume, sequence, k);
                let at_unix_ms = project.repository().environment.clock.now_unix_ms();
                match project.create_record(&name, &AliveRecord { snapshot_id, at_unix_ms }).await {
                    // One that something else took is left behind: the next is created when it is due.
                    Ok(_) => k += 1,
                    Err(error) => tracing::warn!(%error, "no sign of life could be given"),
                }
            }
        }))
    }
}

impl Drop for SignsOfLife {
    fn drop(&mut self) {
        self.0.abort();
    }
}
