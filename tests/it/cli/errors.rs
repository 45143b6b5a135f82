//! Exit codes and the text of errors.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use super::{Place, assert_fails, text};

#[test]
fn usage_errors_end_with_2() {
    let place = Place::new();
    let cases: [(&[&str], &[&str]); 14] = [
        (&["bogus"], &["bogus", "Usage: cairn"]),
        (&["backup"], &["paths", "--stdin", "--command -- PROGRAM"]),
        (&["backup", "--stdin", "/etc"], &["--stdin", "cannot be used with"]),
        (&["backup", "--name", "no/slash", "/etc"], &["no/slash", "name"]),
        (&["backup", "--tag", "novalue", "/etc"], &["--tag", "novalue", "KEY=VALUE"]),
        (&["backup", "--exclude", "[", "/etc"], &["--exclude", "invalid pattern", "["]),
        (&["backup", "--command"], &["--command", "PROGRAM"]),
        (&["restore", "latest"], &["--target"]),
        (&["forget"], &["SNAP", "--keep", "nothing is removed"]),
        (&["forget", "--keep-dayly", "7"], &["--keep-dayly", "--keep-daily"]),
        (&["forget", "--keep-within", "7x"], &["--keep-within", "7x", "36h"]),
        (&["gc", "--grace", "soon"], &["--grace", "soon", "36h"]),
        (&["check", "--read-data", "--sample", "0"], &["--sample", "above 0"]),
        (&["snapshots", "--at", "yesterday"], &["yesterday", "RFC 3339"]),
    ];
    for (args, words) in cases {
        place.fails(args, 2, words);
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
    let repo = place.path().join("repo");
    let told = ["wrong password", repo.to_str().unwrap(), "cairn key add"];
    assert_fails(with("wrong horse", &["snapshots"]), 12, &told);
    for output in [good, with("wrong horse", &["-vv", "snapshots"])] {
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(!all.contains("horse"), "{all}");
    }
    let empty = with("", &["snapshots"]);
    assert_fails(empty, 2, &["empty"]);
    // A service's manager gives a file; it is meant before the variable with the password itself.
    let file = place.path().join("password");
    let with_file = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = place.command_without_key();
        command
            .env("CAIRN_PASSWORD", "wrong horse")
            .env("CAIRN_PASSWORD_FILE", &file)
            .arg("snapshots")
            .output()
            .unwrap()
    };
    assert!(with_file("correct horse\n").status.success());
    assert_fails(with_file("wrong horse\n"), 12, &["wrong password"]);
    std::fs::remove_file(&file).unwrap();
    let mut missing = place.command_without_key();
    missing.env("CAIRN_PASSWORD_FILE", &file).arg("snapshots");
    assert_fails(missing.output().unwrap(), 1, &[file.to_str().unwrap()]);
}

#[test]
fn a_newer_repository_is_refused_by_name() {
    let place = Place::new();
    let config = place.path().join("repo/config");
    let changed = std::fs::read_to_string(&config).unwrap().replace("\"version\": 1", "\"version\": 2");
    std::fs::write(&config, changed).unwrap();
    place.fails(&["snapshots"], 1, &["version 2", "newer cairn", place.path().join("repo").to_str().unwrap()]);
}

#[test]
fn a_feature_that_is_not_known_is_refused_by_name() {
    let place = Place::new();
    let config = place.path().join("repo/config");
    let changed = std::fs::read_to_string(&config).unwrap().replace("\"features\": []", "\"features\": [\"magic\"]");
    std::fs::write(&config, changed).unwrap();
    let repo = place.path().join("repo");
    place.fails(&["snapshots"], 1, &["feature \"magic\"", "newer cairn", repo.to_str().unwrap()]);
}

/// A backup of standard input that holds its lease and waits for more.
struct Waiting {
    child: std::process::Child,
    input: std::process::ChildStdin,
}

