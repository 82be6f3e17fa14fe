//! Backup: what changed in a volume becomes new chunks, and a manifest that lists every chunk of it.

mod alive;
mod assemble;
mod commit;
mod cutter;
mod delta;
mod encode;
mod job;
mod learn;
mod origin;
mod pipeline;
mod presence;
mod stream;
mod stream_job;
mod volume;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::backup::job::Job;
use crate::cancel::Cancel;
use crate::codec::LEVEL_DEFAULT;
use crate::cpu;
use crate::error::Result;
use crate::format::record::BackupStats;
use crate::progress::Progress;
use crate::repo::Project;
use crate::source::{StreamSource, Volume};
use crate::units::{VolumeName, hex};
use crate::volume::Identity;

pub use alive::ALIVE_EVERY_DEFAULT;
pub use presence::LostReport;

/// Plaintext in flight unless told otherwise.
pub const INFLIGHT_BYTES_DEFAULT: u64 = 96 << 20;
/// Backups after which a volume is read whole again unless told otherwise.
pub const FULL_EVERY_DEFAULT: u32 = 30;

/// What is backed up.
pub enum Input {
    Volume(Arc<dyn Volume>),
    Stream(Box<dyn StreamSource>),
}

#[derive(Debug, Clone)]
pub struct BackupOptions {
    pub volume: VolumeName,
    pub tags: Vec<String>,
    /// Read the whole volume, whatever the source says of changes.
    pub full: bool,
    /// Read the whole volume when so many backups did not; 0: never.
    pub full_every: u32,
    /// The volume was replaced on purpose (restored, moved): go on under the same name.
    pub accept_new_identity: bool,
    pub inflight_bytes: u64,
    pub level: i32,
    /// Decode every new chunk before it is uploaded.
    pub check_encoding: bool,
    /// Time between two signs of life that a session gives.
    pub alive_every: Duration,
    /// Store every new chunk as an object that needs no other. The repository may say so, too.
    pub no_delta: bool,
    /// Read and count, but upload nothing.
    pub dry_run: bool,
}

impl BackupOptions {
    pub fn new(volume: VolumeName) -> Self {
        Self {
            volume,
            tags: Vec::new(),
            full: false,
            full_every: FULL_EVERY_DEFAULT,
            accept_new_identity: false,
            inflight_bytes: INFLIGHT_BYTES_DEFAULT,
            level: LEVEL_DEFAULT,
            check_encoding: false,
            alive_every: ALIVE_EVERY_DEFAULT,
            no_delta: false,
            dry_run: false,
        }
    }
}

/// What a backup did.
#[derive(Debug, Clone, Serialize)]
pub struct BackupReport {
    pub volume: String,
    /// `None` in a dry run.
    pub sequence: Option<u32>,
    pub snapshot_id: Option<String>,
    pub size_bytes: u64,
    /// Whether everything was read, not only reported changes.
    pub full_read: bool,
    /// What the source said had changed, or all that it holds where everything was read.
    pub changed_bytes: u64,
    pub parent: Option<u32>,
    #[serde(flatten)]
    pub stats: BackupStats,
    #[serde(flatten)]
    pub lost: LostReport,
    /// What the operator should know: why a volume was read whole, a slow diff, leftovers that could not be removed.
    pub notes: Vec<String>,
    pub seconds: f64,
}

/// Backs up one volume.
pub async fn run(
    project: &Project,
    input: Input,
    options: &BackupOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<BackupReport> {
    let started = Instant::now();
    let identity = match &input {
        Input::Volume(volume) => {
            let volume = Arc::clone(volume);
            cpu::block(move || volume.identity()).await?
        }
        Input::Stream(_) => Identity::Stream,
    };
    let job =
        Job { project, options, progress, cancel, identity, notes: Vec::new(), lost: LostReport::default() };
    let mut report = match options.dry_run {
        true => job.dry_run(input).await?,
        false => job.run(input).await?,
    };
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// What snapshots that cuttle makes of a source begin with: other repositories and projects have their own.
pub fn own_prefix(project: &Project) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&project.repository().record().repo_id);
    hasher.update(project.name().as_str().as_bytes());
    format!("cuttle-{}-", hex(&hasher.finalize().as_bytes()[..4]))
}
