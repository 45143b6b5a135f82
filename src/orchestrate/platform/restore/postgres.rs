//! PostgreSQL: SQL into an empty cluster, or the files of a cluster in the place of those that are there.
//!
//! Invariant: a dump is never read into a cluster that holds something, and a cluster that it is read into can be thrown
//! away whole: it is a copy of the empty one, or a new one, and the one before is kept beside it.

use std::path::{Path, PathBuf};

use crate::format::ObjectId;
use crate::format::codec::escape_path;
use crate::format::set::{self, Facts, PostgresFacts};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::locate::exists;
use crate::orchestrate::platform::executor::Notes;
use crate::orchestrate::platform::journal::Undo;
use crate::orchestrate::platform::profile::Component;
use crate::orchestrate::platform::rest::stop_pattern;
use crate::orchestrate::platform::restore::plan::{Draft, Intent, Look, Work, part, step};
use crate::orchestrate::platform::restore::recovery::{self, Goal};
use crate::orchestrate::platform::restore::told::Told;
use crate::orchestrate::platform::restore::trees::{self, TreeSwap};
use crate::orchestrate::platform::restore::{Back, Scene, recovered, started};
use crate::orchestrate::platform::store::Role;
use crate::source::files::swap::Swap;
use crate::source::postgres::{
    Cluster, Method, compare, complete_base, contents, copy_cluster, data_layout, facts, is_running, new_cluster,
    own_log, restore_dump,
};

const STAGE: &str = "stage-postgres";
const STOP: &str = "stop-postgres";
const MAKE: &str = "make-postgres";
const SWAP: &str = "swap-postgres";
const LOAD: &str = "load-postgres";
const COMPARE: &str = "compare-postgres";

/// What a cluster needs besides its data, roughly: what every new one has, and its log.
const NEW_CLUSTER: u64 = 200 << 20;

/// How the cluster is made that a dump is read into.
#[derive(Clone, Debug)]
enum Empty {
    /// The one that is there, which is empty.
    Copy,
    /// A new one.
    New,
}

/// SQL.
#[derive(Clone, Debug)]
pub struct DumpWork {
    snapshot: ObjectId,
    bytes: u64,
    empty: Empty,
    swap: Swap,
    facts: PostgresFacts,
}

/// Files.
#[derive(Clone, Debug)]
pub struct ClusterWork {
    trees: Vec<TreeSwap>,
    /// The data directory among them.
    data: usize,
    /// The write-ahead log, the label and the map of tablespaces of a base backup.
    log: Option<ObjectId>,
    label: Option<ObjectId>,
    map: Option<ObjectId>,
    facts: PostgresFacts,
    /// The time that it goes to, beyond its own.
    goal: Option<Goal>,
}

/// Looks which it is.
pub fn draft(look: &Look<'_>, found: &set::Component) -> Result<Draft, OrchestrateError> {
    let Some(Facts::Postgres(facts)) = &found.facts else {
        return Err(OrchestrateError::Unfit("the set says nothing of its PostgreSQL: see its report".to_owned()));
    };
    match facts.method.as_str() {
        "dump" => dump(look, found, facts),
        "files" | "base" => cluster(look, found, facts),
        other => Err(OrchestrateError::Unfit(format!("it was captured by {other:?}, which this cairn does not know"))),
    }
}

fn dump(look: &Look<'_>, found: &set::Component, facts: &PostgresFacts) -> Result<Draft, OrchestrateError> {
    let settings = &look.profile.postgres;
    let stored = part(&found.parts, Role::DUMP)?;
    let mut obstacles = Vec::new();
    let running = Cluster::connect(settings).and_then(|cluster| cluster.data_directory());
    let (place, empty) = match (&look.options.new_cluster, running) {
        (Some(directory), Ok(data)) if data != *directory => {
            obstacles.push(format!(
                "the server works in {}, and not in {}: stop it, or name its own directory",
                escape_path(&data),
                escape_path(directory)
            ));
            (directory.clone(), Empty::New)
        }
        (Some(directory), _) => (directory.clone(), Empty::New),
        (None, Ok(data)) => {
            let there = contents(settings)?;
            if !there.is_empty() {
                obstacles.push(format!(
                    "the cluster is not empty, and a dump is read only into an empty one: it holds {}; \
                     --new-cluster {} puts it aside and makes a new one",
                    there.join(", "),
                    escape_path(&data)
                ));
            }
            (data, Empty::Copy)
        }
        (None, Err(error)) => {
            let why = crate::repo::chain(&error);
            return Err(OrchestrateError::Unfit(format!("{why}; start it, or make a cluster by --new-cluster DIR")));
        }
    };
    let swap = Swap::plan(&place, look.mark)?;
    obstacles.extend(swap.obstacle()?);
    let replaces = if place.exists() { vec![escape_path(&place)] } else { Vec::new() };
    let component = Component::Postgres;
    let make = match empty {
        Empty::Copy => "copy the empty cluster, so that it stays as it is",
        Empty::New => "make a new cluster, with the configuration files of the one that is there",
    };
    let steps = vec![
        step(component, STAGE, "read the dump through: all of it is there", false),
        step(component, STOP, "stop PostgreSQL", true),
        step(component, MAKE, make, true),
        step(component, SWAP, "move the cluster that is there aside, and this one in its place", true),
        step(component, LOAD, "start PostgreSQL, and read the dump into it (psql, ON_ERROR_STOP), then ANALYZE", false),
        step(component, COMPARE, "compare rows and checksums of every table with what was recorded", false),
    ];
    let intent = Intent {
        component,
        into: vec![escape_path(&place)],
        replaces,
        bytes: stored.bytes,
        notes: Vec::new(),
        steps,
        work: Work::Dump(DumpWork {
            snapshot: stored.snapshot,
            bytes: stored.bytes,
            empty,
            swap,
            facts: facts.clone(),
        }),
    };
    Ok(Draft { intent, obstacles, space: vec![(place, stored.bytes.saturating_add(NEW_CLUSTER))] })
}

