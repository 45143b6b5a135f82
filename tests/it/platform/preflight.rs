//! The preflight where no server is: nothing passes that was not looked at, and one failure hides nothing else.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use cairn::orchestrate::OrchestrateError;
use cairn::orchestrate::platform::plan::Mode;
use cairn::orchestrate::platform::preflight::{Check, Look, Outcome, Preflight, ids, is_check, preflight, repository};
use cairn::orchestrate::platform::profile::{Component, Profile, parse};
use cairn::progress::{Monitor, Silent};

/// A platform that is nowhere; its servers' addresses end with this port.
fn profile(directory: &Path, port: u16) -> Profile {
    let user = uzers::get_effective_username().unwrap().into_string().unwrap();
    let text = format!(
        r#"
extends = "eclecticiq-centos"
[systemd]
systemctl = "false"
[processes]
who = ["false"]
[postgres]
socket-directory = "{directory}"
user = "{user}"
connect-timeout-seconds = 1
[elasticsearch]
url = "http://127.0.0.1:{port}"
location = "{directory}/snapshots"
request-timeout-seconds = 1
[neo4j]
configuration-file = "{directory}/neo4j.conf"
address = "127.0.0.1:{port}"
connect-timeout-seconds = 1
query-timeout-seconds = 1
[redis]
address = "127.0.0.1:{port}"
answer-timeout-seconds = 1
"#,
        directory = directory.display()
    );
    parse("test", text.as_bytes()).unwrap()
}

/// A port at which nobody listens.
fn closed() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn look(profile: &Profile, components: &[Component], mode: Mode) -> Preflight {
    preflight(&Look { profile, components, mode, monitor: &Silent }).unwrap()
}

fn names(found: &Preflight) -> Vec<&str> {
    found.checks.iter().map(|check| check.id.as_str()).collect()
}

/// What says something without a server.
const LOCAL: [&str; 2] = ["users", "rights"];

#[test]
fn checks_keep_their_names() {
    let all: Vec<&str> = ids().collect();
    // Operators have these words in their timers: one may be added, none changed.
    let known = [
        "services",
        "users",
        "logins",
        "queues",
        "celery",
        "redis-clients",
        "postgres-sessions",
        "elasticsearch-activity",
        "neo4j-activity",
        "rights",
        "servers",
        "postgres-programs",
        "elasticsearch-health",
        "elasticsearch-path-repo",
        "elasticsearch-directory",
        "elasticsearch-repository",
        "elasticsearch-space",
        "neo4j-store",
        "repository",
    ];
    assert_eq!(all, known);
    assert_eq!(BTreeSet::from(known).len(), known.len());
    assert!(is_check("users") && !is_check("user") && !is_check(""));
}

#[test]
fn without_servers_nothing_that_needs_one_passes_and_everything_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let found = look(&profile(directory.path(), closed()), &Component::ALL, Mode::Full);
    let expected: Vec<&str> = ids().filter(|id| *id != "repository").collect();
    assert_eq!(names(&found), expected, "each is there once, in order");
    for check in found.checks.iter().filter(|check| !LOCAL.contains(&check.id.as_str())) {
        // Whether the directory is there can be seen without a server.
        let expected = if check.id == "elasticsearch-directory" { Outcome::Fail } else { Outcome::Unknown };
        assert_eq!(check.outcome, expected, "{check:?}");
        assert!(!check.seen.is_empty() && !check.advice.is_empty() && !check.title.is_empty(), "{check:?}");
        assert!(!check.seen.contains('\n'), "{check:?}");
    }
    assert!(!found.passed());
}

#[test]
fn a_server_that_accepts_and_stays_silent_hides_nothing_of_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    let found = look(&profile(directory.path(), silent.local_addr().unwrap().port()), &Component::ALL, Mode::Full);
    let seen = |id: &str| found.checks.iter().find(|check| check.id == id).unwrap();
    for id in ["queues", "celery", "redis-clients", "elasticsearch-health", "neo4j-activity"] {
        assert_eq!(seen(id).outcome, Outcome::Unknown, "{:?}", seen(id));
    }
    assert!(seen("postgres-sessions").seen.contains("PostgreSQL at"), "{:?}", seen("postgres-sessions"));
    assert_eq!(seen("users").outcome, Outcome::Pass);
    // The sum of all limits is far below this, and without limits it would never end.
    assert!(begun.elapsed() < Duration::from_secs(120));
}

#[test]
fn only_what_is_asked_for_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let profile = profile(directory.path(), closed());
    assert_eq!(
        names(&look(&profile, &[Component::Config, Component::Postgres], Mode::Full)),
        [
            "services",
            "users",
            "logins",
            "queues",
            "celery",
            "redis-clients",
            "postgres-sessions",
            "rights",
            "postgres-programs"
        ]
    );
    assert_eq!(names(&look(&profile, &[Component::Postgres], Mode::Online)), ["postgres-programs"]);
    assert_eq!(names(&look(&profile, &[Component::Neo4j], Mode::Online)), ["servers", "neo4j-store"]);
    assert!(names(&look(&profile, &[Component::Config], Mode::Online)).is_empty());
}

#[test]
fn failures_and_what_is_unknown_refuse_a_backup_unless_they_are_allowed_by_name() {
    let check = |id: &str, outcome| Check {
        id: id.to_owned(),
        title: String::new(),
        outcome,
        seen: String::new(),
        advice: String::new(),
    };
    let found = Preflight {
        checks: vec![
            check("services", Outcome::Pass),
            check("users", Outcome::Fail),
            check("queues", Outcome::Unknown),
            repository(Ok("it opens".to_owned())),
        ],
    };
    let refusals = |allow: &[&str]| -> Vec<String> {
        let allow: Vec<String> = allow.iter().map(|id| (*id).to_owned()).collect();
        found.refusals(&allow).into_iter().map(|check| check.id.clone()).collect()
    };
    assert_eq!(refusals(&[]), ["users", "queues"]);
    assert_eq!(refusals(&["users", "services"]), ["queues"]);
    assert_eq!(refusals(&["users", "queues"]), [""; 0]);
    assert!(!found.passed(), "what is allowed has not passed");
    assert_eq!(repository(Err("wrong password".to_owned())).outcome, Outcome::Fail);
    assert!(Preflight { checks: vec![check("services", Outcome::Pass)] }.passed());
}

/// Has asked for a stop.
struct Stopped;

impl Monitor for Stopped {
    fn interrupted(&self) -> bool {
        true
    }
}

#[test]
fn a_stop_ends_the_preflight_and_is_no_result() {
    let directory = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let profile = profile(directory.path(), silent.local_addr().unwrap().port());
    let look = Look { profile: &profile, components: &Component::ALL, mode: Mode::Full, monitor: &Stopped };
    assert!(matches!(preflight(&look), Err(OrchestrateError::Interrupted)));
}
