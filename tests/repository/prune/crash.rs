//! A prune that stops for good at any request; two that meet at any request; the next one that finds what they left.

use std::sync::Arc;

use cuttle::prune::PruneOptions;

use super::world::{World, connect, prune_on};
use crate::support::fault_store::{FAULTS, Fault, gate_at, held};
use crate::support::repo::environment;

async fn world() -> World {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    world.prune().await;
    world.edit("pool/b");
    world.back_up("pool/b").await;
    world.forget("pool/a", 2).await;
    world.forget("pool/b", 1).await;
    world
}

async fn requests(world: &World) -> usize {
    let world = world.fork();
    let faults = world.faults();
    let project = connect(Arc::new(faults.clone()), environment()).await.expect("opened");
    prune_on(&project, world.options()).await.expect("pruned");
    faults.ops().len()
}

#[tokio::test]
async fn after_a_kill_at_any_request_all_is_readable_and_the_next_prune_finishes() {
    let world = world().await;
    let requests = requests(&world).await;
    for landed in [false, true] {
        for k in 4..requests {
            let context = format!("killed at request {k} of {requests}, landed: {landed}");
            let mut world = world.fork();
            let faults = world.faults();
            if landed {
                faults.fail_at(k, Fault::TimeoutAfter);
            }
            faults.fail_from(k + usize::from(landed), Fault::TimeoutBefore);
            let project = connect(Arc::new(faults), environment()).await.expect(&context);
            let _ = prune_on(&project, world.options()).await;
            world.check(&context).await;
            // Backups do not mind.
            world.edit("pool/a");
            world.back_up("pool/a").await;
            world.check(&context).await;
            world.prune().await;
            world.check(&context).await;
            // A probe may be left, which goes when it is old.
            world.timed.advance_ms(25 * 3_600_000);
            world.prune().await;
            world.check(&context).await;
            world.check_tidy(&context).await;
        }
    }
}

#[tokio::test]
async fn whatever_goes_wrong_once_the_prune_succeeds_or_says_why() {
    let world = world().await;
    let requests = requests(&world).await;
    for fault in FAULTS {
        for k in 4..requests {
            let context = format!("{fault:?} at request {k}");
            let world = world.fork();
            let faults = world.faults();
            faults.fail_at(k, fault);
            let project = connect(Arc::new(faults), environment()).await.expect(&context);
            let done = prune_on(&project, world.options()).await;
            if let Err(error) = done {
                panic!("{context}: {error}");
            }
            world.check(&context).await;
            world.check_tidy(&context).await;
        }
    }
}

/// benji#119. One prune is held at every request; meanwhile another does all there is to do, once or twice, with a backup and a
/// forget in between.
#[tokio::test]
async fn benji_119_two_prunes_at_once_however_they_meet() {
    let world = world().await;
    let requests = requests(&world).await;
    for again in [false, true] {
        for k in 4..requests {
            let context = format!("held at request {k} of {requests}, again: {again}");
            let mut world = world.fork();
            let faults = world.faults();
            let project = connect(Arc::new(faults.clone()), environment()).await.expect(&context);
            let (gate, options) = (gate_at(&faults, k - 4), world.options());
            let (done, reached) = held(prune_on(&project, options), gate, async {
                world.prune().await;
                world.check(&context).await;
                if again {
                    world.edit("pool/a");
                    world.back_up("pool/a").await;
                    world.forget("pool/a", 3).await;
                    world.edit("pool/b");
                    world.back_up("pool/b").await;
                    world.forget("pool/b", 2).await;
                    world.prune().await;
                    world.check(&context).await;
                }
            })
            .await;
            assert!(reached, "{context}: it never came to the gate");
            world.check(&context).await;
            done.unwrap_or_else(|e| panic!("{context}: {e}"));
            world.prune().await;
            world.check(&context).await;
            world.check_tidy(&context).await;
        }
    }
}

/// Each goes as far as the other's step allows, in turns.
#[tokio::test]
async fn prunes_in_lockstep_finish_one_round_together() {
    for seed in 0..20 {
        let world = world().await.fork();
        let (a, b) = (world.project().await, world.project().await);
        let options = || PruneOptions { condemned_max: 5 + seed % 3, ..world.options() };
        let (one, two) = tokio::join!(prune_on(&a, options()), prune_on(&b, options()));
        let (one, two) = (one.expect("pruned"), two.expect("pruned"));
        assert!(one.rounds_finished + two.rounds_finished > 0, "{one:?} {two:?}");
        world.check("in lockstep").await;
        world.prune().await;
        world.check_tidy("in lockstep").await;
    }
}

/// A run of several rounds, between two of which somebody else's round deletes what this one saw referenced: its seals must
/// not offer that to new volumes.
#[tokio::test]
async fn what_anothers_round_deleted_is_offered_to_nobody() {
    let mut world = world().await;
    let old = world.volume("pool/a").content();
    world.edit("pool/a");
    world.back_up("pool/a").await;
    let options = |world: &World| PruneOptions { condemned_max: 2, ..world.options() };
    let requests = {
        let world = world.fork();
        let faults = world.faults();
        let project = connect(Arc::new(faults.clone()), environment()).await.expect("opened");
        let report = prune_on(&project, options(&world)).await.expect("pruned");
        assert!(report.rounds_begun > 2, "{report:?}");
        faults.ops().len()
    };
    for k in 0..requests - 4 {
        let context = format!("held at request {k} of {requests}");
        let mut world = world.fork();
        let faults = world.faults();
        let project = connect(Arc::new(faults.clone()), environment()).await.expect(&context);
        let (done, reached) = held(prune_on(&project, options(&world)), gate_at(&faults, k), async {
            world.forget("pool/a", 3).await;
            world.prune().await;
            // Something for another round of the held one.
            world.forget("pool/b", 2).await;
        })
        .await;
        assert!(reached, "{context}");
        done.unwrap_or_else(|e| panic!("{context}: {e}"));
        world.volume("pool/late").edit(|c| *c = old.clone());
        world.back_up("pool/late").await;
        world.check(&context).await;
    }
}
