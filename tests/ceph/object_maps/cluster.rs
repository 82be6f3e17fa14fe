//! The model and the rule on a real cluster. What is expected is always what Ceph's own `rbd export` says.

use std::sync::Arc;
use std::thread;

use cuttle::rbd::class::{object_map, snap_context};
use cuttle::rbd::diff::judge::{History as Known, Verdict, Why};
use cuttle::rbd::diff::{Comparison, End};
use cuttle::rbd::{Access, CephConfig, Cluster, Image};
use cuttle::source::rbd_head::RbdHead;
use cuttle::source::{Changes, Content, Extent, Frozen, Head};
use cuttle::volume::SnapshotPoint;

use super::histories::{Expected, HISTORIES, History, Step};
use super::model::{Bit, World};
use crate::support::Numbers;
use crate::support::ceph::{Ceph, OWN, apply, read_all};

const OBJECT: u64 = 1 << 20;

/// An image of three objects. The history is about the last, which shrinking cuts off; the first never changes.
struct Played<'a> {
    ceph: &'a Ceph,
    path: String,
    writes: u8,
    /// What the last committed backup was read from, and its bytes as the repository has them.
    base: Option<(SnapshotPoint, Vec<u8>)>,
    running: Option<Box<dyn Frozen>>,
    nights: usize,
    /// What the last night said.
    remarks: Vec<String>,
}

impl<'a> Played<'a> {
    fn new(ceph: &'a Ceph, path: &str) -> Self {
        ceph.create(path, 3 * OBJECT, &["--object-size", "1M"]);
        ceph.write(path, 0, &[0xee; 4096]);
        let path = path.to_owned();
        Self { ceph, path, writes: 0, base: None, running: None, nights: 0, remarks: Vec::new() }
    }

    fn image(&self) -> Image {
        self.ceph.open(&self.ceph.spec(&self.path), Access::ReadWrite).expect("open")
    }

    fn step(&mut self, step: Step) {
        let at = 2 * OBJECT;
        match step {
            Step::Write => {
                self.writes += 1;
                self.image().write_at(at, &[self.writes; 4096]).expect("write");
            }
            Step::Discard => self.ceph.discard(&self.path, &[(at, OBJECT)]),
            Step::Shrink => self.image().resize(2 * OBJECT).expect("shrink"),
            Step::Grow => self.image().resize(3 * OBJECT).expect("grow"),
            Step::Snap(name) => drop(self.image().snapshots().create(name).expect("snapshot")),
            Step::Remove(name) => self.image().snapshots().remove(name).expect("remove"),
            Step::RollBack(name) => self.image().snapshots().roll_back(name).expect("roll back"),
            Step::RollBackToNight(night) => {
                self.image().snapshots().roll_back(&format!("{OWN}{night}")).expect("roll back");
            }
            Step::Night => {
                self.begin();
                self.end();
            }
            Step::Begin => self.begin(),
            Step::End => self.end(),
            Step::Rebuild(night) => {
                let at = format!("{}@{OWN}{night}", self.path);
                self.ceph.rbd(&["object-map", "rebuild", "--no-progress", &at]);
            }
        }
    }

    fn begin(&mut self) {
        self.nights += 1;
        let parent = self.base.as_ref().map(|(point, _)| point.clone());
        let frozen = self.ceph.freeze(&self.path, &self.nights.to_string(), parent);
        self.remarks = frozen.remarks();
        self.running = Some(frozen);
    }

    /// The backup reads what it says has changed; it must then hold what the snapshot does.
    fn end(&mut self) {
        let frozen = self.running.take().expect("a backup is running");
        let point = frozen.point().expect("a snapshot");
        let changes = frozen.changes().expect("what changed");
        let before = self.base.take().map(|(_, bytes)| bytes);
        let all = before.is_none() || self.remarks.iter().any(|note| note.contains("all is read"));
        assert_eq!(matches!(changes, Changes::All(_)), all);
        let made = apply(&changes, &before.unwrap_or_default(), &*frozen.reader());
        let expected = self.ceph.export(&format!("{}@{}", self.path, point.name));
        assert!(made == expected, "{}: the backup is not the image", self.path);
        frozen.check().expect("still there");
        frozen.committed().expect("committed");
        self.base = Some((point, made));
    }

