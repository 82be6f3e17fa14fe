//! Bytes in and out of an object store, over any `object_store::ObjectStore`.
//!
//! What this layer adds to object_store: retries of its own (decided by type and status, with jittered
//! backoff), creates whose outcome is always known, limits on sizes, bandwidth and requests in flight, an
//! adaptive slow-down, and a ledger of requests. It moves opaque bytes and knows no format.
//!
//! A [`Reader`] reads; only a [`Store`] creates, deletes and replaces, and none is made from a reader.
//!
//! Keys are `/`-joined segments of `a-z A-Z 0-9 . _ -`, relative to the URL the store was opened with.

mod adaptive;
mod attempt;
mod bandwidth;
mod bodies;
mod bulk;
mod client;
mod delete;
mod driven;
mod fault;
mod http_layer;
mod ledger;
mod limits;
mod links;
mod list;
mod location;
mod open;
mod options;
pub mod permitted;
mod place;
mod providers;
mod read;
mod setting;
mod staged;
mod write;

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::{ObjectMeta, ObjectStore};

use crate::error::Result;

use attempt::Shared;
use ledger::Counters;

pub use delete::Deleted;
pub use fault::StatusError;
pub use ledger::Ledger;
pub use limits::{Limits, StoreConfig};
pub(crate) use staged::Staged;
pub use write::{Created, HEAD_BYTES_MAX};

/// An object store, to be read. Clones share its limits and its ledger.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

/// An object store as it was opened: creating, deleting and replacing beside reading.
#[derive(Debug, Clone)]
pub struct Store {
    reader: Reader,
}

impl Deref for Store {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

/// What a list or a head tells about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name, relative to the repository's prefix.
    pub key: String,
    /// All of it, header included.
    pub size_bytes: u64,
    /// By the store's clock; 0 for times before 1970.
    pub modified_unix_ms: u64,
    /// What tells it from another object under the same name.
    pub stamp: Stamp,
}

/// What a store says of an object beside its name: its size and its tag; where there is no tag that tells objects apart, its time, too.
/// Two objects under one name, as diverged copies of a repository have them, differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(pub [u8; 16]);

/// Bytes of a tag from which it is more than a count.
const TAG_LEN_BYTES_MIN: usize = 16;

impl Stamp {
    fn of(meta: &ObjectMeta) -> Self {
        Self::of_written(meta.size, meta.e_tag.as_deref()).unwrap_or_else(|| {
            let at = meta.last_modified;
            let (seconds, nanos) = (at.timestamp().to_le_bytes(), at.timestamp_subsec_nanos().to_le_bytes());
            let tag = meta.e_tag.as_deref().unwrap_or_default().as_bytes();
            Self::hashed(&[&meta.size.to_le_bytes(), &seconds, &nanos, tag])
        })
    }

    /// Of what the answer to a PUT says: listings show the same. A tag is a hash of the content, or made of the time and the place of the
    /// write; one that is too short for that is a count, which diverged copies go on with alike. That and no tag is `None`.
    fn of_written(size_bytes: u64, tag: Option<&str>) -> Option<Self> {
        let tag = tag.filter(|tag| tag.len() >= TAG_LEN_BYTES_MIN)?;
        Some(Self::hashed(&[b"tag", &size_bytes.to_le_bytes(), tag.as_bytes()]))
    }

    fn hashed(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        let mut stamp = [0; 16];
        hasher.finalize_xof().fill(&mut stamp);
        Self(stamp)
    }
}

impl ObjectInfo {
    fn from_meta(key: String, meta: &ObjectMeta) -> Self {
        let modified_unix_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
        Self { key, size_bytes: meta.size, modified_unix_ms, stamp: Stamp::of(meta) }
    }
}

impl Store {
    /// Opens the store at a path or URL. Asks nothing of the network yet.
    ///
    /// A local directory must exist (`NoRepository` otherwise; [`prepare`](Self::prepare) makes it).
    /// Unknown options and missing credentials are `Invalid`.
    pub fn open(config: &StoreConfig) -> Result<Self> {
        open::open(config)
    }

    /// Makes what `open` needs and can be made from here: a local directory and its parents.
    pub fn prepare(config: &StoreConfig) -> Result<()> {
        open::prepare(config)
    }

    /// The folder that [`prepare`](Self::prepare) would make, or why it could not; changes nothing.
    pub fn to_prepare(config: &StoreConfig) -> Result<Option<PathBuf>> {
        open::to_prepare(config)
    }

    /// A store over an object store of the caller's: in memory, or one that fails on purpose.
    pub fn with_object_store(inner: Arc<dyn ObjectStore>, limits: Limits) -> Self {
        let url = inner.to_string();
        Self::from_shared(Shared::new(inner, url, limits, Arc::new(Counters::default()), false))
    }

    /// The place that a store would be at, without opening it.
    pub fn place_of(config: &StoreConfig) -> Result<String> {
        place::place(config)
    }

    fn from_shared(shared: Shared) -> Self {
        Self { reader: Reader { shared: Arc::new(shared) } }
    }
}

impl Reader {
    /// The address it was opened with, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// All that tells where it is: a path without links; or bucket, prefix, endpoint and account.
    pub fn place(&self) -> &str {
        &self.shared.place
    }

    /// Whether its objects are files in a directory.
    pub fn is_local(&self) -> bool {
        self.shared.local_dir.is_some()
    }

    /// Whether what it receives is limited to a rate.
    pub(crate) fn is_download_limited(&self) -> bool {
        self.shared.limits.download_bytes_per_second.is_some()
    }

    /// Requests and bytes since it was opened. Subtract an earlier one to get the share of what came between.
    pub fn ledger(&self) -> Ledger {
        self.shared.counters.ledger()
    }

    /// Requests allowed in flight now: halved when the store asks to slow down, then growing again.
    pub fn inflight_limit(&self) -> usize {
        self.shared.inflight_limit()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("url", &self.shared.url).finish_non_exhaustive()
    }
}
