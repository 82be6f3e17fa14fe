//! Bundles: what a night of small changes costs, what a restore and a verify of many nights cost, and that damage stays where it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::Numbers;
use crate::support::by_hand::{ByHand, get, names, put};
use crate::support::fault_store::{Fault, FaultStore, Op, OpKind};
use crate::support::memory_sink::{MemoryReader, MemorySink};
use crate::support::repo::{
    self, MemoryVolume, back_up, default, init_with, latest, options, read_back, secret, store, verify,
};
use cuttle::backup::BackupOptions;
use cuttle::cancel::Cancel;
use cuttle::format::page::{ObjectRef, PageRef};
use cuttle::progress::Silent;
use cuttle::prune;
use cuttle::repo::manifest::Manifest;
use cuttle::repo::{InitOptions, Keeper};
use cuttle::restore;
use cuttle::store::Ledger;
use cuttle::verify::repair::{self, RepairOptions, Source, Sources};
use cuttle::verify::{ScrubOptions, VerifyOptions, scrub};
use object_store::memory::InMemory;

const CHUNK: u32 = 64 << 10;
const C: usize = CHUNK as usize;
const BUNDLES: &str = "projects/default/bundles/";

async fn repository() -> (Arc<InMemory>, Keeper) {
    let objects = Arc::new(InMemory::new());
    let options = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 7 };
    let repository = init_with(store(objects.clone()), options, true).await;
    (objects, default(&repository).await)
}

fn nightly() -> BackupOptions {
    options("v")
}

fn ledger(project: &Keeper) -> Ledger {
    project.repository().store().ledger()
}

async fn leaf(project: &Keeper) -> Vec<PageRef> {
    let manifest = Manifest::of(project, &latest(project, "v").await.snapshot).expect("a manifest");
    manifest.leaf(0).await.expect("a leaf").refs.clone()
}

/// A little of every chunk.
fn touch(volume: &MemoryVolume, chunks: usize, numbers: &mut Numbers) {
    volume.edit(|content| {
        for chunk in 0..chunks {
            let at = chunk * C + numbers.below(C as u64 - 600) as usize;
            content[at..at + 600].copy_from_slice(&numbers.bytes(600));
        }
    });
}

#[tokio::test]
async fn a_night_that_changes_every_chunk_a_little_is_one_put() {
    const CHUNKS: usize = 256;
    let (objects, project) = repository().await;
    let mut numbers = Numbers::new(1);
    let volume = MemoryVolume::new(numbers.bytes(CHUNKS * C));
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    assert!(names(&*objects, BUNDLES).await.is_empty(), "nothing of it is small");
    touch(&volume, CHUNKS, &mut numbers);
    let before = ledger(&project);
    let report = back_up(&project, &volume, &nightly()).await.expect("backed up");
    assert_eq!((report.stats.delta_chunks, report.stats.new_chunks), (256, 256));
    assert_eq!(names(&*objects, BUNDLES).await.len(), 1);
    // `.open`, the bundle, a page, `.end`.
    assert_eq!((ledger(&project) - before).put_requests, 4);
    assert!(read_back(&project, &latest(&project, "v").await).await.expect("read") == volume.content());
}

/// Thirty nights in each of which every chunk changes a little.
#[tokio::test]
async fn many_nights_are_restored_and_verified_with_few_requests() {
    const CHUNKS: usize = 200;
    let (_, project) = repository().await;
    let mut numbers = Numbers::new(2);
    let volume = MemoryVolume::new(numbers.bytes(CHUNKS * C));
    let mut joined_gets = 0;
    for night in 0..30 {
        let before = ledger(&project);
        back_up(&project, &volume, &nightly()).await.expect("backed up");
        if night > 8 {
            joined_gets = joined_gets.max((ledger(&project) - before).get_requests);
        }
        touch(&volume, CHUNKS, &mut numbers);
    }
    // Chains are joined in some of these nights, by the tables of the bundles: no delta is read for it.
    assert!(joined_gets < 40, "{joined_gets} GETs in a night");
    let depths: usize = leaf(&project).await.iter().map(|chunk| chunk.objects().count() - 1).sum();
    assert!(depths > 3 * CHUNKS, "{depths} deltas below {CHUNKS} chunks");
    let before = ledger(&project);
    let (snapshot, sink) = (latest(&project, "v").await, Arc::new(MemorySink::blank(CHUNKS * C)));
    let options = restore::RestoreOptions::default();
    restore::run(&project, &snapshot, sink, options, Arc::new(Silent), Cancel::never())
        .await
        .expect("restored");
    let gets = (ledger(&project) - before).get_requests;
    assert!(gets * 100 <= 115 * CHUNKS as u64, "{gets} GETs for {CHUNKS} chunks with {depths} deltas");
    for sequence in 1..30 {
        let name = [format!("v@{sequence}")];
        cuttle::forget::by_name(&project, &name, false, Cancel::never()).await.expect("forgotten");
    }
    let verified = async |read_data| {
        let before = ledger(&project);
        assert!(verify(&project, read_data).await.expect("verified").ok());
        (ledger(&project) - before).get_requests
    };
    let gets = verified(true).await - verified(false).await;
    assert!(gets * 100 <= 115 * CHUNKS as u64, "{gets} GETs to verify {CHUNKS} chunks with {depths} deltas");
}

