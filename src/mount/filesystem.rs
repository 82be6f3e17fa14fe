//! Answers to the kernel: what is there, and its bytes.
//!
//! The thread that takes the kernel's requests never waits: each is answered by a task, so a slow read holds up nobody.
//! `latest.raw` is another name of the newest snapshot's file, with the same inode: a file that is open stays what it was.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, Request,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::content::{self, Seek};
use super::current::{Current, Which};
use super::tree::{FolderId, ROOT, Tree, file_name, which};
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::VolumeRecord;
use crate::reading::snapshot::SnapshotReader;
use crate::repo::history::SnapshotEntry;
use crate::units::{Sequence, VolumeNumber};

/// How long the kernel may go without asking again. What takes time is kept by [`Current`].
const TTL: Duration = Duration::from_secs(1);
/// Reads answered at once; the kernel asks for at most 1 MiB at a time.
const READS_INFLIGHT_MAX: usize = 32;
/// What the kernel is asked to read ahead.
const READAHEAD_BYTES: u32 = 1 << 20;
/// Marks the inodes of files: this bit, 31 bits of the volume's number, 32 of the sequence.
const FILE_BIT: u64 = 1 << 63;
const BLOCK_BYTES: u32 = 4096;

/// Who owns the files, and who may read them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub uid: u32,
    pub gid: u32,
    /// Whether all users may read.
    pub is_open: bool,
}

/// The file system of a project.
pub(super) struct SnapshotFiles {
    shared: Arc<Shared>,
    runtime: Handle,
}

struct Shared {
    current: Current,
    owner: Owner,
    started: SystemTime,
    tree: Mutex<Tree>,
    reads: Semaphore,
    next_handle: AtomicU64,
    files: Mutex<HashMap<u64, Arc<SnapshotReader>>>,
    folders: Mutex<HashMap<u64, Arc<Vec<Entry>>>>,
}

/// One line of a folder.
struct Entry {
    ino: u64,
    kind: FileType,
    name: String,
}

/// What an inode stands for.
enum Node {
    Folder(FolderId),
    File(VolumeNumber, Sequence),
}

impl SnapshotFiles {
    /// Answers on this runtime. `started` is the time of folders.
    pub(super) fn new(current: Current, owner: Owner, started: SystemTime, runtime: Handle) -> Self {
        let shared = Shared {
            current,
            owner,
            started,
            tree: Mutex::default(),
            reads: Semaphore::new(READS_INFLIGHT_MAX),
            next_handle: AtomicU64::new(1),
            files: Mutex::default(),
            folders: Mutex::default(),
        };
        Self { shared: Arc::new(shared), runtime }
    }

    fn answer<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Arc<Shared>) -> F) {
        self.runtime.spawn(work(Arc::clone(&self.shared)));
    }
}

