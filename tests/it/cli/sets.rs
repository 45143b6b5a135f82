//! Backup sets and `forget`: a set is decided as a whole, and its snapshots go where it goes.

use std::sync::Arc;

use cairn::backend::local::Local;
use cairn::format::ObjectId;
use cairn::format::key::Credential;
use cairn::format::record::{DrillOutcome, Drilled, Proof};
use cairn::format::set::Status;
use cairn::progress::Silent;
use cairn::repo::{OpenOptions, Repository};

use super::{Place, text};
use crate::sets::set_of;

pub(super) fn open(place: &Place) -> Repository {
    let backend = Arc::new(Local::open(&place.path().join("repo")).unwrap());
    let options = OpenOptions { cache: Some(place.path().join("cache")), host: "test".to_owned() };
    Repository::open(backend, &Credential::KeyFile([5; 32].into()), &options, &Silent).unwrap()
}

pub fn newest(repository: &Repository) -> ObjectId {
    repository.snapshots().unwrap().last().unwrap().id
}

/// Three sets, each with a snapshot of its own: complete, complete, partial; their ids, and those of the snapshots.
fn three_sets(place: &Place) -> (Vec<ObjectId>, Vec<ObjectId>) {
    let (mut sets, mut snapshots) = (Vec::new(), Vec::new());
    for (day, status) in [(1, Status::Complete), (2, Status::Complete), (3, Status::Partial)] {
        place.store("p.config", format!("day {day}").as_bytes());
        let repository = open(place);
        snapshots.push(newest(&repository));
        let set = set_of(&format!("2026-03-0{day}T02:00:00Z"), status, &snapshots[snapshots.len() - 1..]);
        sets.push(repository.publish_set(&set).unwrap());
    }
    (sets, snapshots)
}

#[test]
fn a_policy_decides_a_set_as_a_whole_and_keeps_the_newest_complete_one() {
    let place = Place::new();
    let (sets, snapshots) = three_sets(&place);
    place.store("other", b"alone");
    let told = text(&place.ok(&["forget", "--keep-last", "1", "--dry-run"]).stdout);
    let line = |id: &ObjectId| told.lines().find(|line| line.contains(&id.short())).unwrap().to_owned();
    assert!(line(&sets[0]).contains("would forget") && line(&sets[0]).contains("backup set"), "{told}");
    assert!(line(&snapshots[0]).contains("its backup set goes"), "{told}");
    assert!(line(&sets[1]).contains("newest complete"), "{told}");
    assert!(line(&snapshots[1]).contains(&format!("part of backup set {}", sets[1].short())), "{told}");
    place.ok(&["forget", "--keep-last", "1"]);
    let repository = open(&place);
    let left: Vec<ObjectId> = repository.sets().unwrap().iter().map(|info| info.id).collect();
    assert_eq!(left, sets[1..]);
    assert_eq!(repository.snapshots().unwrap().len(), 3);
    place.ok(&["check"]);
}

#[test]
fn a_snapshot_of_a_set_is_forgotten_only_with_its_set() {
    let place = Place::new();
    let (sets, snapshots) = three_sets(&place);
    let id = snapshots[0].to_string();
    place.fails(&["forget", &id], 1, &["part of backup set", &sets[0].short()]);
    assert_eq!(place.count(), 3);
    place.fails(&["forget", &sets[2].to_string()], 1, &["newest", "--unsafe-allow-remove-all"]);
    place.fails(&["forget", &sets[1].to_string()], 1, &["newest complete"]);
    place.ok(&["forget", &sets[0].to_string()]);
    assert_eq!((place.count(), open(&place).sets().unwrap().len()), (2, 2));
    // A policy for snapshots of one name leaves those of sets that it does not decide.
    place.ok(&["forget", "--name", "p.config", "--keep-within", "1s", "--unsafe-allow-remove-all"]);
    assert_eq!((place.count(), open(&place).sets().unwrap().len()), (2, 2));
}

