//! Deltas: nights that cost what changed. Every night comes back, chains stay within their bounds, a base is believed
//! only when it is what the repository has, and nothing is made on what a prune may delete.

use std::sync::Arc;

use crate::support::Numbers;
use crate::support::by_hand::{ByHand, delete, put};
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, back_up_stream, commit_by_hand, default, diff_v1, init_with, latest,
    options, read_back, reopen, secret, store, verify,
};
use cuttle::ErrorKind;
use cuttle::backup::DeltaMode;
use cuttle::format::page::{ObjectRef, PageRef};
use cuttle::repo::history::SnapshotEntry;
use cuttle::repo::manifest::Manifest;
use cuttle::repo::{InitOptions, Keeper};
use cuttle::units::Generation;
use cuttle::verify::VerifyReport;
use object_store::memory::InMemory;

const C: usize = CHUNK as usize;

async fn repository(delta_depth_max: u8) -> (Arc<InMemory>, Keeper) {
    let objects = Arc::new(InMemory::new());
    let options = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max };
    let repository = init_with(store(objects.clone()), options, true).await;
    (objects, default(&repository).await)
}

fn filled(chunks: usize, seed: u64) -> Vec<u8> {
    Numbers::new(seed).bytes(chunks * C)
}

async fn night(project: &Keeper, volume: &Arc<MemoryVolume>) -> cuttle::backup::BackupReport {
    back_up(project, volume, &options("v")).await.expect("backed up")
}

/// The refs of a snapshot's chunks.
async fn refs(project: &Keeper, snapshot: &SnapshotEntry) -> Vec<PageRef> {
    let manifest = Manifest::of(project, &snapshot.snapshot).expect("a manifest");
    let mut all = Vec::new();
    for number in 0..manifest.leaf_count() {
        all.extend(manifest.leaf(number).await.expect("a leaf").refs.iter().cloned());
    }
    all
}

async fn newest_refs(project: &Keeper) -> Vec<PageRef> {
    refs(project, &latest(project, "v").await).await
}

fn depth(chunk: &PageRef) -> usize {
    chunk.objects().count().saturating_sub(1)
}

async fn verified(project: &Keeper) -> VerifyReport {
    verify(project, true).await.expect("verified")
}

/// Every snapshot holds what its night held, and verify finds nothing.
async fn all_nights_stand(objects: Arc<InMemory>, nights: &[Vec<u8>], context: &str) {
    let project = reopen(objects).await.expect(context);
    let catalog = project.volumes().confirmed().await.expect(context);
    let snapshots = project.history(&catalog.entries()[0]).snapshots().await.expect(context);
    assert_eq!(snapshots.len(), nights.len(), "{context}");
    for (snapshot, content) in snapshots.iter().zip(nights) {
        let back = read_back(&project, snapshot).await.unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(back == *content, "{context}: backup {} holds something else", snapshot.snapshot.sequence);
    }
    let report = verified(&project).await;
    assert!(report.ok(), "{context}: {:?}", report.damage);
}

/// A night of a database and its neighbours: pages rewritten, a log that grows, blocks trimmed, and now and then anything.
fn edit(content: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..numbers.below(12) {
        if content.is_empty() {
            content.resize(3 * C, 1);
        }
        let at = numbers.below(content.len() as u64) as usize;
        let len = |max: u64, numbers: &mut Numbers| (numbers.below(max) as usize).min(content.len() - at);
        match numbers.below(12) {
            0 => content.resize(content.len() + numbers.below(9000) as usize, 0),
            1 => content.truncate(content.len() - len(9000, numbers)),
            2 => {
                let len = len(6000, numbers);
                content[at..at + len].fill(0);
            }
            3 => {
                let len = len(9000, numbers);
                content[at..at + len].copy_from_slice(&numbers.bytes(len));
            }
            4 => {
                let len = len(9000, numbers);
                let from = numbers.below((content.len() - len + 1) as u64) as usize;
                content.copy_within(from..from + len, at);
            }
            _ => {
                let len = len(200, numbers);
                content[at..at + len].copy_from_slice(&numbers.bytes(len));
            }
        }
    }
}

