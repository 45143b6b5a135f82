//! What a restore would do, as data: which set and why, what it puts where, what it moves aside, what is in the way,
//! what space it needs, how long it may take, and each step in order.
//!
//! Files of this machine are looked at and servers are asked; nothing is changed to make a plan. Invariant: a plan with
//! an obstacle is never run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use crate::format::ObjectId;
use crate::format::codec::escape_path;
use crate::format::set::{self, BackupSet, Part, Status};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::aim::Aim;
use crate::orchestrate::platform::choose::{Choice, Chosen};
use crate::orchestrate::platform::discover::Discovery;
use crate::orchestrate::platform::plan::{Mode, Plan, PlannedStep, steps};
use crate::orchestrate::platform::profile::{Component, Profile};
use crate::orchestrate::platform::restore::config::ConfigWork;
use crate::orchestrate::platform::restore::elasticsearch::IndexWork;
use crate::orchestrate::platform::restore::neo4j::GraphWork;
use crate::orchestrate::platform::restore::postgres::{ClusterWork, DumpWork};
use crate::orchestrate::platform::restore::redis::QueueWork;
use crate::orchestrate::platform::restore::{Options, config, elasticsearch, neo4j, postgres, redis};
use crate::orchestrate::platform::store::Role;
use crate::repo::{Repository, SnapshotInfo, chain};
use crate::source::files::swap::{available_bytes, device};

/// What is looked at to make a plan.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// Where the set is.
    pub repository: &'a Repository,
    /// The platform.
    pub profile: &'a Profile,
    /// What is asked for.
    pub options: &'a Options,
    /// The snapshots that can be read.
    pub snapshots: &'a [SnapshotInfo],
    /// What tells this run from others in the names of what it makes.
    pub mark: &'a str,
    /// Whether the operator wants to stop.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl Look<'_> {
    /// A snapshot of the set.
    pub fn snapshot(&self, part: &Part) -> Result<&SnapshotInfo, OrchestrateError> {
        snapshot(self.snapshots, &part.snapshot)
    }
}

/// A snapshot of a set, among those that can be read.
pub fn snapshot<'s>(all: &'s [SnapshotInfo], id: &ObjectId) -> Result<&'s SnapshotInfo, OrchestrateError> {
    let gone = || OrchestrateError::Unfit(format!("snapshot {} of the set cannot be read", id.short()));
    all.iter().find(|info| info.id == *id).ok_or_else(gone)
}

/// The part of a component with this role.
pub fn part(parts: &[Part], role: Role) -> Result<&Part, OrchestrateError> {
    let none = || OrchestrateError::Unfit(format!("the set has no part `{}`: see its report", role.name()));
    parts.iter().find(|part| part.role == role.name()).ok_or_else(none)
}

/// What is done for a component.
#[derive(Clone, Debug)]
pub enum Work {
    /// Files of configuration and keys.
    Config(ConfigWork),
    /// SQL into an empty cluster.
    Dump(DumpWork),
    /// The files of a cluster.
    Cluster(ClusterWork),
    /// Indices from a snapshot.
    Indices(IndexWork),
    /// The files of Neo4j's store.
    Graph(GraphWork),
    /// Elements of queues.
    Queues(QueueWork),
}

/// A component that comes back.
#[derive(Clone, Debug, Serialize)]
pub struct Intent {
    /// Which.
    pub component: Component,
    /// Where it goes.
    pub into: Vec<String>,
    /// What is there now and is moved aside.
    pub replaces: Vec<String>,
    /// Bytes.
    pub bytes: u64,
    /// What is to be known.
    pub notes: Vec<String>,
    /// Its steps.
    #[serde(skip)]
    pub steps: Vec<PlannedStep>,
    /// How it is done.
    #[serde(skip)]
    pub work: Work,
}

