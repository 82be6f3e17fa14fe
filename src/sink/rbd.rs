//! RBD images as the target of a restore.
//!
//! An image under restore carries the metadata key [`MARK`] with the snapshot's id until all of it is there. So the same
//! restore, run again, goes on without being allowed to overwrite, and nobody takes half a volume for a whole one.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::partial::PARTIAL_SUFFIX;
use super::{Existing, Order, Sink, check_range};
use crate::error::{Error, ErrorKind, Result};
use crate::rbd::{
    Access, Cluster, CreateOptions, Image, OpenBy, Pool, RbdSpec, Snapshot, advice, clone, features, lock,
    migration, watchers,
};
use crate::source::ReadAt;
pub use crate::source::rbd::MARK;
use crate::source::rbd::{MARK_MADE, OWN_METADATA_PREFIX, RbdReader};
use crate::source::rbd_held::{self, Held};
use crate::volume::ImageLayout;

/// Image metadata key of a finished restore, where it was asked to leave it; its value is the snapshot's id.
pub const RESTORED: &str = "cuttle.restored";
/// Image metadata key beside [`RESTORED`]: the snapshot's tags, with commas between.
pub const TAGS: &str = "cuttle.tags";
/// A client that died is forgotten by the cluster after this (Ceph's `osd_client_watch_timeout` of 30 s, and a little).
pub(crate) const DEAD_CLIENT_TIMEOUT: Duration = Duration::from_secs(35);
/// How often it is looked whether a dead client is forgotten.
pub(crate) const DEAD_CLIENT_POLL: Duration = Duration::from_millis(500);

/// What to restore, and what may happen to an image that is there already.
#[derive(Debug, Clone)]
pub struct RestoreTarget<'a> {
    /// The volume's size; an image that is there is resized to it.
    pub size_bytes: u64,
    /// How a new image is made. An existing one stays as it is made, but for its size.
    pub layout: &'a ImageLayout,
    /// The snapshot's id, to know this restore again after an interruption.
    pub mark: &'a str,
    /// Whether an image that holds anything else may be overwritten.
    pub overwrite: bool,
    /// A pool for a new image's data, beside the one that holds the image.
    pub data_pool: Option<&'a str>,
    /// Whether recorded `conf_…` metadata is set on a new image. It overrides librbd's configuration wherever the image is
    /// used, so somebody has to want it.
    pub image_config: bool,
    /// Own metadata that a finished restore leaves on the image, see [`RESTORED`].
    pub leave: &'a [(&'static str, String)],
    /// What a new image is made a clone of.
    pub origin: Option<&'a Held>,
    /// The snapshot that is made of the image when all of this restore is there, so that clones can be made of it.
    pub keep: Option<Keep>,
}

/// A snapshot of what was restored.
#[derive(Debug, Clone)]
pub struct Keep {
    /// What it is called, unless that is taken.
    pub name: String,
    /// The id of the snapshot that was restored, in hexadecimal digits.
    pub snapshot_id: String,
    /// Whether the image moves on to a later snapshot, and so stays unfinished.
    pub moves_on: bool,
}

/// What was found where the image is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing: the image was made anew, and all of it reads as zero.
    Absent,
    /// This very restore, unfinished.
    Unfinished,
    /// Something else, to be overwritten.
    Other,
}

/// An image being restored. Dropped without [`Sink::finish`], it stays marked as unfinished.
pub struct RbdSink {
    pool: Pool,
    name: String,
    image: Arc<Image>,
    reader: Arc<RbdReader>,
    size_bytes: u64,
    found: Found,
    /// Whether it was just made as a clone.
    cloned: bool,
    keep: Option<Keep>,
    /// What to set when all else is done: `conf_…` keys slow down or change the handle that sees them.
    metadata: Vec<(String, String)>,
}

