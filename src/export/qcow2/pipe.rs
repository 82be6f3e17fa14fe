//! A qcow2 file in one pass, front to back: nothing is compressed, so where everything will be shows before the first byte.
//!
//! | part | clusters |
//! |---|---|
//! | header | 1 |
//! | refcount table | 8 bytes for each block |
//! | refcount blocks | 2 bytes for each cluster of the file, all of them 1 |
//! | L1 table | 8 bytes for each L2 table |
//! | for each L2 table that maps something: the table, then its data | 1 and those of its data |
//!
//! In memory: the ranges that are written, 24 bytes for each, and the L1 table.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use super::writer::big_endian;
use crate::error::{Error, Result};
use crate::export::Exported;
use crate::export::output::Stream;
use crate::qcow2::{Backing, COPIED, Compression, Layout, Tables, ZERO, encode};
use crate::sink::{Existing, Order, Sink, check_range, write_error};
use crate::units::{Content, Extent};

/// A qcow2 file on its way through a pipe.
pub(super) struct PipeSink {
    size_bytes: u64,
    state: Mutex<Option<State>>,
}

struct State {
    stream: Stream,
    layout: Layout,
    /// What is still to come, in guest clusters; cut where L2 tables end.
    runs: VecDeque<Run>,
    /// Clusters written so far.
    written: u64,
    /// The data that the newest L2 table promises and that is still to come.
    data: VecDeque<Run>,
}

/// Guest clusters of one kind, all mapped by one L2 table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    count: u64,
    is_data: bool,
}

impl PipeSink {
    /// Writes all that comes before the first L2 table.
    pub(super) fn begin(
        stream: Stream,
        layout: Layout,
        what: &Exported,
        backing: Option<Backing>,
    ) -> Result<Self> {
        let runs: VecDeque<Run> = what.extents.iter().flat_map(|extent| runs(layout, extent)).collect();
        let (data, tables) = (VecDeque::new(), count_tables(layout, &runs));
        let content: u64 = tables + runs.iter().filter(|run| run.is_data).map(|run| run.count).sum::<u64>();
        let cluster = layout.cluster_bytes();
        let l1_clusters = (layout.l1_len() * 8).div_ceil(cluster).max(1);
        let (mut blocks, mut table_clusters) = (0, 0);
        // Refcounts are counted themselves.
        let total = loop {
            let total = 1 + table_clusters + blocks + l1_clusters + content;
            let needed = total.div_ceil(cluster / 2);
            if needed == blocks {
                break total;
            }
            (blocks, table_clusters) = (needed, (needed * 8).div_ceil(cluster));
        };
        let l1_first = 1 + table_clusters + blocks;
        let tables = Tables {
            l1_offset_bytes: l1_first * cluster,
            refcount_offset_bytes: cluster,
            refcount_clusters: table_clusters as u32,
            ..Tables::default()
        };
        let l1 = l1(layout, &runs, l1_first + l1_clusters);
        let mut state = State { stream, layout, runs, written: 0, data };
        state.clusters(&encode(layout, tables, backing.as_ref(), Compression::None))?;
        let places: Vec<u64> = (0..blocks).map(|block| (1 + table_clusters + block) * cluster).collect();
        state.clusters(&big_endian(&places))?;
        for block in 0..blocks {
            let used = (total - block * (cluster / 2)).min(cluster / 2);
            state.clusters(&1_u16.to_be_bytes().repeat(used as usize))?;
        }
        state.clusters(&big_endian(&l1))?;
        if l1.is_empty() {
            state.clusters(&[0])?;
        }
        Ok(Self { size_bytes: what.size_bytes, state: Mutex::new(Some(state)) })
    }

    fn with(&self, work: impl FnOnce(&mut State) -> Result<()>) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_mut().map_or_else(|| Err(unexpected("after the end")), work)
    }
}

impl Sink for PipeSink {
    fn order(&self) -> Order {
        Order::Ascending
    }

    fn existing(&self) -> Existing {
        Existing::Blank
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        check_range(offset_bytes, data.len() as u64, self.size_bytes)?;
        self.with(|state| state.data(offset_bytes >> state.layout.cluster_bits, data))
    }

    fn zero_at(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        // Known to the tables already.
        check_range(offset_bytes, length_bytes, self.size_bytes)
    }