/// What a component's plan needs besides.
#[derive(Debug)]
pub struct Draft {
    /// What is done.
    pub intent: Intent,
    /// What is in the way.
    pub obstacles: Vec<String>,
    /// Bytes that are needed at a place.
    pub space: Vec<(PathBuf, u64)>,
}

/// Room on a file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Room {
    /// A path on it.
    pub path: String,
    /// Bytes that are needed.
    pub needed_bytes: u64,
    /// Bytes that are free.
    pub available_bytes: u64,
}

/// A component of the set that is of another time than the one that PostgreSQL goes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Apart {
    /// Which.
    pub component: Component,
    /// The time that it is of.
    pub time: Timestamp,
    /// How long before the other that is.
    pub seconds: i64,
}

/// The plan.
#[derive(Clone, Debug, Serialize)]
pub struct RestorePlan {
    /// The set, and why it.
    #[serde(flatten)]
    pub choice: Chosen,
    /// Where PostgreSQL goes beyond its base backup.
    pub aim: Option<Aim>,
    /// What lies apart from that.
    pub apart: Vec<Apart>,
    /// What comes back.
    pub components: Vec<Intent>,
    /// What does not, and why.
    pub left_out: BTreeMap<Component, String>,
    /// What is in the way: while something is, nothing is begun.
    pub obstacles: Vec<String>,
    /// Room.
    pub room: Vec<Room>,
    /// About how long it may take; as long as the capture and once more.
    pub estimate_seconds: u64,
    /// The steps.
    pub run: Plan,
    /// The snapshots that are read.
    #[serde(skip)]
    pub snapshots: Vec<SnapshotInfo>,
}

/// Makes the plan for these components of a set.
pub fn plan(look: &Look<'_>, choice: Choice, wanted: &[Component]) -> Result<RestorePlan, OrchestrateError> {
    let set = &choice.info.set;
    let (mut components, mut left_out) = (Vec::new(), BTreeMap::new());
    let (mut obstacles, mut needs, mut estimate) = (Vec::new(), Vec::new(), 0u64);
    for component in Component::ALL {
        let found = set.components.iter().find(|one| one.name == component.name());
        let why = match found {
            _ if !wanted.contains(&component) => Some("it was not asked for"),
            None => Some("the set does not have it"),
            Some(found) if matches!(found.status, Status::Failed | Status::Skipped) => Some("the set does not hold it"),
            Some(_) if component == Component::Redis && !look.options.requeue => {
                Some("elements of queues come back only with --requeue")
            }
            Some(_) => None,
        };
        if let Some(why) = why {
            left_out.insert(component, why.to_owned());
            continue;
        }
        let Some(found) = found else { continue };
        match draft(look, component, found) {
            Ok(draft) => {
                let tell = |what: String| format!("{}: {what}", component.name());
                obstacles.extend(draft.obstacles.into_iter().map(tell));
                needs.extend(draft.space);
                estimate = found.milliseconds.saturating_add(estimate);
                components.push(draft.intent);
            }
            Err(error) if error.is_interrupted() => return Err(OrchestrateError::Interrupted),
            Err(error) => obstacles.push(format!("{}: {}", component.name(), chain(&error))),
        }
    }
    if components.is_empty() && obstacles.is_empty() {
        obstacles.push("the set holds nothing of what was asked for".to_owned());
    }
    let room = room(&needs)?;
    let short = room.iter().filter(|room| room.needed_bytes > room.available_bytes);
    obstacles.extend(short.map(|room| {
        format!("{} has {} bytes free, and {} are needed", room.path, room.available_bytes, room.needed_bytes)
    }));
    let run = run(look, &components);
    let ids: Vec<ObjectId> = choice.info.snapshots().collect();
    let snapshots = look.snapshots.iter().filter(|info| ids.contains(&info.id)).cloned().collect();
    let aim = look.options.goal.as_ref().map(|goal| goal.aim.clone());
    Ok(RestorePlan {
        apart: aim.as_ref().map(|aim| apart(set, aim)).unwrap_or_default(),
        choice: choice.into(),
        aim,
        components,
        left_out,
        obstacles,
        room,
        estimate_seconds: estimate.saturating_mul(2).div_ceil(1000),
        run,
        snapshots,
    })
}

