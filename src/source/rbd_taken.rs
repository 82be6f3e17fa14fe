//! Making a snapshot of an image, and seeing what other snapshots there are at that moment: nothing shows it later.

use crate::error::{Error, Result};
use crate::rbd::diff::judge::{Between, History};
use crate::rbd::{Access, Image, SnapContext, Snapshot, class, features, flags};
use crate::volume::{Made, OTHERS_MAX, SnapshotPoint};

use super::rbd_target::{Target, is_own};

/// The snapshot that a backup reads, and what was seen around its making.
pub(super) struct Taken {
    pub snapshot: Snapshot,
    /// `None` where somebody else made it, or where nothing could be seen.
    pub made: Option<Made>,
    pub between: Between,
}

impl Taken {
    /// A snapshot that somebody else made.
    pub(super) fn found(snapshot: Snapshot) -> Self {
        Self { snapshot, made: None, between: Between::Unknown }
    }

    /// What is known of the time since the base was made.
    pub(super) fn history(&self, base: Option<&SnapshotPoint>) -> History {
        let between = self.between.clone();
        History {
            made: base.and_then(|base| base.made.clone()),
            objects: base.map(|base| base.objects.clone()),
            between,
        }
    }

    /// Why nothing could be seen.
    pub(super) fn unreadable(&self) -> Option<&str> {
        match &self.between {
            Between::Unreadable(why) => Some(why),
            _ => None,
        }
    }
}

/// What an image had right before a snapshot of it is made.
pub(super) struct HeadFacts {
    seen: Result<SnapContext>,
    replaces: Option<u64>,
    replaced_has_clean: Option<bool>,
    /// A copy under way is no history.
    migrating: bool,
}

impl HeadFacts {
    /// Looks. `image` is open at its head; as little as can be happens between this and the making of the snapshot.
    pub(super) fn look(target: &Target, image: &Image, own_prefix: &str) -> Result<Self> {
        let features = image.features()?;
        let own = image.snapshots().list()?.into_iter().rev().find(|s| is_own(&s.name, own_prefix));
        // The map of a snapshot that is alone changes no more, so it may be looked at first.
        let wanted = features::OBJECT_MAP | features::FAST_DIFF;
        let replaced_has_clean = match &own {
            Some(own) if features & wanted == wanted => look_at_map(target, own),
            _ => None,
        };
        let migrating = features & features::MIGRATING != 0;
        let seen = class::snap_context(image);
        Ok(Self { seen, replaces: own.map(|own| own.id), replaced_has_clean, migrating })
    }

    /// Looks again, now that the snapshot is made.
    pub(super) fn made(self, image: &Image, snapshot: Snapshot) -> Taken {
        let seen = self.seen.and_then(|before| class::snap_context(image).map(|after| (before, after)));
        let (before, after) = match seen {
            Ok(seen) => seen,
            Err(error) => {
                return Taken { snapshot, made: None, between: Between::Unreadable(told(&error)) };
            }
        };
        let mut others: Vec<u64> = before.snapshots.iter().chain(&after.snapshots).copied().collect();
        others.sort_unstable();
        others.dedup();
        others.retain(|id| *id != snapshot.id);
        let replaces = self.replaces.filter(|own| others.contains(own));
        others.truncate(OTHERS_MAX);
        let made = Made {
            others,
            replaces,
            replaced_has_clean: self.replaced_has_clean.filter(|_| replaces.is_some()),
        };
        let made = Some(made).filter(|_| !self.migrating && after.snapshots.contains(&snapshot.id));
        Taken { snapshot, made, between: Between::Seen { before, after } }
    }
}

/// Whether a snapshot's map leans on older ones. What cannot be found out is not known: then nothing rests on it.
fn look_at_map(target: &Target, own: &Snapshot) -> Option<bool> {
    let look = || {
        let image = target.open(Access::Snapshot(own.id))?;
        let valid = image.flags()? & (flags::OBJECT_MAP_INVALID | flags::FAST_DIFF_INVALID) == 0;
        valid.then(|| class::object_map(&image, Some(own.id)).map(|map| map.has_clean_bit())).transpose()
    };
    look().unwrap_or_else(|error: Error| {
        tracing::warn!("looking at the object map of snapshot {}: {error}", own.name);
        None
    })
}

/// An error with what helps, in a line.
pub(super) fn told(error: &Error) -> String {
    match error.help_text() {
        Some(help) => format!("{error} ({help})"),
        None => error.to_string(),
    }
}
