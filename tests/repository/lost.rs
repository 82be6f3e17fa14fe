//! What was lost: found by verify, by prune and by the look that every backup takes, remembered in the repository, built upon
//! by nobody, stored again by the next backup, and mended from there.

use std::sync::Arc;

use crate::support::Numbers;
use crate::support::by_hand::{delete, get, names, put};
use crate::support::fault_store::{Fault, FaultStore, OpKind};
use crate::support::repo::{
    self, CHUNK, MemoryVolume, back_up, back_up_stream, default, diff_v1, environment, init_with, latest,
    options, read_back, store,
};
use cuttle::backup::{BackupOptions, BackupReport, DeltaMode};
use cuttle::cancel::Cancel;
use cuttle::forget;
use cuttle::progress::Silent;
use cuttle::prune::{self, PruneOptions, PruneReport};
use cuttle::repo::{InitOptions, Keeper};
use cuttle::verify::repair::{self, RepairOptions, RepairReport};
use cuttle::verify::{VerifyOptions, VerifyReport};
use object_store::memory::InMemory;

const C: usize = CHUNK as usize;
const CHUNKS: &str = "projects/default/chunks/";
const PAGES: &str = "projects/default/pages/";
const RECORDS: &str = "projects/default/lost/";

struct Bench {
    memory: Arc<InMemory>,
    faults: FaultStore,
    project: Keeper,
}

impl Bench {
    async fn new(delta_depth_max: u8) -> Self {
        let memory = Arc::new(InMemory::new());
        let faults = FaultStore::new(memory.clone());
        let options = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max };
        let repository = init_with(store(Arc::new(faults.clone())), options, true).await;
        let project = default(&repository).await;
        Self { memory, faults, project }
    }

    async fn names(&self, prefix: &str) -> Vec<String> {
        names(&*self.memory, prefix).await
    }

    async fn back_up(&self, volume: &Arc<MemoryVolume>, options: &BackupOptions) -> BackupReport {
        back_up(&self.project, volume, options).await.expect("backed up")
    }

    async fn lose(&self, name: &str, harm: Harm) {
        match harm {
            Harm::Missing => delete(&*self.memory, name).await,
            Harm::Flipped => {
                let mut bytes = get(&*self.memory, name).await.to_vec();
                *bytes.last_mut().expect("not empty") ^= 1;
                put(&*self.memory, name, bytes).await;
            }
        }
    }

    async fn verify(&self, read_data: bool) -> VerifyReport {
        repo::verify(&self.project, read_data).await.expect("verified")
    }

    /// Without any source but the repository itself.
    async fn repair(&self) -> RepairReport {
        let verify = VerifyOptions { read_data: true, ..VerifyOptions::default() };
        let options = RepairOptions { verify, ..RepairOptions::default() };
        repair::run(&self.project, options, Arc::new(Silent), Cancel::never()).await.expect("repaired")
    }

    async fn prune(&self) -> PruneReport {
        let options = PruneOptions::default();
        prune::run(&self.project, options, Arc::new(Silent), Cancel::never()).await.expect("pruned")
    }

    async fn forget(&self, spec: &str) {
        let report = forget::by_name(&self.project, &[spec.to_owned()], false, Cancel::never()).await;
        assert!(report.expect("forgotten").ok(), "{spec}");
    }

    async fn restores(&self, spec: &str, content: &[u8], why: &str) {
        let snapshot = latest(&self.project, spec).await;
        let found =
            read_back(&self.project, &snapshot).await.unwrap_or_else(|e| panic!("{why}: {spec}: {e}"));
        assert!(found == content, "{why}: {spec} differs");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Missing,
    Flipped,
}

fn content(seed: u64, chunks: usize) -> Vec<u8> {
    Numbers::new(seed).bytes(chunks * C)
}

