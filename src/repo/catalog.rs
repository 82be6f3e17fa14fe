//! The volumes of a project: numbered entries without gaps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::names::volumes_prefix;
use crate::format::record::VolumeRecord;
use crate::repo::found::Found;
use crate::repo::project::missing;
use crate::repo::{Creating, Project};
use crate::repo::{recall, row};
use crate::store::{Created, Stamp};
use crate::units::{Sequence, VolumeName, VolumeNumber};
use crate::volume::Identity;

/// Catalog entries read at once.
const ENTRIES_INFLIGHT_MAX: usize = 16;

/// The volumes of a project, by number.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    entries: Vec<VolumeRecord>,
    /// Where in `entries` a name stands first.
    by_name: HashMap<String, usize>,
    /// Numbers of the row whose entries are missing or do not open, and why.
    foreign: BTreeMap<VolumeNumber, String>,
    /// Those of them that are missing.
    missing: BTreeSet<VolumeNumber>,
    /// Numbers that no row leads to, and whose entries do not open.
    strays: BTreeSet<VolumeNumber>,
}

impl Catalog {
    /// Those that opened, by number.
    pub fn entries(&self) -> &[VolumeRecord] {
        &self.entries
    }

    /// `None` where no entry that opened has the name; one that does not open may have it.
    pub fn by_name(&self, name: &VolumeName) -> Option<&VolumeRecord> {
        self.by_name.get(name.as_str()).map(|at| &self.entries[*at])
    }

    /// `None` where the entry of this number is missing or does not open.
    pub fn by_number(&self, number: VolumeNumber) -> Option<&VolumeRecord> {
        let at = self.entries.binary_search_by_key(&number, |v| v.number).ok()?;
        self.entries.get(at)
    }

    pub(crate) fn foreign(&self) -> &BTreeMap<VolumeNumber, String> {
        &self.foreign
    }

    pub(crate) fn missing(&self) -> &BTreeSet<VolumeNumber> {
        &self.missing
    }

    pub(crate) fn strays(&self) -> &BTreeSet<VolumeNumber> {
        &self.strays
    }

    /// Whether all of it opened: only then what it lacks is not there.
    fn is_whole(&self) -> bool {
        self.foreign.is_empty() && self.strays.is_empty()
    }

    /// The last number of the row.
    pub(crate) fn last(&self) -> VolumeNumber {
        let entry = self.entries.last().map(|v| v.number);
        let foreign = self.foreign.last_key_value().map(|(number, _)| *number);
        entry.max(foreign).unwrap_or(VolumeNumber(0))
    }

    fn add(&mut self, number: VolumeNumber, entry: Found<VolumeRecord>) {
        match entry {
            Found::Opens(record) => {
                self.by_name.entry(record.name.clone()).or_insert(self.entries.len());
                self.entries.push(record);
            }
            Found::Foreign(why) => drop(self.foreign.insert(number, why)),
            Found::Absent => {
                self.foreign.insert(number, "it is missing".to_owned());
                self.missing.insert(number);
            }
        }
    }
}

/// The volumes of a project: its catalog.
#[derive(Clone, Copy)]
pub struct Volumes<'a> {
    pub(super) project: &'a Project,
}

