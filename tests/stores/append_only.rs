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
use cuttle::cancel::Cancel;
use cuttle::progress::Silent;
use cuttle::repo::Keeper;
use cuttle::store::{Created, Store};
use cuttle::verify::VerifyOptions;
use cuttle::verify::repair::{self, RepairOptions, Source, Sources};
use cuttle::{ErrorKind, Result};
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

/// The bucket policy that docs/roles.md gives, for a bucket and RGW's users.
fn documented_policy(bucket: &str, is_rgw: bool) -> String {
    let page = include_str!("../../docs/roles.md");
    let (_, rest) = page.split_once("```json\n").expect("a policy");
    let (policy, _) = rest.split_once("```").expect("its end");
    let mut policy: serde_json::Value = serde_json::from_str(policy).expect("JSON");
    if is_rgw {
        // As the page says: RGW does not know the condition.
        for statement in policy["Statement"].as_array_mut().expect("a list") {
            statement.as_object_mut().expect("a statement").remove("Condition");
        }
    }
    let policy = policy.to_string().replace("BUCKET", bucket);
    ["backup-host", "pruner", "restorer"].iter().fold(policy, |policy, user| {
        policy
            .replace(&format!("arn:aws:iam::111122223333:user/{user}"), &format!("arn:aws:iam:::user/{user}"))
    })
}

#[tokio::test]
async fn rgw_gives_each_role_what_the_docs_say_and_no_more() {
    let Some(owner) = S3::on_rgw() else { return };
    let bucket = fresh("roles");
    owner.create_bucket(&bucket).await;
    let answer =
        owner.request("PUT", &format!("{bucket}?policy="), &[], &documented_policy(&bucket, true)).await;
    assert!(answer.status().is_success(), "{}", answer.status());
    let store = |key: &str, secret: &str| {
        Store::open(&S3::new(&owner.endpoint, key, secret).config(&bucket, "ceph")).expect("a store")
    };
    let (host, pruner, restorer) =
        (store("AKHOST", "SKHOST"), store("AKPRUNE", "SKPRUNE"), store("AKRESTORE", "SKRESTORE"));
    let open = async |store: &Store| {
        let mut secret = || Ok(crate::support::repo::secret());
        let environment = crate::support::repo::environment();
        let opened = cuttle::repo::Repository::open(store.clone(), environment, &mut secret).await;
        default(&opened.expect("opened")).await
    };
    init_on(pruner.clone(), CHUNK, true).await;
    let project = open(&host).await;
    nights(&project, "v", 2).await;
    let forgotten = ["v@1".to_owned()];
    cuttle::forget::by_name(&project, &forgotten, false, Cancel::never()).await.expect("forgotten");
    assert!(verified(&open(&restorer).await).await);
    let kind = |result: Result<()>| result.expect_err("refused").kind();
    for store in [&host, &restorer] {
        assert_eq!(kind(store.delete("repository").await), ErrorKind::Denied);
    }
    assert_eq!(kind(restorer.create("new", Bytes::new()).await.map(drop)), ErrorKind::Denied);
    assert_eq!(pruner.create("new", Bytes::from_static(b"new")).await.expect("created"), Created::New);
    pruner.delete("new").await.expect("deleted");
    assert!(verified(&project).await);
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
