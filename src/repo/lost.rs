//! What was found lost, and remembered in the repository until it is mended or nobody needs it (repo-format.md §8.6).
//!
//! A record is a reason to look and to store again, never a proof: one too many costs uploads, one that is missing is made
//! by the next who looks.

use std::collections::{BTreeSet, HashSet};

use futures::{StreamExt, stream};

use crate::error::{Error, Result};
use crate::format::lost::{LostName, LostRecord};
use crate::format::names::{ContentKind, ContentName, lost_prefix};
use crate::format::page::PageRef;
use crate::format::{LOST_NAMES_MAX, LOST_RECORDS_MAX, ObjectName};
use crate::keys::random_array;
use crate::repo::found::Found;
use crate::repo::{Creating, Keeping, Project};
use crate::store::{Created, Deleted};

/// Records read at once.
const RECORDS_INFLIGHT_MAX: usize = 8;

/// The names that a project's records list.
#[derive(Debug, Clone, Default)]
pub struct Lost {
    names: HashSet<LostName>,
    records: Vec<(ObjectName, Vec<LostName>)>,
    /// Records that do not open, and why. Nobody can tell what they list, or who made them.
    pub unreadable: Vec<(ObjectName, String)>,
    /// Records beyond the most that are read.
    pub unread: usize,
}

impl Lost {
    /// Whether no name is listed; records may be unreadable all the same.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether an object, or a piece of one, is listed.
    pub fn contains(&self, kind: ContentKind, name: ContentName) -> bool {
        !self.names.is_empty() && self.names.contains(&LostName::new(kind, name))
    }

    /// Whether a chunk, or something that it takes to decode it, is listed.
    pub fn has_chunk(&self, chunk: &PageRef) -> bool {
        chunk.objects().any(|object| self.contains(ContentKind::Chunk, object.name))
    }

    /// Whether a page is listed; zeros never are.
    pub fn has_page(&self, page: &PageRef) -> bool {
        page.object().is_some_and(|object| self.contains(ContentKind::Page, object.name))
    }

    /// In no order, each once.
    pub fn names(&self) -> impl Iterator<Item = &LostName> {
        self.names.iter()
    }

    /// Those that are not listed yet, each once.
    pub fn lacks(&self, found: &[LostName]) -> Vec<LostName> {
        let new: BTreeSet<LostName> =
            found.iter().filter(|name| !self.names.contains(name)).copied().collect();
        new.into_iter().collect()
    }

    /// In memory alone: no record is made.
    pub fn add(&mut self, names: impl IntoIterator<Item = LostName>) {
        self.names.extend(names);
    }
}

/// The records of what was found lost.
#[derive(Clone, Copy)]
pub(crate) struct LostRecords<'a> {
    pub(super) project: &'a Project,
}

impl LostRecords<'_> {
    /// Reads the records that a listing showed.
    async fn read_listed(self, mut listed: Vec<u128>) -> Result<Lost> {
        listed.sort_unstable();
        let mut lost = Lost { unread: listed.len().saturating_sub(LOST_RECORDS_MAX), ..Lost::default() };
        listed.truncate(LOST_RECORDS_MAX);
        let mut records = stream::iter(listed)
            .map(|record| async move {
                let name = ObjectName::Lost(self.project.name().clone(), record);
                (self.project.look::<LostRecord>(&name).await, name)
            })
            .buffered(RECORDS_INFLIGHT_MAX);
        while let Some((found, name)) = records.next().await {
            match found? {
                Found::Opens(record) => {
                    lost.names.extend(&record.names);
                    lost.records.push((name, record.names));
                }
                // Settled meanwhile.
                Found::Absent => {}
                Found::Foreign(why) => lost.unreadable.push((name, why)),
            }
        }
        Ok(lost)
    }

    /// What is known to be lost now.
    pub(crate) async fn read(self) -> Result<Lost> {
        let listed = self.project.repository().store().list(&lost_prefix(self.project.name()), None).await?;
        let record = |key: &str| match ObjectName::parse(key) {
            Some(ObjectName::Lost(_, record)) => Some(record),
            _ => None,
        };
        self.read_listed(listed.iter().filter_map(|info| record(&info.key)).collect()).await
    }
}

impl Creating<LostRecords<'_>> {
    /// Remembers what was found lost, unless it is known. How many names are new.
    pub(crate) async fn remember(self, known: &mut Lost, found: &[LostName]) -> Result<usize> {
        let new = known.lacks(found);
        for names in new.chunks(LOST_NAMES_MAX) {
            if known.records.len() + known.unread >= LOST_RECORDS_MAX {
                return Err(Error::unavailable(format!(
                    "{LOST_RECORDS_MAX} records tell of what was lost, and no more are read"
                ))
                .help("mend what can be mended with `cuttle verify --read-data --repair`, forget the snapshots that stay hurt, and prune"));
            }
            let name = self.record(names).await?;
            known.names.extend(names);
            known.records.push((name, names.to_vec()));
        }
        Ok(new.len())
    }

    async fn record(self, names: &[LostName]) -> Result<ObjectName> {
        let environment = &self.project.repository().environment;
        let name = ObjectName::Lost(self.project.name().clone(), u128::from_be_bytes(random_array()?));
        let record = LostRecord {
            names: names.to_vec(),
            host: environment.host.clone(),
            at_unix_ms: environment.clock.now_unix_ms(),
        };
        match self.project.create_record(&name, &record).await? {
            Created::New => Ok(name),
            Created::Exists { .. } => Err(Error::internal(format!("a random name exists: {name}"))),
        }
    }
}

impl Keeping<LostRecords<'_>> {
    /// Lets go of names that are mended, or that nobody needs. What else a record lists is recorded anew when it is gone: a
    /// store that refuses to delete keeps it as it is, which costs uploads. Returns the records that went.
    pub(crate) async fn settle(self, lost: &Lost, settled: impl Fn(&LostName) -> bool) -> Result<usize> {
        let mut gone = 0;
        for (record, names) in &lost.records {
            let rest: Vec<LostName> = names.iter().filter(|name| !settled(name)).copied().collect();
            if rest.len() == names.len() {
                continue;
            }
            let store = &self.project.repository().store;
            if store.delete_unless_refused(&record.to_string()).await? == Deleted::Refused {
                continue;
            }
            gone += 1;
            if !rest.is_empty() {
                self.record(&rest).await?;
            }
        }
        Ok(gone)
    }
}
