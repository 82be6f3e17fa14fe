//! A backup session, from registration to its commit (repo-format.md §8.1).

use crate::rules::{Broken, Rules};
use crate::step::{Next, Step};
use crate::world::{End, FULLS, Name, Names, Phase, Refs, SLOTS_MAX, Slot, Stage, World, refs};

pub fn steps(world: &World, slot: usize, next: &mut Next<'_>) {
    match world.slots[slot].phase {
        Phase::Free => register(world, slot, next),
        Phase::Registered => confirm(world, slot, next),
        Phase::Working => work(world, slot, next),
        Phase::Stray => send(world, slot, next),
        Phase::Committing | Phase::Landed | Phase::Gone => register_again(world, slot, next),
    }
}

/// All records of a sequence are gone, and somebody who does not know that there ever was one takes its number.
fn register_again(world: &World, slot: usize, next: &mut Next<'_>) {
    let session = &world.slots[slot];
    let is_bare = session.other_sent && session.end == End::Absent && !session.forget;
    if !next.rules.ages || !is_bare {
        return;
    }
    for generation in 0..=world.generation {
        let mut then = *world;
        let (end_delete, other_sent) = (session.end_delete, session.other_sent);
        then.slots[slot] =
            Slot { phase: Phase::Registered, generation, end_delete, other_sent, ..Slot::default() };
        next.push(Step::RegisterAgain { slot, generation }, then);
    }
}

/// Steps 1 and 2. Whatever generation the session saw: it may have read it long ago, or from a short listing.
fn register(world: &World, slot: usize, next: &mut Next<'_>) {
    let is_next = slot < next.rules.slots && world.slots[..slot].iter().all(|s| s.is_open());
    if !is_next {
        return;
    }
    for generation in 0..=world.generation {
        let mut then = *world;
        then.slots[slot].phase = Phase::Registered;
        then.slots[slot].generation = generation;
        next.push(Step::Register { slot, generation }, then);
    }
}

/// Step 3. A session whose generation is over does nothing any more but give up.
fn confirm(world: &World, slot: usize, next: &mut Next<'_>) {
    let session = &world.slots[slot];
    let current = session.generation == world.generation;
    if session.end != End::Absent || !(current || next.rules.is(Broken::NoSecondLook)) {
        return;
    }
    let under_way = match world.stage {
        Stage::Done => next.rules.is(Broken::KnowsTheRoundUnderWay),
        Stage::Begun => true,
        Stage::Sealed => !next.rules.is(Broken::CondemnedUntilSeal),
    };
    let past = match next.rules.broken {
        Some(Broken::RecallsByOlderRoster | Broken::KnowsTheRoundUnderWay) => world.before.past(),
        _ if next.rules.reads_rosters() => world.known_past(),
        _ => 0,
    };
    if past & 1 << slot != 0 && !next.rules.is(Broken::RegistersBelowHighWater) {
        // It gives up.
        return;
    }
    let mut then = *world;
    then.slots[slot].phase = Phase::Working;
    // A seal that nobody can read any more may have called over whatever was forgotten.
    let unknown = world.known_roster().foreign && !next.rules.is(Broken::RecallsAcrossForeign);
    debug_assert!(!(unknown && next.rules.ages), "the two are not told apart");
    then.slots[slot].past = if unknown { (1 << SLOTS_MAX) - 1 } else { past };
    then.slots[slot].condemned = if current && under_way { world.round.condemned } else { 0 };
    then.slots[slot].knows_loss = world.recorded;
    next.push(Step::Confirm { slot }, then);
    if current && under_way && next.rules.is(Broken::DoneByName) {
        then.slots[slot].condemned = 0;
        next.push(Step::ConfirmPlanted { slot }, then);
    }
}

/// Steps 4 to 6. What to reference is chosen freely among what the rules allow.
fn work(world: &World, slot: usize, next: &mut Next<'_>) {
    let session = &world.slots[slot];
    if !session.base.is_none() {
        // Its delta is sent; when it is durable, the manifest is complete.
        let delta = Name::delta(slot);
        if world.exists & delta.bit() != 0 {
            reference(world, slot, delta, next);
            if next.rules.bundles {
                reference(world, slot, Name::beside(slot), next);
            }
        }
        return;
    }
    let sources = sources(world, slot, next.rules);
    let recalled = recalled(world, slot, next.rules);
    for name in refs(sources | recalled) {
        if sources & name.ref_bit() == 0 {
            let mut then = *world;
            (then.slots[slot].phase, then.slots[slot].reference) = (Phase::Committing, name);
            next.push(Step::Recall { slot, name }, then);
        } else {
            reference(world, slot, name, next);
        }
        if next.rules.deltas {
            let mut then = *world;
            then.slots[slot].base = name;
            next.push(Step::MakeDelta { slot, base: name }, then);
        }
    }
    send(world, slot, next);
}

