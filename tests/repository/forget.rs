//! Notes and forgetting when several do it at once, and when the store fails in between.

use std::fmt::Debug;
use std::sync::Arc;

use crate::support::fault_store::{self, FAULTS, FaultStore, Gate, gate_at};
use crate::support::repo::{MemoryVolume, back_up, in_memory, options, reopen};
use cuttle::ErrorKind;
use cuttle::repo::Keeper;
use cuttle::repo::notes::{Forgotten, Noted};
use object_store::memory::InMemory;

const VOLUME: &str = "v";

/// The repository as it is seen through faults, and as it is.
async fn two_clients(objects: &Arc<InMemory>) -> (FaultStore, Keeper, Keeper) {
    let faults = FaultStore::new(objects.clone());
    let (slow, quick) = (reopen(Arc::new(faults.clone())).await, reopen(objects.clone()).await);
    (faults, slow.expect("opened"), quick.expect("opened"))
}

/// A repository with two snapshots of a volume.
async fn two_nights() -> Arc<InMemory> {
    let (objects, project) = in_memory().await;
    let volume = MemoryVolume::new(vec![1; 9000]);
    for night in 2..4 {
        back_up(&project, &volume, &options(VOLUME)).await.expect("backed up");
        volume.edit(|content| content[0] = night);
    }
    objects
}

/// The older of the two, as this client sees it now.
async fn older(project: &Keeper) -> Option<Noted> {
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    let snapshots = project.history(&catalog.entries()[0]).snapshots().await.expect("a log");
    snapshots.iter().find(|s| s.snapshot.sequence.0 == 1).map(Noted::from)
}

/// What everybody sees afterwards.
async fn seen(objects: &Arc<InMemory>) -> Option<Noted> {
    older(&reopen(objects.clone()).await.expect("opened")).await
}

async fn protect(project: &Keeper, noted: &Noted) -> cuttle::Result<()> {
    project.notes().change(noted, |note| note.protected = true).await.map(drop)
}

async fn tag(project: &Keeper, noted: &Noted, tag: &str) -> cuttle::Result<()> {
    project.notes().change(noted, |note| note.tags.push(tag.to_owned())).await.map(drop)
}

/// Does something while the work waits at the gate; `None` when the work never comes to it.
async fn held<T: Debug>(
    work: impl Future<Output = T>,
    gate: Gate,
    meanwhile: impl AsyncFnOnce(),
) -> Option<T> {
    let (done, reached) = fault_store::held(work, gate, meanwhile()).await;
    reached.then_some(done)
}

/// Never do both believe that they had their will.
#[tokio::test]
async fn protecting_and_forgetting_at_once_is_told_to_one_of_them() {
    let start = two_nights().await;
    for protector_waits in [false, true] {
        let mut outcomes = Vec::new();
        for k in 0.. {
            let context = format!("protector waits: {protector_waits}, request {k}");
            let objects = Arc::new(start.fork());
            let (faults, slow, quick) = two_clients(&objects).await;
            let noted = older(&quick).await.expect("live");
            let gate = gate_at(&faults, k);
            let (mut protected, mut forgotten) = (None, None);
            let reached = match protector_waits {
                true => {
                    let other = async || forgotten = Some(quick.notes().forget(&noted).await);
                    protected = held(protect(&slow, &noted), gate, other).await;
                    protected.is_some()
                }
                false => {
                    let other = async || protected = Some(protect(&quick, &noted).await);
                    forgotten = held(slow.notes().forget(&noted), gate, other).await;
                    forgotten.is_some()
                }
            };
            if !reached {
                break;
            }
            let (protected, forgotten) = (protected.expect("ran"), forgotten.expect("ran"));
            let stays = seen(&objects).await;
            let told = |kind: Option<ErrorKind>| {
                assert!(kind.is_none_or(|kind| kind == ErrorKind::Conflict), "{context}: {kind:?}");
                kind.is_some()
            };
            let refused = matches!(forgotten, Ok(Forgotten::Protected));
            let protector_told = told(protected.as_ref().err().map(|e| e.kind()));
            let forgetter_told = refused || told(forgotten.as_ref().err().map(|e| e.kind()));
            assert!(protector_told || forgetter_told, "{context}: both believe that they had their will");
            assert!(!(refused && protector_told), "{context}: neither had his");
            assert_eq!(stays.is_some_and(|noted| noted.note.protected), refused, "{context}");
            outcomes.push(forgotten.map_err(|e| e.kind()));
        }
        let expected = match protector_waits {
            // Before the note, before the record is looked for.
            true => vec![Ok(Forgotten::Now), Ok(Forgotten::Now), Ok(Forgotten::Protected)],
            // Before the look at the notes, before the record is created, before the second look.
            false => vec![Ok(Forgotten::Protected), Err(ErrorKind::Conflict), Err(ErrorKind::Conflict)],
        };
        assert_eq!(outcomes[..3], expected[..], "protector waits: {protector_waits}");
    }
}

