//! `cairn platform preflight` on a whole platform: it passes where a backup may begin, and each thing that stands in a
//! backup's way is seen, by the check that is for it and by no other.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{Lab, PLATFORM};
use crate::servers::{PATIENCE, skip};

/// The built-in profile, with workers that can be asked.
const PROFILE: &str = r#"extends = "eclecticiq-centos"
name = "lab"
[celery]
command = ["celery", "-A", "tasks"]
directory = "/opt/eclecticiq-platform-backend"
"#;

/// A program that holds something, until it is dropped.
struct Held(Child);

impl Held {
    /// Starts it and waits for its first line of output.
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it ended before it was ready");
        Held(child)
    }

    /// A Python program of the lab. It is to print a line when it is ready.
    fn python(lab: &Lab, script: &str) -> Self {
        // Its end is that of its standard input: killing nsenter would leave it behind.
        Held::start(lab.command(&["python3", "-c", script]))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let started = Instant::now();
        while self.0.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A check's outcome and what was seen.
type Checks = BTreeMap<String, (String, String)>;

fn look_with(lab: &Lab, password: &str, arguments: &[&str]) -> (i32, Checks) {
    let password = format!("CAIRN_PASSWORD={password}");
    let program = ["env", "CAIRN_REPO=/srv/repository", &password, "cairn", "platform", "preflight"];
    let argv = [&program, ["--profile", "/etc/lab.toml", "--json"].as_slice(), arguments].concat();
    let output = lab.run(&argv);
    let mut checks = Checks::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["type"] == "check" {
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            println!("{:8} {:25} {}", text("outcome"), text("id"), text("seen"));
            checks.insert(text("id"), (text("outcome"), text("seen")));
        }
    }
    println!();
    (output.status.code().unwrap(), checks)
}

fn look(lab: &Lab) -> (i32, Checks) {
    look_with(lab, "secret", &[])
}

/// Of all checks just these do not pass; what they say.
#[track_caller]
fn refused(found: (i32, Checks), expected: &[(&str, &str)]) -> Checks {
    let (status, checks) = found;
    let refused: BTreeMap<&str, &str> = checks
        .iter()
        .filter(|(_, found)| found.0 != "pass")
        .map(|(id, found)| (id.as_str(), found.0.as_str()))
        .collect();
    assert_eq!(refused, expected.iter().copied().collect(), "{checks:?}");
    assert_eq!(status, i32::from(!expected.is_empty()));
    checks
}

#[track_caller]
fn says(checks: &Checks, id: &str, words: &[&str]) {
    let seen = &checks[id].1;
    for word in words {
        assert!(seen.contains(word), "{word:?} is not in {id}: {seen}");
    }
}

fn boot() -> Option<Lab> {
    let lab = Lab::boot(&PLATFORM)?;
    std::fs::write(lab.path("/etc/lab.toml"), PROFILE).unwrap();
    lab.ok(&["env", "CAIRN_REPO=/srv/repository", "CAIRN_PASSWORD=secret", "cairn", "init"]);
    Some(lab)
}

#[test]
fn a_platform_that_works_and_is_left_alone_passes_and_whoever_is_at_work_is_seen() {
    let Some(lab) = boot() else { return };
    // The workers answer only when they have joined.
    let started = Instant::now();
    while look(&lab).0 != 0 && started.elapsed() < PATIENCE {}
    let checks = refused(look(&lab), &[]);
    says(&checks, "services", &["to be stopped and started again", "not installed: ", "statsite"]);
    says(&checks, "celery", &["2 workers answered"]);
    says(&checks, "servers", &["neo4j is stopped and started again"]);
    says(&checks, "elasticsearch-repository", &["backup is not registered yet"]);
    says(&checks, "elasticsearch-path-repo", &["every node allows /db-backup/elasticsearch"]);
    says(&checks, "postgres-programs", &["pg_dump 15.", "pg_dumpall 15."]);
    says(&checks, "neo4j-store", &["saved without a copy", "/media/neo4j/data/databases/neo4j"]);

    users(&lab);
    let login = "import struct; r = struct.pack('hi32s4s32s256shhiii4i20x', 7, 1, b'pts/7', b'7', b'analyst', \
                 b'10.0.0.9', 0, 0, 0, 0, 0, 0, 0, 0, 0); assert len(r) == 384; open('/run/utmp', 'ab').write(r)";
    lab.ok(&["cp", "-a", "/run/utmp", "/run/utmp.before"]);
    lab.ok(&["python3", "-c", login]);
    let checks = refused(look(&lab), &[("logins", "fail")]);
    says(&checks, "logins", &["analyst on pts/7"]);
    assert_eq!(look_with(&lab, "secret", &["--allow", "logins"]).0, 0);
    lab.ok(&["mv", "/run/utmp.before", "/run/utmp"]);

    transactions(&lab);
    failures(&lab);
}

