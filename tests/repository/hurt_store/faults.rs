//! Every fault at every request, once and for good, of backups and restores.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cuttle::cancel::Cancel;
use cuttle::progress::Silent;
use cuttle::repo::Keeper;
use cuttle::restore::{self, RestoreOptions};
use cuttle::sink::raw_file::{PARTIAL_SUFFIX, RawFileSink};
use cuttle::{ErrorKind, Result};

use super::world::{ATTEMPTS_MAX, Round, VOLUME, World, connect, is_honest};
use crate::support::fault_store::{FAULTS, FaultStore};
use crate::support::repo::{CHUNK, environment};

#[tokio::test]
async fn a_backup_heals_from_any_single_fault_at_any_request() {
    for world in World::all().await {
        let requests = world.requests().await;
        assert!(requests > 15, "{}: {requests}", world.name);
        for fault in FAULTS {
            for k in 0..requests {
                let context = format!("{}, {fault:?} at request {k}", world.name);
                let round = world.round();
                let faults = round.faults();
                faults.fail_at(k, fault);
                let report = round.backup(&faults, environment()).await;
                let report = report.unwrap_or_else(|e| panic!("{context}: {e}"));
                let (log, live) = round.audit(&context).await;
                let expected = [round.lived(), vec![report.sequence.expect("a sequence")]].concat();
                assert_eq!(live, expected, "{context}");
                assert_eq!(log.unfinished().count(), 0, "{context}");
            }
        }
    }
}

#[tokio::test]
async fn a_backup_that_meets_many_faults_heals_or_fails_without_harm() {
    for world in World::all().await {
        let (mut healed, mut failed) = (0, 0);
        for seed in 0..60 {
            let context = format!("{}, seed {seed}", world.name);
            let round = world.round();
            let faults = round.faults();
            faults.fail_at_random(seed, 2 + seed % 4);
            let result = round.backup(&faults, environment()).await;
            let (_, live) = round.audit(&context).await;
            match result {
                Ok(report) => {
                    healed += 1;
                    assert!(live.contains(&report.sequence.expect("a sequence")), "{context}");
                }
                Err(error) => {
                    failed += 1;
                    assert!(is_honest(&error), "{context}: {error}");
                    round.next_run(&context, &live).await;
                }
            }
        }
        assert!(healed > 5 && failed > 5, "{}: {healed} healed, {failed} failed", world.name);
    }
}

#[tokio::test]
async fn a_request_that_never_succeeds_fails_the_backup_without_harm() {
    for world in World::all().await {
        let requests = world.requests().await;
        let mut failed = 0;
        for fault in FAULTS {
            for k in 0..requests {
                let context = format!("{}, {fault:?} for good at request {k}", world.name);
                let round = world.round();
                let faults = round.faults();
                faults.fail_for_good_at(k, fault);
                let result = round.backup(&faults, environment()).await;
                let (_, live) = round.audit(&context).await;
                match result {
                    // A write that landed is found, and some requests are worth a try only.
                    Ok(report) => {
                        assert!(live.contains(&report.sequence.expect("a sequence")), "{context}")
                    }
                    Err(error) => {
                        failed += 1;
                        assert!(is_honest(&error), "{context}: {error}");
                        assert_eq!(live, round.lived(), "{context}: it failed, and there is a snapshot");
                        round.next_run(&context, &live).await;
                    }
                }
            }
        }
        assert!(failed > 4 * requests, "{}: {failed} failed", world.name);
    }
}

/// What one `cuttle restore` does.
async fn restore(faults: &FaultStore, target: &Path) -> Result<()> {
    let project = connect(Arc::new(faults.clone()), environment()).await?;
    restore_in(&project, target).await
}

async fn restore_in(project: &Keeper, target: &Path) -> Result<()> {
    let snapshot = project.volumes().snapshot(VOLUME).await?;
    let sink = RawFileSink::open(target, snapshot.snapshot.size_bytes, false)?;
    let options = RestoreOptions::default();
    let (progress, cancel) = (Arc::new(Silent), Cancel::never());
    restore::run(project, &snapshot, Arc::new(sink), options, progress, cancel).await.map(drop)
}

/// The bytes of the newest snapshot that a world begins with.
async fn newest(round: &Round<'_>, folder: &Path) -> Vec<u8> {
    let target = folder.join("expected");
    restore(&round.faults(), &target).await.expect("nothing goes wrong");
    fs::read(target).expect("there")
}

/// What a restore that failed left holds right chunks and zeros only.
fn nothing_wrong(folder: &Path, expected: &[u8], context: &str) {
    assert!(!folder.join("target").exists(), "{context}: what is not whole has its name already");
    let Ok(partial) = fs::read(folder.join(format!("target{PARTIAL_SUFFIX}"))) else { return };
    for (at, (held, right)) in partial.chunks(CHUNK as usize).zip(expected.chunks(CHUNK as usize)).enumerate()
    {
        assert!(held == right || held.iter().all(|b| *b == 0), "{context}: chunk {at} is wrong");
    }
}

#[tokio::test]
async fn a_restore_heals_from_any_single_fault_and_stops_at_what_never_succeeds() {
    let world = World::incremental().await;
    let folder = tempfile::tempdir().expect("a folder");
    let round = world.round();
    let expected = newest(&round, folder.path()).await;
    let faults = round.faults();
    restore(&faults, &folder.path().join("counted")).await.expect("nothing goes wrong");
    let requests = faults.ops().len();
    assert!(requests > 15, "{requests}");
    for fault in FAULTS {
        for k in 0..requests {
            for for_good in [false, true] {
                let context = format!("{fault:?} at request {k}, for good: {for_good}");
                let folder = tempfile::tempdir_in(folder.path()).expect("a folder");
                let target = folder.path().join("target");
                let faults = round.faults();
                match for_good {
                    false => faults.fail_at(k, fault),
                    true => faults.fail_for_good_at(k, fault),
                }
                match restore(&faults, &target).await {
                    Ok(()) => assert!(!for_good, "{context}: it did without"),
                    Err(error) => {
                        assert!(for_good, "{context}: {error}");
                        assert_eq!(error.kind(), ErrorKind::Unavailable, "{context}: {error}");
                        assert!(error.help_text().is_some(), "{context}: {error}");
                        nothing_wrong(folder.path(), &expected, &context);
                        restore(&round.faults(), &target).await.expect(&context);
                    }
                }
                assert!(fs::read(&target).expect("there") == expected, "{context}: other bytes");
            }
        }
    }
    let asked_once = requests * FAULTS.len();
    assert!(asked_once > ATTEMPTS_MAX as usize, "each fault was tried");
}
