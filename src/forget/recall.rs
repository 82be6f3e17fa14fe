//! A forgotten snapshot comes back: as a new one, with the same content, by the protocol of every backup (repo-format.md §8.1, step 4).
//!
//! Forgetting is final, and nothing is ever un-created. What a seal's roster still keeps was never given up by any round, and what the round under way condemns is
//! not referenced: so what is recalled is whole, or it is refused.

use std::convert::Infallible;

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::format::names::ContentKind;
use crate::format::page::Page;
use crate::format::record::Snapshot;
use crate::repo::Keeper;
use crate::repo::history::SnapshotEntry;
use crate::repo::session::{Committed, Session};
use crate::repo::walk::{Node, Tree, Visit, Walk, Walker};
use crate::units::{Sequence, VolumeName};

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recalled {
    /// Its volume.
    pub volume: String,
    /// The forgotten snapshot.
    pub from: Sequence,
    /// The new one; `None` where it was only looked whether it can be recalled.
    pub sequence: Option<Sequence>,
    /// Of the volume.
    pub size_bytes: u64,
}

/// Brings `VOLUME@NUMBER` back.
///
/// # Errors
/// `NotFound` where no such snapshot is kept; `Conflict` where it is not forgotten, or its time is over just now.
pub async fn recall(project: &Keeper, spec: &str, dry_run: bool, cancel: Cancel) -> Result<Recalled> {
    let parsed = spec.rsplit_once('@').and_then(|(name, number)| {
        Some((name.parse::<VolumeName>().ok()?, Sequence(number.parse::<u32>().ok()?)))
    });
    let Some((name, from)) = parsed else {
        return Err(Error::invalid(format!("{spec:?} names no snapshot by its number"))
            .help("write VOLUME@NUMBER, as `cuttle forget` told it"));
    };
    let catalog = project.volumes().confirmed().await?;
    let volume = catalog.by_name(&name).ok_or_else(|| {
        Error::not_found(format!("there is no volume {name}")).help("see `cuttle snapshots`")
    })?;
    if dry_run {
        let log = project.log(volume.number).confirmed().await?;
        let kept: Vec<Sequence> = log.forgotten().map(|(s, _)| s).collect();
        let entry = log.entries.get(&from).filter(|_| kept.contains(&from));
        let Some(entry) = entry else { return Err(not_kept(spec, &kept)) };
        let found =
            project.history(volume).outcome(from, entry).await?.ok_or_else(|| not_kept(spec, &kept))?;
        let size_bytes = found.snapshot.size_bytes;
        return Ok(Recalled { volume: name.to_string(), from, sequence: None, size_bytes });
    }
    let session = Session::register(project, volume).await?;
    match bring_back(&session, spec, from, cancel).await {
        Ok(size_bytes) => {
            Ok(Recalled { volume: name.to_string(), from, sequence: Some(session.sequence), size_bytes })
        }
        Err(error) => {
            session.abort(&error.to_string()).await?;
            Err(error)
        }
    }
}

async fn bring_back(session: &Session, spec: &str, from: Sequence, cancel: Cancel) -> Result<u64> {
    let Some(found) = session.forgotten(from).await? else {
        let kept: Vec<Sequence> = session.all_forgotten().collect();
        return Err(not_kept(spec, &kept));
    };
    check(session, &found, &cancel).await?;
    let size_bytes = found.snapshot.size_bytes;
    let environment = &session.project.repository().environment;
    let snapshot = Snapshot {
        sequence: session.sequence,
        generation: session.generation,
        host: environment.host.clone(),
        tags: found.tags.clone(),
        recalled_from: Some(from),
        ..found.snapshot
    };
    match session.commit(snapshot).await? {
        Committed::Done | Committed::Already => Ok(size_bytes),
        Committed::Lost { by, reason } => {
            Err(Error::conflict(format!("{by} ended it meanwhile: {reason}"))
                .help("run the same command again"))
        }
    }
}

/// Every object that it needs may be referenced by this session, and every page opens.
async fn check(session: &Session, found: &SnapshotEntry, cancel: &Cancel) -> Result<()> {
    let name = found.name();
    let mut walk = Walk::over(Reading { session }, Tree::of(&found.snapshot)?);
    while let Some(visit) = walk.next().await? {
        cancel.check()?;
        let Visit::Leaf(leaf) = visit else { continue };
        if leaf.page.refs.iter().any(|chunk| session.forbidden.chunk(chunk)) {
            return Err(over(&name));
        }
    }
    match walk.walker.is_forbidden(&found.snapshot)? {
        true => Err(over(&name)),
        false => Ok(()),
    }
}

struct Reading<'a> {
    session: &'a Session,
}

impl Reading<'_> {
    /// Whether something that the root page names may not be referenced.
    fn is_forbidden(&self, snapshot: &Snapshot) -> Result<bool> {
        let root = snapshot.root_page()?;
        let of_chunks = root.level == 0;
        Ok(root.refs.iter().any(|page| match of_chunks {
            true => self.session.forbidden.chunk(page),
            false => self.session.forbidden.page(page),
        }))
    }
}

impl Walker for Reading<'_> {
    type Flaw = Infallible;

    async fn read(&self, node: &Node) -> Result<std::result::Result<Page, Infallible>> {
        if self.session.forbidden.name(ContentKind::Page, node.object.name) {
            return Err(over("the snapshot"));
        }
        self.session.project.content().read_page(&node.object, node.level, node.count).await.map(Ok)
    }
}

fn over(name: &str) -> Error {
    Error::conflict(format!(
        "{name} cannot be recalled any more: a prune gives up what it needs, or a part of it was found lost"
    ))
    .help("copies of the bucket and its older versions may still have it: docs/roles.md, \"Undo deletions\"")
}

fn not_kept(spec: &str, kept: &[Sequence]) -> Error {
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let there = if kept.is_empty() {
        "none of its volume is".to_owned()
    } else {
        format!("these are: {}", kept.join(", "))
    };
    Error::not_found(format!("{spec} is not among the forgotten snapshots that are still kept; {there}"))
        .help("what is not forgotten need not be recalled: see `cuttle snapshots`; how long forgotten ones are kept, `cuttle prune --keep-forgotten 14d` says")
}
