//! Between forgetting and deleting lies a window in which a snapshot can be recalled (repo-format.md §8.1, §8.2).

use std::time::Duration;

use cuttle::ErrorKind;
use cuttle::cancel::Cancel;
use cuttle::forget::{self, Recalled};
use cuttle::prune::PruneOptions;
use cuttle::repo::Keeper;
use cuttle::store::Ledger;
use cuttle::units::Sequence;

use super::world::{HOUR, World, connect, prune_on};
use crate::support::fault_store::{Op, OpKind, held};
use crate::support::repo::{environment, verify};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn keeping(world: &World, days: u32) -> PruneOptions {
    PruneOptions { keep_forgotten: days * DAY, ..world.options() }
}

fn later(world: &World, time: Duration) {
    world.timed.advance_ms(time.as_millis() as u64);
}

async fn recall(project: &Keeper, spec: &str) -> cuttle::Result<Recalled> {
    forget::recall(project, spec, false, Cancel::never()).await
}

/// Forgets a snapshot; what it held.
async fn forgotten(world: &mut World, name: &str, sequence: u32) -> Vec<u8> {
    let content = world.expected[&(name.to_owned(), sequence)].clone();
    world.forget(name, sequence).await;
    content
}

/// Recalls it, and the new snapshot holds what the old one did.
async fn comes_back(world: &mut World, name: &str, sequence: u32, content: Vec<u8>) {
    let project = world.project().await;
    let before = project.repository().store().ledger();
    let recalled = recall(&project, &format!("{name}@{sequence}")).await.expect("recalled");
    assert_eq!((&recalled.volume[..], recalled.from), (name, Sequence(sequence)));
    let Ledger { put_requests, .. } = project.repository().store().ledger() - before;
    assert_eq!(put_requests, 2, "`.open` and `.end`: nothing is stored again");
    world.expected.insert((name.to_owned(), recalled.sequence.expect("a new one").0), content);
    world.check("recalled").await;
    assert!(verify(&world.project().await, true).await.expect("verified").ok());
}

#[tokio::test]
async fn what_was_forgotten_comes_back_within_the_window_and_not_after() {
    let mut world = World::usual().await;
    let contents = [forgotten(&mut world, "pool/a", 1).await, forgotten(&mut world, "pool/a", 2).await];
    later(&world, HOUR);
    // Several prunes, and nights between them.
    for _ in 0..3 {
        let project = world.project().await;
        let report = prune_on(&project, keeping(&world, 14)).await.expect("pruned");
        assert_eq!((report.deleted().objects, report.kept_forgotten), (0, 2), "{report:?}");
        world.edit("pool/b");
        world.back_up("pool/b").await;
        later(&world, 2 * DAY);
    }
    world.check("kept").await;
    let [first, second] = contents;
    comes_back(&mut world, "pool/a", 1, first).await;
    // What nobody recalled goes when its time is over.
    later(&world, 9 * DAY);
    let report = prune_on(&world.project().await, keeping(&world, 14)).await.expect("pruned");
    assert!(report.deleted().objects > 0 && report.kept_forgotten == 0, "{report:?}");
    let error = recall(&world.project().await, "pool/a@2").await.expect_err("its time is over");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    world.check("over").await;
    // The records go one round later, and everything is tidy.
    world.forget("pool/b", 1).await;
    world.prune().await;
    world.check("over, and pruned").await;
    world.check_tidy("over, and pruned").await;
    drop(second);
}

/// Of two prunes the one with the shorter window decides, and what one gave up no other keeps again.
#[tokio::test]
async fn what_one_prune_gave_up_no_other_keeps_again() {
    let mut world = World::usual().await;
    forgotten(&mut world, "pool/a", 1).await;
    let content = forgotten(&mut world, "pool/a", 2).await;
    prune_on(&world.project().await, keeping(&world, 14)).await.expect("pruned");
    // One more is forgotten, so that there is something to delete.
    world.forget("pool/b", 1).await;
    prune_on(&world.project().await, keeping(&world, 0)).await.expect("pruned");
    let report = prune_on(&world.project().await, keeping(&world, 14)).await.expect("pruned");
    assert_eq!(report.kept_forgotten, 0, "{report:?}");
    for spec in ["pool/a@1", "pool/a@2", "pool/b@1"] {
        assert!(recall(&world.project().await, spec).await.is_err(), "{spec}");
    }
    drop(content);
    world.check("given up").await;
    world.check_tidy("given up").await;
}

