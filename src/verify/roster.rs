//! Whether everything is still there that the last prune round wrote down: the check that a prune makes, for who verifies.

use std::collections::{BTreeMap, HashSet};

use crate::error::{ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::roster::RosterEntry;
use crate::plan::roster::{Lost, VolumeState, lost};
use crate::repo::found::Found;
use crate::repo::rounds::Stage;
use crate::units::{Generation, VolumeNumber};
use crate::verify::audit::Audit;
use crate::verify::report::{Findings, Flaw, Problem};
use crate::verify::subject::{Subject, whole};

/// What rounds say, read before the logs: whatever comes later only adds.
pub(crate) struct Said {
    roster: Vec<RosterEntry>,
    newest: Generation,
}

impl Said {
    /// What is known of one volume.
    pub(crate) fn of(&self, volume: VolumeNumber) -> Option<RosterEntry> {
        let at = self.roster.binary_search_by_key(&volume, |entry| entry.volume).ok()?;
        Some(self.roster[at].clone())
    }

    /// Leaves volumes to somebody else.
    pub(crate) fn leave_out(&mut self, others: &HashSet<VolumeNumber>) {
        self.roster.retain(|entry| !others.contains(&entry.volume));
    }
}

/// Reads the roster of the newest seal.
pub(crate) async fn read(audit: &Audit, findings: &mut Findings) -> Result<Said> {
    let mut said = Said { roster: Vec::new(), newest: Generation(u32::MAX) };
    let rounds = match audit.project.rounds().newest().await {
        Ok(rounds) => rounds,
        Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::Corrupt) => {
            let name = audit.project.rounds().begin_name(Generation(1));
            let flaw = Flaw { problem: Problem::WentBack, message: e.to_string() };
            findings.add(name.to_string(), flaw)?;
            return Ok(said);
        }
        Err(e) => return Err(e),
    };
    said.newest = rounds.newest;
    let last_seal = match rounds.stage {
        Stage::Over { last_seal } => last_seal,
        Stage::Begun(begin) => begin.last_seal,
        Stage::Unreadable(_) => audit.project.rounds().preceding(rounds.newest).await?.last_seal,
    };
    if last_seal == Generation(0) {
        return Ok(said);
    }
    match audit.project.rounds().look_seal(last_seal).await? {
        Found::Opens(seal) => {
            match audit.project.rounds().roster_said(last_seal, &seal.roster).all(&audit.project).await {
                Ok(roster) => said.roster = roster,
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    // Another round may have ended since, and taken it away.
                    if audit.project.rounds().newest().await?.newest == said.newest {
                        let name = ObjectName::GcSeal(audit.project.name().clone(), last_seal);
                        findings.add(name.to_string(), Flaw::of(e)?)?;
                    }
                }
                Err(e) => return Err(e),
            }
        }
        // It is listed, and so was found damaged.
        Found::Foreign(_) => {}
        Found::Absent => {
            let name = ObjectName::GcSeal(audit.project.name().clone(), last_seal);
            findings.add(name.to_string(), Flaw::missing())?;
        }
    }
    Ok(said)
}

/// Holds what was said against what the logs show.
pub(crate) async fn check(
    audit: &Audit,
    said: &Said,
    volumes: &BTreeMap<VolumeNumber, VolumeState>,
    subjects: &[Subject],
    findings: &mut Findings,
) -> Result<()> {
    for lost in lost(&said.roster, volumes) {
        let message = lost.to_string();
        match lost {
            Lost::Volume(volume) => {
                let name = ObjectName::Volume(audit.project.name().clone(), volume);
                findings.add(name.to_string(), Flaw { problem: Problem::Missing, message })?;
            }
            Lost::Log { volume, high_water, .. } => {
                let name = audit.project.slot(volume, high_water).open_name();
                findings.add(name.to_string(), Flaw { problem: Problem::Missing, message })?;
            }
            Lost::Snapshot(volume, sequence) => {
                if audit.project.slot(volume, sequence).is_gone().await? {
                    continue;
                }
                let of = subjects.iter().find(|s| s.volume == volume).map(|s| s.volume_name.to_string());
                let hurt = whole(of.unwrap_or_else(|| format!("(volume {volume})")), sequence);
                let name = audit.project.slot(volume, sequence).end_name();
                findings.snapshot(name.to_string(), Flaw { problem: Problem::Missing, message }, hurt)?;
            }
        }
    }
    // The row of rounds ends below what snapshots were made in: then rounds are gone.
    let newest = subjects.iter().max_by_key(|s| s.generation).filter(|s| s.generation > said.newest);
    if let Some(subject) = newest
        // A prune may have begun one since.
        && audit.project.rounds().newest().await.is_ok_and(|rounds| rounds.newest < subject.generation)
    {
        let message = format!(
            "{}@{} was made in this generation, and no round began it",
            subject.volume_name, subject.sequence
        );
        let name = audit.project.rounds().begin_name(subject.generation);
        findings.add(name.to_string(), Flaw { problem: Problem::Missing, message })?;
    }
    Ok(())
}