    /// What restoring in place and importing a diff would find.
    fn look_back(&self) {
        let Some((point, bytes)) = &self.base else { return };
        let head = RbdHead::open(&self.ceph.cluster, &self.ceph.spec(&self.path)).expect("open");
        if !head.has(point) {
            return;
        }
        let since = head.changed_since(point).expect("compared");
        let image = Arc::new(self.ceph.open(&self.ceph.spec(&self.path), Access::ReadOnly).expect("open"));
        let reader = cuttle::source::rbd::RbdReader::new(Arc::clone(&image)).expect("read");
        let now = read_all(&reader);
        assert!(apply(&Changes::Since(since.changes), bytes, &reader) == now, "{}: rewind", self.path);
        let snapshot =
            image.snapshots().list().expect("listed").into_iter().find(|s| s.id == point.rbd_snap_id);
        let snapshot = snapshot.expect("there");
        let at = self.ceph.open(&self.ceph.spec(&self.path), Access::Snapshot(snapshot.id)).expect("open");
        let base = End::at(Arc::new(at), snapshot);
        let compared =
            Comparison::new(&self.path, End::now(image), Some(base), &Known::default()).expect("looked");
        assert!(matches!(
            compared.verdict(),
            Verdict::Slow { maps_hold: true, why: Why::NotMadeHere { .. } }
        ));
        let changes = Changes::Since(compared.changed().expect("compared"));
        assert!(apply(&changes, bytes, &reader) == now, "{}: import", self.path);
    }
}

fn play(ceph: &Ceph, number: usize, history: &History) {
    let mut played = Played::new(ceph, &format!("rbd/history-{number}"));
    let last = history.steps.len() - 1;
    for (at, step) in history.steps.iter().enumerate() {
        if at == last {
            // Where the base still is the newest own snapshot: what an operator would do in place of the last night.
            played.look_back();
        }
        played.step(*step);
    }
    let (name, remarks) = (history.name, played.remarks.join("; "));
    let said = match history.expected {
        Expected::Fast => "",
        Expected::OthersThen => "the image had other snapshots too",
        Expected::MadeSince => "another snapshot was made",
        Expected::NotAlone => "still leant on older ones",
    };
    match history.expected {
        Expected::Fast => assert_eq!(remarks, "", "{name}: the ordinary night is fast"),
        _ => {
            assert!(remarks.contains("the slow diff is used") && remarks.contains(said), "{name}: {remarks}")
        }
    }
    ceph.purge(&played.path);
}

/// Found by the histories (seed 50005): after a rollback to a snapshot whose object map is marked invalid, that of the image is
/// valid and empty. Whoever uses it reads zeros, until the map is rebuilt; the objects are as they were all the time.
#[test]
fn what_a_map_hides_and_shows_again_is_seen() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/hidden";
    let mut played = Played::new(&ceph, path);
    played.step(Step::Write);
    ceph.rbd(&["feature", "disable", path, "object-map", "fast-diff"]);
    played.step(Step::Snap("x"));
    ceph.rbd(&["feature", "enable", path, "object-map", "fast-diff"]);
    ceph.rbd(&["object-map", "rebuild", "--no-progress", path]);
    played.step(Step::Night);
    assert!(held(&played).iter().any(|byte| *byte != 0));
    for rebuilt in ["", "and the snapshot's"] {
        played.step(Step::RollBack("x"));
        played.step(Step::Night);
        assert!(
            held(&played).iter().all(|byte| *byte == 0),
            "this Ceph has mended it: the case is no case any more"
        );
        assert!(played.remarks.join("; ").contains("the slow diff is used"), "{:?}", played.remarks);
        ceph.rbd(&["object-map", "rebuild", "--no-progress", path]);
        if !rebuilt.is_empty() {
            played.step(Step::Rebuild(played.nights));
        }
        played.step(Step::Night);
        assert!(held(&played).iter().any(|byte| *byte != 0));
    }
    assert!(
        played.remarks.join("; ").contains("is not what it was when that was backed up"),
        "{:?}",
        played.remarks
    );
    ceph.purge(path);
}

