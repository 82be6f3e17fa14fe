//! Puts aside, by name, what stands under a name of the protocol and does not open (repo-format.md §8.5).
//!
//! Nobody can tell rot from what was planted, so a prune stops at whatever may keep something alive, until somebody who may
//! delete says otherwise. He is shown first what is known of it. The bytes are kept in quarantine, and the name holds what the
//! protocol has for "nothing": so nothing is un-said that somebody else may say meanwhile.

use bytes::Bytes;
use serde::Serialize;

use crate::codec;
use crate::error::{Error, Result};
use crate::format::gc::{BeginRecord, DoneRecord, SealRecord};
use crate::format::lost::LostRecord;
use crate::format::names::quarantine_name;
use crate::format::record::{
    AliveRecord, EndRecord, ForgetRecord, NoteRecord, OpenRecord, Outcome, VolumeRecord,
};
use crate::format::roster::RosterEntry;
use crate::format::{ObjectName, Record};
use crate::repo::found::Found;
use crate::repo::log::Proof;
use crate::repo::rounds::Stage;
use crate::repo::{Keeper, PROGRAM};
use crate::units::{Generation, Sequence, SnapshotId, VolumeNumber};
use crate::volume::Identity;

/// Largest object that is copied to quarantine; no object of the format is nearly as large.
const QUARANTINED_LEN_BYTES_MAX: u64 = 64 << 20;
/// Of what does not say whose it is.
const NOBODY: SnapshotId = SnapshotId([0; 16]);

/// What became of a name.
#[derive(Debug, Clone, Serialize)]
pub struct Aside {
    /// The object's name, as it was given.
    pub object: String,
    /// Nothing was done.
    pub dry_run: bool,
    /// What stood there.
    pub found: String,
    /// What else is known of it: by the last prune round, or a copy on this host.
    pub known: Vec<String>,
    /// What was done, or would be.
    pub done: Vec<String>,
    /// Where its bytes are now.
    pub quarantined: Option<String>,
}

/// Puts one object aside.
///
/// # Errors
/// `Invalid` for what opens, and for what another command is for.
pub async fn put_aside(project: &Keeper, name: &str, dry_run: bool) -> Result<Aside> {
    let parsed = ObjectName::parse(name)
        .ok_or_else(|| Error::invalid(format!("{name}: no object of a repository is named so")))?;
    let aside = Aside {
        object: name.to_owned(),
        dry_run,
        found: String::new(),
        known: Vec::new(),
        done: Vec::new(),
        quarantined: None,
    };
    let mut run = Run { project, aside };
    run.name(parsed).await?;
    Ok(run.aside)
}

struct Run<'a> {
    project: &'a Keeper,
    aside: Aside,
}

