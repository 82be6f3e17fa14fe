//! Sessions of older generations: every one must be over before a round may decide what is referenced.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::Result;
use crate::format::record::{EndRecord, OpenRecord, VolumeRecord};
use crate::plan::lease::Signs;
use crate::prune::creates::Creates;
use crate::prune::survey::{Known, Survey, stopped, survey};
use crate::prune::{Context, PROBE_PREFIX, PruneReport, Waiting};
use crate::repo::found::Found;
use crate::repo::row;
use crate::units::{Generation, Sequence, SnapshotId};

/// The first wait, and the longest: each is twice the one before.
const WAIT_FIRST: Duration = Duration::from_secs(5);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A session without an outcome.
struct Pending {
    volume: VolumeRecord,
    sequence: Sequence,
    /// `None` where it does not open: it may be of any generation, so it is waited for as for the oldest.
    open: Option<OpenRecord>,
    signs: Signs,
    /// Signs of life that a listing showed, and that were not looked at yet.
    listed: BTreeMap<u32, u64>,
    /// Its last sign of life; 0 for none after the registration.
    alive: u32,
}

impl Pending {
    fn snapshot_id(&self) -> Option<SnapshotId> {
        self.open.as_ref().map(|open| open.snapshot_id)
    }

    fn waiting(&self) -> Waiting {
        Waiting {
            volume: self.volume.name.clone(),
            sequence: self.sequence.0,
            host: self.open.as_ref().map_or("nobody knows where", |open| &open.host).to_owned(),
            process: self.open.as_ref().map_or(0, |open| open.process),
            last_sign_unix_ms: self.signs.last_unix_ms(),
        }
    }
}

/// The wait for the sessions before one round.
pub(super) struct Settling<'a> {
    pub(super) cx: &'a Context,
    pub(super) known: &'a Known,
    pub(super) round: Generation,
    pub(super) creates: &'a mut Creates,
    pub(super) report: &'a mut PruneReport,
}

