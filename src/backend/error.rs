//! What can go wrong in storage. Each says what was tried, on which object, where, and why.

use std::io;

use rustix::io::Errno;

use crate::format::{Kind, ObjectId};

/// A failure of storage.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// There is no such object.
    #[error("{kind} {id} is not in {location}")]
    NotFound {
        /// The object's kind.
        kind: Kind,
        /// Its id.
        id: ObjectId,
        /// The storage.
        location: String,
    },
    /// There is such an object already.
    #[error("{kind} {id} is already in {location}")]
    AlreadyExists {
        /// The object's kind.
        kind: Kind,
        /// Its id.
        id: ObjectId,
        /// The storage.
        location: String,
    },
    /// The object does not have the bytes asked for.
    #[error("{kind} {id} in {location} is {len} bytes long; {wanted} were expected: it is truncated or damaged")]
    Range {
        /// The object's kind.
        kind: Kind,
        /// Its id.
        id: ObjectId,
        /// The storage.
        location: String,
        /// Its length.
        len: u64,
        /// What was expected, in words.
        wanted: String,
    },
    /// The storage is full.
    #[error(
        "no space left in {location} for {what}; what was stored before is safe. `cairn forget` and `cairn gc --grace 0s` \
         give space back and need only a few KiB themselves; where even they fail, first remove other files from that \
         disk, or enlarge it"
    )]
    Full {
        /// What was being written.
        what: String,
        /// The storage.
        location: String,
        /// The system's error.
        source: io::Error,
    },
    /// Anything else that the system refused.
    #[error("cannot {action} {what} in {location}{}", advice(source))]
    Io {
        /// The verb.
        action: &'static str,
        /// The object or place.
        what: String,
        /// The storage.
        location: String,
        /// The system's error.
        source: io::Error,
    },
    /// There is no repository here.
    #[error("there is no repository in {location}: check the path, or make one with `cairn init`")]
    NoRepository {
        /// The storage.
        location: String,
    },
    /// There is a repository, or something else, here already.
    #[error(
        "{location} is not empty: it holds {found}. Nothing was changed; choose another place for a new repository"
    )]
    NotEmpty {
        /// The storage.
        location: String,
        /// What is there.
        found: String,
    },
}

/// What helps against what the system said.
fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; run as the user who owns the repository, or change its permissions",
        io::ErrorKind::ReadOnlyFilesystem => "; what writes needs a file system that is not mounted read-only",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => "; a file is where a directory should be",
        _ => "",
    }
}

/// An object was begun for a head of another length.
pub(super) fn wrong_head(kind: Kind, id: &ObjectId, location: String, len: usize, left: usize) -> BackendError {
    let why = format!("its head has {len} bytes, and {left} were left free for it: report this as a mistake of cairn");
    BackendError::Io { action: "write", what: format!("{kind} {id}"), location, source: io::Error::other(why) }
}

impl BackendError {
    /// Whether this process has no memory, or no more files may be open: that says nothing of what is stored.
    pub fn is_for_want(&self) -> bool {
        let want = [Errno::NOMEM, Errno::MFILE, Errno::NFILE];
        let BackendError::Io { source, .. } = self else { return false };
        Errno::from_io_error(source).is_some_and(|error| want.contains(&error))
    }

    /// True for [`BackendError::NotFound`].
    pub fn is_not_found(&self) -> bool {
        matches!(self, BackendError::NotFound { .. })
    }
}
