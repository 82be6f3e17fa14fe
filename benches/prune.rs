//! How long a prune takes and how much memory, over a repository whose manifests hold ten million references.
//!
//! `cargo bench --bench prune -- DIR [VOLUMES]` makes the repositories below DIR, which should be in memory, prunes each in a
//! process of its own and prints a table. Pages and logs are real; of each chunk there is a file of a byte.

// Only a part of it is needed here.
#[allow(dead_code)]
#[path = "../tests/support/by_hand.rs"]
mod by_hand;

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use by_hand::ByHand;
use cuttle::cancel::Cancel;
use cuttle::clock::SystemClock;
use cuttle::format::ObjectName;
use cuttle::format::names::ContentName;
use cuttle::format::page::{ObjectRef, Page, PageRef, REFS_PER_PAGE, count_of_page};
use cuttle::format::record::{EndRecord, OpenRecord, Outcome, VolumeRecord};
use cuttle::keys::Unlock;
use cuttle::progress::Silent;
use cuttle::prune::{self, PruneOptions};
use cuttle::repo::{Environment, InitOptions, Keeper, PROGRAM, Repository, default_project};
use cuttle::store::{Store, StoreConfig};
use cuttle::units::{Generation, Geometry, Sequence, SnapshotId, VolumeNumber};
use cuttle::volume::Identity;
use object_store::local::LocalFileSystem;

type Done<T = ()> = Result<T, Box<dyn Error>>;

const CHUNK_BYTES: u32 = 4 << 20;
/// References of a leaf that a night changes, in one leaf of each volume.
const CHANGED: usize = 16;

/// What a repository is made of.
#[derive(Clone, Copy)]
struct Size {
    volumes: u32,
    nights: u32,
    /// Later ones change nothing.
    nights_of_change: u32,
    chunks: u64,
}

const BASE: Size = Size { volumes: 100, nights: 10, nights_of_change: 10, chunks: 10_000 };
const SIZES: [(&str, Size); 3] = [
    ("as it is", BASE),
    ("twice the snapshots", Size { nights: 20, ..BASE }),
    ("twice the pages", Size { chunks: 20_000, ..BASE }),
];

#[tokio::main]
async fn main() -> Done {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    match &args[..] {
        [dir] => table(Path::new(dir), BASE.volumes).await,
        [prune, dir] if prune == "prune" => prune_one(dir).await,
        [dir, volumes] => table(Path::new(dir), volumes.parse()?).await,
        // `cargo bench` runs every bench without arguments; there is nothing to measure then.
        _ => {
            println!("prune: name a directory");
            Ok(())
        }
    }
}

async fn table(dir: &Path, volumes: u32) -> Done {
    let titles = "| repository | snapshots | references | pages | objects | prune | s | peak MiB | deleted | requests |";
    println!("{titles}\n|---|---|---|---|---|---|---|---|---|---|");
    for (name, size) in SIZES {
        let size = Size { volumes, ..size };
        let repo = dir.join("repo");
        if repo.exists() {
            fs::remove_dir_all(&repo)?;
        }
        let hand = make(&repo, size).await?;
        measure(name, &repo, size, "nothing to do")?;
        for volume in 1..=size.volumes {
            hand.forget(volume, 1).await;
        }
        measure(name, &repo, size, "one night forgotten")?;
        measure(name, &repo, size, "again")?;
        fs::remove_dir_all(&repo)?;
    }
    Ok(())
}

/// In a process of its own, so that its peak is a prune's and nothing else's.
fn measure(name: &str, repo: &Path, size: Size, what: &str) -> Done {
    let run = Command::new(std::env::current_exe()?).arg("prune").arg(repo).output()?;
    if !run.status.success() {
        return Err(String::from_utf8_lossy(&run.stderr).into());
    }
    let snapshots = u64::from(size.volumes) * u64::from(size.nights);
    let text = String::from_utf8(run.stdout)?;
    let [pages, stored, seconds, peak, deleted, requests] = text.split_whitespace().collect::<Vec<_>>()[..]
    else {
        return Err(text.into());
    };
    let references = snapshots * size.chunks;
    println!(
        "| {name} | {snapshots} | {references} | {pages} | {stored} | {what} | {seconds} | {peak} | {deleted} | {requests} |"
    );
    Ok(())
}

async fn prune_one(dir: &str) -> Done {
    let project = open(Path::new(dir)).await?;
    let start = Instant::now();
    let report = prune::run(&project, PruneOptions::default(), Arc::new(Silent), Cancel::never()).await?;
    let seconds = start.elapsed().as_secs_f64();
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak")?;
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse()?;
    let (pages, stored, deleted) =
        (report.pages, report.stored.map_or(0, |s| s.objects), report.deleted().objects);
    println!("{pages} {stored} {seconds:.1} {} {deleted} {}", peak_kib / 1024, report.ledger.requests());
    Ok(())
}

fn environment() -> Environment {
    Environment {
        host: "bench".into(),
        machine: "bench".into(),
        process: std::process::id(),
        is_process_alive: |_| true,
        clock: Arc::new(SystemClock),
        cache_dir: None,
        memory_dir: None,
        remembers: true,
        trust_store: false,
    }
}

