//! Prunes a project: finds what no live snapshot needs any more and deletes it, beside everything else that goes on.
//!
//! The protocol is that of repo-format.md §8. Any number of prunes may run at once and finish each other's rounds; one
//! may stop for ever at any step. Why nothing is lost: a round condemns names in public before anybody can register in
//! its generation; it waits for every session of older generations; only then it looks, completely, at what is
//! referenced; and only what it condemned and nobody references is deleted, under names that are never made again.
//!
//! One file is one step: `survey` (confirmed catalog and logs), `mark` (what is referenced), `live` (what of it the live index has), `unmarked` (what is
//! not), `lost` (what is missing), `settle` (sessions under way), `round` (begin, seal, end), `others` (what another
//! prune left), `remove` (deleting), `cleanup` (small objects that nobody needs), `sweep` (what crashes left), `creates` (whether
//! the store decides races), `room` (where the store is full). Time is
//! the store's; waiting is handed in.

mod cleanup;
mod creates;
mod live;
mod lost;
mod mark;
mod others;
mod remove;
mod report;
mod room;
mod round;
mod settle;
mod survey;
mod sweep;
mod unmarked;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::format::GC_ENTRIES_MAX;
use crate::format::gc::DoneRecord;
use crate::format::table::ENTRIES_PER_PART_MAX;
use crate::plan::lease::LEASE_DEFAULT;
use crate::plan::marks::MARKS_MAX;
use crate::progress::Progress;
use crate::prune::creates::Creates;
use crate::prune::lost::settle_lost;
use crate::prune::mark::Marker;
use crate::prune::round::{Begun, Start};
use crate::prune::survey::Known;
use crate::prune::sweep::sweep;
use crate::repo::Keeper;
use crate::repo::rounds::{NewestRound, Stage};
use crate::units::{Generation, Sequence, VolumeNumber};

pub use report::{Counted, LostObject, PruneReport, Waiting};

/// Rounds that one run takes part in: its own, others', and more of its own where one cannot hold everything.
const ROUNDS_MAX: u32 = 64;
/// Where objects are made to learn what the store does and what time it has.
const PROBE_PREFIX: &str = "probe";

/// How time passes while a prune waits. Tests and simulations hand in their own.
pub trait Pause: Send + Sync {
    /// Ends after that time, by whatever clock; so late as it likes, never early.
    fn pause(&self, duration: Duration) -> BoxFuture<'_, ()>;
}

/// Real time.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealTime;

impl Pause for RealTime {
    fn pause(&self, duration: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// How a prune is done.
#[derive(Clone)]
pub struct PruneOptions {
    /// Find out what would be deleted, and write nothing.
    pub dry_run: bool,
    /// In a dry run: snapshots that count as if they were forgotten.
    pub as_if_forgotten: Vec<(VolumeNumber, Sequence)>,
    /// Time without a sign of life after which a session is ended as aborted, by the store's clock.
    pub lease: Duration,
    /// What was forgotten less long ago than this, by the store's clock, is kept: it can be recalled.
    pub keep_forgotten: Duration,
    /// Wait for sessions under way. Otherwise the round is left open for the next prune to finish.
    pub wait: bool,
    /// How time passes while sessions are waited for.
    pub pause: Arc<dyn Pause>,
    /// References remembered at once; beyond it the manifests are walked in several passes.
    pub marks_max: usize,
    /// Entries of one part of a live index.
    pub live_part_entries_max: usize,
    /// Objects that one round condemns; more are left to the next round.
    pub condemned_max: usize,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            as_if_forgotten: Vec::new(),
            lease: LEASE_DEFAULT,
            keep_forgotten: Duration::ZERO,
            wait: true,
            pause: Arc::new(RealTime),
            marks_max: MARKS_MAX,
            live_part_entries_max: ENTRIES_PER_PART_MAX,
            condemned_max: GC_ENTRIES_MAX,
        }
    }
}

/// What every step is handed.
struct Context {
    project: Keeper,
    options: PruneOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
}

/// The rounds that a run begins and finishes: what it has learned so far, and what the next is to know of the last.
struct Prune {
    cx: Context,
    marker: Marker,
    /// What the last seal says, against which all is held.
    known: Known,
    /// The round that this run began last.
    begun: Option<Generation>,
    /// The round whose seal this run carried out. In a full store its end may have to be tried again, and what is deleted once
    /// more frees nothing.
    carried_out: Option<Generation>,
    /// The store took nothing more: what is not needed is not written until something was deleted.
    scarce: bool,
    /// The round that this run ended last.
    ended: Option<DoneRecord>,
    creates: Creates,
    report: PruneReport,
}

