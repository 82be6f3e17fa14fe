//! What nothing references: listings of all chunks, pages and bundles, held against the marks.

use std::collections::HashSet;
use std::ops::Range;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::Result;
use crate::format::HEADER_LEN_BYTES;
use crate::format::gc::Condemned;
use crate::format::names::ContentKind;
use crate::format::page::ObjectRef;
use crate::format::table::TableEntry;
use crate::plan::marks::Marks;
use crate::prune::lost::{name_lost, not_listed};
use crate::prune::report::Counted;
use crate::prune::survey::{stopped, survey};
use crate::prune::{Context, Prune};
use crate::repo::Listed;
use crate::units::Generation;

/// Listings under way at once.
const LISTS_INFLIGHT_MAX: usize = 16;
/// Up to so many objects of a generation, one listing page after another is the cheapest.
const LISTED_FEW: usize = 5_000;
const ALL_FIRST_BYTES: Range<u16> = 0..256;

/// What listings showed.
#[derive(Default)]
pub(super) struct Found {
    /// What is not marked, as far as there was room.
    pub(super) entries: Vec<TableEntry>,
    /// Everything that was listed.
    stored: Counted,
    unreferenced: Counted,
    /// Listed names that are marked.
    marked: usize,
}

/// What is looked for.
#[derive(Clone, Copy)]
pub(super) struct Sieve<'a> {
    pub(super) cx: &'a Context,
    pub(super) marks: &'a Marks,
    /// Names of generations before this one.
    pub(super) below: Generation,
    /// Only these, where given.
    pub(super) condemned: Option<&'a Condemned>,
}

/// One listing.
#[derive(Clone, Copy)]
struct Task {
    kind: ContentKind,
    generation: Generation,
    /// Of ids that begin so.
    first: Option<u8>,
}

impl Prune {
    /// Walks all manifests and looks what of the generations up to `newest` they do not reference. No proof yet: sessions
    /// under way may need it.
    pub(super) async fn candidates(&mut self, newest: Generation) -> Result<Found> {
        let survey = survey(&self.cx, &self.known).await?;
        self.report.volumes = survey.volumes.len() as u64;
        let below = Generation(newest.0.saturating_add(1));
        let mut all = Found::default();
        let mut unlisted = HashSet::new();
        self.marker.first_pass(&self.known);
        loop {
            self.cx.progress.phase("manifests", None);
            self.marker.cover(&self.cx.project, &survey, &self.cx.cancel).await?;
            self.cx.progress.phase("objects", None);
            let room = self.condemned_max().saturating_sub(all.entries.len());
            let found =
                Sieve { cx: &self.cx, marks: &self.marker.marks, below, condemned: None }.sift(room).await?;
            all.entries.extend(found.entries);
            all.stored += found.stored;
            all.unreferenced += found.unreferenced;
            if found.marked < self.marker.marks.len() {
                unlisted.extend(not_listed(&self.cx, &self.marker.marks, below).await?);
            }
            if !self.marker.next_pass() {
                break;
            }
        }
        if let Some((made_in, snapshot)) = self.marker.made_in.as_ref().filter(|(g, _)| *g > newest)
            // Another prune may have begun a round since.
            && self.cx.project.rounds().newest().await?.newest < *made_in
        {
            return Err(stopped(format!(
                "{snapshot} was made in generation {made_in}, and rounds end at {newest}: some are gone"
            )));
        }
        self.marker.suspects.is_complete = true;
        if !unlisted.is_empty() {
            let found = name_lost(&self.cx, &mut self.marker, &survey, &self.known, unlisted).await?;
            (self.report.lost, self.report.lost_objects) = (found.named, found.objects);
            self.report.recorded += found.recorded;
        }
        let live = self.marker.roster(&survey).iter().map(|entry| entry.live.len() as u64).sum();
        self.report.snapshots = Some(live);
        (self.report.stored, self.report.unreferenced) = (Some(all.stored), all.unreferenced);
        Ok(all)
    }
}

impl Sieve<'_> {
    /// Lists everything below a generation that the marks tell about, and keeps at most so much of what is not marked.
    pub(super) async fn sift(self, room: usize) -> Result<Found> {
        let mut generations = Vec::new();
        for kind in ContentKind::ALL {
            let all = self.cx.project.content().generations(kind).await?;
            let below = all.into_iter().filter(|generation| *generation < self.below);
            generations.extend(below.map(|generation| Task { kind, generation, first: None }));
        }
        let whole = self.marks.first_bytes() == ALL_FIRST_BYTES;
        let mut found = Found::default();
        let mut large = Vec::new();
        if whole {
            let mut few = stream::iter(generations)
                .map(|task| async move { Ok::<_, crate::Error>((task, self.list(task, LISTED_FEW).await?)) })
                .buffer_unordered(LISTS_INFLIGHT_MAX);
            while let Some((task, part)) = few.try_next().await? {
                self.cx.cancel.check()?;
                match part {
                    Some(part) => found.add(part, room),
                    None => large.push(task),
                }
            }
        } else {
            large = generations;
        }
        let first_bytes = self.marks.first_bytes();
        let each = large.into_iter().flat_map(|task| {
            let bytes = first_bytes.clone().filter_map(|byte| u8::try_from(byte).ok());
            bytes.map(move |byte| Task { first: Some(byte), ..task })
        });
        let mut parts =
            stream::iter(each).map(|task| self.list(task, usize::MAX)).buffer_unordered(LISTS_INFLIGHT_MAX);
        while let Some(part) = parts.try_next().await? {
            self.cx.cancel.check()?;
            part.into_iter().for_each(|part| found.add(part, room));
        }
        Ok(found)
    }

    /// One listing; `None` when it shows more than `listed_max`.
    async fn list(self, task: Task, listed_max: usize) -> Result<Option<Found>> {
        let mut found = Found::default();
        let mut listing =
            std::pin::pin!(self.cx.project.content().list(task.kind, task.generation, task.first));
        while let Some(listed) = listing.try_next().await? {
            if found.stored.objects as usize >= listed_max {
                return Ok(None);
            }
            found.stored.add(listed.size_bytes);
            found.marked += usize::from(self.marks.covers(&listed.name) && self.marks.contains(&listed.name));
            if self.lets_through(&listed) {
                found.unreferenced.add(listed.size_bytes);
                found.entries.push(entry(&listed));
            }
        }
        Ok(Some(found))
    }

    fn lets_through(&self, listed: &Listed) -> bool {
        let name = &listed.name;
        name.generation < self.below
            && self.marks.covers(name)
            && !self.marks.contains(name)
            && self.condemned.is_none_or(|condemned| condemned.contains(&name.id))
    }
}

impl Found {
    fn add(&mut self, part: Self, room: usize) {
        self.stored += part.stored;
        self.marked += part.marked;
        self.unreferenced += part.unreferenced;
        let room = room.saturating_sub(self.entries.len());
        self.entries.extend(part.entries.into_iter().take(room));
    }

    /// Whether there is more than there was room for.
    pub(super) fn is_truncated(&self) -> bool {
        self.unreferenced.objects > self.entries.len() as u64
    }
}

/// What a table says of an object. One that is too short to be any object counts as a header.
fn entry(listed: &Listed) -> TableEntry {
    let size_bytes = u32::try_from(listed.size_bytes).unwrap_or(u32::MAX);
    let sealed_len_bytes = size_bytes.max(HEADER_LEN_BYTES as u32);
    TableEntry { kind: listed.kind, object: ObjectRef { name: listed.name, sealed_len_bytes } }
}
