//! The main job on real clusters, through the real program: nights of backups to RGW, the loss of a cluster, restores.
//!
//! What is expected is always what Ceph's own `rbd export` said of that night's snapshot.

use std::collections::BTreeSet;
use std::thread;

use serde_json::Value;

use crate::support::Numbers;
use crate::support::ceph::{Ceph, OwnPool, layout};
use crate::support::ext4::{self, Ext4};
use crate::support::own_cluster::OwnCluster;
use crate::support::program::{Cuttle, Night};

const MIB: u64 = 1 << 20;

/// What the volume held on one night.
struct Kept {
    sequence: u64,
    bytes: Vec<u8>,
}

/// One volume's nights, each checked in all that must hold every night.
struct Nights<'a> {
    ceph: &'a Ceph,
    cuttle: &'a Cuttle,
    image: &'a str,
    kept: Vec<Kept>,
}

impl Nights<'_> {
    /// Backs up as a cron job does, and keeps Ceph's own export of the very same snapshot.
    fn pass(&mut self) -> Night {
        let users: BTreeSet<String> = self.snapshots().into_iter().filter(|s| !is_own(s)).collect();
        let night = self.cuttle.backup(&["--conf", &self.ceph.conf, &format!("rbd:{}", self.image)]);
        assert_eq!(night.volume()["status"], "ok");
        let (own, left): (BTreeSet<_>, BTreeSet<_>) = self.snapshots().into_iter().partition(|s| is_own(s));
        assert_eq!(left, users, "snapshots of users are not touched");
        let base = self.cuttle.latest(self.image)["point"]["name"].as_str().expect("a name").to_owned();
        assert_eq!(own, BTreeSet::from([base.clone()]), "one base stays, that of this night");
        let bytes = self.ceph.export(&format!("{}@{base}", self.image));
        assert_eq!(night.number("size_bytes"), bytes.len() as u64);
        self.kept.push(Kept { sequence: night.number("sequence"), bytes });
        night
    }

    fn snapshots(&self) -> Vec<String> {
        self.ceph.snapshots(self.image)
    }
}

fn is_own(snapshot: &str) -> bool {
    snapshot.starts_with("cuttle-")
}

/// Restores a snapshot into a new image, and reads it with Ceph's own `rbd`.
fn restored(cuttle: &Cuttle, ceph: &Ceph, snapshot: &str, image: &str) -> Vec<u8> {
    ceph.purge(image);
    cuttle.ok(&["restore", "--conf", &ceph.conf, snapshot, &format!("rbd:{image}")]);
    ceph.export(image)
}

fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    if found == expected {
        return;
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    panic!("{what}: {} bytes, expected {}; first difference at {at:?}", found.len(), expected.len());
}

/// The same night once more as streams, as those do who let Ceph's own tool make the diff.
fn stream_night(ceph: &Ceph, cuttle: &Cuttle, image: &str, night: usize) -> [Night; 2] {
    let now = format!("{image}@night-{night}");
    ceph.rbd(&["snap", "create", "--no-progress", &now]);
    let from = format!("night-{}", night.wrapping_sub(1));
    let from = if night > 0 { vec!["--from-snap", &from] } else { vec![] };
    let diff = ceph.rbd(&[&["export-diff", "--no-progress", &now, "-"], from.as_slice()].concat());
    let whole = ceph.rbd(&["export", "--no-progress", "--export-format", "2", &now, "-"]);
    [
        cuttle.backup_stream(&["-", "--volume", "streams/diff"], &diff),
        // A backup for each snapshot that is in it: a volume of its own each night.
        cuttle.backup_stream(&["-", "--volume", &format!("streams/whole-{night}")], &whole),
    ]
}

