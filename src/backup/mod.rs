//! Backup: what changed in a volume becomes new chunks, and a manifest that lists every chunk of it.

mod alive;
mod bundle;
mod carry;
mod commit;
mod context;
mod cut;
mod delta;
mod encode;
mod fetched;
mod fleet;
mod freeze;
mod ground;
mod index;
mod known;
mod learn;
mod learned;
mod listings;
mod live;
mod manifest;
mod patch;
mod plan;
mod presence;
mod read;

mod resumed;
mod store;
mod tables;
mod told;
mod unchanged;
mod walk;
mod who;
mod why;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::backup::context::Context;
use crate::cancel::Cancel;
use crate::cpu;
use crate::error::{Error, Result};
use crate::format::record::BackupStats;
pub use crate::plan::level::Level;
use crate::progress::Progress;
use crate::repo::{Project, Writer};
use crate::source::states::States;
use crate::source::{StreamSource, Volume};
use crate::units::{VolumeName, hex};
use crate::volume::SnapshotPoint;

pub use alive::ALIVE_EVERY_DEFAULT;
pub use fleet::Fleet;
pub use plan::{BackupPlan, ChunkPlan, KnownBy, NextPoint, Pieces, Scope};
pub use presence::LostReport;
pub use why::Why;

/// Plaintext in flight unless told otherwise.
pub const INFLIGHT_BYTES_DEFAULT: u64 = 96 << 20;
/// Backups after which a volume is read whole again unless told otherwise.
pub const FULL_EVERY_DEFAULT: u32 = 30;

/// What is backed up.
pub enum Input {
    /// It can be read anywhere.
    Volume(Arc<dyn Volume>),
    /// It arrives once, from its beginning to its end.
    Stream(Box<dyn StreamSource>),
}

/// How one volume is backed up.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// The name in the repository.
    pub volume: VolumeName,
    /// Of the new snapshot.
    pub tags: Vec<String>,
    /// Read the whole volume, whatever the source says of changes.
    pub full: bool,
    /// Read the whole volume when so many backups did not; 0: never.
    pub full_every: u32,
    /// The volume was replaced on purpose (restored, moved): go on under the same name.
    pub accept_new_identity: bool,
    /// Raw bytes that are fewer than the volume's last backup has were made so on purpose.
    pub accept_smaller: bool,
    /// How large the volume is, where the user says so: of raw bytes nothing else tells whether all of them came.
    pub size_bytes: Option<u64>,
    /// Most plaintext in flight at once.
    pub inflight_bytes: u64,
    /// How hard to compress.
    pub level: Level,
    /// Decode every new chunk before it is uploaded.
    pub check_encoding: bool,
    /// Time between two signs of life that a session gives.
    pub alive_every: Duration,
    /// Leave the volume to a session that is at it already: then the error is of kind `Busy`.
    pub yields: bool,
    /// Where new chunks are stored as the difference from what was there before. The repository may say never, too.
    pub delta: DeltaMode,
    /// Make no snapshot where the source says that nothing changed since the newest, and a sample of it agrees.
    pub skip_unchanged: bool,
    /// Read and count, but upload nothing.
    pub dry_run: bool,
    /// What it shares with other backups of this process and project; `None` where it is alone.
    pub fleet: Option<Arc<Fleet>>,
}

impl BackupOptions {
    /// What a backup does unless told otherwise.
    pub fn new(volume: VolumeName) -> Self {
        Self {
            volume,
            tags: Vec::new(),
            full: false,
            full_every: FULL_EVERY_DEFAULT,
            accept_new_identity: false,
            accept_smaller: false,
            size_bytes: None,
            inflight_bytes: INFLIGHT_BYTES_DEFAULT,
            level: Level::Auto,
            check_encoding: false,
            alive_every: ALIVE_EVERY_DEFAULT,
            yields: true,
            delta: DeltaMode::Auto,
            skip_unchanged: false,
            dry_run: false,
            fleet: None,
        }
    }
}

/// What deltas are made against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeltaMode {
    /// What the source has of the parent; where it has nothing, what the repository has, if fetching that is cheap.
    #[default]
    Auto,
    /// As `Auto`, and what the repository has whatever it costs to fetch it.
    Always,
    /// Every new chunk is an object that needs no other.
    Never,
}

