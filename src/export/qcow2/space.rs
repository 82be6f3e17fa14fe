//! Which clusters of the file are used, and how often: refcounts of 16 bits, written out as soon as they are final.
//!
//! Clusters are given out in ascending order, so only the newest block of refcounts is in memory, and 8 bytes for each
//! block that was written: one block stands for 2 GiB of a file with clusters of 64 KiB.

use std::collections::BTreeMap;

use crate::qcow2::SECTOR_BYTES;

/// Given-out clusters.
pub(super) struct Space {
    cluster_bytes: u64,
    next_cluster: u64,
    /// Where the next compressed data may begin, behind the last.
    compressed_end: Option<u64>,
    blocks: BTreeMap<u64, Vec<u16>>,
    /// Where the blocks that were written are, by number.
    written: Vec<u64>,
}

/// Bytes for the file.
pub(super) struct Piece {
    pub(super) offset_bytes: u64,
    pub(super) bytes: Vec<u8>,
}

impl Space {
    /// The first cluster is the header's.
    pub(super) fn new(cluster_bytes: u64) -> Self {
        let (blocks, written) = (BTreeMap::new(), Vec::new());
        let mut space = Self { cluster_bytes, next_cluster: 0, compressed_end: None, blocks, written };
        space.clusters(1);
        space
    }

    /// Where the file ends.
    pub(super) fn end_bytes(&self) -> u64 {
        self.next_cluster * self.cluster_bytes
    }

    /// Gives out neighbouring clusters that are used once; where the first begins.
    pub(super) fn clusters(&mut self, count: u64) -> u64 {
        let first = self.next_cluster;
        self.next_cluster += count;
        (first..self.next_cluster).for_each(|cluster| self.count(cluster));
        first * self.cluster_bytes
    }

    /// Gives out room for compressed data, which may share clusters with other such and use several neighbours. Each
    /// sector that it touches counts as used up to its end, as QEMU reads whole sectors.
    pub(super) fn compressed(&mut self, length_bytes: u64) -> u64 {
        let fresh = self.next_cluster * self.cluster_bytes;
        let start = self.compressed_end.filter(|&end| self.may_go_on(end, length_bytes)).unwrap_or(fresh);
        let end = start + length_bytes;
        let clusters =
            start / self.cluster_bytes..end.next_multiple_of(SECTOR_BYTES).div_ceil(self.cluster_bytes);
        self.next_cluster = self.next_cluster.max(clusters.end);
        clusters.for_each(|cluster| self.count(cluster));
        self.compressed_end = Some(end);
        start
    }

    /// Whether data of this length may begin where the last ended: within a cluster that goes on, or is large enough,
    /// whose count is still in memory, and that is not shared by as many as can be counted.
    fn may_go_on(&self, end: u64, length_bytes: u64) -> bool {
        let left = end.next_multiple_of(self.cluster_bytes) - end;
        let last = end / self.cluster_bytes;
        left > 0
            && (length_bytes <= left || last + 1 == self.next_cluster)
            && self.block(last).is_some_and(|count| count < u16::MAX)
    }

    fn block(&self, cluster: u64) -> Option<u16> {
        let len = self.block_len();
        self.blocks.get(&(cluster / len))?.get((cluster % len) as usize).copied()
    }

    fn count(&mut self, cluster: u64) {
        let len = self.block_len();
        let block = self.blocks.entry(cluster / len).or_insert_with(|| vec![0; len as usize]);
        if let Some(count) = block.get_mut((cluster % len) as usize) {
            *count += 1;
        }
    }

    /// Refcounts in a block, each of 2 bytes: it is one cluster.
    fn block_len(&self) -> u64 {
        self.cluster_bytes / 2
    }

    /// A block that no more can change: clusters that are given out lie behind it.
    pub(super) fn settled(&mut self) -> Option<Piece> {
        let open = self.next_cluster / self.block_len();
        let number = self.written.len() as u64;
        (number < open).then(|| self.write(number)).flatten()
    }

    fn write(&mut self, number: u64) -> Option<Piece> {
        self.blocks.contains_key(&number).then_some(())?;
        // Its own cluster is behind all others, so it may be counted in a block of its own that comes later.
        let offset_bytes = self.clusters(1);
        let block = self.blocks.remove(&number)?;
        self.written.push(offset_bytes);
        Some(Piece { offset_bytes, bytes: block.iter().flat_map(|count| count.to_be_bytes()).collect() })
    }

