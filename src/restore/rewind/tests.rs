use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::cancel::Cancel;
use crate::progress::Silent;
use crate::restore::{RestoreOptions, RestoreReport, run};
use crate::sink::{Existing, Order};
use crate::source::{Content, Extent, ReadAt};
use crate::testing::{Bench, CHUNK, MemoryReader, MemorySink, Numbers, Warnings};

const C: usize = CHUNK as usize;

/// Counts what is read.
struct Counted(Arc<dyn ReadAt>, Arc<AtomicU64>);

impl ReadAt for Counted {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<()> {
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.0.read_at(offset_bytes, buf)
    }
}

/// What tells `new` from `old`: bytes that differ as extents, and where `new` is longer.
fn since(old: &[u8], new: &[u8]) -> Since {
    let mut changes: Vec<Extent> = Vec::new();
    for (at, byte) in new.iter().enumerate() {
        if old.get(at) == Some(byte) {
            continue;
        }
        match changes.last_mut() {
            Some(last) if last.offset_bytes + last.length_bytes == at as u64 => last.length_bytes += 1,
            _ => changes.push(Extent { offset_bytes: at as u64, length_bytes: 1, content: Content::Data }),
        }
    }
    for extent in &mut changes {
        let range = extent.offset_bytes as usize..(extent.offset_bytes + extent.length_bytes) as usize;
        if new[range].iter().all(|byte| *byte == 0) {
            extent.content = Content::Zero;
        }
    }
    Since { size_bytes: new.len() as u64, changes, remark: None, check_command: None }
}

async fn rewound(
    bench: &Bench,
    wanted: &SnapshotEntry,
    target: Vec<u8>,
    rewind: Rewind,
    progress: Arc<dyn Progress>,
) -> (Vec<u8>, RestoreReport, u64) {
    let read = Arc::new(AtomicU64::new(0));
    let mut target = target;
    target.resize(wanted.snapshot.size_bytes as usize, 0);
    let data = Arc::new(Mutex::new(target));
    let reader = Counted(Arc::new(MemoryReader(Arc::clone(&data))), Arc::clone(&read));
    let mut sink = MemorySink::new(Vec::new(), Order::Any, Existing::Content(Arc::new(reader)));
    sink.data = Arc::clone(&data);
    let options = RestoreOptions { rewind: Some(rewind), ..RestoreOptions::default() };
    let sink = Arc::new(sink);
    let report =
        run(&bench.project, wanted, Arc::clone(&sink) as _, options, progress, Cancel::never()).await;
    let content = sink.content();
    (content, report.expect("restored"), read.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_rewind_from_any_backup_to_any_other_is_exact() {
    let bench = Bench::new(true).await;
    for seed in 1..=40 {
        let mut numbers = Numbers::new(seed);
        let size = numbers.below(60 * C);
        let mut nights = vec![numbers.volume(size)];
        for _ in 0..3 {
            let mut next = nights[nights.len() - 1].clone();
            numbers.edit(&mut next, 3 * C);
            nights.push(next);
        }
        let mut backups = Vec::new();
        for night in &nights {
            backups.push(bench.backup(&format!("v{seed}"), night).await);
        }
        let (base, wanted) = (numbers.below(4), numbers.below(4));
        // What the image is when it is rewound has the wanted size already: the sink gave it that.
        let mut now = nights[base].clone();
        numbers.edit(&mut now, 3 * C);
        now.resize(nights[wanted].len(), 0);
        let rewind = Rewind { base: backups[base].snapshot.clone(), since: since(&nights[base], &now) };
        let (found, ..) = rewound(&bench, &backups[wanted], now, rewind, Arc::new(Silent)).await;
        assert!(found == nights[wanted], "seed {seed}: from night {base} to {wanted}");
    }
}

#[tokio::test]
async fn only_what_changed_is_read_and_only_what_differs_is_fetched() {
    let bench = Bench::new(true).await;
    let mut numbers = Numbers::new(3);
    let mut old = numbers.text(2000 * C);
    old[700 * C..701 * C].fill(0);
    let mut newer = old.clone();
    newer[10 * C..12 * C].copy_from_slice(&numbers.text(2 * C));
    let wanted = bench.backup("v", &old).await;
    let base = bench.backup("v", &newer).await;
    let mut now = newer.clone();
    now[500 * C + 7..501 * C].copy_from_slice(&numbers.text(C - 7));
    now[700 * C + 9..700 * C + 20].fill(1);
    let rewind = Rewind { base: base.snapshot.clone(), since: since(&newer, &now) };
    let (found, report, read) = rewound(&bench, &wanted, now, rewind, Arc::new(Silent)).await;
    assert!(found == old);
    assert_eq!(report.totals.fetch.chunks, 3, "two that the nights differ in, one that was written since");
    assert_eq!(report.totals.zero.chunks, 1, "and one that was written where there was nothing");
    // Besides what was compared, the six bytes that tell whether it is a LUKS volume.
    assert_eq!(report.target_read_bytes + 6, read);
    // The two that were written since, and a sample.
    assert!(read <= 12 * C as u64 + 6, "{read} bytes were read of {}", old.len());
}

#[tokio::test]
async fn a_target_that_hides_a_change_is_found_out_and_read_whole() {
    let bench = Bench::new(true).await;
    let mut numbers = Numbers::new(4);
    let old = numbers.text(5 * C);
    let base = bench.backup("v", &old).await;
    for chunk in 0..5 {
        let mut now = old.clone();
        now[chunk * C] ^= 1;
        // It says that nothing changed.
        let rewind = Rewind { base: base.snapshot.clone(), since: since(&old, &old) };
        let warnings = Arc::new(Warnings::default());
        let (found, ..) = rewound(&bench, &base, now, rewind, Arc::clone(&warnings) as _).await;
        assert!(found == old);
        let said = warnings.0.lock().expect("not poisoned").join("\n");
        assert!(said.contains(&format!("differs at offset {}", chunk * C)), "{said}");
    }
}

#[tokio::test]
async fn pages_that_are_the_same_in_both_are_not_read() {
    const LEAF: usize = 1024 * C;
    let bench = Bench::new(true).await;
    let mut numbers = Numbers::new(5);
    let mut old = vec![0; 30 * LEAF];
    for leaf in 0..30 {
        old[leaf * LEAF..leaf * LEAF + C].copy_from_slice(&numbers.text(C));
    }
    let mut newer = old.clone();
    newer[7 * LEAF..7 * LEAF + C].copy_from_slice(&numbers.text(C));
    let wanted = bench.backup("v", &old).await;
    let base = bench.backup("v", &newer).await;
    let mut now = newer.clone();
    now[21 * LEAF + 5] ^= 1;
    let changes = vec![Extent { offset_bytes: 21 * LEAF as u64, length_bytes: 6, content: Content::Data }];
    let since = Since { size_bytes: now.len() as u64, changes, remark: None, check_command: None };
    let rewind = Rewind { base: base.snapshot.clone(), since };
    let (found, report, _) = rewound(&bench, &wanted, now, rewind, Arc::new(Silent)).await;
    assert!(found == old);
    assert_eq!(report.totals.fetch.chunks, 2);
    // Two chunks, the roots, the leaves in which the backups differ or that were written to since, and those of a sample of 8.
    assert!(report.ledger.get_requests <= 2 + 2 + 2 * 2 + 8, "{:?}", report.ledger);
}
