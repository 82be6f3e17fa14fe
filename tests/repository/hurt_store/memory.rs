//! A store that is not the one from yesterday: a client that remembers refuses it, before it gives anything away.

use std::path::Path;
use std::sync::Arc;

use cuttle::codec::{self, Place};
use cuttle::format::ObjectName;
use cuttle::format::record::RepositoryRecord;
use cuttle::keys::{MasterKey, SlotPlace};
use cuttle::repo::{Environment, InitOptions, Keeper, Repository, default_project};
use cuttle::{Error, ErrorKind, Result};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::world::{Round, World, connect, store};
use crate::support::by_hand::{ByHand, delete, get, names, put};
use crate::support::fault_store::{FaultStore, OpKind};
use crate::support::repo::{CHUNK, environment, secret};

fn remembering(folder: &Path) -> Environment {
    Environment { memory_dir: Some(folder.into()), ..environment() }
}

async fn prune(project: &Keeper) -> Result<()> {
    let options = cuttle::prune::PruneOptions::default();
    let (silent, never) = (Arc::new(cuttle::progress::Silent), cuttle::cancel::Cancel::never());
    cuttle::prune::run(project, options, silent, never).await.map(drop)
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
    let memory = folder.path().display().to_string();
    let helps = |h: &str| h.contains("--trust-store") && h.contains(&memory);
    assert!(error.help_text().is_some_and(helps), "{what}: {error:?}");
    assert_eq!(names(&*objects, "").await, there, "{what}: something was written");
    // Nothing but what shows the swindle was asked for.
    let asked = after.ops();
    assert!(asked.iter().all(|op| op.kind != OpKind::Create), "{what}: {asked:?}");
    // Who trusts the store says so, once.
    let trusting = Environment { trust_store: true, ..remembering(folder.path()) };
    for environment in [trusting, remembering(folder.path())] {
        match what {
            "another master key" | "not encrypted any more" => {}
            _ => drop(connect(objects.clone(), environment).await.expect(what)),
        }
    }
    error
}

#[tokio::test]
async fn an_older_state_of_the_store_is_refused() {
    let world = World::incremental().await;
    let round = world.round();
    let yesterday = round.objects.fork();
    let error = refused(&round, "rolled back", async |objects| copy(&yesterday, objects).await).await;
    assert!(
        error.message().contains("the log of volume 2 (pool/image) in project default ends at 2"),
        "{error}"
    );
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
        for kind in ["begin", "done"] {
            delete(&**objects, &format!("projects/default/gc/0000000001.{kind}")).await;
        }
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
    // Nor when a command begins: a rollback is not noticed then, which is said, but nobody is kept from a restore.
    let project = connect(round.objects.clone(), remembering(&memory)).await.expect("opened");
    round.backup_in(&project).await.expect("backed up");
}

/// To go on without a memory that is damaged would be to forget it: whoever wants that says so.
#[tokio::test]
async fn a_damaged_memory_is_no_absent_one() {
    let world = World::incremental().await;
    let round = world.round();
    let folder = tempfile::tempdir().expect("a folder");
    drop(connect(round.objects.clone(), remembering(folder.path())).await.expect("opened"));
    let files: Vec<_> =
        std::fs::read_dir(folder.path()).expect("a folder").map(|e| e.expect("one").path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files {
        let whole = std::fs::read(&file).expect("read");
        std::fs::write(&file, "rubbish").expect("written");
        let error = connect(round.objects.clone(), remembering(folder.path())).await.err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.message().contains(&file.display().to_string()), "{error}");
        let trusting = Environment { trust_store: true, ..remembering(folder.path()) };
        drop(connect(round.objects.clone(), trusting).await.expect("trusted"));
        std::fs::write(&file, whole).expect("written");
    }
}

