//! How the golden repositories of version 1 were made: by the library where it makes such objects, by hand where no
//! command does yet.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cuttle::backup::BackupReport;
use cuttle::format::gc::PartRef;
use cuttle::format::lost::{LostName, LostRecord};
use cuttle::format::names::{ContentKind, ContentName};
use cuttle::format::record::{ForgetRecord, NoteRecord, OpenRecord};
use cuttle::format::roster::RosterEntry;
use cuttle::format::table;
use cuttle::format::{ObjectName, PageRef};
use cuttle::keys::Unlock;
use cuttle::repo::{Environment, InitOptions, Keeper, Repository};
use cuttle::units::{ChunkId, Generation, Sequence, VolumeNumber};
use object_store::local::LocalFileSystem;

use crate::support::by_hand::ByHand;
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, back_up_stream, commit_by_hand, diff_v1, environment, options, store,
};

const C: usize = CHUNK as usize;
/// Both open `v1-encrypted`.
pub const PASSWORD: &str = "correct horse battery staple";
pub const KEY_FILE: &[u8] =
    b"This key file belongs to fixtures/golden/v1-encrypted and protects nothing at all.\n";

/// Where the golden repositories are.
pub fn folder() -> &'static Path {
    Path::new("fixtures/golden")
}

pub fn password() -> Unlock {
    Unlock::Passphrase(PASSWORD.to_owned().into())
}

pub fn key_file() -> Unlock {
    Unlock::KeyFile(KEY_FILE.to_vec().into())
}

/// Writes what is missing below `fixtures/golden/`. What is there already is never changed: whoever wants to add to a
/// version's repository makes another one beside it.
#[tokio::test]
#[ignore = "writes fixtures/golden; run it once for each version of the format"]
async fn make_the_golden_repositories() {
    for (name, encrypted) in [("v1-encrypted", true), ("v1-open", false)] {
        let at = folder().join(name);
        assert!(!at.exists(), "{} is there: golden repositories are never made again", at.display());
        fs::create_dir_all(&at).expect("a folder");
        let expected = make(&at, encrypted).await;
        fs::write(folder().join(format!("{name}.tsv")), expected).expect("written");
    }
    fs::write(folder().join("v1-encrypted.key"), KEY_FILE).expect("written");
    fs::write(folder().join("v1-encrypted.password"), format!("{PASSWORD}\n")).expect("written");
}

/// Makes a repository of everything that version 1 knows, and tells what is in it.
pub async fn make(at: &Path, encrypted: bool) -> String {
    let objects = Arc::new(LocalFileSystem::new_with_prefix(at).expect("a folder"));
    let options = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 7 };
    let (password, key_file) = (password(), key_file());
    let unlock = encrypted.then_some(&password);
    let inner = store(objects.clone());
    let repository = Repository::init(inner, golden(1), &options, unlock).await.expect("a new repository");
    if encrypted {
        repository.add_key(&key_file, "golden key file").await.expect("added");
    }
    let mut expected = String::from("project\tvolume\tsequence\tstate\tsize_bytes\tblake3\n");
    let default = repository.keeper(&"default".parse().expect("valid")).await.expect("the project");
    let hand = ByHand::open(objects.clone(), &key_file, "default").await;
    let mut note = |project: &str, volume: &str, sequence: u32, state: &str, content: &[u8]| {
        let (size, hash) = (content.len(), blake3::hash(content));
        writeln!(expected, "{project}\t{volume}\t{sequence}\t{state}\t{size}\t{hash}").expect("written");
    };
    let image = image(&default, &hand, &mut note).await;
    stream(&default, &mut note).await;
    empty(&default, &mut note).await;
    deltas(&default, &hand, &mut note).await;
    round(&hand).await;
    lost(&hand).await;
    // Generation 1: pages and chunks of both generations in one manifest.
    image.edit(|content| content[9 * C..10 * C].fill(0x77));
    let report = back_up(&default, &image, &golden_options("vms/image")).await.expect("backed up");
    note("default", "vms/image", sequence(&report), "live", &image.content());
    let tenant = repository.create_project(&"tenant-a".parse().expect("valid")).await.expect("made");
    let report = back_up(&tenant, &image, &golden_options("vms/image")).await.expect("backed up");
    note("tenant-a", "vms/image", sequence(&report), "live", &image.content());
    expected
}

