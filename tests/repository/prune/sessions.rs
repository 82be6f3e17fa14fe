//! Sessions that are under way when a round begins: waited for, named, and ended only when they are dead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cuttle::cancel::Cancel;
use cuttle::format::ObjectName;
use cuttle::format::record::{AliveRecord, EndRecord, Outcome};
use cuttle::plan::marks::MARKS_MAX;
use cuttle::prune::{self, PruneOptions};
use cuttle::repo::Environment;
use cuttle::repo::session::Session;
use cuttle::{ErrorKind, Result};
use object_store::memory::InMemory;

use super::world::{C, HOUR, Passing, World, connect, prune_on, store};
use crate::support::by_hand::ByHand;
use crate::support::fault_store::{Fault, FaultStore, Op, OpKind, gate_at};
use crate::support::repo::{CHUNK, MemoryVolume, back_up, default, environment, init_on, options, secret};
use crate::support::timed_store::TimedStore;
use crate::support::warnings::Warnings;

/// A world with something to prune, and a session of volume 1 that was begun and goes no further.
async fn with_stalled_session() -> (World, Session) {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    let project = world.project().await;
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    let session = Session::register(&project, &catalog.entries()[0]).await.expect("registered");
    (world, session)
}

async fn outcome(hand: &ByHand, session: &Session) -> Option<Outcome> {
    let name = ObjectName::End(hand.project.clone(), session.volume.number, session.sequence);
    let there = crate::support::by_hand::names(&*hand.objects, &name.to_string()).await;
    match there.is_empty() {
        true => None,
        false => Some(hand.record::<EndRecord>(&name).await.outcome),
    }
}

#[tokio::test]
async fn a_dead_session_is_ended_after_its_lease_by_the_stores_time_and_not_before() {
    let (world, session) = with_stalled_session().await;
    let pause = Passing::new(&world.timed, None);
    let began = world.timed.now_unix_ms();
    let options = PruneOptions { pause: pause.clone(), ..world.options() };
    let warnings = Arc::new(Warnings::default());
    let project = world.project().await;
    let report = prune::run(&project, options, warnings.clone(), Cancel::never()).await.expect("pruned");
    let waited = Duration::from_millis(world.timed.now_unix_ms() - began);
    assert!(waited > 24 * HOUR && waited < 24 * HOUR + Duration::from_secs(61), "{waited:?}");
    assert_eq!(report.aborted.len(), 1, "{report:?}");
    let aborted = &report.aborted[0];
    assert_eq!((aborted.volume.as_str(), aborted.sequence), ("pool/a", session.sequence.0));
    assert!(report.waiting.is_empty() && report.rounds_finished == 1, "{report:?}");
    let told = warnings.0.lock().expect("not poisoned").join("\n");
    assert!(told.contains("waiting for it") && told.contains("was ended as aborted"), "{told}");
    // It lost, however late it comes.
    let hand = world.by_hand().await;
    assert!(matches!(outcome(&hand, &session).await, Some(Outcome::Aborted { .. })));
    assert!(!session.abort("too late").await.expect("settled"));
    world.check("after the lease").await;
    world.check_tidy("after the lease").await;
}

