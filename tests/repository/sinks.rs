//! Sinks: the suite for each kind, and what is particular to files, devices and pipes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::support::devices::{LoopDevice, SmallDisk};
use crate::support::sink_suite::{Target, check};
use cuttle::sink::pipe::PipeSink;
use cuttle::sink::raw_file::RawFileSink;
use cuttle::sink::{Existing, Order, Sink};
use cuttle::{Error, ErrorKind};
use tempfile::TempDir;

struct FileTarget {
    _folder: TempDir,
    path: PathBuf,
    overwrite: bool,
}

impl FileTarget {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { path: folder.path().join("volume"), _folder: folder, overwrite: false }
    }

    fn existing(content: &[u8]) -> Self {
        let target = Self { overwrite: true, ..Self::new() };
        fs::write(&target.path, content).expect("write the file before");
        target
    }

    fn partial(content: &[u8]) -> Self {
        let target = Self::new();
        fs::write(partial(&target.path), content).expect("write the partial file before");
        target
    }
}

impl Target for FileTarget {
    fn open(&self, size_bytes: u64) -> Box<dyn Sink> {
        Box::new(RawFileSink::open(&self.path, size_bytes, self.overwrite).expect("open"))
    }

    fn content(&self, size_bytes: u64) -> Vec<u8> {
        assert!(!partial(&self.path).exists(), "a whole file has its own name only");
        let content = fs::read(&self.path).expect("read what was restored");
        assert_eq!(content.len() as u64, size_bytes);
        content
    }
}

fn partial(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.cuttle-partial", path.display()))
}

#[test]
fn a_new_file_passes() {
    check(FileTarget::new);
}

#[test]
fn an_existing_file_passes() {
    let stale = [0x5a; 2_000_000];
    check(|| FileTarget::existing(&stale));
    check(|| FileTarget::existing(b""));
}

#[test]
fn a_partial_file_passes() {
    let stale = [0x5a; 2_000_000];
    check(|| FileTarget::partial(&stale));
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        // Short writes, as pipes make them.
        let n = buf.len().min(10_000);
        self.0.lock().expect("lock").extend(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Target for Shared {
    fn open(&self, size_bytes: u64) -> Box<dyn Sink> {
        Box::new(PipeSink::new(self.clone(), size_bytes))
    }

    fn content(&self, _size_bytes: u64) -> Vec<u8> {
        self.0.lock().expect("lock").clone()
    }
}

#[test]
fn a_pipe_passes() {
    check(Shared::default);
}

struct DeviceTarget {
    device: LoopDevice,
    _backing: TempDir,
}

impl Target for DeviceTarget {
    fn open(&self, size_bytes: u64) -> Box<dyn Sink> {
        Box::new(RawFileSink::open(&self.device.0, size_bytes, true).expect("open"))
    }

    fn content(&self, size_bytes: u64) -> Vec<u8> {
        let whole = fs::read(&self.device.0).expect("read the device");
        assert!(
            whole[size_bytes as usize..].iter().all(|&b| b == 0x5a),
            "what is beyond the volume is left alone"
        );
        whole[..size_bytes as usize].to_vec()
    }
}

/// A device of 4 MiB full of stale bytes.
fn device() -> Option<DeviceTarget> {
    let backing = tempfile::tempdir().expect("a folder");
    let file = backing.path().join("backing");
    fs::write(&file, vec![0x5a; 4 << 20]).expect("write the backing file");
    Some(DeviceTarget { device: LoopDevice::attach(&file)?, _backing: backing })
}

#[test]
fn a_block_device_passes() {
    if device().is_none() {
        return crate::support::skip("a block device as a target needs root and loop devices");
    }
    check(|| device().expect("a loop device"));
}

#[test]
fn a_block_device_must_be_large_enough_and_asked_for() {
    let Some(target) = device() else {
        return crate::support::skip("a block device as a target needs root and loop devices");
    };
    let error = open_error(&target.device.0, (4 << 20) + 1, true);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.message().contains("has 4194304 bytes: expected at least 4194305"), "{error}");
    assert_eq!(open_error(&target.device.0, 1000, false).kind(), ErrorKind::Conflict);
}

fn open_error(path: &Path, size_bytes: u64, overwrite: bool) -> Error {
    match RawFileSink::open(path, size_bytes, overwrite) {
        Ok(_) => panic!("{} opened", path.display()),
        Err(error) => error,
    }
}

#[test]
fn a_new_file_is_sparse_and_gets_its_name_at_the_end() {
    let target = FileTarget::new();
    let size = 64 << 20;
    let sink = target.open(size);
    assert_eq!(sink.order(), Order::Any);
    assert!(matches!(sink.existing(), Existing::Blank));
    sink.write_at(size - 5000, &[7; 5000]).expect("write");
    assert!(!target.path.exists(), "no half restored file has the name");
    assert!(partial(&target.path).exists());
    sink.finish().expect("finish");
    let metadata = fs::metadata(&target.path).expect("the file");
    assert_eq!(metadata.len(), size);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks are held by a sparse file", metadata.blocks());
}

#[test]
fn zeroing_frees_space() {
    let target = FileTarget::existing(&vec![0x5a; 8 << 20]);
    let before = fs::metadata(&target.path).expect("the file").blocks();
    let sink = target.open(8 << 20);
    sink.zero_at(100, (8 << 20) - 200).expect("zero");
    sink.finish().expect("finish");
    let after = fs::metadata(&target.path).expect("the file").blocks();
    assert!(after * 8 < before, "{after} of {before} blocks are still held");
}

#[test]
fn an_interrupted_restore_is_gone_on_with() {
    let target = FileTarget::new();
    let sink = target.open(10_000);
    sink.write_at(0, &[1; 5000]).expect("write");
    drop(sink);
    assert!(!target.path.exists());
    let sink = target.open(10_000);
    let Existing::Content(reader) = sink.existing() else { panic!("the partial file is seen") };
    let mut found = vec![9; 10_000];
    reader.read_at(0, &mut found).expect("read");
    assert_eq!(found, [vec![1; 5000], vec![0; 5000]].concat());
    sink.write_at(5000, &[2; 5000]).expect("write");
    sink.finish().expect("finish");
    assert_eq!(target.content(10_000), [vec![1; 5000], vec![2; 5000]].concat());
}

#[test]
fn an_existing_file_is_left_alone_unless_asked_for() {
    let target = FileTarget::existing(b"precious");
    let error = open_error(&target.path, 100, false);
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.help_text().is_some_and(|h| h.contains("--overwrite")));
    assert_eq!(fs::read(&target.path).expect("read"), b"precious");
    assert_eq!(open_error(target.path.parent().expect("a folder"), 100, true).kind(), ErrorKind::Invalid);
    assert_eq!(open_error(Path::new("/dev/null"), 100, true).kind(), ErrorKind::Invalid);
    let nowhere = target.path.with_file_name("nowhere").join("volume");
    assert_eq!(open_error(&nowhere, 100, false).kind(), ErrorKind::NotFound);
}

