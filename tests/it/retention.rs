//! Retention: examples worked out by hand, and laws that hold for every policy.

use cairn::format::ObjectId;
use cairn::retention::{Candidate, Policy, RetentionError, decide, parse_duration};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::{Strategy, any};
use proptest::{prop_assert, prop_assert_eq, proptest};

fn candidate(number: u32, name: &str, time: &str, verified: bool) -> Candidate {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    let series = (name.to_owned(), "host".to_owned());
    Candidate {
        id: ObjectId::from_bytes(id),
        series,
        time: time.parse().unwrap(),
        merits: Vec::from_iter(verified.then_some("newest verified")),
    }
}

fn now() -> Timestamp {
    "2026-06-15T12:00:00Z".parse().unwrap()
}

/// The numbers of the candidates kept, for times of one series, oldest first.
fn kept(times: &[&str], policy: &Policy, zone: &TimeZone) -> Vec<usize> {
    let candidates: Vec<_> =
        times.iter().enumerate().map(|(number, time)| candidate(number as u32, "a", time, false)).collect();
    let decisions = decide(&candidates, policy, now(), zone).unwrap();
    decisions
        .iter()
        .enumerate()
        .filter(|(_, decision)| !decision.kept_by.is_empty())
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn each_rule_keeps_what_it_says() {
    let times = [
        "2024-12-30T03:00:00Z", // ISO week 2025-W01
        "2025-01-02T03:00:00Z", // the same ISO week, another year
        "2026-05-31T03:00:00Z",
        "2026-06-13T03:00:00Z",
        "2026-06-14T01:00:00Z",
        "2026-06-14T01:30:00Z",
        "2026-06-14T22:00:00Z",
        "2026-06-15T03:00:00Z",
    ];
    let utc = TimeZone::UTC;
    let with = |change: fn(&mut Policy)| {
        let mut policy = Policy::default();
        change(&mut policy);
        kept(&times, &policy, &utc)
    };
    assert_eq!(with(|policy| policy.last = 3), [5, 6, 7]);
    assert_eq!(with(|policy| policy.hourly = 3), [5, 6, 7]);
    assert_eq!(with(|policy| policy.daily = 3), [3, 6, 7]);
    assert_eq!(with(|policy| policy.weekly = 4), [1, 2, 6, 7]);
    assert_eq!(with(|policy| policy.monthly = 3), [1, 2, 7]);
    assert_eq!(with(|policy| policy.yearly = 9), [0, 1, 7]);
    assert_eq!(with(|policy| policy.within_seconds = 2 * 86_400), [4, 5, 6, 7]);
}

#[test]
fn days_are_those_of_the_operators_zone() {
    // Midnight in Berlin (UTC+2 in June) lies between the first two, midnight in UTC between the last two.
    let times = ["2026-06-13T21:59:00Z", "2026-06-13T22:01:00Z", "2026-06-14T00:01:00Z"];
    let policy = Policy { daily: 9, ..Policy::default() };
    assert_eq!(kept(&times, &policy, &TimeZone::get("Europe/Berlin").unwrap()), [0, 2]);
    assert_eq!(kept(&times, &policy, &TimeZone::UTC), [1, 2]);
}

#[test]
fn an_hour_that_the_clock_repeats_in_autumn_is_one_hour() {
    let times = ["2025-10-26T00:30:00Z", "2025-10-26T01:30:00Z", "2025-10-26T02:30:00Z"];
    let policy = Policy { hourly: 9, ..Policy::default() };
    assert_eq!(kept(&times, &policy, &TimeZone::get("Europe/Berlin").unwrap()), [1, 2]);
}

#[test]
fn an_empty_policy_is_refused() {
    let one = [candidate(1, "a", "2026-01-01T00:00:00Z", false)];
    for unsafe_allow_remove_all in [false, true] {
        let empty = Policy { unsafe_allow_remove_all, ..Policy::default() };
        assert_eq!(decide(&one, &empty, now(), &TimeZone::UTC), Err(RetentionError::EmptyPolicy));
    }
}

#[test]
fn the_newest_and_the_newest_verified_of_each_series_stay() {
    let all = [
        candidate(1, "a", "2026-01-01T00:00:00Z", true),
        candidate(2, "a", "2026-01-02T00:00:00Z", true),
        candidate(3, "a", "2026-01-03T00:00:00Z", false),
        candidate(4, "a", "2026-01-04T00:00:00Z", false),
        candidate(5, "b", "2020-01-01T00:00:00Z", false),
    ];
    let policy = Policy { within_seconds: 1, ..Policy::default() };
    let keeps = |policy: &Policy| -> Vec<bool> {
        decide(&all, policy, now(), &TimeZone::UTC).unwrap().iter().map(|d| !d.kept_by.is_empty()).collect()
    };
    assert_eq!(keeps(&policy), [false, true, false, true, true]);
    assert_eq!(keeps(&Policy { unsafe_allow_remove_all: true, ..policy }), [false; 5]);
}

#[test]
fn durations_are_read_strictly() {
    for (text, seconds) in
        [("90s", 90), ("36h", 36 * 3600), ("7d", 604_800), ("2w", 1_209_600), ("1y6m", 365 * 86_400 + 180 * 86_400)]
    {
        assert_eq!(parse_duration(text), Some(seconds), "{text}");
    }
    for text in ["", "7", "d", "7x", "-7d", "7 d", "7dd", "1.5d", "99999999999999999999y", "9999999999999999y"] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    (0..4u32, 0..4u32, 0..4u32, 0..4u32, 0..4u32, 0..4u32, 0..9_000_000u64).prop_map(
        |(last, hourly, daily, weekly, monthly, yearly, within_seconds)| Policy {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within_seconds,
            unsafe_allow_remove_all: false,
        },
    )
}

fn histories() -> impl Strategy<Value = Vec<Candidate>> {
    proptest::collection::vec((0..3u8, 0..90_000_000i64, any::<bool>()), 1..40).prop_map(|all| {
        let made = |(number, (name, age, verified)): (usize, (u8, i64, bool))| {
            let time = Timestamp::from_second(now().as_second() - age).unwrap().to_string();
            candidate(number as u32, &format!("n{name}"), &time, verified)
        };
        all.into_iter().enumerate().map(made).collect()
    })
}

proptest! {
    #[test]
    fn a_larger_policy_never_keeps_less(history in histories(), policy in policies(), more in policies()) {
        let larger = Policy {
            last: policy.last + more.last,
            hourly: policy.hourly + more.hourly,
            daily: policy.daily + more.daily,
            weekly: policy.weekly + more.weekly,
            monthly: policy.monthly + more.monthly,
            yearly: policy.yearly + more.yearly,
            within_seconds: policy.within_seconds + more.within_seconds,
            unsafe_allow_remove_all: false,
        };
        if !policy.is_empty() {
            let small = decide(&history, &policy, now(), &TimeZone::UTC).unwrap();
            let large = decide(&history, &larger, now(), &TimeZone::UTC).unwrap();
            prop_assert_eq!(small.len(), history.len());
            for (small, large) in small.iter().zip(&large) {
                prop_assert!(small.kept_by.is_empty() || !large.kept_by.is_empty());
            }
        }
    }

    #[test]
    fn the_newest_of_every_series_always_stays(history in histories(), policy in policies()) {
        if !policy.is_empty() {
            let decisions = decide(&history, &policy, now(), &TimeZone::UTC).unwrap();
            for one in &history {
                let newest = history.iter().filter(|other| other.series == one.series).max_by_key(|other| (other.time, other.id));
                let newest = newest.unwrap();
                prop_assert!(decisions.iter().any(|d| d.id == newest.id && !d.kept_by.is_empty()));
            }
        }
    }
}
