//! What may be written on the command line. First stage: words to fields; [`crate::cli::settings`] makes sense of them.

pub mod platform;
pub mod wal;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::cli::args::platform::PlatformCommand;
use crate::cli::args::wal::WalCommand;

/// Content-addressed, deduplicating, encrypted backups.
#[derive(Parser, Debug)]
#[command(name = "cairn", version, about, max_term_width = 110, disable_help_subcommand = true)]
#[command(
    after_help = "SNAP is `latest`, the beginning of an id (4 digits or more; capital letters count as small ones), NAME (its newest snapshot), or NAME@TIME (its newest at or before TIME: \
RFC 3339, a date, or a local date and time). A word that is both a NAME and the beginning of an id is refused.\n\nExit codes: 0 done; 1 failed; 2 usage; 3 done but some source data unread, or done and something found that is to be seen to; \
10 no repository; 11 locked; 12 wrong password; 130 interrupted; 200 `wal fetch` failed otherwise than by finding nothing."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
pub struct Global {
    /// The repository's directory
    #[arg(short, long, global = true, env = "CAIRN_REPO", value_name = "DIR")]
    pub repo: Option<PathBuf>,
    /// A file whose first line is the password (also: the environment variables CAIRN_PASSWORD_FILE, or CAIRN_PASSWORD)
    #[arg(long, global = true, value_name = "FILE", group = "credential")]
    pub password_file: Option<PathBuf>,
    /// A program whose output's first line is the password; split at spaces, no shell
    #[arg(long, global = true, value_name = "COMMAND", group = "credential")]
    pub password_command: Option<OsString>,
    /// A file of 32 random bytes that opens the repository instead of a password
    #[arg(long, global = true, value_name = "FILE", group = "credential")]
    pub key_file: Option<PathBuf>,
    /// Print JSON: one object a line, a last one of type `summary`
    #[arg(long, global = true)]
    pub json: bool,
    /// Print no progress and no notes
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice for debugging
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Where the derived index is kept [default: $CACHE_DIRECTORY, $XDG_CACHE_HOME/cairn or ~/.cache/cairn]
    #[arg(long, global = true, env = "CAIRN_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make a new, encrypted repository
    Init(InitArgs),
    /// Store paths, standard input, or a program's output as a snapshot
    Backup(BackupArgs),
    /// List snapshots
    Snapshots(SnapshotsArgs),
    /// List what is in a snapshot
    Ls(LsArgs),
    /// Find paths in all snapshots
    Find(FindArgs),
    /// Compare two snapshots
    Diff(DiffArgs),
    /// Print a file of a snapshot, or a stream
    Cat(CatArgs),
    /// Restore a snapshot, or part of it
    Restore(RestoreArgs),
    /// Check that the repository is sound
    Check(CheckArgs),
    /// Read every byte of snapshots back and record the proof
    Verify(VerifyArgs),
    /// Remove snapshots by a policy
    Forget(ForgetArgs),
    /// Reclaim the space of forgotten snapshots
    Gc(GcArgs),
    /// Manage passwords and key files
    #[command(subcommand)]
    Key(KeyCommand),
    /// Manage the derived index
    #[command(subcommand)]
    Index(IndexCommand),
    /// Say how large everything is
    Stats,
    /// Back up a whole platform as one recovery point
    #[command(subcommand)]
    Platform(PlatformCommand),
    /// Archive PostgreSQL's write-ahead log, and give it back to a recovery
    #[command(subcommand)]
    Wal(WalCommand),
    /// Print a shell's completion script
    Completions(CompletionsArgs),
    /// Print the manual page, or write one for each command into a directory
    Man(ManArgs),
}

#[derive(Args, Debug)]
pub struct InitArgs {
    /// A name for the first key
    #[arg(long, default_value = "first")]
    pub label: String,
}

