//! Mends what a verification finds: chunks from where their content still is, pages from this host's cache.
//!
//! Whatever is damaged is kept in quarantine and replaced only by what a reader would take for the very object that was
//! lost; nothing is deleted (repo-format.md §8.3). What cannot be mended stays as it is.

mod aside;
mod mend;
mod sources;
mod targets;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryFutureExt, TryStreamExt, stream};
use serde::Serialize;

use crate::cancel::Cancel;
use crate::error::Result;
use crate::progress::{Outcome, Progress, Step};
use crate::repo::Keeper;
use crate::verify::VerifyOptions;
use crate::verify::audit::Audit;
use crate::verify::look::{Look, Scope};
use crate::verify::metadata::Metadata;
use crate::verify::repair::mend::{Attempt, Mender};
use crate::verify::repair::sources::Finder;
use crate::verify::repair::targets::{ChunkTarget, Targets};
use crate::verify::report::{Findings, FlawedObject, Problem, VerifyReport};
use crate::verify::{hurt, recorded};

pub use aside::{Aside, put_aside};
pub use sources::{OpenOrigin, Source, Sources};

/// Looks at most: each but the last mends something, and what hides other damage is mended first. A manifest has
/// 5 levels of pages, and below them chains of up to 16 objects.
const LOOKS_MAX: usize = 24;
/// Chunks mended at once: each takes up to six times its size.
const MENDED_AT_ONCE_MAX: usize = 4;

/// How a repair is done.
#[derive(Clone, Default)]
pub struct RepairOptions {
    /// What is looked at. Without `read_data` only what is missing or has a wrong size is found, and so mended.
    pub verify: VerifyOptions,
    /// Where content is looked for that the repository has lost.
    pub sources: Sources,
    /// Write nothing, and tell what would be mended.
    pub dry_run: bool,
}

/// What a repair mended and what stays hurt.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RepairReport {
    /// What was looked at, and the damage that stays. In a dry run: that would stay.
    #[serde(flatten)]
    pub verify: VerifyReport,
    /// Nothing was written.
    pub dry_run: bool,
    /// In the order of mending; in a dry run, what would be mended.
    pub mended: Vec<Mended>,
    /// What was not mended, and why.
    pub left: Vec<Left>,
}

impl RepairReport {
    /// Whether nothing stays damaged.
    pub fn ok(&self) -> bool {
        self.verify.ok()
    }
}

/// An object that is good again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mended {
    /// The object's name.
    pub object: String,
    /// What was wrong with it.
    pub problem: Problem,
    /// Where its content was found.
    pub from: String,
    /// Where the damaged bytes are now; none where it was missing.
    pub quarantined: Option<String>,
}

/// A chunk or page that stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// The object's name.
    pub object: String,
    /// For people: what was tried.
    pub why: String,
}

