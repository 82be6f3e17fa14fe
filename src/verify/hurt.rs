//! What damaged objects hurt: a second walk over the pages, for the few ids that are known to be bad.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::Result;
use crate::format::page::PageRef;
use crate::units::{ChunkIndex, Geometry};
use crate::verify::audit::Audit;
use crate::verify::pages::{Manner, Pages, Visit};
use crate::verify::report::{Findings, Hurt, Problem, merge};
use crate::verify::subject::Subject;

/// Ranges that are listed over all damage; more are counted.
const RANGES_MAX: usize = 200_000;

/// Finds for all damaged chunks and pages the snapshots and ranges that need them. Returns the ranges not listed.
pub(crate) async fn find(audit: &Audit, subjects: &[Subject], findings: &mut Findings) -> Result<u64> {
    let mut listed = 0;
    let mut omitted = 0;
    let mut pages = Pages::new(audit, Manner::Often);
    for subject in subjects {
        audit.cancel.check()?;
        let mut hurts: HashMap<usize, Hurt> = HashMap::new();
        let mut note = |at: usize, range: Range<u64>| {
            let hurt = hurts.entry(at).or_insert_with(|| subject.hurt());
            if listed >= RANGES_MAX {
                omitted += 1;
            } else if merge(&mut hurt.ranges, range.into()) {
                listed += 1;
            }
        };
        let geometry = subject.geometry;
        let walked = pages
            .snapshot(subject, findings, &mut |findings, visit| {
                let mut clean = true;
                for (at, range) in hurt_by(audit, geometry, findings, visit)? {
                    clean = false;
                    note(at, range);
                }
                Ok(clean)
            })
            .await;
        walked?;
        // Forgotten meanwhile, and perhaps pruned: nobody misses it.
        if hurts.is_empty() || subject.is_forgotten(&audit.project).await? {
            continue;
        }
        for (at, hurt) in hurts {
            if let Some(damage) = findings.damage.get_mut(at) {
                damage.hurts.push(hurt);
            }
        }
    }
    drop_unneeded(findings);
    Ok(omitted)
}

/// What is hurt by one page or by what it names, as places in the list of damage.
fn hurt_by(
    audit: &Audit,
    geometry: Geometry,
    findings: &mut Findings,
    visit: Visit<'_>,
) -> Result<Vec<(usize, Range<u64>)>> {
    let mut out = Vec::new();
    match visit {
        Visit::Bad { object, flaw, chunks } => {
            let name = object.name;
            findings.page(name, audit.project.content().page_name(name).to_string(), flaw)?;
            let at = |chunk| geometry.offset_bytes(ChunkIndex(chunk)).min(geometry.size_bytes);
            if let Some(found) = findings.pages.get(&name) {
                out.push((*found, at(chunks.start)..at(chunks.end)));
            }
        }
        Visit::Leaf { first, page, .. } => {
            for (at, chunk) in page.refs.iter().enumerate() {
                let range = geometry.range_bytes(ChunkIndex(first.0 + at as u64));
                out.extend(damage_of(findings, chunk, &range).map(|found| (found, range.clone())));
            }
        }
    }
    Ok(out)
}

/// The damage that a chunk at a range is hurt by.
fn damage_of(findings: &Findings, chunk: &PageRef, range: &Range<u64>) -> impl Iterator<Item = usize> {
    let len_bytes = (range.end - range.start) as u32;
    let itself = chunk.object().and_then(|o| findings.chunks.get(&(o.name, Some(len_bytes))));
    let objects = chunk.objects().filter_map(|o| findings.chunks.get(&(o.name, None)));
    let mut all: Vec<usize> = itself.into_iter().chain(objects).copied().collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
}

/// What is missing and needed by no live snapshot any more was deleted rightly.
fn drop_unneeded(findings: &mut Findings) {
    let places: std::collections::HashSet<usize> =
        findings.chunks.values().chain(findings.pages.values()).copied().collect();
    let mut at = 0;
    findings.damage.retain(|damage| {
        let content = places.contains(&at);
        at += 1;
        !(content && damage.problem == Problem::Missing && damage.hurts.is_empty())
    });
    // The places no longer hold.
    findings.chunks.clear();
    findings.pages.clear();
}
