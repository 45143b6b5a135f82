//! Words of `cairn platform`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub enum PlatformCommand {
    /// List backup sets, or show one as a report
    Sets(SetsArgs),
}

#[derive(Args, Debug)]
pub struct SetsArgs {
    /// Only of this profile
    #[arg(long)]
    pub profile: Option<String>,
    /// Make the report of this set again: an id prefix, or `latest`
    #[arg(long, value_name = "SET")]
    pub report: Option<String>,
    /// Write the report, a page that stands alone, to this file instead of standard output
    #[arg(long, value_name = "FILE", requires = "report")]
    pub output: Option<PathBuf>,
}
