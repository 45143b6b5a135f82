//! A platform whose PostgreSQL archives its log, wiped, and brought back as a whole by a time after its last set: PostgreSQL is
//! as it was at that very moment, the others are as the set has them, and the plan says how far that is from the time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use super::Ended;
use super::back::{DATA, state};
use crate::platform::{COMPONENTS, PASSWORD, Platform, REPOSITORY};
use crate::servers::PATIENCE;

const KEY: &str = "/var/lib/postgresql/log.key";
const UNIT: &str = "postgresql-11";
const SETTINGS: &str = "/etc/eclecticiq-postgres/eclecticiq-postgres.conf";
const CERTIFICATES: &str = "/etc/eclecticiq-nginx/ssl";
/// Nobody takes anything out of it.
const QUEUE: &str = "queue:nobodys";

/// Has PostgreSQL archive its log into the repository, as docs/wal.md says; what its file of settings said before.
fn archives(platform: &Platform) -> String {
    platform.lab.ok(&Platform::argv(&["key", "add", "--new-key-file", KEY, "--label", "log"]));
    platform.in_shell(&format!(
        "chown postgres: {KEY}; cd {REPOSITORY}; mkdir -p wal tmp; chown -R postgres: wal tmp; chmod 755 . keys; chmod 644 config keys/*"
    ));
    let before = std::fs::read_to_string(platform.lab.path(SETTINGS)).unwrap();
    let command = format!("cairn --repo {REPOSITORY} --key-file {KEY} wal push %p");
    let ours = format!("archive_mode = on\narchive_command = '{command}'\ntrack_commit_timestamp = on\n");
    platform.write(SETTINGS, &format!("{before}{ours}"));
    platform.lab.ok(&["systemctl", "restart", UNIT]);
    before
}

/// Ends a segment of the log, and waits until it is archived; its name.
fn archived(platform: &Platform) -> String {
    let name = platform.sql("postgres", "SELECT pg_walfile_name(pg_switch_wal())");
    let (began, count) = (Instant::now(), "SELECT count(*) FROM pg_stat_archiver WHERE last_archived_wal >= ");
    while platform.sql("postgres", &format!("{count}'{name}'")) != "1" {
        assert!(began.elapsed() < PATIENCE, "{name} is not archived");
        std::thread::sleep(Duration::from_millis(50));
    }
    name
}

/// When each row was committed.
fn moments(platform: &Platform) -> Vec<Timestamp> {
    let sql = "SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::int8 FROM moment ORDER BY n";
    let answer = platform.sql("platform", sql);
    answer.lines().map(|line| Timestamp::from_microsecond(line.parse().unwrap()).unwrap()).collect()
}

/// What is said of PostgreSQL, and of the others.
fn parted(contents: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    contents.lines().partition(|line| line.starts_with("table ") || line.starts_with("role "))
}

fn write(platform: &Platform, rows: std::ops::Range<u32>) {
    for row in rows {
        platform.sql("platform", &format!("INSERT INTO moment VALUES ({row})"));
    }
}

