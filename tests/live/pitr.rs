//! PostgreSQL to a time: base backups that wait for their log, and `platform restore --at` that goes to the time itself.
//!
//! What had been committed by a time is what comes before the first transaction, in the order of the log, that ended
//! after it: two that commit at once may stand in the log the other way round than their clocks say, and a recovery goes
//! by the log. `pg_waldump`, which is not ours, tells that order.

mod archived;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::{MetadataExt, chown};
use std::process::{Child, Stdio};
use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use rustix::process::{Pid, Signal, kill_process};

use crate::postgres::cluster;
use crate::servers::postgres::checked;
use crate::servers::redis::Redis;
use archived::Archived;

/// What each client does all the time.
const SCRIPT: &str = "\\set a random(1, 100000)\nBEGIN;\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :a;\n\
                      INSERT INTO event DEFAULT VALUES;\nINSERT INTO there VALUES (:a);\nEND;\n";

/// Clients that write.
struct Load(Child);

impl Load {
    fn start(server: &Archived, clients: u32) -> Self {
        let script = server.path("script");
        std::fs::write(&script, SCRIPT).unwrap();
        let mut pgbench = server.postgres.client("pgbench");
        pgbench.args(["-n", "-T", "600", "--rate", "150", "-c", &clients.to_string(), "-f"]).arg(script);
        Load(pgbench.arg("postgres").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Tables, one of them in a tablespace.
fn seed(server: &Archived) {
    let space = server.path("space");
    std::fs::create_dir(&space).unwrap();
    let owner = std::fs::metadata(server.postgres.data()).unwrap();
    chown(&space, Some(owner.uid()), Some(owner.gid())).unwrap();
    server.sql(&format!("CREATE TABLESPACE far LOCATION '{}'", space.display()));
    server.sql("CREATE TABLE event (id bigserial PRIMARY KEY); CREATE TABLE there (a int) TABLESPACE far");
    checked(server.postgres.client("pgbench").args(["-i", "-q", "-s", "1", "postgres"]));
}

/// Writes for some time, segment after segment.
fn write(server: &Archived, clients: u32, segments: usize) {
    let load = Load::start(server, clients);
    for _ in 0..segments {
        let before: u64 = server.sql("SELECT count(*) FROM event").parse().unwrap();
        while server.sql("SELECT count(*) FROM event").parse::<u64>().unwrap() < before + 100 {
            std::thread::sleep(Duration::from_millis(20));
        }
        server.archive();
    }
    drop(load);
    // What its clients had sent is carried out although they are gone: nothing is looked at before that.
    let others =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    while server.sql(others) != "0" {
        std::thread::sleep(Duration::from_millis(20));
    }
    // Something that ends after all of it, so that all of it can be reached.
    server.sql("CREATE TABLE IF NOT EXISTS last (n int); INSERT INTO last VALUES (1)");
    server.archive();
}

/// The transactions that the log ends with a commit, in its order.
fn order(server: &Archived) -> Vec<u32> {
    let wal = server.postgres.data().join("pg_wal");
    let name = |path: &std::path::Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut segments: Vec<_> = std::fs::read_dir(&wal).unwrap().map(|entry| name(&entry.unwrap().path())).collect();
    segments.retain(|name| name.len() == 24);
    segments.sort();
    let now = server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let mut dump = server.tool("pg_waldump");
    let output = dump.args(["-r", "Transaction", "-p"]).arg(&wal).args([&segments[0], &now]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let commits = text.lines().filter(|line| line.contains("desc: COMMIT"));
    commits.filter_map(|line| line.split("tx:").nth(1)?.split(',').next()?.trim().parse().ok()).collect()
}

/// The events that a recovery to a time has to bring: all that come before the first one, in this order, of a later time.
fn until(time: Timestamp, order: &[u32], of: &BTreeMap<u32, (u64, Timestamp)>) -> BTreeSet<u64> {
    let known = order.iter().filter_map(|tx| of.get(tx));
    known.take_while(|(_, ended)| *ended <= time).map(|(id, _)| *id).collect()
}

/// A time between two others; which is chance.
fn between(from: Timestamp, to: Timestamp, part: u32) -> Timestamp {
    let (from, to) = (from.as_microsecond(), to.as_microsecond());
    // Another one each time the process runs.
    let chance = (RandomState::new().build_hasher().finish() % 200) as i64;
    Timestamp::from_microsecond(from + (to - from) * (i64::from(part) * 200 + chance) / 1000).unwrap()
}

fn ids(server: &Archived) -> BTreeSet<u64> {
    server.events().into_keys().collect()
}

/// The transaction, number and time of each event.
fn transactions(server: &Archived) -> BTreeMap<u32, (u64, Timestamp)> {
    let of = server.sql("SELECT id, xmin FROM event");
    let of: BTreeMap<u64, u32> = of
        .lines()
        .filter_map(|line| line.split_once('|'))
        .map(|(id, tx)| (id.parse().unwrap(), tx.parse().unwrap()))
        .collect();
    server.events().into_iter().map(|(id, time)| (of[&id], (id, time))).collect()
}

/// What a restored server has to be: of this content, in its tablespace, too, archiving again, and told nothing any more.
#[track_caller]
fn is_restored(server: &Archived, expected: &BTreeSet<u64>, time: Timestamp) {
    let found = ids(server);
    let differ: Vec<_> = found.symmetric_difference(expected).collect();
    assert!(differ.is_empty(), "{time}: {} events, and not {}: {differ:?}", found.len(), expected.len());
    assert_eq!(server.sql("SELECT count(*) FROM there"), expected.len().to_string());
    assert_ne!(server.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'far'"), "");
    assert!(server.sql("SHOW archive_command").contains("wal push"));
    let told = "SELECT count(*) FROM pg_settings WHERE (name = 'restore_command' OR name LIKE 'recovery_target%') \
                AND source = 'configuration file' OR pending_restart";
    assert_eq!(server.sql(told), "0");
    assert!(!server.postgres.data().join("recovery.done").exists());
}

#[test]
fn postgresql_goes_to_the_time_itself() {
    let server = cluster!(Archived::start());
    seed(&server);
    server.platform("backup", &["--online"]).must(0).says(&["\"archived\":true"]);
    write(&server, 4, 4);
    let gap = server.now();
    let (of, order) = (transactions(&server), order(&server));
    let times = || of.values().map(|(_, time)| *time);
    let (first, last) = (times().min().unwrap(), times().max().unwrap());
    let mut sizes = BTreeSet::new();
    for part in 0..5 {
        let time = between(first, last, part);
        let expected = until(time, &order, &of);
        let restored = server.restore(time, &["--discard-old"]).must(0).says(&["it went to", "all of which were read"]);
        assert_eq!(restored.summary["components"][0]["state"], "restored", "{}", restored.text);
        is_restored(&server, &expected, time);
        sizes.insert(expected.len());
    }
    assert!(sizes.len() > 2, "{sizes:?}");
    timelines(&server, (first, gap), &order, &of);
    what_is_lost_is_refused(&server, last);
    a_killed_one_is_undone(&server, first);
    a_log_that_ends_early_is_no_success(&server);
    base_backups_wait(&server);
}

/// The server works on a timeline of its own now: moments of it, and of the one before. In the gap, the first timeline had
/// ended, and no other begun.
fn timelines(
    server: &Archived,
    (first, gap): (Timestamp, Timestamp),
    order: &[u32],
    of: &BTreeMap<u32, (u64, Timestamp)>,
) {
    let old = ids(server);
    write(server, 1, 2);
    let all = server.events();
    let new: Vec<Timestamp> = all.iter().filter(|(id, _)| !old.contains(id)).map(|(_, time)| *time).collect();
    let (begin, end) = (new[0], new[new.len() - 1]);
    server.restore(gap, &["--dry-run"]).must(1).says(&["does not reach", "timeline 1 from"]);
    let last = of.values().map(|(_, time)| *time).max().unwrap();
    let time = between(begin, end, 2);
    let expected: BTreeSet<u64> = all.iter().filter(|(_, ended)| **ended <= time).map(|(id, _)| *id).collect();
    assert!(expected.len() > old.len());
    server.restore(time, &["--discard-old"]).must(0);
    is_restored(server, &expected, time);
    let time = between(first, last, 4);
    server.restore(time, &["--discard-old", "--timeline", "1"]).must(0);
    is_restored(server, &until(time, order, of), time);
}

fn what_is_lost_is_refused(server: &Archived, last: Timestamp) {
    let later = server.now().checked_add(1.hour()).unwrap();
    server.restore(later, &["--dry-run"]).must(1).says(&["does not reach", "the oldest time", "the newest is"]);
    let before = Timestamp::from_second(1_000_000_000).unwrap();
    server.restore(before, &["--dry-run"]).must(1).says(&["no complete base backup"]);
    // Some segments after the base backup's own.
    let (lost, aside) = (server.objects()[6].clone(), server.path("lost"));
    std::fs::rename(&lost, &aside).unwrap();
    let refused = server.restore(last, &["--dry-run", "--timeline", "1"]).must(1);
    refused.says(&["is missing", "the oldest time", "the newest is just before"]);
    std::fs::rename(&aside, &lost).unwrap();
    let plan = server.restore(last, &["--dry-run", "--timeline", "1"]).must(0);
    plan.says(&["segments of its log", "\"base_timeline\":1", "the oldest time that can be reached"]);
}

fn a_killed_one_is_undone(server: &Archived, time: Timestamp) {
    let before = ids(server);
    for step in ["swap-postgres", "compare-postgres"] {
        // However busy the machine is, it does not end before it is killed: it starts the server once more at its end.
        std::fs::write(server.path("lose"), "sleep 2\n").unwrap();
        let mut run = server.begin_restore(time);
        server.begins(&mut run, step);
        run.kill().unwrap();
        run.wait().unwrap();
        std::fs::remove_file(server.path("lose")).unwrap();
        server.platform("resume", &[]).must(0);
        assert_eq!(ids(server), before, "{step}");
    }
    let left = std::fs::read_dir(server.postgres.directory.path()).unwrap();
    let names: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.contains("cairn-new") || name.contains(".before-")), "{names:?}");
}

/// The last segment is lost when the recovery has begun already.
fn a_log_that_ends_early_is_no_success(server: &Archived) {
    write(server, 1, 1);
    let (before, time) = (server.events(), server.now());
    server.sql("INSERT INTO last VALUES (2)");
    server.archive();
    let (lost, aside) = (server.objects().pop().unwrap(), server.path("lost"));
    let script = format!("mv {} {} 2>/dev/null || true\n", lost.display(), aside.display());
    std::fs::write(server.path("lose"), script).unwrap();
    let failed = server.restore(time, &[]).must(1);
    match server.major {
        ..13 => failed.says(&["the target was not reached"]),
        _ => failed.says(&["did not reach", "recovery ended before configured recovery target was reached"]),
    };
    std::fs::remove_file(server.path("lose")).unwrap();
    std::fs::rename(&aside, &lost).unwrap();
    assert_eq!(server.events(), before);
    assert_eq!(server.sql("SELECT max(n) FROM last"), "2");
    // It was as before, and so is what is archived: it can be done now.
    server.restore(time, &["--discard-old"]).must(0);
    assert_eq!((server.events(), server.sql("SELECT max(n) FROM last")), (before, "1".to_owned()));
}

fn base_backups_wait(server: &Archived) {
    server.sql("ALTER SYSTEM SET archive_command = 'false'");
    server.sql("SELECT pg_reload_conf()");
    let profile = server.profile("impatient", "method = \"base\"");
    let text =
        std::fs::read_to_string(&profile).unwrap().replace("wal-timeout-seconds = 60", "wal-timeout-seconds = 3");
    std::fs::write(&profile, text).unwrap();
    let failed = server.cairn(&["platform", "backup", "--profile", &profile, "--online"]).must(1);
    failed.says(&["was not archived in"]);
    // From now on that is known before one begins.
    let refused = server.cairn(&["platform", "backup", "--profile", &profile, "--online"]).must(1);
    refused.says(&["archive_command last failed for"]);
    server.sql("ALTER SYSTEM RESET archive_command");
    server.sql("SELECT pg_reload_conf()");
}

#[test]
fn version_11_goes_to_the_time_itself() {
    let server = cluster!(Archived::start_11());
    seed(&server);
    // A full backup, whose rows are counted, looks into queues first.
    let Some(redis) = Redis::start(&[]) else { return };
    let profile = server.profile("pitr", "method = \"base\"");
    server.amend(
        &profile,
        "ingestion-queues = []",
        &format!("ingestion-queues = []\naddress = {:?}", redis.settings().address),
    );
    server.platform("backup", &[]).must(0).says(&["\"archived\":true"]);
    write(&server, 1, 3);
    let events = server.events();
    let (first, last) = (*events.values().min().unwrap(), *events.values().max().unwrap());
    for part in [1, 3] {
        let time = between(first, last, part);
        let expected = events.iter().filter(|(_, ended)| **ended <= time).map(|(id, _)| *id).collect();
        server.restore(time, &["--discard-old"]).must(0).says(&["it went to"]);
        is_restored(&server, &expected, time);
    }
    a_log_that_ends_early_is_no_success(&server);
    // As it was captured, without its archive, of which the shortest file is damaged: the history of the second timeline, whose
    // number is not taken again. Every table is compared.
    let shortest = server.objects().into_iter().min_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&shortest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&shortest, bytes).unwrap();
    let restored = server.platform("restore", &["--set", "latest", "--yes", "--discard-old"]).must(0);
    assert!(restored.text.contains("nothing of it is needed here"), "{}", restored.text);
    assert_eq!(restored.summary["components"][0]["state"], "restored", "{}", restored.text);
    assert_eq!(ids(&server), BTreeSet::new());
    // On a timeline of its own: on the first it would write what is archived already, with other content.
    write(&server, 1, 1);
}
