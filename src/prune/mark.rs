//! What live snapshots reference: a walk over their manifests that reads each distinct page once.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::iter;

use futures::{StreamExt, TryStreamExt, stream};

use crate::cancel::Cancel;
use crate::error::{ErrorKind, Result};
use crate::format::lost::LostName;
use crate::format::names::{ContentKind, ContentName};
use crate::format::page::{ObjectRef, Page, PageRef};
use crate::format::roster::RosterEntry;
use crate::plan::marks::{Marks, fingerprint};
use crate::plan::pieces::Pieces;
use crate::prune::live::Live;
use crate::prune::survey::{Known, Survey, stopped};
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;
use crate::repo::log::LogEntry;
use crate::repo::scratch::Scratch;
use crate::repo::walk::{Node, Tree, Visit, Walk, Walker};
use crate::units::{Generation, Sequence, VolumeNumber};

/// Outcomes read ahead of the walk.
const OUTCOMES_AHEAD_MAX: usize = 8;
/// Pages that are remembered as walked (about 30 MiB). Beyond, all are forgotten and some read again.
const PAGES_SEEN_MAX: usize = 1 << 19;

/// What makes two pages the same: a page of another count does not decode.
type PageKey = (ContentName, u8, u16);

/// The references found so far, and the snapshots they are of.
pub(super) struct Marker {
    pub(super) marks: Marks,
    /// Full chunks without variant that are referenced, each once.
    pub(super) live: Live,
    /// Pieces that are referenced.
    pub(super) pieces: Pieces,
    /// Pages read.
    pub(super) pages: u64,
    /// The newest generation that a live snapshot was made in, and which.
    pub(super) made_in: Option<(Generation, String)>,
    /// The most marks there were at once.
    pub(super) marks_most: usize,
    /// The sealed round up to which nothing of what is marked was deleted.
    last: Option<Generation>,
    /// The live snapshots of that round's seal: whatever became of them, nothing that they need was deleted.
    sealed: HashSet<(VolumeNumber, Sequence)>,
    seen: HashSet<PageKey>,
    /// Sequences whose references are all marked, and whether they were live.
    covered: BTreeMap<(VolumeNumber, Sequence), bool>,
    /// Snapshots that a dry run takes for forgotten.
    left_out: HashSet<(VolumeNumber, Sequence)>,
    /// What a listing shows is taken for true, and records from the cache: for a dry run, which deletes nothing.
    only_looks: bool,
    pub(super) suspects: Suspects,
}

/// What the walk is asked to look out for.
#[derive(Default)]
pub(super) struct Suspects {
    /// Recorded as lost.
    pub(super) recorded: HashSet<LostName>,
    /// Of these, what is referenced.
    pub(super) needed: HashSet<LostName>,
    /// Whether every live snapshot was walked since.
    pub(super) is_complete: bool,
    /// Fingerprints of what no listing showed.
    pub(super) unlisted: HashSet<u64>,
    /// Their names, each with a snapshot that needs it.
    pub(super) named: BTreeMap<LostName, (VolumeNumber, Sequence)>,
    walked: Option<(VolumeNumber, Sequence)>,
}

impl Suspects {
    fn saw(&mut self, name: LostName) {
        if self.recorded.contains(&name) {
            self.needed.insert(name);
        }
        if let Some(walked) = self.walked
            && self.unlisted.contains(&fingerprint(&name.name()))
        {
            self.named.entry(name).or_insert(walked);
        }
    }

    fn is_idle(&self) -> bool {
        self.recorded.is_empty() && self.unlisted.is_empty()
    }
}

/// Marks what it comes to, and reads each distinct page once.
struct Marking<'a> {
    marker: &'a mut Marker,
    project: &'a Project,
}

impl Walker for Marking<'_> {
    type Flaw = Infallible;

    fn enters(&mut self, node: &Node) -> bool {
        let Marker { seen, .. } = &mut *self.marker;
        if seen.len() >= PAGES_SEEN_MAX {
            seen.clear();
        }
        let new = seen.insert((node.object.name, node.level, node.count as u16));
        self.marker.mark(ContentKind::Page, &node.object.name);
        new
    }

    async fn read(&self, node: &Node) -> Result<std::result::Result<Page, Infallible>> {
        self.project.content().read_page(&node.object, node.level, node.count).await.map(Ok)
    }
}

