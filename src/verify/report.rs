//! What verifying finds.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::format::names::ContentName;
use crate::store::Ledger;

/// Damaged objects that are listed one by one; more are counted.
pub(crate) const DAMAGE_MAX: usize = 10_000;
/// Objects that the store may fail to give before the whole run is given up.
const UNREADABLE_MAX: usize = 16;

/// What a verification looked at and found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// The project's name.
    pub project: String,
    /// Volumes whose logs were looked at.
    pub volumes: u64,
    /// Live snapshots whose manifests were walked.
    pub snapshots: u64,
    /// Backups that were begun and have no outcome yet.
    pub unfinished: u64,
    /// Distinct manifest pages read.
    pub pages: u64,
    /// Distinct chunk objects that were looked for, those needed to decode others included.
    pub chunks: u64,
    /// Chunk objects fetched, authenticated, decompressed and re-hashed.
    pub chunks_read: u64,
    /// The plaintext of these.
    #[serde(rename = "chunks_read_bytes")]
    pub read_bytes: u64,
    /// Whether chunks were fetched and opened, or only looked for.
    pub read_data: bool,
    /// `n/N` where only a part was looked at.
    pub slice: Option<String>,
    /// At most 10,000 objects; what hurts more is counted in `damage_omitted`.
    pub damage: Vec<FlawedObject>,
    /// Damaged objects beyond those listed.
    pub damage_omitted: u64,
    /// Ranges beyond those listed.
    pub ranges_omitted: u64,
    /// Lost chunks and pages that are remembered since now: no backup will build on them.
    pub recorded: u64,
    /// Requests of this operation alone.
    pub ledger: Ledger,
    /// How long it took.
    pub seconds: f64,
}

impl VerifyReport {
    /// Whether everything that was looked at is as it must be.
    pub fn ok(&self) -> bool {
        self.damage.is_empty() && self.damage_omitted == 0
    }

    /// All that is hurt of each snapshot, by volume and sequence: neighbouring and overlapping ranges are one.
    pub fn hurt(&self) -> Vec<Hurt> {
        let mut by_snapshot: BTreeMap<(&str, u32), Hurt> = BTreeMap::new();
        for hurt in self.damage.iter().flat_map(|damage| &damage.hurts) {
            let empty = || Hurt { ranges: Vec::new(), ..hurt.clone() };
            let all = by_snapshot.entry((&hurt.volume, hurt.sequence)).or_insert_with(empty);
            all.whole |= hurt.whole;
            all.ranges.extend(&hurt.ranges);
        }
        let mut out: Vec<Hurt> = by_snapshot.into_values().collect();
        for hurt in &mut out {
            hurt.ranges.sort_unstable_by_key(|r| r.offset_bytes);
            let ranges = std::mem::take(&mut hurt.ranges);
            for range in ranges {
                merge(&mut hurt.ranges, range);
            }
        }
        out
    }
}

/// One thing that is not as it must be.
#[derive(Debug, Clone, Serialize)]
pub struct FlawedObject {
    /// The object's name.
    pub object: String,
    /// Of which kind it is.
    pub problem: Problem,
    /// For people: what was expected, and what was found.
    pub message: String,
    /// What of which snapshots cannot be restored because of it.
    pub hurts: Vec<Hurt>,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// It must exist and does not.
    Missing,
    /// It is not what it must be.
    Damaged,
    /// The store fails to give it.
    Unreadable,
    /// A number is missing in a sequence without gaps.
    Gap,
    /// The store shows less than this client saw before.
    WentBack,
}

/// What is hurt of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hurt {
    /// The volume's name.
    pub volume: String,
    /// The snapshot's number within the volume.
    pub sequence: u32,
    /// Empty where the snapshot's record cannot be read.
    pub snapshot_id: String,
    /// Nothing of it can be restored.
    pub whole: bool,
    /// Ascending and disjoint.
    pub ranges: Vec<ByteRange>,
}

/// A range of a volume's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ByteRange {
    /// Where it begins in the volume.
    pub offset_bytes: u64,
    /// Bytes from there.
    pub length_bytes: u64,
}

impl From<Range<u64>> for ByteRange {
    fn from(range: Range<u64>) -> Self {
        Self { offset_bytes: range.start, length_bytes: range.end.saturating_sub(range.start) }
    }
}

/// Appends a range that begins no earlier than the last; one that touches it becomes part of it. Whether it did not.
pub(crate) fn merge(ranges: &mut Vec<ByteRange>, range: ByteRange) -> bool {
    let end = range.offset_bytes + range.length_bytes;
    match ranges.last_mut() {
        Some(last) if last.offset_bytes + last.length_bytes >= range.offset_bytes => {
            let last_end = last.offset_bytes + last.length_bytes;
            last.length_bytes = end.max(last_end) - last.offset_bytes;
            false
        }
        _ => {
            ranges.push(range);
            true
        }
    }
}

