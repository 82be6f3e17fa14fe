//! A volume's log: which backups were begun, how they ended, which are no longer wanted.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::gc::RosterEntry;
use crate::format::names::log_prefix;
use crate::format::record::{EndRecord, OpenRecord};
use crate::repo::Project;
use crate::repo::found::Found;
use crate::repo::row;
use crate::repo::slot::Slot;
use crate::store::{ObjectInfo, Stamp};
use crate::units::{Sequence, VolumeNumber};

/// Log records read at once.
pub(super) const RECORDS_INFLIGHT_MAX: usize = 32;
/// Missing numbers that are asked for; a log that lacks more is not worth asking.
const GAPS_MAX: usize = 10_000;

/// What a listing shows of one sequence. Times are the store's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogEntry {
    /// When its `.open` was stored; `None` where it is missing.
    pub opened_unix_ms: Option<u64>,
    /// When its `.end` was stored; `None` while it has no outcome.
    pub ended_unix_ms: Option<u64>,
    /// Which `.end` it is that was listed, where it may come from the cache.
    pub end_stamp: Option<Stamp>,
    /// There is a `.forget`; in a confirmed log: one that opens, and is of this sequence.
    pub forgotten: bool,
    /// Where the numbers of its notes end; 0 for none.
    pub notes: u32,
}

/// A volume's log as a listing shows it.
#[derive(Debug, Clone, Default)]
pub struct VolumeLog {
    /// What the listing shows, by sequence.
    pub entries: BTreeMap<Sequence, LogEntry>,
    /// Signs of life after the registration, with their times.
    pub(crate) signs: BTreeMap<Sequence, BTreeMap<u32, u64>>,
    /// All notes.
    pub(crate) notes: BTreeMap<Sequence, BTreeSet<u32>>,
    /// Sequences with a `.forget` that does not open: it hides nothing, and nobody can tell what it was.
    pub(crate) unproven: BTreeMap<Sequence, String>,
    /// Numbers that no row leads to, and of which nothing opens.
    pub(crate) strays: BTreeSet<Sequence>,
}

/// How much of a log is to be proven.
#[derive(Clone, Copy)]
pub(crate) enum Proof<'a> {
    /// What would hide a snapshot.
    Hidden,
    /// Whatever would let a sequence count as over, but for what a seal says was over.
    Settled(Option<&'a RosterEntry>),
}

impl Proof<'_> {
    fn is_past(&self, sequence: Sequence) -> bool {
        matches!(self, Self::Settled(Some(roster)) if roster.is_past(sequence))
    }

    /// Whether a `.forget` must be opened.
    fn wants(&self, sequence: Sequence, entry: &LogEntry) -> bool {
        match self {
            Self::Hidden => entry.ended_unix_ms.is_some(),
            Self::Settled(_) => !self.is_past(sequence),
        }
    }
}

impl VolumeLog {
    /// The highest sequence in it; 0 for none.
    pub fn last(&self) -> Sequence {
        self.entries.last_key_value().map_or(Sequence(0), |(s, _)| *s)
    }

    /// Sequences that must exist, as higher ones do, and do not.
    pub fn gaps(&self) -> Vec<Sequence> {
        let mut next = 1;
        let mut gaps = Vec::new();
        for (sequence, entry) in &self.entries {
            let room = GAPS_MAX.saturating_sub(gaps.len());
            gaps.extend((next..sequence.0).map(Sequence).take(room));
            if entry.opened_unix_ms.is_none() && room > 0 {
                gaps.push(*sequence);
            }
            next = sequence.0.saturating_add(1);
        }
        gaps.dedup();
        gaps
    }

    /// Sequences with an outcome and not forgotten, newest first. Some may turn out aborted.
    pub fn candidates(&self) -> impl Iterator<Item = (Sequence, &LogEntry)> {
        let live = |(_, e): &(&Sequence, &LogEntry)| e.ended_unix_ms.is_some() && !e.forgotten;
        self.entries.iter().rev().filter(live).map(|(s, e)| (*s, e))
    }

    /// Sequences begun that have no outcome yet. One that is forgotten is over: prune may have removed its outcome.
    pub fn unfinished(&self) -> impl Iterator<Item = Sequence> {
        let open = |(_, e): &(&Sequence, &LogEntry)| e.ended_unix_ms.is_none() && !e.forgotten;
        self.entries.iter().filter(open).map(|(s, _)| *s)
    }

    fn listed(&mut self, name: ObjectName, info: &ObjectInfo) {
        let modified = Some(info.modified_unix_ms);
        match name {
            ObjectName::Open(_, _, s) => self.entries.entry(s).or_default().opened_unix_ms = modified,
            ObjectName::End(_, _, s) => {
                let entry = self.entries.entry(s).or_default();
                (entry.ended_unix_ms, entry.end_stamp) = (modified, Some(info.stamp));
            }
            ObjectName::Forget(_, _, s) => self.entries.entry(s).or_default().forgotten = true,
            ObjectName::Note(_, _, s, k) => {
                self.notes.entry(s).or_default().insert(k);
                self.entries.entry(s).or_default();
            }
            ObjectName::Alive(_, _, s, k) => {
                self.signs.entry(s).or_default().insert(k, info.modified_unix_ms);
                self.entries.entry(s).or_default();
            }
            _ => {}
        }
    }
}

/// A volume's log in the store.
#[derive(Clone, Copy)]
pub struct Log<'a> {
    pub(super) project: &'a Project,
    pub(super) volume: VolumeNumber,
}

