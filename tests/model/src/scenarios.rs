//! The bounds that are searched: with the rules as they are, and for each broken one.

use crate::rules::{Broken, Reduction, Rules};

/// A search with the rules as they are.
pub struct Scenario {
    pub name: &'static str,
    pub rules: Rules,
    /// Fewer states mean that the model has lost something.
    pub states_min: u64,
}

/// A snapshot of generation 0 is there, one more session, one pruner, two rounds.
const SMALL: Rules = Rules {
    slots: 2,
    pruners: 1,
    rounds: 2,
    preset: true,
    deltas: false,
    bundles: false,
    ages: false,
    window: false,
    foreign: false,
    loss: false,
    advisory: false,
    quiet: false,
    reduction: Reduction::Full,
    broken: None,
};
const SOUND: Rules = Rules { quiet: true, ..SMALL };

/// Complete searches that every test run makes.
pub const IN_TESTS: [Scenario; 12] = [
    Scenario {
        name: "two sessions with deltas, two pruners",
        rules: Rules { slots: 3, pruners: 2, deltas: true, ..SOUND },
        states_min: 8_000_000,
    },
    Scenario { name: "three sessions", rules: Rules { slots: 4, ..SOUND }, states_min: 5_500_000 },
    Scenario {
        name: "two sessions, two pruners with advisory marks",
        rules: Rules { slots: 3, pruners: 2, advisory: true, ..SOUND },
        states_min: 1_800_000,
    },
    Scenario {
        name: "three sessions from nothing",
        rules: Rules { slots: 3, preset: false, ..SOUND },
        states_min: 450_000,
    },
    Scenario {
        name: "three rounds, one session with deltas, two pruners with advisory marks",
        rules: Rules { pruners: 2, rounds: 3, deltas: true, advisory: true, ..SOUND },
        states_min: 350_000,
    },
    Scenario {
        name: "a loss, two sessions with deltas",
        rules: Rules { slots: 3, rounds: 1, deltas: true, loss: true, ..SOUND },
        states_min: 100_000,
    },
    Scenario {
        name: "two sessions with bundles",
        rules: Rules { slots: 3, deltas: true, bundles: true, ..SOUND },
        states_min: 100_000,
    },
    Scenario {
        name: "three rounds, one session, two pruners, logs that age",
        rules: Rules { pruners: 2, rounds: 3, ages: true, ..SOUND },
        states_min: 1_700_000,
    },
    Scenario {
        name: "three rounds, two sessions, an undo window",
        rules: Rules { slots: 3, rounds: 3, window: true, ..SOUND },
        states_min: 4_500_000,
    },
    Scenario {
        name: "three rounds, one session with deltas, two pruners with advisory marks, an undo window",
        rules: Rules { pruners: 2, rounds: 3, deltas: true, advisory: true, window: true, ..SOUND },
        states_min: 1_500_000,
    },
    Scenario {
        name: "three rounds, one session, two pruners, logs that age, an undo window",
        rules: Rules { pruners: 2, rounds: 3, ages: true, window: true, ..SOUND },
        states_min: 2_000_000,
    },
    Scenario {
        name: "three rounds, one session with deltas, two pruners, an undo window, seals that turn foreign",
        rules: Rules { pruners: 2, rounds: 3, deltas: true, window: true, foreign: true, ..SOUND },
        states_min: 2_300_000,
    },
];