/// What the writer promises of every chain that it makes.
fn check_bounds(refs: &[PageRef], depth_max: u8, context: &str) {
    for chunk in refs.iter().filter(|chunk| depth(chunk) > 0) {
        assert!(depth(chunk) <= usize::from(depth_max), "{context}: depth {}", depth(chunk));
        let sizes: Vec<u64> = chunk.objects().map(|o| u64::from(o.sealed_len_bytes)).collect();
        // The full object would have a chunk and its header, at most.
        assert!(sizes.iter().sum::<u64>() <= 2 * (u64::from(CHUNK) + 256), "{context}: {sizes:?}");
        let is_piece = |o: &ObjectRef| o.name.offset_bytes.is_some();
        assert!(chunk.objects().take(depth(chunk)).all(is_piece), "{context}: a delta lies in a bundle");
    }
}

#[tokio::test]
async fn random_nights_come_back_and_chains_stay_within_their_bounds() {
    let (mut deltas, mut deepest) = (0, 0);
    for seed in 0..16 {
        let depth_max = [1, 2, 7, 15][seed as usize % 4];
        let mut numbers = Numbers::new(seed + 500);
        let (objects, project) = repository(depth_max).await;
        let volume = MemoryVolume::new(filled(20 + numbers.below(20) as usize, seed));
        let mut nights = Vec::new();
        for number in 0..14 {
            let context = format!("seed {seed}, night {number}");
            let mut opts = options("v");
            opts.full = number > 0 && numbers.below(9) == 0;
            opts.delta = if numbers.below(9) == 0 { DeltaMode::Never } else { DeltaMode::Auto };
            let report = back_up(&project, &volume, &opts).await.expect(&context);
            assert!(opts.delta != DeltaMode::Never || report.stats.delta_chunks == 0, "{context}");
            assert!(report.remarks.is_empty() || opts.full, "{context}: {:?}", report.remarks);
            let refs = newest_refs(&project).await;
            check_bounds(&refs, depth_max, &context);
            deepest = deepest.max(refs.iter().map(depth).max().unwrap_or(0));
            deltas += report.stats.delta_chunks;
            nights.push(volume.content());
            volume.edit(|content| edit(content, &mut numbers));
        }
        all_nights_stand(objects, &nights, &format!("seed {seed}")).await;
    }
    assert!(deltas > 400 && deepest >= 5, "{deltas} deltas, the deepest {deepest}");
}

#[tokio::test]
async fn a_small_change_is_a_small_object_and_is_counted() {
    let (_, project) = repository(7).await;
    let volume = MemoryVolume::new(filled(30, 1));
    assert_eq!(night(&project, &volume).await.stats.delta_chunks, 0);
    volume.edit(|content| content[3 * C + 100..3 * C + 120].fill(9));
    volume.edit(|content| content[8 * C..9 * C].copy_from_slice(&filled(1, 77)));
    let stats = night(&project, &volume).await.stats;
    assert_eq!((stats.new_chunks, stats.delta_chunks), (2, 1));
    assert!(stats.delta_bytes < 400, "{stats:?}");
    assert!(stats.stored_bytes > stats.delta_bytes + 4000, "{stats:?}");
    let refs = newest_refs(&project).await;
    assert_eq!((depth(&refs[3]), depth(&refs[8])), (1, 0), "what was rewritten is full");
    assert_eq!(volume.take_base_read_bytes(), 2 * C as u64);
}

#[tokio::test]
async fn the_source_says_how_much_changed() {
    let (_, project) = repository(7).await;
    let volume = MemoryVolume::new(filled(30, 1));
    assert_eq!(night(&project, &volume).await.changed_bytes, 30 * C as u64);
    volume.edit(|content| content[3 * C + 100] ^= 1);
    let report = night(&project, &volume).await;
    assert_eq!((report.changed_bytes, report.stats.new_bytes), (512, C as u64));
}

