//! Exports of random volumes, read by the programs that they are for.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::support::Numbers;
use crate::support::apply::apply;
use crate::support::nights::nights;
use crate::support::qemu::QemuImg;
use crate::support::repo::{
    CHUNK, MemoryVolume, back_up, commit_by_hand, default, in_memory, init_on, latest, options, store,
};
use cuttle::cancel::Cancel;
use cuttle::diff::Limits;
use cuttle::export::{self, Exported, Output};
use cuttle::format::PageRef;
use cuttle::format::names::ContentName;
use cuttle::format::page::ObjectRef;
use cuttle::progress::Silent;
use cuttle::repo::Keeper;
use cuttle::repo::history::SnapshotEntry;
use cuttle::restore::RestoreReport;
use cuttle::source::diff_stream;
use cuttle::units::{ChunkId, Content, Extent, Generation};
use cuttle::{ErrorKind, Result};
use object_store::memory::InMemory;

/// What a test exports, and where to.
struct Export<'a> {
    format: &'a str,
    from: Option<&'a SnapshotEntry>,
    backing: Option<&'a Path>,
}

impl<'a> Export<'a> {
    fn of(format: &'a str) -> Self {
        Self { format, from: None, backing: None }
    }

    fn since(format: &'a str, from: &'a SnapshotEntry) -> Self {
        Self { from: Some(from), ..Self::of(format) }
    }

    async fn to(&self, output: Output, project: &Keeper, snapshot: &SnapshotEntry) -> Result<RestoreReport> {
        let format = export::format(self.format)?;
        let mut export = export::Export::new(format, snapshot.clone(), self.from.cloned());
        if let Some(base) = &mut export.what.base {
            base.file = self.backing.map(Path::to_path_buf);
        }
        export::run(project, export, output, Arc::new(Silent), Cancel::never()).await
    }

    async fn to_file(&self, path: &Path, project: &Keeper, snapshot: &SnapshotEntry) -> RestoreReport {
        let output = Output::File { path: path.to_owned(), overwrite: false };
        self.to(output, project, snapshot).await.expect("exported")
    }

    async fn to_pipe(&self, project: &Keeper, snapshot: &SnapshotEntry) -> Vec<u8> {
        let pipe = Pipe::default();
        let output = Output::Pipe(Box::new(pipe.clone()));
        self.to(output, project, snapshot).await.expect("exported");
        let bytes = pipe.0.lock().expect("not poisoned");
        bytes.clone()
    }
}

/// A pipe whose bytes are kept.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn repository(chunk_size_bytes: u32) -> Keeper {
    default(&init_on(store(Arc::new(InMemory::new())), chunk_size_bytes, true).await).await
}

/// As qcow2 holds it: in whole sectors.
fn sectors(content: &[u8]) -> Vec<u8> {
    let mut padded = content.to_vec();
    padded.resize(content.len().next_multiple_of(512), 0);
    padded
}

#[tokio::test]
async fn qcow2_files_and_chains_hold_what_was_backed_up() {
    let Some(qemu) = QemuImg::find() else { return };
    for (seed, chunk) in [(1, CHUNK), (2, 65536), (3, 262_144), (4, CHUNK)] {
        let dir = tempfile::tempdir().expect("a folder");
        let project = repository(chunk).await;
        let nights = nights(&project, seed, 5).await;
        let mut below: Option<(PathBuf, &SnapshotEntry)> = None;
        for (at, (snapshot, content)) in nights.iter().enumerate() {
            let what = format!("seed {seed}, night {at}");
            let flat = dir.path().join(format!("flat-{at}.qcow2"));
            Export::of("qcow2").to_file(&flat, &project, snapshot).await;
            qemu.check(&flat);
            assert!(qemu.bytes(&flat) == sectors(content), "{what}");

            let name = PathBuf::from(format!("{at}.qcow2"));
            let file = dir.path().join(&name);
            let (from, backing) = below.as_ref().map(|(file, from)| (*from, &**file)).unzip();
            Export { format: "qcow2", from, backing }.to_file(&file, &project, snapshot).await;
            qemu.check(&file);
            assert!(qemu.bytes(&file) == sectors(content), "{what}, on top of the one before");
            assert_eq!(qemu.chain(&file).len(), at + 1, "{what}");
            qemu.run(&["compare", flat.to_str().expect("UTF-8"), file.to_str().expect("UTF-8")]);

            // Through a pipe, flat and on top of the same file; the backing file is looked for beside the overlay.
            let piped = dir.path().join("piped.qcow2");
            fs::write(&piped, Export::of("qcow2").to_pipe(&project, snapshot).await).expect("written");
            qemu.check(&piped);
            assert!(qemu.bytes(&piped) == sectors(content), "{what}, through a pipe");
            if let Some((file, from)) = &below {
                let overlay = Export { format: "qcow2", from: Some(from), backing: Some(file) };
                fs::write(&piped, overlay.to_pipe(&project, snapshot).await).expect("written");
                qemu.check(&piped);
                assert!(qemu.bytes(&piped) == sectors(content), "{what}, an overlay through a pipe");
                assert_eq!(qemu.chain(&piped).len(), at + 1, "{what}");
            }
            below = Some((name, snapshot));
        }
    }
}

