//! Random histories, deltas, and what backups, verify and restore make of a prune.

use std::sync::Arc;
use std::time::Duration;

use cuttle::ErrorKind;
use cuttle::cancel::Cancel;
use cuttle::format::page::PageRef;
use cuttle::progress::Silent;
use cuttle::prune::PruneOptions;
use cuttle::restore::{self, RestoreOptions};
use cuttle::sink::Existing;
use cuttle::units::ChunkId;
use cuttle::verify::{self, VerifyOptions};

use super::world::{C, World, connect, prune_on};
use crate::support::Numbers;
use crate::support::by_hand::names;
use crate::support::fault_store::{FAULTS, OpKind, gate_at, held};
use crate::support::repo::{back_up, commit_by_hand, environment, latest, options, read_back};

/// Backups, forgets, crashed backups and prunes, crashed or not, in any order.
#[tokio::test]
async fn whatever_the_history_live_snapshots_are_whole_and_after_two_quiet_rounds_nothing_else_is_there() {
    for seed in 0..24 {
        let mut world = World::new(seed).await;
        for step in 0..24 {
            let context = format!("seed {seed}, step {step}");
            let name = format!("pool/{}", world.numbers.below(3));
            match world.numbers.below(8) {
                0..3 => {
                    world.edit(&name);
                    world.back_up(&name).await;
                }
                3 => {
                    // The content of another volume under a new name.
                    let content = world.volume("pool/0").content();
                    let name = format!("pool/copy-{}", world.numbers.below(2));
                    world.volume(&name).edit(|c| *c = content);
                    world.back_up(&name).await;
                }
                4 => {
                    let live: Vec<_> = world.expected.keys().cloned().collect();
                    if !live.is_empty() {
                        let (name, sequence) = &live[world.numbers.below(live.len() as u64) as usize];
                        world.forget(name, *sequence).await;
                    }
                }
                5 => {
                    let faults = world.faults();
                    let project = connect(Arc::new(faults.clone()), environment()).await.expect(&context);
                    let at = faults.ops().len() + world.numbers.below(40) as usize;
                    faults.fail_from(at, FAULTS[3]);
                    world.edit(&name);
                    // A session that is never heard of again.
                    let _ = world.back_up_in(&project, &name).await;
                }
                6 => {
                    let faults = world.faults();
                    let project = connect(Arc::new(faults.clone()), environment()).await.expect(&context);
                    let at = faults.ops().len() + world.numbers.below(90) as usize;
                    faults.fail_from(at, FAULTS[4]);
                    let _ = prune_on(&project, world.options()).await;
                }
                _ => {
                    let marks_max = [usize::MAX, 9, 40][world.numbers.below(3) as usize];
                    let condemned_max = [usize::MAX, 5][world.numbers.below(2) as usize];
                    let options = PruneOptions { marks_max, condemned_max, ..world.options() };
                    prune_on(&world.project().await, options).await.expect(&context);
                }
            }
            world.check(&context).await;
        }
        let context = format!("seed {seed}, in the end");
        world.timed.advance_ms(25 * 3_600_000);
        for _ in 0..2 {
            world.prune().await;
            world.check(&context).await;
        }
        world.check_tidy(&context).await;
    }
}

/// Whoever is live keeps all that it takes to decode it, though no live snapshot names the base itself.
#[tokio::test]
async fn a_live_delta_keeps_its_whole_closure() {
    let mut world = World::usual().await;
    let project = world.project().await;
    let hand = world.by_hand().await;
    let mut numbers = Numbers::new(5);
    let mut plains = vec![numbers.bytes(C)];
    for step in 0..3 {
        let mut next = plains[step].clone();
        next[step] ^= 0x55;
        plains.push(next);
    }
    let full = hand.chunk(&plains[0], 0).await;
    let middle = hand.delta(&plains[1], &full, &plains[0], 1).await;
    let top = hand.delta(&plains[2], &middle, &plains[1], 2).await;
    let other = hand.delta(&plains[3], &full, &plains[0], 3).await;
    let (size, refs) = (C as u64, |chunk: &PageRef| [(0, chunk.clone())]);
    for (volume, chunk) in [("delta/full", &full), ("delta/top", &top), ("delta/other", &other)] {
        commit_by_hand(&project, volume, size, refs(chunk)).await;
    }
    for volume in 3..=5 {
        for sequence in if volume == 4 { 1..=1 } else { 1..=2 } {
            hand.forget(volume, sequence).await;
        }
    }
    world.forget("pool/a", 1).await;
    world.prune().await;
    world.check_tidy("after the prune").await;
    let left = hand.contents().await;
    for (chunk, expected) in [(&full, true), (&middle, true), (&top, true), (&other, false)] {
        let name = hand.object_name(chunk.object().expect("stored").name);
        assert_eq!(left.contains_key(&name.to_string()), expected, "{name}");
    }
    let snapshot = latest(&project, "delta/top").await;
    assert!(read_back(&project, &snapshot).await.expect("whole") == plains[2]);
}

