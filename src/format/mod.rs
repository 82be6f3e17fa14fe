//! Every byte that is persisted, and every object name: the only implementation of repo-format.md.
//!
//! Pure: no I/O, no keys, no randomness. Whatever is decoded here came from a store and is hostile until proven sane.

pub mod bundle;
pub(crate) mod context;
pub mod envelope;
pub mod gc;
pub mod live;
pub mod lost;
pub mod names;
pub mod page;
pub mod patch;
pub mod record;
pub mod role;
pub mod roster;
pub mod table;
pub mod volume;

pub use envelope::{Compression, HEADER_LEN_BYTES, Header, ObjectType, Sealing};
pub use names::ObjectName;
pub use page::{ObjectRef, Page, PageRef, REFS_PER_PAGE};
pub use record::Record;

/// Version byte of every object (repo-format.md §4).
pub const FORMAT_VERSION: u8 = 1;
/// Most bytes in a page's plaintext (§3).
pub const PAGE_LEN_BYTES_MAX: usize = page::PAGE_LEN_BYTES_MAX;
/// Bytes after which a bundle is complete (§3). Only one that holds a single piece may be longer.
pub const BUNDLE_LEN_BYTES_MAX: usize = 8 << 20;
/// Most bytes in the plaintext of a bundle's table (§3).
pub const BUNDLE_TABLE_LEN_BYTES_MAX: usize = 8 << 20;
/// Most bytes of a whole bundle: its table, and either pieces or a single one of the largest chunk.
pub const BUNDLE_OBJECT_LEN_BYTES_MAX: usize = 40 << 20;
/// Largest full chunk, sealed, that goes into a bundle, as a part of the chunk size (§3).
pub const SMALL_CHUNK_DIVISOR: u32 = 64;
/// Most bytes in a record's plaintext (§3).
pub const RECORD_LEN_BYTES_MAX: usize = 1 << 20;
/// Most bytes in a gc part's plaintext (§3).
pub const GC_PART_LEN_BYTES_MAX: usize = 8 << 20;
/// Most entries of a condemned table (§3).
pub const GC_ENTRIES_MAX: usize = 1 << 21;
/// Most names in one record of what was lost, and most such records that are read (§3).
pub const LOST_NAMES_MAX: usize = 1 << 14;
/// Most records of what was lost that are read of one project (§3).
pub(crate) const LOST_RECORDS_MAX: usize = 64;
/// Most key slots (§3).
pub const KEY_SLOTS_MAX: usize = 64;
/// Most objects below a delta (§3).
pub const CLOSURE_LEN_MAX: usize = 15;
