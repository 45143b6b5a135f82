//! `cairn platform backup` on a whole platform: stopped in order, captured, up again, one recovery point.

mod claims;
mod kill;
mod light;
mod queues;
mod rest;
mod restore;
mod servers;

use std::collections::BTreeSet;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{Lab, PLATFORM};
use crate::servers::PATIENCE;

pub const PASSWORD: &str = "/root/password";
pub const REPOSITORY: &str = "/srv/backup";

/// A platform with data, and an empty repository beside it.
pub struct Platform {
    pub lab: Lab,
    pub entities: u64,
}

impl Platform {
    pub fn boot() -> Option<Self> {
        let mut platform = Platform::with_units(&PLATFORM)?;
        platform.entities = platform.lab.load(1);
        Some(platform)
    }

    /// With these units, and no data.
    pub fn with_units(units: &[&str]) -> Option<Self> {
        let lab = Lab::boot(units)?;
        std::fs::write(lab.path(PASSWORD), "a long password\n").unwrap();
        let platform = Platform { lab, entities: 0 };
        let made = platform.cairn(&["init"]);
        assert!(made.status.success(), "{made:?}");
        Some(platform)
    }

    /// Runs cairn in the machine.
    pub fn cairn(&self, arguments: &[&str]) -> Output {
        self.lab.run(&Self::argv(arguments))
    }

    pub fn argv<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
        let program = ["cairn", "--json", "--repo", REPOSITORY, "--password-file", PASSWORD];
        [&program, arguments].concat()
    }

    /// The units that are active.
    pub fn active(&self) -> BTreeSet<String> {
        let list = ["systemctl", "list-units", "--state=active", "--type=service", "--plain", "--no-legend"];
        let units = self.lab.ok(&list);
        units.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }
}

/// The last object that a program printed.
pub fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_else(|| panic!("{output:?}"));
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last}"))
}

/// The backup set that a run says that it published.
pub fn record(output: &Output) -> Value {
    let summary = summary(output);
    assert!(output.status.success(), "{}\n{summary:#}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    summary["record"].clone()
}

fn component<'a>(set: &'a Value, name: &str) -> &'a Value {
    let all = set["components"].as_array().unwrap();
    all.iter().find(|component| component["name"] == name).unwrap_or_else(|| panic!("no {name}: {set:#}"))
}

fn stored(set: &Value) -> u64 {
    let all = set["components"].as_array().unwrap().iter().flat_map(|component| component["parts"].as_array().unwrap());
    all.map(|part| part["stored_bytes"].as_u64().unwrap()).sum()
}

/// The built-in profile, with one snapshot of Elasticsearch kept and figures for Prometheus.
const PROFILE: &str = r#"extends = "eclecticiq-centos"
name = "figures"
[elasticsearch]
keep-snapshots = 1
[metrics]
textfile = "/root/cairn.prom"
[systemd]
settle-seconds = 0
"#;

/// Tasks, and one after them that leaves a file behind.
const TASKS: &str = "from tasks import nap, write
for _ in range(4): nap.apply_async((0.5,), queue='providers')
write.apply_async(('/tmp/last',), queue='providers')";
const WORKER: &str = "eclecticiq-platform-backend-worker@common";

