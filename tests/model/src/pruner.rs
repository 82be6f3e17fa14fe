//! A pruner, round after round (repo-format.md §8.2).

use crate::rules::{Broken, Rules};
use crate::seals;
use crate::step::{Next, Step};
use crate::world::{
    End, FULLS, GENERATIONS_MAX, Name, Names, Pruner, Round, SLOTS_MAX, Slots, Stage, Task, World,
};

pub fn steps(world: &World, at: usize, next: &mut Next<'_>) {
    match world.pruners[at].task {
        Task::Idle => start(world, at, next),
        Task::Advisory => advisory(world, at, next),
        Task::Settling => settle(world, at, next),
        Task::Marking => mark(world, at, next),
        Task::Deleting => {
            let mut then = *world;
            if is_newest(world, at) {
                delete(&mut then, at, next.rules);
            } else {
                // All was sent before the round was done.
                then.pruners[at] = idle(world, at, next.rules);
            }
            next.push(Step::Delete { pruner: at }, then);
        }
        Task::Finishing => finish(world, at, next),
        Task::Stopped => {}
    }
}

/// Finishes a round that is under way; otherwise a new one may begin.
fn start(world: &World, at: usize, next: &mut Next<'_>) {
    // None, unless a changed rule keeps them.
    let stale =
        next.rules.is(Broken::MarksAfterOwnSeal) && !(is_newest(world, at) && world.stage == Stage::Done);
    let marks = if stale { 0 } else { world.pruners[at].marks };
    if world.stage != Stage::Done {
        if !next.rules.is(Broken::LeavesOthersRounds) {
            let mut then = *world;
            let round = world.generation;
            then.pruners[at] = Pruner { task: Task::Settling, round, marks, ..Pruner::default() };
            next.push(Step::Start { pruner: at }, then);
        }
    } else if world.generation < next.rules.rounds {
        let round = world.generation + 1;
        let mut then = *world;
        then.pruners[at] = Pruner { task: Task::Advisory, round, marks, ..Pruner::default() };
        if next.rules.advisory {
            next.push(Step::Start { pruner: at }, then);
        } else {
            begin(&then, at, next);
        }
    }
}

/// The advisory walk goes on for as long as it likes and may miss anything: what it condemns too much costs an upload,
/// what too little stays. What it marked was live since the last round was done.
fn advisory(world: &World, at: usize, next: &mut Next<'_>) {
    let marks = world.pruners[at].marks;
    let walked = |slot: &usize| world.slots[*slot].looks_live() || may_keep(world, *slot, next.rules);
    for slot in (0..SLOTS_MAX).filter(walked) {
        let s = &world.slots[slot];
        let more = marks | world.closure(s.reference);
        if more != marks {
            let mut then = *world;
            then.pruners[at].marks = more;
            next.push(Step::AdvisoryMark { pruner: at, slot }, then);
        }
    }
    begin(world, at, next);
}

fn begin(world: &World, at: usize, next: &mut Next<'_>) {
    let rules = next.rules;
    let pruner = world.pruners[at];
    if world.generation >= pruner.round {
        let mut then = *world;
        then.pruners[at].task = Task::Settling;
        next.push(Step::Join { pruner: at }, then);
        return;
    }
    let complete = world.referenced(rules) & !pruner.marks == 0;
    if rules.is(Broken::NoFinalMark) && !complete {
        return;
    }
    let mut may = condemnable(world, pruner.round, rules);
    if rules.is(Broken::NoFinalMark) {
        may &= !pruner.marks;
    }
    // Every subset.
    let mut condemned = may;
    loop {
        let mut then = *world;
        begin_round(&mut then, at, condemned);
        next.push(Step::Begin { pruner: at, round: pruner.round, condemned }, then);
        if condemned == 0 {
            return;
        }
        condemned = (condemned - 1) & may;
    }
}

pub fn begin_round(world: &mut World, at: usize, condemned: Names) {
    world.before = world.round;
    world.round = Round { condemned, ..Round::default() };
    world.generation = world.pruners[at].round;
    world.stage = Stage::Begun;
    world.pruners[at].task = Task::Settling;
}

/// Names of older generations that exist or may yet.
fn condemnable(world: &World, round: u8, rules: &Rules) -> Names {
    let made = (0..SLOTS_MAX).filter(|i| !world.slots[*i].base.is_none());
    let deltas = made.fold(0, |all, i| all | Name::delta(i).bit());
    let known = world.exists | world.sent | deltas;
    // A condemned set holds ids: a name of the round's own generation falls under it before it exists.
    let known = if rules.is(Broken::DeletesOwnGeneration) { known | Name::full(round).bit() } else { known };
    known & deletable(world, round, rules)
}

