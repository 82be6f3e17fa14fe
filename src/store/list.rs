//! Listing. A list is a hint and a cross-check: never the proof that something is absent.

use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::error::{Error, Result};

use super::attempt::{Attempt, Patience, Shared, key_path};
use super::driven::driven;
use super::ledger::RequestKind;
use super::{ObjectInfo, Reader};

impl Reader {
    /// All objects below `prefix` whose key follows `after`, sorted by key.
    ///
    /// `prefix` is whole segments, with or without a slash at its end; empty is everything. More objects
    /// than [`Limits::list_objects_max`](super::Limits) are an error.
    pub async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>> {
        let objects_max = self.shared.limits.list_objects_max;
        let mut objects: Vec<ObjectInfo> =
            self.list_stream(prefix, after).take(objects_max + 1).try_collect().await?;
        if objects.len() > objects_max {
            return Err(Error::invalid(format!(
                "{}: expected at most {objects_max} objects, found more",
                self.shared.place(prefix.trim_end_matches('/'))
            )));
        }
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// As [`list`](Self::list), one by one in the store's own order: by key on object stores, not so in a
    /// local directory.
    pub fn list_stream(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> impl Stream<Item = Result<ObjectInfo>> + Send + use<> {
        let shared = self.shared.clone();
        let listing = Listing::new(prefix, after);
        stream::try_unfold((shared, listing), |(shared, listing)| async move {
            let mut listing = listing?;
            match listing.next(&shared).await? {
                Some(object) => Ok(Some((object, (shared, Ok(listing))))),
                None => Ok(None),
            }
        })
    }

    /// The names directly below `prefix` that have something below them, sorted, without their slash.
    pub async fn list_prefixes(&self, prefix: &str) -> Result<Vec<String>> {
        let (store, prefix) = (self.clone(), prefix.to_owned());
        driven(async move { store.list_prefixes_now(&prefix).await }).await
    }

    async fn list_prefixes_now(&self, prefix: &str) -> Result<Vec<String>> {
        let path = prefix_path(prefix)?;
        let shared = &*self.shared;
        // One timeout for all pages: the listing of one level is short.
        let attempt = || {
            let listing = shared.object_store.list_with_delimiter(path.as_ref());
            shared.within(shared.limits.stall_timeout, listing)
        };
        let listed = shared
            .repeat(RequestKind::List, attempt)
            .await
            .map_err(|fault| fault.into_error("list", &shared.place(prefix.trim_end_matches('/'))))?;
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }
}

/// A listing under way, which goes on after the last key it gave when it breaks.
struct Listing {
    prefix: Option<Path>,
    after: Option<Path>,
    last: Option<Path>,
    stream: Option<BoxStream<'static, object_store::Result<ObjectMeta>>>,
    /// The last key given tells where to go on: so far keys came in order, from a store that sorts them.
    resumable: bool,
    patience: Patience,
}

impl Listing {
    fn new(prefix: &str, after: Option<&str>) -> Result<Self> {
        Ok(Self {
            prefix: prefix_path(prefix)?,
            after: after.map(key_path).transpose()?,
            last: None,
            stream: None,
            resumable: true,
            patience: Patience::default(),
        })
    }

    async fn next(&mut self, shared: &Shared) -> Result<Option<ObjectInfo>> {
        loop {
            let fault = match self.step(shared).await {
                Ok(None) => return Ok(None),
                Ok(Some(meta)) => {
                    self.patience = Patience::default();
                    let info = ObjectInfo::from_meta(meta.location.to_string(), &meta);
                    let ascending = self.last.as_ref().is_none_or(|last| *last < meta.location);
                    self.resumable &= shared.counted_below && ascending;
                    self.last = Some(meta.location);
                    return Ok(Some(info));
                }
                Err(fault) => fault,
            };
            self.stream = None;
            let place = shared.place(self.prefix.as_ref().map_or("", Path::as_ref));
            if !self.resumable {
                return Err(fault.into_error("list", &place));
            }
            self.patience.wait(shared, fault).await.map_err(|fault| fault.into_error("list", &place))?;
        }
    }

    async fn step(&mut self, shared: &Shared) -> Attempt<Option<ObjectMeta>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.begin(shared),
        };
        loop {
            let next = async { stream.next().await.transpose() };
            let found = shared.observe(shared.within(shared.limits.stall_timeout, next).await);
            // Not every store leaves out the key to begin after.
            if let Ok(Some(meta)) = &found
                && self.after.as_ref().is_some_and(|after| meta.location <= *after)
            {
                continue;
            }
            self.stream = Some(stream);
            return found;
        }
    }

    fn begin(&self, shared: &Shared) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        if !shared.counted_below {
            shared.counters.request(RequestKind::List);
        }
        match self.last.as_ref().or(self.after.as_ref()) {
            None if self.prefix.is_none() && shared.local_dir.is_some() => everything(shared),
            Some(after) => shared.object_store.list_with_offset(self.prefix.as_ref(), after),
            None => shared.object_store.list(self.prefix.as_ref()),
        }
    }
}

/// All objects of a local directory. What cannot be part of a key is nobody's object: the `lost+found` of a file system, which
/// only root may read, would end the listing.
fn everything(shared: &Shared) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
    let failed =
        |e: std::io::Error| object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(e) };
    let dir = shared.local_dir.clone().unwrap_or_default();
    let names = std::fs::read_dir(dir).and_then(|entries| {
        let named =
            |entry: std::fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path().is_dir()));
        entries.map(|entry| entry.map(named)).collect::<std::io::Result<Vec<_>>>()
    });
    let names = match names {
        Ok(names) => names,
        Err(e) => return stream::iter([Err(failed(e))]).boxed(),
    };
    let store = shared.object_store.clone();
    let ours = names.into_iter().flatten().filter_map(|(name, is_dir)| Some((key_path(&name).ok()?, is_dir)));
    let below = move |(path, is_dir): (Path, bool)| match is_dir {
        true => store.list(Some(&path)),
        false => {
            let store = store.clone();
            stream::once(async move { store.head(&path).await }).boxed()
        }
    };
    stream::iter(ours).flat_map(below).boxed()
}

fn prefix_path(prefix: &str) -> Result<Option<Path>> {
    match prefix.trim_end_matches('/') {
        "" => Ok(None),
        prefix => key_path(prefix).map(Some),
    }
}
