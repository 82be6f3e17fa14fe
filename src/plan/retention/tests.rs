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
        (Policy { weekly: 9, ..none.clone() }, ["oldest weekly", "-", "-", "weekly", "weekly", "weekly"]),
        (Policy { monthly: 9, ..none.clone() }, ["monthly", "-", "-", "-", "monthly", "monthly"]),
        (Policy { yearly: 1, ..none.clone() }, ["-", "-", "-", "-", "-", "yearly"]),
        (Policy { yearly: 9, ..none.clone() }, ["yearly", "-", "-", "-", "-", "yearly"]),
        (
            Policy { last: 1, daily: 1, monthly: 2, ..none.clone() },
            ["-", "-", "-", "-", "monthly", "last, daily, monthly"],
        ),
        (Policy { within: within("1m"), ..none.clone() }, ["-", "-", "-", "-", "-", "within 1m"]),
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
    check(&policy, &nights, &["oldest daily", "-", "daily, monthly"]);
    policy.time_zone = TimeZone::fixed(jiff::tz::offset(1));
    check(&policy, &nights, &["oldest daily", "daily", "daily, monthly"]);
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
    check(&days(2), &nights, &["-", "-", "daily", "daily"]);
}

/// At three in the morning clocks go back to two: an hour that comes twice is two hours.
#[test]
fn an_hour_that_comes_twice_is_two() {
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
    // 01:30, 02:30 in summer, 02:15 and 02:45 in winter, 03:30.
    let nights = at_times(&[
        "2025-10-25T23:30:00Z",
        "2025-10-26T00:30:00Z",
        "2025-10-26T01:15:00Z",
        "2025-10-26T01:45:00Z",
        "2025-10-26T02:30:00Z",
    ]);
    let policy = Policy { hourly: 3, time_zone: zone, ..Policy::default() };
    check(&policy, &nights, &["-", "hourly", "-", "hourly", "hourly"]);
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
    // Counted from the newest that the policy is for.
    policy = Policy { within: within("23h"), tags: policy.tags, ..Policy::default() };
    check(&policy, &nights, &["", "within 23h", ""]);
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
        times: Times::Checked,
    })
}

/// What restic keeps: its algorithm once more, in as few words as possible. Newest first; each rule that counts takes a
/// snapshot whose stretch of time is another than the last one's, or that is the oldest, while it has places left.
fn restic_keeps(policy: &Policy, snapshots: &[Candidate]) -> Vec<Sequence> {
    let mut all: Vec<&Candidate> =
        snapshots.iter().filter(|s| TagList::any_matches(&policy.tags, &s.tags)).collect();
    all.sort_by_key(|s| std::cmp::Reverse((s.committed_unix_ms, s.sequence)));
    let zoned = |s: &Candidate| timestamp(s.committed_unix_ms).to_zoned(policy.time_zone.clone());
    let mut rules = [
        (policy.last, ""),
        (policy.hourly, "%Y-%m-%d %H"),
        (policy.daily, "%Y-%m-%d"),
        (policy.weekly, "%G-%V"),
        (policy.monthly, "%Y-%m"),
        (policy.yearly, "%Y"),
    ]
    .map(|(count, format)| (count, format, None));
    let mut kept = Vec::new();
    for (at, snapshot) in all.iter().enumerate() {
        let within = policy
            .within
            .as_ref()
            .is_some_and(|within| zoned(snapshot) > zoned(all[0]).checked_sub(within.span).expect("a time"));
        let mut keep = within;
        for (count, format, last) in &mut rules {
            let value = match *format {
                "" => at.to_string(),
                format => zoned(snapshot).strftime(format).to_string(),
            };
            if *count > 0 && (last.as_ref() != Some(&value) || at == all.len() - 1) {
                (*count, *last, keep) = (*count - 1, Some(value), true);
            }
        }
        if keep {
            kept.push(snapshot.sequence);
        }
    }
    kept
}

/// As `restic_keeps`, and what this program keeps besides: what is protected, and the base of the next incremental.
fn check_against_restic(policy: &Policy, snapshots: &[Candidate]) {
    let expected = restic_keeps(policy, snapshots);
    let base = snapshots.iter().map(|s| s.sequence).max();
    for (snapshot, decision) in snapshots.iter().zip(decide(policy, snapshots)) {
        if decision == Decision::Unselected || snapshot.protected || Some(snapshot.sequence) == base {
            continue;
        }
        let keeps = decision != Decision::Forget;
        assert_eq!(
            keeps,
            expected.contains(&snapshot.sequence),
            "{snapshot:?}: {decision:?} under {policy:?}"
        );
    }
}

