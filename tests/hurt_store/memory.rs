//! A store that is not the one from yesterday: a client that remembers refuses it, before it gives anything away.

use std::path::Path;
use std::sync::Arc;

use cuttle::codec::{self, Place};
use cuttle::format::ObjectName;
use cuttle::format::record::RepositoryRecord;
use cuttle::keys::{MasterKey, SlotPlace};
use cuttle::repo::{Environment, InitOptions, Project, Repository, default_project};
use cuttle::{Error, ErrorKind, Result};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::support::by_hand::{ByHand, delete, get, names, put};
use crate::support::fault_store::{FaultStore, OpKind};
use crate::support::repo::{CHUNK, environment, secret};
use crate::world::{Round, World, connect, store};

fn remembering(folder: &Path) -> Environment {
    Environment { memory_dir: Some(folder.into()), ..environment() }
}

/// All objects of a store, put into another.
async fn copy(from: &InMemory, to: &InMemory) {
    for name in names(to, "").await {
        delete(to, &name).await;
    }
    for name in names(from, "").await {
        put(to, &name, get(from, &name).await).await;
    }
}

/// What a client that saw `round` in its present state makes of what `change` does to the store.
async fn refused(round: &Round<'_>, what: &str, change: impl AsyncFnOnce(&Arc<InMemory>)) -> Error {
    let folder = tempfile::tempdir().expect("a folder");
    let objects = Arc::new(round.objects.fork());
    let before = FaultStore::new(objects.clone());
    round.backup(&before, remembering(folder.path())).await.expect(what);
    change(&objects).await;
    let after = FaultStore::new(objects.clone());
    let there = names(&*objects, "").await;
    let error = round.backup(&after, remembering(folder.path())).await.expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Conflict, "{what}: {error}");
    assert!(error.message().contains("not the one this host saw before"), "{what}: {error}");
    let remove = format!("remove {}", folder.path().display());
    assert!(error.help_text().is_some_and(|h| h.contains(&remove)), "{what}: {error:?}");
    assert_eq!(names(&*objects, "").await, there, "{what}: something was written");
    // Nothing but what shows the swindle was asked for.
    let asked = after.ops();
    assert!(asked.iter().all(|op| op.kind != OpKind::Create), "{what}: {asked:?}");
    // Who trusts the store removes the memory.
    std::fs::remove_dir_all(folder.path()).expect("removed");
    match what {
        "another master key" | "not encrypted any more" => {}
        _ => drop(connect(objects, remembering(folder.path())).await.expect(what)),
    }
    error
}

#[tokio::test]
async fn an_older_state_of_the_store_is_refused() {
    let world = World::incremental().await;
    let round = world.round();
    let yesterday = round.objects.fork();
    let error = refused(&round, "rolled back", async |objects| copy(&yesterday, objects).await).await;
    assert!(error.message().contains("the log of volume 2 in project default ends at 2"), "{error}");
}

#[tokio::test]
async fn a_volume_whose_log_is_gone_is_refused() {
    let world = World::incremental().await;
    let round = world.round();
    let error = refused(&round, "no log", async |objects| {
        for name in names(&**objects, "projects/default/log/0000000002/").await {
            delete(&**objects, &name).await;
        }
    })
    .await;
    assert!(error.message().contains("ends at 0, expected at least 3"), "{error}");
}

#[tokio::test]
async fn a_prune_round_that_is_gone_is_refused() {
    let world = World::incremental().await;
    let round = world.round();
    let hand = ByHand::open(round.objects.clone(), &secret(), "default").await;
    hand.begin_round(1, &[]).await;
    hand.end_round(1).await;
    let error = refused(&round, "no round", async |objects| {
        delete(&**objects, "projects/default/gc/0000000001.begin").await;
    })
    .await;
    assert!(error.message().contains("at generation 0, expected at least 1"), "{error}");
}

async fn init(encrypted: bool) -> Arc<InMemory> {
    let objects = Arc::new(InMemory::new());
    let options = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 0 };
    let secret = secret();
    let unlock = encrypted.then_some(&secret);
    Repository::init(store(objects.clone()), environment(), &options, unlock).await.expect("a repository");
    objects
}

#[tokio::test]
async fn another_repository_in_its_place_is_refused() {
    let world = World::incremental().await;
    let round = world.round();
    for encrypted in [true, false] {
        let other = init(encrypted).await;
        let error = refused(&round, "another", async |objects| copy(&other, objects).await).await;
        assert!(error.message().contains("its id is"), "{error}");
    }
}

