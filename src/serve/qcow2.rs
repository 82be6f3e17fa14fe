//! Snapshots of one volume as a qcow2 file, for readers that ask for what they need of it: the last one is the image, those before
//! are its internal snapshots. Unlike a raw image it says where there is nothing, and what no snapshot changed is there once.
//!
//! There is no such file: what is asked for is made at that moment. In this order, each part of whole clusters:
//!
//! | part | clusters |
//! |---|---|
//! | header | 1 |
//! | refcount table, empty: nothing is ever written | 1 |
//! | table of snapshots | as many as it takes |
//! | L1 tables, one of each image | `l1_clusters` each |
//! | L2 tables, all those of one image together | one each |
//! | content, one region of each image | as long as the largest image |
//!
//! A byte of a volume is so always at the same place of its region. An L2 entry says whether there is anything: manifest pages
//! tell. What an image has in common with one before it is found in that one's region, and librbd compares these offsets: it
//! copies once what did not change (`src/librbd/migration/QCOWFormat.cc`; seen with Ceph 16.2.15).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Shelf;
use crate::error::{Error, Result};
use crate::qcow2::{Compression, Internal, Layout, Tables, ZERO, encode, snapshot_table};
use crate::reading::snapshot::SnapshotReader;
use crate::repo::history::SnapshotEntry;

/// Most snapshots in one file, the image among them.
pub const IMAGES_MAX: usize = 101;
/// No file is larger: above are the flags of table entries.
const FILE_LEN_BYTES_MAX: u64 = 1 << 55;
/// Entries of L1 and L2 tables have 8 bytes.
const ENTRY_LEN_BYTES: u64 = 8;
/// What begins the names of cuttle's own RBD snapshots, which a backup of the restored image would remove.
const OWN_PREFIX: &str = "cuttle";

/// A file that is made as it is read.
pub struct Qcow2 {
    shelf: Arc<Shelf>,
    /// Oldest first; the last is the image.
    images: Vec<SnapshotEntry>,
    places: Places,
    header: Vec<u8>,
    snapshots: Vec<u8>,
}

impl Qcow2 {
    /// These snapshots of a volume, oldest first; `None` where they are not on the shelf.
    ///
    /// # Errors
    /// `Unsupported` where the image is not of whole sectors of 512 bytes: qcow2 cannot say its size.
    pub fn open(shelf: &Arc<Shelf>, volume: &str, sequences: &[u32]) -> Result<Option<Self>> {
        let all = shelf.volume(volume);
        let find = |n: &u32| all.iter().find(|s| s.snapshot.sequence.0 == *n).cloned();
        let ascending = sequences.is_sorted_by(|a, b| a < b) && sequences.len() <= IMAGES_MAX;
        match sequences.iter().map(find).collect::<Option<Vec<_>>>() {
            Some(images) if ascending => Self::of(shelf, images).map(Some),
            _ => Ok(None),
        }
    }

    fn of(shelf: &Arc<Shelf>, images: Vec<SnapshotEntry>) -> Result<Self> {
        let Some((image, older)) = images.split_last() else {
            return Err(Error::invalid("a qcow2 file of no snapshot"));
        };
        if !holds(image) {
            return Err(Error::unsupported(format!(
                "a qcow2 file holds whole sectors, not {} bytes",
                image.snapshot.size_bytes
            )));
        }
        let largest = images.iter().map(|i| i.snapshot.size_bytes).max().unwrap_or_default();
        let layout = Layout::new(largest, shelf.project().chunk_size_bytes())?;
        let names = snapshot_names(older);
        let table = |places: &Places| {
            snapshot_table(older.iter().zip(&names).enumerate().map(|(at, (entry, name))| Internal {
                name,
                l1_offset_bytes: places.l1(at),
                l1_len: layout.l1_len(),
                virtual_bytes: entry.snapshot.size_bytes,
                unix_ms: entry.committed_unix_ms,
            }))
        };
        // Its length does not depend on where things are.
        let len_bytes = table(&Places::new(layout, images.len(), 0)).len();
        let places = Places::new(layout, images.len(), len_bytes as u64);
        if places.end() > FILE_LEN_BYTES_MAX {
            return Err(Error::unsupported(format!("a qcow2 file of {} bytes", places.end())));
        }
        let tables = Tables {
            l1_offset_bytes: places.l1(older.len()),
            refcount_offset_bytes: layout.cluster_bytes(),
            refcount_clusters: 1,
            snapshots: older.len() as u32,
            snapshots_offset_bytes: if older.is_empty() { 0 } else { places.snapshots() },
        };
        let shown = Layout { virtual_bytes: image.snapshot.size_bytes, ..layout };
        let (header, snapshots) = (encode(shown, tables, None, Compression::None), table(&places));
        Ok(Self { shelf: Arc::clone(shelf), images, places, header, snapshots })
    }

