//! The protocol holds, each broken rule is found out, and the model is not empty.

use crate::rules::{Broken, Reduction, Rules};
use crate::scenarios::{IN_TESTS, Scenario, variants};
use crate::search;
use crate::world::{End, FULLS, Name, Stage, World};

/// States in all of a test run's searches at least.
const STATES_MIN: u64 = 25_000_000;
/// No broken rule takes more to be found out.
const BROKEN_STATES_MAX: u64 = 1_000_000;

fn holds(scenario: &Scenario) {
    let report = search::search(&scenario.rules, u64::MAX);
    println!("{report}  {}", scenario.name);
    if let Some(violation) = report.violation {
        let (way, _) = search::trace(&scenario.rules, u64::MAX).expect("found before");
        panic!("{}: {violation}\n{}", scenario.name, search::way_text(&way));
    }
    assert!(report.states >= scenario.states_min, "{} states: has the model shrunk?", report.states);
}

#[test]
fn two_sessions_with_deltas_and_two_pruners_lose_nothing() {
    holds(&IN_TESTS[0]);
}

#[test]
fn three_sessions_lose_nothing() {
    holds(&IN_TESTS[1]);
}

#[test]
fn two_pruners_with_advisory_marks_lose_nothing() {
    holds(&IN_TESTS[2]);
}

#[test]
fn two_first_backups_lose_nothing() {
    holds(&IN_TESTS[3]);
}

#[test]
fn three_rounds_lose_nothing() {
    holds(&IN_TESTS[4]);
}

#[test]
fn nobody_builds_on_what_is_known_to_be_lost() {
    holds(&IN_TESTS[5]);
}

#[test]
fn pieces_of_bundles_are_kept_and_found() {
    holds(&IN_TESTS[6]);
}

#[test]
fn logs_may_lose_what_is_over() {
    holds(&IN_TESTS[7]);
}

#[test]
fn what_rosters_keep_can_be_recalled() {
    holds(&IN_TESTS[8]);
}

#[test]
fn two_pruners_may_have_different_windows() {
    holds(&IN_TESTS[9]);
}

#[test]
fn logs_may_lose_what_nobody_keeps() {
    holds(&IN_TESTS[10]);
}

#[test]
fn nobody_recalls_across_a_seal_that_turned_foreign() {
    holds(&IN_TESTS[11]);
}

#[test]
fn enough_is_searched() {
    assert!(IN_TESTS.iter().map(|s| s.states_min).sum::<u64>() >= STATES_MIN);
}

#[test]
fn every_broken_rule_is_found_out() {
    for variant in variants() {
        let Some(expected) = variant.finds else { continue };
        let found = search::trace(&variant.rules, BROKEN_STATES_MAX);
        let Some((way, why)) = found else { panic!("{:?} is not found out", variant.broken) };
        println!("{:?}\n{}     {why}\n", variant.broken, search::way_text(&way));
        assert!(why.contains(expected), "{:?}: {why}", variant.broken);
        // And the rule itself is what keeps it from happening.
        let sound = Rules { broken: None, ..variant.rules };
        assert_eq!(
            search::search(&sound, BROKEN_STATES_MAX).violation,
            None,
            "{:?} unbroken",
            variant.broken
        );
    }
}

#[test]
fn what_only_looks_dangerous_is_safe() {
    for variant in variants().iter().filter(|v| v.finds.is_none()) {
        let report = search::search(&variant.rules, u64::MAX);
        println!("{report}  {:?}", variant.broken);
        assert_eq!(report.violation, None, "{:?}", variant.broken);
    }
}

/// A reduction that hid a way to a loss would show here.
#[test]
fn reductions_hide_nothing() {
    for variant in variants() {
        let found = |reduction| {
            let rules = Rules { reduction, ..variant.rules };
            search::search(&rules, BROKEN_STATES_MAX)
        };
        if variant.finds.is_none() {
            continue;
        }
        let (reduced, plain) = (found(Reduction::Full), found(Reduction::Nothing));
        assert!(plain.violation.is_some(), "{:?} is found out by reductions only", variant.broken);
        assert!(reduced.violation.is_some() && reduced.depth <= plain.depth, "{:?}", variant.broken);
    }
    for scenario in &SMALL_SOUND {
        let plain = Rules { reduction: Reduction::Nothing, ..scenario.rules };
        let report = search::search(&plain, u64::MAX);
        println!("{report}  {}, nothing reduced", scenario.name);
        assert_eq!(report.violation, None, "{}", scenario.name);
        assert!(report.states >= scenario.states_min);
    }
}

