//! Volumes whose every chunk is one of a few contents, so that much is shared between them and comes back over time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use cuttle::source::{Changes, Content as Kind, Extent, FreezeRequest, Frozen, ReadAt, Volume};
use cuttle::volume::{Identity, ImageLayout, SnapshotPoint};
use cuttle::{Error, Result};

use crate::dice::Dice;
use crate::support::Numbers;
use crate::support::repo::CHUNK;

const C: u64 = CHUNK as u64;
/// Contents that a chunk may have besides zeros.
const FILLS: usize = 4;
/// Groups of contents that are much alike.
const FAMILIES_COUNT: usize = 2;

/// What a volume holds: chunks that are not here are zero.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Content {
    pub size_bytes: u64,
    fills: BTreeMap<u64, u8>,
}

impl Content {
    /// The plaintext of a chunk, which may be short at the volume's end; `None` where it is zero.
    pub fn chunk(&self, index: u64) -> Option<Vec<u8>> {
        let fill = *self.fills.get(&index)?;
        let len = C.min(self.size_bytes - index * C) as usize;
        let mut plain = vec![0; len];
        fill_in(fill, 0, &mut plain);
        Some(plain)
    }
}

/// Bytes of a content from `at` on. Contents of one family differ in a few bytes only, so that deltas pay; none of them
/// compresses, and none is zero anywhere.
fn fill_in(fill: u8, at: usize, out: &mut [u8]) {
    static FAMILIES: OnceLock<[Vec<u8>; FAMILIES_COUNT]> = OnceLock::new();
    let families = FAMILIES.get_or_init(|| {
        [1, 2].map(|seed| Numbers::new(seed).bytes(C as usize).into_iter().map(|b| b | 1).collect())
    });
    let end = at + out.len();
    out.copy_from_slice(&families[usize::from(fill) % FAMILIES_COUNT][at..end]);
    let own = usize::from(fill) * 9;
    if (at..end).contains(&own) {
        out[own - at] ^= 0x54;
    }
}

pub struct SimVolume {
    name: String,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    content: Arc<Content>,
    snapshots: Vec<(SnapshotPoint, Arc<Content>)>,
    next_id: u64,
    /// By snapshot name, also when the snapshot is gone.
    frozen: BTreeMap<String, Arc<Content>>,
}

impl SimVolume {
    pub fn new(name: &str, dice: &mut Dice) -> Arc<Self> {
        // Now and then one with more than a page of chunks.
        let far = if dice.one_in(12) { 1023 } else { 0 };
        let chunks = far + 1 + dice.below(4) as u64;
        let tail = dice.pick(&[C, C, 100]);
        let content = Content { size_bytes: (chunks - 1) * C + tail, fills: BTreeMap::new() };
        let inner =
            Inner { content: Arc::new(content), snapshots: Vec::new(), next_id: 1, frozen: BTreeMap::new() };
        let volume = Arc::new(Self { name: name.to_owned(), inner: Arc::new(Mutex::new(inner)) });
        for _ in 0..4 {
            volume.edit(dice);
        }
        volume
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("not poisoned")
    }

    /// Writes a chunk, or grows and shrinks.
    pub fn edit(&self, dice: &mut Dice) {
        let mut inner = self.inner();
        let mut content = (*inner.content).clone();
        if dice.one_in(10) {
            content.size_bytes = (content.size_bytes + C * dice.below(3) as u64).saturating_sub(C).max(1);
            let chunks = content.size_bytes.div_ceil(C);
            content.fills.retain(|index, _| *index < chunks);
        }
        let chunks = content.size_bytes.div_ceil(C);
        // Near the beginning or the end, where there are pages.
        let index = match dice.below(2) {
            0 => dice.below(chunks.min(4) as usize) as u64,
            _ => chunks - 1 - dice.below(chunks.min(4) as usize) as u64,
        };
        match dice.below(FILLS + 1) {
            0 => content.fills.remove(&index),
            fill => content.fills.insert(index, fill as u8),
        };
        inner.content = Arc::new(content);
    }

    /// What was frozen under a snapshot's name.
    pub fn frozen(&self, snapshot: &str) -> Option<Arc<Content>> {
        self.inner().frozen.get(snapshot).cloned()
    }
}

