//! RBD images as sources, on a real cluster. The truth is what Ceph's own `rbd export` and `rbd diff` say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::Numbers;
use crate::support::ceph::{Ceph, OWN, apply, read_all, request};
use cuttle::rbd::diff::judge::{History, Verdict};
use cuttle::rbd::diff::{Comparison, DiffRange, End};
use cuttle::rbd::{Access, CephConfig, Cluster, RbdSpec, flags};
use cuttle::source::{Changes, Content, Extent, Volume};
use cuttle::volume::Identity;
use cuttle::{Error, ErrorKind};

const MIB: u64 = 1 << 20;

/// Changes an image as guests and operators do: writes, zeroes, discards, resizes, snapshots in between.
fn stir(ceph: &Ceph, path: &str, numbers: &mut Numbers, round: u64) {
    for step in 0..6 {
        let image = ceph.open(&ceph.spec(path), Access::ReadWrite).unwrap();
        let size = image.size_bytes().unwrap();
        let offset = numbers.below(size);
        let length = (1 + numbers.below(3 * MIB)).min(size - offset);
        match numbers.below(12) {
            0..=4 => image.write_at(offset, &numbers.bytes(length.min(300_000) as usize)).unwrap(),
            5..=6 => image.zero_at(offset, length).unwrap(),
            7..=8 => {
                drop(image);
                ceph.discard(path, &[(offset, length)]);
            }
            9..=10 => image.resize(5 * MIB + numbers.below(30 * MIB)).unwrap(),
            _ => drop(image.snapshots().create(&format!("user-{round}-{step}")).unwrap()),
        }
    }
}

/// Several nights of backups of one image: each night's changes on the last night's bytes are that night's export.
fn nights(ceph: &Ceph, path: &str, seed: u64, expect_fast: bool) {
    let mut numbers = Numbers::new(seed);
    let (mut parent, mut bytes) = (None, Vec::new());
    for night in 0..6 {
        stir(ceph, path, &mut numbers, night);
        let frozen = ceph.freeze(path, &night.to_string(), parent.clone());
        let point = frozen.point().unwrap();
        let changes = frozen.changes().unwrap();
        assert_eq!(matches!(changes, Changes::Since(_)), parent.is_some(), "{:?}", frozen.remarks());
        let slow = frozen.remarks().iter().find(|n| n.contains("slow diff")).cloned();
        match (slow, expect_fast) {
            (slow, false) => assert!(slow.is_some(), "{:?}", frozen.remarks()),
            (Some(note), true) => {
                assert!(note.contains("snapshot"), "only where there were other ones: {note}")
            }
            (None, true) => {}
        }
        if parent.is_some() {
            let base = frozen.base_reader().expect("the base is there");
            assert!(
                read_all(&*base) == bytes,
                "{path} night {night}: the base is not what the last backup was"
            );
        }
        let expected = ceph.export(&format!("{path}@{}", point.name));
        let made = apply(&changes, &bytes, &*frozen.reader());
        assert!(
            made == expected,
            "{path} night {night}: differs at {:?}",
            first_difference(&made, &expected)
        );
        for chunk_size in [64 << 10, 4 << 20, 16 << 20] {
            check_chunks(&changes, &bytes, &expected, chunk_size);
        }
        frozen.check().unwrap();
        frozen.committed().unwrap();
        let own: Vec<_> = ceph.snapshots(path).into_iter().filter(|s| s.starts_with(OWN)).collect();
        assert_eq!(own, std::slice::from_ref(&point.name), "exactly one base stays");
        (parent, bytes) = (Some(point), expected);
    }
    ceph.purge(path);
}

