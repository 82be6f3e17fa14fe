//! Object names (repo-format.md §2).

use std::fmt;

use crate::error::{Error, Result};
use crate::units::{ChunkId, Generation, ProjectName, Sequence, VolumeNumber, hex, hex_into};

/// The name of an object, relative to the repository's prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectName {
    /// The repository record.
    Repository,
    /// A key slot.
    Key {
        /// Sixteen hex digits in the name.
        slot: u64,
    },
    /// The project record.
    Project(ProjectName),
    /// The slot of a key that opens this project alone.
    RoleKey {
        /// Which it opens.
        project: ProjectName,
        /// Sixteen hex digits in the name.
        slot: u64,
    },
    /// The catalog entry of a volume.
    Volume(ProjectName, VolumeNumber),
    /// A backup registers.
    Open(ProjectName, VolumeNumber, Sequence),
    /// Its one outcome.
    End(ProjectName, VolumeNumber, Sequence),
    /// The snapshot is no longer wanted.
    Forget(ProjectName, VolumeNumber, Sequence),
    /// Tags and protection; the number counts from 1, and the last one counts.
    Note(ProjectName, VolumeNumber, Sequence, u32),
    /// A sign of life of a backup under way; the number counts from 1.
    Alive(ProjectName, VolumeNumber, Sequence, u32),
    /// A full chunk, as an object of its own.
    Chunk(ProjectName, ContentName),
    /// A manifest page below the root.
    Page(ProjectName, ContentName),
    /// A bundle, whole.
    Bundle(ProjectName, ContentName),
    /// No object: what a piece of a bundle is sealed as, wherever it lies.
    Piece(ProjectName, ChunkId),
    /// A prune round begins.
    GcBegin(ProjectName, Generation),
    /// What a round keeps and deletes.
    GcSeal(ProjectName, Generation),
    /// A round is over.
    GcDone(ProjectName, Generation),
    /// A part of a begin's or seal's table, by its id.
    GcPart(ProjectName, Generation, ChunkId),
    /// Names that were found lost; the number is random.
    Lost(ProjectName, u128),
}

/// Where a chunk or page is: an object, by the generation it was written in, its id and its variant (0: none), or a piece of a
/// bundle, by the bundle's generation and random id and the place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentName {
    /// In which it was written; of a piece, the bundle.
    pub generation: Generation,
    /// Of the content; of a bundle or piece, the random one of the bundle.
    pub id: ChunkId,
    /// 0: none, as always in bundles and pieces.
    pub variant: u32,
    /// Where in the bundle the piece begins. `None`: an object of its own.
    pub offset_bytes: Option<u32>,
}

/// What a project's content is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContentKind {
    /// A full chunk, as an object of its own.
    Chunk,
    /// A manifest page.
    Page,
    /// Many chunks, full or deltas.
    Bundle,
}

impl ContentKind {
    /// All kinds of objects that hold content.
    pub const ALL: [Self; 3] = [Self::Chunk, Self::Page, Self::Bundle];
}

impl ContentName {
    /// An object's, without a variant.
    pub fn plain(generation: Generation, id: ChunkId) -> Self {
        Self { generation, id, variant: 0, offset_bytes: None }
    }

    /// The object that this is, or is a piece of.
    pub fn object(self) -> Self {
        Self { offset_bytes: None, ..self }
    }

    /// What the object is, where this is the name of a chunk.
    pub fn chunk_kind(&self) -> ContentKind {
        match self.offset_bytes {
            None => ContentKind::Chunk,
            Some(_) => ContentKind::Bundle,
        }
    }
}

impl ObjectName {
    /// The object that holds some content; of a piece, its bundle.
    pub fn content(project: &ProjectName, kind: ContentKind, name: ContentName) -> Self {
        match kind {
            ContentKind::Chunk => Self::Chunk(project.clone(), name),
            ContentKind::Page => Self::Page(project.clone(), name),
            ContentKind::Bundle => Self::Bundle(project.clone(), name.object()),
        }
    }