/// What a backup did.
#[derive(Debug, Clone, Serialize)]
pub struct BackupReport {
    /// Its name.
    pub volume: String,
    /// `None` in a dry run.
    pub sequence: Option<u32>,
    /// In hex; `None` in a dry run.
    pub snapshot_id: Option<String>,
    /// Nothing changed, and no snapshot was made: this is what the newest is. See [`BackupOptions::skip_unchanged`].
    #[serde(skip)]
    pub unchanged: bool,
    /// The source's snapshot that was read; `None` for a file, raw bytes, and the state of an image beside its snapshots.
    pub point: Option<SnapshotPoint>,
    /// Of the volume.
    pub size_bytes: u64,
    /// Whether everything was read, not only reported changes.
    pub full_read: bool,
    /// What the source said had changed, or all that it holds where everything was read.
    pub changed_bytes: u64,
    /// Sequence of the snapshot that it was compared with; `None` where there was none.
    pub parent: Option<u32>,
    /// The snapshot of another volume that it was compared with instead: what the volume was cloned from, such as `vms/template@1`.
    pub origin: Option<String>,
    /// How it is known that the changes are those since the parent: by the `id` of the snapshot that it was read from, or, of
    /// a stream, by no more than its `name`. `None` where no changes were relied on.
    pub parent_known_by: Option<&'static str>,
    /// What it moved.
    #[serde(flatten)]
    pub stats: BackupStats,
    /// The least and the greatest compression level of what is new; `None` where nothing is.
    pub levels: Option<[i32; 2]>,
    /// What was found lost.
    #[serde(flatten)]
    pub lost: LostReport,
    /// What was decided before anything was read; a dry run shows the very plan that a backup then carries out.
    pub plan: BackupPlan,
    /// What the operator should know: why a volume was read whole, a slow diff, leftovers that could not be removed.
    #[serde(rename = "notes")]
    pub remarks: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// What became of the states of a source, oldest first.
#[derive(Debug, Default)]
pub struct Backed {
    /// Reports of the states that were backed up.
    pub done: Vec<BackupReport>,
    /// Why the state after these was not backed up, and none after it.
    pub error: Option<Error>,
}

impl Backed {
    /// The newest state, where all were backed up.
    pub fn newest(mut self) -> Result<BackupReport> {
        match self.error {
            Some(error) => Err(error),
            None => self.done.pop().ok_or_else(|| Error::internal("a source without any state")),
        }
    }
}

/// Backs up one volume; of a stream that holds several states, all of them. See [`run_all`].
pub async fn run(
    project: &Writer,
    input: Input,
    options: &BackupOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<BackupReport> {
    run_all(project, input, options, progress, cancel).await.newest()
}

/// Backs up each state of a volume that its source holds, as a snapshot of its own. Only a full export with snapshots
/// holds more than one. Those that are committed stay, whatever becomes of the next.
pub async fn run_all(
    project: &Writer,
    input: Input,
    options: &BackupOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Backed {
    let mut backed = Backed::default();
    let cx = Context::new(project, options, progress, cancel);
    let one = async |input| run_one(&cx, input).await;
    let states = match input {
        // A dry run commits no state that the next could be relative to, and reads them as one.
        Input::Stream(source) if !options.dry_run => States::of(source),
        input => {
            match one(input).await {
                Ok(report) => backed.done.push(report),
                Err(error) => backed.error = Some(error),
            }
            return backed;
        }
    };
    loop {
        let next = states.clone();
        let done = match cpu::block(move || next.next_state()).await {
            Ok(None) => return backed,
            Ok(Some(state)) => one(Input::Stream(state)).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(report) => backed.done.push(report),
            Err(error) => {
                backed.error = Some(after(&backed.done, error));
                return backed;
            }
        }
    }
}

/// An error after some states of a stream were committed, which it must not hide.
fn after(done: &[BackupReport], error: Error) -> Error {
    if done.is_empty() {
        return error;
    }
    let shown = |report: &BackupReport| {
        let sequence = report.sequence.map(|s| s.to_string()).unwrap_or_default();
        format!("{} as backup {sequence}", report.point.as_ref().map_or("", |p| &p.name))
    };
    let committed: Vec<String> = done.iter().map(shown).collect();
    error.context(format!("after earlier states of the stream were backed up ({})", committed.join(", ")))
}

async fn run_one(cx: &Context<'_>, input: Input) -> Result<BackupReport> {
    let started = Instant::now();
    let done = match cx.options.dry_run {
        true => walk::rehearse(cx, input).await,
        false => walk::back_up(cx, input).await,
    };
    let remarks = cx.take_remarks();
    Ok(BackupReport { remarks, seconds: started.elapsed().as_secs_f64(), ..done? })
}

/// What snapshots that cuttle makes of a source begin with: other repositories and projects have their own.
pub fn own_prefix(project: &Project) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&project.repository().record().repo_id);
    hasher.update(project.name().as_str().as_bytes());
    format!("cuttle-{}-", hex(&hasher.finalize().as_bytes()[..4]))
}