impl RbdSink {
    /// Makes or opens the image, marks it as unfinished, and keeps others from writing to it.
    ///
    /// Refused: an image that is open elsewhere, and one that holds anything but this restore's own beginning unless
    /// overwriting is allowed. To resume right after a crash, it is waited until the cluster has forgotten the dead
    /// client.
    pub fn open(cluster: &Cluster, spec: &RbdSpec, target: &RestoreTarget<'_>) -> Result<Self> {
        let pool = target_pool(cluster, spec)?;
        let found = look(&pool, spec, target)?;
        if found == Found::Absent {
            create(&pool, &spec.image, target)?;
        } else {
            refuse_open_elsewhere(&pool, &spec.image, found)?;
        }
        let image = Image::open(&pool, OpenBy::Name(&spec.image), Access::ReadWrite)?;
        if image.features()? & features::EXCLUSIVE_LOCK != 0 {
            lock::take(&image)?;
        }
        let made = match found {
            Found::Absent => true,
            Found::Unfinished => image.metadata().list()?.iter().any(|(key, _)| key == MARK_MADE),
            Found::Other => false,
        };
        if found != Found::Absent {
            image.metadata().set(MARK, target.mark)?;
        }
        if found == Found::Other {
            forget_earlier(&image)?;
        }
        if image.size_bytes()? != target.size_bytes {
            image.resize(target.size_bytes)?;
        }
        let mut metadata =
            if made { restored_metadata(&target.layout.metadata, target.image_config) } else { Vec::new() };
        metadata.extend(target.leave.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let image = Arc::new(image);
        let reader = Arc::new(RbdReader::new(image.clone())?);
        let name = spec.image.clone();
        let cloned = found == Found::Absent && target.origin.is_some();
        let keep = target.keep.clone();
        Ok(Self { pool, name, image, reader, size_bytes: target.size_bytes, found, cloned, keep, metadata })
    }

    /// What [`RbdSink::open`] would find, or why it would refuse; changes nothing. The image may be smaller or larger than
    /// the volume.
    pub fn preview(cluster: &Cluster, spec: &RbdSpec, target: &RestoreTarget<'_>) -> Result<Existing> {
        let pool = target_pool(cluster, spec)?;
        if look(&pool, spec, target)? == Found::Absent {
            return Ok(Existing::Blank);
        }
        let image = Image::open(&pool, OpenBy::Name(&spec.image), Access::ReadOnly)?;
        Ok(Existing::Content(Arc::new(RbdReader::new(Arc::new(image))?)))
    }

    /// Whether there is no image of that name.
    pub fn is_absent(cluster: &Cluster, spec: &RbdSpec) -> Result<bool> {
        match Image::open(&target_pool(cluster, spec)?, OpenBy::Name(&spec.image), Access::ReadOnly) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            image => image.map(|_| false),
        }
    }

    /// Whether a finished restore of this snapshot left its note on the image. What was written to it since is not seen.
    pub fn is_restored(cluster: &Cluster, spec: &RbdSpec, snapshot_id: &str) -> Result<bool> {
        let pool = target_pool(cluster, spec)?;
        let image = match Image::open(&pool, OpenBy::Name(&spec.image), Access::ReadOnly) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            image => image?,
        };
        let metadata = image.metadata().list()?;
        let has =
            |wanted: &str| metadata.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
        Ok(has(RESTORED) == Some(snapshot_id) && has(MARK).is_none())
    }

    /// What was there before. Where nothing was, all reads as zero, or as what it was cloned from.
    pub fn found(&self) -> Found {
        self.found
    }
}

impl Sink for RbdSink {
    fn order(&self) -> Order {
        Order::Any
    }

    fn existing(&self) -> Existing {
        match self.found {
            Found::Absent if self.cloned => Existing::Backup(Some(self.reader.clone())),
            Found::Absent => Existing::Blank,
            Found::Unfinished | Found::Other => Existing::Content(self.reader.clone()),
        }
    }

    /// The object map of an image may lack objects that there are (`rbd/diff/judge.rs`). Those read as zeros, discarding them does
    /// nothing, and they are back once the map is right: so it is made right first. It may be, but what tells so, asking for
    /// each object, is what a rebuild does.
    fn distrust(&self) -> Result<()> {
        let mapped = self.image.features()? & features::OBJECT_MAP != 0;
        match mapped && self.found != Found::Absent {
            true => self.image.rebuild_object_map(),
            false => Ok(()),
        }
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        check_range(offset_bytes, data.len() as u64, self.size_bytes)?;
        self.image.write_at(offset_bytes, data)
    }

    fn zero_at(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        check_range(offset_bytes, length_bytes, self.size_bytes)?;
        self.image.zero_at(offset_bytes, length_bytes)
    }

    fn read_back(&self) -> Result<Arc<dyn ReadAt>> {
        self.image.flush()?;
        // Another handle has another cache.
        let image = Image::open(
            &self.pool,
            OpenBy::Id { name: &self.name, id: &self.image.id()? },
            Access::ReadOnly,
        )?;
        Ok(Arc::new(RbdReader::new(Arc::new(image))?))
    }

