//! A cluster as files: at rest, and while it runs.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cairn::source::SourceError;
use cairn::source::files::Patterns;
use cairn::source::postgres::{
    BaseBackup, Method, at_rest, compare, complete_base, data_layout, facts, is_running, wait_until_recovered,
};
use rustix::process::{Pid, Signal, kill_process};

use super::{cluster, never, seed};
use crate::servers::postgres::{Postgres, directory, installed, version_11};

/// Copies a tree with its owners; what vanishes meanwhile is left out, as the driver says it may be.
fn copy(from: &Path, to: &Path, excludes: &Patterns) {
    let Ok(found) = from.symlink_metadata() else { return };
    if excludes.matches(&from.as_os_str().as_bytes()[1..], found.is_dir()) {
        return;
    }
    if found.is_symlink() {
        symlink(std::fs::read_link(from).unwrap(), to).unwrap();
    } else if found.is_dir() {
        std::fs::create_dir(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy(&from.join(&name), &to.join(&name), excludes);
        }
        std::fs::set_permissions(to, found.permissions()).unwrap();
    } else if found.is_file() && std::fs::copy(from, to).is_err() {
        return;
    }
    lchown(to, Some(found.uid()), Some(found.gid())).unwrap();
}

#[test]
fn files_are_taken_only_from_a_cluster_at_rest_and_make_the_same_cluster() {
    let (from, to) =
        (cluster!(Postgres::start()), cluster!(Postgres::prepared(&cluster!(installed()), &cluster!(installed()))));
    seed(&from);
    let layout = data_layout(&from.settings).unwrap();
    assert_eq!((layout.data.clone(), layout.roots().len()), (from.data(), 1));
    let pid = is_running(&layout.data).unwrap().unwrap();
    let error = at_rest(&from.settings, &layout, &never).unwrap_err().to_string();
    assert!(error.contains(&format!("process {pid} works on it")), "{error}");

    // Without its file, the server is still found.
    let file = layout.data.join("postmaster.pid");
    let text = std::fs::read_to_string(&file).unwrap();
    let aside = layout.data.join("aside");
    std::fs::rename(&file, &aside).unwrap();
    assert!(is_running(&layout.data).unwrap().is_some());
    std::fs::rename(&aside, &file).unwrap();

    from.down("immediate");
    let error = at_rest(&from.settings, &layout, &never).unwrap_err().to_string();
    assert!(error.contains("did not end cleanly"), "{error}");
    from.up();
    let recorded = facts(&from.settings, Method::Files, &never).unwrap();
    from.down("fast");
    let before = at_rest(&from.settings, &layout, &never).unwrap();
    assert_eq!((&before.system_id, before.timeline, before.state.as_str()), (&recorded.system_id, 1, "shut down"));
    // A file that a crash has left: its process is gone, or is another program's by now.
    for stale in [
        text.replacen(&pid.to_string(), "999999999", 1),
        text.replacen(&pid.to_string(), &std::process::id().to_string(), 1),
    ] {
        std::fs::write(&file, stale).unwrap();
        assert_eq!(is_running(&layout.data).unwrap(), None);
    }
    std::fs::remove_file(&file).unwrap();
    copy(&layout.data, &to.data(), &Patterns::default());
    assert_eq!(at_rest(&from.settings, &layout, &never).unwrap(), before);
    to.up();
    let found = facts(&to.settings, Method::Files, &never).unwrap();
    assert_eq!(compare(&recorded, &found), []);
    assert_eq!(found.system_id, recorded.system_id);
}

