//! A snapshot that is verified.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::record::{EndRecord, Outcome};
use crate::format::{ObjectName, Page};
use crate::repo::Project;
use crate::units::{Generation, Geometry, Sequence, SnapshotId, VolumeNumber};
use crate::verify::report::Hurt;
use crate::volume::{Identity, SnapshotPoint};

/// A live snapshot that is verified.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) volume: VolumeNumber,
    pub(crate) volume_name: Arc<str>,
    pub(crate) sequence: Sequence,
    pub(crate) snapshot_id: SnapshotId,
    pub(crate) generation: Generation,
    pub(crate) geometry: Geometry,
    /// What was read, and its snapshot.
    pub(crate) origin: (Identity, Option<SnapshotPoint>),
    /// `None` where it is read again.
    pub(crate) root: Option<Arc<Page>>,
}

impl Subject {
    pub(crate) fn hurt(&self) -> Hurt {
        Hurt {
            volume: self.volume_name.to_string(),
            sequence: self.sequence.0,
            snapshot_id: self.snapshot_id.to_string(),
            whole: false,
            ranges: Vec::new(),
        }
    }

    /// Whether it was forgotten since its log was read. What it needs may then be gone, rightly.
    pub(crate) async fn is_forgotten(&self, project: &Project) -> Result<bool> {
        project.slot(self.volume, self.sequence).is_gone().await
    }

    /// The root of its manifest.
    pub(crate) async fn root(&self, project: &Project) -> Result<Arc<Page>> {
        if let Some(root) = &self.root {
            return Ok(Arc::clone(root));
        }
        let name = ObjectName::End(project.name().clone(), self.volume, self.sequence);
        let end: EndRecord = project.read_known_record(&name).await?;
        match end.outcome {
            Outcome::Committed(snapshot) => snapshot.root_page().map(Arc::new),
            Outcome::Aborted { .. } => Err(Error::corrupt(format!("{name} changed while it was read"))),
        }
    }
}

/// A snapshot of which nothing can be restored.
pub(crate) fn whole(volume: String, sequence: Sequence) -> Hurt {
    Hurt { volume, sequence: sequence.0, snapshot_id: String::new(), whole: true, ranges: Vec::new() }
}