fn cluster(look: &Look<'_>, found: &set::Component, facts: &PostgresFacts) -> Result<Draft, OrchestrateError> {
    let settings = &look.profile.postgres;
    let role = if facts.method == Method::Base.name() { Role::BASE } else { Role::FILES };
    let stored = part(&found.parts, role)?;
    let info = look.snapshot(stored)?;
    let here = match data_layout(settings) {
        Ok(layout) => layout.data,
        Err(error) => settings.data_directories.first().cloned().ok_or(error)?,
    };
    let (mut trees, mut data) = (Vec::new(), None);
    for root in &info.snapshot.paths {
        let root = trees::path(root);
        let control = root.join("global/pg_control");
        let is_data = exists(look.repository, &info.snapshot, trees::inner(&control))?;
        let place = if is_data { here.clone() } else { root.clone() };
        if is_data {
            data = Some(trees.len());
        }
        trees.push(TreeSwap { snapshot: info.id, root: Some(root), swap: Swap::plan(&place, look.mark)? });
    }
    let missing = || OrchestrateError::Unfit("no data directory of a cluster is in the set".to_owned());
    let data = data.ok_or_else(missing)?;
    let snapshot = |role| part(&found.parts, role).ok().map(|part| part.snapshot);
    let obstacles = trees::obstacles(trees.iter().map(|tree| &tree.swap))?;
    let places = || trees.iter().map(|tree: &TreeSwap| tree.swap.place.clone());
    let component = Component::Postgres;
    let goal = look.options.goal.as_ref().filter(|_| facts.method == Method::Base.name());
    let mut steps = vec![
        step(component, STAGE, "write the cluster's files beside their places, and read them back", true),
        step(component, STOP, "stop PostgreSQL, and prove it", true),
        step(component, SWAP, "move the cluster that is there aside, and the restored one in its place", true),
    ];
    match goal {
        Some(goal) => steps.extend(recovery::steps(&goal.aim)),
        None => {
            let compare = "start PostgreSQL, and compare every table with what was recorded";
            steps.push(step(component, COMPARE, compare, false));
            let begins = look.profile.postgres.archive.enabled && facts.method == Method::Base.name();
            steps.extend(begins.then(recovery::settling));
        }
    }
    let intent = Intent {
        component,
        into: places().map(|place| escape_path(&place)).collect(),
        replaces: places().filter(|place| place.exists()).map(|place| escape_path(&place)).collect(),
        bytes: stored.bytes,
        notes: goal.map(|goal| recovery::notes(&goal.aim)).unwrap_or_default(),
        steps,
        work: Work::Cluster(ClusterWork {
            data,
            log: snapshot(Role::WAL),
            label: snapshot(Role::LABEL),
            map: snapshot(Role::TABLESPACE_MAP),
            facts: facts.clone(),
            trees: trees.clone(),
            goal: goal.cloned(),
        }),
    };
    Ok(Draft { intent, obstacles, space: vec![(here, stored.bytes)] })
}

/// Reads a dump through: what is damaged in it is known before anything is stopped for it.
pub fn stage_dump(scene: &Scene<'_>, work: &DumpWork, notes: &Notes<'_>) -> Result<(), OrchestrateError> {
    scene.executor.step(STAGE, None, || {
        let bytes = reader(scene, &work.snapshot, STAGE, work.bytes, notes)?.read_through()?;
        Ok((format!("{bytes} bytes"), ()))
    })
}

fn reader<'a>(
    scene: &'a Scene<'_>,
    snapshot: &ObjectId,
    step: &'static str,
    bytes: u64,
    notes: &'a Notes<'_>,
) -> Result<Told<'a>, OrchestrateError> {
    let info = scene.snapshot(snapshot)?;
    let stream = scene.order.repository.stream(&info.snapshot.content)?;
    Ok(Told::new(stream, step, bytes, notes))
}

