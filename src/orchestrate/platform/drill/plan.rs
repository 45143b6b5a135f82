//! What a drill would do, as data: which set and why, where its servers work, what each component is restored into,
//! what is in the way, and each step in order.
//!
//! No server is asked and nothing is changed to make a plan. Invariant: a plan with an obstacle is never run; what
//! concerns one component only keeps that one from being proven, and is told.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::format::set::{self, Status};
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::choose::{Choice, Chosen, Flaw};
use crate::orchestrate::platform::discover::Discovery;
use crate::orchestrate::platform::drill::bench::cannot_start;
use crate::orchestrate::platform::drill::{postgres, redis};
use crate::orchestrate::platform::plan::{Mode, Plan, PlannedStep};
use crate::orchestrate::platform::profile::{Component, Profile};
use crate::orchestrate::platform::restore::plan::{Room, snapshot, step};
use crate::repo::SnapshotInfo;
use crate::source::files::swap::available_bytes;
use crate::source::postgres::PostgresSettings;
use crate::source::scratch::Scratch;

pub(super) const SCRATCH: &str = "make-scratch";
pub(super) const PUBLISH: &str = "publish-proofs";
/// What the ids of steps begin with that start a server.
pub(super) const START: &str = "start-";
pub(super) const RESTORE_CONFIG: &str = "restore-config";
pub(super) const COMPARE_CONFIG: &str = "compare-config";
pub(super) const START_POSTGRES: &str = "start-postgres";
pub(super) const RESTORE_POSTGRES: &str = "restore-postgres";
pub(super) const COMPARE_POSTGRES: &str = "compare-postgres";
pub(super) const STAGE_ELASTICSEARCH: &str = "stage-elasticsearch";
pub(super) const START_ELASTICSEARCH: &str = "start-elasticsearch";
pub(super) const RESTORE_ELASTICSEARCH: &str = "restore-elasticsearch";
pub(super) const COMPARE_ELASTICSEARCH: &str = "compare-elasticsearch";
pub(super) const RESTORE_NEO4J: &str = "restore-neo4j";
pub(super) const START_NEO4J: &str = "start-neo4j";
pub(super) const COMPARE_NEO4J: &str = "compare-neo4j";
pub(super) const READ_REDIS: &str = "read-redis";
pub(super) const START_REDIS: &str = "start-redis";
pub(super) const COMPARE_REDIS: &str = "compare-redis";

/// What a server needs besides its data, roughly.
const NEW_SERVER: u64 = 600 << 20;

/// What is looked at to make a plan.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// The platform.
    pub profile: &'a Profile,
    /// The snapshots that can be read.
    pub snapshots: &'a [SnapshotInfo],
    /// In which directory servers work.
    pub parent: &'a Path,
    /// What tells this drill from others in the name of its directory.
    pub mark: &'a str,
    /// Whether the operator wants to stop.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// A component that is looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Intent {
    /// Which.
    pub component: Component,
    /// Bytes.
    pub bytes: u64,
    /// Why no server can be started for it.
    pub trouble: Option<String>,
    /// What the set holds of it.
    #[serde(skip)]
    pub held: set::Component,
}

/// The plan.
#[derive(Clone, Debug, Serialize)]
pub struct DrillPlan {
    /// The set, and why it.
    #[serde(flatten)]
    pub choice: Chosen,
    /// Where servers work.
    pub directory: String,
    /// What is looked at.
    pub components: Vec<Intent>,
    /// What is not, and why.
    pub left_out: BTreeMap<Component, String>,
    /// What is in the way: while something is, nothing is begun.
    pub obstacles: Vec<String>,
    /// Room.
    pub room: Room,
    /// About how long it may take; as long as the capture and once more.
    pub estimate_seconds: u64,
    /// The steps.
    pub run: Plan,
    /// Where servers work.
    #[serde(skip)]
    pub scratch: Scratch,
    /// The snapshots that are read.
    #[serde(skip)]
    pub snapshots: Vec<SnapshotInfo>,
}

/// Makes the plan for these components of a set.
pub fn plan(look: &Look<'_>, mut choice: Choice, wanted: &[Component]) -> Result<DrillPlan, OrchestrateError> {
    let set = &choice.info.set;
    let scratch = Scratch::plan(look.parent, look.mark);
    let (mut components, mut left_out, mut estimate) = (Vec::new(), BTreeMap::new(), 0u64);
    for component in Component::ALL {
        let held = set.components.iter().find(|one| one.name == component.name());
        let why = match held {
            _ if !wanted.contains(&component) => Some("it was not asked for".to_owned()),
            None => Some("the set does not have it".to_owned()),
            Some(held) => match held.status {
                Status::Complete => None,
                Status::Partial => Some("the set holds a part of it only, which proves nothing".to_owned()),
                Status::Failed | Status::Skipped => Some("the set does not hold it".to_owned()),
            },
        };
        match (why, held) {
            (None, Some(held)) => {
                estimate = held.milliseconds.saturating_add(estimate);
                components.push(Intent {
                    component,
                    bytes: held.bytes(),
                    trouble: trouble(look, component, held),
                    held: held.clone(),
                });
            }
            (why, _) => drop(left_out.insert(component, why.unwrap_or_default())),
        }
        if (look.stop)() {
            return Err(OrchestrateError::Interrupted);
        }
    }
    let mut obstacles = Vec::from_iter(scratch.obstacle());
    if components.is_empty() {
        obstacles.push("the set holds nothing whole of what was asked for".to_owned());
    }
    // One after another, but none is removed before the end.
    let needed = |intent: &Intent| match intent.component {
        Component::Elasticsearch => intent.bytes.saturating_mul(2).saturating_add(NEW_SERVER),
        Component::Config => intent.bytes,
        _ => intent.bytes.saturating_add(NEW_SERVER),
    };
    let room = Room {
        path: look.parent.display().to_string(),
        needed_bytes: components.iter().map(needed).fold(0, u64::saturating_add),
        available_bytes: available_bytes(look.parent)?,
    };
    if room.needed_bytes > room.available_bytes {
        let (path, free, needed) = (&room.path, room.available_bytes, room.needed_bytes);
        obstacles
            .push(format!("{path} has {free} bytes free, and {needed} are needed: name another place with --scratch"));
    }
    let run = run(look.profile, &components);
    let snapshots = look.snapshots.iter().filter(|info| choice.info.snapshots().any(|id| id == info.id));
    let snapshots = snapshots.cloned().collect();
    // That it is not proven yet is no flaw here.
    choice.flaws.retain(|flaw| *flaw != Flaw::Unverified);
    Ok(DrillPlan {
        choice: choice.into(),
        directory: scratch.path().display().to_string(),
        components,
        left_out,
        obstacles,
        room,
        estimate_seconds: estimate.saturating_mul(2).div_ceil(1000),
        run,
        scratch,
        snapshots,
    })
}

