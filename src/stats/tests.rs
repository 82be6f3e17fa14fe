use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::format::names::ContentName;
use crate::progress::Silent;
use crate::repo::manifest::Manifest;
use crate::repo::notes::Noted;
use crate::testing::{Bench, CHUNK, Numbers};
use crate::units::ChunkIndex;

const C: u64 = CHUNK as u64;

async fn stats(bench: &Bench, volumes: &[&str], snapshots: bool) -> StatsReport {
    let volumes = volumes.iter().map(|v| v.parse().expect("a name")).collect();
    let options = StatsOptions { volumes, snapshots };
    run(&bench.project, &options, Arc::new(Silent), Cancel::never()).await.expect("counted")
}

/// What a snapshot needs, found without any of the shortcuts.
#[derive(Default, Clone)]
struct Needs {
    logical_bytes: u64,
    allocated_bytes: u64,
    pages: BTreeMap<ContentName, u64>,
    objects: BTreeMap<ContentName, u64>,
    /// Chunks by their lengths, and whether they are deltas.
    chunks: BTreeMap<ContentName, (u64, bool)>,
}

impl Needs {
    async fn of(project: &Project, entry: &SnapshotEntry) -> Self {
        let manifest = Manifest::of(project, &entry.snapshot).expect("a manifest");
        let geometry = manifest.geometry();
        let mut needs = Self { logical_bytes: geometry.size_bytes, ..Self::default() };
        for leaf in 0..manifest.leaf_count() {
            for level in 0..manifest.root().level {
                let page = manifest.page_ref(level, leaf / 1024u64.pow(level.into())).await.expect("a page");
                needs.pages.extend(page.objects().map(|o| (o.name, o.sealed_len_bytes.into())));
            }
            for (at, chunk) in manifest.leaf(leaf).await.expect("a leaf").refs.iter().enumerate() {
                let len = u64::from(geometry.chunk_len_bytes(ChunkIndex(leaf * 1024 + at as u64)));
                needs.objects.extend(chunk.objects().map(|o| (o.name, u64::from(o.sealed_len_bytes))));
                if let PageRef::Stored { object, closure, .. } = chunk {
                    needs.allocated_bytes += len;
                    needs.chunks.insert(object.name, (len, !closure.is_empty()));
                }
            }
        }
        needs
    }

    fn add(&mut self, other: &Self) {
        self.logical_bytes += other.logical_bytes;
        self.allocated_bytes += other.allocated_bytes;
        self.pages.extend(&other.pages);
        self.objects.extend(&other.objects);
        self.chunks.extend(&other.chunks);
    }

    fn without(&self, others: &Self) -> u64 {
        let pages = self.pages.iter().filter(|(name, _)| !others.pages.contains_key(name));
        let objects = self.objects.iter().filter(|(name, _)| !others.objects.contains_key(name));
        pages.chain(objects).map(|(_, len)| len).sum()
    }

    fn check(&self, found: &Usage, context: &str) {
        let sum = |all: &BTreeMap<ContentName, u64>| all.values().sum::<u64>();
        let deltas = self.chunks.iter().filter(|(_, (_, delta))| *delta);
        let delta_stored = deltas.clone().map(|(name, _)| self.objects[name]).sum::<u64>();
        let bases: BTreeSet<_> = self.objects.keys().filter(|name| !self.chunks.contains_key(name)).collect();
        let expected = [
            ("logical", self.logical_bytes, found.logical_bytes),
            ("allocated", self.allocated_bytes, found.allocated_bytes),
            ("chunks", self.chunks.len() as u64, found.chunks),
            ("unique", self.chunks.values().map(|(len, _)| len).sum(), found.unique_bytes),
            ("stored", sum(&self.pages) + sum(&self.objects), found.stored_bytes),
            ("pages", self.pages.len() as u64, found.pages),
            ("page bytes", sum(&self.pages), found.page_bytes),
            ("deltas", deltas.clone().count() as u64, found.deltas),
            ("deltas' plaintext", deltas.map(|(_, (len, _))| len).sum(), found.delta_bytes),
            ("deltas stored", delta_stored, found.delta_stored_bytes),
            ("bases", bases.len() as u64, found.bases),
            ("bases stored", bases.iter().map(|name| self.objects[name]).sum(), found.base_stored_bytes),
            ("one in", 1, found.one_in),
        ];
        for (what, expected, found) in expected {
            assert_eq!(expected, found, "{context}: {what}");
        }
    }
}

