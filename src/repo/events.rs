//! What happened in a project, newest first, for people: nothing rests on it.
//!
//! Listings say what there is and when the store took it; only the newest records are read. What prune cleaned away is not there any more.

use std::collections::{BTreeMap, BTreeSet};

use futures::{Stream, StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::names::{gc_prefix, log_prefix, logs_prefix, retention_of_prefix, retention_prefix};
use crate::format::record::{EndRecord, NoteRecord, OpenRecord, Outcome, Snapshot};
use crate::repo::Project;
use crate::repo::found::Found;
use crate::repo::log::RECORDS_INFLIGHT_MAX;
use crate::store::ObjectInfo;
use crate::units::{Generation, Sequence, SnapshotId, VolumeNumber};

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Of this volume only, and then no prune rounds.
    pub volume: Option<VolumeNumber>,
    /// At most so many, the newest.
    pub latest: usize,
    /// None that the store took before this; 0 for all.
    pub since_unix_ms: u64,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// When the store took the record of it.
    pub stored_unix_ms: u64,
    /// The record.
    pub name: ObjectName,
    /// What it says.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum What {
    /// A backup was finished.
    Committed(SnapshotId, Box<Snapshot>),
    /// A backup came to nothing.
    Aborted {
        /// The host that ended it.
        by: String,
        /// For people.
        reason: String,
        /// The host that began it, where that is still known.
        host: Option<String>,
    },
    /// A backup was begun, and has no outcome.
    Unfinished {
        /// The host that began it.
        host: String,
        /// By the store's clock; `None` where it gave none since its begin.
        last_sign_unix_ms: Option<u64>,
    },
    /// A snapshot is no longer wanted.
    Forgotten {
        /// The host that said so.
        host: String,
    },
    /// What holds of a snapshot from then on.
    Noted {
        /// The host that said so.
        host: String,
        /// Whether it may not be forgotten.
        protected: bool,
        /// All of them.
        tags: Vec<String>,
    },
    /// A prune round began.
    RoundBegun,
    /// It is decided what a round deletes.
    RoundSealed,
    /// A round is over.
    RoundDone,
    /// It does not open, and nobody can tell what it was.
    Foreign(String),
}

/// A record as a listing shows it; they are ordered by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    stored_unix_ms: u64,
    name: ObjectName,
    /// Of a backup without an outcome.
    last_sign_unix_ms: Option<u64>,
}

/// The newest records of those that were looked at.
struct Newest {
    wanted: Wanted,
    listed: BTreeSet<Listed>,
}

/// What a listing shows of one sequence.
#[derive(Default)]
struct Row {
    opened: Option<Listed>,
    ended: Option<Listed>,
    last_sign_unix_ms: Option<u64>,
}

/// The rows of one volume; a listing shows one volume after the other.
#[derive(Default)]
struct Rows {
    volume: Option<VolumeNumber>,
    rows: BTreeMap<Sequence, Row>,
}

/// What happened in a project.
#[derive(Clone, Copy)]
pub struct Events<'a> {
    pub(super) project: &'a Project,
}

impl Event {
    /// The volume and the sequence that it is of.
    pub fn place(&self) -> Option<(VolumeNumber, Sequence)> {
        use ObjectName::{End, Forget, Note, Open};
        match &self.name {
            Open(_, volume, sequence) | End(_, volume, sequence) | Forget(_, volume, sequence) => {
                Some((*volume, *sequence))
            }
            Note(_, volume, sequence, _) => Some((*volume, *sequence)),
            _ => None,
        }
    }

    /// The round that it is of.
    pub fn generation(&self) -> Option<Generation> {
        use ObjectName::{GcBegin, GcDone, GcSeal};
        match &self.name {
            GcBegin(_, generation) | GcSeal(_, generation) | GcDone(_, generation) => Some(*generation),
            _ => None,
        }
    }
}

impl Newest {
    fn take(&mut self, listed: Listed) {
        if listed.stored_unix_ms < self.wanted.since_unix_ms {
            return;
        }
        self.listed.insert(listed);
        if self.listed.len() > self.wanted.latest {
            self.listed.pop_first();
        }
    }
}

impl Rows {
    /// Takes what a listing shows; the rows of another volume go on to `newest`.
    fn take(&mut self, info: &ObjectInfo, newest: &mut Newest) {
        use ObjectName::{Alive, End, Open};
        let Some(name) = ObjectName::parse(&info.key) else { return };
        let (Open(_, volume, sequence) | End(_, volume, sequence) | Alive(_, volume, sequence, _)) = name
        else {
            return;
        };
        if self.volume != Some(volume) {
            self.end(newest);
            self.volume = Some(volume);
        }
        let row = self.rows.entry(sequence).or_default();
        let listed = |name| Listed { stored_unix_ms: info.modified_unix_ms, name, last_sign_unix_ms: None };
        match name {
            Open(..) => row.opened = Some(listed(name)),
            End(..) => row.ended = Some(listed(name)),
            _ => row.last_sign_unix_ms = row.last_sign_unix_ms.max(Some(info.modified_unix_ms)),
        }
    }

    /// What happened of each sequence is its outcome, or that it was begun.
    fn end(&mut self, newest: &mut Newest) {
        for Row { opened, ended, last_sign_unix_ms } in std::mem::take(&mut self.rows).into_values() {
            let begun = opened.map(|opened| Listed { last_sign_unix_ms, ..opened });
            ended.or(begun).into_iter().for_each(|listed| newest.take(listed));
        }
    }
}

