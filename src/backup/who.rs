//! Who a source is, and whether that is what the volume was backed up from before, and all of it.

use std::sync::Arc;

use crate::backup::why::Why;
use crate::backup::{BackupOptions, DeltaMode, Input};
use crate::cpu;
use crate::error::{Error, Result};
use crate::repo::history::SnapshotEntry;
use crate::repo::session::Session;
use crate::source::{ClonedFrom, Descent, StreamHeader};
use crate::units::Sequence;
use crate::volume::Identity;

/// Who the source is.
pub(super) struct Who {
    pub identity: Identity,
    /// Who it was before, where it is just being moved.
    pub moved_from: Option<Identity>,
    /// What it was cloned from, where it is a clone.
    pub cloned_from: Option<ClonedFrom>,
}

impl Who {
    pub(super) async fn of(input: &Input) -> Result<Self> {
        let (identity, Descent { moved_from, cloned_from }) = match input {
            Input::Volume(volume) => {
                let volume = Arc::clone(volume);
                cpu::block(move || Ok((volume.identity()?, volume.descent()?))).await?
            }
            Input::Stream(_) => (Identity::Stream, Descent::default()),
        };
        Ok(Self { identity, moved_from, cloned_from })
    }

    /// Whether half a copy of it may look like a volume: an image gets smaller when somebody says so.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.identity, Identity::File { .. })
    }
}

/// What is known before the source is asked anything but who it is.
pub(super) struct Past<'a> {
    pub options: &'a BackupOptions,
    pub who: &'a Who,
    pub parent: Option<&'a SnapshotEntry>,
    /// Where there is no parent: the snapshot of another volume that this one was cloned from.
    pub origin: Option<&'a SnapshotEntry>,
    /// The parent's manifest cannot be read: nothing is compared with it.
    pub is_unreadable: bool,
    pub chunk_size_bytes: u32,
    /// How deep the repository lets deltas be.
    pub delta_depth_max: u8,
    /// What the parent holds may be fetched from the repository, where the source does not have it.
    pub fetches: bool,
}

impl<'a> Past<'a> {
    /// The snapshot that the volume is compared with.
    pub(super) fn compared_with(&self) -> Option<&'a SnapshotEntry> {
        self.parent.or(self.origin).filter(|_| !self.is_unreadable)
    }

    pub(super) fn deltas(&self) -> Option<u8> {
        Some(self.delta_depth_max).filter(|depth| *depth > 0 && self.options.delta != DeltaMode::Never)
    }
}

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

/// Refuses a mixed-up volume. Where the parent was not read from this very one, why all is read; and what must be told.
pub(super) fn check_identity(past: &Past<'_>) -> Result<(Option<Why>, Vec<String>)> {
    let (now, moved_from) = (&past.who.identity, past.who.moved_from.as_ref());
    let Some(parent) = past.parent else {
        let remark = moved_from.map(|was| {
            format!(
                "the image is being moved by live migration, and was {was} before. Where that has backups under another name, \
                 --volume goes on with them"
            )
        });
        return Ok((None, remark.into_iter().collect()));
    };
    let before = &parent.snapshot.identity;
    // A stream does not say what it is of; the whole volume is read and compared.
    if *before == Identity::Stream {
        return Ok((Some(Why::WasStream), Vec::new()));
    }
    if before.is_same(now) {
        return Ok((None, Vec::new()));
    }
    if moved_from.is_some_and(|was| before.is_same(was)) {
        let remark = format!("the volume is being moved by live migration, from {before}: reading all of it");
        return Ok((Some(Why::Moved), vec![remark]));
    }
    if !past.options.accept_new_identity {
        return Err(Error::conflict(format!(
            "volume {} was backed up from {before}, this is {now}",
            past.options.volume
        ))
        .help(
            "if the volume was replaced on purpose (restored, or moved by live migration), go on with \
             --accept-new-identity (all of it is read once); \
             otherwise give this one another name with --volume",
        ));
    }
    let remark = format!("the volume is another one than before: {now}, was {before}; reading all of it");
    Ok((Some(Why::Replaced), vec![remark]))
}

/// An incremental stream must continue the newest snapshot. Returns what must be told.
pub(super) fn check_stream(past: &Past<'_>, from: Option<&str>) -> Result<Vec<String>> {
    let held = past.parent.and_then(|p| p.snapshot.point.as_ref()).map(|p| p.name.as_str());
    let Some(from) = from else {
        let remark = "the stream is a full one, not a diff from the last backup's snapshot";
        return Ok(past.parent.map(|_| remark.to_owned()).into_iter().collect());
    };
    if held == Some(from) {
        return Ok(Vec::new());
    }
    let volume = &past.options.volume;
    let found = match (past.parent.map(|p| p.snapshot.sequence), held) {
        (None, _) => format!("volume {volume} has no backup yet"),
        (Some(sequence), None) => format!("backup {sequence} of {volume} is of no named snapshot"),
        (Some(sequence), Some(held)) => format!("backup {sequence} of {volume} is of snapshot {held:?}"),
    };
    Err(Error::conflict(format!("the stream is a diff from snapshot {from:?}, but {found}")).help(
        match held {
            Some(held) => format!("export the diff with --from-snap {held}, or a full one without it"),
            None => "export a full stream first, without --from-snap".to_owned(),
        },
    ))
}

/// Refuses what may be a part of the volume: raw bytes that are fewer than its last backup has. Returns what must be told.
pub(super) fn check_size(past: &Past<'_>, size_bytes: u64, may_be_cut: bool) -> Result<Option<String>> {
    if !may_be_cut {
        return Ok(None);
    }
    let source = match &past.who.identity {
        Identity::Stream => "the stream".to_owned(),
        other => other.to_string(),
    };
    if let Some(expected) = past.options.size_bytes {
        return match size_bytes == expected {
            true => Ok(None),
            false => Err(Error::conflict(format!(
                "{source} has {size_bytes} bytes, and was said to have {expected} (--size)"
            ))
            .help("look at the exit code and the messages of what wrote it; nothing was backed up")),
        };
    }
    let Some(parent) = past.parent.map(|p| &p.snapshot) else { return Ok(None) };
    let (before, sequence) = (parent.size_bytes, parent.sequence);
    if size_bytes >= before {
        return Ok(None);
    }
    if past.options.accept_smaller {
        return Ok(Some(format!(
            "the volume is smaller than before: {size_bytes} bytes, backup {sequence} has {before}"
        )));
    }
    let volume = &past.options.volume;
    Err(match past.who.identity {
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
