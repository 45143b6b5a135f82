//! Questions to a running Neo4j, over Bolt.
//!
//! Invariant: no question waits longer than its limit or than the operator wants, though the protocol's library knows
//! no limit for an answer: each runs on a thread of its own. Only reading is asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use neo4j::address::Address;
use neo4j::driver::auth::AuthToken;
use neo4j::driver::record_stream::RecordStream;
use neo4j::driver::{ConnectionConfig, Driver, DriverConfig, RoutingControl};
use neo4j::session::SessionConfig;
use neo4j::transaction::TransactionTimeout;
use neo4j::{Neo4jError, ValueReceive};

use super::Neo4jSettings;
use crate::source::SourceError;
use crate::source::wait;

/// An answer has at most so many records.
const MAX_RECORDS: usize = 100_000;
/// How often a server that starts is asked again.
const POLL: Duration = Duration::from_millis(500);
/// The database of databases.
pub(super) const SYSTEM: &str = "system";

/// A record: its values, in the order of the query.
pub(super) type Row = Vec<ValueReceive>;

/// A connection to the server.
pub struct Session {
    driver: Arc<Driver>,
    server: String,
    version: String,
    limit: Duration,
}

/// What became of a connection.
pub enum Connected {
    /// The server answers.
    Yes(Session),
    /// It is older than 4.4: its store can be saved and restored, but what is in it cannot be counted or watched.
    TooOld {
        /// For people, with what follows.
        why: String,
    },
}

impl Session {
    /// Connects and asks for the server's version.
    pub fn connect(settings: &Neo4jSettings, stop: &dyn Fn() -> bool) -> Result<Connected, SourceError> {
        let driver = Arc::new(driver(settings)?);
        let server = format!("neo4j bolt://{}", settings.address);
        let mut session =
            Session { driver, server: server.clone(), version: String::new(), limit: settings.query_timeout() };
        let query = "CALL dbms.components() YIELD name, versions WHERE name = 'Neo4j Kernel' RETURN versions[0]";
        let patience = Duration::from_secs(settings.connect_timeout_seconds) * 2;
        match session.ask_within(None, query, patience.min(session.limit), stop)? {
            Ok(rows) => session.version = session.text(&rows, 0, 0)?,
            Err(error) if is_too_old(&error) => {
                let why = format!(
                    "{server} speaks no Bolt of version 4.4 or later, so it is older than Neo4j 4.4: numbers of nodes, \
                     relationships and labels, running transactions and connections are unknown"
                );
                return Ok(Connected::TooOld { why });
            }
            Err(error) => return Err(session.refused("connect", error)),
        }
        Ok(Connected::Yes(session))
    }

    /// As [`Session::connect`], for as long as a server that was just started may need.
    pub fn wait(settings: &Neo4jSettings, limit: Duration, stop: &dyn Fn() -> bool) -> Result<Connected, SourceError> {
        let started = Instant::now();
        loop {
            let seen = match Session::connect(settings, stop) {
                Err(SourceError::Server { source, .. }) => source.to_string(),
                Err(error @ SourceError::Timeout { .. }) => error.to_string(),
                result => return result,
            };
            if started.elapsed() >= limit {
                let what = format!("neo4j bolt://{} did not answer ({seen})", settings.address);
                return Err(SourceError::Timeout { what, limit });
            }
            wait::pause(POLL, stop)?;
        }
    }