/// A chunk that no extent touches must be the parent's chunk, length and all: it is not read again.
fn check_chunks(changes: &Changes, old: &[u8], new: &[u8], chunk_size: usize) {
    let Changes::Since(extents) = changes else { return };
    for start in (0..new.len()).step_by(chunk_size) {
        let chunk = |of: &'_ [u8]| start.min(of.len())..(start + chunk_size).min(of.len());
        let end = chunk(new).end as u64;
        let touches = |e: &Extent| e.offset_bytes < end && e.offset_bytes + e.length_bytes > start as u64;
        if !extents.iter().any(touches) {
            assert!(
                old[chunk(old)] == new[chunk(new)],
                "chunk of {chunk_size} bytes at {start} is another one"
            );
        }
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i))
}

const FAST: &str = "layering,exclusive-lock,object-map,fast-diff,deep-flatten";

#[test]
fn nights_of_fast_diffs_for_each_object_size() {
    let Some(ceph) = Ceph::first() else { return };
    for (size, seed) in [("1M", 11), ("4M", 12), ("8M", 13), ("64K", 14)] {
        let path = format!("rbd/nights-fast-{size}");
        ceph.create(&path, 25 * MIB + 4096, &["--object-size", size, "--image-feature", FAST]);
        nights(&ceph, &path, seed, true);
    }
}

#[test]
fn nights_of_slow_diffs() {
    let Some(ceph) = Ceph::first() else { return };
    for (size, seed) in [("1M", 21), ("4M", 22), ("8M", 23)] {
        let path = format!("rbd/nights-slow-{size}");
        ceph.create(&path, 25 * MIB + 512, &["--object-size", size, "--image-feature", "layering"]);
        nights(&ceph, &path, seed, false);
    }
}

#[test]
fn nights_of_striped_images() {
    let Some(ceph) = Ceph::first() else { return };
    for (features, fast, seed) in [(FAST, true, 31), ("layering", false, 32)] {
        let path = format!("rbd/nights-striped-{fast}");
        let striping = ["--object-size", "1M", "--stripe-unit", "65536", "--stripe-count", "5"];
        ceph.create(&path, 25 * MIB, &[&striping[..], &["--image-feature", features]].concat());
        let layout = {
            let frozen = ceph.freeze(&path, "layout", None);
            frozen.discard().unwrap();
            frozen.layout()
        };
        assert_eq!((layout.order, layout.stripe_unit_bytes, layout.stripe_count), (20, 65536, 5));
        nights(&ceph, &path, seed, fast);
    }
}

/// Makes a clone of what an image holds now.
fn clone_gold(ceph: &Ceph, parent: &str, child: &str, features: &str) {
    let gold = format!("{parent}@gold");
    ceph.rbd(&["snap", "create", "--no-progress", &gold]);
    ceph.rbd(&["snap", "protect", &gold]);
    ceph.rbd(&["clone", &gold, child, "--object-size", "1M", "--image-feature", features]);
}

#[test]
fn nights_of_clones() {
    let Some(ceph) = Ceph::first() else { return };
    for (features, fast, seed) in [(FAST, true, 41), (FAST, true, 42), ("layering", false, 43)] {
        let (parent, child) = (format!("rbd/clone-parent-{seed}"), format!("rbd/clone-child-{seed}"));
        ceph.purge(&child);
        ceph.create(&parent, 20 * MIB, &["--object-size", "1M", "--image-feature", features]);
        let mut numbers = Numbers::new(seed);
        for at in [0, 3 * MIB + 17, 9 * MIB, 19 * MIB + 100_000] {
            ceph.write(&parent, at, &numbers.bytes(500_000));
        }
        clone_gold(&ceph, &parent, &child, features);
        {
            let frozen = ceph.freeze(&child, "untouched", None);
            assert_eq!(frozen.layout().parent, Some(format!("{parent}@gold")));
            let made = apply(&frozen.changes().unwrap(), &[], &*frozen.reader());
            assert!(made == ceph.export(&child), "an untouched clone is its parent");
            frozen.discard().unwrap();
        }
        nights(&ceph, &child, seed, fast);
        ceph.purge(&parent);
    }
}