    /// Length of the file.
    pub fn size_bytes(&self) -> u64 {
        self.places.end()
    }

    /// The bytes of a range that lies within the file. Errors are those of [`SnapshotReader::read`].
    pub async fn read(&self, offset_bytes: u64, len_bytes: usize) -> Result<Bytes> {
        let mut out = Vec::with_capacity(len_bytes);
        let end = offset_bytes + len_bytes as u64;
        while out.len() < len_bytes {
            let at = offset_bytes + out.len() as u64;
            let Some((part, within)) = self.places.find(at..end) else {
                return Err(Error::invalid(format!(
                    "a read at offset {at} of a file of {}",
                    self.size_bytes()
                )));
            };
            match part {
                Part::Header => out.extend(padded(&self.header, &within)),
                Part::Refcounts => out.extend(padded(&[], &within)),
                Part::Snapshots => out.extend(padded(&self.snapshots, &within)),
                Part::L1 { image } => {
                    let entries = self.places.l1_entries(image, &within);
                    out.extend(entries.skip((within.start % ENTRY_LEN_BYTES) as usize).take(len(&within)));
                }
                Part::L2 { image, table } => {
                    let entries = self.l2(image, table).await?;
                    out.extend(padded(&entries, &within));
                }
                Part::Content { image } => out.extend(self.content(image, within).await?),
            }
        }
        Ok(Bytes::from(out))
    }

    fn reader(&self, image: usize) -> Result<Arc<SnapshotReader>> {
        let entry = self.images.get(image).ok_or_else(|| Error::internal("no such image"))?;
        self.shelf.open(entry)
    }

    /// Bytes of a volume, and zeros beyond its end.
    async fn content(&self, image: usize, within: Range<u64>) -> Result<Vec<u8>> {
        let reader = self.reader(image)?;
        let size_bytes = reader.size_bytes();
        let there = within.start.min(size_bytes)..within.end.min(size_bytes);
        let mut out = reader.read(there.start, len(&there)).await?.to_vec();
        out.resize(len(&within), 0);
        Ok(out)
    }

    /// An L2 table: where each cluster's content is.
    async fn l2(&self, image: usize, table: u64) -> Result<Vec<u8>> {
        let (layout, first) = (self.places.layout, table * self.places.layout.l2_bytes());
        let end = first.saturating_add(layout.l2_bytes()).min(self.places.region_bytes);
        let mut older = Vec::with_capacity(image);
        for at in 0..image {
            older.push(self.reader(at)?.held(first..end).await?);
        }
        let held = self.reader(image)?.held(first..end).await?;
        let chunk_size_bytes = u64::from(self.shelf.project().chunk_size_bytes());
        let mut out = Vec::with_capacity(layout.cluster_bytes() as usize);
        for offset_bytes in (first..end).step_by(layout.cluster_bytes() as usize) {
            let chunk = (offset_bytes / chunk_size_bytes - first / chunk_size_bytes) as usize;
            let earlier = || older.iter().map(|held| held.get(chunk).copied().flatten());
            let entry = match held.get(chunk).copied().flatten() {
                // What was there before must be said to be gone.
                None if earlier().any(|held| held.is_some()) => ZERO,
                None => 0,
                same => {
                    let found = earlier().position(|held| held == same).unwrap_or(image);
                    self.places.content(found) + offset_bytes
                }
            };
            out.extend(entry.to_be_bytes());
        }
        Ok(out)
    }
}

/// Whether a qcow2 file can be a snapshot's image.
pub fn holds(image: &SnapshotEntry) -> bool {
    image.snapshot.size_bytes.is_multiple_of(crate::qcow2::SECTOR_BYTES)
}

/// Names for older snapshots, oldest first: those that they had, unless cuttle made them for itself.
pub fn snapshot_names(older: &[SnapshotEntry]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(older.len());
    for entry in older {
        let sequence = entry.snapshot.sequence.0;
        let own = entry.snapshot.point.as_ref().filter(|p| !p.own && !p.name.starts_with(OWN_PREFIX));
        let name = own.map_or_else(|| format!("backup-{sequence}"), |point| point.name.clone());
        names.push(if names.contains(&name) { format!("{name}-{sequence}") } else { name });
    }
    names
}

/// A range of what is followed by zeros.
fn padded(bytes: &[u8], within: &Range<u64>) -> Vec<u8> {
    let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    let mut out = bytes.get(cut(within.start)..cut(within.end)).unwrap_or_default().to_vec();
    out.resize(len(within), 0);
    out
}

fn len(range: &Range<u64>) -> usize {
    (range.end - range.start) as usize
}

/// Where the parts of a file are.
#[derive(Debug, Clone, Copy)]
struct Places {
    /// Of the largest image.
    layout: Layout,
    images: u64,
    snapshots_clusters: u64,
    l1_clusters: u64,
    region_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    Refcounts,
    Snapshots,
    L1 { image: usize },
    L2 { image: usize, table: u64 },
    Content { image: usize },
}

