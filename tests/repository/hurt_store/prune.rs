//! Backups while a prune round is under way: what it condemned is written anew, and never referenced.

use std::sync::Arc;

use cuttle::backup::BackupOptions;
use cuttle::format::ObjectName;
use cuttle::format::page::{ObjectRef, PageRef};
use cuttle::format::record::{ForgetRecord, OpenRecord};
use cuttle::repo::Keeper;
use cuttle::repo::history::SnapshotEntry;
use cuttle::repo::manifest::Manifest;
use cuttle::units::{ChunkId, ChunkIndex, Generation, Sequence, VolumeNumber};
use cuttle::{ErrorKind, Result};
use object_store::memory::InMemory;

use super::race::held;
use super::world::{VOLUME, World, connect};
use crate::support::Numbers;
use crate::support::by_hand::{ByHand, delete, names, put};
use crate::support::fault_store::{OpKind, gate_at};
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, back_up_stream, commit_by_hand, diff_v1, environment, latest, options,
    read_back, secret,
};

const C: usize = CHUNK as usize;

async fn by_hand(objects: &Arc<InMemory>) -> ByHand {
    ByHand::open(objects.clone(), &secret(), "default").await
}

/// Every object that a snapshot needs: pages, chunks, and what those are deltas against.
async fn needed(project: &Keeper, snapshot: &SnapshotEntry) -> Vec<ObjectRef> {
    let manifest = Manifest::of(project, &snapshot.snapshot).expect("a manifest");
    let mut all: Vec<ObjectRef> = manifest.root().refs.iter().flat_map(PageRef::objects).copied().collect();
    for number in 0..manifest.leaf_count() {
        let leaf = manifest.leaf(number).await.expect("a leaf");
        all.extend(leaf.refs.iter().flat_map(PageRef::objects));
    }
    all
}

/// The newest snapshot needs nothing that was condemned in an older generation, and it reads as it should when all of
/// that is gone.
async fn stands_without(objects: &InMemory, condemned: &[ChunkId], expected: &[u8], context: &str) {
    let objects = Arc::new(objects.fork());
    let project = connect(objects.clone(), environment()).await.expect(context);
    let snapshot = latest(&project, VOLUME).await;
    for object in needed(&project, &snapshot).await {
        let old = object.name.generation < Generation(1);
        assert!(!old || !condemned.contains(&object.name.id), "{context}: it needs {}", object.name);
    }
    for (name, content) in by_hand(&objects).await.contents().await {
        if content.generation < Generation(1) && condemned.contains(&content.id) {
            delete(&*objects, &name).await;
        }
    }
    let back = read_back(&project, &snapshot).await.unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(back == expected, "{context}: it reads otherwise");
}

/// All of them, or those that the seed chooses.
fn choose(all: impl IntoIterator<Item = ChunkId>, seed: u64) -> Vec<ChunkId> {
    let mut numbers = Numbers::new(seed);
    all.into_iter().filter(|_| seed == 0 || numbers.next() >> 40 & 1 == 0).collect()
}

#[tokio::test]
async fn what_a_round_condemned_is_written_anew() {
    let [deltas, stream_of_deltas] = World::with_deltas().await;
    let plain = [World::incremental().await, World::open_incremental().await, World::stream().await];
    for world in plain.into_iter().chain([deltas, stream_of_deltas]) {
        for seed in 0..12 {
            let context = format!("{}, seed {seed}", world.name);
            let round = world.round();
            let hand = by_hand(&round.objects).await;
            let condemned = choose(hand.contents().await.into_values().map(|c| c.id), seed);
            hand.begin_round(1, &condemned).await;
            let report = round.backup(&round.faults(), environment()).await.expect(&context);
            assert_eq!(report.full_read, report.parent.is_none(), "{context}: it need not read all");
            stands_without(&round.objects, &condemned, &world.next, &context).await;
        }
    }
}

type Change = fn(&mut Vec<u8>);

