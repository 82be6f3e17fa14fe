//! What stops a prune before anything is deleted, and what the store may refuse.

use std::collections::BTreeMap;
use std::sync::Arc;

use cuttle::ErrorKind;
use cuttle::cancel::Cancel;
use cuttle::format::ObjectName;
use cuttle::format::gc::SealRecord;
use cuttle::plan::shard::Shard;
use cuttle::progress::Silent;
use cuttle::prune::PruneOptions;
use cuttle::repo::session::Session;
use cuttle::units::Generation;
use cuttle::verify::repair::{self, RepairOptions};
use cuttle::verify::{self, VerifyOptions};

use super::world::{C, World, connect, prune_on};
use crate::support::Numbers;
use crate::support::by_hand::{delete, get, names, put};
use crate::support::fault_store::{Fault, OpKind};
use crate::support::repo::{environment, verify};

const LOG: &str = "projects/default/log/0000000001/";

/// Objects as they were, to be put back.
async fn all(world: &World) -> BTreeMap<String, bytes::Bytes> {
    let mut all = BTreeMap::new();
    for name in names(&*world.objects, "").await {
        let bytes = get(&*world.objects, &name).await;
        all.insert(name, bytes);
    }
    all
}

/// A page that only the newest snapshot of the second volume needs.
async fn page(world: &World) -> String {
    let hand = world.by_hand().await;
    let needed = hand.reachable().await;
    let newest = hand.live().await.into_iter().filter(|s| s.volume.0 == 2).max_by_key(|s| s.sequence);
    let root = newest.expect("a snapshot").root_page().expect("a root");
    let object = root.refs[0].object().expect("a page").name;
    let name = ObjectName::Page(hand.project.clone(), object).to_string();
    assert!(needed.contains(&name));
    name
}

/// Damage that is there before a round begins, or comes while one is open: either way nothing is deleted, the error names
/// the object and says what to do, and once it is mended the prune finishes.
#[tokio::test]
async fn what_is_damaged_or_gone_stops_a_prune_before_anything_is_deleted() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    world.prune().await;
    world.forget("pool/b", 1).await;
    // One that no seal knows.
    world.edit("pool/b");
    world.back_up("pool/b").await;
    let page = page(&world).await;
    let log = names(&*world.objects, LOG).await;
    world.edit("pool/a");
    world.back_up("pool/a").await;
    let hurts: [(&str, Vec<String>, Option<usize>); 8] = [
        ("a damaged page", vec![page.clone()], Some(200)),
        ("a missing page", vec![page], None),
        ("a gap in a log", vec![format!("{LOG}0000000002.open")], None),
        ("a damaged outcome", vec![format!("{LOG}0000000002.end")], Some(150)),
        ("a snapshot that is gone", ["open", "end"].map(|k| format!("{LOG}0000000003.{k}")).into(), None),
        ("a seal that is gone", vec!["projects/default/gc/0000000001.seal".into()], None),
        ("a log that is gone", log, None),
        ("a volume that is gone", vec!["projects/default/volumes/0000000002".into()], None),
    ];
    for open in [false, true] {
        for (what, objects, damaged_at) in &hurts {
            let context = format!("{what}, round open: {open}");
            let world = world.fork();
            let project = world.project().await;
            if open {
                // The round waits for a session, until that is given up.
                let catalog = project.volumes().confirmed().await.expect("a catalog");
                let session = Session::register(&project, &catalog.entries()[1]).await.expect("registered");
                let options = PruneOptions { wait: false, ..world.options() };
                assert!(prune_on(&project, options).await.expect("begun").round_open);
                session.abort("given up").await.expect("settled");
            }
            let before = all(&world).await;
            for name in objects {
                match damaged_at {
                    None => delete(&*world.objects, name).await,
                    Some(at) => {
                        let mut bytes = before[name].to_vec();
                        bytes[*at] ^= 1;
                        put(&*world.objects, name, bytes).await;
                    }
                }
            }
            let hurt = world.by_hand().await.contents().await;
            let project = world.project().await;
            let verified = verify(&project, false);
            assert!(!verified.await.expect(&context).ok(), "{context}: verify finds it as well");
            // One that remembers nothing of what the other saw.
            let project = world.project().await;
            let error = prune_on(&project, world.options()).await.expect_err(&context);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{context}: {error}");
            assert!(error.message().contains("nothing is deleted"), "{context}: {error}");
            assert!(error.help_text().is_some(), "{context}: {error}");
            assert_eq!(world.by_hand().await.contents().await, hurt, "{context}");
            let sealed = names(&*world.objects, "projects/default/gc/0000000002.seal").await;
            assert!(sealed.is_empty(), "{context}");
            for name in objects {
                put(&*world.objects, name, before[name].clone()).await;
            }
            world.prune().await;
            world.check(&context).await;
            world.check_tidy(&context).await;
        }
    }
}

