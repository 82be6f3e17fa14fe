//! Objects that lie about lengths, counts and places end in an error at once and in little memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ALLOCATOR;
use crate::support::Numbers;
use crate::support::by_hand::{ByHand, get, names, put};
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, default, in_memory, init_with, options, reopen, secret, store,
};
use cuttle::cancel::Cancel;
use cuttle::codec::Place;
use cuttle::format::envelope::{HEADER_LEN_BYTES, Header, checksum};
use cuttle::format::gc::PartRef;
use cuttle::format::names::ContentName;
use cuttle::format::record::{EndRecord, Outcome};
use cuttle::format::{ObjectName, Record};
use cuttle::progress::Silent;
use cuttle::repo::{InitOptions, Keeper};
use cuttle::restore::{self, RestoreOptions};
use cuttle::sink::pipe::PipeSink;
use cuttle::units::{ChunkId, Generation, Sequence, VolumeNumber};
use cuttle::verify::{self, VerifyOptions};
use cuttle::{ErrorKind, Result};
use object_store::memory::InMemory;

const TIME_MAX: Duration = Duration::from_secs(1);
const MEMORY_BYTES_MAX: usize = 64 << 20;
const C: usize = CHUNK as usize;

/// What `cuttle snapshots`, `restore`, `verify --read-data` and the next `backup` make of a hurt repository.
async fn everything(objects: Arc<InMemory>, content: &[u8]) -> Result<()> {
    let project = reopen(objects).await?;
    let snapshot = project.volumes().snapshot("v").await?;
    let sink = Arc::new(PipeSink::new(std::io::sink(), snapshot.snapshot.size_bytes));
    let options = RestoreOptions { inflight_bytes: 32 << 20, ..RestoreOptions::default() };
    restore::run(&project, &snapshot, sink, options, Arc::new(Silent), Cancel::never()).await?;
    verified(&project).await?;
    let volume = MemoryVolume::new(content.to_vec());
    back_up(&project, &volume, &self::options("v")).await.map(drop)
}

async fn verified(project: &Keeper) -> Result<()> {
    let options = VerifyOptions { read_data: true, inflight_bytes: 32 << 20, ..VerifyOptions::default() };
    let report = verify::run(project, options, Arc::new(Silent), Cancel::never()).await?;
    match report.ok() {
        true => Ok(()),
        false => Err(cuttle::Error::corrupt(format!("{:?}", report.damage))),
    }
}

fn content() -> Vec<u8> {
    let mut content = Numbers::new(1).bytes(4 * C);
    content.resize(1030 * C + 7, 0);
    content[1029 * C] = 1;
    content
}

/// An object, its body replaced, with a header and a checksum that fit.
fn with_body(object: &[u8], repo_id: &[u8; 16], name: &str, plain_len: u32, body: &[u8]) -> Vec<u8> {
    let mut head = object[..HEADER_LEN_BYTES].to_vec();
    head[10] = 1;
    head[12..16].copy_from_slice(&plain_len.to_le_bytes());
    head[16..20].copy_from_slice(&(body.len() as u32).to_le_bytes());
    let sum = checksum(&head[..56], repo_id, name, body);
    head[56..].copy_from_slice(&sum);
    [head, body.to_vec()].concat()
}