impl Settling<'_> {
    /// Returns when all sessions registered before a round's generation are over, with a survey that shows it: whoever
    /// registers in an older generation after that will see the new one at its second look, and reference nothing.
    /// `None` when there is something to wait for and that is not wanted.
    pub(super) async fn settle(mut self) -> Result<Option<Survey>> {
        loop {
            let survey = survey(self.cx, self.known, self.round).await?;
            self.report.volumes = survey.volumes.len() as u64;
            let pending = self.pending(&survey).await?;
            if pending.is_empty() {
                self.report.waiting.clear();
                return Ok(Some(survey));
            }
            if !self.wait_for(pending).await? {
                return Ok(None);
            }
        }
    }

    async fn pending(&self, survey: &Survey) -> Result<Vec<Pending>> {
        let mut pending = Vec::new();
        for volume in &survey.volumes {
            for sequence in volume.log.unfinished() {
                let name = self.cx.project.slot(volume.record.number, sequence).open_name();
                let open = self.cx.project.look::<OpenRecord>(&name).await?.opened();
                if open.as_ref().is_some_and(|open| open.generation >= self.round) {
                    continue;
                }
                let entry = volume.log.entries.get(&sequence).copied().unwrap_or_default();
                pending.push(Pending {
                    volume: volume.record.clone(),
                    sequence,
                    open,
                    signs: Signs {
                        opened_unix_ms: entry.opened_unix_ms.unwrap_or(u64::MAX),
                        alive_unix_ms: None,
                    },
                    listed: volume.log.signs.get(&sequence).cloned().unwrap_or_default(),
                    alive: 0,
                });
            }
        }
        Ok(pending)
    }

    /// Waits until all of them are over, ending those whose lease ran out. False when that is not wanted.
    async fn wait_for(&mut self, mut pending: Vec<Pending>) -> Result<bool> {
        let mut wait = WAIT_FIRST;
        let mut named = false;
        loop {
            pending = self.still_pending(pending).await?;
            if pending.is_empty() {
                return Ok(true);
            }
            self.report.waiting = pending.iter().map(Pending::waiting).collect();
            if !named {
                self.name_them();
                named = true;
            }
            if !self.cx.options.wait {
                return Ok(false);
            }
            self.cx.pause(wait).await?;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    /// Those that are not over after another look.
    async fn still_pending(&mut self, pending: Vec<Pending>) -> Result<Vec<Pending>> {
        // Read before the signs of life: one that comes in between counts.
        let now_unix_ms = match self.creates.decide(self.cx).await? {
            true => Some(self.cx.project.store().now_unix_ms(PROBE_PREFIX).await?),
            false => None,
        };
        let mut rest = Vec::new();
        for mut session in pending {
            self.cx.cancel.check()?;
            if is_over(self.cx, &session).await? {
                continue;
            }
            // A process of this machine that is dead commits no more: nobody need wait for its lease. Not where a create may
            // overwrite an outcome that is just landing.
            let open = session.open.as_ref().filter(|_| now_unix_ms.is_some());
            if let Some(reason) = open.and_then(|open| self.cx.project.repository().environment.is_dead(open))
            {
                self.abort(&session, reason).await?;
                continue;
            }
            look_for_signs(self.cx, &mut session).await?;
            match now_unix_ms {
                Some(now) if session.signs.is_expired(now, self.cx.options.lease) => {
                    let silent_s = now.saturating_sub(session.signs.last_unix_ms()) / 1000;
                    self.abort(&session, format!("it gave no sign of life for {silent_s} s")).await?;
                }
                _ => rest.push(session),
            }
        }
        Ok(rest)
    }

    /// Creates the outcome of a session that is over. If it was faster itself, so be it.
    async fn abort(&mut self, session: &Pending, reason: String) -> Result<()> {
        let why = format!("{reason}, and a prune waited for it");
        let (volume, sequence) = (session.volume.number, session.sequence);
        let snapshot_id = session.snapshot_id().unwrap_or(SnapshotId([0; 16]));
        if self.cx.project.slot(volume, sequence).end_as_aborted(snapshot_id, why).await? {
            let told = session.waiting();
            self.cx.progress.warn(&format!(
                "backup {} of {}, begun by process {} on {}, was ended as aborted: {reason}",
                told.sequence, told.volume, told.process, told.host
            ));
            self.report.aborted.push(told);
        }
        Ok(())
    }

    fn name_them(&self) {
        self.cx.progress.phase("waiting for backups", None);
        for one in &self.report.waiting {
            self.cx.progress.warn(&format!(
                "backup {} of {}, begun by process {} on {}, is under way since before this round: {}",
                one.sequence,
                one.volume,
                one.process,
                one.host,
                if self.cx.options.wait {
                    "waiting for it"
                } else {
                    "the next prune goes on when it is over"
                }
            ));
        }
    }
}

/// Whether it has an outcome that opens. What stands there and does not may be a snapshot that cannot be read.
async fn is_over(cx: &Context, session: &Pending) -> Result<bool> {
    let (number, sequence) = (session.volume.number, session.sequence);
    let end = cx.project.slot(number, sequence).end_name();
    match cx.project.look::<EndRecord>(&end).await? {
        Found::Opens(_) => Ok(true),
        Found::Foreign(why) => Err(stopped(format!("{end} does not open: {why}"))),
        Found::Absent => cx.project.slot(number, sequence).is_forgotten().await,
    }
}

/// Looks for its last sign of life: among those that a listing showed, and for those after. They are numbered, so none
/// can hide behind a gap for long.
async fn look_for_signs(cx: &Context, session: &mut Pending) -> Result<()> {
    for _ in 0..row::FOREIGN_MAX {
        let Some((k, at_unix_ms)) = session.listed.pop_last() else { break };
        if k > session.alive && is_sign(cx, session, k).await? == Found::Opens(()) {
            session.alive = k;
            session.signs.alive_unix_ms = session.signs.alive_unix_ms.max(Some(at_unix_ms));
            session.listed.clear();
        }
    }
    let mut foreign = 0;
    let mut number = session.alive;
    while let Some(next) = row::follows(number).filter(|_| foreign <= row::FOREIGN_MAX) {
        number = next;
        match is_sign(cx, session, next).await? {
            Found::Absent => break,
            Found::Foreign(_) => foreign += 1,
            Found::Opens(()) => {
                let name = cx.project.slot(session.volume.number, session.sequence).alive_name(next);
                let info = cx.project.repository().store().head(&name.to_string()).await?;
                session.alive = next;
                let at_unix_ms = info.map(|info| info.modified_unix_ms);
                session.signs.alive_unix_ms = session.signs.alive_unix_ms.max(at_unix_ms);
            }
        }
    }
    Ok(())
}

/// Whether a sign of life opens, and is of this session.
async fn is_sign(cx: &Context, session: &Pending, k: u32) -> Result<Found<()>> {
    let (volume, sequence) = (session.volume.number, session.sequence);
    let found = cx.project.slot(volume, sequence).look_sign(k, session.snapshot_id()).await?;
    Ok(found.map(|_| ()))
}
