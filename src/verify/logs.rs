//! One volume's log: every record of every sequence.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::record::{EndRecord, ForgetRecord, NoteRecord, OpenRecord, Outcome, Snapshot};
use crate::format::roster::RosterEntry;
use crate::plan::roster::VolumeState;
use crate::repo::log::{LogEntry, Proof, VolumeLog};
use crate::repo::memory::SeenSnapshot;
use crate::units::{Sequence, SnapshotId, VolumeNumber};
use crate::verify::audit::Audit;
use crate::verify::report::{Flaw, Hurt, Problem};
use crate::verify::subject::{Subject, whole};

/// Records of a log read at once.
const RECORDS_INFLIGHT_MAX: usize = 16;

/// A flaw, the object it is of, and the snapshot that is lost by it.
pub(crate) type Finding = (String, Flaw, Option<Hurt>);

/// A volume as findings name it.
pub(crate) struct VolumeInfo {
    pub(crate) number: VolumeNumber,
    pub(crate) name: Arc<str>,
}

/// What was found in a log, or for one sequence of it.
#[derive(Default)]
pub(crate) struct LogAudit {
    pub(crate) subjects: Vec<Subject>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) unfinished: u64,
    /// What a roster is held against.
    pub(crate) state: VolumeState,
}

impl LogAudit {
    fn flaw(&mut self, name: &ObjectName, flaw: Flaw) {
        self.findings.push((name.to_string(), flaw, None));
    }

    fn or_flaw<T>(&mut self, name: &ObjectName, found: std::result::Result<T, Flaw>) -> Option<T> {
        found.map_err(|flaw| self.flaw(name, flaw)).ok()
    }
}

/// Reads a volume's whole log.
pub(crate) async fn read(
    audit: &Audit,
    number: VolumeNumber,
    name: Arc<str>,
    known: Option<RosterEntry>,
) -> Result<LogAudit> {
    audit.cancel.check()?;
    let volume = VolumeInfo { number, name };
    let mut out = LogAudit::default();
    let log = volume_log(audit, &volume, known, &mut out).await?;
    for name in wrongly_over(audit, &volume, &log).await? {
        let message = "it is a snapshot that nobody forgot, and the last seal says that it is over";
        out.flaw(&name, Flaw::damaged(message));
    }
    for (sequence, why) in &log.unproven {
        out.flaw(&audit.project.slot(number, *sequence).forget_name(), Flaw::damaged(why.as_str()));
    }
    for stray in &log.strays {
        let message = "it does not open, and no number leads to it";
        out.flaw(&audit.project.slot(number, *stray).open_name(), Flaw::damaged(message));
    }
    for (sequence, notes) in &log.notes {
        let last = log.entries.get(sequence).map_or(0, |entry| entry.notes);
        for k in notes.range(last.saturating_add(1)..) {
            let name = ObjectName::Note(audit.project.name().clone(), number, *sequence, *k);
            out.flaw(&name, Flaw::damaged("no number leads to it"));
        }
    }
    out.state.last = log.last();
    let forgotten = log.entries.iter().filter(|(_, entry)| entry.forgotten);
    out.state.forgotten = forgotten.map(|(sequence, _)| *sequence).collect();
    let all = stream::iter(log.entries)
        .map(|(sequence, entry)| {
            let volume = &volume;
            async move { read_sequence(audit, volume, sequence, &entry).await }
        })
        .buffered(RECORDS_INFLIGHT_MAX);
    tokio::pin!(all);
    while let Some(one) = all.try_next().await? {
        out.state.live.extend(one.state.live);
        out.subjects.extend(one.subjects);
        out.findings.extend(one.findings);
        out.unfinished += one.unfinished;
    }
    Ok(out)
}