fn golden(process: u32) -> Environment {
    Environment { host: "golden".into(), machine: "golden-machine".into(), process, ..environment() }
}

fn golden_options(volume: &str) -> cuttle::backup::BackupOptions {
    cuttle::backup::BackupOptions { tags: vec!["golden".into()], ..options(volume) }
}

fn sequence(report: &BackupReport) -> u32 {
    report.sequence.expect("it was committed")
}

/// Compressible bytes, the same for the same seed.
fn block(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out.iter_mut().for_each(|b| *b &= 0x1f);
    out
}

type Note<'a> = dyn FnMut(&str, &str, u32, &str, &[u8]) + 'a;

/// A volume of two leaves: zeros, equal chunks, a short last chunk; then incrementals, one that grows, one that was
/// aborted, one forgotten, one protected.
async fn image(project: &Keeper, hand: &ByHand, note: &mut Note<'_>) -> Arc<MemoryVolume> {
    const NAME: &str = "vms/image";
    let mut content = vec![0; 1030 * C + 1234];
    for (seed, at) in [1, 2, 9, 500, 1029].into_iter().enumerate() {
        content[at * C..][..C].copy_from_slice(&block(seed as u8, C));
    }
    content.copy_within(C..2 * C, 4 * C);
    content[1030 * C..].copy_from_slice(&block(100, 1234));
    let volume = MemoryVolume::new(content);
    let first = back_up(project, &volume, &golden_options(NAME)).await.expect("backed up");
    note("default", NAME, sequence(&first), "live", &volume.content());
    volume.edit(|content| content[C + 3] ^= 1);
    let second = back_up(project, &volume, &golden_options(NAME)).await.expect("backed up");
    note("default", NAME, sequence(&second), "forgotten", &volume.content());
    // A session that its own host gave up: the reason is in its record.
    let mut opts = golden_options(NAME);
    opts.tags = vec!["far too long to fit ".repeat(60_000)];
    back_up(project, &volume, &opts).await.expect_err("a record has room for 1 MiB");
    note("default", NAME, 3, "aborted", &[]);
    volume.edit(|content| {
        content.resize(1032 * C, 0);
        content[1031 * C..].copy_from_slice(&block(101, C));
        content[500 * C..501 * C].fill(0);
    });
    let fourth = back_up(project, &volume, &golden_options(NAME)).await.expect("backed up");
    note("default", NAME, sequence(&fourth), "live", &volume.content());
    let (p, n) = (hand.project.clone(), VolumeNumber(1));
    let open: OpenRecord = hand.record(&ObjectName::Open(p.clone(), n, Sequence(2))).await;
    let forget = ForgetRecord { snapshot_id: open.snapshot_id, host: "golden".into(), at_unix_ms: 1 };
    hand.put_record(&ObjectName::Forget(p.clone(), n, Sequence(2)), &forget).await;
    let open: OpenRecord = hand.record(&ObjectName::Open(p.clone(), n, Sequence(4))).await;
    let snapshot_id = open.snapshot_id;
    for (k, protected) in [(1, false), (2, true)] {
        let tags = vec!["golden".into(), format!("note {k}")];
        let at_unix_ms = u64::from(k);
        let record = NoteRecord { snapshot_id, protected, tags, host: "golden".into(), at_unix_ms };
        hand.put_record(&ObjectName::Note(p.clone(), n, Sequence(4), k), &record).await;
    }
    volume
}