    fn finish(&self) -> Result<()> {
        self.image.flush()?;
        let size_bytes = self.image.size_bytes()?;
        if size_bytes != self.size_bytes {
            return Err(Error::conflict(format!(
                "{}: was resized during the restore: expected {} bytes, found {size_bytes}",
                self.image.label(),
                self.size_bytes
            )));
        }
        if let Some(Keep { name, snapshot_id, moves_on }) = &self.keep {
            // A run that was killed after it had said so has made it already.
            if rbd_held::noted(&self.image)?.iter().all(|(id, _)| id != snapshot_id) {
                // All is durable, and whoever else wants to write waits for the lock: now the snapshot is the backup, and then it is said.
                rbd_held::note(&self.image, &make_snapshot(&self.image, name)?, snapshot_id)?;
            }
            if *moves_on {
                return Ok(());
            }
        }
        for (key, value) in &self.metadata {
            self.image.metadata().set(key, value)?;
        }
        self.image.metadata().remove(MARK_MADE)?;
        self.image.metadata().remove(MARK)
    }
}

/// A snapshot of this name, or the next that is free: a run that was killed may have left one that nothing is known of.
fn make_snapshot(image: &Image, name: &str) -> Result<Snapshot> {
    const NAMES_MAX: u32 = 16;
    for number in 1..=NAMES_MAX {
        let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
        if let Some(made) = image.snapshots().create_unless_taken(&name)? {
            return Ok(made);
        }
    }
    Err(Error::conflict(format!(
        "{} has snapshots {name} and {name}-2 to {name}-{NAMES_MAX} already",
        image.label()
    ))
    .help(format!("remove those that nobody needs: see `{}`", advice::list_snapshots(image.label()))))
}

fn target_pool(cluster: &Cluster, spec: &RbdSpec) -> Result<Pool> {
    if spec.is_all() || spec.snapshot.is_some() {
        return Err(Error::invalid(format!("{spec}: expected one image, without a snapshot, as target")));
    }
    cluster.pool(&spec.pool, &spec.namespace)
}

/// What is there, or why it must not be touched.
fn look(pool: &Pool, spec: &RbdSpec, target: &RestoreTarget<'_>) -> Result<Found> {
    let image = match Image::open(pool, OpenBy::Name(&spec.image), Access::ReadOnly) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Absent),
        image => image?,
    };
    if migration::source(&image)?.is_some() {
        let [execute, commit] = advice::end_migration(&spec.path());
        return Err(Error::conflict(format!("{spec} is under live migration")).help(format!(
            "restore to another image, or end the migration first (`{}` tells of it): an instant restore by --resume, others \
             by `{execute}` and `{commit}`, or `{}`",
            advice::show_watchers(&spec.path()),
            advice::abort_migration(&spec.path()),
        )));
    }
    let metadata = image.metadata().list()?;
    let has = |wanted: &str| metadata.iter().find(|(key, _)| key == wanted).map(|(_, value)| value);
    match has(MARK) {
        Some(mark) if *mark == target.mark => Ok(Found::Unfinished),
        _ if target.overwrite => Ok(Found::Other),
        Some(mark) => Err(Error::conflict(format!(
            "{spec} holds an unfinished restore of snapshot {mark}, and this one is of snapshot {}",
            target.mark
        ))
        .help("restore that snapshot again to finish it, restore to another image, or overwrite with --overwrite")),
        None => {
            let earlier =
                has(RESTORED).map(|id| format!(", and snapshot {id} was restored to it")).unwrap_or_default();
            Err(Error::conflict(format!("{spec} exists{earlier}"))
                .help("restore to another image, or overwrite this one with --overwrite"))
        }
    }
}

/// Makes a new image that bears this restore's mark from when it has its name: who is killed in between leaves nothing that
/// would have to be told from another one's image.
fn create(pool: &Pool, name: &str, target: &RestoreTarget<'_>) -> Result<()> {
    let partial = format!("{name}{PARTIAL_SUFFIX}");
    remove_partial(pool, &partial)?;
    create_unmarked(pool, &partial, target)?;
    let image = Image::open(pool, OpenBy::Name(&partial), Access::ReadWrite)?;
    image.metadata().set(MARK_MADE, "1")?;
    image.metadata().set(MARK, target.mark)?;
    drop(image);
    pool.rename_image(&partial, name)
}

