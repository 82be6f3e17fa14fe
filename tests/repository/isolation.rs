//! Projects share nothing, and who has not the right key learns and leaves nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::support::Numbers;
use crate::support::by_hand::{get, names, put};
use crate::support::fault_store::{FaultStore, Op, OpKind};
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, back_up_stream, environment, init_on, latest, options, secret, store,
    verify,
};
use cuttle::cancel::Cancel;
use cuttle::keys::Unlock;
use cuttle::progress::Silent;
use cuttle::repo::{Keeper, Repository};
use cuttle::restore::{self, RestoreOptions};
use cuttle::sink::pipe::PipeSink;
use cuttle::{ErrorKind, Result};
use object_store::ObjectStore;
use object_store::memory::InMemory;

const PROJECTS: [&str; 2] = ["default", "tenant-a"];
const C: usize = CHUNK as usize;

fn content() -> Vec<u8> {
    let mut content = vec![0; 1030 * C + 9];
    content[..3 * C].copy_from_slice(&Numbers::new(1).bytes(3 * C));
    content[1020 * C..].copy_from_slice(&Numbers::new(2).bytes(10 * C + 9));
    content
}

async fn two_projects(encrypted: bool) -> Arc<InMemory> {
    let objects = Arc::new(InMemory::new());
    let repository = init_on(store(objects.clone()), CHUNK, encrypted).await;
    repository.create_project(&PROJECTS[1].parse().expect("valid")).await.expect("made");
    objects
}

async fn open(inner: Arc<dyn ObjectStore>, project: &str) -> Result<Keeper> {
    let repository = Repository::open(store(inner), environment(), &mut || Ok(secret())).await?;
    repository.keeper(&project.parse().expect("valid")).await
}

/// All that a tenant does of an evening.
async fn evening(project: &Keeper, volume: &Arc<MemoryVolume>) {
    for _ in 0..2 {
        back_up(project, volume, &options("pool/image")).await.expect("backed up");
        volume.edit(|content| content[5] ^= 1);
    }
    back_up_stream(project, content(), &options("stream")).await.expect("backed up");
    let snapshot = latest(project, "pool/image").await;
    let sink = Arc::new(PipeSink::new(Vec::new(), snapshot.snapshot.size_bytes));
    let (progress, cancel) = (Arc::new(Silent), Cancel::never());
    let restored = restore::run(project, &snapshot, sink, RestoreOptions::default(), progress, cancel).await;
    restored.expect("restored");
    let report = verify(project, true).await.expect("verified");
    assert!(report.ok(), "{:?}", report.damage);
}

#[tokio::test]
async fn the_same_image_in_two_projects_shares_no_object_and_no_request() {
    for encrypted in [true, false] {
        let objects = two_projects(encrypted).await;
        for (mine, other) in [(0, 1), (1, 0)] {
            let seen = FaultStore::new(objects.clone());
            let project = open(Arc::new(seen.clone()), PROJECTS[mine]).await.expect("opened");
            evening(&project, &MemoryVolume::new(content())).await;
            let below = |name: &str| format!("projects/{name}/");
            let touches = |op: &Op, name: &str| format!("{}/", op.key).starts_with(&below(name));
            let ops = seen.ops();
            assert!(ops.iter().any(|op| touches(op, PROJECTS[mine])));
            let strange: Vec<&Op> = ops.iter().filter(|op| touches(op, PROJECTS[other])).collect();
            assert!(strange.is_empty(), "{} asked for {strange:?}", PROJECTS[mine]);
            // Nor is anything asked for that would show what the other has.
            let wide: Vec<&Op> = ops
                .iter()
                .filter(|op| op.key.is_empty() || op.key.trim_end_matches('/') == "projects")
                .collect();
            assert!(wide.is_empty(), "{wide:?}");
        }
        let last = async |name: &str| -> BTreeSet<String> {
            let mut all = names(&*objects, &format!("projects/{name}/chunks/")).await;
            all.extend(names(&*objects, &format!("projects/{name}/pages/")).await);
            all.iter().filter_map(|name| name.rsplit('/').next().map(str::to_owned)).collect()
        };
        let (first, second) = (last(PROJECTS[0]).await, last(PROJECTS[1]).await);
        assert!(first.len() > 15 && first.len() == second.len(), "{} and {}", first.len(), second.len());
        assert!(first.is_disjoint(&second), "equal content has the same name in two projects");
    }
}

