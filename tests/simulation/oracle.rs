//! Judges every change to the store, from its true state and the format alone: what must hold after each step.
//!
//! - A live snapshot is fully readable and holds what its source held when it was frozen.
//! - A sequence has one outcome, for good; a forgotten one never comes back.
//! - What a backup was told to be committed is live until it is forgotten, and nothing else is live.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use cuttle::codec::{self, Base};
use cuttle::format::bundle::split;
use cuttle::format::gc::DoneRecord;
use cuttle::format::page::{ObjectRef, Page, PageRef, count_of_page};
use cuttle::format::record::{EndRecord, ForgetRecord, OpenRecord, Outcome, Snapshot, VolumeRecord};
use cuttle::format::{ObjectName, ObjectType};
use cuttle::units::{ChunkId, Generation, Sequence, VolumeNumber};
use cuttle::volume::Identity;

use crate::objects::Objects;
use crate::store::{Actor, Request};
use crate::support::by_hand::ByHand;
use crate::volume::{Content, SimVolume};

/// A volume's number and a sequence.
pub type Session = (u32, u32);

type Judged<T> = Result<T, String>;

/// Objects that are planted in a world at most.
pub const PLANTED_MAX: u32 = 12;

pub struct Oracle {
    hand: Arc<ByHand>,
    volumes: Vec<Arc<SimVolume>>,
    /// Live snapshots, with the names of all objects that they need.
    live: BTreeMap<Session, BTreeSet<String>>,
    /// How many live snapshots need an object.
    needed: HashMap<String, usize>,
    /// Who opened a session.
    pub opened: BTreeMap<Session, Actor>,
    ended: BTreeMap<Session, Bytes>,
    forgotten: BTreeSet<Session>,
    pages: HashMap<String, Arc<Page>>,
    chunks: HashMap<String, (ChunkId, Arc<Vec<u8>>)>,
    /// The first thing that went wrong.
    pub violation: Option<String>,
}

impl Oracle {
    pub fn new(hand: Arc<ByHand>, volumes: Vec<Arc<SimVolume>>) -> Self {
        Self {
            hand,
            volumes,
            live: BTreeMap::new(),
            needed: HashMap::new(),
            opened: BTreeMap::new(),
            ended: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            pages: HashMap::new(),
            chunks: HashMap::new(),
            violation: None,
        }
    }

    pub fn is_live(&self, session: &Session) -> bool {
        self.live.contains_key(session)
    }

    pub fn is_forgotten(&self, session: &Session) -> bool {
        self.forgotten.contains(session)
    }

    pub fn live(&self) -> impl Iterator<Item = Session> {
        self.live.keys().copied()
    }

    /// Chunks and pages that no live snapshot needs.
    pub fn unreferenced<'a>(&'a self, objects: &'a Objects) -> impl Iterator<Item = &'a str> {
        let content = |name: &&str| {
            matches!(ObjectName::parse(name), Some(ObjectName::Chunk(..) | ObjectName::Page(..)))
        };
        objects.names().filter(content).filter(|name| !self.needed.contains_key(*name))
    }

    /// Registered, and without an outcome.
    pub fn is_open(&self, session: &Session) -> bool {
        self.opened.contains_key(session) && !self.ended.contains_key(session)
    }

    /// The number of a volume in the catalog, 0 for none.
    pub fn number_of(&self, volume: &str, objects: &Objects) -> u32 {
        let holds = |number: &u32| {
            let name = ObjectName::Volume(self.hand.project.clone(), VolumeNumber(*number));
            let object = objects.get(&name.to_string());
            let record = |o: &crate::objects::Object| {
                self.hand.at(&name, |place| codec::open_record::<VolumeRecord>(place, &o.bytes)).ok()
            };
            object.and_then(record).is_some_and(|record| record.name == volume)
        };
        // Planted entries take numbers, too.
        (1..=self.volumes.len() as u32 + PLANTED_MAX).find(holds).unwrap_or(0)
    }

    /// A `.forget` as whoever has the keys would make it.
    pub fn forged_forget(&self, objects: &Objects, (n, s): Session) -> Option<Bytes> {
        let (project, n, s) = (self.hand.project.clone(), VolumeNumber(n), Sequence(s));
        let open = ObjectName::Open(project.clone(), n, s);
        let opened = objects.get(&open.to_string())?;
        let record: OpenRecord =
            self.hand.at(&open, |place| codec::open_record(place, &opened.bytes)).ok()?;
        let forget = ForgetRecord { snapshot_id: record.snapshot_id, host: String::new(), at_unix_ms: 0 };
        let name = ObjectName::Forget(project, n, s);
        let sealed = self.hand.at(&name, |place| codec::seal_record(place, &forget)).ok()?;
        Some(sealed.bytes().clone())
    }

    /// The same of a round's end.
    pub fn forged_done(&self, generation: Generation) -> Bytes {
        let name = ObjectName::GcDone(self.hand.project.clone(), generation);
        let done = DoneRecord { generation, last_seal: Generation(0) };
        let sealed = self.hand.at(&name, |place| codec::seal_record(place, &done));
        sealed.expect("sealed").bytes().clone()
    }

