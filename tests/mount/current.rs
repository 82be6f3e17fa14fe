//! What is there now: new backups are seen, known ones cost nothing, a store that is away hides nothing.

use std::sync::Arc;

use cuttle::ErrorKind;
use cuttle::mount::current::{Current, REFRESH_INTERVAL, Which};
use cuttle::repo::Keeper;
use cuttle::units::Sequence;
use object_store::ObjectStoreExt;

use crate::support::fault_store::{Fault, FaultStore};
use crate::support::repo::{CHUNK, MemoryVolume, back_up, default, in_memory, init_on, options, store};

async fn sequences(current: &Current, volume: &str) -> Vec<u32> {
    let volumes = current.volumes().await.expect("volumes");
    let Some(volume) = volumes.iter().find(|v| v.name == volume) else { return Vec::new() };
    current.snapshots(volume).await.expect("snapshots").iter().map(|s| s.snapshot.sequence.0).collect()
}

async fn another(project: &Keeper, volume: &str) {
    back_up(project, &MemoryVolume::new(vec![1; 5000]), &options(volume)).await.expect("a backup");
}

/// Lets a listing become old. Time stands still only here: threads that compute take their own.
async fn later() {
    tokio::time::pause();
    tokio::time::advance(REFRESH_INTERVAL).await;
    tokio::time::resume();
}

#[tokio::test]
async fn new_backups_appear() {
    let (_, project) = in_memory().await;
    another(&project, "a").await;
    let current = Current::new(&project, 1 << 20);
    assert_eq!(sequences(&current, "a").await, [1]);
    another(&project, "b").await;
    another(&project, "a").await;
    assert_eq!((sequences(&current, "a").await, sequences(&current, "b").await), (vec![1], vec![]));
    later().await;
    assert_eq!((sequences(&current, "a").await, sequences(&current, "b").await), (vec![1, 2], vec![1]));
    let volumes = current.volumes().await.expect("volumes");
    let find = |which| current.find(&volumes[0], which);
    assert_eq!(find(Which::Latest).await.expect("a snapshot").snapshot.sequence, Sequence(2));
    assert_eq!(find(Which::Sequence(Sequence(1))).await.expect("a snapshot").snapshot.sequence, Sequence(1));
    let error = find(Which::Sequence(Sequence(3))).await.expect_err("no such snapshot");
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let requests = |current: &Current| current.project().repository().store().ledger().get_requests;
    later().await;
    let before = requests(&current);
    assert_eq!(sequences(&current, "a").await, [1, 2]);
    assert!(requests(&current) - before <= 4, "records that are known are not read again");
}

#[tokio::test]
async fn an_older_snapshot_never_stands_in_for_a_damaged_one() {
    let (objects, project) = in_memory().await;
    another(&project, "a").await;
    another(&project, "a").await;
    let all: Vec<_> = futures::TryStreamExt::try_collect(object_store::ObjectStore::list(&*objects, None))
        .await
        .expect("a list");
    let ends = all.iter().map(|m: &object_store::ObjectMeta| &m.location);
    let last = ends.filter(|l| l.as_ref().ends_with(".end")).max_by_key(|l| l.to_string()).expect("an end");
    objects.put(last, bytes::Bytes::from_static(b"rot").into()).await.expect("damage");
    let reopened = crate::support::repo::reopen(objects.clone()).await.expect("a project");
    let current = Current::new(&reopened, 1 << 20);
    assert_eq!(sequences(&current, "a").await, [1]);
    let volumes = current.volumes().await.expect("volumes");
    let error = current.find(&volumes[0], Which::Latest).await.expect_err("the newest is damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(current.find(&volumes[0], Which::Sequence(Sequence(1))).await.is_ok());
}

#[tokio::test]
async fn a_store_that_is_away_hides_nothing_that_was_seen() {
    let faults = Arc::new(FaultStore::new(Arc::new(object_store::memory::InMemory::new())));
    let repository = init_on(store(faults.clone()), CHUNK, true).await;
    let project = default(&repository).await;
    another(&project, "a").await;
    let current = Current::new(&project, 1 << 20);
    assert_eq!(sequences(&current, "a").await, [1]);
    later().await;
    faults.fail_always(Some(Fault::Status(403)));
    assert_eq!(sequences(&current, "a").await, [1]);
    let fresh = Current::new(&project, 1 << 20);
    assert_eq!(fresh.volumes().await.expect_err("nothing was seen").kind(), ErrorKind::Denied);
    faults.fail_always(None);
    assert_eq!(sequences(&fresh, "a").await, [1]);
}
