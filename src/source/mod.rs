//! Where volumes are read from: RBD images, raw files and block devices, and diff streams.
//!
//! There are two kinds. A [`Volume`] can be read anywhere and knows what changed since a base; a
//! [`StreamSource`] arrives once, in its own order. Neither knows of repositories.

pub mod diff_stream;
pub(crate) mod file_reader;
pub mod raw_file;
mod raw_stream;
pub mod rbd;
mod rbd_clone;
pub mod rbd_compare;
pub mod rbd_head;
pub mod rbd_held;
mod rbd_snapshots;
mod rbd_taken;
mod rbd_target;
pub mod states;

use std::sync::Arc;

use crate::error::Result;
use crate::source::rbd_held::BackedUp;
pub use crate::units::{Content, Extent};
use crate::volume::{Identity, ImageLayout, ObjectsBy, SnapshotPoint};

/// Bytes that can be read at any offset, by many threads at once.
///
/// An RBD snapshot, a raw file and a snapshot in the repository all implement it.
pub trait ReadAt: Send + Sync {
    /// Size of what can be read.
    fn size_bytes(&self) -> u64;

    /// How many reads at once serve best. A cluster answers many; a local file is memory or one disk.
    fn reads_inflight(&self) -> usize {
        2
    }

    /// Fills all of `buf` from `offset_bytes`. Reading past the end is an error, never zeros.
    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<()>;
}

/// The extents to look at, ascending and disjoint, within the size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// All that may hold data. What is not listed reads as zero.
    All(Vec<Extent>),
    /// What changed since the parent's snapshot point, or what a clone has of its own. What is not listed is as it was.
    Since(Vec<Extent>),
}

/// What a backup wants of a volume's frozen state.
#[derive(Debug, Clone)]
pub struct FreezeRequest {
    /// Name for the snapshot that the source makes itself where the user named none.
    /// It begins with `own_prefix`.
    pub own_name: String,
    /// What the names of all own snapshots for this repository and project begin with. Only such are ever removed.
    pub own_prefix: String,
    /// The snapshot point of the newest live backup, to find what changed since. `None` asks for everything.
    pub parent: Option<SnapshotPoint>,
    /// Where there is no parent: the backup of the snapshot that the volume was cloned from, to find what it has of its own.
    pub origin: Option<OriginPoint>,
}

/// What a volume came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descent {
    /// Who it was before, where it is just being moved and got another identity by that.
    pub moved_from: Option<Identity>,
    /// What it was cloned from, and still shows where it has nothing of its own.
    pub cloned_from: Option<ClonedFrom>,
}

/// A snapshot of another image, which a clone shows where it has nothing of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClonedFrom {
    /// The other image. Its name may be empty: it may lie in the trash.
    pub image: Identity,
    /// RBD's id of its snapshot.
    pub rbd_snap_id: u64,
}

impl ClonedFrom {
    /// Whether both are the same snapshot, whatever its image is called.
    pub fn is_same(&self, other: &Self) -> bool {
        self.image.is_same(&other.image) && self.rbd_snap_id == other.rbd_snap_id
    }
}

/// A backup of what a clone was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPoint {
    /// Of which image and snapshot it is.
    pub cloned_from: ClonedFrom,
    /// By what it was decided which objects that had when it was read.
    pub objects: ObjectsBy,
}

/// A volume that can be backed up, before anything of it was read.
pub trait Volume: Send + Sync {
    /// Which volume it is, and stays from backup to backup; asked of the source, so it may fail.
    fn identity(&self) -> Result<Identity>;

    /// What else it is known to be from.
    fn descent(&self) -> Result<Descent> {
        Ok(Descent::default())
    }

    /// The volume as it is now, where it can tell what changed without being held still: nothing is made of it. `None` where it
    /// cannot.
    fn present(&self) -> Result<Option<Present>> {
        Ok(None)
    }

    /// Fixes the volume's content (makes or opens the snapshot) and finds what changed since the parent.
    ///
    /// Where the parent's point is gone or cannot be trusted, the result is [`Changes::All`] and a remark says why:
    /// never a silent full, never a silent skip.
    fn freeze(&self, request: &FreezeRequest) -> Result<Box<dyn Frozen>>;
}