pub fn the_whole_platform_comes_back_by_a_time_and_postgresql_at_that_very_moment(platform: &Platform) {
    let before = archives(platform);
    let profile = platform.profile(
        "timed",
        &format!(
            "[postgres]\nmethod = \"base\"\n[postgres.archive]\nenabled = true\nkey-file = \"{KEY}\"\n\
             [redis]\ningestion-queues = [\"{QUEUE}\"]\n"
        ),
    );
    platform.redis(&["RPUSH", QUEUE, "first", "second"]);
    platform.sql("platform", "CREATE TABLE moment (n int)");
    let set = platform.backup(&profile, &["--purge-queues", "--drain-timeout", "0"]).must(0);
    set.complete(&COMPONENTS.map(|(name, _)| name));
    let captured = platform.contents(&[]);

    // After the set: in PostgreSQL some rows before the time and some after, elsewhere things that are not to come back.
    write(platform, 0..3);
    let then = platform.contents(&[]);
    write(platform, 3..5);
    let time = moments(platform)[2];
    platform.lab.ok(&["/opt/lab/load", "1", "4"]);
    let segment = archived(platform);
    assert_ne!(parted(&captured).0, parted(&then).0);

    let text = time.to_string();
    let options = ["--at", &text, "--allow", "unverified", "--requeue", "--discard-old"];
    let certificate = std::fs::read(platform.lab.path(&format!("{CERTIFICATES}/platform.key"))).unwrap();
    lose(platform);
    says_how_far_the_others_are(platform, &profile, &options, (&set, time));

    let restored = platform.restore(&profile, &[&options[..], &["--yes"]].concat()).must(0);
    for (component, _) in COMPONENTS {
        assert_eq!(state(&restored, component)["state"], "restored", "{}", restored.text);
    }
    let now = platform.contents(&[]);
    assert_eq!(parted(&now), (parted(&then).0, parted(&captured).1), "{time}");
    assert_eq!(platform.sql("platform", "SELECT array_agg(n ORDER BY n) FROM moment"), "{0,1,2}");
    assert_eq!(platform.redis(&["LRANGE", QUEUE, "0", "-1"]), "first\nsecond");
    assert_eq!(std::fs::read(platform.lab.path(&format!("{CERTIFICATES}/platform.key"))).unwrap(), certificate);
    // It archives, on a timeline of its own.
    write(platform, 9..10);
    let next = archived(platform);
    assert_ne!(next[..8], segment[..8], "{next} after {segment}");

    platform.redis(&["DEL", QUEUE]);
    platform.sql("platform", "DROP TABLE moment");
    platform.write(SETTINGS, &before);
    platform.lab.ok(&["systemctl", "restart", UNIT]);
}

/// All databases and a part of the configuration, but for what a restore of Neo4j needs to know where its store is.
fn lose(platform: &Platform) {
    let indices = platform.elasticsearch("_cat/indices?format=json&expand_wildcards=open");
    for index in indices.as_array().unwrap() {
        platform.ask_elasticsearch("DELETE", index["index"].as_str().unwrap(), "");
    }
    platform.redis(&["FLUSHALL"]);
    platform
        .in_shell(&format!("systemctl stop {UNIT} neo4j; rm -rf {DATA} /media/neo4j/data {CERTIFICATES} {SETTINGS}"));
}

/// The plan, for people and for programs.
fn says_how_far_the_others_are(platform: &Platform, profile: &str, options: &[&str], (set, time): (&Ended, Timestamp)) {
    let dry = [options, &["--dry-run"]].concat();
    let shown = platform.restore(profile, &dry).must(0);
    let plan: Value = shown.text.lines().filter_map(|line| serde_json::from_str(line).ok()).next().unwrap();
    let stands_for: Timestamp = set.set()["time"].as_str().unwrap().parse().unwrap();
    let seconds = time.as_second() - stands_for.as_second();
    let apart: BTreeSet<&str> =
        plan["apart"].as_array().unwrap().iter().map(|one| one["component"].as_str().unwrap()).collect();
    assert_eq!(apart, BTreeSet::from(["config", "elasticsearch", "neo4j", "redis"]), "{plan:#}");
    for one in plan["apart"].as_array().unwrap() {
        assert_eq!(one["seconds"], seconds, "{plan:#}");
    }
    assert!(seconds > 0 && plan["aim"]["time"] == time.to_string(), "{plan:#}");
    let argv =
        ["cairn", "--repo", REPOSITORY, "--password-file", PASSWORD, "platform", "restore", "--profile", profile];
    let shown = Ended::new(&platform.lab.run(&[&argv[..], &dry].concat())).must(0);
    for component in ["config", "elasticsearch", "neo4j", "redis"] {
        let (begin, end) =
            (format!("{component} of this set is of "), format!(": {seconds} s before the time of PostgreSQL"));
        let said = |line: &str| line.starts_with(&begin) && line.ends_with(&end);
        assert!(shown.text.lines().any(said), "{component}: {}", shown.text);
    }
    assert!(shown.text.contains(&format!("goes to {time}: from the base backup of")), "{}", shown.text);
}
