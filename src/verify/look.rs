//! One look at all that snapshots need: their pages, and then the chunk objects that the pages name.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::format::page::{ObjectRef, PageRef};
use crate::units::{ChunkId, ChunkIndex, Generation};
use crate::verify::VerifyOptions;
use crate::verify::audit::Audit;
use crate::verify::metadata::Metadata;
use crate::verify::pages::{Manner, Pages, Visit};
use crate::verify::report::{ByteRange, Findings, Flaw, Hurt, VerifyReport};
use crate::verify::slice::Slice;
use crate::verify::subject::Subject;
use crate::verify::wanted::Wanted;
use crate::verify::{data, present};

/// What is looked at, and how.
pub(crate) struct Look<'a> {
    pub(crate) audit: &'a Arc<Audit>,
    pub(crate) metadata: &'a Metadata,
    pub(crate) options: &'a VerifyOptions,
    /// Of which chunks the objects are looked at; `None`: of all.
    pub(crate) scope: Option<&'a Scope>,
}

/// Ranges of snapshots.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    ranges: HashMap<(String, u32), Vec<ByteRange>>,
}

impl Scope {
    pub(crate) fn of(hurts: Vec<Hurt>) -> Self {
        Self { ranges: hurts.into_iter().map(|h| ((h.volume, h.sequence), h.ranges)).collect() }
    }

    fn contains(&self, subject: &Subject, range: &Range<u64>) -> bool {
        let Some(ranges) = self.ranges.get(&(subject.volume_name.to_string(), subject.sequence.0)) else {
            return false;
        };
        let next = ranges.partition_point(|r| r.offset_bytes + r.length_bytes <= range.start);
        ranges.get(next).is_some_and(|r| r.offset_bytes < range.end)
    }
}

impl Look<'_> {
    pub(crate) async fn run(&self, findings: &mut Findings, report: &mut VerifyReport) -> Result<()> {
        let mut from = Some(ChunkId([0; 32]));
        let mut manner = Manner::Fresh;
        while let Some(first) = from {
            from = self.pass(first, manner, findings, report).await?;
            manner = Manner::Again;
        }
        Ok(())
    }

    /// One pass over all pages, for the chunks from one id on. Where the next pass begins, if one is needed.
    async fn pass(
        &self,
        from: ChunkId,
        manner: Manner,
        findings: &mut Findings,
        report: &mut VerifyReport,
    ) -> Result<Option<ChunkId>> {
        let (audit, options) = (self.audit, self.options);
        audit.progress.phase("pages", None);
        // What is not read is at least looked for.
        let table_slice = if options.read_data { None } else { options.slice };
        let mut wanted = Wanted::new(from, options.objects_per_pass_max);
        let mut pages = Pages::new(audit, manner);
        for subject in &self.metadata.subjects {
            let geometry = subject.geometry;
            let mut visitor = |findings: &mut Findings, visit: Visit<'_>| {
                match visit {
                    Visit::Bad { object, flaw, .. } => {
                        let name = object.name;
                        findings.page(name, audit.project.content().page_name(name).to_string(), flaw)?;
                    }
                    Visit::Leaf { first, page, generation } => {
                        for (at, chunk) in page.refs.iter().enumerate() {
                            let range = geometry.range_bytes(ChunkIndex(first.0 + at as u64));
                            if self.scope.is_some_and(|scope| !scope.contains(subject, &range)) {
                                continue;
                            }
                            if let Some((object, flaw)) = insane(audit, chunk, generation) {
                                let name = audit.project.content().chunk_label(object.name);
                                findings.chunk((object.name, None), name, flaw)?;
                            } else if in_slice(table_slice, chunk) {
                                wanted.add(chunk, (range.end - range.start) as u32);
                            }
                        }
                    }
                }
                Ok(true)
            };
            pages.snapshot(subject, findings, &mut visitor).await?;
        }
        if manner == Manner::Fresh {
            report.pages = pages.read;
        }
        let next = wanted.finish();
        // Reading everything finds what is missing as well.
        if !options.read_data || options.slice.is_some() {
            audit.progress.phase("objects", None);
            report.chunks += present::look_for(audit, &wanted, from, next, findings).await?;
        }
        if options.read_data {
            let bytes = wanted.full.iter().filter(|f| in_slice_id(options.slice, &f.object)).count() as u64
                * u64::from(audit.project.chunk_size_bytes());
            audit.progress.phase("data", Some(bytes));
            let read = data::read_objects(audit, wanted, options.slice, findings).await?;
            report.chunks_read += read.chunks;
            report.read_bytes += read.bytes;
            report.chunks = report.chunks.max(report.chunks_read);
        }
        Ok(next)
    }
}

/// What is wrong with a ref in itself, and which object it is about.
pub(crate) fn insane(audit: &Audit, chunk: &PageRef, newest: Generation) -> Option<(ObjectRef, Flaw)> {
    chunk.objects().find_map(|o| {
        if o.name.generation > newest {
            let flaw = Flaw::damaged(format!(
                "generation {}, but the page that names it is of {newest}",
                o.name.generation
            ));
            return Some((*o, flaw));
        }
        audit.sane(o).err().map(|flaw| (*o, flaw))
    })
}

fn in_slice(slice: Option<Slice>, chunk: &PageRef) -> bool {
    chunk.objects().last().is_none_or(|root| in_slice_id(slice, root))
}

fn in_slice_id(slice: Option<Slice>, root: &ObjectRef) -> bool {
    slice.is_none_or(|slice| slice.contains(&root.name.id))
}
