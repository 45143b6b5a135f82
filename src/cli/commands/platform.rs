//! `cairn platform`: one file a command.

mod after;
mod backup;
mod diff;
mod drill;
mod page;
mod plan;
mod preflight;
pub(super) mod profile;
mod requeue;
mod restore;
mod restore_page;
mod resume;
mod sets;

use std::time::Duration;

use anyhow::Result;

use crate::cli::args::Global;
use crate::cli::args::platform::{ComponentsArgs, PlatformCommand, ProfileArg, SelectionArgs};
use crate::cli::commands::Context;
use crate::cli::exit::{Exit, Usage};
use crate::cli::live::Live;
use crate::cli::systemd::Notify;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::plan::{Mode, Request};
use crate::orchestrate::platform::profile::{Component, Profile};
use crate::orchestrate::platform::resume::Wanted;
use crate::orchestrate::platform::state::{Lock, StateDir};

pub fn run(global: &Global, command: PlatformCommand, context: &Context<'_>) -> Result<Exit> {
    match command {
        PlatformCommand::Plan(args) => plan::run(args, context),
        PlatformCommand::Preflight(args) => preflight::run(global, args, context),
        PlatformCommand::Backup(args) => backup::run(global, args, context),
        PlatformCommand::Resume(args) => resume::resume(args, Wanted::CutOff, context),
        PlatformCommand::Start(args) => resume::resume(args, Wanted::Everything, context),
        PlatformCommand::Stop(args) => resume::stop(args, context),
        PlatformCommand::Profile(args) => profile::run(args, context),
        PlatformCommand::Requeue(args) => requeue::run(global, args, context),
        PlatformCommand::Restore(args) => restore::run(global, args, context),
        PlatformCommand::Drill(args) => drill::run(global, args, context),
        PlatformCommand::Reindex(args) => after::reindex(args, context),
        PlatformCommand::Migrate(args) => after::migrate(args, context),
        PlatformCommand::FailedPackages(args) => after::failed_packages(args, context),
        PlatformCommand::Sets(args) => sets::run(global, args, context),
    }
}

/// A view of a run.
fn watch(context: &Context<'_>) -> Result<Live> {
    Ok(Live::new(context.output, context.bars.stop(), Notify::from_environment())?)
}

/// From here on a stop waits for the undoing. One that was asked for before ends the program in a few seconds, so nothing
/// may be begun any more.
fn undo_first(context: &Context<'_>) -> Result<()> {
    context.interrupts.undo_first();
    match context.monitor.interrupted() {
        true => Err(OrchestrateError::Interrupted.into()),
        false => Ok(()),
    }
}

/// The state directory of this machine, locked.
fn lock(profile: &Profile, wait: u64, context: &Context<'_>) -> Result<(StateDir, Lock)> {
    let state = StateDir::open(&profile.state.directory)?;
    let stop = || context.monitor.interrupted();
    let lock = state.lock(Duration::from_secs(wait), &stop)?;
    Ok((state, lock))
}

/// The profile, and what is asked for, from the options that commands share.
fn asked(profile: &ProfileArg, selection: SelectionArgs) -> Result<(Profile, Request)> {
    let profile = profile::load(&profile.profile)?;
    let mode = if selection.online { Mode::Online } else { Mode::Full };
    let SelectionArgs { components: ComponentsArgs { only, skip }, allow_neo4j_stop: neo4j_may_stop, online: _ } =
        selection;
    Ok((profile, Request { mode, only, skip, neo4j_may_stop }))
}

/// The components of the profile that are asked for; at least one.
fn wanted(profile: &Profile, args: &ComponentsArgs) -> Result<Vec<Component>> {
    let is_wanted = |one: &Component| (args.only.is_empty() || args.only.contains(one)) && !args.skip.contains(one);
    let wanted: Vec<Component> = profile.components.iter().copied().filter(is_wanted).collect();
    if let Some(absent) = args.only.iter().find(|one| !wanted.contains(one)) {
        return Err(Usage(format!("{} is not in the profile, or was left out", absent.name())).into());
    }
    match wanted.is_empty() {
        true => Err(Usage("no component is left: all of the profile's are in --skip".to_owned()).into()),
        false => Ok(wanted),
    }
}