/// Searches by command.
pub const BY_COMMAND: [Scenario; 17] = [
    Scenario {
        name: "two sessions with deltas, an undo window",
        rules: Rules { slots: 3, deltas: true, window: true, ..SOUND },
        states_min: 16_900_000,
    },
    Scenario {
        name: "two sessions with bundles, an undo window",
        rules: Rules { slots: 3, deltas: true, bundles: true, window: true, ..SOUND },
        states_min: 43_000_000,
    },
    Scenario {
        name: "a loss, two sessions with deltas, an undo window",
        rules: Rules { slots: 3, rounds: 1, deltas: true, loss: true, window: true, ..SOUND },
        states_min: 2_400_000,
    },
    Scenario {
        name: "a loss, two sessions, an undo window",
        rules: Rules { slots: 3, rounds: 2, loss: true, window: true, ..SOUND },
        states_min: 6_800_000,
    },
    Scenario {
        name: "three rounds, two sessions, an undo window, seals that turn foreign",
        rules: Rules { slots: 3, rounds: 3, window: true, foreign: true, ..SOUND },
        states_min: 18_000_000,
    },
    Scenario {
        name: "three rounds, two sessions, two pruners, an undo window",
        rules: Rules { slots: 3, pruners: 2, rounds: 3, window: true, ..SOUND },
        states_min: 25_000_000,
    },
    Scenario {
        name: "three sessions, an undo window",
        rules: Rules { slots: 4, window: true, ..SOUND },
        states_min: 49_000_000,
    },
    Scenario {
        name: "three rounds, two sessions, logs that age, an undo window",
        rules: Rules { slots: 3, rounds: 3, ages: true, window: true, ..SOUND },
        states_min: 72_000_000,
    },
    Scenario {
        name: "two sessions with deltas, two pruners, an undo window",
        rules: Rules { slots: 3, pruners: 2, deltas: true, window: true, ..SOUND },
        states_min: 76_000_000,
    },
    Scenario {
        name: "three rounds, two sessions, logs that age",
        rules: Rules { slots: 3, rounds: 3, ages: true, ..SOUND },
        states_min: 53_000_000,
    },
    Scenario {
        name: "three rounds, two sessions, two pruners, logs that age",
        rules: Rules { slots: 3, pruners: 2, rounds: 3, ages: true, ..SOUND },
        states_min: 1_000_000,
    },
    Scenario {
        name: "two sessions with bundles, two pruners",
        rules: Rules { slots: 3, pruners: 2, deltas: true, bundles: true, ..SOUND },
        states_min: 1_000_000,
    },
    Scenario {
        name: "three rounds, two sessions, two pruners",
        rules: Rules { slots: 3, pruners: 2, rounds: 3, ..SOUND },
        states_min: 2_000_000,
    },
    Scenario {
        name: "two sessions with deltas, two pruners with advisory marks",
        rules: Rules { slots: 3, pruners: 2, deltas: true, advisory: true, ..SOUND },
        states_min: 23_000_000,
    },
    Scenario {
        name: "three sessions, two pruners",
        rules: Rules { slots: 4, pruners: 2, ..SOUND },
        states_min: 31_000_000,
    },
    Scenario {
        name: "three sessions with deltas from nothing",
        rules: Rules { slots: 3, preset: false, deltas: true, ..SOUND },
        states_min: 27_000_000,
    },
    Scenario {
        name: "three rounds, two sessions with deltas",
        rules: Rules { slots: 3, rounds: 3, deltas: true, ..SOUND },
        states_min: 16_000_000,
    },
];

/// A rule that is broken, in the bounds where that shows, and what the search must find.
pub struct Variant {
    pub broken: Broken,
    pub rules: Rules,
    /// Part of the violation; none for what must be found safe.
    pub finds: Option<&'static str>,
}

const MISSING: &str = "missing";
const LOST: &str = "acknowledged snapshot";
const KEPT: &str = "has not all its records";
const KNOWN: &str = "references what it knew to be lost";

