use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, proptest};
use proptest::{prop_assert, prop_assert_eq, prop_oneof};

use super::*;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

fn at(time: &str) -> u64 {
    let time: Timestamp = time.parse().expect("a time");
    u64::try_from(time.as_millisecond()).expect("after 1970")
}

fn candidate(sequence: u32, committed_unix_ms: u64) -> Candidate {
    Candidate { sequence: Sequence(sequence), committed_unix_ms, protected: false, tags: Vec::new() }
}

/// Snapshots at these times, with sequences as they are listed.
fn at_times(times: &[&str]) -> Vec<Candidate> {
    (1..).zip(times).map(|(sequence, time)| candidate(sequence, at(time))).collect()
}

/// Reasons as a table shows them; `-` for what goes, nothing for what the policy is not for.
fn shown(decisions: &[Decision]) -> Vec<String> {
    let words = |reasons: &[Reason]| reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join(", ");
    let one = |decision: &Decision| match decision {
        Decision::Unselected => String::new(),
        Decision::Keep(reasons) => words(reasons),
        Decision::Forget => "-".to_owned(),
    };
    decisions.iter().map(one).collect()
}

fn check(policy: &Policy, snapshots: &[Candidate], expected: &[&str]) {
    assert_eq!(shown(&decide(policy, snapshots)), expected, "{policy:?}");
}

fn within(text: &str) -> Option<Within> {
    Some(text.parse().expect("a length of time"))
}

#[test]
fn each_rule_keeps_the_newest_of_its_stretches() {
    let nights = at_times(&[
        "2025-12-31T23:30:00Z",
        "2026-01-01T03:00:00Z",
        "2026-01-01T03:30:00Z",
        "2026-01-04T03:00:00Z",
        "2026-01-05T03:00:00Z",
        "2026-02-05T03:00:00Z",
    ]);
    let none = Policy::default();
    for (policy, expected) in [
        (Policy { last: 2, ..none.clone() }, ["-", "-", "-", "-", "last", "last"]),
        (Policy { hourly: 4, ..none.clone() }, ["-", "-", "hourly", "hourly", "hourly", "hourly"]),
        (Policy { daily: 9, ..none.clone() }, ["daily", "-", "daily", "daily", "daily", "daily"]),
        // Monday, January 5 begins a week; the turn of the year does not.
        (Policy { weekly: 9, ..none.clone() }, ["-", "-", "-", "weekly", "weekly", "weekly"]),
        (Policy { monthly: 9, ..none.clone() }, ["monthly", "-", "-", "-", "monthly", "monthly"]),
        (Policy { yearly: 1, ..none.clone() }, ["-", "-", "-", "-", "-", "yearly"]),
        (Policy { yearly: 9, ..none.clone() }, ["yearly", "-", "-", "-", "-", "yearly"]),
        (
            Policy { last: 1, daily: 1, monthly: 2, ..none.clone() },
            ["-", "-", "-", "-", "monthly", "last, daily, monthly"],
        ),
        (Policy { within: within("1m"), ..none.clone() }, ["-", "-", "-", "-", "within 1m", "within 1m"]),
        (
            Policy { within: within("1m1d1h"), ..none.clone() },
            ["-", "-", "-", "within 1m1d1h", "within 1m1d1h", "within 1m1d1h"],
        ),
        (Policy { within: within("30d23h"), ..none.clone() }, ["-", "-", "-", "-", "-", "within 30d23h"]),
    ] {
        check(&policy, &nights, &expected);
    }
}

#[test]
fn days_begin_where_the_time_zone_says() {
    let nights = at_times(&["2026-01-01T12:00:00Z", "2026-01-01T22:30:00Z", "2026-01-01T23:30:00Z"]);
    let mut policy = Policy { daily: 9, monthly: 1, ..Policy::default() };
    check(&policy, &nights, &["-", "-", "daily, monthly"]);
    policy.time_zone = TimeZone::fixed(jiff::tz::offset(1));
    check(&policy, &nights, &["-", "daily", "daily, monthly"]);
}

/// Newfoundland's clocks went back at one minute past midnight, so that the evening came twice.
#[test]
fn a_day_that_comes_twice_is_one() {
    let zone = TimeZone::posix("NST3:30NDT2:30,M3.2.0/0:01,M11.1.0/0:01").expect("a zone");
    // 23:30, 0:00:30, again 23:30, and the next day.
    let nights = at_times(&[
        "2010-11-07T02:00:00Z",
        "2010-11-07T02:30:30Z",
        "2010-11-07T03:00:00Z",
        "2010-11-07T15:00:00Z",
    ]);
    let days = |daily| Policy { daily, time_zone: zone.clone(), ..Policy::default() };
    check(&days(9), &nights, &["-", "-", "daily", "daily"]);
}

#[test]
fn the_order_is_the_stores_and_the_base_stays() {
    // The second took so long that it was committed after the third.
    let nights = vec![candidate(1, DAY_MS), candidate(2, 4 * DAY_MS), candidate(3, 3 * DAY_MS)];
    let policy = Policy { last: 1, ..Policy::default() };
    check(&policy, &nights, &["-", "last", "base of the next incremental"]);
    check(&policy, &nights[..1], &["last, last of its volume"]);
    check(&policy, &[], &[]);
    // At the same moment: the later backup.
    check(&policy, &[candidate(2, 5), candidate(1, 5)], &["last", "-"]);
}

