//! A connection to a cluster, and what a running server says of itself.
//!
//! Invariant: every wait for the server ends, by its answer, at a time limit, or when a stop is asked for; a query that
//! is given up is cancelled on the server, too. The `peer` authentication of PostgreSQL looks at the user of the
//! connecting process. Run by root, the socket is connected on a thread of its own, which takes the server account's
//! effective user and then ends: no other thread ever has it, so no file is opened with the wrong rights by accident.

use std::error::Error;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};

use crate::source::SourceError;
use crate::source::command::Account;
use crate::source::postgres::PostgresSettings;
use crate::source::wait;

/// An answer has at most so many rows and bytes.
const MAX_ROWS: usize = 1 << 20;
const MAX_BYTES: usize = 256 << 20;
/// How long the request to cancel a query may take.
const CANCEL: Duration = Duration::from_secs(2);

/// The parameters of one query.
pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A version of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The major version: all that decides what fits what.
    pub major: u32,
    /// As the program writes it.
    pub text: String,
}

/// What pins a cluster to one point of its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coordinates {
    /// The cluster's identifier, from its control file.
    pub system_id: String,
    /// The timeline.
    pub timeline: u32,
    /// The write-ahead log's position (`0/1A2B3C4`).
    pub lsn: String,
}

/// A session that is not ours and that is at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The backend's process.
    pub pid: i32,
    /// Its database.
    pub database: String,
    /// Its role.
    pub user: String,
    /// What it calls itself.
    pub application: String,
    /// `active`, `idle in transaction` and the like.
    pub state: String,
    /// For how long it has been so.
    pub since: Duration,
    /// For how long its transaction has run, or as `since` if it is in none.
    pub transaction: Duration,
}

/// What others do on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Clients that are connected, this connection left out.
    pub clients: u64,
    /// Those of them that are in a query or a transaction.
    pub busy: Vec<Session>,
    /// Transactions that were prepared and are neither committed nor rolled back.
    pub prepared_transactions: u64,
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Whether it can be connected to; one that cannot is in no dump.
    pub allows_connections: bool,
    /// Bytes on disk.
    pub bytes: u64,
}

/// A tablespace outside of the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its identifier, which names its link in `pg_tblspc`.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Its directory.
    pub location: PathBuf,
}

/// Continuous archiving, as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archiving {
    /// `archive_mode`: `off`, `on` or `always`.
    pub mode: String,
    /// `archive_command`.
    pub command: String,
    /// What failed last, and when, if nothing was archived since.
    pub failing: Option<String>,
}

/// A connection to one database.
pub struct Cluster {
    settings: PostgresSettings,
    account: Account,
    database: String,
    runtime: Runtime,
    client: Client,
}

impl Cluster {
    /// Connects to the maintenance database.
    pub fn connect(settings: &PostgresSettings) -> Result<Self, SourceError> {
        Cluster::to(settings, &settings.maintenance_database)
    }