/// A zstd frame that says it holds `len` bytes in `window` and holds as many zeros as fit its blocks.
fn bomb(len: u64, window: u8, blocks: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1100_0000, window];
    frame.extend(len.to_le_bytes());
    for at in 0..blocks {
        let last = u32::from(at + 1 == blocks);
        // A block of one byte repeated 128 KiB times.
        let header = last | 1 << 1 | (128 << 10) << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// Plaintexts of a record whose counts and lengths are lies; of a long one a part tells as much.
fn lies(record: &[u8], len_max: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    let places = (0..record.len().saturating_sub(7)).step_by((record.len() / 64).max(1));
    let lies = places.flat_map(|at| [u64::MAX, 1 << 32, 1 << 62, (1 << 20) + 1].map(|lie| (at, lie)));
    let hurt = lies.map(|(at, lie): (usize, u64)| {
        let mut hurt = record.to_vec();
        hurt[at..at + 8].copy_from_slice(&lie.to_le_bytes());
        (format!("{lie:#x} at byte {at}"), hurt)
    });
    let others = [("nothing".to_owned(), Vec::new()), ("as long as may be".to_owned(), vec![0xff; len_max])];
    hurt.chain(others)
}

struct Lab {
    objects: Arc<InMemory>,
    content: Vec<u8>,
    hand: ByHand,
    names: Vec<String>,
}

impl Lab {
    async fn new() -> Self {
        let (objects, project) = in_memory().await;
        let volume = MemoryVolume::new(content());
        back_up(&project, &volume, &options("v")).await.expect("backed up");
        Self::of(objects, content()).await
    }

    /// Two nights that change every chunk a little: deltas on deltas, in bundles.
    async fn of_bundles() -> Self {
        let objects = Arc::new(InMemory::new());
        let made = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 7 };
        let project = default(&init_with(store(objects.clone()), made, true).await).await;
        let volume = MemoryVolume::new(Numbers::new(1).bytes(6 * C));
        for night in 0..3 {
            volume.edit(|content| {
                content.iter_mut().step_by(C / 2 + 1).take(8).for_each(|byte| *byte ^= night)
            });
            back_up(&project, &volume, &options("v")).await.expect("backed up");
        }
        let content = volume.content();
        Self::of(objects, content).await
    }

    async fn of(objects: Arc<InMemory>, content: Vec<u8>) -> Self {
        let hand = ByHand::open(objects.clone(), &secret(), "default").await;
        hand.begin_round(1, &[ChunkId([1; 32])]).await;
        let names = names(&*objects, "").await;
        Self { objects, content, hand, names }
    }

    /// Everything is tried on a repository in which one object was replaced.
    async fn try_with(&self, what: &str, name: &str, bytes: Vec<u8>, must_fail: bool) {
        let objects = Arc::new(self.objects.fork());
        put(&*objects, name, bytes).await;
        let (start, before) = (Instant::now(), ALLOCATOR.allocated());
        let result = everything(objects, &self.content).await;
        let took = start.elapsed();
        assert!(took < TIME_MAX, "{name}, {what}: {took:?}");
        assert!(ALLOCATOR.allocated() < before + (8 << 20), "{name}, {what}: something stayed allocated");
        match result {
            Err(error) => {
                let honest = matches!(
                    error.kind(),
                    ErrorKind::Corrupt
                        | ErrorKind::Unsupported
                        | ErrorKind::WrongKey
                        | ErrorKind::NotFound
                        | ErrorKind::Conflict
                );
                assert!(honest, "{name}, {what}: {:?} {error}", error.kind());
            }
            Ok(()) => assert!(!must_fail, "{name}, {what}: nobody noticed"),
        }
    }

    /// Replaces an object by another plaintext, sealed as it must be: what only a holder of the key could do, or anyone
    /// where nothing is encrypted.
    async fn sealed(&self, name: &ObjectName, plain: &[u8]) -> Vec<u8> {
        let sealed = self.hand.at(name, |place| cuttle::codec::seal(place, plain, 1)).expect("sealed");
        sealed.bytes().to_vec()
    }
}

/// Alone in its process meanwhile, so that the allocator counts nothing else.
#[tokio::test]
async fn hostile_objects_end_in_an_error_at_once_and_in_little_memory() {
    let _alone = crate::ALONE.lock().await;
    let lab = Lab::new().await;
    everything(Arc::new(lab.objects.fork()), &lab.content).await.expect("nothing is hurt yet");
    let before = ALLOCATOR.allocated();
    ALLOCATOR.set_limit(before + MEMORY_BYTES_MAX).expect("a limit above what is in use");
    lengths_that_lie(&lab).await;
    objects_too_large(&lab).await;
    bombs(&lab).await;
    records_that_lie(&lab).await;
    snapshots_that_lie(&lab).await;
    names_that_lead_astray(&lab).await;
}

/// Headers whose lengths are 2^32 − 1.
async fn lengths_that_lie(lab: &Lab) {
    for name in &lab.names {
        let whole = get(&*lab.objects, name).await.to_vec();
        for at in [12, 16] {
            let mut hurt = whole.clone();
            hurt[at..at + 4].fill(0xff);
            lab.try_with("a length of 2^32", name, hurt, true).await;
        }
        for cut in [0, 1, 87, 88, whole.len() - 1] {
            lab.try_with("cut", name, whole[..cut].to_vec(), true).await;
        }
    }
}

