//! A client that stops for good at any request, and the next one that finds what it left.

use cuttle::ErrorKind;

use super::world::{ATTEMPTS_MAX, World, afterwards};
use crate::support::fault_store::Fault;
use crate::support::repo::environment;

#[tokio::test]
async fn after_a_crash_at_any_request_the_next_backup_succeeds_and_settles_the_last() {
    for world in World::all().await {
        let requests = world.requests().await;
        // The last request of the dead client landed, or did not.
        for landed in [false, true] {
            let mut committed = 0;
            for k in 0..requests {
                let context = format!("{}, cut off at request {k}, landed: {landed}", world.name);
                let round = world.round();
                let faults = round.faults();
                if landed {
                    faults.fail_at(k, Fault::TimeoutAfter);
                }
                faults.fail_from(k + usize::from(landed), Fault::TimeoutBefore);
                round.backup(&faults, afterwards(1)).await.expect_err(&context);
                let (_, live) = round.audit(&context).await;
                committed += usize::from(live.len() > round.lived().len());
                round.next_run(&context, &live).await;
            }
            // Only the very last request can make a snapshot that its writer does not know of.
            assert_eq!(committed, usize::from(landed), "{}", world.name);
        }
    }
}

/// The commit lands, its answer is lost, and by the time the store answers again the backup was given up.
#[tokio::test]
async fn a_commit_whose_answer_was_lost_stands_and_is_told() {
    let world = World::incremental().await;
    let round = world.round();
    let faults = round.faults();
    let commit = world.requests().await - 1;
    faults.fail_at(commit, Fault::TimeoutAfter);
    for looking in 1..=ATTEMPTS_MAX as usize {
        faults.fail_at(commit + looking, Fault::Status(500));
    }
    let error = round.backup(&faults, environment()).await.expect_err("it could not know");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(
        error.help_text().is_some_and(|h| h.contains("backup 3 was committed all the same")),
        "{error:?}"
    );
    let (_, live) = round.audit("afterwards").await;
    assert_eq!(live, [1, 2, 3]);
}

#[tokio::test]
async fn a_backup_that_crashes_night_after_night_goes_on_where_it_was() {
    let world = World::first().await;
    let requests = world.requests().await;
    let round = world.round();
    for k in (5..requests).chain((5..requests).rev()) {
        let faults = round.faults();
        faults.fail_from(k, Fault::TimeoutBefore);
        if round.backup(&faults, afterwards(k as u32)).await.is_ok() {
            break;
        }
        round.audit(&format!("cut off at request {k}")).await;
    }
    let (_, live) = round.audit("in the end").await;
    round.next_run("in the end", &live).await;
}
