//! Which of the objects that a volume's next snapshot builds on are looked for tonight, so that what is lost shows without
//! a verify: every backup looks at another thirtieth.
//!
//! A LIST tells of up to a thousand names at the price of one, so the objects are taken in the order of their names. How
//! far a request gets depends on what else the project holds; so requests are bounded, and each round of thirty begins at
//! another place of its part.

use std::cmp::Reverse;
use std::ops::Range;

use crate::format::names::ContentName;
use crate::format::page::ObjectRef;
use crate::units::{ChunkId, Generation, Sequence};

/// Backups in which everything has its turn.
const PARTS: u32 = 30;
/// Up to so many objects, each look has all of them before it: one listing may well show them all.
const WHOLE_MAX: usize = 1 << 15;
/// Most objects that one look has before it (48 MiB).
const OBJECTS_MAX: usize = 1 << 20;
/// Objects for each of which a look may make one request more.
const OBJECTS_PER_REQUEST: usize = 4_000;
/// Objects that are asked for one by one, where a listing reads a whole directory.
const HEADS_MAX: usize = 4_096;
/// Listings of a look that found something lost: ten million names.
const THOROUGH_LISTS_MAX: usize = 10_000;
/// A number whose multiples fall evenly between 0 and 1: the golden section's.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The objects of one look, while they are gathered.
#[derive(Debug)]
pub struct Gathering {
    /// Whose turn it is, from 0 to 29.
    part: u32,
    /// How often everything had its turn.
    round: u32,
    objects: Vec<ObjectRef>,
    /// Only the part's: there are too many.
    parted: bool,
    /// Distinct objects, about.
    seen: usize,
    /// Those of many volumes, by ids alone: others look at the same part of all names.
    shared: bool,
}

/// What a look has before it.
#[derive(Debug, PartialEq, Eq)]
pub struct Tonight {
    /// By name, distinct.
    pub objects: Vec<ObjectRef>,
    /// Those whose turn it is.
    pub due: Range<usize>,
    /// Where among them it begins; it goes on with the first when it comes to the last.
    pub start: usize,
    /// Listings after which it must end.
    pub lists_max: usize,
    /// Objects that are asked for one by one, at most.
    pub heads_max: usize,
    /// Of those whose turn it is, only this part.
    only_part: Option<u32>,
}

impl Gathering {
    /// For the backup of this sequence.
    pub fn new(sequence: Sequence) -> Self {
        let (part, round) = (sequence.0 % PARTS, sequence.0 / PARTS);
        Self { part, round, objects: Vec::new(), parted: false, seen: 0, shared: false }
    }

    /// For one of many volumes that are looked at together: whose turn it is follows from ids alone, so that a listing made for one
    /// volume shows what others look for. Of a volume of a few objects it may be nothing's turn.
    pub fn shared(night: Sequence) -> Self {
        Self { shared: true, ..Self::new(night) }
    }

    /// Takes an object that the parent references; what is not due may be left out.
    pub fn add(&mut self, object: &ObjectRef) {
        self.seen += 1;
        if self.parted && !self.is_due(&object.name) || self.objects.len() >= OBJECTS_MAX {
            return;
        }
        self.objects.push(*object);
        if !self.parted && self.objects.len() > WHOLE_MAX {
            self.sort();
            self.parted = self.objects.len() > WHOLE_MAX / 2;
            if self.parted {
                let mut objects = std::mem::take(&mut self.objects);
                objects.retain(|object| self.is_due(&object.name));
                self.objects = objects;
            }
        }
    }

    /// Whether it is the turn of an id in this look. Ids are spread evenly.
    fn is_due(&self, name: &ContentName) -> bool {
        is_of(name, self.part)
    }

    fn sort(&mut self) {
        // Of one name the longest: of a bundle it is known how far it must reach.
        self.objects.sort_unstable_by_key(|object| (object.name, Reverse(object.sealed_len_bytes)));
        self.objects.dedup_by_key(|object| object.name);
    }

    /// What this look has before it.
    pub fn finish(mut self) -> Tonight {
        self.sort();
        let len = self.objects.len();
        // Of what is parted all is due, from another place on in each round; of what many look at, what is of the part.
        let fraction = u64::from(self.round).wrapping_mul(GOLDEN);
        let within =
            |range: Range<usize>| range.start + ((u128::from(fraction) * range.len() as u128) >> 64) as usize;
        let (due, all) = match self.parted || self.shared {
            true => (0..len, self.seen.max(len)),
            false => (part(len, self.part), len),
        };
        Tonight {
            start: within(due.clone()),
            due,
            lists_max: 1 + all / OBJECTS_PER_REQUEST,
            heads_max: HEADS_MAX,
            only_part: self.shared.then_some(self.part),
            objects: self.objects,
        }
    }
}

/// Whether an id is of a part. Ids are spread evenly.
fn is_of(name: &ContentName, part: u32) -> bool {
    let head = u64::from_be_bytes(std::array::from_fn(|i| name.id.0[i]));
    (u128::from(head) * u128::from(PARTS)) >> 64 == u128::from(part)
}

