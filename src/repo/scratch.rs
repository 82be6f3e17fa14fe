//! What an operation puts down and takes up again: in memory while it is small, beyond that in a file without a name, where copies are kept.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::SpooledTempFile;

use crate::error::{Error, Result};

/// Most that stays in memory; all there is room for, where there is no place for a file.
const MEMORY_BYTES_MAX: usize = 32 << 20;

/// Put down by one, asked by many threads.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: Option<PathBuf>,
    file: Mutex<SpooledTempFile>,
}

/// Where bytes were put.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Block {
    offset_bytes: u64,
    len_bytes: u32,
    /// Of their hash: a disk may give back others.
    check: u64,
}

impl Block {
    /// How many bytes were put there.
    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes as usize
    }
}

impl Scratch {
    pub(super) fn new(dir: Option<&Path>) -> Self {
        Self { dir: dir.map(Path::to_owned), file: Mutex::new(empty(dir)) }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        *self.file() = empty(self.dir.as_deref());
    }

    /// Puts bytes down.
    ///
    /// # Errors
    /// `Unavailable` where there is no room for them.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Block> {
        let mut file = self.file();
        let offset_bytes = file.seek(SeekFrom::End(0)).map_err(|e| self.failed(&e))?;
        if offset_bytes + bytes.len() as u64 > MEMORY_BYTES_MAX as u64 && !file.is_rolled() {
            let Some(dir) = &self.dir else {
                let mib = MEMORY_BYTES_MAX >> 20;
                return Err(Error::unavailable(format!(
                    "there is no cache, and more than {mib} MiB to put down"
                ))
                .help("let it have a cache: with `--cache-dir DIR`, without `--no-cache`"));
            };
            fs::create_dir_all(dir).map_err(|e| self.failed(&e))?;
        }
        file.write_all(bytes).map_err(|e| self.failed(&e))?;
        let len_bytes = u32::try_from(bytes.len()).map_err(|_| Error::internal("a block of 4 GiB"))?;
        Ok(Block { offset_bytes, len_bytes, check: check(bytes) })
    }

    /// The bytes that were put down, and no others.
    ///
    /// # Errors
    /// `Unavailable` where they are not to be had.
    pub(crate) fn get(&self, block: &Block) -> Result<Vec<u8>> {
        let mut bytes = vec![0; block.len_bytes()];
        let mut file = self.file();
        let read = file.seek(SeekFrom::Start(block.offset_bytes)).and_then(|_| file.read_exact(&mut bytes));
        drop(file);
        read.map_err(|e| self.failed(&e))?;
        match check(&bytes) == block.check {
            true => Ok(bytes),
            false => Err(self.failed(&io::Error::other("it gives back other bytes than were put into it"))),
        }
    }

    fn file(&self) -> MutexGuard<'_, SpooledTempFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, error: &io::Error) -> Error {
        let dir = self.dir.as_deref().unwrap_or(Path::new("memory"));
        Error::unavailable(format!("a temporary file in {}: {error}", dir.display()))
            .help("see whether its disk is full, or name another place with `--cache-dir`")
    }
}

fn empty(dir: Option<&Path>) -> SpooledTempFile {
    match dir {
        Some(dir) => SpooledTempFile::new_in(MEMORY_BYTES_MAX, dir),
        None => SpooledTempFile::new(MEMORY_BYTES_MAX),
    }
}

fn check(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    u64::from_le_bytes(std::array::from_fn(|at| hash.as_bytes()[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn block(n: u8) -> Vec<u8> {
        vec![n; 5 * MIB + usize::from(n)]
    }

    #[test]
    fn what_was_put_down_comes_back_from_memory_and_from_a_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let below = dir.path().join("not/there/yet");
        let scratch = Scratch::new(Some(&below));
        let blocks: Vec<Block> = (0..10).map(|n| scratch.put(&block(n)).expect("room")).collect();
        assert!(scratch.file().is_rolled() && std::fs::read_dir(&below).expect("made").next().is_none());
        for n in [9, 0, 4] {
            assert!(scratch.get(&blocks[usize::from(n)]).expect("there") == block(n));
        }
        scratch.clear();
        assert!(!scratch.file().is_rolled() && scratch.get(&blocks[0]).is_err());
    }

    #[test]
    fn what_a_disk_gives_back_wrong_is_no_answer() {
        let dir = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::new(Some(dir.path()));
        let blocks: Vec<Block> = (0..10).map(|n| scratch.put(&block(n)).expect("room")).collect();
        {
            let mut file = scratch.file();
            file.seek(SeekFrom::Start(blocks[3].offset_bytes + 77)).expect("there");
            file.write_all(&[200]).expect("written");
        }
        let error = scratch.get(&blocks[3]).expect_err("another");
        assert!(error.to_string().contains("other bytes than were put into it"), "{error}");
        scratch.get(&blocks[4]).expect("the rest is as it was");
    }

    #[test]
    fn what_finds_no_room_is_refused_and_the_rest_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("file");
        std::fs::write(&file, b"").expect("written");
        for (place, said) in [(None, "there is no cache"), (Some(file.as_path()), "a temporary file in")] {
            let scratch = Scratch::new(place);
            let blocks: Vec<Block> = (0..6).map(|n| scratch.put(&block(n)).expect("room")).collect();
            for _ in 0..2 {
                let error = scratch.put(&block(6)).expect_err("no room");
                assert!(error.to_string().contains(said), "{error}");
            }
            assert!(scratch.get(&blocks[5]).expect("there") == block(5));
        }
    }
}
