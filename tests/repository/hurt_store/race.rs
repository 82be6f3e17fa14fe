//! Two clients at one volume, held against each other at every request.

use std::sync::Arc;

use cuttle::backup::BackupReport;
use cuttle::repo::Environment;
use cuttle::{ErrorKind, Result};

use super::world::{Round, World, afterwards, connect, is_honest};
use crate::support::fault_store::{self, FaultStore, Gate, OpKind, gate_at};
use crate::support::repo::environment;

fn other_host(process: u32) -> Environment {
    Environment { host: "other".into(), machine: "other-machine".into(), process, ..environment() }
}

/// Runs a backup, and something else while it waits at the gate. Whether it came to the gate is told.
pub async fn held(
    round: &Round<'_>,
    faults: &FaultStore,
    gate: Gate,
    environment: Environment,
    meanwhile: impl AsyncFnOnce(),
) -> (Result<BackupReport>, bool) {
    fault_store::held(round.backup(faults, environment), gate, meanwhile()).await
}

#[tokio::test]
async fn two_backups_of_a_volume_from_two_hosts_both_stand_however_they_meet() {
    for world in [World::first().await, World::incremental().await, World::deltas().await] {
        let requests = world.requests().await;
        for k in 0..requests {
            let context = format!("{}, held at request {k}", world.name);
            let round = world.round();
            let faults = round.faults();
            let mut other = None;
            let (held, reached) = held(&round, &faults, gate_at(&faults, k), environment(), async || {
                other = Some(round.backup(&round.faults(), other_host(7)).await);
            })
            .await;
            assert!(reached, "{context}");
            let mut expected = round.lived();
            for done in [held, other.expect("it ran")] {
                let report = done.unwrap_or_else(|e| panic!("{context}: {e}"));
                expected.push(report.sequence.expect("a sequence"));
            }
            let (log, live) = round.audit(&context).await;
            expected.sort_unstable();
            assert_eq!(live, expected, "{context}");
            assert_eq!(log.last().0 as usize, live.len(), "{context}: a sequence too many");
            round.next_run(&context, &live).await;
        }
    }
}

/// Two commands of one library user, or two sources of one command, over the same open repository.
#[tokio::test]
async fn two_backups_of_a_volume_over_one_open_repository_both_stand() {
    let world = World::incremental().await;
    let requests = world.requests().await;
    for k in 4..requests {
        let context = format!("held at request {k}");
        let round = world.round();
        let faults = round.faults();
        let memory = tempfile::tempdir().expect("a folder");
        let environment = Environment { memory_dir: Some(memory.path().into()), ..environment() };
        let project = connect(Arc::new(faults.clone()), environment.clone()).await.expect("opened");
        let (gate, mut second) = (gate_at(&faults, k - 4), None);
        let (first, reached) = fault_store::held(round.backup_in(&project), gate, async {
            second = Some(round.backup_in(&project).await);
        })
        .await;
        assert!(reached, "{context}: it never came to the gate");
        for (which, done) in [("held", first), ("other", second.expect("it ran"))] {
            done.unwrap_or_else(|e| panic!("{context}: the {which} one: {e}"));
        }
        let (_, live) = round.audit(&context).await;
        assert_eq!(live, [1, 2, 3, 4], "{context}");
        // What is remembered fits what is there.
        let again = connect(round.objects.clone(), environment).await.expect(&context);
        round.backup_in(&again).await.expect(&context);
    }
}

/// A stalled writer that another one took for dead: its outcome is settled, so it never wins later.
#[tokio::test]
async fn a_backup_that_was_taken_for_dead_fails_and_never_wins_later() {
    for world in World::all().await {
        let requests = world.requests().await;
        let mut lost = 0;
        for k in 0..requests {
            let context = format!("{}, held at request {k}", world.name);
            let round = world.round();
            let faults = round.faults();
            let mut other = None;
            let (held, _) = held(&round, &faults, gate_at(&faults, k), environment(), async || {
                // Another process of the same machine, to which the first one's is dead.
                other = Some(round.backup(&round.faults(), afterwards(7)).await);
            })
            .await;
            let report = other.expect("it ran").unwrap_or_else(|e| panic!("{context}: {e}"));
            let (log, live) = round.audit(&context).await;
            assert!(live.contains(&report.sequence.expect("a sequence")), "{context}: {live:?}");
            assert_eq!(log.unfinished().count(), 0, "{context}");
            match held {
                Ok(report) => {
                    assert!(live.contains(&report.sequence.expect("a sequence")), "{context}: {live:?}")
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Conflict, "{context}: {error}");
                    assert!(is_honest(&error), "{context}: {error}");
                    assert_eq!(live.len(), round.lived().len() + 1, "{context}: {live:?}");
                    lost += usize::from(error.message().contains("is dead"));
                }
            }
        }
        assert!(lost > requests / 3, "{}: {lost} of {requests} lost", world.name);
    }
}

/// The commit itself is on its way when the session is settled, and arrives late.
#[tokio::test]
async fn a_commit_that_arrives_after_the_abort_is_void() {
    let world = World::incremental().await;
    let round = world.round();
    let faults = round.faults();
    let gate = faults.gate(|op| op.kind == OpKind::Create && op.key.ends_with(".end"));
    let (held, reached) = held(&round, &faults, gate, environment(), async || {
        round.backup(&round.faults(), afterwards(7)).await.expect("backed up");
    })
    .await;
    assert!(reached);
    let error = held.expect_err("it lost");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.message().contains("backup 3 of pool/image was aborted by test"), "{error}");
    let (log, live) = round.audit("afterwards").await;
    assert_eq!((log.last().0, live), (4, vec![1, 2, 4]));
}
