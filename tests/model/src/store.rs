//! Requests that land, however late and however often, and the operator's `forget`.

use crate::rules::Broken;
use crate::step::{Next, Step};
use crate::world::{End, FULLS, Name, Phase, World, names};

/// Creates and deletes of chunks.
pub fn chunk_steps(world: &World, next: &mut Next<'_>) {
    let mut sent = world.sent & FULLS;
    for (slot, session) in world.slots.iter().enumerate() {
        if !session.base.is_none() {
            sent |= Name::delta(slot).bit();
        }
    }
    for name in names(sent & !world.exists) {
        let mut then = *world;
        then.exists |= name.bit();
        if name == world.lost {
            // The same content is there again.
            (then.lost, then.recorded) = (Name::NONE, false);
            then.slots.iter_mut().for_each(|s| s.knows_loss = false);
        }
        next.push(Step::PutLands { name }, then);
    }
    if next.rules.loss {
        loss_steps(world, next);
    }
    for name in names(world.deletes & world.exists) {
        let mut then = *world;
        then.exists &= !name.bit();
        next.push(Step::DeleteLands { name }, then);
    }
}

/// An object is lost, below the protocol; whoever finds it records it, or nobody does.
fn loss_steps(world: &World, next: &mut Next<'_>) {
    if !world.had_loss {
        for name in names(world.exists) {
            let mut then = *world;
            then.exists &= !name.bit();
            (then.lost, then.had_loss) = (name, true);
            next.push(Step::Lose { name }, then);
        }
    }
    if !world.lost.is_none() && !world.recorded {
        let mut then = *world;
        then.recorded = true;
        next.push(Step::RecordLoss, then);
    }
}

/// What happens to the log of one sequence.
pub fn log_steps(world: &World, slot: usize, next: &mut Next<'_>) {
    let session = &world.slots[slot];
    let rules = next.rules;
    let mut push = |step, change: &dyn Fn(&mut World)| {
        let mut then = *world;
        change(&mut then);
        next.push(step, then);
    };
    if session.end == End::Absent && session.is_open() {
        let committed = matches!(session.phase, Phase::Committing | Phase::Landed);
        if committed {
            push(Step::CommitLands { slot }, &|w| {
                w.slots[slot].end = End::Committed;
                w.slots[slot].phase = Phase::Landed;
            });
        }
        // Anybody may have sent it: a pruner whose lease ran out, or the session when it gave up. So it may be under way
        // from the registration on.
        push(Step::AbortLands { slot }, &|w| w.slots[slot].end = End::Aborted);
    }
    if rules.is(Broken::ExistsIsSuccess) && (session.phase, session.end) == (Phase::Committing, End::Aborted)
    {
        push(Step::CommitFindsEnd { slot }, &|w| w.slots[slot].phase = Phase::Landed);
    }
    if world.is_live(slot, rules) {
        push(Step::Forget { slot }, &|w| (w.slots[slot].forget, w.slots[slot].unwanted) = (true, true));
    }
    if session.end_delete && session.end != End::Absent {
        push(Step::EndDeleteLands { slot }, &|w| w.slots[slot].end = End::Absent);
    }
    // Even in the careful order.
    let careful = rules.is(Broken::CleansForget) && session.end == End::Absent;
    if session.other_sent && session.forget && (careful || rules.ages) {
        push(Step::ForgetDeleteLands { slot }, &|w| w.slots[slot].forget = false);
    }
    if session.other_sent && rules.is(Broken::PlainAbort) && session.end != End::Aborted {
        push(Step::PlainAbortLands { slot }, &|w| w.slots[slot].end = End::Aborted);
    }
}
