//! A snapshot that somebody forged, with the right ids and the names of objects that are nowhere (`cases/security/a2`): the nights after it find out, and are whole.

use std::sync::Arc;

use cuttle::backup::BackupOptions;
use cuttle::cancel::Cancel;
use cuttle::format::ObjectName;
use cuttle::format::page::{ObjectRef, PageRef};
use cuttle::format::record::{EndRecord, Outcome};
use cuttle::progress::Silent;
use cuttle::prune::{self, PruneOptions};
use cuttle::repo::manifest::Manifest;
use object_store::memory::InMemory;

use crate::support::Numbers;
use crate::support::by_hand::ByHand;
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, commit_refs, default, init_on, latest, options, read_back, secret, store,
    verify,
};

const C: usize = CHUNK as usize;

/// As the ref of a chunk is, but for an object that nobody ever wrote.
fn dangling(chunk: &PageRef) -> PageRef {
    let PageRef::Stored { id, object, .. } = chunk else { return chunk.clone() };
    let name = cuttle::format::names::ContentName { variant: 0x0bad_bad0, ..object.name };
    PageRef::Stored { id: *id, object: ObjectRef { name, ..*object }, closure: Vec::new() }
}

#[tokio::test]
async fn a_forged_snapshot_poisons_no_later_night() {
    for full in [false, true] {
        let objects = Arc::new(InMemory::new());
        let project = default(&init_on(store(objects.clone()), CHUNK, true).await).await;
        let volume = MemoryVolume::new(Numbers::new(21).bytes(40 * C));
        for _ in 0..2 {
            back_up(&project, &volume, &options("v")).await.expect("backed up");
        }
        let good = latest(&project, "v").await;
        let manifest = Manifest::of(&project, &good.snapshot).expect("a manifest");
        let leaf = manifest.leaf(0).await.expect("a leaf");
        let forged: Vec<(u64, PageRef)> = (0..).zip(leaf.refs.iter().map(dangling)).collect();
        let catalog = project.volumes().confirmed().await.expect("a catalog");
        let record = &catalog.entries()[0];
        let sequence = commit_refs(&project, record, 40 * C as u64, forged).await;
        // It says of itself that it is of the same moment: so the next night reads only what changed since.
        let hand = ByHand::open(objects.clone(), &secret(), "default").await;
        let end = ObjectName::End(hand.project.clone(), record.number, sequence);
        let mut forged: EndRecord = hand.record(&end).await;
        let Outcome::Committed(snapshot) = &mut forged.outcome else { panic!("committed") };
        (snapshot.point, snapshot.identity) = (good.snapshot.point.clone(), good.snapshot.identity.clone());
        hand.put_record(&end, &forged).await;
        assert!(read_back(&project, &latest(&project, "v").await).await.is_err(), "it is forged");
        let mut nights = Vec::new();
        for night in 0..3 {
            volume.edit(|content| content[night * C] ^= 1);
            let how = BackupOptions { full, ..options("v") };
            let report = back_up(&project, &volume, &how).await.expect("backed up");
            assert_eq!(report.full_read, full, "full: {full}, night {night}");
            nights.push(volume.content());
            let found = read_back(&project, &latest(&project, "v").await).await;
            assert!(found.is_ok_and(|found| found == volume.content()), "full: {full}, night {night}");
        }
        // The last good one goes, and the forged one: what the nights need stays.
        for sequence in 1..=3 {
            let name = [format!("v@{sequence}")];
            cuttle::forget::by_name(&project, &name, false, Cancel::never()).await.expect("forgotten");
        }
        prune::run(&project, PruneOptions::default(), Arc::new(Silent), Cancel::never())
            .await
            .expect("pruned");
        let catalog = project.volumes().confirmed().await.expect("a catalog");
        let left = project.history(&catalog.entries()[0]).snapshots().await.expect("snapshots");
        assert_eq!(left.len(), 3);
        for (snapshot, content) in left.iter().zip(&nights) {
            assert!(read_back(&project, snapshot).await.expect("read") == *content, "{}", snapshot.name());
        }
        assert!(verify(&project, true).await.expect("verified").ok());
    }
}
