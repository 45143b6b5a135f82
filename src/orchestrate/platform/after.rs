//! What is left to do once a set was restored: indices filled from PostgreSQL, indices migrated, packages looked for that
//! were not ingested.
//!
//! * [`reindex`]: one index after another.
//! * [`migrate`]: a program that outlives the session that started it; [`record`] is what it leaves behind.
//! * [`failed_packages`]: a question to the platform's database.
//!
//! Invariant: the platform's own programs are started from the profile's arguments, as the profile's user, never by a
//! shell; and while one of them works, this machine's lock is held, so no backup stops what it writes to.

pub mod failed_packages;
pub mod migrate;
pub mod record;
pub mod reindex;

use crate::format::codec::escape_path;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::journal::Found;
use crate::orchestrate::platform::profile::{AfterRestore, Argv};
use crate::orchestrate::platform::state::StateDir;
use crate::source::command::{Account, CommandSpec};

/// A program of the platform.
fn program(after: &AfterRestore, argv: &Argv) -> Result<CommandSpec, OrchestrateError> {
    let mut spec = CommandSpec::new(argv.words());
    if let Some(user) = &after.user {
        let account = Account::named(user.as_str())?;
        account.may_act()?;
        spec = spec.user(&account);
    }
    for (name, value) in &after.environment {
        spec = spec.env(name, value);
    }
    Ok(spec)
}

/// Fails if a run was cut off: what it has left may be in the way. A platform that was stopped on purpose is not.
fn nothing_cut_off(state: &StateDir) -> Result<(), OrchestrateError> {
    match Found::read(state)? {
        Some(found) if found.is_cut_off() => {
            Err(OrchestrateError::Unfinished { journal: escape_path(&state.journal()) })
        }
        _ => Ok(()),
    }
}

/// The last lines of what a program wrote, for people.
fn last_lines(text: &str) -> String {
    const LINES: usize = 10;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
