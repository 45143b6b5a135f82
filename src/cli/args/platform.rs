//! Words of `cairn platform`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};

use crate::orchestrate::platform::choose::Flaw;
use crate::orchestrate::platform::profile::Component;

#[derive(Subcommand, Debug)]
pub enum PlatformCommand {
    /// Show what a backup would do: every step, path, queue, unit and command; nothing is changed
    Plan(PlanArgs),
    /// Look whether a backup may begin now: who is at work, and whether everything that it needs is there
    Preflight(PreflightArgs),
    /// Back the platform up: to rest, every component captured, everything up again, one backup set
    Backup(BackupArgs),
    /// Start again what a run that was cut off has left stopped, and undo what else it left; not what `platform stop` did
    Resume(StateArgs),
    /// Bring the platform to rest and leave it so, until `platform start`
    Stop(StopArgs),
    /// Start again what `platform stop` has stopped, or a run that was cut off
    Start(StateArgs),
    /// Put a backup set back: each component beside what it replaces, then in its place, and compared
    Restore(RestoreArgs),
    /// Prove a backup set: restore it into servers of its own, beside the platform, and compare everything
    Drill(DrillArgs),
    /// After a restore: fill the indices of Elasticsearch from PostgreSQL, with the platform stopped
    Reindex(ReindexArgs),
    /// After a restore: bring the indices to the present version, in the background; the end of this session is no harm
    Migrate(MigrateArgs),
    /// After a restore: list the packages that were not ingested; exit status 3 if there are any
    FailedPackages(FailedPackagesArgs),
    /// Print a profile as TOML: what a file changed, merged, with every default
    Profile(ProfileArgs),
    /// Push back into Redis what a backup set holds of the queues
    Requeue(RequeueArgs),
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
    /// Write the report to this file instead of standard output
    #[arg(long, value_name = "FILE", requires = "report")]
    pub output: Option<PathBuf>,
    /// As a page that stands alone, as text, or as JSON [default: html; json with --json and no --output]
    #[arg(long, value_enum, requires = "report")]
    pub format: Option<ReportFormat>,
}

/// What a report is written as.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFormat {
    Html,
    Text,
    Json,
}

/// Which platform is meant.
#[derive(Args, Debug)]
pub struct ProfileArg {
    /// The platform: a built-in profile's name, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = DEFAULT_PROFILE)]
    pub profile: OsString,
}

/// Which of its components are meant.
#[derive(Args, Clone, Debug)]
pub struct ComponentsArgs {
    /// Only these components, separated by commas
    #[arg(long, value_name = "COMPONENT", value_delimiter = ',', value_parser = component())]
    pub only: Vec<Component>,
    /// Not these components, separated by commas
    #[arg(long, value_name = "COMPONENT", value_delimiter = ',', value_parser = component())]
    pub skip: Vec<Component>,
}

/// What is captured of it, and how.
#[derive(Args, Clone, Debug)]
pub struct SelectionArgs {
    /// Without stopping the platform
    #[arg(long)]
    pub online: bool,
    /// With --online: Neo4j alone may be stopped for a short time, or it is left out
    #[arg(long, requires = "online")]
    pub allow_neo4j_stop: bool,
    #[command(flatten)]
    pub components: ComponentsArgs,
}

#[derive(Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    pub profile: ProfileArg,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Look for files beneath this directory: a copy of the machine's tree
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

#[derive(Args, Debug)]
pub struct PreflightArgs {
    #[command(flatten)]
    pub profile: ProfileArg,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Go on in spite of this check, by its name; may be given more than once
    #[arg(long, value_name = "CHECK")]
    pub allow: Vec<String>,
}