/// A volume known from streams only.
async fn stream(project: &Keeper, note: &mut Note<'_>) {
    const NAME: &str = "from a stream";
    let mut content = [block(20, 2 * C), vec![0; C], block(21, 700)].concat();
    let full = diff_v1(None, "monday", content.len() as u64, &[(0, content.clone())]);
    let report = back_up_stream(project, full, &golden_options(NAME)).await.expect("backed up");
    note("default", NAME, sequence(&report), "live", &content);
    content[C - 10..C + 10].fill(0x3f);
    let diff = diff_v1(Some("monday"), "tuesday", content.len() as u64, &[((C - 10) as u64, vec![0x3f; 20])]);
    let report = back_up_stream(project, diff, &golden_options(NAME)).await.expect("backed up");
    note("default", NAME, sequence(&report), "live", &content);
}

async fn empty(project: &Keeper, note: &mut Note<'_>) {
    let volume = MemoryVolume::new(Vec::new());
    let report = back_up(project, &volume, &golden_options("empty")).await.expect("backed up");
    note("default", "empty", sequence(&report), "live", &[]);
}

/// A full chunk, a delta on it, and a delta on that; and a full one under a variant of its name.
async fn deltas(project: &Keeper, hand: &ByHand, note: &mut Note<'_>) {
    const NAME: &str = "deltas";
    let full = block(30, C);
    let (mut first, mut second) = (full.clone(), full.clone());
    first[100..120].fill(0x3f);
    second[100..140].fill(0x3e);
    let zero_ref = hand.chunk(&full, 0).await;
    let one = hand.delta(&first, &zero_ref, &full, 0xdead_0001).await;
    let two = hand.delta(&second, &one, &first, 0xdead_0002).await;
    assert_eq!(two.objects().count(), 3);
    let other = block(31, C);
    let variant = hand.chunk_variant(&other, 0, 0x0000_beef).await;
    let content = [&second[..], &full, &vec![0; C], &first, &other, &second].concat();
    let refs = (0..).zip([two.clone(), zero_ref, PageRef::Zero, one, variant, two]);
    let sequence = commit_by_hand(project, NAME, content.len() as u64, refs).await;
    note("default", NAME, 1, "live", &[]);
    note("default", NAME, sequence.0, "live", &content);
}

/// A record of what was lost, of names that no snapshot needs.
async fn lost(hand: &ByHand) {
    let name = |kind, byte, variant| {
        LostName::new(
            kind,
            ContentName { generation: Generation(0), id: ChunkId([byte; 32]), variant, offset_bytes: None },
        )
    };
    let bundle = ContentName::plain(Generation(0), ChunkId([0xe3; 32]));
    let piece = LostName::new(ContentKind::Bundle, ContentName { offset_bytes: Some(400), ..bundle });
    let names = vec![name(ContentKind::Chunk, 0xc1, 7), name(ContentKind::Page, 0xd2, 0), piece];
    let record = LostRecord { names, host: "golden".into(), at_unix_ms: 1 };
    hand.put_record(&ObjectName::Lost(hand.project.clone(), 0x0123_4567_89ab_cdef << 64), &record).await;
}

/// A whole prune round that found nothing to delete.
async fn round(hand: &ByHand) {
    hand.begin_round(1, &[ChunkId([0xee; 32])]).await;
    let live = |volume, high_water, live: &[u32]| RosterEntry {
        volume: VolumeNumber(volume),
        high_water: Sequence(high_water),
        live: live.iter().copied().map(Sequence).collect(),
        unfinished: Vec::new(),
        kept: (volume == 1).then_some(Sequence(2)).into_iter().collect(),
    };
    let said = [live(1, 4, &[1, 4]), live(2, 2, &[1, 2]), live(3, 1, &[1]), live(4, 2, &[1, 2])];
    let live_index = live_index(hand).await;
    hand.put_seal(Generation(1), Vec::new(), live_index, &said).await;
    hand.end_round(1).await;
}

/// In two parts.
async fn live_index(hand: &ByHand) -> Vec<PartRef> {
    let mut lower = hand.full_chunks().await;
    let upper = lower.split_off(lower.partition_point(|entry| entry.object.name.id.0[0] < 128));
    let mut parts = Vec::new();
    for part in [lower, upper] {
        assert!(!part.is_empty());
        parts.push(hand.put_part(Generation(1), &table::encode(&part), part.len() as u32).await);
    }
    parts
}
