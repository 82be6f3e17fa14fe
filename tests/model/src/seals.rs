//! What becomes of seals beside the pruners that make them: forged ones, ones that turn foreign, copies of their rosters, and
//! how a pruner holds a seal that it finds against what it marked itself (repo-format.md §8.2 and §8.5).

use crate::pruner;
use crate::rules::{Broken, Rules};
use crate::step::{Next, Step};
use crate::world::{Names, Pruner, Round, SLOTS_MAX, Stage, Task, World};

pub fn steps(world: &World, next: &mut Next<'_>) {
    forge(world, next);
    if next.rules.foreign {
        lose(world, next);
        copy(world, next);
    }
}

/// Whether somebody may forge a seal.
pub fn is_forged(rules: &Rules) -> bool {
    matches!(
        rules.broken,
        Some(
            Broken::SealForged
                | Broken::SealObeyed
                | Broken::SealForgedInWindow
                | Broken::FormerRosterUncompared
                | Broken::RecallableUncompared
        )
    )
}

/// Whether pruners hold a seal that they find against their own marks. An honest one says nothing that differs, so this is left out
/// where none is forged.
pub fn are_compared(rules: &Rules) -> bool {
    let honest = matches!(
        rules.broken,
        Some(Broken::ComparesHonestSeals | Broken::ComparesOwnWindow | Broken::ComparesEarlierMarks)
    );
    honest || is_forged(rules) && !rules.is(Broken::SealObeyed)
}

/// Whoever has the keys and may create, and no more, may be first with a seal. Its roster is empty: nothing is over by it.
fn forge(world: &World, next: &mut Next<'_>) {
    if is_forged(next.rules) && world.stage == Stage::Begun {
        let mut then = *world;
        then.round.deleted = world.round.condemned & pruner::deletable(world, world.generation, next.rules);
        then.stage = Stage::Sealed;
        mark_anew(&mut then, next.rules);
        next.push(Step::ForgeSeal, then);
    }
}

/// What was marked before a seal was found may have been forgotten when that was made: it is marked anew.
pub fn mark_anew(world: &mut World, rules: &Rules) {
    let anew = are_compared(rules) && !rules.is(Broken::ComparesEarlierMarks);
    for pruner in world.pruners.iter_mut().filter(|p| anew && p.task == Task::Marking) {
        *pruner = Pruner { task: Task::Settling, round: pruner.round, ..Pruner::default() };
    }
}

/// Whether a found seal deletes what it must not, or its roster says less than the one before. Windows differ: what the seal calls
/// over may be so, though the finder would have kept it, and what it does not call over may be recalled, though the finder would not
/// have kept it. So the seal tells what to mark beside the live.
pub fn differs(world: &World, at: usize, rules: &Rules) -> bool {
    let pruner = &world.pruners[at];
    let is_recallable = |slot: &usize| match rules.broken {
        Some(Broken::ComparesOwnWindow) => pruner.kept & 1 << slot != 0,
        Some(Broken::RecallableUncompared) => false,
        _ => world.slots[*slot].looks_forgotten() && world.round.past() & 1 << slot == 0,
    };
    let recallable = (0..SLOTS_MAX).filter(is_recallable);
    let needed: Names =
        recallable.fold(pruner.marks, |all, slot| all | world.closure(world.slots[slot].reference));
    let reopens = world.before.past() & !world.round.past() != 0 && !rules.is(Broken::FormerRosterUncompared);
    world.round.deleted & needed != 0 || rules.window && reopens
}

/// The honest seal is damaged when none, some or all of what it deletes is gone. Whoever comes next ends the round without it.
fn lose(world: &World, next: &mut Next<'_>) {
    if world.generation > 0 && world.stage != Stage::Begun && !world.round.foreign {
        let mut then = *world;
        then.deletes |= world.round.deleted;
        then.round = Round { foreign: true, ..roster(&world.before) };
        then.stage = Stage::Done;
        next.push(Step::LoseSeal, then);
    }
}

/// A round whose begin is foreign ends by a seal with the roster of the last, and nothing deleted. A foreign seal is put aside for
/// such a one. It is as good as what it was copied from, and that is not good enough where a seal between them is lost.
fn copy(world: &World, next: &mut Next<'_>) {
    let trusted = next.rules.is(Broken::CopyTrusted);
    let mut then = *world;
    if world.stage == Stage::Begun {
        then.round = Round { foreign: world.before.foreign && !trusted, ..roster(&world.before) };
        then.stage = Stage::Done;
    } else if trusted && world.round.foreign {
        then.round.foreign = false;
    } else {
        return;
    }
    next.push(Step::CopyRoster, then);
}

/// The roster of a round, and nothing else of it.
fn roster(round: &Round) -> Round {
    let Round { live, kept, settled, .. } = *round;
    Round { live, kept, settled, ..Round::default() }
}
