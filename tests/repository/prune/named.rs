//! What went wrong elsewhere, by name.

use std::sync::Arc;

use cuttle::ErrorKind;
use cuttle::prune::PruneOptions;

use super::world::{World, connect, prune_on};
use crate::support::fault_store::{Fault, gate_at, held};
use crate::support::repo::environment;

const HOUR_MS: u64 = 3_600_000;

async fn with_garbage() -> World {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    world.prune().await;
    world.forget("pool/b", 1).await;
    world
}

async fn requests(world: &World) -> usize {
    let world = world.fork();
    let faults = world.faults();
    let project = connect(Arc::new(faults.clone()), environment()).await.expect("opened");
    let before = faults.ops().len();
    prune_on(&project, world.options()).await.expect("pruned");
    faults.ops().len() - before
}

/// PSA-2025-00019-1 (Proxmox Backup Server): while the mark goes on, the snapshot that it is about to read is forgotten, and
/// one is added that shares chunks with it alone.
#[tokio::test]
async fn psa_2025_00019_1_a_snapshot_forgotten_and_one_added_during_the_mark() {
    let world = with_garbage().await;
    let requests = requests(&world).await;
    for k in 0..requests {
        let context = format!("held at request {k} of {requests}");
        let mut world = world.fork();
        let faults = world.faults();
        let project = connect(Arc::new(faults.clone()), environment()).await.expect(&context);
        let (gate, options) = (gate_at(&faults, k), world.options());
        let (done, reached) = held(prune_on(&project, options), gate, async {
            // Unchanged content: the new snapshot needs what the old one needed, page for page.
            world.back_up("pool/b").await;
            world.forget("pool/b", 2).await;
            world.back_up("pool/a").await;
            world.forget("pool/a", 3).await;
        })
        .await;
        assert!(reached, "{context}");
        world.check(&context).await;
        done.unwrap_or_else(|e| panic!("{context}: {e}"));
        world.prune().await;
        world.check(&context).await;
        world.check_tidy(&context).await;
    }
}

/// restic#2715: a host sleeps for three days in the middle of a backup, at any step of it; prunes go on meanwhile.
#[tokio::test]
async fn restic_2715_a_host_sleeps_three_days_in_mid_backup() {
    let world = with_garbage().await;
    let requests = {
        let mut world = world.fork();
        let faults = world.faults();
        let project = connect(Arc::new(faults.clone()), environment()).await.expect("opened");
        let before = faults.ops().len();
        world.edit("pool/a");
        world.back_up_in(&project, "pool/a").await.expect("backed up");
        faults.ops().len() - before
    };
    let mut lost = 0;
    for k in 0..requests {
        let context = format!("asleep at request {k} of {requests}");
        let mut world = world.fork();
        let faults = world.faults();
        let project = connect(Arc::new(faults.clone()), environment()).await.expect(&context);
        world.edit("pool/a");
        let volume = world.volume("pool/a");
        let options = crate::support::repo::options("pool/a");
        let backup = crate::support::repo::back_up(&project, &volume, &options);
        let (done, reached) = held(backup, gate_at(&faults, k), async {
            world.timed.advance_ms(72 * HOUR_MS);
            world.forget("pool/a", 2).await;
            world.prune().await;
            world.forget("pool/a", 3).await;
            world.prune().await;
            world.check(&context).await;
        })
        .await;
        assert!(reached, "{context}");
        match done {
            Ok(report) => {
                let key = ("pool/a".to_owned(), report.sequence.expect("a sequence"));
                world.expected.insert(key, volume.content());
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{context}: {error}");
                lost += 1;
            }
        }
        world.check(&context).await;
        world.prune().await;
        world.check(&context).await;
        world.check_tidy(&context).await;
    }
    assert!(lost > requests / 3 && lost < requests, "{lost} of {requests} lost");
}

/// kopia#1949: the pruner sleeps for a month at any step; backups, forgets and other prunes go on, then it wakes.
#[tokio::test]
async fn kopia_1949_the_pruner_sleeps() {
    let world = with_garbage().await;
    let requests = requests(&world).await;
    for k in 0..requests {
        let context = format!("asleep at request {k} of {requests}");
        let mut world = world.fork();
        let faults = world.faults();
        let project = connect(Arc::new(faults.clone()), environment()).await.expect(&context);
        let (gate, options) = (gate_at(&faults, k), world.options());
        let (done, _) = held(prune_on(&project, options), gate, async {
            world.timed.advance_ms(30 * 24 * HOUR_MS);
            for round in 0..2 {
                world.edit("pool/a");
                let newest = world.back_up("pool/a").await.sequence.expect("a sequence");
                world.forget("pool/a", newest - 1).await;
                // A new volume takes what it can from older generations.
                let content = world.volume("pool/a").content();
                let name = format!("pool/new-{round}");
                world.volume(&name).edit(|c| *c = content);
                world.back_up(&name).await;
                world.prune().await;
            }
        })
        .await;
        world.check(&context).await;
        done.unwrap_or_else(|e| panic!("{context}: {e}"));
        world.timed.advance_ms(25 * HOUR_MS);
        world.prune().await;
        world.check(&context).await;
        world.check_tidy(&context).await;
    }
}

/// duplicacy#323: everything that is stored looks unused to a prune, as the first backup ever is still under way; and it
/// finds much of its content there already, from a first try that failed.
#[tokio::test]
async fn duplicacy_323_a_prune_against_a_first_ever_backup() {
    for failed_before in [false, true] {
        let mut world = World::new(5).await;
        world.edit("pool/a");
        if failed_before {
            let faults = world.faults();
            let project = connect(Arc::new(faults.clone()), environment()).await.expect("opened");
            faults.fail_always_for(|op| op.key.contains("/pages/"), Fault::Status(403));
            world.back_up_in(&project, "pool/a").await.expect_err("no page was written");
            assert!(!world.by_hand().await.contents().await.is_empty());
        }
        let mut k = 0;
        loop {
            let context = format!("failed before: {failed_before}, held at request {k}");
            let mut world = world.fork();
            let faults = world.faults();
            let project = connect(Arc::new(faults.clone()), environment()).await.expect(&context);
            let volume = world.volume("pool/a");
            let options = crate::support::repo::options("pool/a");
            let backup = crate::support::repo::back_up(&project, &volume, &options);
            let no_wait = PruneOptions { wait: false, ..world.options() };
            let (done, reached) = held(backup, gate_at(&faults, k), async {
                prune_on(&world.project().await, no_wait).await.expect("looked");
            })
            .await;
            let report = done.unwrap_or_else(|e| panic!("{context}: {e}"));
            let key = ("pool/a".to_owned(), report.sequence.expect("a sequence"));
            world.expected.insert(key, volume.content());
            world.check(&context).await;
            world.prune().await;
            world.check(&context).await;
            world.check_tidy(&context).await;
            if !reached {
                break;
            }
            k += 1;
        }
        assert!(k > 10, "{k}");
    }
}
