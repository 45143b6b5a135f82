//! An error names the path or id, says why, and what to do next.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use super::{Place, assert_fails, text};
use crate::support::machine::{NOBODY, is_root, skip};

fn with(place: &Place, options: &[&str], args: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
    command.env_clear().env("CAIRN_REPO", place.path().join("repo")).stdin(Stdio::null());
    command.env("CAIRN_CACHE_DIR", place.path().join("cache")).args(options).args(args).output().unwrap()
}

#[test]
fn a_path_into_a_stream_was_taken_as_the_whole_stream() {
    let place = Place::new();
    place.store("db", b"content");
    let out = place.path().join("out");
    place.fails(&["restore", "db:/x", "--target", out.to_str().unwrap()], 1, &["is a stream", "leave out"]);
    assert!(!out.exists());
    place.fails(&["cat", "db", "/x"], 1, &["is a stream", "leave out"]);
}

#[test]
fn the_beginning_of_an_id_has_four_digits_in_small_or_capital_letters() {
    let place = Place::new();
    place.ok(&["backup", "--name", "t", "/etc/passwd"]);
    let id = |kind: &str| {
        let entry = std::fs::read_dir(place.path().join("repo").join(kind)).unwrap().next().unwrap();
        entry.unwrap().file_name().into_string().unwrap()
    };
    let snapshot = id("snapshots");
    place.ok(&["ls", &snapshot[..4]]);
    place.ok(&["ls", &snapshot[..8].to_uppercase()]);
    place.fails(&["ls", &snapshot[..3]], 1, &["at least 4 digits"]);
    // A name that looks like an id is a name; one that is both is refused.
    place.ok(&["backup", "--name", "beef", "/etc/hostname"]);
    place.ok(&["ls", "beef"]);
    place.ok(&["backup", "--name", &snapshot[..6], "/etc/hostname"]);
    place.fails(&["ls", &snapshot[..6]], 2, &["ambiguous", "the name of", &snapshot[..16], "more digits"]);
    let key = id("keys");
    place.fails(&["key", "remove", ""], 2, &["at least 4 digits"]);
    place.fails(&["key", "remove", &key[..3]], 2, &["at least 4 digits", "cairn key list"]);
    place.fails(&["key", "remove", &key[..8].to_uppercase()], 1, &["last one"]);
    assert!(text(&place.ok(&["--help"]).stdout).contains("4 digits or more"));
}

#[test]
fn selection_hints_at_what_is_probably_wrong() {
    let place = Place::new();
    place.ok(&["backup", "--name", "t", "/etc/passwd"]);
    place.fails(&["restore", "t:etc", "--target", "/nowhere"], 1, &["t:etc", "NAME:/PATH"]);
    place.fails(&["backup", "--parent", "nope", "/etc/passwd"], 1, &["nope", "cairn snapshots"]);
    place.fails(&["cat", "t", "/etc"], 1, &["/etc is not a regular file", "cairn restore"]);
}

#[test]
fn a_file_where_a_directory_should_be_is_named() {
    let place = Place::new();
    place.ok(&["backup", "--name", "t", "/etc/passwd"]);
    let file = place.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    place.fails(&["--repo", file, "snapshots"], 10, &["no repository", "/file", "cairn init"]);
    place.fails(&["--repo", file, "init"], 1, &["/file", "a file is where a directory should be"]);
    place.fails(&["restore", "t", "--target", file], 1, &["/file", "no directory is in its place"]);
    // Derived data is no reason to fail.
    let told = text(&place.ok(&["--cache-dir", file, "snapshots"]).stderr);
    assert!(told.contains("/file") && told.contains("--cache-dir") && told.contains("temporary index"), "{told}");
}

#[test]
fn what_should_open_the_repository_is_named_when_it_cannot_be_read() {
    let place = Place::new();
    let missing = place.path().join("missing");
    let missing = missing.to_str().unwrap();
    let words = ["missing", "should open the repository", "No such file"];
    assert_fails(with(&place, &["--password-file", missing], &["snapshots"]), 1, &words);
    assert_fails(with(&place, &["--key-file", missing], &["snapshots"]), 1, &words);
    assert_fails(with(&place, &["--key-file", "/etc/passwd"], &["snapshots"]), 2, &["/etc/passwd", "32 bytes", "more"]);
    assert_fails(with(&place, &[], &["snapshots"]), 2, &["no terminal", "--password-file"]);
}

#[test]
fn a_broken_configuration_names_the_file_and_what_to_do() {
    let place = Place::new();
    std::fs::write(place.path().join("repo/config"), "{").unwrap();
    place.fails(&["snapshots"], 1, &["config in", "/repo", "from a copy"]);
}

#[test]
fn a_repository_that_cannot_be_written_says_who_may() {
    let place = Place::new();
    place.ok(&["backup", "--name", "t", "/etc/passwd"]);
    let mut locked = Command::new("chmod");
    assert!(locked.args(["-R", "a+rX,a-w"]).arg(place.path()).status().unwrap().success());
    let mut command = place.command();
    let cache = tempfile::tempdir().unwrap();
    std::fs::set_permissions(cache.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    command.arg("--cache-dir").arg(cache.path());
    if is_root() {
        use std::os::unix::process::CommandExt;
        std::os::unix::fs::chown(place.path().join("key"), Some(NOBODY), None).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.args(["backup", "--name", "t", "/etc/passwd"]).output();
    assert!(Command::new("chmod").args(["-R", "u+w"]).arg(place.path()).status().unwrap().success());
    let Ok(output) = output else { return skip("a user without privileges cannot reach the program") };
    assert_fails(output, 1, &["cannot write lease", "/repo", "user who owns"]);
}
