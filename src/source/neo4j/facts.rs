//! What is in the graph and what the server is busy with.
//!
//! Neo4j keeps the numbers of nodes, relationships and nodes of each label, and answers these questions from there: they
//! cost nothing, however large the graph is.

use std::time::Duration;

use neo4j::ValueReceive;

use super::session::{Row, SYSTEM, Session};
use crate::format::set::Neo4jFacts;
use crate::source::SourceError;

/// A graph has at most so many labels.
const MAX_LABELS: usize = 10_000;
/// A query is shown up to this length.
const MAX_QUERY: usize = 200;
/// Who begins a Bolt connection like this is us.
const OURSELVES: &str = "cairn/";

/// A running transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its database.
    pub database: String,
    /// What it does at the moment.
    pub query: String,
    /// Who began it.
    pub user: String,
    /// From where.
    pub client: String,
    /// For how long it has run.
    pub running: Duration,
}

/// A client that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who it is.
    pub user: String,
    /// Which program.
    pub program: String,
    /// From where.
    pub client: String,
}

/// What goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Transactions of others.
    pub transactions: Vec<Transaction>,
    /// Connections of others; one that does nothing still shows a program that may.
    pub connections: Vec<Connection>,
}

impl Activity {
    /// Whether nothing reads or writes.
    pub fn is_quiet(&self) -> bool {
        self.transactions.is_empty()
    }
}

impl Session {
    /// What is in the database; in the server's default one, if none is named.
    pub fn counts(&self, database: Option<&str>, stop: &dyn Fn() -> bool) -> Result<Neo4jFacts, SourceError> {
        let info = self.ask(database, "CALL db.info() YIELD id, name RETURN id, name", stop)?;
        let store_id = self.text(&info, 0, 0)?;
        let name = self.text(&info, 0, 1)?;
        let nodes = self.number(&self.ask(database, "MATCH (n) RETURN count(n)", stop)?, 0, 0)?;
        let relationships = self.number(&self.ask(database, "MATCH ()-[r]->() RETURN count(r)", stop)?, 0, 0)?;
        let mut facts = Neo4jFacts { database: name, store_id, nodes, relationships, labels: Default::default() };
        let labels = self.ask(database, "CALL db.labels() YIELD label RETURN label", stop)?;
        if labels.len() > MAX_LABELS {
            return Err(self.unclear(format!("{} has more than {MAX_LABELS} labels", facts.database)));
        }
        for row in 0..labels.len() {
            let label = self.text(&labels, row, 0)?;
            let query = format!("MATCH (n:{}) RETURN count(n)", quoted(&label));
            let count = self.number(&self.ask(database, &query, stop)?, 0, 0)?;
            facts.labels.insert(label, count);
        }
        Ok(facts)
    }

    /// What goes on, besides this question.
    pub fn activity(&self, stop: &dyn Fn() -> bool) -> Result<Activity, SourceError> {
        let query = "SHOW TRANSACTIONS YIELD database, currentQuery, username, clientAddress, elapsedTime";
        let shown = self.ask(Some(SYSTEM), query, stop)?;
        let transactions = shown.iter().filter(|row| field(row, 1) != query).map(|row| Transaction {
            database: field(row, 0),
            query: field(row, 1).chars().take(MAX_QUERY).collect(),
            user: field(row, 2),
            client: field(row, 3),
            running: elapsed(row, 4),
        });
        let transactions = transactions.collect();
        let query = "CALL dbms.listConnections() YIELD username, userAgent, clientAddress \
                     RETURN username, userAgent, clientAddress";
        let listed = self.ask(Some(SYSTEM), query, stop)?;
        let others = listed.iter().filter(|row| !field(row, 1).starts_with(OURSELVES));
        let connections =
            others.map(|row| Connection { user: field(row, 0), program: field(row, 1), client: field(row, 2) });
        Ok(Activity { transactions, connections: connections.collect() })
    }
}

/// How a restored graph differs from what was recorded; empty if it does not.
pub fn compare(recorded: &Neo4jFacts, found: &Neo4jFacts) -> Vec<String> {
    let mut differences = Vec::new();
    for (what, recorded, found) in
        [("nodes", recorded.nodes, found.nodes), ("relationships", recorded.relationships, found.relationships)]
    {
        if recorded != found {
            differences.push(format!("there are {found} {what} instead of {recorded}"));
        }
    }
    // A label that no node has any more may or may not be listed.
    let count = |facts: &Neo4jFacts, label: &str| facts.labels.get(label).copied().unwrap_or_default();
    let labels: std::collections::BTreeSet<&String> = recorded.labels.keys().chain(found.labels.keys()).collect();
    for label in labels {
        let (recorded, found) = (count(recorded, label), count(found, label));
        if recorded != found {
            differences.push(format!("{found} nodes have the label {label:?} instead of {recorded}"));
        }
    }
    differences
}

/// A text of a record for people; empty where there is none.
fn field(row: &Row, column: usize) -> String {
    row.get(column).and_then(ValueReceive::as_string).cloned().unwrap_or_default()
}

/// A duration of a record; none at all where there is no such value. The server counts a transaction's in seconds.
fn elapsed(row: &Row, column: usize) -> Duration {
    let seconds = row.get(column).and_then(ValueReceive::as_duration).map(|duration| duration.seconds());
    Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default())
}

/// A label as Cypher takes it. It reads `\uXXXX` before anything else, so a backslash is spelled like that, too.
pub fn quoted(label: &str) -> String {
    format!("`{}`", label.replace('\\', "\\u005C").replace('`', "``"))
}
