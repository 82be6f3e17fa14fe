//! Key slots in the store: adding, finding the one that opens, removing.
//!
//! Anybody who may create can plant a slot, and one that was killed or lost the race of an `init` is left behind. So only
//! those count that carry a MAC of the master's; which they are is known once one of them opened.

use futures::{StreamExt, TryStreamExt, stream};

use crate::codec::{self, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::format::names::keys_prefix;
use crate::format::record::{KeySlotRecord, RepositoryRecord};
use crate::format::{KEY_SLOTS_MAX, ObjectName, ObjectType};
use crate::keys::{MasterKey, SlotPlace, Unlock, random_array};
use crate::repo::{Environment, Memory};
use crate::store::{Created, Store};

/// Names that are looked at; whoever plants more is not followed.
pub(super) const LISTED_MAX: usize = 1_024;
/// Slots read at once.
pub(super) const SLOTS_INFLIGHT_MAX: usize = 16;

/// The repository around the slots.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) store: &'a Store,
    pub(super) record: &'a RepositoryRecord,
    /// The repository object's bytes.
    pub(super) object: &'a [u8],
}

/// A key slot as a listing shows it.
#[derive(Debug, Clone)]
pub struct KeySlot {
    /// The number in its object name.
    pub slot: u64,
    /// Or why it does not count: it does not open, or was not made with the repository's key.
    pub record: std::result::Result<KeySlotRecord, String>,
}

impl Around<'_> {
    fn at(&self, slot: u64) -> SlotPlace<'_> {
        SlotPlace { slot, repository: self.object }
    }

    /// The slots that a listing shows, those that are there longest first.
    async fn names(self) -> Result<Vec<u64>> {
        let mut listed = Vec::new();
        let mut listing = std::pin::pin!(self.store.list_stream(keys_prefix(), None));
        while let Some(info) = listing.try_next().await? {
            if let Some(ObjectName::Key { slot }) = ObjectName::parse(&info.key) {
                listed.push((info.modified_unix_ms, slot));
            }
            if listed.len() >= LISTED_MAX {
                break;
            }
        }
        listed.sort_unstable();
        Ok(listed.into_iter().map(|(_, slot)| slot).collect())
    }

    /// Reads one slot; `None` where it is gone, or why it does not open.
    async fn read(self, slot: u64) -> Result<Option<std::result::Result<KeySlotRecord, String>>> {
        let name = ObjectName::Key { slot };
        let max = ObjectType::Key.object_len_bytes_max() as u64;
        let opened = match self.store.get(&name.to_string(), max).await {
            Ok(None) => return Ok(None),
            Ok(Some(object)) => {
                let place = Place { repo_id: &self.record.repo_id, name: &name, key: None };
                codec::open_record(place, &object)
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(record) => Ok(Some(Ok(record))),
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                Ok(Some(Err(e.to_string())))
            }
            Err(e) => Err(e),
        }
    }

    /// All slots with what they hold, those that are there longest first.
    async fn all(self) -> Result<Vec<(u64, std::result::Result<KeySlotRecord, String>)>> {
        let read = |slot| async move { Ok::<_, Error>(self.read(slot).await?.map(|found| (slot, found))) };
        stream::iter(self.names().await?.into_iter().map(read))
            .buffered(SLOTS_INFLIGHT_MAX)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }
}

/// Wraps the master key for one more secret.
pub(super) async fn put_slot(
    around: Around<'_>,
    master: &MasterKey,
    unlock: &Unlock,
    environment: &Environment,
    label: &str,
) -> Result<u64> {
    let slot = u64::from_le_bytes(random_array()?);
    let slot_record = master.wrap(unlock, around.at(slot), label, environment.clock.now_unix_ms())?;
    let name = ObjectName::Key { slot };
    let place = Place { repo_id: &around.record.repo_id, name: &name, key: None };
    let sealed = codec::seal_record(place, &slot_record)?;
    match around.store.create(&name.to_string(), sealed.bytes().clone()).await? {
        Created::New => Ok(slot),
        Created::Exists { .. } => Err(Error::conflict(format!("{name} exists already")).help("try again")),
    }
}

/// Opens the repository with a secret: the slot that opened it last time first, then all.
pub(super) async fn unlock(around: Around<'_>, unlock: &Unlock, memory: &Memory) -> Result<MasterKey> {
    let remembered = memory.slot();
    if let Some(slot) = remembered
        && let Some(Ok(slot_record)) = around.read(slot).await?
        && let Some(master) = MasterKey::unwrap(&slot_record, unlock, around.object)?
    {
        memory.check_key(&master)?;
        return Ok(master);
    }
    let (mut swapped, mut unread) = (None, None);
    let slots = around.all().await?;
    // The one that opened it last time was tried, and counts if it is well-formed.
    let was_tried = slots.iter().any(|(slot, found)| Some(*slot) == remembered && found.is_ok());
    let others = slots.iter().filter(|(slot, _)| Some(*slot) != remembered);
    let mut tried = usize::from(was_tried);
    for (slot, found) in others {
        match found {
            Ok(slot_record) if tried < KEY_SLOTS_MAX => {
                tried += 1;
                match MasterKey::unwrap(slot_record, unlock, around.object) {
                    Ok(Some(master)) => {
                        memory.check_key(&master)?;
                        memory.opened_with(*slot);
                        return Ok(master);
                    }
                    Ok(None) => {}
                    // Another slot may still open it.
                    Err(e) => swapped = Some(e),
                }
            }
            Ok(_) => break,
            Err(why) => unread = Some(Error::corrupt(format!("{}: {why}", ObjectName::Key { slot: *slot }))),
        }
    }
    let url = around.store.url();
    Err(match (swapped, unread) {
        // The secret is right: only who has it comes here.
        (Some(swapped), _) => swapped,
        (None, Some(unread)) if tried == 0 => unread,
        (None, unread) => {
            let unread = unread.map(|e| format!("; another cannot be read: {e}")).unwrap_or_default();
            Error::wrong_key(format!("the secret opens none of the {tried} key slots of {url}{unread}"))
                .help("check CUTTLE_PASSWORD, CUTTLE_PASSWORD_FILE, CUTTLE_PASSWORD_COMMAND or --key-file")
        }
    })
}

