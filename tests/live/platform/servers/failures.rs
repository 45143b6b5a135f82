//! Programs that are killed, snapshots that lack a shard, a store that is in use, a server that does not stop.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Instant;

use super::{Arguments, BARE, Held};
use crate::elasticsearch::damage;
use crate::platform::Platform;
use crate::servers::PATIENCE;

const SECRET: &str = "correct-horse-9431";

pub fn online_nothing_is_stopped(platform: &Platform) {
    let profile = platform.profile("online", "[systemd]\nsettle-seconds = 0\n");
    let before = platform.processes();
    let ended = platform.backup(&profile, &["--online"]).must(0);
    assert_eq!(platform.processes(), before);
    assert_eq!((&ended.set()["status"], &ended.set()["consistency"]), (&"complete".into(), &"online".into()));
    ended.complete(&["config", "postgres", "elasticsearch"]);
    for (name, why) in [("neo4j", "was not allowed"), ("redis", "at rest only while the platform is stopped")] {
        assert_eq!(ended.component(name)["status"], "skipped");
        assert!(ended.component(name)["warnings"][0].as_str().unwrap().contains(why), "{}", ended.text);
    }

    let ended = platform.backup(&profile, &["--online", "--allow-neo4j-stop", "--skip", "postgres"]).must(0);
    ended.complete(&["config", "elasticsearch", "neo4j"]);
    assert!(ended.component("postgres")["warnings"][0].as_str().unwrap().contains("left out on request"));
    assert_eq!(ended.component("neo4j")["facts"]["nodes"], platform.entities);
    let changed: Vec<String> = {
        let after = platform.processes();
        before.into_iter().filter(|(unit, pid)| after.get(unit) != Some(pid)).map(|(unit, _)| unit).collect()
    };
    assert_eq!(changed, ["neo4j.service"]);
}

/// A directory of PostgreSQL's programs in which one is a script of ours; REAL in it is the real one.
fn programs(platform: &Platform, name: &str, script: &str) -> String {
    let directory = format!("/opt/test-{name}");
    let bin = platform.lab.path(&directory);
    std::fs::create_dir_all(&bin).unwrap();
    for tool in ["pg_dump", "pg_dumpall", "psql", "pg_controldata"] {
        let _ = std::fs::remove_file(bin.join(tool));
        match tool == name {
            true => {
                let script = script.replace("REAL", &format!("/usr/pgsql-11/bin/{name}"));
                std::fs::write(bin.join(tool), format!("#!/bin/sh\n{script}\n")).unwrap();
                std::fs::set_permissions(bin.join(tool), PermissionsExt::from_mode(0o755)).unwrap();
            }
            false => symlink(format!("/usr/pgsql-11/bin/{tool}"), bin.join(tool)).unwrap(),
        }
    }
    directory
}

const KILLED: &str = "case $1 in --version | -V) exec REAL \"$@\" ;; esac; echo 'dumping, and then struck by lightning' >&2; REAL \"$@\" | head -c 3000; kill -9 $$";

/// In one run: `pg_dump` is killed, a shard is damaged, and somebody else reads the graph. Its passwords are nowhere.
pub fn three_that_fail_are_told_and_two_are_saved(platform: &Platform) {
    let bin = programs(platform, "pg_dump", KILLED);
    platform.write("/root/secret", SECRET);
    let secret = "password-file = \"/root/secret\"";
    let profile = platform.profile(
        "failing",
        &format!(
            "[postgres]\nbin-directory = \"{bin}\"\n[elasticsearch]\nuser = \"cairn\"\n{secret}\n\
             [redis]\nusername = \"cairn\"\n{secret}\n[neo4j]\nuser = \"cairn\"\n{secret}\nstop-timeout-seconds = 2\n"
        ),
    );
    std::fs::set_permissions(platform.lab.path("/root/secret"), PermissionsExt::from_mode(0o600)).unwrap();
    platform.redis(&["ACL", "SETUSER", "cairn", "on", &format!(">{SECRET}"), "~*", "&*", "+@all"]);
    let snapshots = platform.snapshots();
    damaged_index(platform);
    let store = "exec 3</media/neo4j/data/databases/neo4j/neostore; echo ready; read line";
    let reader = Held::start(platform, &["sh", "-c", store]);

    let arguments = Arguments::watch();
    let ended = platform.backup(&profile, &["--report", "/root/failing.html"]).must(3);
    let arguments = arguments.seen();
    drop(reader);
    platform.ask_elasticsearch("DELETE", "damaged", "");
    platform.redis(&["ACL", "DELUSER", "cairn"]);

    assert_eq!(ended.set()["status"], "partial");
    ended.complete(&["config", "redis"]);
    ended.failed("postgres", &["pg_dump", "signal 9", "struck by lightning"]);
    ended.failed("elasticsearch", &["PARTIAL", "damaged[0]"]);
    ended.failed("neo4j", &["(sh) has /media/neo4j/data/databases/neo4j/neostore open"]);
    assert_eq!(platform.snapshots(), snapshots, "what is not whole does not stay");
    let report = std::fs::read_to_string(platform.lab.path("/root/failing.html")).unwrap();
    assert!(report.contains("struck by lightning") && report.contains("neostore"), "{report}");

    assert!(arguments.contains("pg_dumpall") && arguments.contains("systemctl"), "{arguments}");
    let journal = std::fs::read_to_string(platform.lab.path("/var/lib/cairn/journal.last")).unwrap();
    for (what, text) in [("arguments", arguments), ("journal", journal), ("report", report), ("log", ended.text)] {
        assert!(!text.contains(SECRET), "a password is in the {what}: {text}");
    }
}

