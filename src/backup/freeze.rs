//! The source held still: who has its snapshot made, and who sees to it that it goes again.

use std::sync::Arc;

use crate::backup::context::Context;
use crate::backup::own_prefix;
use crate::backup::plan::{Answer, Asked};
use crate::cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::source::{Changes, FreezeRequest, Frozen, Volume};

/// A frozen volume. It must be ended: [`discard`](Self::discard)ed on any error, or [`keep`](Self::keep)t as the base of the next
/// backup once this one is committed.
pub(super) struct Held(Arc<dyn Frozen>);

impl Held {
    /// Freezes a volume; `name` is what its snapshot's name ends in, where one is made.
    pub(super) async fn freeze(
        cx: &Context<'_>,
        volume: Arc<dyn Volume>,
        asked: &Asked,
        name: &str,
    ) -> Result<Self> {
        let own_prefix = own_prefix(cx.project);
        let own_name = format!("{own_prefix}{name}");
        let request =
            FreezeRequest { own_name, own_prefix, parent: asked.since.clone(), origin: asked.origin.clone() };
        let held = Self(cpu::block(move || volume.freeze(&request)).await?.into());
        cx.remarks(&held.0.remarks());
        Ok(held)
    }

    pub(super) fn frozen(&self) -> &Arc<dyn Frozen> {
        &self.0
    }

    /// What the source has to say. Which chunks are forbidden is not for it to know.
    pub(super) async fn answer(&self, cx: &Context<'_>) -> Result<Answer> {
        cx.progress.phase("finding what changed", None);
        let frozen = Arc::clone(&self.0);
        let changes: Changes = cpu::block(move || frozen.changes()).await?;
        Ok(Answer {
            size_bytes: self.0.reader().size_bytes(),
            changes,
            point: self.0.point(),
            has_base: self.0.base_reader().is_some(),
            check_command: self.0.check_command(),
            forbidden: Default::default(),
        })
    }

    /// Whether it still is what was read, now that it was read; `read` is what came of that.
    pub(super) async fn check<T>(&self, read: Result<T>) -> Result<T> {
        let frozen = Arc::clone(&self.0);
        match (read, cpu::block(move || frozen.check()).await) {
            // A source that went away is why it could not be read.
            (Err(e), Err(gone)) if gone.kind() == ErrorKind::Conflict => Err(gone.caused_by(e)),
            (Err(e), _) | (Ok(_), Err(e)) => Err(e),
            (Ok(read), Ok(())) => Ok(read),
        }
    }

    /// The backup is committed, and what came before it may go.
    pub(super) async fn keep(self) -> Result<(), Error> {
        cpu::block(move || self.0.committed()).await
    }

    pub(super) async fn discard(self) -> Result<(), Error> {
        cpu::block(move || self.0.discard()).await
    }
}
