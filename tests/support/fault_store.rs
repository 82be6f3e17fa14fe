//! An object store that fails on purpose: at the k-th operation, or at random from a seed.
//!
//! It also records what was asked, and can hold an operation at a gate until the test lets it go.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cuttle::store::StatusError;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

/// What goes wrong. Where a fault makes no sense for an operation, a broken connection takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused with this status; nothing happened.
    Status(u16),
    /// No answer; a write did not land.
    TimeoutBefore,
    /// No answer; a write landed.
    TimeoutAfter,
    /// A get's body ends in the middle.
    CutBody,
    /// A create is told that the object exists, though nothing landed.
    FalseExists,
    /// A get is answered with a web page.
    Page,
    /// A head finds an object of no bytes where there is none: as a web page that is served whatever is asked.
    FalseFound,
}

/// All of them.
pub const FAULTS: [Fault; 7] = [
    Fault::Status(500),
    Fault::Status(503),
    Fault::Status(429),
    Fault::TimeoutBefore,
    Fault::TimeoutAfter,
    Fault::CutBody,
    Fault::FalseExists,
];

/// What was asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpKind {
    Create,
    Put,
    Get,
    Head,
    List,
    Delete,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    pub kind: OpKind,
    pub key: String,
}

/// How a store that takes new objects only answers a create that finds one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// That it exists, as S3 with conditions in its policy.
    Exists,
    /// That it may not be replaced, as stores that look at permissions first.
    Denied,
}

type Matcher = Box<dyn Fn(&Op) -> bool + Send>;

/// Picks objects by name.
type NameTest = dyn Fn(&str) -> bool + Send + Sync;

/// Wraps a store; clones share everything.
#[derive(Clone)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    ops: Vec<Op>,
    at: BTreeMap<usize, Fault>,
    /// From this operation on all fail.
    from: Option<(usize, Fault)>,
    /// This operation fails, and so does every later one of its kind and key.
    stuck_at: Option<(usize, Fault)>,
    stuck: Option<(Op, Fault)>,
    always: Option<Fault>,
    always_for: Vec<(Matcher, Fault)>,
    /// State of the generator, and how many operations there are to one fault.
    random: Option<(u64, u64)>,
    /// Keys that listings do not show.
    hidden: Option<Arc<NameTest>>,
    append_only: Option<Known>,
    /// When everything was written, as listings and heads have it.
    times_unix_ms: Option<i64>,
    /// After so many operations the store is full.
    full_after: Option<usize>,
    /// Most bytes and objects that there may be.
    quota: Option<(u64, usize)>,
    ignores_conditions: bool,
    gates: Vec<(Matcher, watch::Sender<bool>, watch::Receiver<bool>)>,
}

/// Holds the first operation that matches.
pub struct Gate {
    reached: watch::Receiver<bool>,
    open: watch::Sender<bool>,
}

impl Gate {
    /// Returns when an operation waits at the gate.
    pub async fn reached(&mut self) {
        self.reached.wait_for(|reached| *reached).await.expect("the store lives");
    }

    /// Lets it go.
    pub fn open(self) {
        self.open.send(true).expect("the operation still waits");
    }
}

/// Holds the `k`-th request from now on.
pub fn gate_at(faults: &FaultStore, k: usize) -> Gate {
    let seen = AtomicUsize::new(0);
    faults.gate(move |_| seen.fetch_add(1, Ordering::Relaxed) == k)
}

/// Does something, and something else while it waits at a gate. Whether it came to the gate is told.
pub async fn held<T: fmt::Debug>(
    work: impl Future<Output = T>,
    mut gate: Gate,
    meanwhile: impl Future<Output = ()>,
) -> (T, bool) {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return (done, false),
        () = gate.reached() => {}
    }
    tokio::pin!(meanwhile);
    // The held one goes on with whatever does not need the request.
    tokio::select! {
        biased;
        done = &mut work => panic!("it ended at a closed gate: {done:?}"),
        () = &mut meanwhile => {}
    }
    gate.open();
    (work.await, true)
}