    /// All blocks that are left and the table of all blocks, the last piece. Nothing may be given out after it.
    pub(super) fn finish(mut self) -> (Vec<Piece>, u64) {
        let (written, next) = (self.written.len() as u64, self.next_cluster);
        let (mut end, mut table_clusters) = (0, 0);
        let mut wanted = next;
        // The blocks and the table are themselves counted: more of them may be needed for that, and so on.
        while wanted != end {
            end = wanted;
            let blocks = end.div_ceil(self.block_len());
            table_clusters = (blocks * 8).div_ceil(self.cluster_bytes);
            wanted = next + table_clusters + (blocks - written);
        }
        let table_offset = self.clusters(table_clusters);
        let blocks = end.div_ceil(self.block_len());
        let places: Vec<u64> = (written..blocks).map(|_| self.clusters(1)).collect();
        let mut pieces = Vec::with_capacity(places.len() + 1);
        for (number, &offset_bytes) in (written..blocks).zip(&places) {
            let block = self.blocks.remove(&number).unwrap_or_default();
            let bytes = block.iter().flat_map(|count| count.to_be_bytes()).collect();
            pieces.push(Piece { offset_bytes, bytes });
        }
        let mut table: Vec<u8> = self.written.iter().chain(&places).flat_map(|at| at.to_be_bytes()).collect();
        table.resize((table_clusters * self.cluster_bytes) as usize, 0);
        pieces.push(Piece { offset_bytes: table_offset, bytes: table });
        (pieces, self.end_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};
    use proptest::test_runner::RngSeed;

    use super::{Piece, Space};

    const CLUSTER: u64 = 4096;

    fn config() -> ProptestConfig {
        ProptestConfig {
            cases: 24,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(3),
            ..ProptestConfig::default()
        }
    }

    /// How often each cluster is used, counted from what was given out.
    #[derive(Default)]
    struct Model(BTreeMap<u64, u16>);

    impl Model {
        fn add(&mut self, start: u64, end: u64) {
            for cluster in start / CLUSTER..end.div_ceil(CLUSTER) {
                *self.0.entry(cluster).or_default() += 1;
            }
        }
    }

    proptest! {
        #![proptest_config(config())]

        /// Runs of compressed data that fill clusters, and clusters of other things between them, over several blocks.
        #[test]
        fn refcounts_are_what_was_given_out(sizes in proptest::collection::vec((0_u64..12, 1_u64..4096), 2000..9000)) {
            let (mut space, mut model) = (Space::new(CLUSTER), Model::default());
            model.add(0, 1);
            let mut blocks: Vec<Piece> = Vec::new();
            let mut data_end = 0;
            for (kind, len) in sizes {
                match kind {
                    0 => {
                        let at = space.clusters(1 + len % 2);
                        model.add(at, at + (1 + len % 2) * CLUSTER);
                    }
                    _ => {
                        let at = space.compressed(len);
                        prop_assert!(at >= data_end, "compressed data never overlaps");
                        data_end = at + len;
                        model.add(at, data_end.next_multiple_of(512));
                    }
                }
                while let Some(piece) = space.settled() {
                    model.add(piece.offset_bytes, piece.offset_bytes + 1);
                    blocks.push(piece);
                }
                prop_assert!(space.blocks.len() <= 2, "only what may still change is in memory");
            }
            let (mut rest, end) = space.finish();
            let table = rest.pop().expect("a table");
            model.add(table.offset_bytes, table.offset_bytes + table.bytes.len() as u64);
            rest.iter().for_each(|piece| model.add(piece.offset_bytes, piece.offset_bytes + 1));
            blocks.extend(rest);
            prop_assert_eq!(model.0.len() as u64 * CLUSTER, end, "no cluster is lost");
            let written = |number: usize| {
                let at = table.bytes.get(number * 8..number * 8 + 8).expect("an entry");
                let at = u64::from_be_bytes(at.try_into().expect("8 bytes"));
                blocks.iter().find(|block| block.offset_bytes == at).expect("a block is where the table says")
            };
            for (&cluster, &count) in &model.0 {
                let block = written((cluster / (CLUSTER / 2)) as usize);
                let at = (cluster % (CLUSTER / 2)) as usize * 2;
                let found = u16::from_be_bytes([block.bytes[at], block.bytes[at + 1]]);
                prop_assert_eq!(found, count, "cluster {}", cluster);
            }
        }
    }

    /// What compresses to next to nothing shares a cluster with many, but never with more than can be counted.
    #[test]
    fn a_count_never_overflows() {
        let mut space = Space::new(2 << 20);
        let mut last = 0;
        for _ in 0..70_000 {
            last = space.compressed(20);
        }
        assert!(last > 2 << 20, "a fresh cluster was begun");
    }
}
