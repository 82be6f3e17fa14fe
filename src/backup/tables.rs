//! The tables of the bundles that a backup's new deltas take others in from: what they replace is read once for all that lie in one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use crate::codec::Joined;
use crate::error::{ErrorKind, Result};
use crate::format::bundle::PieceRecord;
use crate::format::names::ContentName;
use crate::format::page::ObjectRef;
use crate::plan::delta::Chain;
use crate::repo::{Project, bundles};
use crate::units::ChunkId;

/// Tables that are remembered: one of 8 MiB of small deltas takes about 100 KiB. In the order of a volume, few are needed at once.
const TABLES_MAX: usize = 64;

/// What a new delta takes in, and what it then stands on.
#[derive(Debug, Default)]
pub(super) struct TakenIn {
    pub joined: Joined,
    /// Of the chain's base, where somebody told.
    pub base: Option<ChunkId>,
}

/// A table by the places of its pieces; `None` where it cannot be read.
type Table = Option<HashMap<u32, PieceRecord>>;
type Cell = Arc<OnceCell<Table>>;

pub(super) struct Tables {
    project: Project,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    cells: HashMap<ContentName, Cell>,
    /// The oldest first.
    order: VecDeque<ContentName>,
}

impl Tables {
    pub(super) fn new(project: &Project) -> Self {
        Self { project: project.clone(), known: Mutex::default() }
    }

    /// What a new delta on a chain takes in; `None` where the tables do not tell.
    pub(super) async fn joined(&self, chain: &Chain, plain_len: usize) -> Result<Option<TakenIn>> {
        let mut taken_in = TakenIn::default();
        for delta in chain.joined() {
            let Some(offset_bytes) = delta.name.offset_bytes else { return Ok(None) };
            let cell = self.cell(delta.name.object());
            let table = cell.get_or_try_init(|| self.read(delta.name.object())).await?;
            let Some(piece) = table.as_ref().and_then(|table| table.get(&offset_bytes)) else {
                return Ok(None);
            };
            match piece.runs(plain_len) {
                Ok(Some(runs)) => taken_in.joined.add(&runs),
                Ok(None) | Err(_) => return Ok(None),
            }
            taken_in.base = piece.base();
        }
        Ok(Some(taken_in))
    }

    /// What the table tells of a piece; `None` where it cannot be read, or has none there.
    pub(super) async fn piece(&self, object: &ObjectRef) -> Result<Option<PieceRecord>> {
        let Some(offset_bytes) = object.name.offset_bytes else { return Ok(None) };
        let cell = self.cell(object.name.object());
        let table = cell.get_or_try_init(|| self.read(object.name.object())).await?;
        Ok(table.as_ref().and_then(|table| table.get(&offset_bytes)).cloned())
    }

    async fn read(&self, bundle: ContentName) -> Result<Table> {
        match bundles::table(&self.project, bundle).await {
            Ok(table) => {
                Ok(table.map(|table| table.pieces().map(|(at, piece)| (at, piece.clone())).collect()))
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(%error, "a bundle's table cannot be read; run `cuttle verify`");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn cell(&self, bundle: ContentName) -> Cell {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = known.cells.get(&bundle) {
            return Arc::clone(cell);
        }
        while known.cells.len() >= TABLES_MAX {
            let Some(oldest) = known.order.pop_front() else { break };
            known.cells.remove(&oldest);
        }
        let cell = Cell::default();
        known.order.push_back(bundle);
        known.cells.insert(bundle, Arc::clone(&cell));
        cell
    }
}
