//! Which snapshots of a volume a retention policy keeps, and why.
//!
//! The rules are restic's, and so are the sets: `tests.rs` holds a second writing of them. Decided by what the store says of
//! the time of each commit, never by a writer's clock, unless that is asked for (`plan/times.rs`). "Now" is the volume's newest
//! commit: a volume that is no longer backed up does not lose its snapshots to the passing of time.

pub(crate) mod origins;

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use crate::error::{Error, Result};
use crate::plan::selection::{Glob, TagList};
use crate::plan::times::Times;
use crate::units::Sequence;

/// A live snapshot, as far as a policy looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its number within the volume: what decides where two have the same time.
    pub sequence: Sequence,
    /// When it was committed, as far as times are believed.
    pub committed_unix_ms: u64,
    /// Kept, whatever the rules say.
    pub protected: bool,
    /// Looked at by rules that keep tags.
    pub tags: Vec<String>,
}

/// What to keep. A snapshot stays when one rule wants it.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The newest so many; 0 for no such rule, also below.
    pub last: u32,
    /// The newest of each of so many hours that have one.
    pub hourly: u32,
    /// As `hourly`, by days of the time zone.
    pub daily: u32,
    /// By ISO weeks, which begin on Monday.
    pub weekly: u32,
    /// As `hourly`, by months of the calendar.
    pub monthly: u32,
    /// As `hourly`, by years of the calendar.
    pub yearly: u32,
    /// All that are younger than this, counted from the newest that the policy is for; one of just that age is not.
    pub within: Option<Within>,
    /// Volumes that the policy is for; none for all.
    pub volumes: Vec<Glob>,
    /// Snapshots that the policy is for, by their tags: one of the lists must match; none for all. The others stay, and
    /// count for nothing.
    pub tags: Vec<TagList>,
    /// Where hours, days, weeks, months and years begin.
    pub time_zone: TimeZone,
    /// Which times count.
    pub times: Times,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            last: 0,
            hourly: 0,
            daily: 0,
            weekly: 0,
            monthly: 0,
            yearly: 0,
            within: None,
            volumes: Vec::new(),
            tags: Vec::new(),
            time_zone: TimeZone::UTC,
            times: Times::Checked,
        }
    }
}

impl Policy {
    /// A policy that says nothing of what to keep would keep nothing.
    pub fn check(&self) -> Result<()> {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        if self.within.is_none() && counts.iter().all(|&n| n == 0) {
            return Err(Error::invalid("the policy does not say what to keep")
                .help("for example: --keep-daily 7 --keep-weekly 4 --keep-monthly 12"));
        }
        Ok(())
    }

    /// Whether the policy says anything of a volume; of others it forgets nothing.
    pub(crate) fn is_for_volume(&self, name: &str) -> bool {
        self.volumes.is_empty() || self.volumes.iter().any(|glob| glob.matches(name))
    }
}

/// What becomes of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The policy is not for it: it stays.
    Unselected,
    /// It stays, for these reasons; at least one.
    Keep(Vec<Reason>),
    /// Nothing keeps it.
    Forget,
}

/// Why a snapshot stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// `last` wants it.
    Last,
    /// `hourly` wants it.
    Hourly,
    /// `daily` wants it.
    Daily,
    /// `weekly` wants it.
    Weekly,
    /// `monthly` wants it.
    Monthly,
    /// `yearly` wants it.
    Yearly,
    /// It is the oldest, and a rule that counts has places left: so the history reaches as far back as it can.
    Oldest(Box<Self>),
    /// It is younger than that.
    Within(Within),
    /// Somebody protected it.
    Protected,
    /// There is no other of its volume.
    LastOfVolume,
    /// The next backup is compared with it. Told where nothing else keeps it.
    NextBase,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Oldest(rule) => return write!(f, "oldest {rule}"),
            Self::Within(within) => return write!(f, "within {within}"),
            Self::Protected => "protected",
            Self::LastOfVolume => "last of its volume",
            Self::NextBase => "base of the next incremental",
        })
    }
}

/// Decides over all live snapshots of one volume, in any order: one decision for each, in the same order.
///
/// Never forgets one that is protected, nor the one with the highest sequence: it is what the next incremental needs, and
/// so a volume always keeps one.
pub(crate) fn decide(policy: &Policy, snapshots: &[Candidate]) -> Vec<Decision> {
    let mut newest_first: Vec<usize> = (0..snapshots.len()).collect();
    newest_first.retain(|&i| snapshots.get(i).is_some_and(|s| TagList::any_matches(&policy.tags, &s.tags)));
    newest_first
        .sort_by_key(|&i| snapshots.get(i).map(|s| std::cmp::Reverse((s.committed_unix_ms, s.sequence))));
    let now_unix_ms = newest_first.first().and_then(|&i| snapshots.get(i)).map_or(0, |s| s.committed_unix_ms);
    let since_unix_ms = policy.within.as_ref().and_then(|w| w.since_unix_ms(now_unix_ms, &policy.time_zone));
    let base = snapshots.iter().map(|s| s.sequence).max();
    let mut rules = rules(policy);
    let oldest = newest_first.last().copied();
    let mut decisions = vec![Decision::Unselected; snapshots.len()];
    for index in newest_first {
        let (Some(snapshot), Some(decision)) = (snapshots.get(index), decisions.get_mut(index)) else {
            continue;
        };
        let time = Local::of(snapshot.committed_unix_ms, &policy.time_zone);
        let is_oldest = oldest == Some(index);
        let mut reasons: Vec<Reason> =
            rules.iter_mut().filter_map(|rule| rule.takes(&time, is_oldest)).collect();
        if let Some(within) = &policy.within
            && since_unix_ms.is_none_or(|since| snapshot.committed_unix_ms > since)
        {
            reasons.push(Reason::Within(within.clone()));
        }
        if snapshot.protected {
            reasons.push(Reason::Protected);
        }
        if snapshots.len() == 1 {
            reasons.push(Reason::LastOfVolume);
        } else if reasons.is_empty() && base == Some(snapshot.sequence) {
            reasons.push(Reason::NextBase);
        }
        *decision = if reasons.is_empty() { Decision::Forget } else { Decision::Keep(reasons) };
    }
    decisions
}