/// Outcomes of snapshots that the last seal calls over, and that nobody forgot: it is wrong or forged.
async fn wrongly_over(audit: &Audit, volume: &VolumeInfo, log: &VolumeLog) -> Result<Vec<ObjectName>> {
    let mut wrongly = Vec::new();
    let is_whole = |e: &LogEntry| e.opened_unix_ms.is_some() && e.ended_unix_ms.is_some();
    for sequence in log.over.iter().filter(|(_, e)| is_whole(e)).map(|(s, _)| *s) {
        let slot = audit.project.slot(volume.number, sequence);
        let end = audit.record::<EndRecord>(&slot.end_name()).await?;
        let is_snapshot = end.is_ok_and(|end| matches!(end.outcome, Outcome::Committed(_)));
        if is_snapshot && !slot.is_forgotten().await? {
            wrongly.push(slot.end_name());
        }
    }
    Ok(wrongly)
}

async fn volume_log(
    audit: &Audit,
    volume: &VolumeInfo,
    known: Option<RosterEntry>,
    out: &mut LogAudit,
) -> Result<VolumeLog> {
    let project = &audit.project;
    let name = |s| ObjectName::Open(project.name().clone(), volume.number, s);
    let memory = &project.repository().memory;
    let expected = memory.sequence(project.name(), volume.number);
    let seen = memory.live(project.name(), volume.number);
    let mut listed = project.log(volume.number).listed_by(known).await?;
    if !listed.gaps().is_empty()
        && let Some(newer) = project.rosters().newer(volume.number).await?
    {
        // Rounds that ended since may have cleaned up.
        listed = project.log(volume.number).listed_by(newer).await?;
    }
    let mut log = project.log(volume.number).rows_of(listed, expected).await?;
    for gone in project.log(volume.number).missing_of(&seen, &mut log).await? {
        let message = memory.went_back(gone.what).to_string();
        out.flaw(&gone.object, Flaw { problem: Problem::WentBack, message });
    }
    let log = project.log(volume.number).confirm(log, Proof::Hidden).await?;
    if log.last() < expected {
        let error = memory.log_went_back(project.name(), volume.number, log.last(), expected);
        out.flaw(&name(log.last()), Flaw { problem: Problem::WentBack, message: error.to_string() });
    }
    for sequence in log.gaps() {
        let message = format!("{} exists, so this must", log.last());
        out.flaw(&name(sequence), Flaw { problem: Problem::Gap, message });
    }
    Ok(log)
}

/// All records of one sequence.
pub(crate) async fn read_sequence(
    audit: &Audit,
    volume: &VolumeInfo,
    sequence: Sequence,
    entry: &LogEntry,
) -> Result<LogAudit> {
    let out = records(audit, volume, sequence, entry).await?;
    let misses = out.findings.iter().any(|(_, flaw, _)| flaw.problem == Problem::Missing);
    // It may be over since the log was listed, and cleaned away.
    if misses && audit.project.rosters().is_past(volume.number, sequence).await? {
        return Ok(LogAudit::default());
    }
    Ok(out)
}

