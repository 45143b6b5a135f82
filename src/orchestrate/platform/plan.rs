//! What a backup would do, as data: every step in order, with the commands, paths, addresses, queues and units that it
//! uses, whether it changes the platform, and how that is undone.
//!
//! Nothing is asked of a server and nothing is changed to make a plan; the files of the machine are looked at. A plan holds
//! everything that the profile says: what no step uses is among its settings.

mod capture;
pub(in crate::orchestrate::platform) mod steps;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::discover::Discovery;
use crate::orchestrate::platform::profile::{Argv, Component, Profile};
use crate::source::postgres::Method;

pub use capture::stopped_units;

/// Whether the platform is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It is: the components are of one point in time.
    #[default]
    Full,
    /// It goes on working: each component is consistent in itself only.
    Online,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Whether the platform is stopped.
    pub mode: Mode,
    /// Only these components; all that the profile has, if none is named.
    pub only: Vec<Component>,
    /// Not these.
    pub skip: Vec<Component>,
    /// Neo4j alone may be stopped for a short time while the platform works.
    pub neo4j_may_stop: bool,
}

/// What a backup would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The profile's name.
    pub profile: String,
    /// What the platform is.
    pub description: String,
    /// Whether the platform is stopped.
    pub mode: Mode,
    /// What is captured.
    pub components: Vec<Component>,
    /// What is not, and why.
    pub skipped: BTreeMap<Component, String>,
    /// The steps of the backup, in order.
    pub steps: Vec<PlannedStep>,
    /// What is done once a backup was restored; no part of the backup.
    pub after_restore: Vec<PlannedStep>,
    /// The configuration files and keys, as they are now.
    pub discovery: Discovery,
    /// Everything else that the profile says, by its keys.
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// A step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// Its id, unique in the plan.
    pub id: String,
    /// What it does, for people.
    pub title: String,
    /// The component that it captures; absent for what concerns the platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<Component>,
    /// What it is done for; absent if it is always done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_if: Option<String>,
    /// Whether it changes the platform.
    pub changes: bool,
    /// How that is undone; nothing if there is nothing to undo.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub undo: Vec<Use>,
    /// What it uses, in order.
    pub uses: Vec<Use>,
}

/// Something that a step uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "use", rename_all = "kebab-case")]
pub enum Use {
    /// A program.
    Command {
        /// It and its arguments.
        argv: Vec<String>,
        /// Who runs it; absent: who runs cairn.
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// What is added to its environment.
        #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
        environment: BTreeMap<String, String>,
    },
    /// A request to Elasticsearch.
    Request {
        /// The method.
        method: String,
        /// The address.
        url: String,
    },
    /// A query.
    Query {
        /// Its text.
        text: String,
    },
    /// A file, directory or glob.
    Path {
        /// It.
        path: String,
    },
    /// A server or port.
    Address {
        /// It.
        address: String,
    },
    /// A list in Redis.
    Queue {
        /// Its key.
        queue: String,
    },
    /// A time limit.
    Limit {
        /// In seconds.
        seconds: u64,
    },
    /// Something in words.
    Note {
        /// The words.
        text: String,
    },
}

impl Use {
    fn command(words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let argv = words.into_iter().map(Into::into).collect();
        Use::Command { argv, user: None, environment: BTreeMap::new() }
    }

    fn argv(argv: &Argv, user: Option<&str>, environment: &BTreeMap<String, String>) -> Self {
        let argv = argv.words().to_vec();
        Use::Command { argv, user: user.map(str::to_owned), environment: environment.clone() }
    }

    fn path(path: impl ToString) -> Self {
        Use::Path { path: path.to_string() }
    }

    fn address(address: impl ToString) -> Self {
        Use::Address { address: address.to_string() }
    }

    fn queue(queue: impl ToString) -> Self {
        Use::Queue { queue: queue.to_string() }
    }

    fn note(text: impl ToString) -> Self {
        Use::Note { text: text.to_string() }
    }

    fn limit(seconds: u64) -> Self {
        Use::Limit { seconds }
    }
}

/// Makes the plan.
pub fn plan(profile: &Profile, discovery: Discovery, request: &Request) -> Result<Plan, OrchestrateError> {
    let (components, skipped) = select(profile, request)?;
    let steps = steps::all(profile, &components, request.mode, &discovery);
    Ok(Plan {
        profile: profile.name.clone(),
        description: profile.description.clone(),
        mode: request.mode,
        components,
        skipped,
        steps,
        after_restore: steps::after_restore(profile),
        discovery,
        settings: settings(profile)?,
    })
}

/// What is captured, and what is not and why.
pub fn select(
    profile: &Profile,
    request: &Request,
) -> Result<(Vec<Component>, BTreeMap<Component, String>), OrchestrateError> {
    let mut skipped = BTreeMap::new();
    let online = request.mode == Mode::Online;
    for component in Component::ALL {
        let why = if !profile.components.contains(&component) {
            "the profile does not have it"
        } else if !request.only.is_empty() && !request.only.contains(&component) {
            "it was not asked for"
        } else if request.skip.contains(&component) {
            "it was left out on request"
        } else if online && component == Component::Neo4j && !request.neo4j_may_stop {
            "its files can be saved only while it is stopped, and that was not allowed"
        } else if online && component == Component::Redis {
            "queues are at rest only while the platform is stopped"
        } else {
            continue;
        };
        if request.only.contains(&component) {
            let name = component.name();
            return Err(OrchestrateError::Unfit(format!("{name} was asked for and cannot be captured: {why}")));
        }
        skipped.insert(component, why.to_owned());
    }
    let chosen: Vec<Component> = Component::ALL.into_iter().filter(|one| !skipped.contains_key(one)).collect();
    if chosen.is_empty() {
        return Err(OrchestrateError::Unfit("no component is left to capture".to_owned()));
    }
    if online && chosen.contains(&Component::Postgres) && profile.postgres.method == Method::Files {
        let why =
            "the files of PostgreSQL can be saved only while it is stopped: set `postgres.method` to dump or base";
        return Err(OrchestrateError::Unfit(why.to_owned()));
    }
    Ok((chosen, skipped))
}

/// Everything that the profile says, but the paths of configuration files, which are shown with what is there.
fn settings(profile: &Profile) -> Result<BTreeMap<String, serde_json::Value>, OrchestrateError> {
    let whole = serde_json::to_value(profile)
        .map_err(|error| OrchestrateError::Unfit(format!("the profile cannot be shown: {error}")))?;
    let mut settings = BTreeMap::new();
    flatten(String::new(), whole, &mut settings);
    settings.retain(|key, _| !(key.starts_with("config.groups.") && key.ends_with(".paths")));
    Ok(settings)
}

fn flatten(key: String, value: serde_json::Value, into: &mut BTreeMap<String, serde_json::Value>) {
    match value {
        serde_json::Value::Null => {}
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let inner = if key.is_empty() { name } else { format!("{key}.{name}") };
                flatten(inner, value, into);
            }
        }
        value => drop(into.insert(key, value)),
    }
}
