//! Stores that take nothing more, for their size or for the number of objects: what is forgotten can be, and is deleted.

use std::sync::Arc;
use std::time::Duration;

use cuttle::ErrorKind;
use cuttle::cancel::Cancel;
use cuttle::forget;
use cuttle::prune::PruneOptions;

use super::world::{World, connect, prune_on, store};
use crate::support::by_hand::names;
use crate::support::fault_store::{Fault, FaultStore, OpKind};
use crate::support::repo::environment;

const RESERVE: &str = "projects/default/reserve/";

/// With something to delete.
async fn world() -> World {
    let mut world = World::usual().await;
    world.project().await.reserve().fill().await.expect("there is room");
    world.forget("pool/a", 1).await;
    world.prune().await;
    world.edit("pool/b");
    world.back_up("pool/b").await;
    world.forget("pool/a", 2).await;
    world.forget("pool/b", 1).await;
    world
}

async fn project_on(faults: &FaultStore) -> cuttle::repo::Keeper {
    connect(Arc::new(faults.clone()), environment()).await.expect("opened")
}

async fn no_reserve(world: &World) {
    let faults = world.faults();
    let store = store(Arc::new(faults));
    for name in names(&*world.objects, RESERVE).await {
        store.delete(&name).await.expect("deleted");
    }
}

#[tokio::test]
async fn a_store_that_is_full_at_any_request_is_pruned_all_the_same() {
    let world = world().await;
    let requests = {
        let (world, faults) = (world.fork(), world.fork().faults());
        let project = project_on(&faults).await;
        let before = faults.ops().len();
        prune_on(&project, world.options()).await.expect("pruned");
        faults.ops().len() - before
    };
    for k in 0..requests {
        let context = format!("full at request {k} of {requests}");
        let world = world.fork();
        let faults = world.faults();
        let project = project_on(&faults).await;
        faults.full_after(k);
        let report = prune_on(&project, world.options()).await;
        let report = report.unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(report.deleted().objects > 0 && report.rounds_joined == 0, "{context}: {report:?}");
        world.check(&context).await;
        world.check_tidy(&context).await;
        // What is free now may be too little for all of the reserve.
        let filled = project.reserve().fill().await;
        assert!(filled.is_ok() || filled.is_err_and(|e| e.kind() == ErrorKind::NoSpace), "{context}");
        world.project().await.reserve().fill().await.expect("there is room");
        assert_eq!(names(&*world.objects, RESERVE).await.len(), 8, "{context}");
    }
}

/// A round that has decided what it deletes, and could not.
async fn sealed_world() -> World {
    let world = world().await;
    no_reserve(&world).await;
    let faults = world.faults();
    let project = project_on(&faults).await;
    faults
        .fail_always_for(|op| op.kind == OpKind::Delete && op.key.contains("/chunks/"), Fault::TimeoutBefore);
    prune_on(&project, world.options()).await.expect_err("nothing can be deleted");
    world
}

/// Whoever else writes there takes the room as it comes; and to delete a thing once more frees nothing.
#[tokio::test]
async fn where_all_that_is_freed_is_taken_by_others_it_ends() {
    let world = sealed_world().await;
    let faults = world.faults();
    let project = project_on(&faults).await;
    faults.fail_always_for(|op| matches!(op.kind, OpKind::Create | OpKind::Put), Fault::Status(507));
    let pruned = tokio::time::timeout(Duration::from_secs(30), prune_on(&project, world.options())).await;
    let error = pruned.expect("it ends").expect_err("its end cannot be written");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.help_text().is_some_and(|help| !help.contains("freed so far: 0 bytes")), "{error:?}");
    world.check("full").await;
    world.prune().await;
    world.check_tidy("room").await;
}

#[tokio::test]
async fn what_an_earlier_seal_lets_go_of_needs_no_room() {
    let world = sealed_world().await;
    let faults = world.faults();
    let project = project_on(&faults).await;
    faults.full_after(0);
    let report = prune_on(&project, world.options()).await.expect("pruned");
    assert!(report.deleted_chunks.objects > 0, "{report:?}");
    world.check("full").await;
    world.check_tidy("full").await;
}

#[tokio::test]
async fn without_any_room_it_says_what_it_takes() {
    let world = world().await;
    no_reserve(&world).await;
    let faults = world.faults();
    let project = project_on(&faults).await;
    faults.full_after(0);
    let error = prune_on(&project, world.options()).await.expect_err("there is no room");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.help_text().is_some_and(|help| help.contains("freed so far: 0 bytes")), "{error:?}");
    world.check("no room").await;
    world.prune().await;
    world.check_tidy("room").await;
}

#[tokio::test]
async fn in_a_full_store_snapshots_are_forgotten_and_backups_given_up() {
    let mut world = world().await;
    let faults = world.faults();
    let project = project_on(&faults).await;
    faults.full_after(0);
    // It is not waited for afterwards.
    world.edit("pool/b");
    let error = world.back_up_in(&project, "pool/b").await.expect_err("there is no room");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    let mut forgotten = 0;
    for (volume, sequence) in [("pool/a", 3), ("pool/b", 2), ("pool/b", 3)] {
        let name = [format!("{volume}@{sequence}")];
        let report = forget::by_name(&project, &name, false, Cancel::never()).await.expect("asked");
        if report.ok() {
            world.expected.remove(&(volume.to_owned(), sequence));
            forgotten += 1;
        }
    }
    assert!(forgotten >= 1, "{forgotten}");
    let left = names(&*world.objects, RESERVE).await.len();
    assert!(left >= 5, "{left} pieces are left for the prune");
    let options = PruneOptions { wait: false, ..world.options() };
    let report = prune_on(&project, options).await.expect("pruned");
    assert!(!report.round_open && report.deleted_chunks.objects > 0, "{report:?}");
    world.check("full").await;
    world.check_tidy("full").await;
}
