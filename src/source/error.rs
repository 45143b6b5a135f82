//! What can go wrong in a source or a target. Paths are kept as bytes and shown escaped.

use std::io;

use crate::format::FormatError;
use crate::format::codec::escape;

/// A failure to read a source. One entry's failure does not end the others' reading.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Something is there and cannot be read.
    #[error("cannot {action} /{}", escape(path))]
    Unreadable {
        /// The verb.
        action: &'static str,
        /// The path, relative to the root directory.
        path: Vec<u8>,
        /// The system's error.
        source: io::Error,
    },
    /// It was listed and is no longer there.
    #[error("/{} vanished while it was read", escape(path))]
    Vanished {
        /// The path.
        path: Vec<u8>,
    },
    /// It changed while it was read, so what was stored may be mixed.
    #[error("/{} changed while it was read: what was stored may be a mixture", escape(path))]
    Changed {
        /// The path.
        path: Vec<u8>,
    },
    /// It has something that a tree cannot hold.
    #[error("/{} cannot be stored", escape(path))]
    Unfit {
        /// The path.
        path: Vec<u8>,
        /// Why.
        source: FormatError,
    },
    /// A root given does not exist.
    #[error("{path}: no such file or directory, or it cannot be reached")]
    Root {
        /// The path given.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// A pattern is malformed.
    #[error("the pattern {pattern:?} is malformed: {why}")]
    Pattern {
        /// The pattern given.
        pattern: String,
        /// What is wrong.
        why: String,
    },
    /// A program could not be started.
    #[error("cannot start {program}: check that it is installed and executable")]
    Start {
        /// The program.
        program: String,
        /// The system's error.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} {status}, so its output was not stored{}", tail_text(tail))]
    Failed {
        /// The program.
        program: String,
        /// How it ended, in words.
        status: String,
        /// The last lines of its standard error.
        tail: String,
    },
}

fn tail_text(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!("; it said: {tail}") }
}

/// A failure to write to a target directory.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The system refused.
    #[error("cannot {action} {} in the target", escape(path))]
    Io {
        /// The verb.
        action: &'static str,
        /// The path beneath the target.
        path: Vec<u8>,
        /// The system's error.
        source: io::Error,
    },
    /// The target directory itself cannot be used.
    #[error("cannot use {path} as target directory")]
    Directory {
        /// The directory.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// Something else is in the way.
    #[error("{} is in the way: {found} where {wanted} belongs", escape(path))]
    Conflict {
        /// The path beneath the target.
        path: Vec<u8>,
        /// What is there.
        found: &'static str,
        /// What should be.
        wanted: &'static str,
    },
    /// The repository names a path that no honest backup has.
    #[error("a path in the snapshot is unsafe and was not restored")]
    Unsafe {
        /// What is wrong.
        source: FormatError,
    },
}