/// Base backup of a cluster that is written to all the while, with a tablespace, restored into another directory.
fn base(from: &Postgres, to: &Postgres) {
    seed(from);
    let space = from.directory.path().join("space");
    std::fs::create_dir(&space).unwrap();
    let owner = from.data().metadata().unwrap();
    lchown(&space, Some(owner.uid()), Some(owner.gid())).unwrap();
    from.sql("platform", &format!("CREATE TABLESPACE far LOCATION '{}'", space.display()));
    from.sql("platform", "CREATE TABLE there (a int) TABLESPACE far; CREATE INDEX ON there (a) TABLESPACE far");
    let ended = AtomicBool::new(false);
    let spaces = to.directory.path().join("spaces");
    let (end, recorded) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 100_000;
            while !ended.load(Ordering::Relaxed) && turn < 101_000 {
                turn += 1;
                let sql = format!(
                    "INSERT INTO entity (id) VALUES ({turn}); INSERT INTO there SELECT generate_series(1, 1000); \
                     CREATE TABLE passing AS SELECT * FROM entity; DROP TABLE passing; UPDATE cache SET a = {turn}"
                );
                from.sql("platform", &sql);
            }
        });
        let backup = BaseBackup::start(&from.settings, "a test", &never).unwrap();
        let excludes = Patterns::new(backup.excludes().unwrap()).unwrap();
        let roots = backup.roots().unwrap();
        assert_eq!(roots.len(), 2);
        // Log goes by that a server without a slot would recycle.
        from.sql("platform", "SELECT pg_switch_wal(); CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT");
        copy(&roots[0], &to.data(), &excludes);
        std::fs::create_dir(&spaces).unwrap();
        copy(&roots[1], &spaces.join(roots[1].file_name().unwrap()), &excludes);
        ended.store(true, Ordering::Relaxed);
        while from.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'platform'") != "0" {}
        let recorded = facts(&from.settings, Method::Base, &never).unwrap();
        assert_eq!(backup.facts().system_id, recorded.system_id);
        (backup.finish(&never).unwrap(), recorded)
    });
    for left_out in ["postmaster.pid", "postmaster.opts", "backup_label"] {
        assert!(!to.data().join(left_out).exists(), "{left_out}");
    }
    assert!(end.segments.len() > 1 && std::fs::read_dir(to.data().join("pg_wal")).unwrap().next().is_none());
    assert_eq!(from.sql("postgres", "SELECT count(*) FROM pg_replication_slots WHERE temporary"), "1");
    let refused = complete_base(&to.settings, &to.data(), &end.label, &end.tablespace_map).unwrap_err().to_string();
    assert!(refused.contains("where recovery begins"), "{refused}");
    for segment in &end.segments {
        copy(segment, &to.data().join("pg_wal").join(segment.file_name().unwrap()), &Patterns::default());
    }
    complete_base(&to.settings, &to.data(), &end.label, &end.tablespace_map).unwrap();
    drop(end);
    // The tablespace's place is on this machine: the first cluster makes room for the second.
    from.down("fast");
    std::fs::rename(&space, from.directory.path().join("gone")).unwrap();
    copy(&spaces, &space, &Patterns::default());
    lchown(&space, Some(owner.uid()), Some(owner.gid())).unwrap();
    to.up();
    let found = facts(&to.settings, Method::Base, &never).unwrap();
    assert_eq!(compare(&recorded, &found), []);
    assert!(
        recorded
            .databases
            .iter()
            .any(|database| database.tables.iter().any(|table| table.name == "there" && table.rows > 0))
    );
    // An unlogged table is empty after recovery, and was not counted.
    assert_eq!(to.sql("platform", "SELECT count(*) FROM cache"), "0");
}

#[test]
fn a_base_backup_taken_under_writes_starts_with_the_rows_of_its_end() {
    let to = cluster!(Postgres::prepared(&cluster!(installed()), &cluster!(installed())));
    base(&cluster!(Postgres::start()), &to);
}

#[test]
fn a_base_backup_of_version_11_starts_with_the_rows_of_its_end() {
    let unpacked = cluster!(directory());
    let (old, new) = (cluster!(version_11(unpacked.path())), cluster!(installed()));
    base(&cluster!(Postgres::with(&old, &new)), &cluster!(Postgres::prepared(&old, &new)));
}

#[test]
fn a_base_backup_whose_session_is_lost_does_not_end_well() {
    let from = cluster!(Postgres::start());
    let backup = BaseBackup::start(&from.settings, "a test", &never).unwrap();
    from.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cairn'");
    assert!(backup.finish(&never).is_err());
}

/// It used to be waited for twenty seconds more, and one that did not come up, too.
#[test]
fn a_server_that_dies_while_it_recovers_is_told_at_once() {
    let server = cluster!(Postgres::start());
    server.down("fast");
    let (data, settings) = (server.data(), &server.settings);
    let began = Instant::now();
    let error = wait_until_recovered(settings, &data, &|| Ok(false), &never).unwrap_err();
    assert!(matches!(error, SourceError::Server { .. }), "{error}");
    // A recovery that does not end by itself.
    std::fs::write(data.join("standby.signal"), "").unwrap();
    let file = data.join("postgresql.auto.conf");
    std::fs::write(&file, "hot_standby = off\n").unwrap();
    server.up();
    let pid = is_running(&data).unwrap().unwrap();
    let looks = AtomicUsize::new(0);
    let error = std::thread::scope(|scope| {
        let looked = || looks.fetch_add(1, Ordering::Relaxed) == usize::MAX;
        let waiting = scope.spawn(move || wait_until_recovered(settings, &data, &|| Ok(true), &looked));
        while looks.load(Ordering::Relaxed) < 5 {
            assert!(!waiting.is_finished(), "{:?}", waiting.join());
            std::thread::sleep(Duration::from_millis(10));
        }
        kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
        waiting.join().unwrap().unwrap_err().to_string()
    });
    assert!(error.contains("has ended before it had recovered"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