/// What of a set is of another time than where PostgreSQL goes.
fn apart(set: &BackupSet, aim: &Aim) -> Vec<Apart> {
    let seconds = aim.time.as_second() - set.time.as_second();
    let others = Component::ALL.into_iter().filter(|one| *one != Component::Postgres);
    let is_held = |one: &Component| {
        let held = |found: &set::Component| {
            found.name == one.name() && matches!(found.status, Status::Complete | Status::Partial)
        };
        set.components.iter().any(held)
    };
    others.filter(is_held).map(|component| Apart { component, time: set.time, seconds }).collect()
}

fn draft(look: &Look<'_>, component: Component, found: &set::Component) -> Result<Draft, OrchestrateError> {
    match component {
        Component::Config => config::draft(look, found),
        Component::Postgres => postgres::draft(look, found),
        Component::Elasticsearch => elasticsearch::draft(look, found),
        Component::Neo4j => neo4j::draft(look, found),
        Component::Redis => redis::draft(look, found),
    }
}

/// What is needed on each file system, and what is free there.
fn room(needs: &[(PathBuf, u64)]) -> Result<Vec<Room>, OrchestrateError> {
    let mut devices: BTreeMap<u64, Room> = BTreeMap::new();
    for (path, bytes) in needs {
        let free = available_bytes(path)?;
        let room = devices.entry(device(path)?).or_insert_with(|| Room {
            path: escape_path(path),
            needed_bytes: 0,
            available_bytes: free,
        });
        room.needed_bytes = room.needed_bytes.saturating_add(*bytes);
    }
    Ok(devices.into_values().collect())
}

/// The whole run: what each component does while the platform works, rest, what each does then, everything up. What goes
/// elsewhere needs nothing of the platform.
fn run(look: &Look<'_>, components: &[Intent]) -> Plan {
    let profile = look.profile;
    let (before, after): (Vec<_>, Vec<_>) = components
        .iter()
        .flat_map(|intent| intent.steps.iter().cloned())
        .partition(|step| step.id.starts_with("stage-"));
    let names: Vec<Component> = components.iter().map(|intent| intent.component).collect();
    let all = match look.options.elsewhere {
        true => before.into_iter().chain(after).collect(),
        false => around(profile, &names, before, after),
    };
    Plan {
        profile: profile.name.clone(),
        description: profile.description.clone(),
        mode: Mode::Full,
        components: names,
        skipped: BTreeMap::new(),
        steps: all,
        after_restore: steps::after_restore(profile),
        discovery: Discovery::default(),
        settings: BTreeMap::new(),
    }
}

/// With the platform at rest in the middle.
fn around(
    profile: &Profile,
    names: &[Component],
    before: Vec<PlannedStep>,
    after: Vec<PlannedStep>,
) -> Vec<PlannedStep> {
    let mut all = vec![steps::census(profile, names, Mode::Full)];
    all.extend(before);
    all.extend(steps::stopped(profile));
    all.extend(after);
    let up = steps::up_again(profile, names, Mode::Full);
    if up.is_empty() {
        // The server that it is about is stopped and started all the same, by the steps of its component.
        let title = "prove that what ran before runs again".to_owned();
        all.push(PlannedStep { id: "prove-up".to_owned(), title, ..PlannedStep::default() });
    }
    all.extend(up);
    all
}

/// A step of a component.
pub fn step(component: Component, id: &str, title: &str, changes: bool) -> PlannedStep {
    PlannedStep {
        id: id.to_owned(),
        title: title.to_owned(),
        component: Some(component),
        changes,
        ..PlannedStep::default()
    }
}
