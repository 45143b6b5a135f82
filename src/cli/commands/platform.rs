//! `cairn platform`: one file a command.

mod plan;
mod profile;
mod sets;

use anyhow::Result;

use crate::cli::args::Global;
use crate::cli::args::platform::PlatformCommand;
use crate::cli::commands::Context;
use crate::cli::exit::Exit;

pub fn run(global: &Global, command: PlatformCommand, context: &Context<'_>) -> Result<Exit> {
    match command {
        PlatformCommand::Plan(args) => plan::run(args, context),
        PlatformCommand::Profile(args) => profile::run(args, context),
        PlatformCommand::Sets(args) => sets::run(global, args, context),
    }
}
