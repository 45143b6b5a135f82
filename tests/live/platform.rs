//! `cairn platform backup` on a whole platform: stopped in order, captured, up again, one recovery point.

mod kill;
mod light;
mod rest;
mod servers;

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::Value;

use crate::lab::{Lab, PLATFORM};

const PASSWORD: &str = "/root/password";
const REPOSITORY: &str = "/srv/backup";

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

#[test]
fn a_full_backup_is_one_point_in_time_and_everything_is_up_again() {
    let Some(platform) = Platform::boot() else { return };
    let (lab, before) = (&platform.lab, platform.active());
    let page = "/root/report.html";
    let first = record(&platform.cairn(&["platform", "backup", "--report", page]));
    assert_eq!(platform.active(), before);
    assert_eq!((&first["status"], &first["consistency"]), (&"complete".into(), &"one-point-in-time".into()));
    assert!(std::fs::read_to_string(lab.path(page)).unwrap().contains("neo4j"));

    let names = [
        ("config", "tree"),
        ("postgres", "dump"),
        ("elasticsearch", "repository"),
        ("neo4j", "store"),
        ("redis", "queues"),
    ];
    for (name, role) in names {
        let component = component(&first, name);
        assert_eq!(
            (&component["status"], &component["parts"][0]["role"]),
            (&"complete".into(), &role.into()),
            "{component:#}"
        );
        assert_eq!(component["warnings"], Value::Array(Vec::new()), "{name}");
    }
    // The three databases hold the same entities, and the set says so.
    let tables = component(&first, "postgres")["facts"]["databases"].as_array().unwrap();
    let rows = tables.iter().flat_map(|database| database["tables"].as_array().unwrap());
    let entities = rows.clone().find(|table| table["name"] == "entity").unwrap();
    assert_eq!(entities["rows"], platform.entities);
    assert!(entities["checksum"].is_string());
    let documents = component(&first, "elasticsearch")["facts"]["documents"].as_object().unwrap();
    assert_eq!(documents.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), platform.entities);
    assert_eq!(component(&first, "neo4j")["facts"]["nodes"], platform.entities);
    let keys = &component(&first, "config")["facts"]["keys"];
    assert!(keys.to_string().contains("/etc/eclecticiq-nginx/ssl/platform.key"), "{keys}");
    let steps = first["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["state"] == "done" || step["state"] == "undone"), "{steps:#?}");

    // Nothing is left behind, and what was stored can be read.
    assert!(!lab.path("/var/lib/cairn/journal").exists());
    let registered = lab.ok(&["curl", "-s", "http://localhost:9200/_snapshot/backup"]);
    assert!(!registered.contains("readonly\":\"true"), "{registered}");
    assert!(platform.cairn(&["check", "--read-data"]).status.success());
    let listed = summary(&platform.cairn(&["platform", "sets"]));
    assert_eq!(listed["sets"], 1);

    // A second one stores little: one in twenty of the entities is new.
    lab.ok(&["/opt/lab/load", "1", "2"]);
    let second = record(&platform.cairn(&["platform", "backup"]));
    assert_eq!(second["status"], "complete");
    let (all, growth) = (stored(&first), stored(&second));
    assert!(growth * 4 < all, "{all} bytes were stored first, and {growth} for the second");
    println!("stored: {all} bytes, then {growth}");
}
