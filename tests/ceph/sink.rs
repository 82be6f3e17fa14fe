//! RBD images as targets, on a real cluster. The truth is what Ceph's own `rbd export` says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::Numbers;
use crate::support::ceph::{Ceph, read_all};
use crate::support::program::Cuttle;
use crate::support::sink_suite::{self, Target};
use cuttle::rbd::{Access, OpenBy, lock, watchers};
use cuttle::sink::rbd::{Found, MARK, RbdSink, RestoreTarget};
use cuttle::sink::{Existing, Sink};
use cuttle::source::rbd::RbdReader;
use cuttle::source::{Changes, Content};
use cuttle::volume::ImageLayout;
use cuttle::{ErrorKind, Result};

const MIB: u64 = 1 << 20;

fn target<'a>(layout: &'a ImageLayout, size_bytes: u64, mark: &'a str) -> RestoreTarget<'a> {
    RestoreTarget {
        size_bytes,
        layout,
        mark,
        overwrite: false,
        data_pool: None,
        image_config: true,
        leave: &[],
        origin: None,
        keep: None,
    }
}

fn open(ceph: &Ceph, path: &str, target: &RestoreTarget<'_>) -> Result<RbdSink> {
    RbdSink::open(&ceph.cluster, &ceph.spec(path), target)
}

fn refused(result: Result<RbdSink>) -> cuttle::Error {
    let error = result.map(|_| ()).expect_err("must be refused");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.help_text().is_some(), "{error}");
    error
}

fn metadata(ceph: &Ceph, path: &str) -> Vec<(String, String)> {
    ceph.open(&ceph.spec(path), Access::ReadOnly).unwrap().metadata().list().unwrap()
}

/// Writes and zeroes a sink and a model alike.
fn scribble(sink: &RbdSink, model: &mut [u8], seed: u64) {
    let mut numbers = Numbers::new(seed);
    for i in 0..60 {
        let offset = numbers.below(model.len() as u64);
        let length = (1 + numbers.below([100, 70_000, 5 * MIB][i % 3])).min(model.len() as u64 - offset);
        let part = &mut model[offset as usize..(offset + length) as usize];
        if numbers.below(2) == 0 {
            part.fill(1 + numbers.below(255) as u8);
            sink.write_at(offset, part).unwrap();
        } else {
            part.fill(0);
            sink.zero_at(offset, length).unwrap();
        }
    }
}

/// A target of the suite that all sinks share: the image is absent, or holds something else before.
struct Suite<'a> {
    ceph: &'a Ceph,
    path: &'static str,
    overwrite: bool,
}

impl Target for Suite<'_> {
    fn open(&self, size_bytes: u64) -> Box<dyn Sink> {
        self.ceph.purge(self.path);
        if self.overwrite {
            self.ceph.create(self.path, 2 * MIB, &["--object-size", "64K"]);
            self.ceph.write(self.path, 0, &[0xaa; 2 << 20]);
        }
        let layout = ImageLayout { order: 20, ..ImageLayout::default() };
        let target = RestoreTarget { overwrite: self.overwrite, ..target(&layout, size_bytes, "aa") };
        Box::new(open(self.ceph, self.path, &target).expect("open the sink"))
    }

    fn content(&self, size_bytes: u64) -> Vec<u8> {
        let content = self.ceph.export(self.path);
        assert_eq!(content.len() as u64, size_bytes);
        content
    }
}

#[test]
fn the_suite_of_all_sinks() {
    let Some(ceph) = &Ceph::first() else { return };
    for (path, overwrite) in [("rbd/suite-new", false), ("rbd/suite-existing", true)] {
        sink_suite::check(|| Suite { ceph, path, overwrite });
        ceph.purge(path);
    }
}

#[test]
fn a_new_image_is_made_as_recorded() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/sink-new";
    let pairs = [("conf_rbd_qos_bps_limit", "1"), ("owner", "me")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    for (order, unit, count, features) in
        [(23, 0, 0, 61), (20, 65536, 3, 63), (22, 0, 0, 0), (22, 0, 0, 1 | 1 << 40)]
    {
        ceph.purge(path);
        let layout = ImageLayout {
            order,
            features,
            stripe_unit_bytes: unit,
            stripe_count: count,
            metadata: pairs.to_vec(),
            parent: Some("rbd/gone@gold".into()),
        };
        let size = 21 * MIB + 512;
        let sink = open(&ceph, path, &target(&layout, size, "aa")).unwrap();
        assert!(matches!(sink.existing(), Existing::Blank));
        let mut model = vec![0; size as usize];
        scribble(&sink, &mut model, 7);
        assert!(sink.write_at(size - 1, &[1, 1]).is_err(), "beyond the size");
        assert!(metadata(&ceph, path).contains(&(MARK.to_owned(), "aa".to_owned())));
        sink.finish().unwrap();
        drop(sink);
        assert_eq!(metadata(&ceph, path), pairs);
        ceph.open(&ceph.spec(path), Access::ReadWrite).unwrap().metadata().remove(&pairs[0].0).unwrap();
        assert!(ceph.export(path) == model);
        let image = ceph.open(&ceph.spec(path), Access::ReadOnly).unwrap();
        assert_eq!(image.striping().unwrap().order, order);
        assert_eq!(image.striping().unwrap().count, count.max(1));
        if features != 0 {
            assert_eq!(image.features().unwrap(), features & 0xff, "unknown bits are left out");
        }
    }
    ceph.purge(path);
}

