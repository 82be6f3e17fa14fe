//! Slots of keys that open one project, as one of its roles (repo-format.md §6.11).
//!
//! Anybody who may create can plant one. So only those count that carry the signature of who may decide in the project.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::codec::{self, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::format::names::role_keys_prefix;
use crate::format::role::{Role, RoleSlotPlace, RoleSlotRecord};
use crate::format::{KEY_SLOTS_MAX, ObjectName, ObjectType};
use crate::keys::{ProjectKeys, Unlock, random_array};
use crate::repo::keys::{Around, LISTED_MAX, SLOTS_INFLIGHT_MAX};
use crate::repo::{Memory, Project};
use crate::store::Created;
use crate::units::ProjectName;

/// What a key of one project opened.
pub(super) struct Member {
    pub(super) project: ProjectName,
    pub(super) project_id: [u8; 16],
    pub(super) role: Role,
    pub(super) keys: ProjectKeys,
    /// The slot that opened.
    pub(super) slot: u64,
}

/// The slot of a role as a listing shows it.
#[derive(Debug, Clone)]
pub struct RoleKey {
    /// The number in its object name.
    pub slot: u64,
    /// Or why it does not count: it does not open, or was not signed in its project.
    pub record: std::result::Result<RoleSlotRecord, String>,
}

type Read = std::result::Result<RoleSlotRecord, String>;