#[test]
fn a_clone_that_was_shrunk_flattened_and_grown() {
    let Some(ceph) = Ceph::first() else { return };
    for (features, name) in [(FAST, "fast"), ("layering", "slow")] {
        let (parent, child) = (format!("rbd/overlap-parent-{name}"), format!("rbd/overlap-child-{name}"));
        ceph.purge(&child);
        ceph.create(&parent, 12 * MIB, &["--object-size", "1M", "--image-feature", features]);
        ceph.write(&parent, 0, &Numbers::new(5).bytes(12 << 20));
        clone_gold(&ceph, &parent, &child, features);
        let mut last = ceph.freeze(&child, "0", None);
        let mut bytes = apply(&last.changes().unwrap(), &[], &*last.reader());
        let steps: [(&str, &dyn Fn()); 4] = [
            // No object of the child is touched by the first, yet what lies beyond 5 MiB reads as zero after it.
            ("shrunk and grown", &|| {
                let image = ceph.open(&ceph.spec(&child), Access::ReadWrite).unwrap();
                image.resize(5 * MIB).unwrap();
                image.resize(12 * MIB).unwrap();
            }),
            ("written", &|| ceph.write(&child, 3 * MIB + 5, b"new")),
            ("rolled back", &|| {
                ceph.rbd(&["snap", "rollback", "--no-progress", &format!("{child}@{OWN}0")]);
            }),
            ("flattened", &|| {
                ceph.rbd(&["flatten", "--no-progress", &child]);
            }),
        ];
        for (i, (what, step)) in steps.into_iter().enumerate() {
            step();
            let frozen = ceph.freeze(&child, &(i + 1).to_string(), last.point());
            let changes = frozen.changes().unwrap();
            // Flattening gives objects to the snapshots, too: their maps are not those that the backup saw.
            let all = what == "flattened" && name == "fast";
            assert_eq!(matches!(changes, Changes::All(_)), all, "{what}: {:?}", frozen.remarks());
            let made = apply(&changes, &bytes, &*frozen.reader());
            let expected = ceph.export(&format!("{child}@{OWN}{}", i + 1));
            assert!(made == expected, "{name}, {what}: differs at {:?}", first_difference(&made, &expected));
            (last, bytes) = (frozen, expected);
        }
        drop(last);
        ceph.purge(&child);
        ceph.purge(&parent);
    }
}

#[test]
fn extents_are_those_of_rbd_diff() {
    let Some(ceph) = Ceph::first() else { return };
    for (features, whole, name) in [(FAST, &["--whole-object"][..], "fast"), ("layering", &[][..], "slow")] {
        let path = format!("rbd/extents-{name}");
        ceph.create(&path, 64 * MIB, &["--image-feature", features]);
        for at in [0, 4, 5, 17, 33, 60] {
            ceph.write(&path, at * MIB + 4096, &[7; 8192]);
        }
        let full = ceph.freeze(&path, "1", None);
        let at_1 = format!("{path}@{OWN}1");
        assert_eq!(full.changes().unwrap(), Changes::All(ceph.diff(&[whole, &[&at_1]].concat())));
        ceph.write(&path, 6 * MIB, &[8; 4096]);
        ceph.write(&path, 50 * MIB, &[8; 4096]);
        ceph.discard(&path, &[(32 * MIB, 4 * MIB)]);
        let frozen = ceph.freeze(&path, "2", full.point());
        let from = ["--from-snap", &format!("{OWN}1"), &format!("{path}@{OWN}2")];
        let expected = ceph.diff(&[whole, &from].concat());
        assert_eq!(expected.len(), 3, "{expected:?}");
        assert!(expected.iter().any(|e| e.content == Content::Zero));
        assert_eq!(frozen.changes().unwrap(), Changes::Since(expected));
        ceph.purge(&path);
    }
}

