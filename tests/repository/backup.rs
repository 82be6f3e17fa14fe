//! Backups of volumes whose every change is known: what was backed up is what comes back.

use std::sync::Arc;

use crate::support::Numbers;
use crate::support::by_hand::{get, put};
use crate::support::fault_store::FaultStore;
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, back_up_stream, default, diff_v1, environment, in_memory, init_on, latest,
    options, read_back, reopen, secret, store,
};
use cuttle::ErrorKind;
use cuttle::backup::{self, BackupOptions};
use cuttle::repo::session::Session;
use cuttle::repo::{Keeper, Repository, default_project};
use object_store::ObjectStore;
use object_store::memory::InMemory;

fn filled(len: usize, seed: u64) -> Vec<u8> {
    Numbers::new(seed).bytes(len)
}

#[tokio::test]
async fn a_first_backup_holds_every_byte() {
    for len in [0, 1, 4095, 4096, 4097, 40_960, 100_001] {
        let (inner, project) = in_memory().await;
        let mut content = filled(len, 1);
        if len > 50_000 {
            content[8192..30_000].fill(0);
        }
        let volume = MemoryVolume::new(content.clone());
        let report = back_up(&project, &volume, &options("pool/image")).await.expect("backed up");
        assert!(report.full_read);
        assert_eq!(
            report.stats.new_chunks + report.stats.zero_chunks,
            (len as u64).div_ceil(u64::from(CHUNK))
        );
        let again = reopen(inner).await.expect("opened");
        let snapshot = latest(&again, "pool/image").await;
        assert_eq!(read_back(&again, &snapshot).await.expect("read"), content, "{len} bytes");
    }
}

#[tokio::test]
async fn an_incremental_reads_and_uploads_what_changed() {
    let (_, project) = in_memory().await;
    let volume = MemoryVolume::new(filled(4096 * 3000, 2));
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    volume.take_read_bytes();
    volume.edit(|c| c[4096 * 1500 + 7] ^= 1);
    let before = project.repository().store().ledger();
    let report = back_up(&project, &volume, &options("v")).await.expect("backed up");
    let ledger = project.repository().store().ledger() - before;
    assert_eq!((report.stats.new_chunks, report.full_read), (1, false));
    assert_eq!(report.parent, Some(1));
    // The chunk itself, and the sample.
    assert!(volume.take_read_bytes() <= 4096 * 16);
    // Open, chunk, leaf, end.
    assert_eq!(ledger.put_requests, 4, "{ledger:?}");
    let snapshot = latest(&project, "v").await;
    assert_eq!(read_back(&project, &snapshot).await.expect("read"), volume.content());
    assert_eq!(volume.snapshot_names().len(), 1, "one base stays");
}

#[tokio::test]
async fn nothing_changed_uploads_one_small_object() {
    let (_, project) = in_memory().await;
    let volume = MemoryVolume::new(filled(4096 * 2000, 3));
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    let before = project.repository().store().ledger();
    let report = back_up(&project, &volume, &options("v")).await.expect("backed up");
    let ledger = project.repository().store().ledger() - before;
    assert_eq!(report.stats.new_chunks, 0);
    assert_eq!(ledger.put_requests, 2, "{ledger:?}");
    // Three of them ask what was lost: of the records, of what the next snapshot builds on, and for one that is gathered.
    assert!(ledger.requests() <= 15, "{ledger:?}");
}