/// The repository object of the same id, with something changed.
async fn forge(objects: &Arc<InMemory>, change: impl FnOnce(&mut RepositoryRecord)) -> Vec<u8> {
    let hand = ByHand::open(objects.clone(), &secret(), "default").await;
    let mut record = hand.repository.clone();
    change(&mut record);
    hand.put_record(&ObjectName::Repository, &record).await;
    get(&**objects, "repository").await.to_vec()
}

/// Somebody with write access to the bucket makes the client upload in the clear.
#[tokio::test]
async fn encryption_that_was_switched_off_is_refused() {
    let world = World::incremental().await;
    let round = world.round();
    let error = refused(&round, "not encrypted any more", async |objects| {
        forge(objects, |record| record.encrypted = false).await;
    })
    .await;
    assert!(error.message().contains("it is not encrypted, expected encrypted"), "{error}");
}

#[tokio::test]
async fn another_master_key_in_the_same_repository_is_refused() {
    let world = World::incremental().await;
    let round = world.round();
    let error = refused(&round, "another master key", async |objects| {
        let repository = get(&**objects, "repository").await;
        let hand = ByHand::open(objects.clone(), &secret(), "default").await;
        for name in names(&**objects, "keys/").await {
            delete(&**objects, &name).await;
        }
        let at = SlotPlace { slot: 7, repository: &repository };
        let slot = MasterKey::random().and_then(|m| m.wrap(&secret(), at, "", 0)).expect("wrapped");
        let name = ObjectName::Key { slot: 7 };
        let place = Place { repo_id: &hand.repository.repo_id, name: &name, key: None };
        let sealed = codec::seal_record(place, &slot).expect("sealed");
        put(&**objects, &name.to_string(), sealed.bytes().clone()).await;
    })
    .await;
    assert!(error.message().contains("its master key is"), "{error}");
}

/// Without any memory: the slot is bound to the repository object, so what it says cannot be changed under the key.
#[tokio::test]
async fn a_changed_repository_object_opens_with_no_key_even_without_memory() {
    let world = World::incremental().await;
    type Change = fn(&mut RepositoryRecord);
    let changes: [Change; 3] = [
        |r| r.chunk_size_bytes *= 2,
        |r| r.create_if_absent = !r.create_if_absent,
        |r| r.delta_depth_max += 1,
    ];
    for change in changes {
        let round = world.round();
        forge(&round.objects, change).await;
        let error = connect(round.objects.clone(), environment()).await.err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.message().contains("not this repository object"), "{error}");
    }
}

/// The backup is made in the store; a full or broken disk of this host does not undo it.
#[tokio::test]
async fn a_memory_that_cannot_be_written_fails_no_backup() {
    let world = World::incremental().await;
    let round = world.round();
    let folder = tempfile::tempdir().expect("a folder");
    let memory = folder.path().join("memory");
    let project = connect(round.objects.clone(), remembering(&memory)).await.expect("opened");
    std::fs::remove_dir_all(&memory).expect("removed");
    std::fs::write(&memory, "a file where the folder was").expect("written");
    let report = round.backup_in(&project).await.expect("backed up");
    let (_, live) = round.audit("without memory").await;
    assert_eq!(live.last(), report.sequence.as_ref());
    // When a command begins it is an error: a rollback could not be noticed.
    let error = connect(round.objects.clone(), remembering(&memory)).await.err().expect("refused");
    assert!(error.message().contains(&memory.display().to_string()), "{error}");
}

/// An honest store raises no alarm, whoever else uses it and however many processes share the memory.
#[tokio::test]
async fn what_others_do_is_no_rollback() {
    let world = World::incremental().await;
    let round = world.round();
    let folder = tempfile::tempdir().expect("a folder");
    let open = async || -> Result<Project> {
        let remembering = remembering(folder.path());
        let inner: Arc<dyn ObjectStore> = round.objects.clone();
        let repository = Repository::open(store(inner), remembering, &mut || Ok(secret())).await?;
        repository.project(&default_project()).await
    };
    let (first, second) = (open().await.expect("opened"), open().await.expect("opened"));
    for turn in 0..3 {
        round.backup_in(&first).await.unwrap_or_else(|e| panic!("turn {turn}: {e}"));
        round.backup(&round.faults(), environment()).await.expect("another host");
        round.backup_in(&second).await.unwrap_or_else(|e| panic!("turn {turn}: {e}"));
    }
    // The first saves last, having seen less: nothing of what the second saw is forgotten.
    first.repository().create_project(&"other".parse().expect("valid")).await.expect("made");
    round.backup_in(&first).await.expect("backed up");
    let yesterday = round.objects.fork();
    round.backup_in(&second).await.expect("backed up");
    let stale = round.objects.clone();
    round.backup_in(&open().await.expect("opened")).await.expect("backed up");
    copy(&yesterday, &stale).await;
    let error = round.backup_in(&open().await.expect("opened")).await.expect_err("rolled back");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}
