//! Instant restore: an RBD image that can be used at once, while its content is still being copied.
//!
//! The snapshot is served over HTTP, and librbd migrates the image from there: whoever reads what is not copied yet has it
//! fetched, whoever writes has it copied first. Whoever uses the image before all is copied reads from the server, which so must
//! be reachable and alive until then.

mod migration;
mod spec;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use tokio::task::JoinHandle;

use crate::cancel::{self, Cancel, Canceller};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::keys::random_array;
use crate::progress::{Outcome, Progress, Step};
use crate::rbd::{CephConfig, RbdSpec};
use crate::repo::Project;
use crate::repo::log::SnapshotEntry;
use crate::serve::Shelf;
use crate::serve::http::{Access, HttpOptions, HttpServer, Token};
use crate::source::rbd::OWN_METADATA_PREFIX;
use crate::store::Ledger;
use crate::units::hex;
use crate::volume::ImageLayout;

use migration::{Migration, State};
pub use spec::Source;

/// Most snapshots that come back with an image: the source's description must fit into the image's metadata.
pub const HISTORY_MAX: usize = 100;
/// What begins the names of cuttle's own snapshots, which a later backup would remove.
const OWN_PREFIX: &str = "cuttle";

/// An instant restore.
pub struct InstantRestore {
    pub project: Project,
    pub ceph: CephConfig,
    pub target: RbdSpec,
    /// Where the snapshots are served. The image's users must reach it until all is copied; port 0 takes a free one.
    pub listen: SocketAddr,
    pub memory_bytes: u64,
    pub data_pool: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct InstantReport {
    pub volume: String,
    pub sequence: u32,
    pub snapshot_id: String,
    pub size_bytes: u64,
    /// Snapshots of the new image, oldest first.
    pub history: Vec<HistoryEntry>,
    /// From the beginning until the image could be used; none where that was before.
    pub usable_seconds: Option<f64>,
    pub seconds: f64,
    pub ledger: Ledger,
}

/// A snapshot that came back with its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    pub name: String,
    pub sequence: u32,
}