/// The gravest of it: each backup after the loss was hurt, and each said that it was good.
#[tokio::test]
async fn what_verify_found_lost_is_stored_again_and_mended_from_there() {
    for harm in [Harm::Missing, Harm::Flipped] {
        for (full, no_delta) in [(false, false), (true, false), (true, true)] {
            let what = format!("{harm:?}, full: {full}, no deltas: {no_delta}");
            let bench = Bench::new(7).await;
            let first = content(1, 40);
            let volume = MemoryVolume::new(first.clone());
            // Not the one that is changed below: names say nothing of places.
            bench.back_up(&MemoryVolume::new(first[20 * C..21 * C].to_vec()), &options("twenty")).await;
            let changed = bench.names(CHUNKS).await;
            bench.back_up(&volume, &options("v")).await;
            let others: Vec<_> =
                bench.names(CHUNKS).await.into_iter().filter(|n| !changed.contains(n)).collect();
            bench.lose(&others[7], harm).await;
            let found = bench.verify(true).await;
            assert_eq!((found.damage.len(), found.recorded), (1, 1), "{what}");
            assert_eq!(bench.verify(true).await.recorded, 0, "{what}: known by now");
            assert_eq!(bench.names(RECORDS).await.len(), 1, "{what}");

            volume.edit(|content| content[20 * C + 9] ^= 1);
            let again = BackupOptions {
                full,
                delta: if no_delta { DeltaMode::Never } else { DeltaMode::Auto },
                ..options("v")
            };
            let report = bench.back_up(&volume, &again).await;
            assert_eq!((report.lost.parent_hurt_chunks, report.lost.kept_hurt_chunks), (1, 0), "{what}");
            assert!(!report.lost.needs_somebody(), "{what}: verify told it");
            assert_eq!(report.stats.new_chunks, 2, "{what}: what changed, and what was lost");
            bench.restores("v@2", &volume.content(), &what).await;

            // Another volume of the same content does not take it for stored either, as its own backup does not.
            let other = bench.back_up(&MemoryVolume::new(first.clone()), &options("other")).await;
            assert_eq!(other.stats.new_chunks, 1, "{what}");
            bench.restores("other@1", &first, &what).await;

            let repaired = bench.repair().await;
            assert!(repaired.ok() && repaired.mended.len() == 1, "{what}: {:?}", repaired.left);
            bench.restores("v@1", &first, &what).await;
            assert!(bench.names(RECORDS).await.is_empty(), "{what}: it is good again");
            let quiet = bench.back_up(&volume, &options("v")).await;
            assert_eq!((quiet.stats.new_chunks, quiet.lost), (0, Default::default()), "{what}");
        }
    }
}

/// Without any verify: within thirty backups every object had its turn, at the price of one listing each.
#[tokio::test]
async fn the_nightly_look_finds_what_is_lost() {
    let bench = Bench::new(0).await;
    let volume = MemoryVolume::new(content(2, 1500));
    bench.back_up(&volume, &options("v")).await;
    // A thousand names in a listing are not all of them.
    bench.lose(&bench.names(CHUNKS).await[1200], Harm::Missing).await;
    let mut nights = 0;
    let found = loop {
        nights += 1;
        let asked = bench.faults.ops().len();
        let report = bench.back_up(&volume, &options("v")).await;
        if report.lost.needs_somebody() {
            break report;
        }
        let ops = bench.faults.ops();
        let looks = ops[asked..].iter().filter(|op| op.kind == OpKind::List && op.key.contains("/chunks"));
        assert!(looks.count() <= 1, "night {nights}");
        assert!(nights < 30, "not found");
    };
    assert_eq!(
        (found.lost.lost_found, found.lost.parent_hurt_chunks, found.lost.kept_hurt_chunks),
        (1, 1, 0)
    );
    assert!(found.remarks.iter().any(|note| note.contains("LOST")), "{:?}", found.remarks);
    assert_eq!(bench.names(RECORDS).await.len(), 1);
    let sequence = found.sequence.expect("committed");
    bench.restores(&format!("v@{sequence}"), &volume.content(), "stored again").await;
    // The next builds on what is whole.
    let next = bench.back_up(&volume, &options("v")).await;
    assert_eq!((next.lost, next.stats.new_chunks), (Default::default(), 0));
    assert!(bench.repair().await.ok());
}

/// Where one thing is found lost, everything that the backup builds on is looked for: loss seldom comes alone, and the nights
/// that found the rest one by one would all be hurt.
#[tokio::test]
async fn all_that_is_lost_is_found_with_the_first() {
    let bench = Bench::new(0).await;
    let volume = MemoryVolume::new(content(12, 1500));
    bench.back_up(&volume, &options("v")).await;
    let chunks = bench.names(CHUNKS).await;
    for at in [100, 700, 1300, 1499] {
        bench.lose(&chunks[at], Harm::Missing).await;
    }
    let mut nights = 0;
    let found = loop {
        nights += 1;
        assert!(nights < 30, "not found");
        let report = bench.back_up(&volume, &options("v")).await;
        if report.lost.needs_somebody() {
            break report;
        }
    };
    assert_eq!((found.lost.lost_found, found.lost.kept_hurt_chunks), (4, 0));
    let sequence = found.sequence.expect("committed");
    bench.restores(&format!("v@{sequence}"), &volume.content(), "stored again").await;
}

/// What listings hide is asked for before it is called lost.
#[tokio::test]
async fn a_short_listing_loses_nothing() {
    let bench = Bench::new(0).await;
    let volume = MemoryVolume::new(content(3, 50));
    bench.back_up(&volume, &options("v")).await;
    bench.faults.hide_from_listings(|path| path.contains("/chunks/"));
    let report = bench.back_up(&volume, &options("v")).await;
    assert_eq!(report.lost, Default::default());
    assert!(bench.names(RECORDS).await.is_empty());
}

