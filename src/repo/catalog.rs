//! The volumes of a project: numbered entries without gaps.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::names::volumes_prefix;
use crate::format::record::VolumeRecord;
use crate::repo::Project;
use crate::repo::project::missing;
use crate::store::{Created, Stamp};
use crate::units::{VolumeName, VolumeNumber};
use crate::volume::Identity;

/// Catalog entries read at once.
const ENTRIES_INFLIGHT_MAX: usize = 16;

/// The volumes of a project, by number.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    entries: Vec<VolumeRecord>,
}

impl Catalog {
    pub fn entries(&self) -> &[VolumeRecord] {
        &self.entries
    }

    pub fn by_name(&self, name: &VolumeName) -> Option<&VolumeRecord> {
        self.entries.iter().find(|v| v.name == name.as_str())
    }

    pub fn by_number(&self, number: VolumeNumber) -> Option<&VolumeRecord> {
        self.entries.get((number.0 as usize).checked_sub(1)?)
    }
}

impl Project {
    /// Reads the catalog. A listing may be short, so the caller's next step decides what its tail is worth:
    /// creating the next entry, or [`Project::confirmed_catalog`].
    pub(crate) async fn catalog(&self) -> Result<Catalog> {
        let expected = self.repository().memory.catalog_end(self.name());
        let mut stamps = BTreeMap::new();
        for info in self.repository().store.list(&volumes_prefix(self.name()), None).await? {
            if let Some(ObjectName::Volume(_, n)) = ObjectName::parse(&info.key) {
                stamps.insert(n.0, info.stamp);
            }
        }
        let mut catalog = self.catalog_of(&stamps).await?;
        // A listing may be short; the objects themselves tell.
        while (catalog.entries.len() as u32) < expected {
            let Some(entry) = self.next_entry(&catalog).await? else { break };
            catalog.entries.push(entry);
        }
        self.recall_catalog(expected, &catalog)?;
        Ok(catalog)
    }

    /// Reads the catalog and confirms by a GET that nothing follows it.
    pub async fn confirmed_catalog(&self) -> Result<Catalog> {
        let mut catalog = self.catalog().await?;
        let listed = catalog.entries.len();
        while let Some(entry) = self.next_entry(&catalog).await? {
            catalog.entries.push(entry);
        }
        self.repository().memory.saw_volumes(self.name(), &catalog.entries[listed..])?;
        Ok(catalog)
    }

    /// The entry that follows, if there is one.
    async fn next_entry(&self, catalog: &Catalog) -> Result<Option<VolumeRecord>> {
        let next = VolumeNumber(catalog.entries.len() as u32 + 1);
        let name = ObjectName::Volume(self.name().clone(), next);
        self.read_record::<VolumeRecord>(&name).await?.map(|record| checked(record, next)).transpose()
    }

    /// All entries up to the highest that was listed.
    async fn catalog_of(&self, stamps: &BTreeMap<u32, Stamp>) -> Result<Catalog> {
        let highest = stamps.last_key_value().map_or(0, |(n, _)| *n);
        let entries = stream::iter(1..=highest)
            .map(|n| async move {
                let name = ObjectName::Volume(self.name().clone(), VolumeNumber(n));
                checked(self.read_listed_record(&name, stamps.get(&n).copied()).await?, VolumeNumber(n))
            })
            .buffered(ENTRIES_INFLIGHT_MAX)
            .try_collect()
            .await?;
        Ok(Catalog { entries })
    }

    /// The entry of a volume; made when there is none.
    pub(crate) async fn ensure_volume(&self, name: &VolumeName, identity: &Identity) -> Result<VolumeRecord> {
        let mut catalog = self.catalog().await?;
        loop {
            if let Some(found) = catalog.by_name(name) {
                return Ok(found.clone());
            }
            let number = catalog
                .entries
                .len()
                .checked_add(1)
                .and_then(|n| u32::try_from(n).ok())
                .map(VolumeNumber)
                .ok_or_else(|| Error::unsupported("the catalog is full"))?;
            let record = VolumeRecord {
                number,
                name: name.to_string(),
                identity: identity.clone(),
                created_unix_ms: self.repository().environment.clock.now_unix_ms(),
            };
            let object_name = ObjectName::Volume(self.name().clone(), number);
            match self.create_record(&object_name, &record).await? {
                Created::New => {
                    self.repository().memory.saw_volumes(self.name(), std::slice::from_ref(&record))?;
                    return Ok(record);
                }
                // Somebody else took the number, perhaps for the same volume.
                Created::Exists { .. } => {
                    let other: VolumeRecord =
                        self.read_record(&object_name).await?.ok_or_else(|| missing(&object_name))?;
                    catalog.entries.push(checked(other, number)?);
                }
            }
        }
    }
}

fn checked(record: VolumeRecord, number: VolumeNumber) -> Result<VolumeRecord> {
    record.volume_name()?;
    if record.number == number {
        Ok(record)
    } else {
        Err(Error::corrupt(format!("catalog entry {number} says it is number {}", record.number)))
    }
}
