//! `cairn platform plan` and `profile`, without a repository.

use std::path::Path;
use std::process::{Command, Output};

use super::{assert_fails, summary, text};

fn run(args: &[&str], root: &Path) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
    command.env_clear().current_dir(root).args(["platform"]).args(args).output().unwrap()
}

/// The words of a profile: every text and number in it.
fn leaves(value: &toml::Value, all: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => table.values().for_each(|value| leaves(value, all)),
        toml::Value::Array(array) => array.iter().for_each(|value| leaves(value, all)),
        toml::Value::String(text) => all.push(text.clone()),
        value => all.push(value.to_string()),
    }
}

#[test]
fn the_plan_shows_everything_that_the_profile_says() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("etc")).unwrap();
    std::fs::write(root.path().join("etc/environment"), "").unwrap();
    let output = run(&["plan", "--profile", "eclecticiq-centos", "--root", "."], root.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    let profile = run(&["profile"], root.path());
    assert!(profile.status.success());
    let profile: toml::Value = toml::from_str(&text(&profile.stdout)).unwrap();
    let mut words = Vec::new();
    leaves(&profile, &mut words);
    assert!(words.len() > 150, "{}", words.len());
    for word in words {
        assert!(shown.contains(&word), "{word} is not in the plan:\n{shown}");
    }
    for line in ["present     /etc/environment", "absent      /etc/default/logstash", "queue queue:graph:inbound"] {
        assert!(shown.contains(line), "{line:?} is not in:\n{shown}");
    }
    assert!(shown.contains("--index=draft-entities*"), "{shown}");
    assert!(text(&output.stderr).contains("of the paths 1 are there"), "{}", text(&output.stderr));
}

#[test]
fn a_plan_is_an_object_for_programs() {
    let root = tempfile::tempdir().unwrap();
    let output = run(&["plan", "--online", "--only", "config,postgres", "--root", ".", "--json"], root.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = text(&output.stdout);
    let plan: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(plan["type"], "plan");
    assert_eq!(plan["components"], serde_json::json!(["config", "postgres"]));
    assert_eq!(plan["steps"][0]["id"], "preflight");
    assert_eq!(summary(&output)["present"], 0);
    assert_eq!(lines.lines().count(), 2);
}

#[test]
fn a_profile_that_cannot_be_used_is_a_mistake_of_usage() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("lab.toml"), "extends = 'eclecticiq-centos'\n[services]\nfrist = []\n").unwrap();
    let fails = |args: &[&str], words: &[&str]| assert_fails(run(args, root.path()), 2, words);
    fails(&["plan", "--profile", "lab.toml"], &["lab.toml:3:1: `services.frist`", "did you mean `first`?"]);
    fails(&["profile", "nowhere"], &["no built-in profile and no file", "eclecticiq-centos"]);
    fails(&["plan", "--only", "confg"], &["confg"]);
    fails(&["plan", "--root", "nowhere"], &["--root nowhere: no such directory"]);
    fails(&["plan", "--skip", "config,postgres,elasticsearch,neo4j,redis"], &["no component is left"]);
    std::fs::write(root.path().join("lab.toml"), vec![b'#'; 3 << 20]).unwrap();
    fails(&["profile", "lab.toml"], &["lab.toml: it is longer than 1048576 bytes"]);
}
