//! Filling the indices of Elasticsearch from PostgreSQL, one after another, while the platform is stopped.
//!
//! Invariant: an index counts as filled only if its program ended with status 0. One that fails does not keep the next
//! from being filled; what was never begun is told apart from what failed.

use std::time::Instant;

use serde::Serialize;

use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::after::{last_lines, nothing_cut_off, program};
use crate::orchestrate::platform::profile::{Profile, Word};
use crate::orchestrate::platform::rest::at_work;
use crate::orchestrate::platform::state::StateDir;
use crate::progress::{Monitor, StepEvent, StepState, StepWork};
use crate::repo::chain;
use crate::source::SourceError;

/// So many of the platform's units and processes are named.
const NAMED: usize = 10;

/// What became of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its program ended well.
    Done,
    /// Its program failed, or could not be started.
    Failed,
    /// It was ended in the middle, since a stop was asked for.
    Interrupted,
    /// It was not begun.
    NotBegun,
}

impl State {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            State::Done => "done",
            State::Failed => "failed",
            State::Interrupted => "interrupted",
            State::NotBegun => "not begun",
        }
    }
}

/// An index.
#[derive(Clone, Debug, Serialize)]
pub struct Reindexed {
    /// As the profile calls it.
    pub index: String,
    /// What became of it.
    pub state: State,
    /// Why it failed, or how many lines its program wrote.
    pub detail: String,
    /// How long it took.
    pub milliseconds: u64,
}

/// The indices that are meant, in the profile's order: those of `only`, or all. `Err` says which of `only` there is not.
pub fn wanted<'p>(profile: &'p Profile, only: &[String]) -> Result<Vec<&'p Word>, String> {
    let all = &profile.after_restore.indices;
    let names = || all.iter().map(Word::as_str).collect::<Vec<_>>().join(", ");
    if all.is_empty() || profile.after_restore.reindex.is_empty() {
        return Err("the profile names no index, or no program: see after-restore.indices and .reindex".to_owned());
    }
    if let Some(unknown) = only.iter().find(|name| all.iter().all(|index| index.as_str() != **name)) {
        return Err(format!("{unknown:?} is no index of the profile; there are {}", names()));
    }
    Ok(all.iter().filter(|index| only.is_empty() || only.iter().any(|name| index.as_str() == name)).collect())
}

/// Fills indices. The caller holds the lock. An error means that nothing was begun.
pub fn reindex(
    state: &StateDir,
    profile: &Profile,
    indices: &[&Word],
    monitor: &dyn Monitor,
) -> Result<Vec<Reindexed>, OrchestrateError> {
    nothing_cut_off(state)?;
    let stop = || monitor.interrupted();
    at_rest(profile, &stop)?;
    // Whether the account is there, and may be used, is known before the first.
    program(&profile.after_restore, &profile.after_restore.reindex)?;
    let mut ended = Vec::new();
    for index in indices {
        let one = match monitor.interrupted() {
            true => outcome(index, State::NotBegun, String::new(), None),
            false => fill(profile, index, monitor),
        };
        ended.push(one);
    }
    Ok(ended)
}

fn at_rest(profile: &Profile, stop: &dyn Fn() -> bool) -> Result<(), OrchestrateError> {
    let mut found = at_work(profile, stop)?;
    if found.is_empty() {
        return Ok(());
    }
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    let found = found.join("; ");
    Err(OrchestrateError::Unfit(format!(
        "the platform runs, and would write into the indices: {found}; stop it first, with `cairn platform stop`"
    )))
}

fn fill(profile: &Profile, index: &Word, monitor: &dyn Monitor) -> Reindexed {
    let (step, title) = (format!("reindex:{index}"), format!("fill {index} from PostgreSQL"));
    let tell = |state, detail: &str| monitor.step(&StepEvent { step: &step, title: &title, state, detail });
    tell(StepState::Running, "");
    let began = Instant::now();
    let after = &profile.after_restore;
    let mut lines = 0_u64;
    let ran = program(after, &after.reindex.with("index", index.as_str())).and_then(|spec| {
        let mut told = |line: &str| {
            lines += 1;
            tracing::info!(target: "reindex", "{index}: {line}");
            monitor.within(&step, StepWork::Item(line));
        };
        Ok(spec.follow(after.timeout_seconds.duration(), &|| monitor.interrupted(), &mut told)?)
    });
    let (state, detail) = match ran {
        Ok(finished) if finished.status.success() => (State::Done, format!("{lines} lines of output")),
        Ok(finished) => {
            let (ended, said) = (finished.ended(), last_lines(&finished.stderr));
            let said = if said.is_empty() { "nothing on its standard error".to_owned() } else { said };
            (State::Failed, format!("{} ended with {ended}: {said}", finished.program))
        }
        Err(OrchestrateError::Source(SourceError::Interrupted)) => {
            (State::Interrupted, "its program was killed; what it has written so far stays".to_owned())
        }
        Err(error) => (State::Failed, chain(&error)),
    };
    tell(if state == State::Done { StepState::Done } else { StepState::Failed }, &detail);
    outcome(index, state, detail, Some(began))
}

fn outcome(index: &Word, state: State, detail: String, began: Option<Instant>) -> Reindexed {
    let milliseconds = began.map_or(0, |began| began.elapsed().as_millis() as u64);
    Reindexed { index: index.as_str().to_owned(), state, detail, milliseconds }
}