/// What this host committed, and one that it only listed; a volume; a protection; and another one under the same number.
#[tokio::test]
async fn whatever_this_host_opened_is_missed_by_every_look() {
    let world = World::incremental().await;
    type Change = fn(&str) -> bool;
    let changes: [(&str, Change); 4] = [
        ("snapshot 3", |name| name.ends_with("0000000003.end")),
        ("snapshot 1", |name| name.ends_with("/0000000001.end")),
        ("was protected", |name| name.contains(".note.")),
        ("and lacks 2 (pool/image)", |name| name.ends_with("volumes/0000000002")),
    ];
    for (what, is_gone) in changes {
        let round = world.round();
        let folder = tempfile::tempdir().expect("a folder");
        let open = || connect(round.objects.clone(), remembering(folder.path()));
        let project = open().await.expect("opened");
        round.backup_in(&project).await.expect("backed up");
        let first = project.volumes().snapshot("pool/image@1").await.expect("found");
        project.notes().change(&(&first).into(), |note| note.protected = true).await.expect("protected");
        drop(project);
        for name in names(&*round.objects, "projects/").await {
            if is_gone(&name) && (what != "snapshot 1" || name.contains("log/0000000002")) {
                delete(&*round.objects, &name).await;
            }
        }
        let project = open().await.expect("opened");
        let listed = async {
            let catalog = project.volumes().confirmed().await?;
            let volume = catalog.entries().last().expect("a volume");
            project.history(volume).snapshots().await.map(drop)
        };
        let looks = [
            listed.await,
            project.volumes().snapshot("pool/image").await.map(drop),
            round.backup_in(&project).await.map(drop),
            prune(&project).await,
        ];
        for (at, look) in looks.into_iter().enumerate() {
            let error = look.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Conflict, "{what}, look {at}: {error}");
            assert!(error.message().contains(what), "{what}, look {at}: {error}");
        }
        let report = crate::support::repo::verify(&project, false).await.expect("verified");
        // A log shows the volume that is missing to whoever remembers nothing, too.
        let is_told = |d: &cuttle::verify::FlawedObject| {
            matches!(d.problem, cuttle::verify::Problem::WentBack | cuttle::verify::Problem::Gap)
        };
        assert!(report.damage.iter().any(is_told), "{what}: {:?}", report.damage);
        // Who has put the older store there says so once.
        let trusting = Environment { trust_store: true, ..remembering(folder.path()) };
        drop(connect(round.objects.clone(), trusting).await.expect("trusted"));
        if !what.starts_with("and lacks") {
            open().await.expect("opened").volumes().snapshot("pool/image").await.expect(what);
        }
    }
}

/// In a store that was set back to before a prune, what was forgotten lives again, and the logs lack nothing.
#[tokio::test]
async fn a_store_from_before_a_prune_is_missed_by_every_look() {
    let world = World::incremental().await;
    let round = world.round();
    let folder = tempfile::tempdir().expect("a folder");
    let open = || connect(round.objects.clone(), remembering(folder.path()));
    let project = open().await.expect("opened");
    let yesterday = round.objects.fork();
    let first = project.volumes().snapshot("pool/image@1").await.expect("found");
    project.notes().forget(&(&first).into()).await.expect("forgotten");
    prune(&project).await.expect("pruned");
    open()
        .await
        .expect("opened")
        .volumes()
        .snapshot("pool/image")
        .await
        .expect("all is as this host left it");
    copy(&yesterday, &round.objects).await;
    let project = open().await.expect("opened");
    let looks = [
        project.volumes().confirmed().await.map(drop),
        project.volumes().snapshot("pool/image").await.map(drop),
        round.backup_in(&project).await.map(drop),
    ];
    for look in looks {
        let error = look.expect_err("it went back");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.message().contains("at generation 0, expected at least 1"), "{error}");
    }
}

/// What stands in the place of a note and does not open says nothing; whoever saw the note does not take it for none. So with a
/// volume in the middle of the catalog.
#[tokio::test]
async fn what_was_seen_and_does_not_open_any_more_is_missed() {
    let world = World::incremental().await;
    let round = world.round();
    let folder = tempfile::tempdir().expect("a folder");
    let open = || connect(round.objects.clone(), remembering(folder.path()));
    let project = open().await.expect("opened");
    round.backup_in(&project).await.expect("backed up");
    let first = project.volumes().snapshot("pool/image@1").await.expect("found");
    project.notes().change(&(&first).into(), |note| note.protected = true).await.expect("protected");
    assert!(project.volumes().snapshot("pool/image@1").await.expect("found").protected);
    drop(project);
    let all = names(&*round.objects, "projects/").await;
    let note = all.iter().find(|name| name.contains(".note.")).expect("a note");
    let bytes = get(&*round.objects, note).await;
    put(&*round.objects, note, Vec::new()).await;
    let project = open().await.expect("opened");
    let error = project.volumes().snapshot("pool/image@1").await.expect_err("its protection is hidden");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.message().contains("was protected"), "{error}");
    put(&*round.objects, note, bytes).await;
    project.volumes().snapshot("pool/image@1").await.expect("as before");
    delete(&*round.objects, "projects/default/volumes/0000000001").await;
    let error = project.volumes().confirmed().await.expect_err("a volume is gone");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.message().contains("lacks volume 1"), "{error}");
}

