//! Objects that somebody planted under the protocol's names, without any key: they end no round, hide no snapshot, and let
//! nothing be deleted. And one who has the keys, but may only create: what he seals is carried out by nobody who needs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cuttle::ErrorKind;
use cuttle::format::names::ContentKind;
use cuttle::format::page::ObjectRef;
use cuttle::format::record::ForgetRecord;
use cuttle::format::table::TableEntry;
use cuttle::format::{HEADER_LEN_BYTES, ObjectName};
use cuttle::prune::PruneOptions;
use cuttle::repo::session::Session;
use cuttle::units::{ChunkId, Sequence, SnapshotId, VolumeNumber};
use cuttle::verify::repair::put_aside;

use super::world::{C, HOUR, World, connect, prune_on};
use crate::support::Numbers;
use crate::support::by_hand::{get, names, put};
use crate::support::fault_store::{Op, OpKind, held};
use crate::support::repo::{MemoryVolume, back_up, environment, options, verify};

const GC: &str = "projects/default/gc/";
const LOG: &str = "projects/default/log/0000000001/";

/// The name of a log's object, by where its kind lies.
fn said(name: &str) -> String {
    let of_keeper = name.contains(".forget") || name.contains(".note");
    if of_keeper { format!("projects/default/retention/0000000001/{name}") } else { format!("{LOG}{name}") }
}

/// What is planted: nothing at all, something, and the object of another round, which opens only under its own name.
async fn junk(world: &World, which: usize, like: &str) -> Vec<u8> {
    let all = names(&*world.objects, GC).await;
    let other = all.iter().find(|name| name.ends_with(like));
    match (which, other) {
        (0, _) => Vec::new(),
        (2, Some(other)) => get(&*world.objects, other).await.to_vec(),
        _ => vec![7; 300],
    }
}

/// The gravest: an empty `.done`, planted while a prune waits. A backup that believed it took chunks that the round had
/// condemned, from the live index of the last one, and the round deleted them.
#[tokio::test]
async fn a_planted_done_ends_no_round() {
    for which in 0..3 {
        let mut world = World::new(5).await;
        let content = Numbers::new(8).bytes(40 * C);
        world.volume("x").edit(|c| *c = content.clone());
        world.back_up("x").await;
        world.back_up("y").await;
        world.edit("y");
        world.back_up("y").await;
        world.forget("y", 1).await;
        world.prune().await;
        world.forget("x", 1).await;
        let project = world.project().await;
        let catalog = project.volumes().confirmed().await.expect("a catalog");
        let slow = Session::register(&project, &catalog.entries()[1]).await.expect("registered");
        let no_wait = || PruneOptions { wait: false, ..world.options() };
        assert!(prune_on(&project, no_wait()).await.expect("begun").round_open);
        put(&*world.objects, &format!("{GC}0000000002.done"), junk(&world, which, ".done").await).await;

        let victim = MemoryVolume::new(content.clone());
        let faults = world.faults();
        let mut commit = faults.gate(|op: &Op| op.kind == OpKind::Create && op.key.ends_with(".end"));
        let fresh = connect(Arc::new(faults), environment()).await.expect("opened");
        let victim_options = options("victim");
        let backup = back_up(&fresh, &victim, &victim_options);
        tokio::pin!(backup);
        tokio::select! {
            done = &mut backup => panic!("it ended at a closed gate: {done:?}"),
            () = commit.reached() => {}
        }
        slow.abort("given up").await.expect("settled");
        let report = prune_on(&project, no_wait()).await.expect("pruned");
        assert!(report.rounds_joined >= 1 && report.deleted_chunks.objects >= 40, "{which}: {report:?}");
        commit.open();
        assert_eq!(
            backup.await.expect("backed up").stats.new_chunks,
            40,
            "{which}: what is condemned is written anew"
        );
        world.expected.insert(("victim".to_owned(), 1), content);
        world.check("after a planted done").await;
        // The next round says that it is over.
        world.prune().await;
        world.check("after another round").await;
        world.check_tidy("after another round").await;
        let report = world.prune().await;
        assert!(report.is_idle(), "{which}: {report:?}");
    }
}