/// The slots that a listing shows, those that are there longest first.
async fn names(around: Around<'_>, project: &ProjectName) -> Result<Vec<u64>> {
    let (mut listed, prefix) = (Vec::new(), role_keys_prefix(project));
    let mut listing = std::pin::pin!(around.store.list_stream(&prefix, None));
    while let Some(info) = listing.try_next().await? {
        if let Some(ObjectName::RoleKey { slot, .. }) = ObjectName::parse(&info.key) {
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
async fn read(around: Around<'_>, project: &ProjectName, slot: u64) -> Result<Option<Read>> {
    let name = ObjectName::RoleKey { project: project.clone(), slot };
    let max = ObjectType::RoleKey.object_len_bytes_max() as u64;
    let opened = match around.store.get(&name.to_string(), max).await {
        Ok(None) => return Ok(None),
        Ok(Some(object)) => {
            let place = Place { repo_id: &around.record.repo_id, name: &name, key: None };
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

async fn all(around: Around<'_>, project: &ProjectName) -> Result<Vec<(u64, Read)>> {
    let read =
        |slot| async move { Ok::<_, Error>(read(around, project, slot).await?.map(|found| (slot, found))) };
    stream::iter(names(around, project).await?.into_iter().map(read))
        .buffered(SLOTS_INFLIGHT_MAX)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await
}

/// Opens a project with a secret: the slot that opened it last time first, then all. `None` where none is the secret's.
pub(super) async fn unlock(
    around: Around<'_>,
    project: &ProjectName,
    unlock: &Unlock,
    memory: &Memory,
) -> Result<Option<Member>> {
    let member = |slot: u64, record: &RoleSlotRecord| {
        let project_id = &record.project_id;
        let at = RoleSlotPlace { slot, project, project_id, repository: around.object };
        let keys = ProjectKeys::unwrap(record, unlock, at)?;
        let (project, project_id, role) = (project.clone(), *project_id, record.role);
        Ok::<_, Error>(keys.map(|keys| Member { project, project_id, role, keys, slot }))
    };
    let remembered = memory.slot();
    if let Some(slot) = remembered
        && let Some(Ok(record)) = read(around, project, slot).await?
        && let Some(member) = member(slot, &record)?
    {
        return Ok(Some(member));
    }
    let mut swapped = None;
    let slots = all(around, project).await?;
    let good = slots.iter().filter(|(slot, _)| Some(*slot) != remembered);
    for (slot, record) in
        good.filter_map(|(slot, found)| Some((slot, found.as_ref().ok()?))).take(KEY_SLOTS_MAX)
    {
        match member(*slot, record) {
            Ok(Some(member)) => {
                memory.opened_with(*slot);
                return Ok(Some(member));
            }
            Ok(None) => {}
            // Another slot may still open it.
            Err(e) => swapped = Some(e),
        }
    }
    swapped.map_or(Ok(None), Err)
}

/// The slots of a project's roles.
pub(super) struct RoleKeys<'a> {
    pub(super) around: Around<'a>,
    pub(super) project: &'a Project,
}

impl RoleKeys<'_> {
    fn at(&self, slot: u64) -> RoleSlotPlace<'_> {
        let (project, project_id) = (self.project.name(), self.project.id());
        RoleSlotPlace { slot, project, project_id, repository: self.around.object }
    }

    /// All of them, those that count first, oldest first.
    pub(super) async fn list(&self) -> Result<Vec<RoleKey>> {
        let mut slots = Vec::new();
        for (slot, found) in all(self.around, self.project.name()).await? {
            let made = match &found {
                Ok(record) => self.project.keys().have_made(record, self.at(slot))?,
                Err(_) => false,
            };
            let record = match found {
                Ok(_) if !made => Err("it was not made by whoever may make keys in its project".to_owned()),
                found => found,
            };
            slots.push(RoleKey { slot, record });
        }
        slots
            .sort_by_key(|s| (s.record.is_err(), s.record.as_ref().map_or(0, |r| r.created_unix_ms), s.slot));
        Ok(slots)
    }

    /// Makes a slot for a secret. Whatever that opens already, it opens no other role of the project.
    pub(super) async fn put(&self, role: Role, unlock: &Unlock, label: &str) -> Result<u64> {
        self.check_new(role, unlock).await?;
        let slot = u64::from_le_bytes(random_array()?);
        let now_unix_ms = self.project.repository().environment.clock.now_unix_ms();
        let record = self.project.keys().wrap(role, unlock, self.at(slot), label, now_unix_ms)?;
        let name = ObjectName::RoleKey { project: self.project.name().clone(), slot };
        let place = Place { repo_id: &self.around.record.repo_id, name: &name, key: None };
        let sealed = codec::seal_record(place, &record)?;
        match self.around.store.create(&name.to_string(), sealed.bytes().clone()).await? {
            Created::New => Ok(slot),
            Created::Exists { .. } => {
                Err(Error::conflict(format!("{name} exists already")).help("try again"))
            }
        }
    }

    /// Refuses a secret that opens the project already: who then removes the older slot would believe it out of use.
    pub(super) async fn check_new(&self, role: Role, unlock: &Unlock) -> Result<()> {
        self.project.keys().of_role(role)?;
        for RoleKey { slot, record } in self.list().await? {
            if let Ok(record) = record
                && matches!(ProjectKeys::unwrap(&record, unlock, self.at(slot)), Ok(Some(_)))
            {
                return Err(Error::conflict(format!(
                    "this secret opens project {} already: it is key {slot:016x}",
                    self.project.name()
                ))
                .help("choose another one; `cuttle key list` shows those there are"));
            }
        }
        Ok(())
    }

    /// Refuses to remove a slot that is not there.
    pub(super) async fn check_removal(&self, slot: u64) -> Result<()> {
        match self.list().await?.iter().any(|s| s.slot == slot) {
            true => Ok(()),
            false => {
                Err(Error::not_found(format!("there is no key {slot:016x}")).help("see `cuttle key list`"))
            }
        }
    }

    pub(super) async fn remove(&self, slot: u64) -> Result<()> {
        self.check_removal(slot).await?;
        let name = ObjectName::RoleKey { project: self.project.name().clone(), slot };
        self.around.store.delete(&name.to_string()).await
    }
}

/// By what a repository was opened.
pub(super) enum Access {
    /// Nothing in it is encrypted.
    Open,
    /// Its own key, which opens every project.
    Master(crate::keys::MasterKey),
    /// A key of one project.
    Member(Arc<Member>),
}
