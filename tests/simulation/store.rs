//! The simulated store: every request waits until the schedule serves it, and goes wrong as the schedule says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use cuttle::store::StatusError;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::oneshot;

use crate::lies::Lie;
use crate::log::Log;
use crate::objects::{Object, Objects};
use crate::oracle::{Oracle, Session};

/// The store's clock when a simulation begins.
const BEGIN_UNIX_MS: u64 = 1_800_000_000_000;
/// Requests after which a world that does not come to rest is a finding: thirty times what the longest takes.
const REQUESTS_MAX: u64 = 50_000;
/// Deletes of one stream that are under way at once.
const DELETES_INFLIGHT: usize = 4;

/// Whoever asks: one process on one host.
pub type Actor = usize;

#[derive(Clone, Debug)]
pub enum Op {
    Create(Bytes),
    Put(Bytes),
    Get(Option<GetRange>),
    Head,
    /// Objects below a prefix, after a name.
    List(Option<String>),
    Delete,
    /// No request at all: its actor waits, at least so long.
    Nap(Duration),
}

impl Op {
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Put(_) | Self::Delete)
    }

    pub fn word(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Put(_) => "put",
            Self::Get(_) => "get",
            Self::Head => "head",
            Self::List(_) => "list",
            Self::Delete => "delete",
            Self::Nap(_) => "nap",
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Good,
    /// Refused with a status; nothing happened.
    Refused(u16),
    /// No answer, and it has not landed: it may yet.
    Lost,
    /// No answer, though it landed.
    Unheard,
    /// Answered, and a copy of it is still on its way.
    Twice,
    /// A body that ends in the middle.
    Cut,
    /// A listing that leaves out about one name in so many.
    Short(u64, usize),
    /// A listing as it was at an earlier moment.
    Stale(usize),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub id: u64,
    pub actor: Actor,
    pub name: String,
    pub op: Op,
}

pub enum Reply {
    Done,
    Got { bytes: Bytes, range: Range<u64>, meta: ObjectMeta },
    Listed(Vec<ObjectMeta>),
}

pub struct Waiting {
    pub request: Request,
    answer: oneshot::Sender<Result<Reply>>,
}

/// All of a simulated world that its store knows.
pub struct State {
    pub objects: Objects,
    pub oracle: Oracle,
    pub log: Log,
    pub lie: Option<Lie>,
    /// Asked and not answered, in the order of asking.
    pub waiting: Vec<Waiting>,
    /// Writes whose asker gave up, or whose copy is still on its way: they may land at any time, or never.
    pub late: Vec<Request>,
    /// Who prunes.
    pub pruners: BTreeSet<Actor>,
    /// When each backup first looked at the rounds, and the aborts that were told and not done: for lies.
    pub first_looks: BTreeMap<Actor, usize>,
    pub vanished: BTreeSet<Session>,
    requests: u64,
    begin: tokio::time::Instant,
}

#[derive(Clone)]
pub struct Sim(Arc<Mutex<State>>);