impl Run<'_> {
    async fn name(&mut self, name: ObjectName) -> Result<()> {
        let other = |what: &str| Err(Error::invalid(format!("{name}: {what}")));
        match name.clone() {
            ObjectName::Repository | ObjectName::Project(_) => {
                other("nothing works without it; bring it back from a copy or a bucket version")
            }
            ObjectName::Key { slot } | ObjectName::RoleKey { slot, .. } => {
                other(&format!("`cuttle key remove {slot:016x}` removes it"))
            }
            ObjectName::Piece(..) => other("it is the name of no object"),
            ObjectName::Chunk(..) | ObjectName::Page(..) | ObjectName::Bundle(..) => {
                other("`cuttle verify --repair` mends it")
            }
            ObjectName::GcPart(..) => other("prunes remove parts themselves"),
            ObjectName::Volume(p, _)
            | ObjectName::Open(p, ..)
            | ObjectName::End(p, ..)
            | ObjectName::Forget(p, ..)
            | ObjectName::Note(p, ..)
            | ObjectName::Alive(p, ..)
            | ObjectName::GcBegin(p, _)
            | ObjectName::GcSeal(p, _)
            | ObjectName::GcDone(p, _)
            | ObjectName::Lost(p, _)
                if p != *self.project.name() =>
            {
                other(&format!("it is of another project than {}", self.project.name()))
            }
            ObjectName::Volume(_, n) => self.volume(name, n).await,
            ObjectName::Open(_, n, s) => self.open(name, n, s).await,
            ObjectName::End(_, n, s) => self.end(name, n, s).await,
            ObjectName::Forget(_, n, s) => {
                self.foreign(&name, self.project.slot(n, s).forget_of().await?)?;
                self.known_of(n, s).await?;
                self.remove(&name, "it forgets nothing").await
            }
            ObjectName::Note(..) => {
                self.foreign(&name, self.project.look::<NoteRecord>(&name).await?)?;
                self.remove(&name, "it says nothing").await
            }
            ObjectName::Alive(..) => {
                self.foreign(&name, self.project.look::<AliveRecord>(&name).await?)?;
                self.remove(&name, "it is no sign of life").await
            }
            ObjectName::Lost(..) => {
                self.foreign(&name, self.project.look::<LostRecord>(&name).await?)?;
                self.remove(&name, "it tells of nothing lost").await
            }
            ObjectName::GcSeal(_, g) => self.seal(name, g).await,
            ObjectName::GcBegin(_, g) => {
                self.foreign(&name, self.project.rounds().look_begin(g).await?)?;
                let last_seal = self.over(g).await?;
                let begin = BeginRecord { generation: g, last_seal, condemned: Vec::new() };
                self.put(&name, &begin, "the round is over, and condemned nothing").await
            }
            ObjectName::GcDone(_, g) => {
                self.foreign(&name, self.project.look::<DoneRecord>(&name).await?)?;
                let last_seal = self.over(g).await?;
                let done = DoneRecord { generation: g, last_seal };
                self.put(&name, &done, "the round is over").await
            }
        }
    }

    /// A sequence whose `.open` is missing or does not open: it is ended, and then has one.
    async fn open(&mut self, name: ObjectName, n: VolumeNumber, s: Sequence) -> Result<()> {
        self.foreign_or_absent(&name, self.project.look::<OpenRecord>(&name).await?)?;
        self.known_of(n, s).await?;
        let log = self.project.log(n).read().await?;
        if s > self.project.log(n).confirm(log, Proof::Hidden).await?.last() {
            return self.remove(&name, "no number leads to it").await;
        }
        let end = self.project.slot(n, s).end_name();
        let snapshot_id = match self.project.look::<EndRecord>(&end).await? {
            Found::Opens(end) => end.snapshot_id,
            Found::Foreign(why) => {
                return Err(Error::invalid(format!("{end} does not open either: {why}"))
                    .help(format!("put that aside first: `cuttle verify --quarantine {end}`")));
            }
            Found::Absent => {
                self.aborted(&end, NOBODY, false).await?;
                NOBODY
            }
        };
        let environment = &self.project.repository().environment;
        let open = OpenRecord {
            snapshot_id,
            generation: Generation(0),
            host: environment.host.clone(),
            machine: String::new(),
            process: 0,
            program: PROGRAM.to_owned(),
            started_unix_ms: environment.clock.now_unix_ms(),
        };
        self.put(&name, &open, "the number is taken, and of no session").await
    }

    /// An outcome that does not open: the sequence is forgotten first, and then holds an aborted one.
    async fn end(&mut self, name: ObjectName, n: VolumeNumber, s: Sequence) -> Result<()> {
        self.foreign(&name, self.project.look::<EndRecord>(&name).await?)?;
        self.known_of(n, s).await?;
        let open = self.project.look::<OpenRecord>(&self.project.slot(n, s).open_name()).await?;
        let snapshot_id = open.opened().map_or(NOBODY, |open| open.snapshot_id);
        let forget = self.project.slot(n, s).forget_name();
        match self.project.slot(n, s).forget_of().await? {
            Found::Opens(_) => {}
            Found::Foreign(why) => {
                return Err(Error::invalid(format!("{forget} does not open either: {why}"))
                    .help(format!("put that aside first: `cuttle verify --quarantine {forget}`")));
            }
            Found::Absent => {
                let environment = &self.project.repository().environment;
                let (host, at_unix_ms) = (environment.host.clone(), environment.clock.now_unix_ms());
                self.say("given up: the snapshot is forgotten, if it was one");
                if !self.aside.dry_run {
                    let record = ForgetRecord { snapshot_id, host, at_unix_ms };
                    self.project.create_record(&forget, &record).await?;
                }
            }
        }
        self.aborted(&name, snapshot_id, true).await
    }

    async fn aborted(&mut self, end: &ObjectName, snapshot_id: SnapshotId, replace: bool) -> Result<()> {
        let by = self.project.repository().environment.host.clone();
        let outcome = Outcome::Aborted { by, reason: "it was put into quarantine".to_owned() };
        let record = EndRecord { snapshot_id, outcome };
        if replace {
            return self.put(end, &record, "its outcome is: aborted").await;
        }
        self.say("the sequence is ended as aborted");
        if !self.aside.dry_run {
            self.project.create_record(end, &record).await?;
        }
        Ok(())
    }

    async fn volume(&mut self, name: ObjectName, n: VolumeNumber) -> Result<()> {
        let of = |record: &VolumeRecord| match record.number == n {
            true => Ok(()),
            false => Err(format!("it says it is number {}", record.number)),
        };
        self.foreign_or_absent(&name, self.project.look_bound(&name, of).await?)?;
        self.cached(&name);
        if self.project.volumes().may_be(n).await? {
            return Err(Error::invalid(format!("{name}: it is a volume, as it has a log"))
                .help("bring the object back from a copy or a bucket version"));
        }
        if n > self.project.volumes().confirmed().await?.last() {
            return self.remove(&name, "no number leads to it").await;
        }
        let environment = &self.project.repository().environment;
        let record = VolumeRecord {
            number: n,
            name: format!("quarantined-{n}"),
            identity: Identity::Stream,
            created_unix_ms: environment.clock.now_unix_ms(),
        };
        self.put(&name, &record, "the number is taken, by a volume without snapshots").await
    }

    /// A seal that does not open, or that a prune refuses to carry out.
    async fn seal(&mut self, name: ObjectName, g: Generation) -> Result<()> {
        self.aside.found = match self.project.rounds().look_seal(g).await? {
            Found::Absent => return Err(Error::not_found(format!("{name} is not there"))),
            Found::Foreign(why) => why,
            Found::Opens(_) if self.project.rounds().is_over(g).await? => {
                return Err(Error::invalid(format!("{name}: it opens, and its round is over")));
            }
            Found::Opens(seal) => format!("a seal that deletes {} tables", seal.deleted.len()),
        };
        let last_seal = match self.project.rounds().look_begin(g).await? {
            Found::Opens(begin) => begin.last_seal,
            _ => self.project.rounds().preceding(g).await?.last_seal,
        };
        let roster = match last_seal {
            Generation(0) => Vec::new(),
            last_seal => match self.project.rounds().look_seal(last_seal).await? {
                Found::Opens(seal) => {
                    self.project.rounds().roster_said(last_seal, &seal.roster).all(self.project).await?
                }
                _ => Vec::new(),
            },
        };
        let roster = self.project.parts(g).put_roster(&roster).await?;
        let nothing =
            SealRecord { generation: g, roster, live_index: Vec::new(), deleted: Vec::new(), copied: true };
        self.put(&name, &nothing, "the round deletes nothing, and says what the one before said").await
    }

    /// The newest seal up to a round that is over.
    async fn over(&self, g: Generation) -> Result<Generation> {
        if !self.project.rounds().is_over(g).await? {
            return Err(Error::invalid(format!("round {g} is not over"))
                .help("run `cuttle prune`: it goes on around it"));
        }
        match self.project.rounds().look_seal(g).await? {
            Found::Opens(_) => Ok(g),
            _ => Ok(self.project.rounds().preceding(g).await?.last_seal),
        }
    }

    fn foreign<R>(&mut self, name: &ObjectName, found: Found<R>) -> Result<()> {
        match found {
            Found::Absent => Err(Error::not_found(format!("{name} is not there"))),
            found => self.foreign_or_absent(name, found),
        }
    }

    fn foreign_or_absent<R>(&mut self, name: &ObjectName, found: Found<R>) -> Result<()> {
        self.aside.found = match found {
            Found::Absent => "nothing".to_owned(),
            Found::Foreign(why) => why,
            Found::Opens(_) => {
                return Err(Error::invalid(format!("{name} opens: there is nothing to put aside")));
            }
        };
        Ok(())
    }

    /// What the last round's roster says of a sequence.
    async fn known_of(&mut self, n: VolumeNumber, s: Sequence) -> Result<()> {
        self.cached(&self.project.slot(n, s).end_name());
        let rounds = self.project.rounds().newest().await?;
        let last_seal = match rounds.stage {
            Stage::Over { last_seal } => last_seal,
            Stage::Begun(begin) => begin.last_seal,
            Stage::Unreadable(_) => self.project.rounds().preceding(rounds.newest).await?.last_seal,
        };
        let entry = match self.project.rounds().roster_of(last_seal, false).await {
            Ok(roster) => roster.entry(self.project, n).await.unwrap_or_default(),
            Err(_) => None,
        };
        self.aside.known.push(told(last_seal, entry.as_ref(), s));
        Ok(())
    }

    fn cached(&mut self, name: &ObjectName) {
        if self.project.repository().cache.has(name) {
            self.aside.known.push(format!("this host's cache has a copy of {name}"));
        }
    }

    fn say(&mut self, what: &str) {
        self.aside.done.push(what.to_owned());
    }

    /// Keeps the bytes, and puts a record in their place.
    async fn put<R: Record + PartialEq>(&mut self, name: &ObjectName, record: &R, what: &str) -> Result<()> {
        self.say(what);
        let sealed = codec::seal_record(self.project.place(name), record)?;
        let found = self.keep(name).await?;
        if self.aside.dry_run {
            return Ok(());
        }
        let (store, key) = (self.project.store(), name.to_string());
        match found {
            Some(_) => store.replace(&key, sealed.bytes().clone()).await,
            None => store.create(&key, sealed.bytes().clone()).await.map(drop),
        }
    }

    /// Keeps the bytes, and removes them.
    async fn remove(&mut self, name: &ObjectName, what: &str) -> Result<()> {
        self.say(what);
        if self.keep(name).await?.is_some() && !self.aside.dry_run {
            self.project.store().delete(&name.to_string()).await?;
        }
        Ok(())
    }

    /// Copies what stands there to quarantine, and reads the copy back.
    async fn keep(&mut self, name: &ObjectName) -> Result<Option<Bytes>> {
        let store = self.project.store();
        let Some(found) = store.get(&name.to_string(), QUARANTINED_LEN_BYTES_MAX).await? else {
            return Ok(None);
        };
        let copy = quarantine_name(name, &found);
        if !self.aside.dry_run {
            store.create(&copy, found.clone()).await?;
            if store.get(&copy, QUARANTINED_LEN_BYTES_MAX).await?.as_ref() != Some(&found) {
                return Err(Error::corrupt(format!("{copy} is not the copy that was just made")));
            }
        }
        self.aside.quarantined = Some(copy);
        Ok(Some(found))
    }
}

fn told(last_seal: Generation, entry: Option<&RosterEntry>, s: Sequence) -> String {
    let Some(entry) = entry else {
        return match last_seal {
            Generation(0) => "no prune round has written down anything".to_owned(),
            round => format!("prune round {round} knew nothing of the volume"),
        };
    };
    let what = if entry.live.contains(&s) {
        "it was a LIVE SNAPSHOT"
    } else if entry.unfinished.contains(&s) {
        "it was under way"
    } else if s > entry.high_water {
        "it was not there yet"
    } else {
        "it was over, and no snapshot"
    };
    format!("when prune round {last_seal} was sealed, {what}")
}
