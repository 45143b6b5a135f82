//! A directory for servers that are needed for a while only, and the end of all that works in it.
//!
//! Invariants: what is removed has the name of such a directory, was made by one, and nothing is mounted in it. A
//! process is ended only if it was started for this very directory: it has the directory's mark in its environment,
//! which every process inherits, or is a PostgreSQL that works beneath it (which writes over its environment). So
//! neither a number that another process has meanwhile nor a shell that somebody left in the directory is ever taken for
//! one of ours, and there is no moment between a start and its record.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, chownat};
use rustix::process::{Gid, Signal, Uid};

use crate::format::codec::escape_path;
use crate::source::SourceError;
use crate::source::command::{Account, Background, CommandSpec};
use crate::source::process::Process;
use crate::source::process::terminate::{Patience, terminate};

/// What the names of such directories begin with.
const PREFIX: &str = "cairn-drill-";
/// The variable that marks what works for one, with its path.
const MARK: &str = "CAIRN_SCRATCH";
/// How much is read of a process's environment.
const ENVIRONMENT: u64 = 1 << 20;
const MOUNTS: u64 = 16 << 20;
/// How long a process may take to end.
const PATIENCE: Patience = Patience { terminate: Duration::from_secs(30), kill: Duration::from_secs(30) };
/// So often processes are looked for: those that are ended may start others until they are.
const ROUNDS: usize = 10;

/// Such a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// One in a directory; `mark` tells it from others.
    pub fn plan(parent: &Path, mark: &str) -> Self {
        Scratch { path: parent.join(format!("{PREFIX}{mark}")) }
    }

    /// One that was made earlier, at this path.
    pub fn at(path: &Path) -> Self {
        Scratch { path: path.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why servers could not work there; `None` if they can. They run as accounts of their own.
    pub fn obstacle(&self) -> Option<String> {
        let parent = self.path.parent()?;
        let closed = |path: &&Path| fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 == 0);
        if !parent.is_dir() {
            return Some(format!("{} is not a directory: name one with --scratch", escape_path(parent)));
        }
        let closed = parent.ancestors().find(closed)?;
        Some(format!(
            "the accounts of servers cannot enter {}, so none can work beneath it: name another place with --scratch",
            escape_path(closed)
        ))
    }

    /// Makes it. It must not exist.
    pub fn make(&self) -> Result<(), SourceError> {
        DirBuilder::new().mode(0o711).create(&self.path).map_err(SourceError::when("make", &self.path))
    }

    /// Makes a directory in it for an account; for ourselves, if none is named.
    pub fn directory(&self, name: &str, account: Option<&Account>) -> Result<PathBuf, SourceError> {
        let path = self.path.join(name);
        owned_directory(&path, account)?;
        Ok(path)
    }

    /// A program that works for it, in one of its directories.
    pub fn marked(&self, spec: CommandSpec, directory: &Path) -> CommandSpec {
        spec.env(MARK, &self.path).directory(directory)
    }

    /// The processes that work for it.
    pub fn processes(&self) -> Result<Vec<Process>, SourceError> {
        let failed = |source| SourceError::Unreadable { action: "list", path: "/proc".to_owned(), source };
        let place = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mark = [MARK.as_bytes(), b"=", self.path.as_os_str().as_bytes()].concat();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if pid == std::process::id() {
                continue;
            }
            let Some(process) = Process::read(pid).map_err(failed)?.filter(|process| !process.ended) else { continue };
            let is_postgres = matches!(process.name.as_str(), "postgres" | "postmaster");
            let beneath =
                || fs::read_link(entry.path().join("cwd")).is_ok_and(|directory| directory.starts_with(&place));
            // What cannot be read is of a process that has ended, or is none of ours.
            if is_postgres && beneath() || environment(pid).split(|byte| *byte == 0).any(|one| one == mark) {
                found.push(process);
            }
        }
        Ok(found)
    }

    /// Ends whatever works for it and removes it; how many processes there were. Repeatable.
    pub fn end(&self) -> Result<usize, SourceError> {
        let ours = self.path.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes()));
        if !ours || !self.path.is_absolute() {
            let why = "it is no directory that a drill has made; nothing was removed".to_owned();
            return Err(SourceError::Setting { setting: escape_path(&self.path), why });
        }
        let mut ended = 0;
        for _ in 0..ROUNDS {
            let processes = self.processes()?;
            if processes.is_empty() {
                self.remove()?;
                return Ok(ended);
            }
            for process in processes {
                terminate(process.id, PATIENCE, &|| false, &mut |_, _| {})?;
                ended += 1;
            }
        }
        let what = "processes that work in it start anew, whatever is ended; nothing was removed".to_owned();
        Err(SourceError::Answer { server: escape_path(&self.path), what })
    }

    fn remove(&self) -> Result<(), SourceError> {
        let found = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            found => found.map_err(SourceError::when("look at", &self.path))?,
        };
        let refused = |what: &str| {
            Err(SourceError::Answer { server: escape_path(&self.path), what: format!("{what}; nothing was removed") })
        };
        if !found.is_dir() || found.uid() != uzers::get_effective_uid() {
            return refused("it is not the directory that was made");
        }
        if self.has_mounts()? {
            return refused("something is mounted in it: unmount that first");
        }
        // Links are removed and not followed.
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(SourceError::when("remove", &self.path)(error)),
            _ => Ok(()),
        }
    }

    fn has_mounts(&self) -> Result<bool, SourceError> {
        let list = Path::new("/proc/self/mountinfo");
        let mut text = Vec::new();
        let file = File::open(list).map_err(SourceError::when("open", list))?;
        file.take(MOUNTS).read_to_end(&mut text).map_err(SourceError::when("read", list))?;
        let place = fs::canonicalize(&self.path).map_err(SourceError::when("find", &self.path))?;
        let mounted = |line: &[u8]| {
            let point = plain(line.split(|byte| *byte == b' ').nth(4).unwrap_or_default());
            Path::new(OsStr::from_bytes(&point)).starts_with(&place)
        };
        Ok(text.split(|byte| *byte == b'\n').any(mounted))
    }
}

