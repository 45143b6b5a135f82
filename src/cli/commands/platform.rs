//! `cairn platform`: one file a command.

mod plan;
mod profile;
mod sets;

use anyhow::Result;

use crate::cli::args::Global;
use crate::cli::args::platform::{PlatformCommand, ProfileArg, SelectionArgs};
use crate::cli::commands::Context;
use crate::cli::exit::Exit;
use crate::orchestrate::platform::plan::{Mode, Request};
use crate::orchestrate::platform::profile::Profile;

pub fn run(global: &Global, command: PlatformCommand, context: &Context<'_>) -> Result<Exit> {
    match command {
        PlatformCommand::Plan(args) => plan::run(args, context),
        PlatformCommand::Profile(args) => profile::run(args, context),
        PlatformCommand::Sets(args) => sets::run(global, args, context),
    }
}

/// The profile, and what is asked for, from the options that commands share.
fn asked(profile: &ProfileArg, selection: SelectionArgs) -> Result<(Profile, Request)> {
    let profile = profile::load(&profile.profile)?;
    let mode = if selection.online { Mode::Online } else { Mode::Full };
    let SelectionArgs { only, skip, allow_neo4j_stop: neo4j_may_stop, online: _ } = selection;
    Ok((profile, Request { mode, only, skip, neo4j_may_stop }))
}
