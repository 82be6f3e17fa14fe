//! What is true of a repository when everything has stopped.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::expected::{Expected, Listed, listed};
use crate::images::hash;
use crate::place::Place;

/// Restores at once.
const RESTORES_AT_ONCE: usize = 4;

/// Prunes twice and checks everything; `prune` is the command.
pub fn check(place: &Place, expected: &Expected, prune: &[&str]) {
    for _ in 0..2 {
        let report = place.summary("quiet", prune);
        assert_eq!(report["round_open"], false, "{report}");
    }
    let report = place.summary("quiet", &["prune", "--dry-run"]);
    assert_eq!(report["unreferenced"]["objects"], 0, "something unreferenced stays: {report}");
    assert_eq!(report["round_open"], false, "{report}");
    let bundles = place.objects("bundles/").len();
    let stored = place.objects("chunks/").len() + place.objects("pages/").len() + bundles;
    assert_eq!(report["stored"]["objects"], stored, "the store lists others: {report}");
    let verified = place.summary("quiet", &["verify", "--read-data"]);
    assert_eq!(verified["ok"], true, "{verified}");
    assert!(verified["damage"].as_array().is_some_and(Vec::is_empty), "{verified}");
    assert_eq!(verified["unfinished"], 0, "{verified}");
    let needed = verified["pages"].as_u64().zip(verified["chunks"].as_u64()).map(|(p, c)| p + c);
    // Of bundles the pieces are counted.
    let is_alike = |needed: u64| if bundles == 0 { needed == stored as u64 } else { needed >= stored as u64 };
    assert!(needed.is_some_and(is_alike), "stored and needed are not the same: {stored}, {verified}");

    let snapshots = listed(&place.ok("quiet", &["snapshots"]));
    let mut wrong = expected.compare(&snapshots);
    wrong.extend(restore_all(place, expected, &snapshots.iter().collect::<Vec<_>>()));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} snapshots restored, {stored} objects in the store, all of them needed", snapshots.len());
}

/// Restores every snapshot; those that hold something else than they should.
fn restore_all(place: &Place, expected: &Expected, snapshots: &[&Listed]) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut wrong = Vec::new();
        while let Some(snapshot) = snapshots.get(next.fetch_add(1, Ordering::Relaxed)) {
            let spec = format!("{}@{}", snapshot.0, snapshot.1);
            let said = place.run("quiet", &["restore", &spec, "-"]);
            match said.code {
                Some(0) if expected.may_hold(snapshot, &hash(&said.stdout)) => {}
                Some(0) => wrong.push(format!("{spec} holds something else than its source did")),
                _ => wrong.push(format!("{spec} does not restore: {}", said.stderr)),
            }
        }
        wrong
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..RESTORES_AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().expect("no panic")).collect()
    })
}
