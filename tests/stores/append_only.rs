//! Hosts that may only add objects: they back up, restore, verify, tag and forget, and can undo nobody's backups.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::Numbers;
use crate::support::buckets::{S3, fresh};
use crate::support::by_hand::{get, names, put};
use crate::support::fault_store::{FaultStore, Known};
use crate::support::memory_sink::MemoryReader;
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, default, hasty, init_on, latest, options, read_back, reopen, verify,
};
use bytes::Bytes;
use cuttle::ErrorKind;
use cuttle::cancel::Cancel;
use cuttle::progress::Silent;
use cuttle::repo::Keeper;
use cuttle::store::{Created, Store};
use cuttle::verify::VerifyOptions;
use cuttle::verify::repair::{self, RepairOptions, Source, Sources};
use object_store::memory::InMemory;

const C: usize = CHUNK as usize;

async fn all(memory: &InMemory) -> BTreeMap<String, Bytes> {
    let mut all = BTreeMap::new();
    for name in names(memory, "").await {
        let bytes = get(memory, &name).await;
        all.insert(name, bytes);
    }
    all
}

async fn verified(project: &Keeper) -> bool {
    verify(project, true).await.expect("verified").ok()
}

/// Some nights of a volume: each snapshot is read back whole.
async fn nights(project: &Keeper, volume: &str, count: usize) {
    let source = MemoryVolume::new(Numbers::new(1).bytes(40 * C));
    for night in 0..count {
        back_up(project, &source, &options(volume)).await.expect("backed up");
        let snapshot = latest(project, volume).await;
        assert_eq!(read_back(project, &snapshot).await.expect("read"), source.content());
        // What one night has, the next has in another place: a create that finds the chunk.
        source.edit(|content| content.rotate_right((night + 1) * C));
    }
}

#[tokio::test]
async fn who_may_only_add_backs_up_restores_verifies_and_forgets() {
    for known in [Known::Exists, Known::Denied] {
        let memory = Arc::new(InMemory::new());
        let faults = FaultStore::new(memory.clone());
        let store = Store::with_object_store(Arc::new(faults.clone()), hasty());
        init_on(store.clone(), CHUNK, true).await;
        faults.append_only(known);
        let project = reopen(Arc::new(faults.clone())).await.expect("opened");
        let before = all(&memory).await;
        nights(&project, "v", 3).await;
        nights(&project, "w", 2).await;
        assert!(verified(&project).await);
        let forgotten = ["v@1".to_owned()];
        cuttle::forget::by_name(&project, &forgotten, false, Cancel::never()).await.expect("forgotten");
        assert!(project.volumes().snapshot("v@1").await.is_err());
        assert!(verified(&project).await);
        let after = all(&memory).await;
        assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "{known:?}");
        assert_eq!(store.delete("repository").await.expect_err("refused").kind(), ErrorKind::Denied);
        assert_eq!(all(&memory).await, after);
    }
}