/// Bounds small enough to be searched without any reduction.
const SMALL_SOUND: [Scenario; 3] = [
    Scenario {
        name: "one session, one pruner",
        rules: Rules { slots: 2, pruners: 1, rounds: 2, deltas: true, ..IN_TESTS[2].rules },
        states_min: 200_000,
    },
    Scenario {
        name: "one session, two pruners",
        rules: Rules { slots: 2, pruners: 2, rounds: 1, ..IN_TESTS[0].rules },
        states_min: 120_000,
    },
    Scenario {
        name: "one session, one pruner, an undo window",
        rules: Rules { slots: 2, pruners: 1, rounds: 2, ..IN_TESTS[11].rules },
        states_min: 490_000,
    },
];

/// What the sights are looked for in.
const SIGHTS: Rules = Rules { quiet: false, bundles: true, ..IN_TESTS[0].rules };

/// What the sights of the undo window are looked for in.
const WINDOW_SIGHTS: Rules = Rules { quiet: false, ..IN_TESTS[8].rules };

/// A model in which little can happen breaks no law either.
#[test]
fn the_model_gets_to_where_it_matters() {
    let sights: [Sight; 7] = [
        ("a bundle that is kept by the chunk beside a delta alone", |w| {
            let beside = w.slots.iter().any(|s| s.looks_live() && s.reference.is_beside());
            beside && w.slots.iter().all(|s| !s.looks_live() || s.reference.maker().is_none())
        }),
        ("a live delta on a delta", |w| {
            w.slots
                .iter()
                .any(|s| s.looks_live() && s.reference.maker().is_some() && s.base.maker().is_some())
        }),
        ("a forgotten snapshot whose .end is cleaned away", |w| {
            w.slots.iter().any(|s| s.forget && s.end == End::Absent)
        }),
        ("an abort that lands on a forgotten sequence", |w| {
            w.slots.iter().any(|s| s.forget && s.end == End::Aborted)
        }),
        ("a chunk of generation 0 kept by a session of generation 2 alone", |w| {
            let kept = w.referenced(&SIGHTS) & FULLS == 1;
            kept && w.slots.iter().all(|s| !s.looks_live() || s.generation == 2)
        }),
        ("a condemned chunk that the final mark kept", |w| {
            w.stage == Stage::Sealed && w.round.condemned & w.round.index != 0
        }),
        ("a round in which much is deleted", |w| w.round.deleted.count_ones() >= 3),
    ];
    see(&SIGHTS, &sights);
}

type Sight = (&'static str, fn(&World) -> bool);

fn see(rules: &Rules, sights: &[Sight]) {
    for (name, is_seen) in sights {
        let seen = search::search_for(rules, 5_000_000, &|w, _| is_seen(w).then(|| (*name).to_owned()));
        assert!(seen.violation.is_some(), "never seen: {name}");
    }
}

#[test]
fn the_undo_window_is_open_where_it_matters() {
    let sights: [Sight; 5] = [
        ("a chunk that the final mark kept for a forgotten snapshot alone", |w| {
            let condemned_and_kept = w.round.condemned & w.round.index;
            w.stage == Stage::Sealed && condemned_and_kept & !w.referenced(&WINDOW_SIGHTS) != 0
        }),
        ("a snapshot that two rounds keep and the third does not", |w| {
            w.generation == 3 && w.stage == Stage::Sealed && w.before.kept & w.round.past() != 0
        }),
        ("a chunk that a session took when its only other snapshot was forgotten since a round", |w| {
            let [first, second, third, _] = &w.slots;
            // The roster before that session's generation keeps the first, so it was forgotten by then.
            let kept = w.stage == Stage::Sealed && w.generation == 2 && w.before.kept & 1 != 0;
            let recalled =
                second.looks_live() && second.generation == 2 && second.reference == first.reference;
            kept && recalled && !third.is_open()
        }),
        ("a recalled snapshot that is forgotten and kept itself", |w| {
            w.slots[1].forget && w.round.kept & 2 != 0 && w.slots[1].reference == Name::full(0)
        }),
        ("a forgotten snapshot above the high water", |w| {
            w.stage == Stage::Done
                && w.slots[1].looks_forgotten()
                && w.generation == 1
                && w.round.settled & 2 == 0
        }),
    ];
    see(&WINDOW_SIGHTS, &sights);
}

#[test]
fn every_broken_rule_has_its_search() {
    let all = variants();
    for (at, variant) in all.iter().enumerate() {
        assert_eq!(variant.rules.broken, Some(variant.broken));
        assert!(all[..at].iter().all(|v| v.broken != variant.broken), "{:?} twice", variant.broken);
    }
    // The enumeration is without gaps, so its last value tells how many there are.
    assert_eq!(all.len(), Broken::ComparesHonestSeals as usize + 1);
}