#[test]
fn a_cluster_is_lost_and_every_night_of_it_comes_back_on_a_fresh_one() {
    let Some(cuttle) = Cuttle::on_rgw("lost") else { return };
    let Some(mut disk) = Ext4::new(64 * MIB) else { return };
    let lost = OwnCluster::start("lost");
    let (ceph, image) = (&lost.ceph, "rbd/vm");
    ceph.create(image, 64 * MIB, &[]);
    ceph.rbd(&["image-meta", "set", image, "owner", "web team"]);
    let mut nights = Nights { ceph, cuttle: &cuttle, image, kept: Vec::new() };
    let mut numbers = Numbers::new(17);
    let mut file = |mib: u64| numbers.bytes((mib * MIB) as usize);
    let (first, second, third, fourth, fifth) = (file(9), file(14), file(2), file(30), file(1));

    // Chunks that some backup stored as deltas.
    let mut private = 0;
    for night in 0..6 {
        match night {
            0 => disk.change(|root| {
                std::fs::write(root.join("first"), &first).expect("write");
                std::fs::write(root.join("second"), &second).expect("write");
            }),
            1 => disk.change(|root| {
                std::fs::write(root.join("third"), &third).expect("write");
                std::fs::remove_file(root.join("second")).expect("delete");
            }),
            2 => disk.trim(),
            3 => {
                disk.resize(110 * MIB + 8192);
                disk.change(|root| std::fs::write(root.join("fourth"), &fourth).expect("write"));
            }
            4 => {
                disk.change(|root| std::fs::remove_file(root.join("fourth")).expect("delete"));
                disk.trim();
                disk.resize(50 * MIB + 4096);
                disk.change(|root| std::fs::write(root.join("fifth"), &fifth).expect("write"));
            }
            _ => {}
        }
        disk.carry_over(ceph, image);
        let taken = nights.pass();
        assert_eq!(taken.volume()["full_read"], night == 0, "{}", taken.notes());
        // The streams below are made from snapshots of the user's, which stay.
        let (notes, slow) = (taken.notes(), "the slow diff is used");
        assert_eq!(notes.contains(slow), night > 0 && notes != "[]", "{notes}");
        if night == 5 {
            assert_eq!(taken.number("new_bytes"), 0, "nothing changed");
        }
        // The same content is stored in full once, however it is read, unless it lies in a bundle, as deltas and small chunks do, which is
        // its writer's own; a diff that cuts the volume first cuts its last chunk.
        let [diff, whole] = stream_night(ceph, &cuttle, image, night);
        let full = |report: &Night| {
            let full = report.number("new_chunks") - report.number("delta_chunks");
            let stored = report.number("stored_bytes") - report.number("delta_bytes");
            // Nothing but small ones, and the tables of bundles.
            if stored <= (full + 1) * (64 << 10) { 0 } else { full }
        };
        private += taken.number("delta_chunks");
        assert!(full(&diff) <= private + u64::from(night == 4), "night {night}: {diff:?}");
        private += diff.number("delta_chunks");
        assert!(full(&whole) <= private, "night {night}: {whole:?}");
        private += whole.number("delta_chunks");
    }
    // With all its snapshots in the stream; what counts is what the image holds last.
    let history = ceph.rbd(&["export", "--no-progress", "--export-format", "2", image, "-"]);
    cuttle.backup_stream(&["-", "--volume", "streams/history"], &history);
    let [.., shrunk, quiet] = nights.kept.as_slice() else { panic!("six nights") };
    assert_same(&quiet.bytes, &shrunk.bytes, "the quiet night");
    let kept = nights.kept;
    drop(lost);

    let fresh = OwnCluster::start("lost");
    let ceph = &fresh.ceph;
    for (night, Kept { sequence, bytes }) in kept.iter().enumerate() {
        let found = restored(&cuttle, ceph, &format!("{image}@{sequence}"), &format!("rbd/night-{night}"));
        assert_same(&found, bytes, &format!("night {night}"));
        ext4::check(&found);
    }
    for (night, Kept { sequence, bytes }) in kept.iter().enumerate() {
        for snapshot in [format!("streams/diff@{sequence}"), format!("streams/whole-{night}")] {
            let found = cuttle.ok(&["restore", &snapshot, "-"]);
            assert_same(&found, bytes, &format!("{snapshot}, night {night}"));
        }
    }
    let found = cuttle.ok(&["restore", "streams/history", "-"]);
    assert_same(&found, &kept[5].bytes, "the stream with all snapshots");
    the_nights_go_on(&cuttle, ceph, image, &kept[5].bytes);
    cuttle.ok(&["verify", "--read-data"]);
}

/// After the restore the image is another one: that is said, and accepted once.
fn the_nights_go_on(cuttle: &Cuttle, ceph: &Ceph, image: &str, last: &[u8]) {
    let (source, conf) = (format!("rbd:{image}"), ceph.conf.as_str());
    assert_same(&restored(cuttle, ceph, image, image), last, "the latest snapshot");
    assert_eq!(ceph.rbd(&["image-meta", "get", image, "owner"]), b"web team\n");
    let said = cuttle.fails(1, &["backup", "--conf", conf, &source]);
    assert!(said.contains("--accept-new-identity"), "{said}");
    assert_eq!(ceph.snapshots(image), Vec::<String>::new(), "a refused backup leaves nothing behind");
    let mut nights = Nights { ceph, cuttle, image, kept: Vec::new() };
    let accepted = cuttle.backup(&["--conf", conf, &source, "--accept-new-identity"]);
    assert_eq!((accepted.number("new_bytes"), &accepted.volume()["full_read"]), (0, &Value::Bool(true)));
    ceph.write(image, 5 * MIB, b"after the disaster");
    let night = nights.pass();
    assert_eq!((night.number("new_chunks"), &night.volume()["full_read"]), (1, &Value::Bool(false)));
}