/// The platform's settings with the programs that a drill takes.
pub(super) fn postgres_settings(profile: &Profile) -> PostgresSettings {
    let bin_directory = profile.drill.postgres.bin_directory.clone();
    let bin_directory = bin_directory.unwrap_or_else(|| profile.postgres.bin_directory.clone());
    PostgresSettings { bin_directory, ..profile.postgres.clone() }
}

/// Why a component cannot be looked at.
fn trouble(look: &Look<'_>, component: Component, held: &set::Component) -> Option<String> {
    if let Some(error) = held.parts.iter().find_map(|part| snapshot(look.snapshots, &part.snapshot).err()) {
        return Some(error.to_string());
    }
    match component {
        Component::Config => None,
        Component::Postgres => postgres::trouble(held, look.profile, look.stop),
        Component::Elasticsearch => {
            let usual = Some(look.profile.elasticsearch.owner.as_str());
            cannot_start(&look.profile.drill.elasticsearch, usual, component.name())
        }
        Component::Neo4j => cannot_start(&look.profile.drill.neo4j, None, component.name()),
        Component::Redis => redis::trouble(held, &look.profile.drill.redis),
    }
}

fn run(profile: &Profile, components: &[Intent]) -> Plan {
    let platform =
        |id: &str, title: &str| PlannedStep { id: id.to_owned(), title: title.to_owned(), ..PlannedStep::default() };
    let mut steps = vec![platform(SCRATCH, "make the directory in which servers work beside the platform's")];
    steps.extend(components.iter().flat_map(of));
    steps.push(platform(
        PUBLISH,
        "write what was found, as the last write: the proofs of what is equal, and what is not",
    ));
    Plan {
        profile: profile.name.clone(),
        description: profile.description.clone(),
        mode: Mode::Online,
        components: components.iter().map(|intent| intent.component).collect(),
        skipped: BTreeMap::new(),
        steps,
        after_restore: Vec::new(),
        discovery: Discovery::default(),
        settings: BTreeMap::new(),
    }
}

/// The steps of a component. None of them changes the platform.
fn of(intent: &Intent) -> Vec<PlannedStep> {
    let component = intent.component;
    let dump = intent.held.parts.iter().any(|part| part.role == "dump");
    let steps: &[(&str, &str)] = match component {
        Component::Config => &[
            (RESTORE_CONFIG, "write the configuration, and read every file back"),
            (COMPARE_CONFIG, "look whether the keys that configuration names are in it"),
        ],
        Component::Postgres if dump => &[
            (START_POSTGRES, "make a cluster, and start PostgreSQL on it: a socket of its own, no network"),
            (RESTORE_POSTGRES, "read the dump into it (psql, ON_ERROR_STOP), then ANALYZE"),
            (COMPARE_POSTGRES, "compare rows and checksums of every table with what was recorded"),
        ],
        Component::Postgres => &[
            (RESTORE_POSTGRES, "write the cluster's files, and read them back; no link of them leads out"),
            (START_POSTGRES, "start PostgreSQL on them: a socket of its own, no network"),
            (COMPARE_POSTGRES, "compare rows and checksums of every table with what was recorded"),
        ],
        Component::Elasticsearch => &[
            (STAGE_ELASTICSEARCH, "write the snapshot repository, and read it back"),
            (START_ELASTICSEARCH, "start a node of its own on a free port of the loopback interface"),
            (RESTORE_ELASTICSEARCH, "restore the indices of the snapshot (_restore)"),
            (COMPARE_ELASTICSEARCH, "compare the documents of each index with what was recorded"),
        ],
        Component::Neo4j => &[
            (RESTORE_NEO4J, "write the store, and read it back"),
            (START_NEO4J, "start Neo4j on it, on a free port of the loopback interface"),
            (COMPARE_NEO4J, "count nodes, relationships and labels"),
        ],
        Component::Redis => &[
            (READ_REDIS, "read the elements of queues through, and what else is saved"),
            (START_REDIS, "start Redis on a socket of its own, with what is saved"),
            (COMPARE_REDIS, "compare the elements of each queue with what was recorded"),
        ],
    };
    steps.iter().map(|(id, title)| step(component, id, title, false)).collect()
}
