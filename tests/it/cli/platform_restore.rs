//! `cairn platform restore --report`: the page of a restore, however it ends. And `--target-root`: configuration beneath
//! another directory, while the platform works on.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use super::platform_diff::Files;
use super::{assert_fails, text};
use crate::support::machine::is_root_or_skip;
use crate::support::pty::wait_until;

impl Files {
    /// Restores with a page: the exit status, what was said, and the page.
    fn restore(&self, options: &[&str]) -> (Option<i32>, String, String) {
        let page = self.place.path().join("page/report.html");
        let arguments = ["--json", "platform", "restore", "--set", "latest", "--allow", "online", "--profile"];
        let report = ["--report", page.to_str().unwrap()];
        let arguments = [&arguments[..], &[&self.profile], &report, options].concat();
        // Nothing that it needs is there, so it fails wherever the test runs, when it looks which units run.
        let output = self.place.command().env("PATH", "/nowhere").args(arguments).output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.code(), said, fs::read_to_string(&page).unwrap_or_default())
    }
}

/// Whoever runs the program may write there.
fn make_page_directory(files: &Files) {
    let directory = files.place.path().join("page");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
}

#[test]
fn the_page_of_a_restore_that_failed_says_why_and_that_all_is_as_it_was() {
    let files = Files::new();
    make_page_directory(&files);
    files.write("plain.conf", b"<b>changed</b>\n");
    let (code, said, page) = files.restore(&["--yes"]);
    assert_eq!(code, Some(1), "{said}");
    for words in [
        "<title>Restore of backup set ",
        "<span class=\"state failed\">failed</span>",
        "everything is as it was before",
        "<h2>What ended it</h2>",
        "systemctl",
        "In spite of it being</dt>\n<dd>online",
        "neo4j: it was not asked for",
        "<dt>Exit status</dt>\n<dd>1</dd>",
    ] {
        assert!(page.contains(words), "{words:?} is not in\n{page}");
    }
    assert!(!page.contains(">restored<") && !page.contains("http:") && !page.contains("<script"), "{page}");
    assert_eq!(fs::read(files.etc.join("plain.conf")).unwrap(), b"<b>changed</b>\n");

    // A page that cannot be written is known before anything is begun.
    fs::remove_dir_all(files.place.path().join("page")).unwrap();
    let (code, said, _) = files.restore(&["--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot write the report to") && !said.contains("systemctl"), "{said}");
}

/// A platform that is at work, and on which another run was cut off: none of that is asked for, or touched.
struct Elsewhere {
    files: Files,
    state: PathBuf,
    _lock: fs::File,
}

const LEFT: &str = "what a run on the platform has left\n";