/// A volume of more than one leaf that nothing, something or its end changed in, read in every way.
#[tokio::test]
async fn whatever_changed_and_however_it_is_read_nothing_condemned_is_kept() {
    let changes: [(&str, Change); 5] = [
        ("nothing", |_| {}),
        ("one chunk", |c| c[1030 * C] ^= 1),
        ("grown", |c| c.resize(2100 * C + 7, 3)),
        ("cut within a chunk", |c| c.truncate(1030 * C + 11)),
        ("cut to one leaf", |c| c.truncate(500 * C)),
    ];
    let objects = Arc::new(InMemory::new());
    let repository = crate::support::repo::init_on(super::world::store(objects.clone()), CHUNK, true).await;
    let project = crate::support::repo::default(&repository).await;
    let mut content = vec![0; 1040 * C];
    for at in [0, 7, 499, 1029, 1030, 1039] {
        content[at * C..][..C].copy_from_slice(&Numbers::new(at as u64).bytes(C));
    }
    let volume = MemoryVolume::new(content.clone());
    back_up(&project, &volume, &options(VOLUME)).await.expect("backed up");
    let all = by_hand(&objects).await.contents().await;
    for (what, change) in changes {
        // All, some, and the pages alone.
        for seed in 0..5 {
            let pages = all.iter().filter(|(name, _)| seed < 4 || name.contains("/pages/"));
            let condemned = choose(pages.map(|(_, c)| c.id), seed % 4);
            for way in ["changes", "full", "stream", "full stream"] {
                let context = format!("{what}, {way}, seed {seed}");
                let objects = Arc::new(objects.fork());
                by_hand(&objects).await.begin_round(1, &condemned).await;
                let mut changed = content.clone();
                change(&mut changed);
                back_up_by(way, &objects, &volume, &changed).await.expect(&context);
                stands_without(&objects, &condemned, &changed, &context).await;
            }
        }
    }
}

async fn back_up_by(way: &str, objects: &Arc<InMemory>, volume: &MemoryVolume, changed: &[u8]) -> Result<()> {
    let project = connect(objects.clone(), environment()).await?;
    let opts = BackupOptions { full: way == "full", accept_new_identity: true, ..options(VOLUME) };
    let size = changed.len() as u64;
    match way {
        "stream" => {
            let from = latest(&project, VOLUME).await.snapshot.point.expect("a named snapshot").name;
            let before = volume.content();
            let mut extents = Vec::new();
            // Of each block only what differs, so that the rest must come from the repository.
            for at in (0..changed.len()).step_by(1000) {
                let now = &changed[at..changed.len().min(at + 1000)];
                let old = |i: usize| before.get(at + i).copied().unwrap_or(0);
                let differs = |i: &usize| now[*i] != old(*i);
                if let (Some(from), Some(to)) = ((0..now.len()).find(differs), (0..now.len()).rfind(differs))
                {
                    extents.push(((at + from) as u64, now[from..=to].to_vec()));
                }
            }
            back_up_stream(&project, diff_v1(Some(&from), "now", size, &extents), &opts).await?;
        }
        "full stream" => {
            let whole = diff_v1(None, "now", size, &[(0, changed.to_vec())]);
            back_up_stream(&project, whole, &opts).await?;
        }
        _ => {
            let volume = volume.fork();
            volume.edit(|c| *c = changed.to_vec());
            back_up(&project, &volume, &opts).await?;
        }
    }
    Ok(())
}