    /// Reads a name as a listing gives it. `None` for names that version 1 does not know: they are ignored (§2).
    pub fn parse(name: &str) -> Option<Self> {
        if name == "repository" {
            return Some(Self::Repository);
        }
        if let Some(slot) = name.strip_prefix("keys/") {
            return slot_number(slot).map(|slot| Self::Key { slot });
        }
        let (project, rest) = name.strip_prefix("projects/")?.split_once('/')?;
        let project: ProjectName = project.parse().ok()?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts[..] {
            ["project"] => Some(Self::Project(project)),
            ["keys", slot] => slot_number(slot).map(|slot| Self::RoleKey { project, slot }),
            ["volumes", n] => Some(Self::Volume(project, VolumeNumber(number(n)?))),
            ["log", n, entry] => log_entry(project, VolumeNumber(number(n)?), entry),
            ["retention", n, entry] => retention_entry(project, VolumeNumber(number(n)?), entry),
            ["chunks", g, xx, entry] => Some(Self::Chunk(project, content_name(g, xx, entry)?)),
            ["pages", g, xx, entry] => Some(Self::Page(project, content_name(g, xx, entry)?)),
            ["bundles", g, xx, entry] => {
                let name = content_name(g, xx, entry)?;
                (name.variant == 0).then_some(Self::Bundle(project, name))
            }
            ["gc", "parts", g, id] => Some(Self::GcPart(project, Generation(number(g)?), id.parse().ok()?)),
            ["lost", record] => hex_number(record, 32).map(|record| Self::Lost(project, record)),
            ["gc", entry] => {
                let (g, kind) = entry.split_once('.')?;
                let g = Generation(number(g)?);
                match kind {
                    "begin" => Some(Self::GcBegin(project, g)),
                    "seal" => Some(Self::GcSeal(project, g)),
                    "done" => Some(Self::GcDone(project, g)),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository => f.write_str("repository"),
            Self::Key { slot } => write!(f, "keys/{slot:016x}"),
            Self::Project(p) => write!(f, "{}project", project_prefix(p)),
            Self::RoleKey { project, slot } => write!(f, "{}{slot:016x}", role_keys_prefix(project)),
            Self::Volume(p, n) => write!(f, "{}{n:010}", volumes_prefix(p)),
            Self::Open(p, n, s) => write!(f, "{}{s:010}.open", log_prefix(p, *n)),
            Self::End(p, n, s) => write!(f, "{}{s:010}.end", log_prefix(p, *n)),
            Self::Forget(p, n, s) => write!(f, "{}{s:010}.forget", retention_of_prefix(p, *n)),
            Self::Note(p, n, s, k) => write!(f, "{}{s:010}.note.{k:010}", retention_of_prefix(p, *n)),
            Self::Alive(p, n, s, k) => write!(f, "{}{s:010}.alive.{k:010}", log_prefix(p, *n)),
            Self::Chunk(p, c) => write!(f, "{}{c}", content_prefix(p, ContentKind::Chunk)),
            Self::Page(p, c) => write!(f, "{}{c}", content_prefix(p, ContentKind::Page)),
            Self::Bundle(p, c) => write!(f, "{}{c}", content_prefix(p, ContentKind::Bundle)),
            Self::Piece(p, id) => write!(f, "{}pieces/{id}", project_prefix(p)),
            Self::GcBegin(p, g) => write!(f, "{}{g:010}.begin", gc_prefix(p)),
            Self::GcSeal(p, g) => write!(f, "{}{g:010}.seal", gc_prefix(p)),
            Self::GcDone(p, g) => write!(f, "{}{g:010}.done", gc_prefix(p)),
            Self::GcPart(p, g, id) => write!(f, "{}parts/{g:010}/{id}", gc_prefix(p)),
            Self::Lost(p, record) => write!(f, "{}{record:032x}", lost_prefix(p)),
        }
    }
}

impl fmt::Display for ContentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}/{:02x}/{}", self.generation, self.id.0[0], self.id)?;
        if self.variant != 0 {
            write!(f, ".{:08x}", self.variant)?;
        }
        match self.offset_bytes {
            Some(offset) => write!(f, "+{offset}"),
            None => Ok(()),
        }
    }
}

