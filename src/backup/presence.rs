//! The look that every backup takes at what it builds on: whether the parent's objects are there, with their sizes.
//!
//! A listing only tells what need not be asked for; lost is what a request for the very name does not find as the manifest
//! says. What is found is recorded (repo-format.md §8.6), and this session builds on none of it.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};

use crate::backup::context::Context;
use crate::backup::fleet::Among;
use crate::backup::listings::Listings;
use crate::error::{Error, ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::lost::LostName;
use crate::format::names::{ContentKind, ContentName, content_prefix};
use crate::format::page::{ObjectRef, Page, PageRef, REFS_PER_PAGE, pages_of_level};
use crate::format::record::VolumeRecord;
use crate::plan::bundles::Needs;
use crate::plan::presence::{Gathering, Tonight};
use crate::repo::Project;
use crate::repo::forbidden::Forbidden;
use crate::repo::history::SnapshotEntry;
use crate::repo::lost::Lost;
use crate::repo::manifest::Manifest;
use crate::units::Sequence;

/// Leaves read at once.
const LEAVES_INFLIGHT_MAX: usize = 16;
/// Leaves that one look reads; of a larger volume the next look reads the next.
const LEAVES_MAX: u64 = 4096;
/// Names in one page of a listing.
const LIST_PAGE: usize = 1000;
/// Objects that one look asks for by name because a listing lacked them.
const CONFIRMED_MAX: usize = 64;
const HEADS_INFLIGHT_MAX: usize = 32;
const FANOUT: u64 = REFS_PER_PAGE as u64;

/// What a backup has to do with what is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct LostReport {
    /// Objects that this backup found lost, and recorded.
    pub lost_found: u64,
    /// Chunks of the parent that cannot be read for what is lost.
    pub parent_hurt_chunks: u64,
    /// Of these, the ones that this backup still names: nobody here has their content.
    pub kept_hurt_chunks: u64,
    /// Records of what is lost that cannot be read.
    pub lost_records_unreadable: u64,
}

impl LostReport {
    /// Whether somebody has to do something.
    pub fn needs_somebody(&self) -> bool {
        self.lost_found > 0 || self.kept_hurt_chunks > 0 || self.lost_records_unreadable > 0
    }
}

/// Which look it is.
pub(super) struct Look<'a> {
    pub cx: &'a Context<'a>,
    pub volume: &'a VolumeRecord,
    /// The backup that looks: each looks at another part.
    pub sequence: Sequence,
    pub parent: &'a SnapshotEntry,
    pub before: &'a Manifest,
}

/// What a look at the parent showed.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What the parent needs and is not there as it must be.
    pub lost: Vec<LostName>,
    /// Of that, what is new and should be recorded.
    pub new: Vec<LostName>,
    /// The bundles of which the parent needs little.
    pub sparse: BTreeSet<ContentName>,
    /// Its manifest cannot be read to the last page.
    pub is_unreadable: bool,
}