/// In a manifest of three levels the pages between the root and the leaves may be condemned alone.
#[tokio::test]
async fn condemned_pages_between_root_and_leaves_are_written_anew() {
    let objects = Arc::new(InMemory::new());
    let repository = crate::support::repo::init_on(super::world::store(objects.clone()), CHUNK, true).await;
    let project = crate::support::repo::default(&repository).await;
    let hand = by_hand(&objects).await;
    let (near, far) = (vec![1; C], vec![2; C]);
    let far_index = 1024 * 1024 + 5;
    let refs = [(0, hand.chunk(&near, 0).await), (far_index, hand.chunk(&far, 0).await)];
    let size_bytes = (far_index + 1) * u64::from(CHUNK);
    commit_by_hand(&project, VOLUME, size_bytes, refs).await;
    let pages = hand.contents().await.into_iter().filter(|(name, _)| name.contains("/pages/"));
    let pages: Vec<ChunkId> = pages.map(|(_, c)| c.id).collect();
    assert_eq!(pages.len(), 4, "two leaves, and two pages above them");
    for condemned in [&pages[..], &pages[..1], &pages[1..2], &pages[2..3], &pages[3..]] {
        let objects = Arc::new(objects.fork());
        let hand = by_hand(&objects).await;
        hand.begin_round(1, condemned).await;
        let again = connect(objects.clone(), environment()).await.expect("opened");
        let diff = diff_v1(Some("by hand"), "b", size_bytes, &[]);
        back_up_stream(&again, diff, &options(VOLUME)).await.expect("backed up");
        for (name, content) in hand.contents().await {
            if content.generation < Generation(1) && condemned.contains(&content.id) {
                delete(&*objects, &name).await;
            }
        }
        let manifest = Manifest::of(&again, &latest(&again, VOLUME).await.snapshot).expect("a manifest");
        for (index, expected) in [(0, &near), (far_index, &far)] {
            let chunk = manifest.chunk(ChunkIndex(index)).await.expect("its pages are there");
            assert_eq!(&again.content().fetch_chunk(&chunk, CHUNK).await.expect("it is there"), expected);
        }
    }
}

/// A delta is condemned with any object of its closure.
#[tokio::test]
async fn a_delta_on_a_condemned_base_is_written_anew() {
    let mut numbers = Numbers::new(5);
    let mut plains = vec![numbers.bytes(C)];
    for step in 0..2 {
        let mut next = plains[step].clone();
        next[step] ^= 0x55;
        plains.push(next);
    }
    for seed in 0..3 {
        for stream in [false, true] {
            let context = format!("seed {seed}, stream: {stream}");
            let objects = Arc::new(InMemory::new());
            let repository =
                crate::support::repo::init_on(super::world::store(objects.clone()), CHUNK, true).await;
            let project = crate::support::repo::default(&repository).await;
            let hand = by_hand(&objects).await;
            let full = hand.chunk(&plains[0], 0).await;
            let middle = hand.delta(&plains[1], &full, &plains[0], 1).await;
            let top = hand.delta(&plains[2], &middle, &plains[1], 2).await;
            let content = [&plains[2][..], &plains[0]].concat();
            commit_by_hand(&project, VOLUME, content.len() as u64, [(0, top.clone()), (1, full.clone())])
                .await;
            // The full chunk at the end, the delta between, or the one on top.
            let condemned = [[full, middle, top][seed].id().expect("stored")];
            hand.begin_round(1, &condemned).await;
            let again = connect(objects.clone(), environment()).await.expect("opened");
            let size = content.len() as u64;
            let bytes = match stream {
                true => diff_v1(Some("by hand"), "b", size, &[]),
                false => diff_v1(None, "b", size, &[(0, content.clone())]),
            };
            back_up_stream(&again, bytes, &options(VOLUME)).await.expect(&context);
            stands_without(&objects, &condemned, &content, &context).await;
        }
    }
}