fn send(world: &World, slot: usize, next: &mut Next<'_>) {
    let name = own_name(world, slot, next.rules);
    if world.sent & name.bit() == 0 {
        let mut then = *world;
        then.sent |= name.bit();
        next.push(Step::Send { slot }, then);
    }
}

fn reference(world: &World, slot: usize, name: Name, next: &mut Next<'_>) {
    let mut then = *world;
    then.slots[slot].phase = Phase::Committing;
    then.slots[slot].reference = name;
    next.push(Step::Reference { slot, name }, then);
}

/// The name of the full chunk for this session.
fn own_name(world: &World, slot: usize, rules: &Rules) -> Name {
    let generation = if rules.is(Broken::OneName) { 0 } else { world.slots[slot].generation };
    Name::full(generation)
}

/// What the session may reference (step 4). Of its volume's snapshots it may take any live one: more than the newest,
/// and more than one volume's.
fn sources(world: &World, slot: usize, rules: &Rules) -> Refs {
    let mut parents: Refs = 0;
    for (at, other) in world.slots.iter().enumerate().filter(|(i, _)| *i != slot) {
        let cached = rules.is(Broken::CachedParent) && other.phase == Phase::Landed;
        let past = world.slots[slot].past & 1 << at != 0 && !rules.is(Broken::ParentWithoutRoster);
        if other.looks_live() && !past || cached {
            parents |= other.reference.ref_bit();
        }
    }
    let index = index(world, slot, rules);
    let own = own_name(world, slot, rules);
    let found = match rules.broken {
        Some(Broken::HeadOlder) => (own.bit() | (own.bit() - 1)) & FULLS,
        _ => own.bit(),
    };
    let found = found & world.exists;
    let mut allowed = Refs::from(found & own.bit());
    for name in refs(parents | Refs::from(index | found)) {
        if is_allowed(world, slot, name, rules) {
            allowed |= name.ref_bit();
        }
    }
    if rules.is(Broken::IndexWithCondemned) {
        allowed |= Refs::from(index);
    }
    if rules.bundles {
        allowed |= found_in_bundles(world, slot, allowed, rules);
    }
    allowed
}

/// What forgotten snapshots reference, as far as the session may recall them: the roster that it read does not say that they are
/// over, and nothing of it is condemned. Whether `.forget` came before or after does not matter.
fn recalled(world: &World, slot: usize, rules: &Rules) -> Refs {
    if !rules.window {
        return 0;
    }
    let mut allowed = 0;
    for (at, other) in world.slots.iter().enumerate().filter(|(_, other)| other.looks_forgotten()) {
        let past = world.slots[slot].past & 1 << at != 0 && !rules.is(Broken::RecallsUnkept);
        let condemned = !is_allowed(world, slot, other.reference, rules);
        if !past && (!condemned || rules.is(Broken::RecallsCondemned)) {
            allowed |= other.reference.ref_bit();
        }
    }
    allowed
}

/// Whether anybody may still recall or keep a forgotten snapshot: what one roster says is over is over in all that follow.
fn may_be_recalled(world: &World, slot: usize, rules: &Rules) -> bool {
    let knows_not = |s: &Slot| s.phase == Phase::Working && s.past & 1 << slot == 0;
    let open = world.known_past() & 1 << slot == 0 || world.slots.iter().any(knows_not);
    // A broken rule may make more of it.
    rules.window && (rules.broken.is_some() || open && world.slots[slot].looks_forgotten())
}

/// What lies in bundles of the own generation, whoever made them: a delta only where what it stands on may be referenced by
/// itself.
fn found_in_bundles(world: &World, slot: usize, allowed: Refs, rules: &Rules) -> Refs {
    let mut found = 0;
    for (at, other) in world.slots.iter().enumerate().filter(|(at, _)| *at != slot) {
        let same = other.is_open() && other.generation == world.slots[slot].generation;
        let exists = !other.base.is_none() && world.exists & Name::delta(at).bit() != 0;
        if !same || !exists {
            continue;
        }
        if is_allowed(world, slot, Name::beside(at), rules) {
            found |= Name::beside(at).ref_bit();
        }
        let stands = other.base.ref_bit() & allowed != 0 || rules.is(Broken::FoundDeltaUnchecked);
        if stands && is_allowed(world, slot, Name::delta(at), rules) {
            found |= Name::delta(at).ref_bit();
        }
    }
    found
}

