//! Whether a source is what the volume was backed up from before, and all of it.

use std::sync::Arc;

use crate::backup::ground::Ground;
use crate::backup::job::Job;
use crate::error::{Error, Result};
use crate::repo::history::SnapshotEntry;
use crate::repo::session::Session;
use crate::source::{Frozen, StreamHeader};
use crate::units::Sequence;
use crate::volume::Identity;

/// Where live snapshots of a volume are found.
pub(super) enum Live<'a> {
    /// Confirmed live after the session was registered, so that it may refer to what they hold.
    Confirmed(&'a Session),
    /// As they were listed, oldest first: for a dry run, which refers to nothing.
    Listed(Vec<SnapshotEntry>),
}

impl Live<'_> {
    async fn find(&self, sequence: Sequence) -> Result<Option<SnapshotEntry>> {
        match self {
            Self::Confirmed(session) => session.live(sequence).await,
            Self::Listed(all) => Ok(all.iter().find(|s| s.snapshot.sequence == sequence).cloned()),
        }
    }
}

/// The snapshot that a stream goes on from: the volume's newest. Where that was a diff that led to no snapshot, as the state of
/// an image beside its snapshots is, nothing can be relative to it, and another diff from where it began goes on from there.
pub(super) async fn base_of(
    header: &StreamHeader,
    newest: Option<SnapshotEntry>,
    live: &Live<'_>,
) -> Result<Option<SnapshotEntry>> {
    let (Some(from), Some(mut at)) = (&header.from, newest.clone()) else { return Ok(newest) };
    while at.snapshot.point.is_none() && !at.snapshot.full_read {
        let below = at.snapshot.parent.filter(|below| *below < at.snapshot.sequence);
        let Some(below) = below else { break };
        let Some(found) = live.find(below).await? else { break };
        if found.snapshot.point.as_ref().is_some_and(|p| p.name == *from) {
            return Ok(Some(found));
        }
        at = found;
    }
    Ok(newest)
}

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

    /// Refuses what may be a part of the volume: raw bytes that are fewer than its last backup has.
    pub(super) fn check_size(&mut self, ground: &Ground, size_bytes: u64, may_be_cut: bool) -> Result<()> {
        let source = match &self.identity {
            Identity::Stream => "the stream".to_owned(),
            other => other.to_string(),
        };
        if let Some(expected) = self.options.size_bytes.filter(|_| may_be_cut) {
            return match size_bytes == expected {
                true => Ok(()),
                false => Err(Error::conflict(format!(
                    "{source} has {size_bytes} bytes, and was said to have {expected} (--size)"
                ))
                .help("look at the exit code and the messages of what wrote it; nothing was backed up")),
            };
        }
        let Some(parent) = ground.parent.as_ref().map(|p| &p.snapshot) else { return Ok(()) };
        let (before, sequence) = (parent.size_bytes, parent.sequence);
        if size_bytes >= before || !may_be_cut {
            return Ok(());
        }
        if self.options.accept_smaller {
            self.note(format!(
                "the volume is smaller than before: {size_bytes} bytes, backup {sequence} has {before}"
            ));
            return Ok(());
        }
        let volume = &self.options.volume;
        Err(match self.identity {
            Identity::Stream => Error::conflict(format!(
                "the stream ended after {size_bytes} of the {before} bytes that backup {sequence} of {volume} has: did its \
                 writer die?"
            ))
            .help(
                "raw bytes do not show where they should end: look at the exit code of what writes them, or let cuttle run \
                 it (--from-command); if the volume is smaller on purpose, add --accept-smaller",
            ),
            _ => Error::conflict(format!(
                "{source} has {size_bytes} bytes, and backup {sequence} of {volume} has {before}: was it cut off?"
            ))
            .help("look at what wrote it; if the volume is smaller on purpose, add --accept-smaller"),
        })
    }

    /// As [`check_size`](Self::check_size), for what is not read yet.
    pub(super) fn check_frozen_size(&mut self, ground: &Ground, frozen: &Arc<dyn Frozen>) -> Result<()> {
        // An image gets smaller when somebody says so, and not by half a copy.
        let may_be_cut = matches!(self.identity, Identity::File { .. });
        self.check_size(ground, frozen.reader().size_bytes(), may_be_cut)
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
