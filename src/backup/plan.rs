//! Pure: what a backup will do, as a value that can be printed, decided before anything of the volume is read.
//!
//! There are two decisions, as the second needs what the source answers to the first: what the source is asked for ([`ask`]), and
//! what is read and made of it ([`plan`], [`plan_stream`]). Nothing after them decides anything. Where the source is found to have
//! been wrong, [`plan`] is asked again, with that fact.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::backup::who::{self, Past};
use crate::backup::why::{Distrust, Why};
use crate::chunker::{self, Span, Unlisted};
use crate::error::{Error, Result};
use crate::format::record::Snapshot;
use crate::repo::history::SnapshotEntry;
use crate::source::{Changes, Content, Extent, OriginPoint, StreamHeader};
use crate::units::{ChunkIndex, Geometry, Sequence};
use crate::volume::SnapshotPoint;

/// What is asked of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// To tell what changed since this point; `None`: to tell all that it holds.
    pub since: Option<SnapshotPoint>,
    /// To tell what it has of its own: it was cloned from what this backup was read from. Only where `since` is none.
    pub origin: Option<OriginPoint>,
    /// Why all is read, where it is.
    pub why_all: Why,
    pub remarks: Vec<String>,
}

/// What the source answered.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub size_bytes: u64,
    pub changes: Changes,
    /// The snapshot that is read.
    pub point: Option<SnapshotPoint>,
    /// Whether what the parent was read from can be read, too.
    pub has_base: bool,
    /// The command that checks what the source says of changes, where there is one.
    pub check_command: Option<String>,
    /// Chunks of the parent that may not be built upon: those that a prune round may delete, and those that are lost.
    pub forbidden: BTreeSet<u64>,
}

/// What a backup will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupPlan {
    /// All of it, or what changed.
    pub scope: Scope,
    /// The snapshot that it is compared with, and that it names as its parent.
    pub parent: Option<Sequence>,
    /// The snapshot of another volume that it is compared with instead, as the volume was cloned from that: `vms/template@1`.
    pub origin: Option<String>,
    /// What the source says has changed, or holds; `None` where that shows as it comes.
    pub changed_bytes: Option<u64>,
    /// How the volume is read.
    pub pieces: Pieces,
    /// What deltas are made against; `None` where every new chunk is stored on its own.
    pub deltas: Option<DeltaPlan>,
    /// What the next backup can be relative to.
    pub next: NextPoint,
    /// Backups since the last that read everything; 0 where this one does.
    pub nights_since_full: u32,
    /// Where the next sample begins.
    pub sample_cursor: u64,
    /// What the operator must be told before it is done.
    pub remarks: Vec<String>,
}

/// How new chunks become deltas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaPlan {
    /// How deep they may be.
    pub depth_max: u8,
    /// Who has what the parent's chunks hold.
    pub base: DeltaBase,
}

/// Who has what the parent's chunks hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaBase {
    /// The source, as a snapshot.
    Source,
    /// The repository.
    Repository,
}

/// How much of the volume is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The whole volume.
    All(Why),
    /// What changed since the parent.
    Changes(KnownBy),
}

/// How it is known that the changes are those since the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownBy {
    /// By the id of the snapshot that the parent was read from.
    Id,
    /// Of a stream, by no more than that snapshot's name.
    Name,
}

/// In what pieces the volume comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pieces {
    /// It can be read anywhere.
    Chunks(Arc<ChunkPlan>),
    /// It arrives once, as it likes: all of it, or what changed, which is patched onto what the parent has.
    Stream {
        /// Whether only what changed arrives.
        is_diff: bool,
    },
}

/// Which chunks are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkPlan {
    /// Of the volume as it is now.
    pub geometry: Geometry,
    /// Ascending; those that are known to be zero are not read.
    pub spans: Vec<Span>,
    /// Of these, the chunks that are read whatever the source says of them.
    pub forced: BTreeSet<u64>,
    /// Chunks beside the spans that are read to see that they are as they were.
    pub sample: Vec<ChunkIndex>,
}

/// What is there for the next backup to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextPoint {
    /// The snapshot that is made for this backup; older ones that cuttle made go once it is committed.
    Own,
    /// One that others made, and should keep.
    Others(String),
    /// The next backup has to read everything.
    Nothing,
}

impl NextPoint {
    fn of(point: Option<&SnapshotPoint>) -> Self {
        match point {
            None => Self::Nothing,
            Some(point) if point.own => Self::Own,
            Some(point) => Self::Others(point.name.clone()),
        }
    }
}