#[test]
fn what_fails_while_extents_arrive_does_not_cross_into_c() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/callback";
    ceph.create(path, 16 * MIB, &[]);
    ceph.rbd(&["snap", "create", "--no-progress", &format!("{path}@empty")]);
    ceph.write(path, 0, &[1; 16 << 20]);
    let image = ceph.open(&ceph.spec(path), Access::ReadOnly).unwrap();
    let empty = image.snapshots().list().unwrap().remove(0);
    let at_empty = Arc::new(ceph.open(&ceph.spec(path), Access::Snapshot(empty.id)).unwrap());
    let image = Arc::new(image);
    // A full list by the maps, and the slow diff, which asks from several threads.
    for base in [None, Some(End::at(at_empty, empty))] {
        let slow = base.is_some();
        let compared = Comparison::new(path, End::now(image.clone()), base, &History::default()).unwrap();
        assert_eq!(matches!(compared.verdict(), Verdict::Slow { maps_hold: true, .. }), slow);
        let mut refuse = |_| Err(Error::interrupted("asked to stop"));
        assert_eq!(compared.visit(&mut refuse).unwrap_err().message(), "asked to stop");
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            compared.visit(&mut |_| panic!("a defect"))
        }));
        assert!(panic.is_err());
        let mut bytes = 0;
        let mut add = |range: DiffRange| {
            bytes += range.length_bytes;
            Ok(())
        };
        compared.visit(&mut add).unwrap();
        // What is new is told twice by the slow diff: by its objects, and by the maps.
        assert_eq!(bytes, if slow { 32 } else { 16 } * MIB, "and it can be asked again");
    }
    ceph.purge(path);
}

#[test]
fn an_unchanged_image_has_no_changes() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/unchanged";
    ceph.create(path, 16 * MIB, &[]);
    ceph.write(path, 0, b"data");
    let first = ceph.freeze(path, "1", None);
    let second = ceph.freeze(path, "2", first.point());
    assert_eq!(second.changes().unwrap(), Changes::Since(vec![]));
    assert_eq!(second.remarks(), Vec::<String>::new());
    // The very same snapshot again, as when the user names it.
    let again = ceph.freeze(&format!("{path}@{OWN}2"), "3", second.point());
    assert_eq!(again.changes().unwrap(), Changes::Since(vec![]));
    ceph.purge(path);
}

#[test]
fn an_empty_image_is_read() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/empty";
    ceph.create(path, 0, &[]);
    let frozen = ceph.freeze(path, "1", None);
    assert_eq!(frozen.changes().unwrap(), Changes::All(vec![]));
    assert_eq!(frozen.reader().size_bytes(), 0);
    let image = ceph.open(&ceph.spec(path), Access::ReadWrite).unwrap();
    image.resize(5 * MIB).unwrap();
    let grown = ceph.freeze(path, "2", frozen.point());
    let whole = Extent { offset_bytes: 0, length_bytes: 5 * MIB, content: Content::Zero };
    assert_eq!(grown.changes().unwrap(), Changes::Since(vec![whole]));
    image.resize(0).unwrap();
    let shrunk = ceph.freeze(path, "3", grown.point());
    assert_eq!(shrunk.changes().unwrap(), Changes::Since(vec![]));
    drop((frozen, grown, shrunk, image));
    ceph.purge(path);
}

#[test]
fn a_missing_or_re_created_base_is_a_full_read_and_said() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/base-gone";
    ceph.create(path, 16 * MIB, &[]);
    ceph.write(path, 0, b"one");
    let first = ceph.freeze(path, "1", None).point();
    let full_because = |parent, why: &str| {
        let frozen = ceph.freeze(path, "next", parent);
        assert!(matches!(frozen.changes().unwrap(), Changes::All(_)));
        assert!(frozen.base_reader().is_none());
        assert!(frozen.remarks().iter().any(|n| n.contains(why)), "{why}: {:?}", frozen.remarks());
        frozen.discard().unwrap();
    };
    ceph.rbd(&["snap", "rm", "--no-progress", &format!("{path}@{OWN}1")]);
    full_because(first.clone(), "is gone");
    // The same name, other content: a diff from it would be wrong.
    ceph.write(path, 5 * MIB, b"two");
    ceph.rbd(&["snap", "create", "--no-progress", &format!("{path}@{OWN}1")]);
    full_because(first.clone(), "is another one now");
    full_because(first.clone().map(|p| cuttle::volume::SnapshotPoint { rbd_snap_id: 0, ..p }), "stream");
    let newer = ceph.freeze(path, "2", None).point();
    let frozen = ceph.freeze(&format!("{path}@{OWN}1"), "unused", newer);
    assert!(frozen.remarks().iter().any(|n| n.contains("is newer than")), "{:?}", frozen.remarks());
    ceph.purge(path);
}

