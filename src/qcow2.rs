//! What is the same in every qcow2 file that is written or served: how a volume is laid out, its first cluster, and the table of
//! its snapshots (QEMU's `docs/interop/qcow2.rst`, "Header", "Header extensions", "Snapshots").
//!
//! All numbers are big-endian. Version 3, with the compression type that incompatible feature bit 3 announces:
//!
//! | offset | size | meaning | here |
//! |---|---|---|---|
//! | 0 | 4 | magic | `QFI\xfb` |
//! | 4 | 4 | version | 3 |
//! | 8 | 8 | offset of the backing file's name | behind the extensions, or 0 |
//! | 16 | 4 | its length | at most [`BACKING_NAME_LEN_MAX`] |
//! | 20 | 4 | cluster bits | 12 to 21 |
//! | 24 | 8 | virtual size, bytes | a multiple of 512 |
//! | 32 | 4 | encryption | 0 |
//! | 36 | 4 | entries of the L1 table | at most [`L1_LEN_MAX`] |
//! | 40 | 8 | its offset | a whole cluster |
//! | 48 | 8 | offset of the refcount table | a whole cluster |
//! | 56 | 4 | its clusters | |
//! | 60 | 4 | internal snapshots | |
//! | 64 | 8 | offset of their table | a whole cluster, or 0 |
//! | 72 | 8 | incompatible features | bit 3, or none where nothing is compressed |
//! | 80 | 16 | compatible and autoclear features | 0 |
//! | 96 | 4 | refcount order | 4: 16 bits |
//! | 100 | 4 | header length | 112 |
//! | 104 | 1 | compression type | 1: zstd, or 0 |

use crate::error::{Error, Result};

/// What every qcow2 file begins with.
pub(crate) const MAGIC: &[u8; 4] = b"QFI\xfb";
/// Longest name of a backing file.
pub(crate) const BACKING_NAME_LEN_MAX: usize = 1023;
/// Most entries of an L1 table: 32 MiB of them, QEMU's own limit (`QCOW_MAX_L1_SIZE`).
pub(crate) const L1_LEN_MAX: u64 = 4 << 20;
/// Sizes are counted in these.
pub(crate) const SECTOR_BYTES: u64 = 512;
const HEADER_LEN_BYTES: u32 = 112;
/// An L1 or L2 entry whose cluster is used once.
pub(crate) const COPIED: u64 = 1 << 63;
/// An L2 entry that reads as zeros, whatever a backing file holds.
pub(crate) const ZERO: u64 = 1;
const COMPRESSION_TYPE_BIT: u64 = 1 << 3;
const ZSTD: u8 = 1;
const REFCOUNT_ORDER: u32 = 4;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// 64 KiB, what QEMU makes by default: of a larger one more is decompressed for a small read.
const CLUSTER_BITS_DEFAULT: u32 = 16;
/// 2 MiB, QEMU's limit.
const CLUSTER_BITS_MAX: u32 = 21;

/// How a volume is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) cluster_bits: u32,
    /// A multiple of [`SECTOR_BYTES`].
    pub(crate) virtual_bytes: u64,
}

impl Layout {
    /// Clusters are never larger than chunks, so that an overlay's cluster is changed as a whole, and otherwise as small
    /// as the L1 table permits, from 64 KiB on.
    pub(crate) fn new(size_bytes: u64, chunk_size_bytes: u32) -> Result<Self> {
        let virtual_bytes = size_bytes.checked_next_multiple_of(SECTOR_BYTES).unwrap_or(size_bytes);
        let chunk_bits = chunk_size_bytes.ilog2();
        let mut layout = Self { cluster_bits: CLUSTER_BITS_DEFAULT.min(chunk_bits), virtual_bytes };
        while layout.l1_len() > L1_LEN_MAX {
            if layout.cluster_bits >= CLUSTER_BITS_MAX.min(chunk_bits) {
                return Err(Error::unsupported(format!(
                    "a volume of {size_bytes} bytes with clusters of {} bytes: a qcow2 file holds at most {}",
                    layout.cluster_bytes(),
                    L1_LEN_MAX * layout.l2_bytes()
                ))
                .help("Export it as raw, or serve it."));
            }
            layout.cluster_bits += 1;
        }
        Ok(layout)
    }

    pub(crate) fn cluster_bytes(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of an L2 table, each of 8 bytes: it is one cluster.
    pub(crate) fn l2_len(self) -> u64 {
        self.cluster_bytes() / 8
    }

    /// What one L2 table maps.
    pub(crate) fn l2_bytes(self) -> u64 {
        self.l2_len() * self.cluster_bytes()
    }

    pub(crate) fn l1_len(self) -> u64 {
        self.virtual_bytes.div_ceil(self.l2_bytes())
    }
}

/// Whether clusters may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Zstd,
}

/// Another file that holds what this one does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backing {
    /// As the file shall name it.
    pub name: String,
    pub is_qcow2: bool,
}

/// Where the tables are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tables {
    pub(crate) l1_offset_bytes: u64,
    pub(crate) refcount_offset_bytes: u64,
    pub(crate) refcount_clusters: u32,
    /// Internal snapshots, and where their table is.
    pub(crate) snapshots: u32,
    pub(crate) snapshots_offset_bytes: u64,
}

