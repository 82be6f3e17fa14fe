//! Key slots in the store: adding, finding the one that opens, removing.

use crate::codec::{self, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::format::names::keys_prefix;
use crate::format::record::{KeySlotRecord, RepositoryRecord};
use crate::format::{KEY_SLOTS_MAX, ObjectName, ObjectType};
use crate::keys::{MasterKey, Unlock, random_array};
use crate::repo::{Environment, Memory};
use crate::store::{Created, Store};

/// Wraps the master key for one more secret.
pub(super) async fn put_slot(
    store: &Store,
    record: &RepositoryRecord,
    object: &[u8],
    master: &MasterKey,
    unlock: &Unlock,
    environment: &Environment,
    label: &str,
) -> Result<u64> {
    let slot = u64::from_le_bytes(random_array()?);
    let slot_record = master.wrap(unlock, object, label, environment.clock.now_unix_ms())?;
    let name = ObjectName::Key { slot };
    let place = Place { repo_id: &record.repo_id, name: &name, key: None };
    let sealed = codec::seal_record(place, &slot_record)?;
    match store.create(&name.to_string(), sealed.bytes().clone()).await? {
        Created::New => Ok(slot),
        Created::Exists { .. } => Err(Error::conflict(format!("{name} exists already")).help("try again")),
    }
}

/// The slots that a listing shows.
async fn slots(store: &Store) -> Result<Vec<u64>> {
    let listed = store.list(keys_prefix(), None).await?;
    let slots: Vec<u64> = listed
        .iter()
        .filter_map(|info| match ObjectName::parse(&info.key) {
            Some(ObjectName::Key { slot }) => Some(slot),
            _ => None,
        })
        .collect();
    if slots.len() > KEY_SLOTS_MAX {
        return Err(Error::corrupt(format!("{} key slots, at most {KEY_SLOTS_MAX}", slots.len())));
    }
    Ok(slots)
}

async fn read_slot(store: &Store, record: &RepositoryRecord, slot: u64) -> Result<Option<KeySlotRecord>> {
    let name = ObjectName::Key { slot };
    let max = ObjectType::Key.object_len_bytes_max() as u64;
    let Some(object) = store.get(&name.to_string(), max).await? else { return Ok(None) };
    codec::open_record(Place { repo_id: &record.repo_id, name: &name, key: None }, &object).map(Some)
}

/// Opens the repository with a secret: the slot that opened it last time first, then all.
pub(super) async fn unlock(
    store: &Store,
    record: &RepositoryRecord,
    object: &[u8],
    unlock: &Unlock,
    memory: &Memory,
) -> Result<MasterKey> {
    let remembered = memory.slot();
    if let Some(slot) = remembered
        && let Some(slot_record) = read_slot(store, record, slot).await?
        && let Some(master) = MasterKey::unwrap(&slot_record, unlock, object)?
    {
        memory.check_key(&master)?;
        return Ok(master);
    }
    let slots = slots(store).await?;
    let mut damage = None;
    for slot in slots.iter().copied().filter(|s| Some(*s) != remembered) {
        let opened = match read_slot(store, record, slot).await {
            Ok(Some(slot_record)) => MasterKey::unwrap(&slot_record, unlock, object),
            Ok(None) => Ok(None),
            Err(e) => Err(e),
        };
        match opened {
            Ok(Some(master)) => {
                memory.check_key(&master)?;
                memory.opened_with(slot);
                return Ok(master);
            }
            Ok(None) => {}
            // Another slot may still open it.
            Err(e) => damage = Some(e),
        }
    }
    Err(damage.unwrap_or_else(|| {
        Error::wrong_key(format!("the secret opens none of the {} key slots of {}", slots.len(), store.url()))
            .help("check CUTTLE_PASSWORD, CUTTLE_PASSWORD_FILE, CUTTLE_PASSWORD_COMMAND or --key-file")
    }))
}

/// The slot that a secret opens already, if any. A slot that cannot be read is none.
pub(super) async fn opened_by(
    store: &Store,
    record: &RepositoryRecord,
    object: &[u8],
    unlock: &Unlock,
) -> Result<Option<u64>> {
    for slot in slots(store).await? {
        let slot_record = match read_slot(store, record, slot).await {
            Err(e) if e.kind() == ErrorKind::Corrupt => continue,
            found => found?,
        };
        if let Some(slot_record) = slot_record
            && matches!(MasterKey::unwrap(&slot_record, unlock, object), Ok(Some(_)))
        {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

pub(super) async fn list(store: &Store, record: &RepositoryRecord) -> Result<Vec<(u64, KeySlotRecord)>> {
    let mut out = Vec::new();
    for slot in slots(store).await? {
        if let Some(slot_record) = read_slot(store, record, slot).await? {
            out.push((slot, slot_record));
        }
    }
    out.sort_by_key(|(slot, r)| (r.created_unix_ms, *slot));
    Ok(out)
}

pub(super) async fn remove(store: &Store, _record: &RepositoryRecord, slot: u64) -> Result<()> {
    let slots = slots(store).await?;
    let name = ObjectName::Key { slot };
    if !slots.contains(&slot) {
        return Err(Error::not_found(format!("there is no key {slot:016x}")).help("see `cuttle key list`"));
    }
    if slots.len() == 1 {
        return Err(Error::invalid(format!("{slot:016x} is the last key: without it nothing could be read"))
            .help("add another with `cuttle key add` first"));
    }
    store.delete(&name.to_string()).await
}