/// What a volume costs does not grow with how many there are: the catalog is read once, whatever a run backs up.
#[tokio::test]
async fn a_night_of_many_volumes_reads_the_catalog_once() {
    let inner = Arc::new(object_store::memory::InMemory::new());
    let repository = init_on(store(inner.clone()), CHUNK, true).await;
    let project = default(&repository).await;
    let volumes: Vec<_> =
        (0..40).map(|n| (format!("pool/{n}"), MemoryVolume::new(filled(5_000, n)))).collect();
    for (name, volume) in &volumes {
        back_up(&project, volume, &options(name)).await.expect("backed up");
    }
    let faults = FaultStore::new(inner);
    let project = reopen(Arc::new(faults.clone())).await.expect("opened");
    let asked = || faults.ops().iter().filter(|op| op.key.contains("/volumes/")).count();
    let dry = |name: &str| BackupOptions { dry_run: true, ..options(name) };
    let mut requests = Vec::new();
    for (name, volume) in &volumes {
        back_up(&project, volume, &dry(name)).await.expect("looked");
        let before = project.repository().store().ledger();
        back_up(&project, volume, &options(name)).await.expect("backed up");
        requests.push((project.repository().store().ledger() - before).requests());
    }
    assert!(requests.iter().all(|n| *n <= 15), "{requests:?}");
    // Its listing, its entries, a look for what follows, and no more with each volume.
    assert!(asked() <= volumes.len() + 8, "{}", asked());
    // One that is new is created where the catalog ends; one that another host made meanwhile is met there.
    let there = default(&repository).await;
    back_up(&there, &volumes[0].1, &options("pool/theirs")).await.expect("another host");
    let before = asked();
    back_up(&project, &volumes[1].1, &options("pool/ours")).await.expect("backed up");
    let report = back_up(&project, &volumes[0].1, &options("pool/theirs")).await.expect("backed up");
    assert_eq!(report.sequence.map(|s| s.to_string()).as_deref(), Some("2"), "the volume is theirs");
    // Two creates, of which the first met theirs, and a look at that.
    assert!(asked() - before <= 4, "{}", asked() - before);
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    let last: Vec<&str> = catalog.entries()[40..].iter().map(|v| v.name.as_str()).collect();
    assert_eq!(last, ["pool/theirs", "pool/ours"]);
}

/// What does not open and is not listed stands where the next entry would: the number after it is taken.
#[tokio::test]
async fn an_entry_that_does_not_open_and_no_listing_shows_is_stepped_over() {
    let inner = Arc::new(InMemory::new());
    init_on(store(inner.clone()), CHUNK, true).await;
    let faults = FaultStore::new(inner.clone());
    let project = reopen(Arc::new(faults.clone())).await.expect("opened");
    let volume = MemoryVolume::new(filled(5_000, 1));
    back_up(&project, &volume, &options("pool/a")).await.expect("backed up");
    put(&*inner, "projects/default/volumes/0000000002", b"rot".to_vec()).await;
    faults.hide_from_listings(|key| key.contains("/volumes/0000000002"));
    for name in ["pool/b", "pool/c", "pool/a", "pool/b"] {
        let options = options(name);
        let night = back_up(&project, &volume, &options);
        let night = tokio::time::timeout(std::time::Duration::from_secs(30), night).await;
        night.expect("it ends").expect("backed up");
    }
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    let numbers: Vec<_> = catalog.entries().iter().map(|v| (v.number.0, v.name.as_str())).collect();
    assert_eq!(numbers, [(1, "pool/a"), (3, "pool/b"), (4, "pool/c")]);
}

#[tokio::test]
async fn random_nights_come_back_as_they_were() {
    for seed in 0..12 {
        let mut numbers = Numbers::new(seed + 100);
        let (inner, project) = in_memory().await;
        let volume = MemoryVolume::new(filled(numbers.below(400_000) as usize, seed));
        let mut nights = Vec::new();
        for night in 0..8 {
            let mut opts = options("v");
            opts.full = night > 0 && numbers.below(6) == 0;
            back_up(&project, &volume, &opts).await.expect("backed up");
            nights.push(volume.content());
            volume.edit(|c| numbers.edit(c, 30_000));
        }
        let project = reopen(inner).await.expect("opened");
        let catalog = project.volumes().confirmed().await.expect("catalog");
        let snapshots = project.history(&catalog.entries()[0]).snapshots().await.expect("snapshots");
        assert_eq!(snapshots.len(), nights.len());
        for (snapshot, content) in snapshots.iter().zip(&nights) {
            let back = read_back(&project, snapshot).await.expect("read");
            assert!(back == *content, "seed {seed}, backup {}", snapshot.snapshot.sequence);
        }
    }
}

#[tokio::test]
async fn equal_chunks_are_stored_once() {
    let (_, project) = in_memory().await;
    let block = filled(4096, 9);
    let volume = MemoryVolume::new(block.repeat(50));
    let report = back_up(&project, &volume, &options("a")).await.expect("backed up");
    assert_eq!((report.stats.new_chunks, report.stats.known_chunks), (1, 49));
    // Another volume of the project finds it as well.
    let other = MemoryVolume::new(block.repeat(3));
    let report = back_up(&project, &other, &options("b")).await.expect("backed up");
    assert_eq!((report.stats.new_chunks, report.stats.known_chunks), (0, 3));
    let snapshot = latest(&project, "b").await;
    assert_eq!(read_back(&project, &snapshot).await.expect("read"), other.content());
}

