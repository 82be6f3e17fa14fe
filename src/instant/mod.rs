//! Instant restore: an RBD image that can be used at once, while its content is still being copied.
//!
//! The snapshot is served over HTTP, and librbd migrates the image from there: whoever reads what is not copied yet has it
//! fetched, whoever writes has it copied first. Whoever uses the image before all is copied reads from the server, which so must
//! be reachable and alive until then.

mod migration;
mod plan;
mod spec;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use tokio::task::JoinHandle;

use crate::cancel::{self, Cancel, Canceller};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::context::INSTANT_TOKEN;
use crate::progress::{Outcome, Progress, Step};
use crate::random::random_array;
use crate::rbd::{CephConfig, RbdSpec, advice};
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;
use crate::serve::Shelf;
use crate::serve::http::{Access, HttpOptions, HttpServer, Token};
use crate::serve::qcow2::{self, IMAGES_MAX};
use crate::store::Ledger;
use crate::units::hex;
use crate::volume::ImageLayout;

use migration::{Migration, State};
pub use plan::InstantPlan;
pub use spec::Format;
use spec::Source;

/// Most snapshots that come back with an image.
pub const HISTORY_MAX: usize = IMAGES_MAX - 1;

/// An instant restore.
pub struct InstantRestore {
    /// Where the snapshot is.
    pub project: Project,
    /// How Ceph's own program, which prepares the migration, reaches the cluster.
    pub ceph: CephConfig,
    /// The new image, without a snapshot.
    pub target: RbdSpec,
    /// Where the snapshots are served. The image's users must reach it until all is copied; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Bounds the chunks in memory, as for [`Shelf::of_project`].
    pub memory_bytes: u64,
    /// A pool for the new image's data, beside the one that holds the image.
    pub data_pool: Option<String>,
    /// See [`RestoreTarget::image_config`](crate::sink::rbd::RestoreTarget).
    pub image_config: bool,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct InstantReport {
    /// The volume's name.
    pub volume: String,
    /// Of the snapshot that the image holds now.
    pub sequence: u32,
    /// 32 hexadecimal digits.
    pub snapshot_id: String,
    /// The volume's size, and the image's.
    pub size_bytes: u64,
    /// Snapshots of the new image, oldest first.
    pub history: Vec<HistoryEntry>,
    /// From the beginning until the image could be used; none where that was before.
    pub usable_seconds: Option<f64>,
    /// From the beginning until all was copied.
    pub seconds: f64,
    /// Requests since the store was opened; those for what users of the image read meanwhile are in it.
    pub ledger: Ledger,
}

/// A snapshot that came back with its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    /// Of the RBD snapshot on the new image.
    pub name: String,
    /// Of the snapshot in the repository that it holds.
    pub sequence: u32,
}

/// The image can be used.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// Where its content is served, and must be served again by whoever resumes.
    pub address: SocketAddr,
    /// Since the beginning.
    pub seconds: f64,
}

/// Told once, when the image can be used.
pub type Usable<'a> = &'a (dyn Fn(&Begun) + Send + Sync);

