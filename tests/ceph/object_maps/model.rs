//! An image of one object, its object maps and its snapshots, as librbd keeps them. One object is enough: maps treat each
//! for itself, and an image of no object stands for one that was shrunk.
//!
//! Source: Ceph's `cls_rbd.cc` (`object_map_snap_add`, `object_map_snap_remove`), `librbd/object_map/DiffRequest.cc` and
//! `librbd/operation/ObjectMapIterate.cc`. `cluster.rs` holds it against a real cluster.

use cuttle::rbd::SnapContext;
use cuttle::rbd::diff::judge::{BaseObjects, Between, End, Facts, History};
use cuttle::rbd::{features, flags};
use cuttle::volume::Made;

/// Snapshots that an image has at once.
pub const SNAPSHOTS_MAX: usize = 4;

/// What a map says of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bit {
    Absent,
    Exists,
    Clean,
}

/// The image as it is now, or as it was at a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// Whether the image is large enough for the object.
    pub large: bool,
    /// What the object holds; 0: it is not there.
    pub content: u8,
    pub bit: Bit,
    /// The map is marked invalid.
    pub invalid: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Snap {
    pub id: u8,
    /// Cuttle made it.
    pub own: bool,
    pub state: State,
}

/// What a backup recorded when it made its snapshot, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    pub id: u8,
    /// There were others than the own one that it replaced.
    others: bool,
    replaces: bool,
    replaced_has_clean: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct World {
    pub head: State,
    /// Oldest first.
    pub snaps: [Option<Snap>; SNAPSHOTS_MAX],
    /// Id of the snapshot that was made last.
    pub seq: u8,
    /// The snapshot of the last backup that was committed.
    pub base: Option<Record>,
    /// The snapshot of a backup that is running.
    pub pending: Option<Record>,
}

/// One end of a diff: a snapshot, or the image as it is now.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub id: Option<u8>,
    pub state: State,
}

impl World {
    pub fn new() -> Self {
        let head = State { large: true, content: 0, bit: Bit::Absent, invalid: false };
        Self { head, snaps: [None; SNAPSHOTS_MAX], seq: 0, base: None, pending: None }
    }

    pub fn snaps(&self) -> impl Iterator<Item = Snap> {
        self.snaps.into_iter().flatten()
    }

    pub fn count(&self) -> usize {
        self.snaps().count()
    }

    pub fn snap(&self, id: u8) -> Option<Snap> {
        self.snaps().find(|s| s.id == id)
    }

    fn set(&mut self, snaps: impl Iterator<Item = Snap>) {
        let mut out = [None; SNAPSHOTS_MAX];
        out.iter_mut().zip(snaps).for_each(|(place, snap)| *place = Some(snap));
        self.snaps = out;
    }

    pub fn write(&mut self) {
        let fresh = 1 + self.snaps().map(|s| s.state.content).chain([self.head.content]).max().unwrap_or(0);
        if self.head.large {
            (self.head.content, self.head.bit) = (fresh, Bit::Exists);
        }
    }

    pub fn discard(&mut self) {
        if self.head.large {
            (self.head.content, self.head.bit) = (0, Bit::Absent);
        }
    }

    /// Shrinks, so that the object is cut off, or grows again.
    pub fn resize(&mut self, large: bool) {
        if self.head.large != large {
            (self.head.large, self.head.content, self.head.bit) = (large, 0, Bit::Absent);
        }
    }

    /// Makes a snapshot: it gets a copy of the map, and the image's own then says "as in the newest snapshot".
    pub fn create(&mut self, own: bool) -> u8 {
        self.seq += 1;
        let (snaps, snap) = (*self, Snap { id: self.seq, own, state: self.head });
        self.set(snaps.snaps().chain([snap]));
        if self.head.bit == Bit::Exists {
            self.head.bit = Bit::Clean;
        }
        self.seq
    }

