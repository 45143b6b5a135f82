//! What a monitoring system reads.

use cairn::format::ObjectId;
use cairn::format::set::Status;
use cairn::orchestrate::platform::metrics::{RunFigures, text, write, write_failure};

use crate::sets::set_of;

#[test]
fn the_time_of_the_last_success_outlives_a_run_that_fails() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cairn.prom");
    let mut complete = set_of("2026-03-01T02:00:00Z", Status::Complete, &[ObjectId::from_bytes([1; 32])]);
    complete.ended = "2026-03-01T02:01:40Z".parse().unwrap();
    let ended = "2026-03-02T02:10:00Z".parse().unwrap();
    let good =
        RunFigures { set: Some(&complete), last_complete: Some(&complete), profile: "p\"x", exit_code: 0, ended };
    write(&path, &good).unwrap();
    let told = std::fs::read_to_string(&path).unwrap();
    assert_eq!(told, text(&good));
    for line in [
        "cairn_platform_last_run_exit_code{profile=\"p\\\"x\"} 0",
        "cairn_platform_last_complete_set_timestamp_seconds{profile=\"p\\\"x\"} 1772330400",
        "cairn_platform_last_success_timestamp_seconds{profile=\"p\\\"x\"} 1772330500",
        "cairn_platform_last_set_seconds{profile=\"p\\\"x\"} 100",
        "cairn_platform_component_bytes{profile=\"p\\\"x\",component=\"config\"} 1",
        "cairn_platform_component_complete{profile=\"p\\\"x\",component=\"config\"} 1",
    ] {
        assert!(told.lines().any(|other| other == line), "{line} is not in\n{told}");
    }
    write(&path, &RunFigures { set: None, exit_code: 1, ..good }).unwrap();
    let told = std::fs::read_to_string(&path).unwrap();
    assert!(told.contains("exit_code{profile=\"p\\\"x\"} 1") && told.contains("1772330400"), "{told}");
    assert!(told.contains("last_success_timestamp_seconds{profile=\"p\\\"x\"} 1772330500"), "{told}");
    assert!(!told.contains("component_bytes"), "a run without a set has no sizes");
    let heads = |word: &str| told.lines().filter(|line| line.starts_with(word)).count();
    assert_eq!(heads("# HELP"), heads("# TYPE"));
    assert!(std::fs::read_dir(directory.path()).unwrap().count() == 1, "a temporary file was left");
}

#[test]
fn a_run_that_could_not_begin_is_told_and_leaves_the_last_success() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cairn.prom");
    let ended = "2026-03-02T02:10:00Z".parse().unwrap();
    let complete = set_of("2026-03-01T02:00:00Z", Status::Complete, &[ObjectId::from_bytes([1; 32])]);
    let good = RunFigures { set: Some(&complete), last_complete: Some(&complete), profile: "p", exit_code: 0, ended };
    write(&path, &good).unwrap();
    for _ in 0..2 {
        write_failure(&path, "p", 12, ended).unwrap();
        let told = std::fs::read_to_string(&path).unwrap();
        assert!(told.contains("last_run_exit_code{profile=\"p\"} 12"), "{told}");
        for name in ["cairn_platform_last_success_timestamp_seconds", "cairn_platform_last_run_exit_code"] {
            let count = |line: &str| told.lines().filter(|other| other.starts_with(line)).count();
            let lines =
                [count(&format!("# HELP {name} ")), count(&format!("# TYPE {name} ")), count(&format!("{name}{{"))];
            assert_eq!(lines, [1, 1, 1], "{told}");
        }
        assert!(!told.contains("component_bytes"), "{told}");
    }
}
