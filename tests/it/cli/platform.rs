//! `cairn platform plan` and `profile`, without a repository.

use std::path::Path;
use std::process::{Command, Output};

use super::{assert_fails, summary, text};
use crate::support::pty::Terminal;

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

#[test]
fn a_preflight_tells_every_check_and_fails_unless_all_pass() {
    let root = tempfile::tempdir().unwrap();
    let profile = "extends = 'eclecticiq-centos'\n[elasticsearch]\nurl = 'http://127.0.0.1:1'\n";
    std::fs::write(root.path().join("lab.toml"), profile).unwrap();
    let args = ["preflight", "--profile", "lab.toml", "--online", "--only", "elasticsearch", "--json"];
    let output = run(&args, root.path());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let checks: Vec<&serde_json::Value> = lines.iter().filter(|line| line["type"] == "check").collect();
    let ids: Vec<&str> = checks.iter().map(|check| check["id"].as_str().unwrap()).collect();
    let all = ["health", "path-repo", "directory", "repository", "space"].map(|id| format!("elasticsearch-{id}"));
    assert_eq!(ids[..5], all);
    assert_eq!(ids[5..], ["repository"]);
    assert_eq!((&checks[0]["outcome"], &checks[0]["allowed"]), (&"unknown".into(), &false.into()));
    assert_eq!(checks[5]["outcome"], "fail", "no repository is given");
    let summary = &lines[lines.len() - 2];
    assert_eq!((&summary["type"], &summary["refused_by"].as_array().unwrap().len()), (&"summary".into(), &6));

    let mut allowed: Vec<&str> = args[..6].to_vec();
    for id in &all {
        allowed.extend(["--allow", id.as_str()]);
    }
    let output = run(&allowed, root.path());
    assert_fails(output, 1, &["a backup would not begin now: see repository;"]);
    allowed.extend(["--allow", "repository"]);
    let output = run(&allowed, root.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("allowed  elasticsearch-health      unknown: "), "{}", text(&output.stdout));
    assert_fails(run(&["preflight", "--allow", "user"], root.path()), 2, &["no such check", "users"]);
}

#[test]
fn a_preflight_opens_the_repository_with_its_password() {
    let root = tempfile::tempdir().unwrap();
    let cairn = |password: &str, args: &[&str]| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
        command.env_clear().current_dir(root.path()).env("CAIRN_PASSWORD", password).env("CAIRN_REPO", "repository");
        command.args(args).output().unwrap()
    };
    assert!(cairn("right", &["init"]).status.success());
    let args = ["platform", "preflight", "--online", "--only", "config"];
    let output = cairn("right", &args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("pass     repository                repository opens; "), "{output:?}");
    let output = cairn("wrong", &args);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("fail     repository"), "{output:?}");
    assert!(text(&output.stdout).contains("wrong password"), "{output:?}");
}

#[test]
fn whoever_runs_the_preflight_is_not_in_his_own_way() {
    let root = tempfile::tempdir().unwrap();
    let terminal = Terminal::open();
    let looked = |terminals: &str| {
        let who = format!("for t in {terminals}; do echo \"me $t 2026-01-01\"; done");
        let profile = format!("extends = 'none'\nname = 'x'\n[processes]\nwho = ['sh', '-c', '{who}']\n");
        std::fs::write(root.path().join("lab.toml"), profile).unwrap();
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
        command.args(["platform", "preflight", "--profile"]).arg(root.path().join("lab.toml"));
        command.args(["--only", "config", "--json", "--key-file", "/nowhere"]);
        let mut inside = terminal.controlling(&command);
        let output =
            inside.env("PATH", std::env::var_os("PATH").unwrap()).stdout(std::process::Stdio::piped()).output();
        let line = text(&output.unwrap().stdout);
        let line = line.lines().find(|line| line.contains("\"logins\"")).unwrap().to_owned();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()
    };
    let own = "$(ps -o tty= -p $$)";
    let check = looked(own);
    assert_eq!(check["outcome"], "pass", "{check}");
    assert!(check["seen"].as_str().unwrap().starts_with("nobody but you is logged in: me on pts/"), "{check}");
    let check = looked(&format!("{own} pts/9999"));
    assert_eq!((&check["outcome"], check["seen"].as_str().unwrap()), (&"fail".into(), "me on pts/9999 2026-01-01"));
}