#[test]
fn an_invalid_object_map_is_not_believed() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/map-invalid";
    ceph.create(path, 16 * MIB, &["--image-feature", "layering,exclusive-lock"]);
    ceph.write(path, 0, b"one");
    let first = ceph.freeze(path, "1", None);
    // Enabled afterwards, the maps of old snapshots are there but marked invalid.
    ceph.rbd(&["feature", "enable", path, "object-map", "fast-diff"]);
    let image = ceph.open(&ceph.spec(path), Access::Snapshot(first.point().unwrap().rbd_snap_id)).unwrap();
    assert_ne!(image.flags().unwrap() & (flags::OBJECT_MAP_INVALID | flags::FAST_DIFF_INVALID), 0);
    ceph.write(path, 9 * MIB, b"two");
    let second = ceph.freeze(path, "2", first.point());
    assert!(second.remarks().iter().any(|n| n.contains("object map of snapshot")), "{:?}", second.remarks());
    let from = ["--from-snap", &format!("{OWN}1"), &format!("{path}@{OWN}2")];
    let expected = ceph.diff(&from);
    assert!(expected.iter().all(|e| e.length_bytes < 4 * MIB), "no whole objects: {expected:?}");
    assert_eq!(second.changes().unwrap(), Changes::Since(expected));
    drop((first, second, image));
    ceph.purge(path);
}

#[test]
fn a_named_snapshot_is_used_and_never_removed() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/named";
    ceph.create(path, 16 * MIB, &[]);
    ceph.write(path, 0, b"one");
    let own = ceph.freeze(path, "1", None);
    ceph.rbd(&["snap", "create", "--no-progress", &format!("{path}@mine")]);
    ceph.write(path, 0, b"two");
    let named = ceph.freeze(&format!("{path}@mine"), "unused", own.point());
    let point = named.point().unwrap();
    assert!(!point.own);
    let mut start = [0; 3];
    named.reader().read_at(0, &mut start).unwrap();
    assert_eq!(&start, b"one");
    named.discard().unwrap();
    assert_eq!(ceph.snapshots(path), [format!("{OWN}1"), "mine".to_owned()]);
    named.committed().unwrap();
    assert_eq!(ceph.snapshots(path), ["mine"]);
    let next = ceph.freeze(path, "2", Some(point));
    assert!(matches!(next.changes().unwrap(), Changes::Since(_)), "a user's snapshot is a base as well");
    next.committed().unwrap();
    assert_eq!(ceph.snapshots(path), ["mine".to_owned(), format!("{OWN}2")]);
    let error = ceph.volume(&format!("{path}@absent")).freeze(&request("3", None)).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    ceph.purge(path);
}

#[test]
fn a_snapshot_removed_while_it_is_read_is_noticed() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/removed";
    ceph.create(path, 16 * MIB, &[]);
    let first = ceph.freeze(path, "1", None);
    let second = ceph.freeze(path, "2", first.point());
    second.check().unwrap();
    ceph.rbd(&["snap", "rm", "--no-progress", &format!("{path}@{OWN}2")]);
    ceph.rbd(&["snap", "create", "--no-progress", &format!("{path}@{OWN}2")]);
    let error = second.check().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    second.discard().unwrap();
    assert_eq!(ceph.snapshots(path).len(), 2, "the other snapshot of that name is not ours to remove");
    let third = ceph.freeze(path, "3", first.point());
    ceph.rbd(&["snap", "rm", "--no-progress", &format!("{path}@{OWN}1")]);
    assert_eq!(third.check().unwrap_err().kind(), ErrorKind::Conflict, "the base counts too");
    ceph.purge(path);
}

