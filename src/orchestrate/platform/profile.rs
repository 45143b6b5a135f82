//! The profile: what a platform consists of, and where. A TOML file, whose schema `docs/profile.md` documents.
//!
//! * [`value`]: values with a form of their own, checked while the file is read.
//! * `load`: from a name or a file to a [`Profile`]: built-in text, what a user's file changes in it, and errors that
//!   point into the user's file.
//!
//! Invariant: a profile holds no secret, only where secrets are; so it may be printed, and written into the journal.

mod drill;
mod load;
pub mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::source::elasticsearch::ElasticsearchSettings;
use crate::source::neo4j::Neo4jSettings;
use crate::source::postgres::PostgresSettings;
use crate::source::process::{CelerySettings, ProcessSettings};
use crate::source::redis::RedisSettings;
use crate::source::systemd::SystemdSettings;

pub use drill::{DrillSettings, ScratchServer};
pub use load::{BUILT_IN, MAX_BYTES, ProfileError, built_in, parse};
pub use value::{Argv, Component, HostPort, PathPattern, Seconds, Unit, Word};

/// A platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Profile {
    /// Its name, under which its backup sets are found again.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// The built-in profile that it changes; `none` for a profile that stands alone.
    pub extends: String,
    /// What is captured.
    pub components: Vec<Component>,
    /// Where an interrupted run is remembered.
    pub state: State,
    /// What a monitoring system gets.
    pub metrics: Metrics,
    /// Configuration files.
    pub config: Config,
    /// Key and certificate files.
    pub keys: Keys,
    /// What is stopped and started.
    pub services: Services,
    /// How systemd is reached, and how long units may take.
    pub systemd: SystemdSettings,
    /// Which processes are the platform's, and who counts as signed in.
    pub processes: ProcessSettings,
    /// How running tasks are asked for.
    pub celery: CelerySettings,
    /// PostgreSQL.
    pub postgres: PostgresSettings,
    /// Elasticsearch.
    pub elasticsearch: ElasticsearchSettings,
    /// Neo4j.
    pub neo4j: Neo4jSettings,
    /// Redis, with the platform's queues.
    pub redis: RedisSettings,
    /// What is done once data is restored.
    pub after_restore: AfterRestore,
    /// Servers that are made for a while, to prove that a backup set can be restored.
    pub drill: DrillSettings,
    /// Which backup sets are kept.
    pub retention: Retention,
}

impl Default for Profile {
    fn default() -> Self {
        Profile {
            name: String::new(),
            description: String::new(),
            extends: String::new(),
            components: Component::ALL.to_vec(),
            state: State::default(),
            metrics: Metrics::default(),
            config: Config::default(),
            keys: Keys::default(),
            services: Services::default(),
            systemd: SystemdSettings::default(),
            processes: ProcessSettings::default(),
            celery: CelerySettings::default(),
            postgres: PostgresSettings::default(),
            elasticsearch: ElasticsearchSettings::default(),
            neo4j: Neo4jSettings::default(),
            redis: RedisSettings::default(),
            after_restore: AfterRestore::default(),
            drill: DrillSettings::default(),
            retention: Retention::default(),
        }
    }
}

impl Profile {
    /// The whole profile as TOML that stands alone: what a user's file changed, merged, and every default spelled out.
    pub fn to_toml(&self) -> String {
        // Every value of a profile has a form in TOML, and no table stands before a value where TOML forbids it.
        toml::to_string_pretty(&Profile { extends: load::ALONE.to_owned(), ..self.clone() }).unwrap_or_default()
    }
}

/// Where an interrupted run is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct State {
    /// The directory of the lock and the journal; it must survive a power loss.
    pub directory: PathBuf,
}

impl Default for State {
    fn default() -> Self {
        State { directory: PathBuf::from("/var/lib/cairn") }
    }
}

/// What a monitoring system gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Metrics {
    /// A file in the textfile format of Prometheus's node exporter, written after each run; none if absent.
    pub textfile: Option<PathBuf>,
}

/// Configuration files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// By the program that they belong to.
    pub groups: BTreeMap<String, Group>,
}

