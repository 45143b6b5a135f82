//! Words of `cairn wal`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub enum WalCommand {
    /// PostgreSQL's archive_command: returns when the file is durable in the repository
    Push(PushArgs),
    /// PostgreSQL's restore_command: exit status 1 only where the archive ends, 200 for what must stop the recovery
    Fetch(FetchArgs),
    /// Fetch what comes after a segment, before it is asked for
    #[command(hide = true)]
    Ahead(AheadArgs),
    /// What is archived of each cluster, what is missing, and what can be recovered; exit status 1 if there is a gap
    Status(StatusArgs),
}

#[derive(Args, Debug)]
pub struct PushArgs {
    /// The file, as PostgreSQL gives it: %p
    pub path: PathBuf,
    /// The cluster's data directory, where PostgreSQL starts its archive_command
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub pgdata: PathBuf,
}

#[derive(Args, Debug)]
pub struct FetchArgs {
    /// The file's name, as PostgreSQL gives it: %f
    pub name: String,
    /// Where it is to be, as PostgreSQL gives it: %p
    pub dest: PathBuf,
    /// The cluster's data directory, where PostgreSQL starts its restore_command
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub pgdata: PathBuf,
    /// The cluster's identifier, where there is no data directory to ask
    #[arg(long, value_name = "NUMBER", conflicts_with = "pgdata")]
    pub system_id: Option<u64>,
    /// Fetch no further segments in the background
    #[arg(long)]
    pub no_ahead: bool,
}

#[derive(Args, Debug)]
pub struct AheadArgs {
    /// The segment that the server has
    pub name: String,
    /// The cluster's identifier
    #[arg(long)]
    pub system_id: u64,
}

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Also ask the running server of this platform how far its archiving is: a built-in profile's name, or a file
    #[arg(long)]
    pub profile: Option<OsString>,
}
