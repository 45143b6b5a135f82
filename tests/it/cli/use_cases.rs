//! What each command does, as its users see it.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::{Place, assert_fails, snapshot_tree, summary, text};

#[test]
fn a_password_file_and_command_open_too_and_keys_come_and_go() {
    let place = Place::new();
    let file = place.path().join("password");
    std::fs::write(&file, "second\n").unwrap();
    place.ok(&["key", "add", "--label", "nightly", "--new-password-file", file.to_str().unwrap()]);
    let other = |args: &[&str]| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("CAIRN_REPO", place.path().join("repo")).env("CAIRN_CACHE_DIR", place.path().join("cache"));
        command.stdin(Stdio::null()).args(args).output().unwrap()
    };
    let opened = other(&["--password-file", file.to_str().unwrap(), "key", "list"]);
    assert!(opened.status.success());
    assert!(text(&opened.stderr).contains("can be read by others"));
    let listed = text(&opened.stdout);
    assert!(listed.contains("nightly") && listed.contains("password") && listed.contains("key file"), "{listed}");
    let command = format!("cat {}", file.display());
    assert!(other(&["--password-command", &command, "snapshots"]).status.success());
    assert_fails(other(&["--password-command", "false", "snapshots"]), 1, &["--password-command false"]);
    std::fs::write(place.path().join("third"), "third").unwrap();
    let third = place.path().join("third");
    let changed = other(&[
        "--password-file",
        file.to_str().unwrap(),
        "key",
        "passwd",
        "--new-password-file",
        third.to_str().unwrap(),
    ]);
    assert!(changed.status.success(), "{}", text(&changed.stderr));
    assert_fails(other(&["--password-file", file.to_str().unwrap(), "snapshots"]), 12, &["wrong password"]);
    let ids: Vec<String> = text(&place.ok(&["key", "list"]).stdout).lines().map(|line| line[..8].to_owned()).collect();
    assert_eq!(ids.len(), 2);
    place.ok(&["key", "remove", &ids[1]]);
    place.fails(&["key", "remove", &ids[0]], 1, &["last one", "add another"]);
    place.fails(&["key", "remove", "ffffffffff"], 2, &["0 keys"]);
}

#[test]
fn names_that_are_not_utf_8_come_back_and_are_escaped() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let tree = place.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd\xff\x1b[31m\nname");
    std::fs::write(tree.join(odd), "x").unwrap();
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let listed = place.ok(&["ls", "t"]).stdout;
    assert!(text(&listed).contains("odd%FF%1B[31m%0Aname"), "{}", text(&listed));
    assert!(!listed.contains(&0x1b), "an escape sequence reached the terminal");
    place.ok(&["restore", &format!("t:{}", tree.display()), "--target", place.path().join("out").to_str().unwrap()]);
    assert_eq!(std::fs::read(place.path().join("out").join(odd)).unwrap(), b"x");
}

#[test]
fn every_command_speaks_json_and_ends_with_a_summary() {
    let place = Place::new();
    place.store("db", b"some rows\n");
    place.ok(&["backup", "--name", "tree", "/etc/passwd"]);
    for args in [
        ["snapshots"].as_slice(),
        &["ls", "tree"],
        &["ls", "db"],
        &["find", "passwd"],
        &["diff", "db", "tree"],
        &["diff", "tree", "tree"],
        &["stats"],
        &["index", "stats"],
        &["index", "rebuild"],
        &["key", "list"],
        &["check", "--read-data"],
        &["verify", "--all"],
        &["forget", "--keep-last", "1"],
        &["gc", "--dry-run"],
        &["gc"],
        &["backup", "--dry-run", "/etc/hostname"],
        &["backup", "/etc/hostname"],
        &["restore", "tree", "--target", place.path().join("out").to_str().unwrap()],
    ] {
        let output = place.ok(&[&["--json"], args].concat());
        let lines: Vec<serde_json::Value> =
            text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = lines.last().unwrap_or_else(|| panic!("{args:?} said nothing"));
        assert_eq!(last["type"], "summary", "{args:?}");
        assert!(lines.iter().all(|line| line["type"].is_string()));
        assert!(output.stderr.is_empty(), "{args:?}: {}", text(&output.stderr));
    }
    let output = place.run(&["--json", "cat", "nothing"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    let output = place.run(&["--json", "ls", "nothing"]);
    let line: serde_json::Value = serde_json::from_str(text(&output.stdout).trim()).unwrap();
    assert_eq!((&line["type"], &line["exit_code"]), (&"error".into(), &1.into()));
}

#[test]
fn help_completions_and_manual_pages_name_every_command() {
    let place = Place::empty();
    let help = text(&place.ok(&["--help"]).stdout);
    let commands = [
        "init",
        "backup",
        "snapshots",
        "ls",
        "find",
        "diff",
        "cat",
        "restore",
        "check",
        "verify",
        "forget",
        "gc",
        "key",
        "index",
        "stats",
    ];
    for command in commands {
        assert!(help.contains(command));
        assert!(place.ok(&[command, "--help"]).stdout.len() > 100);
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = place.ok(&["completions", shell]).stdout;
        assert!(text(&script).contains("keep-daily"), "{shell}");
    }
    let bash = place.ok(&["completions", "bash"]).stdout;
    let mut child = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&bash).unwrap();
    assert!(child.wait().unwrap().success(), "bash does not accept its completions");
    assert!(text(&place.ok(&["man"]).stdout).contains(".TH cairn"));
    let pages = place.path().join("man");
    place.ok(&["man", pages.to_str().unwrap()]);
    assert!(pages.join("cairn-backup.1").exists());
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let place = Place::new();
    place.store("db", &vec![b'x'; 4 << 20]);
    let mut child = place.command().args(["cat", "db"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn a_file_that_hides_its_size_was_stored_empty() {
    let place = Place::new();
    place.ok(&["backup", "--name", "p", "/proc/sys/kernel/ostype", "/proc/self/status"]);
    assert_eq!(text(&place.ok(&["cat", "p", "/proc/sys/kernel/ostype"]).stdout), "Linux\n");
    let status = text(&place.ok(&["cat", "p", "/proc/self/status"]).stdout);
    assert!(status.contains("Name:"), "{status}");
}

#[test]
fn the_parent_may_be_chosen_or_refused() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    let backup = |options: &[&str]| {
        summary(&place.ok(&[&["--json", "backup", "--name", "t", tree.to_str().unwrap()], options].concat()))
    };
    let first = backup(&[]);
    assert_eq!((&first["parent"], &first["unchanged_files"]), (&serde_json::Value::Null, &0.into()));
    let second = backup(&[]);
    assert_eq!((&second["parent"], &second["unchanged_files"]), (&first["snapshot"], &5.into()));
    assert_eq!(second["read_bytes"], 0);
    assert_eq!(backup(&["--parent", "none"])["unchanged_files"], 0);
    assert_eq!(backup(&["--force"])["unchanged_files"], 0);
    let id = first["snapshot"].as_str().unwrap();
    assert_eq!(backup(&["--parent", &id[..10]])["parent"], first["snapshot"]);
    std::fs::write(tree.join("a.txt"), "this is b.txt").unwrap();
    let changed = backup(&["--dry-run"]);
    assert_eq!((&changed["unchanged_files"], &changed["snapshot"]), (&4.into(), &serde_json::Value::Null));
    assert_eq!(backup(&[])["unchanged_files"], 4);
}
