//! Everything that is neither chunk nor page: keys, catalog, logs, prune rounds. Finds the live snapshots on its way.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::codec;
use crate::cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::format::gc::{BeginRecord, DoneRecord, SealRecord};
use crate::format::lost::LostRecord;
use crate::format::names::{gc_prefix, keys_prefix, logs_prefix, lost_prefix, role_keys_prefix};
use crate::format::record::{KeySlotRecord, VolumeRecord};
use crate::format::role::RoleSlotRecord;
use crate::format::{GC_PART_LEN_BYTES_MAX, ObjectName};
use crate::plan::shard::Shard;
use crate::repo::log::LogEntry;
use crate::units::{ChunkId, Sequence, VolumeNumber};
use crate::verify::VerifyOptions;
use crate::verify::audit::{Audit, check_object};
use crate::verify::logs::{Finding, LogAudit, VolumeInfo};
use crate::verify::report::{Findings, Flaw, Looked, Problem, looked};
use crate::verify::subject::Subject;
use crate::verify::{logs, roster};

/// Logs read at once.
const LOGS_INFLIGHT_MAX: usize = 4;
/// Other records read at once.
const RECORDS_INFLIGHT_MAX: usize = 16;
/// Catalog entries that may be missing before no more are asked for.
const VOLUMES_MISSING_MAX: u32 = 1_000;
/// Refs of root pages that are kept from the first look on (about 80 MiB); others are read again when needed.
const ROOT_REFS_KEPT_MAX: usize = 1 << 20;

/// What the metadata tells.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) subjects: Vec<Subject>,
    pub(crate) volumes: u64,
    pub(crate) unfinished: u64,
    root_refs: usize,
}

impl Metadata {
    /// Reads the metadata of the snapshots that the user named; where none is, of all the project.
    pub(crate) async fn read(
        audit: &Audit,
        options: &VerifyOptions,
        findings: &mut Findings,
    ) -> Result<Self> {
        audit.progress.phase("metadata", None);
        match options.snapshots.is_empty() {
            true => Self::of_project(audit, options.shard, findings).await,
            false => Self::of_snapshots(audit, &options.snapshots, findings).await,
        }
    }

    /// Reads all metadata of the project, or of a part of its volumes, and of the repository around it.
    async fn of_project(audit: &Audit, shard: Option<Shard>, findings: &mut Findings) -> Result<Self> {
        let mut metadata = Self::default();
        for (object, flaw, _) in common(audit).await? {
            findings.add(object, flaw)?;
        }
        let mut said = roster::read(audit, findings).await?;
        let mut volumes = volumes(audit, findings).await?;
        if let Some(shard) = shard {
            let others = |(number, name): &(VolumeNumber, Arc<str>)| (!shard.has(name)).then_some(*number);
            let others: HashSet<VolumeNumber> = volumes.iter().filter_map(others).collect();
            volumes.retain(|(number, _)| !others.contains(number));
            // A volume that is gone from the catalog has no name: everybody misses it.
            said.leave_out(&others);
        }
        metadata.volumes = volumes.len() as u64;
        let mut states = BTreeMap::new();
        let mut logs = stream::iter(volumes)
            .map(|(number, name)| {
                let known = said.of(number);
                async move { Ok::<_, Error>((number, logs::read(audit, number, name, known).await?)) }
            })
            .buffered(LOGS_INFLIGHT_MAX);
        while let Some((number, mut log)) = logs.try_next().await? {
            states.insert(number, std::mem::take(&mut log.state));
            metadata.take(log, findings)?;
        }
        roster::check(audit, &said, &states, &metadata.subjects, findings).await?;
        Ok(metadata)
    }