/// A path as the kernel writes it in a list of mounts: space, tab, line feed and backslash as three octal digits.
fn plain(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let digits = text.get(at + 1..at + 4).filter(|_| *byte == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) => {
                bytes.push(value);
                at += 4;
            }
            None => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    bytes
}

/// Makes a directory for an account alone.
pub fn owned_directory(path: &Path, account: Option<&Account>) -> Result<(), SourceError> {
    DirBuilder::new().mode(0o700).create(path).map_err(SourceError::when("make", path))?;
    owned(path, account)
}

/// Gives a file or directory to an account.
pub fn owned(path: &Path, account: Option<&Account>) -> Result<(), SourceError> {
    let Some(account) = account.filter(|account| !account.is_ours()) else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| SourceError::when("give its owner to", path)(error.into()))
}

/// Makes a file for an account alone.
pub fn owned_file(path: &Path, text: &str, account: Option<&Account>) -> Result<(), SourceError> {
    let mut options = OpenOptions::new();
    // Never through a link that somebody has put there.
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(SourceError::when("make", path))?;
    file.write_all(text.as_bytes()).map_err(SourceError::when("write", path))?;
    owned(path, account)
}

/// Ends a server that was started in one.
pub fn end_server(server: Background) -> Result<(), SourceError> {
    server.stop(Signal::TERM, PATIENCE.terminate)
}

/// A port of the loopback interface that nobody listens on. Somebody may before it is used: then the server that was
/// meant to does not start.
pub fn free_port() -> Result<u16, SourceError> {
    let failed =
        |source| SourceError::Unreadable { action: "find a free port at", path: "127.0.0.1".to_owned(), source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    Ok(listener.local_addr().map_err(failed)?.port())
}

/// Whether somebody listens on a port of the loopback interface.
pub fn port_is_taken(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err()
}

fn environment(pid: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read =
        File::open(format!("/proc/{pid}/environ")).and_then(|file| file.take(ENVIRONMENT).read_to_end(&mut bytes));
    if read.is_err() {
        bytes.clear();
    }
    bytes
}