#[tokio::test]
async fn qcow2_keeps_holes_and_compresses() {
    let Some(qemu) = QemuImg::find() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let project = repository(262_144).await;
    let mut content = vec![0; 64 << 20];
    content[10 << 20..20 << 20].copy_from_slice(&b"cuttle! ".repeat((10 << 20) / 8));
    // What does not compress, in clusters of their own beside some that do.
    content[30 << 20..31 << 20].copy_from_slice(&Numbers::new(1).bytes(1 << 20));
    let volume = MemoryVolume::new(content.clone());
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    let first = latest(&project, "v").await;
    let flat = dir.path().join("flat.qcow2");
    Export::of("qcow2").to_file(&flat, &project, &first).await;
    qemu.check(&flat);
    assert!(qemu.bytes(&flat) == content);
    assert_eq!(qemu.unallocated_bytes(&flat), 53 << 20, "what is zero is not there");
    let len = fs::metadata(&flat).expect("a file").len();
    assert!(len < 2 << 20, "{len} bytes: 1 MiB of noise, tables, and next to nothing for the rest");

    // Zeros over data must hide the backing file; what is untouched must not be there.
    volume.edit(|content| content[12 << 20..14 << 20].fill(0));
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    let second = latest(&project, "v").await;
    let overlay = dir.path().join("overlay.qcow2");
    let backing = Some(Path::new("flat.qcow2"));
    let report =
        Export { format: "qcow2", from: Some(&first), backing }.to_file(&overlay, &project, &second).await;
    assert_eq!((report.totals.fetch.bytes, report.totals.zero.bytes), (0, 2 << 20));
    qemu.check(&overlay);
    assert!(qemu.bytes(&overlay) == volume.content());
    assert_eq!(qemu.chain(&overlay)[0]["backing-filename-format"], "qcow2");

    // A raw backing file serves as well.
    fs::write(dir.path().join("flat.raw"), &content).expect("a raw file");
    let overlay = dir.path().join("on-raw.qcow2");
    let backing = Some(Path::new("flat.raw"));
    Export { format: "qcow2", from: Some(&first), backing }.to_file(&overlay, &project, &second).await;
    assert_eq!(qemu.chain(&overlay)[0]["backing-filename-format"], "raw");
    assert!(qemu.bytes(&overlay) == volume.content());
}

/// More clusters than one block of refcounts counts, and more than one L2 table maps, both of 4 KiB here.
#[tokio::test]
async fn qcow2_with_many_tables() {
    let Some(qemu) = QemuImg::find() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let project = repository(CHUNK).await;
    let mut numbers = Numbers::new(5);
    let mut content = numbers.bytes(20 << 20);
    for cluster in content.chunks_mut(4096) {
        match numbers.below(4) {
            0 => cluster.fill(0),
            1 => cluster[100..].fill(7),
            _ => {}
        }
    }
    let volume = MemoryVolume::new(content.clone());
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    let file = dir.path().join("v.qcow2");
    Export::of("qcow2").to_file(&file, &project, &latest(&project, "v").await).await;
    qemu.check(&file);
    assert!(qemu.bytes(&file) == content);
    fs::write(&file, Export::of("qcow2").to_pipe(&project, &latest(&project, "v").await).await)
        .expect("written");
    qemu.check(&file);
    assert!(qemu.bytes(&file) == content, "and through a pipe");
    // Beyond its end nothing counts as used: a guest that writes to it may grow it.
    let grown = fs::OpenOptions::new().write(true).open(&file).expect("the file");
    grown.set_len(fs::metadata(&file).expect("its size").len() + 64 * u64::from(CHUNK)).expect("grown");
    qemu.check(&file);
}

#[tokio::test]
async fn what_qcow2_cannot_be_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (_, project) = in_memory().await;
    let nights = nights(&project, 6, 2).await;
    let (snapshot, from) = (&nights[1].0, &nights[0].0);
    let file = |name: &str| Output::File { path: dir.path().join(name), overwrite: false };
    let since = |backing| Export { format: "qcow2", from: Some(from), backing };
    let error = since(None).to(file("a"), &project, snapshot).await.expect_err("no backing file");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    fs::write(dir.path().join("other.raw"), vec![1; 512]).expect("a file");
    let other = since(Some(Path::new("other.raw")));
    let error = other.to(file("a"), &project, snapshot).await.expect_err("another volume's file");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let protocol = since(Some(Path::new("nbd:other")));
    assert!(protocol.to(file("a"), &project, snapshot).await.is_err(), "a name that is no file to QEMU");
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing was made");
}