    /// The server's version, `4.4.44`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The server for people: what it is, and its address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// What the server answers to a query.
    pub(super) fn ask(
        &self,
        database: Option<&str>,
        query: &str,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Row>, SourceError> {
        let answer = self.ask_within(database, query, self.limit, stop)?;
        answer.map_err(|error| self.refused(query, error))
    }

    /// The same, with the server's own word if it refuses.
    pub(super) fn ask_within(
        &self,
        database: Option<&str>,
        query: &str,
        limit: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<Result<Vec<Row>, Box<Neo4jError>>, SourceError> {
        let driver = Arc::clone(&self.driver);
        let mut config = SessionConfig::new();
        if let Some(database) = database {
            config = config.with_database(Arc::new(database.to_owned()));
        }
        let text = query.to_owned();
        let what = format!("{} did not answer {query:?}", self.server);
        let answer = wait::attended(&what, limit, stop, move || {
            let mut session = driver.session(config);
            let question = session.auto_commit(text).with_routing_control(RoutingControl::Read);
            // The server gives up with us, so that a question that is not waited for does not go on for ever.
            let milliseconds = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
            let question = match TransactionTimeout::from_millis(milliseconds) {
                Some(timeout) => question.with_transaction_timeout(timeout),
                None => question,
            };
            question.with_receiver(rows).run().map_err(Box::new)
        })?;
        match answer {
            Ok(Some(rows)) => Ok(Ok(rows)),
            Ok(None) => Err(self.unclear(format!("its answer to {query:?} has more than {MAX_RECORDS} records"))),
            Err(error) => Ok(Err(error)),
        }
    }

    pub(super) fn refused(&self, action: &str, error: Box<Neo4jError>) -> SourceError {
        let action = match action {
            "connect" => "connect (does it run, and listen there?)".to_owned(),
            query => format!("answer {query:?}"),
        };
        SourceError::Server { server: self.server.clone(), action, source: error }
    }

    pub(super) fn unclear(&self, what: String) -> SourceError {
        SourceError::Answer { server: self.server.clone(), what }
    }

    pub(super) fn text(&self, rows: &[Row], row: usize, column: usize) -> Result<String, SourceError> {
        let value = rows.get(row).and_then(|row| row.get(column));
        match value.and_then(ValueReceive::as_string) {
            Some(text) => Ok(text.clone()),
            None => Err(self.unclear(format!("it answered {value:?} where a text was expected"))),
        }
    }

    pub(super) fn number(&self, rows: &[Row], row: usize, column: usize) -> Result<u64, SourceError> {
        let value = rows.get(row).and_then(|row| row.get(column));
        let number = value.and_then(ValueReceive::as_int).and_then(|number| u64::try_from(number).ok());
        number.ok_or_else(|| self.unclear(format!("it answered {value:?} where a number was expected")))
    }
}

/// Whether the server and the library have no version of the protocol in common.
fn is_too_old(error: &Neo4jError) -> bool {
    matches!(error, Neo4jError::InvalidConfig { message, .. } if message.contains("version not supported"))
}

#[expect(clippy::result_large_err, reason = "the library hands on its own error only")]
fn rows(stream: &mut RecordStream<'_>) -> Result<Option<Vec<Row>>, Neo4jError> {
    let mut rows = Vec::new();
    for record in stream {
        if rows.len() == MAX_RECORDS {
            return Ok(None);
        }
        rows.push(record?.into_values().collect());
    }
    Ok(Some(rows))
}

fn driver(settings: &Neo4jSettings) -> Result<Driver, SourceError> {
    let half = |setting: &str, why: &str| SourceError::Setting { setting: setting.to_owned(), why: why.to_owned() };
    if settings.address.is_empty() || settings.address.contains(['/', '@']) {
        return Err(half("address", "it is written HOST:PORT"));
    }
    let token = match (&settings.user, settings.password()?) {
        (None, None) => AuthToken::new_none_auth(),
        (Some(user), Some(source)) => AuthToken::new_basic_auth(user.clone(), source.read()?.expose()),
        (Some(_), None) => return Err(half("password-file", "a user is set, but no place of a password")),
        (None, Some(_)) => return Err(half("user", "a place of a password is set, but no user")),
    };
    let connect = Duration::from_secs(settings.connect_timeout_seconds);
    let config = DriverConfig::new()
        .with_auth(Arc::new(token))
        .with_user_agent(concat!("cairn/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_connection_timeout(connect)
        .with_connection_acquisition_timeout(connect * 2)
        .with_telemetry(false);
    Ok(Driver::new(ConnectionConfig::new(Address::from(settings.address.as_str())), config))
}