#[tokio::test]
async fn a_size_that_is_wrong_is_found_too() {
    let bench = Bench::new(0).await;
    let volume = MemoryVolume::new(content(4, 20));
    bench.back_up(&volume, &options("v")).await;
    put(&*bench.memory, &bench.names(CHUNKS).await[3], b"x".to_vec()).await;
    let report = bench.back_up(&volume, &options("v")).await;
    assert_eq!((report.lost.lost_found, report.stats.new_chunks), (1, 1));
    bench.restores("v@2", &volume.content(), "stored again").await;
}

/// Nothing lost, nor anything that stands on it, becomes a base.
#[tokio::test]
async fn no_delta_stands_on_what_is_lost() {
    let bench = Bench::new(7).await;
    let volume = MemoryVolume::new(content(5, 8));
    bench.back_up(&volume, &options("v")).await;
    let full = bench.names(CHUNKS).await;
    // Of every chunk a delta, and then one on that.
    for night in 0..2 {
        volume.edit(|content| (0..8).for_each(|at| content[at * C + night] ^= 1));
        assert_eq!(bench.back_up(&volume, &options("v")).await.stats.delta_chunks, 8);
    }
    bench.lose(&full[0], Harm::Missing).await;
    bench.lose(&full[1], Harm::Flipped).await;
    assert_eq!(bench.verify(true).await.recorded, 2);
    volume.edit(|content| (0..8).for_each(|at| content[at * C + 7] ^= 1));
    let report = bench.back_up(&volume, &options("v")).await;
    assert_eq!(
        (report.lost.parent_hurt_chunks, report.stats.new_chunks, report.stats.delta_chunks),
        (2, 8, 6)
    );
    bench.restores("v@4", &volume.content(), "stored in full").await;
}

/// A stream cannot be read again: it says so, and the next full one puts it right.
#[tokio::test]
async fn a_stream_that_lacks_what_is_lost_says_so() {
    let bench = Bench::new(0).await;
    let mut bytes = content(6, 30);
    let size = bytes.len() as u64;
    let full = |to: &str, bytes: &[u8]| diff_v1(None, to, size, &[(0, bytes.to_vec())]);
    let stream =
        async |stream| back_up_stream(&bench.project, stream, &options("v")).await.expect("backed up");
    stream(full("a", &bytes)).await;
    // Any but the one that is written to.
    let written = bench.project.identify(&bytes[..C]).to_string();
    let lost = bench.names(CHUNKS).await.into_iter().find(|name| !name.contains(&written)).expect("another");
    bench.lose(&lost, Harm::Missing).await;
    bench.verify(false).await;
    let change = vec![7; 100];
    bytes[..100].copy_from_slice(&change);
    let report = stream(diff_v1(Some("a"), "b", size, &[(0, change)])).await;
    assert_eq!(report.lost.kept_hurt_chunks, 1);
    assert!(report.lost.needs_somebody() && report.remarks.iter().any(|n| n.contains("HURT")), "{report:?}");

    // Where another volume has the content by now, the stream's backup is whole.
    bench.back_up(&MemoryVolume::new(content(6, 30)), &options("other")).await;
    assert!(bench.repair().await.ok());
    bench.restores("v@2", &bytes, "mended").await;

    bench.lose(&bench.names(CHUNKS).await[9], Harm::Missing).await;
    bench.verify(false).await;
    let report = stream(full("c", &bytes)).await;
    assert_eq!((report.lost.kept_hurt_chunks, report.lost.needs_somebody()), (0, false));
    bench.restores("v@3", &bytes, "a full stream").await;
}

/// A manifest page that is gone is written again where a copy of it is at hand; otherwise all of the volume is read.
#[tokio::test]
async fn a_lost_page_is_not_built_upon() {
    for cached in [true, false] {
        let bench = Bench::new(0).await;
        let dir = tempfile::tempdir().expect("a directory");
        let project = match cached {
            false => bench.project.clone(),
            true => {
                let environment =
                    cuttle::repo::Environment { cache_dir: Some(dir.path().to_owned()), ..environment() };
                repo::connect(store(bench.memory.clone()), environment).await.expect("opened")
            }
        };
        let volume = MemoryVolume::new(content(7, 1100));
        back_up(&project, &volume, &options("v")).await.expect("backed up");
        bench.lose(&bench.names(PAGES).await[0], Harm::Missing).await;
        assert_eq!(bench.verify(false).await.recorded, 1, "cached: {cached}");
        volume.edit(|content| content[1050 * C] ^= 1);
        let report = back_up(&project, &volume, &options("v")).await.expect("backed up");
        assert_eq!(report.full_read, !cached, "{:?}", report.remarks);
        assert_eq!(report.stats.new_chunks, 1, "cached: {cached}");
        bench.restores("v@2", &volume.content(), "a page anew").await;
        bench.forget("v@1").await;
        assert!(bench.verify(true).await.ok(), "cached: {cached}");
    }
}

