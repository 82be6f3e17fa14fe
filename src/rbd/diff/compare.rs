//! Finding what changed, in the way that [`judge()`] allows.
//!
//! What no diff can see is added here: the range that a growing image gained, the block that its old end cuts, and a
//! clone's range that its parent no longer shows through.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::end::End;
use super::extents::ExtentSet;
use super::iterate::{DiffRange, Request, iterate};
use super::judge::{BaseObjects, Facts, History, Verdict, Why, judge};
use super::maps::{Maps, base_objects_of};
use super::ranges::{Joining, joined, pieces};
use crate::error::{Error, Result};
use crate::rbd::{Image, Snapshot, clone, features, migration};
use crate::units::{Content, Extent};
use crate::volume::ObjectsBy;

/// librbd collects a request's ranges before it reports the first: this bounds them.
const DIFF_RANGE_BYTES: u64 = 1 << 40;
/// Slow requests at once. Each of a single object waits for the OSD most of its time.
const SLOW_REQUESTS_INFLIGHT_MAX: usize = 8;
/// Objects of one slow request at most, so that a long run of them is divided among all.
const SLOW_REQUEST_OBJECTS_MAX: u64 = 1024;
/// Objects that nobody has are asked about where there are no more of them between two that somebody has: a request of
/// its own costs as much as asking about three.
const GAP_OBJECTS_MAX: u64 = 3;

/// How two ends are compared. It stays as decided.
pub struct Comparison {
    path: String,
    newer: End,
    size_bytes: u64,
    base: Option<(End, Snapshot)>,
    /// Size of a whole number of objects, and of stripes over them.
    period_bytes: u64,
    objects_per_period: u64,
    /// A clone, or one that the base still was.
    cloned: bool,
    /// Listed is what a clone has of its own.
    own_only: bool,
    maps: Result<Maps>,
    verdict: Verdict,
    /// Where the slow diff looks.
    slow_ranges: Vec<Range<u64>>,
}

impl Comparison {
    /// Compares an end with a snapshot of the same image, or with nothing. `path` is the image's, for the operator.
    pub fn new(path: &str, newer: End, base: Option<End>, history: &History) -> Result<Self> {
        let image = &newer.image;
        let base = match base {
            Some(End { snapshot: None, .. }) => return Err(Error::internal("a base that is no snapshot")),
            Some(End { image, snapshot: Some(snapshot) }) => {
                Some((End::at(image, snapshot.clone()), snapshot))
            }
            None => None,
        };
        let cloned = match &base {
            Some((base, _)) => clone::overlap_bytes(&base.image)? > 0 || clone::parent(image)?.is_some(),
            None => clone::parent(image)?.is_some(),
        };
        let migrating = if migration::is_under_way(image)? { features::MIGRATING } else { 0 };
        let features = image.features()? | migrating;
        let maps = match features & features::MIGRATING == 0 {
            true => Maps::read(&newer, base.as_ref().map(|(base, _)| base)),
            false => Ok(Maps { newer: None, base: None }),
        };
        let base_objects = match (&maps, &history.objects) {
            // Copying what a clone needs of its parent makes objects of its snapshots, too; one that was flattened since is
            // read whole for that, once.
            (Ok(_), Some(_)) if cloned => BaseObjects::Same,
            (Ok(maps), Some(recorded)) => maps.base_objects(recorded),
            (Ok(_), None) => BaseObjects::Same,
            (Err(error), _) => {
                tracing::warn!("{path}: its object maps cannot be read: {error}");
                BaseObjects::Unknown
            }
        };
        let facts = Facts {
            features,
            base_objects,
            newer: newer.judged()?,
            base: base.as_ref().map(|(base, _)| base.judged()).transpose()?,
            history,
        };
        let verdict = match &base {
            // The very same snapshot: nothing is asked.
            Some((_, base)) if newer.snapshot.as_ref().is_some_and(|newer| newer.id == base.id) => {
                Verdict::Fast
            }
            _ => judge(&facts),
        };
        let (size_bytes, striping) = (image.size_bytes()?, image.striping()?);
        let (period_bytes, objects_per_period) = (striping.period_bytes(), striping.objects_per_period());
        let path = path.to_owned();
        let slow_ranges = Vec::new();
        let mut this = Self {
            path,
            newer,
            size_bytes,
            base,
            period_bytes,
            objects_per_period,
            cloned,
            own_only: false,
            maps,
            verdict,
            slow_ranges,
        };
        this.slow_ranges = this.slow_ranges()?;
        Ok(this)
    }