fn held<'a>(played: &'a Played<'_>) -> &'a [u8] {
    played.base.as_ref().map_or(&[], |(_, bytes)| bytes)
}

#[test]
fn each_history_is_backed_up_rewound_and_imported_right() {
    let Some(ceph) = Ceph::first() else { return };
    thread::scope(|scope| {
        for (number, history) in HISTORIES.iter().enumerate() {
            let ceph = &ceph;
            let played = move || play(ceph, number, history);
            thread::Builder::new().name(history.name.into()).spawn_scoped(scope, played).expect("a thread");
        }
    });
}

/// What a map says of an image's one object: by the list of all that there is, and by whether a bit is clean.
fn bit(image: &Arc<Image>, snapshot: Option<cuttle::rbd::Snapshot>) -> Bit {
    let id = snapshot.as_ref().map(|s| s.id);
    let end = End { image: Arc::clone(image), snapshot };
    let there = Comparison::new("rbd/model", end, None, &Known::default())
        .expect("looked")
        .changed()
        .expect("listed");
    match (there.is_empty(), object_map(image, id).expect("read").has_clean_bit()) {
        (true, clean) => {
            assert!(!clean);
            Bit::Absent
        }
        (false, true) => Bit::Clean,
        (false, false) => Bit::Exists,
    }
}

/// The model's maps and its fast diff are those of Ceph, after each step of random histories.
#[test]
fn the_model_is_what_ceph_does() {
    let Some(ceph) = Ceph::first() else { return };
    thread::scope(|scope| {
        for seed in 1..=4 {
            let ceph = &ceph;
            scope.spawn(move || compare_with_model(ceph, seed));
        }
    });
}

fn compare_with_model(ceph: &Ceph, seed: u64) {
    let (path, mut numbers) = (format!("rbd/model-{seed}"), Numbers::new(seed));
    ceph.create(&path, OBJECT, &["--object-size", "1M"]);
    let mut world = World::new();
    let mut names: Vec<(u8, String)> = Vec::new();
    let mut told = Vec::new();
    for step in 0..12 {
        let image = ceph.open(&ceph.spec(&path), Access::ReadWrite).expect("open");
        let some = (world.count() > 0).then(|| numbers.below(world.count() as u64) as usize);
        let some = some.and_then(|at| world.snaps().nth(at)).map(|s| s.id);
        let name = |id: u8| names.iter().find(|(i, _)| *i == id).expect("made").1.clone();
        match (numbers.below(9), some) {
            (0..=1, _) if world.head.large => {
                world.write();
                image.write_at(0, &[1 + step; 512]).expect("write");
                told.push("write".to_owned());
            }
            (2, _) if world.head.large => {
                world.discard();
                drop(image);
                ceph.discard(&path, &[(0, OBJECT)]);
                told.push("discard".to_owned());
            }
            (3, _) => {
                let large = !world.head.large;
                world.resize(large);
                image.resize(if large { OBJECT } else { 0 }).expect("resize");
                told.push(format!("resize {large}"));
            }
            (4, Some(id)) => {
                world.remove(id);
                image.snapshots().remove(&name(id)).expect("remove");
                told.push(format!("remove {id}"));
            }
            (5, Some(id)) => {
                world.roll_back(id);
                image.snapshots().roll_back(&name(id)).expect("roll back");
                told.push(format!("roll back {id}"));
            }
            _ if world.count() < 3 => {
                let id = world.create(false);
                image.snapshots().create(&format!("s{id}")).expect("snapshot");
                names.push((id, format!("s{id}")));
                told.push(format!("snapshot {id}"));
            }
            _ => continue,
        }
        let what = format!("seed {seed}: {}", told.join(", "));
        let open = |access| Arc::new(ceph.open(&ceph.spec(&path), access).expect("open"));
        let head = open(Access::ReadOnly);
        assert_eq!(bit(&head, None), world.head.bit, "{what}: the image");
        let context = snap_context(&head).expect("read");
        let snapshots = head.snapshots().list().expect("listed");
        assert_eq!(context.snapshots, snapshots.iter().map(|s| s.id).collect::<Vec<_>>(), "{what}");
        for snapshot in snapshots {
            let id = names.iter().find(|(_, name)| *name == snapshot.name).expect("made").0;
            let image = open(Access::Snapshot(snapshot.id));
            let expected = world.snap(id).expect("there").state.bit;
            assert_eq!(bit(&image, Some(snapshot.clone())), expected, "{what}: {}", snapshot.name);
            if step % 4 == 3 && world.head.large && world.snap(id).is_some_and(|s| s.state.large) {
                let listed = ceph.diff(&["--whole-object", "--from-snap", &snapshot.name, &path]);
                let lists = world.fast_lists(id, world.now());
                assert_eq!(!listed.is_empty(), lists, "{what}: fast diff from {}", snapshot.name);
            }
        }
    }
    ceph.purge(&path);
}