    /// Removes a snapshot: what was written in its time counts as written in that of the next.
    pub fn remove(&mut self, id: u8) {
        let Some(gone) = self.snap(id).map(|s| s.state) else { return };
        let inherit = |next: &mut State| {
            if next.large && next.bit == Bit::Clean && (!gone.large || gone.bit == Bit::Exists) {
                next.bit = Bit::Exists;
            }
            next.invalid |= gone.invalid;
        };
        let mut left: Vec<Snap> = self.snaps().filter(|s| s.id != id).collect();
        match left.iter_mut().find(|s| s.id > id) {
            Some(next) => inherit(&mut next.state),
            None => inherit(&mut self.head),
        }
        self.set(left.into_iter());
    }

    /// Makes the image what a snapshot holds. Its map, with all that it says, becomes the image's.
    pub fn roll_back(&mut self, id: u8) {
        let Some(to) = self.snap(id) else { return };
        self.head = State { invalid: self.head.invalid || to.state.invalid, ..to.state };
    }

    /// `object-map` disabled and enabled again: maps are new, hold nothing, and say that they are invalid.
    pub fn toggle(&mut self) {
        let new = |state: State| State { bit: Bit::Absent, invalid: true, ..state };
        let (snaps, head) = (*self, self.head);
        self.set(snaps.snaps().map(|s| Snap { state: new(s.state), ..s }));
        self.head = new(head);
    }

    /// Makes a map anew by what objects there are; `None`: the image's own.
    pub fn rebuild(&mut self, id: Option<u8>) {
        let mut before: Option<State> = None;
        let rebuilt = |state: State, before: Option<State>| {
            let same = before.is_some_and(|b| b.large && state.content == b.content);
            let bit = match state.content {
                0 => Bit::Absent,
                _ if same => Bit::Clean,
                _ => Bit::Exists,
            };
            State { bit, invalid: false, ..state }
        };
        let world = *self;
        let mut snaps = Vec::new();
        for snap in world.snaps() {
            let state = if id == Some(snap.id) { rebuilt(snap.state, before) } else { snap.state };
            before = Some(snap.state);
            snaps.push(Snap { state, ..snap });
        }
        if id.is_none() {
            self.head = rebuilt(self.head, before);
        }
        self.set(snaps.into_iter());
    }

    /// A backup begins: it looks, makes its snapshot, and records what it saw. Returns what it can know of the time since
    /// the base, and its own end.
    pub fn begin(&mut self) -> (Between, At) {
        let before = self.context();
        let own = self.snaps().filter(|s| s.own).last();
        let has_clean = own
            .and_then(|own| (!own.state.invalid).then_some(own.state.bit == Bit::Clean && own.state.large));
        let others = self.snaps().any(|s| Some(s.id) != own.map(|own| own.id));
        let id = self.create(true);
        self.pending = Some(Record { id, others, replaces: own.is_some(), replaced_has_clean: has_clean });
        let at = At { id: Some(id), state: self.snap(id).expect("just made").state };
        (Between::Seen { before, after: self.context() }, at)
    }

    /// The running backup is committed. Its older own snapshots are removed after that, or not.
    pub fn commit(&mut self) {
        self.base = self.pending.take();
    }

    pub fn context(&self) -> SnapContext {
        SnapContext { seq: self.seq.into(), snapshots: self.snaps().map(|s| s.id.into()).collect() }
    }

    pub fn now(&self) -> At {
        At { id: None, state: self.head }
    }