/// What is wrong with one object, before it is known what it hurts.
#[derive(Debug)]
pub(crate) struct Flaw {
    pub(crate) problem: Problem,
    pub(crate) message: String,
}

impl Flaw {
    pub(crate) fn missing() -> Self {
        Self { problem: Problem::Missing, message: "it does not exist".into() }
    }

    pub(crate) fn damaged(message: impl Into<String>) -> Self {
        Self { problem: Problem::Damaged, message: message.into() }
    }

    /// An error as a flaw of the object it is about; an error that ends the run otherwise.
    pub(crate) fn of(error: Error) -> Result<Self> {
        let problem = match error.kind() {
            ErrorKind::Corrupt | ErrorKind::Unsupported => Problem::Damaged,
            ErrorKind::Unavailable => Problem::Unreadable,
            _ => return Err(error),
        };
        Ok(Self { problem, message: error.to_string() })
    }
}

/// What a look at one object came to: an error of this kind does not end the run.
pub(crate) type Looked<T> = Result<std::result::Result<T, Flaw>>;

/// Turns damage into a flaw and leaves other errors.
pub(crate) fn looked<T>(result: Result<T>) -> Looked<T> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => Flaw::of(error).map(Err),
    }
}

/// Which chunk is hurt: wherever it is used, or only where it must have a length that it has not.
pub(crate) type ChunkKey = (ContentName, Option<u32>);

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) damage: Vec<FlawedObject>,
    pub(crate) omitted: u64,
    /// Damaged chunks and pages, as places in `damage`.
    pub(crate) chunks: HashMap<ChunkKey, usize>,
    pub(crate) pages: HashMap<ContentName, usize>,
    unreadable: usize,
}

impl Findings {
    /// What was found of records, before chunks and pages are looked at.
    pub(crate) fn of(damage: Vec<FlawedObject>, omitted: u64) -> Self {
        Self { damage, omitted, ..Self::default() }
    }

    /// Notes a flaw; `None` where there are too many to list. Fails when the store seems to be down.
    pub(crate) fn add(&mut self, object: impl Into<String>, flaw: Flaw) -> Result<Option<usize>> {
        let object = object.into();
        if flaw.problem == Problem::Unreadable {
            self.unreadable += 1;
            if self.unreadable > UNREADABLE_MAX {
                return Err(Error::unavailable(format!("{object}: {}", flaw.message))
                    .help("the store failed to give many objects; run `cuttle verify` again later"));
            }
        }
        tracing::warn!(object, problem = ?flaw.problem, "{}", flaw.message);
        if self.damage.len() >= DAMAGE_MAX {
            self.omitted += 1;
            return Ok(None);
        }
        let Flaw { problem, message } = flaw;
        self.damage.push(FlawedObject { object, problem, message, hurts: Vec::new() });
        Ok(Some(self.damage.len() - 1))
    }

    pub(crate) fn chunk(&mut self, key: ChunkKey, object: String, flaw: Flaw) -> Result<()> {
        if !self.chunks.contains_key(&key)
            && let Some(at) = self.add(object, flaw)?
        {
            self.chunks.insert(key, at);
        }
        Ok(())
    }

    pub(crate) fn page(&mut self, name: ContentName, object: String, flaw: Flaw) -> Result<()> {
        if !self.pages.contains_key(&name)
            && let Some(at) = self.add(object, flaw)?
        {
            self.pages.insert(name, at);
        }
        Ok(())
    }

    /// Whether any chunk or page is damaged.
    pub(crate) fn has_content(&self) -> bool {
        !self.chunks.is_empty() || !self.pages.is_empty()
    }

    /// Notes a flaw that makes a whole snapshot unusable.
    pub(crate) fn snapshot(&mut self, object: String, flaw: Flaw, hurt: Hurt) -> Result<()> {
        if let Some(at) = self.add(object, flaw)?
            && let Some(damage) = self.damage.get_mut(at)
        {
            damage.hurts.push(hurt);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hurt_is_summed_up_by_snapshot() {
        let hurt = |sequence, ranges: &[(u64, u64)]| Hurt {
            volume: "v".into(),
            sequence,
            snapshot_id: String::new(),
            whole: false,
            ranges: ranges.iter().map(|r| ByteRange { offset_bytes: r.0, length_bytes: r.1 }).collect(),
        };
        let damage = |hurts| FlawedObject {
            object: String::new(),
            problem: Problem::Missing,
            message: String::new(),
            hurts,
        };
        let report = VerifyReport {
            damage: vec![
                damage(vec![hurt(2, &[(100, 10), (130, 10)]), hurt(1, &[(0, 5)])]),
                damage(vec![hurt(2, &[(0, 1), (110, 10), (132, 2)])]),
            ],
            ..VerifyReport::default()
        };
        assert_eq!(report.hurt(), [hurt(1, &[(0, 5)]), hurt(2, &[(0, 1), (100, 20), (130, 10)])]);
    }
}
