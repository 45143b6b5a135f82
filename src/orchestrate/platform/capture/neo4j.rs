//! Neo4j: counted while it runs, stopped, its store saved, and looked at once more.
//!
//! Invariant: the store counts only if nobody had it open before the copy and after it.

use std::time::{Duration, Instant};

use super::{Captured, Scene, unread};
use crate::format::set::{Facts, Neo4jFacts};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::backup::TreeOptions;
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::rest::stop_pattern;
use crate::orchestrate::platform::services::running;
use crate::orchestrate::platform::store::{Role, Slot};
use crate::orchestrate::platform::undo::undo;
use crate::source::SourceError;
use crate::source::neo4j::configuration::{self, Configuration};
use crate::source::neo4j::session::{Connected, Session};
use crate::source::neo4j::store::{store_paths, store_use};
use crate::source::wait::{INTERVAL, pause};

const COUNT: &str = "count-neo4j";
const STOP: &str = "stop-neo4j";
const STEP: &str = "capture-neo4j";

pub fn capture(scene: &Scene<'_>, notes: &Notes<'_>) -> Result<Captured, OrchestrateError> {
    let executor = scene.executor;
    let settings = &executor.profile.neo4j;
    let configuration = configuration::read(settings)?;
    for name in &configuration.duplicates {
        notes.tell("neo4j.conf", format!("{name} is given more than once; Neo4j takes the last"));
    }
    let mut captured = Captured::default();
    if let Some((version, facts)) = count(scene, &configuration, notes)? {
        captured.versions.insert("neo4j".to_owned(), version);
        captured.facts = facts.map(Facts::Neo4j);
    }
    let slot = scene.store.slot(notes)?;
    let copied = stop_pattern(&executor, STOP, &settings.service, scene.census, notes)
        .and_then(|()| copy(scene, &slot, &configuration, &mut captured, notes));
    drop(slot);
    // At once: it was stopped for this alone, and needs long to start. What fails is tried again at the end of the run,
    // and told there.
    executor.run.undo_step(STOP, &mut |due| undo(executor.profile, due));
    copied.map(|()| captured)
}

/// The server's version, and what is in the graph; nothing of a server that was down before.
fn count(
    scene: &Scene<'_>,
    configuration: &Configuration,
    notes: &Notes<'_>,
) -> Result<Option<(String, Option<Neo4jFacts>)>, OrchestrateError> {
    let (executor, settings) = (scene.executor, &scene.executor.profile.neo4j);
    let stop = executor.stop();
    executor.step(COUNT, None, || {
        if running(executor.profile, &settings.service, &stop)?.is_empty() {
            let why = "Neo4j does not run, so what is in the graph is not counted";
            notes.tell("neo4j", why);
            return Ok((why.to_owned(), None));
        }
        match Session::connect(settings, &stop)? {
            Connected::TooOld { why } => {
                notes.tell("neo4j", why.clone());
                Ok((why, Some(("older than 4.4".to_owned(), None))))
            }
            Connected::Yes(session) => {
                let facts = session.counts(configuration.database.as_deref(), &stop)?;
                let seen = format!("{} nodes, {} relationships", facts.nodes, facts.relationships);
                Ok((seen, Some((session.version().to_owned(), Some(facts)))))
            }
        }
    })
}

fn copy(
    scene: &Scene<'_>,
    slot: &Slot<'_, '_>,
    configuration: &Configuration,
    captured: &mut Captured,
    notes: &Notes<'_>,
) -> Result<(), OrchestrateError> {
    let settings = &scene.executor.profile.neo4j;
    scene.executor.step(STEP, None, || {
        let paths = store_paths(configuration)?;
        for other in &paths.others {
            notes.tell("neo4j", format!("the database {other} is saved, too; it is not the one that is in use"));
        }
        let stop = scene.executor.stop();
        await_stopped(configuration, Duration::from_secs(settings.stop_timeout_seconds), &stop)?;
        let tree = TreeOptions { roots: paths.paths, ..TreeOptions::default() };
        let (part, missed) = slot.tree(Role::STORE, tree, STEP, notes)?;
        // Somebody may have started it meanwhile.
        await_stopped(configuration, Duration::ZERO, &stop)?;
        captured.parts.push(part);
        captured.lacks.extend(unread(missed));
        Ok((format!("database {}", paths.database), ()))
    })
}

/// Waits until nobody uses the store.
fn await_stopped(
    configuration: &Configuration,
    limit: Duration,
    stop: &dyn Fn() -> bool,
) -> Result<(), OrchestrateError> {
    let started = Instant::now();
    loop {
        let used = store_use(configuration)?;
        if used.proves_stopped() {
            return Ok(());
        }
        if started.elapsed() >= limit || used.unseen > 0 {
            let server = format!("the store of Neo4j in {}", configuration.data.display());
            let what = format!("it is in use, so a copy of it could not be trusted: {}", used.reasons().join("; "));
            return Err(SourceError::Answer { server, what }.into());
        }
        pause(INTERVAL, stop)?;
    }
}
