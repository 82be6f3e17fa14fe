//! Counts distinct objects in bounded memory.
//!
//! Objects are known by 64-bit fingerprints of their names. Where there are too many to remember, a part of them is, chosen
//! by the fingerprint, and stands for all: with millions in the sample the error is well below a percent.

use std::collections::HashMap;

use crate::format::names::ContentName;
use crate::stats::Usage;

/// Objects remembered by one count: about 130 MiB. Up to here all is exact, but for two names among 2^64 fingerprints.
const OBJECTS_MAX: usize = 3_600_000;

/// The only snapshot that needs something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// By its place in the list of all that are looked at.
    One(u32),
    Several,
}

impl Owner {
    pub(super) fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Several }
    }
}

/// What an object is, to those who need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Page,
    /// A full chunk, and the length of its plaintext.
    Full(u32),
    /// A chunk stored as a delta, and the length of its plaintext.
    Delta(u32),
    /// What deltas are decoded against. No snapshot that is looked at has it as a chunk of its own.
    Base,
}

/// An object as one place needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object {
    pub(super) sealed_len_bytes: u32,
    pub(super) role: Role,
    pub(super) owner: Owner,
    /// It is needed by what is asked about, and not only by what is beside it.
    pub(super) chosen: bool,
}

/// Distinct objects, or a sample of them.
pub(super) struct Tally {
    objects: HashMap<u64, Object>,
    objects_max: usize,
    /// Only fingerprints that end in so many zero bits are remembered.
    zero_bits: u32,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self::with_max(OBJECTS_MAX)
    }

    fn with_max(objects_max: usize) -> Self {
        Self { objects: HashMap::new(), objects_max, zero_bits: 0 }
    }

    pub(super) fn add(&mut self, name: &ContentName, object: Object) {
        let fingerprint = fingerprint(name, object.role == Role::Page);
        if fingerprint.trailing_zeros() < self.zero_bits {
            return;
        }
        let known = self.objects.entry(fingerprint).or_insert(object);
        known.owner = known.owner.and(object.owner);
        known.chosen |= object.chosen;
        if known.role == Role::Base {
            known.role = object.role;
        }
        while self.objects.len() > self.objects_max && self.zero_bits < 63 {
            self.zero_bits += 1;
            self.objects.retain(|fingerprint, _| fingerprint.trailing_zeros() >= self.zero_bits);
        }
    }

    /// How many objects each one that is remembered stands for.
    pub(super) fn one_in(&self) -> u64 {
        1 << self.zero_bits
    }

    /// Adds what the chosen objects take.
    pub(super) fn sum_up(&self, usage: &mut Usage) {
        let one_in = self.one_in();
        let (mut full_bytes, mut full_stored_bytes, mut base_stored_bytes) = (0, 0, 0);
        for object in self.objects.values().filter(|o| o.chosen) {
            let stored_bytes = u64::from(object.sealed_len_bytes) * one_in;
            usage.stored_bytes += stored_bytes;
            match object.role {
                Role::Page => {
                    usage.pages += one_in;
                    usage.page_bytes += stored_bytes;
                }
                Role::Base => {
                    usage.bases += one_in;
                    base_stored_bytes += stored_bytes;
                }
                Role::Full(len_bytes) => {
                    usage.chunks += one_in;
                    full_bytes += u64::from(len_bytes) * one_in;
                    full_stored_bytes += stored_bytes;
                }
                Role::Delta(len_bytes) => {
                    usage.chunks += one_in;
                    usage.deltas += one_in;
                    usage.delta_bytes += u64::from(len_bytes) * one_in;
                    usage.delta_stored_bytes += stored_bytes;
                }
            }
        }
        usage.unique_bytes = full_bytes + usage.delta_bytes;
        usage.base_stored_bytes = base_stored_bytes;
        // In full they would have been stored as well as the others are.
        let in_full = match full_bytes {
            0 => 0,
            _ => u128::from(usage.delta_bytes) * u128::from(full_stored_bytes) / u128::from(full_bytes),
        };
        let in_full = u64::try_from(in_full).unwrap_or(u64::MAX);
        usage.delta_saved_bytes = in_full.saturating_sub(usage.delta_stored_bytes + base_stored_bytes);
        usage.one_in = one_in;
    }

    /// Bytes of the objects that only one snapshot needs, by its place.
    pub(super) fn owned_bytes(&self) -> HashMap<u32, u64> {
        let mut out = HashMap::new();
        for object in self.objects.values() {
            if let Owner::One(place) = object.owner {
                *out.entry(place).or_default() += u64::from(object.sealed_len_bytes) * self.one_in();
            }
        }
        out
    }
}

