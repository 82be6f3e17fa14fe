//! What slots open, and what they refuse.

use super::*;
use crate::format::record::{KeySlotRecord, ProjectRecord};
use crate::format::role::{Role, RoleSlotPlace};
use crate::format::{ObjectType, Sealing};
use crate::units::ProjectName;

/// Seals chunks and opens them.
pub(crate) fn of_chunks(byte: u8) -> SealingKey {
    let private = Secret::from_bytes([byte; 32]);
    let public = kem::private_key(&private).and_then(|key| kem::public_key(&key)).expect("a key");
    SealingKey::public(public, Some(&private), Secret::from_bytes([9; 32])).expect("a key")
}

fn passphrase(s: &str) -> Unlock {
    Unlock::Passphrase(Zeroizing::new(s.to_owned()))
}

fn key_file(byte: u8) -> Unlock {
    Unlock::KeyFile(Zeroizing::new(vec![byte; 32]))
}

#[test]
fn a_slot_opens_with_its_secret_only() {
    let master = MasterKey::random().expect("random");
    for (right, wrong, other_kind) in [
        (passphrase("correct horse"), passphrase("correct house"), key_file(1)),
        (key_file(1), key_file(2), passphrase("correct horse")),
    ] {
        let at = SlotPlace { slot: 7, repository: b"repository" };
        let slot = master.wrap(&right, at, "label", 0).expect("wrapped");
        let opened = MasterKey::unwrap(&slot, &right, b"repository").expect("good").expect("opens");
        assert_eq!(opened.fingerprint(), master.fingerprint());
        assert!(MasterKey::unwrap(&slot, &wrong, b"repository").expect("good").is_none());
        assert!(MasterKey::unwrap(&slot, &other_kind, b"repository").expect("good").is_none());
        let error = MasterKey::unwrap(&slot, &right, b"another repository").err().expect("refused");
        assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
    }
}

#[test]
fn parameters_that_would_take_the_machine_down_are_refused() {
    let master = MasterKey::random().expect("random");
    let unlock = passphrase("correct horse");
    let mut slot = master.wrap(&unlock, SlotPlace { slot: 7, repository: b"r" }, "", 0).expect("wrapped");
    for kdf in [
        Kdf::Argon2id { memory_kib: u32::MAX, passes: 1, lanes: 1 },
        Kdf::Argon2id { memory_kib: 8 << 10, passes: u32::MAX, lanes: 1 },
        Kdf::Argon2id { memory_kib: 8, passes: 1, lanes: 1 },
        Kdf::Argon2id { memory_kib: (64 << 10) + 1, passes: 1, lanes: 1 },
        Kdf::Argon2id { memory_kib: 8 << 10, passes: 5, lanes: 1 },
        Kdf::Argon2id { memory_kib: 8 << 10, passes: 1, lanes: 17 },
    ] {
        slot.kdf = kdf;
        assert!(MasterKey::unwrap(&slot, &unlock, b"r").is_err(), "{kdf:?}");
    }
}

#[test]
fn a_slot_shows_who_made_it() {
    let (master, other) = (MasterKey::random().expect("random"), MasterKey::random().expect("random"));
    let at = SlotPlace { slot: 7, repository: b"repository" };
    let slot = master.wrap(&key_file(1), at, "label", 0).expect("wrapped");
    let made = |by: &MasterKey, slot: &KeySlotRecord, at| by.has_made(slot, at).expect("encoded");
    assert!(made(&master, &slot, at));
    assert!(!made(&other, &slot, at));
    assert!(!made(&master, &slot, SlotPlace { slot: 8, ..at }));
    assert!(!made(&master, &slot, SlotPlace { repository: b"another", ..at }));
    assert!(!made(&master, &KeySlotRecord { label: "other".into(), ..slot.clone() }, at));
    assert!(!made(&master, &KeySlotRecord { commitment: [0; 32], ..slot }, at));
}