impl Volumes<'_> {
    /// Reads the catalog. A listing may be short, so the caller's next step decides what its tail is worth:
    /// creating the next entry, or [`Self::confirmed`].
    pub(crate) async fn read(self) -> Result<Catalog> {
        let expected = self.project.repository().memory.catalog_end(self.project.name());
        let catalog = self.listed(expected).await?;
        recall::catalog(self.project, expected, &catalog)?;
        Ok(catalog)
    }

    /// As a listing shows it, whatever this client saw before; `expected` is where it ended then.
    async fn listed(self, expected: u32) -> Result<Catalog> {
        let mut stamps = BTreeMap::new();
        for info in self.project.repository().store().list(&volumes_prefix(self.project.name()), None).await?
        {
            if let Some(ObjectName::Volume(_, n)) = ObjectName::parse(&info.key) {
                stamps.insert(n.0, info.stamp);
            }
        }
        let listed: BTreeSet<u32> = stamps.keys().copied().collect();
        let opens = |n| async move { Ok(self.look(VolumeNumber(n)).await?.opens()) };
        // A listing may be short; what was seen is asked for by name.
        let last = row::end(0, &listed, expected, opens).await?;
        let strays = listed.range(last..).filter(|n| **n > last).copied().map(VolumeNumber).collect();
        let mut catalog = Catalog { strays, ..Catalog::default() };
        let stamps = &stamps;
        let entries: Vec<_> = stream::iter((1..=last).map(VolumeNumber))
            .map(|n| async move {
                let stamp = stamps.get(&n.0).copied();
                Ok::<_, Error>((n, self.known(n, stamp).await?))
            })
            .buffered(ENTRIES_INFLIGHT_MAX)
            .try_collect()
            .await?;
        entries.into_iter().for_each(|(number, entry)| catalog.add(number, entry));
        Ok(catalog)
    }

    /// Reads the catalog and confirms by a GET that nothing follows it. What does not open is left out, and told of.
    ///
    /// # Errors
    /// `Conflict` where this host saw more of the catalog, or a later prune round: in a store that was set back to before one,
    /// snapshots that were forgotten live again, and nothing of what is listed tells.
    pub async fn confirmed(self) -> Result<Catalog> {
        self.project.rounds().recall().await?;
        let catalog = self.read().await?;
        let catalog = self.confirm(catalog).await?;
        self.project.repository().memory.saw_volumes(self.project.name(), catalog.entries())?;
        Ok(catalog)
    }

    /// The catalog as this process read it last: an entry that opened stays what it is. What it lacks, somebody may have made
    /// since.
    pub(crate) async fn once(self) -> Result<Arc<Catalog>> {
        if let Some(kept) = self.kept().clone() {
            return Ok(kept);
        }
        let read = Arc::new(self.read().await?);
        self.keep(&read);
        Ok(read)
    }

    /// The entry of a volume, if there is one: of the catalog as it was read in this process, and confirmed where it lacks the name.
    /// Whether this process knows a volume of that name: for what nothing rests on.
    pub async fn has(self, name: &VolumeName) -> Result<bool> {
        Ok(self.once().await?.by_name(name).is_some())
    }

    pub(crate) async fn find(self, name: &VolumeName) -> Result<Option<VolumeRecord>> {
        let kept = self.kept().clone();
        let catalog = match kept {
            Some(kept) if kept.by_name(name).is_some() => kept,
            Some(kept) => Arc::new(self.confirm(Arc::unwrap_or_clone(kept)).await?),
            None => Arc::new(self.confirmed().await?),
        };
        self.keep(&catalog);
        Ok(catalog.by_name(name).cloned())
    }

    /// Never held over a request: no volume waits for another's.
    fn kept(&self) -> MutexGuard<'_, Option<Arc<Catalog>>> {
        self.project.catalog().lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the longest that opened as a whole: only then what it lacks is not there.
    fn keep(self, catalog: &Arc<Catalog>) {
        let mut kept = self.kept();
        if catalog.is_whole() && kept.as_ref().is_none_or(|kept| kept.last() < catalog.last()) {
            *kept = Some(Arc::clone(catalog));
        }
    }

    /// As [`confirmed`](Self::confirmed), whatever this client saw before: for who tells of all that is hurt.
    pub(crate) async fn found(self) -> Result<Catalog> {
        let expected = self.project.repository().memory.catalog_end(self.project.name());
        let catalog = self.listed(expected).await?;
        self.confirm(catalog).await
    }

    /// With one entry more. What nobody else looks at is not copied for it: a first night adds as many as it has volumes.
    fn append(self, catalog: Arc<Catalog>, number: VolumeNumber, entry: Found<VolumeRecord>) -> Arc<Catalog> {
        let mut catalog = catalog;
        drop(self.kept().take_if(|kept| Arc::ptr_eq(kept, &catalog)));
        Arc::make_mut(&mut catalog).add(number, entry);
        self.keep(&catalog);
        catalog
    }

    async fn confirm(self, mut catalog: Catalog) -> Result<Catalog> {
        let mut foreign = 0;
        while let Some(next) = row::follows(catalog.last().0).map(VolumeNumber) {
            match self.look(next).await? {
                Found::Absent => break,
                found => {
                    foreign += u32::from(!found.opens());
                    catalog.add(next, found);
                }
            }
            if foreign > row::FOREIGN_MAX {
                return Err(row::endless(self.name(next)));
            }
        }
        Ok(catalog)
    }

    /// Whether a number of the catalog whose entry does not open may be a volume all the same: it has a log.
    pub(crate) async fn may_be(self, number: VolumeNumber) -> Result<bool> {
        let log = self.project.log(number).read().await?;
        if log.last() > Sequence(0) {
            return Ok(true);
        }
        Ok(self.project.slot(number, Sequence(1)).probe(false).await?.is_some())
    }

    fn name(self, number: VolumeNumber) -> ObjectName {
        ObjectName::Volume(self.project.name().clone(), number)
    }

    async fn look(self, number: VolumeNumber) -> Result<Found<VolumeRecord>> {
        let of = |record: &VolumeRecord| check(record, number).map_err(|e| e.to_string());
        self.project.look_bound(&self.name(number), of).await
    }

    /// An entry that a listing shows, or the row leads to.
    async fn known(self, number: VolumeNumber, stamp: Option<Stamp>) -> Result<Found<VolumeRecord>> {
        let Some(stamp) = stamp else { return self.look(number).await };
        let name = self.name(number);
        let read = self.project.read_listed_record(&name, Some(stamp)).await;
        match read.and_then(|record: VolumeRecord| check(&record, number).map(|()| record)) {
            Ok(record) => Ok(Found::Opens(record)),
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                self.project.repository().foreign.tell(&name, &e.to_string());
                Ok(Found::Foreign(e.to_string()))
            }
            Err(e) => Err(e),
        }
    }
}

