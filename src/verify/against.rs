//! Compares a snapshot with what it was, or should be, a copy of.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::budget::Budget;
use crate::cancel::Cancel;
use crate::error::Result;
use crate::progress::Progress;
use crate::reading::compare::compare;
use crate::reading::local::LocalReader;
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;
use crate::source::ReadAt;
use crate::verify::report::{ByteRange, merge};

/// Differing ranges that are listed; more are counted.
const RANGES_MAX: usize = 100_000;

/// How a snapshot and another volume compare.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AgainstReport {
    /// The volume's name.
    pub volume: String,
    /// The snapshot's number within the volume.
    pub sequence: u32,
    /// 32 hexadecimal digits.
    pub snapshot_id: String,
    /// Size of the snapshot.
    pub size_bytes: u64,
    /// Size of what it was compared with.
    pub other_size_bytes: u64,
    /// Of all ranges, those that are not listed included.
    pub differing_bytes: u64,
    /// Whole chunks of the repository that differ; and what only the larger of the two has.
    pub differing: Vec<ByteRange>,
    /// Ranges beyond those listed.
    pub ranges_omitted: u64,
    /// How long it took.
    pub seconds: f64,
}

impl AgainstReport {
    /// Whether both are the same, byte for byte.
    pub fn ok(&self) -> bool {
        self.differing_bytes == 0 && self.size_bytes == self.other_size_bytes
    }

    fn differs(&mut self, range: ByteRange) {
        self.differing_bytes += range.length_bytes;
        let touches = self
            .differing
            .last()
            .is_some_and(|last| last.offset_bytes + last.length_bytes == range.offset_bytes);
        if self.differing.len() < RANGES_MAX || touches {
            merge(&mut self.differing, range);
        } else {
            self.ranges_omitted += 1;
        }
    }
}

/// Compares a snapshot with a live volume. Reads all of that, and of the repository the manifest only.
pub async fn against(
    project: &Project,
    snapshot: &SnapshotEntry,
    reader: Arc<dyn ReadAt>,
    inflight_bytes: u64,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<AgainstReport> {
    let (started, mut cancel) = (Instant::now(), cancel);
    let size_bytes = snapshot.snapshot.size_bytes;
    let mut report = AgainstReport {
        volume: snapshot.volume_name.clone(),
        sequence: snapshot.snapshot.sequence.0,
        snapshot_id: snapshot.snapshot_id.to_string(),
        size_bytes,
        other_size_bytes: reader.size_bytes(),
        ..AgainstReport::default()
    };
    progress.phase("compare", Some(size_bytes));
    let budget = Budget::new(inflight_bytes);
    let other_size_bytes = reader.size_bytes();
    let local = LocalReader::new(project.clone(), reader, budget);
    let mut differs = |mut range: std::ops::Range<u64>| {
        // What the other does not have is counted below, once.
        range.end = range.end.min(other_size_bytes.max(range.start));
        if !range.is_empty() {
            report.differs(range.into());
        }
        Ok(())
    };
    compare(&local, &snapshot.snapshot, &*progress, &mut cancel, &mut differs).await?;
    let (less, more) = (size_bytes.min(other_size_bytes), size_bytes.max(other_size_bytes));
    if less < more {
        report.differs((less..more).into());
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}