impl Look<'_> {
    /// Looks at what the parent needs, but for what is known to be gone.
    pub(super) async fn look(&self, forbidden: &Forbidden) -> Result<Seen> {
        self.cx.progress.phase("looking at the last backup", None);
        let mut seen = seen(self.before, self.sequence, forbidden, &self.cx.among).await?;
        let new: Vec<LostName> =
            seen.lost.iter().filter(|n| !forbidden.lost().contains(n.kind(), n.name())).copied().collect();
        // Only what nobody forgot is missed.
        let (project, volume) = (self.cx.project, self.volume.number);
        if new.is_empty() || project.slot(volume, self.parent.snapshot.sequence).is_gone().await? {
            return Ok(seen);
        }
        let first = new.first().map(|n| ObjectName::content(project.name(), n.kind(), n.name()).to_string());
        self.cx.remark(format!(
            "LOST: {} objects that {} needs are not in the repository as they must be, the first is {}. The older \
             snapshots that need them are hurt: run `cuttle verify` to see which, and `cuttle verify --read-data --repair`",
            new.len(),
            self.at(),
            first.unwrap_or_default(),
        ));
        seen.new = new;
        Ok(seen)
    }

    /// Forbids what was seen to be lost, and tells what that and what is recorded comes to.
    pub(super) async fn forbid(&self, seen: Seen, forbidden: &mut Forbidden) -> Result<LostReport> {
        forbidden.lost_mut().add(seen.lost);
        let lost = forbidden.lost();
        if let Some((name, why)) = lost.unreadable.first() {
            self.cx.remark(format!(
                "{name} tells of lost objects and does not open, so that this backup may build on some of them: {why}. Run \
                 `cuttle verify`, then put it aside with `cuttle verify --quarantine {name}`"
            ));
        }
        if lost.unread > 0 {
            self.cx
                .remark(format!("{} records of lost objects were not read: there are too many", lost.unread));
        }
        let mut report = LostReport {
            lost_found: seen.new.len() as u64,
            lost_records_unreadable: (lost.unreadable.len() + lost.unread) as u64,
            ..LostReport::default()
        };
        if seen.is_unreadable {
            self.cx.remark(format!(
                "the manifest of {} cannot be read: all of the volume is, and stored again where need be",
                self.at()
            ));
        } else if !lost.is_empty() {
            report.parent_hurt_chunks = hurt_chunks(self.before, lost).await?;
            if report.parent_hurt_chunks > 0 {
                self.cx.remark(format!(
                    "{} chunks of {} need what is lost: they are not built upon",
                    report.parent_hurt_chunks,
                    self.at()
                ));
            }
        }
        Ok(report)
    }

    /// Whether nothing that the snapshot needs is known or seen to be lost. Tells and records nothing of it.
    pub(super) async fn is_whole(&self, forbidden: &Forbidden) -> Result<bool> {
        let lost = forbidden.lost();
        if lost.unread > 0 || !lost.unreadable.is_empty() {
            return Ok(false);
        }
        let seen = seen(self.before, self.sequence, forbidden, &self.cx.among).await?;
        Ok(seen.lost.is_empty()
            && !seen.is_unreadable
            && (lost.is_empty() || hurt_chunks(self.before, lost).await? == 0))
    }

    fn at(&self) -> String {
        format!("backup {} of {}", self.parent.snapshot.sequence, self.volume.name)
    }
}

/// Chunks of a manifest that cannot be read for what is lost.
async fn hurt_chunks(manifest: &Manifest, lost: &Lost) -> Result<u64> {
    let mut hurt = 0;
    for number in 0..manifest.leaf_count() {
        if !manifest.leaf_ref(number).await?.is_zero() {
            let leaf = manifest.leaf(number).await?;
            hurt += leaf.refs.iter().filter(|chunk| lost.has_chunk(chunk)).count() as u64;
        }
    }
    Ok(hurt)
}

