//! Which objects the two ends of a diff are taken to have.

use super::end::End;
use super::judge::BaseObjects;
use crate::error::Result;
use crate::rbd::class::{self, ObjectMap};
use crate::rbd::clone;
use crate::volume::ObjectsBy;

/// The maps by which librbd decides which objects of the two ends are there; `None` where it asks the objects.
pub(super) struct Maps {
    pub newer: Option<ObjectMap>,
    pub base: Option<ObjectMap>,
}

impl Maps {
    pub(super) fn read(newer: &End, base: Option<&End>) -> Result<Self> {
        let map = |end: &End| class::map_in_use(&end.image, end.snapshot.as_ref().map(|s| s.id));
        Ok(Self { newer: map(newer)?, base: base.map(map).transpose()?.flatten() })
    }

    /// Whether the base has the objects that a backup recorded.
    pub(super) fn base_objects(&self, recorded: &ObjectsBy) -> BaseObjects {
        match (recorded, &self.base) {
            (ObjectsBy::Unknown, _) => BaseObjects::Unknown,
            // A map that is valid since was rebuilt, from the objects.
            (ObjectsBy::Asking, _) => BaseObjects::Same,
            (ObjectsBy::Map { digest }, Some(map)) if map.digest() == *digest => BaseObjects::Same,
            (ObjectsBy::Map { .. }, _) => BaseObjects::Changed,
        }
    }

    /// By what it is decided which objects of the newer end are there.
    pub(super) fn newer_objects(&self) -> ObjectsBy {
        self.newer.as_ref().map_or(ObjectsBy::Asking, |map| ObjectsBy::Map { digest: map.digest() })
    }
}

/// Whether a snapshot has the objects that a backup recorded of it. A clone's gain some by what is copied up, and show the same.
pub(super) fn base_objects_of(end: &End, recorded: &ObjectsBy) -> Result<BaseObjects> {
    match clone::parent(&end.image)?.is_some() {
        true => Ok(BaseObjects::Same),
        false => Ok(Maps::read(end, Some(end))?.base_objects(recorded)),
    }
}

/// Whether a snapshot reads as it did when a backup recorded by what its objects were found.
pub fn reads_as_recorded(end: &End, recorded: &ObjectsBy) -> Result<bool> {
    base_objects_of(end, recorded).map(|objects| objects == BaseObjects::Same)
}

/// By what it is decided which objects a snapshot has.
pub fn objects_of(end: &End) -> Result<ObjectsBy> {
    Maps::read(end, None).map(|maps| maps.newer_objects())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_counts_only_with_the_objects_that_its_backup_saw() {
        let map = |states: &[u8]| ObjectMap::of(states);
        let recorded = |states: &[u8]| ObjectsBy::Map { digest: map(states).digest() };
        let judged = |recorded, base| Maps { newer: None, base }.base_objects(&recorded);
        // What else a map says of an object is no matter; removing an older snapshot changes that.
        assert_eq!(judged(recorded(&[0, 1, 3]), Some(map(&[0, 3, 1]))), BaseObjects::Same);
        assert_eq!(judged(recorded(&[0, 1, 3]), Some(map(&[1, 1, 1]))), BaseObjects::Changed);
        assert_eq!(judged(recorded(&[0, 1, 3]), None), BaseObjects::Changed);
        assert_eq!(judged(ObjectsBy::Asking, Some(map(&[1]))), BaseObjects::Same);
        assert_eq!(judged(ObjectsBy::Asking, None), BaseObjects::Same);
        assert_eq!(judged(ObjectsBy::Unknown, Some(map(&[1]))), BaseObjects::Unknown);
    }
}