impl Sim {
    pub fn new(objects: Objects, oracle: Oracle, log: Log, lie: Option<Lie>) -> Self {
        let begin = tokio::time::Instant::now();
        Self(Arc::new(Mutex::new(State {
            objects,
            oracle,
            log,
            lie,
            waiting: Vec::new(),
            late: Vec::new(),
            pruners: BTreeSet::new(),
            first_looks: BTreeMap::new(),
            vanished: BTreeSet::new(),
            requests: 0,
            begin,
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }
}

impl State {
    /// By the store's clock.
    pub fn now_unix_ms(&self) -> u64 {
        BEGIN_UNIX_MS + self.begin.elapsed().as_millis() as u64
    }

    /// The number of a volume in the catalog.
    pub fn number_of(&self, volume: &str) -> u32 {
        self.oracle.number_of(volume, &self.objects)
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }

    fn submit(&mut self, actor: Actor, name: &str, op: Op) -> Request {
        self.requests += 1;
        Request { id: self.requests, actor, name: name.to_owned(), op }
    }

    /// Serves the request that waits at this place.
    pub fn serve(&mut self, at: usize, fate: Fate) {
        let Waiting { request, answer } = self.waiting.remove(at);
        let reply = self.perform(&request, fate);
        // Nobody may be there to hear it.
        let _ = answer.send(reply);
    }

    /// A write lands long after its asker gave it up.
    pub fn land(&mut self, at: usize, keep: bool) {
        let request = if keep { self.late[at].clone() } else { self.late.swap_remove(at) };
        let _ = self.apply(&request, "late");
    }

    fn perform(&mut self, request: &Request, fate: Fate) -> Result<Reply> {
        match fate {
            Fate::Good => self.apply(request, ""),
            Fate::Refused(status) => self.fail(request, "refused", StatusError::new(status)),
            Fate::Lost => {
                if request.op.is_write() {
                    self.late.push(request.clone());
                }
                self.time_out(request, "lost")
            }
            Fate::Unheard => {
                let _ = self.apply(request, "unheard");
                self.time_out(request, "unheard")
            }
            Fate::Twice => {
                self.late.push(request.clone());
                self.apply(request, "once of twice")
            }
            Fate::Cut => match self.apply(request, "cut")? {
                Reply::Got { bytes, range, meta } => {
                    Ok(Reply::Got { bytes: bytes.slice(..bytes.len() / 2), range, meta })
                }
                other => Ok(other),
            },
            Fate::Short(seed, one_in) => {
                let mut dice = crate::dice::Dice::new(seed);
                match self.apply(request, "short")? {
                    Reply::Listed(mut all) => {
                        all.retain(|_| !dice.one_in(one_in));
                        Ok(Reply::Listed(all))
                    }
                    other => Ok(other),
                }
            }
            Fate::Stale(moment) => {
                self.log.line(request, "stale");
                Ok(Reply::Listed(self.listed(request, moment)))
            }
        }
    }

    fn fail(&mut self, request: &Request, word: &str, status: StatusError) -> Result<Reply> {
        self.log.line(request, word);
        Err(Error::Generic {
            store: "simulated",
            source: Box::new(HttpError::new(HttpErrorKind::Unknown, status)),
        })
    }

    fn time_out(&mut self, request: &Request, word: &str) -> Result<Reply> {
        self.log.line(request, word);
        let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
        Err(Error::Generic {
            store: "simulated",
            source: Box::new(HttpError::new(HttpErrorKind::Timeout, source)),
        })
    }

    /// What a store does that keeps its promises, unless the simulation has it lie.
    fn apply(&mut self, request: &Request, how: &str) -> Result<Reply> {
        let reply = self.lied(request).unwrap_or_else(|| self.honest(request));
        let word = match &reply {
            Ok(_) => "ok",
            Err(Error::NotFound { .. }) => "not found",
            Err(Error::AlreadyExists { .. }) => "exists",
            Err(_) => "failed",
        };
        self.log.outcome(request, how, word);
        reply
    }

    fn honest(&mut self, request: &Request) -> Result<Reply> {
        let name = &request.name;
        match &request.op {
            Op::Nap(_) => Ok(Reply::Done),
            Op::Create(bytes) => match self.objects.get(name) {
                Some(_) => Err(Error::AlreadyExists { path: name.clone(), source: "it is there".into() }),
                _ => self.write(request, bytes),
            },
            Op::Put(bytes) => self.write(request, bytes),
            Op::Delete => {
                if self.objects.delete(name) {
                    self.oracle.deleted(&self.objects, name);
                }
                Ok(Reply::Done)
            }
            Op::Get(range) => match self.objects.get(name) {
                Some(object) => {
                    let (object, len) = (object.clone(), object.bytes.len() as u64);
                    match range.as_ref().map_or(Ok(0..len), |r| r.as_range(len)) {
                        Ok(range) => Ok(Reply::Got {
                            bytes: object.bytes.slice(range.start as usize..range.end as usize),
                            range,
                            meta: meta(name, len, object.modified_unix_ms),
                        }),
                        Err(e) => Err(Error::Generic { store: "simulated", source: Box::new(e) }),
                    }
                }
                None => Err(not_found(name)),
            },
            Op::Head => match self.objects.get(name) {
                Some(object) => {
                    let (len, modified) = (object.bytes.len() as u64, object.modified_unix_ms);
                    Ok(Reply::Got { bytes: Bytes::new(), range: 0..len, meta: meta(name, len, modified) })
                }
                None => Err(not_found(name)),
            },
            Op::List(_) => Ok(Reply::Listed(self.listed(request, self.objects.moment()))),
        }
    }

    pub fn write(&mut self, request: &Request, bytes: &Bytes) -> Result<Reply> {
        let object = Object { bytes: bytes.clone(), modified_unix_ms: self.now_unix_ms() };
        let before = self.objects.get(&request.name).map(|o| o.bytes.clone());
        self.objects.put(&request.name, object);
        self.oracle.written(&self.objects, request, before);
        Ok(Reply::Done)
    }

    fn listed(&mut self, request: &Request, moment: usize) -> Vec<ObjectMeta> {
        self.lied_list(request, moment).unwrap_or_else(|| self.shown(request, moment))
    }

    /// What a listing shows that is as old as a moment.
    pub fn shown(&self, request: &Request, moment: usize) -> Vec<ObjectMeta> {
        let Op::List(after) = &request.op else { return Vec::new() };
        let listed = self.objects.listed(&request.name, moment);
        let follows = |name: &String| after.as_ref().is_none_or(|after| name > after);
        let listed = listed.into_iter().filter(|(name, _)| follows(name));
        listed.map(|(name, shown)| meta(&name, shown.size_bytes, shown.modified_unix_ms)).collect()
    }
}

pub fn meta(name: &str, size: u64, modified_unix_ms: u64) -> ObjectMeta {
    ObjectMeta {
        location: Path::from(name),
        last_modified: (UNIX_EPOCH + Duration::from_millis(modified_unix_ms)).into(),
        size,
        e_tag: None,
        version: None,
    }
}

pub fn not_found(name: &str) -> Error {
    Error::NotFound { path: name.to_owned(), source: "nothing is there".into() }
}

/// The store as one process sees it.
#[derive(Clone)]
pub struct Client {
    sim: Sim,
    actor: Actor,
    /// Whether requests wait for the schedule; else each is served at once.
    gated: Arc<AtomicBool>,
}

/// A request whose asker may go away.
struct Asked {
    sim: Sim,
    id: u64,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = self.sim.lock();
        if let Some(at) = state.waiting.iter().position(|w| w.request.id == self.id) {
            let Waiting { request, .. } = state.waiting.remove(at);
            state.log.line(&request, "given up");
            if request.op.is_write() {
                state.late.push(request);
            }
        }
    }
}

impl Client {
    pub fn new(sim: &Sim, actor: Actor, gated: bool) -> Self {
        Self { sim: sim.clone(), actor, gated: Arc::new(AtomicBool::new(gated)) }
    }

    pub fn gate(&self, gated: bool) {
        self.gated.store(gated, Ordering::Relaxed);
    }

    pub async fn nap(&self, at_least: Duration) {
        if self.gated.load(Ordering::Relaxed) {
            let _ = self.ask("", Op::Nap(at_least)).await;
        } else {
            tokio::time::advance(at_least).await;
        }
    }

    async fn ask(&self, name: &str, op: Op) -> Result<Reply> {
        let (answer, wait) = oneshot::channel();
        let _asked = {
            let mut state = self.sim.lock();
            let request = state.submit(self.actor, name, op);
            if state.requests > REQUESTS_MAX {
                // It is over for this world; nobody hears an answer.
                state.oracle.violated("the world does not come to rest".to_owned());
                drop(answer);
            } else if !self.gated.load(Ordering::Relaxed) {
                return state.perform(&request, Fate::Good);
            } else {
                state.waiting.push(Waiting { request: request.clone(), answer });
            }
            Asked { sim: self.sim.clone(), id: request.id }
        };
        match wait.await {
            Ok(reply) => reply,
            // The world has ended.
            Err(_) => std::future::pending().await,
        }
    }

    async fn list_all(&self, prefix: Option<&Path>, after: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let prefix = prefix.map_or(String::new(), |p| format!("{p}/"));
        match self.ask(&prefix, Op::List(after.map(ToString::to_string))).await? {
            Reply::Listed(all) => Ok(all),
            _ => Ok(Vec::new()),
        }
    }

    fn listing(&self, prefix: Option<&Path>, after: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix, after) = (self.clone(), prefix.cloned(), after.cloned());
        stream::once(async move {
            match this.list_all(prefix.as_ref(), after.as_ref()).await {
                Ok(all) => stream::iter(all.into_iter().map(Ok)).boxed(),
                Err(e) => stream::iter([Err(e)]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }
}

#[async_trait]
impl ObjectStore for Client {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes = Bytes::from(payload);
        let op = if opts.mode == PutMode::Create { Op::Create(bytes) } else { Op::Put(bytes) };
        self.ask(location.as_ref(), op).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unimplemented!("the repository does not use it")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let op = if options.head { Op::Head } else { Op::Get(options.range) };
        match self.ask(location.as_ref(), op).await? {
            Reply::Got { bytes, range, meta } => Ok(GetResult {
                payload: GetResultPayload::Stream(stream::iter([Ok(bytes)]).boxed()),
                meta,
                range,
                attributes: Default::default(),
                extensions: Default::default(),
            }),
            _ => Err(not_found(location.as_ref())),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .map(move |location| {
                let this = this.clone();
                async move {
                    let location = location?;
                    this.ask(location.as_ref(), Op::Delete).await?;
                    Ok(location)
                }
            })
            .buffered(DELETES_INFLIGHT)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let from = prefix.map_or(0, |p| p.as_ref().len() + 1);
        let (mut objects, mut common_prefixes) = (Vec::new(), Vec::new());
        for meta in self.list_all(prefix, None).await? {
            match meta.location.as_ref()[from..].split_once('/') {
                Some((first, _)) => {
                    let common = Path::from(format!("{}{first}", &meta.location.as_ref()[..from]));
                    if common_prefixes.last() != Some(&common) {
                        common_prefixes.push(common);
                    }
                }
                None => objects.push(meta),
            }
        }
        Ok(ListResult { common_prefixes, objects, extensions: Default::default() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unimplemented!("the repository does not use it")
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
