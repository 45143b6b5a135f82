//! Sources that cannot be read, or not whole: each is named, the rest is saved, and the exit code is 3.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Place, summary, text};
use crate::support::machine::has_program_or_skip;
use crate::support::noise;

/// The lines of `--json` of one type.
fn objects(output: &Output, kind: &str) -> Vec<Value> {
    let lines = text(&output.stdout);
    let all = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|line| line["type"] == kind).collect()
}

/// Fails unless the backup ended with 3 and named exactly these, each with these words, to people and to programs.
fn assert_unread(output: &Output, expected: &[(&Path, &str)]) {
    let (error, notices) = (text(&output.stderr), objects(output, "notice"));
    assert_eq!(output.status.code(), Some(3), "{error}{}", text(&output.stdout));
    assert_eq!(summary(output)["unread"], expected.len(), "{error}");
    assert_eq!(notices.len(), expected.len(), "{notices:?}");
    for (path, words) in expected {
        let path = path.to_str().unwrap();
        let named = |line: &str| line.contains(path) && line.contains(words);
        assert!(error.lines().any(named), "{path} with {words:?} is not in: {error}");
        assert!(notices.iter().any(|notice| named(notice["message"].as_str().unwrap())), "{path}: {notices:?}");
    }
}

/// A program held in the middle of reading a file.
struct Held {
    child: Child,
    pid: Pid,
}

impl Held {
    /// Starts a backup of a tree and stops it as soon as it has this file open: again where this machine was too slow
    /// to stop it in time.
    fn reading(place: &Place, tree: &Path, file: &Path) -> Held {
        let mut command = place.command();
        command.args(["--json", "backup", "--force", "--name", "t"]).arg(tree);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        loop {
            let mut child = command.spawn().unwrap();
            let pid = Pid::from_child(&child);
            while child.try_wait().unwrap().is_none() {
                if !has_open(&child, file) {
                    continue;
                }
                kill_process(pid, Signal::STOP).unwrap();
                let stat = format!("/proc/{}/stat", child.id());
                while !fs::read_to_string(&stat).unwrap().contains(") T ") {
                    std::thread::sleep(Duration::from_millis(1));
                }
                if has_open(&child, file) {
                    return Held { child, pid };
                }
                child.kill().unwrap();
            }
        }
    }

    fn go_on(self) -> Output {
        kill_process(self.pid, Signal::CONT).unwrap();
        self.child.wait_with_output().unwrap()
    }
}

/// Whether a program has a file open.
fn has_open(child: &Child, file: &Path) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{}/fd", child.id())) else { return false };
    open.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link == file))
}

/// Backs a tree up while something is done to it over and over. Once more if the machine left that no time, which shows
/// as a backup that found nothing.
fn backup_while(place: &Place, tree: &Path, disturb: impl Fn() + Sync) -> Output {
    let since = Instant::now();
    loop {
        let done = AtomicBool::new(false);
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    disturb();
                }
            });
            let output = place.run(&["--json", "backup", "--force", "--name", "t", tree.to_str().unwrap()]);
            done.store(true, Ordering::SeqCst);
            output
        });
        if output.status.code() != Some(0) || since.elapsed() > Duration::from_secs(60) {
            return output;
        }
    }
}

