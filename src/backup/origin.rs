//! Whether a source is what the volume was backed up from before.

use crate::backup::job::{Ground, Job};
use crate::error::{Error, Result};
use crate::repo::log::SnapshotEntry;
use crate::volume::Identity;

impl Job<'_> {
    /// Refuses a mixed-up volume. Returns whether the parent was read from this very volume.
    pub(super) fn check_identity(&mut self, parent: Option<&SnapshotEntry>) -> Result<bool> {
        let Some(parent) = parent else {
            if let Some(was) = &self.moved_from {
                self.note(format!(
                    "the image is being moved by live migration, and was {was} before. Where that has backups under another name, \
                     --volume goes on with them"
                ));
            }
            return Ok(true);
        };
        let (before, now) = (&parent.snapshot.identity, &self.identity);
        // A stream says nothing of its origin; the whole volume is read and compared.
        if *before == Identity::Stream {
            return Ok(false);
        }
        let same = is_same(before, now);
        if !same && self.moved_from.as_ref().is_some_and(|was| is_same(before, was)) {
            self.note(format!(
                "the volume is being moved by live migration, from {before}: reading all of it"
            ));
            return Ok(false);
        }
        if !same && !self.options.accept_new_identity {
            return Err(Error::conflict(format!(
                "volume {} was backed up from {before}, this is {now}",
                self.options.volume
            ))
            .help(
                "if the volume was replaced on purpose (restored, or moved by live migration), go on with \
                 --accept-new-identity (all of it is read once); \
                 otherwise give this one another name with --volume",
            ));
        }
        if !same {
            self.note(format!(
                "the volume is another one than before: {now}, was {before}; reading all of it"
            ));
        }
        Ok(same)
    }

    /// An incremental stream must continue the newest snapshot.
    pub(super) fn check_stream(&mut self, ground: &Ground, from: Option<&str>) -> Result<()> {
        let parent = ground.parent.as_ref();
        let held = parent.and_then(|p| p.snapshot.point.as_ref()).map(|p| p.name.as_str());
        match from {
            None => {
                if parent.is_some() {
                    self.note(
                        "the stream is a full one, not a diff from the last backup's snapshot".to_owned(),
                    );
                }
                Ok(())
            }
            Some(from) if held == Some(from) => Ok(()),
            Some(from) => {
                let volume = &self.options.volume;
                let found = match (parent, held) {
                    (None, _) => format!("volume {volume} has no backup yet"),
                    (Some(p), None) => {
                        format!("backup {} of {volume} is of no named snapshot", p.snapshot.sequence)
                    }
                    (Some(p), Some(held)) => {
                        format!("backup {} of {volume} is of snapshot {held:?}", p.snapshot.sequence)
                    }
                };
                Err(Error::conflict(format!("the stream is a diff from snapshot {from:?}, but {found}"))
                    .help(match held {
                        Some(held) => {
                            format!("export the diff with --from-snap {held}, or a full one without it")
                        }
                        None => "export a full stream first, without --from-snap".to_owned(),
                    }))
            }
        }
    }
}

/// Whether two identities are of one volume; an image may be called otherwise meanwhile.
fn is_same(one: &Identity, other: &Identity) -> bool {
    match (one, other) {
        (
            Identity::Rbd { cluster_fsid: fsid, image_id: id, .. },
            Identity::Rbd { cluster_fsid, image_id, .. },
        ) => fsid == cluster_fsid && id == image_id,
        (one, other) => one == other,
    }
}
