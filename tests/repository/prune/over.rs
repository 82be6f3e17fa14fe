//! What a seal says is over: it counts for nothing, whatever stands under its names, and all of it goes but who lost.

use std::sync::Arc;

use cuttle::ErrorKind;
use cuttle::backup::LostReport;
use cuttle::format::roster::RosterEntry;
use cuttle::units::{Generation, Sequence, VolumeNumber};
use object_store::ObjectStoreExt;

use super::world::{World, connect, prune_on};
use crate::support::by_hand::names;
use crate::support::fault_store::{OpKind, held};
use crate::support::repo::{back_up, environment, options, verify};

const LOG: &str = "projects/default/log/0000000001/";
const RETENTION: &str = "projects/default/retention/0000000001/";

/// What is left of a sequence of the first volume.
async fn left(world: &World, sequence: u32) -> Vec<String> {
    let mut left = Vec::new();
    for place in [RETENTION, LOG] {
        let (all, begins) = (names(&*world.objects, place).await, format!("{place}{sequence:010}."));
        left.extend(all.iter().filter_map(|name| name.strip_prefix(&begins)).map(str::to_owned));
    }
    left
}

/// A world of which the first snapshot of the first volume was forgotten, and its records cleaned away; and these records.
async fn with_cleaned() -> (World, Vec<(String, bytes::Bytes)>) {
    let mut world = World::usual().await;
    let mut records = Vec::new();
    for name in names(&*world.objects, &format!("{LOG}0000000001")).await {
        let object = world.objects.get(&name.as_str().into()).await.expect("there");
        records.push((name, object.bytes().await.expect("read")));
    }
    world.forget("pool/a", 1).await;
    world.prune().await;
    assert_eq!(left(&world, 1).await, ["forget", "open"], "sessions of this generation go by the last seal");
    world.forget("pool/b", 1).await;
    world.prune().await;
    assert_eq!(left(&world, 1).await, [""; 0]);
    (world, records)
}

#[tokio::test]
async fn a_late_create_brings_nothing_back() {
    let (mut world, records) = with_cleaned().await;
    world.check("cleaned").await;
    // The very commit, sent twice, lands once more.
    for (name, bytes) in records.iter().filter(|(name, _)| name.ends_with(".end")) {
        world.objects.put(&name.as_str().into(), bytes.clone().into()).await.expect("put");
    }
    world.check("with an outcome that came back").await;
    world.edit("pool/a");
    let report = world.back_up("pool/a").await;
    assert_eq!(report.sequence, Some(4));
    world.check("backed up").await;
    let project = world.project().await;
    assert!(verify(&project, true).await.expect("verified").ok());
    world.forget("pool/b", 2).await;
    world.prune().await;
    assert_eq!(left(&world, 1).await, [""; 0]);
    world.check("pruned").await;
    world.check_tidy("pruned").await;
}

/// Of a volume whose every snapshot was forgotten the log is empty, and its numbers go on all the same.
#[tokio::test]
async fn numbers_go_on_above_what_was_cleaned_away() {
    let (mut world, _) = with_cleaned().await;
    for sequence in [2, 3] {
        world.forget("pool/a", sequence).await;
    }
    world.prune().await;
    world.edit("pool/b");
    world.back_up("pool/b").await;
    world.forget("pool/b", 2).await;
    world.prune().await;
    assert_eq!(names(&*world.objects, LOG).await, [""; 0]);
    world.check("an empty log").await;
    // A host that remembers nothing, and one that saw it all.
    world.edit("pool/a");
    assert_eq!(world.back_up("pool/a").await.sequence, Some(4));
    world.check("a new snapshot").await;
    let project = world.project().await;
    assert!(verify(&project, true).await.expect("verified").ok());
}

#[tokio::test]
async fn who_lost_stays_for_ever() {
    let mut world = World::usual().await;
    let project = world.project().await;
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    let session =
        cuttle::repo::session::Session::register(&project, &catalog.entries()[0]).await.expect("registered");
    session.abort("the test says so").await.expect("aborted");
    for sequence in [1, 2, 3] {
        world.forget("pool/a", sequence).await;
        world.prune().await;
    }
    assert_eq!(left(&world, 4).await, ["end"]);
    let snapshot = world.expected.keys().next().expect("one").clone();
    assert!(session.give_up("late").await.is_ok());
    world.check(&format!("{snapshot:?} stays")).await;
}