/// Damage is found wherever it is, and is damage of the piece that it is in.
#[tokio::test]
async fn every_flipped_byte_of_a_bundle_hurts_its_piece_alone() {
    let (objects, project) = repository().await;
    let mut numbers = Numbers::new(3);
    let volume = MemoryVolume::new(numbers.bytes(3 * C));
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    volume.edit(|content| (0..3).for_each(|chunk| content[chunk * C + 7] ^= 1));
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    let [bundle] = &names(&*objects, BUNDLES).await[..] else { panic!("one bundle") };
    let whole = get(&*objects, bundle).await;
    let pieces: Vec<ObjectRef> =
        leaf(&project).await.iter().filter_map(|chunk| chunk.object().copied()).collect();
    let first = pieces.iter().filter_map(|piece| piece.name.offset_bytes).min().expect("pieces") as usize;
    for at in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1 << (at % 8);
        put(&*objects, bundle, bytes).await;
        let report = verify(&project, true).await.expect("verified");
        let hit = pieces.iter().position(|piece| {
            let start = piece.name.offset_bytes.expect("a piece") as usize;
            (start..start + piece.sealed_len_bytes as usize).contains(&at)
        });
        match hit {
            None => assert!(at < first && report.ok(), "byte {at}: {:?}", report.damage),
            Some(chunk) => {
                let [damage] = &report.damage[..] else { panic!("byte {at}: {:?}", report.damage) };
                let offset = pieces[chunk].name.offset_bytes.expect("a piece");
                assert_eq!(damage.object, format!("{bundle}+{offset}"), "byte {at}");
                let [hurt] = &damage.hurts[..] else { panic!("byte {at}: {:?}", damage.hurts) };
                let range = hurt.ranges[0];
                assert_eq!((range.offset_bytes, range.length_bytes), ((chunk * C) as u64, C as u64));
            }
        }
        let scrubbed =
            scrub(project.repository().store(), ScrubOptions::default(), Arc::new(Silent), Cancel::never());
        let damage = scrubbed.await.expect("scrubbed").damage;
        assert!(damage.len() == 1 && damage[0].object == *bundle, "byte {at}: {damage:?}");
        assert!(damage[0].message.contains("1 parts"), "byte {at}: {}", damage[0].message);
    }
    put(&*objects, bundle, whole).await;
    assert!(verify(&project, true).await.expect("verified").ok());
}

/// Two pieces that are alike are not the other's: each is bound to what it holds.
#[tokio::test]
async fn pieces_that_changed_places_are_damage() {
    let (objects, project) = repository().await;
    let mut numbers = Numbers::new(4);
    let volume = MemoryVolume::new(numbers.bytes(2 * C));
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    volume.edit(|content| (0..2).for_each(|chunk| content[chunk * C + 7] ^= 1));
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    let [bundle] = &names(&*objects, BUNDLES).await[..] else { panic!("one bundle") };
    let mut bytes = get(&*objects, bundle).await.to_vec();
    let pieces: Vec<ObjectRef> =
        leaf(&project).await.iter().filter_map(|chunk| chunk.object().copied()).collect();
    let [one, two] = [0, 1].map(|at| {
        let start = pieces[at].name.offset_bytes.expect("a piece") as usize;
        start..start + pieces[at].sealed_len_bytes as usize
    });
    assert_eq!(one.len(), two.len(), "alike");
    let (first, second) = (bytes[one.clone()].to_vec(), bytes[two.clone()].to_vec());
    bytes[one].copy_from_slice(&second);
    bytes[two].copy_from_slice(&first);
    put(&*objects, bundle, bytes).await;
    assert!(read_back(&project, &latest(&project, "v").await).await.is_err());
    let report = verify(&project, true).await.expect("verified");
    assert_eq!(report.damage.len(), 2, "{:?}", report.damage);
}

