//! A volume's log: which backups were begun, how they ended, which are no longer wanted.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::names::log_prefix;
use crate::format::record::{EndRecord, OpenRecord};
use crate::format::roster::RosterEntry;
use crate::repo::Project;
use crate::repo::found::Found;
use crate::repo::retained::Retained;
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
    /// When its `.forget` was stored; `None` also where that is not known.
    pub forgotten_unix_ms: Option<u64>,
    /// Where the numbers of its notes end; 0 for none.
    pub notes: u32,
}

/// A volume's log as a listing shows it.
#[derive(Debug, Clone, Default)]
pub struct VolumeLog {
    /// What the listing shows, by sequence, without what a seal says is over.
    pub entries: BTreeMap<Sequence, LogEntry>,
    /// What a seal says of this log, where one was read.
    pub(crate) known: Option<RosterEntry>,
    /// What the listing shows of sequences that the seal says are over. It counts for nothing.
    pub over: BTreeMap<Sequence, LogEntry>,
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
pub(crate) enum Proof {
    /// What would hide a snapshot.
    Hidden,
    /// Whatever would let a sequence count as over.
    Settled,
}

impl Proof {
    /// Whether a `.forget` must be opened.
    fn wants(self, entry: &LogEntry) -> bool {
        matches!(self, Self::Settled) || entry.ended_unix_ms.is_some()
    }
}

impl VolumeLog {
    /// The highest sequence that there is or was; 0 for none.
    pub fn last(&self) -> Sequence {
        self.entries.last_key_value().map_or(Sequence(0), |(s, _)| *s).max(self.high_water())
    }

    /// The highest sequence that was registered, as far as is known.
    pub(crate) fn last_registered(&self) -> Sequence {
        let registered = self.entries.iter().rev().find(|(_, entry)| entry.opened_unix_ms.is_some());
        registered.map_or(Sequence(0), |(s, _)| *s).max(self.high_water())
    }

    /// Up to here, what the seal does not name is over.
    fn high_water(&self) -> Sequence {
        self.known.as_ref().map_or(Sequence(0), |known| known.high_water)
    }

    /// Goes by what a seal says: what is over counts for nothing, whatever stands under its names (repo-format.md §8.2).
    fn heed(&mut self, known: Option<RosterEntry>) {
        let Some(known) = known else { return };
        (self.over, self.entries) =
            std::mem::take(&mut self.entries).into_iter().partition(|(s, _)| known.is_past(*s));
        self.known = Some(known);
    }

    /// Sequences that must exist, as higher ones do, and do not.
    pub fn gaps(&self) -> Vec<Sequence> {
        let known = self.known.iter().flat_map(|known| known.live.iter().chain(&known.unfinished));
        let above = self.high_water().0.saturating_add(1)..=self.last().0;
        let is_open = |s: &Sequence| self.entries.get(s).is_some_and(|entry| entry.opened_unix_ms.is_some());
        let all = known.copied().chain(above.map(Sequence));
        let mut gaps: Vec<Sequence> = all.filter(|s| !is_open(s)).take(GAPS_MAX).collect();
        gaps.sort_unstable();
        gaps
    }

    /// Sequences with an outcome and not forgotten, newest first. Some may turn out aborted.
    pub fn candidates(&self) -> impl Iterator<Item = (Sequence, &LogEntry)> {
        let live = |(_, e): &(&Sequence, &LogEntry)| e.ended_unix_ms.is_some() && !e.forgotten;
        self.entries.iter().rev().filter(live).map(|(s, e)| (*s, e))
    }

    /// Sequences with an outcome that are forgotten, and not over by a seal. Some may turn out aborted.
    pub(crate) fn forgotten(&self) -> impl Iterator<Item = (Sequence, &LogEntry)> {
        let forgotten = |(_, e): &(&Sequence, &LogEntry)| e.ended_unix_ms.is_some() && e.forgotten;
        self.entries.iter().filter(forgotten).map(|(s, e)| (*s, e))
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
            ObjectName::Alive(_, _, s, k) => {
                self.signs.entry(s).or_default().insert(k, info.modified_unix_ms);
                self.entries.entry(s).or_default();
            }
            _ => {}
        }
    }

    fn retained(&mut self, sequence: Sequence, k: u32, at_unix_ms: Option<u64>) {
        let entry = self.entries.entry(sequence).or_default();
        match k {
            0 => (entry.forgotten, entry.forgotten_unix_ms) = (true, at_unix_ms),
            k => drop(self.notes.entry(sequence).or_default().insert(k)),
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
    /// Lists a volume's log up to where its numbers end, going by the newest seal that this process knows. The tail is what the
    /// listing showed: see [`Self::confirmed`].
    pub(crate) async fn read(self) -> Result<VolumeLog> {
        self.read_by(self.project.rosters().entry(self.volume).await?).await
    }

    /// As [`read`](Self::read), going by what a certain seal says.
    pub(crate) async fn read_by(self, known: Option<RosterEntry>) -> Result<VolumeLog> {
        let memory = &self.project.repository().memory;
        let (expected, seen) = (
            memory.sequence(self.project.name(), self.volume),
            memory.live(self.project.name(), self.volume),
        );
        let mut log = self.rows_of(self.listed_by(known).await?, expected).await?;
        if log.last() < expected {
            return Err(memory.log_went_back(self.project.name(), self.volume, log.last(), expected));
        }
        self.recall_all(&seen, &mut log).await?;
        Ok(log)
    }

    /// As a listing and a seal show it, whatever this client saw before, and with numbers that no row leads to.
    pub(crate) async fn listed_by(self, known: Option<RosterEntry>) -> Result<VolumeLog> {
        let mut log = VolumeLog::default();
        let (store, prefix) =
            (self.project.repository().store(), log_prefix(self.project.name(), self.volume));
        let retained = Retained { project: self.project };
        let (listed, retained) = futures::try_join!(store.list(&prefix, None), retained.of(self.volume))?;
        for info in &listed {
            if let Some(name) = ObjectName::parse(&info.key) {
                log.listed(name, info);
            }
        }
        retained.into_iter().for_each(|((sequence, k), at)| log.retained(sequence, k, at));
        for (sequence, notes) in &log.notes {
            if let Some(entry) = log.entries.get_mut(sequence) {
                // What no row leads to is no note.
                entry.notes = (1..).zip(notes).take_while(|(k, note)| k == *note).count() as u32;
            }
        }
        log.heed(known);
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
        let end = Sequence(row::end(log.high_water().0, &listed, expected.0, opens).await?);
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
        let mut log = self.read().await?;
        // What is missing may have been over by a seal that this process has not seen, and was cleaned away.
        if !log.gaps().is_empty()
            && let Some(newer) = self.project.rosters().newer(self.volume).await?
        {
            log = self.read_by(newer).await?;
        }
        self.confirm(log, Proof::Hidden).await
    }

    /// Confirms what a listing showed.
    pub(crate) async fn confirm(self, mut log: VolumeLog, proof: Proof) -> Result<VolumeLog> {
        // Numbers of which the listing shows too little, and those of which it shows nothing.
        let mut doubtful: BTreeSet<Sequence> = log.unfinished().chain(log.gaps()).collect();
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
    async fn prove_forgotten(self, log: &mut VolumeLog, proof: Proof) -> Result<()> {
        let wanted = log.entries.iter().filter(|(_, e)| e.forgotten && proof.wants(e)).map(|(s, _)| *s);
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