#[tokio::test]
async fn a_sign_of_life_begins_the_lease_anew_even_if_no_listing_shows_it() {
    for hidden in [false, true] {
        let (world, session) = with_stalled_session().await;
        let began = world.timed.now_unix_ms();
        let hand =
            ByHand::open(Arc::new(world.timed.clone()), &crate::support::repo::secret(), "default").await;
        let hand = Arc::new(hand);
        let (number, sequence, snapshot_id) = (session.volume.number, session.sequence, session.snapshot_id);
        // Alive for three more hours, then dead.
        let alive_until = began + 3 * 3_600_000;
        let timed = world.timed.clone();
        let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let on_pause = Box::new(move |_| -> futures::future::BoxFuture<'static, ()> {
            let (hand, timed, count) = (Arc::clone(&hand), timed.clone(), Arc::clone(&count));
            Box::pin(async move {
                if timed.now_unix_ms() < alive_until {
                    let k = count.fetch_add(1, Ordering::SeqCst) + 1;
                    let name = ObjectName::Alive(hand.project.clone(), number, sequence, k);
                    // What the client's clock says means nothing.
                    hand.put_record(&name, &AliveRecord { snapshot_id, at_unix_ms: 7 }).await;
                }
            })
        });
        let faults = world.faults();
        if hidden {
            faults.hide_from_listings(|key| key.contains(".alive."));
        }
        let project = connect(Arc::new(faults), environment()).await.expect("opened");
        let pause = Passing::new(&world.timed, Some(on_pause));
        let options = PruneOptions { pause, lease: HOUR, ..world.options() };
        let report = prune_on(&project, options).await.expect("pruned");
        let waited = Duration::from_millis(world.timed.now_unix_ms() - began);
        assert!(waited > 4 * HOUR && waited < 4 * HOUR + HOUR / 15, "hidden: {hidden}: {waited:?}");
        assert_eq!(report.aborted.len(), 1, "hidden: {hidden}: {report:?}");
        if !hidden {
            let left = crate::support::by_hand::names(&*world.objects, "projects/default/log/").await;
            assert!(!left.iter().any(|name| name.contains(".alive.")), "signs of life of the dead stay");
        }
    }
}

#[tokio::test]
async fn without_waiting_the_round_stays_open_and_the_next_prune_finishes_it() {
    let (world, session) = with_stalled_session().await;
    let options = || PruneOptions { wait: false, ..world.options() };
    let project = world.project().await;
    for run in 0..3 {
        let report = prune_on(&project, options()).await.expect("looked");
        assert!(report.round_open && report.rounds_finished == 0 && report.aborted.is_empty(), "{report:?}");
        assert_eq!((report.rounds_begun, report.rounds_joined), (u64::from(run == 0), u64::from(run > 0)));
        assert_eq!(report.waiting.len(), 1, "{report:?}");
        assert_eq!((&*report.waiting[0].host, report.waiting[0].sequence), ("test", session.sequence.0));
        assert_eq!(report.deleted().objects, 0);
    }
    assert!(session.abort("given up").await.is_ok());
    let report = prune_on(&project, options()).await.expect("pruned");
    assert!(!report.round_open && report.rounds_finished >= 1 && report.waiting.is_empty(), "{report:?}");
    world.check_tidy("finished").await;
    world.check("finished").await;
}

/// A store whose creates no longer decide who was first: nobody is ended by a guess, and nothing is overwritten.
#[tokio::test]
async fn where_creates_overwrite_no_session_is_ended_and_nothing_deleted() {
    let (world, session) = with_stalled_session().await;
    let faults = world.faults();
    faults.ignore_conditions();
    let project = connect(Arc::new(faults.clone()), environment()).await.expect("opened");
    world.timed.advance_ms(1000 * 3_600_000);
    let error = prune_on(&project, world.options()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("nothing is deleted") && error.help_text().is_some(), "{error}");
    let written = |op: &Op| op.kind != OpKind::Get && op.kind != OpKind::Head && op.kind != OpKind::List;
    let elsewhere = |op: &&Op| written(op) && !op.key.starts_with("probe/") && !op.key.contains("/gc/parts/");
    assert_eq!(faults.ops().iter().find(elsewhere), None);
    assert!(outcome(&world.by_hand().await, &session).await.is_none());
}

/// A repository of which that was known when it was made: to end a session might overwrite what it committed.
#[tokio::test]
async fn where_creates_always_overwrote_a_dead_session_is_named_and_not_ended() {
    let timed = TimedStore::new(Arc::new(InMemory::new()));
    let faults = FaultStore::new(Arc::new(timed.clone()));
    faults.ignore_conditions();
    let repository = init_on(store(Arc::new(faults.clone())), CHUNK, true).await;
    let project = default(&repository).await;
    for content in [1, 2] {
        back_up(&project, &MemoryVolume::new(vec![content; C]), &options(["a", "b"][content as usize - 1]))
            .await
            .expect("backed up");
    }
    let hand = ByHand::open(Arc::new(timed.clone()), &secret(), "default").await;
    hand.forget(1, 1).await;
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    let session = Session::register(&project, &catalog.entries()[1]).await.expect("registered");
    timed.advance_ms(1000 * 3_600_000);
    let prune = || PruneOptions { wait: false, pause: Passing::new(&timed, None), ..PruneOptions::default() };
    let report = prune_on(&project, prune()).await.expect("begun");
    assert!(report.round_open && report.aborted.is_empty() && report.waiting.len() == 1, "{report:?}");
    assert!(outcome(&hand, &session).await.is_none());
    session.abort("given up").await.expect("settled");
    let report = prune_on(&project, prune()).await.expect("pruned");
    assert!(report.rounds_finished == 1 && report.deleted().objects > 0, "{report:?}");
}