/// Verifies snapshots and mends what can be mended, until nothing more can.
///
/// # Errors
/// As [`verify::run`](crate::verify::run). That something could not be mended is in the report.
pub async fn run(
    project: &Keeper,
    options: RepairOptions,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
) -> Result<RepairReport> {
    let (started, before) = (Instant::now(), project.repository().store().ledger());
    let audit = Audit::new(project, &options.verify, progress, cancel);
    let mut records = Findings::default();
    let metadata = Metadata::read(&audit, &options.verify, &mut records).await?;
    let verify = VerifyReport::of(project, &metadata, &options.verify);
    let mut report = RepairReport { verify, dry_run: options.dry_run, ..RepairReport::default() };
    let keeper = project.clone();
    let mut run = Run { keeper, audit, options, metadata, scope: None, found_good: HashSet::new() };
    for _ in 0..LOOKS_MAX {
        let findings = Findings::of(records.damage.clone(), records.omitted);
        if run.look_and_mend(findings, &mut report).await? == 0 {
            break;
        }
    }
    if !run.options.dry_run {
        let mended: Vec<&str> = report.mended.iter().map(|m| m.object.as_str()).collect();
        let settle = Some((project, &mended[..]));
        recorded::remember(&run.audit, project, &run.options.verify, &mut report.verify, settle).await?;
    }
    report.verify.ledger = project.repository().store().ledger() - before;
    report.verify.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

struct Run {
    keeper: Keeper,
    audit: Arc<Audit>,
    options: RepairOptions,
    metadata: Metadata,
    /// What was hurt at the last look, and so is to be looked at again; `None` for everything.
    scope: Option<Scope>,
    /// What was damaged when it was looked at and good when it was to be mended. That is a reason to look again, once.
    found_good: HashSet<String>,
}

impl Run {
    /// Looks once and mends what it finds. How many objects are good now: then there is reason to look again.
    async fn look_and_mend(&mut self, mut findings: Findings, report: &mut RepairReport) -> Result<usize> {
        let audit = Arc::clone(&self.audit);
        // Counts are those of the first look, which is the one at everything.
        let mut counts = report.verify.clone();
        let (metadata, options, scope) = (&self.metadata, &self.options.verify, self.scope.as_ref());
        Look { audit: &audit, metadata, options, scope }.run(&mut findings, &mut counts).await?;
        if report.mended.is_empty() {
            report.verify = counts;
        }
        report.left.clear();
        report.verify.ranges_omitted = 0;
        let mut targets = Targets::default();
        if findings.has_content() {
            audit.progress.phase("damage", None);
            targets = targets::find(&audit, &self.metadata.subjects, &mut findings).await?;
            report.verify.ranges_omitted = hurt::find(&audit, &self.metadata.subjects, &mut findings).await?;
        }
        (report.verify.damage, report.verify.damage_omitted) = (findings.damage, findings.omitted);
        targets.retain(&audit, &report.verify.damage.iter().map(|d| d.object.as_str()).collect());
        // Where not all that is hurt is listed, all is looked at again.
        let listed = report.verify.ranges_omitted == 0 && report.verify.damage_omitted == 0;
        self.scope = listed.then(|| Scope::of(report.verify.hurt()));
        let mended = self.mend(&targets, report).await?;
        if self.options.dry_run {
            let would_be: HashSet<&str> = report.mended.iter().map(|m| m.object.as_str()).collect();
            report.verify.damage.retain(|d| !would_be.contains(d.object.as_str()));
            return Ok(0);
        }
        Ok(mended)
    }

    async fn mend(&mut self, targets: &Targets, report: &mut RepairReport) -> Result<usize> {
        let audit = &*Arc::clone(&self.audit);
        let sources = &self.options.sources;
        let finder = Finder::open(audit, sources, &self.metadata.subjects, targets).await?;
        let mender =
            Mender { audit, keeper: &self.keeper, finder: &finder, targets, dry_run: self.options.dry_run };
        let bytes = targets.chunks.len() as u64 * u64::from(audit.project.chunk_size_bytes());
        audit.progress.phase("repair", Some(bytes));
        let mut good = 0;
        for object in targets.pages.values() {
            audit.cancel.check()?;
            let attempt = mender.page(*object).await?;
            let name = audit.project.content().page_name(object.name).to_string();
            good += report.tell(name, attempt, &mut self.found_good);
        }
        // What others are deltas against comes first.
        let mut chunks: Vec<&ChunkTarget> = targets.chunks.values().collect();
        chunks.sort_unstable_by_key(|t| (t.below.len(), t.object));
        for level in chunks.chunk_by(|a, b| a.below.len() == b.below.len()) {
            // The pieces of a bundle are put back together.
            let bundles = level.chunk_by(|a, b| a.is_beside(b));
            let mut attempts = stream::iter(bundles)
                .map(|targets| mender.chunks(targets).map_ok(move |attempts| (targets, attempts)))
                .buffered(MENDED_AT_ONCE_MAX);
            while let Some((targets, attempts)) = attempts.try_next().await? {
                audit.cancel.check()?;
                for (target, attempt) in targets.iter().zip(attempts) {
                    let bytes = u64::from(audit.project.chunk_size_bytes());
                    audit.progress.step(Step { bytes, chunks: 1, outcome: Outcome::New });
                    let name = audit.project.content().chunk_label(target.object.name);
                    good += report.tell(name, attempt, &mut self.found_good);
                }
            }
        }
        Ok(good)
    }
}

impl RepairReport {
    /// Notes what became of an object. Returns 1 where it is good now, which was not known before.
    fn tell(&mut self, object: String, attempt: Attempt, found_good: &mut HashSet<String>) -> usize {
        match attempt {
            Attempt::Left(why) => self.left.push(Left { object, why }),
            Attempt::Good if !found_good.insert(object.clone()) => {
                let why = "it is good, but not what the manifests that name it say".to_owned();
                self.left.push(Left { object, why });
            }
            Attempt::Good => return 1,
            Attempt::Mended { from, quarantined } => {
                let known = |d: &&FlawedObject| d.object == object;
                let problem = self.verify.damage.iter().find(known).map_or(Problem::Damaged, |d| d.problem);
                self.mended.push(Mended { object, problem, from, quarantined });
                return 1;
            }
        }
        0
    }
}
