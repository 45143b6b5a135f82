//! The packaged unit on a whole platform: its sandbox must not forbid what any component needs.

use serde_json::Value;

use super::super::component;
use crate::lab::units::install;
use crate::platform::Platform;

pub fn the_packaged_unit_captures_all_components(platform: &Platform) {
    let lab = &platform.lab;
    install(lab);
    // Nobody waits for three o'clock here.
    lab.ok(&["systemctl", "disable", "-q", "--now", "cairn-backup.timer"]);
    let settings = "CAIRN_REPO=/srv/nightly\nCAIRN_BACKUP_OPTIONS=--allow celery --allow queues\n";
    platform.write("/etc/cairn/backup.env", settings);
    let cairn = ["cairn", "-r", "/srv/nightly", "--password-file", "/etc/cairn/repository-password"];
    lab.ok(&[&cairn, ["init"].as_slice()].concat());
    let started = lab.run(&["systemctl", "start", "cairn-backup"]);
    let journal = lab.ok(&["journalctl", "--no-pager", "-u", "cairn-backup", "-o", "cat"]);
    assert!(started.status.success(), "{journal}");
    let report = lab.ok(&[&cairn, ["platform", "sets", "--report", "latest", "--format", "json"].as_slice()].concat());
    let report: Value = serde_json::from_str(&report).unwrap_or_else(|error| panic!("{error}: {report}"));
    let set = &report["set"];
    assert_eq!((&set["status"], &set["consistency"]), (&"complete".into(), &"one-point-in-time".into()), "{journal}");
    for name in ["config", "postgres", "elasticsearch", "neo4j", "redis"] {
        let component = component(set, name);
        assert_eq!((&component["status"], &component["warnings"]), (&"complete".into(), &Value::Array(Vec::new())));
    }
    // As it was: what comes next has a profile and a repository of its own.
    lab.ok(&["sh", "-ec", "systemctl disable -q cairn-resume; rm -r /srv/nightly /etc/cairn"]);
}