/// Who registers in an older generation after the round began, too late for its first look, is void by its second look.
#[tokio::test]
async fn sessions_of_the_rounds_own_generation_are_not_waited_for() {
    let (world, session) = with_stalled_session().await;
    let project = world.project().await;
    prune_on(&project, PruneOptions { wait: false, ..world.options() }).await.expect("begun");
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    let young = Session::register(&project, &catalog.entries()[1]).await.expect("registered");
    assert_eq!(young.generation.0, 1);
    session.abort("given up").await.expect("settled");
    let report = prune_on(&project, PruneOptions { wait: false, ..world.options() }).await.expect("pruned");
    assert!(report.rounds_finished == 1 && report.waiting.is_empty(), "{report:?}");
    assert!(outcome(&world.by_hand().await, &young).await.is_none());
}

#[tokio::test]
async fn a_prune_that_waits_can_be_interrupted_and_goes_on_later() {
    let (world, session) = with_stalled_session().await;
    let (canceller, cancel) = cuttle::cancel::pair();
    let canceller = Arc::new(canceller);
    let on_pause = Box::new(move |count| -> futures::future::BoxFuture<'static, ()> {
        let canceller = Arc::clone(&canceller);
        Box::pin(async move {
            if count == 3 {
                canceller.cancel();
            }
        })
    });
    let options = PruneOptions { pause: Passing::new(&world.timed, Some(on_pause)), ..world.options() };
    let project = world.project().await;
    let error: Result<_> = prune::run(&project, options, Arc::new(Warnings::default()), cancel).await;
    assert_eq!(error.expect_err("interrupted").kind(), ErrorKind::Interrupted);
    session.abort("given up").await.expect("settled");
    let report = world.prune().await;
    assert_eq!((report.rounds_joined, report.rounds_finished), (1, 1), "{report:?}");
    world.check_tidy("finished").await;
}

/// An aborted outcome stays for ever, also of a sequence that somebody forgot.
#[tokio::test]
async fn an_aborted_outcome_is_never_deleted() {
    let (mut world, session) = with_stalled_session().await;
    session.abort("given up").await.expect("settled");
    let hand = world.by_hand().await;
    hand.forget(1, session.sequence.0).await;
    for sequence in [2, 3] {
        world.prune().await;
        world.forget("pool/a", sequence).await;
    }
    world.prune().await;
    // Its registration goes, and that it was forgotten; that it lost stays.
    let left =
        crate::support::by_hand::names(&*world.objects, "projects/default/log/0000000001/0000000004").await;
    assert_eq!(left, ["projects/default/log/0000000001/0000000004.end"]);
    assert!(matches!(outcome(&hand, &session).await, Some(Outcome::Aborted { .. })));
    assert!(!session.abort("a month later").await.expect("settled"));
}

/// A backup builds on a snapshot that is forgotten before a prune looks, and commits while that prune waits for it: what it
/// took from there was condemned, and must not go.
#[tokio::test]
async fn a_backup_that_commits_while_a_prune_waits_keeps_what_was_condemned() {
    for marks_max in [MARKS_MAX, 5] {
        commits_while_a_prune_waits(marks_max).await;
    }
}