/// Told once, when the image can be used: seconds since the beginning.
pub type Usable<'a> = &'a (dyn Fn(f64) + Send + Sync);

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
        let Some((snapshot, older)) = snapshots.split_last() else {
            return Err(Error::invalid("no snapshot to restore"));
        };
        let history = history(older)?;
        let token = hex(&random_array::<16>()?);
        progress.phase("prepare", None);
        let (address, served) = self.serve(self.listen, &token, snapshots.clone()).await?;
        let source = Source {
            address,
            token,
            volume: snapshot.volume_name.clone(),
            sequence: snapshot.snapshot.sequence.0,
            history: history.into_iter().map(|h| (h.name, h.sequence)).collect(),
        };
        let migration = Migration { ceph: &self.ceph, target: &self.target, cancel };
        let options = image_options(&snapshot.snapshot.layout, self.data_pool.as_deref());
        migration.prepare(&source.to_json()?, &options).await.map_err(|e| self.not_begun(e))?;
        let usable_seconds = began.elapsed().as_secs_f64();
        usable(usable_seconds);
        self.finish(&migration, State::Prepared, snapshot, progress.as_ref()).await?;
        served.stop().await;
        Ok(self.report(&source, snapshot, (Some(usable_seconds), began)))
    }

    /// Goes on with a restore that was interrupted: serves again what the image says that it comes from, and copies the rest.
    pub async fn resume(
        &self,
        wanted: &SnapshotEntry,
        usable: Usable<'_>,
        progress: Arc<dyn Progress>,
        cancel: Cancel,
    ) -> Result<InstantReport> {
        let began = Instant::now();
        let migration = Migration { ceph: &self.ceph, target: &self.target, cancel };
        let (described, state) = migration.status().await?;
        let source = Source::from_json(&described)?;
        let name = |sequence: u32| format!("{}@{sequence}", source.volume);
        if (wanted.volume_name.as_str(), wanted.snapshot.sequence.0) != (&source.volume, source.sequence) {
            return Err(Error::conflict(format!(
                "{} is being restored from {}, not from {}@{}",
                self.target,
                name(source.sequence),
                wanted.volume_name,
                wanted.snapshot.sequence
            ))
            .help("name that snapshot, and the repository and project that it is in"));
        }
        let mut snapshots = Vec::with_capacity(source.history.len() + 1);
        for (_, sequence) in &source.history {
            snapshots.push(self.project.find_snapshot(&name(*sequence)).await?);
        }
        snapshots.push(wanted.clone());
        let (_, served) = self.serve(source.address, &source.token, snapshots).await.map_err(|e| {
            e.help("the image reads from this very address: free it, or run this on the host that has it")
        })?;
        usable(began.elapsed().as_secs_f64());
        self.finish(&migration, state, wanted, progress.as_ref()).await?;
        served.stop().await;
        Ok(self.report(&source, wanted, (None, began)))
    }

    async fn serve(
        &self,
        listen: SocketAddr,
        token: &str,
        snapshots: Vec<SnapshotEntry>,
    ) -> Result<(SocketAddr, Served)> {
        if listen.ip().is_unspecified() {
            return Err(Error::invalid(format!("{listen} is no address that others can be told"))
                .help("name the address of this host that the image's users reach"));
        }
        let shelf = Shelf::of_snapshots(&self.project, snapshots, self.memory_bytes);
        let options = HttpOptions { listen, ..HttpOptions::on_loopback(Access::Token(Token::new(token))) };
        let server = HttpServer::bind(Arc::new(shelf), options).await?;
        let (address, (canceller, cancel)) = (server.address(), cancel::pair());
        let task = tokio::spawn(server.run(cancel));
        Ok((address, Served { canceller, task }))
    }

    async fn finish(
        &self,
        migration: &Migration<'_>,
        state: State,
        snapshot: &SnapshotEntry,
        progress: &dyn Progress,
    ) -> Result<()> {
        let done = self.copy_and_commit(migration, state, snapshot, progress).await;
        done.map_err(|error| {
            let path = self.target.path();
            let name = format!("{}@{}", snapshot.volume_name, snapshot.snapshot.sequence);
            let busy = match error.kind() {
                ErrorKind::Conflict => "some steps want nobody to have the image open; then ",
                _ => "",
            };
            error.help(format!(
                "{busy}go on with `cuttle restore --instant --resume {name} {}`: until then {path} can be used only where it \
                 is copied already. Or give it up: `rbd migration abort {path}` removes the image and what was written to it",
                self.target
            ))
        })
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
        for (key, value) in &snapshot.snapshot.layout.metadata {
            // What is cuttle's own belongs to the image that was backed up.
            if !key.starts_with(OWN_METADATA_PREFIX) {
                migration.set_metadata(key, value).await.context(format!("set image metadata {key}"))?;
            }
        }
        migration.commit().await
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
            _ => error.help(format!("if {path} is there now, `rbd migration abort {path}` removes it")),
        }
    }

    fn report(
        &self,
        source: &Source,
        snapshot: &SnapshotEntry,
        (usable_seconds, began): (Option<f64>, Instant),
    ) -> InstantReport {
        let history = source.history.iter();
        InstantReport {
            volume: snapshot.volume_name.clone(),
            sequence: snapshot.snapshot.sequence.0,
            snapshot_id: snapshot.snapshot_id.to_string(),
            size_bytes: snapshot.snapshot.size_bytes,
            history: history
                .map(|(name, sequence)| HistoryEntry { name: name.clone(), sequence: *sequence })
                .collect(),
            usable_seconds,
            seconds: began.elapsed().as_secs_f64(),
            ledger: self.project.repository().store.ledger(),
        }
    }
}

/// A server in the background; gone when this is dropped.
struct Served {
    canceller: Canceller,
    task: JoinHandle<Result<()>>,
}

impl Served {
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

/// Names for older snapshots: those they had, unless cuttle made them for itself.
fn history(older: &[SnapshotEntry]) -> Result<Vec<HistoryEntry>> {
    if older.len() > HISTORY_MAX {
        return Err(Error::invalid(format!("{} older snapshots: at most {HISTORY_MAX}", older.len())));
    }
    let mut taken = BTreeSet::new();
    let named = older.iter().map(|entry| {
        let sequence = entry.snapshot.sequence.0;
        let own = entry.snapshot.point.as_ref().filter(|p| !p.own && !p.name.starts_with(OWN_PREFIX));
        let name = own.map_or_else(|| format!("backup-{sequence}"), |point| point.name.clone());
        let name = if taken.contains(&name) { format!("{name}-{sequence}") } else { name };
        taken.insert(name.clone());
        HistoryEntry { name, sequence }
    });
    Ok(named.collect())
}

/// How the image is made: as it was.
fn image_options(layout: &ImageLayout, data_pool: Option<&str>) -> Vec<String> {
    use crate::rbd::features;
    let mut out = Vec::new();
    let mut add = |name: &str, value: String| out.extend([format!("--{name}"), value]);
    if layout.order != 0 {
        add("object-size", format!("{}B", 1_u64 << layout.order.min(63)));
    }
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
