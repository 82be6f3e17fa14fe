//! Forgetting by name: what the user says, unless it is protected.

use std::collections::BTreeMap;

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::forget::{Fate, ForgetReport, Judged, PROTECTED, carry_out};
use crate::format::record::{OpenRecord, VolumeRecord};
use crate::repo::Keeper;
use crate::repo::catalog::Catalog;
use crate::repo::notes::{Note, Noted};
use crate::units::{Sequence, VolumeName};

/// Forgets the snapshots that are named; with `dry_run`, only says what that would mean.
///
/// One that is protected is refused, one that is not found is among the report's failures; the others are forgotten all
/// the same. A snapshot whose own record is damaged can be forgotten by its number, `VOLUME@SEQ`.
///
/// # Errors
/// A store that does not answer, an interruption.
pub async fn by_name(
    project: &Keeper,
    specs: &[String],
    dry_run: bool,
    cancel: Cancel,
) -> Result<ForgetReport> {
    let before = project.repository().store().ledger();
    let catalog = project.volumes().confirmed().await?;
    let mut report = ForgetReport::new(project, dry_run);
    for spec in specs {
        cancel.check()?;
        match find(project, &catalog, spec).await {
            Ok(judged) if report.snapshots.iter().any(|known| known.noted == judged.noted) => {}
            Ok(judged) => report.snapshots.push(judged),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Corrupt) => {
                report.failures.push((spec.clone(), e));
            }
            Err(e) => return Err(e),
        }
    }
    report
        .snapshots
        .sort_by(|a, b| (&a.volume_name, a.noted.sequence).cmp(&(&b.volume_name, b.noted.sequence)));
    tell_what_goes(project, &catalog, &mut report.snapshots).await?;
    if !dry_run {
        carry_out(project, &mut report.snapshots, &cancel, || Fate::Refused).await?;
    }
    report.ledger = project.repository().store().ledger() - before;
    Ok(report)
}

async fn find(project: &Keeper, catalog: &Catalog, spec: &str) -> Result<Judged> {
    if let Some(volume) = spec.parse::<VolumeName>().ok().and_then(|name| catalog.by_name(&name)) {
        // Elsewhere this means the newest. Here it might be taken for all.
        return Err(Error::invalid(format!("{spec} is a volume: which of its snapshots is meant?"))
            .help(format!("for example {0}@3 or {0}@latest; see `cuttle snapshots {0}`", volume.name)));
    }
    match project.volumes().snapshot(spec).await {
        Ok(entry) if entry.protected => Ok(Judged::new(&entry, Fate::Refused, vec![PROTECTED.to_owned()])),
        Ok(entry) => Ok(Judged::new(&entry, Fate::Forgotten, Vec::new())),
        Err(e) if e.kind() == ErrorKind::Corrupt => match damaged(project, catalog, spec).await? {
            Some(judged) => Ok(judged),
            None => Err(e),
        },
        Err(e) => Err(e),
    }
}

/// A snapshot that is named by its number and whose own record cannot be read. It would stop every prune.
async fn damaged(project: &Keeper, catalog: &Catalog, spec: &str) -> Result<Option<Judged>> {
    let Some((volume, number)) = spec.rsplit_once('@') else { return Ok(None) };
    let volume = volume.parse::<VolumeName>().ok().and_then(|name| catalog.by_name(&name));
    let (Some(volume), Ok(number)) = (volume, number.parse::<u32>()) else { return Ok(None) };
    let log = project.log(volume.number).confirmed().await?;
    let found = log.candidates().find(|(sequence, _)| sequence.0 == number);
    let Some((sequence, entry)) = found else { return Ok(None) };
    let open = project.look::<OpenRecord>(&project.slot(volume.number, sequence).open_name()).await?;
    let Some(open) = open.opened() else { return Ok(None) };
    let mut noted = Noted {
        volume: volume.number,
        sequence,
        snapshot_id: open.snapshot_id,
        number: entry.notes,
        note: Note::default(),
    };
    if let Some((_, record)) =
        project.slot(volume.number, sequence).newest_note(entry.notes, open.snapshot_id).await?
    {
        noted.note = Note { protected: record.protected, tags: record.tags };
    }
    let (fate, reason) = match noted.note.protected {
        true => (Fate::Refused, PROTECTED),
        false => (Fate::Forgotten, "its own record cannot be read"),
    };
    let volume_name = volume.name.clone();
    Ok(Some(Judged { volume_name, noted, committed_unix_ms: 0, fate, reasons: vec![reason.to_owned()] }))
}

/// Says of what goes what the next backup of its volume will miss.
async fn tell_what_goes(project: &Keeper, catalog: &Catalog, snapshots: &mut [Judged]) -> Result<()> {
    let mut going: BTreeMap<_, Vec<&mut Judged>> = BTreeMap::new();
    for judged in snapshots.iter_mut().filter(|j| matches!(j.fate, Fate::Forgotten)) {
        going.entry(judged.noted.volume).or_default().push(judged);
    }
    for (number, going) in going {
        let Some(volume) = catalog.by_number(number) else { continue };
        let sequences: Vec<Sequence> = going.iter().map(|j| j.noted.sequence).collect();
        let (newest, stays) = newest_going(project, volume, &sequences).await?;
        let Some(judged) = going.into_iter().find(|j| Some(j.noted.sequence) == newest) else { continue };
        let what = match stays {
            true => "base of the next incremental",
            false => "last of its volume",
        };
        judged.reasons.push(format!("{what}: the next backup of {} reads everything", volume.name));
    }
    Ok(())
}

/// Of the snapshots that go, the one that the volume's next backup would be compared with, if it is among them; and
/// whether any snapshot of the volume stays.
async fn newest_going(
    project: &Keeper,
    volume: &VolumeRecord,
    going: &[Sequence],
) -> Result<(Option<Sequence>, bool)> {
    let mut newest = None;
    let log = project.log(volume.number).confirmed().await?;
    for (sequence, entry) in log.candidates() {
        if going.contains(&sequence) {
            newest = newest.or(Some(sequence));
            continue;
        }
        match project.history(volume).outcome(sequence, entry).await {
            Ok(None) => {}
            Ok(Some(_)) => return Ok((newest, true)),
            // Nothing can be based on it.
            Err(e) if e.kind() == ErrorKind::Corrupt => {}
            Err(e) => return Err(e),
        }
    }
    Ok((newest, false))
}