/// Other hosts forget, prune, protect, unprotect and tag; none of that is a store that went back.
#[tokio::test]
async fn what_is_lawful_is_no_rollback() {
    let world = World::incremental().await;
    let round = world.round();
    let folder = tempfile::tempdir().expect("a folder");
    let open = || connect(round.objects.clone(), remembering(folder.path()));
    let other = connect(round.objects.clone(), environment()).await.expect("opened");
    let look = async |expected: &[u32]| {
        let project = open().await.expect("opened");
        let catalog = project.volumes().confirmed().await.expect("a catalog");
        let volume = catalog.by_name(&"pool/image".parse().expect("valid")).expect("a volume").clone();
        let live = project.history(&volume).snapshots().await.expect("no rollback");
        assert_eq!(live.iter().map(|s| s.snapshot.sequence.0).collect::<Vec<_>>(), expected);
    };
    round.backup_in(&open().await.expect("opened")).await.expect("backed up");
    look(&[1, 2, 3]).await;
    for protected in [true, false] {
        let first = other.volumes().snapshot("pool/image@1").await.expect("found");
        other.notes().change(&(&first).into(), |note| note.protected = protected).await.expect("changed");
        look(&[1, 2, 3]).await;
    }
    for spec in ["pool/image@1", "pool/image@3"] {
        let one = other.volumes().snapshot(spec).await.expect("found");
        other.notes().forget(&(&one).into()).await.expect("forgotten");
    }
    prune(&other).await.expect("pruned");
    let ends = names(&*round.objects, "projects/default/log/0000000002/").await;
    assert!(!ends.iter().any(|n| n.ends_with("0000000003.end")), "cleaned up: {ends:?}");
    look(&[2]).await;
    look(&[2]).await;
}

/// A copy has a life of its own once it is said so, and nothing that is known of the other is forgotten.
#[tokio::test]
async fn a_copy_is_set_apart_and_both_are_guarded() {
    let world = World::incremental().await;
    let round = world.round();
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name).display().to_string();
    let state = folder.path().join("state");
    let open = async |at: &str, trust_store: bool| {
        let config = cuttle::store::StoreConfig { url: place(at), ..cuttle::store::StoreConfig::default() };
        let environment = Environment { trust_store, ..remembering(&state) };
        crate::support::repo::connect(cuttle::store::Store::open(&config)?, environment).await
    };
    let put_files = async |at: &str, objects: &InMemory| {
        for name in names(objects, "").await {
            let path = std::path::Path::new(&place(at)).join(&name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, get(objects, &name).await).expect("written");
        }
    };
    let before = round.objects.fork();
    put_files("a", &before).await;
    let here = open("a", false).await.expect("opened");
    round.backup_in(&here).await.expect("backed up");
    // The same, moved: nothing is to be said.
    std::fs::rename(place("a"), place("moved")).expect("moved");
    open("moved", false).await.expect("opened").volumes().snapshot("pool/image@3").await.expect("found");
    // An older copy beside it.
    put_files("copy", &before).await;
    let there = open("copy", false).await.expect("opened");
    let error = there.volumes().snapshot("pool/image").await.expect_err("it lacks a snapshot");
    assert!(error.message().contains("ends at 2, expected at least 3"), "{error}");
    open("copy", true).await.expect("opened").volumes().snapshot("pool/image@2").await.expect("found");
    round.backup_in(&open("copy", false).await.expect("opened")).await.expect("another third snapshot");
    for at in ["moved", "copy", "moved"] {
        open(at, false).await.expect("opened").volumes().snapshot("pool/image@3").await.expect(at);
    }
    // Each is guarded by what was seen of it.
    std::fs::remove_file(format!("{}/projects/default/log/0000000002/0000000003.end", place("copy")))
        .expect("gone");
    open("copy", false)
        .await
        .expect("opened")
        .volumes()
        .snapshot("pool/image")
        .await
        .expect_err("it went back");
}

/// An honest store raises no alarm, whoever else uses it and however many processes share the memory.
#[tokio::test]
async fn what_others_do_is_no_rollback() {
    let world = World::incremental().await;
    let round = world.round();
    let folder = tempfile::tempdir().expect("a folder");
    let open = async || {
        let remembering = remembering(folder.path());
        let inner: Arc<dyn ObjectStore> = round.objects.clone();
        let admin = Repository::open(store(inner), remembering, &mut || Ok(secret())).await?;
        let keeper = admin.keeper(&default_project()).await?;
        Ok::<_, Error>((admin, keeper))
    };
    let ((admin, first), (_, second)) = (open().await.expect("opened"), open().await.expect("opened"));
    for turn in 0..3 {
        round.backup_in(&first).await.unwrap_or_else(|e| panic!("turn {turn}: {e}"));
        round.backup(&round.faults(), environment()).await.expect("another host");
        round.backup_in(&second).await.unwrap_or_else(|e| panic!("turn {turn}: {e}"));
    }
    // The first saves last, having seen less: nothing of what the second saw is forgotten.
    admin.create_project(&"other".parse().expect("valid")).await.expect("made");
    round.backup_in(&first).await.expect("backed up");
    let yesterday = round.objects.fork();
    round.backup_in(&second).await.expect("backed up");
    let stale = round.objects.clone();
    round.backup_in(&open().await.expect("opened").1).await.expect("backed up");
    copy(&yesterday, &stale).await;
    let error = round.backup_in(&open().await.expect("opened").1).await.expect_err("rolled back");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}
