//! Writes a qcow2 file: clusters by ascending guest offset, each L2 table when it is full, and the header last.
//!
//! In memory: the L1 table (at most 32 MiB, 1 MiB for 64 TiB of a volume with clusters of 64 KiB) and one L2 table.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::space::{Piece, Space};
use crate::error::{Error, Result};
use crate::qcow2::{Backing, COPIED, Compression, Layout, SECTOR_BYTES, Tables, ZERO, encode};
use crate::sink::partial::PartialFile;
use crate::sink::write_error;

/// An L2 entry of compressed data.
const COMPRESSED: u64 = 1 << 62;

/// What becomes of a guest cluster.
pub(super) enum Stored {
    /// Reads as zeros.
    Zero,
    Compressed(Vec<u8>),
    /// What does not get smaller: exactly a cluster.
    Plain(Vec<u8>),
}

pub(super) struct Writer {
    target: PartialFile,
    layout: Layout,
    backing: Option<Backing>,
    space: Space,
    l1: Vec<u64>,
    l2: Option<L2>,
}

/// The L2 table that is being filled.
struct L2 {
    number: u64,
    entries: Vec<u64>,
}

impl Writer {
    pub(super) fn begin(target: PartialFile, layout: Layout, backing: Option<Backing>) -> Self {
        let space = Space::new(layout.cluster_bytes());
        Self { target, layout, backing, space, l1: vec![0; layout.l1_len() as usize], l2: None }
    }

    /// Stores a guest cluster; they must come in ascending order.
    pub(super) fn put(&mut self, guest: u64, stored: Stored) -> Result<()> {
        let entry = match stored {
            // Without a backing file, what is not there reads as zeros too.
            Stored::Zero if self.backing.is_none() => return Ok(()),
            Stored::Zero => ZERO,
            Stored::Compressed(bytes) => {
                let offset_bytes = self.space.compressed(bytes.len() as u64);
                self.write(offset_bytes, &bytes)?;
                self.compressed_entry(offset_bytes, bytes.len() as u64)
            }
            Stored::Plain(bytes) => {
                let offset_bytes = self.space.clusters(1);
                self.write(offset_bytes, &bytes)?;
                offset_bytes | COPIED
            }
        };
        self.set(guest, entry)?;
        while let Some(piece) = self.space.settled() {
            self.write_piece(&piece)?;
        }
        Ok(())
    }

    /// Makes a range of guest clusters read as zeros.
    pub(super) fn zero(&mut self, guest: std::ops::Range<u64>) -> Result<()> {
        guest.into_iter().try_for_each(|cluster| self.put(cluster, Stored::Zero))
    }

    /// "Compressed Clusters Descriptor": the offset, above it how many sectors follow the one that the data begins in.
    fn compressed_entry(&self, offset_bytes: u64, length_bytes: u64) -> u64 {
        let first = offset_bytes / SECTOR_BYTES;
        let last = (offset_bytes + length_bytes - 1) / SECTOR_BYTES;
        let shift = 62 - (self.layout.cluster_bits - 8);
        COMPRESSED | (last - first) << shift | offset_bytes
    }

    fn set(&mut self, guest: u64, entry: u64) -> Result<()> {
        let (number, at) = (guest / self.layout.l2_len(), (guest % self.layout.l2_len()) as usize);
        if self.l2.as_ref().is_some_and(|l2| l2.number != number) {
            self.write_l2()?;
        }
        let len = self.layout.l2_len() as usize;
        let l2 = self.l2.get_or_insert_with(|| L2 { number, entries: vec![0; len] });
        match l2.entries.get_mut(at) {
            Some(slot) if number >= l2.number => *slot = entry,
            _ => return Err(Error::internal(format!("cluster {guest} comes too late"))),
        }
        Ok(())
    }

    fn write_l2(&mut self) -> Result<()> {
        let Some(l2) = self.l2.take() else { return Ok(()) };
        let offset_bytes = self.space.clusters(1);
        self.write(offset_bytes, &big_endian(&l2.entries))?;
        match self.l1.get_mut(l2.number as usize) {
            Some(slot) if *slot == 0 => *slot = offset_bytes | COPIED,
            _ => {
                return Err(Error::internal(format!(
                    "table {} is written twice or beyond the end",
                    l2.number
                )));
            }
        }
        Ok(())
    }

    /// Writes what is left, the header last, and gives the file its name.
    pub(super) fn finish(mut self) -> Result<()> {
        self.write_l2()?;
        let l1 = big_endian(&self.l1);
        let l1_clusters = (l1.len() as u64).div_ceil(self.layout.cluster_bytes()).max(1);
        let l1_offset_bytes = self.space.clusters(l1_clusters);
        self.write(l1_offset_bytes, &l1)?;
        let space = std::mem::replace(&mut self.space, Space::new(self.layout.cluster_bytes()));
        let (pieces, end_bytes) = space.finish();
        pieces.iter().try_for_each(|piece| self.write_piece(piece))?;
        let table = pieces.last().ok_or_else(|| Error::internal("no table of refcounts"))?;
        let tables = Tables {
            l1_offset_bytes,
            refcount_offset_bytes: table.offset_bytes,
            refcount_clusters: (table.bytes.len() as u64 / self.layout.cluster_bytes()) as u32,
            ..Tables::default()
        };
        self.write(0, &encode(self.layout, tables, self.backing.as_ref(), Compression::Zstd))?;
        // Whole clusters, though the last may hold less.
        self.file().set_len(end_bytes).map_err(|e| write_error("give the export its size", e))?;
        self.target.finish()
    }

    fn file(&self) -> &File {
        self.target.file()
    }

    fn write_piece(&self, piece: &Piece) -> Result<()> {
        self.write(piece.offset_bytes, &piece.bytes)
    }

    fn write(&self, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
        self.file().write_all_at(bytes, offset_bytes).map_err(|e| {
            write_error(&format!("write {} bytes at offset {offset_bytes} of the export", bytes.len()), e)
        })
    }
}

pub(super) fn big_endian(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}