/// The days of restic's own test of its policies, at 10:20:30, with the hours of January 2016.
fn restics_history() -> Vec<Candidate> {
    let days = |months: &[(&str, &[&str])]| -> Vec<String> {
        let day = |(month, days): &(&str, &[&str])| {
            days.iter().map(|day| format!("{month}-{day}T10:20:30Z")).collect::<Vec<_>>()
        };
        months.iter().flat_map(day).collect()
    };
    let late: [&str; 10] = ["01", "02", "05", "06", "08", "09", "10", "11", "20", "22"];
    let early: [&str; 9] = ["08", "10", "12", "13", "15", "18", "20", "21", "22"];
    let mut times = days(&[
        ("2014-08", &early),
        ("2014-09", &late),
        ("2014-10", &late),
        ("2014-11", &early),
        ("2015-08", &early),
        ("2015-09", &late),
        ("2015-10", &late),
        ("2015-11", &early),
    ]);
    let hours = "01T01:02 01T01:03 01T07:08 03T07:02 04T10:23 04T11:23 04T12:23 04T12:24 04T12:28 04T12:30 04T16:23 05T09:02 \
                 06T08:02 07T10:02 08T20:02 09T21:02 12T21:02 12T21:08 18T12:02";
    times.extend(hours.split_whitespace().map(|time| format!("2016-01-{time}:03Z")));
    let times: Vec<&str> = times.iter().map(String::as_str).collect();
    at_times(&times)
}

#[test]
fn published_policies_keep_what_restic_keeps() {
    let (history, none) = (restics_history(), Policy::default());
    for policy in [
        Policy { last: 10, ..none.clone() },
        Policy { last: 200, ..none.clone() },
        Policy { hourly: 20, ..none.clone() },
        Policy { daily: 3, ..none.clone() },
        Policy { daily: 30, ..none.clone() },
        Policy { last: 5, daily: 5, ..none.clone() },
        Policy { last: 2, daily: 10, ..none.clone() },
        Policy { weekly: 4, ..none.clone() },
        Policy { daily: 3, weekly: 4, ..none.clone() },
        Policy { monthly: 6, ..none.clone() },
        Policy { daily: 2, weekly: 2, monthly: 6, ..none.clone() },
        Policy { yearly: 10, ..none.clone() },
        Policy { daily: 7, weekly: 2, monthly: 3, yearly: 10, ..none.clone() },
        Policy { yearly: u32::MAX, ..none.clone() },
        Policy { within: within("1d"), ..none.clone() },
        Policy { within: within("7d"), ..none.clone() },
        Policy { within: within("1m14d"), ..none.clone() },
        Policy { within: within("1y1d1m"), ..none.clone() },
    ] {
        check_against_restic(&policy, &history);
    }
    // As its files policy_keep_snapshots_16 and _17 have it: the oldest stays, as there are places for ten years.
    let kept = |policy: &Policy| -> Vec<String> {
        let kept = kept(policy, &history);
        kept.iter().map(|s| timestamp(s.committed_unix_ms).strftime("%F").to_string()).collect()
    };
    let years = ["2014-08-08", "2014-11-22", "2015-11-22", "2016-01-18"];
    assert_eq!(kept(&Policy { yearly: 10, ..none.clone() }), years);
    let all = kept(&Policy { daily: 7, weekly: 2, monthly: 3, yearly: 10, ..none });
    assert!(years.iter().all(|year| all.contains(&(*year).to_owned())) && all.len() == 11, "{all:?}");
}

/// The policy of docs/operate.md, every night for forty-six nights: what was backed up first is still there.
#[test]
fn a_history_reaches_back_as_far_as_its_places() {
    let policy = Policy { daily: 7, weekly: 4, monthly: 12, ..Policy::default() };
    let mut live: Vec<Candidate> = Vec::new();
    for night in 0..46u32 {
        live.push(candidate(night + 1, at("2026-01-02T03:00:00Z") + u64::from(night) * DAY_MS));
        live = kept(&policy, &live);
    }
    assert_eq!(live[0].sequence, Sequence(1));
    assert!(live.len() <= 7 + 4 + 12, "{}", live.len());
}

fn kept(policy: &Policy, snapshots: &[Candidate]) -> Vec<Candidate> {
    let decisions = decide(policy, snapshots);
    assert_eq!(decisions.len(), snapshots.len());
    let stays = |(s, d): (&Candidate, &Decision)| (*d != Decision::Forget).then(|| s.clone());
    snapshots.iter().zip(&decisions).filter_map(stays).collect()
}

proptest! {
    #[test]
    fn random_histories_keep_what_restic_keeps(snapshots in snapshots(), policy in policies()) {
        check_against_restic(&policy, &snapshots);
    }

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