/// Below it all key slots are.
pub(crate) fn keys_prefix() -> &'static str {
    "keys/"
}

/// Below it all projects are.
pub const PROJECTS_PREFIX: &str = "projects/";

/// Below it all of a project is.
pub(crate) fn project_prefix(project: &ProjectName) -> String {
    format!("projects/{project}/")
}

/// Below it the slots of keys that open this project alone are.
pub(crate) fn role_keys_prefix(project: &ProjectName) -> String {
    format!("projects/{project}/keys/")
}

/// Below it the catalog of a project is.
pub(crate) fn volumes_prefix(project: &ProjectName) -> String {
    format!("projects/{project}/volumes/")
}

/// Below it the logs of all volumes are.
pub fn logs_prefix(project: &ProjectName) -> String {
    format!("projects/{project}/log/")
}

/// Below it the log of one volume is.
pub(crate) fn log_prefix(project: &ProjectName, volume: VolumeNumber) -> String {
    format!("projects/{project}/log/{volume:010}/")
}

/// Below it what the keeper says of snapshots is, apart from what hosts create.
pub(crate) fn retention_prefix(project: &ProjectName) -> String {
    format!("projects/{project}/retention/")
}

/// Below it what he says of those of one volume is.
pub(crate) fn retention_of_prefix(project: &ProjectName, volume: VolumeNumber) -> String {
    format!("projects/{project}/retention/{volume:010}/")
}

/// Below it the rounds and the parts of their tables are.
pub(crate) fn gc_prefix(project: &ProjectName) -> String {
    format!("projects/{project}/gc/")
}

/// Apart from `gc/`: hosts create these, and only those that prune create below `gc/`.
pub fn lost_prefix(project: &ProjectName) -> String {
    format!("projects/{project}/lost/")
}

/// Pieces of a project's reserve: room to be given up where a store takes nothing more (repo-format.md §8.7).
pub const RESERVE_PIECES: u32 = 8;
/// The size of each.
pub const RESERVE_PIECE_LEN_BYTES: usize = 128 << 10;

/// Below it the pieces of a project's reserve are.
pub(crate) fn reserve_prefix(project: &ProjectName) -> String {
    format!("projects/{project}/reserve/")
}

/// The name of a piece, which counts from 1.
pub(crate) fn reserve_name(project: &ProjectName, piece: u32) -> String {
    format!("{}{piece:010}", reserve_prefix(project))
}

/// Whether a name is one of a piece of some project's reserve. Nobody opens what is there: it is no object of the table in §2.
pub fn is_reserve(name: &str) -> bool {
    let piece = || {
        let (project, rest) = name.strip_prefix("projects/")?.split_once('/')?;
        let _: ProjectName = project.parse().ok()?;
        number(rest.strip_prefix("reserve/")?)
    };
    piece().is_some_and(|piece| (1..=RESERVE_PIECES).contains(&piece))
}

/// Where the bytes of a damaged object are kept: by its name, and by what they are, so that no two get in each other's way.
pub fn quarantine_name(name: &ObjectName, damaged: &[u8]) -> String {
    let hash = blake3::hash(damaged);
    format!("{QUARANTINE_PREFIX}{name}/{}", hex(&hash.as_bytes()[..8]))
}

/// What names of quarantined objects begin with.
pub const QUARANTINE_PREFIX: &str = "quarantine/";

/// All parts of a round's tables.
pub fn parts_prefix(project: &ProjectName, generation: Option<Generation>) -> String {
    match generation {
        Some(generation) => format!("{}parts/{generation:010}/", gc_prefix(project)),
        None => format!("{}parts/", gc_prefix(project)),
    }
}

/// All chunks or all pages of a project.
pub fn content_prefix(project: &ProjectName, kind: ContentKind) -> String {
    match kind {
        ContentKind::Chunk => format!("projects/{project}/chunks/"),
        ContentKind::Page => format!("projects/{project}/pages/"),
        ContentKind::Bundle => format!("projects/{project}/bundles/"),
    }
}

