//! What an interrupted backup of the same volume and generation left in bundles: its successor finds them by their names, and sends
//! none of it again.
//!
//! What it proves (repo-format.md §8.1, step 4, ii): a table that opened was sealed with the project's key by a writer of this generation,
//! whose pieces nothing deletes while this session is at work. A full chunk may be referenced as it is. A delta may only where this
//! session's own refs give what it stands on, and then as deep as its writer made it.

use std::collections::HashMap;

use crate::error::{ErrorKind, Result};
use crate::format::names::{ContentKind, ContentName};
use crate::format::page::{ObjectRef, PageRef};
use crate::format::record::OpenRecord;
use crate::plan::delta::Chain;
use crate::repo::bundles::Own;
use crate::repo::forbidden::Forbidden;
use crate::repo::session::Session;
use crate::repo::{Project, bundles};
use crate::units::{ChunkId, Generation, Sequence, SnapshotId};

/// Interrupted backups that are gone on from, the newest first.
const SESSIONS_MAX: usize = 4;
/// Pieces that are remembered, about 20 MiB, and those of one more bundle.
const PIECES_MAX: usize = 200_000;
/// Bundles are sent several at once, so that one which never arrived may be followed by others that did. More of them missing or
/// damaged end the search.
const MISSING_MAX: u32 = 3;
/// Bundles of one session that are looked at.
const BUNDLES_MAX: u32 = 65_536;

/// Pieces by the ids of what they hold.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    full: Vec<PageRef>,
    deltas: HashMap<ChunkId, Delta>,
}

#[derive(Debug)]
struct Delta {
    object: ObjectRef,
    depth: u8,
    base: ChunkId,
}

impl Resumed {
    /// Looks what sessions left that registered after the parent.
    pub(super) async fn find(session: &Session, parent: Sequence, forbidden: &Forbidden) -> Result<Self> {
        let (mut found, project) = (Self::default(), &session.project);
        let between = session.log.entries.range(Sequence(parent.0.saturating_add(1))..session.sequence);
        let begun = between.rev().filter(|(_, entry)| entry.opened_unix_ms.is_some()).map(|(s, _)| *s);
        for sequence in begun.take(SESSIONS_MAX) {
            let name = project.slot(session.volume.number, sequence).open_name();
            let open = project.look::<OpenRecord>(&name).await?.opened();
            if let Some(open) = open.filter(|open| open.generation == session.generation) {
                found.add(project, open.generation, open.snapshot_id, forbidden).await?;
            }
        }
        if !found.deltas.is_empty() || !found.full.is_empty() {
            let (full, deltas) = (found.full.len(), found.deltas.len());
            tracing::info!("{} pieces that an interrupted backup stored are not sent again", full + deltas);
        }
        Ok(found)
    }

    async fn add(
        &mut self,
        project: &Project,
        generation: Generation,
        session: SnapshotId,
        forbidden: &Forbidden,
    ) -> Result<()> {
        let mut missing = 0;
        for k in 1..=BUNDLES_MAX {
            if missing >= MISSING_MAX || self.full.len() + self.deltas.len() >= PIECES_MAX {
                break;
            }
            let bundle = ContentName::plain(generation, bundles::id(project, Own { session, k }));
            let table = match bundles::table(project, bundle).await {
                Ok(Some(table)) => table,
                Ok(None) => {
                    missing += 1;
                    continue;
                }
                // What it has is stored again. A store that answers everything with something else has no end.
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    missing += 1;
                    continue;
                }
                Err(e) => return Err(e),
            };
            for (offset_bytes, piece) in table.pieces() {
                let name = ContentName { offset_bytes: Some(offset_bytes), ..bundle };
                let object = ObjectRef { name, sealed_len_bytes: piece.len_bytes };
                if forbidden.name(ContentKind::Chunk, name) {
                    continue;
                }
                match (piece.depth(), piece.base()) {
                    (0, _) => {
                        self.full.push(PageRef::Stored { id: piece.id, object, closure: Vec::new() });
                    }
                    (depth, Some(base)) => {
                        self.deltas.insert(piece.id, Delta { object, depth, base });
                    }
                    (_, None) => {}
                }
            }
        }
        Ok(())
    }

    /// The full chunks, which stand on nothing.
    pub(super) fn full(&self) -> &[PageRef] {
        &self.full
    }

    /// A delta that makes a chunk, if it stands on the base of this very chain.
    pub(super) fn on(&self, id: ChunkId, chain: &Chain, base: Option<ChunkId>) -> Option<PageRef> {
        let found = self.deltas.get(&id)?;
        let closure = chain.closure().to_vec();
        let fits = Some(found.base) == base && usize::from(found.depth) == closure.len();
        fits.then_some(PageRef::Stored { id, object: found.object, closure })
    }
}