#[derive(Args, Debug)]
pub struct BackupArgs {
    /// The snapshot's name: its series [default: made from the paths or the program]
    #[arg(long)]
    pub name: Option<String>,
    /// A tag; may be given more than once
    #[arg(long, value_name = "KEY=VALUE")]
    pub tag: Vec<String>,
    /// Compare with this snapshot, or with `none` [default: the newest of the same name]
    #[arg(long, value_name = "SNAP")]
    pub parent: Option<String>,
    /// Leave out what matches: with a leading / the whole path, else its end; may be given more than once
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<OsString>,
    /// Stay on the file systems of the paths: what is mounted below them is left out, with an empty directory in its place
    #[arg(long)]
    pub one_file_system: bool,
    /// Read files that seem unchanged, too, and read back what is stored already before relying on it: damaged data is
    /// stored again, and nothing as a difference to older data
    #[arg(long)]
    pub force: bool,
    /// Only say what would be read (paths only)
    #[arg(long)]
    pub dry_run: bool,
    /// Store standard input. Its end is taken as complete: where a program makes it, --command is safer
    #[arg(long, conflicts_with_all = ["command", "paths"])]
    pub stdin: bool,
    /// Store the output of the program after `--`, only if it exits 0
    #[arg(long, conflicts_with = "paths", requires = "program")]
    pub command: bool,
    /// The paths to store
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

#[derive(Args, Debug)]
pub struct SnapshotsArgs {
    /// Only of this name
    #[arg(long)]
    pub name: Option<String>,
    /// Only with this tag; may be given more than once
    #[arg(long, value_name = "KEY=VALUE")]
    pub tag: Vec<String>,
    /// Only the newest of each name at or before this time
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
}

#[derive(Args, Debug)]
pub struct LsArgs {
    /// The snapshot
    pub snap: String,
    /// Only this path and what is below it; as it is, or as `ls` prints it
    pub path: Option<OsString>,
}

#[derive(Args, Debug)]
pub struct FindArgs {
    /// With a leading / the whole path, else its end
    pub glob: OsString,
    /// Only in snapshots of this name
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The older snapshot
    pub old: String,
    /// The newer snapshot
    pub new: String,
}

#[derive(Args, Debug)]
pub struct CatArgs {
    /// The snapshot
    pub snap: String,
    /// The file, as it is, or as `ls` prints it; not for streams
    pub path: Option<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OverwriteArg {
    /// What is there stays
    Never,
    /// What differs in type, size or modification time is replaced
    Changed,
    /// Everything is replaced
    Always,
}

#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The snapshot, with :/PATH for a part of it (as it is, or as `ls` prints it)
    #[arg(value_name = "SNAP[:PATH]")]
    pub snap: OsString,
    /// The directory that gets it
    #[arg(long, value_name = "DIR", required_unless_present = "stdout", conflicts_with = "stdout")]
    pub target: Option<PathBuf>,
    /// Write a stream or one file to standard output
    #[arg(long)]
    pub stdout: bool,
    /// Only what matches; may be given more than once
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<OsString>,
    /// Not what matches; may be given more than once
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<OsString>,
    /// What happens to what is there; `changed` makes an interrupted restore go on
    #[arg(long, value_enum, default_value = "never")]
    pub overwrite: OverwriteArg,
    /// Remove what the snapshot does not have, at and below the paths that were backed up; not what the backup's
    /// --exclude left out, and not what is on other file systems mounted in the target
    #[arg(long)]
    pub delete: bool,
    /// Only say what would be done, entry by entry
    #[arg(long)]
    pub dry_run: bool,
    /// Read everything back and compare it
    #[arg(long)]
    pub verify: bool,
    /// Give files to the recorded user and group numbers, not to the users and groups of the recorded names
    #[arg(long)]
    pub numeric_owner: bool,
}

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Read every pack whole, decode every frame, compare every chunk with its id
    #[arg(long)]
    pub read_data: bool,
    /// Read only so many percent of the packs, chosen at random
    #[arg(long, value_name = "PERCENT", requires = "read_data")]
    pub sample: Option<f64>,
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The snapshots
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub snap: Vec<String>,
    /// Every snapshot
    #[arg(long)]
    pub all: bool,
}

#[derive(Args, Debug)]
pub struct ForgetArgs {
    /// Forget these snapshots instead of applying a policy
    #[arg(conflicts_with_all = ["keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "keep_within"])]
    pub snap: Vec<String>,
    /// Only of this name
    #[arg(long)]
    pub name: Option<String>,
    /// Keep the newest N of each name and host
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_last: u32,
    /// Keep the newest of each of the N last hours that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_hourly: u32,
    /// Keep the newest of each of the N last days that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_daily: u32,
    /// Keep the newest of each of the N last ISO weeks that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_weekly: u32,
    /// Keep the newest of each of the N last months that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_monthly: u32,
    /// Keep the newest of each of the N last years that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_yearly: u32,
    /// Keep all made within a duration such as 36h, 7d, 2w, 6m, 1y
    #[arg(long, value_name = "DURATION")]
    pub keep_within: Option<String>,
    /// Let go even of the newest and the newest verified snapshot of a name; SNAP or a --keep option is needed all the same
    #[arg(long)]
    pub unsafe_allow_remove_all: bool,
    /// Only say what would be removed, and why
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Debug)]
pub struct GcArgs {
    /// Wait at least so long between finding and removing, for example 36h [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub grace: Option<String>,
    /// Only say what would be reclaimed, and why
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Add a password or key file
    Add(NewKeyArgs),
    /// List keys
    List,
    /// Remove a key; never the last one
    Remove {
        /// The key's id, or its beginning of at least 4 digits
        id: String,
    },
    /// Replace the password or key file that opened the repository
    Passwd(NewKeyArgs),
}

#[derive(Args, Debug)]
pub struct NewKeyArgs {
    /// A file whose first line is the new password [default: ask on the terminal]
    #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
    pub new_password_file: Option<PathBuf>,
    /// A file of 32 random bytes; made if it does not exist
    #[arg(long, value_name = "FILE")]
    pub new_key_file: Option<PathBuf>,
    /// A name for the key
    #[arg(long, default_value = "")]
    pub label: String,
}

#[derive(Subcommand, Debug)]
pub enum IndexCommand {
    /// Make the index anew from the packs alone
    Rebuild,
    /// Say how large the index is
    Stats,
}

#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub struct ManArgs {
    /// The directory
    pub directory: Option<PathBuf>,
}
