//! Restores of real backups, to every kind of target, over stores that fail.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::support::Numbers;
use crate::support::fault_store::{FAULTS, Fault, FaultStore, OpKind};
use crate::support::nights::nights;
use crate::support::repo::{
    self, CHUNK, MemoryVolume, back_up, default, hasty, init_on, latest, options, store,
};
use cuttle::cancel::Cancel;
use cuttle::progress::{Progress, Silent, Step};
use cuttle::repo::Keeper;
use cuttle::repo::history::SnapshotEntry;
use cuttle::restore::{self, RestoreOptions, RestoreReport};
use cuttle::sink::pipe::PipeSink;
use cuttle::sink::raw_file::RawFileSink;
use cuttle::sink::{Existing, Sink};
use cuttle::store::{Store, StoreConfig};
use cuttle::verify;
use cuttle::{ErrorKind, Result};
use object_store::ObjectStore;
use object_store::memory::InMemory;

async fn restore(project: &Keeper, snapshot: &SnapshotEntry, sink: Arc<dyn Sink>) -> Result<RestoreReport> {
    let options = RestoreOptions::default();
    restore::run(project, snapshot, sink, options, Arc::new(Silent), Cancel::never()).await
}

fn raw(path: &Path, snapshot: &SnapshotEntry, overwrite: bool) -> Arc<dyn Sink> {
    Arc::new(RawFileSink::open(path, snapshot.snapshot.size_bytes, overwrite).expect("a target"))
}

async fn on_disk(dir: &Path, encrypted: bool) -> Keeper {
    let options = vec![("fsync".to_owned(), "false".to_owned())];
    let config = StoreConfig { url: dir.display().to_string(), options, ..StoreConfig::default() };
    default(&init_on(Store::open(&config).expect("a store"), CHUNK, encrypted).await).await
}

#[tokio::test]
async fn every_night_comes_back_to_files_and_pipes() {
    for (seed, encrypted) in [(1, true), (2, false), (3, true)] {
        let dir = tempfile::tempdir().expect("a folder");
        let repository = dir.path().join("repository");
        fs::create_dir(&repository).expect("a folder");
        let project = on_disk(&repository, encrypted).await;
        let nights = nights(&project, seed, 6).await;
        let path = dir.path().join("rewound.raw");
        for (night, (snapshot, content)) in nights.iter().enumerate().rev() {
            // Always over what the later night left.
            let sink = raw(&path, snapshot, true);
            let report = restore(&project, snapshot, sink).await.expect("restored");
            assert!(fs::read(&path).expect("there") == *content, "seed {seed}, night {night}");
            assert_eq!(report.size_bytes, content.len() as u64);

            let new = dir.path().join(format!("new{night}.raw"));
            restore(&project, snapshot, raw(&new, snapshot, false)).await.expect("restored");
            assert!(fs::read(&new).expect("there") == *content, "seed {seed}, night {night}");

            let pipe = Arc::new(PipeSink::new(Vec::new(), content.len() as u64));
            restore(&project, snapshot, pipe.clone()).await.expect("restored");
            let pipe = Arc::into_inner(pipe).expect("nobody else has it");
            assert!(pipe.into_inner() == *content, "seed {seed}, night {night}");
        }
        let report = repo::verify(&project, true).await.expect("verified");
        assert!(report.ok(), "{:?}", report.damage);
        let store = project.repository().store();
        let scrubbed =
            verify::scrub(store, verify::ScrubOptions::default(), Arc::new(Silent), Cancel::never());
        assert!(scrubbed.await.expect("scrubbed").ok());
    }
}

