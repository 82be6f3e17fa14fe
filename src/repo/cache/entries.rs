//! Copies of a project's catalog entries, in one file: ten thousand of them are read at once, not one by one.
//!
//! A copy is put behind the others, by any process; of several under one number the last counts. Nothing is believed of the file
//! but that its copies may be worth opening: where it is cut or mixed up, the copies behind are fetched again.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::format::ObjectType;
use crate::store::Stamp;
use crate::units::VolumeNumber;

/// In front of a copy: the number of its volume, its length, and the stamp of what it is a copy of.
const HEAD_LEN_BYTES: usize = 4 + 4 + 16;
/// Of a file that has more, what is left of it counts as not there: 10,000 entries are 3 MB.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Copies that count for nothing any more, before the file is written anew.
const STALE_MAX: usize = 1_000;

/// The copies of one project.
#[derive(Debug)]
pub(super) struct Entries {
    path: PathBuf,
    /// Opened for the first copy that is put.
    file: Option<File>,
    /// As the file was read.
    bytes: Bytes,
    copies: HashMap<VolumeNumber, Copy>,
}

#[derive(Debug)]
enum Copy {
    /// Where in the bytes that were read.
    Read(Stamp, Range<usize>),
    /// Put by this process, which does not ask for it again.
    Put,
}

impl Entries {
    /// What the file has; one that is not there has nothing.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => drop(file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let (mut copies, mut at, mut put) = (HashMap::new(), 0, 0);
        while let Some((number, stamp, range)) = head(&bytes, at) {
            at = range.end;
            put += 1;
            copies.insert(number, Copy::Read(stamp, range));
        }
        let this = Self { path: path.to_owned(), file: None, bytes: bytes.into(), copies };
        // A cut one would hide what is put behind it.
        if at < this.bytes.len() || put - this.copies.len() > STALE_MAX {
            this.write_anew()?;
        }
        Ok(this)
    }

    pub(super) fn get(&self, number: VolumeNumber, stamp: &Stamp) -> Option<Bytes> {
        match self.copies.get(&number)? {
            Copy::Read(of, range) if of == stamp => Some(self.bytes.slice(range.clone())),
            _ => None,
        }
    }

    pub(super) fn has(&self, number: VolumeNumber) -> bool {
        self.copies.contains_key(&number)
    }

    /// Puts a copy behind the others, with one write: those of other processes do not mix with it.
    pub(super) fn put(&mut self, number: VolumeNumber, stamp: &Stamp, object: &[u8]) -> io::Result<()> {
        let copy = with_head(number, stamp, object);
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                self.path.parent().map_or(Ok(()), fs::create_dir_all)?;
                none.insert(OpenOptions::new().append(true).create(true).open(&self.path)?)
            }
        };
        file.write_all(&copy)?;
        self.copies.insert(number, Copy::Put);
        Ok(())
    }

    /// Has no copy of it any more, in this process: the next that is put counts.
    pub(super) fn remove(&mut self, number: VolumeNumber) {
        self.copies.remove(&number);
    }

    /// Just what counts; what another process puts meanwhile is fetched again.
    fn write_anew(&self) -> io::Result<()> {
        let parent = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(parent)?;
        let mut all = Vec::with_capacity(self.bytes.len());
        for (number, copy) in &self.copies {
            if let Copy::Read(stamp, range) = copy {
                all.extend(with_head(*number, stamp, &self.bytes[range.clone()]));
            }
        }
        file.write_all(&all)?;
        file.persist(&self.path).map(drop).map_err(|e| e.error)
    }
}

/// The copy at an offset: its number, stamp, and where its bytes are. `None` at the end, and where there is none.
fn head(bytes: &[u8], at: usize) -> Option<(VolumeNumber, Stamp, Range<usize>)> {
    let (head, rest) = bytes.get(at..)?.split_at_checked(HEAD_LEN_BYTES)?;
    let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let len = usize::try_from(u32_at(4)).ok()?;
    let is_possible = len <= rest.len() && len <= ObjectType::Volume.object_len_bytes_max();
    let from = at + HEAD_LEN_BYTES;
    let stamp = Stamp(std::array::from_fn(|i| head[8 + i]));
    is_possible.then(|| (VolumeNumber(u32_at(0)), stamp, from..from + len))
}

fn with_head(number: VolumeNumber, stamp: &Stamp, object: &[u8]) -> Vec<u8> {
    let len = u32::try_from(object.len()).unwrap_or(u32::MAX);
    [&number.0.to_le_bytes()[..], &len.to_le_bytes(), &stamp.0, object].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Entries {
        Entries::read(path).expect("read")
    }

    fn put(path: &Path, number: u32, stamp: u8, object: &[u8]) {
        read(path).put(VolumeNumber(number), &Stamp([stamp; 16]), object).expect("put");
    }

    fn get(path: &Path, number: u32, stamp: u8) -> Option<Bytes> {
        read(path).get(VolumeNumber(number), &Stamp([stamp; 16]))
    }

    #[test]
    fn the_last_copy_under_a_number_counts_and_only_under_its_stamp() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("below/catalog");
        put(&path, 7, 1, b"seven");
        put(&path, 8, 1, b"eight");
        put(&path, 7, 2, b"seven again");
        assert_eq!(get(&path, 7, 2).as_deref(), Some(&b"seven again"[..]));
        assert_eq!(get(&path, 8, 1).as_deref(), Some(&b"eight"[..]));
        assert_eq!((get(&path, 7, 1), get(&path, 9, 1)), (None, None));
    }

    #[test]
    fn where_the_file_is_cut_or_mixed_up_the_rest_is_put_anew() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("catalog");
        put(&path, 1, 1, b"one");
        let whole = fs::read(&path).expect("there");
        for tail in [&whole[..whole.len() - 1], &[0xff; 40][..]] {
            fs::write(&path, [&whole[..], tail].concat()).expect("written");
            assert_eq!(get(&path, 1, 1).as_deref(), Some(&b"one"[..]));
            assert_eq!(fs::read(&path).expect("there"), whole, "written anew");
            put(&path, 2, 1, b"two");
            assert_eq!(get(&path, 2, 1).as_deref(), Some(&b"two"[..]));
        }
    }

    #[test]
    fn a_file_of_old_copies_is_written_anew() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("catalog");
        let mut entries = read(&path);
        for n in 0..STALE_MAX as u32 + 5 {
            entries.put(VolumeNumber(n % 2), &Stamp([1; 16]), b"copy").expect("put");
        }
        drop(entries);
        let before = fs::metadata(&path).expect("there").len();
        assert_eq!(get(&path, 1, 1).as_deref(), Some(&b"copy"[..]));
        let after = fs::metadata(&path).expect("there").len();
        assert!(after * 100 < before, "{after} of {before} bytes");
    }
}
