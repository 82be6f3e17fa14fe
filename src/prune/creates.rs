//! Whether the store decides which of several creates of one name was first.

use crate::error::{Error, Result};
use crate::prune::{Context, PROBE_PREFIX};

/// Probes that must fail before the store is taken for one that overwrites.
const PROBES_MAX: usize = 3;

/// What is known of it; nothing until it was tried.
#[derive(Default)]
pub(super) struct Creates(Option<bool>);

impl Creates {
    /// Whether the store's creates decide races, tried once before the first write of a run. A repository whose store
    /// cannot do that is for one writer at a time; a prune then ends no session by itself.
    ///
    /// A probe may be wrong where a store decides races after all: who sleeps within it for longer than the lease finds
    /// it swept away. So what `init` found is not given up for it, as to overwrite what others create loses data.
    pub(super) async fn decide(&mut self, cx: &Context) -> Result<bool> {
        if let Some(known) = self.0 {
            return Ok(known);
        }
        let repository = cx.project.repository();
        let decide = repository.record.create_if_absent;
        if !decide {
            cx.progress.warn(
                "this store cannot create an object only where there is none: let one program write at a time. A backup \
                 that stopped without an outcome must be ended by running it again on its host",
            );
        } else if !probe(cx).await? {
            return Err(Error::unavailable(
                "nothing is deleted: of several that created one object, not exactly one was told that it did, as it was \
                 when the repository was made",
            )
            .help(
                "run the same command again; should it say so again, this store overwrites what is there: let nobody \
                 write to it, and copy the repository to one that does not",
            ));
        }
        self.0 = Some(decide);
        Ok(decide)
    }
}

/// Whether creates decide races. Another prune may sweep a probe away while this one sleeps, and then it has two winners; the
/// next probe tells.
async fn probe(cx: &Context) -> Result<bool> {
    for _ in 0..PROBES_MAX {
        if cx.project.store().probe_create_if_absent(PROBE_PREFIX).await? {
            return Ok(true);
        }
    }
    Ok(false)
}
