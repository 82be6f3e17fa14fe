//! Keys of roles: what opens, what is refused, and what was planted.

use std::sync::Arc;

use cuttle::ErrorKind;
use cuttle::format::role::Role;
use cuttle::keys::Unlock;
use cuttle::repo::{Admin, Repository, default_project};
use object_store::memory::InMemory;
use zeroize::Zeroizing;

use crate::support::by_hand::{get, names, put};
use crate::support::repo::{CHUNK, environment, init_on, secret, store, verify};

const SLOTS: &str = "projects/default/keys/";
/// The key file of a backup host.
pub const HOST: u8 = 40;

pub fn key_of(byte: u8) -> Unlock {
    Unlock::KeyFile(Zeroizing::new(vec![byte; 32]))
}

async fn with_roles() -> (Arc<InMemory>, Admin) {
    let objects = Arc::new(InMemory::new());
    let admin = init_on(store(objects.clone()), CHUNK, true).await;
    let project = admin.project(&default_project()).await.expect("a project");
    for (n, role) in Role::ALL.into_iter().enumerate() {
        admin.add_role_key(&project, role, &key_of(HOST + n as u8), role.name()).await.expect("added");
    }
    (objects, admin)
}

async fn open(objects: &Arc<InMemory>, byte: u8) -> cuttle::Result<Admin> {
    Repository::open(store(objects.clone()), environment(), &mut || Ok(key_of(byte))).await
}

#[tokio::test]
async fn each_role_opens_what_it_is_for() {
    let (objects, _) = with_roles().await;
    for (n, role) in Role::ALL.into_iter().enumerate() {
        let admin = open(&objects, HOST + n as u8).await.expect("opened");
        assert_eq!(admin.member().map(|(_, role, _)| role), Some(role));
        let may = |roles: &[Role]| roles.contains(&role);
        assert_eq!(
            admin.writer(&default_project()).await.is_ok(),
            may(&[Role::Backup, Role::Admin]),
            "{role}"
        );
        assert_eq!(
            admin.keeper(&default_project()).await.is_ok(),
            may(&[Role::Keeper, Role::Admin]),
            "{role}"
        );
        let project = admin.project(&default_project()).await.expect("everybody looks");
        assert_eq!(project.role(), role);
        let added = admin.add_role_key(&project, Role::Backup, &key_of(99), "x").await;
        assert_eq!(added.is_ok(), role == Role::Admin, "{role}");
        // Another project is another's.
        let error = admin.create_project(&"other".parse().expect("a name")).await.err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::WrongKey, "{role}: {error}");
    }
    assert_eq!(open(&objects, 1).await.err().expect("no key").kind(), ErrorKind::WrongKey);
    // The admin of the project made one.
    open(&objects, 99).await.expect("opened");
}

#[tokio::test]
async fn a_key_of_one_project_opens_no_other() {
    let (objects, admin) = with_roles().await;
    let other = "other".parse().expect("a name");
    admin.create_project(&other).await.expect("made");
    let member = open(&objects, HOST + 3).await.expect("opened");
    let error = member.project(&other).await.err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    // Its slot, moved to the other project, opens nothing there.
    for name in names(&*objects, SLOTS).await {
        let bytes = get(&*objects, &name).await;
        put(&*objects, &name.replace("/default/", "/other/"), bytes).await;
    }
    let mut ask = || Ok(key_of(HOST + 3));
    let expected = cuttle::repo::Expected::Encrypted;
    let opened =
        Repository::open_expected(store(objects.clone()), environment(), expected, &other, &mut ask).await;
    assert!(opened.is_err());
}

#[tokio::test]
async fn a_secret_is_one_key_and_a_removed_one_opens_nothing() {
    let (objects, admin) = with_roles().await;
    let project = admin.project(&default_project()).await.expect("a project");
    for (secret, role) in [(key_of(HOST), Role::Restore), (secret(), Role::Backup)] {
        let error = admin.add_role_key(&project, role, &secret, "again").await.expect_err("known");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
    let keys = admin.role_keys(&project).await.expect("listed");
    assert_eq!(keys.len(), 4);
    let host = keys.iter().find(|k| k.record.as_ref().is_ok_and(|r| r.role == Role::Backup)).expect("there");
    admin.remove_role_key(&project, host.slot).await.expect("removed");
    assert!(open(&objects, HOST).await.is_err());
    open(&objects, HOST + 1).await.expect("the others stay");
    assert_eq!(
        admin.remove_role_key(&project, host.slot).await.expect_err("gone").kind(),
        ErrorKind::NotFound
    );
}

/// Slots that somebody planted are named, and open nothing, and stop nobody.
#[tokio::test]
async fn a_planted_slot_is_named_and_opens_nothing() {
    let (objects, admin) = with_roles().await;
    let keeper = admin.keeper(&default_project()).await.expect("a keeper");
    let there = names(&*objects, SLOTS).await;
    let like = get(&*objects, &there[0]).await.to_vec();
    let planted = format!("{SLOTS}00000000000000aa");
    for bytes in [Vec::new(), vec![7; 400], like, vec![0; 3 << 20]] {
        put(&*objects, &planted, bytes).await;
        let keys = admin.role_keys(&keeper).await.expect("listed");
        assert_eq!(keys.iter().filter(|key| key.record.is_ok()).count(), 4);
        assert_eq!(keys.last().map(|key| (key.slot, key.record.is_err())), Some((0xaa, true)));
        for n in 0..4 {
            open(&objects, HOST + n).await.expect("opened");
        }
        let report = verify(&keeper, false).await.expect("verified");
        assert_eq!(report.damage.iter().map(|d| &d.object).collect::<Vec<_>>(), [&planted]);
    }
    admin.remove_role_key(&keeper, 0xaa).await.expect("removed");
    assert!(verify(&keeper, false).await.expect("verified").ok());
}