impl Filesystem for SnapshotFiles {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The kernel says what it allows, where that is less.
        if let Err(most) = config.set_max_readahead(READAHEAD_BYTES) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_str().map(str::to_owned);
        self.answer(|fs| async move {
            match fs.lookup(parent.0, name).await {
                Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(|fs| async move {
            match fs.attr(ino.0, fh).await {
                Ok(attr) => reply.attr(&TTL, &attr),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.answer(|fs| async move {
            match fs.open(ino.0).await {
                // What the kernel has read stays right.
                Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.answer(|fs| async move {
            let permit = fs.reads.acquire().await;
            let read = async { content::read(&*fs.file(fh)?, offset, size).await };
            match read.await {
                Ok(data) => reply.data(&data),
                Err(e) => reply.error(errno(&e)),
            }
            drop(permit);
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.answer(|fs| async move {
            let (Ok(offset), Some(seek)) = (u64::try_from(offset), Seek::from_whence(whence)) else {
                return reply.error(Errno::EINVAL);
            };
            let found = async { content::seek(&*fs.file(fh)?, offset, seek).await };
            match found.await {
                Ok(Some(found)) => reply.offset(found.cast_signed()),
                Ok(None) => reply.error(Errno::ENXIO),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        locked(&self.shared.files).remove(&fh.0);
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.answer(|fs| async move {
            match fs.list(ino.0).await {
                Ok(entries) => {
                    let handle = fs.next_handle.fetch_add(1, Ordering::Relaxed);
                    locked(&fs.folders).insert(handle, Arc::new(entries));
                    reply.opened(FileHandle(handle), FopenFlags::empty());
                }
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(entries) = locked(&self.shared.folders).get(&fh.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let first = usize::try_from(offset).unwrap_or(usize::MAX);
        for (number, entry) in (1..).zip(entries.iter()).skip(first) {
            if reply.add(INodeNo(entry.ino), number, entry.kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        locked(&self.shared.folders).remove(&fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, BLOCK_BYTES, 255, BLOCK_BYTES);
    }
}

impl Shared {
    async fn lookup(&self, parent: u64, name: Option<String>) -> Result<FileAttr> {
        let Node::Folder(folder) = node(parent) else { return Err(nothing()) };
        let name = name.ok_or_else(nothing)?;
        self.grow().await?;
        if let Some(child) = locked(&self.tree).child(folder, &name) {
            return Ok(self.folder_attr(child));
        }
        let which = which(&name).ok_or_else(nothing)?;
        let volume = self.volume_of(folder).await?.ok_or_else(nothing)?;
        Ok(self.file_attr(&self.current.find(&volume, which).await?))
    }

    async fn attr(&self, ino: u64, handle: Option<FileHandle>) -> Result<FileAttr> {
        match (node(ino), handle.and_then(|fh| self.file(fh).ok())) {
            (Node::File(..), Some(open)) => Ok(self.file_attr(open.snapshot())),
            (Node::File(volume, sequence), None) => {
                Ok(self.file_attr(&self.snapshot(volume, sequence).await?))
            }
            (Node::Folder(folder), _) => match locked(&self.tree).has(folder) {
                true => Ok(self.folder_attr(folder)),
                false => Err(nothing()),
            },
        }
    }

    async fn open(&self, ino: u64) -> Result<u64> {
        let Node::File(volume, sequence) = node(ino) else {
            return Err(Error::invalid("a folder is not a file"));
        };
        let snapshot = self.snapshot(volume, sequence).await?;
        let reader = self.current.open(&snapshot)?;
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        locked(&self.files).insert(handle, reader);
        Ok(handle)
    }

    async fn list(&self, ino: u64) -> Result<Vec<Entry>> {
        let Node::Folder(folder) = node(ino) else { return Err(nothing()) };
        self.grow().await?;
        let of_folder = |id: FolderId, name: &str| Entry {
            ino: folder_ino(id),
            kind: FileType::Directory,
            name: name.to_owned(),
        };
        let mut entries = {
            let tree = locked(&self.tree);
            let around = [of_folder(folder, "."), of_folder(tree.parent(folder), "..")];
            let children = tree.children(folder).map(|(name, id)| of_folder(id, name));
            around.into_iter().chain(children).collect::<Vec<_>>()
        };
        let Some(volume) = self.volume_of(folder).await? else { return Ok(entries) };
        let snapshots = self.current.snapshots(&volume).await?;
        let of_file = |snapshot: &SnapshotEntry, which| Entry {
            ino: file_ino(snapshot),
            kind: FileType::RegularFile,
            name: file_name(which),
        };
        entries.extend(snapshots.iter().map(|s| of_file(s, Which::Sequence(s.snapshot.sequence))));
        entries.extend(snapshots.last().map(|s| of_file(s, Which::Latest)));
        Ok(entries)
    }

    /// Adds volumes that are new.
    async fn grow(&self) -> Result<()> {
        let volumes = self.current.volumes().await?;
        let mut tree = locked(&self.tree);
        volumes.iter().for_each(|volume| tree.add(&volume.name, volume.number));
        Ok(())
    }

    async fn volume_of(&self, folder: FolderId) -> Result<Option<VolumeRecord>> {
        let number = locked(&self.tree).volume(folder);
        let volumes = self.current.volumes().await?;
        Ok(number.and_then(|n| volumes.iter().find(|v| v.number == n).cloned()))
    }

    async fn snapshot(&self, volume: VolumeNumber, sequence: Sequence) -> Result<SnapshotEntry> {
        let volumes = self.current.volumes().await?;
        let volume = volumes.iter().find(|v| v.number == volume).ok_or_else(nothing)?;
        self.current.find(volume, Which::Sequence(sequence)).await
    }

    fn file(&self, handle: FileHandle) -> Result<Arc<SnapshotReader>> {
        locked(&self.files).get(&handle.0).cloned().ok_or_else(|| Error::invalid("the file is not open"))
    }

    fn folder_attr(&self, folder: FolderId) -> FileAttr {
        let perm = if self.owner.is_open { 0o555 } else { 0o500 };
        self.node_attr(folder_ino(folder), FileType::Directory, perm, self.started)
    }

    fn file_attr(&self, snapshot: &SnapshotEntry) -> FileAttr {
        let size = snapshot.snapshot.size_bytes;
        let perm = if self.owner.is_open { 0o444 } else { 0o400 };
        let time = UNIX_EPOCH.checked_add(Duration::from_millis(snapshot.committed_unix_ms));
        let attr =
            self.node_attr(file_ino(snapshot), FileType::RegularFile, perm, time.unwrap_or(self.started));
        // How much of it is data would take reading the manifest. A little less than all says that there may be holes, so that
        // programs that copy ask for them; none at all would say that there is nothing else.
        let blocks = (size / 512).saturating_sub(1).max(u64::from(size > 0));
        FileAttr { size, blocks, ..attr }
    }

    fn node_attr(&self, ino: u64, kind: FileType, perm: u16, time: SystemTime) -> FileAttr {
        FileAttr {
            ino: INodeNo(ino),
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: self.owner.uid,
            gid: self.owner.gid,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }
}

fn node(ino: u64) -> Node {
    if ino & FILE_BIT == 0 {
        return Node::Folder(FolderId(usize::try_from(ino.saturating_sub(1)).unwrap_or(usize::MAX)));
    }
    Node::File(VolumeNumber(((ino & !FILE_BIT) >> 32) as u32), Sequence(ino as u32))
}

fn folder_ino(folder: FolderId) -> u64 {
    (folder.0 - ROOT.0) as u64 + 1
}

fn file_ino(snapshot: &SnapshotEntry) -> u64 {
    let (volume, sequence) = (snapshot.snapshot.volume.0, snapshot.snapshot.sequence.0);
    FILE_BIT | u64::from(volume) << 32 | u64::from(sequence)
}

fn nothing() -> Error {
    Error::not_found("there is no such file")
}

/// What the kernel is told; the operator reads the rest in the log.
fn errno(error: &Error) -> Errno {
    match error.kind() {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::Invalid => Errno::EINVAL,
        _ => {
            tracing::warn!("mount: {error}");
            Errno::EIO
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
