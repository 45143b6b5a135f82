//! A disk that is full: every command says what helps, and forget and gc give space back.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{Place, assert_fails, text};
use crate::support::machine::Tmpfs;

/// A repository on a disk of 24 MiB that backups have filled, and how many of them were stored.
fn filled(place: &Place, mount: &Path) -> usize {
    assert!(on(place, mount, &["init"]).status.success());
    for number in 1..20 {
        let name = format!("db{number}");
        let stored =
            on(place, mount, &["backup", "--command", "--name", &name, "--", "head", "-c", "4000000", "/dev/urandom"]);
        if !stored.status.success() {
            assert_fails(stored, 1, &["no space left", "small/repo", "cairn forget", "cairn gc --grace 0s", "enlarge"]);
            return number - 1;
        }
    }
    panic!("24 MiB were not full after 76 MB");
}

fn on(place: &Place, mount: &Path, args: &[&str]) -> Output {
    place.command().arg("--repo").arg(mount.join("repo")).args(args).output().unwrap()
}

/// Fills the disk up to its last block, and gives `left` bytes back.
fn fill(mount: &Path, left: u64) {
    let filler = mount.join("filler");
    let mut dd = Command::new("dd");
    let written = dd.arg("if=/dev/zero").arg("bs=4096").arg(format!("of={}", filler.display())).stderr(Stdio::null());
    assert!(!written.status().unwrap().success(), "the disk is not full");
    let len = std::fs::metadata(&filler).unwrap().len();
    std::fs::File::options().write(true).open(&filler).unwrap().set_len(len.saturating_sub(left)).unwrap();
}

fn ok(output: Output) -> Output {
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

/// Makes a repository in which `half` needs half of the pack that `mixed` filled; the file that `half` holds.
fn half_needed(place: &Place, mount: &Path) -> PathBuf {
    let half = place.path().join("half");
    let make = format!("head -c 2000000 /dev/urandom > {0}; cat {0}; head -c 2000000 /dev/urandom", half.display());
    ok(on(place, mount, &["init"]));
    ok(on(place, mount, &["backup", "--command", "--name", "mixed", "--", "sh", "-c", &make]));
    ok(on(place, mount, &["backup", "--command", "--name", "half", "--", "cat", half.to_str().unwrap()]));
    half
}

#[test]
fn forget_and_gc_give_space_back_on_a_full_disk() {
    let place = Place::empty();
    let mount = place.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let Some(_mounted) = Tmpfs::mount(&mount, "24m") else { return };
    let stored = filled(&place, &mount);
    assert!(stored >= 3, "{stored}");
    fill(&mount, 64 << 10);
    ok(on(&place, &mount, &["forget", "--unsafe-allow-remove-all", "db1", "db2"]));
    let report = text(&ok(on(&place, &mount, &["--json", "gc", "--grace", "0"])).stdout);
    assert!(report.contains("\"waiting_for\":null"), "{report}");
    ok(on(&place, &mount, &["backup", "--command", "--name", "new", "--", "head", "-c", "6000000", "/dev/urandom"]));
    ok(on(&place, &mount, &["check", "--read-data"]));
    ok(on(&place, &mount, &["verify", "--all"]));
}

#[test]
fn a_gc_removed_what_is_dead_only_after_copying_what_is_not() {
    let place = Place::empty();
    let mount = place.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let Some(_mounted) = Tmpfs::mount(&mount, "24m") else { return };
    let half = half_needed(&place, &mount);
    ok(on(&place, &mount, &["backup", "--command", "--name", "dead", "--", "head", "-c", "4000000", "/dev/urandom"]));
    // Half of a pack stays: what is written of it needs more room than there is, until the dead pack has gone.
    fill(&mount, 64 << 10);
    ok(on(&place, &mount, &["forget", "--unsafe-allow-remove-all", "mixed", "dead"]));
    ok(on(&place, &mount, &["gc", "--grace", "0"]));
    ok(on(&place, &mount, &["check", "--read-data"]));
    assert!(ok(on(&place, &mount, &["cat", "half"])).stdout == std::fs::read(half).unwrap());
}

#[test]
fn a_gc_that_has_no_room_for_copies_says_so_and_loses_nothing() {
    let place = Place::empty();
    let mount = place.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let Some(_mounted) = Tmpfs::mount(&mount, "24m") else { return };
    let half = half_needed(&place, &mount);
    fill(&mount, 64 << 10);
    ok(on(&place, &mount, &["forget", "--unsafe-allow-remove-all", "mixed"]));
    assert_fails(on(&place, &mount, &["gc", "--grace", "0"]), 1, &["no space left", "still needed", "enlarge"]);
    ok(on(&place, &mount, &["check", "--read-data"]));
    std::fs::remove_file(mount.join("filler")).unwrap();
    ok(on(&place, &mount, &["gc", "--grace", "0"]));
    ok(on(&place, &mount, &["check", "--read-data"]));
    assert!(ok(on(&place, &mount, &["cat", "half"])).stdout == std::fs::read(half).unwrap());
}

#[test]
fn without_any_room_every_command_says_what_helps() {
    let place = Place::empty();
    let mount = place.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let Some(_mounted) = Tmpfs::mount(&mount, "4m") else { return };
    ok(on(&place, &mount, &["init"]));
    ok(on(&place, &mount, &["backup", "--command", "--name", "db", "--", "seq", "100000"]));
    fill(&mount, 0);
    let key = place.path().join("other");
    for args in [
        ["backup", "--command", "--name", "x", "--", "seq", "9"].as_slice(),
        &["forget", "--unsafe-allow-remove-all", "db"],
        &["gc", "--grace", "0"],
        &["key", "add", "--new-key-file", key.to_str().unwrap()],
        &["verify", "db"],
    ] {
        let words = ["no space left", "small/repo", "remove other files", "enlarge"];
        let output = on(&place, &mount, args);
        let all = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {all}");
        words.iter().for_each(|word| assert!(all.contains(word), "{args:?}: {all}"));
    }
    // Reading goes on.
    ok(on(&place, &mount, &["cat", "db"]));
    ok(on(&place, &mount, &["check", "--read-data"]));
}
