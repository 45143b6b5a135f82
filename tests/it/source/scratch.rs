//! Directories for servers that are needed for a while, and clusters in them, without a server.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cairn::source::postgres::{PostgresSettings, ScratchCluster, own_log};
use cairn::source::scratch::Scratch;

use crate::support::machine::Tmpfs;

fn settings() -> PostgresSettings {
    let user = uzers::get_current_username().unwrap().into_string().unwrap();
    PostgresSettings { user, ..PostgresSettings::default() }
}

/// What is elsewhere and in use, with a file in it.
fn elsewhere(place: &Path, name: &str) -> PathBuf {
    let path = place.join(name);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("000000010000000000000001"), "in use").unwrap();
    path
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).unwrap().is_symlink()
}

#[test]
fn no_link_of_a_restored_cluster_leads_out() {
    let place = tempfile::tempdir().unwrap();
    let (space, log) = (elsewhere(place.path(), "space"), elsewhere(place.path(), "wal"));
    let directory = place.path().join("postgres");
    let cluster = ScratchCluster::plan(&settings(), &directory).unwrap();
    fs::create_dir_all(cluster.data.join("pg_tblspc")).unwrap();
    symlink(&space, cluster.data.join("pg_tblspc/16400")).unwrap();
    symlink(&log, cluster.data.join("pg_wal")).unwrap();
    for name in ["recovery.signal", "standby.signal", "recovery.conf"] {
        fs::write(cluster.data.join(name), "").unwrap();
    }
    fs::write(cluster.data.join("postgresql.auto.conf"), "archive_command = 'rm -rf /'").unwrap();

    // What is not in the set, or lies elsewhere, is not followed.
    let outside = BTreeMap::from([(space.clone(), PathBuf::from("/media/pgsql/space"))]);
    for unfit in [&BTreeMap::new(), &outside] {
        let error = cluster.defuse(unfit).unwrap_err().to_string();
        assert!(error.contains("not in the set"), "{error}");
    }
    let moved = BTreeMap::from([(space.clone(), cluster.beside(0)), (log.clone(), cluster.beside(1))]);
    cluster.defuse(&moved).unwrap();
    assert_eq!(fs::read_link(cluster.data.join("pg_tblspc/16400")).unwrap(), cluster.beside(0));
    assert_eq!(fs::read_link(cluster.data.join("pg_wal")).unwrap(), cluster.beside(1));
    assert_eq!(fs::read_to_string(cluster.data.join("postgresql.auto.conf")).unwrap(), "");
    assert_eq!(fs::read_dir(&cluster.data).unwrap().count(), 3, "nothing makes it follow another server");
    for used in [space, log] {
        assert_eq!(fs::read_to_string(used.join("000000010000000000000001")).unwrap(), "in use");
    }
}

#[test]
fn the_log_of_a_base_backup_does_not_go_where_a_link_leads() {
    let place = tempfile::tempdir().unwrap();
    let used = elsewhere(place.path(), "wal");
    symlink(&used, place.path().join("pg_wal")).unwrap();
    for _ in 0..2 {
        let log = own_log(&settings(), place.path()).unwrap();
        assert!(log.is_dir() && !is_link(&log));
        assert_eq!(fs::read_dir(&log).unwrap().count(), 0);
    }
    assert_eq!(fs::read_dir(&used).unwrap().count(), 1);
}

#[test]
fn only_a_directory_that_was_made_for_servers_is_removed() {
    let place = tempfile::tempdir().unwrap();
    let kept = elsewhere(place.path(), "data");
    let error = Scratch::at(&kept).end().unwrap_err().to_string();
    assert!(error.contains("nothing was removed"), "{error}");
    let link = Scratch::plan(place.path(), "1");
    symlink(&kept, link.path()).unwrap();
    let error = link.end().unwrap_err().to_string();
    assert!(error.contains("not the directory that was made"), "{error}");

    let scratch = Scratch::plan(place.path(), "2");
    scratch.make().unwrap();
    assert!(scratch.make().is_err(), "never one that is there");
    let within = scratch.directory("postgres", None).unwrap();
    symlink(&kept, within.join("link")).unwrap();
    if let Some(mounted) = Tmpfs::mount(&within, "1m") {
        let error = scratch.end().unwrap_err().to_string();
        assert!(error.contains("something is mounted in it"), "{error}");
        drop(mounted);
    }
    for _ in 0..2 {
        assert_eq!(scratch.end().unwrap(), 0);
        assert!(!scratch.path().exists());
    }
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 1, "links are not followed");
}
