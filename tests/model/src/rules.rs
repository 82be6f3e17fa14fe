//! Which protocol is searched, and within which bounds.

use crate::world::{End, Name, Phase, Slot, World};

/// Bounds of a search, and the one rule that is broken in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Sequences of the log.
    pub slots: usize,
    pub pruners: usize,
    /// Prune rounds that may begin.
    pub rounds: u8,
    /// Whether the log begins with a committed snapshot of generation 0.
    pub preset: bool,
    /// Whether sessions may make deltas.
    pub deltas: bool,
    /// Whether a delta lies in a bundle with a full chunk.
    pub bundles: bool,
    /// Whether a round deletes all records of what was over when the round before was sealed, `.forget` and `.open` too.
    pub ages: bool,
    /// Whether there is an undo window: rosters keep forgotten snapshots for a while, and sessions recall them.
    pub window: bool,
    /// Whether a seal may turn foreign after it was carried out, so that only the roster of the seal before is left.
    pub foreign: bool,
    /// Whether one object may be lost, below the protocol.
    pub loss: bool,
    /// Whether marks of the advisory walk are followed; without, only those of the final mark.
    pub advisory: bool,
    pub reduction: Reduction,
    /// Whether the quiet end is tried too.
    pub quiet: bool,
    pub broken: Option<Broken>,
}

impl Rules {
    /// The state in which a search begins.
    pub fn first(&self) -> World {
        let mut world = World::default();
        if self.preset {
            world.slots[0] = Slot {
                phase: Phase::Landed,
                end: End::Committed,
                reference: Name::full(0),
                ..Slot::default()
            };
            world.exists = Name::full(0).bit();
            world.sent = world.exists;
        }
        world
    }

    /// Whether sessions and pruners go by what the last roster says is over.
    pub fn reads_rosters(&self) -> bool {
        self.ages || self.window
    }

    pub fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }
}

/// Which states count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reduction {
    /// Each is its own.
    Nothing,
    /// Those that differ only in what can have no effect any more.
    Tidied,
    /// Also those that differ only in which pruner is which.
    Full,
}

