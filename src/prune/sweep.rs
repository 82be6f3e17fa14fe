//! What crashes leave beside the repository's own objects: probes, and staging files of a local store.

use crate::error::{ErrorKind, Result};
use crate::prune::report::Counted;
use crate::prune::{Context, PROBE_PREFIX};
use crate::store::{Deleted, ObjectInfo, Staged};

/// Deletes leftovers that are older than the lease, by the store's time. Younger ones may be in use.
pub(super) async fn sweep(cx: &Context) -> Result<Counted> {
    let (store, mut swept) = (cx.project.store(), Counted::default());
    let probes: Vec<ObjectInfo> = store.list(PROBE_PREFIX, None).await?;
    let staged: Vec<Staged> = store.staged().await?;
    if probes.is_empty() && staged.is_empty() {
        return Ok(swept);
    }
    cx.progress.phase("cleaning up", None);
    let now_unix_ms = match store.now_unix_ms(PROBE_PREFIX).await {
        // It takes an object to learn the store's time: another time.
        Err(e) if e.kind() == ErrorKind::NoSpace => return Ok(swept),
        now => now?,
    };
    let lease_ms = cx.options.lease.as_millis();
    let is_old = |at_unix_ms: u64| u128::from(now_unix_ms.saturating_sub(at_unix_ms)) > lease_ms;
    for probe in probes.into_iter().filter(|probe| is_old(probe.modified_unix_ms)) {
        cx.cancel.check()?;
        if store.delete_unless_refused(&probe.key).await? == Deleted::Gone {
            swept.add(probe.size_bytes);
        }
    }
    for staged in staged.into_iter().filter(|staged| is_old(staged.modified_unix_ms)) {
        cx.cancel.check()?;
        let size_bytes = staged.size_bytes;
        store.remove_staged(staged).await?;
        swept.add(size_bytes);
    }
    Ok(swept)
}