#[tokio::test]
async fn a_thin_volume_stays_thin() {
    const CHUNK_LEN: usize = 4 << 20;
    let repository = init_on(store(Arc::new(InMemory::new())), CHUNK_LEN as u32, true).await;
    let project = default(&repository).await;
    let mut content = vec![0; 16 * CHUNK_LEN + 700_000];
    let writes: Vec<usize> = (0..=16).map(|chunk| chunk * CHUNK_LEN + 123_000 + chunk * 30_000).collect();
    writes.iter().for_each(|at| content[*at..*at + 4096].fill(1));
    back_up(&project, &MemoryVolume::new(content.clone()), &options("v")).await.expect("backed up");
    let snapshot = latest(&project, "v").await;

    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("new");
    restore(&project, &snapshot, raw(&path, &snapshot, false)).await.expect("restored");
    assert!(fs::read(&path).expect("there") == content);
    let taken_bytes = fs::metadata(&path).expect("there").blocks() * 512;
    // A write may touch two blocks of 64 KiB, and a file system may need a little for itself.
    assert!(taken_bytes <= (writes.len() as u64 + 1) * (128 << 10), "{taken_bytes} bytes are taken");

    // Where something else was, zeros are written.
    fs::write(&path, vec![9; content.len()]).expect("written");
    restore(&project, &snapshot, raw(&path, &snapshot, true)).await.expect("restored");
    assert!(fs::read(&path).expect("there") == content);
}

#[tokio::test]
async fn a_rewind_fetches_only_what_differs() {
    let project = default(&init_on(store(Arc::new(InMemory::new())), CHUNK, true).await).await;
    let volume = MemoryVolume::new(Numbers::new(4).bytes(1000 * CHUNK as usize));
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    let first = volume.content();
    let snapshot = latest(&project, "v").await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("v.raw");
    let mut changed = first.clone();
    for chunk in [3, 500, 501, 999] {
        changed[chunk * CHUNK as usize + 9] ^= 1;
    }
    fs::write(&path, &changed).expect("written");
    let plan = restore::plan(
        &project,
        &snapshot,
        raw(&path, &snapshot, true).existing(),
        RestoreOptions::default(),
        Arc::new(Silent),
        Cancel::never(),
    );
    assert_eq!(plan.await.expect("planned").totals.fetches, 4);
    let report = restore(&project, &snapshot, raw(&path, &snapshot, true)).await.expect("restored");
    assert_eq!(report.totals.fetch.chunks, 4);
    // Four chunks and one page.
    assert_eq!(report.ledger.get_requests, 5);
    assert!(fs::read(&path).expect("there") == first);
}

/// A repository behind a store that can be made to fail, with one snapshot in it.
async fn faulty(chunks: usize) -> (FaultStore, Keeper, SnapshotEntry, Vec<u8>) {
    let inner = FaultStore::new(Arc::new(InMemory::new()));
    let faulty: Arc<dyn ObjectStore> = Arc::new(inner.clone());
    let project = default(&init_on(Store::with_object_store(faulty, hasty()), CHUNK, true).await).await;
    let volume = MemoryVolume::new(Numbers::new(5).bytes(chunks * CHUNK as usize + 77));
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    let snapshot = latest(&project, "v").await;
    (inner, project, snapshot, volume.content())
}

#[tokio::test]
async fn a_fault_at_any_request_is_got_over() {
    let (inner, project, _, content) = faulty(12).await;
    for fault in FAULTS {
        for k in 0..30 {
            inner.fail_at(inner.ops().len() + k, fault);
            let snapshot = latest(&project, "v").await;
            let pipe = Arc::new(PipeSink::new(Vec::new(), content.len() as u64));
            restore(&project, &snapshot, pipe.clone()).await.expect("restored");
            let pipe = Arc::into_inner(pipe).expect("nobody else has it");
            assert!(pipe.into_inner() == content, "{fault:?} at request {k}");
        }
    }
}

#[tokio::test]
async fn a_store_that_goes_away_leaves_a_target_to_go_on_with() {
    let (inner, project, snapshot, content) = faulty(60).await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("v.raw");
    let page = |key: &str| key.contains("/pages/");
    let mut left = None;
    for allowed in [10, 20, 25] {
        // Of the chunks, so many answer; then none does.
        let count = Arc::new(Mutex::new(0));
        let away = Arc::new(Mutex::new(true));
        let (counted, gone) = (Arc::clone(&count), Arc::clone(&away));
        inner.fail_always_for(
            move |op| {
                if op.kind != OpKind::Get || page(&op.key) || !*gone.lock().expect("not poisoned") {
                    return false;
                }
                let mut count = counted.lock().expect("not poisoned");
                *count += 1;
                *count > allowed
            },
            Fault::Status(503),
        );
        let error = restore(&project, &snapshot, raw(&path, &snapshot, false)).await.expect_err("gone");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("at offset"), "{error}");
        assert!(!path.exists());
        *away.lock().expect("not poisoned") = false;
        let plan = restore::plan(
            &project,
            &snapshot,
            raw(&path, &snapshot, false).existing(),
            RestoreOptions::default(),
            Arc::new(Silent),
            Cancel::never(),
        );
        let now = plan.await.expect("planned").totals;
        let before = left.replace(now.fetches).unwrap_or(61);
        assert!(now.fetches < before, "{} were left, now {}", before, now.fetches);
    }
    let report = restore(&project, &snapshot, raw(&path, &snapshot, false)).await.expect("restored");
    assert_eq!(Some(report.totals.fetches), left);
    assert!(fs::read(&path).expect("there") == content);
}