    /// Compares a clone's snapshot with that of its parent: what changed is what it has of its own, and what the parent does not show
    /// through any more. It rests on no history: a clone reads its parent wherever it has no object, by its own map alone. The parent's
    /// snapshot must have the `objects` that it had when it was backed up, as any base must.
    pub fn with_parent(path: &str, newer: End, parent: &End, objects: &ObjectsBy) -> Result<Self> {
        let mut this = Self::new(path, newer, None, &History::default())?;
        this.own_only = true;
        if let Verdict::Slow { why, .. } = this.verdict {
            // An object that is there and empty hides what the parent has. Asking for objects shows none of these, only a map does (seen on
            // 16.2, `tests/ceph/families.rs`).
            this.verdict = Verdict::ReadAll(why);
            return Ok(this);
        }
        if matches!(this.verdict, Verdict::ReadAll(_)) {
            return Ok(this);
        }
        let base = || parent.snapshot.as_ref().map(|s| s.name.clone()).unwrap_or_default();
        match base_objects_of(parent, objects) {
            Ok(BaseObjects::Same) => {}
            Ok(BaseObjects::Changed) => this.verdict = Verdict::ReadAll(Why::ObjectsChanged { base: base() }),
            Ok(BaseObjects::Unknown) => this.verdict = Verdict::ReadAll(Why::ObjectsUnknown { base: base() }),
            Err(error) => {
                tracing::warn!("{path}: the object map of its parent cannot be read: {error}");
                this.verdict = Verdict::ReadAll(Why::ObjectsUnknown { base: base() });
            }
        }
        Ok(this)
    }

    /// How it is found out what changed; decided when the ends were opened.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// By what it is decided which objects of the newer end are there, for the backup that is made of it.
    pub fn objects(&self) -> ObjectsBy {
        self.maps.as_ref().map_or(ObjectsBy::Unknown, Maps::newer_objects)
    }

    /// The base, where there is one.
    pub fn base(&self) -> Option<(&Arc<Image>, &Snapshot)> {
        self.base.as_ref().map(|(end, snapshot)| (&end.image, snapshot))
    }

    /// Size of the newer end.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What the operator should know of the way that is taken, why, what it costs, and what helps.
    pub fn remark(&self) -> Option<String> {
        let why = self.verdict.why()?;
        let how = match &self.verdict {
            Verdict::ReadAll(_) => "all is read".to_owned(),
            _ if self.base.is_none() => "what it holds is listed by the slow diff".to_owned(),
            _ => {
                let bytes: u64 = self.slow_ranges.iter().map(|range| range.end - range.start).sum();
                let objects = bytes.div_ceil(self.period_bytes) * self.objects_per_period;
                format!("the slow diff is used, which asks the cluster about each of {objects} objects")
            }
        };
        let help = why.advice(&self.path).map(|command| format!(" (`{command}`)")).unwrap_or_default();
        Some(format!("{how}: {why}{help}"))
    }

    /// What changed since the base, ascending and disjoint; what is not listed is as it was. Without a base, all that may
    /// hold data; what is not listed reads as zero.
    ///
    /// Where all must be read, all is one extent of data.
    pub fn changed(&self) -> Result<Vec<Extent>> {
        self.changed_while(&|| Ok(()))
    }

    /// The same, ended by an error of `go_on`.
    pub fn changed_while(&self, go_on: &(dyn Fn() -> Result<()> + Sync)) -> Result<Vec<Extent>> {
        let mut set = ExtentSet::new(self.size_bytes);
        self.visit(&mut |range| {
            go_on()?;
            let end = range.offset_bytes.saturating_add(range.length_bytes);
            let content = if range.exists { Content::Data } else { Content::Zero };
            set.add(range.offset_bytes..end, content);
            Ok(())
        })?;
        Ok(set.finish())
    }

    /// Calls `found` with each range that changed, in no order and maybe more than once; where they overlap, one that
    /// exists counts.
    pub fn visit(&self, found: &mut (dyn FnMut(DiffRange) -> Result<()> + Send)) -> Result<()> {
        let size_bytes = self.size_bytes;
        if let Verdict::ReadAll(_) = &self.verdict {
            return found(DiffRange { offset_bytes: 0, length_bytes: size_bytes, exists: true });
        }
        if self.own_only {
            return self.own(found);
        }
        let Some((base, snapshot)) = &self.base else {
            let whole_object = self.verdict == Verdict::Fast;
            // Against nothing, what is not listed reads as zero anyway.
            return self.list(&self.newer, whole_object, true, &mut |range| match range.exists {
                true => found(range),
                false => Ok(()),
            });
        };
        if self.newer.snapshot.as_ref().is_some_and(|newer| newer.id == snapshot.id) {
            return Ok(());
        }
        // librbd takes a name.
        self.require(snapshot)?;
        // In a clone an object that is gone would uncover the parent's data. librbd leaves an empty one in its place; the
        // backup does not rest on that, and reads.
        let cloned = self.cloned;
        let mut seen = |range: DiffRange| found(DiffRange { exists: range.exists || cloned, ..range });
        match &self.verdict {
            Verdict::Fast => self.fast(&snapshot.name, &mut seen)?,
            _ => {
                let from = Request { from: Some(&snapshot.name), ..request(0..0, false) };
                self.slow(from, &self.slow_ranges, &mut seen)?;
                self.hidden(&mut seen)?;
            }
        }
        self.require(snapshot)?;
        self.unseen(base, snapshot, found)
    }

