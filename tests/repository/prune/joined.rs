//! A round that somebody else began: it deletes of what it condemned in public, whatever a prune that joins it finds.

use std::sync::Arc;

use cuttle::prune::PruneOptions;
use cuttle::units::ChunkId;

use super::world::{World, connect, prune_on};
use crate::support::fault_store::{Fault, Op, OpKind, held};
use crate::support::repo::{back_up, environment, options};

/// When a round condemned names, a snapshot was live that nobody wants any more when another prune comes: nothing
/// references its chunks. But a backup that registered since the round began takes them from the last live index, as it
/// may: they are not condemned. It commits last of all.
#[tokio::test]
async fn what_a_round_did_not_condemn_stays_whoever_carries_it_out() {
    for lost_the_race in [false, true] {
        let context = format!("lost the race to begin: {lost_the_race}");
        let mut world = World::usual().await;
        world.forget("pool/b", 1).await;
        world.prune().await;
        world.forget("pool/a", 1).await;
        world.forget("pool/a", 2).await;
        let hand = world.by_hand().await;
        let needed = hand.reachable().await;
        let condemned = hand.contents().await.into_iter().filter(|(name, _)| !needed.contains(name));
        let condemned: Vec<ChunkId> = condemned.map(|(_, name)| name.id).collect();
        assert!(!condemned.is_empty(), "{context}");
        world.forget("pool/a", 3).await;

        let content = world.volume("pool/a").content();
        let volume = world.volume("pool/late");
        volume.edit(|c| *c = content);
        let faults = world.faults();
        let mut commit = faults.gate(|op: &Op| op.kind == OpKind::Create && op.key.ends_with(".end"));
        let late = connect(Arc::new(faults), environment()).await.expect(&context);
        let late_options = options("pool/late");
        let backup = back_up(&late, &volume, &late_options);
        tokio::pin!(backup);
        let up_to_its_commit = async {
            hand.begin_round(2, &condemned).await;
            tokio::select! {
                done = &mut backup => panic!("{context}: it ended at a closed gate: {done:?}"),
                () = commit.reached() => {}
            }
        };

        let faults = world.faults();
        let begins = |op: &Op| op.kind == OpKind::Create && op.key.ends_with("/gc/0000000002.begin");
        let gate = faults.gate(begins);
        let project = connect(Arc::new(faults), environment()).await.expect(&context);
        let prune = prune_on(&project, PruneOptions { wait: false, ..world.options() });
        let pruned = match lost_the_race {
            true => {
                let (pruned, reached) = held(prune, gate, up_to_its_commit).await;
                assert!(reached, "{context}");
                pruned
            }
            false => {
                up_to_its_commit.await;
                prune.await
            }
        };
        let pruned = pruned.expect(&context);
        assert!(pruned.rounds_joined == 1 && pruned.deleted().objects > 0, "{context}: {pruned:?}");
        commit.open();
        let report = backup.await.expect(&context);
        assert_eq!(report.stats.new_chunks, 0, "{context}: all is in the live index");
        world.expected.insert(("pool/late".to_owned(), 1), volume.content());
        world.check(&context).await;
        world.prune().await;
        world.check(&context).await;
        world.check_tidy(&context).await;
    }
}

/// A filter may condemn more than was unreferenced, and a round be begun long ago: what is referenced in the end stays.
#[tokio::test]
async fn what_is_referenced_stays_though_a_round_condemned_everything() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    for marks_max in [1, 7, usize::MAX] {
        let world = world.fork();
        let hand = world.by_hand().await;
        let everything: Vec<ChunkId> = hand.contents().await.into_values().map(|name| name.id).collect();
        hand.begin_round(1, &everything).await;
        let options = PruneOptions { marks_max, ..world.options() };
        let report = prune_on(&world.project().await, options).await.expect("pruned");
        assert!(report.rounds_joined == 1 && report.deleted().objects > 0, "{marks_max}: {report:?}");
        world.check("all was condemned").await;
        world.check_tidy("all was condemned").await;
    }
}