/// What the source is asked for.
///
/// # Errors
/// `Conflict` where it is not what the volume was backed up from before.
pub(super) fn ask(past: &Past<'_>) -> Result<Asked> {
    let (other, mut remarks) = who::check_identity(past)?;
    let every = past.options.full_every;
    let nights = past.parent.map_or(0, |p| p.snapshot.nights_since_full).saturating_add(1);
    let is_due = every > 0 && nights >= every;
    if is_due && past.parent.is_some() && !past.options.full {
        remarks.push(format!(
            "{nights} backups since all of the volume was read: reading all of it (--full-every {every})"
        ));
    }
    let why_all = match other {
        _ if past.parent.is_none() && (past.origin.is_none() || past.is_unreadable || past.options.full) => {
            Some(Why::First)
        }
        Some(other) => Some(other),
        None if past.is_unreadable => Some(Why::Unreadable),
        None if past.options.full => Some(Why::Asked),
        None if is_due => Some(Why::Due),
        None => None,
    };
    let point = |of: Option<&SnapshotEntry>| {
        of.filter(|_| why_all.is_none()).and_then(|entry| entry.snapshot.point.clone())
    };
    let cloned_from = past.who.cloned_from.clone().filter(|_| past.parent.is_none());
    let origin = point(past.origin)
        .zip(cloned_from)
        .map(|(point, cloned_from)| OriginPoint { cloned_from, objects: point.objects });
    let since = point(past.parent);
    Ok(Asked { since, origin, why_all: why_all.unwrap_or(Why::Untold), remarks })
}

/// What is done with a volume that can be read anywhere. Its sample is drawn later ([`BackupPlan::with_sample`]): it lies beside
/// what is read, among what the parent's pages show as stored.
///
/// # Errors
/// `Conflict` where the source is a part of the volume only.
pub(super) fn plan(
    past: &Past<'_>,
    asked: &Asked,
    answer: &Answer,
    distrust: Option<Distrust>,
) -> Result<BackupPlan> {
    let geometry = Geometry::new(answer.size_bytes, past.chunk_size_bytes)?;
    // A source that was found wrong is read, and nothing else is asked of it.
    let is_distrusted = distrust.is_some();
    let mut remarks = Vec::new();
    let everything = [Extent { offset_bytes: 0, length_bytes: geometry.size_bytes, content: Content::Data }];
    let (extents, unlisted) = match (&distrust, &answer.changes) {
        (Some(_), _) => (&everything[..], Unlisted::Zero),
        (None, Changes::All(extents)) => (&extents[..], Unlisted::Zero),
        (None, Changes::Since(extents)) => (&extents[..], Unlisted::Unchanged),
    };
    let upon = past.compared_with();
    let parent = upon.map(|p| &p.snapshot);
    match distrust {
        None => remarks.extend(who::check_size(past, answer.size_bytes, past.who.is_file())?),
        Some(distrust) => remarks.push(distrust.told(geometry, upon, answer.check_command.as_deref())),
    }
    let (scope, forced) = match unlisted {
        Unlisted::Zero => (Scope::All(distrust.map_or(asked.why_all, Why::from)), BTreeSet::new()),
        Unlisted::Unchanged => {
            let before = parent.map_or(Geometry::new(0, past.chunk_size_bytes), |p| p.geometry())?;
            let mut forced = answer.forbidden.clone();
            forced.extend(recut(before, geometry).map(|index| index.0));
            forced.retain(|index| *index < geometry.chunk_count());
            (Scope::Changes(KnownBy::Id), forced)
        }
    };
    let spans = chunker::spans(extents, geometry, unlisted, &forced);
    Ok(BackupPlan {
        nights_since_full: nights_since_full(&scope, past),
        origin: past.origin.filter(|_| matches!(scope, Scope::Changes(_))).map(SnapshotEntry::name),
        scope,
        parent: past.parent.and(parent).map(|p| p.sequence),
        changed_bytes: Some(extents.iter().map(|e| e.length_bytes).sum()),
        pieces: Pieces::Chunks(Arc::new(ChunkPlan { geometry, spans, forced, sample: Vec::new() })),
        deltas: deltas(past, answer.has_base).filter(|_| !is_distrusted),
        next: NextPoint::of(answer.point.as_ref()),
        sample_cursor: past.parent.map_or(0, |p| p.snapshot.sample_cursor),
        remarks,
    })
}

fn deltas(past: &Past<'_>, has_base: bool) -> Option<DeltaPlan> {
    let base = match has_base {
        true => DeltaBase::Source,
        false if past.fetches && past.compared_with().is_some() => DeltaBase::Repository,
        false => return None,
    };
    past.deltas().map(|depth_max| DeltaPlan { depth_max, base })
}

