//! What can end an operation.

use std::io;

use crate::repo::RepoError;
use crate::source::{SourceError, TargetError};

/// A failure of an operation as a whole.
#[derive(Debug, thiserror::Error)]
pub enum OrchestrateError {
    /// The repository failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// The source failed as a whole.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The target failed as a whole.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Reading standard input or a program's output failed.
    #[error("cannot read the input, so nothing was published")]
    Input(#[source] io::Error),
    /// Writing standard output failed.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// None of the paths given exists.
    #[error("none of the paths can be read, so nothing was published")]
    NoRoots(#[source] SourceError),
    /// The snapshot has no such path.
    #[error("snapshot {snapshot} has no {path}: see `cairn ls {snapshot}`")]
    NoPath {
        /// The snapshot, shortened.
        snapshot: String,
        /// The path asked for.
        path: String,
    },
    /// What was asked for does not fit the snapshot.
    #[error("{0}")]
    Unfit(String),
    /// The table of hard links failed.
    #[error("cannot keep the table of hard links: check the temporary directory")]
    Links(#[source] rusqlite::Error),
}