#[tokio::test]
async fn a_create_that_is_refused_tells_what_is_there() {
    let memory = Arc::new(InMemory::new());
    let faults = FaultStore::new(memory.clone());
    let store = Store::with_object_store(Arc::new(faults.clone()), hasty());
    faults.append_only(Known::Denied);
    let (ours, theirs) = (Bytes::from_static(b"ours"), Bytes::from_static(b"theirs"));
    assert_eq!(store.create("a", ours.clone()).await.expect("created"), Created::New);
    assert_eq!(store.create("a", ours.clone()).await.expect("there"), Created::New);
    let found = Created::Exists { head: ours, size_bytes: 4 };
    assert_eq!(store.create("a", theirs.clone()).await.expect("there"), found);
    assert_eq!(store.replace("a", theirs).await.expect_err("refused").kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_repair_by_who_may_only_add_brings_back_what_is_missing_and_no_more() {
    let memory = Arc::new(InMemory::new());
    let faults = FaultStore::new(memory.clone());
    init_on(Store::with_object_store(Arc::new(faults.clone()), hasty()), CHUNK, true).await;
    faults.append_only(Known::Exists);
    let project = reopen(Arc::new(faults.clone())).await.expect("opened");
    let content = Numbers::new(3).bytes(4 * C);
    back_up(&project, &MemoryVolume::new(content.clone()), &options("v")).await.expect("backed up");
    let chunks = names(&*memory, "projects/default/chunks/").await;
    put(&*memory, &chunks[0], "rotten").await;
    crate::support::by_hand::delete(&*memory, &chunks[1]).await;
    let named = vec![Source { label: "v".into(), reader: MemoryReader::of(content) }];
    let sources = Sources { named, ..Sources::default() };
    let verify = VerifyOptions { read_data: true, ..VerifyOptions::default() };
    let options = RepairOptions { verify, sources, dry_run: false };
    let report = repair::run(&project, options, Arc::new(Silent), Cancel::never()).await.expect("looked");
    assert_eq!((report.ok(), report.mended.len(), report.left.len()), (false, 1, 1));
    assert_eq!((&report.mended[0].object, &report.left[0].object), (&chunks[1], &chunks[0]));
    assert!(report.left[0].why.contains("403"), "{}", report.left[0].why);
    assert_eq!(get(&*memory, &chunks[0]).await, "rotten");
}

#[tokio::test]
async fn what_is_locked_is_not_deleted_and_what_is_deleted_can_be_had_back() {
    let Some(s3) = S3::on_moto() else { return };
    let bucket = fresh("locked");
    s3.create_locking_bucket(&bucket).await;
    let store = Store::open(&s3.config(&bucket, "ceph")).expect("a store");
    let project = default(&init_on(store.clone(), CHUNK, true).await).await;
    nights(&project, "v", 2).await;
    s3.lock_all(&bucket, "ceph/projects/default/chunks/").await;
    let chunks = store.list("projects/default/chunks/", None).await.expect("listed");
    assert_eq!(chunks.len(), 40);
    let versions = s3.versions(&bucket, "ceph/projects/default/chunks/").await;
    assert_eq!(versions.len(), 40);
    for (key, version) in &versions {
        let refused = s3.request("DELETE", &format!("{bucket}/{key}?versionId={version}"), &[], "").await;
        assert_eq!(refused.status(), http::StatusCode::FORBIDDEN, "{key}");
    }
    assert!(verified(&project).await);

    // A plain delete hides the object behind a marker; without the marker it is there again.
    let victim = &chunks[7].key;
    store.delete(victim).await.expect("deleted");
    assert!(store.get(victim, 1 << 20).await.expect("asked").is_none());
    assert!(!verified(&project).await);
    let markers = s3.deletions(&bucket, &format!("ceph/{victim}")).await;
    let [(key, marker)] = &markers[..] else { panic!("{markers:?}") };
    let undone = s3.request("DELETE", &format!("{bucket}/{key}?versionId={marker}"), &[], "").await;
    assert!(undone.status().is_success(), "{}", undone.status());
    assert!(verified(&project).await);
}

#[tokio::test]
async fn prune_leaves_what_is_locked_and_its_deletions_can_be_undone() {
    let Some(s3) = S3::on_moto() else { return };
    let bucket = fresh("locked-prune");
    s3.create_locking_bucket(&bucket).await;
    let store = Store::open(&s3.config(&bucket, "ceph")).expect("a store");
    let project = default(&init_on(store.clone(), CHUNK, true).await).await;
    let source = MemoryVolume::new(Numbers::new(5).bytes(20 * C));
    for night in 0..2u8 {
        back_up(&project, &source, &options("v")).await.expect("backed up");
        source.edit(|content| content[..10 * C].iter_mut().for_each(|b| *b ^= night + 1));
    }
    let chunks = "ceph/projects/default/chunks/";
    s3.lock_all(&bucket, chunks).await;
    let locked = s3.versions(&bucket, chunks).await;
    assert_eq!(locked.len(), 30);
    let first = ["v@1".to_owned()];
    cuttle::forget::by_name(&project, &first, false, Cancel::never()).await.expect("forgotten");
    let prune = async || {
        let options = cuttle::prune::PruneOptions::default();
        cuttle::prune::run(&project, options, Arc::new(Silent), Cancel::never()).await.expect("pruned")
    };
    // Each is either refused or hidden; no version is gone, and nothing fails.
    let report = prune().await;
    assert_eq!(report.deleted_chunks.objects + report.locked.objects, 10, "{report:?}");
    assert_eq!(report.rounds_finished, 1);
    assert_eq!(s3.versions(&bucket, chunks).await, locked);
    assert!(verified(&project).await);

    let hidden = s3.deletions(&bucket, chunks).await;
    assert_eq!(hidden.len() as u64, report.deleted_chunks.objects);
    for (key, marker) in &hidden {
        let undone = s3.request("DELETE", &format!("{bucket}/{key}?versionId={marker}"), &[], "").await;
        assert!(undone.status().is_success(), "{}", undone.status());
    }
    assert_eq!(store.list("projects/default/chunks/", None).await.expect("listed").len(), 30);
    assert!(verified(&project).await);
    let again = prune().await;
    assert_eq!(again.deleted_chunks.objects + again.locked.objects, 10, "{again:?}");
    assert!(verified(&project).await);
}