/// Runs a backup while a worker has tasks to do. It is frozen until the run waits for it.
fn while_a_worker_works(lab: &Lab, backup: &[&str]) -> Output {
    let worker = |signal: &str| drop(lab.ok(&["systemctl", "kill", "-s", signal, WORKER]));
    worker("STOP");
    lab.ok(&["sh", "-c", &format!("cd /opt/eclecticiq-platform-backend && exec python3 -c \"{TASKS}\"")]);
    let mut run = lab.command(&Platform::argv(backup)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (journal, started) = (lab.path("/var/lib/cairn/journal"), Instant::now());
    while !std::fs::read_to_string(&journal).unwrap_or_default().contains("\"step\":\"drain-queues\"") {
        assert!(started.elapsed() < PATIENCE, "it does not wait for the queues");
        if run.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    worker("CONT");
    run.wait_with_output().unwrap()
}

#[test]
fn a_full_backup_is_one_point_in_time_and_everything_is_up_again() {
    let Some(platform) = Platform::boot() else { return };
    let (lab, before) = (&platform.lab, platform.active());
    let (page, profile) = ("/root/report.html", "/root/figures.toml");
    std::fs::write(lab.path(profile), PROFILE).unwrap();
    let backup = ["platform", "backup", "--profile", profile];
    let options = ["--report", page, "--allow", "queues", "--allow", "celery"];
    let first = record(&while_a_worker_works(lab, &[backup.as_slice(), &options].concat()));
    assert_eq!(platform.active(), before);
    assert_eq!((&first["status"], &first["consistency"]), (&"complete".into(), &"one-point-in-time".into()));

    each_component_is_whole(&platform, &first);
    tasks_were_waited_for(lab, &first);
    two_captures_overlap(&first);
    let steps = first["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["state"] == "done" || step["state"] == "undone"), "{steps:#?}");

    // Nothing is left behind, and what was stored can be read.
    assert!(!lab.path("/var/lib/cairn/journal").exists());
    let registered = lab.ok(&["curl", "-s", "http://localhost:9200/_snapshot/backup"]);
    assert!(!registered.contains("readonly\":\"true"), "{registered}");
    assert!(platform.cairn(&["check", "--read-data"]).status.success());
    let listed = summary(&platform.cairn(&["platform", "sets"]));
    assert_eq!(listed["sets"], 1);
    let again = "/root/again.html";
    platform.cairn(&["platform", "sets", "--report", "latest", "--output", again]);
    let read = |path: &str| std::fs::read_to_string(lab.path(path)).unwrap();
    assert!(read(page).contains("neo4j"));
    assert_eq!(read(again), read(page), "the report is the same, whenever it is made");

    // A second one stores little: one in twenty of the entities is new. A third one has nothing new to store.
    lab.ok(&["/opt/lab/load", "1", "2"]);
    let [second, third] = [(); 2].map(|()| record(&platform.cairn(&backup)));
    assert_eq!((&second["status"], &third["status"]), (&"complete".into(), &"complete".into()));
    let (all, growth, nothing) = (stored(&first), stored(&second), stored(&third));
    println!("stored: {all} bytes, then {growth}, and {nothing} without a change");
    assert!(growth * 4 < all, "{all} bytes were stored first, and {growth} for the second");
    assert!(nothing * 50 < all, "{all} bytes were stored first, and {nothing} although nothing changed");
    assert_eq!(platform.active(), before);

    let kept = lab.ok(&["curl", "-s", "http://localhost:9200/_cat/snapshots/backup?h=id,status"]);
    let name = component(&third, "elasticsearch")["facts"]["snapshot"].as_str().unwrap();
    assert_eq!(kept.split_whitespace().collect::<Vec<_>>(), [name, "SUCCESS"]);
    let figures = read("/root/cairn.prom");
    for name in COMPONENTS.map(|(name, _)| name) {
        let label = format!("cairn_platform_component_seconds{{profile=\"figures\",component=\"{name}\"}} ");
        let seconds = figures.lines().find_map(|line| line.strip_prefix(&label)?.parse::<f64>().ok());
        let took = component(&third, name)["milliseconds"].as_u64().unwrap();
        assert_eq!(seconds, Some(took as f64 / 1000.0), "{name}: {figures}");
    }
}

const COMPONENTS: [(&str, &str); 5] = [
    ("config", "tree"),
    ("postgres", "dump"),
    ("elasticsearch", "repository"),
    ("neo4j", "store"),
    ("redis", "queues"),
];

/// The three databases hold the same entities, and the set says so.
fn each_component_is_whole(platform: &Platform, set: &Value) {
    for (name, role) in COMPONENTS {
        let component = component(set, name);
        assert_eq!(
            (&component["status"], &component["parts"][0]["role"]),
            (&"complete".into(), &role.into()),
            "{component:#}"
        );
        assert_eq!(component["warnings"], Value::Array(Vec::new()), "{name}");
    }
    let tables = component(set, "postgres")["facts"]["databases"].as_array().unwrap();
    let rows = tables.iter().flat_map(|database| database["tables"].as_array().unwrap());
    let entities = rows.clone().find(|table| table["name"] == "entity").unwrap();
    assert_eq!(entities["rows"], platform.entities);
    assert!(entities["checksum"].is_string());
    let documents = component(set, "elasticsearch")["facts"]["documents"].as_object().unwrap();
    assert_eq!(documents.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), platform.entities);
    assert_eq!(component(set, "neo4j")["facts"]["nodes"], platform.entities);
    let keys = &component(set, "config")["facts"]["keys"];
    assert!(keys.to_string().contains("/etc/eclecticiq-nginx/ssl/platform.key"), "{keys}");
}

/// The steps of a set whose titles begin so.
fn steps<'a>(set: &'a Value, title: &str) -> Vec<&'a Value> {
    let all = set["steps"].as_array().unwrap().iter();
    all.filter(|step| step["title"].as_str().unwrap().starts_with(title)).collect()
}

/// A real worker emptied its queue while the run waited, and was stopped when it had done the last task.
fn tasks_were_waited_for(lab: &Lab, set: &Value) {
    let drain = steps(set, "wait until every queue is empty")[0];
    let detail = drain["detail"].as_str().unwrap();
    assert!(detail.contains("all empty; at first") && detail.contains("providers: "), "{drain}");
    assert!(lab.path("/tmp/last").exists(), "the last task was not done");
    let left = component(set, "redis")["facts"]["queues"].as_object().unwrap();
    assert!(left.values().all(|count| *count == 0), "{left:?}");
}

/// Components are captured beside each other, not one after another.
fn two_captures_overlap(set: &Value) {
    let span = |title: &str| {
        let step = steps(set, title)[0];
        let began: jiff::Timestamp = step["time"].as_str().unwrap().parse().unwrap();
        let took = std::time::Duration::from_millis(step["milliseconds"].as_u64().unwrap());
        (began, began + took)
    };
    let (postgres, elasticsearch) = (span("dump PostgreSQL"), span("take a snapshot"));
    assert!(postgres.0 < elasticsearch.1 && elasticsearch.0 < postgres.1, "{postgres:?}, {elasticsearch:?}");
}