#[test]
fn secrets_that_protect_nothing_are_refused() {
    let master = MasterKey::random().expect("random");
    for unlock in [passphrase(""), Unlock::KeyFile(Zeroizing::new(vec![0; 31]))] {
        assert!(master.wrap(&unlock, SlotPlace { slot: 7, repository: b"r" }, "", 0).is_err());
    }
}

fn project() -> ProjectKeys {
    let root = random_array().expect("random");
    let record = ProjectRecord { project_id: [1; 16], root, name: "p".into(), created_unix_ms: 0 };
    ProjectKeys::derive(&record).expect("keys")
}

#[test]
fn a_role_has_what_it_needs_and_no_more() {
    let admin = project();
    for (role, opens, decides) in [
        (Role::Backup, false, false),
        (Role::Restore, true, false),
        (Role::Keeper, false, true),
        (Role::Admin, true, true),
    ] {
        let keys = admin.of_role(role).expect("all are there");
        assert_eq!(keys.open_chunks(), opens, "{role}");
        assert_eq!(keys.sealing(ObjectType::Forget).seals(), decides, "{role}");
        // Nobody makes more of a role than it is; and who restores can do what backups need.
        for other in Role::ALL {
            let within =
                role == other || role == Role::Admin || (role, other) == (Role::Restore, Role::Backup);
            assert_eq!(keys.of_role(other).is_ok(), within, "{role} as {other}");
        }
    }
}

#[test]
fn the_slot_of_a_role_opens_in_its_place_only() {
    let (admin, project, other): (_, ProjectName, ProjectName) =
        (project(), "p".parse().expect("valid"), "q".parse().expect("valid"));
    let at = RoleSlotPlace { slot: 7, project: &project, project_id: &[1; 16], repository: b"repository" };
    let slot = admin.wrap(Role::Backup, &key_file(1), at, "host", 0).expect("wrapped");
    let opened = |slot: &_, by: &Unlock, at| ProjectKeys::unwrap(slot, by, at);
    let keys = opened(&slot, &key_file(1), at).expect("good").expect("opens");
    assert_eq!(keys.chunk_id_key(), admin.chunk_id_key());
    assert!(opened(&slot, &key_file(2), at).expect("good").is_none());
    assert!(
        admin.have_made(&slot, at).expect("encoded")
            && !self::project().have_made(&slot, at).expect("encoded")
    );
    let repository = &b"another"[..];
    for moved in [
        RoleSlotPlace { project: &other, ..at },
        RoleSlotPlace { project_id: &[2; 16], ..at },
        RoleSlotPlace { repository, ..at },
        RoleSlotPlace { slot: 8, ..at },
    ] {
        assert!(opened(&slot, &key_file(1), moved).is_err());
    }
    for changed in [
        crate::format::role::RoleSlotRecord { role: Role::Admin, ..slot.clone() },
        crate::format::role::RoleSlotRecord { label: "another".into(), ..slot.clone() },
    ] {
        assert!(opened(&changed, &key_file(1), at).is_err());
    }
    // Who may not decide makes no slots.
    assert!(keys.wrap(Role::Backup, &key_file(3), at, "", 0).is_err());
}

#[test]
fn what_is_attested_is_held_to_its_digest() {
    let (admin, other) = (project(), project());
    for object_type in [ObjectType::Forget, ObjectType::Chunk, ObjectType::End] {
        let key = admin.sealing(object_type);
        let mut attested = vec![0; key.sealing().attested_len_bytes()];
        key.attest(&[3; 32], &mut attested).expect("attested");
        key.check(&[3; 32], &attested).expect("good");
        let is_attested = key.sealing() != Sealing::Aes256Gcm;
        assert_eq!(key.check(&[4; 32], &attested).is_err(), is_attested);
        assert_eq!(other.sealing(object_type).check(&[3; 32], &attested).is_err(), is_attested);
        assert!(key.check(&[3; 32], &[&attested[..], &[0]].concat()).is_err());
    }
}
