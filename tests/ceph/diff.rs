//! Diffs between Ceph and the repository, in both directions, on a real cluster: what arrives is what `rbd export` says.

use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::sync::{Arc, Mutex};

use crate::support::Numbers;
use crate::support::ceph::Ceph;
use crate::support::repo::{back_up_stream, default, init_on, latest, options, store};
use cuttle::cancel::Cancel;
use cuttle::diff::Limits;
use cuttle::export::{self, Output};
use cuttle::import::{ImportOptions, ImportReport, Input, import};
use cuttle::progress::Silent;
use cuttle::rbd::Access;
use cuttle::repo::Keeper;
use cuttle::repo::history::SnapshotEntry;
use cuttle::units::{Content, Extent};
use cuttle::{ErrorKind, Result};
use object_store::memory::InMemory;

/// Chunks and objects are alike, so that `rbd diff --whole-object` can be compared with.
const OBJECT: u32 = 64 << 10;
/// Rounds of a random history, unless `CUTTLE_TEST_DIFF_ROUNDS` says otherwise.
const ROUNDS_DEFAULT: u64 = 10;

/// Images of a test, removed with it.
struct Images {
    ceph: Ceph,
    prefix: String,
}

impl Images {
    fn new(test: &str) -> Option<Self> {
        Some(Self { ceph: Ceph::first()?, prefix: format!("diff-{test}-{}", std::process::id()) })
    }

    fn path(&self, name: &str) -> String {
        format!("rbd/{}-{name}", self.prefix)
    }

    fn create(&self, name: &str, size_bytes: u64) -> String {
        let path = self.path(name);
        self.ceph.create(&path, size_bytes, &["--object-size", &OBJECT.to_string()]);
        path
    }

    fn snap(&self, path: &str, name: &str) {
        self.ceph.rbd(&["snap", "create", "--no-progress", &format!("{path}@{name}")]);
    }

    fn import(&self, path: &str, stream: &[u8], options: ImportOptions) -> Result<ImportReport> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(stream).expect("written");
        std::io::Seek::rewind(&mut file).expect("rewound");
        self.import_from(path, Input::File(file), options)
    }

    fn import_from(&self, path: &str, input: Input, options: ImportOptions) -> Result<ImportReport> {
        let (cluster, spec) = (&self.ceph.cluster, self.ceph.spec(path));
        import(input, cluster, &spec, options, &Silent, &Cancel::never())
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        for name in ["clone", "copy", "checked", "image", "parent", "source"] {
            self.ceph.purge(&self.path(name));
        }
    }
}

#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn export_as(
    format: &str,
    project: &Keeper,
    from: Option<&SnapshotEntry>,
    to: &SnapshotEntry,
) -> Vec<u8> {
    let pipe = Pipe::default();
    let output = Output::Pipe(Box::new(pipe.clone()));
    let format = export::format(format).expect("a format");
    let what = export::Export::new(format, to.clone(), from.cloned());
    export::run(project, what, output, Arc::new(Silent), Cancel::never()).await.expect("exported");
    let bytes = pipe.0.lock().expect("not poisoned");
    bytes.clone()
}

async fn repository() -> Keeper {
    default(&init_on(store(Arc::new(InMemory::new())), OBJECT, true).await).await
}

/// Writes, discards and resizes as a guest and its operator would.
fn mutate(images: &Images, path: &str, numbers: &mut Numbers) {
    let ceph = &images.ceph;
    let size = || ceph.open(&ceph.spec(path), Access::ReadOnly).expect("open").size_bytes().expect("a size");
    for _ in 0..1 + numbers.below(5) {
        let size_bytes = size();
        let at = numbers.below(size_bytes);
        let len = (1 + numbers.below(200_000)).min(size_bytes - at);
        match numbers.below(8) {
            0 => {
                let new = format!("{}B", 300_000 + numbers.below(3_000_000));
                ceph.rbd(&["resize", "--no-progress", "--allow-shrink", "--size", &new, path]);
            }
            1 | 2 => ceph.discard(path, &[(at, len)]),
            3 => ceph.write(path, at, &vec![0; len as usize]),
            _ => ceph.write(path, at, &numbers.bytes(len as usize)),
        }
    }
}

