//! A raw file or block device as a source: holes, changes while it is read, and what is refused.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::Numbers;
use crate::support::devices::LoopDevice;
use crate::support::repo::{CHUNK, default, init_with, latest, options, read_back};
use cuttle::backup::{self, BackupOptions, DeltaMode, Input};
use cuttle::cancel::Cancel;
use cuttle::progress::Silent;
use cuttle::repo::InitOptions;
use cuttle::source::raw_file::RawFile;
use cuttle::source::{Changes, Content, Extent, FreezeRequest, Frozen, Volume};
use cuttle::store::{Limits, Store, StoreConfig};
use cuttle::volume::Identity;
use cuttle::{Error, ErrorKind};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn request() -> FreezeRequest {
    FreezeRequest {
        own_name: "cuttle-1".to_owned(),
        own_prefix: "cuttle-".to_owned(),
        parent: None,
        origin: None,
    }
}

fn freeze(path: &Path) -> Box<dyn Frozen> {
    RawFile::find(path).expect("find").freeze(&request()).expect("freeze")
}

fn extents(frozen: &dyn Frozen) -> Vec<(u64, u64)> {
    let Changes::All(extents) = frozen.changes().expect("changes") else { panic!("a file knows no parent") };
    extents
        .iter()
        .map(|&Extent { offset_bytes, length_bytes, content }| {
            assert_eq!(content, Content::Data);
            (offset_bytes, offset_bytes + length_bytes)
        })
        .collect()
}

/// A file in a folder of its own, with data at some places.
fn sparse(size_bytes: u64, data: &[(u64, &[u8])]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.img");
    let file = File::create_new(&path).expect("create");
    file.set_len(size_bytes).expect("set the size");
    for (at, bytes) in data {
        file.write_all_at(bytes, *at).expect("write");
    }
    (folder, path)
}

#[test]
fn holes_are_left_out_and_all_data_is_in() {
    let block = vec![7; 100_000];
    let places = [(0, &block[..]), (5 * MIB + 13, &block[..50]), (16 * MIB - 1, b"x")];
    let (_folder, path) = sparse(16 * MIB, &places);
    let frozen = freeze(&path);
    let found = extents(&*frozen);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.windows(2).all(|w| w[0].1 < w[1].0), "ascending and disjoint: {found:?}");
    let total: u64 = found.iter().map(|(start, end)| end - start).sum();
    assert!(total < MIB, "holes are left out: {found:?}");
    let reader = frozen.reader();
    assert_eq!(reader.size_bytes(), 16 * MIB);
    let mut wanted = fs::read(&path).expect("read");
    let mut rebuilt = vec![0; wanted.len()];
    for (start, end) in found {
        reader.read_at(start, &mut rebuilt[start as usize..end as usize]).expect("read an extent");
    }
    assert!(rebuilt == wanted, "what is not listed reads as zero");
    wanted.fill(0);
    reader.read_at(0, &mut wanted).expect("read everything");
    assert!(rebuilt == wanted);
}

#[test]
fn a_file_without_data_has_no_extents_and_small_holes_are_read() {
    let (_folder, path) = sparse(64 * MIB, &[]);
    assert_eq!(extents(&*freeze(&path)), []);
    let (_folder, path) = sparse(0, &[]);
    let frozen = freeze(&path);
    assert_eq!((extents(&*frozen), frozen.reader().size_bytes()), (vec![], 0));
    let (_folder, path) = sparse(MIB, &[(0, b"a"), (32 << 10, b"b")]);
    let found = extents(&*freeze(&path));
    assert_eq!(found.len(), 1, "a hole of less than 64 KiB is read: {found:?}");
    // An odd size, and data up to its end.
    let (_folder, path) = sparse(1001, &[(0, &[1; 1001])]);
    assert_eq!(extents(&*freeze(&path)), [(0, 1001)]);
}

