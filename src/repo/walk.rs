//! The walk over manifest pages: in the order of offsets, some pages read ahead, and what two manifests have in common left out.
//!
//! One manifest is walked as what lies between a volume of no size and it: then what is left out is what is zero. Whoever
//! walks many manifests and wants each page once says so in [`Walker::enters`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use futures::future::join_all;

use crate::error::{Error, Result};
use crate::format::names::ContentName;
use crate::format::page::{
    ObjectRef, Page, PageRef, REFS_PER_PAGE, count_of_page, pages_of_level, root_level,
};
use crate::format::record::Snapshot;
use crate::repo::Project;
use crate::units::Geometry;

/// Pages read at once, all below one page, before the first of them is shown: 80 KiB each, of each of the two.
const PAGES_AHEAD_MAX: usize = 16;
const FANOUT: u64 = REFS_PER_PAGE as u64;

/// A stored page, as the page above names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) object: ObjectRef,
    pub(crate) level: u8,
    pub(crate) number: u64,
    /// Its refs.
    pub(crate) count: usize,
    /// The page that names it; none for a root, which is part of a record.
    pub(crate) above: Option<ContentName>,
}

/// Who walks.
pub(crate) trait Walker: Sync {
    /// What is wrong with a page that cannot be read, where that does not end the walk.
    type Flaw: Send;

    /// Asked of each stored page in turn, before it is read, unless both have it. Whether it is read, and what is below it walked.
    fn enters(&mut self, _node: &Node) -> bool {
        true
    }

    /// Whether what both have is left out within these leaves.
    fn skips(&self, _leaves: Range<u64>) -> bool {
        true
    }

    fn read(&self, node: &Node)
    -> impl Future<Output = Result<std::result::Result<Page, Self::Flaw>>> + Send;
}

/// What the walk comes to.
pub(crate) enum Visit<F> {
    /// Leaves that both have, or that were not entered; zeros, of one alone.
    Skipped(Range<u64>),
    Leaf(Leaf),
    Flawed(Node, F),
}

/// A leaf, and what the first manifest has in its place.
pub(crate) struct Leaf {
    pub(crate) number: u64,
    /// How it is stored; zeros are not.
    pub(crate) node: Option<Node>,
    pub(crate) page: Arc<Page>,
    /// Without refs beyond the first manifest's end.
    pub(crate) from: Arc<Page>,
}

/// A walk under way.
pub(crate) struct Walk<W: Walker> {
    pub(crate) walker: W,
    /// Pages read, those of the first manifest not counted.
    pub(crate) pages: u64,
    from: Tree,
    to: Tree,
    is_begun: bool,
    /// From the root down to where the walk is.
    frames: Vec<Frame<W::Flaw>>,
}

/// A manifest.
#[derive(Clone)]
pub(crate) struct Tree {
    geometry: Geometry,
    root: Arc<Page>,
}

impl Tree {
    pub(crate) fn new(geometry: Geometry, root: Arc<Page>) -> Self {
        Self { geometry, root }
    }

    pub(crate) fn of(snapshot: &Snapshot) -> Result<Self> {
        Ok(Self::new(snapshot.geometry()?, Arc::new(snapshot.root_page()?)))
    }

    /// A volume of no size.
    fn empty(chunk_size_bytes: u32) -> Self {
        let geometry = Geometry { size_bytes: 0, chunk_size_bytes };
        Self::new(geometry, Arc::new(Page::zero(root_level(0), 0)))
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) fn leaf_count(&self) -> u64 {
        pages_of_level(self.geometry.chunk_count(), 0)
    }

    /// The leaves below a page.
    fn leaves(&self, level: u8, number: u64) -> Range<u64> {
        let (each, end) = (FANOUT.saturating_pow(u32::from(level)), self.leaf_count());
        number.saturating_mul(each).min(end)..(number + 1).saturating_mul(each).min(end)
    }

    fn count(&self, level: u8, number: u64) -> usize {
        count_of_page(self.geometry.chunk_count(), level, number)
    }
}

/// What the first manifest has in the place of a page of the second.
#[derive(Clone)]
enum Place {
    Zero,
    Page(Arc<Page>),
    /// Its root lies below the first page here: its tree is the lower one.
    AboveRoot,
}

/// What it has in the place of a page, before that is read.
enum Named {
    Ref(PageRef),
    Place(Place),
}

