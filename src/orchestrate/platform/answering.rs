//! The servers that answered before a run changed anything, and the proof that they answer again.
//!
//! Invariant: a server that was down, refused us or was ill before is waited for no longer than it takes to find it as it
//! was: that is its own trouble, told by its component, and nothing that a resume could mend.

use std::time::Duration;

use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::profile::{Component, Profile};
use crate::source::SourceError;
use crate::source::elasticsearch::Client;
use crate::source::elasticsearch::client::Level;
use crate::source::neo4j::session::Session;
use crate::source::wait;

/// Which servers answered, and how they were.
#[derive(Clone, Copy, Debug)]
pub struct Answering {
    elasticsearch: Option<Level>,
    neo4j: bool,
}

impl Answering {
    /// Asks the servers of these components. An error is only that the operator wants to stop.
    pub fn ask(profile: &Profile, components: &[Component], stop: &dyn Fn() -> bool) -> Result<Self, SourceError> {
        let mut answering = Answering { elasticsearch: None, neo4j: false };
        if components.contains(&Component::Elasticsearch) {
            answering.elasticsearch = answered(level(profile, stop))?;
        }
        if components.contains(&Component::Neo4j) {
            answering.neo4j = answered(Session::connect(&profile.neo4j, stop))?.is_some();
        }
        Ok(answering)
    }

    /// Waits until those that answered do so again, and are as well as they were; what was seen.
    pub fn prove_up(&self, profile: &Profile) -> Result<String, OrchestrateError> {
        let (mut seen, never) = (String::new(), || false);
        if let Some(before) = self.elasticsearch {
            let settings = &profile.elasticsearch;
            let wanted = before.min(Level::Yellow);
            let health = Client::new(settings)?.wait_for_health(wanted, settings.health_timeout(), &never)?;
            seen += &format!(", Elasticsearch is {}", health.level);
        }
        if self.neo4j {
            Session::wait(&profile.neo4j, profile.neo4j.start_timeout(), &never)?;
            seen += ", Neo4j answers";
        }
        Ok(seen)
    }
}

fn level(profile: &Profile, stop: &dyn Fn() -> bool) -> Result<Level, SourceError> {
    let client = Client::new(&profile.elasticsearch)?;
    let limit = Duration::from_secs(profile.elasticsearch.request_timeout_seconds);
    let what = format!("{} did not answer", client.server());
    wait::attended(&what, limit, stop, move || client.health())?.map(|health| health.level)
}

fn answered<T>(result: Result<T, SourceError>) -> Result<Option<T>, SourceError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(SourceError::Interrupted) => Err(SourceError::Interrupted),
        Err(_) => Ok(None),
    }
}