#[tokio::test]
async fn after_a_prune_a_new_volume_uploads_nothing_that_older_generations_have() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    world.prune().await;
    let content = world.volume("pool/a").content();
    world.volume("pool/new").edit(|c| *c = content.clone());
    let mut condemning = world.fork();
    let report = world.back_up("pool/new").await;
    assert_eq!((report.stats.new_chunks, report.parent), (0, None), "{:?}", report.stats);
    world.check("from the live index").await;
    world.forget("pool/a", 3).await;
    world.forget("pool/a", 2).await;
    world.prune().await;
    world.check("the only one that needs it").await;
    world.check_tidy("the only one that needs it").await;

    // What the next round condemned is not taken from the index.
    let hand = condemning.by_hand().await;
    let ids: Vec<ChunkId> = hand.contents().await.into_values().map(|c| c.id).collect();
    hand.begin_round(2, &ids).await;
    let report = condemning.back_up("pool/new").await;
    assert!(report.stats.new_chunks > 4, "{:?}", report.stats);
    condemning.check("beside a round").await;
    condemning.prune().await;
    condemning.check("after the round").await;
    condemning.check_tidy("after the round").await;
}

#[tokio::test]
async fn a_backup_gives_signs_of_life_until_it_is_over() {
    let mut world = World::usual().await;
    world.edit("pool/a");
    let faults = world.faults();
    let project = connect(Arc::new(faults.clone()), environment()).await.expect("opened");
    let gate = faults.gate(|op| op.kind == OpKind::Create && op.key.contains("/pages/"));
    let volume = world.volume("pool/a");
    let opts = cuttle::backup::BackupOptions { alive_every: Duration::from_secs(10), ..options("pool/a") };
    let signs = async || {
        let all = names(&*world.objects, "projects/default/log/0000000001/0000000004.alive.").await;
        all.len()
    };
    let (done, reached) = held(back_up(&project, &volume, &opts), gate, async {
        let before = signs().await;
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(35)).await;
        tokio::time::resume();
        assert!((3..=4).contains(&(signs().await - before)));
    })
    .await;
    assert!(reached);
    done.expect("backed up");
    let all = signs().await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(signs().await, all, "it goes on after the end");
}

/// Snapshots are forgotten and pruned at any request of a verification that reads them: that is no damage.
#[tokio::test]
async fn what_is_forgotten_and_pruned_while_verify_reads_it_is_no_damage() {
    let mut world = World::usual().await;
    // The tables of a round that is over go too, with the next.
    world.forget("pool/a", 2).await;
    world.prune().await;
    let mut k = 0;
    loop {
        let context = format!("held at request {k}");
        let mut world = world.fork();
        let faults = world.faults();
        let project = connect(Arc::new(faults.clone()), environment()).await.expect(&context);
        let verify_options = VerifyOptions { read_data: k % 2 == 0, ..VerifyOptions::default() };
        let verifying = verify::run(&project, verify_options, Arc::new(Silent), Cancel::never());
        let (done, reached) = held(verifying, gate_at(&faults, k), async {
            for (name, sequence) in [("pool/a", 1), ("pool/a", 3), ("pool/b", 2)] {
                world.forget(name, sequence).await;
                world.prune().await;
            }
        })
        .await;
        let report = done.unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(report.ok(), "{context}: {:?}", report.damage);
        if !reached {
            break;
        }
        k += 1;
    }
    assert!(k > 20, "{k}");
}

#[tokio::test]
async fn a_restore_of_what_was_forgotten_and_pruned_says_so() {
    let mut world = World::usual().await;
    let project = world.project().await;
    let snapshot = project.volumes().snapshot("pool/a@1").await.expect("a snapshot");
    world.forget("pool/a", 1).await;
    world.prune().await;
    let planned = restore::plan(
        &project,
        &snapshot,
        Existing::Blank,
        RestoreOptions::default(),
        Arc::new(Silent),
        Cancel::never(),
    );
    let error = planned.await.expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.message().contains("pool/a@1: the snapshot was forgotten"), "{error}");
}