/// Prunes a project.
///
/// # Errors
/// `Corrupt` when a manifest, a log or a round is damaged or shrank: nothing is deleted then, and a round that was begun
/// stays open. `Interrupted` when cancelled. Whatever ends it, the next prune goes on from there.
pub async fn run(
    project: &Keeper,
    options: PruneOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<PruneReport> {
    let (started, before) = (Instant::now(), project.repository().store().ledger());
    let mut prune = Prune {
        marker: Marker::new(options.marks_max, project.repository().cache.scratch()),
        known: Known::default(),
        begun: None,
        carried_out: None,
        scarce: false,
        ended: None,
        creates: Creates::default(),
        report: PruneReport {
            project: project.name().to_string(),
            dry_run: options.dry_run,
            ..PruneReport::default()
        },
        cx: Context { project: project.clone(), options, progress, cancel },
    };
    match prune.cx.options.dry_run {
        true => prune.dry_run().await?,
        false => {
            // What is recorded as lost is looked out for: the record goes when nobody needs it.
            prune.marker.suspects.recorded = project.lost_records().read().await?.names().copied().collect();
            prune.rounds_in_any_room().await?;
            prune.report.deleted_records += settle_lost(&prune.cx, &prune.marker.suspects).await?;
            prune.report.swept = sweep(&prune.cx).await?;
        }
    }
    let mut report = prune.report;
    (report.pages, report.marks) = (prune.marker.pages, prune.marker.marks_most as u64);
    report.ledger = project.repository().store().ledger() - before;
    report.seconds = started.elapsed().as_secs_f64();
    project.repository().memory.flush();
    Ok(report)
}

impl Prune {
    /// Finishes what others began, and does a round of its own if there is anything to delete.
    async fn rounds(&mut self) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            self.cx.cancel.check()?;
            let rounds = self.cx.project.rounds().newest().await?;
            let newest = rounds.newest;
            let ended = self.one_round(rounds).await;
            // One that this run began does not overtake it.
            let newest = self.begun.map_or(newest, |begun| begun.max(newest));
            if self.unless_overtaken(newest, ended).await?.is_some_and(|is_all| is_all) {
                return Ok(());
            }
        }
        Err(Error::unavailable(format!("{ROUNDS_MAX} prune rounds, and there still is something to delete"))
            .help("run the same command again"))
    }

    /// Goes on from what the newest round came to. Whether that was all there is to do.
    async fn one_round(&mut self, rounds: NewestRound) -> Result<bool> {
        let newest = rounds.newest;
        // Where its end could not be written, this run knows all the same that it is over.
        let ended = self.ended.as_ref().filter(|done| done.generation == newest).map(|done| done.last_seal);
        let started = match (rounds.stage, ended) {
            (Stage::Over { last_seal }, _) => self.begin(newest, last_seal, false).await?,
            (_, Some(last_seal)) => self.begin(newest, last_seal, true).await?,
            (Stage::Begun(begin), None) => {
                if self.begun != Some(begin.generation) {
                    self.report.rounds_joined += 1;
                }
                Start::Begun(Begun::found(begin))
            }
            (Stage::Unreadable(why), None) => {
                self.end_without_begin(newest, &why).await?;
                return Ok(false);
            }
        };
        let began = match started {
            Start::Nothing => return Ok(true),
            Start::Taken => return Ok(false),
            Start::Begun(began) => began,
        };
        // Where there was little room, only the next look tells whether that was all.
        let more = began.more || self.scarce;
        let done = self.finish(began).await?;
        self.scarce = false;
        Ok(match done {
            round::Outcome::Again => false,
            round::Outcome::Done => !more,
            round::Outcome::Waiting => true,
        })
    }

    /// What is missing to a run that goes by one round may have been cleaned up, rightly, by those that began after it: `None` then,
    /// and all is looked at anew.
    async fn unless_overtaken<T>(&mut self, newest: Generation, done: Result<T>) -> Result<Option<T>> {
        match done {
            Err(e)
                if e.kind() == ErrorKind::Corrupt
                    && self.cx.project.rounds().newest().await?.newest > newest =>
            {
                self.marker.forget();
                Ok(None)
            }
            done => done.map(Some),
        }
    }

    /// Looks what a prune would do.
    async fn dry_run(&mut self) -> Result<()> {
        // What is forgotten just now is kept for a while.
        let left_out = &self.cx.options.as_if_forgotten[..];
        let is_kept = !self.cx.options.keep_forgotten.is_zero();
        self.marker.only_look(if is_kept { &[] } else { left_out });
        loop {
            let rounds = self.cx.project.rounds().newest().await?;
            self.report.round_open = !matches!(rounds.stage, Stage::Over { .. });
            let last_seal = match rounds.stage {
                Stage::Over { last_seal } => last_seal,
                Stage::Begun(begin) => begin.last_seal,
                Stage::Unreadable(_) => self.cx.project.rounds().preceding(rounds.newest).await?.last_seal,
            };
            let looked = self.look(rounds.newest, last_seal).await;
            if let Some(found) = self.unless_overtaken(rounds.newest, looked).await? {
                let live_parts = self.marker.live.parts(self.cx.options.live_part_entries_max);
                self.report.estimate(found.entries.len(), live_parts);
                return Ok(());
            }
        }
    }
}

impl Context {
    /// Waits, unless it is cancelled meanwhile.
    async fn pause(&self, duration: Duration) -> Result<()> {
        let mut cancel = self.cancel.clone();
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(crate::cancel::interrupted()),
            () = self.options.pause.pause(duration) => Ok(()),
        }
    }
}