/// Configuration files that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Group {
    /// Files and directories; a directory is saved with all that is in it.
    pub paths: Vec<PathPattern>,
    /// Patterns of what is left out below them, as `cairn backup --exclude` takes them.
    pub exclude: Vec<String>,
    /// Files and directories of a server at work: what changes or vanishes below while it is read is saved as it was met,
    /// and is no failure.
    pub changing: Vec<PathBuf>,
}

/// Key and certificate files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Keys {
    /// Files and directories besides those that configuration files name.
    pub paths: Vec<PathPattern>,
    /// Configuration files that are searched for the paths of keys.
    pub search: Search,
}

/// Configuration files that name key and certificate files, by their format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Search {
    /// nginx: `ssl_certificate`, `ssl_certificate_key` and their like; `include` is followed.
    pub nginx: Vec<PathPattern>,
    /// postgresql.conf: `ssl_cert_file` and its like; `include`, `include_dir`, `include_if_exists` are followed.
    pub postgres: Vec<PathPattern>,
    /// elasticsearch.yml: `xpack.*.key`, `.certificate`, `.certificate_authorities`, `.keystore.path`, `.truststore.path`.
    pub elasticsearch: Vec<PathPattern>,
    /// neo4j.conf: `dbms.ssl.policy.*`.
    pub neo4j: Vec<PathPattern>,
    /// redis.conf: `tls-cert-file` and its like; `include` is followed.
    pub redis: Vec<PathPattern>,
    /// Python settings: string literals that look like the path of a key or certificate.
    pub python: Vec<PathPattern>,
}

/// What is stopped and started. Starting goes the other way round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Services {
    /// Stopped first, before the queues drain.
    pub first: Vec<Unit>,
    /// Stopped when the queues are empty.
    pub workers: Vec<Unit>,
    /// Stopped last, in this order.
    pub others: Vec<Unit>,
    /// Those of all these that empty the ingestion queues: once none of them runs, nobody waits for that.
    pub ingestion: Vec<Unit>,
    /// What must work before the platform counts as up again.
    pub health: Health,
}

impl Services {
    /// All units, in the order in which they are stopped.
    pub fn units(&self) -> impl DoubleEndedIterator<Item = &Unit> {
        self.first.iter().chain(&self.workers).chain(&self.others)
    }
}

/// What must work before the platform counts as up again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Health {
    /// What must accept a connection again, if it did before the platform was stopped.
    pub ports: Vec<HostPort>,
    /// How long all that may take.
    pub timeout_seconds: Seconds,
}

impl Default for Health {
    fn default() -> Self {
        Health { ports: Vec::new(), timeout_seconds: Seconds::new(300) }
    }
}

/// What is done once data is restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AfterRestore {
    /// The user that runs the programs.
    pub user: Option<Word>,
    /// Their environment.
    pub environment: BTreeMap<String, String>,
    /// Copies from PostgreSQL to one index of Elasticsearch; `{index}` stands for its name.
    pub reindex: Argv,
    /// What takes the place of `{index}`, one after another; a `*` is for the program.
    pub indices: Vec<Word>,
    /// Brings indices to the present version.
    pub upgrade: Argv,
    /// Names the packages that were not ingested: rows of id and status, in PostgreSQL.
    pub failed_packages: String,
    /// The database in which that is asked.
    pub database: Word,
    /// How long one of the programs may take.
    pub timeout_seconds: Seconds,
}

impl Default for AfterRestore {
    fn default() -> Self {
        AfterRestore {
            user: None,
            environment: BTreeMap::new(),
            reindex: Argv::default(),
            indices: Vec::new(),
            upgrade: Argv::default(),
            failed_packages: String::new(),
            database: Word("platform".to_owned()),
            timeout_seconds: Seconds::new(24 * 3600),
        }
    }
}

/// Which backup sets are kept: the defaults of `cairn forget` for this profile. All of them, if all are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Retention {
    /// The newest so many.
    pub keep_last: u32,
    /// The newest of each of so many hours.
    pub keep_hourly: u32,
    /// The newest of each of so many days.
    pub keep_daily: u32,
    /// The newest of each of so many weeks.
    pub keep_weekly: u32,
    /// The newest of each of so many months.
    pub keep_monthly: u32,
    /// The newest of each of so many years.
    pub keep_yearly: u32,
}