impl Creating<Volumes<'_>> {
    /// The entry of a volume; made when there is none.
    ///
    /// The catalog is read once in a process: an entry that opened stays what it is, so a name that was found needs no request.
    /// One that was not is created after the last, and whoever was faster is met there.
    pub(crate) async fn ensure(self, name: &VolumeName, identity: &Identity) -> Result<VolumeRecord> {
        let mut catalog = self.once().await?;
        loop {
            if let Some(found) = catalog.by_name(name) {
                return Ok(found.clone());
            }
            let number = row::follows(catalog.last().0)
                .map(VolumeNumber)
                .ok_or_else(|| Error::unsupported("the catalog is full"))?;
            if catalog.foreign.len() > row::FOREIGN_MAX as usize {
                return Err(row::endless(self.name(number)));
            }
            self.refuse_doubt(&catalog, name).await?;
            let entry = match self.create(number, name, identity).await? {
                Some(made) => Found::Opens(made),
                // Somebody else took the number, perhaps for the same volume.
                None => match self.look(number).await? {
                    Found::Absent => return Err(missing(&self.name(number))),
                    found => found,
                },
            };
            catalog = self.append(catalog, number, entry);
        }
    }

    /// Creates an entry; `None` where something stands there.
    async fn create(
        self,
        number: VolumeNumber,
        name: &VolumeName,
        identity: &Identity,
    ) -> Result<Option<VolumeRecord>> {
        let repository = self.project.repository();
        let record = VolumeRecord {
            number,
            name: name.to_string(),
            identity: identity.clone(),
            created_unix_ms: repository.environment.clock.now_unix_ms(),
        };
        match self.project.create_record(&self.name(number), &record).await? {
            Created::New => {
                repository.memory.saw_volumes(self.project.name(), std::slice::from_ref(&record))?;
                Ok(Some(record))
            }
            Created::Exists { .. } => Ok(None),
        }
    }

    /// A new entry is made only where none that does not open can be the volume's own.
    async fn refuse_doubt(self, catalog: &Catalog, name: &VolumeName) -> Result<()> {
        for (number, why) in catalog.foreign() {
            if self.may_be(*number).await? {
                return Err(Error::corrupt(format!(
                    "{}, which may be volume {name}, does not open, and has a log: {why}",
                    self.name(*number)
                ))
                .help("bring the object back from a copy or a bucket version; see `cuttle verify`"));
            }
        }
        Ok(())
    }
}

fn check(record: &VolumeRecord, number: VolumeNumber) -> Result<()> {
    record.volume_name()?;
    if record.number == number {
        Ok(())
    } else {
        Err(Error::corrupt(format!("catalog entry {number} says it is number {}", record.number)))
    }
}