impl InstantRestore {
    /// Restores the last of these snapshots of one volume; the others, oldest first, become snapshots of the image.
    ///
    /// # Errors
    /// `Conflict` where the image exists. Whatever ends it once the image can be used leaves an image that works only while its
    /// source is served: [`resume`](Self::resume) goes on, `rbd migration abort` goes back.
    pub async fn run(
        &self,
        snapshots: Vec<SnapshotEntry>,
        usable: Usable<'_>,
        progress: Arc<dyn Progress>,
        cancel: Cancel,
    ) -> Result<InstantReport> {
        let began = Instant::now();
        let (snapshot, older) = last(&snapshots)?;
        let format = format(snapshot, older)?;
        let history = history(older);
        progress.phase("prepare", None);
        let (address, token, served) = self.serve_anew(snapshots.clone(), snapshot).await?;
        let source = Source {
            address,
            token,
            volume: snapshot.volume_name.clone(),
            format,
            sequences: snapshots.iter().map(|s| s.snapshot.sequence.0).collect(),
        };
        let migration = Migration { ceph: &self.ceph, target: &self.target, cancel };
        let options = image_options(&snapshot.snapshot.layout, self.data_pool.as_deref());
        migration.prepare(&source.to_json()?, &options).await.map_err(|e| self.not_begun(e))?;
        let usable_seconds = began.elapsed().as_secs_f64();
        usable(&Begun { address, seconds: usable_seconds });
        let done = self.copy_and_commit(&migration, State::Prepared, snapshot, progress.as_ref()).await;
        done.map_err(|error| self.unfinished(address, snapshot, error))?;
        served.stop().await;
        Ok(self.report(history, snapshot, Some(usable_seconds), began))
    }

    /// Goes on with a restore that was interrupted: serves again, at the address that the image knows, and copies the rest.
    /// Of the snapshots of one volume the last is the one to restore; all others are served where the image asks for them.
    pub async fn resume(
        &self,
        snapshots: Vec<SnapshotEntry>,
        usable: Usable<'_>,
        progress: Arc<dyn Progress>,
        cancel: Cancel,
    ) -> Result<InstantReport> {
        let began = Instant::now();
        let (wanted, _) = last(&snapshots)?;
        let Interrupted { served, migration, state, older } = self.interrupted(&snapshots, cancel).await?;
        usable(&Begun { address: self.listen, seconds: began.elapsed().as_secs_f64() });
        let done = self.copy_and_commit(&migration, state, wanted, progress.as_ref()).await;
        done.map_err(|error| self.unfinished(self.listen, wanted, error))?;
        served.stop().await;
        Ok(self.report(history(&older), wanted, None, began))
    }

