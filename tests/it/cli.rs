//! The program as its users meet it: every exit code, the text of errors, JSON, real processes that are killed.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A place for a repository and a program to use it. The key file costs no key derivation.
struct Place {
    directory: TempDir,
}

impl Place {
    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("key"), [5; 32]).unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(directory.path().join("key"), private).unwrap();
        Place { directory }
    }

    fn new() -> Self {
        let place = Place::empty();
        place.ok(&["init"]);
        place
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TZ", "UTC");
        command.env("CAIRN_REPO", self.path().join("repo")).env("CAIRN_CACHE_DIR", self.path().join("cache"));
        command.arg("--key-file").arg(self.path().join("key")).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> Output {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        output
    }

    /// Runs and expects this exit code and these words on standard error.
    fn fails(&self, args: &[&str], code: i32, words: &[&str]) {
        assert_fails(self.run(args), code, words);
    }

    fn store(&self, name: &str, bytes: &[u8]) {
        let mut command = self.command();
        let mut child = command.args(["backup", "--stdin", "--name", name]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Snapshots published, by their count.
    fn count(&self) -> usize {
        let lines = text(&self.ok(&["--json", "snapshots"]).stdout);
        lines.lines().filter(|line| line.contains("\"type\":\"snapshot\"")).count()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_fails(output: Output, code: i32, words: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn usage_errors_end_with_2() {
    let place = Place::new();
    for args in [
        ["bogus"].as_slice(),
        &["backup"],
        &["backup", "--stdin", "/etc"],
        &["backup", "--name", "no/slash", "/etc"],
        &["backup", "--tag", "novalue", "/etc"],
        &["backup", "--exclude", "[", "/etc"],
        &["backup", "--command"],
        &["restore", "latest"],
        &["forget"],
        &["forget", "--keep-dayly", "7"],
        &["forget", "--keep-within", "7x"],
        &["gc", "--grace", "soon"],
        &["check", "--read-data", "--sample", "0"],
        &["snapshots", "--at", "yesterday"],
    ] {
        let output = place.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty());
    }
    let none = Command::new(assert_cmd::cargo::cargo_bin!("cairn")).env_clear().arg("snapshots").output().unwrap();
    assert_fails(none, 2, &["--repo", "CAIRN_REPO"]);
}

#[test]
fn a_missing_repository_is_10_and_says_where() {
    let place = Place::empty();
    place.fails(&["snapshots"], 10, &["no repository", "repo", "cairn init"]);
    std::fs::create_dir(place.path().join("repo")).unwrap();
    std::fs::write(place.path().join("repo/other"), "x").unwrap();
    place.fails(&["snapshots"], 10, &["no repository"]);
    place.fails(&["init"], 1, &["not empty", "other"]);
}

#[test]
fn a_wrong_password_is_12_and_the_right_one_is_never_shown() {
    let place = Place::empty();
    let with = |password: &str, args: &[&str]| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cairn"));
        command
            .env_clear()
            .env("CAIRN_REPO", place.path().join("repo"))
            .env("CAIRN_CACHE_DIR", place.path().join("cache"));
        command.env("CAIRN_PASSWORD", password).stdin(Stdio::null()).args(args).output().unwrap()
    };
    assert!(with("correct horse", &["init"]).status.success());
    let good = with("correct horse", &["-vv", "snapshots"]);
    assert!(good.status.success());
    assert_fails(with("wrong horse", &["snapshots"]), 12, &["wrong password"]);
    for output in [good, with("wrong horse", &["-vv", "snapshots"])] {
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(!all.contains("horse"), "{all}");
    }
    let empty = with("", &["snapshots"]);
    assert_fails(empty, 2, &["empty"]);
}

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
fn a_newer_repository_is_refused_by_name() {
    let place = Place::new();
    let config = place.path().join("repo/config");
    let changed = std::fs::read_to_string(&config).unwrap().replace("\"version\": 1", "\"version\": 2");
    std::fs::write(&config, changed).unwrap();
    place.fails(&["snapshots"], 1, &["version 2", "newer cairn"]);
}

#[test]
fn a_changed_configuration_is_refused() {
    let place = Place::new();
    let config = place.path().join("repo/config");
    let changed = std::fs::read_to_string(&config).unwrap().replace("16384", "32768");
    std::fs::write(&config, changed).unwrap();
    place.fails(&["snapshots"], 1, &["configuration", "altered"]);
}

#[test]
fn a_failing_command_publishes_nothing_and_says_why() {
    let place = Place::new();
    let script = "echo half; echo 'it broke' >&2; exit 7";
    place.fails(
        &["backup", "--command", "--name", "dump", "--", "sh", "-c", script],
        1,
        &["status 7", "it broke", "not trusted"],
    );
    place.fails(&["backup", "--command", "--name", "dump", "--", "sh", "-c", "kill -9 $$"], 1, &["signal"]);
    place.fails(
        &["backup", "--command", "--name", "dump", "--", "/no/such/program"],
        1,
        &["cannot start", "/no/such/program"],
    );
    assert_eq!(place.count(), 0);
    place.ok(&["backup", "--command", "--name", "dump", "--", "sh", "-c", "echo whole"]);
    assert_eq!(text(&place.ok(&["cat", "dump"]).stdout), "whole\n");
}

#[test]
fn unread_sources_end_with_3_each_named_and_the_rest_saved() {
    let place = Place::new();
    let tree = place.path().join("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("sub/good"), "good").unwrap();
    let missing = place.path().join("missing");
    let both = [tree.to_str().unwrap(), missing.to_str().unwrap()];
    place.fails(&["backup", "--name", "t", both[0], both[1]], 3, &["missing"]);
    let inside = format!("t:{}", tree.display());
    place.ok(&["restore", &inside, "--target", place.path().join("out").to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(place.path().join("out/sub/good")).unwrap(), "good");
    place.fails(&["backup", "--name", "t", both[1]], 1, &["none of the paths", "missing"]);
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
fn selection_errors_say_what_to_do() {
    let place = Place::new();
    place.store("db", b"one");
    place.fails(&["cat", "nothing"], 1, &["nothing", "cairn snapshots"]);
    place.fails(&["cat", "db@2001-01-01"], 1, &["at or before", "oldest"]);
    place.fails(&["cat", "db@not-a-time"], 2, &["not-a-time", "RFC 3339"]);
    place.fails(&["ls", "db", "/x", "extra"], 2, &[]);
    assert_eq!(place.ok(&["cat", "db@2099-01-01"]).stdout, b"one");
}

#[test]
fn forget_never_removes_by_mistake() {
    let place = Place::new();
    for content in [b"one".as_slice(), b"two", b"three"] {
        place.store("db", content);
    }
    place.fails(&["forget"], 2, &["nothing is removed"]);
    place.fails(&["forget", "--keep-lasst", "1"], 2, &[]);
    place.fails(&["forget", "--name", "typo", "--keep-last", "1"], 2, &["--name"]);
    place.ok(&["forget", "--keep-last", "1", "--dry-run"]);
    assert_eq!(place.count(), 3);
    place.ok(&["verify", "db@2099-01-01"]);
    place.fails(&["forget", "db"], 1, &["newest", "--unsafe-allow-remove-all"]);
    place.ok(&["forget", "--keep-last", "1"]);
    assert_eq!(place.count(), 1);
    place.ok(&["forget", "--keep-within", "0s", "--unsafe-allow-remove-all"]);
    assert_eq!(place.count(), 0);
}

#[test]
fn damage_is_found_named_and_ends_with_1() {
    let place = Place::new();
    place.store("db", &vec![b'x'; 100_000]);
    place.ok(&["check", "--read-data"]);
    let folder = std::fs::read_dir(place.path().join("repo/data")).unwrap().next().unwrap().unwrap().path();
    let pack = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[50] ^= 1;
    std::fs::write(&pack, &bytes).unwrap();
    place.ok(&["check"]);
    let output = place.run(&["check", "--read-data"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains(pack.file_name().unwrap().to_str().unwrap()), "{}", text(&output.stdout));
    place.fails(&["cat", "db"], 1, &["frame 0", "cairn check"]);
    place.fails(&["verify", "--all"], 1, &["could not be verified"]);
    std::fs::write(&pack, &bytes[..bytes.len() - 1]).unwrap();
    std::fs::remove_dir_all(place.path().join("cache")).unwrap();
    assert_eq!(place.run(&["check"]).status.code(), Some(1));
    place.fails(&["gc", "--grace", "0s"], 1, &["refused", "cairn check"]);
}

#[test]
fn a_running_gc_locks_out_another_with_11() {
    use cairn::backend::local::Local;
    use cairn::format::record::Purpose;
    let place = Place::new();
    let backend: std::sync::Arc<dyn cairn::backend::Backend> =
        std::sync::Arc::new(Local::open(&place.path().join("repo")).unwrap());
    let credential = cairn::format::key::Credential::KeyFile([5; 32].into());
    let options = cairn::repo::OpenOptions { cache: None, host: "elsewhere".to_owned() };
    let repository = cairn::repo::Repository::open(backend, &credential, &options, &cairn::progress::Silent).unwrap();
    let lease = cairn::repo::lease::Held::take(&repository, Purpose::Collect).unwrap();
    place.fails(&["gc"], 11, &["another gc", "elsewhere"]);
    lease.release().unwrap();
    place.ok(&["gc"]);
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
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(&mount)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("SKIPPED: a file system cannot be mounted here");
        return;
    }
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
    Command::new("umount").arg(&mount).status().unwrap();
}

fn snapshot_tree(place: &Place) -> std::path::PathBuf {
    let tree = place.path().join("tree");
    std::fs::create_dir_all(tree.join("keep/deep")).unwrap();
    std::fs::create_dir_all(tree.join("cache")).unwrap();
    for name in ["a.txt", "b.txt", "keep/c.txt", "keep/deep/d.log", "cache/e.tmp"] {
        std::fs::write(tree.join(name), format!("this is {name}")).unwrap();
    }
    tree
}

fn summary(output: &Output) -> serde_json::Value {
    serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap()
}

#[test]
fn a_restore_goes_on_where_it_was_and_writes_nothing_twice() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let (from, out) = (format!("t:{}", tree.display()), place.path().join("out"));
    let restore = |options: &[&str]| {
        let all = [&["--json", "restore", &from, "--target", out.to_str().unwrap()], options].concat();
        summary(&place.ok(&all))
    };
    assert_eq!(restore(&["--dry-run"])["files"], 5);
    assert!(!out.exists(), "a dry run made the target");
    assert_eq!(restore(&["--verify"])["verified_files"], 5);
    // As after an interruption: one file is missing, one is of an older state.
    std::fs::remove_file(out.join("a.txt")).unwrap();
    std::fs::write(out.join("keep/c.txt"), "something else").unwrap();
    let kept = restore(&[]);
    assert_eq!((&kept["files"], &kept["kept"], &kept["unchanged"]), (&1.into(), &1.into(), &3.into()), "{kept}");
    assert_eq!(std::fs::read_to_string(out.join("keep/c.txt")).unwrap(), "something else");
    let changed = restore(&["--overwrite", "changed"]);
    assert_eq!((&changed["files"], &changed["unchanged"]), (&1.into(), &4.into()), "{changed}");
    assert_eq!(std::fs::read_to_string(out.join("keep/c.txt")).unwrap(), "this is keep/c.txt");
    assert_eq!(restore(&["--overwrite", "always"])["files"], 5);
}

#[test]
fn delete_removes_what_the_snapshot_lacks_and_nothing_else() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let (from, out) = (format!("t:{}", tree.display()), place.path().join("out"));
    let target = ["restore", &from, "--target", out.to_str().unwrap()];
    place.ok(&target);
    std::fs::create_dir_all(out.join("extra/below")).unwrap();
    std::fs::write(out.join("extra/below/file"), "x").unwrap();
    std::fs::write(out.join("keep/new"), "x").unwrap();
    place.ok(&[&target[..], &["--delete", "--dry-run"]].concat());
    assert!(out.join("keep/new").exists() && out.join("extra").exists(), "a dry run removed something");
    place.fails(&[&target[..], &["--delete", "--exclude", "*.log"]].concat(), 1, &["--delete", "refused"]);
    place.ok(&[&target[..], &["--delete"]].concat());
    assert!(!out.join("keep/new").exists() && !out.join("extra").exists());
    assert!(out.join("keep/deep/d.log").exists() && out.join("a.txt").exists());
}

#[test]
fn delete_emptied_the_directories_on_the_way_to_what_was_backed_up() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    std::fs::write(tree.join("left.out"), "x").unwrap();
    place.ok(&["backup", "--name", "t", "--exclude", "*.out", tree.to_str().unwrap()]);
    // A machine of its own, which the snapshot knows one directory of.
    let machine = place.path().join("machine");
    let beside = machine.join(place.path().strip_prefix("/").unwrap()).join("beside");
    std::fs::create_dir_all(&beside).unwrap();
    std::fs::create_dir_all(machine.join("home/user")).unwrap();
    let target = ["restore", "t", "--target", machine.to_str().unwrap(), "--delete", "--overwrite", "changed"];
    place.ok(&target);
    let inside = machine.join(tree.strip_prefix("/").unwrap());
    std::fs::write(inside.join("extra"), "x").unwrap();
    std::fs::write(inside.join("left.out"), "x").unwrap();
    let planned = text(&place.ok(&[&target[..], &["--dry-run"]].concat()).stdout);
    let relative = inside.strip_prefix(&machine).unwrap().display();
    assert_eq!(planned, format!("delete {relative}/extra\n"));
    place.ok(&target);
    assert!(!inside.join("extra").exists() && inside.join("a.txt").exists());
    assert!(beside.exists() && machine.join("home/user").exists(), "what was never backed up was removed");
    assert!(inside.join("left.out").exists(), "what the backup left out was removed");
}

#[test]
fn a_dry_run_says_what_a_restore_does_and_a_directory_in_the_way_goes_only_with_delete() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    let (from, out) = (format!("t:{}", tree.display()), place.path().join("out"));
    let restore = ["restore", &from, "--target", out.to_str().unwrap(), "--overwrite", "changed"];
    std::fs::create_dir_all(out.join("a.txt/in the way")).unwrap();
    let dry = place.run(&[&restore[..], &["--dry-run"]].concat());
    assert_fails(dry, 1, &["a.txt", "directory that is not empty"]);
    place.fails(&restore, 1, &["a.txt", "directory that is not empty"]);
    let planned = text(&place.ok(&[&restore[..], &["--delete", "--dry-run"]].concat()).stdout);
    assert!(planned.contains("delete a.txt\n") && planned.contains("replace a.txt\n"), "{planned}");
    place.ok(&[&restore[..], &["--delete"]].concat());
    assert!(out.join("a.txt").is_file());
    let again = text(&place.ok(&[&restore[..], &["--dry-run"]].concat()).stdout);
    assert_eq!(again, "");
    std::fs::write(out.join("a.txt"), "changed").unwrap();
    let planned = text(&place.ok(&["restore", &from, "--target", out.to_str().unwrap(), "--dry-run"]).stdout);
    assert_eq!(planned, "keep a.txt\n");
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
fn includes_and_excludes_select_in_both_directions() {
    let place = Place::new();
    let tree = snapshot_tree(&place);
    place.ok(&["backup", "--name", "t", "--exclude", "*.tmp", tree.to_str().unwrap()]);
    let listed = text(&place.ok(&["ls", "t"]).stdout);
    assert!(listed.contains("keep/c.txt") && !listed.contains("e.tmp"), "{listed}");
    let from = format!("t:{}", tree.display());
    let out = place.path().join("some");
    place.ok(&["restore", &from, "--target", out.to_str().unwrap(), "--include", "keep", "--exclude", "*.log"]);
    assert!(out.join("keep/c.txt").exists());
    assert!(!out.join("keep/deep/d.log").exists() && !out.join("a.txt").exists());
    let none = format!("t:{}/nothing", tree.display());
    place.fails(&["restore", &none, "--target", out.to_str().unwrap()], 1, &["has no", "cairn ls"]);
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