/// Somebody forgets a snapshot that is hurt, as he is told to, and no listing shows it yet. Its manifest is walked in part;
/// what another snapshot shares with it counts as marked only once it was read.
#[tokio::test]
async fn a_walk_that_failed_marks_nothing_that_was_not_read() {
    let mut world = World::usual().await;
    // Two pages, one of which both snapshots have.
    world.volume("pool/wide").edit(|c| *c = [Numbers::new(1).bytes(3 * C), vec![0; 1022 * C]].concat());
    world.back_up("pool/wide").await;
    world.volume("pool/wide").edit(|c| c[1024 * C..].fill(7));
    world.back_up("pool/wide").await;
    world.forget("pool/a", 1).await;
    world.prune().await;
    let hand = world.by_hand().await;
    let newest = hand.live().await.into_iter().find(|s| (s.volume.0, s.sequence.0) == (3, 2));
    let root = newest.expect("a snapshot").root_page().expect("a root");
    assert_eq!(root.refs.len(), 2);
    let own = root.refs[1].object().expect("a page").name;
    delete(&*world.objects, &ObjectName::Page(hand.project.clone(), own).to_string()).await;
    world.forget("pool/wide", 2).await;
    let faults = world.faults();
    faults.hide_from_listings(|name| name.ends_with(".forget"));
    let project = connect(Arc::new(faults), environment()).await.expect("opened");
    let report = prune_on(&project, world.options()).await.expect("pruned");
    assert!(report.deleted_chunks.objects > 0, "{report:?}");
    world.check("half of a manifest was walked").await;
    world.prune().await;
    world.check_tidy("half of a manifest was walked").await;
}

/// The whole store went back in time: this client knows, from what it remembers, also before any seal tells.
#[tokio::test]
async fn a_store_that_went_back_is_refused() {
    let mut world = World::usual().await;
    let memory = tempfile::tempdir().expect("a folder");
    let environment = cuttle::repo::Environment { memory_dir: Some(memory.path().into()), ..environment() };
    let open = || connect(Arc::new(world.timed.clone()), environment.clone());
    prune_on(&open().await.expect("opened"), world.options()).await.expect("pruned");
    for name in names(&*world.objects, &format!("{LOG}0000000003")).await {
        delete(&*world.objects, &name).await;
    }
    let error = prune_on(&open().await.expect("opened"), world.options()).await.expect_err("it went back");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    world.expected.remove(&("pool/a".to_owned(), 3));
    world.check("nothing else is gone").await;
}

/// Rounds that are not as this program makes them are not carried out.
#[tokio::test]
async fn a_seal_that_deletes_what_is_not_older_is_refused() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    world.prune().await;
    world.edit("pool/a");
    world.back_up("pool/a").await;
    let hand = world.by_hand().await;
    let young = hand.contents().await.into_values().find(|c| c.generation == Generation(1)).expect("one");
    let generation = Generation(1);
    let seal = ObjectName::GcSeal(hand.project.clone(), generation);
    let entry = cuttle::format::table::TableEntry {
        kind: cuttle::format::names::ContentKind::Chunk,
        object: cuttle::format::page::ObjectRef { name: young, sealed_len_bytes: 200 },
    };
    let plain = cuttle::format::table::encode(&[entry]);
    let id = hand.page_id(&plain);
    let part = ObjectName::GcPart(hand.project.clone(), generation, id);
    let sealed_len_bytes = hand.put_plain(&part, &plain).await;
    let deleted = vec![cuttle::format::gc::PartRef { id, sealed_len_bytes, entries: 1 }];
    let record: SealRecord = hand.record(&seal).await;
    hand.put_record(&seal, &SealRecord { deleted, ..record }).await;
    delete(&*world.objects, "projects/default/gc/0000000001.done").await;
    let error = prune_on(&world.project().await, world.options()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    world.check("nothing was deleted").await;
    // Who began the next knew that it was over.
    hand.begin_round(2, &[]).await;
    assert_eq!(world.prune().await.rounds_joined, 1);
    world.check("the next was begun").await;
}

