//! What cuttle does in a history, and whether it was right.

use std::io::{Cursor, Seek, Write};
use std::sync::{Arc, Mutex};

use cuttle::backup::{self, BackupOptions, BackupReport, DeltaMode, Input};
use cuttle::cancel::{self, Cancel};
use cuttle::diff::DiffVersion;
use cuttle::import::{self, ImportOptions};
use cuttle::progress::Silent;
use cuttle::rbd::RbdSpec;
use cuttle::restore::{self, RestoreOptions, rewind};
use cuttle::sink::rbd::{RbdSink, RestoreTarget};
use cuttle::sink::{Existing, Sink};
use cuttle::source::diff_stream;
use cuttle::source::rbd::{RbdReader, RbdVolume};
use cuttle::source::rbd_head::RbdHead;
use cuttle::verify::{self, VerifyOptions};
use cuttle::{Error, ErrorKind, forget};

use crate::operator::{Image, Snapshot};
use crate::oracle::{Diff, Grain, difference};
use crate::steps::Step;
use crate::support::warnings::Warnings;
use crate::world::{Finding, Known, Result, Seen, Watch, World, along, say};

const BLOCKS: [usize; 3] = [512, 4096, 65536];

impl World<'_> {
    pub fn make(&mut self, step: &Step) -> Result<()> {
        match step.kind {
            "backup" => self.back_up(step, false),
            "backup_named" => self.back_up(step, true),
            "restore" => self.restore(step, false),
            "restore_new" => self.restore(step, true),
            "import" => self.import(step),
            "stream" => self.stream(step),
            "verify" => self.verify(step),
            _ => self.forget(step),
        }
    }

    fn spec(&self, image: &str, snapshot: Option<String>) -> RbdSpec {
        let (pool, namespace) = (self.place.pool.clone(), String::new());
        RbdSpec { pool, namespace, image: image.to_owned(), snapshot }
    }

    fn back_up(&mut self, step: &Step, named: bool) -> Result<()> {
        let images = self.look()?;
        let Some(image) = along(step.numbers[0], &images).cloned() else { return Ok(()) };
        let named = match named {
            true => match along(step.numbers[1], &image.snapshots) {
                Some(snapshot) => Some(snapshot.name.clone()),
                None => return Ok(()),
            },
            false => None,
        };
        let spec = self.spec(&image.name, named.clone());
        let options = BackupOptions {
            accept_new_identity: !step.numbers[2].is_multiple_of(8),
            delta: if (step.numbers[2] / 8).is_multiple_of(8) { DeltaMode::Never } else { DeltaMode::Auto },
            full: (step.numbers[2] / 64).is_multiple_of(32),
            ..BackupOptions::new(image.name.parse().expect("a volume's name"))
        };
        say(format_args!(
            "backup {spec}{}",
            if options.accept_new_identity { "" } else { " of the same image" }
        ));
        let watch = Arc::new(Watch {
            operator: Arc::clone(&self.place.operator),
            image: image.clone(),
            named,
            during: step.during.clone(),
            stop: Mutex::default(),
            seen: Mutex::default(),
        });
        let (canceller, cancel) = cancel::pair();
        // Somebody stops it: at its first, second or third phase.
        let stopped = (step.numbers[2] / 2048).is_multiple_of(16);
        if stopped {
            let at = step.numbers[2] as usize / 32768 % 3 + 1;
            *watch.stop.lock().expect("not poisoned") = Some((at, canceller));
        }
        let (cluster, progress) = (self.place.ceph.cluster.clone(), Arc::clone(&watch));
        let report = RbdVolume::open(&cluster, &spec).and_then(|volume| {
            let input = Input::Volume(Arc::new(volume));
            let run = backup::run(&self.project, input, &options, progress, cancel);
            self.place.runtime.block_on(run)
        });
        let mut seen = std::mem::take(&mut *watch.seen.lock().expect("not poisoned"));
        for (kind, done) in std::mem::take(&mut seen.done) {
            self.operated(kind, &done, "  meanwhile: ");
        }
        if let Some(finding) = seen.failed.take() {
            return Err(finding);
        }
        match report {
            Ok(report) => self.backed_up(&report, &image, &seen),
            Err(error) => {
                self.refused("backup", &error)?;
                let identity = !options.accept_new_identity && error.kind() == ErrorKind::Conflict;
                let reason = !step.during.is_empty() || identity || image.migrating;
                if reason || (stopped && error.kind() == ErrorKind::Interrupted) {
                    Ok(())
                } else {
                    Err(unfounded("backup", &error))
                }
            }
        }
    }

    /// Checks a backup that was committed against what librbd reads at its snapshot.
    fn backed_up(&mut self, report: &BackupReport, image: &Image, seen: &Seen) -> Result<()> {
        let how = match (report.full_read, report.remarks.iter().any(|note| note.contains("slow diff"))) {
            (true, _) => "full",
            (false, true) => "slow",
            (false, false) => "fast",
        };
        self.count(&format!("backup: {how}"));
        let entry = self.find(&report.volume, report.sequence)?;
        let point = entry.snapshot.point.clone();
        let id = point.as_ref().map_or(0, |p| p.rbd_snap_id);
        say(format_args!("  {how}: {}@{} of snapshot id {id}", report.volume, entry.snapshot.sequence));
        let bytes = match &seen.frozen {
            Some((frozen, bytes)) if *frozen == id => Some(bytes.clone()),
            _ => self.place.operator().read(&image.id, Some(id))?,
        };
        let Some(bytes) = bytes else {
            self.count("backup: its snapshot was gone before it could be read");
            return Ok(());
        };
        let known = Known { entry, bytes: Arc::new(bytes) };
        self.look_at(&known, "backup")?;
        // A second pass over the source: it was found out by its sample, which on a large image it would not have been.
        let passes = seen.phases.iter().filter(|phase| *phase == "backing up").count();
        if passes > 1 {
            return Err(Finding::new("missed change", seen.warnings.join("; ")));
        }
        self.known.push(known);
        Ok(())
    }

    fn find(&self, volume: &str, sequence: Option<u32>) -> Result<cuttle::repo::history::SnapshotEntry> {
        let spec = format!("{volume}@{}", sequence.unwrap_or_default());
        let found = self.place.runtime.block_on(self.project.volumes().snapshot(&spec));
        found.map_err(|e| Finding::new("backup", format!("{spec} was made and cannot be found: {e}")))
    }

    fn restore(&mut self, step: &Step, anew: bool) -> Result<()> {
        let images = self.look()?;
        let free = ["a", "b", "c", "d", "e"].map(str::to_owned).into_iter();
        let free: Vec<_> = free.filter(|name| images.iter().all(|image| image.name != *name)).collect();
        let target = if anew { None } else { along(step.numbers[0], &images).cloned() };
        let name = match &target {
            Some(image) => image.name.clone(),
            None => match along(step.numbers[0], &free) {
                Some(name) => name.clone(),
                None => return Ok(()),
            },
        };
        // Mostly what belongs there, and mostly one of the newest.
        let volume = &name;
        let own: Vec<_> = self.known.iter().filter(|k| k.entry.volume_name == *volume).cloned().collect();
        let from = if own.is_empty() || step.numbers[2].is_multiple_of(5) { &self.known } else { &own };
        let Some(known) = along(step.numbers[1], from).cloned() else { return Ok(()) };
        let overwrite = !(step.numbers[2] / 5).is_multiple_of(8);
        say(format_args!("restore {} {name}{}", known.name(), if overwrite { " --overwrite" } else { "" }));
        let before = target.as_ref().map(|image| self.head(image)).transpose()?;
        match self.restored(step, &known, &name, overwrite) {
            Ok(()) => {
                let images = self.look()?;
                let found = images.iter().find(|image| image.name == name);
                let found = found.ok_or_else(|| Finding::new("restore", format!("no image {name}")))?;
                match difference(&self.head(found)?, &known.bytes) {
                    Some(how) => Err(Finding::new("restore", format!("{} on {name}: {how}", known.name()))),
                    None => Ok(()),
                }
            }
            Err(Failed::Warned(warned)) => Err(Finding::new("missed change in a rewind", warned)),
            Err(Failed::Refused(error)) => {
                self.refused("restore", &error)?;
                let refusable = target.as_ref().is_some_and(|t| t.guest || !overwrite || t.migrating);
                if !refusable {
                    return Err(unfounded("restore", &error));
                }
                self.unchanged(target.as_ref(), before.as_deref(), "restore")
            }
        }
    }

    /// The restore itself, as the command does it.
    fn restored(&mut self, step: &Step, known: &Known, name: &str, overwrite: bool) -> Result<(), Failed> {
        let cluster = &self.place.ceph.cluster;
        let (spec, snapshot) = (self.spec(name, None), &known.entry);
        let record = &snapshot.snapshot;
        let target = RestoreTarget {
            size_bytes: record.size_bytes,
            layout: &record.layout,
            mark: &snapshot.snapshot_id.to_string(),
            overwrite,
            data_pool: None,
            image_config: true,
            leave: &[],
            origin: None,
            keep: None,
        };
        let sink: Arc<dyn Sink> = Arc::new(RbdSink::open(cluster, &spec, &target)?);
        let mut options = RestoreOptions {
            compare: !step.numbers[3].is_multiple_of(8),
            verify: (step.numbers[3] / 8).is_multiple_of(2),
            ..RestoreOptions::default()
        };
        let existing = matches!(sink.existing(), Existing::Content(_));
        if existing && options.compare && !(step.numbers[3] / 16).is_multiple_of(4) {
            let written = Arc::clone(&sink);
            let head = Arc::new(RbdHead::open(cluster, &spec)?.to_be_written(move || written.distrust()));
            let found = self.place.runtime.block_on(rewind::find(&self.project, snapshot, head))?;
            self.count(if found.is_ok() { "restore: rewound" } else { "restore: compared" });
            options.rewind = found.ok();
        }
        let watch = Arc::new(Warnings::default());
        let run = restore::run(&self.project, snapshot, sink, options, watch.clone(), Cancel::never());
        self.place.runtime.block_on(run)?;
        let warned = std::mem::take(&mut *watch.0.lock().expect("not poisoned"));
        if warned.is_empty() { Ok(()) } else { Err(Failed::Warned(warned.join("; "))) }
    }

    /// What was refused was left alone.
    fn unchanged(&self, image: Option<&Image>, before: Option<&[u8]>, what: &str) -> Result<()> {
        let (Some(image), Some(before)) = (image, before) else { return Ok(()) };
        match difference(&self.head(image)?, before) {
            Some(how) => Err(Finding::new("refused and changed", format!("{what} to {}: {how}", image.name))),
            None => Ok(()),
        }
    }

    /// A diff between two states of one image, applied to any.
    fn import(&mut self, step: &Step) -> Result<()> {
        let images = self.look()?;
        let Some(source) = along(step.numbers[0], &images).cloned() else { return Ok(()) };
        let target = if step.numbers[3].is_multiple_of(8) { 0 } else { step.numbers[3] % 4 };
        // The last is most likely a copy.
        let target = if target == 0 { along(step.numbers[2], &images) } else { images.last() };
        let Some(target) = target.cloned() else { return Ok(()) };
        let Some(diff) = self.diff_of(&source, &target, step)? else { return Ok(()) };
        let options = ImportOptions {
            discard_changes: (step.numbers[3] / 64).is_multiple_of(8),
            ..ImportOptions::default()
        };
        say(format_args!(
            "import-diff {:?} to {:?} of {} into {}{}",
            diff.from,
            diff.to,
            source.name,
            target.name,
            if options.discard_changes { " --discard-changes" } else { "" }
        ));
        let before = self.head(&target)?;
        let named = |name: &Option<String>| target.snapshots.iter().find(|s| Some(&s.name) == name.as_ref());
        let base = match (&diff.from, named(&diff.from)) {
            (None, _) => Some(vec![0; before.len()]),
            (Some(_), None) => None,
            (Some(_), Some(snapshot)) => self.place.operator().read(&target.id, Some(snapshot.id))?,
        };
        let fits = base.as_ref().is_some_and(|base| *base == before);
        let may = base.is_some()
            && named(&diff.to).is_none()
            && !target.guest
            && (fits || (options.discard_changes && diff.from.is_some()));
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&diff.stream()).and_then(|()| file.rewind()).expect("written");
        let spec = self.spec(&target.name, None);
        let input = import::Input::File(file);
        let done = import::import(input, &self.place.ceph.cluster, &spec, options, &Silent, &Cancel::never());
        match done {
            Ok(_) if !may => {
                let why =
                    if base.is_some() { "the image was changed since" } else { "its snapshot is not there" };
                Err(Finding::new("import accepted", format!("{:?} into {}: {why}", diff.from, target.name)))
            }
            Ok(_) => {
                self.count("import: applied");
                let expected = diff.apply(&base.unwrap_or_default());
                self.imported(&target, &diff, &expected)
            }
            Err(error) => {
                self.refused("import", &error)?;
                if may && !target.migrating {
                    return Err(unfounded("import", &error));
                }
                let before = Some(&*before).filter(|_| !options.discard_changes);
                self.unchanged(Some(&target), before, "import")
            }
        }
    }

    /// A diff from one snapshot, or from nothing, to a later one or the image as it is: mostly one that the target lacks, from
    /// one that it has.
    fn diff_of(&self, source: &Image, target: &Image, step: &Step) -> Result<Option<Diff>> {
        let numbers = step.numbers;
        let fitting = !(numbers[3] / 8).is_multiple_of(4);
        let has = |s: &&Snapshot| target.snapshots.iter().any(|t| t.name == s.name);
        let from: Vec<_> = source.snapshots.iter().filter(|s| !fitting || has(s)).collect();
        let from =
            along(numbers[1], &from).copied().filter(|_| fitting || !(numbers[3] / 32).is_multiple_of(2));
        let later = source.snapshots.iter().filter(|s| from.is_none_or(|f| f.id < s.id));
        let later: Vec<_> = later.filter(|s| !fitting || !has(s)).collect();
        let to = along(numbers[2], &later).copied();
        let mut operator = self.place.operator();
        let Some(bytes) = operator.read(&source.id, to.map(|s| s.id))? else { return Ok(None) };
        let base = match from {
            Some(from) => match operator.read(&source.id, Some(from.id))? {
                Some(base) => Some((from.name.as_str(), base)),
                None => return Ok(None),
            },
            None => None,
        };
        let base = base.as_ref().map(|(name, base)| (*name, &**base));
        let version = if (numbers[3] / 1024).is_multiple_of(2) { DiffVersion::V1 } else { DiffVersion::V2 };
        let grain = Grain { version, block_bytes: BLOCKS[numbers[3] as usize / 2048 % 3] };
        Ok(Some(Diff::between(base, to.map(|s| s.name.as_str()), bytes, grain)))
    }

    fn imported(&self, target: &Image, diff: &Diff, expected: &[u8]) -> Result<()> {
        let images = self.look()?;
        let now = images.iter().find(|image| image.id == target.id);
        let now = now.ok_or_else(|| Finding::new("import", format!("{} is gone", target.name)))?;
        let wrong = |what: &str, how: String| Finding::new("import", format!("{}{what}: {how}", target.name));
        if let Some(how) = difference(&self.head(now)?, expected) {
            return Err(wrong("", how));
        }
        let Some(to) = &diff.to else { return Ok(()) };
        let snapshot = now.snapshots.iter().find(|s| s.name == *to);
        let snapshot = snapshot.ok_or_else(|| wrong(to, "the snapshot was not made".to_owned()))?;
        let bytes = self.place.operator().read(&now.id, Some(snapshot.id))?.unwrap_or_default();
        difference(&bytes, expected).map_or(Ok(()), |how| Err(wrong(&format!("@{to}"), how)))
    }

    /// A backup from a stream, as a pipe from another cluster brings it.
    fn stream(&mut self, step: &Step) -> Result<()> {
        let images = self.look()?;
        let Some(image) = along(step.numbers[0], &images).cloned() else { return Ok(()) };
        let volume = format!("stream/{}", image.name);
        let parent = self.known.iter().rev().find(|known| known.entry.volume_name == volume).cloned();
        let point = parent.as_ref().and_then(|p| p.entry.snapshot.point.as_ref()).map(|p| p.name.clone());
        let snapshot = along(step.numbers[1] | 1 << 31, &image.snapshots);
        let mut operator = self.place.operator();
        let Some(bytes) = operator.read(&image.id, snapshot.map(|s| s.id))? else { return Ok(()) };
        let from = image.snapshots.iter().find(|s| point.as_ref() == Some(&s.name));
        let base = from.map(|from| operator.read(&image.id, Some(from.id))).transpose()?.flatten();
        drop(operator);
        let raw = step.numbers[2].is_multiple_of(4);
        let version = if (step.numbers[2] / 4).is_multiple_of(2) { DiffVersion::V1 } else { DiffVersion::V2 };
        let grain = Grain { version, block_bytes: BLOCKS[step.numbers[2] as usize / 8 % 3] };
        let base = from.zip(base.as_ref()).map(|(from, base)| (from.name.as_str(), &**base));
        let diff = Diff::between(base, snapshot.map(|s| s.name.as_str()), bytes, grain);
        say(format_args!(
            "backup of a stream {} to {:?} as {volume}",
            if raw { "of raw bytes".to_owned() } else { format!("from {:?}", diff.from) },
            diff.to
        ));
        let expected = match (&parent, raw || diff.from.is_none()) {
            (Some(parent), false) => diff.apply(&parent.bytes),
            _ => diff.bytes.clone(),
        };
        let stream = if raw { diff.bytes.clone() } else { diff.stream() };
        let options = BackupOptions::new(volume.parse().expect("a volume's name"));
        let source = diff_stream::open(Cursor::new(stream), Default::default());
        let report = source.and_then(|source| {
            let run = backup::run(
                &self.project,
                Input::Stream(source),
                &options,
                Arc::new(Silent),
                Cancel::never(),
            );
            self.place.runtime.block_on(run)
        });
        match report {
            Ok(report) => {
                let entry = self.find(&report.volume, report.sequence)?;
                let known = Known { entry, bytes: Arc::new(expected) };
                self.look_at(&known, "backup of a stream")?;
                self.known.push(known);
                Ok(())
            }
            Err(error) => self.refused("stream", &error),
        }
    }

    fn verify(&mut self, step: &Step) -> Result<()> {
        let options =
            VerifyOptions { read_data: step.numbers[1].is_multiple_of(2), ..VerifyOptions::default() };
        let run = verify::run(&self.project, options, Arc::new(Silent), Cancel::never());
        let report = self.place.runtime.block_on(run);
        let report = report.map_err(|e| Finding::new("verify", format!("cannot: {e}")))?;
        if !report.damage.is_empty() {
            return Err(Finding::new("verify", format!("damage: {:?}", report.damage)));
        }
        let Some(known) = along(step.numbers[2], &self.known).cloned() else { return Ok(()) };
        say(format_args!("verify all; {} against its origin", known.name()));
        let record = &known.entry.snapshot;
        let origin = RbdReader::of_origin(&self.place.ceph.cluster, &record.identity, record.point.as_ref());
        // Gone with its snapshot, which is nobody's fault.
        let Ok(reader) = origin else { return Ok(()) };
        let (reader, progress) = (Arc::new(reader), Arc::new(Silent));
        let run = verify::against(&self.project, &known.entry, reader, 1 << 24, progress, Cancel::never());
        match self.place.runtime.block_on(run) {
            Ok(report) if report.ok() => Ok(()),
            Ok(report) => Err(Finding::new("verify", format!("{}: {:?}", known.name(), report.differing))),
            Err(error) => Err(Finding::new("verify", format!("{}: {error}", known.name()))),
        }
    }

    fn forget(&mut self, step: &Step) -> Result<()> {
        let Some(known) = along(step.numbers[1], &self.known).cloned() else { return Ok(()) };
        say(format_args!("forget {}", known.name()));
        let names = [known.name()];
        let run = forget::by_name(&self.project, &names, false, Cancel::never());
        let report = self.place.runtime.block_on(run);
        match report {
            Ok(report) if report.ok() => {
                self.known.retain(|other| other.name() != known.name());
                Ok(())
            }
            Ok(report) => Err(Finding::new("forget", format!("{report:?}"))),
            Err(error) => Err(unfounded("forget", &error)),
        }
    }
}

/// Why a restore came to nothing.
enum Failed {
    Refused(Error),
    /// The target was found to have changed what nothing said had changed.
    Warned(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

fn unfounded(what: &str, error: &Error) -> Finding {
    Finding::new(&format!("{what} refused for no reason"), format!("{:?}: {error}", error.kind()))
}
