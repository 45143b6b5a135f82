//! `cairn completions` and `man`.

use std::io::Write;

use anyhow::{Context as _, Result};
use clap::CommandFactory;

use crate::cli::args::{Cli, CompletionsArgs, ManArgs};
use crate::cli::exit::Exit;
use crate::format::codec::escape_path;

pub fn completions(args: CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cairn", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Done)
}

pub fn man(args: ManArgs) -> Result<Exit> {
    let mut command = Cli::command();
    command.build();
    match args.directory {
        Some(directory) => {
            std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", escape_path(&directory)))?;
            clap_mangen::generate_to(command, &directory)
                .with_context(|| format!("cannot write manual pages to {}", escape_path(&directory)))?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            std::io::stdout().write_all(&page)?;
        }
    }
    Ok(Exit::Done)
}
