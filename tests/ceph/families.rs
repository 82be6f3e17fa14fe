//! Clones: what a first backup of one reads and stores, where what it was cloned from is backed up. The truth is `rbd export`.

use crate::support::Numbers;
use crate::support::ceph::{Ceph, OWN, OwnPool, apply, read_all, request};
use crate::support::program::Cuttle;
use cuttle::rbd::Access;
use cuttle::source::{Changes, ClonedFrom, OriginPoint, Volume};

const MIB: u64 = 1 << 20;
const FAST: &str = "layering,exclusive-lock,object-map,fast-diff,deep-flatten";

/// Changes a clone as guests and operators do.
fn stir(ceph: &Ceph, path: &str, numbers: &mut Numbers, steps: usize) {
    for step in 0..steps {
        let image = ceph.open(&ceph.spec(path), Access::ReadWrite).unwrap();
        let size = image.size_bytes().unwrap();
        let offset = numbers.below(size);
        let length = (1 + numbers.below(3 * MIB)).min(size - offset);
        match numbers.below(14) {
            0..=3 => image.write_at(offset, &numbers.bytes(length.min(300_000) as usize)).unwrap(),
            4..=5 => image.zero_at(offset, length).unwrap(),
            6..=8 => {
                drop(image);
                // Whole objects too: an empty one hides the parent's.
                let whole = numbers.below(2) == 0;
                let (offset, length) = if whole { (offset / MIB * MIB, MIB) } else { (offset, length) };
                ceph.discard(path, &[(offset, length.min(size - offset))]);
            }
            9..=10 => image.resize(4 * MIB + numbers.below(24 * MIB)).unwrap(),
            11 => drop(image.snapshots().create(&format!("user-{step}")).unwrap()),
            12 => {
                let first = image.snapshots().list().unwrap().into_iter().next();
                drop(image);
                if let Some(first) = first {
                    ceph.rbd(&["snap", "rollback", "--no-progress", &format!("{path}@{}", first.name)]);
                }
            }
            _ => {}
        }
    }
}

/// What a clone has of its own, over what its parent's snapshot holds, is the clone: whatever was done to it, and to the parent since.
#[test]
fn what_a_clone_has_of_its_own_is_all_that_it_differs_in() {
    let Some(ceph) = Ceph::first() else { return };
    let rounds = std::env::var("CUTTLE_CLONES").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    for seed in 0..rounds {
        let mut numbers = Numbers::new(1000 + seed);
        let features = if seed % 3 == 2 { "layering" } else { FAST };
        let format = if seed % 2 == 0 { "1" } else { "2" };
        let (parent, child) = ("rbd/family-parent", "rbd/family-child");
        ceph.purge(child);
        ceph.create(
            parent,
            18 * MIB + 4096 * numbers.below(512),
            &["--object-size", "1M", "--image-feature", features],
        );
        for _ in 0..6 {
            let at = numbers.below(17 * MIB);
            ceph.write(parent, at, &numbers.bytes(600_000));
        }
        let gold = format!("{parent}@gold");
        ceph.rbd(&["snap", "create", "--no-progress", &gold]);
        ceph.rbd(&["snap", "protect", &gold]);
        let bytes = ceph.export(&gold);
        // A backup of the snapshot: which objects it had then.
        let point = Volume::freeze(&ceph.volume(&gold), &request("parent", None)).unwrap().point().unwrap();
        ceph.rbd(&[
            "clone",
            "--rbd-default-clone-format",
            format,
            &gold,
            child,
            "--object-size",
            "1M",
            "--image-feature",
            features,
        ]);
        stir(&ceph, child, &mut numbers, 1 + seed as usize % 8);
        // The parent goes on, and is made smaller.
        stir(&ceph, parent, &mut numbers, 3);

        let volume = ceph.volume(child);
        let cloned_from = volume.descent().unwrap().cloned_from.expect("a clone");
        assert_eq!(cloned_from.rbd_snap_id, point.rbd_snap_id);
        let origin = OriginPoint { cloned_from, objects: point.objects.clone() };
        let frozen = volume
            .freeze(&cuttle::source::FreezeRequest { origin: Some(origin), ..request("0", None) })
            .unwrap();
        let changes = frozen.changes().unwrap();
        // Without a map nobody tells which objects are there and empty.
        let believed = features == FAST;
        assert_eq!(matches!(changes, Changes::Since(_)), believed, "seed {seed}: {:?}", frozen.remarks());
        assert!(
            read_all(&*frozen.base_reader().expect("the parent is at hand")) == bytes,
            "seed {seed}: the parent's snapshot"
        );
        let made = apply(&changes, &bytes, &*frozen.reader());
        let expected = ceph.export(&format!("{child}@{OWN}0"));
        let differs = made.iter().zip(&expected).position(|(a, b)| a != b);
        assert!(
            made == expected,
            "seed {seed}: differs at {differs:?}, {} of {} bytes",
            made.len(),
            expected.len()
        );
        frozen.discard().unwrap();
        drop(frozen);
        ceph.purge(child);
        ceph.purge(parent);
    }
}