#[tokio::test]
async fn what_is_locked_is_left_and_counted_and_not_asked_for_again() {
    for status in [403, 409] {
        let mut world = World::usual().await;
        world.forget("pool/a", 1).await;
        let hand = world.by_hand().await;
        let locked = |key: &str| key.contains("/chunks/");
        let before = hand.contents().await;
        let needed = hand.reachable().await;
        let garbage: Vec<&String> = before.keys().filter(|name| !needed.contains(*name)).collect();
        let chunks = garbage.iter().filter(|name| locked(name)).count() as u64;
        let faults = world.faults();
        faults.fail_always_for(move |op| op.kind == OpKind::Delete && locked(&op.key), Fault::Status(status));
        let project = connect(Arc::new(faults.clone()), environment()).await.expect("opened");
        let report = prune_on(&project, world.options()).await.expect("pruned");
        assert_eq!(report.locked.objects, chunks, "{report:?}");
        assert_eq!(report.deleted().objects, garbage.len() as u64 - chunks, "{report:?}");
        let asked = |op: &crate::support::fault_store::Op| op.kind == OpKind::Delete && locked(&op.key);
        assert_eq!(faults.ops().iter().filter(|op| asked(op)).count() as u64, chunks);
        world.check("locked").await;
        // There is nothing else to delete: it takes no round to ask again.
        let report = prune_on(&project, world.options()).await.expect("pruned");
        assert_eq!((report.locked.objects, report.rounds_begun), (chunks, 0), "{report:?}");
        let writes = |op: &&crate::support::fault_store::Op| matches!(op.kind, OpKind::Create | OpKind::Put);
        let gc = faults.ops().iter().filter(writes).filter(|op| op.key.contains("/gc/0000000002")).count();
        assert_eq!(gc, 0);
        // With something else they are condemned again.
        world.forget("pool/b", 1).await;
        let report = prune_on(&project, world.options()).await.expect("pruned");
        assert_eq!((report.locked.objects > chunks, report.rounds_begun), (true, 1), "{report:?}");
        let chunks = report.locked.objects;
        // The lock ran out.
        let report = world.prune().await;
        assert_eq!((report.deleted_chunks.objects, report.rounds_begun), (chunks, 0), "{report:?}");
        world.check_tidy("unlocked").await;
    }
}

/// What was forgotten is still to be read, but for its chunks, and listings do not show that it was forgotten: a new volume
/// may not be offered what it names.
#[tokio::test]
async fn what_is_half_deleted_and_seems_live_is_offered_to_nobody() {
    let mut world = World::usual().await;
    let content = Numbers::new(4).bytes(40 * C);
    world.volume("pool/gone").edit(|c| *c = content.clone());
    world.back_up("pool/gone").await;
    world.forget("pool/gone", 1).await;
    let faults = world.faults();
    let locked = |key: &str| key.contains("/pages/") || key.ends_with(".end");
    faults.fail_always_for(move |op| op.kind == OpKind::Delete && locked(&op.key), Fault::Status(403));
    faults.hide_from_listings(|name| name == "projects/default/retention/0000000003/0000000001.forget");
    let project = connect(Arc::new(faults), environment()).await.expect("opened");
    assert!(prune_on(&project, world.options()).await.expect("pruned").deleted_chunks.objects >= 40);
    world.forget("pool/b", 1).await;
    assert_eq!(prune_on(&project, world.options()).await.expect("pruned").rounds_finished, 1);
    world.volume("pool/late").edit(|c| *c = content);
    assert!(world.back_up("pool/late").await.stats.new_chunks >= 40);
    world.check("half deleted").await;
}

#[tokio::test]
async fn a_store_that_refuses_everything_is_not_asked_for_everything() {
    let mut world = World::usual().await;
    world.volume("pool/large").edit(|c| *c = Numbers::new(9).bytes(300 * C));
    world.back_up("pool/large").await;
    world.forget("pool/large", 1).await;
    let faults = world.faults();
    faults.fail_always_for(|op| op.kind == OpKind::Delete, Fault::Status(403));
    let project = connect(Arc::new(faults.clone()), environment()).await.expect("opened");
    let report = prune_on(&project, world.options()).await.expect("pruned");
    assert!(report.locked.objects >= 301 && report.deleted().objects == 0, "{report:?}");
    let asked =
        faults.ops().iter().filter(|op| op.kind == OpKind::Delete && op.key.contains("/chunks/")).count();
    assert!((90..200).contains(&asked), "{asked}");
}