pub fn deletable(world: &World, round: u8, rules: &Rules) -> Names {
    world.older(if rules.is(Broken::DeletesOwnGeneration) { round + 1 } else { round })
}

/// A listing is confirmed by a request for the next number, so that one moment exists at which all is settled.
fn settle(world: &World, at: usize, next: &mut Next<'_>) {
    let rules = next.rules;
    let pruner = world.pruners[at];
    let past = known_past(world, rules);
    let unsettled = |i: usize| world.slots[i].delays(pruner.round) && (pruner.settled | past) & (1 << i) == 0;
    for slot in (0..SLOTS_MAX).filter(|i| unsettled(*i)) {
        let mut then = *world;
        match rules.broken {
            Some(Broken::LeaseWithoutOutcome) => then.pruners[at].settled |= 1 << slot,
            Some(Broken::PlainAbort) if !world.slots[slot].other_sent => then.slots[slot].other_sent = true,
            _ => continue,
        }
        next.push(Step::GiveUpOn { pruner: at, slot }, then);
    }
    let unseen = (0..SLOTS_MAX).filter(|i| rules.is(Broken::ShortList) && world.slots[*i].is_open());
    for unseen in unseen.map(Some).chain([None]) {
        let waits = (0..SLOTS_MAX).any(|i| unsettled(i) && Some(i) != unseen);
        if waits && !matches!(rules.broken, Some(Broken::NotWaiting | Broken::MarksBeforeSettling)) {
            continue;
        }
        let mut then = *world;
        begin_marking(&mut then, at, rules);
        if let Some(slot) = unseen {
            then.pruners[at].todo &= !(1 << slot);
        }
        next.push(Step::Settled { pruner: at, unseen }, then);
    }
}

/// What a pruner leaves out, as it was over when the last round was sealed.
fn known_past(world: &World, rules: &Rules) -> Slots {
    if rules.ages && !rules.is(Broken::MarksWithoutRoster) { world.known_past() } else { 0 }
}

fn has_unsettled(world: &World, round: u8) -> bool {
    world.slots.iter().any(|s| s.delays(round))
}

pub fn begin_marking(world: &mut World, at: usize, rules: &Rules) {
    let (open, past) = (world.open_slots(), known_past(world, rules));
    let pruner = &mut world.pruners[at];
    (pruner.task, pruner.todo, pruner.settled) = (Task::Marking, open & !past, past);
    match rules.broken {
        Some(Broken::IndexOfAdvisory) => (pruner.advisory, pruner.marks) = (pruner.marks & FULLS, 0),
        Some(Broken::NoFinalMark) => pruner.todo = 0,
        _ => {}
    }
}

/// The final mark reads one sequence after the other, in any order, while everything else goes on.
fn mark(world: &World, at: usize, next: &mut Next<'_>) {
    let pruner = world.pruners[at];
    for slot in (0..SLOTS_MAX).filter(|i| pruner.todo & (1 << i) != 0) {
        let mut then = *world;
        mark_slot(&mut then, at, slot, next.rules);
        next.push(Step::Mark { pruner: at, slot }, then);
        if may_keep(world, slot, next.rules) {
            then.pruners[at].kept |= 1 << slot;
            next.push(Step::Keep { pruner: at, slot }, then);
        }
        if next.rules.is(Broken::ForgetByName) && world.slots[slot].looks_live() {
            let mut then = *world;
            then.pruners[at].todo &= !(1 << slot);
            next.push(Step::MarkPlanted { pruner: at, slot }, then);
        }
    }
    if pruner.todo != 0 || next.rules.is(Broken::MarksBeforeSettling) && has_unsettled(world, pruner.round) {
        return;
    }
    let mut then = *world;
    if is_newest(world, at) && world.stage == Stage::Begun {
        seal(&mut then, at, next.rules);
        seals::mark_anew(&mut then, next.rules);
        next.push(Step::Seal { pruner: at }, then);
        return;
    }
    // Another's seal stands, and what it says is deleted.
    if seals::are_compared(next.rules) && is_newest(world, at) && seals::differs(world, at, next.rules) {
        then.pruners[at] = idle(world, at, next.rules);
        if !seals::is_forged(next.rules) {
            then.pruners[at].task = Task::Stopped;
        }
        next.push(Step::Differs { pruner: at }, then);
        return;
    }
    if next.rules.is(Broken::OwnDeletes) {
        let round = if is_newest(world, at) { &world.round } else { &world.before };
        then.deletes |= round.condemned & world.older(pruner.round) & !pruner.marks;
    }
    if !next.rules.is(Broken::MarksAcrossRounds) {
        then.pruners[at].marks = 0;
    }
    then.pruners[at].task = Task::Deleting;
    next.push(Step::FindSeal { pruner: at }, then);
}

