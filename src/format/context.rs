//! What keys, tokens and seeds are derived for: BLAKE3's contexts, one for each use (repo-format.md §5). Two uses never share one.

/// A key file's content and a slot's salt become the slot's key.
pub(crate) const KEY_FILE: &str = "cuttle v1 key file";
/// What a slot's key is for.
pub(crate) const SLOT_WRAP: &str = "cuttle v1 slot wrap";
/// What a slot's secret is held against.
pub(crate) const SLOT_COMMITMENT: &str = "cuttle v1 slot commitment";
/// Before the hash of the repository object: what a wrapped key is bound to.
pub(super) const SLOT_AAD: &[u8] = b"cuttle v1 slot";

/// What the master key is for.
pub(crate) const SLOT_MAC: &str = "cuttle v1 slot mac";
/// The fingerprint that tells one repository key from another.
pub(crate) const FINGERPRINT: &str = "cuttle v1 fingerprint";
/// The key that seals project records.
pub(crate) const PROJECT: &str = "cuttle v1 project";

/// What a project's root is for.
/// The key of the ids of chunks.
pub(crate) const CHUNK_ID: &str = "cuttle v1 chunk id";
/// The key of the ids of pages and gc parts.
pub(crate) const PAGE_ID: &str = "cuttle v1 page id";
/// The private key that opens chunks and the pieces of bundles.
pub(crate) const DATA: &str = "cuttle v1 data";
/// The key that seals everything else.
pub(crate) const METADATA: &str = "cuttle v1 metadata";
/// The seed of the key that signs what is decided.
pub(crate) const AUTHORITY: &str = "cuttle v1 authority";
/// Of the metadata key: the key of the marks that show that one of the project sealed a chunk.
pub(crate) const MARK: &str = "cuttle v1 mark";
/// Before the digest of what is signed.
pub(crate) const SIGNED: &[u8] = b"cuttle v1 signed";
/// What the keys in a role's slot, and its signature, are bound to.
pub(super) const ROLE_SLOT: &[u8] = b"cuttle v1 role slot";

/// Nothing that is stored is derived with these.
pub(crate) const INSTANT_TOKEN: &str = "cuttle v1 instant restore token";
/// The chunks that a sample takes, by a snapshot's id.
pub(crate) const SAMPLE: &str = "cuttle v1 sample";