/// Whatever is planted for rounds to come, prune deletes what it should, and comes to rest.
#[tokio::test]
async fn prune_goes_on_around_what_is_planted_in_its_way() {
    for planted in [
        &["1.begin"][..],
        &["1.seal"],
        &["1.done"],
        &["1.begin", "1.done"],
        &["1.seal", "1.done"],
        &["1.begin", "1.seal", "1.done"],
        &["1.done", "2.done", "3.begin", "3.seal"],
        &["1.begin", "2.begin", "3.begin"],
        &["77.begin", "4294967295.begin", "4294967295.done"],
    ] {
        let mut world = World::usual().await;
        world.forget("pool/a", 1).await;
        for name in planted {
            let (number, kind) = name.split_once('.').expect("a name");
            put(&*world.objects, &format!("{GC}{number:0>10}.{kind}"), Vec::new()).await;
        }
        let context = format!("{planted:?}");
        world.edit("pool/a");
        world.back_up("pool/a").await;
        world.check(&context).await;
        world.prune().await;
        world.check(&context).await;
        world.check_tidy(&context).await;
        world.edit("pool/b");
        world.back_up("pool/b").await;
        world.forget("pool/b", 1).await;
        world.prune().await;
        world.check(&context).await;
        world.check_tidy(&context).await;
        let report = world.prune().await;
        assert!(report.is_idle() && !report.round_open, "{context}: {report:?}");
    }
}

/// A prune stands right before its seal when somebody plants the next round's begin. Others take that for a round of which
/// nobody can tell what it condemned, and end it, so that nothing is deleted that backups use from then on.
#[tokio::test]
async fn a_begin_planted_beside_a_round_under_way_voids_both() {
    let mut world = World::usual().await;
    for sequence in 1..=3 {
        world.forget("pool/a", sequence).await;
    }
    let content = world.volume("pool/a").content();
    let faults = world.faults();
    let gate = faults.gate(|op: &Op| op.kind == OpKind::Create && op.key.ends_with("/gc/0000000001.seal"));
    let project = connect(Arc::new(faults), environment()).await.expect("opened");
    let meanwhile = world.beside();
    let (pruned, reached) = held(prune_on(&project, world.options()), gate, async {
        put(&*meanwhile.objects, &format!("{GC}0000000002.begin"), Vec::new()).await;
        let other = connect(Arc::new(meanwhile.timed.clone()), environment()).await.expect("opened");
        let no_wait = PruneOptions { wait: false, ..meanwhile.options() };
        prune_on(&other, no_wait).await.expect("voided");
        let late = MemoryVolume::new(content.clone());
        back_up(&other, &late, &options("pool/late")).await.expect("backed up");
    })
    .await;
    assert!(reached);
    pruned.expect("pruned");
    let content = world.volume("pool/a").content();
    world.expected.insert(("pool/late".to_owned(), 1), content);
    world.check("voided").await;
    world.prune().await;
    world.check("voided, and pruned").await;
    world.check_tidy("voided, and pruned").await;
}

/// A `.forget` hides nothing before it opens and says whose it is, and a prune stops at it.
#[tokio::test]
async fn what_would_hide_a_snapshot_is_opened_first() {
    let mut base = World::usual().await;
    base.forget("pool/b", 1).await;
    base.prune().await;
    for which in 0..3 {
        for open in [false, true] {
            let context = format!("{which}, open: {open}");
            let mut world = base.fork();
            world.forget("pool/a", 1).await;
            let project = world.project().await;
            if open {
                let catalog = project.volumes().confirmed().await.expect("a catalog");
                let session = Session::register(&project, &catalog.entries()[1]).await.expect("registered");
                let no_wait = PruneOptions { wait: false, ..world.options() };
                assert!(prune_on(&project, no_wait).await.expect("begun").round_open);
                session.abort("given up").await.expect("settled");
            }
            let hand = world.by_hand().await;
            let forget = ObjectName::Forget(hand.project.clone(), VolumeNumber(1), Sequence(3));
            match which {
                2 => {
                    let of =
                        ForgetRecord { snapshot_id: SnapshotId([9; 16]), host: String::new(), at_unix_ms: 0 };
                    hand.put_record(&forget, &of).await;
                }
                _ => put(&*world.objects, &forget.to_string(), vec![0; which * 300]).await,
            }
            let before = hand.contents().await;
            let error = prune_on(&world.project().await, world.options()).await.expect_err(&context);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{context}: {error}");
            assert!(error.message().contains("nothing is deleted"), "{context}: {error}");
            assert!(error.message().contains(&forget.to_string()), "{context}: {error}");
            assert_eq!(hand.contents().await, before, "{context}");
            world.check(&context).await;
        }
    }
}