    /// Reads the records of the snapshots that the user named.
    async fn of_snapshots(audit: &Audit, specs: &[String], findings: &mut Findings) -> Result<Self> {
        let mut metadata = Self::default();
        for spec in specs {
            let entry = match audit.project.volumes().snapshot(spec).await {
                Ok(entry) => entry,
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    findings.add(spec.as_str(), Flaw::of(e)?)?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let volume =
                VolumeInfo { number: entry.snapshot.volume, name: entry.volume_name.as_str().into() };
            let ended = LogEntry {
                opened_unix_ms: Some(0),
                ended_unix_ms: Some(entry.committed_unix_ms),
                ..LogEntry::default()
            };
            let log = logs::read_sequence(audit, &volume, entry.snapshot.sequence, &ended).await?;
            let known = |s: &Subject| (s.volume, s.sequence) == (volume.number, entry.snapshot.sequence);
            if !metadata.subjects.iter().any(known) {
                metadata.take(log, findings)?;
            }
        }
        let mut volumes: Vec<VolumeNumber> = metadata.subjects.iter().map(|s| s.volume).collect();
        volumes.sort_unstable();
        volumes.dedup();
        metadata.volumes = volumes.len() as u64;
        Ok(metadata)
    }

    fn take(&mut self, log: LogAudit, findings: &mut Findings) -> Result<()> {
        for (object, flaw, hurt) in log.findings {
            match hurt {
                Some(hurt) => findings.snapshot(object, flaw, hurt)?,
                None => findings.add(object, flaw).map(drop)?,
            }
        }
        self.unfinished += log.unfinished;
        for mut subject in log.subjects {
            let refs = subject.root.as_ref().map_or(0, |root| root.refs.len());
            if self.root_refs + refs > ROOT_REFS_KEPT_MAX {
                subject.root = None;
            } else {
                self.root_refs += refs;
            }
            self.subjects.push(subject);
        }
        Ok(())
    }
}

/// The repository and project records, the keys, and the prune rounds.
async fn common(audit: &Audit) -> Result<Vec<Finding>> {
    let project = audit.project.name();
    let store = audit.project.repository().store();
    let mut names = vec![ObjectName::Repository, ObjectName::Project(project.clone())];
    for prefix in
        [keys_prefix().to_owned(), role_keys_prefix(project), gc_prefix(project), lost_prefix(project)]
    {
        let listed = store.list(&prefix, None).await?;
        names.extend(listed.iter().filter_map(|info| ObjectName::parse(&info.key)));
    }
    let looked = stream::iter(names).map(|name| async move {
        let found = common_object(audit, &name).await?;
        Ok::<_, Error>(found.err().map(|flaw| (name.to_string(), flaw, None)))
    });
    looked.buffered(RECORDS_INFLIGHT_MAX).try_filter_map(|found| async { Ok(found) }).try_collect().await
}

async fn common_object(audit: &Audit, name: &ObjectName) -> Looked<()> {
    match name {
        ObjectName::Repository | ObjectName::Project(_) => {
            // What they say was checked when the project was opened.
            let max = name.object_type().object_len_bytes_max() as u64;
            let found = audit.object(name, max).await?;
            match found {
                Ok(bytes) => looked(check_object(&audit.project, name, &bytes)),
                Err(flaw) => Ok(Err(flaw)),
            }
        }
        ObjectName::Key { slot } => key(audit, name, *slot).await,
        ObjectName::RoleKey { slot, .. } => role_key(audit, name, *slot).await,
        ObjectName::GcBegin(..) => Ok(audit.record::<BeginRecord>(name).await?.map(drop)),
        ObjectName::GcSeal(..) => Ok(audit.record::<SealRecord>(name).await?.map(drop)),
        // A prune removes the ends of rounds before its own.
        ObjectName::GcDone(_, generation) => Ok(match audit.record::<DoneRecord>(name).await?.map(drop) {
            Err(flaw)
                if flaw.problem == Problem::Missing
                    && audit.project.rounds().is_over(*generation).await? =>
            {
                Ok(())
            }
            found => found,
        }),
        // One whose names are mended, or needed by nobody, is removed.
        ObjectName::Lost(..) => Ok(match audit.record::<LostRecord>(name).await?.map(drop) {
            Err(flaw) if flaw.problem == Problem::Missing => Ok(()),
            found => found,
        }),
        // A prune removes the parts of rounds that are over.
        ObjectName::GcPart(_, _, id) => Ok(match gc_part(audit, name, *id).await? {
            Err(flaw) if flaw.problem == Problem::Missing => Ok(()),
            found => found,
        }),
        _ => Ok(Ok(())),
    }
}

/// A key slot: it must be one that the repository's own key has made.
async fn key(audit: &Audit, name: &ObjectName, slot: u64) -> Looked<()> {
    let found = audit.object(name, name.object_type().object_len_bytes_max() as u64).await?;
    let bytes = match found {
        Ok(bytes) => bytes,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let place = codec::Place { key: None, ..audit.project.place(name) };
    let opened = check_object(&audit.project, name, &bytes);
    let opened = opened.and_then(|()| codec::open_record::<KeySlotRecord>(place, &bytes));
    let made = opened.and_then(|record| audit.project.repository().has_made(slot, &record));
    let removed_by = format!("; `cuttle key remove {slot:016x}` removes it");
    looked(made).map(|found| match found {
        // Whether the repository's own key made it, only that key tells.
        Ok(Some(true) | None) => Ok(()),
        Ok(Some(false)) => {
            Err(Flaw::damaged(format!("it was not made with this repository's key{removed_by}")))
        }
        Err(flaw) => Err(Flaw { message: flaw.message + &removed_by, ..flaw }),
    })
}

/// The slot of a role: it must be signed by who may decide in the project.
async fn role_key(audit: &Audit, name: &ObjectName, slot: u64) -> Looked<()> {
    let found = audit.object(name, name.object_type().object_len_bytes_max() as u64).await?;
    let bytes = match found {
        Ok(bytes) => bytes,
        // Removed since it was listed.
        Err(flaw) if flaw.problem == Problem::Missing => return Ok(Ok(())),
        Err(flaw) => return Ok(Err(flaw)),
    };
    let place = codec::Place { key: None, ..audit.project.place(name) };
    let opened = check_object(&audit.project, name, &bytes);
    let opened = opened.and_then(|()| codec::open_record::<RoleSlotRecord>(place, &bytes));
    let made = opened.and_then(|record| audit.project.has_made(slot, &record));
    let removed_by = format!("; `cuttle key remove {slot:016x}` removes it");
    looked(made).map(|found| match found {
        Ok(true) => Ok(()),
        Ok(false) => Err(Flaw::damaged(format!("it was not signed in its project{removed_by}"))),
        Err(flaw) => Err(Flaw { message: flaw.message + &removed_by, ..flaw }),
    })
}

async fn gc_part(audit: &Audit, name: &ObjectName, id: ChunkId) -> Looked<()> {
    let found = audit.object(name, name.object_type().object_len_bytes_max() as u64).await?;
    let bytes = match found {
        Ok(bytes) => bytes,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let (project, name) = (audit.project.clone(), name.clone());
    looked(
        cpu::run(move || {
            check_object(&project, &name, &bytes)?;
            let mut plain = Vec::new();
            codec::open(project.place(&name), &bytes, None, GC_PART_LEN_BYTES_MAX, &mut plain)?;
            match project.identify_page(&plain) == id {
                true => Ok(()),
                false => Err(Error::corrupt("its content has another id")),
            }
        })
        .await,
    )
}

/// Whether a volume has a log, whatever this host saw of it.
async fn is_begun(audit: &Audit, number: VolumeNumber) -> Result<bool> {
    let listed = audit.project.log(number).listed_by(None).await?;
    Ok(audit.project.log(number).rows_of(listed, Sequence(0)).await?.last() > Sequence(0))
}

/// The volumes by number, with their names; those whose entries are hurt too.
async fn volumes(audit: &Audit, findings: &mut Findings) -> Result<Vec<(VolumeNumber, Arc<str>)>> {
    let project = audit.project.name();
    let catalog = audit.project.volumes().found().await?;
    for stray in catalog.strays() {
        let name = ObjectName::Volume(project.clone(), *stray);
        findings.add(name.to_string(), Flaw::damaged("it does not open, and no number leads to it"))?;
    }
    // A volume whose entry is gone may show by its log.
    let mut highest = catalog.last();
    for name in audit.project.repository().store().list_prefixes(&logs_prefix(project)).await? {
        let number = name.parse().ok().map(VolumeNumber).filter(|n| *n > highest);
        if let Some(number) = number
            && is_begun(audit, number).await?
        {
            highest = number;
        }
    }
    // So does one that this host saw.
    let seen = audit.project.repository().memory.catalog_end(project);
    let mut volumes: Vec<(VolumeNumber, Arc<str>)> = Vec::new();
    let mut missing = 0;
    for n in 1..=highest.0.max(seen) {
        let number = VolumeNumber(n);
        let name = ObjectName::Volume(project.clone(), number);
        let found = audit.record::<VolumeRecord>(&name).await?;
        missing += u32::from(matches!(&found, Err(flaw) if flaw.problem == Problem::Missing));
        if missing > VOLUMES_MISSING_MAX {
            break;
        }
        let flaw = match found {
            Ok(record) if record.number != number => {
                Flaw::damaged(format!("it says it is number {}", record.number))
            }
            Ok(record) => match volumes.iter().find(|(_, name)| **name == *record.name) {
                Some((first, _)) => {
                    Flaw::damaged(format!("its name {:?} is that of volume {first} too", record.name))
                }
                None => {
                    let memory = &audit.project.repository().memory;
                    let recalled = memory.saw_volumes(project, std::slice::from_ref(&record));
                    volumes.push((number, record.name.into()));
                    match recalled {
                        Ok(()) => continue,
                        Err(e) => {
                            let flaw = Flaw { problem: Problem::WentBack, message: e.to_string() };
                            findings.add(name.to_string(), flaw)?;
                            continue;
                        }
                    }
                }
            },
            Err(flaw) if flaw.problem == Problem::Missing && number > highest => {
                let error = audit.project.repository().memory.catalog_went_back(project, n - 1);
                Flaw { problem: Problem::WentBack, message: error.to_string() }
            }
            Err(flaw) if flaw.problem == Problem::Missing => Flaw { problem: Problem::Gap, ..flaw },
            Err(flaw) => flaw,
        };
        findings.add(name.to_string(), flaw)?;
        volumes.push((number, format!("(volume {number})").into()));
    }
    Ok(volumes)
}
