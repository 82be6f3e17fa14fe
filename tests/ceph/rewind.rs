//! Rewinding a real image that still has the snapshot of a backup: what changed since is read, what differs is fetched, and
//! what comes back is what Ceph's own `rbd export` says.

use crate::support::Numbers;
use crate::support::ceph::Ceph;
use crate::support::program::Cuttle;
use cuttle::rbd::Access;
use serde_json::Value;

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 4 * MIB;
const SIZE: u64 = 64 << 30;

/// Writes so many whole chunks somewhere; where.
fn scatter(ceph: &Ceph, image: &str, numbers: &mut Numbers, chunks: u64) {
    for _ in 0..chunks {
        let at = numbers.below(SIZE / CHUNK) * CHUNK;
        ceph.write(image, at, &numbers.bytes(CHUNK as usize));
    }
}

/// The content of a large, thin image: a hash over all pages that are not zero, where `rbd diff` says that there is data.
fn digest(ceph: &Ceph, image: &str) -> blake3::Hash {
    let reader = ceph.open(&ceph.spec(image), Access::ReadOnly).expect("open");
    let mut hasher = blake3::Hasher::new();
    hasher.update(&reader.size_bytes().expect("its size").to_le_bytes());
    for extent in ceph.diff(&["--whole-object", image]) {
        let mut data = vec![0; extent.length_bytes as usize];
        reader.read_at(extent.offset_bytes, &mut data).expect("read");
        for (at, page) in (extent.offset_bytes..).step_by(4096).zip(data.chunks(4096)) {
            if page.iter().any(|byte| *byte != 0) {
                hasher.update(&at.to_le_bytes()).update(page);
            }
        }
    }
    hasher.finalize()
}

fn restore(cuttle: &Cuttle, args: &[&str]) -> Value {
    cuttle.json(&[&["restore"], args].concat()).pop().expect("a summary")
}

fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"))
}

#[test]
fn a_large_image_goes_back_by_what_changed() {
    let Some(ceph) = Ceph::first() else { return };
    let (cuttle, image, target) = (Cuttle::in_folder(), "rbd/rewind", "rbd:rbd/rewind");
    let conf = ["--conf", &*ceph.conf];
    ceph.purge(image);
    ceph.create(image, SIZE, &[]);
    let mut numbers = Numbers::new(64);
    scatter(&ceph, image, &mut numbers, 40);
    cuttle.backup(&[&[target], &conf[..]].concat());
    let first = digest(&ceph, image);
    scatter(&ceph, image, &mut numbers, 12);
    ceph.discard(image, &[(0, 2 << 30)]);
    cuttle.backup(&[&[target], &conf[..]].concat());
    // What nobody backed up.
    scatter(&ceph, image, &mut numbers, 12);
    ceph.write(image, SIZE - 4096, &[9; 4096]);
    assert!(digest(&ceph, image) != first);

    let args = [&["rbd/rewind@1", target, "--overwrite"], &conf[..]].concat();
    let plan = restore(&cuttle, &[&["-n"], &args[..]].concat());
    let report = restore(&cuttle, &args);
    assert!(digest(&ceph, image) == first, "byte-identical: {report}");
    assert_eq!(plan["fetch"], report["fetch"]);
    assert_eq!(report["rewound_from"], 2, "the newest backup: {report}");
    // Twelve chunks and one page since the newest backup; its sample is of a few chunks.
    let read = number(&report, "target_read_bytes");
    assert!(read <= (13 + 16) * CHUNK, "{read} bytes of {SIZE} were read");
    let changed = 26 * CHUNK + (2 << 30) / 1000;
    let fetched = report["fetch"]["bytes"].as_u64().expect("a number");
    assert!(fetched <= changed, "{fetched} bytes were written, {changed} at most had changed");
    assert!(number(&report, "downloaded_bytes") <= changed + MIB, "{report}");

    ceph.purge(image);
}

fn resize(ceph: &Ceph, image: &str, size_mib: u64) {
    let image = ceph.open(&ceph.spec(image), Access::ReadWrite).expect("open");
    image.resize(size_mib * MIB).expect("resize");
}

/// Resizes, and an image that was deleted and made anew under the same name.
#[test]
fn a_rewind_minds_sizes_and_which_image_it_is() {
    let Some(ceph) = Ceph::first() else { return };
    let (cuttle, image, target) = (Cuttle::in_folder(), "rbd/rewind-sizes", "rbd:rbd/rewind-sizes");
    let conf = ["--conf", &*ceph.conf];
    let back_up = || drop(cuttle.backup(&[&[target, "--accept-new-identity"], &conf[..]].concat()));
    let mut numbers = Numbers::new(65);
    for (round, sizes_mib) in [[33, 21, 40], [21, 33, 10], [40, 40, 21]].into_iter().enumerate() {
        ceph.purge(image);
        ceph.create(image, sizes_mib[0] * MIB, &[]);
        let mut nights = Vec::new();
        for size_mib in sizes_mib {
            resize(&ceph, image, size_mib);
            for _ in 0..3 {
                let at = numbers.below(size_mib * MIB - 100_000);
                ceph.write(image, at, &numbers.bytes(100_000));
            }
            back_up();
            nights.push(ceph.export(image));
        }
        resize(&ceph, image, 17);
        ceph.write(image, 16 * MIB, &[3; 5000]);
        for (night, expected) in nights.iter().enumerate() {
            let snapshot = format!("rbd/rewind-sizes@{}", 3 * round + night + 1);
            let args = [&*snapshot, target, "--overwrite", "--verify"];
            let report = restore(&cuttle, &[&args, &conf[..]].concat());
            assert_eq!(report["rewound_from"], 3 * round + 3, "{report}");
            assert_eq!(number(&report, "verified_bytes"), expected.len() as u64, "all of it");
            assert!(ceph.export(image) == *expected, "round {round}, night {night}");
        }
    }
    ceph.purge(image);
    ceph.create(image, 33 * MIB, &[]);
    let report = restore(&cuttle, &[&["rbd/rewind-sizes@1", target, "--overwrite"], &conf[..]].concat());
    let why = report["not_rewound_because"].as_str().expect("a reason");
    assert!(why.contains("no snapshot that a backup of this volume was made from"), "{why}");
    assert_eq!(number(&report, "target_read_bytes"), 33 * MIB);
    ceph.purge(image);
}
