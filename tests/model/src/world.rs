//! One state of the whole system: what the store holds, what may still land there, and where each actor is.

use crate::rules::Rules;

/// Sequences of the log at most.
pub const SLOTS_MAX: usize = 4;
/// Pruners at most.
pub const PRUNERS_MAX: usize = 2;
/// Generations in which chunks are made at most: 0, 1, 2 and 3.
pub const GENERATIONS_MAX: u8 = 4;

/// What a manifest refers to; 0 is none. 1 to 4 are the full chunk in generation 0 to 3, an object each. 5 to 8 are the delta that
/// the session of slot 0 to 3 made, 9 to 12 a full chunk that lies beside it in the same bundle: the two are pieces of one object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Name(u8);

/// A set of objects, a bit for each.
pub type Names = u8;
/// A set of what a manifest may refer to, a bit for each.
pub type Refs = u16;
/// A set of slots, a bit for each.
pub type Slots = u8;

/// The full chunks of all generations.
pub const FULLS: Names = 0x0f;

impl Name {
    pub const NONE: Self = Self(0);

    pub fn full(generation: u8) -> Self {
        assert!(generation < GENERATIONS_MAX);
        Self(1 + generation)
    }

    pub fn delta(slot: usize) -> Self {
        Self(1 + GENERATIONS_MAX + slot as u8)
    }

    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// The full chunk beside a delta.
    pub fn beside(slot: usize) -> Self {
        Self(1 + GENERATIONS_MAX + (SLOTS_MAX + slot) as u8)
    }

    /// The object: of two pieces of a bundle the same.
    pub fn bit(self) -> Names {
        match self.0.checked_sub(1) {
            None => 0,
            Some(at) if self.is_beside() => 1 << (at as usize - SLOTS_MAX),
            Some(at) => 1 << at,
        }
    }

    pub fn ref_bit(self) -> Refs {
        if self.is_none() { 0 } else { 1 << (self.0 - 1) }
    }

    pub fn is_beside(self) -> bool {
        self.0 > GENERATIONS_MAX + SLOTS_MAX as u8
    }

    /// The slot whose session made this delta.
    pub fn maker(self) -> Option<usize> {
        if self.is_beside() { None } else { self.0.checked_sub(1 + GENERATIONS_MAX).map(usize::from) }
    }

    pub fn text(self) -> String {
        match self.maker() {
            _ if self.is_none() => "nothing".to_owned(),
            None if self.is_beside() => {
                format!("beside delta#{}", usize::from(self.0 - GENERATIONS_MAX) - SLOTS_MAX)
            }
            None => format!("full@{}", self.0 - 1),
            Some(slot) => format!("delta#{}", slot + 1),
        }
    }
}

/// All that is in a set of refs.
pub fn refs(set: Refs) -> impl Iterator<Item = Name> {
    (1..=12).map(Name).filter(move |n| n.ref_bit() & set != 0)
}

/// The names of a set.
pub fn names(set: Names) -> impl Iterator<Item = Name> {
    (1..=8).map(Name).filter(move |n| n.bit() & set != 0)
}

pub fn names_text(set: Names) -> String {
    let all: Vec<String> = names(set).map(Name::text).collect();
    format!("{{{}}}", all.join(" "))
}

/// How far a session is. What it sent lands later, or never, or twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Hash)]
pub enum Phase {
    /// The sequence is free.
    #[default]
    Free,
    /// `.open` exists; the session has not looked at the generation again.
    Registered,
    /// The generation was the same, the condemned set is known.
    Working,
    /// The manifest is complete and the commit is sent.
    Committing,
    /// The commit landed at least once, and so may have been acknowledged.
    Landed,
    /// Settled without it, but it may still wake up and send its full chunk.
    Stray,
    /// Nothing it could still do matters.
    Gone,
}

/// What `.end` holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Hash)]
pub enum End {
    #[default]
    Absent,
    Committed,
    Aborted,
}