async fn seen(manifest: &Manifest, sequence: Sequence, forbidden: &Forbidden, among: &Among) -> Result<Seen> {
    let gathering = || match among.is_shared {
        true => Gathering::shared(among.fleet.night(sequence)),
        false => Gathering::new(among.fleet.night(sequence)),
    };
    let (mut chunks, mut bundles, mut pages) = (gathering(), gathering(), gathering());
    let mut out = Seen::default();
    let (mut bad, mut needs) = (BTreeSet::new(), Needs::default());
    // What a round may delete, and what is known to be lost, is not missed.
    let wanted = |kind, object: &ObjectRef| !forbidden.name(kind, object.name);
    for level in 1..manifest.root().level {
        for number in 0..pages_of_level(manifest.geometry().chunk_count(), level) {
            if let Ok(PageRef::Stored { object, .. }) = manifest.page_ref(level, number).await
                && wanted(ContentKind::Page, &object)
            {
                pages.add(&object);
            }
        }
    }
    let leaves = leaves_of(manifest, sequence.0);
    let mut read = stream::iter(leaves).map(|number| leaf(manifest, number)).buffered(LEAVES_INFLIGHT_MAX);
    while let Some(leaf) = read.try_next().await? {
        match leaf {
            Leaf::Zero => {}
            Leaf::Lost(object) => {
                bad.insert(LostName::new(ContentKind::Page, object.name));
            }
            Leaf::Page(object, page) => {
                if wanted(ContentKind::Page, &object) {
                    pages.add(&object);
                }
                let objects = page.refs.iter().flat_map(PageRef::objects);
                for object in objects.filter(|o| wanted(ContentKind::Chunk, o)) {
                    match within(object) {
                        None => chunks.add(object),
                        Some(bundle) => bundles.add(&bundle),
                    }
                    needs.add(object);
                }
            }
        }
    }
    drop(read);
    out.sparse = needs.sparse(manifest.project().chunk_size_bytes());
    out.is_unreadable = !bad.is_empty();
    out.lost.extend(bad);
    let project = manifest.project();
    let kinds = [
        (ContentKind::Chunk, chunks.finish()),
        (ContentKind::Bundle, bundles.finish()),
        (ContentKind::Page, pages.finish()),
    ];
    for (kind, tonight) in kinds {
        // Of one volume pages are few: a thirtieth of them is less than a listing.
        let one_by_one =
            kind == ContentKind::Page && !among.is_shared || project.repository().store().is_local();
        let look = async |tonight: &Tonight, confirmed_max| {
            let mut doubtful: Vec<ObjectRef> = match one_by_one {
                true => tonight.heads().copied().collect(),
                false => unlisted(project, kind, tonight, &among.fleet.listings).await?,
            };
            if !one_by_one {
                doubtful.truncate(confirmed_max);
            }
            confirmed(project, kind, doubtful).await
        };
        let mut lost = look(&tonight, CONFIRMED_MAX).await?;
        if !lost.is_empty() {
            lost = look(&tonight.thorough(), usize::MAX).await?;
        }
        match kind {
            ContentKind::Bundle => out.lost.extend(pieces_of(manifest, sequence, &lost).await?),
            _ => out.lost.extend(lost.into_iter().map(|name| LostName::new(kind, name))),
        }
    }
    Ok(out)
}

/// The bundle that a piece is in, at least as long as it must be to have the piece.
fn within(piece: &ObjectRef) -> Option<ObjectRef> {
    let end = piece.name.offset_bytes?.saturating_add(piece.sealed_len_bytes);
    Some(ObjectRef { name: piece.name.object(), sealed_len_bytes: end })
}

/// What the leaves of this look name of bundles that are lost.
async fn pieces_of(manifest: &Manifest, sequence: Sequence, lost: &[ContentName]) -> Result<Vec<LostName>> {
    let mut found = BTreeSet::new();
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    for number in leaves_of(manifest, sequence.0) {
        let Leaf::Page(_, page) = leaf(manifest, number).await? else { continue };
        let pieces = page.refs.iter().flat_map(PageRef::objects).filter(|o| o.name.offset_bytes.is_some());
        let pieces = pieces.filter(|piece| lost.contains(&piece.name.object()));
        found.extend(pieces.map(|piece| LostName::new(ContentKind::Bundle, piece.name)));
    }
    Ok(found.into_iter().collect())
}

/// Whether an object of such a size is what a manifest says. Of a bundle it is known how far it must reach.
fn is_good(kind: ContentKind, object: &ObjectRef, size_bytes: u64) -> bool {
    match kind {
        ContentKind::Bundle => size_bytes >= u64::from(object.sealed_len_bytes),
        _ => size_bytes == u64::from(object.sealed_len_bytes),
    }
}

/// The leaves that this look reads.
fn leaves_of(manifest: &Manifest, sequence: u32) -> Vec<u64> {
    let count = manifest.leaf_count();
    let first = u64::from(sequence) * LEAVES_MAX;
    (first..first + count.min(LEAVES_MAX)).map(|number| number % count).collect()
}

enum Leaf {
    Zero,
    Page(ObjectRef, std::sync::Arc<Page>),
    /// The page on the way to it, or itself, that is not as it must be.
    Lost(ObjectRef),
}

async fn leaf(manifest: &Manifest, number: u64) -> Result<Leaf> {
    for level in (0..manifest.root().level).rev() {
        let at = number / FANOUT.pow(u32::from(level));
        let PageRef::Stored { object, .. } = manifest.page_ref(level, at).await? else {
            return Ok(Leaf::Zero);
        };
        match manifest.page(level, at).await {
            Ok(page) if level == 0 => return Ok(Leaf::Page(object, page)),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(Leaf::Lost(object)),
            Err(e) => return Err(e),
        }
    }
    Err(Error::internal("a manifest without leaves"))
}