/// A round begins at any moment of a backup. It registered before, then its outcome is waited for by the round; or it
/// knows of the round and keeps nothing that is condemned.
#[tokio::test]
async fn a_round_that_begins_during_a_backup_is_seen_or_waits_for_it() {
    let [deltas, stream_of_deltas] = World::with_deltas().await;
    for world in [World::incremental().await, World::stream().await, deltas, stream_of_deltas] {
        let requests = world.requests().await;
        let mut seen = 0;
        for k in 0..requests {
            let context = format!("{}, held at request {k}", world.name);
            let round = world.round();
            let faults = round.faults();
            let hand = by_hand(&round.objects).await;
            let condemned: Vec<ChunkId> = hand.contents().await.into_values().map(|c| c.id).collect();
            let mut registered = false;
            let (done, reached) = held(&round, &faults, gate_at(&faults, k), environment(), async || {
                let opens = names(&*round.objects, "projects/default/log/0000000002/").await;
                registered = opens.len() > 2 * round.lived().len();
                hand.begin_round(1, &condemned).await;
            })
            .await;
            assert!(reached, "{context}");
            let report = done.unwrap_or_else(|e| panic!("{context}: {e}"));
            let (log, live) = round.audit(&context).await;
            let sequence = report.sequence.expect("a sequence");
            assert!(live.contains(&sequence), "{context}");
            assert_eq!(log.unfinished().count(), 0, "{context}");
            let project = connect(round.objects.clone(), environment()).await.expect(&context);
            let generation = latest(&project, VOLUME).await.snapshot.generation;
            match generation {
                Generation(0) => assert!(registered, "{context}: it registered too late for generation 0"),
                _ => {
                    seen += 1;
                    let void = log.last().0 as usize - live.len();
                    assert!(void <= 1 && void >= usize::from(registered), "{context}: {void} are void");
                    stands_without(&round.objects, &condemned, &world.next, &context).await;
                }
            }
        }
        // Registered in the old generation and noticed by the second look.
        assert!((5..requests).contains(&seen), "{}: {seen}", world.name);
    }
}

/// The same where listings do not show the new round yet.
#[tokio::test]
async fn a_round_that_no_listing_shows_is_seen_all_the_same() {
    let world = World::incremental().await;
    let round = world.round();
    let hand = by_hand(&round.objects).await;
    let condemned: Vec<ChunkId> = hand.contents().await.into_values().map(|c| c.id).collect();
    hand.begin_round(1, &condemned).await;
    let faults = round.faults();
    faults.hide_from_listings(|key| key.contains("/gc/"));
    round.backup(&faults, environment()).await.expect("backed up");
    stands_without(&round.objects, &condemned, &world.next, "hidden").await;
    let (log, live) = round.audit("hidden").await;
    assert_eq!(
        (log.last().0, live),
        (3, vec![1, 2, 3]),
        "it is asked for by name before the registration, too"
    );
}

#[tokio::test]
async fn after_the_round_everything_that_lives_may_be_referenced_again() {
    let world = World::incremental().await;
    let round = world.round();
    let hand = by_hand(&round.objects).await;
    let condemned: Vec<ChunkId> = hand.contents().await.into_values().map(|c| c.id).collect();
    hand.begin_round(1, &condemned).await;
    hand.end_round(1).await;
    let report = round.backup(&round.faults(), environment()).await.expect("backed up");
    assert!(report.stats.new_chunks < 5, "{:?}", report.stats);
    let project = connect(round.objects.clone(), environment()).await.expect("opened");
    let snapshot = latest(&project, VOLUME).await;
    assert_eq!(snapshot.snapshot.generation, Generation(1));
    round.audit("after the round").await;
}

/// What a round condemned must be known in full, or nothing is committed; nothing that is older is built upon where its begin
/// does not open.
#[tokio::test]
async fn a_condemned_table_that_is_hurt_stops_the_backup() {
    let world = World::incremental().await;
    for hurt in ["missing", "another", "cut", "begin"] {
        let round = world.round();
        let hand = by_hand(&round.objects).await;
        let ids: Vec<ChunkId> = hand.contents().await.into_values().map(|c| c.id).collect();
        hand.begin_round(1, &ids).await;
        let parts = names(&*round.objects, "projects/default/gc/parts/").await;
        let part = ObjectName::parse(&parts[0]).expect("a part");
        match hurt {
            "missing" => delete(&*round.objects, &parts[0]).await,
            // Sealed well, under the right name, and not what the name says.
            "another" => drop(hand.put_plain(&part, &[7; 8]).await),
            "cut" => put(&*round.objects, &parts[0], vec![1; 200]).await,
            _ => put(&*round.objects, "projects/default/gc/0000000001.begin", vec![1; 200]).await,
        }
        let done = round.backup(&round.faults(), environment()).await;
        if hurt == "begin" {
            let stats = done.expect(hurt).stats;
            assert!(stats.new_chunks >= 7 && stats.known_chunks <= 1, "all of it is stored again: {stats:?}");
            round.audit(hurt).await;
            continue;
        }
        let error = done.expect_err(hurt);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{hurt}: {error}");
        assert!(error.message().contains("/gc/") && error.help_text().is_some(), "{hurt}: {error}");
        let (log, live) = round.audit(hurt).await;
        assert_eq!(live, round.lived(), "{hurt}");
        assert_eq!(log.unfinished().count(), 0, "{hurt}: a registration that came to nothing is settled");
    }
}