#[test]
fn an_existing_image_is_only_overwritten_when_allowed() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/sink-existing";
    let layout =
        ImageLayout { order: 20, metadata: vec![("a".into(), "b".into())], ..ImageLayout::default() };
    for size in [9 * MIB + 7, 30 * MIB] {
        ceph.create(path, 17 * MIB, &[]);
        ceph.write(path, 0, &[0xaa; 17 << 20]);
        let error = refused(open(&ceph, path, &target(&layout, size, "aa")));
        assert!(error.message().contains("sink-existing exists"), "{error}");
        let allowed = RestoreTarget { overwrite: true, ..target(&layout, size, "aa") };
        let sink = open(&ceph, path, &allowed).unwrap();
        assert_eq!(sink.found(), Found::Other);
        let Existing::Content(reader) = sink.existing() else { panic!("it held something") };
        let mut model = read_all(&*reader);
        let mut expected = vec![0xaa; 17 << 20];
        expected.resize(size as usize, 0);
        assert!(model == expected, "cut or grown with zeros");
        scribble(&sink, &mut model, 8);
        sink.finish().unwrap();
        drop(sink);
        assert!(ceph.export(path) == model);
        assert_eq!(metadata(&ceph, path), [], "an existing image keeps its own metadata");
    }
    ceph.purge(path);
}

#[test]
fn an_interrupted_restore_goes_on_and_no_other() {
    let Some(ceph) = Ceph::first() else { return };
    let path = "rbd/sink-resume";
    ceph.purge(path);
    let layout = ImageLayout { metadata: vec![("owner".into(), "me".into())], ..ImageLayout::default() };
    let sink = open(&ceph, path, &target(&layout, 8 * MIB, "aa")).unwrap();
    sink.write_at(MIB, b"kept").unwrap();
    drop(sink);
    let error = refused(open(&ceph, path, &target(&layout, 8 * MIB, "bb")));
    assert!(error.message().contains("snapshot aa") && error.message().contains("snapshot bb"), "{error}");
    let sink = open(&ceph, path, &target(&layout, 8 * MIB, "aa")).unwrap();
    assert_eq!(sink.found(), Found::Unfinished);
    let Existing::Content(reader) = sink.existing() else { panic!("it held something") };
    assert_eq!(read_all(&*reader)[MIB as usize..][..4], *b"kept");
    sink.finish().unwrap();
    drop((sink, reader));
    assert_eq!(metadata(&ceph, path), layout.metadata);
    refused(open(&ceph, path, &target(&layout, 8 * MIB, "aa")));
    ceph.purge(path);
}

#[test]
fn zeros_hide_what_a_parent_holds() {
    let Some(ceph) = Ceph::first() else { return };
    let (parent, child) = ("rbd/sink-parent", "rbd/sink-child");
    ceph.purge(child);
    ceph.create(parent, 17 * MIB, &["--object-size", "1M"]);
    ceph.write(parent, 0, &[0xaa; 17 << 20]);
    ceph.rbd(&["snap", "create", "--no-progress", &format!("{parent}@gold")]);
    ceph.rbd(&["snap", "protect", &format!("{parent}@gold")]);
    for seed in [9, 10] {
        ceph.rbd(&["clone", &format!("{parent}@gold"), child, "--object-size", "1M"]);
        let layout = ImageLayout::default();
        let allowed = RestoreTarget { overwrite: true, ..target(&layout, 17 * MIB, "aa") };
        let sink = open(&ceph, child, &allowed).unwrap();
        let mut model = vec![0xaa; 17 << 20];
        scribble(&sink, &mut model, seed);
        sink.finish().unwrap();
        drop(sink);
        assert!(ceph.export(child) == model);
        ceph.purge(child);
    }
    ceph.purge(parent);
}

#[test]
fn an_image_open_elsewhere_is_not_touched() {
    let (Some(ceph), Some(other)) = (Ceph::first(), Ceph::first()) else { return };
    let path = "rbd/sink-open";
    ceph.create(path, 4 * MIB, &[]);
    let guest = other.open(&other.spec(path), Access::ReadWrite).unwrap();
    let layout = ImageLayout::default();
    let allowed = RestoreTarget { overwrite: true, ..target(&layout, 4 * MIB, "aa") };
    let began = Instant::now();
    let error = refused(open(&ceph, path, &allowed));
    assert!(error.message().contains("client."), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10), "refused at once");
    // Of an unfinished restore it is likely the one that died: it is waited for.
    guest.metadata().set(MARK, "aa").unwrap();
    let sink = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| open(&ceph, path, &allowed));
        drop(guest);
        waiting.join().unwrap().unwrap()
    });
    assert_eq!(sink.found(), Found::Unfinished);
    // While it is restored, the lock keeps others from writing: they are asked to wait, or refused.
    assert!(!watchers(&ceph.open(&ceph.spec(path), Access::ReadOnly).unwrap()).unwrap().is_empty());
    drop(sink);
    ceph.purge(path);
}