#[test]
fn reads_past_the_end_are_errors() {
    let (_folder, path) = sparse(1000, &[(0, &[1; 1000])]);
    let reader = freeze(&path).reader();
    let mut buf = [0; 10];
    reader.read_at(990, &mut buf).expect("up to the end");
    for offset in [991, 1000, u64::MAX - 3] {
        assert_eq!(reader.read_at(offset, &mut buf).expect_err("past the end").kind(), ErrorKind::Invalid);
    }
    OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(500)).expect("cut the file off");
    let error = reader.read_at(495, &mut buf).expect_err("the file is shorter now");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

#[test]
fn many_threads_read_at_once() {
    let bytes = crate::support::Numbers::new(3).bytes(1 << 20);
    let (_folder, path) = sparse(MIB, &[(0, &bytes)]);
    let reader = freeze(&path).reader();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (reader, bytes) = (&reader, &bytes);
            scope.spawn(move || {
                for at in (0..bytes.len() - 4096).skip(thread * 501).step_by(10_007) {
                    let mut buf = [0; 4096];
                    reader.read_at(at as u64, &mut buf).expect("read");
                    assert!(buf == bytes[at..at + 4096]);
                }
            });
        }
    });
}

/// What [`Frozen::check`] says after something was done to a file.
fn checked_after(change: impl FnOnce(&Path)) -> Result<(), Error> {
    let (_folder, path) = sparse(MIB, &[(0, b"content")]);
    // A time that a write now cannot give again, however coarse the file system's clock is.
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    File::options().write(true).open(&path).and_then(|f| f.set_modified(long_ago)).expect("set the time");
    let frozen = freeze(&path);
    frozen.check().expect("nothing happened yet");
    change(&path);
    frozen.check()
}

#[test]
fn a_change_while_it_is_read_is_found() {
    assert!(checked_after(|_| ()).is_ok());
    assert!(checked_after(|path| drop(fs::read(path).expect("read"))).is_ok(), "reading is no change");
    let write = |path: &Path| OpenOptions::new().write(true).open(path).expect("open");
    let replace = |path: &Path| {
        let other = path.with_file_name("other");
        fs::copy(path, &other).expect("copy");
        fs::rename(&other, path).expect("rename over it");
    };
    for (how, error) in [
        ("it was written to", checked_after(|path| write(path).write_all(b"CONTENT").expect("write"))),
        (
            "its size was 1048576 bytes and is now 1",
            checked_after(|path| write(path).set_len(1).expect("cut")),
        ),
        ("another file has its name now", checked_after(replace)),
    ] {
        let error = error.expect_err(how);
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.message().contains(how), "{error}");
        assert!(error.help_text().is_some_and(|h| h.contains("snapshot")));
    }
    let error = checked_after(|path| fs::remove_file(path).expect("remove")).expect_err("removed");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn identity_is_the_absolute_path() {
    let (folder, path) = sparse(1, &[]);
    let identity = |path: &Path| RawFile::find(path).and_then(|f| f.identity()).expect("an identity");
    let named = Identity::File { path: path.to_str().expect("UTF-8").to_owned() };
    assert_eq!(identity(&path), named);
    let link = folder.path().join("by-id");
    symlink(&path, &link).expect("a link");
    assert_ne!(identity(&link), named, "a link that stays the same is the better name");
    assert!(matches!(identity(Path::new("Cargo.toml")), Identity::File { path } if path.starts_with('/')));
}

#[test]
fn what_is_no_volume_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .expect("a pipe");
    for (path, kind, message) in [
        (folder.path(), ErrorKind::Invalid, "is a directory"),
        (&pipe, ErrorKind::Invalid, "is a named pipe"),
        (Path::new("/dev/zero"), ErrorKind::Invalid, "is a character device"),
        (&folder.path().join("nothing"), ErrorKind::NotFound, "nothing"),
    ] {
        let error = RawFile::find(path).expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(message), "{error}");
    }
}

