//! Starting again what an earlier run has left stopped; and stopping on purpose, to be started again the same way.

use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::backup::{Outcome, header};
use crate::orchestrate::platform::executor::{Executor, Notes};
use crate::orchestrate::platform::journal::Found;
use crate::orchestrate::platform::plan::Plan;
use crate::orchestrate::platform::profile::{self, Profile};
use crate::orchestrate::platform::rest::{Queues, bring_to_rest, patterns};
use crate::orchestrate::platform::run::Run;
use crate::orchestrate::platform::services::Census;
use crate::orchestrate::platform::state::StateDir;
use crate::orchestrate::platform::undo::undo;
use crate::progress::Monitor;

/// What is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What a run that was cut off has left. A platform that was stopped on purpose stays so: this is done at every boot
    /// and after every nightly run, by nobody who knows why it is down.
    CutOff,
    /// Everything, also what was stopped on purpose.
    Everything,
}

/// What became of it.
#[derive(Debug)]
pub enum Resumed {
    /// There was nothing to undo.
    Nothing,
    /// The platform is stopped on purpose, and was left alone.
    AtRest,
    /// What was due was undone, or is stuck.
    Undone(Box<Outcome>),
}

/// Undoes what the journal in this directory says is due. The caller holds the lock.
///
/// The profile is the one that the run was made with, from the journal; `fallback` is for a journal whose first line is
/// damaged.
pub fn resume(
    state: &StateDir,
    fallback: &Profile,
    wanted: Wanted,
    monitor: &dyn Monitor,
) -> Result<Resumed, OrchestrateError> {
    let Some(found) = Found::read(state)? else { return Ok(Resumed::Nothing) };
    if found.at_rest && wanted == Wanted::CutOff {
        return Ok(Resumed::AtRest);
    }
    let recorded = found.header.as_ref().map(|header| profile::parse("journal", header.profile.as_bytes()));
    let profile = match recorded {
        Some(Ok(profile)) => profile,
        // What services are called is in the entries; how they are reached is most probably the same.
        Some(Err(_)) | None => fallback.clone(),
    };
    let run = Run::resume(state, &found, monitor)?;
    let mut stuck = run.undo_all(&mut |due| undo(&profile, due));
    let outcome = match found.damaged {
        0 => Outcome::of(run, None, None, stuck),
        damaged => {
            // It stays, and refuses the next run: nobody but a person can say that nothing else is down.
            let journal = crate::format::codec::escape_path(&state.journal());
            stuck.push(OrchestrateError::Unfit(format!(
                "{damaged} lines of {journal} are damaged, and what they stopped is not known: see whether every service \
                 runs and Elasticsearch's repository can be written to, then move that file away"
            )));
            Outcome { set: None, error: None, stuck, steps: run.log() }
        }
    };
    Ok(Resumed::Undone(Box::new(outcome)))
}

/// Brings the platform to rest and leaves it so, until everything is wanted again. A failure undoes what was done.
pub fn stop(
    state: &StateDir,
    profile: &Profile,
    plan: &Plan,
    queues: Queues<'_>,
    monitor: &dyn Monitor,
) -> Result<Outcome, OrchestrateError> {
    let run = Run::begin(state, header("stop", profile), monitor)?;
    let executor = Executor { profile, plan, run: &run, monitor };
    let (error, stuck) = match rest(&executor, queues).and_then(|()| run.stay_at_rest()) {
        Ok(()) => (None, Vec::new()),
        Err(error) => (Some(error), run.undo_all(&mut |due| undo(profile, due))),
    };
    Ok(Outcome::of(run, None, error, stuck))
}

fn rest(executor: &Executor<'_>, queues: Queues<'_>) -> Result<(), OrchestrateError> {
    let census = executor.step("census", None, || {
        let census = Census::take(executor.profile, &patterns(executor.profile), &executor.stop())?;
        Ok((census.shown(), census))
    })?;
    bring_to_rest(executor, &census, queues, &Notes::new(executor.monitor)).map(drop)
}
