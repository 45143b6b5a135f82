//! What backups have stored, brought back into other servers and compared with what the sets say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn::format::set::{ElasticsearchFacts, Neo4jFacts, PostgresFacts};
use cairn::source::elasticsearch::client::Level;
use cairn::source::elasticsearch::facts as elastic;
use cairn::source::elasticsearch::repository::Access;
use cairn::source::elasticsearch::restore::Request;
use cairn::source::neo4j::facts as graph;
use cairn::source::postgres::{Method, compare, complete_base, facts, restore_dump};
use serde::de::DeserializeOwned;

use super::{BARE, Ended};
use crate::platform::Platform;
use crate::servers::PATIENCE;
use crate::servers::elasticsearch::Elasticsearch;
use crate::servers::neo4j::{Neo4j, copy};
use crate::servers::postgres::{Postgres, installed};
use crate::servers::redis::Redis;

fn never() -> bool {
    false
}

/// Runs cairn on this machine, on the repository in the lab.
fn cairn(platform: &Platform, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.arg("--repo").arg(platform.lab.path("/srv/backup"));
    command.arg("--password-file").arg(platform.lab.path("/root/password")).args(arguments);
    command
}

/// A stream that was stored.
pub fn stream(platform: &Platform, snapshot: &str) -> Vec<u8> {
    let output = cairn(platform, &["restore", snapshot, "--stdout"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Restores a tree below a directory.
pub fn tree(platform: &Platform, snapshot: &str, target: &Path) {
    let mut restore = cairn(platform, &["restore", snapshot, "--verify", "--target"]);
    let output = restore.arg(target).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub fn recorded<T: DeserializeOwned>(ended: &Ended, component: &str) -> T {
    let mut facts = ended.component(component)["facts"].clone();
    facts.as_object_mut().unwrap().remove("kind");
    serde_json::from_value(facts).unwrap_or_else(|error| panic!("{error}: {}", ended.text))
}

pub fn a_full_backup_is_restored(platform: &Platform) {
    let (unit, queue) = ("eclecticiq-platform-backend-ingestion", "queue:ingestion:inbound");
    platform.lab.ok(&["systemctl", "stop", unit]);
    platform.redis(&["RPUSH", queue, "first", "second"]);
    let profile = platform.profile("whole", BARE);
    let ended = platform.backup(&profile, &["--purge-queues", "--drain-timeout", "0"]).must(0);
    assert_eq!(platform.redis(&["LLEN", queue]), "0");
    platform.lab.ok(&["systemctl", "start", unit]);
    ended.complete(&["config", "postgres", "elasticsearch", "neo4j", "redis"]);
    configuration(platform, &ended);
    dump(platform, &ended);
    repository(platform, &ended);
    store(platform, &ended);
    queues(platform, &ended, queue);
}

fn configuration(platform: &Platform, ended: &Ended) {
    let target = tempfile::tempdir().unwrap();
    tree(platform, ended.part("config", "tree"), target.path());
    for path in ["/etc/eclecticiq-nginx/ssl/platform.key", "/etc/eclecticiq-neo4j/neo4j.conf"] {
        let found = std::fs::read(target.path().join(&path[1..])).unwrap();
        assert_eq!(found, std::fs::read(platform.lab.path(path)).unwrap(), "{path}");
    }
}

pub fn dump(platform: &Platform, ended: &Ended) {
    let to = Postgres::start().unwrap();
    let text = stream(platform, ended.part("postgres", "dump"));
    restore_dump(&to.settings, &mut text.as_slice(), &never).unwrap();
    let recorded: PostgresFacts = recorded(ended, "postgres");
    assert_eq!(compare(&recorded, &facts(&to.settings, Method::Dump, &never).unwrap()), []);
    assert!(recorded.databases.iter().any(|database| !database.tables.is_empty()));
}

fn repository(platform: &Platform, ended: &Ended) {
    let server = Elasticsearch::start(true).unwrap();
    let target = tempfile::tempdir().unwrap();
    tree(platform, ended.part("elasticsearch", "repository"), target.path());
    copy(&target.path().join("db-backup/elasticsearch"), &server.location());
    let client = server.client();
    client.register(Access::ReadOnly).unwrap();
    let recorded: ElasticsearchFacts = recorded(ended, "elasticsearch");
    let request =
        Request { snapshot: recorded.snapshot.clone(), indices: Vec::new(), rename: None, global_state: false };
    let restored = client.restore(&request, PATIENCE, &never, &mut |_| {}).unwrap();
    client.wait_for_health(Level::Yellow, PATIENCE, &never).unwrap();
    let found = client.tally(&restored, &never).unwrap();
    assert_eq!(elastic::compare(&elastic::Tally::of(&recorded), &found), Vec::<String>::new());
    assert_eq!(found.documents.values().sum::<u64>(), platform.entities);
}

fn store(platform: &Platform, ended: &Ended) {
    let mut server = Neo4j::prepare().unwrap();
    let target = tempfile::tempdir().unwrap();
    tree(platform, ended.part("neo4j", "store"), target.path());
    copy(&target.path().join("media/neo4j/data"), &server.home().join("data"));
    server.begin();
    let recorded: Neo4jFacts = recorded(ended, "neo4j");
    let found = server.session().counts(None, &never).unwrap();
    assert_eq!(graph::compare(&recorded, &found), Vec::<String>::new());
    assert_eq!(recorded.nodes, platform.entities);
}

fn queues(platform: &Platform, ended: &Ended, queue: &str) {
    let server = Redis::start(&[]).unwrap();
    for role in ["queues", "purged"] {
        server.client().push_back(stream(platform, ended.part("redis", role)).as_slice()).unwrap();
    }
    let found: Vec<String> = redis::Commands::lrange(&mut server.raw(), queue, 0, -1).unwrap();
    assert_eq!(found, ["first", "second"]);
    assert_eq!(ended.component("redis")["facts"]["purged"][queue], 2);
}

/// A data directory in a cluster of its own: what was restored below `target`, with the owners of this machine.
pub fn cluster(target: &Path, data: &str, bin: &Path) -> Postgres {
    let to = Postgres::prepared(bin, &installed().unwrap()).unwrap();
    move_to(&target.join(&data[1..]), &to.data(), &to);
    to
}

fn move_to(from: &Path, to: &Path, cluster: &Postgres) {
    copy(from, to);
    let mut owner = std::ffi::OsString::from("--reference=");
    owner.push(cluster.directory.path());
    assert!(Command::new("chown").arg("-R").arg(owner).arg(to).status().unwrap().success());
}

const DATA: &str = "/media/pgsql/11/data";
const SPACE: &str = "/srv/space";
const LOG: &str = "/srv/write-ahead";

/// A tablespace elsewhere, with a table in it.
fn make_space(platform: &Platform) {
    platform.lab.ok(&["install", "-d", "-o", "postgres", SPACE]);
    platform.sql("platform", &format!("CREATE TABLESPACE far LOCATION '{SPACE}'"));
    platform.sql("platform", "CREATE TABLE there (n int) TABLESPACE far");
}

fn remove_space(platform: &Platform) {
    platform.sql("platform", "DROP TABLE there");
    platform.sql("platform", "DROP TABLESPACE far");
}

/// With a tablespace, and the log on another disk, as guidelines for speed have it.
pub fn the_files_of_postgresql_make_the_same_cluster(platform: &Platform) {
    make_space(platform);
    platform.sql("platform", "INSERT INTO there SELECT generate_series(1, 1000)");
    let with_log = |script: &str| {
        let script = format!("systemctl stop postgresql-11; {script}; systemctl start postgresql-11");
        platform.lab.ok(&["sh", "-ec", &script]);
    };
    with_log(&format!("mv {DATA}/pg_wal {LOG}; ln -s {LOG} {DATA}/pg_wal"));
    let profile = platform.profile("files", &format!("{BARE}[postgres]\nmethod = \"files\"\n"));
    let ended = platform.backup(&profile, &["--only", "postgres"]).must(0);
    with_log(&format!("rm {DATA}/pg_wal; mv {LOG} {DATA}/pg_wal"));
    remove_space(platform);

    let target = tempfile::tempdir().unwrap();
    tree(platform, ended.part("postgres", "files"), target.path());
    let to = cluster(target.path(), DATA, &installed().unwrap());
    let tablespaces = std::fs::read_dir(to.data().join("pg_tblspc")).unwrap().map(|entry| entry.unwrap().path());
    let links: Vec<(PathBuf, &str)> =
        tablespaces.map(|link| (link, SPACE)).chain([(to.data().join("pg_wal"), LOG)]).collect();
    assert_eq!(links.len(), 2);
    for (link, elsewhere) in links {
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new(elsewhere));
        let here = to.directory.path().join(&elsewhere["/srv/".len()..]);
        move_to(&target.path().join(&elsewhere[1..]), &here, &to);
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(here, link).unwrap();
    }
    to.up();
    let (recorded, found): (PostgresFacts, _) =
        (recorded(&ended, "postgres"), facts(&to.settings, Method::Files, &never).unwrap());
    assert_eq!(compare(&recorded, &found), []);
    assert_eq!(recorded.system_id, found.system_id);
    assert_eq!(to.sql("platform", "SELECT count(*) FROM entity"), platform.entities.to_string());
    assert_eq!(to.sql("platform", "SELECT count(*), sum(n) FROM there"), "1000|500500");
}

/// A Redis on the dump that was saved has every key that the first one has.
pub fn the_dump_of_redis_has_every_key(platform: &Platform) {
    platform.redis(&["SET", "kept:text", "some text"]);
    platform.redis(&["RPUSH", "kept:list", "first", "second"]);
    platform.redis(&["HSET", "kept:hash", "field", "value"]);
    let profile = platform.profile("rdb", &format!("{BARE}dump = true\n"));
    // Tasks come and go: what is there all the time counts.
    let keys = || platform.redis(&["KEYS", "*"]).lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let before = keys();
    let ended = platform.backup(&profile, &["--only", "redis"]).must(0);
    let kept: BTreeSet<String> = before.intersection(&keys()).cloned().collect();
    ended.complete(&["redis"]);

    let target = tempfile::tempdir().unwrap();
    tree(platform, ended.part("redis", "rdb"), target.path());
    let directory = target.path().join("media/redis");
    let server = Redis::start(&["--dir", directory.to_str().unwrap()]).unwrap();
    let mut raw = server.raw();
    let found: BTreeSet<String> = redis::Commands::keys(&mut raw, "*").unwrap();
    assert!(kept.len() > 3 && kept.is_subset(&found), "{kept:?} are not all in {found:?}");
    assert_eq!(redis::Commands::get::<_, String>(&mut raw, "kept:text").unwrap(), "some text");
    let list: Vec<String> = redis::Commands::lrange(&mut raw, "kept:list", 0, -1).unwrap();
    assert_eq!(list, ["first", "second"]);
    assert_eq!(redis::Commands::hget::<_, _, String>(&mut raw, "kept:hash", "field").unwrap(), "value");
    platform.redis(&["DEL", "kept:text", "kept:list", "kept:hash"]);
}

pub fn a_base_backup_under_writes_recovers(platform: &Platform) {
    make_space(platform);
    let profile = platform.profile("base", &format!("{BARE}[postgres]\nmethod = \"base\"\n"));

    // At rest: what recovers is what was counted.
    let ended = platform.backup(&profile, &["--only", "postgres"]).must(0);
    let to = recovered(platform, &ended);
    let recorded: PostgresFacts = recorded(&ended, "postgres");
    assert_eq!(compare(&recorded, &facts(&to.settings, Method::Base, &never).unwrap()), []);
    assert!(!recorded.databases.is_empty());
    drop(to);

    // Files come, change and go all the while.
    let stop = AtomicBool::new(false);
    let (ended, before) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let insert = "INSERT INTO there SELECT coalesce(max(n), 0) + 1 FROM there";
                platform.sql("platform", &format!("{insert}; CREATE TABLE passing AS SELECT * FROM entity LIMIT 500"));
                platform.sql("platform", "DROP TABLE passing");
            }
        });
        while platform.sql("platform", "SELECT count(*) > 2 FROM there") == "f" {}
        let before: u64 = platform.sql("platform", "SELECT max(n) FROM there").parse().unwrap();
        let ended = platform.backup(&profile, &["--online", "--only", "postgres"]);
        stop.store(true, Ordering::Relaxed);
        (ended.must(0), before)
    });
    ended.complete(&["postgres"]);
    let to = recovered(platform, &ended);
    let found = to.sql("platform", "SELECT count(*), max(n) FROM there");
    let (rows, last) = found.split_once('|').unwrap();
    assert!(rows == last && last.parse::<u64>().unwrap() >= before, "{found}, {before} before");
    assert_eq!(to.sql("platform", "SELECT count(*) FROM entity"), platform.entities.to_string());
    remove_space(platform);
}

/// A server on what a base backup stored.
fn recovered(platform: &Platform, ended: &Ended) -> Postgres {
    let target = tempfile::tempdir().unwrap();
    for role in ["base", "wal"] {
        tree(platform, ended.part("postgres", role), target.path());
    }
    let to = cluster(target.path(), DATA, &installed().unwrap());
    let space: PathBuf = to.directory.path().join("space");
    move_to(&target.path().join(&SPACE[1..]), &space, &to);
    let label = stream(platform, ended.part("postgres", "label"));
    let map = String::from_utf8(stream(platform, ended.part("postgres", "tablespace-map"))).unwrap();
    assert!(map.contains(SPACE), "{map}");
    let map = map.replace(SPACE, space.to_str().unwrap());
    complete_base(&to.settings, &to.data(), &label, map.as_bytes()).unwrap();
    to.up();
    to
}
