//! Nothing else goes on: what is deleted, what stays, and what it costs.

use std::collections::BTreeSet;
use std::sync::Arc;

use cuttle::format::names::ContentName;
use cuttle::prune::PruneOptions;
use cuttle::units::{ChunkId, Generation};

use super::world::{World, connect, prune_on};
use crate::support::by_hand::{names, put};
use crate::support::fault_store::OpKind;
use crate::support::repo::environment;

#[tokio::test]
async fn what_only_forgotten_snapshots_needed_goes_and_nothing_else() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    world.forget("pool/b", 2).await;
    let hand = world.by_hand().await;
    let before: BTreeSet<String> = hand.contents().await.into_keys().collect();
    let needed = hand.reachable().await;
    let garbage = before.difference(&needed).count() as u64;
    assert!(garbage > 4, "{garbage}");
    let report = world.prune().await;
    assert_eq!(report.deleted().objects, garbage, "{report:?}");
    assert_eq!((report.rounds_begun, report.rounds_finished, report.locked.objects), (1, 1, 0), "{report:?}");
    assert_eq!((report.volumes, report.snapshots), (2, Some(3)), "{report:?}");
    assert_eq!(report.stored.expect("counted").objects, before.len() as u64);
    world.check_tidy("after one prune").await;
    world.check("after one prune").await;
    // Outcomes of what was forgotten are gone, their registrations and that they were forgotten stay.
    let log = names(&*world.objects, "projects/default/log/0000000001/0000000001").await;
    let said = names(&*world.objects, "projects/default/retention/0000000001/0000000001").await;
    let kinds: Vec<&str> = said.iter().chain(&log).map(|n| n.rsplit('.').next().unwrap_or("")).collect();
    assert_eq!(kinds, ["forget", "open"]);
}

#[tokio::test]
async fn a_prune_with_nothing_to_do_writes_nothing() {
    let mut world = World::usual().await;
    world.forget("pool/a", 2).await;
    world.prune().await;
    let faults = world.faults();
    let project = connect(Arc::new(faults.clone()), environment()).await.expect("opened");
    let report = prune_on(&project, world.options()).await.expect("pruned");
    assert!(report.is_idle() && report.unreferenced.objects == 0, "{report:?}");
    let writes = faults
        .ops()
        .into_iter()
        .filter(|op| matches!(op.kind, OpKind::Create | OpKind::Put | OpKind::Delete));
    assert_eq!(writes.count(), 0);
}

#[tokio::test]
async fn a_dry_run_tells_what_would_go_and_writes_nothing() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    world.forget("pool/a", 2).await;
    let before = names(&*world.objects, "").await;
    let faults = world.faults();
    let project = connect(Arc::new(faults.clone()), environment()).await.expect("opened");
    let options = PruneOptions { dry_run: true, ..world.options() };
    let told = prune_on(&project, options).await.expect("looked");
    assert!(faults.ops().iter().all(|op| !matches!(op.kind, OpKind::Create | OpKind::Put | OpKind::Delete)));
    assert_eq!(names(&*world.objects, "").await, before);
    let done = world.prune().await;
    assert_eq!(told.unreferenced, done.deleted());
    assert_eq!(told.deletes_to_come, done.deleted().objects);
    assert!(told.dry_run && told.is_idle() && told.puts_to_come >= 6, "{told:?}");
}

/// More names than one batch of a listing has, so that what is left is cut and listed side by side.
#[tokio::test]
async fn a_large_project_is_listed_whole() {
    const LOOSE: u64 = 35_000;
    let world = World::usual().await;
    let hand = world.by_hand().await;
    let before = hand.contents().await.len() as u64;
    for n in 0..LOOSE {
        let id = ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        let name = hand.chunk_name(ContentName::plain(Generation(0), id));
        put(&*world.objects, &name.to_string(), vec![0]).await;
    }
    let report = world.prune().await;
    assert_eq!(report.stored.map(|stored| stored.objects), Some(before + LOOSE), "{report:?}");
    assert_eq!(report.deleted_chunks.objects, LOOSE, "{report:?}");
    world.check("after many were deleted").await;
}

#[tokio::test]
async fn passes_over_ranges_of_ids_come_to_the_same_and_small_rounds_follow_one_another() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    world.forget("pool/a", 2).await;
    for (marks_max, condemned_max) in [(1, usize::MAX), (7, usize::MAX), (usize::MAX, 3), (5, 4)] {
        let context = format!("{marks_max} marks, {condemned_max} condemned");
        let world = world.fork();
        let options = PruneOptions { marks_max, condemned_max, ..world.options() };
        let report = prune_on(&world.project().await, options).await.expect(&context);
        assert!(report.rounds_begun > 1 || condemned_max == usize::MAX, "{context}: {report:?}");
        world.check_tidy(&context).await;
        world.check(&context).await;
    }
}
