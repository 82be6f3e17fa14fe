//! Where content that the repository lost may still be: in volumes, in other repositories, in other objects.
//!
//! Nothing of it is believed: what is taken has the id of what was lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope::Header;
use crate::format::page::{ObjectRef, PageRef};
use crate::repo::Project;
use crate::repo::manifest::Manifest;
use crate::source::ReadAt;
use crate::units::{ChunkId, ChunkIndex, VolumeName, VolumeNumber};
use crate::verify::audit::Audit;
use crate::verify::repair::targets::{ChunkTarget, Spot, Targets};
use crate::verify::subject::Subject;
use crate::volume::{Identity, SnapshotPoint};

/// Snapshots of one volume that are looked at in its source, or in another repository, the newest first.
const SNAPSHOTS_PER_VOLUME_MAX: usize = 16;

/// Something that may hold what was lost, and its name for people.
#[derive(Clone)]
pub struct Source {
    /// For people, such as the image's name.
    pub label: String,
    /// Its content as it is now: what is taken from it is only believed by its id.
    pub reader: Arc<dyn ReadAt>,
}

/// Opens what a snapshot was read from: the source's snapshot or, without one, the volume as it is now. May block.
pub type OpenOrigin = dyn Fn(&Identity, Option<&SnapshotPoint>) -> Result<Source> + Send + Sync;

/// Where a repair looks for what was lost.
#[derive(Default, Clone)]
pub struct Sources {
    /// Each is looked into wherever something was lost, of whatever volume.
    pub named: Vec<Source>,
    /// Opens what the hurt volumes were backed up from.
    pub origins: Option<Arc<OpenOrigin>>,
    /// Other repositories, with what they are called. Of volumes of the same name the same places are looked at.
    pub projects: Vec<(String, Project)>,
}

/// The sources of one run, open.
pub(super) struct Finder {
    project: Project,
    named: Vec<Source>,
    origins: HashMap<VolumeNumber, Vec<Source>>,
    copies: HashMap<VolumeNumber, Vec<(String, Manifest)>>,
}

impl Finder {
    /// Opens what hurt volumes may be found in. What cannot be opened is warned of and left out.
    pub(super) async fn open(
        audit: &Audit,
        sources: &Sources,
        subjects: &[Subject],
        targets: &Targets,
    ) -> Result<Self> {
        let mut finder = Self {
            project: audit.project.clone(),
            named: sources.named.clone(),
            origins: HashMap::new(),
            copies: HashMap::new(),
        };
        let hurt: HashSet<VolumeNumber> =
            targets.chunks.values().flat_map(|t| t.spots.iter().map(|s| s.volume)).collect();
        for volume in hurt {
            audit.cancel.check()?;
            let newest_first = || subjects.iter().rev().filter(|s| s.volume == volume);
            if let Some(open) = &sources.origins {
                let opened = origins(audit, open, newest_first().map(|s| s.origin.clone())).await?;
                finder.origins.insert(volume, opened);
            }
            let Some(name) = newest_first().next().map(|s| Arc::clone(&s.volume_name)) else { continue };
            for (label, project) in &sources.projects {
                let copies = match copies(audit, label, project, &name).await {
                    Ok(copies) => copies,
                    Err(e) => {
                        warn_of(audit, label, e)?;
                        continue;
                    }
                };
                finder.copies.entry(volume).or_default().extend(copies);
            }
        }
        Ok(finder)
    }