/// What `cuttle diff` says lies within what `rbd diff --whole-object` says, and nothing else differs.
async fn check_changes(
    images: &Images,
    project: &Keeper,
    from: &SnapshotEntry,
    to: &SnapshotEntry,
    path: &str,
) {
    let name = |s: &SnapshotEntry| export::snapshot_name(s);
    let mut ours: Vec<Extent> = Vec::new();
    let mut found = |extent| {
        ours.push(extent);
        Ok(())
    };
    export::changes(project, Some(from), to, &mut Cancel::never(), &mut found).await.expect("listed");
    let (old, new) = (format!("{path}@{}", name(from)), format!("{path}@{}", name(to)));
    let theirs = images.ceph.diff(&["--whole-object", "--from-snap", &name(from), &new]);
    let (mut old, new) = (images.ceph.export(&old), images.ceph.export(&new));
    let old_len = old.len();
    old.resize(new.len(), 0);
    let within = |extents: &[Extent], at: u64| {
        extents.iter().any(|e| (e.offset_bytes..e.offset_bytes + e.length_bytes).contains(&at))
    };
    let object = OBJECT as usize;
    // rbd reports an image's own objects; the one that the old end lies in need not be among them.
    let cut = old_len.min(new.len()) / object;
    for (number, (old, new)) in old.chunks(object).zip(new.chunks(object)).enumerate() {
        let at = (number * object) as u64;
        if within(&ours, at) {
            assert!(within(&theirs, at) || number == cut, "{at} is in ours only: {ours:?} {theirs:?}");
            let zero = ours.iter().any(|e| e.content == Content::Zero && within(&[*e], at));
            assert_eq!(zero, new.iter().all(|b| *b == 0), "at {at}");
        } else {
            assert!(old == new, "{at} differs and is not listed");
        }
    }
}

