//! What a running server says of itself.

use std::time::Duration;

use cairn::source::SourceError;
use cairn::source::postgres::{Cluster, Scope, counts, tools};

use super::{cluster, never};
use crate::servers::postgres::{Postgres, installed};

#[test]
fn a_server_is_asked_who_and_where_it_is() {
    let postgres = cluster!(Postgres::start());
    let cluster = Cluster::connect(&postgres.settings).unwrap();
    let version = cluster.version().unwrap();
    assert!(postgres.sql("postgres", "SHOW server_version").starts_with(&version.text));
    let at = cluster.coordinates().unwrap();
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    assert_eq!((at.system_id, at.timeline), (postgres.sql("postgres", identifier), 1));
    assert!(at.lsn.starts_with("0/"), "{}", at.lsn);
    assert_eq!(cluster.data_directory().unwrap(), postgres.data());
    let names: Vec<String> = cluster.databases().unwrap().into_iter().map(|database| database.name).collect();
    assert_eq!(names, ["template1", "postgres"]);
    for tool in tools(&postgres.settings, &never) {
        assert_eq!(tool.unfit_for(&version), None);
    }
}

#[test]
fn sessions_at_work_are_seen() {
    let postgres = cluster!(Postgres::start());
    let cluster = Cluster::connect(&postgres.settings).unwrap();
    let quiet = cluster.activity().unwrap();
    assert_eq!((quiet.clients, quiet.busy.len(), quiet.prepared_transactions), (0, 0, 0));
    let mut worker = postgres.client("psql");
    worker.args(["-X", "-d", "postgres", "-c", "SELECT pg_sleep(300)"]);
    let mut worker = worker.stdout(std::process::Stdio::null()).spawn().unwrap();
    let busy = loop {
        let activity = cluster.activity().unwrap();
        if let [session] = &activity.busy[..] {
            assert_eq!(activity.clients, 1);
            break session.clone();
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!((busy.state.as_str(), busy.application.as_str()), ("active", "psql"));
    worker.kill().unwrap();
    worker.wait().unwrap();
}

#[test]
fn a_transaction_is_as_old_as_its_beginning_however_young_its_last_statement_is() {
    let postgres = cluster!(Postgres::start());
    let cluster = Cluster::connect(&postgres.settings).unwrap();
    let mut worker = postgres.client("psql");
    let script = "BEGIN; SELECT pg_sleep(3);\n".to_owned() + &"SELECT pg_sleep(0.1);\n".repeat(6000);
    worker.args(["-X", "-d", "postgres"]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut worker = worker.spawn().unwrap();
    let mut input = worker.stdin.take().unwrap();
    let writer = std::thread::spawn(move || drop(std::io::Write::write_all(&mut input, script.as_bytes())));
    let started = std::time::Instant::now();
    loop {
        let activity = cluster.activity().unwrap();
        if let [session] = &activity.busy[..]
            && session.transaction > session.since + Duration::from_secs(1)
        {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{activity:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    worker.kill().unwrap();
    worker.wait().unwrap();
    writer.join().unwrap();
    assert!(cluster.is_superuser().unwrap());
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let postgres = cluster!(Postgres::start());
    postgres.down("fast");
    let error = Cluster::connect(&postgres.settings).err().unwrap();
    let SourceError::Server { server, .. } = &error else { panic!("{error}") };
    assert!(server.contains(".s.PGSQL.5432"), "{server}");
}

#[test]
fn tools_older_than_the_server_are_refused_before_they_are_needed() {
    let mut postgres = cluster!(Postgres::prepared(&cluster!(installed()), &cluster!(installed())));
    let version = tools(&postgres.settings, &never).remove(0).version.unwrap();
    let newer = cairn::source::postgres::Version { major: version.major + 1, text: "newer".to_owned() };
    assert!(tools(&postgres.settings, &never).iter().all(|tool| tool.unfit_for(&newer).unwrap().contains("newer")));
    postgres.settings.bin_directory = "/no/such/place".into();
    assert!(tools(&postgres.settings, &never).iter().all(|tool| tool.unfit_for(&version).is_some()));
}

#[test]
fn a_count_can_be_given_up() {
    let postgres = cluster!(Postgres::start());
    postgres.sql("postgres", "CREATE FUNCTION slow() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM pg_sleep(300)'");
    postgres.sql("postgres", "CREATE TABLE t (a int)");
    let started = std::time::Instant::now();
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 2
    };
    postgres.sql("postgres", "INSERT INTO t SELECT generate_series(1, 3000000)");
    let loaded = started.elapsed();
    let error = counts(&postgres.settings, "postgres", Scope::All, &stop).unwrap_err();
    assert!(matches!(error, SourceError::Interrupted), "{error}");
    assert!(started.elapsed() < loaded + Duration::from_secs(60));
    // The server has given it up as well.
    let working = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%md5%' AND state = 'active' AND pid <> pg_backend_pid()";
    while postgres.sql("postgres", working) != "0" {
        assert!(started.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(100));
    }
}