#[test]
fn two_restores_to_one_target_do_not_mix() {
    let target = FileTarget::new();
    let first = target.open(100);
    let error = open_error(&target.path, 100, false);
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    drop(first);
    target.open(100).finish().expect("free again");
}

#[test]
fn a_file_that_appears_meanwhile_is_kept() {
    let target = FileTarget::new();
    let sink = target.open(3);
    sink.write_at(0, b"new").expect("write");
    fs::write(&target.path, b"precious").expect("another file");
    let error = sink.finish().expect_err("the name is taken");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(fs::read(&target.path).expect("read"), b"precious");
    assert_eq!(fs::read(partial(&target.path)).expect("read"), b"new");
}

#[test]
fn a_link_in_place_of_the_partial_file_is_refused() {
    let target = FileTarget::new();
    let precious = target.path.with_file_name("precious");
    fs::write(&precious, b"precious").expect("another file");
    std::os::unix::fs::symlink(&precious, partial(&target.path)).expect("a link");
    open_error(&target.path, 3, false);
    assert_eq!(fs::read(&precious).expect("read"), b"precious");
}

#[test]
fn a_full_disk_is_a_clear_error_and_is_gone_on_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(folder.path(), 1 << 20) else {
        return crate::support::skip("a full disk needs root to mount a small one");
    };
    let path = disk.0.join("volume");
    let sink = RawFileSink::open(&path, 4 << 20, false).expect("a sparse file fits");
    let errors: Vec<Error> = (0..4).filter_map(|i| sink.write_at(i << 20, &vec![1; 1 << 20]).err()).collect();
    assert!(!errors.is_empty(), "4 MiB do not fit into 1 MiB");
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("there is no space left"), "{error}");
        assert!(error.help_text().is_some_and(|h| h.contains("run the same command again")));
    }
    drop(sink);
    assert!(!path.exists());
    let sink = RawFileSink::open(&path, 4 << 20, false).expect("gone on with");
    assert!(matches!(sink.existing(), Existing::Content(_)));
}

#[test]
fn a_pipe_takes_ascending_writes_only() {
    let target = Shared::default();
    let sink = target.open(10);
    assert_eq!(sink.order(), Order::Ascending);
    assert!(matches!(sink.existing(), Existing::Nothing));
    sink.write_at(0, b"abc").expect("at the start");
    assert_eq!(sink.write_at(5, b"x").expect_err("a gap").kind(), ErrorKind::Internal);
    assert_eq!(sink.zero_at(0, 1).expect_err("again").kind(), ErrorKind::Internal);
    assert_eq!(sink.finish().expect_err("not whole").kind(), ErrorKind::Internal);
    sink.zero_at(3, 7).expect("the rest");
    sink.finish().expect("whole");
    assert_eq!(target.content(10), b"abc\0\0\0\0\0\0\0");
}

#[test]
fn a_pipe_that_fails_says_where() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
    let error = PipeSink::new(full, 10).write_at(0, b"abc").expect_err("full");
    assert!(error.message().contains("after 0 of 10 bytes: there is no space left"), "{error}");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let error = PipeSink::new(writer, 10).write_at(0, b"abc").expect_err("closed");
    assert!(error.message().contains("the reader of the output stopped after 0 of 10 bytes"), "{error}");
}