/// Every broken rule, and the changes that must be found safe.
pub fn variants() -> Vec<Variant> {
    let dangerous = |broken, finds, rules| Variant {
        broken,
        rules: Rules { broken: Some(broken), ..rules },
        finds: Some(finds),
    };
    let safe =
        |broken, rules| Variant { broken, rules: Rules { broken: Some(broken), ..rules }, finds: None };
    let aged = Rules { ages: true, rounds: 3, ..SMALL };
    let window = Rules { window: true, ..SMALL };
    let two_windows = Rules { pruners: 2, rounds: 3, ..window };
    let (three, two_pruners) = (Rules { slots: 3, ..SMALL }, Rules { pruners: 2, ..SMALL });
    vec![
        dangerous(Broken::NoSecondLook, MISSING, SMALL),
        dangerous(Broken::OneName, MISSING, SMALL),
        dangerous(Broken::LeaseWithoutOutcome, MISSING, SMALL),
        dangerous(Broken::NotWaiting, MISSING, SMALL),
        dangerous(Broken::NoFinalMark, MISSING, Rules { advisory: true, ..SMALL }),
        dangerous(Broken::IgnoresCondemned, MISSING, SMALL),
        dangerous(Broken::ShortList, MISSING, SMALL),
        dangerous(Broken::CachedParent, MISSING, SMALL),
        dangerous(Broken::HeadOlder, MISSING, SMALL),
        dangerous(Broken::PlainAbort, LOST, SMALL),
        dangerous(Broken::CleansAborted, LOST, SMALL),
        dangerous(Broken::CleansForget, MISSING, SMALL),
        dangerous(Broken::CleansAboveHighWater, LOST, SMALL),
        dangerous(Broken::HighWaterIsLast, LOST, SMALL),
        dangerous(Broken::IndexWithCondemned, MISSING, SMALL),
        dangerous(Broken::IndexOfOlderSeal, MISSING, SMALL),
        dangerous(Broken::IndexOfAdvisory, MISSING, Rules { advisory: true, ..SMALL }),
        dangerous(Broken::MarksAcrossRounds, MISSING, two_pruners),
        dangerous(Broken::OwnDeletes, MISSING, two_pruners),
        dangerous(Broken::ClosureUnchecked, MISSING, Rules { deltas: true, ..three }),
        dangerous(Broken::ClosureUnmarked, MISSING, Rules { deltas: true, ..SMALL }),
        dangerous(Broken::DeletesUncondemned, MISSING, SMALL),
        dangerous(Broken::DeletesOwnGeneration, MISSING, SMALL),
        dangerous(Broken::MarksBeforeSettling, MISSING, SMALL),
        dangerous(Broken::ExistsIsSuccess, LOST, SMALL),
        dangerous(Broken::CachedOutcome, MISSING, SMALL),
        dangerous(Broken::LeavesOthersRounds, "two quiet rounds leave", SOUND),
        dangerous(Broken::DoneByName, MISSING, SMALL),
        dangerous(Broken::ForgetByName, MISSING, SMALL),
        dangerous(Broken::SealObeyed, MISSING, SMALL),
        dangerous(Broken::TakesOverLost, KNOWN, Rules { loss: true, ..SMALL }),
        dangerous(Broken::DeltaAboveLost, KNOWN, Rules { slots: 3, loss: true, deltas: true, ..SMALL }),
        dangerous(Broken::PieceUnmarked, MISSING, Rules { deltas: true, bundles: true, ..SMALL }),
        dangerous(Broken::AgesByOwnSeal, LOST, aged),
        dangerous(Broken::AgesAborted, LOST, aged),
        dangerous(Broken::RegistersBelowHighWater, LOST, aged),
        dangerous(Broken::ParentWithoutRoster, MISSING, aged),
        dangerous(Broken::MarksWithoutRoster, MISSING, aged),
        dangerous(Broken::RecallsUnkept, MISSING, window),
        dangerous(Broken::RecallsCondemned, MISSING, window),
        dangerous(Broken::RecallsByOlderRoster, MISSING, window),
        dangerous(Broken::RecallsAcrossForeign, MISSING, Rules { foreign: true, ..window }),
        dangerous(Broken::KeepsAcrossForeign, MISSING, Rules { foreign: true, ..window }),
        dangerous(Broken::KeepsAgain, MISSING, window),
        dangerous(Broken::KeptNotMarked, MISSING, window),
        dangerous(Broken::CopyTrusted, MISSING, Rules { foreign: true, ..window }),
        dangerous(Broken::ComparesOwnWindow, "stops at an honest seal", two_windows),
        dangerous(Broken::ComparesEarlierMarks, "stops at an honest seal", two_windows),
        dangerous(Broken::RecallableUncompared, MISSING, two_windows),
        dangerous(Broken::FormerRosterUncompared, MISSING, two_windows),
        dangerous(Broken::KeptCleaned, KEPT, Rules { quiet: true, ..window }),
        safe(Broken::FoundDeltaUnchecked, Rules { deltas: true, bundles: true, ..three }),
        safe(Broken::CleansForgotten, Rules { pruners: 2, ..three }),
        safe(Broken::DoneAfterDeletes, Rules { pruners: 2, ..three }),
        safe(Broken::CondemnedUntilSeal, Rules { pruners: 2, ..three }),
        safe(Broken::MarksAfterOwnSeal, Rules { pruners: 2, advisory: true, ..three }),
        safe(Broken::SealForged, Rules { pruners: 2, ..three }),
        safe(Broken::SealForgedInWindow, two_windows),
        safe(Broken::KnowsTheRoundUnderWay, Rules { slots: 3, ..window }),
        safe(Broken::ComparesHonestSeals, two_windows),
    ]
}
