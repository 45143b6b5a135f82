//! L4: the command line. The only layer that prints, and the only one with `anyhow`.

#![allow(missing_docs, reason = "the arguments' own help texts say it")]

pub mod args;
pub mod commands;
pub mod exit;
pub mod interrupts;
pub mod live;
pub mod progress;
pub mod render;
pub mod report;
pub mod settings;
pub mod systemd;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::args::Cli;
use crate::cli::exit::Exit;
use crate::cli::interrupts::Interrupts;
use crate::cli::progress::Bars;
use crate::cli::render::{Output, OutputClosed};
use crate::progress::StopFlag;

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Asking for help or the version is no mistake.
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = error.print();
            return ExitCode::from(if asked { Exit::Done } else { Exit::Usage } as u8);
        }
    };
    let output = Output { json: cli.global.json, quiet: cli.global.quiet };
    let exit = match run(cli, output) {
        Ok(exit) => exit,
        Err(error) if error.is::<OutputClosed>() => Exit::Done,
        Err(error) => {
            let exit = exit::of(&error);
            output.error(&exit::message(&error), exit as u8);
            exit
        }
    };
    ExitCode::from(exit as u8)
}

fn run(cli: Cli, output: Output) -> Result<Exit> {
    start_log(cli.global.verbose);
    let stop = Arc::new(StopFlag::default());
    let interrupts = Interrupts::listen(&stop)?;
    let bars = Bars::new(output, stop);
    commands::run(cli, &commands::Context { output, monitor: &bars, bars: &bars, interrupts: &interrupts })
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    log.without_time().init();
}