/// What does not open may list anything: it is told, and stands in nobody's way.
#[tokio::test]
async fn a_record_that_does_not_open_is_told() {
    let bench = Bench::new(0).await;
    let volume = MemoryVolume::new(content(8, 10));
    bench.back_up(&volume, &options("v")).await;
    let planted = format!("{RECORDS}{}", "0".repeat(32));
    put(&*bench.memory, &planted, b"".to_vec()).await;
    let report = bench.back_up(&volume, &options("v")).await;
    assert_eq!((report.lost.lost_records_unreadable, report.lost.needs_somebody()), (1, true));
    assert!(report.remarks.iter().any(|note| note.contains(&planted)), "{:?}", report.remarks);
    assert!(!bench.verify(false).await.ok());
    assert_eq!(bench.prune().await.lost_objects, 0);
}

/// The prune sees what is missing, says so each time, and keeps it out of the live index.
#[tokio::test]
async fn prune_tells_what_is_missing() {
    let bench = Bench::new(0).await;
    let volume = MemoryVolume::new(content(9, 30));
    bench.back_up(&volume, &options("v")).await;
    let lost = bench.names(CHUNKS).await[11].clone();
    bench.lose(&lost, Harm::Missing).await;
    let dry = PruneOptions { dry_run: true, ..PruneOptions::default() };
    let planned = prune::run(&bench.project, dry, Arc::new(Silent), Cancel::never()).await.expect("looked");
    assert_eq!((planned.lost_objects, planned.recorded, bench.names(RECORDS).await.len()), (1, 0, 0));
    for recorded in [1, 0] {
        let report = bench.prune().await;
        let named: Vec<(&str, &str)> =
            report.lost.iter().map(|l| (l.object.as_str(), l.snapshot.as_str())).collect();
        assert_eq!((report.lost_objects, report.recorded), (1, recorded));
        assert_eq!(named, [(lost.as_str(), "v@1")]);
    }
    // A round, so that the next volume learns from its live index.
    let gone = MemoryVolume::new(content(10, 3));
    bench.back_up(&gone, &options("gone")).await;
    bench.forget("gone@1").await;
    let report = bench.prune().await;
    assert_eq!((report.rounds_finished, report.deleted_chunks.objects, report.lost_objects), (1, 3, 1));
    let other = bench.back_up(&MemoryVolume::new(volume.content()), &options("other")).await;
    assert_eq!((other.stats.new_chunks, other.stats.known_chunks), (1, 29));
    bench.restores("other@1", &volume.content(), "after the prune").await;

    // When nobody needs it, the record goes.
    bench.back_up(&volume, &options("v")).await;
    bench.restores("v@2", &volume.content(), "stored again").await;
    bench.forget("v@1").await;
    assert_eq!((bench.prune().await.lost_objects, bench.names(RECORDS).await), (0, Vec::new()));
    assert!(bench.verify(true).await.ok());
}

/// Passes over ranges of the ids find it, too, and what a listing hides is not missing.
#[tokio::test]
async fn prune_in_passes_tells_what_is_missing_and_nothing_else() {
    let bench = Bench::new(0).await;
    bench.back_up(&MemoryVolume::new(content(11, 600)), &options("v")).await;
    let lost: Vec<String> = bench.names(CHUNKS).await.into_iter().step_by(100).collect();
    for name in &lost {
        bench.lose(name, Harm::Missing).await;
    }
    let options = PruneOptions { marks_max: 100, ..PruneOptions::default() };
    let report =
        prune::run(&bench.project, options, Arc::new(Silent), Cancel::never()).await.expect("pruned");
    assert_eq!(report.lost.iter().map(|l| l.object.clone()).collect::<Vec<_>>(), lost);

    let whole = Bench::new(0).await;
    whole.back_up(&MemoryVolume::new(content(12, 60)), &self::options("v")).await;
    whole.faults.hide_from_listings(|path| path.contains("/chunks/") && path.ends_with('7'));
    assert_eq!((whole.prune().await.lost_objects, whole.names(RECORDS).await.len()), (0, 0));
}

/// Who may only read verifies all the same.
#[tokio::test]
async fn a_reader_without_a_right_to_write_verifies() {
    let bench = Bench::new(0).await;
    bench.back_up(&MemoryVolume::new(content(13, 10)), &options("v")).await;
    bench.lose(&bench.names(CHUNKS).await[0], Harm::Missing).await;
    bench.faults.fail_always_for(|op| op.kind == OpKind::Create, Fault::Status(403));
    let report = bench.verify(false).await;
    assert_eq!((report.damage.len(), report.recorded, report.ok()), (1, 0, false));
}