#[test]
fn sets_are_listed_and_reported() {
    let place = Place::new();
    let (sets, _) = three_sets(&place);
    let listed = text(&place.ok(&["platform", "sets"]).stdout);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    let partial = listed.lines().find(|line| line.contains(&sets[2].short())).unwrap();
    assert!(partial.contains("partial") && partial.contains("config (partial)"), "{listed}");
    assert_eq!(text(&place.ok(&["platform", "sets", "--profile", "other"]).stdout), "");
    let json = text(&place.ok(&["--json", "platform", "sets"]).stdout);
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["id"], sets[0].to_string());
    assert_eq!(lines[0]["set"]["components"][0]["name"], "config");
    assert_eq!((&lines[3]["type"], &lines[3]["sets"]), (&"summary".into(), &3.into()));
    let page = text(&place.ok(&["platform", "sets", "--report", &sets[1].to_string()[..8]]).stdout);
    assert!(page.starts_with("<!doctype html>") && page.contains(&sets[1].to_string()), "{page}");
    let file = place.path().join("report.html");
    place.ok(&["platform", "sets", "--report", "latest", "--output", file.to_str().unwrap()]);
    assert!(std::fs::read_to_string(file).unwrap().contains(&sets[2].to_string()));
    place.fails(&["platform", "sets", "--report", "ffff"], 2, &["\"ffff\"", "cairn platform sets"]);
    let latest = |more: &[&str]| text(&place.ok(&[&["platform", "sets", "--report", "latest"], more].concat()).stdout);
    let told = latest(&["--format", "text"]);
    assert!(told.contains(&sets[2].to_string()) && told.contains("partial") && !told.contains('<'), "{told}");
    let told: serde_json::Value = serde_json::from_str(&latest(&["--format", "json"])).unwrap();
    assert_eq!((&told["type"], &told["id"]), (&"set".into(), &sets[2].to_string().into()));
    let told = latest(&["--json"]);
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(told.lines().last().unwrap().contains("summary"), "{told}");
    for form in ["html", "text"] {
        place.fails(&["--json", "platform", "sets", "--report", "latest", "--format", form], 2, &["--output"]);
    }
    place.fails(&["platform", "sets", "--format", "text"], 2, &["--report"]);
}

/// The proof of a drill of the first component.
pub fn proof(set: &ObjectId, snapshot: ObjectId, time: &str) -> Proof {
    Proof {
        snapshot,
        time: time.parse().unwrap(),
        bytes: 1,
        milliseconds: 3,
        host: "h".to_owned(),
        program: "a test".to_owned(),
        drill: Some(Drilled {
            set: *set,
            component: "config".to_owned(),
            outcome: DrillOutcome::Equal,
            differences: Vec::new(),
            compared: "1 file".to_owned(),
            versions: Default::default(),
            restore_milliseconds: 2,
            compare_milliseconds: 1,
        }),
    }
}

#[test]
fn the_newest_proven_set_stays_although_newer_ones_are_complete() {
    let place = Place::new();
    let (sets, snapshots) = three_sets(&place);
    let repository = open(&place);
    repository.publish_drill(&sets[0], &[proof(&sets[0], snapshots[0], "2026-03-05T00:00:00Z")]).unwrap();
    place.fails(&["forget", &sets[0].to_string()], 1, &["newest proven", "--unsafe-allow-remove-all"]);
    let told = text(&place.ok(&["forget", "--keep-last", "1", "--dry-run"]).stdout);
    let line = |id: &ObjectId| told.lines().find(|line| line.contains(&id.short())).unwrap().to_owned();
    assert!(line(&sets[0]).contains("newest proven"), "{told}");
    assert!(line(&snapshots[0]).contains("part of backup set"), "{told}");
    place.ok(&["forget", "--keep-last", "1"]);
    assert_eq!((place.count(), open(&place).sets().unwrap().len()), (3, 3));
    // A newer one that is proven takes its place, but not once a later drill has found it different.
    repository.publish_drill(&sets[1], &[proof(&sets[1], snapshots[1], "2026-03-06T00:00:00Z")]).unwrap();
    let mut found = proof(&sets[1], snapshots[1], "2026-03-07T00:00:00Z");
    let drill = found.drill.as_mut().unwrap();
    (drill.outcome, drill.differences) = (DrillOutcome::Different, vec!["1 file".to_owned()]);
    repository.publish_drill(&sets[1], &[found]).unwrap();
    for (format, words) in [
        ("text", ["Drills:", "config: different; 2026-03-07", "1 file"]),
        ("html", ["<h2>Drills</h2>", "<span>different</span>", "no: different 2026-03-07"]),
        ("json", ["\"outcome\":\"different\"", "\"differences\":[\"1 file\"]", "2026-03-07T00:00:00Z"]),
    ] {
        let report = ["platform", "sets", "--report", &sets[1].to_string(), "--format", format];
        let told = text(&place.ok(&report).stdout);
        for word in words {
            assert!(told.contains(word), "{format}: {word} is not in\n{told}");
        }
    }
    place.ok(&["forget", "--keep-last", "1"]);
    assert_eq!((place.count(), open(&place).sets().unwrap().len()), (3, 3));
    repository.publish_drill(&sets[1], &[proof(&sets[1], snapshots[1], "2026-03-08T00:00:00Z")]).unwrap();
    place.ok(&["forget", "--keep-last", "1"]);
    let left: Vec<ObjectId> = open(&place).sets().unwrap().iter().map(|info| info.id).collect();
    assert_eq!((place.count(), left.as_slice()), (2, &sets[1..]));
    place.ok(&["forget", "--keep-last", "1", "--unsafe-allow-remove-all"]);
    assert_eq!(open(&place).sets().unwrap().len(), 1);
    place.ok(&["check"]);
}