#[tokio::test]
async fn diffs_and_images_hold_what_was_backed_up() {
    for (seed, chunk) in [(7, CHUNK), (8, 65536)] {
        let project = repository(chunk).await;
        let nights = nights(&project, seed, 5).await;
        for (to, content) in &nights {
            for format in ["diff-v1", "diff-v2", "image-v2"] {
                let stream = Export::of(format).to_pipe(&project, to).await;
                let mut source = diff_stream::open(Cursor::new(stream), Limits::default()).expect("opens");
                assert!(apply(&mut *source, Vec::new()).expect("reads") == *content, "{format}");
            }
            assert!(Export::of("raw").to_pipe(&project, to).await == *content);
            for (from, base) in &nights {
                let stream = Export::since("diff-v2", from).to_pipe(&project, to).await;
                let mut source = diff_stream::open(Cursor::new(stream), Limits::default()).expect("opens");
                let name = |s: &SnapshotEntry| s.snapshot.point.as_ref().map(|p| p.name.clone());
                assert_eq!((&source.header().from, &source.header().to), (&name(from), &name(to)));
                assert!(apply(&mut *source, base.clone()).expect("reads") == *content);
            }
        }
    }
}

async fn listed(project: &Keeper, from: Option<&SnapshotEntry>, to: &SnapshotEntry) -> Vec<Extent> {
    let mut all = Vec::new();
    let mut found = |extent| {
        all.push(extent);
        Ok(())
    };
    export::changes(project, from, to, &mut Cancel::never(), &mut found).await.expect("listed");
    all
}

/// What a list must be, from the bytes alone: each chunk that differs, as data or zero, neighbours as one.
fn expected(from: &[u8], to: &[u8], chunk: usize) -> Vec<Extent> {
    let at = |content: &[u8], start: usize, len: usize| {
        let mut piece =
            content.get(start.min(content.len())..content.len().min(start + len)).unwrap_or(&[]).to_vec();
        piece.resize(len, 0);
        piece
    };
    let mut extents: Vec<Extent> = Vec::new();
    for start in (0..to.len()).step_by(chunk) {
        let len = chunk.min(to.len() - start);
        let (old, new) = (at(from, start, len), at(to, start, len));
        // The chunk that one of the two ends lies in is another one, whatever it holds.
        let cut = start < from.len() && len != chunk.min(from.len() - start);
        let held = from.get(start..from.len().min(start + chunk)).is_some_and(|c| c.iter().any(|b| *b != 0));
        let zero = new.iter().all(|b| *b == 0);
        if old == new && !(cut && held) {
            continue;
        }
        let content = if zero { Content::Zero } else { Content::Data };
        match extents.last_mut() {
            Some(last)
                if last.content == content && last.offset_bytes + last.length_bytes == start as u64 =>
            {
                last.length_bytes += len as u64;
            }
            _ => extents.push(Extent { offset_bytes: start as u64, length_bytes: len as u64, content }),
        }
    }
    extents
}

#[tokio::test]
async fn changes_are_the_chunks_that_differ() {
    for (seed, chunk) in [(9, CHUNK), (10, 65536)] {
        let project = repository(chunk).await;
        let nights = nights(&project, seed, 5).await;
        for (to, content) in &nights {
            assert_eq!(listed(&project, None, to).await, expected(&[], content, chunk as usize));
            for (from, base) in &nights {
                assert_eq!(listed(&project, Some(from), to).await, expected(base, content, chunk as usize));
            }
        }
    }
}

/// Of a volume of many leaves only those on a changed path are read, and of chunks only the one that changed.
#[tokio::test]
async fn what_is_unchanged_is_not_read() {
    let project = repository(CHUNK).await;
    let leaf = 1024 * CHUNK as usize;
    let volume = MemoryVolume::new(Numbers::new(11).bytes(12 * leaf));
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    let from = latest(&project, "v").await;
    volume.edit(|content| {
        content[3 * leaf] ^= 1;
        content[10 * leaf..10 * leaf + CHUNK as usize].fill(0);
    });
    back_up(&project, &volume, &options("v")).await.expect("backed up");
    let to = latest(&project, "v").await;
    let gets = || project.repository().store().ledger().get_requests;
    let before = gets();
    let chunk = u64::from(CHUNK);
    let extent = |leaves: usize, content| Extent {
        offset_bytes: (leaves * leaf) as u64,
        length_bytes: chunk,
        content,
    };
    assert_eq!(
        listed(&project, Some(&from), &to).await,
        [extent(3, Content::Data), extent(10, Content::Zero)]
    );
    assert_eq!(gets() - before, 4, "two leaves of each");
    let before = gets();
    let stream = Export::since("diff-v1", &from).to_pipe(&project, &to).await;
    assert!(gets() - before <= 5, "and one chunk");
    assert!((stream.len() as u64) < chunk + 200);
}

