//! Neo4j Community, which has no backup tool: its store is copied while it is stopped.
//!
//! * [`configuration`]: where neo4j.conf puts the store.
//! * [`store`]: the paths to save, and the proof that nobody has them open.
//! * [`session`]: questions to the running server, over Bolt.
//! * [`facts`]: what is in the graph, to be compared after a restore; what the server is busy with.
//!
//! Invariant: the store is copied from where it is, never by way of `/tmp` or any other copy, and only after
//! [`store::StoreUse::proves_stopped`]: a store that is copied while Neo4j writes cannot be opened, or, worse, can.

pub mod configuration;
pub mod facts;
pub mod session;
pub mod store;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::source::SourceError;
use crate::source::secret::SecretSource;

pub use session::Session;

/// Where the server and its store are, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Neo4jSettings {
    /// Its configuration.
    pub configuration_file: PathBuf,
    /// Where it listens for Bolt, `HOST:PORT`.
    pub address: String,
    /// Its systemd service.
    pub service: String,
    /// Its home, for relative directories, where the configuration does not say.
    pub home: PathBuf,
    /// The database, instead of what the configuration says.
    pub database: Option<String>,
    /// The data directory, instead of what the configuration says.
    pub data_directory: Option<PathBuf>,
    /// The user to sign in as; nobody (a server without authentication), if absent.
    pub user: Option<String>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// A systemd credential that holds the password.
    pub password_credential: Option<String>,
    /// An environment variable that holds the password.
    pub password_env: Option<String>,
    /// How long making a connection may take.
    pub connect_timeout_seconds: u64,
    /// How long one answer may take; counting labels takes longest.
    pub query_timeout_seconds: u64,
    /// How long to wait for the server to answer after its start.
    pub start_timeout_seconds: u64,
    /// How long the server may take to stop.
    pub stop_timeout_seconds: u64,
}

impl Default for Neo4jSettings {
    fn default() -> Self {
        Neo4jSettings {
            configuration_file: PathBuf::from("/etc/eclecticiq-neo4j/neo4j.conf"),
            address: "localhost:7687".to_owned(),
            service: "neo4j".to_owned(),
            home: PathBuf::from("/var/lib/neo4j"),
            database: None,
            data_directory: None,
            user: None,
            password_file: None,
            password_credential: None,
            password_env: None,
            connect_timeout_seconds: 5,
            query_timeout_seconds: 600,
            start_timeout_seconds: 300,
            stop_timeout_seconds: 300,
        }
    }
}

impl Neo4jSettings {
    /// How long one answer may take.
    pub fn query_timeout(&self) -> Duration {
        Duration::from_secs(self.query_timeout_seconds)
    }

    /// How long to wait for the server to answer after its start.
    pub fn start_timeout(&self) -> Duration {
        Duration::from_secs(self.start_timeout_seconds)
    }

    /// Where the password is; `None` if none is set.
    pub fn password(&self) -> Result<Option<SecretSource>, SourceError> {
        SecretSource::one_of(
            "password",
            self.password_file.as_deref(),
            self.password_credential.as_deref(),
            self.password_env.as_deref(),
        )
    }
}
