//! What can go wrong while reading sources ([`SourceError`]) and while writing to a target ([`TargetError`]).
//!
//! A [`SourceError`] concerns one file or program and a [`TargetError`] one entry: both name it, and neither repeats
//! the system's error that it carries as its source.

use std::io;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use rustix::io::Errno;

use crate::format::FormatError;
use crate::format::codec::{escape, escape_path};
use crate::source::elasticsearch::client::Refusal;

/// PostgreSQL's class of errors that say that its machine lacks something: room, memory, connections.
pub(super) const INSUFFICIENT_RESOURCES: &str = "53";

/// A source that could not be read, or not read whole.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system refused.
    #[error("cannot {action} {path}{}", source_advice(source))]
    Unreadable {
        /// The verb.
        action: &'static str,
        /// The file, for people.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// It was there when its directory was listed, and then it was not.
    #[error("{path} vanished before it could be read")]
    Vanished {
        /// The file, for people.
        path: String,
    },
    /// Something else took its place, or it was moved away, while it was being read.
    #[error("{path} changed while it was being read: {what}; run the backup again")]
    Changed {
        /// The file, for people.
        path: String,
        /// What was noticed.
        what: &'static str,
    },
    /// The tree format has no room for it.
    #[error("{path} cannot be recorded: {what} is {found}, and the format allows {limit}")]
    Unrecordable {
        /// The file, for people.
        path: String,
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: usize,
        /// How large it may be.
        limit: usize,
    },
    /// A path that was asked for cannot be made absolute.
    #[error("cannot make the path {path} absolute")]
    Root {
        /// The path, for people.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// A glob that cannot be used.
    #[error("invalid pattern {pattern:?}: {why}")]
    Pattern {
        /// The pattern, for people.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// The program did not start.
    #[error("cannot start {program:?}: check its name, PATH and permissions")]
    Spawn {
        /// The program.
        program: String,
        /// The system's error.
        source: io::Error,
    },
    /// The program did not end well, so its output may be incomplete.
    #[error("{program:?} ended with {status}, so its output is not trusted{}", told(stderr))]
    Command {
        /// The program.
        program: String,
        /// Its exit status or signal.
        status: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// A server could not be reached, or refused.
    #[error("{server}: cannot {action}")]
    Server {
        /// The server, for people: what it is, and its address.
        server: String,
        /// What was to be done.
        action: String,
        /// What it or the system said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A server ended by itself while it was needed.
    #[error("{program}: it ended by itself, with {status}; its log ends: {log}")]
    Ended {
        /// The program.
        program: String,
        /// Its exit status or signal.
        status: String,
        /// The end of what it printed.
        log: String,
    },
    /// A server or program gave an answer that cannot be used.
    #[error("{server}: {what}")]
    Answer {
        /// The server or program, for people.
        server: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// A setting cannot be used.
    #[error("{setting}: {why}")]
    Setting {
        /// The setting, as the profile calls it.
        setting: String,
        /// What is wrong, and what is expected.
        why: String,
    },
    /// Something did not happen in the time that it was given.
    #[error("{what} within {} s", limit.as_secs())]
    Timeout {
        /// What did not happen: "postgresql did not stop".
        what: String,
        /// The time it was given.
        limit: std::time::Duration,
    },
    /// Nobody takes anything out of queues any more.
    #[error("{server}: these queues will not become empty, since what empties them is stopped ({left})")]
    Unattended {
        /// Where.
        server: String,
        /// The queues with their elements.
        left: String,
    },
    /// The operator asked for a stop.
    #[error("interrupted")]
    Interrupted,
}

impl SourceError {
    /// Whether a server may do the same a little later: it was not reached, or it has not finished starting.
    pub fn may_pass(&self) -> bool {
        let SourceError::Server { source, .. } = self else { return matches!(self, SourceError::Timeout { .. }) };
        if let Some(refusal) = source.downcast_ref::<Refusal>() {
            return refusal.is_not_ready();
        }
        source.downcast_ref::<RedisError>().is_none_or(|error| error.is_io_error() || is_not_ready(error))
    }

    /// Whether certainly this machine, or the profile, keeps it from being done: a program, an account, room or memory is
    /// missing, or it may not.
    pub fn is_of_this_machine(&self) -> bool {
        match self {
            SourceError::Spawn { .. } | SourceError::Setting { .. } => true,
            SourceError::Unreadable { source, .. } => is_for_want(source),
            SourceError::Server { source, .. } => {
                let code = source.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
                code.is_some_and(|code| code.code().starts_with(INSUFFICIENT_RESOURCES))
            }
            _ => false,
        }
    }

    /// The error for a path that the system refuses something with.
    pub(super) fn at(action: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        SourceError::Unreadable { action, path: escape_path(path), source }
    }

    /// The same, for `map_err`.
    pub(super) fn when(action: &'static str, path: &std::path::Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| SourceError::at(action, &path, source)
    }

    /// The error for a file, by what the system said.
    pub(super) fn system(action: &'static str, path: &[u8], error: Errno) -> Self {
        let path = shown(path);
        match error {
            Errno::NOENT => SourceError::Vanished { path },
            error => SourceError::Unreadable { action, path, source: error.into() },
        }
    }
}

fn is_not_ready(error: &RedisError) -> bool {
    let not_ready = [ServerErrorKind::BusyLoading, ServerErrorKind::MasterDown, ServerErrorKind::TryAgain];
    matches!(error.kind(), ErrorKind::Server(kind) if not_ready.contains(&kind))
}

/// Whether the system refuses something for want of room, memory, open files or rights, whatever was to be done.
pub fn is_for_want(error: &io::Error) -> bool {
    let want =
        [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::ACCESS, Errno::PERM];
    Errno::from_io_error(error).is_some_and(|error| want.contains(&error))
}

/// A source's path for people: absolute and printable.
pub(super) fn shown(path: &[u8]) -> String {
    format!("/{}", escape(path))
}

fn told(stderr: &str) -> String {
    match stderr.trim_end() {
        "" => "; it wrote nothing to standard error".to_owned(),
        text => format!("; the end of its standard error:\n{text}"),
    }
}

/// An entry that could not be written to a target, or not with everything that belongs to it.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The repository gave a path that could lead out of the target.
    #[error("refused the path {path:?} from the repository: it could lead out of the target")]
    HostilePath {
        /// The path, for people.
        path: String,
        /// Why it is refused.
        source: FormatError,
    },
    /// The entry would have to be written through a symbolic link, or through something that is no directory.
    #[error("cannot write {path}: one of its parents is a symbolic link or no directory; move that away and run again")]
    ParentInTheWay {
        /// The entry, for people.
        path: String,
    },
    /// A directory with something in it is where a file should go.
    #[error("cannot write {path}: a directory that is not empty is in its place; move it away and run again")]
    DirectoryInTheWay {
        /// The entry, for people.
        path: String,
    },
    /// Something is there already and must not be replaced.
    #[error("{path} exists and is left as it is")]
    Exists {
        /// The entry, for people.
        path: String,
    },
    /// Nothing that can be made: a socket, or an entry whose content was never read.
    #[error("{path} is not restored: {what}")]
    Skipped {
        /// The entry, for people.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A file was given fewer or more bytes than its entry says.
    #[error("{path} got {written} bytes of content instead of {expected}; nothing was put in its place")]
    Incomplete {
        /// The entry, for people.
        path: String,
        /// Bytes written.
        written: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// The entry is in place, without this.
    #[error("{path} is restored, but it was not possible to {action}")]
    Metadata {
        /// What was to be done.
        action: String,
        /// The entry, for people.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The system refused; the entry is not in place.
    #[error("cannot {action} {path}{}", advice(source))]
    Io {
        /// The verb.
        action: &'static str,
        /// The entry, for people.
        path: String,
        /// The system's error.
        source: io::Error,
    },
}

/// What helps against what the system said of a source.
fn source_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; run as a user who may",
        _ => "",
    }
}

/// What helps against what the system said of a target.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room in the target, or choose another, and restore again: what is finished is not written twice"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; choose a target that is not mounted read-only",
        io::ErrorKind::PermissionDenied => "; choose a target that this user may write, or run as one who may",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "; something that is no directory is in its place"
        }
        _ => "",
    }
}

impl TargetError {
    /// True when every further write would fail too (the target is full or read-only): a restore should stop.
    pub fn is_final(&self) -> bool {
        let errors = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS];
        match self {
            TargetError::Io { source, .. } => Errno::from_io_error(source).is_some_and(|e| errors.contains(&e)),
            _ => false,
        }
    }
}