#[tokio::test]
async fn a_source_that_misses_changes_is_found_out() {
    let (_, project) = in_memory().await;
    let volume = MemoryVolume::new(filled(4096 * 20, 4));
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    volume.lie_about(4096 * 7);
    volume.edit(|c| c[4096 * 7 + 1] ^= 0xff);
    let mut found = false;
    // The sample rotates: a small volume is covered within a few nights.
    for _ in 0..6 {
        let report = back_up(&project, &volume, &options("v")).await.expect("backed up");
        if report.full_read {
            assert!(report.remarks.iter().any(|n| n.contains("MISSED A CHANGE")), "{:?}", report.remarks);
            found = true;
            break;
        }
    }
    assert!(found, "the missed change was never found");
    let snapshot = latest(&project, "v").await;
    assert_eq!(read_back(&project, &snapshot).await.expect("read"), volume.content());
}

#[tokio::test]
async fn a_source_that_cannot_be_read_fails_the_backup() {
    let (_, project) = in_memory().await;
    let volume = MemoryVolume::new(filled(4096 * 30, 4));
    for nights in 0..2u32 {
        for chunk in [0, 7, 29] {
            volume.edit(|content| content[4096 * chunk as usize + 9] ^= 1);
            volume.hurt_at(Some(4096 * chunk + 5));
            let error = back_up(&project, &volume, &options("v")).await.expect_err("a broken disk");
            assert!(error.message().contains(&format!("offset {}", 4096 * chunk)), "{error}");
            assert!(error.message().contains("the disk is broken here"), "{error}");
        }
        volume.hurt_at(None);
        let report = back_up(&project, &volume, &options("v")).await.expect("backed up");
        assert_eq!(report.sequence, Some(4 * (nights + 1)), "the failed ones are aborted");
        let snapshot = latest(&project, "v").await;
        assert_eq!(read_back(&project, &snapshot).await.expect("read"), volume.content());
    }
}

#[tokio::test]
async fn the_whole_volume_is_read_every_n_backups() {
    let (_, project) = in_memory().await;
    let volume = MemoryVolume::new(filled(4096 * 20, 4));
    let mut opts = options("v");
    opts.full_every = 3;
    let mut full = Vec::new();
    for _ in 0..7 {
        full.push(back_up(&project, &volume, &opts).await.expect("backed up").full_read);
    }
    assert_eq!(full, [true, false, false, true, false, false, true]);
}

#[tokio::test]
async fn a_mixed_up_volume_is_refused_and_named() {
    let (_, project) = in_memory().await;
    let volume = MemoryVolume::new(filled(4096 * 4, 4));
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    volume.become_another();
    let error = back_up(&project, &volume, &options("v")).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.message().contains("image-1") && error.message().contains("image-2"), "{error}");
    assert_eq!(volume.snapshot_names().len(), 1, "the base of the last good backup stays");
    let mut opts = options("v");
    opts.accept_new_identity = true;
    let report = back_up(&project, &volume, &opts).await.expect("accepted");
    assert!(report.full_read && report.stats.new_chunks == 0);
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let (inner, project) = in_memory().await;
    let volume = MemoryVolume::new(filled(4096 * 4, 4));
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    volume.edit(|c| c[0] ^= 1);
    let names = |inner: Arc<object_store::memory::InMemory>| async move {
        use futures::TryStreamExt;
        let all: Vec<_> = inner.list(None).try_collect().await.expect("listed");
        all.len()
    };
    let before = names(inner.clone()).await;
    let mut opts = options("v");
    opts.dry_run = true;
    let report = back_up(&project, &volume, &opts).await.expect("counted");
    assert_eq!((report.stats.new_chunks, report.sequence), (1, None));
    assert_eq!(names(inner).await, before);
    assert_eq!(volume.snapshot_names().len(), 1);
}