/// A page whose refs are being walked.
struct Frame<F> {
    /// Of the pages that it names.
    level: u8,
    number: u64,
    name: Option<ContentName>,
    page: Arc<Page>,
    from: Place,
    /// The ref to be looked at next.
    at: usize,
    ready: VecDeque<Result<Step<F>>>,
}

enum Step<F> {
    Skipped(Range<u64>),
    Page { number: u64, node: Option<Node>, page: Arc<Page>, from: Place },
    Flawed(Node, F),
}

/// What is to be read.
struct Wanted {
    level: u8,
    number: u64,
    node: Option<Node>,
    from: Named,
}

enum Ahead {
    Skipped(Range<u64>),
    Wanted(Box<Wanted>),
}

impl<W: Walker> Walk<W> {
    /// Over one manifest.
    pub(crate) fn over(walker: W, tree: Tree) -> Self {
        let empty = Tree::empty(tree.geometry.chunk_size_bytes);
        Self::between(walker, empty, tree)
    }

    /// Over what lies between two. What is beyond the end of the second is not walked.
    pub(crate) fn between(walker: W, from: Tree, to: Tree) -> Self {
        Self { walker, pages: 0, from, to, is_begun: false, frames: Vec::new() }
    }

    /// Chunks and size of the two.
    pub(crate) fn geometries(&self) -> (Geometry, Geometry) {
        (self.from.geometry, self.to.geometry)
    }

    /// The next visit, or `None` after the last.
    ///
    /// # Errors
    /// Those of reading a page; what comes after it can still be asked for.
    pub(crate) async fn next(&mut self) -> Result<Option<Visit<W::Flaw>>> {
        if !self.is_begun {
            let from = self.top().await?;
            let page = Arc::clone(&self.to.root);
            self.is_begun = true;
            self.push(0, None, page, from);
        }
        loop {
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            let Some(step) = frame.ready.pop_front() else {
                if !self.read_ahead().await {
                    self.frames.pop();
                }
                continue;
            };
            match step? {
                Step::Skipped(leaves) => return Ok(Some(Visit::Skipped(leaves))),
                Step::Flawed(node, flaw) => return Ok(Some(Visit::Flawed(node, flaw))),
                Step::Page { number, node, page, from } => {
                    self.pages += u64::from(node.is_some());
                    if page.level > 0 {
                        self.push(number, node.map(|node| node.object.name), page, from);
                        continue;
                    }
                    let from = match from {
                        Place::Page(page) => page,
                        Place::Zero | Place::AboveRoot => Arc::new(Page::zero(0, 0)),
                    };
                    return Ok(Some(Visit::Leaf(Leaf { number, node, page, from })));
                }
            }
        }
    }

    fn push(&mut self, number: u64, name: Option<ContentName>, page: Arc<Page>, from: Place) {
        if let Some(level) = page.level.checked_sub(1) {
            self.frames.push(Frame { level, number, name, page, from, at: 0, ready: VecDeque::new() });
        }
    }

    /// What the first has in the place of the second's root.
    async fn top(&self) -> Result<Place> {
        let (from, level) = (&self.from, self.to.root.level);
        if from.leaf_count() == 0 {
            return Ok(Place::Zero);
        }
        if from.root.level < level {
            return Ok(Place::AboveRoot);
        }
        let (mut page, mut above) = (Arc::clone(&from.root), None);
        while page.level > level {
            let below = page.level - 1;
            let Some(object) = page.refs.first().and_then(PageRef::object).copied() else {
                return Ok(Place::Zero);
            };
            let node = Node { object, level: below, number: 0, count: from.count(below, 0), above };
            let Ok(found) = self.walker.read(&node).await? else {
                return Err(Error::corrupt(format!("page {} is not what it must be", object.name.id)));
            };
            (page, above) = (Arc::new(found), Some(object.name));
        }
        Ok(Place::Page(page))
    }