impl Events<'_> {
    /// The newest events, newest first. Listings are gone through one record after the other: what is kept of them is what is wanted, and the numbers of
    /// one volume.
    pub async fn newest(self, wanted: Wanted) -> Result<Vec<Event>> {
        let listed = self.listed(wanted).await?;
        let looks = listed.into_iter().rev().map(|listed| self.look(listed));
        let mut events: Vec<Event> = stream::iter(looks.collect::<Vec<_>>())
            .buffered(RECORDS_INFLIGHT_MAX)
            .try_filter_map(|event| async move { Ok::<_, Error>(event) })
            .try_collect()
            .await?;
        // A backup that was finished meanwhile may stand twice, and has a later time than its begin.
        events.sort_by(|a, b| (b.stored_unix_ms, &b.name).cmp(&(a.stored_unix_ms, &a.name)));
        events.dedup_by(|a, b| a.name == b.name);
        Ok(events)
    }

    async fn listed(self, wanted: Wanted) -> Result<BTreeSet<Listed>> {
        let (mut newest, mut rows) = (Newest { wanted, listed: BTreeSet::new() }, Rows::default());
        let project = self.project.name();
        let (log, retention) = match wanted.volume {
            Some(volume) => (log_prefix(project, volume), retention_of_prefix(project, volume)),
            None => (logs_prefix(project), retention_prefix(project)),
        };
        let mut listing = std::pin::pin!(self.list(&log));
        while let Some(info) = listing.try_next().await? {
            rows.take(&info, &mut newest);
        }
        rows.end(&mut newest);
        let rounds = wanted.volume.is_none().then(|| gc_prefix(project));
        for prefix in [Some(retention), rounds].into_iter().flatten() {
            let mut listing = std::pin::pin!(self.list(&prefix));
            while let Some(info) = listing.try_next().await? {
                use ObjectName::{Forget, GcBegin, GcDone, GcSeal, Note};
                let name = ObjectName::parse(&info.key);
                if let Some(name @ (Forget(..) | Note(..) | GcBegin(..) | GcSeal(..) | GcDone(..))) = name {
                    let stored_unix_ms = info.modified_unix_ms;
                    newest.take(Listed { stored_unix_ms, name, last_sign_unix_ms: None });
                }
            }
        }
        Ok(newest.listed)
    }

    fn list(self, prefix: &str) -> impl Stream<Item = Result<ObjectInfo>> + use<> {
        self.project.repository().store().list_stream(prefix, None)
    }

    /// Reads a record; `None` where it is gone since it was listed.
    async fn look(self, listed: Listed) -> Result<Option<Event>> {
        let Listed { mut stored_unix_ms, mut name, last_sign_unix_ms } = listed;
        if let ObjectName::Open(_, volume, sequence) = name {
            // It may have ended since.
            let end = self.project.slot(volume, sequence).end_name();
            if let Some(info) = self.project.repository().store().head(&end.to_string()).await? {
                (stored_unix_ms, name) = (info.modified_unix_ms, end);
            }
        }
        let what = match self.read(&name, last_sign_unix_ms).await? {
            Found::Absent => return Ok(None),
            Found::Foreign(why) => What::Foreign(why),
            Found::Opens(what) => what,
        };
        Ok(Some(Event { stored_unix_ms, name, what }))
    }

    async fn read(self, name: &ObjectName, last_sign_unix_ms: Option<u64>) -> Result<Found<What>> {
        let (project, rounds) = (self.project, self.project.rounds());
        Ok(match name {
            ObjectName::Open(..) => {
                let open = project.look::<OpenRecord>(name).await?;
                open.map(|open| What::Unfinished { host: open.host, last_sign_unix_ms })
            }
            ObjectName::End(_, volume, sequence) => self.outcome(name, *volume, *sequence).await?,
            ObjectName::Forget(_, volume, sequence) => {
                let forget = project.slot(*volume, *sequence).forget_of().await?;
                forget.map(|forget| What::Forgotten { host: forget.host })
            }
            ObjectName::Note(_, volume, sequence, _) => {
                let slot = project.slot(*volume, *sequence);
                let of = slot.snapshot_id().await?;
                let belongs = |note: &NoteRecord| of.map_or(Ok(()), |of| slot.belongs(note, of));
                let note = project.look_bound(name, belongs).await?;
                note.map(|NoteRecord { host, protected, tags, .. }| What::Noted { host, protected, tags })
            }
            ObjectName::GcBegin(_, generation) => {
                rounds.look_begin(*generation).await?.map(|_| What::RoundBegun)
            }
            ObjectName::GcSeal(_, generation) => {
                rounds.look_seal(*generation).await?.map(|_| What::RoundSealed)
            }
            ObjectName::GcDone(_, generation) => {
                rounds.look_done(*generation).await?.map(|_| What::RoundDone)
            }
            _ => Found::Absent,
        })
    }

    async fn outcome(
        self,
        name: &ObjectName,
        volume: VolumeNumber,
        sequence: Sequence,
    ) -> Result<Found<What>> {
        let belongs = |end: &EndRecord| match &end.outcome {
            Outcome::Committed(of) if (of.volume, of.sequence) != (volume, sequence) => {
                Err(format!("it holds the snapshot {} of volume {}", of.sequence, of.volume))
            }
            Outcome::Committed(_) | Outcome::Aborted { .. } => Ok(()),
        };
        let end = match self.project.look_bound(name, belongs).await? {
            Found::Opens(end) => end,
            Found::Foreign(why) => return Ok(Found::Foreign(why)),
            Found::Absent => return Ok(Found::Absent),
        };
        Ok(Found::Opens(match end.outcome {
            Outcome::Committed(snapshot) => What::Committed(end.snapshot_id, snapshot),
            Outcome::Aborted { by, reason } => {
                let open = self.project.slot(volume, sequence).open_name();
                let open = self.project.look::<OpenRecord>(&open).await?.opened();
                What::Aborted { by, reason, host: open.map(|open| open.host) }
            }
        }))
    }
}