#[derive(Args, Debug)]
pub struct BackupArgs {
    #[command(flatten)]
    pub profile: ProfileArg,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Begin in spite of this check of the preflight, by its name; may be given more than once
    #[arg(long, value_name = "CHECK")]
    pub allow: Vec<String>,
    /// Only show what would be done, as `platform plan` does
    #[arg(long)]
    pub dry_run: bool,
    /// Wait so many seconds for the queues to drain, instead of what the profile says
    #[arg(long, value_name = "SECONDS", conflicts_with = "online")]
    pub drain_timeout: Option<u64>,
    /// Save what is left in the queues in the backup set, and delete it there, instead of failing
    #[arg(long, conflicts_with = "online")]
    pub purge_queues: bool,
    /// Allow the snapshot directory in Elasticsearch's path.repo and start Elasticsearch anew, if it is not allowed yet
    #[arg(long, conflicts_with = "online")]
    pub configure_path_repo: bool,
    /// Wait so many seconds for another run on this machine to end
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
    /// Write the report, a page that stands alone, to this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// Which recovery point is meant.
#[derive(Args, Debug)]
pub struct PointArgs {
    /// The newest complete, proven set at or before this time: RFC 3339 or a date, local zone unless given
    #[arg(long, value_name = "TIME", conflicts_with = "set")]
    pub at: Option<String>,
    /// This set: an id prefix, `latest`, or `latest-verified`
    #[arg(long, value_name = "SET")]
    pub set: Option<String>,
    /// Sets of this machine
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Take also a set that is partial, online, unverified or different; may be given more than once
    #[arg(long, value_name = "FLAW", value_delimiter = ',', value_parser = flaw())]
    pub allow: Vec<Flaw>,
}

#[derive(Args, Debug)]
pub struct RestoreArgs {
    #[command(flatten)]
    pub profile: ProfileArg,
    #[command(flatten)]
    pub point: PointArgs,
    #[command(flatten)]
    pub components: ComponentsArgs,
    /// Where PostgreSQL goes to --at TIME by its archived log: along this timeline, if the time lies on several
    #[arg(long, value_name = "N", requires = "at")]
    pub timeline: Option<u32>,
    /// Only show the plan
    #[arg(long)]
    pub dry_run: bool,
    /// Only show what would change of the configuration, file by file; what looks secret is left out
    #[arg(long, conflicts_with_all = ["dry_run", "yes", "only", "skip", "discard_old"])]
    pub diff: bool,
    /// Do not ask whether the plan is to be carried out
    #[arg(long)]
    pub yes: bool,
    /// A dump of PostgreSQL goes into a new cluster in this data directory; what is there is moved aside
    #[arg(long, value_name = "DIR")]
    pub new_cluster: Option<PathBuf>,
    /// Replace indices of Elasticsearch that are there already; a snapshot of them is taken before
    #[arg(long, conflicts_with = "rename")]
    pub close_existing: bool,
    /// Restore indices of Elasticsearch under names that begin so, beside those that are there
    #[arg(long, value_name = "PREFIX")]
    pub rename: Option<String>,
    /// Push the elements of queues back that the set holds
    #[arg(long)]
    pub requeue: bool,
    /// When everything was found equal, remove what it replaced
    #[arg(long)]
    pub discard_old: bool,
    /// Write a report, a page that stands alone, to this file: what came back, what was moved aside, each step
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dry_run", "diff"])]
    pub report: Option<PathBuf>,
    /// Configuration goes beneath this directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub target_root: PathBuf,
    /// Wait so many seconds for another run on this machine to end
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
}

#[derive(Args, Debug)]
pub struct DrillArgs {
    #[command(flatten)]
    pub profile: ProfileArg,
    #[command(flatten)]
    pub point: PointArgs,
    #[command(flatten)]
    pub components: ComponentsArgs,
    /// Only show the plan
    #[arg(long)]
    pub dry_run: bool,
    /// Servers work in a directory of their own in this one [default: beside the state directory]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Write the report, a page that stands alone, to this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Wait so many seconds for another run on this machine to end
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
}

#[derive(Args, Debug)]
pub struct ReindexArgs {
    #[command(flatten)]
    pub profile: ProfileArg,
    /// Only these indices, as the profile writes them, separated by commas
    #[arg(long, value_name = "INDEX", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Wait so many seconds for another run on this machine to end
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
}

#[derive(Args, Debug)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub profile: ProfileArg,
    /// Start nothing: show what the migration says that runs, until it ends, or what the last one said
    #[arg(long, conflicts_with = "status")]
    pub watch: bool,
    /// Start nothing: say whether one runs, or how the last one ended
    #[arg(long)]
    pub status: bool,
    /// Wait so many seconds for another run on this machine to end
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
    /// Do the work: what this command starts in the background
    #[arg(long, value_name = "ID", hide = true, conflicts_with_all = ["watch", "status"])]
    pub worker: Option<String>,
}

#[derive(Args, Debug)]
pub struct FailedPackagesArgs {
    #[command(flatten)]
    pub profile: ProfileArg,
    /// As CSV, with a line of names first
    #[arg(long)]
    pub csv: bool,
}

#[derive(Args, Debug)]
pub struct RequeueArgs {
    /// The backup set: an id prefix, or `latest`
    #[arg(value_name = "SET")]
    pub set: String,
    #[command(flatten)]
    pub profile: ProfileArg,
    /// What was in the queues when they were captured, instead of what `--purge-queues` took out of them
    #[arg(long)]
    pub all_queues: bool,
}

#[derive(Args, Debug)]
pub struct StopArgs {
    #[command(flatten)]
    pub profile: ProfileArg,
    /// Wait so many seconds for the queues to drain, instead of what the profile says
    #[arg(long, value_name = "SECONDS")]
    pub drain_timeout: Option<u64>,
    /// Wait so many seconds for another run on this machine to end
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
}

#[derive(Args, Debug)]
pub struct StateArgs {
    #[command(flatten)]
    pub profile: ProfileArg,
    /// Wait so many seconds for another run on this machine to end
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
}

#[derive(Args, Debug)]
pub struct ProfileArgs {
    /// A built-in profile's name, or a file
    #[arg(value_name = "NAME|FILE", default_value = DEFAULT_PROFILE)]
    pub profile: OsString,
}

/// What is meant when no profile is named.
const DEFAULT_PROFILE: &str = "eclecticiq-centos";

fn flaw() -> impl TypedValueParser<Value = Flaw> {
    let of = |name: String| Flaw::ALL.into_iter().find(|one| one.name() == name);
    PossibleValuesParser::new(Flaw::ALL.map(Flaw::name)).try_map(move |name| of(name).ok_or("no such flaw"))
}

fn component() -> impl TypedValueParser<Value = Component> {
    let of = |name: String| Component::ALL.into_iter().find(|one| one.name() == name);
    PossibleValuesParser::new(Component::ALL.map(Component::name))
        .try_map(move |name| of(name).ok_or("no such component"))
}
