//! Why a backup does what it does, in words.

use std::fmt;

use crate::repo::history::SnapshotEntry;
use crate::units::{ChunkIndex, Geometry};

/// Why all of a volume is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The volume has no backup yet.
    First,
    /// `--full`
    Asked,
    /// `--full-every`
    Due,
    /// The last backup's manifest cannot be read.
    Unreadable,
    /// The last backup was of a stream, which does not say what it is of.
    WasStream,
    /// The image is being moved by live migration.
    Moved,
    /// It is another volume than before, on purpose.
    Replaced,
    /// The source does not tell what changed.
    Untold,
    /// The stream is no diff.
    WholeStream,
    /// A chunk differs from the parent's, although the source reported no change of it.
    MissedChange,
    /// The snapshot that changes are relative to is not what was backed up.
    BaseDiffers,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "it has no backup yet",
            Self::Asked => "as asked for with --full",
            Self::Due => "it is due, by --full-every",
            Self::Unreadable => "the last backup's manifest cannot be read",
            Self::WasStream => "the last backup was of a stream",
            Self::Moved => "the image is being moved",
            Self::Replaced => "it is another one than before",
            Self::Untold => "the source does not tell what changed",
            Self::WholeStream => "the stream is no diff",
            Self::MissedChange => "the source missed a change",
            Self::BaseDiffers => "the base is not what was backed up",
        })
    }
}

/// A chunk that gives the source away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distrust {
    /// It differs from the parent's, although no change was reported.
    Missed(ChunkIndex),
    /// In the parent's snapshot, as the source has it, it is not what the parent's backup has.
    Base(ChunkIndex),
}

impl From<Distrust> for Why {
    fn from(distrust: Distrust) -> Self {
        match distrust {
            Distrust::Missed(_) => Self::MissedChange,
            Distrust::Base(_) => Self::BaseDiffers,
        }
    }
}

impl Distrust {
    /// `check` is the command that checks the source.
    pub(super) fn told(
        self,
        geometry: Geometry,
        upon: Option<&SnapshotEntry>,
        check: Option<&str>,
    ) -> String {
        let check = check.map(|command| format!(" (`{command}`)")).unwrap_or_default();
        match self {
            Self::Missed(index) => format!(
                "THE SOURCE MISSED A CHANGE: the chunk at offset {} differs from {}, but was not reported as \
                 changed. Reading all of the volume. Check the source{check}; for known causes see Ceph's trackers 61616, \
                 53784 and 63770",
                geometry.offset_bytes(index),
                upon.map_or("the last backup".to_owned(), |upon| format!("backup {}", upon.name()))
            ),
            Self::Base(index) => {
                let point = upon.and_then(|s| s.snapshot.point.as_ref()).map_or("", |p| &p.name);
                let backup = upon.map(SnapshotEntry::name).unwrap_or_default();
                format!(
                    "THE BASE IS NOT WHAT WAS BACKED UP: the chunk at offset {} of the source's snapshot {point} differs from \
                     backup {backup}, which was read from it. Either that backup or one before missed a change, and holds an \
                     older state there, or the snapshot was tampered with. Reading all of the volume, against no base. Check \
                     the source{check}, and who may write to it",
                    geometry.offset_bytes(index)
                )
            }
        }
    }
}
