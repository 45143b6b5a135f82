//! What a failure lies in: in what is stored, in this machine, or nobody can say.
//!
//! Invariant: of the machine is only what certainly is, and of what is stored only what was seen of it. Who draws a
//! conclusion about what is stored has to draw the worse one where neither is sure.

use std::io;

use crate::orchestrate::OrchestrateError;
use crate::repo::RepoError;
use crate::source::{SourceError, TargetError, is_for_want};

/// What a failure lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// What is stored is damaged, missing, or refused by a server that otherwise works.
    Stored,
    /// This machine has no room, no memory, no program, or may not.
    Machine,
    /// It may be either.
    Unknown,
}

impl OrchestrateError {
    /// What it lies in.
    pub fn cause(&self) -> Cause {
        match self {
            OrchestrateError::Step { source, .. } => source.cause(),
            OrchestrateError::Repo(error) => of_repository(error),
            OrchestrateError::Source(SourceError::Unreadable { source, .. })
            | OrchestrateError::Input(source)
            | OrchestrateError::Output(source) => of_system(source),
            OrchestrateError::Source(error) => machine_if(error.is_of_this_machine()),
            OrchestrateError::Target(TargetError::HostilePath { .. } | TargetError::Incomplete { .. }) => Cause::Stored,
            OrchestrateError::Target(TargetError::Io { source, .. } | TargetError::Metadata { source, .. }) => {
                of_system(source)
            }
            OrchestrateError::RefusedByServer(_) | OrchestrateError::Damaged(_) => Cause::Stored,
            OrchestrateError::Hindered(_) | OrchestrateError::State { .. } | OrchestrateError::Links(_) => {
                Cause::Machine
            }
            _ => Cause::Unknown,
        }
    }
}

fn machine_if(is_so: bool) -> Cause {
    if is_so { Cause::Machine } else { Cause::Unknown }
}

fn of_repository(error: &RepoError) -> Cause {
    match error {
        error if error.is_damage() || error.is_not_found() => Cause::Stored,
        error if error.is_of_this_machine() => Cause::Machine,
        RepoError::Frame { source, .. } => of_repository(source),
        // That storage cannot be read may be the end of it.
        RepoError::Backend(_) => Cause::Stored,
        _ => Cause::Unknown,
    }
}

/// An error of the system, or one of the repository that came through a stream.
fn of_system(error: &io::Error) -> Cause {
    let inner = error.get_ref();
    if let Some(inner) = inner.and_then(|inner| inner.downcast_ref::<RepoError>()) {
        return of_repository(inner);
    }
    match inner.and_then(|inner| inner.downcast_ref::<OrchestrateError>()) {
        Some(inner) => inner.cause(),
        None => machine_if(is_for_want(error)),
    }
}
