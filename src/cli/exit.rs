//! From errors to exit codes and to what is said of them.

use crate::backend::BackendError;
use crate::format::FormatError;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::profile::ProfileError;
use crate::orchestrate::select::SelectError;
use crate::repo::RepoError;
use crate::retention::RetentionError;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Called wrongly.
    Usage = 2,
    /// Done, but some source data could not be read; or something was found that somebody has to see to.
    Unread = 3,
    /// There is no repository.
    NoRepository = 10,
    /// Another process excludes this one.
    Locked = 11,
    /// No key opens.
    WrongPassword = 12,
    /// Stopped by the operator.
    Interrupted = 130,
    /// PostgreSQL must not go on: its recovery takes every status up to 125 as the end of the archive.
    Abort = 200,
}

/// A mistake of the caller.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The exit code of an error: that of the first cause that has one of its own.
pub fn of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(of_cause).unwrap_or(Exit::Failed)
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(error) = cause.downcast_ref::<SelectError>() {
        return match error {
            SelectError::Time { .. }
            | SelectError::Twice { .. }
            | SelectError::Never { .. }
            | SelectError::Ambiguous { .. } => Some(Exit::Usage),
            SelectError::None { .. } | SelectError::TooEarly { .. } | SelectError::Damaged { .. } => Some(Exit::Failed),
        };
    }
    if cause.is::<Usage>() || cause.is::<RetentionError>() || cause.is::<ProfileError>() {
        return Some(Exit::Usage);
    }
    match cause.downcast_ref() {
        Some(OrchestrateError::Repo(error)) => return of_cause(error),
        Some(OrchestrateError::AmbiguousPath { .. }) => return Some(Exit::Usage),
        Some(OrchestrateError::Busy { .. }) => return Some(Exit::Locked),
        Some(error) if error.is_interrupted() => return Some(Exit::Interrupted),
        _ => {}
    }
    if let Some(error) = cause.downcast_ref::<RepoError>() {
        return match error {
            RepoError::Backend(error) => of_cause(error),
            RepoError::Format(error) | RepoError::Object { source: error, .. } => of_cause(error),
            RepoError::Locked { .. } => Some(Exit::Locked),
            RepoError::WrongKey { .. } => Some(Exit::WrongPassword),
            RepoError::Interrupted => Some(Exit::Interrupted),
            RepoError::KeyPrefix { .. } => Some(Exit::Usage),
            _ => None,
        };
    }
    match (cause.downcast_ref::<BackendError>(), cause.downcast_ref::<FormatError>()) {
        (Some(BackendError::NoRepository { .. }), _) => Some(Exit::NoRepository),
        (_, Some(FormatError::WrongKey)) => Some(Exit::WrongPassword),
        _ => None,
    }
}

/// An error and its causes in one line. Causes that repeat what was said (transparent wrappers) are left out.
pub fn message(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
    }
    parts.join(": ")
}