impl FaultStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, state: Arc::default() }
    }

    /// Fails the `k`-th operation from now on, counted from 0 since the store was made.
    pub fn fail_at(&self, k: usize, fault: Fault) {
        self.lock().at.insert(k, fault);
    }

    /// Fails the `k`-th operation and all that follow: the client is cut off.
    pub fn fail_from(&self, k: usize, fault: Fault) {
        self.lock().from = Some((k, fault));
    }

    /// Fails the `k`-th operation however often it is tried again, and no other.
    pub fn fail_for_good_at(&self, k: usize, fault: Fault) {
        self.lock().stuck_at = Some((k, fault));
    }

    /// Fails every operation.
    pub fn fail_always(&self, fault: Option<Fault>) {
        self.lock().always = fault;
    }

    /// Fails every operation that matches.
    pub fn fail_always_for(&self, matches: impl Fn(&Op) -> bool + Send + 'static, fault: Fault) {
        self.lock().always_for.push((Box::new(matches), fault));
    }

    /// Fails about one in `one_in` operations, each with one of [`FAULTS`], both chosen by the seed.
    pub fn fail_at_random(&self, seed: u64, one_in: u64) {
        self.lock().random = Some((seed, one_in));
    }

    /// Leaves out of listings what matches, though it is there: as a store whose listings are behind.
    pub fn hide_from_listings(&self, matches: impl Fn(&str) -> bool + Send + Sync + 'static) {
        self.lock().hidden = Some(Arc::new(matches));
    }

    /// From now on new objects can be created, and none replaced or deleted.
    pub fn append_only(&self, known: Known) {
        self.lock().append_only = Some(known);
    }

    /// Whether credentials that may only add objects are refused this write.
    async fn refuses(&self, kind: OpKind, location: &Path) -> bool {
        let append_only = self.lock().append_only;
        match (append_only, kind) {
            (None, _) => false,
            (Some(_), OpKind::Put | OpKind::Delete) => true,
            (Some(known), _) => known == Known::Denied && self.inner.head(location).await.is_ok(),
        }
    }

    /// Says of everything that it was written at this time: as after a copy, or by a clock that is wrong.
    pub fn reset_times(&self, unix_ms: i64) {
        self.lock().times_unix_ms = Some(unix_ms);
    }

    /// What is there after so many operations more is all that there is room for: bytes, and objects.
    pub fn full_after(&self, ops: usize) {
        let mut state = self.lock();
        state.full_after = Some(state.ops.len() + ops);
    }

    /// Whether there is no room for an object.
    async fn is_full(&self, size_bytes: u64) -> bool {
        let full = {
            let state = self.lock();
            state.full_after.is_some_and(|after| state.ops.len() >= after)
        };
        if !full {
            return false;
        }
        let listed: Vec<ObjectMeta> =
            self.inner.list(None).filter_map(|m| std::future::ready(m.ok())).collect().await;
        let used = (listed.iter().map(|meta| meta.size).sum::<u64>(), listed.len());
        let quota = *self.lock().quota.get_or_insert(used);
        used.0 + size_bytes > quota.0 || used.1 + 1 > quota.1
    }

    /// Behaves as stores do that know no conditions: a create overwrites.
    pub fn ignore_conditions(&self) {
        self.lock().ignores_conditions = true;
    }

    /// Holds the first operation from now on that matches.
    pub fn gate(&self, matches: impl Fn(&Op) -> bool + Send + 'static) -> Gate {
        let (reached_tx, reached) = watch::channel(false);
        let (open, open_rx) = watch::channel(false);
        self.lock().gates.push((Box::new(matches), reached_tx, open_rx));
        Gate { reached, open }
    }

    /// What was asked so far.
    pub fn ops(&self) -> Vec<Op> {
        self.lock().ops.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this lock")
    }

    /// Records an operation, waits at its gate, and tells what shall go wrong.
    async fn enter(&self, kind: OpKind, key: &str) -> Option<Fault> {
        let (fault, gate) = {
            let mut state = self.lock();
            let op = Op { kind, key: key.to_owned() };
            let k = state.ops.len();
            let position = state.gates.iter().position(|(matches, _, _)| matches(&op));
            let gate = position.map(|i| state.gates.remove(i));
            let fault = state.fault(k, &op);
            state.ops.push(op);
            (fault, gate)
        };
        if let Some((_, reached, mut open)) = gate {
            let _ = reached.send(true);
            let _ = open.wait_for(|open| *open).await;
        }
        fault
    }
}