/// The live index of the last seal, as the session finds it.
fn index(world: &World, slot: usize, rules: &Rules) -> Names {
    let generation = world.slots[slot].generation;
    let newest = generation == world.generation;
    match world.stage {
        _ if generation + 1 == world.generation => world.before.index,
        _ if !newest => 0,
        Stage::Begun => world.before.index,
        Stage::Sealed | Stage::Done if rules.is(Broken::IndexOfOlderSeal) => world.before.index,
        Stage::Sealed | Stage::Done => world.round.index,
    }
}

fn is_allowed(world: &World, slot: usize, name: Name, rules: &Rules) -> bool {
    let lost = match rules.broken {
        _ if !world.slots[slot].knows_loss => 0,
        Some(Broken::TakesOverLost) => 0,
        _ => world.lost.bit(),
    };
    let looks_at = if rules.is(Broken::DeltaAboveLost) { name.bit() } else { world.closure(name) };
    if looks_at & lost != 0 {
        return false;
    }
    let needs = if rules.is(Broken::ClosureUnchecked) { name.bit() } else { world.closure(name) };
    needs & world.slots[slot].condemned == 0 || rules.is(Broken::IgnoresCondemned)
}

/// Forgets what a session knew when it can no longer act on it.
pub fn tidy(world: &mut World, slot: usize, rules: &Rules) {
    let sent = world.sent & own_name(world, slot, rules).bit() != 0;
    let delta_exists = world.exists & Name::delta(slot).bit() != 0;
    let generation = world.generation;
    let may_be_recalled = may_be_recalled(world, slot, rules);
    let session = &mut world.slots[slot];
    if !matches!(session.phase, Phase::Working) {
        session.past = 0;
    }
    if matches!(session.phase, Phase::Committing | Phase::Landed) {
        session.condemned = 0;
    }
    let void = session.generation < generation && !rules.is(Broken::NoSecondLook);
    if session.phase == Phase::Registered && void {
        session.generation = 0;
    }
    let keeps_outcome = matches!(
        rules.broken,
        Some(Broken::CleansAborted | Broken::PlainAbort | Broken::ExistsIsSuccess | Broken::AgesAborted)
    );
    if session.end == End::Aborted && !session.forget && !keeps_outcome {
        // Its commit can never land. A delta of its own, known to nobody else, is garbage when it exists and nothing
        // when it does not. Its full chunk may still arrive, and others may have found it.
        let awake = matches!(session.phase, Phase::Working | Phase::Committing | Phase::Stray);
        let stray = (awake || (session.phase == Phase::Registered && !void)) && !sent;
        session.phase = if stray { Phase::Stray } else { Phase::Gone };
        (session.reference, session.base, session.condemned) = (Name::NONE, Name::NONE, 0);
        session.knows_loss = false;
        if !stray && !delta_exists {
            session.generation = 0;
        }
    }
    let keeps_reference = rules.ages
        || may_be_recalled
        || matches!(rules.broken, Some(Broken::CachedParent | Broken::CleansForget));
    if session.forget && !keeps_reference {
        session.reference = Name::NONE;
        session.knows_loss = false;
    }
    if !rules.is(Broken::CleansForget) && !rules.ages {
        session.unwanted = session.forget;
    }
    let unneeded = session.forget && !keeps_reference && !session.base.is_none() && !delta_exists;
    if unneeded && !is_referenced(world, Name::delta(slot)) {
        world.slots[slot].base = Name::NONE;
    }
}

fn is_referenced(world: &World, name: Name) -> bool {
    (0..SLOTS_MAX).any(|i| {
        let s = &world.slots[i];
        s.reference == name || s.base == name
    })
}

/// A dead session is ended as aborted.
pub fn end_by_lease(world: &mut World, slot: usize, rules: &Rules) {
    if rules.ages && world.known_past() & 1 << slot != 0 {
        return;
    }
    let session = &mut world.slots[slot];
    if session.is_open() && !session.is_settled() {
        session.end = End::Aborted;
    }
}