/// A name that says that a session under way is over lets no round go on without it.
#[tokio::test]
async fn a_planted_end_or_forget_is_no_outcome() {
    for kind in ["end", "forget"] {
        let mut world = World::usual().await;
        let content = world.volume("pool/a").content();
        let faults = world.faults();
        let mut commit = faults.gate(|op: &Op| op.kind == OpKind::Create && op.key.ends_with(".end"));
        let late = connect(Arc::new(faults), environment()).await.expect("opened");
        let volume = MemoryVolume::new(content);
        let late_options = options("pool/late");
        let backup = back_up(&late, &volume, &late_options);
        tokio::pin!(backup);
        tokio::select! {
            done = &mut backup => panic!("it ended at a closed gate: {done:?}"),
            () = commit.reached() => {}
        }
        let place = if kind == "end" { "log" } else { "retention" };
        put(&*world.objects, &format!("projects/default/{place}/0000000003/0000000001.{kind}"), Vec::new())
            .await;
        for sequence in 1..=3 {
            world.forget("pool/a", sequence).await;
        }
        let error = prune_on(&world.project().await, world.options()).await.expect_err(kind);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{kind}: {error}");
        commit.open();
        let done = backup.await;
        assert_eq!(done.is_ok(), kind == "forget", "{done:?}");
        if kind == "forget" {
            let content = world.volume("pool/a").content();
            world.expected.insert(("pool/late".to_owned(), 1), content);
        }
        world.check(kind).await;
    }
}

/// A number that has no `.open` but something else is passed over by who registers. Whoever confirms where a log ends, and is shown less than there is,
/// must still come to what lies behind it: a prune that did not would delete what the newest snapshots need.
#[tokio::test]
async fn what_is_behind_a_planted_number_is_seen_whatever_a_listing_lacks() {
    for planted in ["0000000004.end", "0000000004.alive.0000000001", "0000000004.end 0000000005.end"] {
        let mut world = World::usual().await;
        for name in planted.split(' ') {
            put(&*world.objects, &format!("{LOG}{name}"), Vec::new()).await;
        }
        world.edit("pool/a");
        world.back_up("pool/a").await;
        for sequence in 1..=3 {
            world.forget("pool/a", sequence).await;
        }
        let faults = world.faults();
        faults.hide_from_listings(|name| name.starts_with(LOG) && name[LOG.len()..] > *"0000000003");
        let project = connect(Arc::new(faults), environment()).await.expect("opened");
        let before = world.by_hand().await.contents().await;
        // Nobody can tell what a foreign `.end` was: so nothing is deleted, or nothing that is needed.
        let pruned = prune_on(&project, world.options()).await;
        assert!(pruned.is_err() || planted.contains("alive"), "{planted}: {pruned:?}");
        if pruned.is_err() {
            assert_eq!(world.by_hand().await.contents().await, before, "{planted}");
        }
        world.check(planted).await;
    }
}

/// Numbers that no row leads to stop nobody, however large, and take no memory; a number in the row is passed over.
#[tokio::test]
async fn planted_numbers_stop_nobody() {
    let mut world = World::usual().await;
    for name in [
        "4294967295.open",
        "0020000000.open",
        "0000000050.open",
        "0000000001.alive.4294967295",
        "0000000003.note.4294967295",
        "0000000003.note.0000000001",
        "0000000004.open",
    ] {
        put(&*world.objects, &said(name), Vec::new()).await;
    }
    let memory = tempfile::tempdir().expect("a directory");
    let here = || cuttle::repo::Environment { memory_dir: Some(memory.path().to_owned()), ..environment() };
    let project = connect(Arc::new(world.timed.clone()), here()).await.expect("opened");
    world.check("planted").await;
    world.edit("pool/a");
    assert_eq!(world.back_up_in(&project, "pool/a").await.expect("backed up").sequence, Some(5));
    world.forget("pool/a", 1).await;
    world.prune().await;
    world.check("planted, and pruned").await;
    // As long as it is young it may be a session that cannot be read just now.
    let report = prune_on(&project, PruneOptions { wait: false, ..world.options() }).await.expect("pruned");
    assert!(report.is_idle(), "{report:?}");
    world.edit("pool/b");
    world.back_up("pool/b").await;
    world.check_tidy("planted, and pruned").await;
    // It is removed again, and nobody remembers it.
    for name in ["4294967295.open", "0020000000.open", "0000000050.open"] {
        crate::support::by_hand::delete(&*world.objects, &format!("{LOG}{name}")).await;
    }
    let project = connect(Arc::new(world.timed.clone()), here()).await.expect("opened");
    world.edit("pool/a");
    assert_eq!(world.back_up_in(&project, "pool/a").await.expect("backed up").sequence, Some(6));
    world.forget("pool/a", 2).await;
    world.prune().await;
    world.check("removed").await;
    world.check_tidy("removed").await;
}