    /// Whether librbd's fast diff lists the object, where it is believed without a look at flags.
    pub fn fast_lists(&self, from: u8, to: At) -> bool {
        let until = to.id.unwrap_or(u8::MAX);
        let between = self.snaps().filter(|s| s.id > from && s.id < until).map(|s| s.state);
        let Some(start) = self.snap(from) else { return true };
        // Unchanged hole or data, or not; `None` where the map has no such object.
        let mut diff: Option<(bool, bool)> = None;
        for (at, state) in [start.state].into_iter().chain(between).chain([to.state]).enumerate() {
            diff = match (state.large, diff, at) {
                (false, ..) => None,
                (true, None, 0) => Some((state.bit != Bit::Absent, false)),
                (true, None, _) => Some((state.bit != Bit::Absent, state.bit != Bit::Absent)),
                (true, Some((data, updated)), _) => Some(match state.bit {
                    Bit::Absent => (false, data || updated),
                    Bit::Exists => (true, true),
                    Bit::Clean => (true, updated || !data),
                }),
            };
        }
        diff.is_some_and(|(_, updated)| updated)
    }

    /// Whether a backup or a rewind that believes the fast diff would take an object for unchanged that is not.
    pub fn fast_misses(&self, from: u8, to: At) -> bool {
        self.differs(from, to) && !self.fast_lists(from, to)
    }

    /// Whether the slow diff, which is asked where either end has an object by its own map, would.
    pub fn slow_misses(&self, from: u8, to: At) -> bool {
        let Some(base) = self.snap(from) else { return false };
        let held = |state: State| state.large && state.bit != Bit::Absent;
        self.differs(from, to) && !held(base.state) && !held(to.state)
    }

    /// What `Comparison` adds covers every change of size.
    fn differs(&self, from: u8, to: At) -> bool {
        self.snap(from)
            .is_some_and(|base| to.state.large && base.state.large && base.state.content != to.state.content)
    }

    /// What is known when the object's state is compared with that of the base.
    pub fn history(record: Record, between: Between) -> History {
        // Ids that no snapshot here has.
        let (replaced, other) = (1000, 1001);
        let others =
            record.replaces.then_some(replaced).into_iter().chain(record.others.then_some(other)).collect();
        let made = Made {
            others,
            replaces: record.replaces.then_some(replaced),
            replaced_has_clean: record.replaced_has_clean,
        };
        History { made: Some(made), objects: None, between }
    }

    /// Numbers contents and ids anew in the order in which they are met, so that worlds that are alike are the same.
    pub fn canonical(mut self) -> Self {
        let mut seen: Vec<u8> = vec![0];
        let mut content = |value: u8| {
            let at = seen.iter().position(|s| *s == value).unwrap_or_else(|| {
                seen.push(value);
                seen.len() - 1
            });
            at as u8
        };
        for snap in self.snaps.iter_mut().flatten() {
            snap.state.content = content(snap.state.content);
        }
        self.head.content = content(self.head.content);
        let alive = |record: Option<Record>| record.filter(|r| self.snap(r.id).is_some());
        (self.base, self.pending) = (alive(self.base), alive(self.pending));
        let mut ids: Vec<u8> = self.snaps().map(|s| s.id).chain([self.seq]).collect();
        ids.sort_unstable();
        ids.dedup();
        let rank = |id: u8| ids.iter().position(|i| *i == id).map_or(0, |at| at as u8 + 1);
        self.snaps.iter_mut().flatten().for_each(|s| s.id = rank(s.id));
        self.base.iter_mut().chain(self.pending.iter_mut()).for_each(|r| r.id = rank(r.id));
        self.seq = rank(self.seq);
        self
    }
}

/// The facts of a comparison of `to` with the base, as `Comparison` gathers them.
pub fn facts<'a>(world: &World, base: Record, to: At, history: &'a History) -> Facts<'a> {
    let flag = |invalid: bool| if invalid { flags::OBJECT_MAP_INVALID | flags::FAST_DIFF_INVALID } else { 0 };
    let from = world.snap(base.id).expect("the base is there");
    Facts {
        features: features::EXCLUSIVE_LOCK | features::OBJECT_MAP | features::FAST_DIFF,
        newer: End { snapshot: to.id.map(|id| (id.into(), "newer")), flags: flag(to.state.invalid) },
        base: Some(End { snapshot: Some((base.id.into(), "base")), flags: flag(from.state.invalid) }),
        base_objects: BaseObjects::Same,
        history,
    }
}