    /// What a clone has of its own: each object that it has, whatever that holds. One that is there and empty hides the parent.
    fn own(&self, found: &mut (dyn FnMut(DiffRange) -> Result<()> + Send)) -> Result<()> {
        self.list(&self.newer, true, false, &mut |range| found(DiffRange { exists: true, ..range }))?;
        let overlap_bytes = clone::overlap_bytes(&self.newer.image)?.min(self.size_bytes);
        match self.size_bytes - overlap_bytes {
            0 => Ok(()),
            length_bytes => found(DiffRange { offset_bytes: overlap_bytes, length_bytes, exists: false }),
        }
    }

    /// What no diff sees.
    fn unseen(
        &self,
        base: &End,
        snapshot: &Snapshot,
        found: &mut (dyn FnMut(DiffRange) -> Result<()> + Send),
    ) -> Result<()> {
        let (old_size_bytes, size_bytes) = (snapshot.size_bytes, self.size_bytes);
        let mut add = |range: Range<u64>, exists| match range.is_empty() {
            true => Ok(()),
            false => {
                let length_bytes = range.end - range.start;
                found(DiffRange { offset_bytes: range.start, length_bytes, exists })
            }
        };
        if old_size_bytes != size_bytes {
            // The last block of the smaller size is cut by one of the two ends: it is another chunk now.
            let end = old_size_bytes.min(size_bytes);
            let start = end.saturating_sub(1) / self.period_bytes * self.period_bytes;
            add(start..end, true)?;
            add(old_size_bytes..size_bytes, false)?;
        }
        if self.cloned {
            // Where the parent shows through no more, neither snapshot need have an object to compare. librbd copies
            // such objects up before it cuts a clone that has snapshots; the backup does not rest on that.
            let (old, new) = (clone::overlap_bytes(&base.image)?, clone::overlap_bytes(&self.newer.image)?);
            add(new..old, true)?;
        }
        Ok(())
    }

    /// Fails where the name that librbd is asked by is not that very snapshot's.
    fn require(&self, snapshot: &Snapshot) -> Result<()> {
        let named = self.newer.image.snapshots().list()?.into_iter().find(|s| s.name == snapshot.name);
        match named {
            Some(named) if named.id == snapshot.id => Ok(()),
            named => {
                let (path, name, id) = (&self.path, &snapshot.name, snapshot.id);
                let found = named.map_or("none".to_owned(), |named| format!("id {}", named.id));
                Err(Error::conflict(format!(
                    "snapshot {name} of {path} was replaced while it was compared: expected id {id}, found {found}"
                ))
                .help("run the command again"))
            }
        }
    }

    fn fast(&self, from: &str, found: &mut dyn FnMut(DiffRange) -> Result<()>) -> Result<()> {
        for range in pieces(0..self.size_bytes, self.step_bytes()) {
            iterate(&self.newer.image, Request { from: Some(from), ..request(range, true) }, found)?;
        }
        Ok(())
    }