/// Entries of the catalog that do not open take their numbers, and no volume.
#[tokio::test]
async fn planted_volumes_stop_nobody() {
    let mut world = World::usual().await;
    for number in ["0000000003", "0000000009", "4294967295"] {
        put(&*world.objects, &format!("projects/default/volumes/{number}"), Vec::new()).await;
    }
    world.volume("pool/new").edit(|c| c[..C].fill(9));
    world.back_up("pool/new").await;
    world.back_up("pool/new").await;
    let catalog = world.project().await.volumes().confirmed().await.expect("a catalog");
    let numbers: Vec<u32> = catalog.entries().iter().map(|v| v.number.0).collect();
    assert_eq!(numbers, [1, 2, 4]);
    world.forget("pool/a", 1).await;
    world.prune().await;
    world.check("planted volumes").await;
    world.check_tidy("planted volumes").await;
    // One that has a log is a volume, whatever its entry says: nothing that it keeps alive is deleted.
    put(&*world.objects, "projects/default/volumes/0000000002", Vec::new()).await;
    world.forget("pool/a", 2).await;
    let error = prune_on(&world.project().await, world.options()).await.expect_err("a volume");
    assert!(error.message().contains("has a log"), "{error}");
}

/// Old objects copied under names of the new generation, which takes no key: a listing shows them, and creates find them.
/// They do not open there, so nobody uses them.
#[tokio::test]
async fn what_a_listing_shows_is_opened_before_it_is_referenced() {
    for few in [true, false] {
        let mut world = World::new(6).await;
        let content = Numbers::new(4).bytes(40 * C);
        world.volume("x").edit(|c| *c = content.clone());
        world.back_up("x").await;
        world.back_up("y").await;
        let mut stash = Vec::new();
        for kind in ["chunks", "pages"] {
            for name in names(&*world.objects, &format!("projects/default/{kind}/0000000000/")).await {
                stash.push((name.replace("/0000000000/", "/0000000001/"), get(&*world.objects, &name).await));
            }
        }
        world.forget("x", 1).await;
        world.prune().await;
        for (name, bytes) in stash {
            put(&*world.objects, &name, bytes).await;
        }
        let volume = if few { "x2" } else { "x" };
        world.volume(volume).edit(|c| *c = content.clone());
        assert_eq!(world.back_up(volume).await.stats.new_chunks, 40, "{volume}");
        world.check(volume).await;
    }
    // What a snapshot names is known without a look.
    let mut world = World::new(7).await;
    let content = Numbers::new(4).bytes(40 * C);
    for volume in ["x", "y"] {
        world.volume(volume).edit(|c| *c = content.clone());
        let stats = world.back_up(volume).await.stats;
        assert_eq!(stats.known_chunks, if volume == "y" { 40 } else { 0 }, "{volume}");
    }
    world.check("shared").await;
}

/// An `.open` that does not open is waited for as long as a session would be, and then ended.
#[tokio::test]
async fn what_does_not_open_is_waited_for_and_ended() {
    let mut world = World::usual().await;
    put(&*world.objects, &format!("{LOG}0000000004.open"), Vec::new()).await;
    world.forget("pool/a", 1).await;
    let no_wait = || PruneOptions { wait: false, ..world.options() };
    let report = prune_on(&world.project().await, no_wait()).await.expect("waiting");
    assert!(report.round_open && report.waiting.len() == 1, "{report:?}");
    world.timed.advance_ms((25 * HOUR).as_millis() as u64);
    let report = prune_on(&world.project().await, no_wait()).await.expect("pruned");
    assert!(report.aborted.len() == 1 && report.deleted().objects > 0, "{report:?}");
    world.check("ended").await;
    world.check_tidy("ended").await;
}