/// A bundle that is gone comes back piece by piece where the volume still has what it held.
#[tokio::test]
async fn a_lost_bundle_is_mended() {
    let (objects, project) = repository().await;
    let mut numbers = Numbers::new(5);
    let volume = MemoryVolume::new(numbers.bytes(4 * C));
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    volume.edit(|content| (0..4).for_each(|chunk| content[chunk * C + 7] ^= 1));
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    let [bundle] = &names(&*objects, BUNDLES).await[..] else { panic!("one bundle") };
    crate::support::by_hand::delete(&*objects, bundle).await;
    let report = verify(&project, false).await.expect("verified");
    assert_eq!(report.damage.len(), 4, "{:?}", report.damage);
    let hand = ByHand::open(objects.clone(), &secret(), "default").await;
    assert!(hand.contents().await.keys().all(|name| name != bundle));
    let source = Source { label: "volume".into(), reader: MemoryReader::of(volume.content()) };
    let sources = Sources { named: vec![source], ..Sources::default() };
    let verify = VerifyOptions { read_data: true, ..VerifyOptions::default() };
    let options = RepairOptions { verify, sources, dry_run: false };
    let report = repair::run(&project, options, Arc::new(Silent), Cancel::never()).await.expect("mended");
    assert!(report.ok() && report.mended.len() == 4, "{:?} {:?}", report.mended, report.left);
    assert!(read_back(&project, &latest(&project, "v").await).await.expect("read") == volume.content());
}

/// Pieces that nobody needs any more stay with their neighbours. Where all chunks change each night, or few, that is little, as chains are joined
/// anyway; the worst is between.
#[tokio::test]
async fn dead_pieces_take_at_most_a_quarter_as_much_again() {
    const CHUNKS: usize = 200;
    const KEPT: u32 = 7;
    const CHANGED: usize = C / 32;
    for part in [1, 3, 10] {
        let (objects, project) = repository().await;
        let mut numbers = Numbers::new(9);
        let volume = MemoryVolume::new(numbers.bytes(CHUNKS * C));
        for night in 1..=30 {
            back_up(&project, &volume, &nightly()).await.expect("backed up");
            volume.edit(|content| {
                for chunk in 0..CHUNKS {
                    let at = chunk * C + numbers.below((C - CHANGED) as u64) as usize;
                    if numbers.below(part) == 0 {
                        content[at..at + CHANGED].copy_from_slice(&numbers.bytes(CHANGED));
                    }
                }
            });
            if night > KEPT {
                let name = [format!("v@{}", night - KEPT)];
                cuttle::forget::by_name(&project, &name, false, Cancel::never()).await.expect("forgotten");
            }
        }
        prune::run(&project, prune::PruneOptions::default(), Arc::new(Silent), Cancel::never())
            .await
            .expect("pruned");
        let dry = prune::PruneOptions { dry_run: true, ..prune::PruneOptions::default() };
        let told = prune::run(&project, dry, Arc::new(Silent), Cancel::never()).await.expect("looked");
        let stats =
            cuttle::stats::run(&project, &Default::default(), Arc::new(Silent), Cancel::never()).await;
        assert_eq!(stats.expect("counted").dead_bytes, told.dead_bytes);
        let mut needed = BTreeMap::new();
        let catalog = project.volumes().confirmed().await.expect("a catalog");
        for snapshot in project.history(&catalog.entries()[0]).snapshots().await.expect("snapshots") {
            let manifest = Manifest::of(&project, &snapshot.snapshot).expect("a manifest");
            let leaf = manifest.leaf(0).await.expect("a leaf");
            let pieces =
                leaf.refs.iter().flat_map(PageRef::objects).filter(|o| o.name.offset_bytes.is_some());
            needed.extend(pieces.map(|piece| (piece.name, u64::from(piece.sealed_len_bytes))));
        }
        let mut stored = 0;
        for name in names(&*objects, BUNDLES).await {
            stored += get(&*objects, &name).await.len() as u64;
        }
        let needed: u64 = needed.values().sum();
        assert_eq!(told.dead_bytes, Some(stored - needed));
        let newest = latest(&project, "v").await;
        assert!(read_back(&project, &newest).await.expect("read").len() == CHUNKS * C);
        println!("one chunk in {part} a night: {stored} bytes in bundles, {needed} of them needed");
        assert!(stored * 100 <= needed * 125, "one chunk in {part} a night: {stored} bytes for {needed}");
    }
}