fn store(dir: &Path) -> Done<Store> {
    let options = vec![("fsync".to_owned(), "false".to_owned())];
    Ok(Store::open(&StoreConfig { url: dir.display().to_string(), options, ..StoreConfig::default() })?)
}

async fn open(dir: &Path) -> Done<Keeper> {
    let mut ask = || -> cuttle::error::Result<Unlock> { Err(cuttle::Error::internal("it is not encrypted")) };
    let repository = Repository::open(store(dir)?, environment(), &mut ask).await?;
    Ok(repository.keeper(&default_project()).await?)
}

async fn make(dir: &Path, size: Size) -> Done<ByHand> {
    fs::create_dir_all(dir)?;
    let options = InitOptions { chunk_size_bytes: CHUNK_BYTES, delta_depth_max: 0 };
    Repository::init(store(dir)?, environment(), &options, None).await?;
    let unlock = Unlock::Passphrase("none".to_owned().into());
    let objects = Arc::new(LocalFileSystem::new_with_prefix(dir)?);
    let hand = ByHand::open(objects, &unlock, default_project().as_str()).await;
    let mut files = Files { dir: dir.to_owned(), made: HashSet::new() };
    for volume in 1..=size.volumes {
        make_volume(&hand, &mut files, size, VolumeNumber(volume)).await?;
    }
    Ok(hand)
}

async fn make_volume(hand: &ByHand, files: &mut Files, size: Size, number: VolumeNumber) -> Done {
    let record = VolumeRecord {
        number,
        name: format!("pool/volume-{number}"),
        identity: Identity::Stream,
        created_unix_ms: 0,
    };
    hand.put_record(&ObjectName::Volume(hand.project.clone(), number), &record).await;
    let leaves = size.chunks.div_ceil(REFS_PER_PAGE as u64);
    let mut root = Page::zero(1, leaves as usize);
    for leaf in 0..leaves {
        root.refs[leaf as usize] = make_leaf(hand, files, size, (number, leaf, 0)).await?;
    }
    for night in 1..=size.nights {
        if (2..=size.nights_of_change).contains(&night) {
            let leaf = u64::from(night) % leaves;
            root.refs[leaf as usize] = make_leaf(hand, files, size, (number, leaf, night)).await?;
        }
        commit(hand, size, (number, Sequence(night)), root.encode()).await?;
    }
    Ok(())
}

/// A leaf of which a night changed the first references. Night 0 is the first backup.
async fn make_leaf(
    hand: &ByHand,
    files: &mut Files,
    size: Size,
    (volume, leaf, night): (VolumeNumber, u64, u32),
) -> Done<PageRef> {
    let count = count_of_page(size.chunks, 0, leaf);
    let mut page = Page::zero(0, count);
    for (at, slot) in page.refs.iter_mut().enumerate() {
        let changed = if at < CHANGED { night } else { 0 };
        let id = hand.chunk_id(format!("{volume} {leaf} {at} {changed}").as_bytes());
        let name = ContentName::plain(Generation(0), id);
        if changed == night {
            files.touch(&hand.chunk_name(name))?;
        }
        *slot = PageRef::full(ObjectRef { name, sealed_len_bytes: CHUNK_BYTES / 2 });
    }
    let plain = page.encode();
    let name = ContentName::plain(Generation(0), hand.page_id(&plain));
    let sealed_len_bytes = hand.put_plain(&ObjectName::Page(hand.project.clone(), name), &plain).await;
    Ok(PageRef::full(ObjectRef { name, sealed_len_bytes }))
}

async fn commit(
    hand: &ByHand,
    size: Size,
    (volume, sequence): (VolumeNumber, Sequence),
    root: Vec<u8>,
) -> Done {
    let at = u128::from(volume.0) << 32 | u128::from(sequence.0);
    let snapshot_id = SnapshotId(at.to_le_bytes());
    let open = OpenRecord {
        snapshot_id,
        generation: Generation(0),
        host: "bench".into(),
        machine: "bench".into(),
        process: 1,
        program: PROGRAM.into(),
        started_unix_ms: 0,
    };
    let geometry = Geometry::new(size.chunks * u64::from(CHUNK_BYTES), CHUNK_BYTES)?;
    let snapshot = by_hand::snapshot(volume, sequence, geometry, root);
    let project = &hand.project;
    hand.put_record(&ObjectName::Open(project.clone(), volume, sequence), &open).await;
    let end = EndRecord { snapshot_id, outcome: Outcome::Committed(Box::new(snapshot)) };
    hand.put_record(&ObjectName::End(project.clone(), volume, sequence), &end).await;
    Ok(())
}

/// Chunks as files of a byte.
struct Files {
    dir: PathBuf,
    made: HashSet<PathBuf>,
}

impl Files {
    fn touch(&mut self, name: &ObjectName) -> Done {
        let path = self.dir.join(name.to_string());
        if let Some(parent) = path.parent()
            && !self.made.contains(parent)
        {
            fs::create_dir_all(parent)?;
            self.made.insert(parent.to_owned());
        }
        Ok(fs::write(path, b"x")?)
    }
}