impl<'a> Log<'a> {
    /// Lists a volume's log up to where its numbers end. The tail is what the listing showed: see [`Self::confirmed`].
    pub(crate) async fn read(self) -> Result<VolumeLog> {
        let memory = &self.project.repository().memory;
        let (expected, seen) = (
            memory.sequence(self.project.name(), self.volume),
            memory.live(self.project.name(), self.volume),
        );
        let mut log = self.rows_of(self.listed().await?, expected).await?;
        if log.last() < expected {
            return Err(memory.log_went_back(self.project.name(), self.volume, log.last(), expected));
        }
        self.recall_all(&seen, &mut log).await?;
        Ok(log)
    }

    /// As a listing shows it, whatever this client saw before, and with numbers that no row leads to.
    pub(crate) async fn listed(self) -> Result<VolumeLog> {
        let mut log = VolumeLog::default();
        for info in &self
            .project
            .repository()
            .store()
            .list(&log_prefix(self.project.name(), self.volume), None)
            .await?
        {
            if let Some(name) = ObjectName::parse(&info.key) {
                log.listed(name, info);
            }
        }
        for (sequence, notes) in &log.notes {
            if let Some(entry) = log.entries.get_mut(sequence) {
                // What no row leads to is no note.
                entry.notes = (1..).zip(notes).take_while(|(k, note)| k == *note).count() as u32;
            }
        }
        Ok(log)
    }

    /// Leaves out the numbers that no row leads to, and of which nothing opens.
    pub(crate) async fn rows_of(self, mut log: VolumeLog, expected: Sequence) -> Result<VolumeLog> {
        let listed: BTreeSet<u32> = log.entries.keys().map(|s| s.0).collect();
        let opens = |s| async move {
            let slot = self.slot(Sequence(s));
            let (open, end) = (slot.open_name(), slot.end_name());
            let opens = self.project.look::<OpenRecord>(&open).await?.opens();
            Ok(opens || self.project.look::<EndRecord>(&end).await?.opens())
        };
        let end = Sequence(row::end(&listed, expected.0, opens).await?);
        log.strays = log.entries.split_off(&Sequence(end.0.saturating_add(1))).into_keys().collect();
        if end > log.last() {
            // It was seen before, and the listing lacks it.
            log.entries.entry(end).or_default();
        }
        Ok(log)
    }

    /// Lists a volume's log, confirms its tail by a request that must find nothing, and asks again for what is missing
    /// in between: a short listing never hides a live snapshot, and nothing that does not open does.
    pub async fn confirmed(self) -> Result<VolumeLog> {
        let log = self.read().await?;
        self.confirm(log, Proof::Hidden).await
    }

    /// Confirms what a listing showed.
    pub(crate) async fn confirm(self, mut log: VolumeLog, proof: Proof<'_>) -> Result<VolumeLog> {
        // Numbers of which the listing shows too little, and those of which it shows nothing.
        let mut doubtful: BTreeSet<Sequence> = log.unfinished().chain(log.gaps()).collect();
        doubtful.retain(|sequence| !proof.is_past(*sequence));
        let listed = log.last();
        loop {
            let next = row::follows(log.last().0).map(Sequence);
            doubtful.extend(next);
            let probes = std::mem::take(&mut doubtful).into_iter();
            let probes = probes.map(|s| async move {
                // Nothing ends that was not begun: the tail is confirmed by one request.
                let is_tail = Some(s) == next;
                Ok::<_, Error>((s, self.slot(s).probe(is_tail).await?))
            });
            let found: Vec<_> = stream::iter(probes).buffered(RECORDS_INFLIGHT_MAX).try_collect().await?;
            for (sequence, found) in found {
                let Some(LogEntry { opened_unix_ms, ended_unix_ms, forgotten, .. }) = found else { continue };
                let entry = log.entries.entry(sequence).or_default();
                *entry = LogEntry {
                    opened_unix_ms: entry.opened_unix_ms.or(opened_unix_ms),
                    ended_unix_ms: entry.ended_unix_ms.or(ended_unix_ms),
                    forgotten: entry.forgotten || forgotten,
                    ..*entry
                };
            }
            if next.is_none_or(|next| log.last() < next) {
                break;
            }
            if log.last().0 - listed.0 > row::FOREIGN_MAX && !self.slot(log.last()).opens().await? {
                return Err(row::endless(self.slot(log.last()).open_name()));
            }
        }
        self.prove_forgotten(&mut log, proof).await?;
        Ok(log)
    }

    /// Opens each `.forget` that would hide something, or let it count as over.
    async fn prove_forgotten(self, log: &mut VolumeLog, proof: Proof<'_>) -> Result<()> {
        let wanted = log.entries.iter().filter(|(s, e)| e.forgotten && proof.wants(**s, e)).map(|(s, _)| *s);
        let looks = wanted.map(|s| async move { Ok::<_, Error>((s, self.slot(s).forget_of().await?)) });
        let looks: Vec<_> =
            stream::iter(looks.collect::<Vec<_>>()).buffered(RECORDS_INFLIGHT_MAX).try_collect().await?;
        for (sequence, found) in looks {
            if let Some(entry) = log.entries.get_mut(&sequence) {
                entry.forgotten = found.opens();
            }
            if let Found::Foreign(why) = found {
                log.unproven.insert(sequence, why);
            }
        }
        Ok(())
    }

    pub(super) fn slot(self, sequence: Sequence) -> Slot<'a> {
        self.project.slot(self.volume, sequence)
    }
}
