//! Why a backup does what it does, in words.

use std::fmt;

use serde::Serialize;

use crate::backup::plan::{BackupPlan, Base, Pieces, Scope};
use crate::format::record::Snapshot;
use crate::units::{ChunkIndex, Geometry};

/// Why all of a volume is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    First,
    /// `--full`
    Asked,
    /// `--full-every`
    Due,
    /// The last backup's manifest cannot be read.
    Torn,
    /// The last backup was of a stream, which says nothing of its origin.
    WasStream,
    /// The image is being moved by live migration.
    Moved,
    /// It is another volume than before, on purpose.
    Replaced,
    /// The source does not tell what changed.
    Untold,
    /// The stream is no diff.
    WholeStream,
    MissedChange,
    BaseDiffers,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "it has no backup yet",
            Self::Asked => "as asked for with --full",
            Self::Due => "it is due, by --full-every",
            Self::Torn => "the last backup's manifest cannot be read",
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
    pub(super) fn told(self, geometry: Geometry, parent: Option<&Snapshot>, check: Option<&str>) -> String {
        let check = check.map(|command| format!(" (`{command}`)")).unwrap_or_default();
        match self {
            Self::Missed(index) => format!(
                "THE SOURCE MISSED A CHANGE: the chunk at offset {} differs from the last backup, but was not reported as \
                 changed. Reading all of the volume. Check the source{check}; for known causes see Ceph's trackers 61616, \
                 53784 and 63770",
                geometry.offset_bytes(index)
            ),
            Self::Base(index) => {
                let (sequence, point) = match parent {
                    Some(s) => (s.sequence.0, s.point.as_ref().map_or("", |p| &p.name)),
                    None => (0, ""),
                };
                format!(
                    "THE BASE IS NOT WHAT WAS BACKED UP: the chunk at offset {} of the source's snapshot {point} differs from \
                     backup {sequence}, which was read from it. Either that backup or one before missed a change, and holds an \
                     older state there, or the snapshot was tampered with. Reading all of the volume, against no base. Check \
                     the source{check}, and who may write to it",
                    geometry.offset_bytes(index)
                )
            }
        }
    }
}

/// A plan in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Told {
    reads: &'static str,
    /// Why all is read.
    why: Option<String>,
    parent: Option<u32>,
    /// Chunks of the volume, and of these: those that are read; those known to be zero; of those that are read, the ones that are
    /// whatever the source says; and those that are looked at beside them. All `None` for a stream, which shows them as it comes.
    chunks: Option<u64>,
    read_chunks: Option<u64>,
    zero_chunks: Option<u64>,
    forced_chunks: Option<u64>,
    sample_chunks: Option<u64>,
    delta_depth_max: Option<u8>,
    /// `own`, the name of another's snapshot, or none.
    base: Option<String>,
}

impl BackupPlan {
    fn told(&self) -> Told {
        let chunks = match &self.pieces {
            Pieces::Chunks(chunks) => Some(chunks),
            Pieces::Stream { .. } => None,
        };
        let (reads, why) = match &self.scope {
            Scope::All(why) => ("all", Some(why.to_string())),
            Scope::Changes(_) => ("changes", None),
        };
        Told {
            reads,
            why,
            parent: self.parent.map(|p| p.0),
            chunks: chunks.map(|c| c.geometry.chunk_count()),
            read_chunks: chunks.map(|c| c.span_chunks(true)),
            zero_chunks: chunks.map(|c| c.span_chunks(false)),
            forced_chunks: chunks.map(|c| c.forced.len() as u64),
            sample_chunks: chunks.map(|c| c.sample.len() as u64),
            delta_depth_max: self.delta_depth_max,
            base: match &self.base {
                Base::Own => Some("own".to_owned()),
                Base::Others(name) => Some(name.clone()),
                Base::Nothing => None,
            },
        }
    }
}

impl Serialize for BackupPlan {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.told().serialize(serializer)
    }
}

/// As a person reads it, a line for each decision.
impl fmt::Display for BackupPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parent = self.parent.map(|p| p.0).unwrap_or_default();
        match &self.scope {
            Scope::All(why) => write!(f, "reads all of it: {why}")?,
            Scope::Changes(_) => {
                write!(f, "reads what changed since backup {parent}, by its snapshot's ")?;
                f.write_str(self.known_by().unwrap_or_default())?;
            }
        }
        match &self.pieces {
            Pieces::Stream { .. } => f.write_str("\n  in the order in which it comes")?,
            Pieces::Chunks(chunks) => {
                let [read, zero] = [true, false].map(|read| chunks.span_chunks(read));
                write!(f, "\n  {read} of {} chunks are read", chunks.geometry.chunk_count())?;
                if !chunks.forced.is_empty() {
                    write!(f, ", {} of these whatever the source says", chunks.forced.len())?;
                }
                if !chunks.sample.is_empty() {
                    write!(f, ", and {} more to see that they are as they were", chunks.sample.len())?;
                }
                if zero > 0 {
                    write!(f, "; {zero} are known to be zero")?;
                }
            }
        }
        match (self.delta_depth_max, self.parent) {
            (Some(depth), Some(_)) => {
                write!(
                    f,
                    "\n  new chunks become differences from backup {parent}'s where that saves enough, at most {depth} deep"
                )?;
            }
            _ => f.write_str("\n  new chunks are stored on their own")?,
        }
        match &self.base {
            Base::Own => f.write_str(
                "\n  the snapshot made for it is kept for the next backup, and older ones of cuttle's go",
            ),
            Base::Others(name) => write!(f, "\n  the next backup can go on from snapshot {name}"),
            Base::Nothing => f.write_str("\n  nothing is kept for the next backup to go on from"),
        }
    }
}