impl Volume for SimVolume {
    fn identity(&self) -> Result<Identity> {
        Ok(Identity::Rbd {
            cluster_fsid: "fsid".into(),
            pool: "pool".into(),
            namespace: String::new(),
            image: self.name.clone(),
            image_id: self.name.clone(),
        })
    }

    fn freeze(&self, request: &FreezeRequest) -> Result<Box<dyn Frozen>> {
        let mut inner = self.inner();
        let point = SnapshotPoint {
            name: request.own_name.clone(),
            rbd_snap_id: inner.next_id,
            own: true,
            made: None,
            objects: Default::default(),
        };
        inner.next_id += 1;
        let content = Arc::clone(&inner.content);
        inner.snapshots.push((point.clone(), Arc::clone(&content)));
        inner.frozen.insert(point.name.clone(), Arc::clone(&content));
        let id = request.parent.as_ref().map(|p| p.rbd_snap_id);
        let base = inner.snapshots.iter().find(|(p, _)| Some(p.rbd_snap_id) == id);
        let base = base.map(|(_, content)| Arc::clone(content));
        let prefix = request.own_prefix.clone();
        Ok(Box::new(FrozenVolume { inner: Arc::clone(&self.inner), point, content, base, prefix }))
    }
}

struct FrozenVolume {
    inner: Arc<Mutex<Inner>>,
    point: SnapshotPoint,
    content: Arc<Content>,
    base: Option<Arc<Content>>,
    prefix: String,
}

impl FrozenVolume {
    fn keep(&self, keep: impl Fn(&SnapshotPoint) -> bool) {
        self.inner.lock().expect("not poisoned").snapshots.retain(|(p, _)| keep(p));
    }
}

impl Frozen for FrozenVolume {
    fn layout(&self) -> ImageLayout {
        ImageLayout::default()
    }

    fn point(&self) -> Option<SnapshotPoint> {
        Some(self.point.clone())
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        Arc::new(Reader(Arc::clone(&self.content)))
    }

    fn changes(&self) -> Result<Changes> {
        let now = &self.content;
        let extent = |index: u64, fill: Option<&u8>| Extent {
            offset_bytes: index * C,
            length_bytes: C.min(now.size_bytes - index * C),
            content: if fill.is_some() { Kind::Data } else { Kind::Zero },
        };
        let Some(base) = &self.base else {
            return Ok(Changes::All(
                now.fills.iter().map(|(index, fill)| extent(*index, Some(fill))).collect(),
            ));
        };
        let within = |index: &&u64| **index * C < now.size_bytes;
        let mut indexes: Vec<u64> =
            now.fills.keys().chain(base.fills.keys()).filter(within).copied().collect();
        indexes.sort_unstable();
        indexes.dedup();
        indexes.retain(|index| now.chunk(*index) != base.chunk(*index));
        Ok(Changes::Since(indexes.into_iter().map(|index| extent(index, now.fills.get(&index))).collect()))
    }

    fn base_reader(&self) -> Option<Arc<dyn ReadAt>> {
        self.base.as_ref().map(|base| Arc::new(Reader(Arc::clone(base))) as Arc<dyn ReadAt>)
    }

    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn committed(&self) -> Result<()> {
        self.keep(|p| !p.name.starts_with(&self.prefix) || p.rbd_snap_id >= self.point.rbd_snap_id);
        Ok(())
    }

    fn discard(&self) -> Result<()> {
        self.keep(|p| p.rbd_snap_id != self.point.rbd_snap_id);
        Ok(())
    }
}

struct Reader(Arc<Content>);

impl ReadAt for Reader {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<()> {
        if offset_bytes + buf.len() as u64 > self.0.size_bytes {
            return Err(Error::invalid("past the end"));
        }
        let mut at = offset_bytes;
        let mut rest = buf;
        while !rest.is_empty() {
            let within = at % C;
            let (piece, behind) = rest.split_at_mut(rest.len().min((C - within) as usize));
            match self.0.fills.get(&(at / C)) {
                Some(fill) => fill_in(*fill, within as usize, piece),
                None => piece.fill(0),
            }
            at += piece.len() as u64;
            rest = behind;
        }
        Ok(())
    }
}
