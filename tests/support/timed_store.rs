//! An object store whose clock the test moves: modification times are those of its clock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// A time of day to begin with.
const START_UNIX_MS: u64 = 1_800_000_000_000;

/// Wraps a store; clones share everything.
#[derive(Clone)]
pub struct TimedStore {
    inner: Arc<dyn ObjectStore>,
    now_unix_ms: Arc<AtomicU64>,
    written: Arc<Mutex<BTreeMap<Path, u64>>>,
}

impl TimedStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, now_unix_ms: Arc::new(AtomicU64::new(START_UNIX_MS)), written: Arc::default() }
    }

    /// Lets time pass.
    pub fn advance_ms(&self, ms: u64) {
        self.now_unix_ms.fetch_add(ms, Ordering::SeqCst);
    }

    pub fn now_unix_ms(&self) -> u64 {
        self.now_unix_ms.load(Ordering::SeqCst)
    }

    fn retimed(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let written = self.written.lock().expect("not poisoned");
        let at = written.get(&meta.location).copied().unwrap_or(START_UNIX_MS);
        let offset_ms = at as i64 - meta.last_modified.timestamp_millis();
        meta.last_modified += std::time::Duration::from_millis(offset_ms.max(0) as u64);
        meta.last_modified -= std::time::Duration::from_millis((-offset_ms).max(0) as u64);
        meta
    }
}

#[async_trait]
impl ObjectStore for TimedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let done = self.inner.put_opts(location, payload, opts).await?;
        self.written.lock().expect("not poisoned").insert(location.clone(), self.now_unix_ms());
        Ok(done)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unimplemented!("the repository does not use it")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.inner.get_opts(location, options).await?;
        found.meta = self.retimed(found.meta);
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        self.inner.list(prefix).map(move |meta| meta.map(|meta| this.retimed(meta))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.inner.list_with_delimiter(prefix).await?;
        found.objects = found.objects.into_iter().map(|meta| self.retimed(meta)).collect();
        Ok(found)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unimplemented!("the repository does not use it")
    }
}

impl fmt::Display for TimedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timed({})", self.inner)
    }
}

impl fmt::Debug for TimedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
