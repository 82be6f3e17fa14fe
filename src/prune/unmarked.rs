//! What nothing references: listings of all chunks, pages and bundles, held against the marks.

use std::collections::HashSet;

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
    /// What the bundles among them take.
    bundles_bytes: u64,
    /// What of these nobody needs; `None` where there are too many to tell.
    dead_bytes: Option<u64>,
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

impl Prune {
    /// Walks all manifests and looks what of the generations up to `newest` they do not reference. No proof yet: sessions
    /// under way may need it.
    pub(super) async fn candidates(&mut self, newest: Generation) -> Result<Found> {
        let survey = survey(&self.cx, &self.known, Generation(newest.0.saturating_add(1))).await?;
        self.report.volumes = survey.volumes.len() as u64;
        self.report.kept_forgotten = survey.kept.len() as u64;
        let below = Generation(newest.0.saturating_add(1));
        let mut all = Found { dead_bytes: Some(0), ..Found::default() };
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
            let dead = self.marker.pieces.dead_bytes(found.bundles_bytes);
            all.dead_bytes = all.dead_bytes.zip(dead).map(|(all, dead)| all + dead);
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
        self.report.dead_bytes = all.dead_bytes;
        Ok(all)
    }
}

impl Sieve<'_> {
    /// Lists everything below a generation that the marks tell about, and keeps at most so much of what is not marked.
    pub(super) async fn sift(self, room: usize) -> Result<Found> {
        let mut found = Found::default();
        let newest = Generation(self.below.0.saturating_sub(1));
        for kind in ContentKind::ALL {
            let each = |listed: Listed| {
                let name = &listed.name;
                if name.generation >= self.below || !self.marks.covers(name) {
                    return;
                }
                found.stored.add(listed.size_bytes);
                if self.marks.contains(name) {
                    found.marked += 1;
                    found.bundles_bytes += if kind == ContentKind::Bundle { listed.size_bytes } else { 0 };
                }
                if self.lets_through(&listed) {
                    found.unreferenced.add(listed.size_bytes);
                    if found.entries.len() < room {
                        found.entries.push(entry(&listed));
                    }
                }
            };
            self.cx.project.content().each(kind, newest, &self.cx.cancel, each).await?;
        }
        Ok(found)
    }

    fn lets_through(&self, listed: &Listed) -> bool {
        let name = &listed.name;
        !self.marks.contains(name) && self.condemned.is_none_or(|condemned| condemned.contains(&name.id))
    }
}

impl Found {
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
