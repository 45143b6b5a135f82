//! Elasticsearch 7: snapshots into a file system repository on this machine, by its REST interface.
//!
//! * [`client`]: requests and bounded answers; who the server is, its health.
//! * [`activity`]: what it is busy with.
//! * [`location`]: the directory that holds the repository, as the file system shows it.
//! * [`settings_file`]: `path.repo` in elasticsearch.yml, read and edited without touching the rest.
//! * [`repository`]: the repository's registration, which may be made read-only.
//! * [`snapshot`]: taking, watching, listing and deleting snapshots.
//! * [`restore`]: bringing indices back.
//! * [`facts`]: what a snapshot held, to be compared after a restore.
//!
//! Invariant: a snapshot counts only when Elasticsearch says SUCCESS, no shard failed and all shards are in it. The
//! progress interface calls a partial snapshot SUCCESS, so the end state is never taken from there.
//!
//! The race that read-only registration prevents: copying the repository's directory while the server writes or
//! deletes in it would store a mixture that no restore can read.

pub mod activity;
pub mod client;
pub mod facts;
pub mod location;
pub mod repository;
pub mod restore;
pub mod settings_file;
pub mod snapshot;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::source::SourceError;
use crate::source::secret::SecretSource;

pub use client::Client;

/// How the names of snapshots begin that hold what was there before a restore.
pub const SAVED_PREFIX: &str = "before-restore-";

/// Where the server is, where it puts snapshots, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ElasticsearchSettings {
    /// Its address: `http://` or `https://`, without user and password.
    pub url: String,
    /// The name under which the snapshot repository is registered.
    pub repository: String,
    /// The repository's directory, on this machine.
    pub location: PathBuf,
    /// The file that holds `path.repo`.
    pub configuration_file: PathBuf,
    /// The user that the server runs as.
    pub owner: String,
    /// Its systemd service.
    pub service: String,
    /// How many snapshots stay in the repository; the newest always does.
    pub keep_snapshots: u32,
    /// The indices to save, as Elasticsearch matches them; all, if none is named.
    pub indices: Vec<String>,
    /// The user to sign in as; nobody, if absent.
    pub user: Option<String>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// A systemd credential that holds the password.
    pub password_credential: Option<String>,
    /// An environment variable that holds the password.
    pub password_env: Option<String>,
    /// Certificates (PEM) of the only authorities to trust; those of the system, if absent.
    pub ca_file: Option<PathBuf>,
    /// How long making a connection may take.
    pub connect_timeout_seconds: u64,
    /// How long one answer may take.
    pub request_timeout_seconds: u64,
    /// How long to wait for the server to be well after its start.
    pub health_timeout_seconds: u64,
    /// How long a snapshot may take.
    pub snapshot_timeout_seconds: u64,
    /// How long deleting a snapshot may take.
    pub delete_timeout_seconds: u64,
    /// How long a restore may take.
    pub restore_timeout_seconds: u64,
}

impl Default for ElasticsearchSettings {
    fn default() -> Self {
        ElasticsearchSettings {
            url: "http://localhost:9200".to_owned(),
            repository: "backup".to_owned(),
            location: PathBuf::from("/db-backup/elasticsearch"),
            configuration_file: PathBuf::from("/etc/eclecticiq-elasticsearch/elasticsearch.yml"),
            owner: "elasticsearch".to_owned(),
            service: "elasticsearch".to_owned(),
            keep_snapshots: 3,
            indices: Vec::new(),
            user: None,
            password_file: None,
            password_credential: None,
            password_env: None,
            ca_file: None,
            connect_timeout_seconds: 5,
            request_timeout_seconds: 60,
            health_timeout_seconds: 300,
            snapshot_timeout_seconds: 4 * 3600,
            delete_timeout_seconds: 1800,
            restore_timeout_seconds: 4 * 3600,
        }
    }
}

impl ElasticsearchSettings {
    /// How long one answer may take.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds)
    }

    /// How long to wait for the server to be well after its start.
    pub fn health_timeout(&self) -> Duration {
        Duration::from_secs(self.health_timeout_seconds)
    }

    /// How long a snapshot may take.
    pub fn snapshot_timeout(&self) -> Duration {
        Duration::from_secs(self.snapshot_timeout_seconds)
    }

    /// How long deleting a snapshot may take.
    pub fn delete_timeout(&self) -> Duration {
        Duration::from_secs(self.delete_timeout_seconds)
    }

    /// How long a restore may take.
    pub fn restore_timeout(&self) -> Duration {
        Duration::from_secs(self.restore_timeout_seconds)
    }

    /// A snapshot that a failed restore leaves, and how it is removed, for people.
    pub fn snapshot_that_stays(&self, name: &str) -> String {
        let (url, repository) = (self.url.trim_end_matches('/'), &self.repository);
        format!(
            "in the snapshot {name} of Elasticsearch, which stays; when you do not need it: \
             curl -X DELETE '{url}/_snapshot/{repository}/{name}'"
        )
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