/// A volume of which one bundle has two pieces left, and what else there was is gone; in both cases the night after next.
async fn with_a_sparse_bundle() -> (Arc<InMemory>, Keeper, Arc<MemoryVolume>) {
    const CHUNKS: usize = 100;
    let (objects, project) = repository().await;
    let mut numbers = Numbers::new(14);
    let volume = MemoryVolume::new(numbers.bytes(CHUNKS * C));
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    touch(&volume, CHUNKS, &mut numbers);
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    volume.edit(|content| {
        for chunk in (0..CHUNKS).filter(|chunk| !STAY.contains(chunk)) {
            content[chunk * C..(chunk + 1) * C].copy_from_slice(&numbers.bytes(C));
        }
    });
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    (objects, project, volume)
}

const STAY: [usize; 2] = [7, 60];

/// What is needed of a bundle that holds nothing else of use goes along with the next backup that writes its page anyway. Then the
/// bundle goes with the last snapshot that needs it.
#[tokio::test]
async fn a_bundle_of_which_little_is_needed_is_emptied() {
    let (objects, project, volume) = with_a_sparse_bundle().await;
    let [sparse] = &names(&*objects, BUNDLES).await[..] else { panic!("one bundle") };
    let before = leaf(&project).await;
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    assert_eq!(leaf(&project).await, before, "for its sake alone no page is written");
    volume.edit(|content| content[3 * C] ^= 1);
    let (gets, puts) = (ledger(&project).get_requests, ledger(&project).put_requests);
    let report = back_up(&project, &volume, &nightly()).await.expect("backed up");
    assert!(report.stats.new_chunks == 1 && report.stats.stored_bytes < CHUNK.into(), "{:?}", report.stats);
    // Two bundles, for what is new and for what is carried.
    assert_eq!(ledger(&project).put_requests - puts, 5);
    assert!(ledger(&project).get_requests - gets < 20, "{}", ledger(&project).get_requests - gets);
    let now = leaf(&project).await;
    for chunk in STAY {
        let [was, is] = [&before, &now].map(|leaf| leaf[chunk].clone());
        assert_ne!(was.object(), is.object(), "chunk {chunk} is carried");
        assert_eq!((was.id(), was.objects().count()), (is.id(), is.objects().count()));
    }
    for sequence in 1..=4 {
        let name = [format!("v@{sequence}")];
        cuttle::forget::by_name(&project, &name, false, Cancel::never()).await.expect("forgotten");
    }
    prune::run(&project, prune::PruneOptions::default(), Arc::new(Silent), Cancel::never())
        .await
        .expect("pruned");
    assert!(!names(&*objects, BUNDLES).await.contains(sparse), "nobody needs it");
    assert!(read_back(&project, &latest(&project, "v").await).await.expect("read") == volume.content());
    assert!(verify(&project, true).await.expect("verified").ok());
}

/// What is damaged is not carried, and holds nothing else up.
#[tokio::test]
async fn a_damaged_piece_stays_in_its_bundle() {
    let (objects, project, volume) = with_a_sparse_bundle().await;
    let [sparse] = &names(&*objects, BUNDLES).await[..] else { panic!("one bundle") };
    let before = leaf(&project).await;
    let mut bytes = get(&*objects, sparse).await.to_vec();
    let hurt = before[STAY[1]].object().expect("a piece");
    bytes[hurt.name.offset_bytes.expect("a piece") as usize + hurt.sealed_len_bytes as usize - 1] ^= 1;
    put(&*objects, sparse, bytes).await;
    volume.edit(|content| content[3 * C] ^= 1);
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    let now = leaf(&project).await;
    assert_ne!(now[STAY[0]], before[STAY[0]], "the good one is carried");
    assert_eq!(now[STAY[1]], before[STAY[1]], "the other is not");
}