    /// The content of a chunk and where it was found.
    pub(super) async fn find(&self, target: &ChunkTarget) -> Result<Option<(Vec<u8>, String)>> {
        let Some(id) = target.id else { return Ok(None) };
        for twin in &target.twins {
            let objects: Vec<ObjectRef> = twin.objects().copied().collect();
            if let Some(plain) = passable(content(&self.project, &objects, twin.id()).await)? {
                let name = objects.first().map(|o| self.project.content().chunk_label(o.name));
                return Ok(Some((plain, name.unwrap_or_default())));
            }
        }
        for spot in &target.spots {
            for source in self.named.iter().chain(self.origins.get(&spot.volume).into_iter().flatten()) {
                if let Some(plain) = self.read(source, *spot, id).await? {
                    return Ok(Some((plain, source.label.clone())));
                }
            }
            if let Some(found) = self.copied(*spot, id).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn read(&self, source: &Source, spot: Spot, id: ChunkId) -> Result<Option<Vec<u8>>> {
        let end = spot.offset_bytes.saturating_add(u64::from(spot.len_bytes));
        if end > source.reader.size_bytes() {
            return Ok(None);
        }
        let reader = Arc::clone(&source.reader);
        let read = cpu::block(move || {
            let mut plain = vec![0; spot.len_bytes as usize];
            reader.read_at(spot.offset_bytes, &mut plain).map(|()| plain)
        });
        match read.await {
            Ok(plain) => self.if_it_is(plain, id).await,
            Err(e) => {
                tracing::warn!(source = source.label, "{e}");
                passable(Err(e))
            }
        }
    }

    /// The content of a place in the snapshots of other repositories.
    async fn copied(&self, spot: Spot, id: ChunkId) -> Result<Option<(Vec<u8>, String)>> {
        let mut seen = HashSet::new();
        for (label, manifest) in self.copies.get(&spot.volume).into_iter().flatten() {
            let geometry = manifest.geometry();
            let index = geometry.index_of(spot.offset_bytes);
            if index.0 >= geometry.chunk_count() || geometry.chunk_len_bytes(index) != spot.len_bytes {
                continue;
            }
            let Some(chunk) = passable(manifest.chunk(ChunkIndex(index.0)).await.map(Some))? else {
                continue;
            };
            if chunk.object().is_none_or(|object| !seen.insert((label, *object))) {
                continue;
            }
            let fetched = manifest.project().content().fetch_chunk(&chunk, spot.len_bytes).await;
            if let Some(plain) = passable(fetched.map(Some))?
                && let Some(plain) = self.if_it_is(plain, id).await?
            {
                return Ok(Some((plain, label.clone())));
            }
        }
        Ok(None)
    }

    async fn if_it_is(&self, plain: Vec<u8>, id: ChunkId) -> Result<Option<Vec<u8>>> {
        let project = self.project.clone();
        cpu::run(move || Ok((project.identify(&plain) == id).then_some(plain))).await
    }
}

/// The plaintext of a chunk object with its closure, however long it is. Without an id: what the object says itself that it holds.
pub(super) async fn content(
    project: &Project,
    chain: &[ObjectRef],
    id: Option<ChunkId>,
) -> Result<Option<Vec<u8>>> {
    let mut bodies = Vec::with_capacity(chain.len());
    for object in chain {
        bodies.push(project.content().get_chunk_object(*object).await?);
    }
    let (project, chain) = (project.clone(), chain.to_vec());
    cpu::run(move || {
        let Some(((object, closure), first)) = chain.split_first().zip(bodies.first()) else {
            return Ok(None);
        };
        let len_bytes = Header::decode(&first.sealed, first.sealed.len() as u64)?.plain_len_bytes;
        let id = id.unwrap_or(first.id);
        let chunk = PageRef::Stored { id, object: *object, closure: closure.to_vec() };
        project.content().open_chunk_or_zero(&chunk, &bodies, len_bytes).map(Some)
    })
    .await
}

/// What a volume's snapshots were read from, each once: their own snapshots first, then the volumes as they are now.
async fn origins(
    audit: &Audit,
    open: &Arc<OpenOrigin>,
    newest_first: impl Iterator<Item = (Identity, Option<SnapshotPoint>)>,
) -> Result<Vec<Source>> {
    let mut points: Vec<(Identity, Option<SnapshotPoint>)> = Vec::new();
    let mut heads = Vec::new();
    for (identity, point) in newest_first {
        if identity == Identity::Stream || points.len() >= SNAPSHOTS_PER_VOLUME_MAX {
            continue;
        }
        if point.is_some() && !points.contains(&(identity.clone(), point.clone())) {
            points.push((identity.clone(), point));
        }
        if !heads.contains(&(identity.clone(), None)) {
            heads.push((identity, None));
        }
    }
    let mut opened = Vec::new();
    for (identity, point) in points.into_iter().chain(heads) {
        let (open, is_head, label) = (Arc::clone(open), point.is_none(), identity.to_string());
        match cpu::block(move || open(&identity, point.as_ref())).await {
            Ok(source) => opened.push(source),
            // That an older snapshot is gone is as it should be.
            Err(e) if is_head => warn_of(audit, &label, e)?,
            Err(e) => tracing::debug!("{e}"),
        }
    }
    Ok(opened)
}

/// The newest snapshots of a volume in another repository.
async fn copies(
    audit: &Audit,
    label: &str,
    project: &Project,
    volume: &str,
) -> Result<Vec<(String, Manifest)>> {
    let name: VolumeName = volume.parse()?;
    let (found, expected) = (project.chunk_size_bytes(), audit.project.chunk_size_bytes());
    if found != expected {
        return Err(Error::unsupported(format!(
            "it has chunks of {found} bytes, this repository of {expected}"
        )));
    }
    let catalog = project.volumes().confirmed().await?;
    let Some(volume) = catalog.by_name(&name) else { return Ok(Vec::new()) };
    let snapshots = project.history(volume).snapshots().await?;
    let newest = snapshots.iter().rev().take(SNAPSHOTS_PER_VOLUME_MAX);
    newest
        .map(|s| Ok((format!("{label} {name}@{}", s.snapshot.sequence), Manifest::of(project, &s.snapshot)?)))
        .collect()
}

fn warn_of(audit: &Audit, label: &str, error: Error) -> Result<()> {
    let why = error.to_string();
    passable::<()>(Err(error))?;
    audit.progress.warn(&format!("{label} is not looked into: {why}"));
    Ok(())
}

/// That one source fails is no reason not to ask the next; that the user wants to stop is.
fn passable<T>(result: Result<Option<T>>) -> Result<Option<T>> {
    match result {
        Err(e) if !matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::Internal) => {
            tracing::debug!("{e}");
            Ok(None)
        }
        other => other,
    }
}