/// The parent's map is another one than when it was backed up: what the clone shows of it need not be what the backup has.
#[test]
fn a_parent_whose_objects_are_others_is_not_built_upon() {
    let Some(ceph) = Ceph::first() else { return };
    let (parent, child) = ("rbd/family-map", "rbd/family-map-child");
    ceph.purge(child);
    ceph.create(parent, 8 * MIB, &["--object-size", "1M", "--image-feature", FAST]);
    ceph.write(parent, 0, &Numbers::new(3).bytes(2 << 20));
    ceph.rbd(&["snap", "create", "--no-progress", &format!("{parent}@gold")]);
    ceph.rbd(&["snap", "protect", &format!("{parent}@gold")]);
    ceph.rbd(&["clone", &format!("{parent}@gold"), child]);
    let volume = ceph.volume(child);
    let cloned_from = volume.descent().unwrap().cloned_from.expect("a clone");
    let frozen = |cloned_from: ClonedFrom, objects| {
        let origin = Some(OriginPoint { cloned_from, objects });
        let frozen = volume.freeze(&cuttle::source::FreezeRequest { origin, ..request("0", None) }).unwrap();
        let all = matches!(frozen.changes().unwrap(), Changes::All(_));
        frozen.discard().unwrap();
        (all, frozen.remarks().join(" "))
    };
    let other = cuttle::volume::ObjectsBy::Map { digest: [1; 32] };
    let (all, said) = frozen(cloned_from.clone(), other);
    assert!(all && said.contains("is not what it was when that was backed up"), "{said}");
    let (all, said) = frozen(cloned_from.clone(), cuttle::volume::ObjectsBy::Unknown);
    assert!(all && said.contains("not known"), "{said}");
    let another = ClonedFrom { rbd_snap_id: cloned_from.rbd_snap_id + 1000, ..cloned_from };
    let (all, said) = frozen(another, cuttle::volume::ObjectsBy::Asking);
    assert!(all && said.contains("no clone of what was backed up any more"), "{said}");
    ceph.purge(child);
    ceph.purge(parent);
}