/// A protocol with one rule broken: the search must find a violation in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    // The ten of the protocol's design.
    /// A session does not look at the generation again after it registered.
    NoSecondLook,
    /// A chunk has one name, whatever its generation.
    OneName,
    /// A lease that ran out ends a session without an `.end`.
    LeaseWithoutOutcome,
    /// Open sessions are not waited for.
    NotWaiting,
    /// What the advisory walk did not mark is deleted.
    NoFinalMark,
    /// Sessions reference what is condemned.
    IgnoresCondemned,
    /// A listing misses a session, and nobody asks for the number.
    ShortList,
    /// The parent was live before the registration, and is not confirmed after it.
    CachedParent,
    /// A chunk of an older generation is found by HEAD.
    HeadOlder,
    /// The aborted `.end` is written by a plain PUT.
    PlainAbort,
    // What this implementation adds.
    /// Clean-up deletes aborted `.end` too.
    CleansAborted,
    /// Clean-up deletes `.forget` with the `.end`.
    CleansForget,
    /// Clean-up takes every sequence that the roster does not show live.
    CleansAboveHighWater,
    /// The high water is the last sequence, be all before it settled or not.
    HighWaterIsLast,
    /// The live index is used without taking the condemned away.
    IndexWithCondemned,
    /// The index of the round before is used although the newest seal exists.
    IndexOfOlderSeal,
    /// The live index has what the advisory walk saw, but only the final mark keeps from being deleted.
    IndexOfAdvisory,
    /// A pruner keeps its marks, and so its index, from one round to the next.
    MarksAcrossRounds,
    /// A pruner deletes what it found itself, although another's seal stands.
    OwnDeletes,
    /// A delta is referenced although its base is condemned.
    ClosureUnchecked,
    /// A delta is marked, its base is not.
    ClosureUnmarked,
    /// All that is unreferenced is deleted, condemned or not.
    DeletesUncondemned,
    /// Names of the round's own generation are condemned and deleted too.
    DeletesOwnGeneration,
    /// The final mark reads the log before the older sessions are settled.
    MarksBeforeSettling,
    /// A commit that finds an `.end` is taken for done, without reading whose it is.
    ExistsIsSuccess,
    /// The final mark takes an outcome from a cache that was filled from a diverged copy of the repository.
    CachedOutcome,
    /// A round that somebody else began is left alone.
    LeavesOthersRounds,
    // Names that are believed before anything is opened, and others' seals before anything is marked.
    /// An empty `done`, planted while the round is under way, ends it for a session.
    DoneByName,
    /// An empty `.forget`, planted beside a live snapshot, hides it from the final mark.
    ForgetByName,
    /// A seal that somebody forged is carried out by a pruner without a mark of its own.
    SealObeyed,
    /// What is recorded as lost is taken over from a parent, or from the live index.
    TakesOverLost,
    /// A delta is made on what stands on something that is recorded as lost.
    DeltaAboveLost,
    /// A bundle is kept by the deltas in it alone.
    PieceUnmarked,
    // Logs that do not grow for ever.
    /// All records of what is over go by the round's own seal, which sessions of its generation have not read.
    AgesByOwnSeal,
    /// An aborted `.end` goes with the rest.
    AgesAborted,
    /// A session does not look whether its number lies below the high water.
    RegistersBelowHighWater,
    /// A parent is whatever has an `.end` and no `.forget`, be it below the high water or not.
    ParentWithoutRoster,
    /// So it is for the final mark.
    MarksWithoutRoster,
    // The undo window.
    /// A session recalls what has an `.end` and a `.forget`, whether or not a roster keeps it.
    RecallsUnkept,
    /// A session recalls what is condemned: a roster kept it, but the round under way need not.
    RecallsCondemned,
    /// A session recalls by the roster of the seal before the last, though the round that has the last seal is over and nothing counts as
    /// condemned. For parents that would do: an older roster only says less. For recalling, less is too little.
    RecallsByOlderRoster,
    /// A session recalls by the roster that is left when the last seal turned foreign.
    RecallsAcrossForeign,
    /// A pruner keeps by it.
    KeepsAcrossForeign,
    /// A seal that was put in the place of a foreign one, with the roster before that, counts as one that a final mark made.
    CopyTrusted,
    /// A pruner with a longer window keeps again what the last seal says is over.
    KeepsAgain,
    /// A seal keeps what the final mark left out.
    KeptNotMarked,
    /// Clean-up deletes the `.end` of what the roster keeps.
    KeptCleaned,
    /// A pruner that finds a seal demands that it keeps what is in its own window.
    ComparesOwnWindow,
    /// A pruner holds a seal that it finds against what it marked before.
    ComparesEarlierMarks,
    /// A pruner that finds a forged seal does not ask whether that deletes what its roster lets be recalled.
    RecallableUncompared,
    /// Nor whether its roster opens again what the one before said is over.
    FormerRosterUncompared,
    // Changes that look dangerous and are not: the search must find nothing.
    /// A delta found in a bundle of the own generation is referenced though the session may not reference its base by itself: whoever made
    /// it could, in the same generation, beside the same round.
    FoundDeltaUnchecked,
    /// Clean-up takes every forgotten sequence, above the high water too.
    CleansForgotten,
    /// `done` is written only when every DELETE has landed.
    DoneAfterDeletes,
    /// Sessions that find the round sealed take nothing as condemned, though it is not done.
    CondemnedUntilSeal,
    /// A pruner keeps its marks for the next round when its own seal decided the last one.
    MarksAfterOwnSeal,
    /// A seal may be forged, but each pruner marks again, and stops where the two differ.
    SealForged,
    /// So it is beside an undo window.
    SealForgedInWindow,
    /// A session goes by the roster and the condemned set that it read while the round was under way, though that is over: the two belong
    /// together.
    KnowsTheRoundUnderWay,
    /// Each pruner marks again where all seals are honest, with a window of its own: none ever stops.
    ComparesHonestSeals,
}