#[tokio::test]
async fn a_store_that_fails_to_delete_leaves_the_round_open() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    let faults = world.faults();
    faults.fail_always_for(|op| op.kind == OpKind::Delete && op.key.contains("/chunks/"), Fault::Status(503));
    let project = connect(Arc::new(faults), environment()).await.expect("opened");
    let error = prune_on(&project, world.options()).await.expect_err("the store is down");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let report = world.prune().await;
    assert_eq!((report.rounds_joined, report.rounds_begun), (1, 0), "{report:?}");
    world.check_tidy("finished").await;
}

/// All rounds are gone, and snapshots say that there were some: whoever took it for a new project would use names again that
/// were deleted.
#[tokio::test]
async fn a_project_whose_rounds_are_gone_is_noticed() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    world.prune().await;
    world.edit("pool/a");
    world.back_up("pool/a").await;
    for name in names(&*world.objects, "projects/default/gc/").await {
        delete(&*world.objects, &name).await;
    }
    world.forget("pool/a", 2).await;
    let project = world.project().await;
    let error = prune_on(&project, world.options()).await.expect_err("rounds are gone");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let error = world.back_up_in(&project, "pool/a").await.expect_err("rounds are gone");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let verified = verify(&project, false).await;
    assert!(!verified.expect("verified").ok());
    world.check("rounds are gone").await;
}

/// A volume that came after the last round, and that no listing shows yet, is asked for by name.
#[tokio::test]
async fn a_volume_that_no_listing_shows_is_not_taken_for_none() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    world.prune().await;
    world.edit("pool/new");
    world.back_up("pool/new").await;
    world.forget("pool/a", 2).await;
    let faults = world.faults();
    faults.hide_from_listings(|key| key.contains("/volumes/0000000003"));
    let project = connect(Arc::new(faults), environment()).await.expect("opened");
    let report = prune_on(&project, world.options()).await.expect("pruned");
    assert_eq!(report.volumes, 3, "{report:?}");
    world.check("pruned").await;
}

/// Whoever verifies a share misses nothing of the others', and lets go of nothing that only they read.
#[tokio::test]
async fn a_share_is_verified_for_itself() {
    let mut world = World::usual().await;
    world.forget("pool/a", 1).await;
    world.prune().await;
    let project = world.project().await;
    let look = async |shard: Option<Shard>| {
        let options = VerifyOptions { shard, read_data: true, ..VerifyOptions::default() };
        verify::run(&project, options, Arc::new(Silent), Cancel::never()).await.expect("looked")
    };
    let mut seen = 0;
    for i in 1..=7 {
        let report = look(Some(Shard::new(i, 7).expect("a share"))).await;
        assert!(report.ok(), "{i}: {:?}", report.damage);
        seen += report.snapshots;
    }
    assert_eq!(seen as usize, world.expected.len());

    let chunks: Vec<String> = names(&*world.objects, "projects/default/chunks/").await;
    let bytes = get(&*world.objects, &chunks[0]).await;
    delete(&*world.objects, &chunks[0]).await;
    let report = look(None).await;
    assert_eq!(report.recorded, 1);
    put(&*world.objects, &chunks[0], bytes).await;
    let needs: Vec<&str> = report.damage[0].hurts.iter().map(|hurt| hurt.volume.as_str()).collect();
    let mut shards = (1..=7).map(|i| Shard::new(i, 7).expect("a share"));
    let other = shards.find(|shard| !needs.iter().any(|volume| shard.has(volume)));
    for (shard, left) in [(other, 1), (None, 0)] {
        let verify = VerifyOptions { shard, read_data: true, ..VerifyOptions::default() };
        let options = RepairOptions { verify, ..RepairOptions::default() };
        repair::run(&project, options, Arc::new(Silent), Cancel::never()).await.expect("looked");
        assert_eq!(names(&*world.objects, "projects/default/lost/").await.len(), left, "{shard:?}");
    }
}
