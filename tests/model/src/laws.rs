//! What must hold in every state.

use crate::pruner;
use crate::rules::Rules;
use crate::seals;
use crate::session;
use crate::world::{Name, Phase, Pruner, SLOTS_MAX, Stage, Task, World, names_text};

/// Why a state must not be.
pub type Violation = String;

pub fn check(world: &World, rules: &Rules) -> Option<Violation> {
    for (slot, s) in world.slots.iter().enumerate() {
        if world.is_live(slot, rules) {
            let missing = world.closure(s.reference) & !world.exists;
            if s.knows_loss && missing != 0 {
                return Some(format!(
                    "live snapshot {} references what it knew to be lost: {}",
                    slot + 1,
                    names_text(missing)
                ));
            }
            let missing = missing & !world.lost.bit();
            if missing != 0 {
                return Some(format!(
                    "live snapshot {} references {}, missing",
                    slot + 1,
                    names_text(missing)
                ));
            }
        }
        // Once the commit landed its writer may have been told so.
        if s.phase == Phase::Landed && !s.unwanted && !world.is_live(slot, rules) {
            return Some(format!("acknowledged snapshot {} is not live, and nobody forgot it", slot + 1));
        }
    }
    let stopped = world.pruners.iter().position(|p| p.task == Task::Stopped);
    if let Some(at) = stopped.filter(|_| !seals::is_forged(rules)) {
        return Some(format!("pruner {} stops at an honest seal", at + 1));
    }
    // A pruner stops its round when this is not so: without damage it must never have to.
    let roster = if world.stage == Stage::Begun { &world.before } else { &world.round };
    for (slot, s) in world.slots.iter().enumerate() {
        if roster.live & (1 << slot) != 0 && !s.looks_live() && !s.forget {
            return Some(format!("snapshot {} of the last roster is neither live nor forgotten", slot + 1));
        }
    }
    None
}

/// What a session might recall now is all there, and what the last seal keeps has its records.
pub fn check_window(world: &World) -> Option<Violation> {
    let (seal, condemned) = match world.stage {
        Stage::Done => (&world.round, 0),
        Stage::Begun => (&world.before, world.round.condemned),
        Stage::Sealed => (&world.round, world.round.condemned),
    };
    let kept = if seal.foreign { 0 } else { seal.kept };
    for (slot, s) in world.slots.iter().enumerate() {
        if kept & 1 << slot != 0 && !s.looks_forgotten() {
            return Some(format!("kept snapshot {} has not all its records", slot + 1));
        }
        let needed = world.closure(s.reference);
        let missing = needed & !world.exists & !world.lost.bit();
        // It would be refused while something of it is condemned; but what the last seal keeps is not.
        let roster = world.known_roster();
        let offered = roster.past() & 1 << slot == 0 && !roster.foreign && needed & condemned == 0;
        if s.looks_forgotten() && (offered || kept & 1 << slot != 0) && missing != 0 {
            return Some(format!(
                "forgotten snapshot {} may be recalled, but {} is missing",
                slot + 1,
                names_text(missing)
            ));
        }
    }
    None
}

/// Once all is quiet, two rounds at most leave nothing unfinished and nothing unreferenced. `landed`: whether the creates
/// under way still land before.
pub fn check_quiet(world: &World, rules: &Rules, landed: bool) -> Option<Violation> {
    let mut world = *world;
    world.pruners = Default::default();
    if landed {
        world.exists |= world.sent;
        for slot in 0..SLOTS_MAX {
            if !world.slots[slot].base.is_none() {
                world.exists |= Name::delta(slot).bit();
            }
        }
    }
    for rounds in 0..=2 {
        let unreferenced = world.exists & !world.referenced(rules);
        if world.stage == Stage::Done && unreferenced == 0 {
            return check(&world, rules);
        }
        if rounds < 2 {
            prune_alone(&mut world, rules);
        }
        if let Some(violation) = check(&world, rules) {
            return Some(format!("after {} quiet rounds: {violation}", rounds + 1));
        }
    }
    let unreferenced = world.exists & !world.referenced(rules);
    Some(format!("two quiet rounds leave {} and the last round {:?}", names_text(unreferenced), world.stage))
}

/// One round of one pruner, whose requests all land, beside nothing else.
fn prune_alone(world: &mut World, rules: &Rules) {
    let at = 0;
    let round = world.generation + u8::from(world.stage == Stage::Done);
    world.pruners[at] = Pruner { task: Task::Settling, round, ..Pruner::default() };
    if world.stage == Stage::Done {
        pruner::begin_round(world, at, world.exists & !world.referenced(rules));
    } else if rules.is(crate::rules::Broken::LeavesOthersRounds) {
        return;
    }
    if world.stage == Stage::Begun {
        for slot in 0..SLOTS_MAX {
            session::end_by_lease(world, slot, rules);
        }
        pruner::begin_marking(world, at, rules);
        let past = if rules.ages { world.known_past() } else { 0 };
        for slot in (0..SLOTS_MAX).filter(|slot| past & 1 << slot == 0) {
            pruner::mark_slot(world, at, slot, rules);
        }
        pruner::seal(world, at, rules);
    }
    pruner::delete(world, at, rules);
    world.exists &= !world.deletes;
    world.stage = Stage::Done;
}
