//! One history: its images, its repository, what is known to be right, and what was found wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cuttle::Error;
use cuttle::ErrorKind;
use cuttle::cancel::Canceller;
use cuttle::progress::{Progress, Step as Stride};
use cuttle::repo::history::SnapshotEntry;
use cuttle::repo::{InitOptions, Keeper};
use object_store::memory::InMemory;

use crate::operator::{Image, Operator};
use crate::oracle::difference;
use crate::steps::{self, Step};
use crate::support::ceph::Ceph;
use crate::support::repo::{default, init_with, read_back, store};

/// Something that is wrong: what kind of thing, and what exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub kind: String,
    pub what: String,
}

impl Finding {
    pub fn new(kind: &str, what: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), what: what.into() }
    }
}

pub type Result<T, E = Finding> = std::result::Result<T, E>;

/// How often something happened.
pub type Tally = BTreeMap<String, u64>;

/// A backup that was made, and what it must hold.
#[derive(Clone)]
pub struct Known {
    pub entry: SnapshotEntry,
    pub bytes: Arc<Vec<u8>>,
}

impl Known {
    pub fn name(&self) -> String {
        format!("{}@{}", self.entry.volume_name, self.entry.snapshot.sequence)
    }
}

/// What a process keeps from one history to the next.
pub struct Place {
    pub ceph: Ceph,
    pub pool: String,
    pub operator: Arc<Mutex<Operator>>,
    pub runtime: tokio::runtime::Runtime,
}

pub struct World<'a> {
    pub place: &'a Place,
    pub project: Keeper,
    pub known: Vec<Known>,
    pub tally: Tally,
}

/// Runs a history to its end, or to the first thing that is wrong.
pub fn run(place: &Place, seed: u64, steps: &[Step]) -> (Result<()>, Tally) {
    // Small chunks beside larger objects: what a diff misses is seldom in the sample by chance.
    let chunk_size_bytes = [4096, 16384, 65536][seed as usize % 3];
    let options = InitOptions { chunk_size_bytes, delta_depth_max: [0, 2, 7][seed as usize / 3 % 3] };
    let project = place.runtime.block_on(async {
        let repository = init_with(store(Arc::new(InMemory::new())), options, seed.is_multiple_of(2)).await;
        default(&repository).await
    });
    let mut world = World { place, project, known: Vec::new(), tally: Tally::new() };
    let wiped = place.operator().wipe();
    let result = wiped.and_then(|()| world.steps(steps));
    (result, world.tally)
}

impl Place {
    pub fn operator(&self) -> std::sync::MutexGuard<'_, Operator> {
        self.operator.lock().expect("not poisoned")
    }
}

/// A line of the history's log.
pub fn say(line: impl std::fmt::Display) {
    println!("  {line}");
}

impl World<'_> {
    fn steps(&mut self, steps: &[Step]) -> Result<()> {
        for step in steps {
            if steps::MOVES.contains(&step.kind) {
                self.count(step.kind);
                self.make(step)?;
            } else {
                let done = self.place.operator().step(step)?;
                self.operated(step.kind, &done, "");
            }
        }
        self.look_at_all()
    }

    /// Takes note of what the operator did.
    pub fn operated(&mut self, kind: &str, done: &crate::operator::Done, indent: &str) {
        match done {
            Ok(did) => {
                say(format_args!("{indent}{did}"));
                self.count(kind);
            }
            Err(_) => self.count(&format!("{kind}: declined")),
        }
    }

    pub fn count(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }

    /// Every backup still holds what it must.
    fn look_at_all(&mut self) -> Result<()> {
        for known in self.known.clone() {
            self.look_at(&known, "backup later")?;
        }
        Ok(())
    }

    /// One backup holds what it must.
    pub fn look_at(&self, known: &Known, kind: &str) -> Result<()> {
        let found = self.place.runtime.block_on(read_back(&self.project, &known.entry));
        let found =
            found.map_err(|e| Finding::new(kind, format!("{}: cannot be read: {e}", known.name())))?;
        match difference(&found, &known.bytes) {
            Some(how) => Err(Finding::new(kind, format!("{}: {how}", known.name()))),
            None => Ok(()),
        }
    }

    /// A refusal, which must say what to do; whether it was to be is the caller's to know. Of what kind is counted.
    pub fn refused(&mut self, what: &str, error: &Error) -> Result<()> {
        say(format_args!("  refused: {error}"));
        self.count(&format!("{what}: refused: {}", shape(error)));
        if [ErrorKind::Internal, ErrorKind::Corrupt].contains(&error.kind()) {
            return Err(Finding::new(&format!("{what} failed"), format!("{:?}: {error}", error.kind())));
        }
        match error.help_text() {
            Some(help) if !help.is_empty() => Ok(()),
            _ => Err(Finding::new("no help", format!("{what}: {:?}: {error}", error.kind()))),
        }
    }

    pub fn look(&self) -> Result<Vec<Image>> {
        self.place.operator().look()
    }

    /// What librbd reads of an image that is there.
    pub fn head(&self, image: &Image) -> Result<Vec<u8>> {
        let bytes = self.place.operator().read(&image.id, None)?;
        bytes.ok_or_else(|| Finding::new("operator", format!("{} is gone", image.name)))
    }
}

