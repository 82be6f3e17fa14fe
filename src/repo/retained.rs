//! What stands below `retention/`: the forgets and notes of a project's volumes (repo-format.md §2).
//!
//! A listing is a hint where to look: whatever hides or protects a snapshot is opened, and who builds on one asks for its `.forget` himself. So one listing
//! of all volumes may serve for a minute. Who looks at few volumes lists theirs; who looks at many lists all once, as each would cost a request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use tokio::time::Instant;

use crate::error::Result;
use crate::format::ObjectName;
use crate::format::names::{retention_of_prefix, retention_prefix};
use crate::repo::Project;
use crate::units::{Sequence, VolumeNumber};

/// How long a listing of all is good, by this process's monotonic clock: nothing that is safe rests on it.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// Volumes that are listed by themselves in that time; whoever looks at more lists all.
const FEW: usize = 2;

/// By sequence and the number of a note, 0 for a `.forget`: when it was stored, by the store's time, as far as is known.
pub(super) type Said = BTreeMap<(Sequence, u32), Option<u64>>;
type Names = BTreeMap<VolumeNumber, Said>;

/// What a process knows of it.
#[derive(Default)]
pub(super) struct Known {
    whole: Option<(Instant, Arc<Names>)>,
    /// Since when which volumes were listed by themselves.
    few: Option<(Instant, BTreeSet<VolumeNumber>)>,
}

impl Known {
    /// What a listing of all says, if it is young.
    fn fresh(&self) -> Option<Arc<Names>> {
        let (at, names) = self.whole.as_ref()?;
        (at.elapsed() < GOOD_FOR).then(|| Arc::clone(names))
    }

    /// Whether one more volume is listed by itself.
    fn is_few(&mut self, volume: VolumeNumber) -> bool {
        let (since, few) = self.few.get_or_insert_with(|| (Instant::now(), BTreeSet::new()));
        if since.elapsed() >= GOOD_FOR {
            (*since, *few) = (Instant::now(), BTreeSet::new());
        }
        few.insert(volume);
        few.len() <= FEW
    }
}

/// The forgets and notes of a project, as listings show them.
#[derive(Clone, Copy)]
pub(super) struct Retained<'a> {
    pub(super) project: &'a Project,
}

impl Retained<'_> {
    /// Those of a volume.
    pub(super) async fn of(self, volume: VolumeNumber) -> Result<Said> {
        let (whole, is_few) =
            self.with(|known| (known.fresh(), known.whole.is_none() && known.is_few(volume)));
        if let Some(names) = whole {
            return Ok(names.get(&volume).cloned().unwrap_or_default());
        }
        if is_few {
            let prefix = retention_of_prefix(self.project.name(), volume);
            return Ok(self.list(&prefix).await?.remove(&volume).unwrap_or_default());
        }
        let at = Instant::now();
        let names = Arc::new(self.list(&retention_prefix(self.project.name())).await?);
        self.with(|known| known.whole = Some((at, Arc::clone(&names))));
        Ok(names.get(&volume).cloned().unwrap_or_default())
    }

    /// Whoever asks next is told what is there now.
    pub(super) fn look_again(self) {
        self.with(|known| *known = Known::default());
    }

    /// What this process made is there, whatever was listed before.
    pub(super) fn made(self, name: &ObjectName) {
        let said = said(name);
        self.with(|known| {
            if let (Some((_, names)), Some((volume, said))) = (&mut known.whole, said) {
                Arc::make_mut(names).entry(volume).or_default().entry(said).or_default();
            }
        });
    }

    async fn list(self, prefix: &str) -> Result<Names> {
        let mut names = Names::new();
        let mut listing = std::pin::pin!(self.project.repository().store().list_stream(prefix, None));
        while let Some(info) = listing.try_next().await? {
            if let Some((volume, said)) = ObjectName::parse(&info.key).as_ref().and_then(said) {
                names.entry(volume).or_default().insert(said, Some(info.modified_unix_ms));
            }
        }
        Ok(names)
    }

    /// Never held over a request.
    fn with<T>(self, what: impl FnOnce(&mut Known) -> T) -> T {
        what(&mut self.project.known_retained().lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn said(name: &ObjectName) -> Option<(VolumeNumber, (Sequence, u32))> {
    match name {
        ObjectName::Forget(_, volume, sequence) => Some((*volume, (*sequence, 0))),
        ObjectName::Note(_, volume, sequence, k) => Some((*volume, (*sequence, *k))),
        _ => None,
    }
}

/// As a project keeps it.
pub(super) type Shared = Mutex<Known>;