#[test]
fn a_base_with_a_clone_stays_and_is_said() {
    let Some(ceph) = Ceph::first() else { return };
    let (path, child) = ("rbd/held", "rbd/held-child");
    ceph.purge(child);
    ceph.create(path, 4 * MIB, &[]);
    let first = ceph.freeze(path, "1", None);
    ceph.rbd(&["snap", "protect", &format!("{path}@{OWN}1")]);
    ceph.rbd(&["clone", &format!("{path}@{OWN}1"), child]);
    let second = ceph.freeze(path, "2", first.point());
    let error = second.committed().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.message().contains(&format!("{OWN}1")), "{error}");
    ceph.purge(child);
    ceph.rbd(&["snap", "unprotect", &format!("{path}@{OWN}1")]);
    second.committed().unwrap();
    assert_eq!(ceph.snapshots(path), [format!("{OWN}2")]);
    ceph.purge(path);
}

#[test]
fn namespaces_hold_images_of_their_own() {
    let Some(ceph) = Ceph::first() else { return };
    let names = ["rbd/tenant-a/vm1", "rbd/tenant-a/vm2", "rbd/tenant-b/vm1"];
    let known = ceph.cluster.pool("rbd", "").unwrap().namespaces().unwrap();
    for namespace in ["tenant-a", "tenant-b"] {
        if !known.iter().any(|n| n == namespace) {
            ceph.rbd(&["namespace", "create", &format!("rbd/{namespace}")]);
        }
    }
    for name in names {
        ceph.create(name, 4 * MIB, &[]);
        ceph.write(name, 0, name.as_bytes());
    }
    let all: RbdSpec = "rbd:rbd/tenant-a/*".parse().unwrap();
    let found: Vec<_> = all.expand(&ceph.cluster).unwrap().iter().map(RbdSpec::path).collect();
    assert_eq!(found, &names[..2]);
    for name in names {
        let frozen = ceph.freeze(name, "1", None);
        assert!(read_all(&*frozen.reader()).starts_with(name.as_bytes()));
        assert_eq!(ceph.spec(name).volume_name().unwrap().as_str(), name);
    }
    let Identity::Rbd { namespace, image, image_id, cluster_fsid, pool } =
        ceph.volume(names[2]).identity().unwrap()
    else {
        panic!("an RBD image")
    };
    assert_eq!((pool.as_str(), namespace.as_str(), image.as_str()), ("rbd", "tenant-b", "vm1"));
    assert_eq!(cluster_fsid, ceph.cluster.fsid());
    assert!(!image_id.is_empty());
    nights(&ceph, names[0], 51, true);
    for (spec, what) in [("rbd:rbd/absent/*", "namespace"), ("rbd:absent/*", "pool")] {
        let error = spec.parse::<RbdSpec>().unwrap().expand(&ceph.cluster).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().contains(what) && error.help_text().is_some(), "{error}");
    }
    names.iter().for_each(|name| ceph.purge(name));
}

#[test]
fn snapshots_of_groups_are_not_the_users() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/grouped";
    ceph.create(path, 4 * MIB, &[]);
    ceph.rbd(&["group", "create", "rbd/g"]);
    ceph.rbd(&["group", "image", "add", "rbd/g", path]);
    ceph.rbd(&["group", "snap", "create", "rbd/g@night"]);
    ceph.rbd(&["snap", "create", "--no-progress", &format!("{path}@mine")]);
    assert_eq!(ceph.snapshots(path), ["mine"]);
    ceph.rbd(&["group", "snap", "rm", "rbd/g@night"]);
    ceph.rbd(&["group", "rm", "rbd/g"]);
    ceph.purge(path);
}