#[test]
fn a_frozen_file_has_no_snapshot_and_says_so() {
    let (_folder, path) = sparse(1, &[]);
    let frozen = freeze(&path);
    assert_eq!(frozen.point(), None);
    assert!(frozen.base_reader().is_none());
    assert!(frozen.remarks().iter().any(|n| n.contains("nothing holds")));
    frozen.committed().expect("nothing to remove");
    frozen.discard().expect("nothing to remove");
    assert!(path.exists());
}

#[test]
fn a_block_device_is_read_whole() {
    let bytes = crate::support::Numbers::new(8).bytes(3 << 20);
    let (_folder, path) = sparse(8 * MIB, &[(MIB, &bytes)]);
    let Some(device) = LoopDevice::attach(&path) else {
        return crate::support::skip("a block device as a source needs root and loop devices");
    };
    let frozen = freeze(&device.0);
    let reader = frozen.reader();
    assert_eq!(reader.size_bytes(), 8 * MIB);
    let mut rebuilt = vec![0; 8 << 20];
    for (start, end) in extents(&*frozen) {
        reader.read_at(start, &mut rebuilt[start as usize..end as usize]).expect("read");
    }
    assert!(rebuilt == fs::read(&path).expect("read the file beneath"));
    assert!(frozen.remarks().iter().any(|n| n.contains("cannot be noticed")));
    frozen.check().expect("the size is the same");
}

/// A day of a data set in a file grows a repository by what changed, as it does from an image: what was there before is fetched.
#[tokio::test]
async fn a_file_makes_deltas_on_what_the_repository_has() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = StoreConfig {
        url: dir.path().to_str().expect("a name").to_owned(),
        options: Vec::new(),
        environment: Vec::new(),
        limits: Limits::default(),
    };
    let init = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 7 };
    let repository = init_with(Store::open(&config).expect("opens"), init, true).await;
    let project = default(&repository).await;
    let mut numbers = Numbers::new(21);
    let content = numbers.bytes(16 * CHUNK as usize);
    let (_folder, path) = sparse(16 * u64::from(CHUNK), &[(0, &content)]);
    let back_up = async |delta| {
        let input = Input::Volume(Arc::new(RawFile::find(&path).expect("found")));
        let options = BackupOptions { delta, ..options("v") };
        backup::run(&project, input, &options, Arc::new(Silent), Cancel::never())
            .await
            .expect("backed up")
            .stats
    };
    let mut touch = || {
        let file = OpenOptions::new().write(true).open(&path).expect("open");
        for chunk in 0..16 {
            file.write_all_at(&numbers.bytes(40), chunk * u64::from(CHUNK) + 100).expect("write");
        }
    };
    assert_eq!(back_up(DeltaMode::Auto).await.delta_chunks, 0);
    for (night, delta, deltas) in [
        (1, DeltaMode::Auto, 16),
        (2, DeltaMode::Always, 16),
        (3, DeltaMode::Never, 0),
        (4, DeltaMode::Auto, 16),
        (5, DeltaMode::Auto, 16),
    ] {
        touch();
        let stats = back_up(delta).await;
        assert_eq!((stats.new_chunks, stats.delta_chunks), (16, deltas), "night {night}");
        assert!(deltas == 0 || stats.stored_bytes < 8_000, "night {night}: {stats:?}");
        let read = read_back(&project, &latest(&project, "v").await).await.expect("read");
        assert!(read == fs::read(&path).expect("read"), "night {night}");
    }
    // What cannot be read makes no delta, and the backup stands.
    let chunks = dir.path().join("projects/default/chunks");
    let mut hurt = Vec::new();
    let mut folders = vec![chunks];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("listed") {
            let entry = entry.expect("an entry").path();
            if entry.is_dir() { folders.push(entry) } else { hurt.push(entry) }
        }
    }
    for path in hurt {
        let mut bytes = fs::read(&path).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("written");
    }
    touch();
    let stats = back_up(DeltaMode::Auto).await;
    assert_eq!((stats.new_chunks, stats.delta_chunks), (16, 0));
    let read = read_back(&project, &latest(&project, "v").await).await.expect("read");
    assert!(read == fs::read(&path).expect("read"));
}
