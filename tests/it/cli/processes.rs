//! Real processes that are killed, interrupted, or out of space.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use super::{Place, assert_fails, text};
use crate::support::machine::Tmpfs;

#[test]
fn a_killed_backup_leaves_a_sound_repository_and_the_next_one_works() {
    let place = Place::new();
    place.store("db", &crate::support::rows(1, 2000));
    for round in 0..8u64 {
        let mut child = place.command();
        let mut child = child
            .args(["backup", "--stdin", "--name", "db"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        for part in 0..=round {
            // The process may be gone in the middle of a write.
            let _ = input.write_all(&crate::support::rows(round * 100 + part, 20_000));
        }
        std::thread::sleep(std::time::Duration::from_millis(round * 17));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
    place.ok(&["check", "--read-data"]);
    assert_eq!(place.count(), 1);
    let bytes = crate::support::rows(3, 5000);
    place.store("db", &bytes);
    assert!(place.ok(&["cat", "db"]).stdout == bytes);
    // The killed processes' leases stop nothing, and what they left is reclaimed.
    let report = text(&place.ok(&["--json", "gc", "--grace", "0s"]).stdout);
    assert!(report.contains("\"waiting_for\":null"), "{report}");
    place.ok(&["check", "--read-data"]);
    assert!(place.ok(&["cat", "db"]).stdout == bytes);
    assert_eq!(std::fs::read_dir(place.path().join("repo/leases")).unwrap().count(), 0);
}

#[test]
fn an_interrupted_backup_ends_with_130() {
    let place = Place::new();
    let mut command = place.command();
    let mut child = command
        .args(["backup", "--stdin", "--name", "db"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"some").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let _ = input.write_all(b" more");
    drop(input);
    assert_fails(child.wait_with_output().unwrap(), 130, &["interrupted"]);
    assert_eq!(place.count(), 0);
}

#[test]
fn a_full_disk_is_one_clear_error_and_loses_nothing() {
    let place = Place::empty();
    let mount = place.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let Some(_mounted) = Tmpfs::mount(&mount, "2m") else { return };
    let repo = mount.join("repo");
    let on = |args: &[&str]| place.command().arg("--repo").arg(&repo).args(args).output().unwrap();
    assert!(on(&["init"]).status.success());
    assert!(on(&["backup", "--command", "--name", "small", "--", "seq", "1", "1000"]).status.success());
    let script = "head -c 6000000 /dev/urandom";
    assert_fails(
        on(&["backup", "--command", "--name", "big", "--", "sh", "-c", script]),
        1,
        &["no space left", "small/repo"],
    );
    assert!(on(&["check", "--read-data"]).status.success());
    let listed = text(&on(&["snapshots"]).stdout);
    assert!(listed.contains("small") && !listed.contains(" big "), "{listed}");
}
