//! What keys, tokens and seeds are derived for: BLAKE3's contexts, one for each use (repo-format.md §5). Two uses never share one.

/// A key file's content and a slot's salt become the slot's key.
pub const KEY_FILE: &str = "cuttle v1 key file";
/// What a slot's key is for.
pub const SLOT_WRAP: &str = "cuttle v1 slot wrap";
pub const SLOT_COMMITMENT: &str = "cuttle v1 slot commitment";
/// Before the hash of the repository object: what a wrapped key is bound to.
pub(super) const SLOT_AAD: &[u8] = b"cuttle v1 slot";

/// What the master key is for.
pub const SLOT_MAC: &str = "cuttle v1 slot mac";
pub const FINGERPRINT: &str = "cuttle v1 fingerprint";
pub const PROJECT: &str = "cuttle v1 project";

/// What a project's root is for.
pub const CHUNK_ID: &str = "cuttle v1 chunk id";
pub const PAGE_ID: &str = "cuttle v1 page id";
pub const DATA: &str = "cuttle v1 data";
pub const METADATA: &str = "cuttle v1 metadata";

/// Nothing that is stored is derived with these.
pub const INSTANT_TOKEN: &str = "cuttle v1 instant restore token";
pub const SAMPLE: &str = "cuttle v1 sample";
