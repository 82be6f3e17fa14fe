//! What can happen next. Each step is one request that takes effect, or one decision of an actor.

use std::fmt;

use crate::rules::{Reduction, Rules};
use crate::world::{Name, Names, SLOTS_MAX, World, names_text};
use crate::{pruner, seals, session, store};

/// Slots and pruners count from 0 here and from 1 in what people read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Register { slot: usize, generation: u8 },
    RegisterAgain { slot: usize, generation: u8 },
    Confirm { slot: usize },
    ConfirmPlanted { slot: usize },
    Send { slot: usize },
    MakeDelta { slot: usize, base: Name },
    Reference { slot: usize, name: Name },
    Recall { slot: usize, name: Name },
    Forget { slot: usize },
    PutLands { name: Name },
    DeleteLands { name: Name },
    Lose { name: Name },
    RecordLoss,
    CommitLands { slot: usize },
    CommitFindsEnd { slot: usize },
    AbortLands { slot: usize },
    PlainAbortLands { slot: usize },
    EndDeleteLands { slot: usize },
    ForgetDeleteLands { slot: usize },
    Start { pruner: usize },
    AdvisoryMark { pruner: usize, slot: usize },
    Begin { pruner: usize, round: u8, condemned: Names },
    Join { pruner: usize },
    GiveUpOn { pruner: usize, slot: usize },
    Settled { pruner: usize, unseen: Option<usize> },
    Mark { pruner: usize, slot: usize },
    Keep { pruner: usize, slot: usize },
    MarkPlanted { pruner: usize, slot: usize },
    ForgeSeal,
    LoseSeal,
    CopyRoster,
    Differs { pruner: usize },
    Seal { pruner: usize },
    FindSeal { pruner: usize },
    Delete { pruner: usize },
    Done { pruner: usize },
}

/// The states that may follow one, with the steps that lead there.
pub struct Next<'a> {
    pub rules: &'a Rules,
    pub out: &'a mut Vec<(Step, World)>,
}

impl Next<'_> {
    pub fn push(&mut self, step: Step, mut world: World) {
        tidy(&mut world, self.rules);
        self.out.push((step, world));
    }
}

/// All states that may follow `world`.
pub fn next(world: &World, rules: &Rules, out: &mut Vec<(Step, World)>) {
    out.clear();
    let mut next = Next { rules, out };
    for slot in 0..SLOTS_MAX {
        session::steps(world, slot, &mut next);
        store::log_steps(world, slot, &mut next);
    }
    store::chunk_steps(world, &mut next);
    seals::steps(world, &mut next);
    for pruner in 0..rules.pruners {
        pruner::steps(world, pruner, &mut next);
    }
}

