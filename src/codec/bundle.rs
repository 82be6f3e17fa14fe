//! Bundles: sealed chunks that are too small for objects of their own, one behind another (repo-format.md §4.1).

use bytes::Bytes;

use super::{Place, Sealed, check_mark, seal_record};
use crate::error::{Error, Result};
use crate::format::bundle::{BundleRecord, DeltaParts};
use crate::format::envelope::{damaged, scrub};
use crate::format::page::PIECE_ID_LEN_BYTES;
use crate::format::{Header, ObjectName, ObjectType};
use crate::units::ChunkId;

/// A sealed chunk on its way into a bundle.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Of its content.
    pub id: ChunkId,
    /// Under the name of a piece.
    pub sealed: Sealed,
    /// What the table tells of it, where it is a delta.
    pub delta: Option<DeltaParts>,
}

/// A bundle for the store, and where in it the pieces begin.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The whole object: its table and the pieces.
    pub sealed: Sealed,
    /// One for each piece, in their order; ascending.
    pub offsets_bytes: Vec<u32>,
}

impl Piece {
    /// One that lies in a bundle, as it is. Its checksum and its mark were held against its bytes and its name; whether it opens,
    /// nobody looked.
    pub fn stored(place: Place<'_>, id: ChunkId, bytes: Bytes, delta: Option<DeltaParts>) -> Result<Self> {
        let header = scrub(&bytes, place.repo_id, &place.name.to_string())?;
        let is_piece = matches!(place.name, ObjectName::Piece(_, named) if *named == id);
        if !is_piece || header.object_type != ObjectType::Chunk || header.sealing != place.sealing() {
            return Err(damaged(format!("{} is no sealed chunk", place.name)));
        }
        check_mark(place, &bytes)?;
        Ok(Self { id, sealed: Sealed { name: place.name.clone(), bytes, secret: None }, delta })
    }

    /// Bytes that it takes in a bundle.
    pub fn len_bytes(&self) -> u32 {
        PIECE_ID_LEN_BYTES as u32 + self.sealed.len_bytes()
    }
}

impl Bundle {
    /// Puts pieces behind one another, in the object of that name.
    pub fn of(place: Place<'_>, pieces: &[Piece]) -> Result<Self> {
        let mut table = BundleRecord::default();
        for piece in pieces {
            if !matches!(piece.sealed.name(), ObjectName::Piece(_, id) if *id == piece.id) {
                return Err(Error::internal(format!("{} is no piece of a bundle", piece.sealed.name())));
            }
            let header = Header::decode(piece.sealed.bytes(), u64::from(piece.sealed.len_bytes()))?;
            let (plain_len_bytes, depth) = (header.plain_len_bytes, header.depth);
            table.push(piece.id, piece.len_bytes(), plain_len_bytes, depth, piece.delta.as_ref());
        }
        let head = seal_record(place, &table)?;
        let offsets_bytes = table.pieces(head.len_bytes()).map(|(offset_bytes, _)| offset_bytes).collect();
        let mut bytes = head.bytes().to_vec();
        for piece in pieces {
            bytes.extend(piece.id.0);
            bytes.extend_from_slice(piece.sealed.bytes());
        }
        debug_assert_eq!(place.name.object_type(), ObjectType::Bundle);
        let sealed = Sealed { name: place.name.clone(), bytes: Bytes::from(bytes), secret: None };
        Ok(Self { sealed, offsets_bytes })
    }
}
