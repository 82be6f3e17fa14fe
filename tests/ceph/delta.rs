//! Deltas of RBD images on a real cluster: the base is the snapshot of the last night, and what comes back is what
//! Ceph's own `rbd export` says.

use std::sync::Arc;

use crate::support::Numbers;
use crate::support::ceph::Ceph;
use crate::support::repo::{default, init_with, latest, options, read_back, store};
use cuttle::backup::{self, BackupReport, Input};
use cuttle::cancel::Cancel;
use cuttle::progress::Silent;
use cuttle::repo::{InitOptions, Keeper};
use object_store::memory::InMemory;

const MIB: u64 = 1 << 20;
const IMAGE: &str = "rbd/delta-nights";

async fn night(ceph: &Ceph, project: &Keeper) -> BackupReport {
    let input = Input::Volume(Arc::new(ceph.volume(IMAGE)));
    backup::run(project, input, &options("v"), Arc::new(Silent), Cancel::never()).await.expect("backed up")
}

#[tokio::test(flavor = "multi_thread")]
async fn nights_of_an_image_become_deltas_on_the_last_nights_snapshot() {
    let Some(ceph) = Ceph::first() else { return };
    let init = InitOptions { chunk_size_bytes: 4 << 20, delta_depth_max: 3 };
    let project = default(&init_with(store(Arc::new(InMemory::new())), init, true).await).await;
    let mut numbers = Numbers::new(8);
    ceph.purge(IMAGE);
    ceph.create(IMAGE, 30 * MIB + 4096, &[]);
    ceph.write(IMAGE, 0, &numbers.bytes(26 * MIB as usize));
    let mut deltas = Vec::new();
    for number in 0..6 {
        let report = night(&ceph, &project).await;
        assert!(report.remarks.is_empty(), "night {number}: {:?}", report.remarks);
        assert_eq!(report.full_read, number == 0);
        let snapshot = latest(&project, "v").await;
        let point = snapshot.snapshot.point.clone().expect("a snapshot was read");
        assert!(ceph.snapshots(IMAGE).contains(&point.name), "the next night's base");
        let expected = ceph.export(&format!("{IMAGE}@{}", point.name));
        assert!(read_back(&project, &snapshot).await.expect("read") == expected, "night {number}");
        deltas.push(report.stats.delta_chunks);
        let changed = report.stats.delta_bytes;
        // Chains are three deep, so night 4 is joined with the three before.
        let nights = if number == 4 { 4 } else { 1 };
        assert!(
            changed < 4 * 3 * 5000 * nights,
            "night {number}: {changed} bytes for twelve pages of {nights} nights"
        );
        // Twelve pages of the first three chunks.
        for page in 0..12 {
            let offset = page % 3 * 4 * MIB + numbers.below(1024) * 4096;
            ceph.write(IMAGE, offset, &numbers.bytes(4096));
        }
    }
    assert_eq!(deltas, [0, 3, 3, 3, 3, 3]);
    ceph.purge(IMAGE);
}

/// A base that is gone is fetched from the repository; the next night has one again.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_last_nights_snapshot_deltas_stand_on_what_the_repository_has() {
    let Some(ceph) = Ceph::first() else { return };
    let init = InitOptions { chunk_size_bytes: 4 << 20, delta_depth_max: 3 };
    let project = default(&init_with(store(Arc::new(InMemory::new())), init, true).await).await;
    let image = "rbd/delta-gone";
    let back_up = async || {
        let input = Input::Volume(Arc::new(ceph.volume(image)));
        backup::run(&project, input, &options("g"), Arc::new(Silent), Cancel::never())
            .await
            .expect("backed up")
    };
    ceph.purge(image);
    ceph.create(image, 8 * MIB, &[]);
    ceph.write(image, 0, &Numbers::new(9).bytes(8 * MIB as usize));
    back_up().await;
    let own: Vec<String> = ceph.snapshots(image).into_iter().filter(|s| s.starts_with("cuttle-")).collect();
    for snapshot in own {
        ceph.rbd(&["snap", "rm", "--no-progress", &format!("{image}@{snapshot}")]);
    }
    ceph.write(image, 4096, &[7; 4096]);
    let report = back_up().await;
    assert!(report.full_read);
    assert_eq!((report.stats.new_chunks, report.stats.delta_chunks), (1, 1));
    ceph.write(image, 4096, &[8; 4096]);
    assert_eq!(back_up().await.stats.delta_chunks, 1);
    ceph.purge(image);
}
