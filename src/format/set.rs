//! Backup sets: the snapshots of one run over several components, and what was counted while they were made. One
//! recovery point.
//!
//! Invariant: a set is written last, so it names only snapshots that are published and durable. It carries no data:
//! what a restore writes comes from the snapshots; what a set holds besides is compared with what a restore made.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::format::record::{PathText, Record};
use crate::format::{FormatError, Kind, ObjectId};

/// A set has at most this many components.
const MAX_COMPONENTS: usize = 64;

/// One recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSet {
    /// The profile it was made by; [`crate::format::name::validate`].
    pub profile: String,
    /// The machine it was made on.
    pub host: String,
    /// When capturing began: with the platform at rest, the time that every component stands for.
    pub time: Timestamp,
    /// When the last service was up again.
    pub ended: Timestamp,
    /// Whether the components are of one point in time.
    pub consistency: Consistency,
    /// Whether all that was asked for is there.
    pub status: Status,
    /// The components, in the order in which they were captured.
    pub components: Vec<Component>,
    /// What was done to the platform, in order; for people.
    pub steps: Vec<StepRecord>,
    /// What the operator should know; for people.
    pub warnings: Vec<String>,
    /// The program that wrote it.
    pub program: String,
}

impl Record for BackupSet {
    const KIND: Kind = Kind::Set;

    fn validate(&self) -> Result<(), FormatError> {
        crate::format::name::validate(&self.profile)?;
        let found = self.components.len() as u64;
        if found > MAX_COMPONENTS as u64 {
            return Err(FormatError::TooLarge { what: "backup set", found, limit: MAX_COMPONENTS as u64 });
        }
        Ok(())
    }
}

impl BackupSet {
    /// Bytes saved.
    pub fn bytes(&self) -> u64 {
        total(self.components.iter().map(Component::bytes))
    }

    /// Bytes that this set added to the repository.
    pub fn stored_bytes(&self) -> u64 {
        total(self.components.iter().map(Component::stored_bytes))
    }
}

/// The sum of figures that a record claims: whatever they are, there is one.
fn total(figures: impl Iterator<Item = u64>) -> u64 {
    figures.fold(0, u64::saturating_add)
}

/// Whether the components of a set are of one point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Nothing wrote while they were captured.
    OnePointInTime,
    /// The platform went on working: each component is consistent in itself only.
    Online,
}

/// How a component, or a whole set, came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// All that was asked for is stored.
    Complete,
    /// Some of it is stored; the warnings say what is not.
    Partial,
    /// Nothing that can be restored is stored.
    Failed,
    /// It was not asked for.
    Skipped,
}

/// A component of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// `config`, `postgres`, `elasticsearch`, `neo4j` or `redis`.
    pub name: String,
    /// How it came out.
    pub status: Status,
    /// The snapshots that hold it.
    pub parts: Vec<Part>,
    /// The versions of the programs that made it or that it belongs to.
    pub versions: BTreeMap<String, String>,
    /// What was recorded at capture, to be compared after a restore.
    pub facts: Option<Facts>,
    /// Why it is not complete, and what else is to be known.
    pub warnings: Vec<String>,
    /// Wall time of the capture, in milliseconds.
    pub milliseconds: u64,
}

impl Component {
    /// Bytes saved.
    pub fn bytes(&self) -> u64 {
        total(self.parts.iter().map(|part| part.bytes))
    }

    /// Bytes that it added to the repository.
    pub fn stored_bytes(&self) -> u64 {
        total(self.parts.iter().map(|part| part.stored_bytes))
    }
}

/// A snapshot of a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it holds: `tree` of `config`; `dump`, `files`, or `base` with `wal`, `label` and, if there are tablespaces,
    /// `tablespace-map` of `postgres`; `repository`; `store`; `queues`, `purged` and `rdb` of `redis`.
    pub role: String,
    /// The snapshot.
    pub snapshot: ObjectId,
    /// Bytes saved.
    pub bytes: u64,
    /// Bytes that this snapshot added to the repository.
    pub stored_bytes: u64,
}

/// One step of a run; for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// What was to be done.
    pub title: String,
    /// `done`, `failed`, `undone` or `skipped`.
    pub state: String,
    /// When it began.
    pub time: Timestamp,
    /// Wall time in milliseconds.
    pub milliseconds: u64,
    /// What was seen, or why it failed.
    pub detail: String,
}

/// What was recorded of a component at capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Facts {
    /// Configuration files.
    Config(ConfigFacts),
    /// PostgreSQL.
    Postgres(PostgresFacts),
    /// Elasticsearch.
    Elasticsearch(ElasticsearchFacts),
    /// Neo4j.
    Neo4j(Neo4jFacts),
    /// Redis.
    Redis(RedisFacts),
}

/// Configuration files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigFacts {
    /// Listed paths that did not exist.
    pub absent: Vec<PathText>,
    /// Key and certificate files that configuration files name.
    pub keys: Vec<KeyFile>,
}

/// A key or certificate file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// The file.
    pub path: PathText,
    /// The configuration file that names it; absent when the profile lists it.
    pub named_by: Option<PathText>,
    /// Whether it was there.
    pub present: bool,
}

/// A PostgreSQL cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresFacts {
    /// `dump`, `files` or `base`.
    pub method: String,
    /// The cluster's identifier, from its control file.
    pub system_id: String,
    /// The timeline.
    pub timeline: u32,
    /// The write-ahead log's position when the capture began, as PostgreSQL writes it (`0/1A2B3C4`).
    pub lsn: String,
    /// Its databases.
    pub databases: Vec<DatabaseFacts>,
    /// Where a base backup lies in the log; absent for the other methods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseFacts>,
}

/// A base backup's place in the write-ahead log: what a recovery to a time begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFacts {
    /// Where recovery begins.
    pub start_lsn: String,
    /// Where the files are one point in time.
    pub stop_lsn: String,
    /// When that was, by the server's clock.
    pub ended: Timestamp,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Whether every segment from start to stop was found archived in the repository.
    pub archived: bool,
}

impl PostgresFacts {
    /// How many tables there are, and how many rows in all of them.
    pub fn totals(&self) -> (usize, u64) {
        let tables = self.databases.iter().flat_map(|database| &database.tables);
        (tables.clone().count(), total(tables.map(|table| table.rows)))
    }
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// Its name.
    pub name: String,
    /// Its tables.
    pub tables: Vec<TableFacts>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// A checksum of its rows that does not depend on their order; absent where it could not be taken.
    pub checksum: Option<String>,
}

/// An Elasticsearch cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElasticsearchFacts {
    /// The cluster's UUID.
    pub cluster_uuid: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// The snapshot repository's name.
    pub repository: String,
    /// The snapshot in it.
    pub snapshot: String,
    /// The snapshot's UUID.
    pub snapshot_uuid: String,
    /// Documents of each index that is open.
    pub documents: BTreeMap<String, u64>,
    /// Documents of each index that is closed, as its statistics tell them: nested ones are in these numbers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub closed: BTreeMap<String, u64>,
}

/// A Neo4j database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neo4jFacts {
    /// The database's name.
    pub database: String,
    /// The store's identifier, as Neo4j tells it.
    pub store_id: String,
    /// Nodes.
    pub nodes: u64,
    /// Relationships.
    pub relationships: u64,
    /// Nodes of each label.
    pub labels: BTreeMap<String, u64>,
}

/// Redis queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RedisFacts {
    /// Elements of each queue at capture.
    pub queues: BTreeMap<String, u64>,
    /// Elements that were saved in the set and then removed, of each queue.
    pub purged: BTreeMap<String, u64>,
}