/// A few contents, some of them also as deltas against one that may be nobody's own chunk.
async fn chunks(bench: &Bench, numbers: &mut Numbers) -> Vec<PageRef> {
    let base_plain = numbers.text(CHUNK as usize);
    let base = bench.chunk(&base_plain).await;
    let mut all = vec![PageRef::Zero];
    for n in 0..12 {
        let mut plain = base_plain.clone();
        plain[n] ^= 0x80;
        all.push(match n % 3 {
            0 => bench.delta(&plain, &base, &base_plain, 7).await,
            _ => bench.chunk(&numbers.text(CHUNK as usize)).await,
        });
    }
    all
}

/// Volumes of some leaves, of which most are shared between snapshots and some between volumes.
async fn history(bench: &Bench, seed: u64) {
    let mut numbers = Numbers::new(seed);
    let pool = chunks(bench, &mut numbers).await;
    let (mut leaves, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let few: Vec<(u64, PageRef)> =
            (0..5).map(|_| (numbers.below(1024) as u64, pool[numbers.below(pool.len())].clone())).collect();
        leaves.push(few);
    }
    for _ in 0..2 {
        plain.push(bench.chunk(&numbers.text(700)).await);
    }
    for _ in 0..7 {
        let volume = ["a", "b", "c"][numbers.below(3)];
        let count = numbers.below(4) as u64;
        let mut refs = Vec::new();
        for number in 0..count {
            let leaf = &leaves[numbers.below(leaves.len())];
            refs.extend(leaf.iter().map(|(at, chunk)| (number * 1024 + at, chunk.clone())));
        }
        // Its last chunk is a short one.
        refs.push((count * 1024, plain[numbers.below(2)].clone()));
        bench.commit_at(volume, count * 1024 * C + 700, refs).await;
    }
}

#[tokio::test]
async fn every_sum_is_what_counting_everything_gives() {
    for seed in 0..12 {
        let bench = Bench::new(seed % 2 == 0).await;
        history(&bench, seed).await;
        check_all(&bench, &format!("seed {seed}")).await;
    }
}

/// Three levels of pages, most of them zero, and one page that stands in two places.
#[tokio::test]
async fn pages_above_the_leaves_count() {
    let bench = Bench::new(true).await;
    let mut numbers = Numbers::new(1);
    let (one, two) = (bench.chunk(&numbers.text(4096)).await, bench.chunk(&numbers.text(4096)).await);
    let far = 1024 * 1024 + 5000;
    let refs = [(0, one.clone()), (2048, one.clone()), (far, two.clone())];
    bench.commit_at("v", (far + 1) * C, refs.to_vec()).await;
    let changed = [(0, one.clone()), (2048, two), (far, one)];
    bench.commit_at("v", (far + 1) * C, changed.to_vec()).await;
    check_all(&bench, "three levels").await;
}

