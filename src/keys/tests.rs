//! What slots open, and what they refuse.

use super::*;

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
