//! `cairn platform`: one file a command.

mod sets;

use anyhow::Result;

use crate::cli::args::Global;
use crate::cli::args::platform::PlatformCommand;
use crate::cli::commands::Context;
use crate::cli::exit::Exit;

pub fn run(global: &Global, command: PlatformCommand, context: &Context<'_>) -> Result<Exit> {
    match command {
        PlatformCommand::Sets(args) => sets::run(global, args, context),
    }
}