#[test]
fn images_of_every_make_come_back_as_they_were() {
    let (Some(ceph), Some(second)) = (Ceph::first(), Ceph::second()) else { return };
    let Some(cuttle) = Cuttle::on_rgw("makes") else { return };
    let (pool, target) = (OwnPool::new(&ceph, "makes"), OwnPool::new(&second, "back"));
    let makes: [(&str, &[&str]); 6] = [
        ("small", &["--object-size", "1M"]),
        ("usual", &["--object-size", "4M"]),
        ("large", &["--object-size", "8M"]),
        ("striped", &["--object-size", "1M", "--stripe-unit", "65536", "--stripe-count", "3"]),
        ("plain", &["--image-feature", "layering"]),
        ("parent", &[]),
    ];
    let mut numbers = Numbers::new(23);
    // All images are larger than this.
    let mut fill = |path: &str, count: u64| {
        for _ in 0..count {
            let (offset, length) = (numbers.below(8 * MIB), 1 + numbers.below(MIB) as usize);
            ceph.write(path, offset, &numbers.bytes(length));
        }
    };
    for (name, args) in makes {
        let path = format!("makes/{name}");
        ceph.create(&path, 25 * MIB + 512, args);
        fill(&path, 4);
        ceph.rbd(&["image-meta", "set", &path, "owner", name]);
    }
    ceph.rbd(&["snap", "create", "--no-progress", "makes/parent@golden"]);
    ceph.rbd(&["snap", "protect", "makes/parent@golden"]);
    ceph.rbd(&["clone", "makes/parent@golden", "makes/clone"]);
    fill("makes/clone", 1);
    ceph.rbd(&["namespace", "create", "makes/tenant"]);
    ceph.create("makes/tenant/usual", 9 * MIB + 4096, &[]);
    fill("makes/tenant/usual", 2);

    let names =
        ["clone", "large", "parent", "plain", "small", "striped", "usual"].map(|n| format!("makes/{n}"));
    let sources = ["--conf", &ceph.conf, "rbd:makes/*", "rbd:makes/tenant/usual", "--jobs", "3"];
    let mut kept = Vec::new();
    for night in 1..=2 {
        let run = cuttle.backup(&sources);
        let volumes: BTreeSet<_> =
            run.volumes.iter().map(|v| v["volume"].as_str().expect("a name")).collect();
        let expected = names.iter().map(String::as_str).chain(["makes/tenant/usual"]);
        assert_eq!(volumes, expected.clone().collect());
        for volume in expected {
            // Of the parent there is one more: the snapshot that the clone hangs on.
            let latest = cuttle.latest(volume);
            let sequence = latest["sequence"].as_u64().expect("a number");
            assert_eq!(sequence, night + u64::from(volume == "makes/parent"), "{volume}");
            let exported = latest["point"]["name"].as_str().map(|n| format!("{volume}@{n}"));
            kept.push((volume.to_owned(), sequence, ceph.export(&exported.expect("a snapshot's name"))));
            fill(volume, 2);
            ceph.discard(volume, &[(4 * MIB, 4 * MIB)]);
        }
    }
    second.rbd(&["namespace", "create", "back/tenant"]);
    for (volume, sequence, bytes) in &kept {
        let image = volume.replace("makes/", "back/");
        let found = restored(&cuttle, &second, &format!("{volume}@{sequence}"), &image);
        assert_same(&found, bytes, &format!("{volume}@{sequence}"));
        if volume != "makes/clone" {
            assert_eq!(layout(&second, &image), layout(&ceph, volume), "{volume}");
        }
    }
    assert_eq!(ceph.snapshots("makes/parent").len(), 2, "the protected snapshot and one base");
    drop((pool, target));
}

