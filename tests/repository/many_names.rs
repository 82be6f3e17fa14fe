//! A project of 100 TiB: 25 million names, of which a prune writes the live index, and a first backup finds in it what is there.
//!
//! Manifests, tables and records are real. Of the chunks there are names alone, which a store makes up as it lists them; a few are those of content
//! that the first backup has, too. Each side is a process of its own, whose peak is its own. Some are tried with the other tests, and all with
//!
//! ```text
//! cargo test --test repository twenty_five_million -- --ignored --nocapture
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::Path as Folder;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use cuttle::backup::{self, BackupOptions, Input};
use cuttle::cancel::Cancel;
use cuttle::format::ObjectName;
use cuttle::format::names::ContentName;
use cuttle::format::page::{ObjectRef, PageRef};
use cuttle::progress::Silent;
use cuttle::prune::{self, PruneOptions};
use cuttle::repo::{Environment, Keeper};
use cuttle::source::raw_file::RawFile;
use cuttle::units::{ChunkId, Generation, ProjectName};
use futures::stream::{self, BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use crate::support::by_hand::ByHand;
use crate::support::repo::{commit_by_hand, connect, environment, init_on, secret, store};

const CHUNK_BYTES: u32 = 4 << 20;
/// What a chunk takes in the store.
const SEALED_BYTES: u32 = 2_000_000;
/// Chunks of the first backup whose content is stored, and others.
const KNOWN: u8 = 40;
const NEW: u8 = 3;
/// A prime to which no count is a multiple, so that names come in no order.
const STEP: u64 = 15_485_863;
const BACKUP_MIB_MAX: u64 = 512;

/// Names of `count` chunks of generation 0: of `real` ones, and made up ones.
#[derive(Clone)]
struct Names {
    inner: Arc<LocalFileSystem>,
    count: u64,
    real: Arc<BTreeSet<ChunkId>>,
}

fn content(n: u8) -> Vec<u8> {
    let mut content = vec![0; CHUNK_BYTES as usize];
    blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut content);
    content
}

impl Names {
    /// The n-th of those that are made up, ascending.
    fn id(&self, n: u64) -> ChunkId {
        let mut id = *blake3::hash(&n.to_le_bytes()).as_bytes();
        id[..8].copy_from_slice(&(n * (u64::MAX / self.count)).to_be_bytes());
        ChunkId(id)
    }

    /// Those after an id, or from the beginning.
    fn ids(&self, after: Option<ChunkId>) -> impl Iterator<Item = ChunkId> + use<> {
        let first = after.map_or(0, |id| u64::from_be_bytes(std::array::from_fn(|at| id.0[at])));
        let from = first / (u64::MAX / self.count);
        let this = self.clone();
        let mut made_up = (from..self.count).map(move |n| this.id(n)).peekable();
        let mut real = (*self.real).clone().into_iter().peekable();
        let ids = std::iter::from_fn(move || match (made_up.peek(), real.peek()) {
            (Some(a), Some(b)) if a < b => made_up.next(),
            (_, Some(_)) => real.next(),
            _ => made_up.next(),
        });
        ids.skip_while(move |id| after.is_some_and(|after| *id <= after))
    }

    fn list_chunks(
        &self,
        prefix: &Path,
        after: Option<&Path>,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let project: ProjectName = "default".parse().expect("valid");
        let is_of_other = |path: &Path| path.parts().nth(3).is_some_and(|g| g.as_ref() != "0000000000");
        if is_of_other(prefix) || after.is_some_and(is_of_other) {
            return stream::empty().boxed();
        }
        let after = after.or(Some(prefix)).and_then(|after| match ObjectName::parse(after.as_ref()) {
            Some(ObjectName::Chunk(_, name)) => Some(name.id),
            // A folder: all ids from its first byte on.
            _ => {
                let first = after.parts().nth(4).and_then(|xx| u8::from_str_radix(xx.as_ref(), 16).ok());
                let before = first?.checked_sub(1)?;
                Some(ChunkId(std::array::from_fn(|at| if at == 0 { before } else { 255 })))
            }
        });
        // Of one first byte, or of all.
        let only = prefix.parts().nth(4).and_then(|xx| u8::from_str_radix(xx.as_ref(), 16).ok());
        let meta = move |id| ObjectMeta {
            location: Path::from(
                ObjectName::Chunk(project.clone(), ContentName::plain(Generation(0), id)).to_string(),
            ),
            last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
            size: SEALED_BYTES.into(),
            e_tag: None,
            version: None,
        };
        let all = self.ids(after).take_while(move |id| only.is_none_or(|only| id.0[0] == only));
        stream::iter(all.map(meta).map(Ok)).boxed()
    }
}

/// As stores list: a folder has no order, and who lists goes on behind the last name.
fn in_order(
    listed: BoxStream<'static, object_store::Result<ObjectMeta>>,
) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
    let sorted = async move {
        let mut all: Vec<_> = listed.collect().await;
        all.sort_by(|a, b| a.as_ref().ok().map(|m| &m.location).cmp(&b.as_ref().ok().map(|m| &m.location)));
        stream::iter(all)
    };
    stream::once(sorted).flatten().boxed()
}

fn is_of_chunks(prefix: Option<&Path>) -> bool {
    prefix.is_some_and(|prefix| prefix.as_ref().starts_with("projects/default/chunks"))
}