/// The header with its extensions and the backing file's name; shorter than the smallest cluster.
pub(crate) fn encode(
    layout: Layout,
    tables: Tables,
    backing: Option<&Backing>,
    compression: Compression,
) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(backing) = backing {
        let format: &[u8] = if backing.is_qcow2 { b"qcow2" } else { b"raw" };
        extensions.extend(EXTENSION_BACKING_FORMAT.to_be_bytes());
        extensions.extend((format.len() as u32).to_be_bytes());
        extensions.extend(format);
        // Padded to 8 bytes.
        extensions.resize(extensions.len().next_multiple_of(8), 0);
    }
    extensions.extend([0; 8]);
    let name = backing.map_or(&[][..], |backing| backing.name.as_bytes());
    let name_offset = match name.len() {
        0 => 0,
        _ => u64::from(HEADER_LEN_BYTES) + extensions.len() as u64,
    };
    let mut out = MAGIC.to_vec();
    out.extend(3_u32.to_be_bytes());
    out.extend(name_offset.to_be_bytes());
    out.extend((name.len() as u32).to_be_bytes());
    out.extend(layout.cluster_bits.to_be_bytes());
    out.extend(layout.virtual_bytes.to_be_bytes());
    out.extend([0; 4]);
    out.extend((layout.l1_len() as u32).to_be_bytes());
    out.extend(tables.l1_offset_bytes.to_be_bytes());
    out.extend(tables.refcount_offset_bytes.to_be_bytes());
    out.extend(tables.refcount_clusters.to_be_bytes());
    out.extend(tables.snapshots.to_be_bytes());
    out.extend(tables.snapshots_offset_bytes.to_be_bytes());
    let (features, compression_type) = match compression {
        Compression::None => (0, 0),
        Compression::Zstd => (COMPRESSION_TYPE_BIT, ZSTD),
    };
    out.extend(features.to_be_bytes());
    out.extend([0; 16]);
    out.extend(REFCOUNT_ORDER.to_be_bytes());
    out.extend(HEADER_LEN_BYTES.to_be_bytes());
    out.extend([compression_type, 0, 0, 0, 0, 0, 0, 0]);
    out.extend(extensions);
    out.extend(name);
    out
}

/// An internal snapshot.
pub(crate) struct Internal<'a> {
    pub(crate) name: &'a str,
    pub(crate) l1_offset_bytes: u64,
    pub(crate) l1_len: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) unix_ms: u64,
}

/// The table of a file's snapshots: of each an entry of 40 bytes, 24 more, its number and its name, padded to 8 bytes.
pub(crate) fn snapshot_table<'a>(snapshots: impl Iterator<Item = Internal<'a>>) -> Vec<u8> {
    const EXTRA_LEN_BYTES: u32 = 24;
    let mut out = Vec::new();
    for (number, snapshot) in (1_u32..).zip(snapshots) {
        let number = number.to_string();
        out.extend(snapshot.l1_offset_bytes.to_be_bytes());
        out.extend((snapshot.l1_len as u32).to_be_bytes());
        out.extend((number.len() as u16).to_be_bytes());
        out.extend((snapshot.name.len() as u16).to_be_bytes());
        out.extend(((snapshot.unix_ms / 1000) as u32).to_be_bytes());
        // Nanoseconds, and the virtual machine's clock and state: there are none.
        out.extend([0; 16]);
        out.extend(EXTRA_LEN_BYTES.to_be_bytes());
        out.extend([0; 8]);
        out.extend(snapshot.virtual_bytes.to_be_bytes());
        // No count of instructions.
        out.extend(u64::MAX.to_be_bytes());
        out.extend(number.as_bytes());
        out.extend(snapshot.name.as_bytes());
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Backing, Compression, Layout, Tables, encode};

    #[test]
    fn clusters_fit_chunks_and_tables() {
        for (size, chunk, bits) in [
            (0, 4 << 20, 16),
            (1 << 40, 4 << 20, 16),
            (2 << 50, 4 << 20, 16),
            (4 << 50, 4 << 20, 17),
            (1 << 30, 4096, 12),
            (8 << 40, 4096, 12),
        ] {
            let layout = Layout::new(size, chunk).expect("fits");
            assert_eq!(layout.cluster_bits, bits, "{size}");
        }
        assert!(Layout::new((8 << 40) + 1, 4096).is_err());
        assert_eq!(Layout::new(1001, 4096).expect("fits").virtual_bytes, 1024);
    }

    #[test]
    fn the_longest_header_fits_the_smallest_cluster() {
        let backing = Backing { name: "x".repeat(super::BACKING_NAME_LEN_MAX), is_qcow2: true };
        let tables = Tables { refcount_clusters: 1, ..Tables::default() };
        let layout = Layout::new(1 << 20, 4096).expect("fits");
        let header = encode(layout, tables, Some(&backing), Compression::Zstd);
        assert!(header.len() <= 4096);
        assert_eq!(&header[100..104], 112_u32.to_be_bytes(), "the header says its length");
    }
}