impl Waiting {
    fn start(place: &Place, bytes: &[u8]) -> Waiting {
        let mut command = place.command();
        command.args(["backup", "--stdin", "--name", "db"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(bytes).unwrap();
        let leases = place.path().join("repo/leases");
        while std::fs::read_dir(&leases).is_ok_and(|mut found| found.next().is_none()) || !leases.exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was given all");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Waiting { child, input }
    }

    fn end(self) -> std::process::Output {
        drop(self.input);
        self.child.wait_with_output().unwrap()
    }
}

#[test]
fn a_run_whose_lease_is_lost_publishes_nothing_and_says_so() {
    let place = Place::new();
    let waiting = Waiting::start(&place, b"some rows");
    for lease in std::fs::read_dir(place.path().join("repo/leases")).unwrap() {
        std::fs::remove_file(lease.unwrap().path()).unwrap();
    }
    assert_fails(waiting.end(), 1, &["lease", "nothing was published", "run it again"]);
    assert_eq!(place.count(), 0);
    place.store("db", b"some rows");
}

#[test]
fn a_run_that_relied_on_what_has_disappeared_publishes_nothing_and_says_what() {
    let place = Place::new();
    let bytes = crate::support::noise("db", 200_000);
    place.store("db", &bytes);
    let waiting = Waiting::start(&place, &bytes);
    let mut ids = Vec::new();
    for folder in std::fs::read_dir(place.path().join("repo/data")).unwrap() {
        for pack in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let pack = pack.unwrap();
            ids.push(pack.file_name().into_string().unwrap());
            std::fs::remove_file(pack.path()).unwrap();
        }
    }
    let output = waiting.end();
    let told = text(&output.stderr);
    assert_fails(output, 1, &["has disappeared", "nothing was published", "run it again"]);
    assert!(ids.iter().any(|id| told.contains(id)), "{ids:?}: {told}");
    assert_eq!(place.count(), 1);
}

#[test]
fn a_repository_that_may_not_be_written_is_read_and_says_who_may() {
    let mut place = Place::empty();
    place.become_nobody();
    place.ok(&["init"]);
    place.store("db", b"some rows");
    let repo = place.path().join("repo");
    let chmod = |how: &str| assert!(Command::new("chmod").args(["-R", how]).arg(&repo).status().unwrap().success());
    chmod("a-w");
    assert_eq!(place.ok(&["cat", "db"]).stdout, b"some rows");
    let tree = super::snapshot_tree(&place);
    place.fails(
        &["backup", "--name", "t", tree.to_str().unwrap()],
        1,
        &[repo.to_str().unwrap(), "ermission denied", "run as the user who owns the repository"],
    );
    chmod("u+w");
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
}

#[test]
fn output_that_has_no_room_is_an_error_that_says_so() {
    let place = Place::new();
    place.store("db", &crate::support::noise("db", 300_000));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = place.command();
    command.args(["cat", "db"]).stdout(full).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_fails(output, 1, &["cannot write the output", "not whole", "No space left", "make room"]);
}

#[test]
fn what_is_in_the_way_of_a_restore_is_named_and_kept() {
    let place = Place::new();
    let (tree, out, elsewhere) =
        (super::snapshot_tree(&place), place.path().join("out"), place.path().join("elsewhere"));
    place.ok(&["backup", "--name", "t", tree.to_str().unwrap()]);
    std::fs::create_dir_all(&out).unwrap();
    std::fs::create_dir_all(&elsewhere).unwrap();
    std::fs::write(out.join("a.txt"), "mine").unwrap();
    std::os::unix::fs::symlink(&elsewhere, out.join("keep")).unwrap();
    let from = format!("t:{}", tree.display());
    let restore = ["restore", &from, "--overwrite", "never", "--target", out.to_str().unwrap()];
    let kept = "it exists and differs, and is kept: see --overwrite";
    let words = ["a.txt", kept, "cannot write", "keep/c.txt", "is a symbolic link or no directory", "move that away"];
    place.fails(&restore, 1, &words);
    assert_eq!(std::fs::read(out.join("a.txt")).unwrap(), b"mine");
    assert!(std::fs::read_dir(&elsewhere).unwrap().next().is_none(), "the link was followed");
    assert_eq!(std::fs::read_to_string(out.join("b.txt")).unwrap(), "this is b.txt");
}

#[test]
fn a_changed_configuration_is_refused() {
    let place = Place::new();
    let config = place.path().join("repo/config");
    let changed = std::fs::read_to_string(&config).unwrap().replace("32768", "16384");
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

/// Packs of a run that published nothing stay until a gc.
#[test]
fn a_command_that_fails_after_packs_of_output_leaves_nothing_that_gc_does_not_remove() {
    let place = Place::new();
    place.store("dump", b"before");
    let files = |folder: &str| {
        let (mut files, mut pending) = (BTreeSet::new(), vec![place.path().join("repo").join(folder)]);
        while let Some(directory) = pending.pop() {
            for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
                match path.is_dir() {
                    true => pending.push(path),
                    false => assert!(files.insert(path)),
                }
            }
        }
        files
    };
    let packs = || files("data").into_iter().chain(files("meta")).collect::<BTreeSet<_>>();
    let before = packs();
    let script = "head -c 50000000 /dev/urandom; exit 7";
    place.fails(&["backup", "--command", "--name", "dump", "--", "sh", "-c", script], 1, &["status 7", "not trusted"]);
    assert_eq!(place.count(), 1);
    assert!(packs().len() > before.len() + 1, "no pack was written, so this shows nothing");
    for folder in ["leases", "tmp"] {
        assert_eq!(files(folder), BTreeSet::new(), "{folder}");
    }
    place.ok(&["check", "--read-data"]);
    place.ok(&["gc", "--grace", "0s"]);
    assert_eq!(packs(), before);
    assert_eq!(text(&place.ok(&["cat", "dump"]).stdout), "before");
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
    // An id from a variable that is not set, and rules that keep nothing: whoever wants all gone says which.
    for rule in [[].as_slice(), &["--keep-last", "0"], &["--keep-within", "0s"], &["--name", "db"]] {
        let args = [&["forget", "--unsafe-allow-remove-all"], rule].concat();
        place.fails(&args, 2, &["SNAP", "--keep option", "nothing is removed"]);
        assert_eq!(place.count(), 1, "{rule:?}");
    }
    place.fails(&["forget", "", "--unsafe-allow-remove-all"], 1, &["cairn snapshots"]);
    assert_eq!(place.count(), 1);
    place.ok(&["forget", "db", "--unsafe-allow-remove-all"]);
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