/// All chunks or pages of a generation, or those whose ids begin with one byte.
pub fn generation_prefix(
    project: &ProjectName,
    kind: ContentKind,
    generation: Generation,
    first: Option<u8>,
) -> String {
    let all = content_prefix(project, kind);
    match first {
        Some(xx) => format!("{all}{generation:010}/{xx:02x}/"),
        None => format!("{all}{generation:010}/"),
    }
}

/// All chunks of a generation, or those whose ids begin with one byte.
pub fn chunks_prefix(project: &ProjectName, generation: Generation, first: Option<u8>) -> String {
    generation_prefix(project, ContentKind::Chunk, generation, first)
}

/// Names of a volume's log by sequence.
fn log_entry(project: ProjectName, volume: VolumeNumber, entry: &str) -> Option<ObjectName> {
    let (sequence, kind) = entry.split_once('.')?;
    let sequence = Sequence(number(sequence)?);
    match kind {
        "open" => Some(ObjectName::Open(project, volume, sequence)),
        "end" => Some(ObjectName::End(project, volume, sequence)),
        _ => match kind.split_once('.')? {
            ("alive", k) => Some(ObjectName::Alive(project, volume, sequence, number(k)?)),
            _ => None,
        },
    }
}

fn retention_entry(project: ProjectName, volume: VolumeNumber, entry: &str) -> Option<ObjectName> {
    let (sequence, kind) = entry.split_once('.')?;
    let sequence = Sequence(number(sequence)?);
    match kind {
        "forget" => Some(ObjectName::Forget(project, volume, sequence)),
        _ => match kind.split_once('.')? {
            ("note", k) => Some(ObjectName::Note(project, volume, sequence, number(k)?)),
            _ => None,
        },
    }
}

fn content_name(generation: &str, xx: &str, entry: &str) -> Option<ContentName> {
    let generation = Generation(number(generation)?);
    let (id, variant) = match entry.split_once('.') {
        None => (entry, 0),
        Some((id, variant)) => {
            let variant = u32::try_from(hex_number(variant, 8)?).ok()?;
            (id, (variant != 0).then_some(variant)?)
        }
    };
    let id: ChunkId = id.parse().ok()?;
    let name = ContentName { variant, ..ContentName::plain(generation, id) };
    (xx.len() == 2 && id.to_string().starts_with(xx)).then_some(name)
}

/// A 10-digit decimal number; nothing else, so that each name has one spelling.
fn number(s: &str) -> Option<u32> {
    (s.len() == 10 && s.bytes().all(|c| c.is_ascii_digit())).then(|| s.parse().ok()).flatten()
}

fn hex_number(s: &str, digits: usize) -> Option<u128> {
    let mut bytes = [0; 16];
    let out = &mut bytes[16 - digits / 2..];
    hex_into(s, out).ok()?;
    Some(u128::from_be_bytes(bytes))
}

fn slot_number(s: &str) -> Option<u64> {
    hex_number(s, 16).and_then(|slot| u64::try_from(slot).ok())
}