/// A connection from another machine.
fn users(lab: &Lab) {
    if Command::new("ip").arg("-V").output().is_err() {
        return skip("ip is not installed");
    }
    let mut other = Command::new("unshare")
        .args(["-n", "sh", "-c", "echo ready; read end"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(other.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let (here, there) = (lab.leader(), other.id().to_string());
    let run = |namespace: &str, argv: &[&str]| {
        let output = Command::new("nsenter").args(["-t", namespace, "-n", "--"]).args(argv).output().unwrap();
        assert!(output.status.success(), "{argv:?}: {output:?}");
    };
    run(&here, &["ip", "link", "add", "lab0", "type", "veth", "peer", "name", "user0", "netns", &there]);
    for (namespace, device, address) in [(&here, "lab0", "10.99.0.1/24"), (&there, "user0", "10.99.0.2/24")] {
        run(namespace, &["ip", "address", "add", address, "dev", device]);
        run(namespace, &["ip", "link", "set", device, "up"]);
    }
    let listener = Held::python(
        lab,
        "import socket, sys\ns = socket.create_server(('10.99.0.1', 443))\nprint('ready', flush=True)\nc = s.accept()\nsys.stdin.read()",
    );
    // Connections of this machine itself, such as those of a watchdog, are no users.
    let own = Held::python(
        lab,
        "import socket, sys\nc = socket.create_connection(('127.0.0.1', 443))\nprint('ready', flush=True)\nsys.stdin.read()",
    );
    let checks = refused(look(lab), &[]);
    says(&checks, "users", &["nobody is connected to port 443, 80", "1 connection from this machine itself"]);
    let mut user = Command::new("nsenter");
    user.args(["-t", &there, "-n", "--", "python3", "-c"]);
    user.arg("import socket, sys\nc = socket.create_connection(('10.99.0.1', 443))\nprint('ready', flush=True)\nsys.stdin.read()");
    let user = Held::start(user);
    let checks = refused(look(lab), &[("users", "fail")]);
    says(&checks, "users", &["1 connection from other machines to port 443, 80: 10.99.0.2"]);
    // A backup asks the same, and stops nothing.
    let processes = || lab.ok(&["systemctl", "show", "*.service", "-P", "Id", "-P", "MainPID"]);
    let before = processes();
    let program = ["env", "CAIRN_REPO=/srv/repository", "CAIRN_PASSWORD=secret", "cairn", "platform", "backup"];
    let output = lab.run(&[&program, ["--profile", "/etc/lab.toml"].as_slice()].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("users: 1 connection from other machines"), "{told}");
    assert_eq!(processes(), before);
    drop((user, own, listener));
    drop(other.stdin.take());
    other.wait().unwrap();
    refused(look(lab), &[]);
}

/// Work that stopping the platform would cut off.
fn transactions(lab: &Lab) {
    let mut psql = lab.command(&["runuser", "-u", "postgres", "--", "psql", "-AtX", "-d", "platform"]);
    let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    psql.stdin.as_mut().unwrap().write_all(b"BEGIN; SELECT count(*) FROM entity;\n").unwrap();
    let open = "import sys\nsys.path.insert(0, '/opt/lab/python')\nimport neo4j\nd = neo4j.GraphDatabase.driver('bolt://localhost:7687')\n\
                t = d.session().begin_transaction()\nt.run('CREATE (:Draft)').consume()\nprint('ready', flush=True)\nsys.stdin.read()";
    let graph = Held::python(lab, open);
    std::thread::sleep(Duration::from_secs(7));
    let checks = refused(look(lab), &[("postgres-sessions", "fail"), ("neo4j-activity", "fail")]);
    says(&checks, "postgres-sessions", &["postgres in platform (psql): idle in transaction for "]);
    says(&checks, "neo4j-activity", &["in neo4j for "]);
    drop(psql.stdin.take());
    psql.wait().unwrap();
    drop(graph);
    refused(look(lab), &[]);
}

/// What would make a backup fail.
fn failures(lab: &Lab) {
    let checks = refused(look_with(lab, "wrong", &[]), &[("repository", "fail")]);
    says(&checks, "repository", &["wrong password"]);
    let directory = "/db-backup/elasticsearch";
    lab.ok(&["chown", "root:", directory]);
    let checks = refused(look(lab), &[("elasticsearch-directory", "fail")]);
    says(&checks, "elasticsearch-directory", &["the user elasticsearch may not write to", "owner root"]);
    lab.ok(&["chown", "elasticsearch:", directory]);

    lab.ok(&["systemctl", "stop", "redis"]);
    let silent = ["queues", "celery", "redis-clients"].map(|id| (id, "unknown"));
    let checks = refused(look(lab), &silent);
    says(&checks, "queues", &["redis localhost:6379: cannot connect"]);
    lab.ok(&["systemctl", "start", "redis"]);

    lab.ok(&["systemctl", "stop", "elasticsearch", "neo4j"]);
    let unknown = ["activity", "health", "path-repo", "repository", "space"].map(|id| format!("elasticsearch-{id}"));
    let unknown: Vec<(&str, &str)> = unknown.iter().map(|id| (id.as_str(), "unknown")).collect();
    let checks = retried(lab, |found| found.1["celery"].0 == "pass");
    let checks = refused(checks, &unknown);
    says(&checks, "servers", &["neo4j is down, and stays down"]);
    says(&checks, "neo4j-activity", &["Neo4j is stopped"]);
    lab.ok(&["sed", "-i", "/^path.repo/d", "/etc/eclecticiq-elasticsearch/elasticsearch.yml"]);
    lab.ok(&["systemctl", "start", "elasticsearch", "neo4j"]);
    let checks = refused(look(lab), &[("elasticsearch-path-repo", "fail")]);
    says(&checks, "elasticsearch-path-repo", &["not allowed by", "/db-backup/elasticsearch"]);
}

/// A directory that is smaller than what a snapshot may need.
fn space(lab: &Lab) {
    let script = "import os, urllib.request as u\nfor i in range(100):\n b = ('{\"a\":\"%s\"}' % os.urandom(5000).hex()).encode()\n \
                  u.urlopen(u.Request('http://localhost:9200/stix/_doc', b, {'content-type': 'application/json'})).close()\n\
                  u.urlopen(u.Request('http://localhost:9200/stix/_flush', b'', method='POST')).close()";
    lab.ok(&["python3", "-c", script]);
    // What flushing wrote is counted after a moment.
    let enough = |found: &(i32, Checks)| !found.1["elasticsearch-space"].1.contains("may need 0 MiB");
    says(&refused(retried(lab, enough), &[]), "elasticsearch-space", &["already saved 0 MiB"]);
    let directory = "/db-backup/elasticsearch";
    lab.ok(&["mount", "-t", "tmpfs", "-o", "size=64k,uid=elasticsearch,mode=750", "small", directory]);
    let checks = refused(look(lab), &[("elasticsearch-space", "fail")]);
    says(&checks, "elasticsearch-space", &["0 MiB free in /db-backup/elasticsearch", "already saved 0 MiB"]);
    lab.ok(&["umount", directory]);
}

/// A role that does not see what others do.
fn rights(lab: &Lab) {
    let other = format!("{PROFILE}[postgres]\nuser = \"eclecticiq\"\n");
    std::fs::write(lab.path("/etc/lab.toml"), other).unwrap();
    let checks = refused(look(lab), &[("postgres-sessions", "unknown"), ("postgres-programs", "fail")]);
    says(&checks, "postgres-sessions", &["no superuser"]);
    std::fs::write(lab.path("/etc/lab.toml"), PROFILE).unwrap();
}

/// Looks until something that needs a moment is so: workers that lost their connection make another.
fn retried(lab: &Lab, so: impl Fn(&(i32, Checks)) -> bool) -> (i32, Checks) {
    let started = Instant::now();
    loop {
        let found = look(lab);
        if so(&found) || started.elapsed() > PATIENCE {
            return found;
        }
    }
}

#[test]
fn where_nothing_of_the_platform_runs_any_work_is_somebody_elses() {
    let Some(lab) = boot() else { return };
    let redis = |words: &[&str]| lab.ok(&[&["redis-cli"], words].concat());
    lab.ok(&["curl", "-sS", "-XPUT", "localhost:9200/stix"]);
    // Somebody waits for a worker that is there.
    lab.ok(&["systemctl", "stop", "eclecticiq-platform-backend-worker@common"]);
    redis(&["rpush", "enrichers", "a", "b"]);
    redis(&["rpush", "queue:ingestion:inbound", "c"]);
    lab.ok(&["systemctl", "stop", "eclecticiq-platform-backend-ingestion"]);
    redis(&["rpush", "queue:ingestion:inbound", "c"]);
    let checks = retried(&lab, |found| found.1["celery"].0 == "pass");
    let checks = refused(checks, &[]);
    says(&checks, "queues", &["(enrichers: 2): the backup waits for them, up to 1800 s", "queue:ingestion:inbound: "]);
    says(&checks, "services", &["down, and stays down: ", "eclecticiq-platform-backend-worker@common"]);
    let online = look_with(&lab, "secret", &["--online"]);
    assert!(!online.1.contains_key("queues") && !online.1.contains_key("services"), "{online:?}");
    refused(online, &[]);

    lab.ok(&["systemctl", "stop", "eclecticiq-platform-backend-*"]);
    let checks = refused(look(&lab), &[("queues", "fail")]);
    says(&checks, "queues", &["2 tasks waiting (enrichers: 2), and no worker runs"]);
    redis(&["del", "enrichers", "queue:ingestion:inbound"]);
    // Once the clients of the platform are gone for some time.
    let checks = refused(retried(&lab, |found| found.0 == 0), &[]);
    says(&checks, "services", &["none runs; down, and stays down: "]);
    says(&checks, "queues", &["nothing waits in 11 queues"]);

    redis(&["hset", "unacked", "task", "1"]);
    redis(&["zadd", "unacked_index", "0", "task"]);
    let checks = refused(look(&lab), &[("celery", "fail")]);
    says(&checks, "celery", &["1 task taken by workers, and no worker runs"]);
    redis(&["del", "unacked", "unacked_index"]);
    space(&lab);
    rights(&lab);

    let writer = Held::python(
        &lab,
        "import select, sys, urllib.request as u\nprint('ready', flush=True)\nwhile not select.select([sys.stdin], [], [], 0.1)[0]:\n \
         u.urlopen(u.Request('http://localhost:9200/stix/_doc', b'{}', {'content-type': 'application/json'})).close()",
    );
    let reader = Held::python(
        &lab,
        "import redis, threading, sys\nthreading.Thread(target=lambda: redis.Redis().blpop('nothing'), daemon=True).start()\n\
         print('ready', flush=True)\nsys.stdin.read()",
    );
    let session = Held::start(lab.command(&[
        "runuser",
        "-u",
        "postgres",
        "--",
        "psql",
        "-AtX",
        "-d",
        "platform",
        "-c",
        "SELECT 'ready'",
        "-f",
        "-",
    ]));
    let checks = refused(look(&lab), &[("elasticsearch-activity", "fail"), ("redis-clients", "fail")]);
    says(&checks, "elasticsearch-activity", &["stix: ", "write"]);
    says(&checks, "redis-clients", &["nothing of the platform runs", "blpop"]);
    says(&checks, "postgres-sessions", &["1 client besides us, none in a transaction"]);
    drop((writer, reader, session));

    std::fs::write(lab.path("/etc/systemd/system/statsite.service"), "[Service]\nExecStart=/bin/false\n").unwrap();
    lab.ok(&["systemctl", "daemon-reload"]);
    lab.run(&["systemctl", "start", "statsite"]);
    let checks = retried(&lab, |found| found.1["services"].0 == "fail" && found.1["redis-clients"].0 == "pass");
    let checks = refused(checks, &[("services", "fail")]);
    says(&checks, "services", &["statsite.service: failed", "exit status 1"]);
}