/// Reads the dump into a cluster of its own in the place of the one that is there.
pub fn load(scene: &Scene<'_>, work: &DumpWork, notes: &Notes<'_>) -> Result<Back, OrchestrateError> {
    let executor = scene.executor;
    let settings = &executor.profile.postgres;
    let stop = executor.stop();
    stop_pattern(&executor, STOP, &settings.service, scene.census, notes)?;
    at_rest(&work.swap.place)?;
    // It is made here and not before, since the empty cluster can be copied only while it is stopped; it is in the
    // journal before it is made, so that a part of it is removed if this is cut off.
    let made = executor.step(MAKE, Some(Undo::DiscardStaged { swaps: vec![work.swap.clone()] }), || {
        work.swap.prepare()?;
        let old = work.swap.place.exists().then_some(work.swap.place.as_path());
        match work.empty {
            Empty::Copy => copy_cluster(&work.swap.place, &work.swap.staged, &stop)?,
            Empty::New => new_cluster(settings, &work.swap.staged, old, &stop)?,
        }
        Ok((String::new(), work.swap.clone().made()?))
    })?;
    let aside = trees::exchange(scene, SWAP, vec![made], &settings.service)?;
    executor.step(LOAD, None, || {
        started(scene, STOP, &settings.service)?;
        recovered(scene, &work.swap.place)?;
        let there = contents(settings)?;
        if !there.is_empty() {
            return Err(OrchestrateError::Unfit(format!("the cluster is not empty: {}", there.join(", "))));
        }
        let mut dump = reader(scene, &work.snapshot, LOAD, work.bytes, notes)?;
        restore_dump(settings, &mut dump, &stop)?;
        Ok((String::new(), ()))
    })?;
    compared(scene, &work.facts, Method::Dump).map(|compared| Back { compared, aside })
}

fn at_rest(place: &Path) -> Result<(), OrchestrateError> {
    if place.exists()
        && let Some(pid) = is_running(place)?
    {
        let why = format!("process {pid} works on {}, though its unit is stopped", escape_path(place));
        return Err(OrchestrateError::Unfit(why));
    }
    Ok(())
}

/// Writes the files beside their places, and completes a base backup.
pub fn stage_cluster(scene: &Scene<'_>, work: &ClusterWork, notes: &Notes<'_>) -> Result<(), OrchestrateError> {
    trees::stage(scene, STAGE, &work.trees, notes)?;
    let Some(label) = &work.label else { return Ok(()) };
    let data = &work.trees[work.data].swap.staged;
    if let Some(log) = &work.log {
        let (info, into) = (scene.snapshot(log)?, own_log(&scene.executor.profile.postgres, data)?);
        for segment in &info.snapshot.paths {
            trees::write(scene, STAGE, log, &trees::path(segment), &into, notes)?;
        }
    }
    let small = |id: &ObjectId| trees::small(scene, id);
    let map = work.map.as_ref().map(small).transpose()?.unwrap_or_default();
    complete_base(&scene.executor.profile.postgres, data, &small(label)?, &map)?;
    match &work.goal {
        Some(goal) => recovery::stage(scene, goal, data),
        None if is_archived(scene) => recovery::stage_as_captured(scene, &work.facts, data, notes),
        None => Ok(()),
    }
}

fn is_archived(scene: &Scene<'_>) -> bool {
    scene.executor.profile.postgres.archive.enabled
}

/// Puts the files in, starts the server and compares.
pub fn put_in(scene: &Scene<'_>, work: &ClusterWork, notes: &Notes<'_>) -> Result<Back, OrchestrateError> {
    let executor = scene.executor;
    let settings = &executor.profile.postgres;
    stop_pattern(&executor, STOP, &settings.service, scene.census, notes)?;
    let place: PathBuf = work.trees[work.data].swap.place.clone();
    at_rest(&place)?;
    let aside = trees::put_in(scene, SWAP, &work.trees, &settings.service)?;
    if let Some(goal) = &work.goal {
        return recovery::replay(scene, goal, &place, STOP).map(|compared| Back { compared, aside });
    }
    started(scene, STOP, &settings.service)?;
    recovered(scene, &place)?;
    let method = if work.label.is_some() { Method::Base } else { Method::Files };
    let compared = compared(scene, &work.facts, method)?;
    if method == Method::Base && is_archived(scene) {
        recovery::settle(scene, &place)?;
    }
    Ok(Back { compared, aside })
}

fn compared(scene: &Scene<'_>, recorded: &PostgresFacts, method: Method) -> Result<Option<String>, OrchestrateError> {
    let settings = &scene.executor.profile.postgres;
    scene.executor.step(COMPARE, None, || {
        if recorded.databases.is_empty() {
            return Ok(("no table was counted when it was captured".to_owned(), None));
        }
        let found = facts(settings, method, &scene.executor.stop())?;
        let differences: Vec<String> = compare(recorded, &found).iter().map(ToString::to_string).collect();
        if !differences.is_empty() {
            return Err(OrchestrateError::Unfit(differences.join("; ")));
        }
        let (count, rows) = found.totals();
        let seen = format!("{count} tables with {rows} rows, as recorded");
        Ok((seen.clone(), Some(seen)))
    })
}