#[tokio::test]
async fn two_who_change_a_note_at_once_both_have_their_will() {
    let start = two_nights().await;
    for k in 0.. {
        let objects = Arc::new(start.fork());
        let (faults, slow, quick) = two_clients(&objects).await;
        let noted = older(&quick).await.expect("live");
        let gate = gate_at(&faults, k);
        let other = async || {
            tag(&quick, &noted, "b").await.expect("tagged");
            protect(&quick, &noted).await.expect("protected");
        };
        let Some(done) = held(tag(&slow, &noted, "a"), gate, other).await else {
            assert!(k > 2, "{k} requests");
            break;
        };
        done.expect("tagged");
        let mut note = seen(&objects).await.expect("live").note;
        note.tags.sort();
        assert_eq!((note.protected, note.tags), (true, vec!["a".to_owned(), "b".to_owned()]), "request {k}");
    }
}

/// Requests that fail, answers that get lost: tried again, each change is made, and made once.
#[tokio::test]
async fn failing_requests_change_nothing_about_it() {
    let start = two_nights().await;
    for fault in FAULTS {
        for k in 0..12 {
            let context = format!("{fault:?} at request {k}");
            let objects = Arc::new(start.fork());
            let faults = FaultStore::new(objects.clone());
            let project = reopen(Arc::new(faults.clone())).await.expect("opened");
            let noted = older(&project).await.expect("live");
            faults.fail_at(faults.ops().len() + k, fault);
            tag(&project, &noted, "a").await.unwrap_or_else(|e| panic!("{context}: {e}"));
            let note = seen(&objects).await.expect("live").note;
            assert_eq!(note.tags, ["a"], "{context}");
            assert_ne!(project.notes().forget(&noted).await.expect(&context), Forgotten::Protected);
            assert_eq!(seen(&objects).await, None, "{context}");
            assert_eq!(project.notes().forget(&noted).await.expect(&context), Forgotten::Already);
        }
    }
}

/// A listing that does not show the newest note: it counts all the same when something is forgotten or changed.
#[tokio::test]
async fn a_note_that_no_listing_shows_counts() {
    let objects = two_nights().await;
    let faults = FaultStore::new(objects.clone());
    let project = reopen(Arc::new(faults.clone())).await.expect("opened");
    let noted = older(&project).await.expect("live");
    tag(&project, &noted, "a").await.expect("tagged");
    protect(&project, &noted).await.expect("protected");
    faults.hide_from_listings(|name| name.contains(".note."));
    // Who saw the notes asks for them whatever a listing says; so by another host.
    assert_eq!(older(&project).await.expect("live").number, 2);
    let project = reopen(Arc::new(faults.clone())).await.expect("opened");
    let stale = older(&project).await.expect("live");
    assert!(!stale.note.protected && stale.number == 0);
    assert_eq!(project.notes().forget(&stale).await.expect("looked"), Forgotten::Protected);
    tag(&project, &stale, "b").await.expect("tagged");
    let note = seen(&objects).await.expect("live").note;
    assert_eq!((note.protected, note.tags), (true, vec!["a".to_owned(), "b".to_owned()]));
}
