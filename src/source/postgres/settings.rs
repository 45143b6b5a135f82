//! Where a PostgreSQL cluster is, who runs it, and how it is captured.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::source::SourceError;
use crate::source::command::{Account, CommandSpec};

/// How a cluster is captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// SQL, while it runs: restores into any later version.
    #[default]
    Dump,
    /// The files of a stopped cluster.
    Files,
    /// The files of a running cluster, and the write-ahead log that makes them one point in time.
    Base,
}

impl Method {
    /// As facts call it.
    pub fn name(self) -> &'static str {
        match self {
            Method::Dump => "dump",
            Method::Files => "files",
            Method::Base => "base",
        }
    }
}

/// A cluster. The defaults are those of PostgreSQL 11 as its own packages for CentOS install it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PostgresSettings {
    /// The directory of `pg_dump`, `pg_dumpall`, `psql`, `pg_controldata`.
    pub bin_directory: PathBuf,
    /// The directory of the server's socket.
    pub socket_directory: PathBuf,
    /// Its port, which is part of the socket's name.
    pub port: u16,
    /// The account that runs the server: cairn acts as it, and connects as the role of the same name (a superuser, by
    /// `peer` authentication).
    pub user: String,
    /// The database to connect to for what concerns the whole cluster.
    pub maintenance_database: String,
    /// Where the data directory may be: the first that is one is taken when the server cannot be asked.
    pub data_directories: Vec<PathBuf>,
    /// The systemd service.
    pub service: String,
    /// How it is captured.
    pub method: Method,
    /// Whether rows are read to take checksums of tables, not only counted.
    pub checksums: bool,
    /// How long to wait for a connection.
    pub connect_timeout_seconds: u64,
    /// How long a question about the state of the server may take.
    pub query_timeout_seconds: u64,
    /// How long a program that dumps may be silent: longer than the largest single value takes.
    pub silence_timeout_seconds: u64,
    /// How long counting one table may take.
    pub count_timeout_seconds: u64,
    /// How long to wait for a table that somebody has locked.
    pub lock_timeout_seconds: u64,
    /// How long to wait for the last write-ahead log of a base backup.
    pub wal_timeout_seconds: u64,
    /// Continuous archiving of its log.
    pub archive: ArchiveSettings,
}

/// Continuous archiving: the server hands its log to `cairn wal push`, and a recovery gets it by `cairn wal fetch`. Both
/// run as the server's account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ArchiveSettings {
    /// Whether the log goes into this repository: then base backups wait for theirs, and a restore to a time goes to
    /// that time itself.
    pub enabled: bool,
    /// The key file that the server's account opens the repository with.
    pub key_file: Option<PathBuf>,
    /// Or its password file.
    pub password_file: Option<PathBuf>,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        PostgresSettings {
            bin_directory: "/usr/pgsql-11/bin".into(),
            socket_directory: "/var/run/postgresql".into(),
            port: 5432,
            user: "postgres".to_owned(),
            maintenance_database: "postgres".to_owned(),
            data_directories: vec!["/media/pgsql/11/data".into(), "/var/lib/pgsql/11/data".into()],
            service: "postgresql-11".to_owned(),
            method: Method::Dump,
            checksums: true,
            connect_timeout_seconds: 10,
            query_timeout_seconds: 60,
            silence_timeout_seconds: 3600,
            count_timeout_seconds: 6 * 3600,
            lock_timeout_seconds: 60,
            wal_timeout_seconds: 300,
            archive: ArchiveSettings::default(),
        }
    }
}

impl PostgresSettings {
    /// The server, for people.
    pub fn server(&self) -> String {
        format!("PostgreSQL at {}", self.socket().display())
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.socket_directory.join(format!(".s.PGSQL.{}", self.port))
    }

    pub(super) fn account(&self) -> Result<Account, SourceError> {
        Account::named(&self.user)
    }

    pub(super) fn query_limit(&self) -> Duration {
        Duration::from_secs(self.query_timeout_seconds)
    }

    /// A program of PostgreSQL, run as the server's account.
    pub(super) fn program(&self, name: &str) -> Result<CommandSpec, SourceError> {
        Ok(CommandSpec::new([self.bin_directory.join(name)]).user(&self.account()?).env("PGAPPNAME", "cairn"))
    }

    /// A program that connects to the server. It never asks for a password: nobody is there to answer.
    pub(super) fn client(&self, name: &str) -> Result<CommandSpec, SourceError> {
        let program = self.program(name)?.env("PGCONNECT_TIMEOUT", self.connect_timeout_seconds.to_string());
        let program = program.arg("--no-password").arg("--username").arg(&self.user);
        Ok(program.arg("--host").arg(&self.socket_directory).arg("--port").arg(self.port.to_string()))
    }
}

/// A database as an argument of PostgreSQL's programs: a bare name with `=` in it would be taken as a connection string.
pub(super) fn connection_string(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// An identifier as SQL writes it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
