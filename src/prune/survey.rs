//! The catalog and all logs, confirmed: which sequences there are, and that nothing is missing among them.

use std::collections::{BTreeMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::gc::RosterPart;
use crate::format::record::{EndRecord, OpenRecord, Outcome, VolumeRecord};
use crate::format::roster::RosterEntry;
use crate::prune::{Context, PROBE_PREFIX};
use crate::repo::found::Found;
use crate::repo::log::{LogEntry, Proof, VolumeLog};
use crate::units::{Generation, Sequence, VolumeNumber};

/// Logs read at once.
const LOGS_INFLIGHT_MAX: usize = 8;

/// A project's volumes, by number.
pub(super) struct Survey {
    pub(super) volumes: Vec<Surveyed>,
    /// Of what is forgotten, what is kept all the same.
    pub(super) kept: Kept,
}

/// Forgotten snapshots that can still be recalled.
pub(super) type Kept = HashSet<(VolumeNumber, Sequence)>;

/// One volume and its log.
pub(super) struct Surveyed {
    pub(super) record: VolumeRecord,
    /// As the last seal and a listing show it, confirmed.
    pub(super) log: VolumeLog,
}

/// The roster of the newest seal.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// 0 for none.
    pub(super) last_seal: Generation,
    /// It repeats what another seal said.
    copied: bool,
    roster: Vec<RosterEntry>,
    /// The objects that hold it.
    pub(super) parts: Vec<RosterPart>,
}

impl Known {
    /// Reads the roster of a seal.
    pub(super) async fn read(cx: &Context, last_seal: Generation) -> Result<Self> {
        if last_seal == Generation(0) {
            return Ok(Self::default());
        }
        let (parts, copied) = match cx.project.rounds().look_seal(last_seal).await? {
            Found::Opens(seal) => (seal.roster, seal.copied),
            Found::Absent => {
                return Err(stopped(format!("round {last_seal} was sealed, and its seal is gone")));
            }
            Found::Foreign(why) => {
                let name = ObjectName::GcSeal(cx.project.name().clone(), last_seal);
                return Err(stopped(format!("{name} does not open: {why}")));
            }
        };
        let said = cx.project.rounds().roster_said(last_seal, &parts);
        let roster = said.all(&cx.project).await.map_err(|e| match e.kind() {
            ErrorKind::Corrupt => stopped(e.to_string()),
            _ => e,
        })?;
        Ok(Self { last_seal, copied, roster, parts })
    }

    /// Whether what it does not call over can be kept in a round: a seal between, that does not open any more, may have given it up.
    fn may_keep_in(&self, round: Generation) -> bool {
        self.last_seal.0.checked_add(1) == Some(round.0) && !self.copied
    }

    pub(super) fn roster(&self) -> &[RosterEntry] {
        &self.roster
    }
}

/// Reads the catalog and all logs, confirmed by requests that must find nothing, for a round that is under way or may be begun.
pub(super) async fn survey(cx: &Context, known: &Known, round: Generation) -> Result<Survey> {
    cx.cancel.check()?;
    cx.progress.phase("logs", None);
    cx.project.look_again();
    let catalog = cx.project.volumes().confirmed().await?;
    for (number, why) in catalog.foreign() {
        // What was planted has no log; what has one is a volume, and its snapshots count.
        if cx.project.volumes().may_be(*number).await? {
            return Err(stopped(format!("catalog entry {number} does not open, and has a log: {why}")));
        }
    }
    let may_keep = known.may_keep_in(round);
    let mut known: BTreeMap<VolumeNumber, RosterEntry> =
        known.roster().iter().map(|entry| (entry.volume, entry.clone())).collect();
    let volumes: Vec<_> = catalog.entries().iter().map(|r| (r.clone(), known.remove(&r.number))).collect();
    let volumes: Vec<Surveyed> = stream::iter(volumes)
        .map(|(record, known)| surveyed(cx, record, known))
        .buffered(LOGS_INFLIGHT_MAX)
        .try_collect()
        .await?;
    let kept = if may_keep { kept(cx, &volumes).await? } else { Kept::new() };
    Ok(Survey { volumes, kept })
}