    pub fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// An object was created or overwritten.
    pub fn written(&mut self, objects: &Objects, request: &Request, before: Option<Bytes>) {
        let name = &request.name;
        self.pages.remove(name);
        self.chunks.remove(name);
        let now = objects.get(name).map(|o| o.bytes.clone()).unwrap_or_default();
        if before.is_some_and(|before| before != now) {
            self.violated(format!("{name} was overwritten by actor {}", request.actor));
        }
        match ObjectName::parse(name) {
            Some(ObjectName::Open(_, n, s)) => {
                self.opened.insert((n.0, s.0), request.actor);
            }
            Some(ObjectName::End(_, n, s)) => {
                if let Err(what) = self.ended(objects, (n.0, s.0), now) {
                    self.violated(format!("{name}: {what}"));
                }
            }
            Some(ObjectName::Forget(_, n, s)) => {
                self.forgotten.insert((n.0, s.0));
                self.no_longer_live(&(n.0, s.0));
            }
            _ => {}
        }
    }

    /// An object was deleted.
    pub fn deleted(&mut self, objects: &Objects, name: &str) {
        if let Some(count) = self.needed.get(name) {
            self.violated(format!("{name} was deleted: {count} live snapshots need it"));
        }
        self.pages.remove(name);
        self.chunks.remove(name);
        let wrong = match ObjectName::parse(name) {
            Some(ObjectName::End(_, n, s)) => {
                let session = (n.0, s.0);
                let aborted = self.ended.get(&session).is_some_and(|end| !self.is_commit(session, end));
                aborted || self.is_live(&session)
            }
            // Of what is over nothing need stay but who lost.
            Some(ObjectName::Open(_, n, s) | ObjectName::Forget(_, n, s)) => {
                let session = (n.0, s.0);
                !self.is_forgotten(&session)
                    && self.ended.get(&session).is_none_or(|end| self.is_commit(session, end))
            }
            // A round that the next one's begin calls over.
            Some(ObjectName::GcDone(project, g)) => {
                let next = ObjectName::GcBegin(project, Generation(g.0 + 1));
                objects.get(&next.to_string()).is_none()
            }
            Some(name) => !matches!(
                name,
                ObjectName::Chunk(..)
                    | ObjectName::Page(..)
                    | ObjectName::Bundle(..)
                    | ObjectName::GcPart(..)
                    | ObjectName::Note(..)
                    | ObjectName::Alive(..)
                    | ObjectName::Lost(..)
            ),
            None => false,
        };
        if wrong {
            self.violated(format!("{name} was deleted"));
        }
    }

    fn end_record(&self, (n, s): Session, end: &[u8]) -> Judged<EndRecord> {
        let project = self.hand.project.clone();
        let name = ObjectName::End(project, VolumeNumber(n), Sequence(s));
        self.hand.at(&name, |place| codec::open_record(place, end)).map_err(|e| e.to_string())
    }

    fn is_commit(&self, session: Session, end: &[u8]) -> bool {
        self.end_record(session, end).is_ok_and(|end| matches!(end.outcome, Outcome::Committed(_)))
    }

    fn ended(&mut self, objects: &Objects, session: Session, end: Bytes) -> Judged<()> {
        // Of a forgotten one the outcome may be gone, and another one, too late, may come: it means nothing.
        if self.is_forgotten(&session) {
            return Ok(());
        }
        let before = self.ended.insert(session, end.clone());
        if before.is_some_and(|before| before != end) {
            return Err("a second outcome".to_owned());
        }
        let Outcome::Committed(snapshot) = self.end_record(session, &end)?.outcome else { return Ok(()) };
        if self.is_live(&session) {
            return Ok(());
        }
        let needed = self.needs(objects, &snapshot)?;
        for name in &needed {
            *self.needed.entry(name.clone()).or_default() += 1;
        }
        self.live.insert(session, needed);
        Ok(())
    }

    fn no_longer_live(&mut self, session: &Session) {
        for name in self.live.remove(session).unwrap_or_default() {
            if let Some(count) = self.needed.get_mut(&name) {
                *count -= 1;
                if *count == 0 {
                    self.needed.remove(&name);
                }
            }
        }
    }

