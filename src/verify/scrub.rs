//! Checks a repository without any key: every object's name, header, size and checksum.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures::TryStreamExt;
use serde::Serialize;
use tokio::task::{JoinError, JoinSet};

use crate::budget::Budget;
use crate::cancel::{Cancel, interrupted};
use crate::cpu;
use crate::error::{Error, Result};
use crate::format::bundle::split;
use crate::format::envelope::{Header, MAGIC, damaged, scrub as scrub_object};
use crate::format::names::{QUARANTINE_PREFIX, is_reserve, log_prefix, volumes_prefix};
use crate::format::page::PIECE_ID_LEN_BYTES;
use crate::format::record::RepositoryRecord;
use crate::format::{BUNDLE_OBJECT_LEN_BYTES_MAX, HEADER_LEN_BYTES, ObjectName, ObjectType, Sealing};
use crate::progress::{Outcome, Progress, Step};
use crate::repo::read_repository;
use crate::store::{Ledger, ObjectInfo, Reader};
use crate::units::{ChunkId, ProjectName, Sequence, VolumeNumber};
use crate::verify::report::{Findings, Flaw, FlawedObject, Looked, Problem, looked};
use crate::verify::slice::Slice;

/// Objects in flight, however small they are.
const TASKS_MAX: usize = 64;
/// Unknown names that are listed; more are counted.
const UNKNOWN_MAX: usize = 100;
/// Missing numbers that are asked for one by one.
const GAPS_MAX: u32 = 1_000;

/// How a scrub is done.
#[derive(Debug, Clone)]
pub struct ScrubOptions {
    /// Which chunks and pages to read. All other objects are read every time.
    pub slice: Option<Slice>,
    /// Bytes in memory at once.
    pub inflight_bytes: u64,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self { slice: None, inflight_bytes: super::INFLIGHT_BYTES_DEFAULT }
    }
}

/// What a scrub found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ScrubReport {
    /// Objects read and checked.
    pub objects: u64,
    /// Bytes of these, headers included.
    pub bytes: u64,
    /// Objects left to other slices.
    pub skipped: u64,
    /// `n/N` where only a part was looked at.
    pub slice: Option<String>,
    /// Damaged objects that a repair put aside; they are not looked at.
    pub quarantined: u64,
    /// Objects whose names the format does not know; they are not cuttle's, or of a newer version.
    pub unknown: u64,
    /// The first of them.
    pub unknown_names: Vec<String>,
    /// At most 10,000 objects. What they hurt cannot be told without a key.
    pub damage: Vec<FlawedObject>,
    /// Damaged objects beyond those listed.
    pub damage_omitted: u64,
    /// Requests of this operation alone.
    pub ledger: Ledger,
    /// How long it took.
    pub seconds: f64,
}

impl ScrubReport {
    /// Whether everything that was looked at is as it must be.
    pub fn ok(&self) -> bool {
        self.damage.is_empty() && self.damage_omitted == 0
    }
}

/// Numbers without gaps, as far as a listing shows them.
#[derive(Default)]
struct Numbers {
    count: u32,
    highest: u32,
}

impl Numbers {
    fn saw(&mut self, number: u32) {
        self.count += 1;
        self.highest = self.highest.max(number);
    }

    fn has_gaps(&self) -> bool {
        self.count < self.highest
    }

    /// So much is missing that it is rather the highest number that is wrong.
    fn is_no_row(&self) -> bool {
        self.highest - self.count > GAPS_MAX
    }
}

fn no_row(numbers: &Numbers) -> Flaw {
    let missing = numbers.highest - numbers.count;
    Flaw {
        problem: Problem::Gap,
        message: format!("{missing} numbers below it are not there: no row leads to it"),
    }
}