#[async_trait]
impl ObjectStore for Names {
    async fn put_opts(
        &self,
        at: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(at, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        unimplemented!("the repository does not use it")
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match prefix.filter(|_| is_of_chunks(prefix)) {
            Some(prefix) => self.list_chunks(prefix, None),
            None => in_order(self.inner.list(prefix)),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        after: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match prefix.filter(|_| is_of_chunks(prefix)) {
            Some(prefix) => self.list_chunks(prefix, Some(after)),
            None => in_order(self.inner.list_with_offset(prefix, after)),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        unimplemented!("the repository does not use it")
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} names", self.count)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

async fn names(dir: &Folder, count: u64) -> Names {
    let inner = Arc::new(LocalFileSystem::new_with_prefix(dir.join("store")).expect("a folder"));
    let hand = ByHand::open(inner.clone(), &secret(), "default").await;
    let real = (1..=KNOWN).map(|n| hand.chunk_id(&content(n))).collect();
    Names { inner, count, real: Arc::new(real) }
}

async fn project(dir: &Folder, count: u64) -> Keeper {
    let environment = Environment { cache_dir: Some(dir.join("cache")), ..environment() };
    connect(store(Arc::new(names(dir, count).await)), environment).await.expect("opens")
}

/// A volume that has all these chunks, and a page that nobody needs.
async fn make(dir: &Folder, count: u64) {
    std::fs::create_dir(dir.join("store")).expect("a folder");
    let inner = Arc::new(LocalFileSystem::new_with_prefix(dir.join("store")).expect("a folder"));
    init_on(store(inner.clone()), CHUNK_BYTES, true).await;
    let names = names(dir, count).await;
    let made_up = (0..count).map(|n| names.id(n * STEP % count));
    let refs = names.real.iter().copied().chain(made_up).enumerate().map(|(at, id)| {
        let name = ContentName::plain(Generation(0), id);
        (at as u64, PageRef::full(ObjectRef { name, sealed_len_bytes: SEALED_BYTES }))
    });
    let size_bytes = (count + u64::from(KNOWN)) * u64::from(CHUNK_BYTES);
    commit_by_hand(&project(dir, count).await, "all", size_bytes, refs).await;
    let hand = ByHand::open(inner, &secret(), "default").await;
    let loose = ContentName::plain(Generation(0), ChunkId([7; 32]));
    hand.put_plain(&ObjectName::Page(hand.project.clone(), loose), b"nobody needs it").await;
    let file = std::fs::File::create(dir.join("disk")).expect("a file");
    let filled: Range<u64> = 0..count * 180 / u64::from(CHUNK_BYTES);
    // Not sparse: what is read of it tells how much of an index it is worth.
    for n in 0..filled.end.max((KNOWN + NEW).into()) {
        let n = u8::try_from(n + 1).ok().filter(|n| *n <= KNOWN + NEW);
        let bytes = n.map_or_else(|| vec![0; CHUNK_BYTES as usize], content);
        std::io::Write::write_all(&mut &file, &bytes).expect("written");
    }
}

async fn prune_side(dir: &Folder, count: u64) {
    let start = Instant::now();
    let options = PruneOptions::default();
    let report = prune::run(&project(dir, count).await, options, Arc::new(Silent), Cancel::never())
        .await
        .expect("pruned");
    assert_eq!((report.rounds_finished, report.deleted().objects, report.lost_objects), (1, 1, 0));
    say("prune", start, report.ledger.uploaded_bytes);
}

async fn backup_side(dir: &Folder, count: u64) {
    let start = Instant::now();
    let options = BackupOptions::new("new".parse().expect("valid"));
    let volume = RawFile::find(&dir.join("disk")).expect("there");
    let input = Input::Volume(Arc::new(volume));
    let project = project(dir, count).await;
    let report =
        backup::run(&project, input, &options, Arc::new(Silent), Cancel::never()).await.expect("backed up");
    assert_eq!((report.stats.known_chunks, report.stats.new_chunks), (KNOWN.into(), NEW.into()));
    assert!(report.remarks.iter().all(|remark| remark.contains("disk still")), "{:?}", report.remarks);
    say("backup", start, project.repository().store().ledger().downloaded_bytes);
}

fn say(what: &str, start: Instant, bytes: u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("there");
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    println!(
        "{what}: peak {} MiB, {:.1} s, {} MB",
        peak_kib >> 10,
        start.elapsed().as_secs_f64(),
        bytes / 1_000_000
    );
}

/// What the two below start: `SIDE` is whose part it plays, in `DIR`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of the tests of many names"]
async fn one_side_of_many_names() {
    let Ok(side) = std::env::var("SIDE") else { return };
    let (dir, count) = (std::env::var("DIR").expect("set"), std::env::var("COUNT").expect("set"));
    let (dir, count) = (Folder::new(&dir), count.parse().expect("a number"));
    match side.as_str() {
        "make" => make(dir, count).await,
        "prune" => prune_side(dir, count).await,
        _ => backup_side(dir, count).await,
    }
}

fn many_names(count: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    for side in ["make", "prune", "backup"] {
        let run = Command::new(std::env::current_exe().expect("this program"))
            .args(["one_side_of_many_names", "--ignored", "--nocapture"])
            .env("SIDE", side)
            .env("DIR", dir.path())
            .env("COUNT", count.to_string())
            .output()
            .expect("started");
        let (said, error) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "{side}: {said}{error}");
        let line = said.lines().find_map(|line| line.split_once("peak ").map(|(_, rest)| rest));
        println!("{count} names, {side}: peak {}", line.unwrap_or("not told"));
        let peak = line.and_then(|line| line.split(' ').next()?.parse::<u64>().ok());
        assert!(side != "backup" || peak.is_some_and(|mib| mib <= BACKUP_MIB_MAX), "{side}: {said}");
    }
}

#[test]
fn two_hundred_thousand_names_are_found() {
    many_names(200_000);
}

/// A quarter of an hour where it is not optimised, and 10 GB where temporary files go.
#[test]
#[ignore = "takes minutes"]
fn twenty_five_million_names_are_found_in_512_mib() {
    many_names(25_000_000);
}