async fn depths_of_one_chunk(depth_max: u8, change: impl Fn(&mut [u8], u64)) -> Vec<usize> {
    let (objects, project) = repository(depth_max).await;
    let volume = MemoryVolume::new(filled(4, 1));
    let (mut depths, mut nights) = (Vec::new(), Vec::new());
    for number in 0..12 {
        night(&project, &volume).await;
        let refs = newest_refs(&project).await;
        check_bounds(&refs, depth_max, &format!("night {number}"));
        depths.push(depth(&refs[2]));
        nights.push(volume.content());
        volume.edit(|content| change(&mut content[2 * C..3 * C], number));
    }
    all_nights_stand(objects, &nights, "one chunk").await;
    depths
}

#[tokio::test]
async fn after_so_many_deltas_the_newest_are_joined() {
    let one_byte = |chunk: &mut [u8], number: u64| chunk[number as usize * 31] ^= 1;
    assert_eq!(depths_of_one_chunk(0, one_byte).await, [0; 12]);
    assert_eq!(depths_of_one_chunk(1, one_byte).await, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    assert_eq!(depths_of_one_chunk(3, one_byte).await, [0, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2]);
    assert_eq!(depths_of_one_chunk(7, one_byte).await, [0, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4]);
}

/// What comes back to what it was is in the joined delta all the same: the night before, it was another.
#[tokio::test]
async fn joined_deltas_hold_what_changed_back() {
    let back_and_forth = |chunk: &mut [u8], number: u64| {
        chunk[700] ^= 1;
        chunk[number as usize * 31] ^= 1;
    };
    for depth_max in [1, 2, 7] {
        assert_eq!(
            depths_of_one_chunk(depth_max, back_and_forth).await.into_iter().max(),
            Some(depth_max.into())
        );
    }
}

#[tokio::test]
async fn nothing_is_joined_with_a_damaged_delta() {
    for damage in ["gone", "cut", "flipped"] {
        for victim in 0..2 {
            let (objects, project) = repository(2).await;
            let volume = MemoryVolume::new(filled(3, 5));
            for number in 0..3 {
                night(&project, &volume).await;
                volume.edit(|content| content[C + number] ^= 1);
            }
            let refs = newest_refs(&project).await;
            let chain: Vec<ObjectRef> = refs[1].objects().copied().collect();
            let hand = ByHand::open(objects.clone(), &secret(), "default").await;
            let name = hand.object_name(chain[victim].name).to_string();
            let mut body = crate::support::by_hand::get(&*objects, &name).await.to_vec();
            delete(&*objects, &name).await;
            match damage {
                "cut" => body.truncate(150),
                _ => *body.last_mut().expect("not empty") ^= 1,
            }
            if damage != "gone" {
                put(&*objects, &name, body).await;
            }
            let stats = night(&project, &volume).await.stats;
            // Where the table still tells what it replaces, nothing of the damaged delta itself is needed any more.
            let deltas = usize::from(damage == "flipped");
            assert_eq!(
                (stats.new_chunks, stats.delta_chunks),
                (1, deltas as u64),
                "{damage}, object {victim} of the chain"
            );
            assert_eq!(depth(&newest_refs(&project).await[1]), deltas);
            let back = read_back(&project, &latest(&project, "v").await).await.expect("read");
            assert!(back == volume.content());
        }
    }
}

/// A chain may hold a shorter content (repo-format.md, section 4). No writer here makes such a chain; other programs may.
#[tokio::test]
async fn nothing_is_joined_with_a_delta_of_another_length() {
    let (objects, project) = repository(1).await;
    let hand = ByHand::open(objects.clone(), &secret(), "default").await;
    let mut content = filled(1, 5);
    let full = hand.chunk(&content, 0).await;
    let short = hand.delta(&content[..1000], &full, &content, 1).await;
    let mut longer = content[..1000].to_vec();
    longer.resize(C, 3);
    let top = hand.delta(&longer, &short, &content[..1000], 2).await;
    content = longer;
    commit_by_hand(&project, "v", C as u64, [(0, top)]).await;
    content[2000..2010].fill(9);
    let diff = diff_v1(Some("by hand"), "next", C as u64, &[(2000, content[2000..2010].to_vec())]);
    let stats = back_up_stream(&project, diff, &options("v")).await.expect("backed up").stats;
    assert_eq!((stats.new_chunks, stats.delta_chunks), (1, 0));
    assert!(read_back(&project, &latest(&project, "v").await).await.expect("read") == content);
}

#[tokio::test]
async fn deltas_of_many_bytes_make_short_chains() {
    // A sixth of the chunk each night, until as much as a full object is spent.
    let change = |chunk: &mut [u8], number: u64| {
        let at = number as usize % 6 * C / 6;
        chunk[at..at + C / 6].copy_from_slice(&Numbers::new(number + 50).bytes(C / 6));
    };
    assert_eq!(depths_of_one_chunk(7, change).await, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]);
    // Four tenths: more than a quarter, so both were made, and the delta is well under the full object.
    let change = |chunk: &mut [u8], number: u64| {
        let len = C * 4 / 10;
        chunk[..len].copy_from_slice(&Numbers::new(number + 50).bytes(len));
    };
    assert_eq!(depths_of_one_chunk(7, change).await, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

/// What changed is nearly all that the full object would hold: a reader should not have to fetch a base for it.
#[tokio::test]
async fn what_saves_little_needs_no_base() {
    // Half of the chunk is easy and stays. Of the other half, so many bytes are random and new, the rest is easy.
    let changed = async |random: usize| {
        let (_, project) = repository(7).await;
        let half = C / 2;
        let volume = MemoryVolume::new([vec![7; half], Numbers::new(5).bytes(half)].concat());
        night(&project, &volume).await;
        volume.edit(|content| {
            content[half..].fill(9);
            content[half..half + random].copy_from_slice(&Numbers::new(6).bytes(random));
        });
        let stats = night(&project, &volume).await.stats;
        assert_eq!(stats.new_chunks, 1);
        let refs = newest_refs(&project).await;
        assert_eq!(depth(&refs[0]) as u64, stats.delta_chunks);
        stats
    };
    // Too large to be kept unseen, small enough for its chain, and not well under the full object.
    let stats = changed(800).await;
    assert_eq!(stats.delta_chunks, 0);
    assert!((800..1100).contains(&stats.stored_bytes), "{stats:?}");
    // Where it is sure from its size alone, it is kept.
    assert_eq!(changed(200).await.delta_chunks, 1);
}

#[tokio::test]
async fn equal_chunks_of_a_session_share_one_delta() {
    let (_, project) = repository(7).await;
    let block = filled(1, 5);
    let volume = MemoryVolume::new(block.repeat(60));
    night(&project, &volume).await;
    volume.take_base_read_bytes();
    volume.edit(|content| (0..60).for_each(|at| content[at * C + 7] ^= 1));
    let mut opts = options("v");
    // Few in flight: some come while the delta is on its way, some when it is stored.
    opts.inflight_bytes = 1;
    let stats = back_up(&project, &volume, &opts).await.expect("backed up").stats;
    assert_eq!((stats.new_chunks, stats.delta_chunks, stats.known_chunks), (1, 1, 59), "{stats:?}");
    assert_eq!(volume.take_base_read_bytes(), C as u64, "a base is read for what is new only");
    let refs = newest_refs(&project).await;
    assert!(refs.iter().all(|chunk| *chunk == refs[0]) && depth(&refs[0]) == 1);
    assert!(read_back(&project, &latest(&project, "v").await).await.expect("read") == volume.content());
}

#[tokio::test]
async fn another_session_does_not_come_upon_a_delta() {
    let (_, project) = repository(7).await;
    let volume = MemoryVolume::new(filled(3, 5));
    night(&project, &volume).await;
    volume.edit(|content| content[7] ^= 1);
    assert_eq!(night(&project, &volume).await.stats.delta_chunks, 1);
    let other = MemoryVolume::new(volume.content());
    let stats = back_up(&project, &other, &options("other")).await.expect("backed up").stats;
    assert_eq!((stats.new_chunks, stats.known_chunks), (1, 2));
    let refs = refs(&project, &latest(&project, "other").await).await;
    assert!(refs.iter().all(|chunk| depth(chunk) == 0));
    assert_eq!(refs[0].object().map(|o| o.name.variant), Some(0));
}

#[tokio::test]
async fn nothing_is_made_on_what_a_round_condemned() {
    for victim in 0..3 {
        let (objects, project) = repository(7).await;
        let volume = MemoryVolume::new(filled(3, 5));
        for number in 0..3 {
            night(&project, &volume).await;
            volume.edit(|content| content[C + number] ^= 1);
            volume.edit(|content| content[2 * C + number] ^= 1);
        }
        let before = newest_refs(&project).await;
        let chain: Vec<ObjectRef> = before[1].objects().copied().collect();
        assert_eq!(chain.len(), 3);
        let hand = ByHand::open(objects.clone(), &secret(), "default").await;
        let condemned = chain[victim].name.id;
        hand.begin_round(1, &[condemned]).await;
        let report = night(&project, &volume).await;
        // The deltas of a night lie in one bundle, and the full chunks by themselves.
        let other = if victim == 2 { 3 } else { 0 };
        assert_eq!(report.stats.delta_chunks, u64::from(other > 0), "object {victim} of the chain");
        let refs = newest_refs(&project).await;
        assert_eq!((depth(&refs[1]), depth(&refs[2])), (0, other), "object {victim} of the chain");
        assert_eq!(refs[1].object().map(|o| o.name.generation), Some(Generation(1)));
        delete(&*objects, &hand.object_name(chain[victim].name).to_string()).await;
        let back = read_back(&project, &latest(&project, "v").await).await.expect("read");
        assert!(back == volume.content());
    }
}

/// An unchanged chunk is rewritten in full when anything below it is condemned, and never as a delta on itself.
#[tokio::test]
async fn an_unchanged_chunk_on_a_condemned_base_is_written_in_full() {
    let (objects, project) = repository(7).await;
    let volume = MemoryVolume::new(filled(3, 5));
    night(&project, &volume).await;
    volume.edit(|content| content[C] ^= 1);
    night(&project, &volume).await;
    let refs = newest_refs(&project).await;
    let base = *refs[1].objects().last().expect("stored");
    let hand = ByHand::open(objects, &secret(), "default").await;
    hand.begin_round(1, &[base.name.id]).await;
    let stats = night(&project, &volume).await.stats;
    assert_eq!((stats.new_chunks, stats.delta_chunks), (1, 0));
    assert_eq!(depth(&newest_refs(&project).await[1]), 0);
}

/// What follows when the base is found not to be what the repository has.
async fn distrusted(project: &Keeper, volume: &Arc<MemoryVolume>, chunk: usize) {
    let dry = cuttle::backup::BackupOptions { dry_run: true, ..options("v") };
    let error = back_up(project, volume, &dry).await.expect_err("a dry run says so, too");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let report = night(project, volume).await;
    let offset = format!("THE BASE IS NOT WHAT WAS BACKED UP: the chunk at offset {} ", chunk * C);
    assert!(report.remarks.iter().any(|n| n.contains(&offset)), "{:?}", report.remarks);
    assert!(report.full_read && report.stats.delta_chunks == 0, "{:?}", report.stats);
    let back = read_back(project, &latest(project, "v").await).await.expect("read");
    assert!(back == volume.content());
    // And from there on as ever.
    volume.edit(|content| content[chunk * C + 9] ^= 1);
    let report = night(project, volume).await;
    assert_eq!((report.full_read, report.stats.delta_chunks, report.remarks.len()), (false, 1, 0));
}

#[tokio::test]
async fn a_base_that_was_tampered_with_is_found_and_not_used() {
    let (_, project) = repository(7).await;
    let volume = MemoryVolume::new(filled(500, 5));
    night(&project, &volume).await;
    volume.tamper(|content| content[400 * C + 50] ^= 1);
    volume.edit(|content| content[400 * C + 2000] ^= 1);
    distrusted(&project, &volume, 400).await;
    // A snapshot that was cut does not hold the chunk at all.
    volume.tamper(|content| content.truncate(450 * C));
    volume.edit(|content| content[480 * C] ^= 1);
    distrusted(&project, &volume, 480).await;
}

#[tokio::test]
async fn an_incremental_that_missed_a_change_is_found_when_the_chunk_changes_again() {
    let (_, project) = repository(7).await;
    let volume = MemoryVolume::new(filled(500, 5));
    night(&project, &volume).await;
    volume.lie_about(400 * C as u64 + 512);
    volume.edit(|content| content[400 * C + 520] ^= 1);
    assert!(!night(&project, &volume).await.full_read, "the sample did not happen to see it");
    volume.edit(|content| content[400 * C + 3000] ^= 1);
    distrusted(&project, &volume, 400).await;
}

#[tokio::test]
async fn a_base_that_cannot_be_read_fails_the_backup() {
    let (_, project) = repository(7).await;
    let volume = MemoryVolume::new(filled(5, 5));
    night(&project, &volume).await;
    volume.edit(|content| content[3 * C] ^= 1);
    volume.hurt_base_at(Some(3 * C as u64 + 5));
    let error = back_up(&project, &volume, &options("v")).await.expect_err("a broken disk");
    assert!(error.message().contains(&format!("at offset {} of the base", 3 * C)), "{error}");
    volume.hurt_base_at(None);
    assert_eq!(night(&project, &volume).await.stats.delta_chunks, 1);
}

#[tokio::test]
async fn a_volume_that_grows_and_shrinks_keeps_its_content() {
    let (objects, project) = repository(7).await;
    let volume = MemoryVolume::new(filled(6, 5)[..5 * C + 700].to_vec());
    let mut nights = Vec::new();
    for (number, size) in
        [5 * C + 700, 5 * C + 900, 8 * C, 8 * C + 1, 5 * C + 900, 5 * C, 5 * C].into_iter().enumerate()
    {
        volume.edit(|content| {
            content.resize(size, 0);
            content[4 * C + number] ^= 1;
            *content.last_mut().expect("not empty") ^= 1;
        });
        let report = night(&project, &volume).await;
        assert!(report.remarks.is_empty(), "{:?}", report.remarks);
        let refs = newest_refs(&project).await;
        let cut = number > 0 && number < 6 && size % C != 0;
        assert!(
            !cut || depth(refs.last().expect("stored")) == 0,
            "size {size}: a chunk of another length is full"
        );
        nights.push(volume.content());
    }
    all_nights_stand(objects, &nights, "sizes").await;
}

#[tokio::test]
async fn a_damaged_base_is_named_with_all_that_hangs_on_it_and_nothing_else() {
    let (objects, project) = repository(7).await;
    let volume = MemoryVolume::new(filled(10, 5));
    for number in 0..4 {
        night(&project, &volume).await;
        volume.edit(|content| content[6 * C + number] ^= 1);
    }
    let newest = newest_refs(&project).await;
    assert_eq!(depth(&newest[6]), 3);
    let chain: Vec<ObjectRef> = newest[6].objects().copied().collect();
    let hand = ByHand::open(objects.clone(), &secret(), "default").await;
    // The delta of the second night: the nights from then on hang on it.
    for (victim, first_hurt) in [(2, 2), (3, 1)] {
        let (name, offset) =
            (hand.object_name(chain[victim].name).to_string(), chain[victim].name.offset_bytes);
        let label = offset.map_or_else(|| name.clone(), |offset| format!("{name}+{offset}"));
        let whole = crate::support::by_hand::get(&*objects, &name).await;
        let mut bytes = whole.to_vec();
        bytes[offset.unwrap_or_default() as usize + 140] ^= 1;
        put(&*objects, &name, bytes).await;
        let report = verified(&project).await;
        let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
        assert_eq!(damage.object, label);
        let mut hurt: Vec<u32> = damage.hurts.iter().map(|hurt| hurt.sequence).collect();
        hurt.sort_unstable();
        assert_eq!(hurt, (first_hurt..=4).collect::<Vec<_>>());
        for range in damage.hurts.iter().flat_map(|hurt| &hurt.ranges) {
            assert_eq!((range.offset_bytes, range.length_bytes), (6 * C as u64, C as u64));
        }
        let error = read_back(&project, &latest(&project, "v").await).await.expect_err("it is hurt");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        put(&*objects, &name, whole).await;
    }
    assert!(verified(&project).await.ok());
}

#[tokio::test]
async fn diff_streams_make_deltas_of_the_chunks_that_they_cover_in_part() {
    for seed in 0..8 {
        let mut numbers = Numbers::new(seed);
        let (objects, project) = repository(3).await;
        let mut content = filled(40, seed);
        let full = diff_v1(None, "0", content.len() as u64, &[(0, content.clone())]);
        back_up_stream(&project, full, &options("v")).await.expect("backed up");
        let (mut nights, mut deltas) = (vec![content.clone()], 0);
        for number in 1..9 {
            if numbers.below(3) == 0 {
                content.resize(content.len() - 3000 + numbers.below(6000) as usize, 0);
            }
            let mut extents = Vec::new();
            let mut at = 0;
            loop {
                at += numbers.below(20_000) as usize;
                let max = if numbers.below(4) == 0 { 9000 } else { 100 };
                let len = 1 + numbers.below(max) as usize;
                if at + len > content.len() {
                    break;
                }
                let data = if numbers.below(8) == 0 { vec![0; len] } else { numbers.bytes(len) };
                content[at..at + len].copy_from_slice(&data);
                extents.push((at as u64, data));
                at += len;
            }
            let (from, to) = ((number - 1).to_string(), number.to_string());
            let diff = diff_v1(Some(&from), &to, content.len() as u64, &extents);
            let report = back_up_stream(&project, diff, &options("v")).await.expect("backed up");
            deltas += report.stats.delta_chunks;
            check_bounds(&newest_refs(&project).await, 3, &format!("seed {seed}, night {number}"));
            nights.push(content.clone());
        }
        assert!(deltas > 20, "seed {seed}: {deltas} deltas");
        all_nights_stand(objects, &nights, &format!("seed {seed}")).await;
    }
}

#[tokio::test]
async fn a_repository_or_a_backup_without_deltas_has_none() {
    for (depth_max, delta) in [(0, DeltaMode::Auto), (7, DeltaMode::Never)] {
        let (_, project) = repository(depth_max).await;
        let volume = MemoryVolume::new(filled(5, 5));
        night(&project, &volume).await;
        volume.edit(|content| content[C] ^= 1);
        let opts = cuttle::backup::BackupOptions { delta, ..options("v") };
        let stats = back_up(&project, &volume, &opts).await.expect("backed up").stats;
        assert_eq!((stats.new_chunks, stats.delta_chunks), (1, 0));
        assert_eq!(volume.take_base_read_bytes(), 0);
    }
}

/// The largest page that there can be: every ref of a leaf with the longest closure.
#[tokio::test]
async fn a_leaf_of_the_deepest_chains_is_written_and_read() {
    const LONG: usize = 2 * C;
    let objects = Arc::new(InMemory::new());
    let init = InitOptions { chunk_size_bytes: LONG as u32, delta_depth_max: 15 };
    let project = default(&init_with(store(objects.clone()), init, true).await).await;
    let volume = MemoryVolume::new(Numbers::new(4).bytes(1025 * LONG));
    for number in 0..16 {
        night(&project, &volume).await;
        volume.edit(|content| (0..1025).for_each(|at| content[at * LONG + number * 2] ^= 1));
    }
    night(&project, &volume).await;
    let snapshots = project
        .history(&project.volumes().confirmed().await.expect("catalog").entries()[0])
        .snapshots()
        .await;
    let snapshots = snapshots.expect("snapshots");
    let deepest = refs(&project, &snapshots[15]).await;
    assert!(deepest.iter().all(|chunk| depth(chunk) == 15), "{:?}", deepest.iter().map(depth).min());
    assert!(newest_refs(&project).await.iter().all(|chunk| depth(chunk) == 1), "all of it is joined");
    assert!(read_back(&project, &snapshots[16]).await.expect("read") == volume.content());
    let mut expected = volume.content();
    (0..1025).for_each(|at| expected[at * LONG + 30] ^= 1);
    assert!(read_back(&project, &snapshots[15]).await.expect("read") == expected);
}