    /// Looks at the next refs of the page that the walk is at, and reads what is wanted of them; false behind the last.
    async fn read_ahead(&mut self) -> bool {
        let Some(frame) = self.frames.last_mut() else { return false };
        let (mut at, level, mut ahead, mut pages) = (frame.at, frame.level, Vec::new(), 0);
        while pages < PAGES_AHEAD_MAX
            && let Some(to) = frame.page.refs.get(at)
        {
            let number = frame.number.saturating_mul(FANOUT).saturating_add(at as u64);
            let leaves = self.to.leaves(level, number);
            let from = named(&self.from, &frame.from, level, number, at);
            let is_same = matches!(&from, Named::Ref(from) if from.id() == to.id());
            let node = to.object().map(|object| {
                let count = self.to.count(level, number);
                Node { object: *object, level, number, count, above: frame.name }
            });
            let skipped = (is_same && self.walker.skips(leaves.clone()))
                || node.as_ref().is_some_and(|node| !self.walker.enters(node));
            match ahead.last_mut() {
                Some(Ahead::Skipped(before)) if skipped => before.end = leaves.end,
                _ if skipped => ahead.push(Ahead::Skipped(leaves)),
                _ => {
                    pages += 1;
                    ahead.push(Ahead::Wanted(Box::new(Wanted { level, number, node, from })));
                }
            }
            at += 1;
        }
        let (walker, from, to) = (&self.walker, &self.from, &self.to);
        let steps = join_all(ahead.into_iter().map(|ahead| step(walker, from, to, ahead))).await;
        // Only now: whoever stops waiting and asks again misses nothing.
        let Some(frame) = self.frames.last_mut() else { return false };
        frame.ready.extend(steps);
        std::mem::replace(&mut frame.at, at) < at
    }
}

/// What the first manifest has in the place of the page that one ref of a page names.
fn named(from: &Tree, above: &Place, level: u8, number: u64, at: usize) -> Named {
    match above {
        Place::Page(page) => Named::Ref(page.refs.get(at).cloned().unwrap_or_default()),
        Place::AboveRoot if number == 0 && level > from.root.level => Named::Place(Place::AboveRoot),
        Place::AboveRoot if number == 0 => Named::Place(Place::Page(Arc::clone(&from.root))),
        Place::AboveRoot | Place::Zero => Named::Ref(PageRef::Zero),
    }
}

async fn step<W: Walker>(walker: &W, from: &Tree, to: &Tree, ahead: Ahead) -> Result<Step<W::Flaw>> {
    let Wanted { level, number, node, from: named } = match ahead {
        Ahead::Skipped(leaves) => return Ok(Step::Skipped(leaves)),
        Ahead::Wanted(wanted) => *wanted,
    };
    let page = match &node {
        None => Page::zero(level, to.count(level, number)),
        Some(node) => match walker.read(node).await? {
            Ok(page) => page,
            Err(flaw) => return Ok(Step::Flawed(*node, flaw)),
        },
    };
    let page = Arc::new(page);
    let from = match named {
        Named::Place(place) => place,
        Named::Ref(PageRef::Zero) => Place::Zero,
        Named::Ref(PageRef::Stored { object, .. })
            if node.is_some_and(|node| node.object.name.id == object.name.id) =>
        {
            Place::Page(Arc::clone(&page))
        }
        Named::Ref(PageRef::Stored { object, .. }) => {
            let count = from.count(level, number);
            let node = Node { object, level, number, count, above: None };
            match walker.read(&node).await? {
                Ok(found) => Place::Page(Arc::new(found)),
                Err(flaw) => return Ok(Step::Flawed(node, flaw)),
            }
        }
    };
    Ok(Step::Page { number, node, page, from })
}

/// Wants all pages, and takes them from the cache where that has them.
pub(crate) struct Reading(pub(crate) Project);

impl Walker for Reading {
    type Flaw = Infallible;

