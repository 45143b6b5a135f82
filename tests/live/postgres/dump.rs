//! A cluster as SQL, and back.

use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn::source::SourceError;
use cairn::source::postgres::{Cluster, Dump, Method, compare, contents, facts, restore_dump, tools};
use rustix::process::{Pid, Signal, kill_process};

use super::{ODD, cluster, dumped, failure, never, seed, seed_extensions, table};
use crate::servers::postgres::{Postgres, directory, fed, installed, version_11};

fn words(differences: &[cairn::source::postgres::Difference]) -> Vec<String> {
    differences.iter().map(ToString::to_string).collect()
}

#[test]
fn a_cluster_with_everything_comes_back_equal() {
    let (from, to) = (cluster!(Postgres::start()), cluster!(Postgres::start()));
    seed(&from);
    seed_extensions(&from);
    assert_eq!(contents(&to.settings).unwrap(), Vec::<String>::new());
    let (text, recorded) = dumped(&from);
    assert_eq!(table(&recorded, "platform", "entity").rows, 19_999);
    assert_eq!(table(&recorded, "platform", "event_1").rows, 31);
    assert_eq!(table(&recorded, "platform", "pg_largeobject").rows, 2);
    assert_eq!(table(&recorded, "platform", "base").rows, 1);
    assert_eq!(table(&recorded, ODD, "t").rows, 1);
    assert!(recorded.databases.iter().all(|database| database.tables.iter().all(|table| table.checksum.is_some())));
    let names: Vec<&str> = recorded.databases.iter().map(|database| database.name.as_str()).collect();
    assert_eq!(names, ["template1", ODD, "platform", "postgres"]);
    let platform = recorded.databases.iter().find(|database| database.name == "platform").unwrap();
    assert!(platform.tables.iter().all(|table| !matches!(table.name.as_str(), "event" | "summary" | "far_away")));
    restore_dump(&to.settings, &mut text.as_slice(), &never).unwrap();
    let found = facts(&to.settings, Method::Dump, &never).unwrap();
    assert_eq!(words(&compare(&recorded, &found)), Vec::<String>::new());
    assert!(contents(&to.settings).unwrap().contains(&"role \"app\"".to_owned()));
    assert_eq!(to.sql("platform", "SHOW datestyle"), "German, DMY");
    assert_eq!(to.sql("platform", "SELECT count FROM summary"), "19999");

    // One row that changed, one that is gone, one table that is gone, one that is new.
    to.sql("platform", "UPDATE entity SET data = data || '{\"type\": \"changed\"}' WHERE id = 4711");
    to.sql("platform", "DELETE FROM event WHERE what = '3'; DROP TABLE empty; CREATE TABLE \"new\" (a int)");
    let found = facts(&to.settings, Method::Dump, &never).unwrap();
    assert_eq!(
        words(&compare(&recorded, &found)),
        [
            "database \"platform\", table \"public\".\"empty\": its 0 rows were recorded, and it is not there",
            "database \"platform\", table \"public\".\"entity\": its 19999 rows do not have the content that was recorded",
            "database \"platform\", table \"public\".\"event_1\": 31 rows were recorded, and 30 are there",
            "database \"platform\", table \"public\".\"new\": it is there with 0 rows, and was not recorded",
        ]
    );
    // A cluster that holds it already is refused by psql.
    let error = restore_dump(&to.settings, &mut text.as_slice(), &never).unwrap_err().to_string();
    assert!(error.contains("already exists"), "{error}");
}

#[test]
fn one_psql_restores_it() {
    let (from, to) = (cluster!(Postgres::start()), cluster!(Postgres::start()));
    seed(&from);
    let (text, recorded) = dumped(&from);
    let mut psql = to.client("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f", "-"]);
    let output = fed(psql, &text);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = facts(&to.settings, Method::Dump, &never).unwrap();
    assert_eq!(words(&compare(&recorded, &found)), Vec::<String>::new());
}

#[test]
fn version_11_is_dumped_and_restored_into_a_newer_one() {
    let unpacked = cluster!(directory());
    let old = cluster!(version_11(unpacked.path()));
    let (from, to) = (cluster!(Postgres::with(&old, &cluster!(installed()))), cluster!(Postgres::start()));
    seed(&from);
    let version = Cluster::connect(&from.settings).unwrap().version().unwrap();
    assert_eq!(version.major, 11);
    // The dump is in the words of the program's version, so it does not go back into version 11: that is told.
    let tools = tools(&from.settings, &never);
    let advice = tools.iter().find(|tool| tool.name == "pg_dump").unwrap().advice_for(&version).unwrap();
    assert!(advice.contains("11"), "{advice}");
    let (text, recorded) = dumped(&from);
    restore_dump(&to.settings, &mut text.as_slice(), &never).unwrap();
    let found = facts(&to.settings, Method::Dump, &never).unwrap();
    assert_eq!(words(&compare(&recorded, &found)), Vec::<String>::new());
}

#[test]
fn what_is_written_during_a_dump_is_in_neither_the_dump_nor_its_facts() {
    let (from, to) = (cluster!(Postgres::start()), cluster!(Postgres::start()));
    seed(&from);
    let ended = AtomicBool::new(false);
    let (text, recorded) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 100_000;
            while !ended.load(Ordering::Relaxed) && turn < 101_000 {
                turn += 1;
                let sql = format!(
                    "INSERT INTO entity (id) VALUES ({turn}); UPDATE entity SET score = {turn} WHERE id = {}; \
                     DELETE FROM event WHERE what = '{}'",
                    turn - 100_000,
                    turn % 50
                );
                from.sql("platform", &sql);
            }
        });
        let result = dumped(&from);
        ended.store(true, Ordering::Relaxed);
        result
    });
    restore_dump(&to.settings, &mut text.as_slice(), &never).unwrap();
    let found = facts(&to.settings, Method::Dump, &never).unwrap();
    assert_eq!(words(&compare(&recorded, &found)), Vec::<String>::new());
    assert!(!compare(&recorded, &facts(&from.settings, Method::Dump, &never).unwrap()).is_empty());
}