async fn check_all(bench: &Bench, context: &str) {
    let report = stats(bench, &[], true).await;
    let catalog = bench.project.volumes().confirmed().await.expect("a catalog");
    let mut all = BTreeMap::new();
    for volume in catalog.entries() {
        for entry in bench.project.history(volume).snapshots().await.expect("a log") {
            let key = (volume.name.clone(), entry.snapshot.sequence.0);
            all.insert(key, Needs::of(&bench.project, &entry).await);
        }
    }
    let sum = |with: &dyn Fn(&(String, u32)) -> bool| {
        let mut sum = Needs::default();
        all.iter().filter(|(key, _)| with(key)).for_each(|(_, needs)| sum.add(needs));
        sum
    };
    sum(&|_| true).check(&report.total, context);
    let names: Vec<&str> = report.volumes.iter().map(|v| v.volume.as_str()).collect();
    assert!(names.is_sorted() && names.len() == catalog.entries().len(), "{context}: {names:?}");
    for volume in &report.volumes {
        let context = format!("{context}, volume {}", volume.volume);
        let needs = sum(&|(name, _)| *name == volume.volume);
        needs.check(&volume.usage, &context);
        assert_eq!(volume.usage.snapshot_count, volume.snapshots.len() as u64, "{context}");
        for snapshot in &volume.snapshots {
            let key = (volume.volume.clone(), snapshot.sequence);
            let freed = all[&key].without(&sum(&|other| *other != key));
            assert_eq!(snapshot.freed_bytes, freed, "{context}, snapshot {}", snapshot.sequence);
        }
        // One volume alone gives the same, with and without its snapshots: what it shares is known either way.
        for snapshots in [false, true] {
            let alone = stats(bench, &[&volume.volume], snapshots).await;
            needs.check(&alone.total, &context);
            assert_eq!((alone.volumes.len(), &alone.volumes[0].usage), (1, &volume.usage), "{context}");
            let freed = |s: &[SnapshotStats]| s.iter().map(|s| s.freed_bytes).collect::<Vec<_>>();
            let expected = if snapshots { freed(&volume.snapshots) } else { Vec::new() };
            assert_eq!(freed(&alone.volumes[0].snapshots), expected, "{context}");
        }
    }
}

/// What is promised to be freed is what is no longer needed once the snapshot is forgotten.
#[tokio::test]
async fn forgetting_a_snapshot_frees_what_was_said() {
    let bench = Bench::new(true).await;
    history(&bench, 99).await;
    loop {
        let before = stats(&bench, &[], true).await;
        let Some(volume) = before.volumes.iter().find(|v| !v.snapshots.is_empty()) else { break };
        let snapshot = &volume.snapshots[0];
        let entry = bench.find(&format!("{}@{}", volume.volume, snapshot.sequence)).await;
        bench.project.notes().forget(&Noted::from(&entry)).await.expect("forgotten");
        let after = stats(&bench, &[], true).await;
        assert_eq!(before.total.stored_bytes - after.total.stored_bytes, snapshot.freed_bytes);
    }
    let nothing = stats(&bench, &[], true).await.total;
    assert_eq!((nothing.stored_bytes, nothing.dedup_ratio, nothing.compression_ratio), (0, None, None));
}

#[tokio::test]
async fn a_page_is_read_once_for_a_volume() {
    let bench = Bench::new(true).await;
    let chunk = bench.chunk(&Numbers::new(5).text(4096)).await;
    for changed in 0..5 {
        let refs = vec![(0, chunk.clone()), (1024 + changed, chunk.clone()), (2048, chunk.clone())];
        bench.commit_at("v", 3072 * C, refs).await;
    }
    // The first and the last leaf are one and the same page in all snapshots, and once the second is it too.
    let report = stats(&bench, &[], true).await;
    assert_eq!((report.pages_read, report.total.pages), (5, 5));
    assert_eq!((report.total.allocated_bytes, report.total.unique_bytes), (15 * C, C));
    assert_eq!(report.total.dedup_ratio, Some(15.0));
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let bench = Bench::new(true).await;
    bench.backup("v", &[1; 4096]).await;
    let options = StatsOptions { volumes: vec!["w".parse().expect("a name")], snapshots: false };
    let error =
        run(&bench.project, &options, Arc::new(Silent), Cancel::never()).await.expect_err("no volume");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let page = bench.names("").await.into_iter().find(|n| n.contains("/pages/")).expect("a page");
    bench.delete(&page).await;
    let options = StatsOptions::default();
    let error = run(&bench.project, &options, Arc::new(Silent), Cancel::never()).await.expect_err("no page");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.help_text().is_some_and(|help| help.contains("run it again")), "{error:?}");
}