impl Places {
    fn new(layout: Layout, images: usize, snapshots_len_bytes: u64) -> Self {
        let cluster_bytes = layout.cluster_bytes();
        Self {
            layout,
            images: images as u64,
            snapshots_clusters: snapshots_len_bytes.div_ceil(cluster_bytes),
            l1_clusters: (layout.l1_len() * ENTRY_LEN_BYTES).div_ceil(cluster_bytes).max(1),
            region_bytes: layout.virtual_bytes.next_multiple_of(cluster_bytes),
        }
    }

    fn snapshots(&self) -> u64 {
        2 * self.layout.cluster_bytes()
    }

    fn l1(&self, image: usize) -> u64 {
        self.snapshots()
            + (self.snapshots_clusters + image as u64 * self.l1_clusters) * self.layout.cluster_bytes()
    }

    fn l2(&self, image: usize, table: u64) -> u64 {
        let tables = image as u64 * self.layout.l1_len() + table;
        self.l1(self.images as usize) + tables * self.layout.cluster_bytes()
    }

    fn content(&self, image: usize) -> u64 {
        self.l2(self.images as usize, 0).saturating_add(self.region_bytes.saturating_mul(image as u64))
    }

    fn end(&self) -> u64 {
        self.content(self.images as usize)
    }

    /// The part that a range begins in, and which of its bytes; `None` beyond the end.
    fn find(&self, range: Range<u64>) -> Option<(Part, Range<u64>)> {
        let (at, cluster_bytes) = (range.start, self.layout.cluster_bytes());
        let (part, begin, len_bytes) = if at < cluster_bytes {
            (Part::Header, 0, cluster_bytes)
        } else if at < self.snapshots() {
            (Part::Refcounts, cluster_bytes, cluster_bytes)
        } else if at < self.l1(0) {
            (Part::Snapshots, self.snapshots(), self.l1(0) - self.snapshots())
        } else if at < self.l2(0, 0) {
            let len_bytes = self.l1_clusters * cluster_bytes;
            let image = ((at - self.l1(0)) / len_bytes) as usize;
            (Part::L1 { image }, self.l1(image), len_bytes)
        } else if at < self.content(0) {
            let number = (at - self.l2(0, 0)) / cluster_bytes;
            let (image, table) = (number / self.layout.l1_len(), number % self.layout.l1_len());
            (Part::L2 { image: image as usize, table }, self.l2(image as usize, table), cluster_bytes)
        } else if at < self.end() {
            let image = ((at - self.content(0)) / self.region_bytes) as usize;
            (Part::Content { image }, self.content(image), self.region_bytes)
        } else {
            return None;
        };
        Some((part, at - begin..range.end.min(begin + len_bytes) - begin))
    }

    /// The entries of an L1 table, from the one that a range begins in: every L2 table is there.
    fn l1_entries(self, image: usize, within: &Range<u64>) -> impl Iterator<Item = u8> {
        let first = within.start / ENTRY_LEN_BYTES;
        (first..).flat_map(move |table| {
            let there = table < self.layout.l1_len();
            let entry = if there { self.l2(image, table) } else { 0 };
            entry.to_be_bytes()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, Places};
    use crate::qcow2::Layout;

    #[test]
    fn every_byte_has_its_place() {
        for (size, chunk, images, table) in
            [(1 << 20, 4096, 1, 0), (40 << 20, 4096, 3, 300), (5 << 20, 65536, 2, 70_000), (512, 4096, 1, 0)]
        {
            let layout = Layout::new(size, chunk).expect("a layout");
            let places = Places::new(layout, images, table);
            let (mut at, mut parts) = (0, Vec::new());
            while at < places.end() {
                let (part, within) = places.find(at..u64::MAX >> 1).expect("a part");
                assert!(within.start == 0 && within.end > 0, "{part:?} begins at {at}");
                let begin = match part {
                    Part::Header => 0,
                    Part::Refcounts => layout.cluster_bytes(),
                    Part::Snapshots => places.snapshots(),
                    Part::L1 { image } => places.l1(image),
                    Part::L2 { image, table } => places.l2(image, table),
                    Part::Content { image } => places.content(image),
                };
                assert_eq!(begin, at, "{part:?}");
                assert!(at.is_multiple_of(layout.cluster_bytes()));
                // From within it is the same part.
                assert_eq!(places.find(at + 7..at + 9), Some((part, 7..9)));
                parts.push(part);
                at += within.end;
            }
            assert_eq!(at, places.end());
            assert_eq!(places.find(at..at + 1), None);
            assert_eq!(parts.len() as u64, 2 + u64::from(table > 0) + images as u64 * (2 + layout.l1_len()));
        }
    }
}