/// One image's history by way of the repository into two others: one by `rbd import-diff`, one by ours.
async fn history(images: &Images, source: &str, seed: u64) {
    let rounds = std::env::var("CUTTLE_TEST_DIFF_ROUNDS").ok().and_then(|r| r.parse().ok());
    let (ceph, project, mut numbers) = (&images.ceph, repository().await, Numbers::new(seed));
    let (copy, checked) = (images.create("copy", OBJECT.into()), images.create("checked", OBJECT.into()));
    let mut before: Option<SnapshotEntry> = None;
    for round in 0..rounds.unwrap_or(ROUNDS_DEFAULT) {
        mutate(images, source, &mut numbers);
        let name = format!("s{round}");
        images.snap(source, &name);
        let at = format!("{source}@{name}");
        let from = before.as_ref().map(export::snapshot_name);
        let since: Vec<&str> = from.iter().flat_map(|from| ["--from-snap", from]).collect();
        let theirs = ceph.rbd(&[&["export-diff", "--no-progress"], &since[..], &[&at, "-"]].concat());
        back_up_stream(&project, theirs.clone(), &options("v")).await.expect("backed up");
        let snapshot = latest(&project, "v").await;

        let ours = export_as("diff-v1", &project, before.as_ref(), &snapshot).await;
        ceph.rbd_with(&["import-diff", "--no-progress", "-", &copy], &ours);
        let wanted = ceph.export(&at);
        assert!(ceph.export(&format!("{copy}@{name}")) == wanted, "seed {seed}, round {round}: theirs");

        // Ceph's own diff and ours, in turns. `rbd import-diff` takes the first version only.
        let stream = match numbers.below(3) {
            0 => theirs,
            1 => ours,
            _ => export_as("diff-v2", &project, before.as_ref(), &snapshot).await,
        };
        let report = images.import(&checked, &stream, ImportOptions::default()).expect("imported");
        assert_eq!((&report.from, report.to.as_ref()), (&from, Some(&name)));
        assert!(ceph.export(&format!("{checked}@{name}")) == wanted, "seed {seed}, round {round}: ours");
        assert!(ceph.export(&checked) == wanted, "and so is the image itself");
        if let Some(before) = &before {
            check_changes(images, &project, before, &snapshot, source).await;
        }
        before = Some(snapshot);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_to_the_repository_and_back_by_diffs() {
    let Some(images) = Images::new("plain") else { return };
    let source = images.create("source", 2_000_000);
    history(&images, &source, 21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_goes_to_the_repository_and_back_by_diffs() {
    let Some(images) = Images::new("clone") else { return };
    let parent = images.create("parent", 1_500_000);
    images.ceph.write(&parent, 100_000, &Numbers::new(22).bytes(900_000));
    images.snap(&parent, "base");
    images.ceph.rbd(&["snap", "protect", &format!("{parent}@base")]);
    let clone = images.path("clone");
    images.ceph.purge(&clone);
    images.ceph.rbd(&["clone", &format!("{parent}@base"), &clone]);
    history(&images, &clone, 23).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_made_anew_and_followed_by_diffs() {
    let Some(images) = Images::new("image") else { return };
    let (ceph, project, mut numbers) = (&images.ceph, repository().await, Numbers::new(24));
    let source = images.create("source", 2_000_000);
    ceph.rbd(&["image-meta", "set", &source, "owner", "somebody"]);
    mutate(&images, &source, &mut numbers);
    let stream = ceph.rbd(&["export", "--no-progress", "--export-format", "2", &source, "-"]);
    back_up_stream(&project, stream, &options("v")).await.expect("backed up");
    let first = latest(&project, "v").await;
    let image = images.path("image");
    let exported = export_as("image-v2", &project, None, &first).await;
    ceph.rbd_with(&["import", "--no-progress", "--export-format", "2", "-", &image], &exported);
    assert!(ceph.export(&image) == ceph.export(&source));
    let info = |path: &str| {
        let info: serde_json::Value =
            serde_json::from_slice(&ceph.rbd(&["info", "--format", "json", path])).expect("JSON");
        (info["object_size"].clone(), info["size"].clone(), info["features"].clone())
    };
    assert_eq!(info(&image), info(&source));
    assert_eq!(ceph.rbd(&["image-meta", "get", &image, "owner"]), b"somebody\n");
    // The snapshot that was exported is there, so that the next diff has something to stand on.
    assert_eq!(ceph.snapshots(&image), [export::snapshot_name(&first)]);
}

/// Two diffs of an image, from nothing to `a` and from `a` to `b`, and what it holds at each.
struct Pair {
    diffs: [Vec<u8>; 2],
    contents: [Vec<u8>; 2],
}

fn pair(images: &Images) -> Pair {
    let (ceph, source) = (&images.ceph, images.create("source", 1_000_000));
    ceph.write(&source, 10_000, &Numbers::new(25).bytes(500_000));
    images.snap(&source, "a");
    ceph.write(&source, 300_000, &Numbers::new(26).bytes(300_000));
    ceph.discard(&source, &[(0, 131_072)]);
    ceph.rbd(&["resize", "--no-progress", "--size", "1200000B", &source]);
    images.snap(&source, "b");
    let export = |args: &[&str]| ceph.rbd(&[&["export-diff", "--no-progress"], args].concat());
    let (a, b) = (format!("{source}@a"), format!("{source}@b"));
    let diffs = [export(&[&a, "-"]), export(&["--from-snap", "a", &b, "-"])];
    Pair { diffs, contents: [ceph.export(&a), ceph.export(&b)] }
}

/// An import that must be refused as a conflict, and leave the image as it was.
#[track_caller]
fn refused(images: &Images, path: &str, stream: &[u8], options: ImportOptions, why: &str) {
    let (content, snapshots) = (images.ceph.export(path), images.ceph.snapshots(path));
    let error = images.import(path, stream, options).expect_err(why);
    assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Corrupt | ErrorKind::Invalid), "{error}");
    assert!(error.message().contains(why), "{error}");
    assert!(error.help_text().is_some(), "{error}");
    assert!(images.ceph.export(path) == content, "{why}: nothing was written");
    assert_eq!(images.ceph.snapshots(path), snapshots);
}

#[test]
fn a_target_in_the_wrong_state_is_refused() {
    let Some(images) = Images::new("state") else { return };
    let Pair { diffs: [first, second], contents: [at_a, at_b] } = pair(&images);
    let (ceph, plain) = (&images.ceph, ImportOptions::default());
    let discard = ImportOptions { discard_changes: true, ..plain };
    let path = images.create("checked", 1_000_000);

    refused(&images, &path, &second, plain, "does not have");
    ceph.write(&path, 700_000, b"somebody's");
    refused(&images, &path, &first, plain, "holds data near offset 6");
    refused(&images, &path, &first, discard, "holds data near offset 6");
    ceph.write(&path, 700_000, &[0; 10]);
    let dry = images.import(&path, &first, ImportOptions { dry_run: true, ..plain }).expect("could be");
    assert!(dry.dry_run && ceph.snapshots(&path).is_empty());
    images.import(&path, &first, plain).expect("written with zeros it is as good as new");
    assert!(ceph.export(&path) == at_a);
    refused(&images, &path, &first, plain, "has snapshot \"a\" already");

    // Written to, resized, and in both ways brought back.
    ceph.write(&path, 999_999, &[at_a[999_999] ^ 1]);
    refused(&images, &path, &second, plain, "at offset 999999 it was written to");
    ceph.write(&path, 999_999, &at_a[999_999..]);
    ceph.rbd(&["resize", "--no-progress", "--size", "1000001B", &path]);
    refused(&images, &path, &second, plain, "it has 1000001 bytes, and had 1000000 then");
    let report = images.import(&path, &second, discard).expect("rolled back and imported");
    assert!(report.discarded_changes);
    assert!(ceph.export(&path) == at_b && ceph.snapshots(&path) == ["a", "b"]);
    refused(&images, &path, &second, discard, "has snapshot \"b\" already");

    // A rollback by hand is as good, although librbd reports all of it as touched.
    ceph.rbd(&["snap", "rm", "--no-progress", &format!("{path}@b")]);
    refused(&images, &path, &second, plain, "it has 1200000 bytes");
    ceph.rbd(&["snap", "rollback", "--no-progress", &format!("{path}@a")]);
    assert!(!images.import(&path, &second, plain).expect("imported").discarded_changes);
    assert!(ceph.export(&path) == at_b);
}

#[test]
fn a_damaged_diff_is_refused_before_anything_is_written() {
    let Some(images) = Images::new("damaged") else { return };
    let Pair { diffs: [first, second], contents: [at_a, at_b] } = pair(&images);
    let (ceph, plain) = (&images.ceph, ImportOptions::default());
    let path = images.create("checked", 1_000_000);
    images.import(&path, &first, plain).expect("imported");
    refused(&images, &path, &second[..second.len() - 1], plain, "the stream ends");
    refused(&images, &path, &second[..second.len() / 2], plain, "the stream ends");
    refused(&images, &path, &[&second[..], b"e"].concat(), plain, "after the end");
    refused(&images, &path, &vec![1; 4096], plain, "expected an rbd diff");
    assert!(ceph.export(&path) == at_a);

    // Of a pipe it shows too late: then the new snapshot is not made, and there is a way back.
    let cut = second[..second.len() - 1].to_vec();
    let error =
        images.import_from(&path, Input::Pipe(Box::new(Cursor::new(cut))), plain).expect_err("cut off");
    assert!(error.help_text().is_some_and(|help| help.contains("--discard-changes")), "{error:?}");
    assert_eq!(ceph.snapshots(&path), ["a"]);
    let pipe = || Input::Pipe(Box::new(Cursor::new(second.clone())));
    assert_eq!(images.import_from(&path, pipe(), plain).expect_err("changed").kind(), ErrorKind::Conflict);
    let discard = ImportOptions { discard_changes: true, limits: Limits::default(), ..plain };
    images.import_from(&path, pipe(), discard).expect("imported");
    assert!(ceph.export(&path) == at_b && ceph.snapshots(&path) == ["a", "b"]);
}

/// An image that a guest has open is nobody else's to write to.
#[test]
fn an_image_in_use_is_refused() {
    let Some(images) = Images::new("in-use") else { return };
    let Pair { diffs: [first, _], .. } = pair(&images);
    let path = images.create("checked", 1_000_000);
    let guest = images.ceph.open(&images.ceph.spec(&path), Access::ReadWrite).expect("open");
    refused(&images, &path, &first, ImportOptions::default(), "open elsewhere");
    drop(guest);
    images.import(&path, &first, ImportOptions::default()).expect("imported");
}

/// The commands, as an operator types them.
#[test]
fn the_program_exports_lists_inspects_and_imports() {
    let Some(images) = Images::new("program") else { return };
    let Pair { diffs: [first, second], contents: [_, at_b] } = pair(&images);
    let (ceph, cuttle) = (&images.ceph, crate::support::program::Cuttle::in_folder());
    for diff in [&first, &second] {
        cuttle.backup_stream(&["-", "--volume", "v"], diff);
    }
    let path = images.create("checked", 1_000_000);
    let (target, conf) = (format!("rbd:{path}"), ceph.conf.clone());
    let file = |name: &str| cuttle.home().join(name).display().to_string();
    cuttle.ok(&["export", "v@a", &file("a.diff"), "--format", "diff-v2"]);
    cuttle.ok(&["export", "v@b", &file("b.diff"), "--format", "diff-v1", "--from", "v@a"]);
    let found = cuttle.json(&["inspect", &file("b.diff")]);
    assert_eq!(found[0]["sane"], true);
    assert_eq!((&found[0]["diffs"][0]["from"], &found[0]["diffs"][0]["to"]), (&"a".into(), &"b".into()));
    for name in ["a.diff", "b.diff"] {
        cuttle.ok(&["import-diff", &file(name), &target, "--conf", &conf]);
    }
    assert!(ceph.export(&path) == at_b);
    let said = cuttle.fails(1, &["import-diff", &file("b.diff"), &target, "--conf", &conf]);
    assert!(said.contains("has snapshot \"b\" already"), "{said}");

    // Shapes are those of rbd diff, byte for byte, where there is one object and one chunk.
    for format in ["plain", "json", "xml"] {
        let ours = cuttle.ok(&["diff", "v@a", "v@b", "--format", format]);
        let whole = images.path("image");
        ceph.create(&whole, 1_200_000, &[]);
        images.snap(&whole, "a");
        ceph.write(&whole, 0, b"x");
        let theirs = ceph.rbd(&["diff", "--whole-object", "--from-snap", "a", &whole, "--format", format]);
        let (ours, theirs) = (String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs));
        assert_eq!(ours, theirs, "{format}");
    }
    let mut rest = Vec::new();
    File::open(file("a.diff")).expect("a file").read_to_end(&mut rest).expect("read");
    std::fs::write(file("cut.diff"), &rest[..rest.len() - 1]).expect("written");
    let said = cuttle.run(&["inspect", &file("cut.diff")], &[]);
    assert_eq!(said.code, Some(1));
    assert!(String::from_utf8_lossy(&said.stdout).contains("the stream ends where"), "{said:?}");
}