    /// Connects to a database.
    pub fn to(settings: &PostgresSettings, database: &str) -> Result<Self, SourceError> {
        let server = format!("{}, database {database:?}", settings.server());
        let failed = |source: Box<dyn Error + Send + Sync>| SourceError::Server {
            server: server.clone(),
            action: format!("connect as {}", settings.user),
            source,
        };
        let limit = Duration::from_secs(settings.connect_timeout_seconds);
        let account = settings.account()?;
        account.may_act()?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| failed(error.into()))?;
        let socket = connect_as(&account, settings.socket(), limit).map_err(|error| failed(error.into()))?;
        let mut config = Config::new();
        config.user(&settings.user).dbname(database).application_name("cairn");
        let client = runtime.block_on(async {
            let socket = tokio::net::UnixStream::from_std(socket)?;
            let connecting = tokio::time::timeout(limit, config.connect_raw(socket, NoTls));
            let (client, connection) = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            tokio::spawn(async move {
                // A connection that breaks is told by the next query on it.
                if let Err(error) = connection.await {
                    tracing::debug!("the connection to PostgreSQL ended: {error}");
                }
            });
            Ok::<_, Box<dyn Error + Send + Sync>>(client)
        });
        let client = client.map_err(failed)?;
        Ok(Cluster { settings: settings.clone(), account, database: database.to_owned(), runtime, client })
    }

    /// The server's version.
    pub fn version(&self) -> Result<Version, SourceError> {
        let sql = "SELECT current_setting('server_version_num')::int4 / 10000, current_setting('server_version')";
        let row = self.one("ask for its version", sql)?;
        Ok(Version { major: self.number(&row, 0)?, text: self.text(&row, 1)? })
    }

    /// Whether our role is a superuser: others see neither all sessions nor all data.
    pub fn is_superuser(&self) -> Result<bool, SourceError> {
        let row = self.one("ask for our rights", "SELECT rolsuper FROM pg_roles WHERE rolname = current_user")?;
        self.value(&row, 0)
    }

    /// What others do on it just now.
    pub fn activity(&self) -> Result<Activity, SourceError> {
        let sql = "SELECT pid, coalesce(datname, '')::text, coalesce(usename, '')::text, \
                   coalesce(application_name, ''), coalesce(state, ''), \
                   greatest(0, coalesce(extract(epoch FROM clock_timestamp() - state_change), 0))::int8, \
                   greatest(0, coalesce(extract(epoch FROM clock_timestamp() - least(xact_start, state_change)), 0))::int8 \
                   FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY pid";
        let mut activity = Activity::default();
        for row in self.rows("list its sessions", sql, &[])? {
            activity.clients += 1;
            let state = self.text(&row, 4)?;
            if !matches!(state.as_str(), "idle" | "") {
                activity.busy.push(Session {
                    pid: self.value(&row, 0)?,
                    database: self.text(&row, 1)?,
                    user: self.text(&row, 2)?,
                    application: self.text(&row, 3)?,
                    state,
                    since: Duration::from_secs(self.count(&row, 5)?),
                    transaction: Duration::from_secs(self.count(&row, 6)?),
                });
            }
        }
        let row = self.one("count prepared transactions", "SELECT count(*) FROM pg_prepared_xacts")?;
        activity.prepared_transactions = self.count(&row, 0)?;
        Ok(activity)
    }

    /// Where it is in its history. The timeline is that of the log it writes now: the control file's lags behind.
    pub fn coordinates(&self) -> Result<Coordinates, SourceError> {
        let sql = "SELECT (SELECT system_identifier::text FROM pg_control_system()), \
                   CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint()) \
                   ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int4 END, \
                   CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text";
        let row = self.one("ask for its position", sql)?;
        Ok(Coordinates { system_id: self.text(&row, 0)?, timeline: self.number(&row, 1)?, lsn: self.text(&row, 2)? })
    }

    /// How its log is archived.
    pub fn archiving(&self) -> Result<Archiving, SourceError> {
        let sql = "SELECT current_setting('archive_mode'), current_setting('archive_command'), \
                   CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') \
                   THEN last_failed_wal || ' at ' || last_failed_time END FROM pg_stat_archiver";
        let row = self.one("ask for its archiver", sql)?;
        Ok(Archiving { mode: self.text(&row, 0)?, command: self.text(&row, 1)?, failing: self.value(&row, 2)? })
    }

    /// Its databases but `template0`, in the order in which they are dumped: `template1` first, then by name.
    pub fn databases(&self) -> Result<Vec<Database>, SourceError> {
        let sql = "SELECT datname::text, datallowconn, pg_database_size(oid) FROM pg_database \
                   WHERE datname <> 'template0' ORDER BY datname <> 'template1', datname::text COLLATE \"C\"";
        let rows = self.rows("list its databases", sql, &[])?;
        let database = |row: &Row| {
            Ok(Database {
                name: self.text(row, 0)?,
                allows_connections: self.value(row, 1)?,
                bytes: self.count(row, 2)?,
            })
        };
        rows.iter().map(database).collect()
    }

    /// Its tablespaces outside of the data directory.
    pub fn tablespaces(&self) -> Result<Vec<Tablespace>, SourceError> {
        let sql = "SELECT oid, spcname::text, pg_tablespace_location(oid) FROM pg_tablespace \
                   WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid";
        let rows = self.rows("list its tablespaces", sql, &[])?;
        let tablespace = |row: &Row| {
            let location = self.text(row, 2)?.into();
            Ok(Tablespace { oid: self.value(row, 0)?, name: self.text(row, 1)?, location })
        };
        rows.iter().map(tablespace).collect()
    }

    /// Its data directory.
    pub fn data_directory(&self) -> Result<PathBuf, SourceError> {
        let row = self.one("ask for its data directory", "SELECT current_setting('data_directory')")?;
        Ok(self.text(&row, 0)?.into())
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn settings(&self) -> &PostgresSettings {
        &self.settings
    }

    /// Runs statements without an answer.
    pub(super) fn execute(&self, action: &str, sql: &str) -> Result<(), SourceError> {
        self.execute_for(action, sql, Some(self.settings.query_limit()), &|| false)
    }

    pub(super) fn execute_for(
        &self,
        action: &str,
        sql: &str,
        limit: Option<Duration>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), SourceError> {
        self.wait(action, limit, stop, self.client.batch_execute(sql)).map_err(|failed| self.told(action, failed))
    }

    /// The rows of a short query.
    pub(super) fn rows(&self, action: &str, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, SourceError> {
        let limit = Some(self.settings.query_limit());
        self.query(action, sql, parameters, limit, &|| false).map_err(|failed| self.told(action, failed))
    }

    /// The one row of a short query without parameters.
    pub(super) fn one(&self, action: &str, sql: &str) -> Result<Row, SourceError> {
        self.first(self.rows(action, sql, &[])?)
    }

    /// The one row of an answer.
    pub(super) fn first(&self, rows: Vec<Row>) -> Result<Row, SourceError> {
        rows.into_iter().next().ok_or_else(|| self.unfit("an answer without a row, where there must be one"))
    }

    /// The rows of a query, within limits.
    pub(super) fn query(
        &self,
        action: &str,
        sql: &str,
        parameters: Parameters<'_>,
        limit: Option<Duration>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Row>, Failed> {
        self.wait(action, limit, stop, async {
            let mut answer = pin!(self.client.query_raw(sql, parameters.iter().copied()).await?);
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while let Some(row) = answer.try_next().await? {
                bytes += row.raw_size_bytes();
                rows.push(row);
                if rows.len() > MAX_ROWS || bytes > MAX_BYTES {
                    return Ok(None);
                }
            }
            Ok(Some(rows))
        })?
        .ok_or_else(|| Failed::Other(self.unfit("an answer that is longer than any that is expected")))
    }

    /// Drives the connection until a future is ready.
    pub(super) fn wait<T>(
        &self,
        action: &str,
        limit: Option<Duration>,
        stop: &dyn Fn() -> bool,
        future: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Failed> {
        let deadline = limit.map(wait::deadline);
        let given_up = self.runtime.block_on(async {
            let mut future = pin!(future);
            loop {
                match tokio::time::timeout(wait::INTERVAL, &mut future).await {
                    Ok(result) => return Ok(result.map_err(Failed::Query)),
                    Err(_) if stop() => return Err(SourceError::Interrupted),
                    Err(_) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                        let what = format!("{} did not answer when asked to {action}", self.settings.server());
                        return Err(SourceError::Timeout { what, limit: limit.unwrap_or_default() });
                    }
                    Err(_) => {}
                }
            }
        });
        given_up.unwrap_or_else(|error| {
            self.cancel();
            Err(Failed::Other(error))
        })
    }

    /// Asks the server to give up the query that runs. Best effort: whoever calls this gives the connection up, too.
    fn cancel(&self) {
        let Ok(socket) = connect_as(&self.account, self.settings.socket(), CANCEL) else { return };
        let token = self.client.cancel_token();
        let _ = self.runtime.block_on(async {
            let socket = tokio::net::UnixStream::from_std(socket)?;
            tokio::time::timeout(CANCEL, token.cancel_query_raw(socket, NoTls)).await.map_err(io::Error::other)
        });
    }

    pub(super) fn told(&self, action: &str, failed: Failed) -> SourceError {
        match failed {
            Failed::Query(error) => {
                SourceError::Server { server: self.name(), action: action.to_owned(), source: error.into() }
            }
            Failed::Other(error) => error,
        }
    }

    pub(super) fn unfit(&self, what: &str) -> SourceError {
        SourceError::Answer { server: self.name(), what: what.to_owned() }
    }

    fn name(&self) -> String {
        format!("{}, database {:?}", self.settings.server(), self.database)
    }

    pub(super) fn value<'r, T: tokio_postgres::types::FromSql<'r>>(
        &self,
        row: &'r Row,
        column: usize,
    ) -> Result<T, SourceError> {
        row.try_get(column).map_err(|error| self.told("understand its answer", Failed::Query(error)))
    }

    pub(super) fn text(&self, row: &Row, column: usize) -> Result<String, SourceError> {
        self.value(row, column)
    }

    pub(super) fn count(&self, row: &Row, column: usize) -> Result<u64, SourceError> {
        u64::try_from(self.value::<i64>(row, column)?).map_err(|_| self.unfit("a negative count"))
    }

    fn number(&self, row: &Row, column: usize) -> Result<u32, SourceError> {
        u32::try_from(self.value::<i32>(row, column)?).map_err(|_| self.unfit("a negative number"))
    }
}

/// Why there is no answer.
pub(super) enum Failed {
    /// The server refused, or the connection broke.
    Query(tokio_postgres::Error),
    /// Anything else.
    Other(SourceError),
}

/// Connects a socket as an account, so that the server sees that account at its other end.
fn connect_as(account: &Account, socket: PathBuf, limit: Duration) -> io::Result<UnixStream> {
    let (send, receive) = channel();
    let (ours, uid, gid) = (account.is_ours(), account.uid, account.gid);
    // On a thread in any case: a server whose queue of connections is full would hold us up for ever.
    thread::Builder::new().name("postgres-connect".to_owned()).spawn(move || {
        let become_account = || {
            if !ours {
                set_thread_res_gid(None, Gid::from_raw(gid), None)?;
                set_thread_res_uid(None, Uid::from_raw(uid), None)?;
            }
            Ok::<_, io::Error>(())
        };
        let connected = become_account().and_then(|()| UnixStream::connect(&socket));
        let _ = send.send(connected);
    })?;
    let stream = receive.recv_timeout(limit).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nonblocking(true)?;
    Ok(stream)
}