/// A tree of three levels: whole subtrees are left out, and none in which anything differs.
#[tokio::test]
async fn changes_are_found_in_tall_trees() {
    const REFS: u64 = 1024;
    let project = repository(CHUNK).await;
    let chunk = u64::from(CHUNK);
    let object = |id: u8| {
        let name = ContentName::plain(Generation(0), ChunkId([id; 32]));
        PageRef::full(ObjectRef { name, sealed_len_bytes: 1000 })
    };
    let before = [(3, 1), (REFS * REFS + 7, 2), (REFS * REFS + 5 * REFS, 3), (2 * REFS * REFS + 9, 4)];
    let size_bytes = 3 * REFS * REFS * chunk;
    let commit = |refs: Vec<(u64, u8)>, size_bytes: u64| {
        let project = project.clone();
        async move {
            let refs = refs.into_iter().map(|(at, id)| (at, object(id)));
            let sequence = commit_by_hand(&project, "v", size_bytes, refs).await;
            project.volumes().snapshot(&format!("v@{sequence}")).await.expect("a snapshot")
        }
    };
    let from = commit(before.to_vec(), size_bytes).await;
    let extent = |at: u64, content| Extent { offset_bytes: at * chunk, length_bytes: chunk, content };
    for (at, id) in [(0, 9), (3, 0), (REFS * REFS + 7, 9), (REFS * REFS - 1, 9), (2 * REFS * REFS + 9, 0)] {
        let mut after: Vec<(u64, u8)> = before.iter().copied().filter(|(other, _)| *other != at).collect();
        after.extend((id != 0).then_some((at, id)));
        let to = commit(after, size_bytes).await;
        let content = if id == 0 { Content::Zero } else { Content::Data };
        assert_eq!(listed(&project, Some(&from), &to).await, [extent(at, content)]);
    }
    // A volume that grew from one leaf, and one that shrank to it: trees of different heights.
    let small = commit(vec![(3, 1)], 10 * chunk).await;
    let grown: Vec<_> = before[1..].iter().map(|(at, _)| extent(*at, Content::Data)).collect();
    assert_eq!(listed(&project, Some(&small), &from).await, grown);
    assert_eq!(listed(&project, Some(&from), &small).await, []);
}

#[tokio::test]
async fn a_file_gets_its_name_when_it_is_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let (inner, project) = in_memory().await;
    let nights = nights(&project, 12, 2).await;
    let (snapshot, content) = &nights[1];
    let path = dir.path().join("v.diff");
    for format in ["diff-v1", "diff-v2", "image-v2", "qcow2"] {
        fs::write(&path, b"something").expect("a file");
        let output = |overwrite| Output::File { path: path.clone(), overwrite };
        let opened =
            export::format(format).expect("a format").open(output(false), &Exported::new(snapshot, None));
        assert_eq!(
            opened.err().expect("it exists").kind(),
            ErrorKind::Conflict,
            "{format}: before anything is read"
        );
        assert_eq!(fs::read(&path).expect("a file"), b"something");
        Export::of(format).to(output(true), &project, snapshot).await.expect("replaced");
        assert!(File::open(&path).expect("a file").metadata().expect("a size").len() > 100);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "{format}: nothing else stays");
        fs::remove_file(&path).expect("removed");
    }
    assert!(!content.is_empty());

    // A chunk that is missing ends the export: there is no file, and the old one is as it was.
    fs::write(&path, b"something").expect("a file");
    use futures::TryStreamExt;
    use object_store::{ObjectStore, ObjectStoreExt};
    let all: Vec<_> = inner.list(None).try_collect().await.expect("a list");
    for object in all.iter().filter(|o| o.location.as_ref().contains("/chunks/")) {
        inner.delete(&object.location).await.expect("deleted");
    }
    for format in ["diff-v2", "qcow2"] {
        let output = Output::File { path: path.clone(), overwrite: true };
        let error = Export::of(format).to(output, &project, snapshot).await.expect_err("no data");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(fs::read(&path).expect("a file"), b"something");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "{format}: nothing else stays");
    }
}
