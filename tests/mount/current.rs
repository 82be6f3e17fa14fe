//! What is there now: new backups are seen, known ones cost nothing, a store that is away hides nothing.

use cuttle::ErrorKind;
use cuttle::mount::current::{Current, REFRESH_INTERVAL, Which};
use cuttle::repo::Project;
use cuttle::units::Sequence;
use object_store::ObjectStoreExt;

use crate::support::repo::{MemoryVolume, back_up, in_memory, options};

async fn sequences(current: &Current, volume: &str) -> Vec<u32> {
    let volumes = current.volumes().await.expect("volumes");
    let Some(volume) = volumes.iter().find(|v| v.name == volume) else { return Vec::new() };
    current.snapshots(volume).await.expect("snapshots").iter().map(|s| s.snapshot.sequence.0).collect()
}

async fn another(project: &Project, volume: &str) {
    back_up(project, &MemoryVolume::new(vec![1; 5000]), &options(volume)).await.expect("a backup");
}

#[tokio::test(start_paused = true)]
async fn new_backups_appear_and_forgotten_ones_go() {
    let (_, project) = in_memory().await;
    another(&project, "a").await;
    let current = Current::new(&project, 1 << 20);
    assert_eq!(sequences(&current, "a").await, [1]);
    another(&project, "b").await;
    another(&project, "a").await;
    assert_eq!((sequences(&current, "a").await, sequences(&current, "b").await), (vec![1], vec![]));
    tokio::time::advance(REFRESH_INTERVAL).await;
    assert_eq!((sequences(&current, "a").await, sequences(&current, "b").await), (vec![1, 2], vec![1]));
    let volumes = current.volumes().await.expect("volumes");
    let find = |which| current.find(&volumes[0], which);
    assert_eq!(find(Which::Latest).await.expect("a snapshot").snapshot.sequence, Sequence(2));
    assert_eq!(find(Which::Sequence(Sequence(1))).await.expect("a snapshot").snapshot.sequence, Sequence(1));
    let error = find(Which::Sequence(Sequence(3))).await.expect_err("no such snapshot");
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let requests = |current: &Current| current.project().repository().store().ledger().get_requests;
    tokio::time::advance(REFRESH_INTERVAL).await;
    let before = requests(&current);
    assert_eq!(sequences(&current, "a").await, [1, 2]);
    assert!(requests(&current) - before <= 4, "records that are known are not read again");
}

#[tokio::test(start_paused = true)]
async fn an_older_snapshot_never_stands_in_for_a_damaged_one() {
    let (store, project) = in_memory().await;
    another(&project, "a").await;
    another(&project, "a").await;
    let all: Vec<_> = futures::TryStreamExt::try_collect(object_store::ObjectStore::list(&*store, None))
        .await
        .expect("a list");
    let ends = all.iter().map(|m: &object_store::ObjectMeta| &m.location);
    let last = ends.filter(|l| l.as_ref().ends_with(".end")).max_by_key(|l| l.to_string()).expect("an end");
    store.put(last, bytes::Bytes::from_static(b"rot").into()).await.expect("damage");
    let reopened = crate::support::repo::reopen(store.clone()).await.expect("a project");
    let current = Current::new(&reopened, 1 << 20);
    assert_eq!(sequences(&current, "a").await, [1]);
    let volumes = current.volumes().await.expect("volumes");
    let error = current.find(&volumes[0], Which::Latest).await.expect_err("the newest is damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(current.find(&volumes[0], Which::Sequence(Sequence(1))).await.is_ok());
}