/// A template and many clones of it: what they cost, and that each of them is whole.
#[test]
fn a_pool_of_clones_costs_what_they_have_of_their_own() {
    let Some(ceph) = Ceph::first() else { return };
    let cuttle = Cuttle::in_folder();
    let pool = OwnPool::new(&ceph, "family");
    let (own_mib, clones, template_mib) = (1_u64, 6_u64, 48_u64);
    let mut numbers = Numbers::new(77);
    ceph.create("family/template", template_mib * MIB, &[]);
    ceph.write("family/template", 0, &numbers.bytes((40 * MIB) as usize));
    ceph.rbd(&["snap", "create", "--no-progress", "family/template@base"]);
    ceph.rbd(&["snap", "protect", "family/template@base"]);
    // The template goes on: its clones do not.
    ceph.write("family/template", 8 * MIB, &numbers.bytes(MIB as usize));
    let name = |n: u64| format!("family/a-clone-{n}");
    for n in 0..clones {
        let format = if n % 2 == 0 { "1" } else { "2" };
        ceph.rbd(&["clone", "--rbd-default-clone-format", format, "family/template@base", &name(n)]);
        ceph.write(&name(n), 4 * MIB * (n % 8) + 100_000, &numbers.bytes((own_mib * MIB) as usize));
        ceph.discard(&name(n), &[(4 * MIB * ((n + 3) % 8), 4 * MIB)]);
    }
    // A clone of a clone, a larger and a smaller one.
    ceph.rbd(&["snap", "create", "--no-progress", &format!("{}@mine", name(0))]);
    ceph.rbd(&[
        "clone",
        "--rbd-default-clone-format",
        "2",
        &format!("{}@mine", name(0)),
        "family/a-grandchild",
    ]);
    ceph.write("family/a-grandchild", 30 * MIB, &numbers.bytes(100_000));
    ceph.rbd(&["resize", "--no-progress", &name(1), "--size", "60M"]);
    ceph.rbd(&["resize", "--no-progress", "--allow-shrink", &name(2), "--size", "22M"]);
    ceph.rbd(&["resize", "--no-progress", &name(2), "--size", "48M"]);

    let night = |full: bool| {
        let run = cuttle.backup(&["--conf", &ceph.conf, "rbd:family/*", "--jobs", "3"]);
        for volume in &run.volumes {
            let (name, point) =
                (volume["volume"].as_str().unwrap(), volume["point"]["name"].as_str().unwrap());
            let at = format!("{name}@{}", volume["sequence"]);
            let file = cuttle.home().join("restored").display().to_string();
            cuttle.ok(&["restore", &at, &file, "--overwrite"]);
            let expected = ceph.export(&format!("{name}@{point}"));
            assert!(std::fs::read(&file).unwrap() == expected, "{at} is not {point}");
            if name.contains("a-") && full && volume["sequence"] == 1 {
                let origin =
                    if name.ends_with("grandchild") { "family/a-clone-0@1" } else { "family/template@1" };
                assert_eq!(volume["origin"].as_str(), Some(origin), "{volume}");
                assert_eq!((volume["full_read"].as_bool(), volume["parent"].as_u64()), (Some(false), None));
            }
        }
        run
    };
    // Nothing is there yet that a clone could be compared with, and the plan says what will be.
    let planned = cuttle.run(&["--conf", &ceph.conf, "backup", "rbd:family/*", "-n"], &[]).stderr;
    assert_eq!(
        planned.matches("only what it has of its own is read").count() as u64,
        clones + 1,
        "{planned}"
    );
    let run = night(true);
    let read = |run: &crate::support::program::Night, of: &str| -> u64 {
        let volumes = run.volumes.iter().filter(|v| v["volume"].as_str().unwrap().contains(of));
        volumes.map(|v| v["read_bytes"].as_u64().unwrap()).sum()
    };
    // Two snapshots of the template, and two of the clone that has a clone.
    assert_eq!(run.volumes.len() as u64, 2 + clones + 1 + 1);
    // Each has two to three objects of its own, and a sample of what it inherits is looked at: six in turn, three at random, of which
    // two are among the six as a rule.
    let sample = 4 * MIB * 7;
    let bound = (clones + 2) * (3 * 4 * MIB + sample);
    assert!(read(&run, "a-") <= bound, "{} of at most {bound} bytes were read", read(&run, "a-"));
    assert!(
        run.number("stored_bytes") <= (41 + clones * own_mib + 2) * MIB,
        "{}",
        run.number("stored_bytes")
    );

    // The next nights go by the clones' own snapshots, flattened in between or not.
    ceph.rbd(&["flatten", "--no-progress", &name(3)]);
    ceph.write(&name(4), 40 * MIB, b"later");
    let second = night(false);
    assert_eq!(second.volumes.len() as u64, clones + 2, "nothing new hangs on the template");
    for volume in &second.volumes {
        assert_eq!(
            (&volume["origin"], volume["parent"].is_u64()),
            (&serde_json::Value::Null, true),
            "{volume}"
        );
    }
    let shown = cuttle.json(&["snapshots"]);
    let of = |volume: &str, sequence: u64| {
        let is_it =
            |s: &&serde_json::Value| s["volume"] == *volume && s["sequence"].as_u64() == Some(sequence);
        shown[0].as_array().expect("a list").iter().find(is_it).expect("it is listed").clone()
    };
    let template = of("family/template", 1);
    assert_eq!(
        of("family/a-clone-4", 2)["origin"]["snapshot_id"],
        template["snapshot_id"],
        "it still hangs on it"
    );
    assert!(of("family/a-clone-3", 2)["origin"].is_null(), "it was flattened");

    // Without the origin every clone's snapshots are whole.
    cuttle.ok(&["forget", "family/template@1"]);
    cuttle.ok(&["prune"]);
    cuttle.ok(&["verify", "--read-data"]);
    for image in (0..clones).map(name).chain(["family/a-grandchild".to_owned()]) {
        ceph.purge(&image);
    }
    drop(pool);
}