    /// Several requests at a time.
    fn slow(
        &self,
        asked: Request<'_>,
        ranges: &[Range<u64>],
        found: &mut (dyn FnMut(DiffRange) -> Result<()> + Send),
    ) -> Result<()> {
        let request_bytes =
            self.period_bytes.saturating_mul((SLOW_REQUEST_OBJECTS_MAX / self.objects_per_period).max(1));
        let ranges: Vec<_> = ranges.iter().flat_map(|range| pieces(range.clone(), request_bytes)).collect();
        let (next, found, failed) = (AtomicUsize::new(0), Mutex::new(found), Mutex::new(None));
        let ask = || {
            while let Some(range) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (offset_bytes, length_bytes) = (range.start, range.end - range.start);
                let request = Request { offset_bytes, length_bytes, ..asked };
                let asked = iterate(&self.newer.image, request, &mut |range| {
                    (found.lock().unwrap_or_else(PoisonError::into_inner))(range)
                });
                if let Err(error) = asked {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    next.store(ranges.len(), Ordering::Relaxed);
                }
            }
        };
        // A panic in one of them goes on here.
        thread::scope(|scope| {
            for _ in 1..SLOW_REQUESTS_INFLIGHT_MAX.min(ranges.len()) {
                scope.spawn(ask);
            }
            ask();
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// What asking for objects does not show: where a map hides them from one end and not from the other.
    fn hidden(&self, found: &mut (dyn FnMut(DiffRange) -> Result<()> + Send)) -> Result<()> {
        let Ok(maps) = &self.maps else { return Err(Error::internal("object maps that could not be read")) };
        match (&maps.base, &maps.newer) {
            (None, None) => Ok(()),
            (Some(base), Some(newer)) => {
                let both = base.len().min(newer.len());
                for object in (0..both).filter(|object| base.has(*object) != newer.has(*object)) {
                    let Range { start, end } = self.range_of(object);
                    // Others share a stripe's range.
                    let exists = newer.has(object) || self.objects_per_period > 1;
                    found(DiffRange { offset_bytes: start, length_bytes: end - start, exists })?;
                }
                Ok(())
            }
            // The other end is read by its objects: what is there, and this map lacks, it hides.
            (Some(map), None) | (None, Some(map)) => {
                let mut lacking = ExtentSet::new(self.size_bytes);
                for object in (0..map.len()).filter(|object| !map.has(*object)) {
                    lacking.add(self.range_of(object), Content::Data);
                }
                let ranges = joined(&lacking.finish(), self.joining(0));
                let asked = Request { with_parent: false, ..request(0..0, false) };
                self.slow(asked, &ranges, &mut |range| match range.exists {
                    true => found(range),
                    false => Ok(()),
                })
            }
        }
    }

    /// Where an object lies, with those that it shares stripes with.
    fn range_of(&self, object: u64) -> Range<u64> {
        let start = (object / self.objects_per_period).saturating_mul(self.period_bytes);
        start.min(self.size_bytes)..start.saturating_add(self.period_bytes).min(self.size_bytes)
    }

    /// All that an end holds.
    fn list(
        &self,
        end: &End,
        whole_object: bool,
        with_parent: bool,
        found: &mut dyn FnMut(DiffRange) -> Result<()>,
    ) -> Result<()> {
        let size_bytes = end.image.size_bytes()?;
        // Without a base librbd looks through the whole parent for each request, so a clone is asked for at once.
        let at_once = self.cloned && with_parent;
        let step_bytes = if at_once { size_bytes } else { self.step_bytes() };
        for range in pieces(0..size_bytes, step_bytes) {
            iterate(&end.image, Request { with_parent, ..request(range, whole_object) }, found)?;
        }
        Ok(())
    }

    fn step_bytes(&self) -> u64 {
        DIFF_RANGE_BYTES.checked_next_multiple_of(self.period_bytes).unwrap_or(u64::MAX)
    }

    /// Where the slow diff looks: wherever either end has an object, so far as the maps can say; a full list is right by
    /// its own map alone. What a clone's parent holds is the same in both.
    fn slow_ranges(&self) -> Result<Vec<Range<u64>>> {
        let (Verdict::Slow { maps_hold, .. }, Some((base, _))) = (&self.verdict, &self.base) else {
            return Ok(Vec::new());
        };
        if !maps_hold {
            return Ok(std::iter::once(0..self.size_bytes).collect());
        }
        let mut held = ExtentSet::new(self.size_bytes);
        for end in [base, &self.newer] {
            self.list(end, true, false, &mut |range| {
                if range.exists {
                    held.add(
                        range.offset_bytes..range.offset_bytes.saturating_add(range.length_bytes),
                        Content::Data,
                    );
                }
                Ok(())
            })?;
        }
        let gap_bytes = self.period_bytes.saturating_mul((GAP_OBJECTS_MAX / self.objects_per_period).max(1));
        Ok(joined(&held.finish(), self.joining(gap_bytes)))
    }

    fn joining(&self, gap_bytes: u64) -> Joining {
        Joining { period_bytes: self.period_bytes, gap_bytes, size_bytes: self.size_bytes }
    }
}

/// Of all that is there, not of what changed.
fn request(range: Range<u64>, whole_object: bool) -> Request<'static> {
    let (offset_bytes, length_bytes) = (range.start, range.end - range.start);
    Request { from: None, offset_bytes, length_bytes, whole_object, with_parent: true }
}