impl Marker {
    pub(super) fn new(marks_max: usize, scratch: Scratch) -> Self {
        Self {
            marks: Marks::new(marks_max),
            live: Live::new(scratch),
            pieces: Pieces::default(),
            pages: 0,
            made_in: None,
            marks_most: 0,
            last: None,
            sealed: HashSet::new(),
            seen: HashSet::new(),
            covered: BTreeMap::new(),
            left_out: HashSet::new(),
            only_looks: false,
            suspects: Suspects::default(),
        }
    }

    /// Only looks, for a dry run, which deletes nothing; and takes some snapshots for forgotten.
    pub(super) fn only_look(&mut self, left_out: &[(VolumeNumber, Sequence)]) {
        self.left_out.extend(left_out);
        self.only_looks = true;
        self.live.only_count();
    }

    /// Begins with the first pass, given the newest seal. Marks that tell about every name are kept, unless somebody else sealed a round since: it may
    /// have deleted what the live index would name.
    pub(super) fn first_pass(&mut self, known: &Known) {
        if !self.marks.is_complete() || self.last != Some(known.last_seal) {
            self.forget();
        }
        self.last = Some(known.last_seal);
        let live = |entry: &RosterEntry| entry.live.iter().map(|s| (entry.volume, *s)).collect::<Vec<_>>();
        self.sealed = known.roster().iter().flat_map(live).collect();
    }

    /// Asks of every snapshot whether it is forgotten, whatever a seal or a listing says.
    pub(super) fn ask_all(&mut self) {
        self.sealed.clear();
    }

    /// A round deletes nothing that is marked, as it was decided by these marks.
    pub(super) fn decided(&mut self, round: Generation) {
        self.last = Some(round);
    }

    /// Begins the next pass; false when the last one told about all the rest.
    pub(super) fn next_pass(&mut self) -> bool {
        let more = !self.marks.first_bytes().contains(&255) && self.marks.next_range();
        if more {
            self.pieces = Pieces::default();
            self.seen.clear();
            self.covered.clear();
        }
        more
    }

    /// Forgets everything: after somebody else's round, what was referenced may have been deleted.
    pub(super) fn forget(&mut self) {
        self.last = None;
        self.suspects.needed.clear();
        self.suspects.is_complete = false;
        self.marks.restart();
        self.live.clear();
        self.pieces = Pieces::default();
        self.seen.clear();
        self.covered.clear();
    }

    /// Marks what every live snapshot references that was not walked before. Complete, or an error.
    pub(super) async fn cover(&mut self, project: &Project, survey: &Survey, cancel: &Cancel) -> Result<()> {
        let mut wanted = Vec::new();
        for volume in &survey.volumes {
            let number = volume.record.number;
            let kept = volume.log.forgotten().filter(|(s, _)| survey.kept.contains(&(number, *s)));
            for (age, (sequence, entry)) in volume.log.candidates().chain(kept).enumerate() {
                let at = (number, sequence);
                if self.left_out.contains(&at) {
                    self.covered.insert(at, false);
                } else if !self.covered.contains_key(&at) {
                    // Notes are not asked for, and no outcome is taken from the cache: what is kept rests on them.
                    let end_stamp = entry.end_stamp.filter(|_| self.only_looks);
                    let entry = LogEntry { notes: 0, end_stamp, ..*entry };
                    wanted.push((age > 0, &volume.record, sequence, entry));
                }
            }
        }
        // The newest of each volume first: theirs are the chunks that the next backup may well have.
        wanted.sort_by_key(|(older, ..)| *older);
        for batch in wanted.chunks(OUTCOMES_AHEAD_MAX) {
            let (sealed, only_looks) = (&self.sealed, self.only_looks);
            let outcomes: Vec<_> = stream::iter(batch)
                .map(|(_, volume, sequence, entry)| async move {
                    let at = (volume.number, *sequence);
                    // A listing may not show yet that it was forgotten long ago. To keep what it needs would do no harm,
                    // but the live index must not name what an earlier round has deleted.
                    let is_proven = only_looks || sealed.contains(&at) || survey.kept.contains(&at);
                    let forgotten = !is_proven && project.slot(at.0, at.1).is_forgotten().await?;
                    match forgotten {
                        true => Ok((at, None)),
                        false => {
                            project.history(volume).outcome(*sequence, entry).await.map(|found| (at, found))
                        }
                    }
                })
                .buffered(OUTCOMES_AHEAD_MAX)
                .try_collect()
                .await
                .map_err(explained)?;
            for (at, found) in outcomes {
                cancel.check()?;
                let live = match found {
                    None => false,
                    Some(snapshot) => self.snapshot(project, &snapshot).await?,
                };
                self.covered.insert(at, live);
            }
        }
        Ok(())
    }