/// Only what lives after the registration is a parent: what was forgotten before may be deleted by the next round.
#[tokio::test]
async fn a_snapshot_that_was_forgotten_in_time_is_no_parent() {
    let world = World::incremental().await;
    let mut parents = Vec::new();
    for k in 0..world.requests().await {
        let round = world.round();
        let faults = round.faults();
        let hand = by_hand(&round.objects).await;
        let (p, n, s) = (hand.project.clone(), VolumeNumber(2), Sequence(2));
        let open: OpenRecord = hand.record(&ObjectName::Open(p.clone(), n, s)).await;
        let forget = ForgetRecord { snapshot_id: open.snapshot_id, host: "other".into(), at_unix_ms: 0 };
        let name = ObjectName::Forget(p, n, s);
        let (done, _) = held(&round, &faults, gate_at(&faults, k), environment(), async || {
            hand.put_record(&name, &forget).await;
        })
        .await;
        let report = done.unwrap_or_else(|e| panic!("held at request {k}: {e}"));
        let asked = faults.ops().iter().position(|op| op.kind == OpKind::Get && op.key == name.to_string());
        let in_time = asked.is_none_or(|asked| k <= asked);
        assert_eq!(report.parent, Some(if in_time { 1 } else { 2 }), "held at request {k}");
        parents.extend(report.parent);
        let project = connect(round.objects.clone(), environment()).await.expect("opened");
        let back = read_back(&project, &latest(&project, VOLUME).await).await.expect("read");
        assert!(back == world.next, "held at request {k}");
    }
    assert!(parents.contains(&1) && parents.contains(&2));
}

/// A session of a newer generation is not waited for: what only its forgotten parent needed may go under its hands. Where
/// that is seen in time all is read anew, later it is refused; never is it told as a loss.
#[tokio::test]
async fn a_parent_that_is_forgotten_and_pruned_meanwhile_is_no_damage() {
    for world in [World::incremental().await, World::open_incremental().await] {
        let mut met = 0;
        for k in 0..world.requests().await {
            let context = format!("{}, held at request {k}", world.name);
            let round = world.round();
            let hand = by_hand(&round.objects).await;
            let condemned: Vec<ChunkId> = hand.contents().await.into_values().map(|c| c.id).collect();
            hand.begin_round(1, &condemned).await;
            let faults = round.faults();
            let (done, _) = held(&round, &faults, gate_at(&faults, k), environment(), async || {
                for sequence in round.lived() {
                    hand.forget(2, sequence).await;
                }
                for (name, content) in hand.contents().await {
                    if content.generation < Generation(1) {
                        delete(&*round.objects, &name).await;
                    }
                }
            })
            .await;
            if let Ok(report) = &done {
                assert_eq!(report.lost.lost_found, 0, "{context}: {:?}", report.remarks);
                met += usize::from(report.full_read);
            }
            if let Err(error) = done {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{context}: {error}");
                assert!(error.message().contains("was forgotten and pruned meanwhile"), "{context}: {error}");
                met += 1;
            }
            // Either way the volume can be backed up, and is whole.
            let again = connect(round.objects.clone(), environment()).await.expect(&context);
            round.backup(&round.faults(), environment()).await.unwrap_or_else(|e| panic!("{context}: {e}"));
            let back = read_back(&again, &latest(&again, VOLUME).await).await.expect("read");
            assert!(back == world.next, "{context}");
        }
        assert!(met > 0, "{}: nothing was read of the parent", world.name);
    }
}