/// The objects of one project put in the other's place are worth nothing there.
#[tokio::test]
async fn what_is_moved_between_projects_does_not_open() {
    for encrypted in [true, false] {
        let objects = two_projects(encrypted).await;
        for name in PROJECTS {
            let project = open(objects.clone(), name).await.expect("opened");
            back_up(&project, &MemoryVolume::new(content()), &options("pool/image"))
                .await
                .expect("backed up");
        }
        for moved in names(&*objects, "projects/default/").await {
            let to = moved.replacen("default", "tenant-a", 1);
            let objects = Arc::new(objects.fork());
            put(&*objects, &to, get(&*objects, &moved).await).await;
            let opened = open(objects.clone(), "tenant-a").await;
            if moved.ends_with("/project") {
                let error = opened.err().expect("refused");
                let expected = if encrypted { ErrorKind::WrongKey } else { ErrorKind::Corrupt };
                assert_eq!(error.kind(), expected, "{moved}: {error}");
                continue;
            }
            let damage = verify(&opened.expect("opened"), true).await.expect("verified").damage;
            let replaced = to.contains("/log/") || to.contains("/volumes/");
            assert_eq!(damage.is_empty(), !replaced, "{moved}: {damage:?}");
        }
    }
}

/// Which requests an attempt made that must not get anywhere.
async fn asked(objects: &Arc<InMemory>, unlock: fn() -> Unlock, kind: ErrorKind) -> Vec<Op> {
    let seen = FaultStore::new(objects.clone());
    let before = names(&**objects, "").await;
    let attempt = async {
        let inner: Arc<dyn ObjectStore> = Arc::new(seen.clone());
        let repository = Repository::open(store(inner), environment(), &mut || Ok(unlock())).await?;
        let project = repository.keeper(&PROJECTS[0].parse().expect("valid")).await?;
        back_up(&project, &MemoryVolume::new(content()), &options("pool/image")).await
    };
    let error = attempt.await.expect_err("refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.help_text().is_some(), "{error}");
    assert_eq!(names(&**objects, "").await, before, "something was written");
    seen.ops()
}

/// Nothing was uploaded, and no chunk, page or log was asked for.
fn learned_nothing(ops: &[Op]) {
    for op in ops {
        let modest = op.key == "repository"
            || op.key.starts_with("keys")
            || op.key.ends_with("/keys")
            || op.key.ends_with("/project");
        assert!(modest && matches!(op.kind, OpKind::Get | OpKind::Head | OpKind::List), "{op:?}");
    }
}

#[tokio::test]
async fn a_wrong_secret_uploads_and_fetches_nothing() {
    let objects = two_projects(true).await;
    let key_file = || Unlock::KeyFile(vec![8; 32].into());
    let password = || Unlock::Passphrase("correct horse".to_owned().into());
    let unlocks: [fn() -> Unlock; 2] = [key_file, password];
    for unlock in unlocks {
        let ops = asked(&objects, unlock, ErrorKind::WrongKey).await;
        learned_nothing(&ops);
        // Whether it opens a key of the project, and no more.
        let beyond = |op: &&Op| op.key.starts_with("projects") && !op.key.ends_with("/keys");
        assert_eq!(ops.iter().find(beyond), None);
    }
}

#[tokio::test]
async fn a_project_record_of_elsewhere_uploads_and_fetches_nothing() {
    let objects = two_projects(true).await;
    let foreign = two_projects(true).await;
    for (from, name) in [(&objects, PROJECTS[1]), (&foreign, PROJECTS[0])] {
        let record = get(&**from, &format!("projects/{name}/project")).await;
        let hurt = Arc::new(objects.fork());
        put(&*hurt, "projects/default/project", record).await;
        let ops = asked(&hurt, secret, ErrorKind::WrongKey).await;
        learned_nothing(&ops);
    }
}