/// A part of a list. One object at least is looked for each time: a listing then shows all of a small volume.
fn part(len: usize, part: u32) -> Range<usize> {
    let begin = |part: u32| (len as u64 * u64::from(part) / u64::from(PARTS)) as usize;
    let start = begin(part).min(len.saturating_sub(1));
    start..begin(part + 1).max(start + 1).min(len)
}

impl Tonight {
    /// What is asked for one by one, where listings do not pay.
    pub fn heads(&self) -> impl Iterator<Item = &ObjectRef> {
        self.turns().filter_map(|at| self.objects.get(at)).take(self.heads_max)
    }

    /// Where the part that many volumes look at begins in a generation; `None` where one looks for itself.
    pub fn part_start(&self, generation: Generation) -> Option<ContentName> {
        let part = self.only_part?;
        let head = ((u128::from(part) << 64).div_ceil(u128::from(PARTS)) as u64).to_be_bytes();
        let id = ChunkId(std::array::from_fn(|i| head.get(i).copied().unwrap_or(0)));
        Some(ContentName::plain(generation, id))
    }

    /// Everything that the look has before it, for when some of it turned out lost: that seldom comes alone.
    pub fn thorough(self) -> Self {
        let due = 0..self.objects.len();
        Self { due, start: 0, lists_max: THOROUGH_LISTS_MAX, heads_max: usize::MAX, only_part: None, ..self }
    }

    /// The places of those whose turn it is, in turn.
    pub fn turns(&self) -> impl Iterator<Item = usize> {
        let all = (self.start..self.due.end).chain(self.due.start..self.start);
        all.filter(|at| self.only_part.is_none_or(|part| is_of(&self.objects[*at].name, part)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::Numbers;

    fn objects(count: usize) -> Vec<ObjectRef> {
        let mut numbers = Numbers::new(count as u64 + 1);
        let object = |n: usize| {
            let words: [[u8; 8]; 4] = std::array::from_fn(|_| numbers.next().to_le_bytes());
            let id = ChunkId(std::array::from_fn(|i| words[i / 8][i % 8]));
            let name = ContentName::plain(Generation(n as u32 % 3), id);
            ObjectRef { name, sealed_len_bytes: 200 }
        };
        (0..count).map(object).collect()
    }

    fn tonight(objects: &[ObjectRef], sequence: u32) -> Tonight {
        let mut gathering = Gathering::new(Sequence(sequence));
        objects.iter().for_each(|object| gathering.add(object));
        gathering.finish()
    }

    #[test]
    fn thirty_looks_see_everything_and_none_sees_much() {
        for count in [0, 1, 2, 29, 31, 1000, 100_000] {
            let all = objects(count);
            for first in [1, 30, 31, 12_345] {
                let mut seen = BTreeSet::new();
                for sequence in first..first + PARTS {
                    let look = tonight(&all, sequence);
                    assert_eq!(look.due.is_empty(), count == 0, "each looks for something");
                    assert!(look.due.len() <= count / 29 + 1, "{count}: {:?}", look.due);
                    assert!(look.lists_max <= 1 + count / OBJECTS_PER_REQUEST);
                    assert_eq!(look.turns().count(), look.due.len());
                    seen.extend(look.heads().map(|object| object.name));
                }
                assert_eq!(seen.len(), count, "{count} from {first}");
            }
        }
    }

    /// Many volumes: all of them look at the same names, and in thirty nights at all.
    #[test]
    fn thirty_shared_looks_see_everything_and_all_volumes_look_at_the_same_part() {
        for count in [0, 1, 40, 1000, 100_000] {
            let all = objects(count);
            let mut seen = BTreeSet::new();
            for night in 7..7 + PARTS {
                let mut gathering = Gathering::shared(Sequence(night));
                all.iter().for_each(|object| gathering.add(object));
                let look = gathering.finish();
                let due: BTreeSet<_> = look.turns().map(|at| look.objects[at].name).collect();
                assert!(due.iter().all(|name| is_of(name, night % PARTS)));
                let start = |name: &ContentName| look.part_start(name.generation).expect("a start");
                assert!(due.iter().all(|name| start(name) <= *name && is_of(&start(name), night % PARTS)));
                assert!(due.len() <= count / 20 + 10, "{count}: {}", due.len());
                seen.extend(due);
                assert_eq!(look.thorough().turns().count(), look_len(&all, night), "{count}");
            }
            assert_eq!(seen.len(), count);
        }
    }

    /// What a look has before it, of many volumes.
    fn look_len(all: &[ObjectRef], night: u32) -> usize {
        match all.len() > WHOLE_MAX {
            true => all.iter().filter(|object| is_of(&object.name, night % PARTS)).count(),
            false => all.len(),
        }
    }

    /// Where requests do not get through a part, other rounds begin elsewhere in it.
    #[test]
    fn rounds_begin_at_other_places() {
        for count in [3000, 100_000] {
            let all = objects(count);
            let starts: BTreeSet<usize> =
                (0..20).map(|round| tonight(&all, 7 + round * PARTS).start).collect();
            assert!(starts.len() > 15, "{starts:?}");
        }
    }

    #[test]
    fn what_is_named_twice_is_looked_for_once() {
        let mut twice = objects(50);
        twice.extend(objects(50));
        assert_eq!(tonight(&twice, 3).objects.len(), 50);
    }
}