/// Along a list of things, as the operator does it.
pub fn along<T>(number: u32, items: &[T]) -> Option<&T> {
    items.get(((u64::from(number) * items.len() as u64) >> 32) as usize)
}

/// An error's message without what differs from one to the next.
fn shape(error: &Error) -> String {
    let word = |word: &str| match word {
        _ if word.contains("cuttle-") => "OWN".to_owned(),
        _ if word.contains('/') => "IMAGE".to_owned(),
        _ => word.replace(|c: char| c.is_ascii_digit(), "#"),
    };
    let words: Vec<_> = error.message().split(' ').map(word).collect();
    words.join(" ").replace("##", "#").chars().take(90).collect()
}

/// Watches a backup: reads what it froze as soon as it did, and does what others do meanwhile.
pub struct Watch {
    pub operator: Arc<Mutex<Operator>>,
    /// Which image, what its snapshots were before, and the name of the one that is read where the user named it.
    pub image: Image,
    pub named: Option<String>,
    pub during: Vec<Step>,
    /// At which phase it is stopped, if it is.
    pub stop: Mutex<Option<(usize, Canceller)>>,
    pub seen: Mutex<Seen>,
}

#[derive(Default)]
pub struct Seen {
    pub phases: Vec<String>,
    pub warnings: Vec<String>,
    /// The snapshot's id, and what librbd reads there.
    pub frozen: Option<(u64, Vec<u8>)>,
    pub done: Vec<(&'static str, crate::operator::Done)>,
    pub failed: Option<Finding>,
}

impl Watch {
    fn capture(&self, seen: &mut Seen) -> Result<()> {
        let mut operator = self.operator.lock().expect("not poisoned");
        if seen.frozen.is_none() {
            let now = operator.look()?;
            let before = &self.image.snapshots;
            let snapshot = now.iter().filter(|image| image.id == self.image.id).find_map(|image| {
                image.snapshots.iter().rev().find(|s| match &self.named {
                    Some(name) => s.name == *name,
                    None => s.name.starts_with("cuttle-") && before.iter().all(|b| b.id != s.id),
                })
            });
            if let Some(snapshot) = snapshot {
                let bytes = operator.read(&self.image.id, Some(snapshot.id))?;
                seen.frozen = bytes.map(|bytes| (snapshot.id, bytes));
            }
        }
        let phase = seen.phases.len() as u32;
        for step in self.during.iter().filter(|step| step.numbers[3] % 3 + 1 == phase) {
            let done = operator.step(step)?;
            seen.done.push((step.kind, done));
        }
        Ok(())
    }
}

impl Progress for Watch {
    fn phase(&self, name: &str, _total_bytes: Option<u64>) {
        let mut seen = self.seen.lock().expect("not poisoned");
        seen.phases.push(name.to_owned());
        if seen.failed.is_none() {
            seen.failed = self.capture(&mut seen).err();
        }
        let stop = self.stop.lock().expect("not poisoned");
        if let Some((_, canceller)) = stop.as_ref().filter(|(at, _)| *at == seen.phases.len()) {
            canceller.cancel();
        }
    }

    fn step(&self, _step: Stride) {}

    fn warn(&self, message: &str) {
        self.seen.lock().expect("not poisoned").warnings.push(message.to_owned());
    }
}
