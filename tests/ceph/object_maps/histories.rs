//! Histories that are known to deceive the fast diff, and those around them. Each is played in the model here, and on a real
//! cluster in `cluster.rs`.

use cuttle::rbd::diff::judge::{BaseObjects, Between, Verdict, Why, judge};

use super::model::{World, facts};

/// One step. Snapshots of users have a name; cuttle's are known by the night, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Write,
    Discard,
    Shrink,
    Grow,
    Snap(&'static str),
    Remove(&'static str),
    RollBack(&'static str),
    RollBackToNight(usize),
    /// A backup from beginning to end.
    Night,
    /// A backup begins and is under way until `End`.
    Begin,
    End,
    /// `rbd object-map rebuild` of the snapshot of a night.
    Rebuild(usize),
}

/// What the last night of a history does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It believes the object maps.
    Fast,
    /// (1), (2) or (3) is broken.
    OthersThen,
    MadeSince,
    NotAlone,
}

pub struct History {
    pub name: &'static str,
    pub steps: &'static [Step],
    pub expected: Expected,
    /// Whether the fast diff of the last night would miss what changed.
    pub deceived: bool,
}

use Expected::{Fast, MadeSince, NotAlone, OthersThen};
use Step::{
    Begin, Discard, End, Grow, Night, Rebuild, Remove, RollBack, RollBackToNight, Shrink, Snap, Write,
};

pub const HISTORIES: [History; 16] = [
    History {
        name: "quiet nights",
        steps: &[Write, Night, Write, Night, Write, Night],
        expected: Fast,
        deceived: false,
    },
    History {
        name: "nothing written",
        steps: &[Write, Night, Night, Night],
        expected: Fast,
        deceived: false,
    },
    History {
        name: "shrunk and grown",
        steps: &[Write, Night, Shrink, Grow, Night],
        expected: Fast,
        deceived: false,
    },
    History {
        name: "rolled back to a snapshot older than the base that has one before it",
        steps: &[Write, Snap("p0"), Snap("p1"), Write, Night, RollBack("p1"), Night],
        expected: OthersThen,
        deceived: true,
    },
    History {
        name: "the same, and both removed",
        steps: &[
            Write,
            Snap("p0"),
            Snap("p1"),
            Write,
            Night,
            RollBack("p1"),
            Remove("p1"),
            Remove("p0"),
            Night,
        ],
        expected: OthersThen,
        deceived: true,
    },
    History {
        name: "an ordinary week: installed, nights, before the upgrade, upgrade, night, rolled back",
        steps: &[
            Write,
            Snap("installed"),
            Night,
            Night,
            Snap("before"),
            Write,
            Night,
            RollBack("before"),
            Night,
        ],
        expected: OthersThen,
        deceived: true,
    },
    History {
        name: "rolled back to the only older snapshot",
        steps: &[Write, Snap("p"), Write, Night, RollBack("p"), Night],
        expected: OthersThen,
        deceived: false,
    },
    History {
        name: "shrunk, a snapshot that stays, grown",
        steps: &[Write, Night, Shrink, Snap("hourly"), Grow, Night],
        expected: MadeSince,
        deceived: true,
    },
    History {
        name: "the same, and the snapshot removed",
        steps: &[Write, Night, Shrink, Snap("hourly"), Grow, Remove("hourly"), Night],
        expected: MadeSince,
        deceived: false,
    },
    History {
        name: "written, snapshots, discarded, rolled back between them, all removed",
        steps: &[
            Write,
            Night,
            Write,
            Snap("q0"),
            Snap("q1"),
            Discard,
            Snap("q2"),
            RollBack("q1"),
            Remove("q0"),
            Remove("q1"),
            Remove("q2"),
            Night,
        ],
        expected: MadeSince,
        deceived: true,
    },
    History {
        name: "rolled back to the last night",
        steps: &[Write, Night, Write, Night, Write, RollBackToNight(2), Night],
        expected: Fast,
        deceived: false,
    },
    History {
        name: "rolled back to the last night while tonight's backup runs",
        steps: &[Write, Night, Write, Begin, RollBackToNight(1), End, Night],
        expected: Fast,
        deceived: false,
    },
    History {
        name: "the same, where last night's map leans on what is gone",
        steps: &[
            Write,
            Snap("p0"),
            Snap("p1"),
            Discard,
            Snap("p2"),
            RollBack("p1"),
            Remove("p0"),
            Remove("p1"),
            Remove("p2"),
            Night,
            Write,
            Begin,
            RollBackToNight(1),
            End,
            Night,
        ],
        expected: NotAlone,
        deceived: true,
    },
    History {
        name: "the same, made anew as advised",
        steps: &[
            Write,
            Snap("p0"),
            Snap("p1"),
            Discard,
            Snap("p2"),
            RollBack("p1"),
            Remove("p0"),
            Remove("p1"),
            Remove("p2"),
            Night,
            Rebuild(1),
            Write,
            Begin,
            RollBackToNight(1),
            End,
            Night,
        ],
        expected: Fast,
        deceived: false,
    },
    History {
        name: "a snapshot of an hour, and the night after",
        steps: &[Write, Night, Snap("hourly"), Remove("hourly"), Night, Write, Night],
        expected: Fast,
        deceived: false,
    },
    History {
        name: "a snapshot that stays for ever",
        steps: &[Write, Snap("kept"), Night, Write, Night, Write, Night],
        expected: OthersThen,
        deceived: false,
    },
];

/// Plays a history in the model; what the last night decided, and whether the fast diff misses there.
fn play(history: &History) -> (Verdict, bool, bool) {
    let mut world = World::new();
    let mut named: Vec<(&str, u8)> = Vec::new();
    let mut nights: Vec<u8> = Vec::new();
    let mut last = None;
    for step in history.steps {
        let id = |name: &str| named.iter().rev().find(|(n, _)| *n == name).expect("made before").1;
        let mut begin = |world: &mut World| {
            let base = world.base;
            let (between, newer) = world.begin();
            nights.push(newer.id.expect("a snapshot"));
            let Some(base) = base else { return };
            let known = World::history(base, between);
            let verdict = judge(&facts(world, base, newer, &known));
            last = Some((verdict, world.fast_misses(base.id, newer), world.slow_misses(base.id, newer)));
        };
        let end = |world: &mut World| {
            world.commit();
            let newest = world.base.expect("committed").id;
            let older: Vec<u8> = world.snaps().filter(|s| s.own && s.id < newest).map(|s| s.id).collect();
            older.into_iter().for_each(|id| world.remove(id));
        };
        match *step {
            Write => world.write(),
            Discard => world.discard(),
            Shrink => world.resize(false),
            Grow => world.resize(true),
            Snap(name) => named.push((name, world.create(false))),
            Remove(name) => world.remove(id(name)),
            RollBack(name) => world.roll_back(id(name)),
            RollBackToNight(night) => world.roll_back(nights[night - 1]),
            Night => {
                begin(&mut world);
                end(&mut world);
            }
            Begin => begin(&mut world),
            End => end(&mut world),
            Rebuild(night) => world.rebuild(Some(nights[night - 1])),
        }
    }
    last.expect("two nights")
}

#[test]
fn each_history_is_judged_right() {
    for history in &HISTORIES {
        let (verdict, fast_misses, slow_misses) = play(history);
        let found = match verdict {
            Verdict::Fast => Fast,
            Verdict::Slow { why: Why::OthersThen { .. }, maps_hold: true } => OthersThen,
            Verdict::Slow { why: Why::MadeSince { .. }, maps_hold: true } => MadeSince,
            Verdict::Slow { why: Why::NotAlone { .. }, maps_hold: true } => NotAlone,
            other => panic!("{}: {other:?}", history.name),
        };
        assert_eq!(found, history.expected, "{}", history.name);
        assert_eq!(fast_misses, history.deceived, "{}: whether the fast diff is wrong", history.name);
        assert!(!slow_misses, "{}", history.name);
    }
}

/// What is not known is never believed, and what librbd cannot be asked is not asked.
#[test]
fn what_is_not_known_is_not_believed() {
    use cuttle::rbd::diff::judge::{End, History};
    use cuttle::rbd::{features, flags};

    let mut world = World::new();
    world.write();
    drop(world.begin());
    world.commit();
    let (base, (between, newer)) = (world.base.expect("a base"), world.begin());
    let known = World::history(base, between.clone());
    let good = facts(&world, base, newer, &known);
    assert_eq!(judge(&good), Verdict::Fast);
    let why = |facts: &cuttle::rbd::diff::judge::Facts<'_>| match judge(facts) {
        Verdict::Fast => panic!("believed"),
        Verdict::Slow { why, maps_hold } => (why, maps_hold),
        Verdict::ReadAll(why) => (why, false),
    };
    let with = |history: History| why(&cuttle::rbd::diff::judge::Facts { history: &history, ..good.clone() });
    let base_name = || "base".to_owned();
    assert_eq!(
        with(History { made: None, objects: None, between: between.clone() }),
        (Why::NotRecorded { base: base_name() }, true)
    );
    let unreadable = History { between: Between::Unreadable("denied".into()), ..known.clone() };
    assert_eq!(with(unreadable), (Why::Unreadable("denied".into()), true));
    let unknown = History { between: Between::Unknown, ..known.clone() };
    assert_eq!(with(unknown), (Why::NotMadeHere { newer: Some("newer".into()) }, true));
    let mut not_looked_at = known.clone();
    if let Some(made) = &mut not_looked_at.made {
        (made.others, made.replaces, made.replaced_has_clean) = (vec![7], Some(7), None);
    }
    assert!(matches!(with(not_looked_at), (Why::NotAlone { replaced: 7, .. }, true)));
    for (base_objects, expected) in [
        (BaseObjects::Changed, Why::ObjectsChanged { base: base_name() }),
        (BaseObjects::Unknown, Why::ObjectsUnknown { base: base_name() }),
    ] {
        let facts = cuttle::rbd::diff::judge::Facts { base_objects, ..good.clone() };
        assert_eq!(judge(&facts), Verdict::ReadAll(expected));
    }
    let features = |features| why(&cuttle::rbd::diff::judge::Facts { features, ..good.clone() });
    let all = good.features;
    let (missing, lock) = (features::FAST_DIFF | features::OBJECT_MAP, features::EXCLUSIVE_LOCK);
    assert_eq!(features(lock), (Why::NoFastDiff { missing }, false));
    assert_eq!(
        features(all & !features::FAST_DIFF),
        (Why::NoFastDiff { missing: features::FAST_DIFF }, false)
    );
    assert_eq!(features(all | features::MIGRATING), (Why::Migrating, false));
    assert!(matches!(
        judge(&cuttle::rbd::diff::judge::Facts { features: features::MIGRATING, base: None, ..good.clone() }),
        Verdict::ReadAll(Why::Migrating)
    ));
    for flag in [flags::OBJECT_MAP_INVALID, flags::FAST_DIFF_INVALID] {
        let newer =
            cuttle::rbd::diff::judge::Facts { newer: End { flags: flag, ..good.newer }, ..good.clone() };
        assert_eq!(why(&newer), (Why::MapInvalid { snapshot: Some("newer".into()) }, false));
        let base = good.base.map(|base| End { flags: flag, ..base });
        let base = cuttle::rbd::diff::judge::Facts { base, ..good.clone() };
        assert_eq!(why(&base), (Why::MapInvalid { snapshot: Some(base_name()) }, false));
        let now = End { snapshot: None, flags: flag };
        let now = cuttle::rbd::diff::judge::Facts { newer: now, ..good.clone() };
        assert_eq!(why(&now), (Why::MapInvalid { snapshot: None }, false));
    }
    // A list of all that is there needs no history.
    let nothing = History::default();
    let all = cuttle::rbd::diff::judge::Facts { base: None, history: &nothing, ..good.clone() };
    assert_eq!(judge(&all), Verdict::Fast);
}