async fn records(
    audit: &Audit,
    volume: &VolumeInfo,
    sequence: Sequence,
    entry: &LogEntry,
) -> Result<LogAudit> {
    let (p, n) = (audit.project.name().clone(), volume.number);
    let mut out = LogAudit::default();
    let mut ids: Vec<(ObjectName, SnapshotId)> = Vec::new();
    if entry.opened_unix_ms.is_some() {
        let name = ObjectName::Open(p.clone(), n, sequence);
        if let Some(open) = out.or_flaw(&name, audit.record::<OpenRecord>(&name).await?) {
            ids.push((name, open.snapshot_id));
        }
    }
    let name = ObjectName::End(p.clone(), n, sequence);
    let end = audit.record::<EndRecord>(&name).await?;
    let mut forgotten = entry.forgotten;
    if let Err(flaw) = &end
        && flaw.problem == Problem::Missing
        && entry.ended_unix_ms.is_some()
    {
        // Perhaps it was forgotten, and a prune removed its outcome, since the log was listed.
        forgotten = forgotten || audit.project.slot(n, sequence).is_gone().await?;
    }
    if forgotten {
        let name = ObjectName::Forget(p.clone(), n, sequence);
        if let Some(forget) = out.or_flaw(&name, audit.record::<ForgetRecord>(&name).await?) {
            ids.push((name, forget.snapshot_id));
        }
    }
    let mut newest = Newest::default();
    for k in 1..=entry.notes {
        let name = ObjectName::Note(p.clone(), n, sequence, k);
        match audit.record::<NoteRecord>(&name).await? {
            Err(flaw) if flaw.problem == Problem::Missing && forgotten => {}
            found => {
                newest = out
                    .or_flaw(&name, found)
                    .map_or(newest, |note| Newest { number: k, protects: note.protected })
            }
        }
    }
    let end = match end {
        Ok(end) => Some(end),
        // Prune may have removed the outcome of what is forgotten.
        Err(flaw) if flaw.problem == Problem::Missing && (forgotten || entry.ended_unix_ms.is_none()) => {
            out.unfinished += u64::from(!forgotten);
            forgotten = true;
            None
        }
        Err(flaw) => {
            let hurt = (!forgotten).then(|| whole(volume.name.to_string(), sequence));
            out.findings.push((name.to_string(), flaw, hurt));
            // It is told of already.
            out.state.live.insert(sequence);
            None
        }
    };
    if let Some(end) = end {
        ids.push((name.clone(), end.snapshot_id));
        if let (false, Outcome::Committed(snapshot)) = (forgotten, end.outcome) {
            out.state.live.insert(sequence);
            match subject(audit, volume, sequence, end.snapshot_id, &snapshot) {
                Ok(subject) => {
                    recall(audit, &subject, newest, &name, &mut out);
                    out.subjects.push(subject);
                }
                Err(e) => {
                    let hurt = Some(whole(volume.name.to_string(), sequence));
                    out.findings.push((name.to_string(), Flaw::of(e)?, hurt));
                }
            }
        }
    }
    if let Some((first, id)) = ids.first().cloned() {
        for (name, other) in ids.iter().filter(|(_, other)| *other != id) {
            out.flaw(name, Flaw::damaged(format!("it is of snapshot {other}, {first} of {id}")));
        }
    }
    Ok(out)
}

/// The newest note of a snapshot.
#[derive(Clone, Copy, Default)]
struct Newest {
    number: u32,
    protects: bool,
}

/// Holds a live snapshot against what this host saw, and remembers it with its newest note.
fn recall(audit: &Audit, subject: &Subject, newest: Newest, name: &ObjectName, out: &mut LogAudit) {
    let (project, memory) = (audit.project.name(), &audit.project.repository().memory);
    let (volume, sequence, id) = (subject.volume, subject.sequence, subject.snapshot_id);
    match memory.check_snapshot(project, volume, sequence, id) {
        Err(e) => out.flaw(name, Flaw { problem: Problem::WentBack, message: e.to_string() }),
        Ok(()) => {
            let seen = SeenSnapshot::new(sequence, id).with_note(newest.number, newest.protects);
            memory.saw_snapshot(project, volume, seen);
        }
    }
}

fn subject(
    audit: &Audit,
    volume: &VolumeInfo,
    sequence: Sequence,
    snapshot_id: SnapshotId,
    snapshot: &Snapshot,
) -> Result<Subject> {
    let found = (snapshot.volume, snapshot.sequence, snapshot.chunk_size_bytes);
    let expected = (volume.number, sequence, audit.project.chunk_size_bytes());
    if found != expected {
        return Err(Error::corrupt(format!(
            "it holds snapshot {} of volume {} with chunks of {} bytes, expected {} of {} with {}",
            found.1, found.0, found.2, expected.1, expected.0, expected.2
        )));
    }
    Ok(Subject {
        volume: volume.number,
        volume_name: Arc::clone(&volume.name),
        sequence,
        snapshot_id,
        generation: snapshot.generation,
        geometry: snapshot.geometry()?,
        origin: (snapshot.identity.clone(), snapshot.point.clone()),
        root: Some(Arc::new(snapshot.root_page()?)),
    })
}