#[test]
fn what_may_not_be_read_is_named_and_read_when_it_may() {
    let mut place = Place::empty();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("closed/below")).unwrap();
    for name in ["a", "secret", "closed/in", "closed/below/deep", "z"] {
        fs::write(tree.join(name), format!("this is {name}")).unwrap();
    }
    place.become_nobody();
    place.ok(&["init"]);
    let mode = |name: &str, mode| fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).unwrap();
    mode("secret", 0o000);
    mode("closed", 0o000);
    let (secret, closed) = (tree.join("secret"), tree.join("closed"));
    let output = place.run(&["--json", "backup", "--name", "t", tree.to_str().unwrap()]);
    assert_unread(&output, &[(&secret, "cannot open"), (&closed, "cannot read the directory")]);
    // The cause, and what to do.
    assert_unread(&output, &[(&secret, "Permission denied"), (&closed, "run as a user who may")]);
    assert_eq!(summary(&output)["files"], 2);
    let listed = text(&place.ok(&["snapshots"]).stdout);
    assert!(listed.contains("(2 unread)"), "{listed}");
    let listed = text(&place.ok(&["ls", "t"]).stdout);
    let unread = |name: &str| listed.lines().any(|line| line.starts_with('?') && line.ends_with(name));
    assert!(unread("/secret") && unread("/closed") && !listed.contains("deep"), "{listed}");
    let (whole, out) = (format!("t:{}", tree.display()), place.path().join("out"));
    let restored = place.ok(&["restore", &whole, "--target", out.to_str().unwrap(), "--verify"]);
    assert!(text(&restored.stderr).contains("secret: the backup could not read it"), "{}", text(&restored.stderr));
    assert_eq!(fs::read(out.join("z")).unwrap(), b"this is z");
    assert!(!out.join("secret").exists() && !out.join("closed").exists(), "something was made up");
    // A dry run says the same of what it cannot list, and a second backup does not take it as known.
    let dry = place.run(&["--json", "backup", "--dry-run", "--name", "t", tree.to_str().unwrap()]);
    assert_unread(&dry, &[(&closed, "cannot read the directory")]);
    let again = place.run(&["--json", "backup", "--name", "t", tree.to_str().unwrap()]);
    assert_unread(&again, &[(&secret, "cannot open"), (&closed, "cannot read the directory")]);
    assert_eq!(summary(&again)["unchanged_files"], 2);
    mode("secret", 0o600);
    mode("closed", 0o700);
    let whole_again = summary(&place.ok(&["--json", "backup", "--name", "t", tree.to_str().unwrap()]));
    assert_eq!((&whole_again["unread"], &whole_again["files"]), (&0.into(), &5.into()), "{whole_again}");
    assert_eq!(
        place.ok(&["cat", "t", tree.join("closed/below/deep").to_str().unwrap()]).stdout,
        b"this is closed/below/deep"
    );
}

#[test]
fn what_vanishes_or_is_replaced_during_a_backup_is_named() {
    let place = Place::new();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("c-directory/below")).unwrap();
    let (large, next) = (tree.join("b-large"), tree.join("d-next"));
    fs::write(&large, noise("large", 48 << 20)).unwrap();
    for name in ["a", "c-directory/below/file", "d-next", "e"] {
        fs::write(tree.join(name), format!("this is {name}")).unwrap();
    }
    // The walk is some way ahead: so much that it has not come to the directory when it waits.
    for number in 0..100 {
        fs::write(tree.join(format!("b-small-{number}")), "small").unwrap();
    }
    let held = Held::reading(&place, &tree, &large);
    fs::write(tree.join("new"), "another").unwrap();
    fs::rename(tree.join("new"), &large).unwrap();
    fs::remove_dir_all(tree.join("c-directory")).unwrap();
    fs::remove_file(&next).unwrap();
    let output = held.go_on();
    let directory = tree.join("c-directory");
    assert_unread(&output, &[(&large, "another file took its place"), (&directory, "vanished"), (&next, "vanished")]);
    for name in ["a", "e"] {
        let stored = place.ok(&["cat", "t", tree.join(name).to_str().unwrap()]).stdout;
        assert_eq!(text(&stored), format!("this is {name}"));
    }
    place.fails(&["cat", "t", large.to_str().unwrap()], 1, &["b-large"]);
    let next = summary(&place.ok(&["--json", "backup", "--name", "t", tree.to_str().unwrap()]));
    assert_eq!((&next["files"], &next["unchanged_files"], &next["read_bytes"]), (&103.into(), &102.into(), &7.into()));
    assert_eq!(place.ok(&["cat", "t", large.to_str().unwrap()]).stdout, b"another");
    place.ok(&["check", "--read-data"]);
}

#[test]
fn a_file_that_vanishes_while_it_is_read_is_named() {
    let place = Place::new();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let large = tree.join("large");
    fs::write(&large, noise("large", 48 << 20)).unwrap();
    let held = Held::reading(&place, &tree, &large);
    fs::remove_file(&large).unwrap();
    assert_unread(&held.go_on(), &[(&large, "vanished")]);
}