    async fn read(&self, node: &Node) -> Result<std::result::Result<Page, Infallible>> {
        self.0.content().read_page(&node.object, node.level, node.count).await.map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::history::SnapshotEntry;
    use crate::repo::manifest::Manifest;
    use crate::testing::{Bench, CHUNK, Numbers};

    /// Indices around every boundary of pages, and sizes around them: trees of one, two and three levels.
    const PLACES: [u64; 8] =
        [0, 5, 1023, 1024, 2048, 3 * 1024 + 7, FANOUT * FANOUT - 1, FANOUT * FANOUT + 5000];
    const SIZES: [u64; 6] = [0, 6, 1024, 1025, 4000, FANOUT * FANOUT + 5001];

    async fn snapshot(bench: &Bench, chunks: u64, held: &[(u64, PageRef)]) -> SnapshotEntry {
        let within = held.iter().filter(|(at, _)| *at < chunks).cloned().collect();
        bench.commit_at("v", chunks * u64::from(CHUNK), within).await
    }

    async fn leaf(manifest: &Manifest, number: u64) -> Vec<PageRef> {
        match number < manifest.leaf_count() {
            true => manifest.leaf(number).await.expect("a leaf").refs.clone(),
            false => Vec::new(),
        }
    }

    /// Without the zeros at their end, in which what is cut or grown may differ.
    fn trimmed(mut refs: Vec<PageRef>) -> Vec<PageRef> {
        while refs.last().is_some_and(PageRef::is_zero) {
            refs.pop();
        }
        refs
    }

    #[tokio::test]
    async fn every_leaf_is_shown_as_it_is_or_left_out_as_the_same() {
        let bench = Bench::new(true).await;
        let mut numbers = Numbers::new(7);
        let mut chunks = vec![PageRef::Zero];
        for n in 0..3 {
            chunks.push(bench.chunk(&[n + 1; 100]).await);
        }
        for round in 0..40 {
            let size = |numbers: &mut Numbers| SIZES[numbers.below(SIZES.len())];
            let (from_chunks, to_chunks) = (size(&mut numbers), size(&mut numbers));
            let held = PLACES.map(|at| (at, chunks[numbers.below(4)].clone()));
            let mut changed = held.clone();
            for _ in 0..numbers.below(3) {
                changed[numbers.below(PLACES.len())].1 = chunks[numbers.below(4)].clone();
            }
            let (from, to) =
                (snapshot(&bench, from_chunks, &held).await, snapshot(&bench, to_chunks, &changed).await);
            let of =
                |entry: &SnapshotEntry| Manifest::of(&bench.project, &entry.snapshot).expect("a manifest");
            let (old, new) = (of(&from), of(&to));
            let tree = |entry: &SnapshotEntry| Tree::of(&entry.snapshot).expect("a tree");
            let mut walk = Walk::between(Reading(Project::clone(&bench.project)), tree(&from), tree(&to));
            let mut at = 0;
            while let Some(visit) = walk.next().await.expect("read") {
                let context = format!("round {round}, {from_chunks} to {to_chunks} chunks, leaf {at}");
                match visit {
                    Visit::Flawed(_, never) => match never {},
                    Visit::Leaf(found) => {
                        assert_eq!(found.number, at, "{context}");
                        assert_eq!(found.page.refs, leaf(&new, at).await, "{context}");
                        assert_eq!(
                            trimmed(found.from.refs.clone()),
                            trimmed(leaf(&old, at).await),
                            "{context}"
                        );
                        at += 1;
                    }
                    Visit::Skipped(leaves) => {
                        assert!(leaves.start == at && !leaves.is_empty(), "{context}: {leaves:?}");
                        for number in
                            PLACES.map(|place| place / FANOUT).into_iter().filter(|n| leaves.contains(n))
                        {
                            let (old, new) = (leaf(&old, number).await, leaf(&new, number).await);
                            assert_eq!(trimmed(old), trimmed(new), "{context}: {number}");
                        }
                        at = leaves.end;
                    }
                }
            }
            assert_eq!(at, tree(&to).leaf_count(), "round {round}");
        }
    }

    #[tokio::test]
    async fn nothing_is_read_where_two_are_the_same() {
        let bench = Bench::new(true).await;
        let held = [(5, bench.chunk(&[1; 100]).await), (FANOUT * FANOUT + 5, bench.chunk(&[2; 100]).await)];
        let entry = snapshot(&bench, FANOUT * FANOUT + 5001, &held).await;
        let tree = || Tree::of(&entry.snapshot).expect("a tree");
        let before = bench.project.repository().store().ledger();
        let mut walk = Walk::between(Reading(Project::clone(&bench.project)), tree(), tree());
        let Some(Visit::Skipped(all)) = walk.next().await.expect("read") else { panic!("a leaf") };
        assert_eq!(all, 0..tree().leaf_count());
        assert!(walk.next().await.expect("read").is_none());
        assert_eq!((bench.project.repository().store().ledger() - before).requests(), 0);
        let mut walk = Walk::over(Reading(Project::clone(&bench.project)), tree());
        let mut leaves = 0;
        while let Some(visit) = walk.next().await.expect("read") {
            leaves += u64::from(matches!(visit, Visit::Leaf(_)));
        }
        assert_eq!((leaves, walk.pages), (2, 4), "two leaves, and one page above each");
    }
}