/// What was condemned is written anew, under the same id, by a backup that nothing references yet: it is of the round's own
/// generation, and none of its business.
#[tokio::test]
async fn what_is_written_anew_beside_a_round_stays() {
    let mut world = World::usual().await;
    let hand = world.by_hand().await;
    let everything: Vec<ChunkId> = hand.contents().await.into_values().map(|name| name.id).collect();
    hand.begin_round(1, &everything).await;
    world.forget("pool/a", 1).await;
    let (volume, late_options) = (world.volume("pool/a"), options("pool/a"));
    let faults = world.faults();
    let mut commit = faults.gate(|op: &Op| op.kind == OpKind::Create && op.key.ends_with(".end"));
    let late = connect(Arc::new(faults), environment()).await.expect("opened");
    let backup = back_up(&late, &volume, &late_options);
    tokio::pin!(backup);
    tokio::select! {
        done = &mut backup => panic!("it ended at a closed gate: {done:?}"),
        () = commit.reached() => {}
    }
    let no_wait = PruneOptions { wait: false, ..world.options() };
    let report = prune_on(&world.project().await, no_wait).await.expect("pruned");
    assert!(report.rounds_finished == 1 && report.deleted().objects > 0, "{report:?}");
    commit.open();
    assert!(backup.await.expect("backed up").stats.new_chunks > 0);
    world.expected.insert(("pool/a".to_owned(), 4), volume.content());
    world.check("written anew").await;
    world.prune().await;
    world.check("written anew").await;
    world.check_tidy("written anew").await;
}

/// A prune marks what a snapshot needs that was committed while it waited. That is forgotten before it seals, and another
/// prune, which does not see it any more, seals the round and deletes that. The first goes on with a round of its own:
/// what it marked tells nothing any more.
#[tokio::test]
async fn what_the_seal_of_another_deletes_is_offered_to_nobody() {
    let mut world = World::usual().await;
    let (volume, late_options) = (world.volume("pool/a"), options("pool/a"));
    let faults = world.faults();
    let mut commit = faults.gate(|op: &Op| op.kind == OpKind::Create && op.key.ends_with(".end"));
    let late = connect(Arc::new(faults), environment()).await.expect("opened");
    let backup = back_up(&late, &volume, &late_options);
    tokio::pin!(backup);
    tokio::select! {
        done = &mut backup => panic!("it ended at a closed gate: {done:?}"),
        () = commit.reached() => {}
    }
    for (name, sequence) in [("pool/a", 1), ("pool/a", 2), ("pool/a", 3), ("pool/b", 1)] {
        world.forget(name, sequence).await;
    }
    let dry_run = PruneOptions { dry_run: true, ..world.options() };
    let told = prune_on(&world.project().await, dry_run).await.expect("looked");
    // The round begins with half of it, and waits for the backup.
    let half = || PruneOptions {
        wait: false,
        condemned_max: told.unreferenced.objects as usize / 2,
        ..world.options()
    };
    assert!(prune_on(&world.project().await, half()).await.expect("begun").round_open);
    commit.open();
    assert_eq!(backup.await.expect("backed up").sequence, Some(4));
    world.expected.insert(("pool/a".to_owned(), 4), volume.content());

    let faults = world.faults();
    let seals = |op: &Op| op.kind == OpKind::Create && op.key.ends_with("/gc/0000000001.seal");
    let gate = faults.gate(seals);
    let project = connect(Arc::new(faults), environment()).await.expect("opened");
    let options = PruneOptions { wait: false, ..world.options() };
    let (pruned, reached) = held(prune_on(&project, options), gate, async {
        world.forget("pool/a", 4).await;
        let faults = world.faults();
        let begins = |op: &Op| op.kind == OpKind::Create && op.key.ends_with("/gc/0000000002.begin");
        faults.fail_always_for(begins, Fault::Status(403));
        let other = connect(Arc::new(faults), environment()).await.expect("opened");
        prune_on(&other, world.options()).await.expect_err("it may not begin another round");
    })
    .await;
    let pruned = pruned.expect("pruned");
    assert!(reached && pruned.rounds_begun > 0, "{pruned:?}");
    let content = volume.content();
    world.volume("pool/late").edit(|c| *c = content);
    world.back_up("pool/late").await;
    world.check("after a seal of another").await;
    world.prune().await;
    world.check_tidy("after a seal of another").await;
}