pub fn mark_slot(world: &mut World, at: usize, slot: usize, rules: &Rules) {
    let s = world.slots[slot];
    let closure = match rules.broken {
        Some(Broken::ClosureUnmarked) => s.reference.bit(),
        Some(Broken::PieceUnmarked) if s.reference.is_beside() => 0,
        // Whatever the sequence of this number holds there: at worst nothing that is needed here.
        Some(Broken::CachedOutcome) => 0,
        _ => world.closure(s.reference),
    };
    let pruner = &mut world.pruners[at];
    pruner.todo &= !(1 << slot);
    if s.looks_live() {
        pruner.marks |= closure;
        pruner.live |= 1 << slot;
    }
    if s.is_settled() || rules.is(Broken::HighWaterIsLast) {
        pruner.settled |= 1 << slot;
    }
}

/// Whether a forgotten snapshot may be within a pruner's window. How long that is, is each pruner's own choice, snapshot by snapshot;
/// but what the last seal says is over was not marked there, so that its objects may be gone.
fn may_keep(world: &World, slot: usize, rules: &Rules) -> bool {
    let roster = world.known_roster();
    let over = roster.past() & 1 << slot != 0 && !rules.is(Broken::KeepsAgain);
    // What that seal called over nobody knows any more.
    let unknown = roster.foreign && !rules.is(Broken::KeepsAcrossForeign);
    rules.window && world.slots[slot].looks_forgotten() && !over && !unknown
}

pub fn seal(world: &mut World, at: usize, rules: &Rules) {
    // What it keeps is marked as what is live, but only here: had another been first with a seal, that would tell what to keep.
    let kept = world.pruners[at].kept;
    for slot in (0..SLOTS_MAX).filter(|slot| kept & 1 << slot != 0 && !rules.is(Broken::KeptNotMarked)) {
        world.pruners[at].marks |= world.closure(world.slots[slot].reference);
    }
    let pruner = world.pruners[at];
    let condemned = match rules.broken {
        Some(Broken::DeletesUncondemned) => world.exists,
        _ => world.round.condemned,
    };
    world.round.deleted = condemned & deletable(world, pruner.round, rules) & !pruner.marks;
    world.round.index = (pruner.marks | pruner.advisory) & FULLS;
    (world.round.live, world.round.kept) = (pruner.live, pruner.kept);
    // Had an outcome when they were read: what is neither live nor kept now never will be.
    world.round.settled = pruner.settled;
    world.stage = Stage::Sealed;
    world.pruners[at].task = Task::Deleting;
}

/// What the seal says is deleted, whoever made it, and what it makes needless in the log.
pub fn delete(world: &mut World, at: usize, rules: &Rules) {
    world.deletes |= world.round.deleted;
    for slot in 0..SLOTS_MAX {
        if cleans(world, slot, rules) {
            world.slots[slot].end_delete = true;
            world.slots[slot].other_sent |= rules.is(Broken::CleansForget);
        }
        if ages(world, slot, rules) {
            let session = &mut world.slots[slot];
            session.other_sent = true;
            session.end_delete |= session.end == End::Committed || rules.is(Broken::AgesAborted);
        }
    }
    world.pruners[at].task = Task::Finishing;
}

/// Whether clean-up deletes the `.end` of a sequence.
fn cleans(world: &World, slot: usize, rules: &Rules) -> bool {
    let s = &world.slots[slot];
    let not_live = world.round.live & (1 << slot) == 0;
    let takes = match rules.broken {
        Some(Broken::CleansAboveHighWater) => not_live,
        Some(Broken::CleansForgotten) => s.forget,
        Some(Broken::KeptCleaned) => not_live && world.round.settled & (1 << slot) != 0,
        _ => world.round.past() & (1 << slot) != 0,
    };
    let kind = s.end == End::Committed || (s.end == End::Aborted && rules.is(Broken::CleansAborted));
    takes && kind && !s.end_delete
}

/// Whether all records of a sequence go, but an aborted `.end`.
fn ages(world: &World, slot: usize, rules: &Rules) -> bool {
    let over = if rules.is(Broken::AgesByOwnSeal) { world.round.past() } else { world.before.past() };
    let s = &world.slots[slot];
    let left = !s.other_sent || (s.end == End::Committed && !s.end_delete);
    rules.ages && over & 1 << slot != 0 && left
}

