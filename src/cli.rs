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

use std::ffi::OsString;
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
    let aborts = is_fetch(std::env::args_os());
    // A panic would end with 101, which a recovery takes as the end of its archive.
    let exit = match std::panic::catch_unwind(|| outcome(aborts)) {
        Ok(exit) => exit,
        Err(_) if aborts => Exit::Abort,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    ExitCode::from(exit as u8)
}

/// Whether a recovery of PostgreSQL waits for the exit status.
fn is_fetch(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut words = arguments.skip_while(|word| word != "wal");
    words.next().is_some() && words.any(|word| word == "fetch")
}

fn outcome(aborts: bool) -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Asking for help or the version is no mistake.
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = error.print();
            return match asked {
                true => Exit::Done,
                false if aborts => Exit::Abort,
                false => Exit::Usage,
            };
        }
    };
    let output = Output { json: cli.global.json, quiet: cli.global.quiet };
    match run(cli, output) {
        Ok(exit) => exit,
        Err(error) if error.is::<OutputClosed>() && !aborts => Exit::Done,
        Err(error) => {
            let exit = match exit::of(&error) {
                Exit::Interrupted => Exit::Interrupted,
                _ if aborts => Exit::Abort,
                exit => exit,
            };
            output.error(&exit::message(&error), exit as u8);
            exit
        }
    }
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