#[test]
fn a_volume_moves_to_another_cluster() {
    let (Some(from), Some(to)) = (Ceph::first(), Ceph::second()) else { return };
    let path = "rbd/moved";
    from.create(path, 19 * MIB, &["--object-size", "1M"]);
    from.write(path, 3 * MIB + 100, &[5; 2 << 20]);
    to.purge(path);
    let frozen = from.freeze(path, "1", None);
    let layout = frozen.layout();
    let sink = open(&to, path, &target(&layout, frozen.reader().size_bytes(), "aa")).unwrap();
    let Changes::All(extents) = frozen.changes().unwrap() else { panic!("the first backup reads all") };
    assert!(!extents.is_empty());
    for extent in extents {
        assert_eq!(extent.content, Content::Data);
        let mut data = vec![0; extent.length_bytes as usize];
        frozen.reader().read_at(extent.offset_bytes, &mut data).unwrap();
        sink.write_at(extent.offset_bytes, &data).unwrap();
    }
    sink.finish().unwrap();
    drop((sink, frozen));
    assert!(from.export(path) == to.export(path));
    assert_ne!(from.cluster.fsid(), to.cluster.fsid());
    let pool = to.cluster.pool("rbd", "").unwrap();
    let image = cuttle::rbd::Image::open(&pool, OpenBy::Name("moved"), Access::ReadOnly).unwrap();
    assert_eq!(image.striping().unwrap().order, 20);
    drop(image);
    from.purge(path);
    to.purge(path);
}

#[test]
fn a_thin_image_stays_thin() {
    let (Some(from), Some(to)) = (Ceph::first(), Ceph::second()) else { return };
    let (path, cuttle) = ("rbd/thin", Cuttle::in_folder());
    from.create(path, 64 * MIB, &[]);
    for chunk in 0..16 {
        from.write(path, chunk * 4 * MIB + chunk * 200_000, &[7; 4096]);
    }
    to.purge(path);
    cuttle.backup(&["rbd:rbd/thin", "--conf", &from.conf]);
    cuttle.json(&["restore", "rbd/thin", "rbd:rbd/thin", "--conf", &to.conf]);
    assert!(from.export(path) == to.export(path));
    // Ceph says of each object only where its data ends.
    let taken_bytes = |ceph: &Ceph| ceph.diff(&[path]).iter().map(|extent| extent.length_bytes).sum::<u64>();
    let (before, after) = (taken_bytes(&from), taken_bytes(&to));
    assert!(after <= before + 16 * (64 << 10), "{after} bytes are taken, and were {before}");
    from.purge(path);
    to.purge(path);
}

/// After a rollback to a snapshot whose object map is marked invalid the image's map is valid and empty (16.2): zeros are read
/// where old content lies, which a restore of zeros must not leave there.
#[test]
fn what_a_wrong_object_map_hides_is_not_left_below() {
    let Some(ceph) = Ceph::first() else { return };
    let cuttle = Cuttle::in_folder();
    let (path, conf) = ("rbd/below", ceph.conf.as_str());
    let size = (8 * MIB).to_string();
    let mut volume = vec![0; 8 * MIB as usize];
    volume[..4096].fill(7);
    cuttle.run(&["backup", "-", "--volume", "v", "--size", &size], &volume);
    for how in [&["--verify"][..], &["--no-compare"]] {
        ceph.purge(path);
        ceph.create(path, 8 * MIB, &["--image-feature", "exclusive-lock"]);
        ceph.write(path, 0, &[0xee; 8 << 20]);
        ceph.rbd(&["snap", "create", "--no-progress", &format!("{path}@old")]);
        ceph.rbd(&["feature", "enable", path, "object-map", "fast-diff"]);
        ceph.rbd(&["object-map", "rebuild", "--no-progress", path]);
        ceph.rbd(&["snap", "rollback", "--no-progress", &format!("{path}@old")]);
        let target = format!("rbd:{path}");
        cuttle.ok(&[&["restore", "-c", conf, "v", &target, "--overwrite"], how].concat());
        // As who owns the image reads it, by its map, and as others do, by its objects.
        let image = ceph.open(&ceph.spec(path), Access::ReadWrite).expect("open");
        lock::take(&image).expect("locked");
        let reader = RbdReader::new(Arc::new(image)).expect("read");
        assert!(read_all(&reader) == volume, "{how:?}: by its map");
        drop(reader);
        assert!(ceph.export(path) == volume, "{how:?}: by its objects");
        ceph.rbd(&["object-map", "rebuild", "--no-progress", path]);
        assert!(ceph.export(path) == volume, "{how:?}: once the map is rebuilt");
    }
    ceph.purge(path);
}
