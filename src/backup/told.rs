//! A plan as it is told: in numbers, and in words.

use std::fmt;

use serde::Serialize;

use crate::backup::plan::{BackupPlan, DeltaBase, DeltaPlan, NextPoint, Pieces, Scope};

/// A plan in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Told {
    reads: &'static str,
    /// Why all is read.
    why: Option<String>,
    parent: Option<u32>,
    /// Compared with instead, as the volume was cloned from that: `vms/template@1`.
    origin: Option<String>,
    /// Chunks of the volume, and of these: those that are read; those known to be zero; of those that are read, the ones that are
    /// whatever the source says; and those that are looked at beside them. All `None` for a stream, which shows them as it comes.
    chunks: Option<u64>,
    read_chunks: Option<u64>,
    zero_chunks: Option<u64>,
    forced_chunks: Option<u64>,
    sample_chunks: Option<u64>,
    delta_depth_max: Option<u8>,
    /// `source` or `repository`: who has what deltas are made against.
    delta_base: Option<&'static str>,
    /// `own`, the name of another's snapshot, or none.
    next_point: Option<String>,
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
            origin: self.origin.clone(),
            chunks: chunks.map(|c| c.geometry.chunk_count()),
            read_chunks: chunks.map(|c| c.span_chunks(true)),
            zero_chunks: chunks.map(|c| c.span_chunks(false)),
            forced_chunks: chunks.map(|c| c.forced.len() as u64),
            sample_chunks: chunks.map(|c| c.sample.len() as u64),
            delta_depth_max: self.deltas.map(|deltas| deltas.depth_max),
            delta_base: self.deltas.map(|deltas| match deltas.base {
                DeltaBase::Source => "source",
                DeltaBase::Repository => "repository",
            }),
            next_point: match &self.next {
                NextPoint::Own => Some("own".to_owned()),
                NextPoint::Others(name) => Some(name.clone()),
                NextPoint::Nothing => None,
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
            Scope::Changes(_) if let Some(origin) = &self.origin => {
                write!(f, "reads what it has of its own, as a clone of what backup {origin} was read from")?;
            }
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
        let upon = self.origin.clone().or(self.parent.map(|p| p.to_string()));
        match (self.deltas, upon) {
            (Some(DeltaPlan { depth_max: depth, base }), Some(upon)) => {
                write!(
                    f,
                    "\n  new chunks become differences from backup {upon}'s where that saves enough, at most {depth} deep"
                )?;
                if base == DeltaBase::Repository {
                    f.write_str(", which are fetched from the repository")?;
                }
            }
            _ => f.write_str("\n  new chunks are stored on their own")?,
        }
        match &self.next {
            NextPoint::Own => f.write_str(
                "\n  the snapshot made for it is kept for the next backup, and older ones of cuttle's go",
            ),
            NextPoint::Others(name) => write!(f, "\n  the next backup can go on from snapshot {name}"),
            NextPoint::Nothing => f.write_str("\n  nothing is kept for the next backup to go on from"),
        }
    }
}