#[test]
fn a_ceph_user_with_the_documented_capabilities_can_do_all_of_it() {
    let (Some(ceph), cuttle) = (Ceph::first(), Cuttle::in_folder()) else { return };
    let pool = OwnPool::new(&ceph, "caps");
    let key = cuttle.home().join("keyring").display().to_string();
    let caps = ["mon", "profile rbd", "osd", "profile rbd pool=caps"];
    ceph.ceph(&[&["auth", "get-or-create", "client.backup"], caps.as_slice(), &["-o", &key]].concat());
    ceph.create("caps/vm", 12 * MIB, &[]);
    let user = ["--conf", &ceph.conf, "--id", "backup", "--keyring", &key];
    let run = |args: &[&str]| cuttle.ok(&[args, user.as_slice()].concat());
    for night in 0..3 {
        ceph.write("caps/vm", night * 4 * MIB, b"changed");
        let taken = cuttle.backup(&[&["rbd:caps/vm"], user.as_slice()].concat());
        assert_eq!((taken.volume()["full_read"].as_bool(), taken.notes()), (Some(night == 0), "[]".into()));
    }
    run(&["verify", "caps/vm", "--against", "rbd:caps/vm"]);
    run(&["restore", "caps/vm", "rbd:caps/back"]);
    assert_same(&ceph.export("caps/back"), &ceph.export("caps/vm"), "the restored image");
    run(&["restore", "caps/vm@1", "rbd:caps/back", "--overwrite"]);
    assert_ne!(ceph.export("caps/back"), ceph.export("caps/vm"));
    let said = cuttle.fails(1, &[&["backup", "rbd:rbd/any"], user.as_slice()].concat());
    assert!(said.contains("capability"), "{said}");
    ceph.ceph(&["auth", "rm", "client.backup"]);
    drop(pool);
}