/// Who has the keys and may only create seals a round that deletes what is needed. An honest prune that finds it marks
/// again, and stops.
#[tokio::test]
async fn a_forged_seal_is_not_carried_out() {
    for (what, condemned) in [("needed", true), ("not condemned", false)] {
        let mut world = World::usual().await;
        world.forget("pool/a", 1).await;
        let hand = world.by_hand().await;
        let everything = hand.contents().await;
        let ids: Vec<ChunkId> = everything.values().map(|name| name.id).collect();
        hand.begin_round(1, if condemned { &ids } else { &[] }).await;
        let entry = |(key, name): (&String, &cuttle::format::names::ContentName)| TableEntry {
            kind: if key.contains("/chunks/") { ContentKind::Chunk } else { ContentKind::Page },
            object: ObjectRef { name: *name, sealed_len_bytes: HEADER_LEN_BYTES as u32 },
        };
        let entries: Vec<TableEntry> = everything.iter().map(entry).collect();
        hand.seal_round(1, &entries, Vec::new()).await;
        let error = prune_on(&world.project().await, world.options()).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert!(error.message().contains("gc/0000000001.seal"), "{what}: {error}");
        assert_eq!(hand.contents().await, everything, "{what}");
        world.check(what).await;
    }
}

/// A prune loses the race for its seal to a forged one.
#[tokio::test]
async fn a_forged_seal_that_comes_first_is_not_carried_out() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    let hand = world.by_hand().await;
    let everything = hand.contents().await;
    let faults = world.faults();
    let gate = faults.gate(|op: &Op| op.kind == OpKind::Create && op.key.ends_with("/gc/0000000001.seal"));
    let project = connect(Arc::new(faults), environment()).await.expect("opened");
    let forged = AtomicBool::new(false);
    let (pruned, _) = held(prune_on(&project, world.options()), gate, async {
        let entries: Vec<TableEntry> = everything
            .values()
            .map(|name| TableEntry {
                kind: ContentKind::Chunk,
                object: ObjectRef { name: *name, sealed_len_bytes: HEADER_LEN_BYTES as u32 },
            })
            .collect();
        hand.seal_round(1, &entries, Vec::new()).await;
        forged.store(true, Ordering::SeqCst);
    })
    .await;
    assert!(forged.load(Ordering::SeqCst));
    assert_eq!(pruned.expect_err("it differs").kind(), ErrorKind::Corrupt);
    assert_eq!(hand.contents().await, everything);
    world.check("forged").await;
}

/// What it is called, its objects and whether each is planted or taken away, and the snapshot that is given up.
type Case = (&'static str, &'static [(&'static str, bool)], Option<u32>);

/// Whatever a prune stops at can be put aside by its name: then it goes on, nothing is lost but what was given up, and verify
/// finds nothing wrong any more.
#[tokio::test]
async fn what_stops_a_prune_can_be_put_aside() {
    let mut base = World::usual().await;
    base.forget("pool/b", 1).await;
    base.prune().await;
    let log = said;
    let cases: [Case; 5] = [
        ("a .forget", &[("0000000003.forget", true)], None),
        ("an outcome", &[("0000000004.open", true), ("0000000004.end", true)], None),
        ("an outcome that was one", &[("0000000002.end", true)], Some(2)),
        ("a registration that is gone", &[("0000000002.open", false)], None),
        ("notes and strays", &[("0000000003.note.0000000001", true), ("0000000050.open", true)], None),
    ];
    for (what, objects, given_up) in cases {
        let mut world = base.fork();
        world.forget("pool/a", 1).await;
        for (name, planted) in objects {
            match planted {
                true => put(&*world.objects, &log(name), Vec::new()).await,
                false => crate::support::by_hand::delete(&*world.objects, &log(name)).await,
            }
        }
        let project = world.project().await;
        for dry_run in [true, false] {
            // What stands in the way of another is put aside first, so a dry run sees no further than that.
            for (name, _) in objects.iter().rev().take(if dry_run { 1 } else { usize::MAX }) {
                let before = crate::support::by_hand::names(&*world.objects, "").await;
                let aside = put_aside(&project, &log(name), dry_run).await;
                let aside = aside.unwrap_or_else(|e| panic!("{what}: {name}: {e}"));
                assert!(!aside.done.is_empty(), "{what}: {aside:?}");
                if dry_run {
                    assert_eq!(crate::support::by_hand::names(&*world.objects, "").await, before, "{what}");
                }
            }
        }
        if let Some(sequence) = given_up {
            world.expected.remove(&("pool/a".to_owned(), sequence)).expect("it was live");
        }
        let report = prune_on(&project, world.options()).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(report.deleted().objects > 0, "{what}: {report:?}");
        world.check(what).await;
        world.check_tidy(what).await;
        let verified = verify(&project, false).await;
        let damage = verified.expect("verified").damage;
        assert!(damage.is_empty(), "{what}: {damage:?}");
        world.edit("pool/a");
        world.back_up("pool/a").await;
        world.check(what).await;
    }
}