    fn finish(&self) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut state = state.ok_or_else(|| unexpected("after the end"))?;
        state.tables_up_to(u64::MAX)?;
        match state.data.front() {
            Some(run) => Err(unexpected(&format!("without cluster {}", run.first))),
            None => state.stream.finish(),
        }
    }
}

impl State {
    /// Writes the data of guest clusters, which must be what comes next.
    fn data(&mut self, guest: u64, data: &[u8]) -> Result<()> {
        self.tables_up_to(guest / self.layout.l2_len())?;
        let mut left = (data.len() as u64).div_ceil(self.layout.cluster_bytes());
        let mut at = guest;
        while left > 0 {
            let run = self.data.front_mut().filter(|run| run.first == at);
            let run = run.ok_or_else(|| unexpected(&format!("at cluster {at}")))?;
            let count = run.count.min(left);
            (run.first, run.count) = (run.first + count, run.count - count);
            (at, left) = (at + count, left - count);
            if run.count == 0 {
                self.data.pop_front();
            }
        }
        self.clusters(data)
    }

    /// Writes the L2 tables up to this one, each of which is followed by its data.
    fn tables_up_to(&mut self, last: u64) -> Result<()> {
        while let Some(number) = self.runs.front().map(|run| run.first / self.layout.l2_len()) {
            if number > last {
                break;
            }
            if let Some(missing) = self.data.front() {
                return Err(unexpected(&format!("without cluster {}", missing.first)));
            }
            let (mut entries, mut next) = (vec![0; self.layout.l2_len() as usize], self.written + 1);
            while let Some(&run) = self.runs.front().filter(|run| run.first / self.layout.l2_len() == number)
            {
                self.runs.pop_front();
                let start = (run.first % self.layout.l2_len()) as usize;
                for entry in entries.iter_mut().skip(start).take(run.count as usize) {
                    *entry = if run.is_data { (next * self.layout.cluster_bytes()) | COPIED } else { ZERO };
                    next += u64::from(run.is_data);
                }
                self.data.extend(run.is_data.then_some(run));
            }
            self.clusters(&big_endian(&entries))?;
        }
        Ok(())
    }

    /// Writes whole clusters, the last filled up with zeros.
    fn clusters(&mut self, bytes: &[u8]) -> Result<()> {
        let cluster = self.layout.cluster_bytes();
        let filled = (bytes.len() as u64).next_multiple_of(cluster);
        let rest = vec![0; (filled - bytes.len() as u64) as usize];
        let written = self.stream.write_all(bytes).and_then(|()| self.stream.write_all(&rest));
        written.map_err(|e| write_error("write the export", e))?;
        self.written += filled / cluster;
        Ok(())
    }
}

/// An extent in guest clusters, cut where L2 tables end.
fn runs(layout: Layout, extent: &Extent) -> Vec<Run> {
    let (cluster, len) = (layout.cluster_bytes(), layout.l2_len());
    let mut first = extent.offset_bytes / cluster;
    let end = (extent.offset_bytes + extent.length_bytes).div_ceil(cluster);
    let mut runs = Vec::new();
    while first < end {
        let count = (len - first % len).min(end - first);
        runs.push(Run { first, count, is_data: extent.content == Content::Data });
        first += count;
    }
    runs
}

fn count_tables(layout: Layout, runs: &VecDeque<Run>) -> u64 {
    let mut numbers: Vec<u64> = runs.iter().map(|run| run.first / layout.l2_len()).collect();
    numbers.dedup();
    numbers.len() as u64
}

/// The L1 table, where the first L2 table has this cluster.
fn l1(layout: Layout, runs: &VecDeque<Run>, first_cluster: u64) -> Vec<u64> {
    let (mut l1, mut next, mut last) = (vec![0; layout.l1_len() as usize], first_cluster, None);
    for run in runs {
        let number = run.first / layout.l2_len();
        if last != Some(number) {
            last = Some(number);
            if let Some(entry) = l1.get_mut(number as usize) {
                *entry = (next * layout.cluster_bytes()) | COPIED;
            }
            next += 1;
        }
        next += if run.is_data { run.count } else { 0 };
    }
    l1
}

fn unexpected(what: &str) -> Error {
    Error::internal(format!("a qcow2 stream went on {what}: expected what the manifest said before"))
}
