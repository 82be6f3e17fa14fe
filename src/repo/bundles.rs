//! Bundles in the store: made of pieces, and their tables read.

use std::sync::Arc;

use crate::codec::{self, Bundle, Piece};
use crate::cpu;
use crate::error::{Context, Error, Result};
use crate::format::bundle::{BundleRecord, PieceRecord};
use crate::format::names::{ContentKind, ContentName};
use crate::format::page::ObjectRef;
use crate::format::{HEADER_LEN_BYTES, Header, ObjectName};
use crate::keys::random_array;
use crate::repo::{Project, Writer};
use crate::store::Created;
use crate::units::{ChunkId, Generation, SnapshotId};

/// What is asked for first of a bundle, to have its table: nearly always all of it.
const TABLE_GUESS_BYTES: u64 = 64 << 10;
/// Names that are tried, all but the first of them random.
const NAMES_MAX: usize = 3;

/// A bundle's table, and what it takes of the bundle.
#[derive(Debug)]
pub(crate) struct BundleTable {
    record: BundleRecord,
    len_bytes: u32,
}

impl BundleTable {
    /// The pieces, and where each begins.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (u32, &PieceRecord)> {
        self.record.pieces(self.len_bytes)
    }
}

/// The table that a bundle begins with; `None` where there is no such bundle.
pub(crate) async fn table(project: &Project, bundle: ContentName) -> Result<Option<BundleTable>> {
    let name = ObjectName::content(project.name(), ContentKind::Bundle, bundle);
    let (store, key) = (project.repository().store(), name.to_string());
    let Some(mut part) = store.part(&key, 0..TABLE_GUESS_BYTES).await? else { return Ok(None) };
    let header = Header::decode_prefix(&part.bytes).context(&name)?;
    let len_bytes = (HEADER_LEN_BYTES + header.body_len_bytes as usize) as u64;
    if len_bytes > part.bytes.len() as u64 {
        match store.part(&key, 0..len_bytes).await? {
            Some(whole) => part = whole,
            None => return Ok(None),
        }
    }
    if part.bytes.len() as u64 > len_bytes {
        part.bytes.truncate(len_bytes as usize);
    }
    let project = project.clone();
    cpu::run(move || {
        let record = codec::open_record(project.place(&name), &part.bytes)?;
        Ok(Some(BundleTable { record, len_bytes: len_bytes as u32 }))
    })
    .await
}

/// Which bundle of which session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    pub(crate) session: SnapshotId,
    /// Counts from 1.
    pub(crate) k: u32,
}

/// What the bundles of a session are called, k = 1, 2, …: whoever goes on with an interrupted backup finds them.
pub(crate) fn id(project: &Project, Own { session, k }: Own) -> ChunkId {
    project.identify_page(&[&session.0[..], &k.to_le_bytes()].concat())
}

/// Uploads pieces as a bundle of a session. Their refs, in their order.
pub(crate) async fn put(
    writer: &Writer,
    generation: Generation,
    own: Own,
    pieces: Vec<Piece>,
) -> Result<Vec<ObjectRef>> {
    let lens_bytes: Vec<u32> = pieces.iter().map(Piece::len_bytes).collect();
    let pieces = Arc::new(pieces);
    for attempt in 0..NAMES_MAX {
        // Something stands there, and its writer is no other session: rot, or planted. It is gone around.
        let id = if attempt == 0 { id(writer, own) } else { ChunkId(random_array()?) };
        let bundle = ContentName::plain(generation, id);
        let name = ObjectName::content(writer.name(), ContentKind::Bundle, bundle);
        let (project, pieces) = (Project::clone(writer), Arc::clone(&pieces));
        let made = cpu::run(move || Bundle::of(project.place(&name), &pieces)).await?;
        if let Created::Exists { .. } = writer.create_sealed(&made.sealed).await? {
            tracing::warn!(name = %made.sealed.name(), "the name of a bundle is taken");
            continue;
        }
        let pieces = made.offsets_bytes.iter().zip(&lens_bytes).map(|(offset_bytes, len_bytes)| ObjectRef {
            name: ContentName { offset_bytes: Some(*offset_bytes), ..bundle },
            sealed_len_bytes: *len_bytes,
        });
        return Ok(pieces.collect());
    }
    Err(Error::unavailable("every random name is taken")
        .help("the store answers every create with \"exists\"; run `cuttle verify`"))
}