/// A bundle is its table, and pieces behind it.
#[tokio::test]
async fn bundles_that_lie_end_in_an_error_at_once_and_in_little_memory() {
    let _alone = crate::ALONE.lock().await;
    let lab = Lab::of_bundles().await;
    everything(Arc::new(lab.objects.fork()), &lab.content).await.expect("nothing is hurt yet");
    ALLOCATOR.set_limit(ALLOCATOR.allocated() + MEMORY_BYTES_MAX).expect("a limit above what is in use");
    let bundles: Vec<ObjectName> = lab.names.iter().filter_map(|name| ObjectName::parse(name)).collect();
    let bundles: Vec<_> = bundles.into_iter().filter(|name| matches!(name, ObjectName::Bundle(..))).collect();
    assert!(!bundles.is_empty(), "no night made a bundle");
    for bundle in &bundles {
        let (name, whole) = (bundle.to_string(), get(&*lab.objects, &bundle.to_string()).await.to_vec());
        let table =
            Header::decode_prefix(&whole).expect("a table").body_len_bytes as usize + HEADER_LEN_BYTES;
        // The table's header, the first piece's, and what is cut anywhere.
        for at in [12, 16, table + 32 + 12, table + 32 + 16] {
            let mut hurt = whole.clone();
            hurt[at..at + 4].fill(0xff);
            lab.try_with("a length of 2^32", &name, hurt, at > table).await;
        }
        for cut in [0, 1, 88, table, table + 31, table + 33] {
            lab.try_with("cut", &name, whole[..cut].to_vec(), true).await;
        }
        for blocks in [1, 1 << 10] {
            let frame = bomb(4 << 60, 0x50, blocks);
            let table = with_body(&whole, &lab.hand.repository.repo_id, &name, u32::MAX, &frame);
            lab.try_with("a table that is a bomb", &name, [table, whole.clone()].concat(), true).await;
        }
        // Counts, lengths and runs of a table, with the pieces behind it where it says that they are, and elsewhere.
        let mut plain = Vec::new();
        let max = bundle.object_type().plain_len_bytes_max();
        let open = |place: Place<'_>| cuttle::codec::open(place, &whole[..table], None, max, &mut plain);
        lab.hand.at(bundle, open).expect("a table");
        // Each fifth: another lie at another place.
        for (what, lie) in lies(&plain, max).step_by(5) {
            let mut sealed = lab.sealed(bundle, &lie).await;
            sealed.extend(&whole[table..]);
            lab.try_with(&what, &name, sealed, false).await;
        }
    }
    // Pages that say that pieces are at 2^32, or that long, or stand on themselves.
    for name in &lab.names {
        let parsed = ObjectName::parse(name).expect("ours");
        if matches!(parsed, ObjectName::Page(..)) {
            let page = lab.hand.plain(&parsed).await;
            for (what, lie) in lies(&page, parsed.object_type().plain_len_bytes_max()).step_by(5) {
                let sealed = lab.sealed(&parsed, &lie).await;
                lab.try_with(&what, name, sealed, false).await;
            }
        }
    }
}

/// More bytes than the type, or the manifest, allows are not downloaded.
async fn objects_too_large(lab: &Lab) {
    for name in &lab.names {
        let parsed = ObjectName::parse(name).expect("ours");
        let max = parsed.object_type().object_len_bytes_max();
        let mut hurt = get(&*lab.objects, name).await.to_vec();
        hurt.resize(max + 1, 0);
        lab.try_with("too large", name, hurt, true).await;
    }
}

async fn bombs(lab: &Lab) {
    let repo_id = lab.hand.repository.repo_id;
    for name in &lab.names {
        let whole = get(&*lab.objects, name).await.to_vec();
        let max = ObjectName::parse(name).expect("ours").object_type().plain_len_bytes_max();
        let id = if name == "repository" { [0; 16] } else { repo_id };
        // 10: a window of 1 MiB + 2^10 …; 0xa0: one of 2^30.
        for (what, len, window) in [
            ("a bomb of 4 EiB", 4 << 60, 0x50),
            ("a bomb of the type's limit", max as u64, 0x50),
            ("a window of 1 GiB", max as u64, 0xa0),
        ] {
            let frame = bomb(len, window, max.div_ceil(128 << 10) + 1);
            let frame = &frame[..frame.len().min(max / 2)];
            lab.try_with(what, name, with_body(&whole, &id, name, max as u32, frame), true).await;
        }
    }
}