#[test]
fn a_file_that_changed_once_is_read_again_and_no_loss() {
    let place = Place::new();
    let tree = place.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let large = tree.join("large");
    let mut bytes = noise("large", 48 << 20);
    fs::write(&large, &bytes).unwrap();
    let held = Held::reading(&place, &tree, &large);
    File::options().write(true).open(&large).unwrap().write_all_at(b"changed", 0).unwrap();
    File::options().append(true).open(&large).unwrap().write_all(b"grown").unwrap();
    let output = held.go_on();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    bytes[..7].copy_from_slice(b"changed");
    bytes.extend(b"grown");
    assert!(place.ok(&["cat", "t", large.to_str().unwrap()]).stdout == bytes, "a mixture was stored");
}

#[test]
fn a_file_that_never_rests_is_stored_and_named_and_read_again() {
    for grows in [true, false] {
        let place = Place::new();
        let tree = place.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let (restless, calm) = (tree.join("restless"), tree.join("calm"));
        let bytes = noise("restless", 12 << 20);
        fs::write(&restless, &bytes).unwrap();
        fs::write(&calm, "calm").unwrap();
        let file = File::options().append(true).open(&restless).unwrap();
        let output = backup_while(&place, &tree, || {
            if grows {
                (&file).write_all(b"more").unwrap();
            } else {
                file.set_len(6 << 20).unwrap();
                (&file).write_all(&bytes[6 << 20..]).unwrap();
            }
        });
        assert_unread(&output, &[(&restless, "may be a mixture")]);
        let out = place.path().join("out");
        let whole = format!("t:{}", tree.display());
        place.ok(&["restore", &whole, "--target", out.to_str().unwrap(), "--verify"]);
        assert_eq!(fs::read(out.join("calm")).unwrap(), b"calm");
        let stored = fs::read(out.join("restless")).unwrap();
        assert!(stored.len() >= 6 << 20 && stored[..6 << 20] == bytes[..6 << 20], "what never changed is there");
        let next = summary(&place.ok(&["--json", "backup", "--name", "t", tree.to_str().unwrap()]));
        let len = fs::metadata(&restless).unwrap().len();
        assert_eq!((&next["unread"], &next["read_bytes"]), (&0.into(), &len.into()), "{next}");
        assert!(place.ok(&["cat", "t", restless.to_str().unwrap()]).stdout == fs::read(&restless).unwrap());
    }
}

/// A read error in the middle, as a bad sector makes it.
#[test]
fn a_file_that_fails_in_the_middle_is_named_and_the_rest_saved() {
    if !has_program_or_skip("strace") {
        return;
    }
    let place = Place::new();
    let tree = place.path().canonicalize().unwrap().join("tree");
    fs::create_dir(&tree).unwrap();
    let (bad, good) = (tree.join("bad"), tree.join("good"));
    fs::write(&bad, noise("bad", 30 << 20)).unwrap();
    fs::write(&good, noise("good", 3 << 20)).unwrap();
    let run = |nth: &str| {
        let program = place.command();
        let mut traced = Command::new("strace");
        traced.args(["--follow-forks", "--quiet=all", "--trace=read,pread64", "-o"]).arg(place.path().join("log"));
        traced.args(["-e", &format!("inject=read,pread64:error=EIO:when={nth}"), "-P"]).arg(&bad);
        traced.arg(program.get_program()).args(program.get_args()).env_clear();
        traced.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        traced.args(["--json", "backup", "--name", "t"]).arg(&tree).output().unwrap()
    };
    let output = run("3+");
    let log = fs::read_to_string(place.path().join("log")).unwrap();
    assert!(log.lines().any(|line| line.ends_with("= 2097152")) && log.contains("INJECTED"), "{log}");
    assert_unread(&output, &[(&bad, "Input/output error")]);
    assert_eq!(place.ok(&["cat", "t", good.to_str().unwrap()]).stdout, fs::read(&good).unwrap());
    place.fails(&["cat", "t", bad.to_str().unwrap()], 1, &["bad"]);
    place.ok(&["check", "--read-data"]);
    let output = place.ok(&["--json", "backup", "--name", "t", tree.to_str().unwrap()]);
    assert_eq!(summary(&output)["unread"], 0);
    assert!(place.ok(&["cat", "t", bad.to_str().unwrap()]).stdout == fs::read(&bad).unwrap());
}