/// A sequence of the log and the session that registered it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Slot {
    pub phase: Phase,
    pub end: End,
    /// As `.open` says.
    pub generation: u8,
    /// What the manifest references; the closure follows from the deltas' bases.
    pub reference: Name,
    /// The base of the delta that this session made; none when it made none.
    pub base: Name,
    /// The condemned set that the session knows.
    pub condemned: Names,
    /// `.forget` exists.
    pub forget: bool,
    /// The operator asked for it once, whatever became of `.forget`.
    pub unwanted: bool,
    /// A DELETE of `.end` was sent; it may land at any time, again and again.
    pub end_delete: bool,
    /// DELETEs of `.open` and `.forget` were sent; they may land at any time, again and again. In a broken variant: a PUT of
    /// `.end` that overwrites.
    pub other_sent: bool,
    /// What the roster that the session read says is over: neither a parent nor to be recalled.
    pub past: Slots,
    /// The session read the record of what was lost.
    pub knows_loss: bool,
}

/// How far the newest round is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Stage {
    /// Also generation 0, which no round began.
    #[default]
    Done,
    Begun,
    Sealed,
}

/// What a round wrote down.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Round {
    pub condemned: Names,
    pub deleted: Names,
    pub index: Names,
    pub live: Slots,
    /// Forgotten snapshots that may still be recalled.
    pub kept: Slots,
    /// Its seal no longer opens, or is a copy: the roster is that of the seal before one that does not open.
    pub foreign: bool,
    /// The slots at or below their volume's high water: of these, only `live` and `kept` count. As each slot may be of a
    /// volume of its own, any set of them may be.
    pub settled: Slots,
}

