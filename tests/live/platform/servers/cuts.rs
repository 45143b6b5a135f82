//! Runs that are asked to stop, or killed, while a real server is in the middle of what it was asked for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::{Ended, Held};
use crate::platform::Platform;
use crate::servers::PATIENCE;

/// All services, started again without waiting whether they stay up.
const WHOLE: &str = "[systemd]\nsettle-seconds = 0\n";

/// Elasticsearch has something new to save, and saves it slowly.
struct Slow<'a>(&'a Platform);

impl<'a> Slow<'a> {
    fn begin(platform: &'a Platform) -> Self {
        register(platform, r#","max_snapshot_bytes_per_sec":"100kb""#);
        let document = |n: u32| {
            let hashes = (0..40_u32).map(|i| blake3::hash(&[n.to_le_bytes(), i.to_le_bytes()].concat()).to_string());
            format!("{{\"index\":{{}}}}\n{{\"text\":\"{}\"}}\n", hashes.collect::<String>())
        };
        platform.write("/root/slow.json", &(0..1500).map(document).collect::<String>());
        let mapping = r#"{"settings":{"number_of_replicas":0},"mappings":{"enabled":false}}"#;
        platform.ask_elasticsearch("PUT", "slow", mapping);
        platform.ask_elasticsearch("POST", "slow/_bulk?refresh=true", "@/root/slow.json");
        Slow(platform)
    }

    /// Waits until a snapshot is being taken.
    fn is_at_work(&self) {
        let started = Instant::now();
        while self.0.elasticsearch("_snapshot/backup/_current")["snapshots"] == Value::Array(Vec::new()) {
            assert!(started.elapsed() < PATIENCE, "no snapshot is being taken");
        }
    }
}

impl Drop for Slow<'_> {
    fn drop(&mut self) {
        register(self.0, "");
        self.0.ask_elasticsearch("DELETE", "slow", "");
    }
}

fn register(platform: &Platform, setting: &str) {
    let body = format!(r#"{{"type":"fs","settings":{{"location":"/db-backup/elasticsearch"{setting}}}}}"#);
    platform.ask_elasticsearch("PUT", "_snapshot/backup", &body);
}

/// What must be the same when a run was cut off, and all was undone.
#[derive(Debug, PartialEq)]
struct Scene {
    active: BTreeSet<String>,
    sets: Value,
    snapshots: Vec<(String, String)>,
}

impl Scene {
    fn of(platform: &Platform) -> Self {
        platform.is_clean();
        let sets = Ended::new(&platform.cairn(&["platform", "sets"])).must(0).summary["sets"].clone();
        Scene { active: platform.active(), sets, snapshots: platform.snapshots() }
    }
}

/// Undoes what a killed run has left; the second time there is nothing to undo, and nothing is started anew.
pub fn resume_twice(platform: &Platform, profile: &str) -> String {
    let ended = platform.begin("resume", profile, &[]).ended().must(0);
    let before = platform.processes();
    let again = platform.begin("resume", profile, &[]).ended().must(0);
    assert_eq!((&again.summary["undone"], platform.processes()), (&0.into(), before), "{}", ended.text);
    ended.text
}

/// A lock on a table that lets `pg_dump` wait.
fn lock(platform: &Platform) -> Held {
    let lock = "psql -qX -d platform -c 'BEGIN; LOCK TABLE entity' -c '\\echo locked' -c '\\! read line'";
    Held::start(platform, &["runuser", "-u", "postgres", "--", "sh", "-c", lock])
}

fn dumps(platform: &Platform) -> bool {
    platform.lab.run(&["pgrep", "-f", "pg_dump .*--snapshot="]).status.success()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn a_run_that_is_asked_to_stop_while_a_server_is_captured_leaves_nothing(platform: &Platform) {
    let profile = platform.profile("asked", super::BARE);
    let before = Scene::of(platform);
    let locked = lock(platform);
    let options = ["--only", "postgres,config", "--allow", "postgres-sessions"];
    let mut run = platform.begin("backup", &profile, &options);
    run.begins("capture-postgres");
    until("pg_dump does not run", || dumps(platform));
    run.signal(Signal::TERM);
    let ended = run.ended().must(130);
    assert!(!dumps(platform), "its program is still there: {}", ended.text);
    drop(locked);
    assert_eq!(Scene::of(platform), before, "{}", ended.text);

    let mut run = platform.begin("backup", &profile, &["--only", "neo4j,config"]);
    run.begins("capture-neo4j");
    assert!(!platform.lab.is_active("neo4j"));
    run.signal(Signal::TERM);
    let ended = run.ended().must(130);
    assert_eq!(Scene::of(platform), before, "{}", ended.text);
}

pub fn an_unfinished_snapshot_of_elasticsearch_does_not_stay(platform: &Platform) {
    let profile = platform.profile("unfinished", super::BARE);
    let slow = Slow::begin(platform);
    let before = Scene::of(platform);
    for signal in [Signal::TERM, Signal::KILL] {
        let mut run = platform.begin("backup", &profile, &["--only", "elasticsearch,config"]);
        run.begins("snapshot-elasticsearch");
        slow.is_at_work();
        run.signal(signal);
        let mut ended = run.ended();
        if signal == Signal::KILL {
            assert_eq!(ended.code, None, "it was killed");
            assert_ne!(platform.snapshots(), before.snapshots, "Elasticsearch goes on by itself");
            ended.text = resume_twice(platform, &profile);
            assert!(ended.text.contains("was not whole, and is deleted"), "{}", ended.text);
        } else {
            ended = ended.must(130);
        }
        assert_eq!(Scene::of(platform), before, "{signal:?}: {}", ended.text);
    }
}

pub fn a_full_run_killed_in_the_middle_of_two_captures_or_near_its_end_is_undone(platform: &Platform) {
    let profile = platform.profile("whole-killed", WHOLE);
    let before = Scene::of(platform);
    {
        let slow = Slow::begin(platform);
        let locked = lock(platform);
        let mut run = platform.begin("backup", &profile, &["--allow", "postgres-sessions"]);
        run.begins("capture-postgres");
        run.begins("snapshot-elasticsearch");
        slow.is_at_work();
        until("pg_dump does not run", || dumps(platform));
        run.signal(Signal::KILL);
        assert_eq!(run.ended().code, None, "it was killed");
        drop(locked);
        let told = resume_twice(platform, &profile);
        until("pg_dump does not end", || !dumps(platform));
        assert_eq!(Scene::of(platform), before, "{told}");
    }
    // The services are being started; and all of them are up.
    for (entry, name) in [("undone", "stop-others:"), ("begin", "publish")] {
        let mut run = platform.begin("backup", &profile, &[]);
        let ended = match run.is_cut_at(entry, name) {
            true => run.ended().code.is_some(),
            false => true,
        };
        let told = resume_twice(platform, &profile);
        let after = Scene::of(platform);
        assert_eq!(after.active, before.active, "{entry} {name}: {told}");
        assert!(after.snapshots.iter().all(|(_, state)| state == "SUCCESS"), "{:?}", after.snapshots);
        // The set is the last write: after its step has begun it may be there.
        assert!(after.sets == before.sets || name == "publish", "{entry} {name}: {} sets", after.sets);
        assert!(!ended || name == "publish", "it was not killed");
    }
}