/// Every count and length in every record.
async fn records_that_lie(lab: &Lab) {
    for name in &lab.names {
        let parsed = ObjectName::parse(name).expect("ours");
        if matches!(parsed, ObjectName::Chunk(..)) {
            continue;
        }
        let record = lab.hand.plain(&parsed).await;
        for (what, hurt) in lies(&record, parsed.object_type().plain_len_bytes_max()) {
            let sealed = lab.sealed(&parsed, &hurt).await;
            lab.try_with(&what, name, sealed, false).await;
        }
    }
}

/// Snapshots that say they are huge, or whose root says so.
async fn snapshots_that_lie(lab: &Lab) {
    let (p, n, s) = (lab.hand.project.clone(), VolumeNumber(1), Sequence(1));
    let name = ObjectName::End(p, n, s);
    let end: EndRecord = lab.hand.record(&name).await;
    let Outcome::Committed(good) = &end.outcome else { panic!("it was committed") };
    for size_bytes in [0, 1, 4 << 50, (4 << 50) + 1, u64::MAX, 1 << 32] {
        for chunk_size_bytes in [0, 1, CHUNK, CHUNK * 2, u32::MAX] {
            if (size_bytes, chunk_size_bytes) == (good.size_bytes, CHUNK) {
                continue;
            }
            let mut snapshot = good.clone();
            (snapshot.size_bytes, snapshot.chunk_size_bytes) = (size_bytes, chunk_size_bytes);
            let lie = EndRecord { outcome: Outcome::Committed(snapshot), ..end.clone() };
            let sealed = lab.sealed(&name, &lie.encode().expect("encoded")).await;
            let what = format!("{size_bytes} bytes in chunks of {chunk_size_bytes}");
            lab.try_with(&what, &name.to_string(), sealed, true).await;
        }
    }
    for at in 0..good.root.len() {
        for value in [0xff, 0x10] {
            let mut snapshot = good.clone();
            snapshot.root[at] ^= value;
            let lie = EndRecord { outcome: Outcome::Committed(snapshot), ..end.clone() };
            let sealed = lab.sealed(&name, &lie.encode().expect("encoded")).await;
            lab.try_with(&format!("byte {at} of the root"), &name.to_string(), sealed, true).await;
        }
    }
    // A round that condemns a table of 2^32 entries.
    let begin = ObjectName::GcBegin(lab.hand.project.clone(), Generation(1));
    let part = PartRef { id: ChunkId([3; 32]), sealed_len_bytes: u32::MAX, entries: u32::MAX };
    let condemned = vec![part; 1000];
    let record =
        cuttle::format::gc::BeginRecord { generation: Generation(1), last_seal: Generation(0), condemned };
    let sealed = lab.sealed(&begin, &record.encode().expect("encoded")).await;
    lab.try_with("tables of 2^32 entries", &begin.to_string(), sealed, true).await;
}

/// Listings with names that are not ours are ignored, whatever they look like.
async fn names_that_lead_astray(lab: &Lab) {
    let objects = Arc::new(lab.objects.fork());
    let id = ContentName::plain(Generation(7), ChunkId([9; 32]));
    let names = [
        "projects/default/log/0000000001/..%2F..%2Fetc".to_owned(),
        "projects/default/log/0000000001/0000000002.end.bak".into(),
        "projects/default/log/0000000001/99999999999.open".into(),
        "projects/default/log/1/1.open".into(),
        "projects/default/volumes/2".into(),
        "projects/default/gc/0000000009.begin.tmp".into(),
        format!("projects/default/chunks/{id}.tmp"),
        "projects/..%2F..%2Fother/project".into(),
        "keys/..%2Frepository".into(),
        "keys/0000000000000000.bak".into(),
        "probe/x".into(),
    ];
    for name in names {
        put(&*objects, &name, vec![0xff; 300]).await;
    }
    everything(objects, &lab.content).await.expect("other names are none of our business");
}