fn finish(world: &World, at: usize, next: &mut Next<'_>) {
    // Without HEAD finding them, deletes still under way hurt nobody; waiting shows that late ones do when it does.
    let waits = matches!(next.rules.broken, Some(Broken::DoneAfterDeletes | Broken::HeadOlder));
    if waits && world.round.deleted & world.exists != 0 {
        return;
    }
    let mut then = *world;
    if is_newest(world, at) {
        then.stage = Stage::Done;
    }
    then.pruners[at] = idle(world, at, next.rules);
    next.push(Step::Done { pruner: at }, then);
}

/// Whether no later round than the pruner's has begun.
fn is_newest(world: &World, at: usize) -> bool {
    world.pruners[at].round == world.generation
}

fn idle(world: &World, at: usize, rules: &Rules) -> Pruner {
    let Pruner { marks, round, task, .. } = world.pruners[at];
    let own_seal = matches!(task, Task::Deleting | Task::Finishing | Task::Idle) && is_newest(world, at);
    match rules.broken {
        Some(Broken::MarksAcrossRounds) => Pruner { marks, ..Pruner::default() },
        Some(Broken::MarksAfterOwnSeal) if own_seal => Pruner { marks, round, ..Pruner::default() },
        _ => Pruner::default(),
    }
}

/// Takes away from a pruner what it will find out anyway, and what no longer matters.
pub fn tidy(world: &mut World, at: usize, rules: &Rules) {
    let pruner = world.pruners[at];
    if pruner.task == Task::Marking {
        // What is dead stays dead: it makes no difference when it is read.
        for slot in (0..SLOTS_MAX).filter(|i| pruner.todo & (1 << i) != 0) {
            let s = &world.slots[slot];
            let dead = s.is_settled() && s.forget | (s.end == End::Aborted);
            // But a pruner has the choice to keep it.
            if dead && !may_keep(world, slot, rules) && !rules.is(Broken::CleansForget) {
                mark_slot(world, at, slot, rules);
            }
        }
    }
    if pruner.task == Task::Stopped {
        return;
    }
    let over = pruner.round < world.generation || world.stage == Stage::Done;
    let under_way = !matches!(pruner.task, Task::Idle | Task::Advisory);
    let goes_on = rules.is(Broken::OwnDeletes) && matches!(pruner.task, Task::Settling | Task::Marking);
    if (under_way && over || pruner.task == Task::Advisory && pruner.round < world.generation) && !goes_on {
        world.pruners[at] = idle(world, at, rules);
        return;
    }
    if pruner.task == Task::Idle {
        world.pruners[at] = idle(world, at, rules);
        return;
    }
    let pruner = &mut world.pruners[at];
    if pruner.task == Task::Advisory && pruner.round == world.generation {
        pruner.task = Task::Settling;
    }
    let sealed = pruner.round == world.generation && world.stage == Stage::Sealed;
    let marks_again = seals::are_compared(rules) && matches!(pruner.task, Task::Settling | Task::Marking);
    if sealed && under_way && !goes_on && !marks_again {
        (pruner.todo, pruner.live, pruner.settled, pruner.advisory) = (0, 0, 0, 0);
        pruner.kept = 0;
        let own_seal = matches!(pruner.task, Task::Deleting | Task::Finishing);
        match rules.broken {
            Some(Broken::MarksAcrossRounds) => {}
            Some(Broken::MarksAfterOwnSeal) if own_seal => {}
            _ => pruner.marks = 0,
        }
        if pruner.task != Task::Finishing {
            let all_sent = world.round.deleted & !world.deletes == 0;
            let cleaned = !(0..SLOTS_MAX).any(|i| cleans(world, i, rules) || ages(world, i, rules));
            world.pruners[at].task = if all_sent && cleaned { Task::Finishing } else { Task::Deleting };
        }
    }
}

/// Forgets what of the rounds nobody will read again.
pub fn tidy_rounds(world: &mut World, rules: &Rules) {
    let own_deletes = rules.is(Broken::OwnDeletes);
    world.before.deleted = 0;
    if !own_deletes {
        world.before.condemned = 0;
    }
    let needless = match rules.broken {
        Some(Broken::RecallsByOlderRoster | Broken::KnowsTheRoundUnderWay) => false,
        _ if rules.foreign => false,
        _ if rules.reads_rosters() => world.stage == Stage::Done,
        _ => world.stage != Stage::Begun,
    };
    if needless {
        (world.before.live, world.before.kept, world.before.settled) = (0, 0, 0);
    }
    if world.stage != Stage::Begun && !rules.is(Broken::IndexOfOlderSeal) {
        world.before.index = 0;
    }
    if world.stage == Stage::Done {
        world.round.deleted = 0;
        if !own_deletes && !rules.is(Broken::KnowsTheRoundUnderWay) {
            world.round.condemned = 0;
        }
    }
    debug_assert!(world.generation < GENERATIONS_MAX + 2);
}
