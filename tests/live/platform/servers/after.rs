//! What is left to do after a restore, with the stand-in for the platform's own program, which does the same work.

use std::os::unix::process::CommandExt;
use std::process::{Output, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::platform::{Platform, summary};
use crate::servers::PATIENCE;

const CENTOS: &str = "eclecticiq-centos";
const FAILS: &str = "/opt/lab/reindex-fails";
const DELAY: &str = "/opt/lab/reindex-delay";
const SAYS: &str = "/opt/lab/upgrade-says";
const STATUS: &str = "/opt/lab/upgrade-status";
/// The indices that have entities.
const FILLED: [&str; 5] = ["audit", "documents", "draft-entities", "extracts", "stix"];
/// Those that the stand-in makes besides.
const EMPTY: [&str; 2] = ["logstash", "statsite"];

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

#[track_caller]
fn ends(platform: &Platform, arguments: &[&str], code: i32) -> Output {
    let output = platform.cairn(&[&["platform"], arguments].concat());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
    output
}

/// The same, as people see it.
#[track_caller]
fn shows(platform: &Platform, arguments: &[&str], code: i32) -> String {
    let output = platform.lab.run(&[&["cairn", "platform"], arguments].concat());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn documents(platform: &Platform, index: &str) -> u64 {
    platform.elasticsearch(&format!("{index}/_count"))["count"].as_u64().unwrap_or_default()
}

fn rows(platform: &Platform, index: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM entity WHERE index_name = '{index}'");
    platform.sql("platform", &sql).parse().unwrap()
}

fn delete_indices(platform: &Platform, indices: &[&str]) {
    for index in indices {
        platform.lab.ok(&["curl", "-sf", "-X", "DELETE", &format!("http://localhost:9200/{index}")]);
    }
}

/// How often the platform's program was called for this.
fn calls(platform: &Platform, what: &str) -> usize {
    let log = std::fs::read_to_string(platform.lab.path("/var/log/eiq-platform.log")).unwrap_or_default();
    log.lines().filter(|line| line.contains(&format!("search {what}"))).count()
}

/// The indices that a run told, with what became of them.
fn told(output: &Output) -> Vec<(String, String)> {
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let objects = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    objects.filter(|one| one["type"] == "index").map(|one| (text(&one["index"]), text(&one["state"]))).collect()
}

pub fn indices_are_filled_from_postgresql_while_the_platform_is_stopped(platform: &Platform) {
    let refused = text(&ends(platform, &["reindex"], 1));
    for words in ["the platform runs", "eclecticiq-platform-backend-services", "cairn platform stop"] {
        assert!(refused.contains(words), "{words:?} is not in {refused}");
    }
    assert_eq!(calls(platform, "reindex"), 0, "nothing was begun");

    ends(platform, &["stop"], 0);
    delete_indices(platform, &["stix", "documents"]);
    platform.write(FAILS, "documents");
    let output = ends(platform, &["reindex"], 1);
    let states = told(&output);
    let all = ["audit", "documents", "draft-entities*", "extracts*", "logstash*", "statsite*", "stix*"];
    assert_eq!(states.iter().map(|(index, _)| index.as_str()).collect::<Vec<_>>(), all);
    for (index, state) in &states {
        assert_eq!(state, if index == "documents" { "failed" } else { "done" }, "{index}");
    }
    let said = text(&output);
    for words in ["exit status 1", "the connection was lost while documents was copied"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert_eq!(documents(platform, "stix"), rows(platform, "stix"));
    assert_eq!(documents(platform, "documents"), 0);

    std::fs::remove_file(platform.lab.path(FAILS)).unwrap();
    assert_eq!(told(&ends(platform, &["reindex", "--only", "documents"], 0)), [("documents".into(), "done".into())]);
    // Once more changes nothing.
    ends(platform, &["reindex"], 0);
    for index in FILLED {
        assert_eq!(documents(platform, index), rows(platform, index), "{index}");
    }
    assert_eq!(FILLED.map(|index| documents(platform, index)).iter().sum::<u64>(), platform.entities);
    ends(platform, &["start"], 0);
    delete_indices(platform, &EMPTY);
}

pub fn a_migration_survives_the_death_of_its_starter(platform: &Platform) {
    assert_eq!(calls(platform, "upgrade"), 0);
    platform.write(DELAY, "15");
    let line = "cairn platform migrate > /root/begun.new 2>&1; mv /root/begun.new /root/begun; sleep 1000";
    let mut session = platform.lab.command(&["sh", "-c", line]);
    let mut session = session.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    let begun = loop {
        match std::fs::read_to_string(platform.lab.path("/root/begun")) {
            Ok(text) if !text.is_empty() => break text,
            _ => assert!(started.elapsed() < PATIENCE, "it does not begin"),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert!(begun.contains("the migration has begun"), "{begun}");
    let group = Pid::from_child(&session);
    kill_process_group(group, Signal::HUP).unwrap();
    let _ = kill_process_group(group, Signal::KILL);
    session.wait().unwrap();

    assert!(platform.lab.is_active("cairn-migrate"));
    assert_eq!(summary(&ends(platform, &["migrate", "--status"], 0))["state"], "running");
    assert!(shows(platform, &["migrate"], 0).contains("a migration runs already"));
    // What would stop the platform, and end its program as a leftover, is not begun.
    assert!(shows(platform, &["stop"], 11).contains("another run is at work here"));
    assert!(shows(platform, &["migrate", "--watch"], 0).contains("without a message: all is well"));
    assert_eq!(calls(platform, "upgrade"), 1);
    for index in FILLED.iter().chain(&EMPTY) {
        let mapping = platform.elasticsearch(&format!("{index}/_mapping"));
        assert_eq!(mapping[index]["mappings"]["_meta"]["schema"], 7, "{index}");
        let expected = if EMPTY.contains(index) { 0 } else { rows(platform, index) };
        assert_eq!(documents(platform, index), expected, "{index}");
    }

    platform.write(DELAY, "0");
    platform.write(SAYS, "stix: 3 documents were left out\n");
    shows(platform, &["migrate"], 0);
    let watched = shows(platform, &["migrate", "--watch"], 3);
    assert!(watched.starts_with("stix: 3 documents were left out\n"), "{watched}");
    let status = summary(&ends(platform, &["migrate", "--status"], 3));
    assert_eq!(status["last_lines"], json!(["stix: 3 documents were left out"]));

    platform.write(STATUS, "4");
    platform.lab.run(&["cairn", "platform", "migrate"]);
    assert!(shows(platform, &["migrate", "--watch"], 1).contains("exit status 4"));
    // One that failed is in nobody's way.
    for path in [SAYS, STATUS, DELAY] {
        std::fs::remove_file(platform.lab.path(path)).unwrap();
    }
    platform.lab.run(&["cairn", "platform", "migrate"]);
    shows(platform, &["migrate", "--watch"], 0);
    delete_indices(platform, &EMPTY);
}

pub fn packages_that_were_not_ingested_are_listed(platform: &Platform) {
    let count =
        || platform.sql("platform", "SELECT count(*), count(*) FILTER (WHERE processing_status = 'failed') FROM blob");
    let before = count();
    let failed: usize = before.split_once('|').unwrap().1.parse().unwrap();
    assert!(failed > 0, "{before}");
    let output = ends(platform, &["failed-packages", "--profile", CENTOS], 3);
    assert_eq!(summary(&output)["packages"], failed);
    let hostile = r#"E'bad, "quoted"\nand \x1b[2Jcleared'"#;
    platform.sql("platform", &format!("INSERT INTO blob (id, processing_status) VALUES (-1, {hostile}), (-2, '')"));

    let shown = shows(platform, &["failed-packages"], 3);
    assert!(shown.contains("-1   bad, \"quoted\" and %1B[2Jcleared") && !shown.contains('\u{1b}'), "{shown}");
    assert!(shown.contains("ID") && shown.contains("PROCESSING_STATUS"), "{shown}");
    let output = ends(platform, &["failed-packages"], 3);
    let objects = String::from_utf8_lossy(&output.stdout).into_owned();
    let row =
        objects.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|one| one["row"]["id"] == "-1");
    assert_eq!(row.unwrap()["row"]["processing_status"], "bad, \"quoted\"\nand \u{1b}[2Jcleared");

    let reader = "import csv, json, subprocess\n\
                  ran = subprocess.run(['cairn', '-q', 'platform', 'failed-packages', '--csv'], capture_output=True, text=True)\n\
                  print(json.dumps([ran.returncode] + list(csv.reader(ran.stdout.splitlines(keepends=True)))))";
    let read: Vec<Value> = serde_json::from_str(&platform.lab.ok(&["python3", "-c", reader])).unwrap();
    assert_eq!((&read[0], &read[1]), (&json!(3), &json!(["id", "processing_status"])));
    assert!(read.contains(&json!(["-1", "bad, \"quoted\"\nand \u{1b}[2Jcleared"])), "{read:?}");
    assert!(read.contains(&json!(["-2", ""])), "{read:?}");
    assert_eq!(read.len(), failed + 4);
    platform.sql("platform", "DELETE FROM blob WHERE id < 0");

    let asking =
        |name: &str, sql: &str| platform.profile(name, &format!("[after-restore]\nfailed-packages = \"{sql}\"\n"));
    let none = asking("none-failed", "SELECT id, processing_status FROM blob WHERE id < 0");
    assert!(shows(platform, &["failed-packages", "--profile", &none], 0).contains("every package was ingested"));
    assert_eq!(
        shows(platform, &["failed-packages", "--profile", &none, "--csv"], 0).lines().next(),
        Some("id,processing_status")
    );
    // Whatever the question is, it changes nothing.
    for (name, sql, words) in [
        ("deletes", "DELETE FROM blob RETURNING id", "read-only transaction"),
        ("ends-it", "SELECT 1; COMMIT; DELETE FROM blob", "multiple commands"),
    ] {
        let profile = asking(name, sql);
        let refused = shows(platform, &["failed-packages", "--profile", &profile], 1);
        assert!(refused.contains(words), "{refused}");
    }
    assert_eq!(count(), before);
}