/// The smallest rights with which a backup works are enough for the rule.
#[test]
fn the_least_rights_are_enough_to_believe() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/least-rights";
    ceph.create(path, 4 * OBJECT, &["--object-size", "1M"]);
    ceph.write(path, 0, b"one");
    let osd = "profile rbd-read-only pool=rbd, allow rwx pool=rbd object_prefix rbd_header., allow rwx pool=rbd \
               object_prefix rbd_object_map.";
    let folder = tempfile::tempdir().expect("a folder");
    let keyring = folder.path().join("keyring");
    let user = "client.cuttle-least";
    let keyring_name = keyring.to_string_lossy().into_owned();
    ceph.ceph(&["auth", "get-or-create", user, "mon", "profile rbd", "osd", osd, "-o", &keyring_name]);
    let config = CephConfig {
        conf: Some(ceph.conf.clone().into()),
        keyring: Some(keyring),
        user: Some(user.to_owned()),
        ..CephConfig::default()
    };
    let least = Ceph { conf: ceph.conf.clone(), cluster: Cluster::connect(&config).expect("connect") };
    let mut parent = None;
    for night in 1..=3 {
        ceph.write(path, OBJECT * night, b"more");
        let frozen = least.freeze(path, &night.to_string(), parent);
        assert_eq!(frozen.remarks(), Vec::<String>::new(), "night {night}");
        parent = frozen.point();
        let made = parent.as_ref().and_then(|point| point.made.clone()).expect("recorded");
        assert_eq!(
            (made.others.len(), made.replaced_has_clean),
            (1.min(night as usize - 1), (night > 1).then_some(false))
        );
        let changed = Extent { offset_bytes: OBJECT * night, length_bytes: OBJECT, content: Content::Data };
        if night > 1 {
            assert_eq!(
                frozen.changes().expect("found"),
                Changes::Since(vec![changed]),
                "whole objects: the fast diff"
            );
        }
        frozen.committed().expect("committed");
    }
    drop(least);
    ceph.ceph(&["auth", "rm", user]);
    ceph.purge(path);
}

/// Many objects in few requests, and in the order and number that the maps say.
#[test]
fn the_slow_diff_looks_only_where_something_is() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/sparse";
    // A terabyte, of which all would take half a minute.
    ceph.create(path, 1 << 40, &[]);
    ceph.rbd(&["snap", "create", "--no-progress", &format!("{path}@first")]);
    let mut parent = None;
    for night in 0..2_u64 {
        let image = ceph.open(&ceph.spec(path), Access::ReadWrite).expect("open");
        for at in 0..40 {
            let at = (at * 6011 + night * 31) * (4 << 20) + 4096 * night;
            image.write_at(at, &[1 + night as u8; 8192]).expect("write");
        }
        drop(image);
        let frozen = ceph.freeze(path, &night.to_string(), parent);
        if night == 1 {
            let remarks = frozen.remarks();
            assert!(remarks[0].contains("asks the cluster about each of 80 objects"), "{remarks:?}");
            let Changes::Since(changes) = frozen.changes().expect("found") else { panic!("all is read") };
            assert_eq!(changes.len(), 40);
            // Of an object that only one of the maps has, all counts as changed.
            let whole = |e: &Extent| e.length_bytes == 4 << 20 && e.content == Content::Data;
            assert!(changes.iter().all(whole), "{changes:?}");
        }
        parent = frozen.point();
        frozen.committed().expect("committed");
    }
    ceph.purge(path);
}