#[test]
fn the_layout_and_metadata_are_recorded() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/layout";
    ceph.create(path, 8 * MIB, &["--object-size", "8M", "--image-feature", FAST]);
    // More than one page of them, and values of some length.
    let image = ceph.open(&ceph.spec(path), Access::ReadWrite).unwrap();
    let pairs: Vec<_> = (0..150).map(|i| (format!("key-{i:03}"), "v".repeat(i * 3))).collect();
    for (key, value) in &pairs {
        image.metadata().set(key, value).unwrap();
    }
    image.metadata().set("cuttle.restore", "unfinished").unwrap();
    let frozen = ceph.freeze(path, "1", None);
    let layout = frozen.layout();
    assert_eq!(layout.metadata, pairs);
    assert_eq!((layout.order, layout.stripe_unit_bytes, layout.stripe_count), (23, 0, 0));
    assert_eq!(layout.features, 61);
    assert_eq!(layout.parent, None);
    assert!(frozen.remarks().iter().any(|n| n.contains("unfinished restore")), "{:?}", frozen.remarks());
    let mut past = [0; 2];
    let error = frozen.reader().read_at(8 * MIB - 1, &mut past).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "reading past the end is an error");
    drop((image, frozen));
    ceph.purge(path);
}

#[test]
fn many_threads_read_one_snapshot() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/threads";
    ceph.create(path, 32 * MIB, &[]);
    let data = Numbers::new(61).bytes(32 << 20);
    ceph.write(path, 0, &data);
    let frozen = ceph.freeze(path, "1", None);
    let reader = frozen.reader();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (reader, data) = (reader.clone(), &data);
            scope.spawn(move || {
                let mut numbers = Numbers::new(100 + thread);
                for _ in 0..40 {
                    let offset = numbers.below(31 * MIB);
                    let mut buf = vec![0; numbers.below(MIB) as usize];
                    reader.read_at(offset, &mut buf).unwrap();
                    assert!(buf == data[offset as usize..][..buf.len()], "thread {thread} at {offset}");
                }
            });
        }
    });
    drop((frozen, reader));
    ceph.purge(path);
}

#[test]
fn absent_images_and_wrong_keys_end_in_clear_errors() {
    let Some(ceph) = Ceph::first() else { return };
    let spec = "rbd:rbd/never-made".parse().unwrap();
    let error = cuttle::source::rbd::RbdVolume::open(&ceph.cluster, &spec).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("rbd/never-made"), "{error}");
    let with = |change: &dyn Fn(&mut CephConfig)| {
        let mut config = CephConfig { conf: Some(ceph.conf.clone().into()), ..CephConfig::default() };
        change(&mut config);
        Cluster::connect(&config)
    };
    let error = with(&|c| c.user = Some("client.nobody".into())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let error = with(&|c| c.conf = Some("/absent/ceph.conf".into())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.message().contains("/absent/ceph.conf"), "{error}");
    let error = with(&|c| c.args = vec!["--no-such-thing=1".into()]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    with(&|c| c.args = vec!["--rbd_concurrent_management_ops=5".into()]).unwrap();
}

#[test]
fn a_cluster_that_does_not_answer_ends_in_time() {
    if let Err(error) = cuttle::rbd::available() {
        return crate::support::skip(&error.to_string());
    }
    // A listener that never says anything: worse than a closed port.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let keyring = folder.path().join("keyring");
    std::fs::write(&keyring, "[client.admin]\n\tkey = AQBSgh9nAAAAABAAkK1sWl1IoQ3vZ0a0xkzqYA==\n").unwrap();
    let conf = folder.path().join("ceph.conf");
    std::fs::write(&conf, format!("[global]\nmon host = v1:{}\n", silent.local_addr().unwrap())).unwrap();
    let config = CephConfig {
        conf: Some(conf),
        keyring: Some(keyring),
        connect_timeout: Duration::from_secs(2),
        ..CephConfig::default()
    };
    let began = Instant::now();
    let error = Cluster::connect(&config).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.help_text().is_some());
}