#[test]
fn an_image_that_is_another_one_is_refused_with_both_sides_named() {
    let (Some(ceph), cuttle) = (Ceph::first(), Cuttle::in_folder()) else { return };
    let image = "rbd/nightly-again";
    let id = || {
        let info: Value =
            serde_json::from_slice(&ceph.rbd(&["info", "--format", "json", image])).expect("JSON");
        info["id"].as_str().expect("an id").to_owned()
    };
    ceph.create(image, 8 * MIB, &[]);
    let before = id();
    cuttle.backup(&["--conf", &ceph.conf, "rbd:nightly-again"]);
    ceph.create(image, 8 * MIB, &[]);
    let said = cuttle.fails(1, &["backup", "--conf", &ceph.conf, "rbd:nightly-again"]);
    for part in [&before, &id(), "rbd/nightly-again", "--accept-new-identity"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert_eq!(ceph.snapshots(image), Vec::<String>::new());
    ceph.purge(image);
}

#[test]
fn a_base_that_was_removed_by_hand_costs_a_full_read_and_no_more() {
    let (Some(ceph), cuttle) = (Ceph::first(), Cuttle::in_folder()) else { return };
    let image = "rbd/nightly-base";
    ceph.create(image, 24 * MIB, &[]);
    ceph.write(image, 0, &Numbers::new(5).bytes(9 << 20));
    let mut nights = Nights { ceph: &ceph, cuttle: &cuttle, image, kept: Vec::new() };
    nights.pass();
    ceph.rbd(&["snap", "create", "--no-progress", "rbd/nightly-base@mine"]);
    let base = ceph.snapshots(image).into_iter().find(|s| is_own(s)).expect("a base");
    ceph.rbd(&["snap", "rm", "--no-progress", &format!("{image}@{base}")]);
    ceph.write(image, 13 * MIB, b"changed");
    let night = nights.pass();
    assert_eq!((night.number("new_chunks"), &night.volume()["full_read"]), (1, &Value::Bool(true)));
    assert!(night.notes().contains(&base), "{}", night.notes());
    assert!(night.stderr.contains(&base), "{}", night.stderr);
    let restored = cuttle.ok(&["restore", image, "-"]);
    assert_same(&restored, &nights.kept[1].bytes, "the night after");
    ceph.purge(image);
}

#[test]
fn a_snapshot_is_compared_with_the_live_one_that_it_came_from() {
    let (Some(ceph), cuttle) = (Ceph::first(), Cuttle::in_folder()) else { return };
    let image = "rbd/nightly-against";
    ceph.create(image, 17 * MIB + 512, &[]);
    ceph.write(image, 5 * MIB, &Numbers::new(6).bytes(6 << 20));
    let conf = ceph.conf.as_str();
    cuttle.backup(&["--conf", conf, "rbd:nightly-against"]);
    // The image goes on; the snapshot that was backed up is what is compared.
    ceph.write(image, 9 * MIB, b"changed");
    cuttle.ok(&["verify", image, "--conf", conf, "--against", "rbd:nightly-against"]);
    ceph.rbd(&["snap", "create", "--no-progress", "rbd/nightly-against@tue"]);
    cuttle.backup(&["--conf", conf, "rbd:nightly-against@tue"]);
    let by_name = "rbd/nightly-against@tue";
    cuttle.ok(&["verify", by_name, "--conf", conf, "--against", "rbd:nightly-against"]);
    cuttle.ok(&["verify", by_name, "--conf", conf, "--against", "rbd:nightly-against@tue"]);

    let first = format!("{image}@1");
    let other = ["--json", "verify", &first, "--conf", conf, "--against", "rbd:nightly-against@tue"];
    let said = cuttle.run(&other, &[]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let report: Value = serde_json::from_slice(&said.stdout).expect("one line of JSON");
    let expected = serde_json::json!([{ "offset_bytes": 8 * MIB, "length_bytes": 4 * MIB }]);
    assert_eq!((&report["differing"], &report["ok"]), (&expected, &Value::Bool(false)));
    // Its own snapshot is gone since the second backup, and nothing else is taken for it.
    let gone = cuttle.fails(1, &["verify", &first, "--conf", conf, "--against", "rbd:nightly-against"]);
    assert!(gone.contains("0000000001"), "{gone}");
    ceph.purge(image);
}

#[test]
fn the_cost_of_a_night_follows_what_changed() {
    let Some(ceph) = Ceph::first() else { return };
    let Some(cuttle) = Cuttle::on_rgw("cost") else { return };
    let image = "rbd/nightly-cost";
    ceph.create(image, 1 << 40, &[]);
    let sources = ["--conf", &ceph.conf, "rbd:nightly-cost"];
    let mut numbers = Numbers::new(29);
    // Forty spots of 1 MiB all over the image, each in a chunk of its own.
    let change = |numbers: &mut Numbers| {
        for spot in 0..40 {
            ceph.write(image, spot * (25 << 30) + 4 * MIB * numbers.below(100), &numbers.bytes(1 << 20));
        }
    };
    change(&mut numbers);
    let first = cuttle.backup(&sources);
    assert_eq!(first.number("new_chunks"), 40);
    change(&mut numbers);
    let second = cuttle.backup(&sources);
    assert!((40..=80).contains(&second.number("new_chunks")), "{second:?}");
    assert_eq!(second.volume()["full_read"], false);
    assert!(second.number("read_bytes") <= 128 * 4 * MIB, "{second:?}");
    // A chunk and a page of the manifest for each spot, and a constant.
    assert!(second.requests() <= 40 + 40 + 18, "{}", second.summary);
    ceph.write(image, 7 << 30, &numbers.bytes(40 << 20));
    let third = cuttle.backup(&sources);
    assert_eq!(third.number("new_chunks"), 10);
    assert!(third.requests() <= 10 + 1 + 18, "{}", third.summary);
    assert!(third.number("read_bytes") <= (40 + 64) * MIB, "{third:?}");
    let quiet = cuttle.backup(&sources);
    assert_eq!(quiet.number("new_bytes"), 0);
    assert!(quiet.requests() <= 16, "{}", quiet.summary);
    ceph.purge(image);
}

#[test]
fn two_backups_of_one_volume_at_once_break_nothing() {
    let Some(ceph) = Ceph::first() else { return };
    let Some(cuttle) = Cuttle::on_rgw("twice") else { return };
    let image = "rbd/nightly-twice";
    ceph.create(image, 32 * MIB, &[]);
    let mut numbers = Numbers::new(31);
    for round in 0..4 {
        for _ in 0..3 {
            ceph.write(image, numbers.below(31 * MIB), &numbers.bytes(1 << 20));
        }
        let args = ["backup", "--conf", &ceph.conf, "rbd:nightly-twice"];
        let runs = thread::scope(|scope| {
            let runs = [0, 1].map(|_| scope.spawn(|| cuttle.run(&args, &[])));
            runs.map(|run| run.join().expect("a run"))
        });
        assert!(runs.iter().any(|run| run.code == Some(0)), "round {round}: {runs:?}");
        for run in runs.iter().filter(|run| run.code != Some(0)) {
            assert_eq!(run.code, Some(1), "{run:?}");
            assert!(run.stderr.contains("another backup of this volume"), "{run:?}");
        }
        let expected = ceph.export(image);
        assert_same(&cuttle.ok(&["restore", image, "-"]), &expected, &format!("round {round}"));
    }
    cuttle.ok(&["verify", "--read-data"]);
    let mut nights = Nights { ceph: &ceph, cuttle: &cuttle, image, kept: Vec::new() };
    let night = nights.pass();
    assert_eq!(night.number("new_bytes"), 0);
    ceph.purge(image);
}