    /// Serves the snapshots again, and finds how far the restore of the last of them is.
    async fn interrupted(&self, snapshots: &[SnapshotEntry], cancel: Cancel) -> Result<Interrupted<'_>> {
        let (wanted, older) = last(snapshots)?;
        if self.listen.port() == 0 {
            return Err(Error::invalid("the address is not named at which the image looks for its content")
                .help("name it with --listen, as the restore told it when it began"));
        }
        // First of all: without its source an image cannot even be looked at.
        let served = self.serve_again(snapshots.to_vec(), wanted).await?;
        let migration = Migration { ceph: &self.ceph, target: &self.target, cancel };
        let (described, state) = migration.status().await.map_err(|e| match e.kind() {
            ErrorKind::Unavailable => e.help(
                "name the snapshot and, with --listen, the address that it was restored from: the image finds its source there",
            ),
            _ => e,
        })?;
        let source = Source::from_json(&described)?;
        let (sequence, volume) = (source.sequences.last().copied().unwrap_or_default(), &source.volume);
        if (volume, sequence) != (&wanted.volume_name, wanted.snapshot.sequence.0) {
            return Err(Error::conflict(format!(
                "{} is being restored from {volume}@{sequence}, not from {}",
                self.target,
                wanted.name()
            )));
        }
        let mut older = older.to_vec();
        older.retain(|s| source.sequences.contains(&s.snapshot.sequence.0));
        Ok(Interrupted { served, migration, state, older })
    }

    /// What signs the secret in the path: this project's key, for this snapshot and target, and for this alone.
    fn signer(&self, snapshot: &SnapshotEntry) -> impl Fn(&[u8]) -> [u8; 32] + Send + Sync + 'static {
        let text = format!("instant restore of {} to {}: ", snapshot.snapshot_id, self.target);
        let project = self.project.clone();
        move |begin| {
            let text = [text.as_bytes(), begin].concat();
            project.keys().token(INSTANT_TOKEN, &text)
        }
    }

    /// A secret of its own each time: a random number, signed. So whoever resumes, and cannot ask the image before it is
    /// served, needs to remember nothing: he takes any that is signed.
    fn token(&self, snapshot: &SnapshotEntry) -> Result<String> {
        let begin = hex(&random_array::<16>()?);
        let signature = self.signer(snapshot)(begin.as_bytes());
        Ok(begin + &hex(&signature))
    }

    /// Serves to whoever names the token, which is told.
    async fn serve_anew(
        &self,
        snapshots: Vec<SnapshotEntry>,
        wanted: &SnapshotEntry,
    ) -> Result<(SocketAddr, String, Served)> {
        let token = self.token(wanted)?;
        let server = self.bind(snapshots, Token::new(&token)).await?;
        Ok((server.address(), token, Served::by(server)))
    }

    /// Serves to whoever was given a token before.
    async fn serve_again(&self, snapshots: Vec<SnapshotEntry>, wanted: &SnapshotEntry) -> Result<Served> {
        let token = Token::signed(self.signer(wanted));
        Ok(Served::by(self.bind(snapshots, token).await?))
    }

    async fn bind(&self, snapshots: Vec<SnapshotEntry>, token: Token) -> Result<HttpServer> {
        let listen = self.listen;
        if listen.ip().is_unspecified() {
            return Err(Error::invalid(format!("{listen} is no address that others can be told"))
                .help("name the address of this host that the image's users reach"));
        }
        let shelf = Shelf::of_snapshots(&self.project, snapshots, self.memory_bytes);
        let options = HttpOptions { listen, ..HttpOptions::on_loopback(Access::Token(token)) };
        HttpServer::bind(Arc::new(shelf), options).await
    }

    async fn copy_and_commit(
        &self,
        migration: &Migration<'_>,
        state: State,
        snapshot: &SnapshotEntry,
        progress: &dyn Progress,
    ) -> Result<()> {
        let size_bytes = snapshot.snapshot.size_bytes;
        if state == State::Prepared {
            progress.phase("copy", Some(size_bytes));
            let mut done_bytes = 0;
            let mut percent = |percent: u8| {
                let at = size_bytes / 100 * u64::from(percent);
                let bytes = at.saturating_sub(done_bytes);
                done_bytes += bytes;
                progress.step(Step { bytes, chunks: 0, outcome: Outcome::New });
            };
            migration.execute(&mut percent).await?;
        }
        progress.phase("commit", None);
        for (key, value) in
            &crate::sink::rbd::restored_metadata(&snapshot.snapshot.layout.metadata, self.image_config)
        {
            migration.set_metadata(key, value).await.context(format!("set image metadata {key}"))?;
        }
        migration.commit().await
    }

    /// How to go on with what has begun.
    fn unfinished(&self, address: SocketAddr, snapshot: &SnapshotEntry, error: Error) -> Error {
        let (path, name) = (self.target.path(), snapshot.name());
        let busy = match error.kind() {
            ErrorKind::Conflict => "some steps want nobody to have the image open; then ",
            _ => "",
        };
        error.help(format!(
            "{busy}go on with `cuttle restore --instant --resume --listen {address} {name} {}`; until then {path} cannot \
             be opened. Or give it up: `{}`, half a minute from now, when the cluster has forgotten \
             this client, removes the image and what was written to it",
            self.target,
            advice::abort_migration(&path),
        ))
    }

    fn not_begun(&self, error: Error) -> Error {
        let path = self.target.path();
        match error.kind() {
            ErrorKind::Conflict => {
                error.help("an instant restore makes a new image: name one that is not there")
            }
            ErrorKind::Invalid | ErrorKind::Unsupported => error.help(
                "live migration from HTTP needs Ceph 16 or newer; a restore without --instant does not",
            ),
            _ => {
                error.help(format!("if {path} is there now, `{}` removes it", advice::abort_migration(&path)))
            }
        }
    }

    fn report(
        &self,
        history: Vec<HistoryEntry>,
        snapshot: &SnapshotEntry,
        usable_seconds: Option<f64>,
        began: Instant,
    ) -> InstantReport {
        InstantReport {
            volume: snapshot.volume_name.clone(),
            sequence: snapshot.snapshot.sequence.0,
            snapshot_id: snapshot.snapshot_id.to_string(),
            size_bytes: snapshot.snapshot.size_bytes,
            history,
            usable_seconds,
            seconds: began.elapsed().as_secs_f64(),
            ledger: self.project.repository().store().ledger(),
        }
    }
}

