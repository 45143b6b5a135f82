//! Paths, names and globs are bytes: what is not UTF-8 works wherever a path may be written, and what is printed of it
//! can be told apart from a percent sign, and be used again.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::{Place, assert_fails, text};

/// A tree whose names are not UTF-8, or look like what is printed for such names.
fn odd_tree(place: &Place) -> PathBuf {
    let tree = place.path().join(os(b"tr\xfee"));
    std::fs::create_dir_all(tree.join(os(b"d\xff"))).unwrap();
    for name in [b"d\xff/f\xfe.txt".as_slice(), b"d\xff/g\xfd.log", b"50%", b"a%41", b"plain"] {
        std::fs::write(tree.join(os(name)), name).unwrap();
    }
    tree
}

fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

fn joined(parts: &[&OsStr]) -> OsString {
    parts.iter().copied().collect()
}

fn run(place: &Place, args: &[&OsStr]) -> Output {
    place.command().args(args).output().unwrap()
}

fn ok(place: &Place, args: &[&OsStr]) -> Output {
    let output = run(place, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    output
}

/// The paths that `ls` prints.
fn listed(output: &Output) -> Vec<String> {
    text(&output.stdout).lines().map(|line| line[line.find(" /").unwrap() + 1..].to_owned()).collect()
}

#[test]
fn a_path_that_is_not_utf_8_works_wherever_one_is_written() {
    let place = Place::new();
    let tree = odd_tree(&place);
    let log = os(b"*\xfd.log");
    ok(&place, &[os(b"backup"), os(b"--name"), os(b"t"), os(b"--exclude"), log, tree.as_os_str()]);
    let all = listed(&ok(&place, &[os(b"ls"), os(b"t")]));
    assert!(!all.iter().any(|path| path.contains(".log")), "{all:?}");
    let file = tree.join(os(b"d\xff/f\xfe.txt"));
    let below = listed(&ok(&place, &[os(b"ls"), os(b"t"), tree.join(os(b"d\xff")).as_os_str()]));
    assert_eq!(below.len(), 2, "{below:?}");
    assert_eq!(ok(&place, &[os(b"cat"), os(b"t"), file.as_os_str()]).stdout, b"d\xff/f\xfe.txt");
    let found = text(&ok(&place, &[os(b"find"), os(b"f\xfe.*")]).stdout);
    assert!(found.contains("f%FE.txt"), "{found}");
    assert_eq!(found.lines().count(), 1);
    let from = joined(&[os(b"t:"), tree.as_os_str(), os(b"/d\xff")]);
    let target = place.path().join(os(b"out\xff"));
    let restore = [os(b"restore"), &from, os(b"--target"), target.as_os_str()];
    ok(&place, &[&restore[..], &[os(b"--include"), os(b"f\xfe*"), os(b"--exclude"), os(b"\xfd")]].concat());
    assert_eq!(std::fs::read(target.join(os(b"f\xfe.txt"))).unwrap(), b"d\xff/f\xfe.txt");
    let missing = joined(&[os(b"\xff:/"), tree.as_os_str()]);
    assert_fails(run(&place, &[os(b"restore"), &missing, os(b"--target"), target.as_os_str()]), 1, &["%FF"]);
}

#[test]
fn places_that_are_not_utf_8_hold_repository_cache_and_passwords() {
    let place = Place::empty();
    let at = |name: &[u8]| place.path().join(os(name));
    std::fs::write(at(b"pass\xff"), "secret\n").unwrap();
    let options =
        [("--repo", at(b"repo\xff")), ("--cache-dir", at(b"cache\xff")), ("--password-file", at(b"pass\xff"))];
    let open = |args: &[&str]| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).stdin(Stdio::null());
        options.iter().fold(&mut command, |command, (option, path)| command.arg(option).arg(path));
        command.args(args).output().unwrap()
    };
    let made = open(&["--json", "init"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert!(text(&made.stdout).contains("repo%FF\""), "{}", text(&made.stdout));
    assert!(open(&["backup", "--command", "--name", "n", "--", "seq", "9"]).status.success());
    assert!(open(&["check", "--read-data"]).status.success());
    assert!(at(b"cache\xff").exists());
    std::fs::remove_dir_all(at(b"repo\xff")).unwrap();
    assert_fails(open(&["snapshots"]), 10, &["repo%FF"]);
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
    let asked = joined(&[os(b"cat "), at(b"pass\xff").as_os_str()]);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("CAIRN_REPO", at(b"other\xff"));
    let made = command.arg("--password-command").arg(asked).arg("init").stdin(Stdio::null()).output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
}

#[test]
fn what_ls_prints_can_be_used_again() {
    let place = Place::new();
    let tree = odd_tree(&place);
    ok(&place, &[os(b"backup"), os(b"--name"), os(b"t"), tree.as_os_str()]);
    let all = listed(&place.ok(&["ls", "t"]));
    let files: Vec<&String> = all.iter().filter(|path| path.ends_with(['t', 'g', '%', '5', '1', 'n'])).collect();
    assert!(all.iter().any(|path| path.ends_with("/50%25")) && all.iter().any(|path| path.ends_with("/a%2541")));
    for path in files.into_iter().filter(|path| path.contains("tr%FEe/")) {
        let content = place.ok(&["cat", "t", path]).stdout;
        assert!(all.contains(path) && !content.is_empty(), "{path}");
        let out = place.path().join("out");
        place.ok(&["restore", &format!("t:{path}"), "--target", out.to_str().unwrap()]);
        assert_eq!(listed(&place.ok(&["ls", "t", path])), std::slice::from_ref(path));
    }
    // The names themselves do, too.
    assert_eq!(ok(&place, &[os(b"cat"), os(b"t"), tree.join("50%").as_os_str()]).stdout, b"50%");
    assert_eq!(ok(&place, &[os(b"cat"), os(b"t"), tree.join("a%41").as_os_str()]).stdout, b"a%41");
}

#[test]
fn a_path_that_may_be_two_is_refused() {
    let place = Place::new();
    let tree = place.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    for name in ["a%41", "aA"] {
        std::fs::write(tree.join(name), name).unwrap();
    }
    let path = |name: &str| format!("{}/{name}", tree.display());
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    place.fails(&["cat", "t", &path("a%41")], 2, &["ambiguous", "a%2541"]);
    place.fails(&["restore", &format!("t:{}", path("a%41")), "--target", "/nowhere"], 2, &["ambiguous"]);
    assert_eq!(place.ok(&["cat", "t", &path("a%2541")]).stdout, b"a%41");
    assert_eq!(place.ok(&["cat", "t", &path("aA")]).stdout, b"aA");
}

#[test]
fn a_path_may_have_slashes_and_dots_to_spare() {
    let place = Place::new();
    place.ok(&["backup", "--name", "t", "/etc/passwd"]);
    let passwd = std::fs::read("/etc/passwd").unwrap();
    assert_eq!(place.ok(&["cat", "t", "//etc/.//passwd"]).stdout, passwd);
}