/// A volume's content at one moment.
pub trait Frozen: Send + Sync {
    /// How the image is laid out; all zeros and empty where it is none.
    fn layout(&self) -> ImageLayout;
    /// `None` for a raw file: nothing holds it still.
    fn point(&self) -> Option<SnapshotPoint>;
    /// The content, as long as this is held.
    fn reader(&self) -> Arc<dyn ReadAt>;
    /// What to look at; called once.
    fn changes(&self) -> Result<Changes>;
    /// The content of the parent, or of the origin, where it is at hand locally (the base snapshot of an RBD image).
    fn base_reader(&self) -> Option<Arc<dyn ReadAt>>;
    /// The command that checks what the source says of changes, where there is one.
    fn check_command(&self) -> Option<String> {
        None
    }
    /// What the operator must be told: a full read forced and why, a slow diff, a raw file that may change.
    fn remarks(&self) -> Vec<String>;
    /// Called after the last read and before the commit: is the snapshot that was read still the same one?
    fn check(&self) -> Result<()>;
    /// Called after the commit: removes older own snapshots, so that exactly one base stays.
    fn committed(&self) -> Result<()>;
    /// Called when the backup failed or was interrupted: removes the snapshot made by `freeze`, if it made one.
    fn discard(&self) -> Result<()>;
}

/// A volume as it is now, while others may write to it.
pub struct Present {
    /// What tells who it is and what changed.
    pub head: Box<dyn Head>,
    /// How to make the image again.
    pub layout: ImageLayout,
    /// Reads what is there at the moment of each read.
    pub reader: Arc<dyn ReadAt>,
}

/// A volume as it is now, which knows what it changed since its snapshots.
pub trait Head: Send + Sync {
    /// Which volume it is, as a backup of it would record it.
    fn identity(&self) -> Result<Identity>;

    /// Whether it still has that very snapshot.
    fn has(&self, point: &SnapshotPoint) -> bool;

    /// What it changed since a snapshot that it has.
    fn changed_since(&self, point: &SnapshotPoint) -> Result<Since>;

    /// Its snapshots that cuttle made when it had restored a backup to it, with the ids of these in hexadecimal digits.
    fn restored(&self) -> Result<Vec<(String, SnapshotPoint)>> {
        Ok(Vec::new())
    }

    /// What it has of its own, where it is a clone of what holds this backup.
    fn own(&self, _origin: BackedUp<'_>) -> Result<Option<Since>> {
        Ok(None)
    }
}

/// What a volume changed since one of its snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// Size of the volume as it is now.
    pub size_bytes: u64,
    /// Ascending and disjoint, within the size. What is not listed is as it was.
    pub changes: Vec<Extent>,
    /// What the operator should know about the way it was found.
    pub remark: Option<String>,
    /// The command that checks what the volume says of changes, where there is one.
    pub check_command: Option<String>,
}

/// What a stream says of itself before its first event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamHeader {
    /// The snapshot that the stream is relative to; `None` for a full stream, whose base reads as zero everywhere.
    pub from: Option<String>,
    /// The snapshot that it leads to; `None` where it names none, and always for a full export.
    pub to: Option<String>,
    /// Size of the volume after the stream; `None` where it shows at the end: for raw bytes, and for a full export
    /// with snapshots.
    pub size_bytes: Option<u64>,
    /// How the image is laid out; all zeros and empty where the stream does not say.
    pub layout: ImageLayout,
    /// Whether the format shows its own end. Raw bytes do not: those of a writer that died look like a smaller volume.
    pub has_end: bool,
    /// How many states of the volume it holds, one after another; more than one only in a full export with snapshots.
    pub states: u64,
}

/// What comes next in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// A diff begins. From here on the volume has this size: what lay beyond it is gone, and what is beyond the size
    /// before reads as zero. The extents until the next `Diff` are disjoint and within this size; they may come out
    /// of order, and they may touch what an earlier diff wrote.
    Diff {
        /// Size of the volume after the diff.
        size_bytes: u64,
        /// The snapshot that this diff leads to.
        to: Option<String>,
    },
    /// A range has a new content. Data must be read before the next event.
    Extent(Extent),
}

/// A volume or a change to one that arrives once, in its own order.
///
/// To apply it, start from the base (that of `header().from`, or zeros) and follow the events in order:
///
/// - An `rbd diff` is one [`StreamEvent::Diff`] and its extents.
/// - A full export is one `Diff` for each snapshot, oldest first, and one for the image itself. The state after the last
///   one is the volume; the states between were the volume at its snapshots. [`states::States`] gives them one by one.
/// - Raw bytes are ascending extents of data without a gap, and no `Diff`: the size is that at the end.
pub trait StreamSource: Send {
    /// What it says of itself; read when the stream was opened.
    fn header(&self) -> &StreamHeader;

    /// The next event, or `None` at the stream's proper end. A stream that ends early is an error, and so is calling
    /// this before the data of an extent was read, or after an error.
    fn next_event(&mut self) -> Result<Option<StreamEvent>>;

    /// Reads the next bytes of the current extent of [`Content::Data`]. Returns how many were read, at least 1 while
    /// any are left, 0 when the extent is finished.
    fn read_data(&mut self, buf: &mut [u8]) -> Result<usize>;

    /// Size of the volume as far as the stream was read; the final one once `next_event` has returned `None`.
    fn final_size_bytes(&self) -> u64;
}