/// A name, what happens to the volume before it, and how it is backed up.
type Night = (&'static str, fn(&MemoryVolume), BackupOptions);

/// What a dry run shows is decided by the same facts as what is then done: night after night, whatever happened before.
#[tokio::test]
async fn a_dry_run_shows_the_plan_that_is_then_carried_out() {
    let (_, project) = in_memory().await;
    let volume = MemoryVolume::new(filled(4096 * 300, 4));
    let usual = options("v");
    let nights: [Night; 6] = [
        ("the first", |_| (), usual.clone()),
        ("one change", |volume| volume.edit(|c| c[4096 * 7] ^= 1), usual.clone()),
        ("grown in a chunk", |volume| volume.edit(|c| c.resize(4096 * 301 + 5, 9)), usual.clone()),
        ("cut, and zeroed", |volume| volume.edit(|c| c[..8192].fill(0)), usual.clone()),
        ("asked for", |volume| volume.edit(|c| c.truncate(4096 * 100 + 1)), {
            BackupOptions { full: true, ..usual.clone() }
        }),
        ("another one", |volume| volume.become_another(), {
            BackupOptions { accept_new_identity: true, ..usual.clone() }
        }),
    ];
    for (what, change, opts) in nights {
        change(&volume);
        let dry = BackupOptions { dry_run: true, ..opts.clone() };
        let shown = back_up(&project, &volume, &dry).await.expect(what);
        let done = back_up(&project, &volume, &opts).await.expect(what);
        assert_eq!(shown.plan, done.plan, "{what}");
        assert_eq!((shown.stats, &shown.remarks), (done.stats, &done.remarks), "{what}");
        assert_eq!((shown.full_read, shown.parent), (done.full_read, done.parent), "{what}");
    }
    for diff in [
        diff_v1(None, "one", 4096 * 9 + 7, &[(5000, vec![3; 9000])]),
        diff_v1(Some("one"), "two", 4096 * 5, &[(4096, vec![4; 10]), (8192, vec![0; 4096])]),
    ] {
        let dry = BackupOptions { dry_run: true, ..options("s") };
        let shown = back_up_stream(&project, diff.clone(), &dry).await.expect("counted");
        let done = back_up_stream(&project, diff, &options("s")).await.expect("backed up");
        assert_eq!((&shown.plan, shown.size_bytes), (&done.plan, done.size_bytes));
        assert_eq!(shown.stats, done.stats);
    }
}

#[tokio::test]
async fn wrong_secrets_open_nothing() {
    let (inner, _) = in_memory().await;
    let store = crate::support::repo::store(inner);
    let mut wrong = || Ok(cuttle::keys::Unlock::KeyFile(vec![8; 32].into()));
    let opened = cuttle::repo::Repository::open(store, crate::support::repo::environment(), &mut wrong).await;
    assert_eq!(opened.err().map(|e| e.kind()), Some(ErrorKind::WrongKey));
}

async fn stream(project: &cuttle::repo::Keeper, bytes: Vec<u8>) -> cuttle::Result<backup::BackupReport> {
    // These are of any size on purpose.
    let options = backup::BackupOptions { accept_smaller: true, ..options("s") };
    back_up_stream(project, bytes, &options).await
}

#[tokio::test]
async fn raw_streams_come_back() {
    let (_, project) = in_memory().await;
    for (seed, len) in [(1, 50_000), (2, 50_000), (3, 4096 * 20), (4, 10), (5, 70_001)] {
        let content = filled(len, seed);
        stream(&project, content.clone()).await.expect("backed up");
        let snapshot = latest(&project, "s").await;
        assert_eq!(read_back(&project, &snapshot).await.expect("read"), content, "{len} bytes");
    }
    let error = stream(&project, Vec::new()).await.expect_err("an empty pipe is a failed command");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let content = filled(4096 * 9 + 5, 7);
    stream(&project, content.clone()).await.expect("backed up");
    let report = stream(&project, content).await.expect("backed up");
    assert_eq!(report.stats.new_chunks, 0, "the same stream again uploads nothing");
}

#[tokio::test]
async fn diff_streams_patch_the_parent() {
    for seed in 0..10 {
        let mut numbers = Numbers::new(seed);
        let (_, project) = in_memory().await;
        let mut content = vec![0; 300_000];
        let mut last = None;
        for night in 0..8 {
            let to = format!("snap{night}");
            let size = match numbers.below(3) {
                0 => numbers.below(500_000) as usize,
                _ => content.len(),
            };
            content.resize(size, 0);
            // Disjoint extents in a random order: what a slow diff of a busy image looks like at its worst.
            let mut extents = Vec::new();
            let mut at = 0;
            loop {
                at += numbers.below(60_000) as usize;
                let len = 1 + numbers.below(30_000) as usize;
                if at + len > size {
                    break;
                }
                let data = if numbers.below(3) == 0 { vec![0; len] } else { numbers.bytes(len) };
                content[at..at + len].copy_from_slice(&data);
                extents.push((at as u64, data));
                at += len;
            }
            if numbers.below(2) == 0 {
                for i in (1..extents.len()).rev() {
                    extents.swap(i, numbers.below(i as u64 + 1) as usize);
                }
            }
            let bytes = diff_v1(last.as_deref(), &to, size as u64, &extents);
            stream(&project, bytes).await.expect("backed up");
            let snapshot = latest(&project, &format!("s@{to}")).await;
            let back = read_back(&project, &snapshot).await.expect("read");
            assert!(back == content, "seed {seed}, night {night}");
            last = Some(to);
        }
    }
}

#[tokio::test]
async fn a_diff_on_the_wrong_parent_is_refused() {
    let (_, project) = in_memory().await;
    let first = diff_v1(Some("a"), "b", 4096, &[(0, vec![1])]);
    let error = stream(&project, first).await.expect_err("no parent");
    assert!(error.message().contains("\"a\"") && error.message().contains("no backup yet"), "{error}");
    stream(&project, diff_v1(None, "b", 4096, &[(0, vec![1])])).await.expect("full");
    let error = stream(&project, diff_v1(Some("a"), "c", 4096, &[])).await.expect_err("wrong parent");
    assert!(error.message().contains("\"a\"") && error.message().contains("\"b\""), "{error}");
    assert_eq!(latest(&project, "s").await.snapshot.point.expect("named").name, "b");
}

#[tokio::test]
async fn a_cut_stream_commits_nothing() {
    let (_, project) = in_memory().await;
    let whole = diff_v1(None, "b", 40_960, &[(0, filled(30_000, 1))]);
    for cut in [13, 30, 1000, whole.len() - 1] {
        let error = stream(&project, whole[..cut].to_vec()).await.expect_err("cut");
        assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
    }
    assert!(project.volumes().snapshot("s").await.is_err());
    let catalog = project.volumes().confirmed().await.expect("catalog");
    let log = project.log(catalog.entries()[0].number).confirmed().await.expect("log");
    assert_eq!(log.unfinished().count(), 0, "every failed backup has its outcome");
}

/// A store that takes every create for a put: nothing that is there may be overwritten all the same.
#[tokio::test]
async fn where_a_store_overwrites_cuttle_looks_first() {
    let objects = Arc::new(InMemory::new());
    let faults = FaultStore::new(objects.clone());
    faults.ignore_conditions();
    let repository = init_on(store(Arc::new(faults.clone())), CHUNK, true).await;
    assert!(!repository.record().create_if_absent, "the probe noticed");
    let project = "projects/default/project";
    let before = get(&*objects, project).await;
    let opened = Repository::open(store(Arc::new(faults)), environment(), &mut || Ok(secret())).await;
    for repository in [repository, opened.expect("opened")] {
        let made = repository.create_project(&default_project()).await;
        assert_eq!(made.err().map(|e| e.kind()), Some(ErrorKind::Conflict));
        assert!(get(&*objects, project).await == before, "the project's key is what it was");
    }
}

/// Registers a backup as another host would that is still at it.
async fn begun(project: &Keeper) -> Session {
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    Session::register(project, catalog.entries().first().expect("a volume")).await.expect("registered")
}

#[tokio::test]
async fn a_volume_that_another_session_is_at_is_left_to_it() {
    let (_, project) = in_memory().await;
    let volume = MemoryVolume::new(filled(3 * CHUNK as usize, 5));
    back_up(&project, &volume, &options("v")).await.expect("the first");
    let other = begun(&project).await;
    let polite = BackupOptions { yields: true, ..options("v") };
    let busy = back_up(&project, &volume, &polite).await.expect_err("the other is at it");
    assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
    assert!(busy.message().starts_with("in progress on "), "{busy}");
    // Of several that began at once only the first goes on; the others left their outcome.
    back_up(&project, &volume, &options("v")).await.expect("whoever does not ask is not kept");
    other.abort("enough").await.expect("aborted");
    back_up(&project, &volume, &polite).await.expect("nobody is at it any more");
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    let log = project.log(catalog.entries()[0].number).confirmed().await.expect("a log");
    assert_eq!(log.unfinished().count(), 0, "who yields leaves an outcome");
}