    /// Reads all of a snapshot, compares it with what its source held, and returns the objects that it needs.
    fn needs(&mut self, objects: &Objects, snapshot: &Snapshot) -> Judged<BTreeSet<String>> {
        let content = self.frozen(snapshot)?;
        let geometry = snapshot.geometry().map_err(|e| e.to_string())?;
        if geometry.size_bytes != content.size_bytes {
            return Err(format!("{} bytes, its source had {}", geometry.size_bytes, content.size_bytes));
        }
        let chunks = geometry.chunk_count();
        let mut needed = BTreeSet::new();
        let mut level = vec![Arc::new(snapshot.root_page().map_err(|e| e.to_string())?)];
        for below in (0..level[0].level).rev() {
            let mut pages = Vec::new();
            let above: Vec<PageRef> = level.iter().flat_map(|page| page.refs.iter().cloned()).collect();
            for (number, page_ref) in above.iter().enumerate() {
                let count = count_of_page(chunks, below, number as u64);
                pages.push(match page_ref.object() {
                    None => Arc::new(Page::zero(below, count)),
                    Some(object) => {
                        let name = ObjectName::Page(self.hand.project.clone(), object.name);
                        needed.insert(name.to_string());
                        self.page(objects, &name, object.sealed_len_bytes, below, count)?
                    }
                });
            }
            level = pages;
        }
        let refs: Vec<PageRef> = level.iter().flat_map(|page| page.refs.iter().cloned()).collect();
        for (index, chunk) in refs.iter().enumerate() {
            let expected = content.chunk(index as u64);
            let found = self.chunk(objects, chunk, &mut needed).map_err(|e| format!("chunk {index}: {e}"))?;
            if found.as_deref() != expected.as_ref() {
                return Err(format!("chunk {index} holds something else than its source"));
            }
        }
        Ok(needed)
    }

    /// What the source held when the backup froze it.
    fn frozen(&self, snapshot: &Snapshot) -> Judged<Arc<Content>> {
        let Identity::Rbd { image, .. } = &snapshot.identity else { return Err("no image".to_owned()) };
        let point = snapshot.point.as_ref().ok_or("no point")?;
        let volume = self.volumes.iter().find(|v| v.name() == image).ok_or("no such volume")?;
        volume.frozen(&point.name).ok_or_else(|| format!("{} was never frozen", point.name))
    }

    fn page(
        &mut self,
        objects: &Objects,
        name: &ObjectName,
        len_bytes: u32,
        level: u8,
        count: usize,
    ) -> Judged<Arc<Page>> {
        let key = name.to_string();
        if let Some(page) = self.pages.get(&key) {
            return Ok(Arc::clone(page));
        }
        let object = objects.get(&key).ok_or_else(|| format!("{key} is missing"))?;
        if object.bytes.len() != len_bytes as usize {
            return Err(format!("{key} has {} bytes, not {len_bytes}", object.bytes.len()));
        }
        let (mut plain, max) = (Vec::new(), ObjectType::Page.plain_len_bytes_max());
        self.hand
            .at(name, |place| codec::open(place, &object.bytes, None, max, &mut plain))
            .map_err(|e| format!("{key}: {e}"))?;
        let page = Arc::new(Page::decode(&plain, level, count).map_err(|e| format!("{key}: {e}"))?);
        self.pages.insert(key, Arc::clone(&page));
        Ok(page)
    }

    /// A chunk's plaintext, decoded from the full object at the end of its closure upwards.
    fn chunk(
        &mut self,
        objects: &Objects,
        chunk: &PageRef,
        needed: &mut BTreeSet<String>,
    ) -> Judged<Option<Arc<Vec<u8>>>> {
        let all: Vec<_> = chunk.objects().copied().collect();
        let mut below: Option<(ChunkId, Arc<Vec<u8>>)> = None;
        for (depth, object) in all.iter().rev().enumerate() {
            let key = self.hand.object_name(object.name).to_string();
            needed.insert(key.clone());
            let label = format!("{key} {:?}", object.name.offset_bytes);
            let found = match self.chunks.get(&label) {
                Some(found) => found.clone(),
                None => {
                    let base = below.as_ref().map(|(_, plain)| Base { depth: depth as u8, plain });
                    let found = self.decode(objects, object, base).map_err(|e| format!("{label}: {e}"))?;
                    self.chunks.insert(label, found.clone());
                    found
                }
            };
            below = Some(found);
        }
        let Some((found, plain)) = below else { return Ok(None) };
        match chunk.id() == Some(found) {
            true => Ok(Some(plain)),
            false => Err(format!("chunk {found} stands where its manifest says {:?}", chunk.id())),
        }
    }

    /// An object or piece with what it comes to.
    fn decode(
        &self,
        objects: &Objects,
        object: &ObjectRef,
        base: Option<Base<'_>>,
    ) -> Judged<(ChunkId, Arc<Vec<u8>>)> {
        let key = self.hand.object_name(object.name).to_string();
        let bytes = &objects.get(&key).ok_or("it is missing")?.bytes;
        let len = object.sealed_len_bytes as usize;
        let (id, name, sealed) = match object.name.offset_bytes {
            None if bytes.len() != len => return Err(format!("it has {} bytes", bytes.len())),
            None => (object.name.id, self.hand.chunk_name(object.name), &bytes[..]),
            Some(offset) => {
                let piece =
                    bytes.get(offset as usize..offset as usize + len).ok_or("its bundle is too short")?;
                let (id, sealed) = split(piece).map_err(|e| e.to_string())?;
                (id, ObjectName::Piece(self.hand.project.clone(), id), sealed)
            }
        };
        let mut plain = Vec::new();
        self.hand
            .at(&name, |place| codec::open(place, sealed, base, 1 << 16, &mut plain))
            .map_err(|e| e.to_string())?;
        match self.hand.chunk_id(&plain) == id {
            true => Ok((id, Arc::new(plain))),
            false => Err("its content has another id".to_owned()),
        }
    }
}
