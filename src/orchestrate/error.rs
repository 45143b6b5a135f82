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
    #[error(
        "cannot write the output, so it is not whole: make room where it goes, or choose another place, and run it again"
    )]
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
    /// The path typed is one entry's name, and what `ls` prints for another.
    #[error(
        "the path {typed} is ambiguous: for the entry with just these characters write {escaped}; for the one that \
         `cairn ls` prints so, write its bytes without %"
    )]
    AmbiguousPath {
        /// The path as it was typed.
        typed: String,
        /// The same, as `ls` prints it.
        escaped: String,
    },
    /// What was asked for does not fit the snapshot.
    #[error("{0}")]
    Unfit(String),
    /// Another run holds the lock of this host.
    #[error("another run is at work here ({holder}): wait for its end; its lock is in {directory}")]
    Busy {
        /// The state directory.
        directory: String,
        /// What the holder says of itself.
        holder: String,
    },
    /// An earlier run was cut off and has left things to undo.
    #[error("an earlier run did not end, so services may be down: run `cairn platform resume` first ({journal})")]
    Unfinished {
        /// The journal.
        journal: String,
    },
    /// The platform was stopped on purpose.
    #[error("the platform was stopped on purpose: run `cairn platform start` first, which starts what ran ({journal})")]
    AtRest {
        /// The journal.
        journal: String,
    },
    /// The state directory failed.
    #[error("cannot {action} {path}: the state directory must be writable, and have some space")]
    State {
        /// The verb.
        action: &'static str,
        /// The file.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// No backup set is chosen.
    #[error(transparent)]
    Choose(#[from] crate::orchestrate::platform::choose::ChooseError),
    /// No base backup and log lead to a time.
    #[error(transparent)]
    Aim(#[from] crate::orchestrate::platform::aim::AimError),
    /// What a backup needs is not so, or somebody would be disturbed.
    #[error("{checks}; `--allow CHECK` begins in spite of one")]
    Refused {
        /// The checks, with what was seen and what to do.
        checks: String,
    },
    /// A step of a run failed.
    #[error("{title} failed")]
    Step {
        /// The step's id in the plan.
        step: String,
        /// What it does.
        title: String,
        /// Why it failed.
        source: Box<OrchestrateError>,
    },
    /// This machine kept something from being done, whatever was to be done.
    #[error("{0}")]
    Hindered(String),
    /// What is stored is damaged or missing, and so not restored.
    #[error("{0}")]
    Damaged(String),
    /// A server refuses what was restored.
    #[error("the server does not start on what was restored, and does start on nothing")]
    RefusedByServer(#[source] Box<OrchestrateError>),
    /// The operator asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The table of hard links failed.
    #[error("cannot keep the table of hard links: check the temporary directory")]
    Links(#[source] rusqlite::Error),
}

impl OrchestrateError {
    /// Whether it is the operator who ended it.
    pub fn is_interrupted(&self) -> bool {
        match self {
            OrchestrateError::Interrupted
            | OrchestrateError::Repo(RepoError::Interrupted)
            | OrchestrateError::Source(SourceError::Interrupted) => true,
            OrchestrateError::Step { source, .. } => source.is_interrupted(),
            _ => false,
        }
    }
}