/// Checks a slot's name as a user types it.
pub fn parse_slot(s: &str) -> Result<u64> {
    slot_number(s).ok_or_else(|| {
        Error::invalid(format!(
            "key {s:?}: expected 16 lower-case hex digits, as `cuttle key list` shows them"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> ProjectName {
        "default".parse().expect("a valid name")
    }

    fn all() -> Vec<ObjectName> {
        let (p, n, s, g) = (project(), VolumeNumber(7), Sequence(4_294_967_295), Generation(12));
        let id = ChunkId([0xab; 32]);
        let plain = ContentName::plain(g, id);
        let delta = ContentName { variant: 0xbeef, ..plain };
        vec![
            ObjectName::Repository,
            ObjectName::Key { slot: 0xfe },
            ObjectName::Project(p.clone()),
            ObjectName::Volume(p.clone(), n),
            ObjectName::Open(p.clone(), n, s),
            ObjectName::End(p.clone(), n, s),
            ObjectName::Forget(p.clone(), n, s),
            ObjectName::Note(p.clone(), n, s, 3),
            ObjectName::Alive(p.clone(), n, s, 4),
            ObjectName::Chunk(p.clone(), plain),
            ObjectName::Chunk(p.clone(), delta),
            ObjectName::Page(p.clone(), plain),
            ObjectName::Bundle(p.clone(), plain),
            ObjectName::GcBegin(p.clone(), g),
            ObjectName::GcSeal(p.clone(), g),
            ObjectName::GcDone(p.clone(), g),
            ObjectName::GcPart(p.clone(), g, id),
            ObjectName::Lost(p, 0xfeed),
        ]
    }

    #[test]
    fn parse_is_the_inverse_of_display() {
        for name in all() {
            assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn names_are_spelled_as_the_specification_says() {
        let spelled: Vec<String> = all().iter().map(ObjectName::to_string).collect();
        let id = "ab".repeat(32);
        assert_eq!(
            spelled,
            [
                "repository".to_owned(),
                "keys/00000000000000fe".into(),
                "projects/default/project".into(),
                "projects/default/volumes/0000000007".into(),
                "projects/default/log/0000000007/4294967295.open".into(),
                "projects/default/log/0000000007/4294967295.end".into(),
                "projects/default/retention/0000000007/4294967295.forget".into(),
                "projects/default/retention/0000000007/4294967295.note.0000000003".into(),
                "projects/default/log/0000000007/4294967295.alive.0000000004".into(),
                format!("projects/default/chunks/0000000012/ab/{id}"),
                format!("projects/default/chunks/0000000012/ab/{id}.0000beef"),
                format!("projects/default/pages/0000000012/ab/{id}"),
                format!("projects/default/bundles/0000000012/ab/{id}"),
                "projects/default/gc/0000000012.begin".into(),
                "projects/default/gc/0000000012.seal".into(),
                "projects/default/gc/0000000012.done".into(),
                format!("projects/default/gc/parts/0000000012/{id}"),
                format!("projects/default/lost/{}feed", "0".repeat(28)),
            ]
        );
    }

    #[test]
    fn the_reserve_is_known_and_nothing_else_like_it() {
        let name = reserve_name(&project(), RESERVE_PIECES);
        assert_eq!(name, "projects/default/reserve/0000000008");
        assert!(is_reserve(&name) && ObjectName::parse(&name).is_none());
        for other in
            ["reserve/0000000001", "projects/default/reserve/1", "projects/default/reserve/0000000009"]
        {
            assert!(!is_reserve(other), "{other}");
        }
    }

    #[test]
    fn what_is_in_quarantine_is_no_object_of_ours() {
        for name in all() {
            let quarantined = quarantine_name(&name, b"damaged");
            assert_eq!(quarantined, format!("quarantine/{name}/1edaff300ed3affd"));
            assert_eq!(ObjectName::parse(&quarantined), None);
            assert_ne!(quarantined, quarantine_name(&name, b"damaged again"));
        }
    }

    #[test]
    fn other_spellings_are_not_ours() {
        let id = "ab".repeat(32);
        for name in [
            "",
            "Repository",
            "repository/",
            "keys/fe",
            "keys/00000000000000FE",
            "projects/../project",
            "projects//project",
            "projects/default/volumes/7",
            "projects/default/volumes/+000000007",
            "projects/default/volumes/9999999999",
            "projects/default/log/0000000007/0000000001",
            "projects/default/log/0000000007/0000000001.other",
            &format!("projects/default/chunks/0000000012/ac/{id}"),
            &format!("projects/default/chunks/0000000012/ab/{id}.00000000"),
            &format!("projects/default/chunks/0000000012/ab/{id}/x"),
            &format!("projects/default/bundles/0000000012/ab/{id}.0000beef"),
            &format!("projects/default/bundles/0000000012/ab/{id}+128"),
            &format!("projects/default/pieces/{id}"),
        ] {
            assert_eq!(ObjectName::parse(name), None, "{name:?}");
        }
    }
}