impl State {
    fn fault(&mut self, k: usize, op: &Op) -> Option<Fault> {
        if self.always.is_some() {
            return self.always;
        }
        if let Some((_, fault)) = self.always_for.iter().find(|(matches, _)| matches(op)) {
            return Some(*fault);
        }
        if let Some(fault) = self.at.remove(&k) {
            return Some(fault);
        }
        if let Some((_, fault)) = self.from.filter(|(from, _)| k >= *from) {
            return Some(fault);
        }
        if let Some((_, fault)) = self.stuck_at.take_if(|(at, _)| *at == k) {
            self.stuck = Some((op.clone(), fault));
        }
        if let Some((_, fault)) = self.stuck.as_ref().filter(|(stuck, _)| stuck == op) {
            return Some(*fault);
        }
        let (state, one_in) = self.random.as_mut()?;
        let drawn = split_mix_64(state);
        drawn.is_multiple_of(*one_in).then(|| FAULTS[(drawn / *one_in) as usize % FAULTS.len()])
    }
}

/// A small generator with known output (SplitMix64).
pub fn split_mix_64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn error(fault: Fault) -> Error {
    let source = match fault {
        Fault::Status(status) => HttpError::new(HttpErrorKind::Unknown, StatusError::new(status)),
        Fault::TimeoutBefore | Fault::TimeoutAfter => {
            HttpError::new(HttpErrorKind::Timeout, std::io::Error::from(std::io::ErrorKind::TimedOut))
        }
        Fault::CutBody | Fault::FalseExists | Fault::FalseFound | Fault::Page => HttpError::new(
            HttpErrorKind::Interrupted,
            std::io::Error::from(std::io::ErrorKind::ConnectionReset),
        ),
    };
    Error::Generic { store: "faulty", source: Box::new(source) }
}

fn retime(meta: &mut ObjectMeta, unix_ms: Option<i64>) {
    if let Some(unix_ms) = unix_ms {
        let off_ms = unix_ms - meta.last_modified.timestamp_millis();
        let off = std::time::Duration::from_millis(off_ms.unsigned_abs());
        match off_ms < 0 {
            true => meta.last_modified -= off,
            false => meta.last_modified += off,
        }
    }
}

/// An object of no bytes.
fn nothing_at(location: &Path) -> GetResult {
    let meta = ObjectMeta {
        location: location.clone(),
        last_modified: Default::default(),
        size: 0,
        e_tag: None,
        version: None,
    };
    let payload = GetResultPayload::Stream(stream::empty().boxed());
    GetResult { payload, meta, range: 0..0, attributes: Default::default(), extensions: Default::default() }
}

/// A web page, where there is something.
fn page_at(found: GetResult) -> GetResult {
    let page = Bytes::from_static(b"<!DOCTYPE html><html><title>Please log in</title></html>");
    let (mut meta, range) = (found.meta, 0..page.len() as u64);
    meta.size = range.end;
    let payload = GetResultPayload::Stream(stream::iter([Ok(page)]).boxed());
    GetResult { payload, meta, range, attributes: found.attributes, extensions: found.extensions }
}