#[test]
fn protection_and_tags() {
    let mut nights = at_times(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]);
    nights[0].protected = true;
    nights[1].tags = vec!["hourly".into()];
    let mut policy = Policy { last: 1, ..Policy::default() };
    check(&policy, &nights, &["protected", "-", "last"]);
    policy.tags = vec!["hourly".parse().expect("tags")];
    check(&policy, &nights, &["", "last", ""]);
    // Counted from the volume's newest, whatever its tags.
    policy = Policy { within: within("23h"), tags: policy.tags, ..Policy::default() };
    check(&policy, &nights, &["", "-", ""]);
}

#[test]
fn a_policy_without_a_rule_is_refused() {
    assert!(Policy::default().check().is_err());
    assert!(Policy { yearly: 1, ..Policy::default() }.check().is_ok());
    assert!(Policy { within: within("1h"), ..Policy::default() }.check().is_ok());
}

#[test]
fn lengths_of_time() {
    for (text, same) in [("30d", "30d"), ("2y5m7d3h", "3h7d5m2y"), ("36h", "36h"), ("0y5m", "5m")] {
        let (a, b): (Within, Within) = (text.parse().expect(text), same.parse().expect(same));
        assert_eq!((a.to_string(), &a), (text.to_owned(), &b));
    }
    for text in
        ["", "0d", "d", "3", "3x", "3D", "-3d", "3d4d", "3 d", "99999999999999999999d", "99999999y", "3d4"]
    {
        let error = text.parse::<Within>().expect_err(text);
        assert!(error.help_text().is_some_and(|h| h.contains("30d")), "{text}");
    }
    // Before the epoch, and before all time.
    for text in ["60y", "19000y"] {
        let policy = Policy { within: within(text), ..Policy::default() };
        check(
            &policy,
            &[candidate(1, 0), candidate(2, 1)],
            &[&format!("within {text}"), &format!("within {text}")],
        );
    }
}

#[test]
fn times_that_no_calendar_holds_are_no_panic() {
    let policy = Policy { daily: 1, within: within("1d"), ..Policy::default() };
    check(&policy, &[candidate(1, 0), candidate(2, u64::MAX)], &["-", "daily, within 1d"]);
}

/// Snapshots some minutes to weeks apart, committed in almost the order of their sequences.
fn snapshots() -> impl Strategy<Value = Vec<Candidate>> {
    let gap = prop_oneof![Just(0), 0..2 * HOUR_MS, 0..3 * DAY_MS, 0..90 * DAY_MS];
    let one = (gap, 0..2 * DAY_MS, proptest::bool::weighted(0.1), any::<bool>());
    vec(one, 1..40).prop_map(|all| {
        let mut time = at("2020-02-27T22:00:00Z");
        let mut out = Vec::new();
        for (sequence, (gap, late, protected, tagged)) in (1..).zip(all) {
            time += gap;
            let tags = if tagged { vec!["t".to_owned()] } else { Vec::new() };
            out.push(Candidate { protected, tags, ..candidate(sequence, time + late) });
        }
        out
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    let length = prop_oneof![Just(None), "[1-9][hdm]|[1-3]y|2m3d|40d".prop_map(|text| within(&text))];
    let tags = prop_oneof![Just(Vec::new()), Just(vec!["t"]), Just(vec![""])];
    (vec(0u32..6, 6), length, tags, -20i8..20).prop_map(|(n, within, tags, offset)| Policy {
        last: n[0],
        hourly: n[1],
        daily: n[2],
        weekly: n[3],
        monthly: n[4],
        yearly: n[5],
        within,
        volumes: Vec::new(),
        tags: tags.into_iter().map(|t| t.parse().expect("tags")).collect(),
        time_zone: TimeZone::fixed(jiff::tz::offset(offset)),
    })
}

fn kept(policy: &Policy, snapshots: &[Candidate]) -> Vec<Candidate> {
    let decisions = decide(policy, snapshots);
    assert_eq!(decisions.len(), snapshots.len());
    let stays = |(s, d): (&Candidate, &Decision)| (*d != Decision::Forget).then(|| s.clone());
    snapshots.iter().zip(&decisions).filter_map(stays).collect()
}

proptest! {
    #[test]
    fn what_more_is_asked_for_keeps_no_less(snapshots in snapshots(), policy in policies(), which in 0usize..8) {
        let mut more = policy.clone();
        match which {
            0 => more.last += 1,
            1 => more.hourly += 1,
            2 => more.daily += 1,
            3 => more.weekly += 1,
            4 => more.monthly += 1,
            5 => more.yearly += 1,
            6 => more.within = within("4y"),
            _ => more.last = u32::MAX,
        }
        let (few, many) = (kept(&policy, &snapshots), kept(&more, &snapshots));
        prop_assert!(few.iter().all(|s| many.contains(s)), "{few:?} and {many:?}");
    }

    #[test]
    fn a_second_time_removes_nothing_more(snapshots in snapshots(), policy in policies()) {
        let once = kept(&policy, &snapshots);
        prop_assert_eq!(kept(&policy, &once), once);
    }

    #[test]
    fn what_must_stay_stays(snapshots in snapshots(), policy in policies()) {
        let kept = kept(&policy, &snapshots);
        let base = snapshots.last().expect("one at least");
        prop_assert!(kept.contains(base), "the base of the next incremental");
        prop_assert!(snapshots.iter().filter(|s| s.protected).all(|s| kept.contains(s)));
        let unselected = |s: &&Candidate| !TagList::any_matches(&policy.tags, &s.tags);
        prop_assert!(snapshots.iter().filter(unselected).all(|s| kept.contains(s)));
    }

    #[test]
    fn the_order_they_are_listed_in_does_not_matter(snapshots in snapshots(), policy in policies()) {
        let mut reversed = snapshots.clone();
        reversed.reverse();
        let mut decisions = decide(&policy, &reversed);
        decisions.reverse();
        prop_assert_eq!(decisions, decide(&policy, &snapshots));
    }
}
