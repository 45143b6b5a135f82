//! `cairn platform resume`, `start` and `stop`.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::cli::args::platform::{StateArgs, StopArgs};
use crate::cli::commands::Context;
use crate::cli::commands::platform::{lock, profile, undo_first, watch};
use crate::cli::exit::{Exit, Usage};
use crate::cli::live::Live;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::backup::{Outcome, failures};
use crate::orchestrate::platform::discover::Discovery;
use crate::orchestrate::platform::plan::{Request, plan};
use crate::orchestrate::platform::profile::Profile;
use crate::orchestrate::platform::rest::Queues;
use crate::orchestrate::platform::resume::{self, Resumed, Wanted};
use crate::orchestrate::platform::state::StateDir;

pub fn resume(args: StateArgs, wanted: Wanted, context: &Context<'_>) -> Result<Exit> {
    let profile = profile::load(&args.profile.profile)?;
    let (state, _lock) = lock(&profile, args.wait, context)?;
    undo_first(context)?;
    let live = watch(context)?;
    let mut resumed = resume::resume(&state, &profile, wanted, &live)?;
    if wanted == Wanted::CutOff
        && let Some(Resumed::Undone(beside)) = beneath(&profile, context, &live)?
    {
        resumed = match resumed {
            Resumed::Undone(mut outcome) => {
                outcome.steps.extend(beside.steps);
                outcome.stuck.extend(beside.stuck);
                Resumed::Undone(outcome)
            }
            Resumed::Nothing | Resumed::AtRest => Resumed::Undone(beside),
        };
    }
    live.finish("");
    match resumed {
        Resumed::Nothing => {
            context.output.summary("no run has left anything to be undone", json!({ "undone": 0 }))?;
            Ok(Exit::Done)
        }
        Resumed::AtRest => {
            let sentence = "the platform was stopped on purpose and stays so; `cairn platform start` starts it";
            context.output.summary(sentence, json!({ "undone": 0, "at_rest": true }))?;
            Ok(Exit::Done)
        }
        Resumed::Undone(outcome) => tell(&outcome, "undone: everything is as it was before the run", context),
    }
}

/// What a restore beneath another directory has left, unless one is under way.
fn beneath(profile: &Profile, context: &Context<'_>, live: &Live) -> Result<Option<Resumed>> {
    let mut profile = profile.clone();
    profile.state.directory = StateDir::beneath(&profile.state.directory);
    if !profile.state.directory.is_dir() {
        return Ok(None);
    }
    match lock(&profile, 0, context) {
        Ok((state, _lock)) => Ok(Some(resume::resume(&state, &profile, Wanted::CutOff, live)?)),
        Err(error) if matches!(error.downcast_ref(), Some(OrchestrateError::Busy { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn stop(args: StopArgs, context: &Context<'_>) -> Result<Exit> {
    let profile = profile::load(&args.profile.profile)?;
    // No file of the platform is looked at: nothing is captured.
    let plan = plan(&profile, Discovery::default(), &Request::default()).map_err(|error| Usage(error.to_string()))?;
    let (state, _lock) = lock(&profile, args.wait, context)?;
    undo_first(context)?;
    let queues = Queues { drain_timeout: args.drain_timeout.map(Duration::from_secs), purge_into: None };
    let live = watch(context)?;
    let outcome = resume::stop(&state, &profile, &plan, queues, &live)?;
    live.finish("");
    tell(&outcome, "the platform is at rest; `cairn platform start` starts it again", context)
}

fn tell(outcome: &Outcome, well: &str, context: &Context<'_>) -> Result<Exit> {
    let exit = match &outcome.error {
        Some(error) if error.is_interrupted() && outcome.stuck.is_empty() => Exit::Interrupted,
        None if outcome.stuck.is_empty() => Exit::Done,
        _ => Exit::Failed,
    };
    for failure in failures(outcome) {
        context.output.error(&failure, exit as u8);
    }
    let sentence = match exit {
        Exit::Done => well,
        _ => "not all was done; what is left is in the journal: run `cairn platform resume` when its cause is gone",
    };
    context.output.summary(sentence, json!({ "exit": exit as u8, "steps": outcome.steps }))?;
    Ok(exit)
}
