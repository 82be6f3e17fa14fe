//! Every golden repository opens, lists and restores as it did on the day it was made, and can be gone on with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cuttle::cancel::Cancel;
use cuttle::keys::Unlock;
use cuttle::progress::Silent;
use cuttle::repo::{Admin, Keeper, Repository};
use cuttle::restore::{self, RestoreOptions};
use cuttle::sink::pipe::PipeSink;
use cuttle::verify::{self, ScrubOptions};
use cuttle::{ErrorKind, Result};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;

use crate::make::{folder, key_file, make, password};
use crate::support::by_hand::{names, put};
use crate::support::repo::{MemoryVolume, back_up, environment, options, store, verify};

/// Gives what opens a repository.
pub type Opener = fn() -> Unlock;

/// A golden repository: its name, and what opens it.
pub const GOLDEN: [(&str, Opener); 2] = [("v1-encrypted", key_file), ("v1-open", key_file)];

/// What a repository must hold, by project, volume and sequence: the state, and the size and hash of the content.
pub type Expected = BTreeMap<Key, State>;
type Key = (String, String, u32);
type State = (String, u64, String);

pub fn expected(table: &str) -> Expected {
    let row = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut next = || fields.next().expect("six fields");
        let key = (next(), next(), next().parse().expect("a sequence"));
        (key, (next(), next().parse().expect("a size"), next()))
    };
    table.lines().skip(1).map(row).collect()
}

fn expected_of(name: &str) -> Expected {
    expected(&fs::read_to_string(folder().join(format!("{name}.tsv"))).expect("there"))
}

/// A copy that tests may hurt.
pub async fn copy(name: &str) -> Arc<InMemory> {
    let (from, to) = (LocalFileSystem::new_with_prefix(folder().join(name)).expect("there"), InMemory::new());
    for name in names(&from, "").await {
        let bytes = crate::support::by_hand::get(&from, &name).await;
        put(&to, &name, bytes).await;
    }
    Arc::new(to)
}

pub async fn open(inner: Arc<dyn ObjectStore>, unlock: Opener) -> Result<Admin> {
    Repository::open(store(inner), environment(), &mut || Ok(unlock())).await
}

pub async fn restored(project: &Keeper, spec: &str) -> Result<Vec<u8>> {
    let snapshot = project.volumes().snapshot(spec).await?;
    let sink = Arc::new(PipeSink::new(Vec::new(), snapshot.snapshot.size_bytes));
    let (options, progress) = (RestoreOptions::default(), Arc::new(Silent));
    restore::run(project, &snapshot, Arc::clone(&sink) as _, options, progress, Cancel::never()).await?;
    Ok(Arc::into_inner(sink).expect("nobody else has it").into_inner())
}

pub async fn damage(project: &Keeper) -> Vec<String> {
    let report = verify(project, true).await.expect("verified");
    assert_eq!(report.ok(), report.damage.is_empty());
    report.damage.into_iter().map(|d| format!("{}: {}", d.object, d.message)).collect()
}

/// All that must be true of a repository with this content.
async fn check(at: &Path, unlock: Opener, expected: &Expected, context: &str) {
    let inner = || Arc::new(LocalFileSystem::new_with_prefix(at).expect("there"));
    let repository = open(inner(), unlock).await.unwrap_or_else(|e| panic!("{context}: {e}"));
    let mut found = Expected::new();
    for name in repository.projects().await.expect("listed") {
        let project = repository.keeper(&name).await.expect("opened");
        assert_eq!(damage(&project).await, Vec::<String>::new(), "{context}: {name}");
        for volume in project.volumes().confirmed().await.expect("a catalog").entries() {
            let log = project.log(volume.number).confirmed().await.expect("a log");
            assert_eq!((log.gaps(), log.unfinished().count()), (vec![], 0), "{context}: {}", volume.name);
            for (sequence, entry) in log.entries.iter().chain(&log.over) {
                let state = if entry.forgotten { "forgotten" } else { "aborted" };
                let key = (name.to_string(), volume.name.clone(), sequence.0);
                let known = expected.get(&key).unwrap_or_else(|| panic!("{context}: {key:?} is new"));
                found.insert(key, (state.to_owned(), known.1, known.2.clone()));
            }
            for snapshot in project.history(volume).snapshots().await.expect("snapshots") {
                let sequence = snapshot.snapshot.sequence.0;
                let back = restored(&project, &format!("{}@{sequence}", volume.name)).await;
                let back = back.unwrap_or_else(|e| panic!("{context}: {}@{sequence}: {e}", volume.name));
                let content = (back.len() as u64, blake3::hash(&back).to_string());
                let key = (name.to_string(), volume.name.clone(), sequence);
                found.insert(key, ("live".to_owned(), content.0, content.1));
            }
        }
    }
    assert_eq!(&found, expected, "{context}");
    let scrubbed =
        verify::scrub(&store(inner()), ScrubOptions::default(), Arc::new(Silent), Cancel::never()).await;
    let scrubbed = scrubbed.expect("scrubbed");
    assert!(scrubbed.ok(), "{context}: {:?}", scrubbed.damage);
    assert_eq!((scrubbed.objects, scrubbed.unknown), (names(&*inner(), "").await.len() as u64, 0));
}