/// What is done with a stream.
///
/// # Errors
/// `Conflict` where it does not go on from the parent, `Corrupt` where nothing can be told of what the parent holds.
pub(super) fn plan_stream(past: &Past<'_>, header: &StreamHeader) -> Result<BackupPlan> {
    let remarks = who::check_stream(past, header.from.as_deref())?;
    if let (true, Some(from)) = (past.is_unreadable, &header.from) {
        return Err(Error::corrupt(format!(
            "the stream is a diff from snapshot {from:?}, and the manifest of that backup cannot be read"
        ))
        .help("export a full stream, without --from-snap, and repair the repository with `cuttle verify --read-data --repair`"));
    }
    let is_diff = header.from.is_some();
    let scope = match (is_diff, past.parent) {
        (true, _) => Scope::Changes(KnownBy::Name),
        (false, None) => Scope::All(Why::First),
        (false, Some(_)) => Scope::All(Why::WholeStream),
    };
    Ok(BackupPlan {
        nights_since_full: nights_since_full(&scope, past),
        scope,
        parent: past.compared_with().map(|p| p.snapshot.sequence),
        origin: None,
        changed_bytes: None,
        pieces: Pieces::Stream { is_diff },
        deltas: past.deltas().map(|depth_max| DeltaPlan { depth_max, base: DeltaBase::Repository }),
        next: header.to.clone().map_or(NextPoint::Nothing, NextPoint::Others),
        sample_cursor: past.parent.map_or(0, |p| p.snapshot.sample_cursor),
        remarks,
    })
}

/// Of a volume that did not change: a part of it was read to see that.
pub(super) fn unchanged(parent: &Snapshot, geometry: Geometry, read: &[ChunkIndex]) -> BackupPlan {
    BackupPlan {
        scope: Scope::Changes(KnownBy::Id),
        parent: Some(parent.sequence),
        origin: None,
        changed_bytes: Some(0),
        pieces: Pieces::Chunks(Arc::new(ChunkPlan {
            geometry,
            spans: Vec::new(),
            forced: BTreeSet::new(),
            sample: read.to_vec(),
        })),
        deltas: None,
        next: NextPoint::of(parent.point.as_ref()),
        nights_since_full: parent.nights_since_full,
        sample_cursor: parent.sample_cursor,
        remarks: Vec::new(),
    }
}

fn nights_since_full(scope: &Scope, past: &Past<'_>) -> u32 {
    match scope {
        Scope::All(_) => 0,
        Scope::Changes(_) => {
            past.compared_with().map_or(0, |p| p.snapshot.nights_since_full.saturating_add(1))
        }
    }
}

/// The chunk that the smaller end lies in, where the volume's size changed: it gets another length, and so is another chunk.
fn recut(before: Geometry, now: Geometry) -> Option<ChunkIndex> {
    let cut = now.index_of(before.size_bytes.min(now.size_bytes));
    (before.chunk_len_bytes(cut) != now.chunk_len_bytes(cut)).then_some(cut)
}

impl BackupPlan {
    /// Whether the whole volume is read.
    pub fn is_full_read(&self) -> bool {
        matches!(self.scope, Scope::All(_))
    }

    /// As reports say it: `id` or `name`; `None` where everything is read.
    pub fn known_by(&self) -> Option<&'static str> {
        match self.scope {
            Scope::All(_) => None,
            Scope::Changes(KnownBy::Id) => Some("id"),
            Scope::Changes(KnownBy::Name) => Some("name"),
        }
    }

    /// The same with more chunks that are looked at beside the spans, although nothing says that they changed.
    pub(super) fn with_sample(mut self, drawn: Vec<ChunkIndex>, next_cursor: u64) -> Self {
        self.sample_cursor = next_cursor;
        if let Pieces::Chunks(chunks) = &mut self.pieces {
            let chunks = Arc::make_mut(chunks);
            chunks.sample.extend(drawn);
            chunks.sample.sort_unstable();
            chunks.sample.dedup();
            chunks.sample.retain(|index| chunks.geometry.chunk_len_bytes(*index) > 0);
        }
        self
    }
}

impl ChunkPlan {
    /// Bytes that will be looked at: for the progress bar.
    pub(super) fn total_bytes(&self) -> u64 {
        let span = |s: &Span| {
            let last = ChunkIndex(s.first.0 + s.count - 1);
            self.geometry.range_bytes(last).end - self.geometry.offset_bytes(s.first)
        };
        let sample: u64 = self.sample.iter().map(|i| u64::from(self.geometry.chunk_len_bytes(*i))).sum();
        self.spans.iter().map(span).sum::<u64>() + sample
    }

    /// Bytes that will be read from the source.
    pub(super) fn read_bytes(&self) -> u64 {
        let chunks = self.span_chunks(true) + self.sample.len() as u64;
        (chunks * u64::from(self.geometry.chunk_size_bytes)).min(self.geometry.size_bytes)
    }

    /// Chunks in the spans that are read, or that are known to be zero.
    pub(super) fn span_chunks(&self, read: bool) -> u64 {
        self.spans.iter().filter(|s| s.read == read).map(|s| s.count).sum()
    }
}

#[cfg(test)]
mod tests;