/// What was forgotten not long ago, of what the last seal does not say is over: of that something was deleted, perhaps. That a time is unknown, or the clock was
/// put back, keeps it longer.
async fn kept(cx: &Context, volumes: &[Surveyed]) -> Result<Kept> {
    let window_ms = cx.options.keep_forgotten.as_millis() as u64;
    let forgotten = volumes.iter().flat_map(|volume| {
        volume.log.forgotten().map(|(s, entry)| ((volume.record.number, s), entry.forgotten_unix_ms))
    });
    let forgotten: Vec<_> = forgotten.collect();
    if window_ms == 0 || forgotten.is_empty() {
        return Ok(Kept::new());
    }
    // An object of one's own tells the store's time; who only looks makes none.
    let now_unix_ms = match cx.options.dry_run {
        true => cx.project.repository().environment.clock.now_unix_ms(),
        false => cx.project.store().now_unix_ms(PROBE_PREFIX).await?,
    };
    let is_young = |at: Option<u64>| at.is_none_or(|at| now_unix_ms.saturating_sub(at) < window_ms);
    Ok(forgotten.into_iter().filter(|(_, at)| is_young(*at)).map(|(at, _)| at).collect())
}

async fn surveyed(cx: &Context, record: VolumeRecord, known: Option<RosterEntry>) -> Result<Surveyed> {
    let log = cx.project.log(record.number).read_by(known).await?;
    let log = cx.project.log(record.number).confirm(log, Proof::Settled).await?;
    let volume = Surveyed { record, log };
    check_over(cx, &volume).await?;
    let (name, number) = (&volume.record.name, volume.record.number);
    for gap in volume.log.gaps() {
        // One that was ended as aborted is over, whatever became of its registration.
        let ended = volume.log.entries.get(&gap).filter(|entry| entry.ended_unix_ms.is_some());
        // No outcome is taken from the cache: what is kept rests on them.
        let ended = ended.map(|entry| LogEntry { end_stamp: None, ..*entry });
        if let Some(entry) = ended
            && cx
                .project
                .history(&volume.record)
                .outcome(gap, &entry)
                .await
                .is_ok_and(|found| found.is_none())
        {
            continue;
        }
        let open = cx.project.slot(number, gap).open_name();
        let last = volume.log.last();
        return Err(stopped(format!(
            "sequence {gap} of volume {name} is missing, though its log goes on to {last}: {open}"
        )));
    }
    if let Some((sequence, why)) = volume.log.unproven.first_key_value() {
        let forget = cx.project.slot(number, *sequence).forget_name();
        return Err(stopped(format!(
            "{forget} does not open, and may or may not forget {name}@{sequence}: {why}"
        )));
    }
    Ok(volume)
}

/// What a seal calls over was aborted or forgotten. Where the records of a sequence say that it is a snapshot, and that nobody
/// forgot it, the seal is wrong or forged, and nothing may rest on it. What late creates bring back are single records.
async fn check_over(cx: &Context, volume: &Surveyed) -> Result<()> {
    let is_whole = |(_, e): &(&Sequence, &LogEntry)| e.opened_unix_ms.is_some() && e.ended_unix_ms.is_some();
    for (&sequence, _) in volume.log.over.iter().filter(is_whole) {
        let slot = cx.project.slot(volume.record.number, sequence);
        let Found::Opens(end) = cx.project.look::<EndRecord>(&slot.end_name()).await? else { continue };
        // A listing may show a registration that is gone, beside an outcome that a late create brought back.
        if !cx.project.look::<OpenRecord>(&slot.open_name()).await?.opens() {
            continue;
        }
        if matches!(end.outcome, Outcome::Committed(_)) && !slot.is_forgotten().await? {
            return Err(stopped(format!(
                "{} is a snapshot that nobody forgot, and the last seal says that it is over",
                slot.end_name()
            )));
        }
    }
    Ok(())
}

/// Something is missing or hurt: nothing is deleted until a person looked at it.
pub(super) fn stopped(what: String) -> Error {
    Error::corrupt(format!("nothing is deleted: {what}")).help(
        "run `cuttle verify` to see what is hurt; bring it back from the bucket's older versions, or forget the \
         snapshots that need it, then prune again. What does not open and nobody misses is put aside by \
         `cuttle verify --quarantine NAME`",
    )
}