/// Makes states equal that differ only in what can no longer have any effect.
pub fn tidy(world: &mut World, rules: &Rules) {
    if rules.reduction == Reduction::Nothing {
        return;
    }
    for slot in 0..SLOTS_MAX {
        session::tidy(world, slot, rules);
    }
    for pruner in 0..rules.pruners {
        pruner::tidy(world, pruner, rules);
    }
    pruner::tidy_rounds(world, rules);
    if rules.reduction == Reduction::Full {
        world.pruners[..rules.pruners].sort_unstable();
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Register { slot, generation } => {
                write!(f, "session {}: creates .open, having seen generation {generation}", slot + 1)
            }
            Self::RegisterAgain { slot, generation } => {
                write!(
                    f,
                    "session {}: creates .open, in a number that was cleaned away, having seen generation {generation}",
                    slot + 1
                )
            }
            Self::Confirm { slot } => {
                write!(f, "session {}: looks at the generation again; knows what is condemned", slot + 1)
            }
            Self::ConfirmPlanted { slot } => write!(
                f,
                "session {}: looks at the generation again, and takes the round for done by a planted name",
                slot + 1
            ),
            Self::Send { slot } => write!(f, "session {}: sends its full chunk", slot + 1),
            Self::MakeDelta { slot, base } => {
                write!(f, "session {}: sends delta#{} on {}", slot + 1, slot + 1, base.text())
            }
            Self::Reference { slot, name } => {
                write!(f, "session {}: references {}; sends its commit", slot + 1, name.text())
            }
            Self::Recall { slot, name } => {
                write!(
                    f,
                    "session {}: recalls {}, of a forgotten snapshot; sends its commit",
                    slot + 1,
                    name.text()
                )
            }
            Self::Forget { slot } => write!(f, "operator: forgets snapshot {}", slot + 1),
            Self::PutLands { name } => write!(f, "store: {} is created", name.text()),
            Self::DeleteLands { name } => write!(f, "store: {} is deleted", name.text()),
            Self::Lose { name } => write!(f, "store: {} is lost", name.text()),
            Self::RecordLoss => write!(f, "somebody: records what is lost"),
            Self::CommitLands { slot } => write!(f, "store: snapshot {} is committed", slot + 1),
            Self::CommitFindsEnd { slot } => write!(f, "session {}: its commit finds an .end", slot + 1),
            Self::AbortLands { slot } => write!(f, "store: session {} is ended as aborted", slot + 1),
            Self::PlainAbortLands { slot } => {
                write!(f, "store: a PUT overwrites .end of session {} as aborted", slot + 1)
            }
            Self::EndDeleteLands { slot } => write!(f, "store: .end of {} is deleted", slot + 1),
            Self::ForgetDeleteLands { slot } => write!(f, "store: .forget of {} is deleted", slot + 1),
            Self::Start { pruner } => write!(f, "pruner {}: reads the state of the rounds", pruner + 1),
            Self::AdvisoryMark { pruner, slot } => {
                write!(f, "pruner {}: advisory walk of snapshot {}", pruner + 1, slot + 1)
            }
            Self::Begin { pruner, round, condemned } => {
                write!(f, "pruner {}: begins round {round}, condemned {}", pruner + 1, names_text(condemned))
            }
            Self::Join { pruner } => write!(f, "pruner {}: finds its round begun, and joins it", pruner + 1),
            Self::GiveUpOn { pruner, slot } => {
                write!(f, "pruner {}: the lease of session {} ran out", pruner + 1, slot + 1)
            }
            Self::Settled { pruner, unseen: None } => {
                write!(f, "pruner {}: older sessions are settled", pruner + 1)
            }
            Self::Settled { pruner, unseen: Some(slot) } => {
                write!(f, "pruner {}: older sessions are settled, {} is not listed", pruner + 1, slot + 1)
            }
            Self::Mark { pruner, slot } => write!(f, "pruner {}: marks sequence {}", pruner + 1, slot + 1),
            Self::Keep { pruner, slot } => {
                write!(
                    f,
                    "pruner {}: marks sequence {}, which is forgotten, and keeps it",
                    pruner + 1,
                    slot + 1
                )
            }
            Self::MarkPlanted { pruner, slot } => {
                write!(
                    f,
                    "pruner {}: finds a planted .forget of {}, and marks nothing of it",
                    pruner + 1,
                    slot + 1
                )
            }
            Self::ForgeSeal => write!(f, "somebody: forges a seal that deletes all that is condemned"),
            Self::LoseSeal => write!(f, "store: the last seal no longer opens; its round ends without"),
            Self::CopyRoster => {
                write!(f, "somebody: ends the round by a seal with the roster of the seal before")
            }
            Self::Differs { pruner } => {
                write!(f, "pruner {}: finds that the seal differs, and stops", pruner + 1)
            }
            Self::Seal { pruner } => write!(f, "pruner {}: seals the round", pruner + 1),
            Self::FindSeal { pruner } => write!(f, "pruner {}: finds the round sealed", pruner + 1),
            Self::Delete { pruner } => write!(f, "pruner {}: sends deletes and cleans up", pruner + 1),
            Self::Done { pruner } => write!(f, "pruner {}: the round is done", pruner + 1),
        }
    }
}
