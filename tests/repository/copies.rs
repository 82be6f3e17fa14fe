//! Copies of a repository that went different ways have different objects under one name. What a host has kept of one of
//! them decides nothing in another.

use std::path::Path;
use std::sync::Arc;

use cuttle::cancel::Cancel;
use cuttle::progress::Silent;
use cuttle::prune::{self, PruneOptions};
use cuttle::repo::{Environment, Keeper};
use object_store::memory::InMemory;

use crate::support::Numbers;
use crate::support::repo::{
    MemoryVolume, back_up, connect, environment, in_memory, latest, options, read_back, store,
};

/// A host with a cache of its own.
async fn host(objects: &Arc<InMemory>, cache: &Path) -> Keeper {
    let environment = Environment { cache_dir: Some(cache.into()), ..environment() };
    connect(store(objects.clone()), environment).await.expect("opened")
}

fn copy_of(objects: &InMemory) -> Arc<InMemory> {
    Arc::new(objects.fork())
}

async fn night(project: &Keeper, volume: &Arc<MemoryVolume>, name: &str) {
    back_up(project, volume, &options(name)).await.expect("backed up");
}

fn write(volume: &Arc<MemoryVolume>, seed: u64) {
    volume.edit(|content| {
        let len = content.len();
        content.copy_from_slice(&Numbers::new(seed).bytes(len));
    });
}

#[tokio::test]
async fn each_copy_gives_its_own_snapshot_though_they_share_a_cache() {
    let cache = tempfile::tempdir().expect("a folder");
    let (here, _) = in_memory().await;
    let volume = MemoryVolume::new(Numbers::new(1).bytes(80_000));
    night(&host(&here, cache.path()).await, &volume, "v").await;
    let there = copy_of(&here);
    let other = volume.fork();
    for (objects, volume, seed) in [(&here, &volume, 2), (&there, &other, 3)] {
        write(volume, seed);
        let project = host(objects, cache.path()).await;
        night(&project, volume, "v").await;
        // And into the cache.
        read_back(&project, &latest(&project, "v").await).await.expect("read");
    }
    for (objects, volume) in [(&here, &volume), (&there, &other), (&here, &volume)] {
        let project = host(objects, cache.path()).await;
        let snapshot = latest(&project, "v@2").await;
        assert!(read_back(&project, &snapshot).await.expect("read") == volume.content());
    }
}

/// A disk died, an older copy took its place, and backups went on under the same numbers. Another host still has what was.
#[tokio::test]
async fn a_prune_keeps_what_the_snapshots_of_now_need_whatever_a_cache_says() {
    let cache = tempfile::tempdir().expect("a folder");
    let (died, _) = in_memory().await;
    let volume = MemoryVolume::new(Numbers::new(1).bytes(80_000));
    night(&host(&died, cache.path()).await, &volume, "v").await;
    let brought_back = copy_of(&died);
    let before = volume.fork();
    write(&volume, 2);
    let pruner = host(&died, cache.path()).await;
    night(&pruner, &volume, "v").await;
    read_back(&pruner, &latest(&pruner, "v@2").await).await.expect("read");

    write(&before, 3);
    let without_cache = crate::support::repo::reopen(brought_back.clone()).await.expect("opened");
    night(&without_cache, &before, "v").await;
    let pruner = host(&brought_back, cache.path()).await;
    let silent = Arc::new(Silent);
    prune::run(&pruner, PruneOptions::default(), silent, Cancel::never()).await.expect("pruned");
    let snapshot = latest(&without_cache, "v@2").await;
    assert!(read_back(&without_cache, &snapshot).await.expect("all is there") == before.content());
}

#[tokio::test]
async fn a_volume_has_one_entry_though_its_number_is_anothers_in_a_copy() {
    let cache = tempfile::tempdir().expect("a folder");
    let (here, _) = in_memory().await;
    let volume = MemoryVolume::new(Numbers::new(1).bytes(8_000));
    night(&host(&here, cache.path()).await, &volume, "v").await;
    let there = copy_of(&here);
    night(&host(&here, cache.path()).await, &volume, "x").await;
    night(&host(&there, cache.path()).await, &volume, "y").await;
    for objects in [&there, &here] {
        let project = host(objects, cache.path()).await;
        project.volumes().confirmed().await.expect("a catalog");
    }
    for _ in 0..2 {
        night(&host(&there, cache.path()).await, &volume, "y").await;
        night(&host(&here, cache.path()).await, &volume, "x").await;
    }
    for (objects, expected) in [(&here, ["v", "x"]), (&there, ["v", "y"])] {
        let project = crate::support::repo::reopen(objects.clone()).await.expect("opened");
        let catalog = project.volumes().confirmed().await.expect("a catalog");
        let names: Vec<&str> = catalog.entries().iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, expected);
    }
}
