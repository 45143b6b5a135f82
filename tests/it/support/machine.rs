//! What tests need of the machine they run on, and what they say when it is not to be had.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Set to anything but `0` and nothing, this makes a skipped test a failed one: `.ci/run` sets it, so that what is
/// tested there is known.
const NO_SKIPS: &str = "CAIRN_TEST_NO_SKIPS";

/// Says that a test, or a part of one, does not run here, and why.
///
/// It is written to the handle itself: the test harness shows only what failing tests print.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    if std::env::var_os(NO_SKIPS).is_some_and(|value| !value.is_empty() && value != OsStr::new("0")) {
        panic!("{test} would be skipped, and {NO_SKIPS} is set: {why}");
    }
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether this is root; a skip is told if not.
pub fn is_root_or_skip(what: &str) -> bool {
    if !is_root() {
        skip(&format!("{what} needs root"));
    }
    is_root()
}

/// Whether a program is there and runs; a skip is told if not.
pub fn has_program_or_skip(program: &str) -> bool {
    let tried = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let runs = tried.is_ok_and(|output| output.status.success());
    if !runs {
        skip(&format!("{program} is missing"));
    }
    runs
}

/// An empty directory whose path has no symbolic links.
pub fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

/// The user without privileges that root becomes in tests.
pub const NOBODY: u32 = 65534;

/// Runs as a user without privileges: on a thread of its own, because the kernel keeps identities by thread.
pub fn as_nobody<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        if is_root() {
            let (uid, gid) = (rustix::fs::Uid::from_raw(NOBODY), rustix::fs::Gid::from_raw(NOBODY));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        }
        body()
    });
    thread.join().unwrap()
}

/// A small file system in memory, for as long as this lives.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one at a directory that exists. `None`, after a line that says so, where this user may not.
    pub fn mount(place: &Path, size: &str) -> Option<Tmpfs> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(place).stderr(Stdio::null());
        if !mount.status().is_ok_and(|status| status.success()) {
            skip("this user may not mount a file system");
            return None;
        }
        Some(Tmpfs(place.to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