/// Removes what a run left that was killed while it made an image. Nothing was ever written to it.
fn remove_partial(pool: &Pool, partial: &str) -> Result<()> {
    match refuse_open_elsewhere(pool, partial, Found::Unfinished) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => pool.remove_image(partial),
    }
}

fn create_unmarked(pool: &Pool, name: &str, target: &RestoreTarget<'_>) -> Result<()> {
    let layout = target.layout;
    let known = layout.features & features::CREATABLE;
    let striped = layout.stripe_count > 1 || layout.stripe_unit_bytes > 0;
    let create = CreateOptions {
        size_bytes: target.size_bytes,
        order: (layout.order != 0).then_some(layout.order),
        features: (layout.features != 0).then_some(known),
        striping: striped.then_some((layout.stripe_unit_bytes, layout.stripe_count.max(1))),
        data_pool: target.data_pool.map(str::to_owned),
    };
    match target.origin {
        None => pool.create_image(name, &create),
        Some(origin) => {
            pool.clone_image(name, &origin.clone_of(), &create)?;
            let made = Image::open(pool, OpenBy::Name(name), Access::ReadWrite)?;
            settle_clone(&made, origin, target.size_bytes)
        }
    }
}

/// What is librbd's own idea of a clone: it took the parent by its name, and its size and metadata.
fn settle_clone(made: &Image, origin: &Held, size_bytes: u64) -> Result<()> {
    if !clone::parent(made)?.is_some_and(|parent| origin.is(&parent)) {
        return Err(Error::conflict(format!("{origin} was replaced while it was cloned"))
            .help("run the command again"));
    }
    for (key, _) in made.metadata().list()? {
        made.metadata().remove(&key)?;
    }
    if made.size_bytes()? != size_bytes {
        made.resize(size_bytes)?;
    }
    Ok(())
}

/// Refuses an image that another client has open: both would write.
pub(crate) fn refuse_open_elsewhere(pool: &Pool, name: &str, found: Found) -> Result<()> {
    let (began, mut told) = (Instant::now(), false);
    loop {
        // A handle that is open to read does not count as a watcher itself.
        let image = Image::open(pool, OpenBy::Name(name), Access::ReadOnly)?;
        let watchers = watchers(&image)?;
        let Some(watcher) = watchers.first() else { return Ok(()) };
        // An unfinished restore is most likely still open by the one that was killed; the cluster forgets it soon.
        if found != Found::Unfinished || began.elapsed() > DEAD_CLIENT_TIMEOUT {
            let path = image.label();
            return Err(Error::conflict(format!("{path} is open elsewhere, by {watcher}")).help(format!(
                "stop what uses it (`{}` shows who) and run the command again",
                advice::show_watchers(path)
            )));
        }
        if !told {
            let path = image.label();
            tracing::warn!("{path} is still open by {watcher}: waiting until the cluster has forgotten it");
            told = true;
        }
        thread::sleep(DEAD_CLIENT_POLL);
    }
}

/// Removes what an earlier restore said of the image: from now on it is another one's. The mark is set before.
fn forget_earlier(image: &Image) -> Result<()> {
    let metadata = image.metadata().list()?;
    let keys = metadata.iter().map(|(key, _)| key).filter(|key| key.starts_with(OWN_METADATA_PREFIX));
    keys.filter(|key| *key != MARK && !rbd_held::is_note(key))
        .try_for_each(|key| image.metadata().remove(key))
}

/// How image metadata begins that is librbd's configuration of the image.
const CONFIG_METADATA_PREFIX: &str = "conf_";

/// The recorded metadata that a new image gets. What is cuttle's own belongs to the image that was backed up.
pub(crate) fn restored_metadata(metadata: &[(String, String)], config: bool) -> Vec<(String, String)> {
    let (config_keys, other): (Vec<_>, Vec<_>) = metadata
        .iter()
        .filter(|(key, _)| !key.starts_with(OWN_METADATA_PREFIX))
        .cloned()
        .partition(|(key, _)| key.starts_with(CONFIG_METADATA_PREFIX));
    if config {
        return other.into_iter().chain(config_keys).collect();
    }
    if !config_keys.is_empty() {
        let keys: Vec<&str> = config_keys.iter().map(|(key, _)| key.as_str()).collect();
        tracing::warn!(
            "the image's own configuration is not restored unless --image-config asks for it: {}",
            keys.join(", ")
        );
    }
    other
}