/// Makes the platform's database too large for a pipe, so that a dump cannot run ahead of its reader.
fn enlarge(postgres: &Postgres) {
    postgres.sql("platform", "CREATE TABLE bulk AS SELECT i, md5(i::text) FROM generate_series(1, 200000) i");
}

/// Reads until the platform's database is being dumped.
fn read_into_bulk(dump: &mut Dump<'_>) -> u32 {
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("COPY public.bulk") {
        let length = dump.read(&mut piece).unwrap();
        assert!(length > 0);
        seen.extend_from_slice(&piece[..length]);
    }
    dump.process().unwrap()
}

#[test]
fn a_dump_whose_program_is_killed_has_no_facts() {
    let postgres = cluster!(Postgres::start());
    seed(&postgres);
    enlarge(&postgres);
    let mut dump = Dump::start(&postgres.settings, &never).unwrap();
    let pid = read_into_bulk(&mut dump);
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let error = failure(dump);
    assert!(error.to_string().contains("signal 9"), "{error}");
}

#[test]
fn a_dump_whose_server_crashes_has_no_facts() {
    let postgres = cluster!(Postgres::start());
    seed(&postgres);
    enlarge(&postgres);
    let mut dump = Dump::start(&postgres.settings, &never).unwrap();
    read_into_bulk(&mut dump);
    postgres.down("immediate");
    failure(dump);
}

#[test]
fn a_dump_that_is_not_read_to_its_end_has_no_facts_and_leaves_nothing_running() {
    let postgres = cluster!(Postgres::start());
    seed(&postgres);
    enlarge(&postgres);
    let mut dump = Dump::start(&postgres.settings, &never).unwrap();
    let pid = read_into_bulk(&mut dump);
    let error = dump.finish().unwrap_err();
    assert!(error.to_string().contains("not read to its end"), "{error}");
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());

    let asked = AtomicBool::new(false);
    let stop = || asked.load(Ordering::Relaxed);
    let mut dump = Dump::start(&postgres.settings, &stop).unwrap();
    read_into_bulk(&mut dump);
    asked.store(true, Ordering::Relaxed);
    let error = failure(dump);
    assert!(matches!(error, SourceError::Interrupted), "{error}");
}

/// Programs of which one is a script of ours.
fn replaced(postgres: &mut Postgres, name: &str, script: &str) -> PathBuf {
    let real = postgres.settings.bin_directory.join(name);
    let bin = postgres.directory.path().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    for tool in ["pg_dump", "pg_dumpall", "psql"] {
        let _ = std::fs::remove_file(bin.join(tool));
        if tool != name {
            symlink(postgres.settings.bin_directory.join(tool), bin.join(tool)).unwrap();
        }
    }
    let text = format!("#!/bin/sh\n{}\n", script.replace("REAL", real.to_str().unwrap()));
    std::fs::write(bin.join(name), text).unwrap();
    std::fs::set_permissions(bin.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    std::mem::replace(&mut postgres.settings.bin_directory, bin)
}

#[test]
fn programs_that_fail_or_lie_are_not_believed() {
    let mut postgres = cluster!(Postgres::start());
    seed(&postgres);
    for script in ["REAL \"$@\" | head -c 300; kill -9 $$", "REAL \"$@\" | head -c 300", "exit 0"] {
        let real = replaced(&mut postgres, "pg_dumpall", script);
        let error = Dump::start(&postgres.settings, &never).err().unwrap();
        assert!(error.to_string().contains("not trusted"), "{script}: {error}");
        postgres.settings.bin_directory = real;
    }
    // Ends well, but without the last of its output; writes it all, but ends badly.
    for script in ["REAL \"$@\" | head -n -6", "exit 0", "REAL \"$@\"; exit 1"] {
        let real = replaced(&mut postgres, "pg_dump", script);
        let error = failure(Dump::start(&postgres.settings, &never).unwrap());
        assert!(error.to_string().contains("not trusted"), "{script}: {error}");
        postgres.settings.bin_directory = real;
    }
}

#[test]
fn a_locked_table_ends_the_dump_in_time() {
    let mut postgres = cluster!(Postgres::start());
    seed(&postgres);
    postgres.settings.lock_timeout_seconds = 1;
    let mut holder = postgres.client("psql");
    holder.args(["-X", "-d", "platform", "-c", "BEGIN; LOCK TABLE entity; SELECT pg_sleep(300)"]);
    let mut holder = holder.stdout(std::process::Stdio::null()).spawn().unwrap();
    let locked = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'entity'::regclass";
    while postgres.sql("platform", locked) != "1" {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let error = failure(Dump::start(&postgres.settings, &never).unwrap());
    assert!(matches!(error, SourceError::Server { .. }), "{error}");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_dump_that_was_cut_is_not_restored_without_an_error() {
    let from = cluster!(Postgres::start());
    seed(&from);
    let (text, _) = dumped(&from);
    let end = text.windows(8).rposition(|bytes| bytes == b"\n-- Data").unwrap();
    for cut in [end, text.len() / 2, 0] {
        let to = cluster!(Postgres::start());
        let error = restore_dump(&to.settings, &mut &text[..cut], &never).unwrap_err();
        assert!(error.to_string().contains("mark") || error.to_string().contains("psql"), "{error}");
    }
}
