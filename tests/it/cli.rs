//! The program as its users meet it.

mod after;
mod browse;
mod bytes;
mod damage;
mod drill;
mod errors;
mod forget;
mod full;
mod gc;
mod init;
mod interrupt;
mod keys;
mod kill;
mod live;
mod memory;
mod metadata;
mod platform;
mod platform_backup;
mod platform_diff;
mod platform_restore;
mod processes;
mod progress;
mod proof;
mod report;
mod restore;
mod roundtrip;
pub mod sets;
mod shared_index;
mod space;
mod stale_index;
mod together;
mod unread;
mod use_cases;
mod words;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::support::machine::{NOBODY, is_root};

/// A place for a repository and a program to use it. The key file costs no key derivation.
struct Place {
    directory: TempDir,
    /// Where the program is, and who runs it; `None` for who runs the test.
    program: PathBuf,
    user: Option<u32>,
}

impl Place {
    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("key"), [5; 32]).unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(directory.path().join("key"), private).unwrap();
        Place { directory, program: assert_cmd::cargo::cargo_bin!("cairn").to_owned(), user: None }
    }

    fn new() -> Self {
        let place = Place::empty();
        place.ok(&["init"]);
        place
    }

    /// From now on the program runs as a user without privileges, to whom all that is here is given. It is copied,
    /// because the place where it was built may be closed to others; by another process, because what this one holds open
    /// for writing, if only for a moment, is inherited by whatever another thread starts then, and "text file busy".
    fn become_nobody(&mut self) {
        if !is_root() {
            return;
        }
        let copy = self.path().join("cairn");
        assert!(Command::new("cp").arg(&self.program).arg(&copy).status().unwrap().success());
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        let all = format!("{NOBODY}:{NOBODY}");
        assert!(Command::new("chown").args(["-R", "-h", &all]).arg(self.path()).status().unwrap().success());
        (self.program, self.user) = (copy, Some(NOBODY));
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self) -> Command {
        let mut command = self.command_without_key();
        command.arg("--key-file").arg(self.path().join("key"));
        command
    }

    fn command_without_key(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(user) = self.user {
            command.uid(user).gid(user).current_dir("/");
        }
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TZ", "UTC");
        command.env("CAIRN_REPO", self.path().join("repo")).env("CAIRN_CACHE_DIR", self.path().join("cache"));
        command.stdin(Stdio::null());
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
        let mut child =
            command.args(["-q", "backup", "--stdin", "--name", name]).stdin(Stdio::piped()).spawn().unwrap();
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