/// Somebody who has the key may forge a whole round. What it says is over and is not stops the next prune, by name.
#[tokio::test]
async fn a_round_that_calls_over_what_nobody_forgot_deletes_nothing() {
    let mut world = World::usual().await;
    let hand = world.by_hand().await;
    hand.begin_round(1, &[]).await;
    let entry = |volume, high_water| RosterEntry {
        volume: VolumeNumber(volume),
        high_water: Sequence(high_water),
        live: Vec::new(),
        unfinished: Vec::new(),
        kept: Vec::new(),
    };
    hand.put_seal(Generation(1), Vec::new(), Vec::new(), &[entry(1, 3), entry(2, 2)]).await;
    hand.end_round(1).await;
    let before = names(&*world.objects, "").await;
    let error = prune_on(&world.project().await, world.options()).await.expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("nobody forgot"), "{error}");
    assert_eq!(names(&*world.objects, "").await, before);
    let found = verify(&world.project().await, false).await.expect("verified");
    assert!(!found.ok() && format!("{found:?}").contains("nobody forgot"), "{found:?}");
    // A session of it has no parent, and loses nothing.
    world.edit("pool/a");
    assert_eq!(world.back_up("pool/a").await.sequence, Some(4));
}

/// The newest seal, or a part of it, is damaged: no round has cleaned up by it yet, so the one before does.
#[tokio::test]
async fn where_the_newest_seal_does_not_open_the_one_before_does() {
    let (world, _) = with_cleaned().await;
    let seal = "projects/default/gc/0000000002.seal".to_owned();
    let hand = world.by_hand().await;
    let record: cuttle::format::gc::SealRecord =
        hand.record(&cuttle::format::ObjectName::parse(&seal).expect("a name")).await;
    let id = record.roster[0].part.id;
    let part = format!("projects/default/gc/parts/0000000002/{id}");
    for (hurt, gone) in [(seal, true), (part.clone(), true), (part, false)] {
        let mut world = world.fork();
        match gone {
            true => world.objects.delete(&hurt.as_str().into()).await.expect("deleted"),
            false => drop(world.objects.put(&hurt.as_str().into(), vec![0; 100].into()).await.expect("put")),
        }
        world.edit("pool/a");
        assert_eq!(world.back_up("pool/a").await.sequence, Some(4), "{hurt}");
        world.check(&hurt).await;
        let error = prune_on(&world.project().await, world.options()).await.expect_err("stopped");
        assert!(error.to_string().contains("nothing is deleted"), "{hurt}: {error}");
        assert!(!verify(&world.project().await, false).await.expect("verified").ok(), "{hurt}");
    }
}

/// A round that begins while a backup registers voids the registration, and the backup registers anew.
#[tokio::test]
async fn a_registration_that_a_round_overtakes_is_void() {
    let mut world = World::usual().await;
    world.edit("pool/a");
    let faults = world.faults();
    let project = connect(Arc::new(faults.clone()), environment()).await.expect("opened");
    let gate = faults.gate(|op| op.kind == OpKind::Create && op.key.ends_with(".open"));
    let volume = world.volume("pool/a");
    let (hand, opts) = (world.by_hand().await, options("pool/a"));
    let begins = async { hand.begin_round(1, &[]).await };
    let (report, came) = held(back_up(&project, &volume, &opts), gate, begins).await;
    assert!(came);
    assert_eq!(report.expect("backed up").sequence, Some(5));
    assert_eq!(left(&world, 4).await, ["end", "open"]);
}

/// A commit that comes back is no origin either: of another volume's log only the seal says that it is over.
#[tokio::test]
async fn a_clone_does_not_build_on_what_is_over() {
    let mut world = World::usual().await;
    let clone = world.volume("pool/a").clone_of(3);
    let mut records = Vec::new();
    for name in names(&*world.objects, &format!("{LOG}0000000003")).await {
        let object = world.objects.get(&name.as_str().into()).await.expect("there");
        records.push((name, object.bytes().await.expect("read")));
    }
    world.edit("pool/a");
    world.back_up("pool/a").await;
    world.forget("pool/a", 3).await;
    world.prune().await;
    world.forget("pool/b", 1).await;
    world.prune().await;
    assert_eq!(left(&world, 3).await, [""; 0]);
    for (name, bytes) in &records {
        world.objects.put(&name.as_str().into(), bytes.clone().into()).await.expect("put");
    }
    let project = world.project().await;
    let report = back_up(&project, &clone, &options("clone")).await.expect("backed up");
    assert_eq!((report.origin.as_deref(), report.full_read), (None, true));
    // Nor was it looked at, and found lost.
    assert_eq!((&report.lost, &report.remarks[..]), (&LostReport::default(), &[][..]));
    let latest = crate::support::repo::latest(&project, "clone").await;
    assert!(crate::support::repo::read_back(&project, &latest).await.expect("restored") == clone.content());
}