/// A round that condemned what a snapshot needs is under way: who recalls it then is refused, whatever the round comes to.
#[tokio::test]
async fn what_a_round_under_way_condemned_is_not_recalled() {
    let mut world = World::usual().await;
    forgotten(&mut world, "pool/a", 1).await;
    let faults = world.faults();
    let gate = faults.gate(|op: &Op| op.kind == OpKind::Create && op.key.ends_with("/gc/0000000001.seal"));
    let hurried = connect(std::sync::Arc::new(faults), environment()).await.expect("opened");
    let (project, options) = (world.project().await, keeping(&world, 0));
    let (pruned, reached) = held(prune_on(&hurried, options), gate, async {
        let error = recall(&project, "pool/a@1").await.expect_err("condemned");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    })
    .await;
    assert!(reached);
    pruned.expect("pruned");
    world.check("condemned").await;
}

/// The recalled snapshot is there before the round looks what is needed: so nothing of it goes.
#[tokio::test]
async fn a_round_that_begins_after_a_recall_spares_it() {
    for days in [0, 14] {
        let mut world = World::usual().await;
        let content = forgotten(&mut world, "pool/a", 2).await;
        world.forget("pool/a", 1).await;
        prune_on(&world.project().await, keeping(&world, 14)).await.expect("pruned");
        comes_back(&mut world, "pool/a", 2, content).await;
        prune_on(&world.project().await, keeping(&world, days)).await.expect("pruned");
        world.check("spared").await;
        assert!(verify(&world.project().await, true).await.expect("verified").ok());
    }
}

/// A round that another prune began and sealed with another window is carried out as it was sealed.
#[tokio::test]
async fn a_seal_of_another_window_is_carried_out_as_it_stands() {
    for (sealed, finished) in [(0, 14), (14, 0)] {
        let mut world = World::usual().await;
        forgotten(&mut world, "pool/a", 1).await;
        let content = forgotten(&mut world, "pool/a", 2).await;
        world.forget("pool/b", 1).await;
        let faults = world.faults();
        // It stops right after its seal.
        faults.fail_always_for(
            |op: &Op| op.kind == OpKind::Delete && op.key.contains("/chunks/"),
            crate::support::fault_store::Fault::Status(500),
        );
        let stops = connect(std::sync::Arc::new(faults), environment()).await.expect("opened");
        let first = prune_on(&stops, keeping(&world, sealed)).await;
        prune_on(&world.project().await, keeping(&world, finished)).await.expect("finished");
        world.check("finished").await;
        if sealed == 14 {
            assert!(first.is_ok_and(|report| report.deleted().objects == 0), "nothing was to be deleted");
        }
        drop(content);
        assert!(verify(&world.project().await, true).await.expect("verified").ok());
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let mut world = World::usual().await;
    forgotten(&mut world, "pool/a", 1).await;
    let project = world.project().await;
    for (spec, kind) in [
        ("pool/a", ErrorKind::Invalid),
        ("pool/a@latest", ErrorKind::Invalid),
        ("pool/c@1", ErrorKind::NotFound),
        ("pool/a@3", ErrorKind::NotFound),
        ("pool/a@9", ErrorKind::NotFound),
    ] {
        for dry_run in [true, false] {
            let error = forget::recall(&project, spec, dry_run, Cancel::never()).await.expect_err(spec);
            assert_eq!(error.kind(), kind, "{spec}: {error}");
        }
    }
    world.check("nothing was done").await;
}

/// Who builds on what lives may go by the seal before where the last one does not open; who recalls may not: the lost one may have given up what that keeps.
#[tokio::test]
async fn nothing_is_recalled_where_the_last_seal_does_not_open() {
    let mut world = World::usual().await;
    world.forget("pool/b", 1).await;
    world.prune().await;
    let content = forgotten(&mut world, "pool/a", 1).await;
    let seal = "projects/default/gc/0000000001.seal";
    let whole = crate::support::by_hand::get(&*world.objects, seal).await;
    crate::support::by_hand::put(&*world.objects, seal, vec![7; 300]).await;
    let error = recall(&world.project().await, "pool/a@1").await.expect_err("nobody can tell");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    crate::support::by_hand::put(&*world.objects, seal, whole).await;
    comes_back(&mut world, "pool/a", 1, content).await;
}
