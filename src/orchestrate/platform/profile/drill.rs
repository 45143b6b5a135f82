//! Servers that a drill makes for a while.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Argv, Seconds, Word};

/// Servers that a drill makes for a while.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DrillSettings {
    /// In which directory theirs are made; that of the state directory, if none is named.
    pub directory: Option<PathBuf>,
    /// How long one may take to be ready.
    pub start_timeout_seconds: Seconds,
    /// PostgreSQL, which is started by its own programs.
    pub postgres: ScratchPostgres,
    /// Elasticsearch.
    pub elasticsearch: ScratchServer,
    /// Neo4j.
    pub neo4j: ScratchServer,
    /// Redis.
    pub redis: ScratchServer,
}

impl Default for DrillSettings {
    fn default() -> Self {
        DrillSettings {
            directory: None,
            start_timeout_seconds: Seconds::new(600),
            postgres: ScratchPostgres::default(),
            elasticsearch: ScratchServer::default(),
            neo4j: ScratchServer::default(),
            redis: ScratchServer::default(),
        }
    }
}

/// PostgreSQL.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ScratchPostgres {
    /// The directory of its programs; that of the platform's, if none is named.
    pub bin_directory: Option<PathBuf>,
}

/// A server, and how it is started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ScratchServer {
    /// Starts it, and stays with it; nothing is started if it is empty.
    pub command: Argv,
    /// Who runs it; who runs the platform's, if nobody is named and that is known.
    pub user: Option<Word>,
    /// What its environment has besides.
    pub environment: BTreeMap<String, String>,
}

/// What stands for what in commands and environments.
pub type Places<'a> = [(&'static str, &'a str)];

impl ScratchServer {
    /// The command and the environment, with everything in its place.
    pub fn filled(&self, places: &Places<'_>) -> (Argv, BTreeMap<String, String>) {
        let argv = places.iter().fold(self.command.clone(), |argv, (name, value)| argv.with(name, value));
        let fill = |text: &String| {
            places.iter().fold(text.clone(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
        };
        (argv, self.environment.iter().map(|(name, text)| (name.clone(), fill(text))).collect())
    }
}
