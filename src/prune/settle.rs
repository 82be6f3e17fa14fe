//! Sessions of older generations: every one must be over before a round may decide what is referenced.

use std::time::Duration;

use crate::error::Result;
use crate::format::ObjectName;
use crate::format::record::{OpenRecord, VolumeRecord};
use crate::plan::lease::Signs;
use crate::prune::survey::Survey;
use crate::prune::{PROBE_PREFIX, Prune, Waiting};
use crate::repo::project::missing;
use crate::units::{Generation, Sequence};

/// The first wait, and the longest: each is twice the one before.
const WAIT_FIRST: Duration = Duration::from_secs(5);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A session without an outcome.
struct Pending {
    volume: VolumeRecord,
    sequence: Sequence,
    open: OpenRecord,
    signs: Signs,
    /// Its last sign of life; 0 for none after the registration.
    alive: u32,
}

impl Pending {
    fn waiting(&self) -> Waiting {
        Waiting {
            volume: self.volume.name.clone(),
            sequence: self.sequence.0,
            host: self.open.host.clone(),
            process: self.open.process,
            last_sign_unix_ms: self.signs.last_unix_ms(),
        }
    }
}

impl Prune {
    /// Returns when all sessions registered before a round's generation are over, with a survey that shows it: whoever
    /// registers in an older generation after that will see the new one at its second look, and reference nothing.
    /// `None` when there is something to wait for and that is not wanted.
    pub(super) async fn settle(&mut self, round: Generation) -> Result<Option<Survey>> {
        loop {
            let survey = self.survey().await?;
            let pending = self.pending(&survey, round).await?;
            if pending.is_empty() {
                self.report.waiting.clear();
                return Ok(Some(survey));
            }
            if !self.wait_for(pending).await? {
                return Ok(None);
            }
        }
    }

    async fn pending(&self, survey: &Survey, round: Generation) -> Result<Vec<Pending>> {
        let mut pending = Vec::new();
        for volume in &survey.volumes {
            for sequence in volume.log.unfinished() {
                let name = ObjectName::Open(self.project.name().clone(), volume.record.number, sequence);
                let open: OpenRecord =
                    self.project.read_record(&name).await?.ok_or_else(|| missing(&name))?;
                if open.generation >= round {
                    continue;
                }
                let entry = volume.log.entries.get(&sequence).copied().unwrap_or_default();
                pending.push(Pending {
                    volume: volume.record.clone(),
                    sequence,
                    open,
                    signs: Signs {
                        opened_unix_ms: entry.opened_unix_ms.unwrap_or(u64::MAX),
                        alive_unix_ms: entry.alive_unix_ms,
                    },
                    alive: entry.alive,
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
            if !self.options.wait {
                return Ok(false);
            }
            self.pause(wait).await?;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    /// Those that are not over after another look.
    async fn still_pending(&mut self, pending: Vec<Pending>) -> Result<Vec<Pending>> {
        // Read before the signs of life: one that comes in between counts.
        let now_unix_ms = match self.creates_decide().await? {
            true => Some(self.project.repository().store.now_unix_ms(PROBE_PREFIX).await?),
            false => None,
        };
        let mut rest = Vec::new();
        for mut session in pending {
            self.cancel.check()?;
            if self.is_over(&session).await? {
                continue;
            }
            // A process of this machine that is dead commits no more: nobody need wait for its lease. Not where a create may
            // overwrite an outcome that is just landing.
            if let Some(reason) = now_unix_ms.and_then(|_| self.project.is_dead(&session.open)) {
                self.abort(&session, reason).await?;
                continue;
            }
            self.look_for_signs(&mut session).await?;
            match now_unix_ms {
                Some(now) if session.signs.is_expired(now, self.options.lease) => {
                    let silent_s = now.saturating_sub(session.signs.last_unix_ms()) / 1000;
                    self.abort(&session, format!("it gave no sign of life for {silent_s} s")).await?;
                }
                _ => rest.push(session),
            }
        }
        Ok(rest)
    }

    async fn is_over(&self, session: &Pending) -> Result<bool> {
        let (number, sequence) = (session.volume.number, session.sequence);
        let end = ObjectName::End(self.project.name().clone(), number, sequence).to_string();
        let ended = self.project.repository().store.head(&end).await?.is_some();
        Ok(ended || self.project.is_forgotten(number, sequence).await?)
    }

    /// Asks for signs of life that no listing showed. They are numbered, so none can hide behind a gap for long.
    async fn look_for_signs(&self, session: &mut Pending) -> Result<()> {
        loop {
            let next = session.alive.saturating_add(1);
            let (number, sequence) = (session.volume.number, session.sequence);
            let name = ObjectName::Alive(self.project.name().clone(), number, sequence, next);
            let Some(info) = self.project.repository().store.head(&name.to_string()).await? else {
                return Ok(());
            };
            session.alive = next;
            session.signs.alive_unix_ms = session.signs.alive_unix_ms.max(Some(info.modified_unix_ms));
        }
    }

    /// Creates the outcome of a session that is over. If it was faster itself, so be it.
    async fn abort(&mut self, session: &Pending, reason: String) -> Result<()> {
        let why = format!("{reason}, and a prune waited for it");
        let (volume, sequence) = (session.volume.number, session.sequence);
        if self.project.end_as_aborted(volume, sequence, &session.open, why).await? {
            let told = session.waiting();
            self.progress.warn(&format!(
                "backup {} of {}, begun by process {} on {}, was ended as aborted: {reason}",
                told.sequence, told.volume, told.process, told.host
            ));
            self.report.aborted.push(told);
        }
        Ok(())
    }

    fn name_them(&self) {
        self.progress.phase("waiting for backups", None);
        for one in &self.report.waiting {
            self.progress.warn(&format!(
                "backup {} of {}, begun by process {} on {}, is under way since before this round: {}",
                one.sequence,
                one.volume,
                one.process,
                one.host,
                if self.options.wait { "waiting for it" } else { "the next prune goes on when it is over" }
            ));
        }
    }
}