/// Reads every object that a listing shows and checks what can be checked without keys. What only keys can tell is not
/// looked at: whether an object is forged, and whether it is the right one.
///
/// # Errors
/// A repository record that cannot be read: nothing can be checked without it.
pub async fn scrub(
    store: &Reader,
    options: ScrubOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<ScrubReport> {
    let (started, before, mut cancel) = (Instant::now(), store.ledger(), cancel);
    let (record, _) = read_repository(store).await?;
    let scrubber = Arc::new(Scrubber { store: store.clone(), record });
    let mut run = Run {
        report: ScrubReport { slice: options.slice.map(|s| s.to_string()), ..ScrubReport::default() },
        findings: Findings::default(),
        volumes: BTreeMap::new(),
        logs: BTreeMap::new(),
        tasks: JoinSet::new(),
        progress,
    };
    run.progress.phase("scrub", None);
    let budget = Budget::new(options.inflight_bytes);
    let mut listing = std::pin::pin!(store.list_stream("", None));
    loop {
        let info = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(interrupted()),
            info = listing.try_next() => info?,
        };
        let Some(info) = info else { break };
        let Some(name) = run.name(&info) else { continue };
        if options.slice.is_some_and(|slice| content_id(&name).is_some_and(|id| !slice.contains(&id))) {
            run.report.skipped += 1;
            continue;
        }
        while run.tasks.len() >= TASKS_MAX {
            run.one_done(&mut cancel).await?;
        }
        let share = loop {
            match budget.try_take(info.size_bytes) {
                Some(share) => break share,
                None if run.tasks.is_empty() => break budget.take(info.size_bytes).await?,
                None => run.one_done(&mut cancel).await?,
            }
        };
        let scrubber = Arc::clone(&scrubber);
        run.tasks.spawn(async move {
            let found = scrubber.object(&name).await?;
            drop(share);
            Ok((name, found))
        });
    }
    while !run.tasks.is_empty() {
        run.one_done(&mut cancel).await?;
    }
    run.gaps(store).await?;
    let Run { mut report, findings, .. } = run;
    (report.damage, report.damage_omitted) = (findings.damage, findings.omitted);
    report.ledger = store.ledger() - before;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn content_id(name: &ObjectName) -> Option<ChunkId> {
    match name {
        ObjectName::Chunk(_, content) | ObjectName::Page(_, content) | ObjectName::Bundle(_, content) => {
            Some(content.id)
        }
        _ => None,
    }
}

type Scrubbed = Result<(ObjectName, std::result::Result<Option<u64>, Flaw>)>;

struct Run {
    report: ScrubReport,
    findings: Findings,
    volumes: BTreeMap<ProjectName, Numbers>,
    logs: BTreeMap<(ProjectName, VolumeNumber), Numbers>,
    tasks: JoinSet<Scrubbed>,
    progress: Arc<dyn Progress>,
}

impl Run {
    /// The name of a listed object, if it is one of ours.
    fn name(&mut self, info: &ObjectInfo) -> Option<ObjectName> {
        let name = ObjectName::parse(&info.key);
        match &name {
            None if info.key.starts_with(QUARANTINE_PREFIX) => self.report.quarantined += 1,
            None if is_reserve(&info.key) => {}
            None => {
                self.report.unknown += 1;
                if self.report.unknown_names.len() < UNKNOWN_MAX {
                    self.report.unknown_names.push(info.key.clone());
                }
            }
            Some(ObjectName::Volume(p, n)) => self.volumes.entry(p.clone()).or_default().saw(n.0),
            Some(ObjectName::Open(p, n, s)) => self.logs.entry((p.clone(), *n)).or_default().saw(s.0),
            Some(_) => {}
        }
        name
    }

    async fn one_done(&mut self, cancel: &mut Cancel) -> Result<()> {
        let done: Option<std::result::Result<Scrubbed, JoinError>> = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(interrupted()),
            done = self.tasks.join_next() => done,
        };
        let Some(done) = done else { return Ok(()) };
        let (name, found) = done.map_err(|e| Error::internal("a task failed").caused_by(e))??;
        match found {
            // Deleted since it was listed.
            Ok(None) => {}
            Ok(Some(bytes)) => {
                self.report.objects += 1;
                self.report.bytes += bytes;
                self.progress.step(Step { bytes, chunks: 1, outcome: Outcome::New });
            }
            Err(flaw) => {
                self.report.objects += 1;
                self.findings.add(name.to_string(), flaw)?;
            }
        }
        Ok(())
    }

    /// Looks for the numbers that the listing lacks.
    async fn gaps(&mut self, store: &Reader) -> Result<()> {
        for (project, numbers) in std::mem::take(&mut self.volumes) {
            if numbers.is_no_row() {
                let name = ObjectName::Volume(project, VolumeNumber(numbers.highest));
                self.findings.add(name.to_string(), no_row(&numbers))?;
            } else if numbers.has_gaps() {
                let wanted =
                    (1..=numbers.highest).map(|n| ObjectName::Volume(project.clone(), VolumeNumber(n)));
                self.gaps_of(store, &volumes_prefix(&project), wanted).await?;
            }
        }
        for ((project, volume), numbers) in std::mem::take(&mut self.logs) {
            if numbers.is_no_row() {
                let name = ObjectName::Open(project, volume, Sequence(numbers.highest));
                self.findings.add(name.to_string(), no_row(&numbers))?;
            } else if numbers.has_gaps() {
                let wanted =
                    (1..=numbers.highest).map(|s| ObjectName::Open(project.clone(), volume, Sequence(s)));
                self.gaps_of(store, &log_prefix(&project, volume), wanted).await?;
            }
        }
        Ok(())
    }

    async fn gaps_of(
        &mut self,
        store: &Reader,
        prefix: &str,
        wanted: impl Iterator<Item = ObjectName>,
    ) -> Result<()> {
        let listed: Vec<String> = store.list(prefix, None).await?.into_iter().map(|info| info.key).collect();
        for name in wanted.map(|name| name.to_string()) {
            if listed.binary_search(&name).is_err() && store.head(&name).await?.is_none() {
                let message = "higher numbers exist, so this must".to_owned();
                let noted = self.findings.add(name, Flaw { problem: Problem::Gap, message })?;
                if noted.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }
}

struct Scrubber {
    store: Reader,
    record: RepositoryRecord,
}

impl Scrubber {
    /// Checks one object and returns its size; `None` where it is gone.
    async fn object(&self, name: &ObjectName) -> Looked<Option<u64>> {
        let max = match name {
            ObjectName::Bundle(..) => BUNDLE_OBJECT_LEN_BYTES_MAX,
            _ => name.object_type().object_len_bytes_max(),
        };
        let max = max as u64;
        let bytes = match looked(self.store.get(&name.to_string(), max).await)? {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Ok(None)),
            Err(flaw) => return Ok(Err(flaw)),
        };
        let (record, name) = (self.record.clone(), name.clone());
        looked(
            cpu::run(move || {
                match name {
                    ObjectName::Bundle(..) => check_bundle(&record, &name, &bytes)?,
                    _ => check(&record, &name, &bytes)?,
                }
                Ok(Some(bytes.len() as u64))
            })
            .await,
        )
    }
}

/// Checks a bundle piece by piece. Where the header of one is damaged, the next one that is sound is searched for, so that
/// what is told is how much of the bundle is hurt.
fn check_bundle(record: &RepositoryRecord, name: &ObjectName, bundle: &[u8]) -> Result<()> {
    let ObjectName::Bundle(project, _) = name else { return Err(Error::internal("no bundle")) };
    let mut hurt = Vec::new();
    let mut at = match part(bundle, 0) {
        Ok(table) => match check(record, name, table) {
            Ok(()) => table.len(),
            Err(error) => {
                hurt.push((0, error));
                resume(record, project, bundle, 0)
            }
        },
        Err(error) => {
            hurt.push((0, error));
            resume(record, project, bundle, 0)
        }
    };
    while at < bundle.len() {
        let checked = piece(record, project, bundle, at);
        at = match checked {
            Ok(end) => end,
            Err(error) => {
                hurt.push((at, error));
                resume(record, project, bundle, at + 1)
            }
        };
    }
    match hurt.first() {
        None => Ok(()),
        Some((at, error)) => {
            Err(Error::corrupt(format!("{} parts of it are hurt, the first at {at}: {error}", hurt.len())))
        }
    }
}

/// The object that begins at an offset of a bundle.
fn part(bundle: &[u8], at: usize) -> Result<&[u8]> {
    let rest = bundle.get(at..).unwrap_or_default();
    let len = HEADER_LEN_BYTES + Header::decode_prefix(rest)?.body_len_bytes as usize;
    rest.get(..len).ok_or_else(|| damaged(format!("{} bytes are left of {len}", rest.len())))
}

/// Checks the piece that begins at an offset. Where it ends.
fn piece(record: &RepositoryRecord, project: &ProjectName, bundle: &[u8], at: usize) -> Result<usize> {
    let (id, _) = split(bundle.get(at..).unwrap_or_default())?;
    let object = part(bundle, at + PIECE_ID_LEN_BYTES)?;
    check(record, &ObjectName::Piece(project.clone(), id), object)?;
    Ok(at + PIECE_ID_LEN_BYTES + object.len())
}

/// Where the next sound piece begins, or the end.
fn resume(record: &RepositoryRecord, project: &ProjectName, bundle: &[u8], from: usize) -> usize {
    let begins = |at: &usize| bundle[at + PIECE_ID_LEN_BYTES..].starts_with(&MAGIC);
    let mut starts = (from..bundle.len().saturating_sub(PIECE_ID_LEN_BYTES)).filter(begins);
    starts.find(|at| piece(record, project, bundle, *at).is_ok()).unwrap_or(bundle.len())
}

fn check(record: &RepositoryRecord, name: &ObjectName, object: &[u8]) -> Result<()> {
    let repo_id = if *name == ObjectName::Repository { &[0; 16] } else { &record.repo_id };
    let header = scrub_object(object, repo_id, &name.to_string())?;
    let sealing = if record.encrypted { name.object_type().sealing() } else { Sealing::None };
    let too_long =
        header.object_type == ObjectType::Chunk && header.plain_len_bytes > record.chunk_size_bytes;
    if header.object_type != name.object_type() || header.sealing != sealing || too_long {
        return Err(Error::corrupt(format!(
            "a {:?} sealed by {:?} with {} bytes of plaintext, expected a {:?} sealed by {sealing:?}",
            header.object_type,
            header.sealing,
            header.plain_len_bytes,
            name.object_type()
        )));
    }
    Ok(())
}