/// A backup that was interrupted goes on: what it had sent in bundles is not sent again.
#[tokio::test]
async fn an_interrupted_backup_does_not_send_its_bundles_again() {
    const CHUNKS: usize = 600;
    let (objects, project) = repository().await;
    let mut numbers = Numbers::new(12);
    // Half of it is small in full, too.
    let small =
        |n: u8| [n; C].iter().enumerate().map(|(at, b)| b.wrapping_add((at / 512) as u8)).collect::<Vec<_>>();
    let mut content = numbers.bytes(CHUNKS * C);
    for chunk in 0..40 {
        content[chunk * C..][..C].copy_from_slice(&small(chunk as u8));
    }
    let volume = MemoryVolume::new(content);
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    volume.edit(|content| {
        for chunk in 0..CHUNKS {
            content[chunk * C..][..15_000].copy_from_slice(&numbers.bytes(15_000));
        }
    });
    let whole = {
        let (other, beside) = (objects.fork(), volume.fork());
        let other = repo::connect(store(Arc::new(other)), repo::environment()).await.expect("opens");
        let before = ledger(&other);
        back_up(&other, &beside, &nightly()).await.expect("backed up");
        ledger(&other) - before
    };
    let faults = FaultStore::new(objects.clone());
    // It dies before its outcome: all bundles are there.
    faults.fail_always_for(|op| op.kind == OpKind::Create && op.key.ends_with(".end"), Fault::Status(403));
    let dying = repo::connect(store(Arc::new(faults)), repo::environment()).await.expect("opens");
    back_up(&dying, &volume, &nightly()).await.expect_err("interrupted");
    let there = names(&*objects, BUNDLES).await.len();
    assert!(there > 1, "{there}");
    let before = ledger(&project);
    let report = back_up(&project, &volume, &nightly()).await.expect("backed up");
    let took = ledger(&project) - before;
    assert_eq!(names(&*objects, BUNDLES).await.len(), there, "none is new: {:?}", report.stats);
    println!("{} bytes, whole {}", took.uploaded_bytes, whole.uploaded_bytes);
    assert!(
        took.uploaded_bytes * 3 < whole.uploaded_bytes,
        "{} of {}",
        took.uploaded_bytes,
        whole.uploaded_bytes
    );
    assert!(read_back(&project, &latest(&project, "v").await).await.expect("read") == volume.content());
    assert!(verify(&project, true).await.expect("verified").ok());
}

/// Where everything that is got is something else, the search for what was left ends.
#[tokio::test]
async fn a_store_that_answers_with_something_else_does_not_hold_up_who_resumes() {
    let (objects, project) = repository().await;
    let mut numbers = Numbers::new(13);
    let volume = MemoryVolume::new(numbers.bytes(20 * C));
    back_up(&project, &volume, &nightly()).await.expect("backed up");
    let fails = |fault_at: fn(&Op) -> bool, fault| {
        let faults = FaultStore::new(objects.clone());
        faults.fail_always_for(fault_at, fault);
        faults
    };
    touch(&volume, 20, &mut numbers);
    let dying = fails(|op| op.kind == OpKind::Create && op.key.ends_with(".end"), Fault::Status(403));
    let dying = repo::connect(store(Arc::new(dying)), repo::environment()).await.expect("opens");
    back_up(&dying, &volume, &nightly()).await.expect_err("interrupted");
    let liar = fails(|op| op.kind == OpKind::Get && op.key.contains("/bundles/"), Fault::Page);
    let asked = repo::connect(store(Arc::new(liar.clone())), repo::environment()).await.expect("opens");
    let report = back_up(&asked, &volume, &nightly()).await.expect("backed up");
    let gets = liar.ops().iter().filter(|op| op.kind == OpKind::Get && op.key.contains("/bundles/")).count();
    assert!((1..20).contains(&gets), "{gets}");
    assert_eq!(report.stats.new_chunks, 20, "all of it is sent again");
    assert!(read_back(&project, &latest(&project, "v").await).await.expect("read") == volume.content());
}
