//! What is said of a snapshot after it was committed: its tags, its protection, and that it is no longer wanted.
//!
//! Notes are numbered and the last one counts, so whoever changes one begins from the newest. That a note is the newest
//! is confirmed by a request for the next, never by a listing.

use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::record::{ForgetRecord, NoteRecord};
use crate::repo::found::Found;
use crate::repo::history::SnapshotEntry;
use crate::repo::memory::SeenSnapshot;
use crate::repo::project::missing;
use crate::repo::reserve::Reserve;
use crate::repo::retained::Retained;
use crate::repo::row;
use crate::repo::slot::Slot;
use crate::repo::{Keeping, Project};
use crate::store::Created;
use crate::units::{Sequence, SnapshotId, VolumeNumber};

/// How often a change is made anew because somebody else wrote a note meanwhile.
const CHANGES_MAX: usize = 64;

/// What people may change about a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// Whether `forget` and policies leave it alone.
    pub protected: bool,
    /// Each once, in the order they were given.
    pub tags: Vec<String>,
}

/// A snapshot, and what was last seen said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// The volume's number in the catalog.
    pub volume: VolumeNumber,
    /// Its number within the volume.
    pub sequence: Sequence,
    /// What a note or `.forget` for it names, too: another snapshot under the number is not meant.
    pub snapshot_id: SnapshotId,
    /// The number of the note; 0 where there is none and the backup's own tags count.
    pub number: u32,
    /// What that note says.
    pub note: Note,
}

/// What a change of a note came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// What holds now.
    pub note: Note,
    /// False where all was said already.
    pub changed: bool,
}

/// What forgetting came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// By this very call.
    Now,
    /// Somebody did so before.
    Already,
    /// It is protected, and stays.
    Protected,
}

impl From<&SnapshotEntry> for Noted {
    fn from(entry: &SnapshotEntry) -> Self {
        Self {
            volume: entry.snapshot.volume,
            sequence: entry.snapshot.sequence,
            snapshot_id: entry.snapshot_id,
            number: entry.notes,
            note: Note { protected: entry.protected, tags: entry.tags.clone() },
        }
    }
}

/// The notes of a project, and who forgets.
#[derive(Clone, Copy)]
pub struct Notes<'a> {
    pub(super) project: &'a Project,
}

impl<'a> Notes<'a> {
    /// Goes on from the note that was seen to the one that nothing follows. What does not open takes a number, and says
    /// nothing. The number of the newest that opened here is returned.
    async fn read_newest(self, noted: &mut Noted) -> Result<Option<u32>> {
        let (mut foreign, mut opened) = (0, None);
        while let Some(number) = row::follows(noted.number) {
            let name = self.slot(noted).note_name(number);
            let belongs = |note: &NoteRecord| self.slot(noted).belongs(note, noted.snapshot_id);
            match self.project.look_bound(&name, belongs).await? {
                Found::Absent => return Ok(opened),
                Found::Opens(NoteRecord { protected, tags, .. }) => {
                    (noted.note, opened) = (Note { protected, tags }, Some(number));
                }
                Found::Foreign(_) => foreign += 1,
            }
            noted.number = number;
            if foreign > row::FOREIGN_MAX {
                return Err(row::endless(name));
            }
        }
        Err(Error::unsupported("it has no room for another note"))
    }

    fn reserve(self) -> Reserve<'a> {
        Reserve { project: self.project }
    }

    fn retained(self) -> Retained<'a> {
        Retained { project: self.project }
    }

    fn slot(self, noted: &Noted) -> Slot<'a> {
        self.project.slot(noted.volume, noted.sequence)
    }
}

impl Keeping<Notes<'_>> {
    /// Changes what is said of a snapshot.
    ///
    /// # Errors
    /// `Conflict` when the snapshot was forgotten meanwhile: nothing protects it any more.
    pub async fn change(self, noted: &Noted, change: impl Fn(&mut Note)) -> Result<Changed> {
        let environment = &self.project.repository().environment;
        let mut newest = noted.clone();
        for _ in 0..CHANGES_MAX {
            let opened = self.read_newest(&mut newest).await?;
            let mut note = newest.note.clone();
            change(&mut note);
            let changed = note != newest.note;
            if changed {
                let name = self.slot(noted).note_name(newest.number.saturating_add(1));
                let record = NoteRecord {
                    snapshot_id: noted.snapshot_id,
                    protected: note.protected,
                    tags: note.tags.clone(),
                    host: environment.host.clone(),
                    at_unix_ms: environment.clock.now_unix_ms(),
                };
                let created = self.project.create_record(&name, &record).await?;
                self.retained().made(&name);
                if let Created::Exists { .. } = created {
                    continue;
                }
            }
            // What opened is remembered, or was made; a number that something else took says nothing.
            let number = if changed { Some(newest.number.saturating_add(1)) } else { opened };
            if let Some(number) = number {
                let seen = SeenSnapshot::new(noted.sequence, noted.snapshot_id);
                self.project.log(noted.volume).made(seen.with_note(number, note.protected));
            }
            // Who forgets looks at the notes first. So a note that came too late shows here.
            if self.slot(noted).is_forgotten().await? {
                return Err(Error::conflict("it was forgotten meanwhile")
                    .help("protect another snapshot of the volume, or make one"));
            }
            return Ok(Changed { note, changed });
        }
        Err(Error::unavailable(format!("others changed it {CHANGES_MAX} times meanwhile")).help("try again"))
    }

    /// Makes a snapshot forgotten, unless it is protected by now.
    ///
    /// # Errors
    /// `Conflict` when it was protected in the very moment: it is forgotten all the same.
    pub async fn forget(self, noted: &Noted) -> Result<Forgotten> {
        let environment = &self.project.repository().environment;
        let mut newest = noted.clone();
        self.read_newest(&mut newest).await?;
        if newest.note.protected {
            return Ok(Forgotten::Protected);
        }
        let record = ForgetRecord {
            snapshot_id: noted.snapshot_id,
            host: environment.host.clone(),
            at_unix_ms: environment.clock.now_unix_ms(),
        };
        let name = self.slot(noted).forget_name();
        let created = self.reserve().create_record(&name, &record).await?;
        self.retained().made(&name);
        if let Created::Exists { .. } = created {
            return match self.slot(noted).forget_of().await? {
                Found::Opens(_) => Ok(Forgotten::Already),
                Found::Absent => Err(missing(&name)),
                Found::Foreign(why) => Err(taken(&name, &why)),
            };
        }
        // A protection may have come between the look and the create. What is forgotten stays so, but one of the two is
        // told: who protects looks for this record after the note, and here the notes are looked at after the record.
        self.read_newest(&mut newest).await?;
        match newest.note.protected {
            false => Ok(Forgotten::Now),
            true => Err(Error::conflict("it was protected while it was forgotten, and is forgotten")
                .help("protect another snapshot of the volume, or make one")),
        }
    }
}

/// A snapshot cannot be forgotten, as something else stands in the place of what says so.
fn taken(name: &ObjectName, why: &str) -> Error {
    Error::corrupt(format!("{name} does not open, and forgets nothing: {why}")).help(format!(
        "put it aside with `cuttle verify --quarantine {name}`, then forget the snapshot again"
    ))
}
