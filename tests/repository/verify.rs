//! Verifies real backups: whole ones, hurt ones, and ones behind a store that answers badly.

use std::sync::Arc;

use crate::support::Numbers;
use crate::support::by_hand::{delete, names};
use crate::support::fault_store::{Fault, FaultStore};
use crate::support::repo::{self, CHUNK, MemoryVolume, back_up, default, hasty, init_on, latest, options};
use cuttle::ErrorKind;
use cuttle::cancel::Cancel;
use cuttle::progress::Silent;
use cuttle::repo::Keeper;
use cuttle::store::Store;
use cuttle::verify::{self, Problem, ScrubOptions, Slice, VerifyOptions, VerifyReport};
use object_store::memory::InMemory;

struct Bench {
    memory: Arc<InMemory>,
    faults: FaultStore,
    project: Keeper,
    volume: Arc<MemoryVolume>,
}

impl Bench {
    /// Three nights of a volume.
    async fn new(chunks: usize) -> Self {
        let memory = Arc::new(InMemory::new());
        let faults = FaultStore::new(memory.clone());
        let store = Store::with_object_store(Arc::new(faults.clone()), hasty());
        let project = default(&init_on(store, CHUNK, true).await).await;
        let volume = MemoryVolume::new(Numbers::new(1).bytes(chunks * CHUNK as usize));
        for night in 0..3 {
            back_up(&project, &volume, &options("v")).await.expect("backed up");
            volume.edit(|content| content[night * CHUNK as usize] ^= 1);
        }
        Self { memory, faults, project, volume }
    }

    async fn verify(&self, read_data: bool) -> VerifyReport {
        repo::verify(&self.project, read_data).await.expect("verified")
    }

    async fn chunks(&self) -> Vec<String> {
        names(&*self.memory, "projects/default/chunks/").await
    }
}

#[tokio::test]
async fn what_a_short_listing_hides_is_asked_for_before_it_is_called_missing() {
    let bench = Bench::new(700).await;
    let chunks = bench.chunks().await;
    let hidden = chunks[10..40].to_vec();
    let missing = hidden[7].clone();
    bench.faults.hide_from_listings(move |key| hidden.iter().any(|h| h == key));
    let before = bench.project.repository().store().ledger();
    assert!(bench.verify(false).await.ok());
    let asked = bench.project.repository().store().ledger() - before;
    // One for each hidden chunk, and what confirms the ends of catalog and log.
    assert!((30..40).contains(&asked.head_requests), "{asked:?}");
    delete(&*bench.memory, &missing).await;
    let report = bench.verify(false).await;
    let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
    assert_eq!((&damage.object, damage.problem), (&missing, Problem::Missing));
}

#[tokio::test]
async fn a_short_listing_of_the_log_hides_no_snapshot() {
    let bench = Bench::new(5).await;
    assert_eq!(bench.verify(true).await.snapshots, 3);
    bench.faults.hide_from_listings(|key| {
        key.ends_with("2.open") || key.ends_with("3.open") || key.ends_with("1.end")
    });
    let report = bench.verify(true).await;
    assert!(report.ok(), "{:?}", report.damage);
    assert_eq!(report.snapshots, 3);
}

#[tokio::test]
async fn an_object_that_the_store_does_not_give_is_reported_and_the_rest_verified() {
    let bench = Bench::new(50).await;
    let chunks = bench.chunks().await;
    let victim = chunks[20].clone();
    let name = victim.clone();
    bench.faults.fail_always_for(move |op| op.key == name, Fault::Status(500));
    let report = bench.verify(true).await;
    let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
    assert_eq!((&damage.object, damage.problem), (&victim, Problem::Unreadable));
    assert!(!damage.hurts.is_empty());
    assert_eq!(report.chunks_read, chunks.len() as u64 - 1);
}

#[tokio::test]
async fn a_store_that_answers_nothing_ends_the_run() {
    let bench = Bench::new(50).await;
    bench.faults.fail_always_for(|op| op.key.contains("/chunks/"), Fault::Status(503));
    let error = repo::verify(&bench.project, true).await;
    assert_eq!(error.expect_err("no chunk can be read").kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn random_faults_are_got_over() {
    let bench = Bench::new(60).await;
    for seed in 0..10 {
        bench.faults.fail_at_random(seed, 7);
        assert!(bench.verify(true).await.ok());
        let store = bench.project.repository().store();
        let report = verify::scrub(store, ScrubOptions::default(), Arc::new(Silent), Cancel::never()).await;
        assert!(report.expect("scrubbed").ok());
    }
}

#[tokio::test]
async fn all_slices_together_find_each_damage_once() {
    let bench = Bench::new(80).await;
    let chunks = bench.chunks().await;
    for at in [0, 30, chunks.len() - 1] {
        delete(&*bench.memory, &chunks[at]).await;
    }
    for of in [1, 4, 9] {
        for read_data in [true, false] {
            let (mut found, mut read) = (Vec::new(), 0);
            for number in 1..=of {
                let slice = Some(Slice::new(number, of).expect("valid"));
                let options = VerifyOptions { read_data, slice, ..VerifyOptions::default() };
                let report = verify::run(&bench.project, options, Arc::new(Silent), Cancel::never());
                let report = report.await.expect("verified");
                read += report.chunks_read;
                found.extend(report.damage.into_iter().map(|d| d.object));
            }
            found.sort();
            found.dedup();
            assert_eq!(found.len(), 3, "of {of}");
            assert_eq!(read, if read_data { chunks.len() as u64 - 3 } else { 0 });
        }
    }
}

#[tokio::test]
async fn a_snapshot_is_held_against_the_volume_as_it_is_now() {
    let bench = Bench::new(100).await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("live.raw");
    let against = async |spec: &str, content: &[u8]| {
        std::fs::write(&path, content).expect("written");
        let source = cuttle::source::raw_file::RawFile::find(&path).expect("there");
        let request = cuttle::source::FreezeRequest {
            own_name: String::new(),
            own_prefix: String::new(),
            parent: None,
            origin: None,
        };
        let frozen = cuttle::source::Volume::freeze(&source, &request).expect("frozen");
        let snapshot = bench.project.volumes().snapshot(spec).await.expect("there");
        let (silent, never) = (Arc::new(Silent), Cancel::never());
        verify::against(&bench.project, &snapshot, frozen.reader(), 1 << 20, silent, never).await
    };
    // The last edit came after the last backup.
    let mut content = bench.volume.content();
    let report = against("v", &content).await.expect("compared");
    assert!(!report.ok());
    assert_eq!((report.differing.len(), report.differing[0].offset_bytes), (1, 2 * u64::from(CHUNK)));
    content[2 * CHUNK as usize] ^= 1;
    assert!(against("v", &content).await.expect("compared").ok());
    assert_eq!(latest(&bench.project, "v").await.snapshot.sequence.0, 3);
    let report = against("v@1", &content).await.expect("compared");
    assert_eq!(report.differing_bytes, 2 * u64::from(CHUNK));
}
