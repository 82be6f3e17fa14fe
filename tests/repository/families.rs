//! What a clone builds upon: a live snapshot of another volume, and only such.

use std::sync::Arc;

use cuttle::backup::BackupReport;
use cuttle::cancel::Cancel;
use cuttle::forget::{self, Judged};
use cuttle::plan::retention::Policy;
use cuttle::plan::times::Times;
use cuttle::progress::Silent;
use cuttle::prune::{self, PruneOptions};
use cuttle::repo::{InitOptions, Keeper};

use crate::support::Numbers;
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, default, init_with, latest, options, read_back, store, verify,
};

/// A template with a backup of its first snapshot, and a clone of that.
async fn family() -> (Arc<object_store::memory::InMemory>, Keeper, Arc<MemoryVolume>, Arc<MemoryVolume>) {
    let objects = Arc::new(object_store::memory::InMemory::new());
    let options_of = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 7 };
    let project = default(&init_with(store(objects.clone()), options_of, true).await).await;
    let template = MemoryVolume::new(Numbers::new(5).bytes(20 * CHUNK as usize + 100));
    template.snapshots_are_others();
    back_up(&project, &template, &options("template")).await.expect("backed up");
    let clone = template.clone_of(1);
    (objects, project, template, clone)
}

async fn forgotten(project: &Keeper, name: &str) {
    let report = forget::by_name(project, &[name.to_owned()], false, Cancel::never()).await;
    assert!(report.expect("forgotten").ok(), "{name}");
}

async fn of_clone(project: &Keeper, clone: &Arc<MemoryVolume>) -> BackupReport {
    let report = back_up(project, clone, &options("clone")).await.expect("backed up");
    let read = read_back(project, &latest(project, "clone").await).await.expect("restored");
    assert!(read == clone.content(), "it is not what was backed up");
    report
}

#[tokio::test]
async fn a_clone_reads_and_stores_what_it_has_of_its_own() {
    let (_, project, template, clone) = family().await;
    clone.edit(|content| {
        content[3 * CHUNK as usize + 7] ^= 1;
        content[9 * CHUNK as usize..10 * CHUNK as usize].fill(0);
    });
    let first = of_clone(&project, &clone).await;
    assert_eq!((first.origin.as_deref(), first.parent, first.full_read), (Some("template@1"), None, false));
    assert_eq!((first.stats.new_chunks, first.stats.delta_chunks), (1, 1), "{:?}", first.stats);
    let record = latest(&project, "clone").await.snapshot;
    let origin = latest(&project, "template").await;
    assert_eq!(record.origin.as_ref().map(|o| o.snapshot_id), Some(origin.snapshot_id));
    // The next night goes on from the clone's own, and still says what it hangs on.
    clone.edit(|content| content[0] ^= 1);
    let second = of_clone(&project, &clone).await;
    assert_eq!((second.origin, second.parent), (None, Some(1)));
    assert_eq!(latest(&project, "clone").await.snapshot.origin, record.origin);
    // What it was cloned from may go.
    forgotten(&project, "template@1").await;
    drop(template);
    let pruning = PruneOptions::default();
    prune::run(&project, pruning, Arc::new(Silent), Cancel::never()).await.expect("pruned");
    assert!(verify(&project, true).await.expect("verified").ok());
}

/// Whichever volumes the policy is for, and as long as the clone itself stays.
#[tokio::test]
async fn what_clones_hang_on_is_not_forgotten_by_a_policy() {
    let (_, project, template, clone) = family().await;
    of_clone(&project, &clone).await;
    for _ in 0..2 {
        template.edit(|content| content[0] ^= 1);
        back_up(&project, &template, &options("template")).await.expect("backed up");
    }
    let fates = async |volumes: &[&str]| {
        let volumes = volumes.iter().map(|v| v.parse().expect("a pattern")).collect();
        let policy = Policy { last: 1, times: Times::Store, volumes, ..Policy::default() };
        let report = forget::by_policy(&project, &policy, true, Cancel::never()).await.expect("looked at");
        assert!(report.ok());
        let told = |j: &Judged| format!("{} {:?} {}", j.name(), j.fate, j.reasons.join(", "));
        report.snapshots.iter().map(told).collect::<Vec<_>>()
    };
    let of_template = ["template@1 Kept origin of clone@1", "template@2 Forgotten ", "template@3 Kept last"];
    assert_eq!(fates(&["template"]).await, of_template);
    assert_eq!(fates(&[]).await[1..], of_template);
    forgotten(&project, "clone@1").await;
    assert_eq!(fates(&[]).await[0], "template@1 Forgotten ");
}

/// What it inherits is looked at as well: a source that misses what a clone has of its own is found out.
#[tokio::test]
async fn a_clone_whose_source_misses_changes_is_read_as_a_whole() {
    let (_, project, _, clone) = family().await;
    clone.edit(|content| content.iter_mut().step_by(512).for_each(|byte| *byte ^= 1));
    for at in (0..clone.content().len() as u64).step_by(512) {
        clone.lie_about(at);
    }
    let report = of_clone(&project, &clone).await;
    assert!(report.full_read, "{report:?}");
    assert!(
        report.remarks.iter().any(|r| r.contains("MISSED A CHANGE") && r.contains("template@1")),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_parent_that_is_another_than_what_was_backed_up_is_found_out() {
    let (_, project, _, clone) = family().await;
    clone.tamper_parent(|content| content[4 * CHUNK as usize + 3] ^= 1);
    clone.edit(|content| content[4 * CHUNK as usize + 900] ^= 1);
    let report = of_clone(&project, &clone).await;
    assert!(report.full_read && report.remarks.iter().any(|r| r.contains("BASE IS NOT")), "{report:?}");
}

#[tokio::test]
async fn what_is_forgotten_or_of_another_snapshot_is_no_origin() {
    let (_, project, template, clone) = family().await;
    forgotten(&project, "template@1").await;
    let report = of_clone(&project, &clone).await;
    assert_eq!((report.origin, report.full_read), (None, true));
    template.edit(|content| content[0] ^= 1);
    back_up(&project, &template, &options("template")).await.expect("backed up");
    let other = template.clone_of(2);
    back_up(&project, &template, &options("template")).await.expect("backed up");
    forgotten(&project, "template@3").await;
    let report = back_up(&project, &other, &options("other")).await.expect("backed up");
    assert_eq!(report.origin.as_deref(), Some("template@2"));
}