/// Refuses a secret that opens the repository already: who then removes the older slot would believe it out of use.
pub(super) async fn refuse_known(around: Around<'_>, master: &MasterKey, unlock: &Unlock) -> Result<()> {
    let Some(slot) = opened_by(around, master, unlock).await? else { return Ok(()) };
    Err(Error::conflict(format!("this secret opens the repository already: it is key {slot:016x}"))
        .help("choose another one; `cuttle key list` shows those there are"))
}

/// The slot that a secret opens already, if any, of those that count.
async fn opened_by(around: Around<'_>, master: &MasterKey, unlock: &Unlock) -> Result<Option<u64>> {
    for KeySlot { slot, record } in list(around, Some(master)).await? {
        if let Ok(record) = record
            && matches!(MasterKey::unwrap(&record, unlock, around.object), Ok(Some(_)))
        {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

/// All slots, those that count first, oldest first.
pub(super) async fn list(around: Around<'_>, master: Option<&MasterKey>) -> Result<Vec<KeySlot>> {
    let mut slots = Vec::new();
    for (slot, found) in around.all().await? {
        let made = match (&found, master) {
            (Ok(record), Some(master)) => master.has_made(record, around.at(slot))?,
            _ => false,
        };
        let record = match found {
            Ok(_) if !made => Err("it was not made with this repository's key".to_owned()),
            found => found,
        };
        slots.push(KeySlot { slot, record });
    }
    slots.sort_by_key(|s| (s.record.is_err(), s.record.as_ref().map_or(0, |r| r.created_unix_ms), s.slot));
    Ok(slots)
}

/// Refuses to remove a slot that is not there, or the last one that counts.
pub(super) async fn check_removal(around: Around<'_>, master: &MasterKey, slot: u64) -> Result<()> {
    let slots = list(around, Some(master)).await?;
    let Some(found) = slots.iter().find(|s| s.slot == slot) else {
        return Err(Error::not_found(format!("there is no key {slot:016x}")).help("see `cuttle key list`"));
    };
    // What does not count is removed without a question, and keeps nothing else from being the last one.
    if found.record.is_ok() && slots.iter().filter(|s| s.record.is_ok()).count() == 1 {
        return Err(Error::invalid(format!("{slot:016x} is the last key: without it nothing could be read"))
            .help("add another with `cuttle key add` first"));
    }
    Ok(())
}

pub(super) async fn remove(around: Around<'_>, master: &MasterKey, slot: u64) -> Result<()> {
    check_removal(around, master, slot).await?;
    around.store.delete(&ObjectName::Key { slot }.to_string()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Sealed;
    use crate::keys::SlotPlace;
    use crate::repo::Repository;
    use crate::testing::Bench;
    use zeroize::Zeroizing;

    fn key_file(byte: u8) -> Unlock {
        Unlock::KeyFile(Zeroizing::new(vec![byte; 32]))
    }

    /// A slot as anybody can make one: well-formed, and of another master key.
    fn planted(repository: &Repository, slot: u64) -> Sealed {
        let (name, other) = (ObjectName::Key { slot }, MasterKey::random().expect("random"));
        let at = SlotPlace { slot, repository: b"anything" };
        let record = other.wrap(&key_file(9), at, "safe", 0).expect("wrapped");
        let place = Place { repo_id: &repository.record().repo_id, name: &name, key: None };
        codec::seal_record(place, &record).expect("sealed")
    }

    #[tokio::test]
    async fn planted_slots_do_not_count_and_are_removed_by_name() {
        let bench = Bench::new(true).await;
        let repository = &bench.admin;
        let own = repository.keys().await.expect("listed")[0].slot;
        bench.put("keys/0000000000000001", Vec::new()).await;
        for slot in 2..=80 {
            let sealed = planted(repository, slot);
            bench.put(&sealed.name().to_string(), sealed.bytes().to_vec()).await;
        }
        let repository = bench.opened().await.expect("opens all the same");
        let keys = repository.keys().await.expect("listed");
        let good: Vec<u64> = keys.iter().filter(|k| k.record.is_ok()).map(|k| k.slot).collect();
        assert_eq!((keys.len(), &good[..]), (81, &[own][..]));
        let error = repository.remove_key(own).await.expect_err("the last one");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        for slot in 1..=80 {
            repository.remove_key(slot).await.expect("removed");
        }
        assert_eq!(repository.keys().await.expect("listed").len(), 1);
        let second = repository.add_key(&key_file(1), "second").await.expect("added");
        repository.remove_key(own).await.expect("removed");
        let left: Vec<u64> = repository.keys().await.expect("listed").iter().map(|k| k.slot).collect();
        assert_eq!(left, [second]);
    }
}
