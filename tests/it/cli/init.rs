//! Making a repository: also where an attempt was cut short before.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Place, assert_fails, text};
use crate::support::machine::Tmpfs;

#[test]
fn an_init_that_was_killed_barred_its_place() {
    for microseconds in (0..12_000).step_by(400) {
        let place = Place::empty();
        let mut child = place.command().arg("init").stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(microseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        if !place.path().join("repo/config").exists() {
            place.ok(&["init"]);
        }
        place.store("db", b"content");
        assert_eq!(text(&place.ok(&["key", "list"]).stdout).lines().count(), 1, "a key was left over");
        place.ok(&["check", "--read-data"]);
    }
}

#[test]
fn what_an_init_left_is_taken_over_with_its_keys_and_nothing_else_is_touched() {
    let place = Place::new();
    let repo = place.path().join("repo");
    // As after a crash between the key and the configuration.
    std::fs::remove_file(repo.join("config")).unwrap();
    std::fs::write(repo.join("tmp/.tmpAbc"), "half an object").unwrap();
    std::fs::remove_dir(repo.join("sets")).unwrap();
    place.fails(&["snapshots"], 10, &["no repository", "cairn init"]);
    place.ok(&["init"]);
    assert_eq!(text(&place.ok(&["key", "list"]).stdout).lines().count(), 1);
    place.store("db", b"content");
    place.fails(&["init"], 1, &["a repository", "another place"]);
    // A repository that has lost its configuration is no leftover.
    let config = std::fs::read(repo.join("config")).unwrap();
    std::fs::remove_file(repo.join("config")).unwrap();
    place.fails(&["init"], 1, &["not empty", "data", "Nothing was changed"]);
    std::fs::write(repo.join("config"), config).unwrap();
    assert_eq!(place.ok(&["cat", "db"]).stdout, b"content");
}

#[test]
fn an_init_on_a_full_disk_can_be_repeated() {
    let place = Place::empty();
    let mount = place.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let Some(_mounted) = Tmpfs::mount(&mount, "64k") else { return };
    let filler = mount.join("filler");
    let mut filled = Command::new("dd");
    filled.arg("if=/dev/zero").arg(format!("of={}", filler.display())).stderr(Stdio::null()).status().unwrap();
    let on = |args: &[&str]| place.command().arg("--repo").arg(mount.join("repo")).args(args).output().unwrap();
    assert_fails(on(&["init"]), 1, &["no space left", "small/repo", "enlarge"]);
    std::fs::remove_file(&filler).unwrap();
    let made = on(&["init"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert!(on(&["snapshots"]).status.success());
}