    /// Whether a snapshot was found live when it was walked.
    pub(super) fn is_live(&self, volume: VolumeNumber, sequence: Sequence) -> bool {
        self.covered.get(&(volume, sequence)).copied().unwrap_or(false)
    }

    /// The live snapshots as a seal keeps them.
    pub(super) fn roster(&self, survey: &Survey) -> Vec<RosterEntry> {
        let entry = |volume: &super::survey::Surveyed| {
            let number = volume.record.number;
            let mut live: Vec<Sequence> = volume.log.candidates().map(|(s, _)| s).collect();
            live.retain(|s| self.is_live(number, *s));
            live.sort_unstable();
            let unfinished = volume.log.unfinished().collect();
            let kept = volume.log.forgotten().map(|(s, _)| s);
            let kept =
                kept.filter(|s| survey.kept.contains(&(number, *s)) && self.is_live(number, *s)).collect();
            RosterEntry { volume: number, high_water: volume.log.last(), live, unfinished, kept }
        };
        survey.volumes.iter().map(entry).collect()
    }

    /// Marks all that a snapshot references. False when it was forgotten, and perhaps removed, meanwhile.
    async fn snapshot(&mut self, project: &Project, snapshot: &SnapshotEntry) -> Result<bool> {
        let made_in = snapshot.snapshot.generation;
        if self.made_in.as_ref().is_none_or(|(newest, _)| *newest < made_in) {
            let name = snapshot.name();
            self.made_in = Some((made_in, name));
        }
        let Err(error) = self.walk(project, snapshot).await else { return Ok(true) };
        // Pages count as seen before they are read: another snapshot may need those that now were not.
        self.seen.clear();
        let (volume, sequence) = (snapshot.snapshot.volume, snapshot.snapshot.sequence);
        if error.kind() == ErrorKind::Corrupt && project.slot(volume, sequence).is_gone().await? {
            return Ok(false);
        }
        Err(explained(error.context(format!("{}@{sequence}", snapshot.volume_name))))
    }

    async fn walk(&mut self, project: &Project, snapshot: &SnapshotEntry) -> Result<()> {
        self.suspects.walked = Some((snapshot.snapshot.volume, snapshot.snapshot.sequence));
        let mut walk = Walk::over(Marking { marker: self, project }, Tree::of(&snapshot.snapshot)?);
        while let Some(visit) = walk.next().await? {
            if let Visit::Leaf(leaf) = visit {
                walk.walker.marker.leaf(&leaf.page);
            }
        }
        let pages = walk.pages;
        self.pages += pages;
        Ok(())
    }

    fn leaf(&mut self, page: &Page) {
        for chunk in &page.refs {
            let PageRef::Stored { object, closure, .. } = chunk else { continue };
            // A live ref keeps all that it takes to decode it.
            for object in iter::once(object).chain(closure) {
                let new = self.mark(ContentKind::Chunk, &object.name);
                self.piece(object);
                // An object below `chunks/` is always full.
                if new && object.name.variant == 0 && object.name.offset_bytes.is_none() {
                    self.live.add(object);
                }
            }
        }
    }

    /// Of this pass, as the bundles are that a listing shows.
    fn piece(&mut self, object: &ObjectRef) {
        if self.marks.covers(&object.name.object()) {
            self.pieces.add(object);
        }
    }

    fn mark(&mut self, kind: ContentKind, name: &ContentName) -> bool {
        if !self.suspects.is_idle() {
            self.suspects.saw(LostName::new(kind, *name));
        }
        let before = self.marks.first_bytes();
        // A live piece keeps its bundle.
        let new = self.marks.insert(&name.object());
        if self.marks.first_bytes() != before {
            // What was dropped is found again by the pass that marks it.
            self.live.forget_range(self.marks.first_bytes().end..before.end);
        }
        self.marks_most = self.marks_most.max(self.marks.len());
        new
    }
}

/// An error that tells that nothing was deleted.
fn explained(error: crate::Error) -> crate::Error {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Unsupported => stopped(error.to_string()).caused_by(error),
        _ => error,
    }
}
