//! Neo4j's store: its files in the place of those that are there, and its nodes, relationships and labels counted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::format::codec::escape_path;
use crate::format::set::{self, Facts, Neo4jFacts};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::profile::Component;
use crate::orchestrate::platform::rest::stop_pattern;
use crate::orchestrate::platform::restore::plan::{Draft, Intent, Look, Work, part, step};
use crate::orchestrate::platform::restore::trees::{self, TreeSwap};
use crate::orchestrate::platform::restore::{Back, Scene, started};
use crate::orchestrate::platform::store::Role;
use crate::source::SourceError;
use crate::source::files::swap::Swap;
use crate::source::neo4j::configuration::{self, Configuration};
use crate::source::neo4j::facts::compare;
use crate::source::neo4j::session::{Connected, Session};
use crate::source::neo4j::store::{store_paths, store_use};

const STAGE: &str = "stage-neo4j";
const STOP: &str = "stop-neo4j";
const SWAP: &str = "swap-neo4j";
const COMPARE: &str = "compare-neo4j";

/// What is done.
#[derive(Clone, Debug)]
pub struct GraphWork {
    trees: Vec<TreeSwap>,
    facts: Option<Neo4jFacts>,
}

/// Looks where everything goes.
pub fn draft(look: &Look<'_>, found: &set::Component) -> Result<Draft, OrchestrateError> {
    let settings = &look.profile.neo4j;
    let configuration = configuration::read(settings)?;
    let stored = part(&found.parts, Role::STORE)?;
    let info = look.snapshot(stored)?;
    let mut trees = Vec::new();
    let (mut into, mut replaces) = (Vec::new(), Vec::new());
    for root in &info.snapshot.paths {
        let root = trees::path(root);
        let place = place(&root, &configuration).ok_or_else(|| {
            let root = escape_path(&root);
            OrchestrateError::Unfit(format!("the store has {root}, and neo4j.conf of this machine has no place for it"))
        })?;
        into.push(escape_path(&place));
        trees.push(TreeSwap { snapshot: info.id, root: Some(root), swap: Swap::plan(&place, look.mark)? });
    }
    // A database that only this machine has would be found by the server that starts on what is restored.
    let present = store_paths(&configuration).map(|store| store.paths).unwrap_or_default();
    for path in present {
        replaces.push(escape_path(&path));
        if !trees.iter().any(|tree| tree.swap.place == path) {
            trees.push(TreeSwap { snapshot: info.id, root: None, swap: Swap::plan(&path, look.mark)? });
        }
    }
    let component = Component::Neo4j;
    let facts = match &found.facts {
        Some(Facts::Neo4j(facts)) => Some(facts.clone()),
        _ => None,
    };
    let steps = vec![
        step(component, STAGE, "write the store beside its place, and read it back", true),
        step(component, STOP, "stop Neo4j, and prove it", true),
        step(component, SWAP, "move the store that is there aside, and the restored one in its place", true),
        step(component, COMPARE, "start Neo4j, and count nodes, relationships and labels", false),
    ];
    let space = vec![(configuration.data.clone(), stored.bytes)];
    let obstacles = trees::obstacles(trees.iter().map(|tree| &tree.swap))?;
    let intent = Intent {
        component,
        into,
        replaces,
        bytes: stored.bytes,
        notes: Vec::new(),
        steps,
        work: Work::Graph(GraphWork { trees, facts }),
    };
    Ok(Draft { intent, obstacles, space })
}

/// The place of a root of the store on this machine. The directories have the same names everywhere; only where they
/// are differs.
pub fn place(root: &Path, configuration: &Configuration) -> Option<PathBuf> {
    let here = [&configuration.databases, &configuration.transactions, &configuration.data];
    if here.iter().any(|directory| root.parent() == Some(directory))
        || configuration.transaction_log.as_deref() == Some(root)
    {
        return Some(root.to_owned());
    }
    let name = root.file_name()?;
    match root.parent()?.file_name()?.to_str()? {
        "databases" => Some(configuration.databases.join(name)),
        "transactions" => Some(configuration.transactions.join(name)),
        _ if name == "dbms" || name == "server_id" => Some(configuration.data.join(name)),
        _ => None,
    }
}

/// Writes the store beside its place.
pub fn stage(scene: &Scene<'_>, work: &GraphWork, notes: &Notes<'_>) -> Result<(), OrchestrateError> {
    trees::stage(scene, STAGE, &work.trees, notes)
}

/// Puts it in, starts the server and counts.
pub fn put_in(scene: &Scene<'_>, work: &GraphWork, notes: &Notes<'_>) -> Result<Back, OrchestrateError> {
    let executor = scene.executor;
    let settings = &executor.profile.neo4j;
    let stop = executor.stop();
    stop_pattern(&executor, STOP, &settings.service, scene.census, notes)?;
    let used = store_use(&configuration::read(settings)?)?;
    if !used.proves_stopped() {
        let server = format!("neo4j {}", settings.service);
        return Err(SourceError::Answer { server, what: used.reasons().join("; ") }.into());
    }
    let aside = trees::put_in(scene, SWAP, &work.trees, &settings.service)?;
    let compared = executor.step(COMPARE, None, || {
        started(scene, STOP, &settings.service)?;
        let limit = Duration::from_secs(settings.start_timeout().as_secs());
        let session = match Session::wait(settings, limit, &stop)? {
            Connected::Yes(session) => session,
            Connected::TooOld { why } => return Ok((why, None)),
        };
        let Some(recorded) = &work.facts else {
            return Ok(("it answers; nothing was counted when it was captured".to_owned(), None));
        };
        let found = session.counts(Some(&recorded.database), &stop)?;
        let differences = compare(recorded, &found);
        if !differences.is_empty() {
            return Err(OrchestrateError::Unfit(differences.join("; ")));
        }
        let seen = format!("{} nodes and {} relationships, as recorded", found.nodes, found.relationships);
        Ok((seen.clone(), Some(seen)))
    })?;
    Ok(Back { compared, aside })
}