/// A restore that was interrupted, as its image tells of it.
struct Interrupted<'a> {
    served: Served,
    migration: Migration<'a>,
    state: State,
    /// The snapshots that come back with the image.
    older: Vec<SnapshotEntry>,
}

/// The snapshot to restore, and those before it.
fn last(snapshots: &[SnapshotEntry]) -> Result<(&SnapshotEntry, &[SnapshotEntry])> {
    snapshots.split_last().ok_or_else(|| Error::invalid("no snapshot to restore"))
}

/// A server in the background; gone when this is dropped.
struct Served {
    canceller: Canceller,
    task: JoinHandle<Result<()>>,
}

impl Served {
    fn by(server: HttpServer) -> Self {
        let (canceller, cancel) = cancel::pair();
        Self { canceller, task: tokio::spawn(server.run(cancel)) }
    }

    async fn stop(mut self) {
        self.canceller.cancel();
        // What it still had to say is nothing that the restore depends on.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// As what a snapshot is served to librbd, with those before it.
fn format(snapshot: &SnapshotEntry, older: &[SnapshotEntry]) -> Result<Format> {
    if older.len() > HISTORY_MAX {
        return Err(Error::invalid(format!("{} older snapshots: at most {HISTORY_MAX}", older.len())));
    }
    match (qcow2::holds(snapshot), older) {
        (true, _) => Ok(Format::Qcow),
        (false, []) => Ok(Format::Raw),
        (false, _) => Err(Error::unsupported(format!(
            "{} has {} bytes: not whole sectors of 512",
            snapshot.name(),
            snapshot.snapshot.size_bytes
        ))
        .help("leave --history out")),
    }
}

/// RBD's own default where the size of objects is not known.
fn object_size_bytes(layout: &ImageLayout) -> u64 {
    const ORDER_DEFAULT: u8 = 22;
    1 << if (1..=32).contains(&layout.order) { layout.order } else { ORDER_DEFAULT }
}

fn history(older: &[SnapshotEntry]) -> Vec<HistoryEntry> {
    let sequences = older.iter().map(|entry| entry.snapshot.sequence.0);
    let named = qcow2::snapshot_names(older).into_iter().zip(sequences);
    named.map(|(name, sequence)| HistoryEntry { name, sequence }).collect()
}

/// How the image is made: as it was.
fn image_options(layout: &ImageLayout, data_pool: Option<&str>) -> Vec<String> {
    use crate::rbd::features;
    let mut out = Vec::new();
    let mut add = |name: &str, value: String| out.extend([format!("--{name}"), value]);
    add("object-size", format!("{}B", object_size_bytes(layout)));
    if layout.stripe_count > 1 {
        add("stripe-unit", format!("{}B", layout.stripe_unit_bytes));
        add("stripe-count", layout.stripe_count.to_string());
    }
    for (bit, name) in [
        (features::LAYERING, "layering"),
        (features::EXCLUSIVE_LOCK, "exclusive-lock"),
        (features::OBJECT_MAP, "object-map"),
        (features::FAST_DIFF, "fast-diff"),
        (features::DEEP_FLATTEN, "deep-flatten"),
    ] {
        if layout.features & bit != 0 {
            add("image-feature", name.to_owned());
        }
    }
    if let Some(pool) = data_pool {
        add("data-pool", pool.to_owned());
    }
    out
}