/// What listings do not show as it must be, of the objects whose turn it is and of those that are listed with them.
async fn unlisted(
    project: &Project,
    kind: ContentKind,
    tonight: &Tonight,
    listings: &Listings,
) -> Result<Vec<ObjectRef>> {
    let prefix = content_prefix(project.name(), kind);
    let mut looked = vec![false; tonight.objects.len()];
    let (mut lists, mut doubtful) = (0, Vec::new());
    for (object, looked) in tonight.objects.iter().zip(&mut looked) {
        if let Some(shown) = listings.size_bytes(kind, object.name) {
            *looked = true;
            if !shown.is_some_and(|size_bytes| is_good(kind, object, size_bytes)) {
                doubtful.push(*object);
            }
        }
    }
    // The first to look lists something in any case: in a small project that shows what all others need.
    let first = listings.is_empty(kind).then_some(tonight.start).filter(|_| tonight.turns().next().is_none());
    for at in tonight.turns().chain(first) {
        let Some(object) = tonight.objects.get(at) else { continue };
        // What is common to all comes first: it may show this object, too.
        let common = tonight.part_start(object.name.generation);
        let common = common.filter(|start| listings.size_bytes(kind, *start).is_none());
        for start in common.into_iter().chain([object.name]) {
            if looked[at] || lists >= tonight.lists_max {
                break;
            }
            lists += 1;
            let mut listed = page(project, kind, &prefix, start).await?;
            listed.sort_unstable();
            let last = listed.last().map(|(name, _)| *name).filter(|_| listed.len() >= LIST_PAGE);
            listings.put(kind, start, &listed, last.is_none());
            let from = tonight.objects.partition_point(|object| object.name < start);
            for (here, object) in tonight.objects.iter().enumerate().skip(from) {
                if last.is_some_and(|last| object.name > last) {
                    break;
                }
                if std::mem::replace(&mut looked[here], true) {
                    continue;
                }
                let found = listed.binary_search_by_key(&object.name, |(name, _)| *name).ok();
                if !found.and_then(|at| listed.get(at)).is_some_and(|(_, size)| is_good(kind, object, *size))
                {
                    doubtful.push(*object);
                }
            }
        }
    }
    Ok(doubtful)
}

/// One page of a listing, from a name on.
async fn page(
    project: &Project,
    kind: ContentKind,
    prefix: &str,
    first: ContentName,
) -> Result<Vec<(ContentName, u64)>> {
    let key = ObjectName::content(project.name(), kind, first).to_string();
    // A listing begins after a key: this one is cut short, and so before all that begin with it.
    let after = key.get(..key.len() - 1).unwrap_or_default();
    let listing = project.repository().store().list_stream(prefix, Some(after)).take(LIST_PAGE);
    let listed = listing.try_filter_map(|info| {
        std::future::ready(Ok(match ObjectName::parse(&info.key) {
            Some(ObjectName::Chunk(_, name) | ObjectName::Page(_, name) | ObjectName::Bundle(_, name)) => {
                Some((name, info.size_bytes))
            }
            _ => None,
        }))
    });
    listed.try_collect().await
}

/// Which objects are not there, or of another size than their manifest says.
async fn confirmed(
    project: &Project,
    kind: ContentKind,
    doubtful: Vec<ObjectRef>,
) -> Result<Vec<ContentName>> {
    let heads = stream::iter(doubtful).map(|object| async move {
        let name = ObjectName::content(project.name(), kind, object.name).to_string();
        let info = project.repository().store().head(&name).await?;
        let good = info.is_some_and(|info| is_good(kind, &object, info.size_bytes));
        Ok::<_, Error>((!good).then_some(object.name))
    });
    heads
        .buffer_unordered(HEADS_INFLIGHT_MAX)
        .try_filter_map(|lost| std::future::ready(Ok(lost)))
        .try_collect()
        .await
}
