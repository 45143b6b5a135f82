//! Which snapshots stay: a pure function of snapshots and a policy.
//!
//! Invariants: an empty policy is refused rather than taken as "keep nothing", whatever else is asked for; the newest snapshot of each series, and
//! its newest proven or complete one, stay whatever the policy says, unless that is asked for by name; a larger policy never
//! keeps less.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::format::ObjectId;

/// How many to keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of so many hours, counted back from the newest that have one.
    pub hourly: u32,
    /// Likewise of days.
    pub daily: u32,
    /// Likewise of ISO weeks.
    pub weekly: u32,
    /// Likewise of months.
    pub monthly: u32,
    /// Likewise of years.
    pub yearly: u32,
    /// All made within so many seconds before now.
    pub within_seconds: u64,
    /// Do not keep the newest and the newest proven of each series whatever the policy says.
    pub unsafe_allow_remove_all: bool,
}

impl Policy {
    /// True when no rule keeps anything.
    pub fn is_empty(&self) -> bool {
        let Policy { last, hourly, daily, weekly, monthly, yearly, within_seconds, .. } = *self;
        [last, hourly, daily, weekly, monthly, yearly].iter().all(|count| *count == 0) && within_seconds == 0
    }
}

/// What the policy needs to know of a snapshot.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its id.
    pub id: ObjectId,
    /// Its series: name and host.
    pub series: (String, String),
    /// When it was made.
    pub time: Timestamp,
    /// What makes it better than a newer one without: "newest verified". The newest that has one of them always stays.
    pub merits: Vec<&'static str>,
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The snapshot.
    pub id: ObjectId,
    /// The rules that keep it; without any it goes.
    pub kept_by: Vec<&'static str>,
}

/// Why a policy was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RetentionError {
    /// No rule was given, or none that keeps anything.
    #[error(
        "neither SNAP nor a --keep option that keeps something was given, so nothing is removed: say what to keep, for \
         example --keep-daily 7, or name what is to go"
    )]
    EmptyPolicy,
}

/// Decides about every snapshot, in the order given.
pub fn decide(
    candidates: &[Candidate],
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> Result<Vec<Decision>, RetentionError> {
    // Not even where all may go: an unset variable in the place of an id would be enough to lose everything.
    if policy.is_empty() {
        return Err(RetentionError::EmptyPolicy);
    }
    let mut series: BTreeMap<&(String, String), Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        series.entry(&candidate.series).or_default().push(candidate);
    }
    let mut reasons: BTreeMap<ObjectId, Vec<&'static str>> = BTreeMap::new();
    for members in series.values_mut() {
        members.sort_by_key(|member| std::cmp::Reverse((member.time, member.id)));
        for (id, reason) in keep_in_series(members, policy, now, zone) {
            reasons.entry(id).or_default().push(reason);
        }
    }
    let decision = |candidate: &Candidate| Decision {
        id: candidate.id,
        kept_by: reasons.get(&candidate.id).cloned().unwrap_or_default(),
    };
    Ok(candidates.iter().map(decision).collect())
}

/// The rules that keep members of one series, newest first.
fn keep_in_series(
    members: &[&Candidate],
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<(ObjectId, &'static str)> {
    let mut kept = Vec::new();
    if !policy.unsafe_allow_remove_all {
        kept.extend(members.first().map(|member| (member.id, "newest")));
        let mut seen = HashSet::new();
        for member in members {
            let first = member.merits.iter().filter(|merit| seen.insert(**merit));
            kept.extend(first.map(|merit| (member.id, *merit)));
        }
    }
    kept.extend(members.iter().take(policy.last as usize).map(|member| (member.id, "last")));
    let buckets: [(u32, &'static str, Bucket); 5] = [
        (policy.hourly, "hourly", |time| format!("{}-{}", time.date(), time.hour())),
        (policy.daily, "daily", |time| time.date().to_string()),
        (policy.weekly, "weekly", |time| {
            let week = time.date().iso_week_date();
            format!("{}-W{}", week.year(), week.week())
        }),
        (policy.monthly, "monthly", |time| format!("{}-{}", time.year(), time.month())),
        (policy.yearly, "yearly", |time| time.year().to_string()),
    ];
    for (count, reason, bucket) in buckets {
        let mut seen = HashSet::new();
        for member in members {
            if seen.len() >= count as usize {
                break;
            }
            if seen.insert(bucket(&member.time.to_zoned_datetime(zone.clone()))) {
                kept.push((member.id, reason));
            }
        }
    }
    if policy.within_seconds > 0 {
        let recent = |member: &&&Candidate| {
            let age = now.duration_since(member.time).as_secs();
            // A snapshot from the future is as recent as can be.
            age < 0 || age as u64 <= policy.within_seconds
        };
        kept.extend(members.iter().filter(recent).map(|member| (member.id, "within")));
    }
    kept
}

type Bucket = fn(&jiff::ZonedDateTime) -> String;

/// Reads a duration such as `36h`, `7d`, `2w`, `1y6m`: numbers with the units `s`, `min`, `h`, `d`, `w`, `m` (30 days) and
/// `y` (365 days). Seconds, or `None` for anything else.
pub fn parse_duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "s" => 1,
            "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            "m" => 30 * 86_400,
            "y" => 365 * 86_400,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(seconds)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}
