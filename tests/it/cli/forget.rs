//! What each rule of `forget` keeps, by the ids of snapshots over two years.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::browse::{objects, publish_at, words};
use super::{Place, text};
use crate::support::machine::has_program_or_skip;

/// Among them the ends of years, months and weeks, and times that are of another day two hours to the east.
const TIMES: [&str; 13] = [
    "2022-03-10T08:00:00Z",
    "2022-12-31T23:30:00Z",
    "2023-01-01T00:30:00Z",
    "2023-11-15T12:00:00Z",
    "2023-12-25T06:00:00Z",
    "2023-12-31T10:00:00Z",
    "2024-01-01T10:00:00Z",
    "2024-01-20T10:00:00Z",
    "2024-02-26T10:00:00Z",
    "2024-03-01T09:10:00Z",
    "2024-03-01T22:05:00Z",
    "2024-03-01T22:45:00Z",
    "2024-03-03T01:00:00Z",
];

/// A snapshot for each time, and their ids.
fn published(times: &[String]) -> (Place, Vec<String>) {
    let place = Place::new();
    times.iter().for_each(|time| publish_at(&place, "db", time, time.as_bytes()));
    let ids = words(&objects(&place, "snapshot", &["snapshots"]), "id");
    assert_eq!(ids.len(), times.len());
    (place, ids)
}

/// Which of the snapshots a policy keeps, by their positions.
fn kept(place: &Place, ids: &[String], zone: &str, policy: &[&str]) -> BTreeSet<usize> {
    let args = [&["--json", "forget", "--dry-run"], policy].concat();
    let output = place.command().env("TZ", zone).args(args).output().unwrap();
    assert!(output.status.success(), "{policy:?}: {}", text(&output.stderr));
    let lines = text(&output.stdout);
    let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let decisions: Vec<_> = lines.filter(|line| line["type"] == "decision").collect();
    assert_eq!(decisions.len(), ids.len(), "{policy:?}");
    let position = |id: &str| ids.iter().position(|other| other == id).unwrap();
    let stays = decisions.iter().filter(|decision| decision["kept"] == true);
    stays.map(|decision| position(decision["snapshot"].as_str().unwrap())).collect()
}

#[test]
fn each_rule_keeps_what_its_name_says() {
    let (place, ids) = published(&TIMES.map(str::to_owned));
    for (zone, policy, expected) in [
        ("UTC", ["--keep-last", "3"], [12, 11, 10].as_slice()),
        ("UTC", ["--keep-hourly", "3"], &[12, 11, 9]),
        ("UTC", ["--keep-daily", "3"], &[12, 11, 8]),
        ("UTC", ["--keep-weekly", "3"], &[12, 7, 6]),
        ("UTC", ["--keep-monthly", "3"], &[12, 8, 7]),
        ("UTC", ["--keep-yearly", "3"], &[12, 5, 1]),
        // A week of two years is one week, and the one that begins a year is another.
        ("UTC", ["--keep-weekly", "7"], &[12, 7, 6, 5, 3, 2, 0]),
        ("UTC", ["--keep-monthly", "6"], &[12, 8, 7, 5, 3, 2]),
        // Half past eleven in the last night of the year is the next year two hours to the east.
        ("XST-2", ["--keep-yearly", "3"], &[12, 5, 0]),
        ("XST-2", ["--keep-daily", "3"], &[12, 11, 9]),
    ] {
        assert_eq!(kept(&place, &ids, zone, &policy), expected.iter().copied().collect(), "{policy:?} in {zone}");
    }
    let together = ["--keep-last", "2", "--keep-weekly", "2", "--keep-yearly", "2"];
    assert_eq!(kept(&place, &ids, "UTC", &together), [12, 11, 7, 5].into());
    assert_eq!(place.count(), TIMES.len(), "a dry run removed something");
}

#[test]
fn within_a_duration_everything_stays() {
    let hours = [400 * 24, 40 * 24, 8 * 24, 30, 1];
    let times = hours.map(|hours| (Timestamp::now() - SignedDuration::from_hours(hours)).to_string());
    let (place, ids) = published(&times);
    for (duration, expected) in
        [("2h", [4].as_slice()), ("36h", &[3, 4]), ("7d", &[3, 4]), ("2w", &[2, 3, 4]), ("6m", &[1, 2, 3, 4])]
    {
        let found = kept(&place, &ids, "UTC", &["--keep-within", duration]);
        assert_eq!(found, expected.iter().copied().collect(), "{duration}");
    }
    assert_eq!(kept(&place, &ids, "UTC", &["--keep-within", "2y"]).len(), 5);
}

#[test]
fn the_newest_verified_snapshot_stays_also_when_newer_ones_are_not_verified() {
    let (place, ids) = published(&TIMES[8..].iter().map(|time| (*time).to_owned()).collect::<Vec<_>>());
    place.ok(&["verify", &ids[0]]);
    place.ok(&["verify", &ids[2]]);
    assert_eq!(kept(&place, &ids, "UTC", &["--keep-last", "1"]), [2, 4].into());
    place.fails(&["forget", &ids[2]], 1, &["newest verified", "--unsafe-allow-remove-all"]);
    place.ok(&["forget", "--keep-last", "1"]);
    assert_eq!(words(&objects(&place, "snapshot", &["snapshots"]), "id"), [ids[2].as_str(), &ids[4]]);
    assert_eq!(text(&place.ok(&["cat", &ids[2]]).stdout), TIMES[10]);
}

#[test]
fn the_newest_verified_went_while_its_proof_could_not_be_read() {
    if !has_program_or_skip("strace") {
        return;
    }
    let (place, ids) = published(&[TIMES[0], TIMES[1], TIMES[2]].map(str::to_owned));
    place.ok(&["verify", &ids[0]]);
    let proofs = place.path().join("repo/proofs");
    let proof = std::fs::read_dir(proofs).unwrap().next().unwrap().unwrap().path();
    let forget = |failing: bool, more: &[&str]| {
        let program = place.command();
        let mut command = std::process::Command::new("strace");
        command.args(["-f", "-qq", "--trace=read,pread64", "-o", "/dev/null"]);
        if failing {
            command.args(["-e", "inject=read,pread64:error=EIO", "-P"]).arg(&proof);
        }
        command.arg(program.get_program()).args(program.get_args());
        command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args(["forget", "--keep-last", "1"]).args(more).output().unwrap()
    };
    let refused = forget(true, &[]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("newest verified one is not known"), "{}", text(&refused.stderr));
    assert_eq!(words(&objects(&place, "snapshot", &["snapshots"]), "id").len(), 3);
    let done = forget(false, &[]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let left = words(&objects(&place, "snapshot", &["snapshots"]), "id");
    assert_eq!(left, [ids[0].clone(), ids[2].clone()]);
}