/// Half of a body, then its end.
async fn cut(result: GetResult) -> Result<GetResult> {
    let (meta, range) = (result.meta.clone(), result.range.clone());
    let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
    let bytes: Bytes = result.bytes().await?;
    let half = bytes.slice(..bytes.len() / 2);
    let payload = GetResultPayload::Stream(stream::iter([Ok(half)]).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let mut opts = opts;
        let create = opts.mode == PutMode::Create;
        if self.lock().ignores_conditions {
            opts.mode = PutMode::Overwrite;
        }
        let kind = if create { OpKind::Create } else { OpKind::Put };
        if self.refuses(kind, location).await {
            self.enter(kind, location.as_ref()).await;
            return Err(error(Fault::Status(403)));
        }
        if self.is_full(payload.content_length() as u64).await {
            self.enter(kind, location.as_ref()).await;
            return Err(error(Fault::Status(507)));
        }
        match self.enter(kind, location.as_ref()).await {
            None => self.inner.put_opts(location, payload, opts).await,
            Some(Fault::TimeoutAfter) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(error(Fault::TimeoutAfter))
            }
            Some(Fault::FalseExists) if create => {
                Err(Error::AlreadyExists { path: location.to_string(), source: "on purpose".into() })
            }
            Some(fault) => Err(error(fault)),
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unimplemented!("the repository does not use it")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let kind = if head { OpKind::Head } else { OpKind::Get };
        match self.enter(kind, location.as_ref()).await {
            None => {
                let mut found = self.inner.get_opts(location, options).await?;
                let times = self.lock().times_unix_ms;
                retime(&mut found.meta, times);
                Ok(found)
            }
            Some(Fault::CutBody) if !head => match self.inner.get_opts(location, options).await {
                Ok(result) => cut(result).await,
                Err(_) => Err(error(Fault::CutBody)),
            },
            Some(Fault::Page) if !head => {
                // Whether there is anything or not.
                let found = self.inner.get_opts(location, GetOptions::default()).await;
                Ok(page_at(found.unwrap_or_else(|_| nothing_at(location))))
            }
            Some(Fault::FalseFound) if head => {
                let found = self.inner.get_opts(location, options).await;
                found.or_else(|_| Ok(nothing_at(location)))
            }
            Some(fault) => Err(error(fault)),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move {
                    let location = location?;
                    let fault = this.enter(OpKind::Delete, location.as_ref()).await;
                    if this.refuses(OpKind::Delete, &location).await {
                        return Err(error(Fault::Status(403)));
                    }
                    if matches!(fault, None | Some(Fault::TimeoutAfter)) {
                        this.inner.delete(&location).await?;
                    }
                    fault.map_or(Ok(location), |fault| Err(error(fault)))
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match self.enter(OpKind::List, prefix.map_or("", Path::as_ref)).await {
            None => self.inner.list_with_delimiter(prefix).await,
            Some(fault) => Err(error(fault)),
        }
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unimplemented!("the repository does not use it")
    }
}

impl FaultStore {
    fn shown(
        &self,
        listing: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (hidden, times) = {
            let state = self.lock();
            (state.hidden.clone(), state.times_unix_ms)
        };
        let listing = listing
            .map(move |found| {
                found.map(|mut meta| {
                    retime(&mut meta, times);
                    meta
                })
            })
            .boxed();
        let Some(hidden) = hidden else { return listing };
        let is_hidden =
            move |found: &Result<ObjectMeta>| found.as_ref().is_ok_and(|meta| hidden(meta.location.as_ref()));
        listing.filter(move |found| std::future::ready(!is_hidden(found))).boxed()
    }

    fn listing(
        &self,
        prefix: Option<&Path>,
        inner: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        let prefix = prefix.map_or(String::new(), ToString::to_string);
        let begin = async move {
            match this.enter(OpKind::List, &prefix).await {
                None => this.shown(inner),
                Some(fault) => stream::iter([Err(error(fault))]).boxed(),
            }
        };
        stream::once(begin).flatten().boxed()
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