async fn commits_while_a_prune_waits(marks_max: usize) {
    let (mut k, mut waited) = (0, 0);
    let usual = World::usual().await;
    loop {
        let context = format!("held at request {k}, {marks_max} marks");
        let mut world = usual.fork();
        let faults = world.faults();
        let project = connect(Arc::new(faults.clone()), environment()).await.expect(&context);
        world.edit("pool/a");
        let volume = world.volume("pool/a");
        let mut gate = gate_at(&faults, k);
        let (done_tx, done) = tokio::sync::watch::channel(false);
        let backup = async {
            let options = crate::support::repo::options("pool/a");
            let report = crate::support::repo::back_up(&project, &volume, &options).await;
            done_tx.send_replace(true);
            report
        };
        tokio::pin!(backup);
        tokio::select! {
            biased;
            _ = &mut backup => break,
            () = gate.reached() => {}
        }
        for sequence in 1..=3 {
            world.forget("pool/a", sequence).await;
        }
        let (open, mut opened) = tokio::sync::mpsc::unbounded_channel();
        let open_on_pause = open.clone();
        let on_pause = Box::new(move |_| -> futures::future::BoxFuture<'static, ()> {
            let (open, mut done) = (open_on_pause.clone(), done.clone());
            Box::pin(async move {
                open.send(()).expect("received");
                done.wait_for(|done| *done).await.expect("it ends");
            })
        });
        let pause = Passing::new(&world.timed, Some(on_pause));
        let options = PruneOptions { pause: pause.clone(), marks_max, ..world.options() };
        let pruning = world.project().await;
        let prune = async {
            let report = prune_on(&pruning, options).await;
            open.send(()).expect("received");
            report
        };
        let opener = async {
            opened.recv().await.expect("sent");
            gate.open();
        };
        let (report, pruned, ()) = tokio::join!(backup, prune, opener);
        pruned.unwrap_or_else(|e| panic!("{context}: {e}"));
        waited += pause.pauses.load(Ordering::SeqCst);
        let sequence = report.unwrap_or_else(|e| panic!("{context}: {e}")).sequence.expect("a sequence");
        world.expected.insert(("pool/a".to_owned(), sequence), volume.content());
        world.check(&context).await;
        world.prune().await;
        world.check(&context).await;
        world.check_tidy(&context).await;
        k += 1;
    }
    assert!(waited > 5, "{waited} of {k}");
}

/// No listing shows yet that a snapshot was forgotten whose outcome a prune removed: it is over all the same.
#[tokio::test]
async fn nobody_waits_for_what_was_forgotten_long_ago() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    world.prune().await;
    world.forget("pool/b", 1).await;
    let faults = world.faults();
    faults.hide_from_listings(|name| name.ends_with("0000000001/0000000001.forget"));
    // Rather than for ever.
    faults.fail_from(5_000, Fault::Status(403));
    let project = connect(Arc::new(faults), environment()).await.expect("opened");
    let report = prune_on(&project, world.options()).await.expect("pruned");
    assert!(report.rounds_finished == 1 && report.waiting.is_empty(), "{report:?}");
    world.prune().await;
    world.check_tidy("finished").await;
}

/// A backup of this machine that was killed: its outcome is settled at once, not after a lease. What another machine began under
/// the same number of a process is waited for.
#[tokio::test]
async fn a_session_of_this_machine_whose_process_is_dead_is_ended_at_once() {
    for (machine, ended) in [("test-machine", true), ("another", false)] {
        let (world, session) = with_stalled_session().await;
        let machine = machine.to_owned();
        let environment = Environment { machine, process: 7, is_process_alive: |_| false, ..environment() };
        let project = connect(Arc::new(world.timed.clone()), environment).await.expect("opened");
        let options = || PruneOptions { wait: false, ..world.options() };
        let report = prune_on(&project, options()).await.expect("pruned");
        assert_eq!((report.aborted.len(), report.round_open), (usize::from(ended), !ended), "{report:?}");
        let hand = world.by_hand().await;
        match (outcome(&hand, &session).await, ended) {
            (None, false) => {}
            (Some(Outcome::Aborted { reason, .. }), true) => assert!(reason.contains("is dead"), "{reason}"),
            (found, _) => panic!("{found:?}"),
        }
        if !ended {
            // What was not counted is not said to be nothing.
            let report = prune_on(&project, options()).await.expect("looked");
            assert_eq!((report.snapshots, report.stored, report.round_open), (None, None, true));
        }
        world.check("after").await;
    }
}