/// How far a pruner is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Task {
    #[default]
    Idle,
    /// Marks, and is about to begin round `round`.
    Advisory,
    /// Waits for, or ends, the sessions of older generations.
    Settling,
    /// Marks for good; seals when nothing is left to read.
    Marking,
    /// Deletes what the seal says.
    Deleting,
    /// About to write that the round is done.
    Finishing,
    /// Found that a seal differs from what it marked, where none is forged: that must not be.
    Stopped,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Pruner {
    pub task: Task,
    pub round: u8,
    pub marks: Names,
    /// Marks of the advisory walk; kept apart only in the variants that tell them apart.
    pub advisory: Names,
    /// Slots still to be read.
    pub todo: Slots,
    pub live: Slots,
    /// Forgotten snapshots that this pruner's window still has.
    pub kept: Slots,
    /// Slots that had an outcome when they were read.
    pub settled: Slots,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct World {
    pub slots: [Slot; SLOTS_MAX],
    /// Chunk objects in the store.
    pub exists: Names,
    /// Full chunks whose create was sent: it may land at any time, again and again.
    pub sent: Names,
    /// Chunks whose DELETE was sent, the same.
    pub deletes: Names,
    /// The newest round begun.
    pub generation: u8,
    pub stage: Stage,
    pub round: Round,
    /// The round before; it is done.
    pub before: Round,
    pub pruners: [Pruner; PRUNERS_MAX],
    /// What was lost, below the protocol, and is not back.
    pub lost: Name,
    /// Something was lost once: no more is.
    pub had_loss: bool,
    /// What was lost is recorded.
    pub recorded: bool,
}

impl Slot {
    pub fn is_open(&self) -> bool {
        self.phase != Phase::Free
    }

    /// As its records alone say.
    pub fn looks_live(&self) -> bool {
        self.end == End::Committed && !self.forget
    }

    /// Committed and forgotten, and its manifest can still be read.
    pub fn looks_forgotten(&self) -> bool {
        self.end == End::Committed && self.forget
    }

    /// A sequence with `.forget` and without `.end` is forgotten, not unfinished.
    pub fn is_settled(&self) -> bool {
        self.end != End::Absent || self.forget
    }

    /// Whether a round has to wait for this session.
    pub fn delays(&self, round: u8) -> bool {
        self.is_open() && self.generation < round && !self.is_settled()
    }
}

impl World {
    /// All objects that it takes to decode `name`.
    pub fn closure(&self, mut name: Name) -> Names {
        let mut all = 0;
        // No chain is longer than there are names, whatever a broken variant makes of it.
        for _ in 0..8 {
            all |= name.bit();
            match name.maker() {
                Some(slot) => name = self.slots[slot].base,
                None => break,
            }
        }
        all
    }

    /// Everything that live snapshots reference.
    pub fn referenced(&self, rules: &Rules) -> Names {
        let live = (0..SLOTS_MAX).filter(|slot| self.is_live(*slot, rules));
        live.fold(0, |all, slot| all | self.closure(self.slots[slot].reference))
    }

    /// The names of generations below `generation`.
    pub fn older(&self, generation: u8) -> Names {
        let fulls = ((1u16 << generation.min(GENERATIONS_MAX)) - 1) as Names;
        let made = |&(_, s): &(usize, &Slot)| s.is_open() && s.generation < generation;
        self.slots.iter().enumerate().filter(made).fold(fulls, |all, (i, _)| all | Name::delta(i).bit())
    }

    /// What the newest seal says is over, for whoever reads it.
    pub fn past(&self) -> Slots {
        if self.stage == Stage::Begun { self.before.past() } else { self.round.past() }
    }

    /// The roster of the last seal when the newest round began: whoever works in that round goes by this.
    pub fn known_roster(&self) -> &Round {
        if self.stage == Stage::Done { &self.round } else { &self.before }
    }

    /// What is over by that roster.
    pub fn known_past(&self) -> Slots {
        self.known_roster().past()
    }

    /// Whether a sequence counts as a live snapshot.
    pub fn is_live(&self, slot: usize, rules: &Rules) -> bool {
        self.slots[slot].looks_live() && !(rules.ages && self.past() & 1 << slot != 0)
    }

    pub fn open_slots(&self) -> Slots {
        self.slots.iter().enumerate().fold(0, |all, (i, s)| all | u8::from(s.is_open()) << i)
    }

    /// The state as numbers, each state its own.
    pub fn words(&self) -> [u64; 5] {
        let [a, b, c, d] = self.slots.map(|s| s.bits());
        let [p, q] = self.pruners.map(|p| p.bits());
        let [p_kept, q_kept] = self.pruners.map(|p| u64::from(p.kept));
        let store = [self.exists, self.sent, self.deletes, self.generation | (self.stage as u8) << 4];
        [
            a | b << 32,
            c | d << 32,
            self.round.bits() | self.before.bits() << 32,
            p | u64::from(u32::from_le_bytes(store)) << 32,
            q | u64::from(self.lost.0) << 32
                | u64::from(self.had_loss) << 36
                | u64::from(self.recorded) << 37
                | p_kept << 38
                | q_kept << 42
                | u64::from(self.round.foreign) << 46
                | u64::from(self.before.foreign) << 47,
        ]
    }
}

impl Slot {
    /// 32 bits.
    fn bits(&self) -> u64 {
        let flags = [self.knows_loss, self.forget, self.unwanted, self.end_delete, self.other_sent];
        debug_assert!(self.generation < GENERATIONS_MAX);
        let flags = flags.iter().fold(0, |all, f| all << 1 | u64::from(*f));
        (self.phase as u64)
            | (self.end as u64) << 3
            | u64::from(self.generation) << 5
            | u64::from(self.reference.0) << 7
            | u64::from(self.base.0) << 11
            | u64::from(self.condemned) << 15
            | flags << 23
            | u64::from(self.past) << 28
    }
}

impl Round {
    /// What its roster says is over.
    pub fn past(&self) -> Slots {
        self.settled & !self.live & !self.kept
    }

    /// 32 bits, without `foreign`.
    fn bits(&self) -> u64 {
        // Only full chunks are in an index.
        debug_assert!(self.index & !FULLS == 0);
        u64::from(self.condemned)
            | u64::from(self.deleted) << 8
            | u64::from(self.index) << 16
            | u64::from(self.live) << 20
            | u64::from(self.settled) << 24
            | u64::from(self.kept) << 28
    }
}

impl Pruner {
    /// At most 32 bits, without `kept`. Only a pruner that keeps what it saw apart has two sets of marks.
    fn bits(&self) -> u64 {
        debug_assert!(self.advisory & !FULLS == 0);
        (self.task as u64)
            | u64::from(self.round) << 3
            | u64::from(self.marks) << 6
            | u64::from(self.advisory) << 14
            | u64::from(self.todo) << 18
            | u64::from(self.live) << 22
            | u64::from(self.settled) << 26
    }
}