/// Ids are keyed hashes, so any part of one is as good as random. Generation and variant are mixed in (splitmix64).
pub(super) fn fingerprint(name: &ContentName, page: bool) -> u64 {
    let head = name.id.0.first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
    // A piece has no variant, and each its own place.
    let within = name.offset_bytes.map_or(name.variant, |offset| !offset);
    let place = u64::from(name.generation.0) << 33 | u64::from(within) << 1 | u64::from(page);
    let mut mixed = place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    head ^ mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Numbers;
    use crate::units::{ChunkId, Generation};

    fn names(count: u64) -> Vec<ContentName> {
        let mut numbers = Numbers::new(3);
        let mut name = |n: u64| {
            let mut id = [0; 32];
            id.as_chunks_mut::<8>().0.iter_mut().for_each(|part| *part = numbers.next().to_le_bytes());
            ContentName {
                id: ChunkId(id),
                generation: Generation((n % 3) as u32),
                variant: (n % 2) as u32,
                offset_bytes: None,
            }
        };
        (0..count).map(&mut name).collect()
    }

    fn chunk(owner: u32) -> Object {
        Object { sealed_len_bytes: 200, role: Role::Full(1000), owner: Owner::One(owner), chosen: true }
    }

    fn summed(tally: &Tally) -> Usage {
        let mut usage = Usage::default();
        tally.sum_up(&mut usage);
        usage
    }

    #[test]
    fn a_sample_stands_for_all() {
        let names = names(50_000);
        let (mut all, mut some) = (Tally::with_max(100_000), Tally::with_max(4_000));
        for name in names.iter().chain(&names[..20_000]) {
            all.add(name, chunk(0));
            some.add(name, chunk(0));
            assert!(some.objects.len() <= 4_000);
        }
        let (exact, estimate) = (summed(&all), summed(&some));
        assert_eq!((exact.chunks, exact.one_in), (50_000, 1));
        assert_eq!((exact.unique_bytes, exact.stored_bytes), (50_000_000, 10_000_000));
        assert!(estimate.one_in >= 16 && estimate.unique_bytes == estimate.chunks * 1000);
        let error = estimate.chunks.abs_diff(exact.chunks) as f64 / exact.chunks as f64;
        assert!(error < 0.06, "{} instead of {}", estimate.chunks, exact.chunks);
        assert_eq!(some.owned_bytes()[&0], estimate.stored_bytes);
    }

    #[test]
    fn what_distinguishes_names_distinguishes_fingerprints() {
        let name = names(1)[0];
        let mut all: Vec<u64> = (0..50)
            .flat_map(|g| {
                (0..50).map(move |variant| ContentName { generation: Generation(g), variant, ..name })
            })
            .flat_map(|name| [fingerprint(&name, true), fingerprint(&name, false)])
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 5000);
    }

    #[test]
    fn places_that_need_the_same_are_merged() {
        let name = names(1)[0];
        let mut tally = Tally::new();
        let base = Object { role: Role::Base, owner: Owner::One(1), chosen: false, ..chunk(1) };
        tally.add(&name, base);
        assert_eq!((summed(&tally).stored_bytes, tally.owned_bytes()[&1]), (0, 200), "nobody asked about it");
        tally.add(&name, chunk(1));
        let usage = summed(&tally);
        assert_eq!((usage.chunks, usage.bases, tally.owned_bytes()[&1]), (1, 0, 200));
        tally.add(&name, chunk(2));
        tally.add(&name, chunk(1));
        assert!(tally.owned_bytes().is_empty());
    }

    #[test]
    fn deltas_are_held_against_what_full_chunks_take() {
        let names = names(4);
        let mut tally = Tally::new();
        tally.add(&names[0], chunk(0));
        let delta = |len| Object { sealed_len_bytes: len, role: Role::Delta(1000), ..chunk(0) };
        tally.add(&names[1], delta(20));
        tally.add(&names[2], delta(30));
        tally.add(&names[3], Object { sealed_len_bytes: 150, role: Role::Base, ..chunk(0) });
        let usage = summed(&tally);
        assert_eq!((usage.deltas, usage.delta_bytes, usage.delta_stored_bytes), (2, 2000, 50));
        // In full 400; stored 50 and the base's 150.
        assert_eq!((usage.bases, usage.base_stored_bytes, usage.delta_saved_bytes), (1, 150, 200));
        assert_eq!((usage.unique_bytes, usage.stored_bytes), (3000, 400));
    }
}
