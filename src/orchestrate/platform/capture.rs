//! Capturing the components, beside each other.
//!
//! One function a component, each in a thread of its own, with its own steps in the journal. A component that fails does
//! not stop the others: what they hold is worth having, and the set says that it is partial.

mod config;
mod elasticsearch;
mod neo4j;
mod postgres;
mod redis;

pub use elasticsearch::kept_settings;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::format::set::{self, Facts, Part, Status};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::executor::{Executor, Notes};
use crate::orchestrate::platform::profile::Component;
use crate::orchestrate::platform::rest::Purged;
use crate::orchestrate::platform::services::Census;
use crate::orchestrate::platform::store::Store;
use crate::repo::chain;

/// What a capture is given.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The run.
    pub executor: Executor<'a>,
    /// Where parts go.
    pub store: &'a Store<'a>,
    /// What ran before anything was stopped.
    pub census: &'a Census,
    /// What was taken out of the queues.
    pub purged: Option<&'a Purged>,
    /// Whether `path.repo` of Elasticsearch may be edited.
    pub may_configure: bool,
}

/// What a capture made.
#[derive(Debug, Default)]
struct Captured {
    parts: Vec<Part>,
    versions: BTreeMap<String, String>,
    facts: Option<Facts>,
    /// Why it is not all that was asked for.
    lacks: Vec<String>,
}

/// Captures all components of the plan. An error is only that the operator wants to stop.
pub fn all(scene: &Scene<'_>) -> Result<Vec<set::Component>, OrchestrateError> {
    let results: Vec<_> = std::thread::scope(|scope| {
        let captures: Vec<_> =
            scene.executor.plan.components.iter().map(|one| (*one, scope.spawn(|| component(scene, *one)))).collect();
        captures.into_iter().map(|(one, capture)| (one, capture.join())).collect()
    });
    let ended_early = |one| failed(one, vec!["the thread that captured it ended early".to_owned()], 0);
    results.into_iter().map(|(one, result)| result.unwrap_or_else(|_| Ok(ended_early(one)))).collect()
}

fn component(scene: &Scene<'_>, component: Component) -> Result<set::Component, OrchestrateError> {
    let began = Instant::now();
    let notes = Notes::new(scene.executor.monitor);
    let captured = match component {
        Component::Config => config::capture(scene, &notes),
        Component::Postgres => postgres::capture(scene, &notes),
        Component::Elasticsearch => elasticsearch::capture(scene, &notes),
        Component::Neo4j => neo4j::capture(scene, &notes),
        Component::Redis => redis::capture(scene, &notes),
    };
    let milliseconds = began.elapsed().as_millis() as u64;
    let mut warnings = notes.into_vec();
    match captured {
        Ok(captured) => {
            let status = if captured.lacks.is_empty() { Status::Complete } else { Status::Partial };
            let Captured { parts, versions, facts, lacks } = captured;
            warnings.splice(0..0, lacks);
            let name = component.name().to_owned();
            Ok(set::Component { name, status, parts, versions, facts, warnings, milliseconds })
        }
        Err(error) if error.is_interrupted() => Err(OrchestrateError::Interrupted),
        Err(error) => {
            warnings.insert(0, chain(&error));
            Ok(failed(component, warnings, milliseconds))
        }
    }
}

fn failed(component: Component, warnings: Vec<String>, milliseconds: u64) -> set::Component {
    let (name, status) = (component.name().to_owned(), Status::Failed);
    let (parts, versions, facts) = (Vec::new(), BTreeMap::new(), None);
    set::Component { name, status, parts, versions, facts, warnings, milliseconds }
}

/// What the record says when files of a tree could not be read.
fn unread(unread: u64) -> Option<String> {
    (unread > 0).then(|| format!("{unread} files or directories could not be read; they are named below"))
}