fn damaged_index(platform: &Platform) {
    platform.ask_elasticsearch("PUT", "damaged", r#"{"settings":{"number_of_replicas":0}}"#);
    let documents: String = (0..500).map(|number| format!("{{\"index\":{{}}}}\n{{\"n\":{number}}}\n")).collect();
    platform.ask_elasticsearch("POST", "damaged/_bulk?refresh=true", &documents);
    platform.ask_elasticsearch("POST", "damaged/_flush?force=true", "");
    let settings = platform.elasticsearch("damaged/_settings");
    let uuid = settings["damaged"]["settings"]["index"]["uuid"].as_str().unwrap();
    assert!(damage(&platform.lab.path(&format!("/media/elasticsearch/data/nodes/0/indices/{uuid}"))) > 0);
}

pub fn programs_that_are_killed_make_the_set_partial(platform: &Platform) {
    let options = ["--online", "--only", "postgres,config"];
    let bin = programs(platform, "pg_dumpall", KILLED);
    let profile = platform.profile("dumpall", &format!("[postgres]\nbin-directory = \"{bin}\"\n"));
    let ended = platform.backup(&profile, &options).must(3);
    ended.failed("postgres", &["pg_dumpall", "signal 9", "struck by lightning"]);
    ended.complete(&["config"]);

    // The real one, in the middle of its work: it waits behind somebody who wants the table alone, and who waits for us. A
    // lock that was there before would hold our own snapshot, and no pg_dump would ever begin.
    let alone = "psql -qX -d platform -c 'BEGIN; LOCK TABLE entity' </dev/null >/dev/null 2>&1";
    let queued = format!("case $* in *--snapshot=*) {alone} & sleep 1 ;; esac; exec REAL \"$@\"");
    let bin = programs(platform, "pg_dump", &queued);
    let profile = platform.profile("killed", &format!("{BARE}[postgres]\nbin-directory = \"{bin}\"\n"));
    let mut run = platform.begin("backup", &profile, &options);
    let waits = "SELECT count(*) FROM pg_stat_activity \
                 WHERE query LIKE 'LOCK TABLE % IN ACCESS SHARE MODE%' AND wait_event_type = 'Lock'";
    let started = Instant::now();
    while platform.sql("postgres", waits) == "0" {
        assert!(run.child.try_wait().unwrap().is_none(), "it ended, and nothing had waited");
        assert!(started.elapsed() < PATIENCE, "no pg_dump waits");
    }
    platform.lab.ok(&["pkill", "-9", "-f", "pg_dump .*--snapshot="]);
    let ended = run.ended().must(3);
    ended.failed("postgres", &["pg_dump", "signal 9"]);
    ended.complete(&["config"]);
}

pub fn neo4j_that_does_not_stop_is_up_again(platform: &Platform) {
    let drop_in = "/etc/systemd/system/neo4j.service.d/stubborn.conf";
    platform.write(drop_in, "[Service]\nKillSignal=SIGCONT\nTimeoutStopSec=8\n");
    platform.lab.ok(&["systemctl", "daemon-reload"]);
    let profile = platform.profile("stubborn", "[systemd]\nsettle-seconds = 0\nstop-timeout-seconds = 2\n");
    let started = Instant::now();
    let before = platform.processes();
    let ended = platform.backup(&profile, &["--online", "--allow-neo4j-stop", "--only", "neo4j,config"]).must(3);
    std::fs::remove_file(platform.lab.path(drop_in)).unwrap();
    platform.lab.ok(&["systemctl", "daemon-reload"]);
    ended.failed("neo4j", &["neo4j.service", "did not stop within 2 s"]);
    ended.complete(&["config"]);
    assert!(platform.lab.is_active("neo4j") && started.elapsed() < PATIENCE);
    assert_ne!(platform.processes()["neo4j.service"], before["neo4j.service"]);
    assert!(ended.set()["steps"].to_string().contains("Neo4j answers"), "{}", ended.text);
}

/// The component that would name what was purged fails after it was taken out of its queue.
pub fn what_was_purged_goes_back_if_the_set_does_not_hold_it(platform: &Platform) {
    let (unit, queue) = ("eclecticiq-platform-backend-ingestion", "queue:ingestion:inbound");
    platform.lab.ok(&["systemctl", "stop", unit]);
    platform.redis(&["RPUSH", queue, "first", "second"]);
    let options = ["--only", "redis,config", "--purge-queues", "--drain-timeout", "0"];
    // Redis' own dump cannot be written.
    let (strict, lax) = (
        ["CONFIG", "SET", "stop-writes-on-bgsave-error", "yes"],
        ["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"],
    );
    platform.redis(&lax);
    let script = "redis-cli SAVE && mv /media/redis/dump.rdb /media/redis/aside && mkdir -p /media/redis/dump.rdb/x";
    platform.lab.ok(&["sh", "-ec", script]);
    let profile = platform.profile("purging", &format!("{BARE}dump = true\n"));
    let ended = platform.backup(&profile, &options).must(3);
    platform.lab.ok(&["sh", "-ec", "rm -r /media/redis/dump.rdb && mv /media/redis/aside /media/redis/dump.rdb"]);
    platform.redis(&["SAVE"]);
    platform.redis(&strict);
    ended.failed("redis", &["background save failed"]);
    assert_eq!(platform.redis(&["LRANGE", queue, "0", "-1"]), "first\nsecond");
    assert!(ended.set()["warnings"].to_string().contains("nothing was purged"), "{}", ended.text);

    let ended = platform.backup(&profile, &["--only", "config", "--purge-queues", "--drain-timeout", "0"]).must(2);
    assert_eq!(platform.redis(&["LRANGE", queue, "0", "-1"]), "first\nsecond", "{}", ended.text);
    platform.redis(&["DEL", queue]);
    platform.lab.ok(&["systemctl", "start", unit]);
}