/// A stretch of time as a number. Those of one kind are ordered as time is.
type Bucket = i64;
type BucketOf = fn(&Local) -> Bucket;

/// A moment as a calendar and a clock on the wall have it.
struct Local {
    civil: DateTime,
    /// When the hour on the clock began. An hour that comes twice, as each autumn, began twice.
    hour_began_unix_s: i64,
}

impl Local {
    /// What no calendar holds counts as its end.
    fn of(unix_ms: u64, zone: &TimeZone) -> Self {
        let timestamp = timestamp(unix_ms);
        let civil = zone.to_datetime(timestamp);
        let within_s = i64::from(civil.minute()) * 60 + i64::from(civil.second());
        Self { civil, hour_began_unix_s: timestamp.as_second() - within_s }
    }

    fn year(&self) -> i64 {
        i64::from(self.civil.year())
    }
}

/// A rule that keeps the newest of each of so many stretches of time.
struct Rule {
    reason: Reason,
    left: u32,
    bucket: BucketOf,
    /// The oldest that has its snapshot.
    taken: Option<Bucket>,
}

fn rules(policy: &Policy) -> Vec<Rule> {
    let each: [(Reason, u32, BucketOf); 6] = [
        (Reason::Last, policy.last, |_| 0),
        (Reason::Hourly, policy.hourly, |t| t.hour_began_unix_s),
        (Reason::Daily, policy.daily, |t| t.year() * 1000 + i64::from(t.civil.date().day_of_year())),
        (Reason::Weekly, policy.weekly, |t| {
            let week = t.civil.date().iso_week_date();
            i64::from(week.year()) * 100 + i64::from(week.week())
        }),
        (Reason::Monthly, policy.monthly, |t| t.year() * 100 + i64::from(t.civil.month())),
        (Reason::Yearly, policy.yearly, Local::year),
    ];
    each.into_iter().map(|(reason, left, bucket)| Rule { reason, left, bucket, taken: None }).collect()
}

impl Rule {
    /// Why the rule keeps a snapshot of this time, which is not newer than those it was asked about before.
    fn takes(&mut self, time: &Local, is_oldest: bool) -> Option<Reason> {
        let bucket = (self.bucket)(time);
        // Older than, and not other than: where clocks were set back past midnight, a day comes twice.
        let new = self.reason == Reason::Last || self.taken.is_none_or(|taken| bucket < taken);
        if self.left == 0 || !(new || is_oldest) {
            return None;
        }
        self.left -= 1;
        self.taken = Some(bucket);
        Some(if new { self.reason.clone() } else { Reason::Oldest(Box::new(self.reason.clone())) })
    }
}

fn timestamp(unix_ms: u64) -> Timestamp {
    i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

/// A length of time in calendar units: `2y5m7d3h` is two years, five months, seven days and three hours.
#[derive(Debug, Clone)]
pub struct Within {
    text: String,
    span: Span,
}

impl PartialEq for Within {
    fn eq(&self, other: &Self) -> bool {
        self.span.fieldwise() == other.span.fieldwise()
    }
}

impl Eq for Within {}

impl Within {
    /// The moment so long before another; `None` where that is before 1970, and so before every commit.
    fn since_unix_ms(&self, now_unix_ms: u64, zone: &TimeZone) -> Option<u64> {
        let then = timestamp(now_unix_ms).to_zoned(zone.clone()).checked_sub(self.span).ok()?;
        u64::try_from(then.timestamp().as_millisecond()).ok()
    }
}

impl FromStr for Within {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!("{text:?}: expected years, months, days and hours, each at most once"))
                .help("for example 30d, 36h or 2y5m7d3h")
        };
        let mut span = Span::new();
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let number: i64 = rest.get(..digits).and_then(|n| n.parse().ok()).ok_or_else(bad)?;
            let mut after = rest.get(digits..).unwrap_or_default().chars();
            let set = match after.next() {
                Some('y') if span.get_years() == 0 => span.try_years(number),
                Some('m') if span.get_months() == 0 => span.try_months(number),
                Some('d') if span.get_days() == 0 => span.try_days(number),
                Some('h') if span.get_hours() == 0 => span.try_hours(number),
                _ => return Err(bad()),
            };
            span = set.map_err(|_| bad())?;
            rest = after.as_str();
        }
        if span.is_zero() { Err(bad()) } else { Ok(Self { text: text.to_owned(), span }) }
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
