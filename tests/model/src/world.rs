//! One state of the whole system: what the store holds, what may still land there, and where each actor is.

/// Sequences of the log at most.
pub const SLOTS_MAX: usize = 4;
/// Pruners at most.
pub const PRUNERS_MAX: usize = 2;
/// Generations in which chunks are made at most: 0, 1, 2 and 3.
pub const GENERATIONS_MAX: u8 = 4;

/// The name of a chunk object; 0 is none. 1 to 4 are the full chunk in generation 0 to 3, 5 to 8 the delta that the
/// session of slot 0 to 3 made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Name(u8);

/// A set of names, a bit for each.
pub type Names = u8;
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

    pub fn bit(self) -> Names {
        if self.is_none() { 0 } else { 1 << (self.0 - 1) }
    }

    /// The slot whose session made this delta.
    pub fn maker(self) -> Option<usize> {
        self.0.checked_sub(1 + GENERATIONS_MAX).map(usize::from)
    }

    pub fn text(self) -> String {
        match self.maker() {
            _ if self.is_none() => "nothing".to_owned(),
            None => format!("full@{}", self.0 - 1),
            Some(slot) => format!("delta#{}", slot + 1),
        }
    }
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
    /// Only in broken variants: a DELETE of `.forget`, or a PUT of `.end` that overwrites.
    pub other_sent: bool,
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
    /// At this number of slots and below, only `live` counts.
    pub high_water: u8,
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
}

impl Slot {
    pub fn is_open(&self) -> bool {
        self.phase != Phase::Free
    }

    pub fn is_live(&self) -> bool {
        self.end == End::Committed && !self.forget
    }

    /// A sequence with `.forget` and without `.end` is forgotten, not unfinished.
    pub fn is_settled(&self) -> bool {
        self.end != End::Absent || self.forget
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
    pub fn referenced(&self) -> Names {
        self.slots.iter().filter(|s| s.is_live()).fold(0, |all, s| all | self.closure(s.reference))
    }

    /// The names of generations below `generation`.
    pub fn older(&self, generation: u8) -> Names {
        let fulls = ((1u16 << generation.min(GENERATIONS_MAX)) - 1) as Names;
        let made = |&(_, s): &(usize, &Slot)| s.is_open() && s.generation < generation;
        self.slots.iter().enumerate().filter(made).fold(fulls, |all, (i, _)| all | Name::delta(i).bit())
    }

    pub fn open_slots(&self) -> Slots {
        self.slots.iter().enumerate().fold(0, |all, (i, s)| all | u8::from(s.is_open()) << i)
    }

    /// The state as numbers, each state its own.
    pub fn words(&self) -> [u64; 6] {
        let mut bits = Bits::default();
        for s in &self.slots {
            bits.push(s.phase as u8, 3);
            bits.push(s.end as u8, 2);
            bits.push(s.generation, 2);
            bits.push(s.reference.0, 4);
            bits.push(s.base.0, 4);
            bits.push(s.condemned, 8);
            for flag in [s.forget, s.unwanted, s.end_delete, s.other_sent] {
                bits.push(u8::from(flag), 1);
            }
        }
        for set in [self.exists, self.sent, self.deletes] {
            bits.push(set, 8);
        }
        bits.push(self.generation, 3);
        bits.push(self.stage as u8, 2);
        for r in [&self.round, &self.before] {
            bits.push(r.condemned, 8);
            bits.push(r.deleted, 8);
            bits.push(r.index, 8);
            bits.push(r.live, 4);
            bits.push(r.high_water, 3);
        }
        for p in &self.pruners {
            bits.push(p.task as u8, 3);
            bits.push(p.round, 3);
            bits.push(p.marks, 8);
            bits.push(p.advisory, 8);
            bits.push(p.todo, 4);
            bits.push(p.live, 4);
            bits.push(p.settled, 4);
        }
        bits.words
    }
}

#[derive(Default)]
struct Bits {
    words: [u64; 6],
    at: usize,
}

impl Bits {
    /// No value lies across two words.
    fn push(&mut self, value: u8, width: usize) {
        debug_assert!(u32::from(value) < 1 << width);
        if self.at % 64 + width > 64 {
            self.at = self.at.next_multiple_of(64);
        }
        self.words[self.at / 64] |= u64::from(value) << (self.at % 64);
        self.at += width;
    }
}
