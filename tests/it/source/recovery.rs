//! What a data directory is told for a recovery, and how it is taken away again, without a server.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use cairn::source::postgres::PostgresSettings;
use cairn::source::postgres::recovery::{Target, Until, end_recovery, prepare_recovery};

const AUTO: &str = "postgresql.auto.conf";

fn settings() -> PostgresSettings {
    let user = uzers::get_current_username().unwrap().into_string().unwrap();
    PostgresSettings { user, ..PostgresSettings::default() }
}

fn target() -> Target {
    let until = Until::Time("2026-05-31T12:00:00Z".parse().unwrap());
    Target { until, timeline: None, command: "false".to_owned() }
}

fn data(version: &str, auto: &str) -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("PG_VERSION"), format!("{version}\n")).unwrap();
    fs::write(data.path().join(AUTO), auto).unwrap();
    data
}

fn auto(data: &Path) -> String {
    fs::read_to_string(data.join(AUTO)).unwrap()
}

/// The server itself takes these away when it has recovered.
fn has_recovered(data: &Path) {
    for name in ["recovery.signal", "recovery.conf"] {
        let _ = fs::remove_file(data.join(name));
    }
}

#[test]
fn what_is_told_for_a_recovery_is_taken_away_again() {
    for version in ["11", "12", "15", "17"] {
        let data = data(version, "work_mem = '8MB'");
        prepare_recovery(&settings(), data.path(), &target()).unwrap();
        let told = auto(data.path());
        assert!(told.starts_with("work_mem = '8MB'\n") && told.contains("archive_command = ''"), "{told}");
        // It would ask for what comes after the end, and that may be a gap; older versions know no such setting.
        assert_eq!(told.contains("recovery_prefetch = 'off'"), version >= "15", "{version}: {told}");
        has_recovered(data.path());
        end_recovery(&settings(), data.path()).unwrap();
        assert_eq!(auto(data.path()), "work_mem = '8MB'\n");
    }
}

/// `ALTER SYSTEM` leaves no comments: what is ours cannot be told from what is not.
#[test]
fn settings_whose_mark_is_gone_are_no_success() {
    let data = data("15", "");
    prepare_recovery(&settings(), data.path(), &target()).unwrap();
    has_recovered(data.path());
    let rewritten: String =
        auto(data.path()).lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    fs::write(data.path().join(AUTO), &rewritten).unwrap();
    let error = end_recovery(&settings(), data.path()).unwrap_err().to_string();
    for word in ["ALTER SYSTEM", "archive_command", "restore_command", "hot_standby", AUTO] {
        assert!(error.contains(word), "{error}");
    }
    assert_eq!(auto(data.path()), rewritten);
}

/// The server's account could have what only we may read given to it.
#[test]
fn settings_are_read_through_no_link_and_wait_for_nobody() {
    let secret = tempfile::tempdir().unwrap();
    fs::write(secret.path().join("shadow"), "root:secret").unwrap();
    for begun in [false, true] {
        for pipe in [false, true] {
            let data = data("15", "");
            let place = data.path().join(AUTO);
            fs::remove_file(&place).unwrap();
            match pipe {
                true => assert!(Command::new("mkfifo").arg(&place).status().unwrap().success()),
                false => symlink(secret.path().join("shadow"), &place).unwrap(),
            }
            let told = match begun {
                true => end_recovery(&settings(), data.path()),
                false => prepare_recovery(&settings(), data.path(), &target()),
            };
            let error = format!("{:?}", told.unwrap_err());
            assert!(error.contains(AUTO), "{error}");
            assert!(!place.symlink_metadata().unwrap().is_file(), "it was replaced");
            assert!(!data.path().join("recovery.signal").exists());
        }
    }
    // A directory that says its version through a link is none either.
    let data = data("15", "");
    fs::remove_file(data.path().join("PG_VERSION")).unwrap();
    symlink(secret.path().join("shadow"), data.path().join("PG_VERSION")).unwrap();
    let error = format!("{:?}", prepare_recovery(&settings(), data.path(), &target()).unwrap_err());
    assert!(!error.contains("secret"), "{error}");
}