#[tokio::test]
async fn a_chunk_cut_on_disk_stops_the_restore() {
    let dir = tempfile::tempdir().expect("a folder");
    let repository = dir.path().join("repository");
    fs::create_dir(&repository).expect("a folder");
    let project = on_disk(&repository, true).await;
    let (snapshot, content) = nights(&project, 6, 1).await.remove(0);
    let chunks = repository.join("projects/default/chunks");
    let mut victims = Vec::new();
    for generation in fs::read_dir(&chunks).expect("there") {
        for first in fs::read_dir(generation.expect("there").path()).expect("there") {
            let first = first.expect("there").path();
            victims.extend(fs::read_dir(&first).expect("there").map(|f| f.expect("there").path()));
        }
    }
    victims.sort();
    let victim = &victims[victims.len() / 2];
    let file = fs::OpenOptions::new().write(true).open(victim).expect("there");
    for damage in 0..2 {
        match damage {
            0 => file.write_all_at(b"x", 300).expect("written"),
            _ => file.set_len(100).expect("cut"),
        }
        let path = dir.path().join("v.raw");
        let error = restore(&project, &snapshot, raw(&path, &snapshot, false)).await.expect_err("hurt");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let id = victim.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(error.message().contains(&id), "{error}");
        assert!(error.help_text().expect("help").contains("verify"), "{error:?}");
        // What is there is right or was never written.
        let partial = fs::read(dir.path().join("v.raw.cuttle-partial")).expect("there");
        for (held, wanted) in partial.chunks(CHUNK as usize).zip(content.chunks(CHUNK as usize)) {
            assert!(held == wanted || held.iter().all(|b| *b == 0));
        }
    }
}

#[derive(Default)]
struct Counting {
    bytes: Mutex<u64>,
    total: Mutex<Option<u64>>,
}

impl Progress for Counting {
    fn phase(&self, _name: &str, total_bytes: Option<u64>) {
        *self.total.lock().expect("not poisoned") = total_bytes;
    }

    fn step(&self, step: Step) {
        *self.bytes.lock().expect("not poisoned") += step.bytes;
    }

    fn warn(&self, _message: &str) {}
}

#[tokio::test]
async fn progress_adds_up_to_the_volume() {
    let project = default(&init_on(store(Arc::new(InMemory::new())), CHUNK, true).await).await;
    for (snapshot, content) in nights(&project, 7, 3).await {
        let size = content.len() as u64;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("v.raw");
        fs::write(&path, Numbers::new(8).bytes(content.len() / 2)).expect("written");
        let sinks: [Arc<dyn Sink>; 2] =
            [raw(&path, &snapshot, true), Arc::new(PipeSink::new(std::io::sink(), size))];
        for sink in sinks {
            let progress = Arc::new(Counting::default());
            let options = RestoreOptions::default();
            restore::run(&project, &snapshot, sink, options, progress.clone(), Cancel::never())
                .await
                .expect("restored");
            assert_eq!(*progress.bytes.lock().expect("not poisoned"), size);
            assert_eq!(*progress.total.lock().expect("not poisoned"), Some(size));
        }
        let progress = Arc::new(Counting::default());
        let (existing, options) = (Existing::Blank, RestoreOptions::default());
        restore::plan(&project, &snapshot, existing, options, progress.clone(), Cancel::never())
            .await
            .expect("planned");
        assert_eq!(*progress.bytes.lock().expect("not poisoned"), size);
    }
}