#[tokio::test]
async fn golden_repositories_open_list_and_restore_as_on_their_first_day() {
    for (name, unlock) in GOLDEN {
        check(&folder().join(name), unlock, &expected_of(name), name).await;
    }
}

#[tokio::test]
async fn a_golden_repository_opens_with_password_and_key_file_only() {
    for unlock in [password, key_file] {
        open(copy("v1-encrypted").await, unlock).await.expect("opened");
    }
    let wrong: Opener = || Unlock::KeyFile(vec![0; 32].into());
    let error = open(copy("v1-encrypted").await, wrong).await.err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    let read = |name: &str| fs::read(folder().join(name)).expect("there");
    assert_eq!(read("v1-encrypted.key"), crate::make::KEY_FILE);
    assert_eq!(read("v1-encrypted.password"), format!("{}\n", crate::make::PASSWORD).as_bytes());
}

#[tokio::test]
async fn the_notes_of_a_golden_snapshot_are_read() {
    for (name, unlock) in GOLDEN {
        let repository = open(copy(name).await, unlock).await.expect("opened");
        let project = repository.keeper(&"default".parse().expect("valid")).await.expect("opened");
        let noted = project.volumes().snapshot("vms/image@4").await.expect("found");
        assert_eq!((noted.protected, &noted.tags[..]), (true, &["golden".to_owned(), "note 2".into()][..]));
        let plain = project.volumes().snapshot("vms/image@1").await.expect("found");
        assert_eq!((plain.protected, &plain.tags[..]), (false, &["golden".to_owned()][..]));
        let error = project.volumes().snapshot("vms/image@2").await.expect_err("forgotten");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn a_golden_repository_can_be_gone_on_with() {
    for (name, unlock) in GOLDEN {
        let objects = copy(name).await;
        let repository = open(objects.clone(), unlock).await.expect("opened");
        let project = repository.keeper(&"default".parse().expect("valid")).await.expect("opened");
        let content = restored(&project, "vms/image").await.expect("restored");
        let volume = MemoryVolume::new(content.clone());
        volume.edit(|content| content[0] = 1);
        let report = back_up(&project, &volume, &options("vms/image")).await.expect("backed up");
        assert_eq!((report.parent, report.sequence), (Some(5), Some(6)), "{name}");
        // Only what changed is new, whoever wrote the rest.
        assert_eq!(report.stats.new_chunks, 1, "{name}: {:?}", report.stats);
        assert_eq!(restored(&project, "vms/image@5").await.expect("restored"), content, "{name}");
        assert_eq!(restored(&project, "vms/image").await.expect("restored"), volume.content(), "{name}");
        assert_eq!(damage(&project).await, Vec::<String>::new(), "{name}");
    }
}

/// What makes golden repositories still makes good ones.
#[tokio::test]
async fn a_repository_made_today_is_like_the_golden_one() {
    for (name, unlock) in GOLDEN {
        let folder = tempfile::tempdir().expect("a folder");
        let made = expected(&make(folder.path(), name == "v1-encrypted").await);
        check(folder.path(), unlock, &made, "made today").await;
        assert_eq!(made, expected_of(name), "{name}");
        let kinds = |at: &Path| {
            let mut all: Vec<String> =
                files(at).iter().map(|f| kind_of(f.strip_prefix(at).expect("below"))).collect();
            all.sort();
            all
        };
        assert_eq!(kinds(folder.path()), kinds(&crate::make::folder().join(name)), "{name}");
    }
}

/// A name without what is random in it.
fn kind_of(name: &Path) -> String {
    let text = name.to_str().expect("UTF-8");
    let parts = text.split('/').map(|part| match part.split('.').next() {
        Some(id) if id.len() >= 16 && id.bytes().all(|b| b.is_ascii_hexdigit()) => {
            let variant = part.len() > id.len();
            if variant { "id.variant".to_owned() } else { "id".to_owned() }
        }
        _ if part.len() == 2 => "xx".to_owned(),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