impl Elsewhere {
    /// `None` where files cannot be given to their owners.
    fn new() -> Option<Self> {
        if !is_root_or_skip("giving files to their owners") {
            return None;
        }
        let mut files = Files::new();
        files.place.user = None;
        let state = files.place.path().join("state");
        let _ = fs::create_dir(&state);
        fs::write(state.join("journal"), LEFT).unwrap();
        let lock = fs::File::create(state.join("lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let elsewhere = Elsewhere { files, state, _lock: lock };
        elsewhere.program("systemctl", "echo asked >> $(dirname $0)/asked; exit 1");
        Some(elsewhere)
    }

    /// A program that is found before those of the machine.
    fn program(&self, name: &str, script: &str) {
        let place = self.path("bin");
        let _ = fs::create_dir(&place);
        fs::set_permissions(&place, Permissions::from_mode(0o777)).unwrap();
        fs::write(place.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(place.join(name), Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.place.path().join(name)
    }

    fn command(&self, command: &str, options: &[&str]) -> Command {
        let mut run = self.files.place.command();
        let programs = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        run.env("PATH", programs).current_dir(self.files.place.path());
        run.args(["--json", "platform", command, "--profile", &self.files.profile]).args(options);
        run
    }

    fn restore(&self, options: &[&str]) -> Command {
        self.command("restore", &[&["--set", "latest", "--allow", "online", "--yes"], options].concat())
    }

    /// A file of the configuration beneath a directory.
    fn beneath(&self, root: &Path) -> PathBuf {
        root.join(self.files.etc.join("plain.conf").strip_prefix("/").unwrap())
    }
}

#[test]
fn what_goes_beneath_another_directory_leaves_the_platform_alone() {
    let Some(it) = Elsewhere::new() else { return };
    it.files.write("plain.conf", b"of the platform\n");
    // Relative, and not there yet: it was taken for the top of the file system.
    let look = it.path("look");
    for time in 0..2 {
        let output = it.restore(&["--target-root", "look"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
        assert!(!text(&output.stdout).contains("census") && !text(&output.stdout).contains("stop-"), "{time}");
        assert_eq!(fs::read(it.beneath(&look)).unwrap(), b"one\ntwo\nthree\nfour\nfive\nsix\n");
        // What it replaces is kept, as on the platform.
        let kept = fs::read_dir(it.state.join("beneath")).unwrap();
        let kept = kept.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".before-"));
        assert_eq!(kept.count(), time + 1, "{time}");
        fs::write(it.beneath(&look), "changed\n").unwrap();
    }
    assert_eq!(fs::read(it.files.etc.join("plain.conf")).unwrap(), b"of the platform\n");
    assert!(!it.path("bin/asked").exists(), "systemd was asked");
    assert_eq!(fs::read_to_string(it.state.join("journal")).unwrap(), LEFT);

    // A link out of it would put in force what was to be looked at.
    let out = it.path("out");
    let above = it.files.etc.ancestors().nth(1).unwrap().strip_prefix("/").unwrap();
    fs::create_dir_all(out.join(above).parent().unwrap()).unwrap();
    symlink(it.files.place.path(), out.join(above)).unwrap();
    assert_fails(it.restore(&["--target-root", "out"]).output().unwrap(), 1, &["leads to", "which is not beneath"]);
    assert_eq!(fs::read(it.files.etc.join("plain.conf")).unwrap(), b"of the platform\n");

    // Onto the platform itself it has to wait for the other run, whatever the directory is called.
    for root in ["/", "/nowhere/..", "//"] {
        let output = it.restore(&["--target-root", root]).output().unwrap();
        assert_ne!(output.status.code(), Some(0));
    }
    assert_fails(it.restore(&["--target-root", "/."]).output().unwrap(), 11, &[]);
    assert_eq!(fs::read(it.files.etc.join("plain.conf")).unwrap(), b"of the platform\n");
}

#[test]
fn one_that_is_killed_beneath_another_directory_is_undone() {
    let Some(it) = Elsewhere::new() else { return };
    let (look, pid) = (it.path("look"), it.path("bin/pid"));
    let restored = it.restore(&["--target-root", "look"]).output().unwrap();
    assert!(restored.status.success(), "{}", text(&restored.stderr));
    fs::write(it.beneath(&look), "changed\n").unwrap();
    it.program("cp", "echo $$ > $(dirname $0)/pid; exec sleep 1000");
    let mut run = it.restore(&["--target-root", "look"]);
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("files are kept", || fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n')));
    child.kill().unwrap();
    child.wait().unwrap();
    let copy = rustix::process::Pid::from_raw(fs::read_to_string(&pid).unwrap().trim().parse().unwrap()).unwrap();
    let _ = rustix::process::kill_process(copy, rustix::process::Signal::KILL);
    fs::remove_file(it.path("bin/cp")).unwrap();
    assert!(it.state.join("beneath/journal").exists());
    // The platform's own journal is another matter, and here it is damaged.
    fs::remove_file(it.state.join("journal")).unwrap();
    let Elsewhere { files, state, _lock } = it;
    drop(_lock);
    let resumed = files.place.run(&["--json", "platform", "resume", "--profile", &files.profile]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    assert!(text(&resumed.stdout).contains("put-config"), "{}", text(&resumed.stdout));
    assert!(!state.join("beneath/journal").exists());
    let plain = look.join(files.etc.join("plain.conf").strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(plain).unwrap(), "changed\n");
}
