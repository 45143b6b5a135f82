//! A backup set back onto the platform.
//!
//! What comes back is first made beside what it replaces, while the platform still works, and read back; only then is the
//! platform brought to rest, each replacement put in, its server started, and what is in it compared with what was
//! recorded when it was captured.
//!
//! Invariants: nothing that exists is destroyed before its replacement is there as a whole and found equal; it is moved
//! aside, told by name, and stays until somebody discards it. A component counts as restored only if it was compared. One
//! that fails is as it was before, and the others go on. Whatever ends a run early, everything is as it was, by itself or
//! by `resume`.

pub mod config;
pub mod diff;
pub mod elasticsearch;
pub mod neo4j;
pub mod plan;
pub mod postgres;
pub mod recovery;
pub mod redis;
pub mod told;
pub mod trees;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use crate::format::ObjectId;
use crate::format::codec::escape_path;
use crate::format::set::StepRecord;
use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::backup::header;
use crate::orchestrate::platform::executor::{Executor, Notes};
use crate::orchestrate::platform::profile::{Component, Profile};
use crate::orchestrate::platform::rest::{patterns, stop_everything};
use crate::orchestrate::platform::restore::plan::{Intent, RestorePlan, Work};
use crate::orchestrate::platform::run::Run;
use crate::orchestrate::platform::services::{Census, start_units};
use crate::orchestrate::platform::state::StateDir;
use crate::orchestrate::platform::undo::undo;
use crate::progress::{Monitor, Notice};
use crate::repo::{Repository, SnapshotInfo, chain};
use crate::source::SourceError;
use crate::source::elasticsearch::Client;
use crate::source::files::keep::Kept;
use crate::source::files::swap::{Swap, real};
use crate::source::postgres::wait_until_recovered;
use crate::source::systemd::Systemd;

/// What becomes of indices that are there already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// The restore does not begin.
    #[default]
    Refuse,
    /// They are saved in a snapshot of their own, closed, and replaced.
    Close,
    /// What comes back gets this before its name, and they stay.
    Prefix(String),
}

/// What a restore is told.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What becomes of indices that are there already.
    pub existing: Existing,
    /// The data directory of a cluster that is made anew for a dump.
    pub new_cluster: Option<PathBuf>,
    /// Whether elements of queues are pushed back.
    pub requeue: bool,
    /// Where configuration goes: `/`, or a directory beneath which it is looked at first.
    pub target_root: PathBuf,
    /// Whether nothing of what comes back goes to the platform itself ([`spares_the_platform`]): it works on, unasked.
    pub elsewhere: bool,
    /// Whether what was moved aside is removed when everything was found equal.
    pub discard_old: bool,
    /// Where PostgreSQL goes after its base backup.
    pub goal: Option<recovery::Goal>,
}

/// Whether a restore of these components touches nothing of the platform: only configuration has another place.
pub fn spares_the_platform(target_root: &Path, wanted: &[Component]) -> Result<bool, SourceError> {
    Ok(wanted == [Component::Config] && real(target_root)? != Path::new("/"))
}

/// What a restore needs.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// Where it comes from.
    pub repository: &'a Repository,
    /// The platform.
    pub profile: &'a Profile,
    /// What is done.
    pub plan: &'a RestorePlan,
    /// How.
    pub options: &'a Options,
    /// Where the journal is; the caller holds its lock.
    pub state: &'a StateDir,
    /// Who hears of it.
    pub monitor: &'a dyn Monitor,
}

/// What became of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is back, and equal to what was recorded.
    Restored,
    /// It is back; nothing was recorded that it could be compared with.
    Uncompared,
    /// It is as it was before.
    Failed,
}

/// A component, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// Which.
    pub component: Component,
    /// What became of it.
    pub state: State,
    /// What was compared, or why it failed.
    pub detail: String,
    /// What it replaced, and where that is now.
    pub aside: Vec<Old>,
    /// What is to be known besides.
    pub notes: Vec<String>,
    /// Wall time in milliseconds.
    pub milliseconds: u64,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The components that were to be restored; none if the run ended early.
    pub components: Vec<Restored>,
    /// What ended the run early; everything that could be undone is undone.
    pub error: Option<OrchestrateError>,
    /// What could not be undone or is not up again. What is left to do is in the journal.
    pub stuck: Vec<OrchestrateError>,
    /// What was done, in order.
    pub steps: Vec<StepRecord>,
}

/// What every component's restore is given.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The run.
    pub executor: Executor<'a>,
    /// What is asked for.
    pub order: Order<'a>,
    /// What ran before anything was stopped.
    pub census: &'a Census,
}

impl Scene<'_> {
    /// A snapshot of the set.
    pub fn snapshot(&self, id: &ObjectId) -> Result<&SnapshotInfo, OrchestrateError> {
        plan::snapshot(&self.order.plan.snapshots, id)
    }
}

/// What was found when a component was back.
#[derive(Debug, Default)]
pub struct Back {
    /// What was compared; `None` if nothing was recorded.
    pub compared: Option<String>,
    /// What it replaced, and where that is now.
    pub aside: Vec<Old>,
}

/// What was replaced, and where it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kept", rename_all = "kebab-case")]
pub enum Old {
    /// A file or directory, beside its place.
    Path(Swap),
    /// Files, as they were.
    Files {
        /// How many.
        count: usize,
        /// Where they are.
        #[serde(flatten)]
        place: Kept,
    },
    /// Indices, in a snapshot of the platform's own repository.
    Indices {
        /// Their names.
        indices: Vec<String>,
        /// The snapshot.
        snapshot: String,
    },
}

impl fmt::Display for Old {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Old::Path(swap) => {
                let what = if swap.mount.is_some() { "what was in " } else { "" };
                let becomes = if swap.mount.is_some() { "is now in" } else { "is now" };
                write!(formatter, "{what}{} {becomes} {}", escape_path(&swap.place), escape_path(&swap.aside))
            }
            Old::Files { count, place } => {
                write!(formatter, "{count} files as they were are in {}", escape_path(place.directory()))
            }
            Old::Indices { indices, snapshot } => {
                write!(formatter, "{} are in Elasticsearch's snapshot {snapshot}", indices.join(", "))
            }
        }
    }
}

impl Old {
    fn discard(&self, profile: &Profile) -> Result<(), SourceError> {
        match self {
            Old::Path(swap) => swap.discard_aside(),
            Old::Files { place, .. } => place.discard(),
            Old::Indices { snapshot, .. } => Client::new(&profile.elasticsearch)?.delete(snapshot, &|| false),
        }
    }
}

/// Starts a server that was stopped for its restore, or was down already: what is restored can only be compared when it
/// runs.
pub fn started(scene: &Scene<'_>, stop_step: &str, unit: &str) -> Result<(), OrchestrateError> {
    let (run, profile) = (scene.executor.run, scene.executor.profile);
    if let Some(error) = run.undo_step(stop_step, &mut |due| undo(profile, due)).into_iter().next() {
        return Err(error);
    }
    start_units(profile, &[unit.to_owned()], &scene.executor.stop()).map(drop)
}

/// Waits until a server of PostgreSQL that was started has recovered. One that ends is told at once, with its last words.
pub fn recovered(scene: &Scene<'_>, place: &Path) -> Result<(), OrchestrateError> {
    let (settings, systemd) = (&scene.executor.profile.postgres, Systemd::new(&scene.executor.profile.systemd));
    let (unit, stop) = (&settings.service, scene.executor.stop());
    let lives = || systemd.state(unit, &stop).map(|state| state.runs());
    match wait_until_recovered(settings, place, &lives, &stop) {
        Err(SourceError::Interrupted) => Err(OrchestrateError::Interrupted),
        Err(error) => {
            let words = systemd.last_words(unit, &stop);
            let words = if words.is_empty() { words } else { format!("; its last words:\n{words}") };
            Err(OrchestrateError::Unfit(format!("{}{words}", chain(&error))))
        }
        Ok(()) => Ok(()),
    }
}

/// Runs a restore. An error is only that it could not begin; then nothing was changed.
pub fn restore(order: &Order<'_>) -> Result<Outcome, OrchestrateError> {
    if !order.plan.obstacles.is_empty() {
        return Err(OrchestrateError::Unfit(order.plan.obstacles.join("; ")));
    }
    let run = Run::begin(order.state, header("restore", order.profile), order.monitor)?;
    let executor = Executor { profile: order.profile, plan: &order.plan.run, run: &run, monitor: order.monitor };
    let undoing = &mut |due: &_| undo(order.profile, due);
    let (mut components, mut error, mut stuck) = (Vec::new(), None, Vec::new());
    match attempt(order, &executor) {
        Ok((census, restored)) => {
            stuck.extend(run.close(undoing));
            components = restored;
            if stuck.is_empty()
                && !order.options.elsewhere
                && let Err(failed) =
                    executor.step("prove-up", None, || Ok((census.prove_up(order.profile, &|| false)?, ())))
                && !failed.is_interrupted()
            {
                stuck.push(failed);
            }
            stuck.extend(run.keep_changes().err());
            if order.options.discard_old && stuck.is_empty() {
                match may_discard(&components) {
                    true => discard(order, &mut components),
                    false => order.monitor.notice(Notice {
                        subject: "--discard-old".to_owned(),
                        message: "what was moved aside stays, since not everything was found equal".to_owned(),
                    }),
                }
            }
        }
        Err(failed) => {
            error = Some(failed);
            stuck.extend(run.undo_all(undoing));
        }
    }
    let steps = run.log();
    stuck.extend(run.finish().err());
    Ok(Outcome { components, error, stuck, steps })
}

/// Whether what was replaced may go: everything was found equal. Else somebody may want the platform as it was, whole.
pub fn may_discard(components: &[Restored]) -> bool {
    components.iter().all(|one| one.state == State::Restored)
}

/// Removes what was replaced. That it cannot be removed is no failure of the restore.
fn discard(order: &Order<'_>, components: &mut [Restored]) {
    for one in components {
        let (mut left, mut notes) = (Vec::new(), Vec::new());
        for old in std::mem::take(&mut one.aside) {
            if let Err(error) = old.discard(order.profile) {
                notes.push(format!("it could not be discarded: {}", chain(&error)));
                left.push(old);
            }
        }
        one.aside = left;
        one.notes.extend(notes);
    }
}

fn attempt(order: &Order<'_>, executor: &Executor<'_>) -> Result<(Census, Vec<Restored>), OrchestrateError> {
    let stop = executor.stop();
    let mut units = patterns(order.profile);
    units.extend([order.profile.postgres.service.as_str(), order.profile.neo4j.service.as_str()]);
    let census = match order.options.elsewhere {
        true => Census::default(),
        false => executor.step("census", None, || {
            let census = Census::take(order.profile, &units, &stop)?;
            Ok((census.shown(), census))
        })?,
    };
    let scene = Scene { executor: *executor, order: *order, census: &census };
    let notes = Notes::new(order.monitor);
    let mut restored = Vec::new();
    let mut ready = Vec::new();
    // While the platform still works.
    for intent in &order.plan.components {
        let began = Instant::now();
        match stage(&scene, intent, &notes) {
            Ok(()) => ready.push(intent),
            Err(error) if error.is_interrupted() => return Err(OrchestrateError::Interrupted),
            Err(error) => restored.push(failed(&scene, intent, &error, began, Vec::new())),
        }
    }
    if ready.is_empty() {
        let why = restored.iter().map(|one| one.detail.clone()).collect::<Vec<_>>().join("; ");
        return Err(OrchestrateError::Unfit(format!("nothing could be made ready, and nothing was stopped: {why}")));
    }
    if !order.options.elsewhere {
        stop_everything(executor, &census, &notes)?;
    }
    // Configuration first: servers are started with it.
    let (first, others): (Vec<_>, Vec<_>) = ready.into_iter().partition(|intent| intent.component == Component::Config);
    for intent in first {
        restored.push(put_in(&scene, intent)?);
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = others.iter().map(|intent| scope.spawn(|| put_in(&scene, intent))).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    for result in results {
        let ended = || OrchestrateError::Unfit("a thread that restored a component ended early".to_owned());
        restored.push(result.map_err(|_| ended())??);
    }
    restored.sort_by_key(|one| one.component);
    match restored.iter().all(|one| one.state == State::Failed) {
        true => {
            let why = restored.iter().map(|one| format!("{}: {}", one.component.name(), one.detail));
            Err(OrchestrateError::Unfit(why.collect::<Vec<_>>().join("; ")))
        }
        false => Ok((census, restored)),
    }
}

/// Makes what comes back, beside what it will replace.
fn stage(scene: &Scene<'_>, intent: &Intent, notes: &Notes<'_>) -> Result<(), OrchestrateError> {
    match &intent.work {
        Work::Config(work) => config::stage(scene, work, notes),
        Work::Dump(work) => postgres::stage_dump(scene, work, notes),
        Work::Cluster(work) => postgres::stage_cluster(scene, work, notes),
        Work::Indices(work) => elasticsearch::stage(scene, work, notes),
        Work::Graph(work) => neo4j::stage(scene, work, notes),
        Work::Queues(work) => redis::stage(scene, work, notes),
    }
}

/// Puts it in its place and compares it. An error is only that the operator wants to stop.
fn put_in(scene: &Scene<'_>, intent: &Intent) -> Result<Restored, OrchestrateError> {
    let began = Instant::now();
    let notes = Notes::new(scene.executor.monitor);
    let back = match &intent.work {
        Work::Config(work) => config::put_in(scene, work, &notes),
        Work::Dump(work) => postgres::load(scene, work, &notes),
        Work::Cluster(work) => postgres::put_in(scene, work, &notes),
        Work::Indices(work) => elasticsearch::put_in(scene, work, &notes),
        Work::Graph(work) => neo4j::put_in(scene, work, &notes),
        Work::Queues(work) => redis::put_in(scene, work),
    };
    match back {
        Ok(Back { compared, aside }) => Ok(Restored {
            component: intent.component,
            state: if compared.is_some() { State::Restored } else { State::Uncompared },
            detail: compared.unwrap_or_else(|| "nothing was recorded that it could be compared with".to_owned()),
            aside,
            notes: notes.into_vec(),
            milliseconds: began.elapsed().as_millis() as u64,
        }),
        Err(error) if error.is_interrupted() => Err(OrchestrateError::Interrupted),
        Err(error) => Ok(failed(scene, intent, &error, began, notes.into_vec())),
    }
}

/// A component that failed is made as it was before, at once. What fails of that is tried again at the end of the run.
fn failed(
    scene: &Scene<'_>,
    intent: &Intent,
    error: &OrchestrateError,
    began: Instant,
    notes: Vec<String>,
) -> Restored {
    let ours = intent.steps.iter().rev().filter(|step| step.changes);
    for step in ours {
        scene.executor.run.undo_step(&step.id, &mut |due| undo(scene.executor.profile, due));
    }
    Restored {
        component: intent.component,
        state: State::Failed,
        detail: chain(error),
        aside: Vec::new(),
        notes,
        milliseconds: began.elapsed().as_millis() as u64,
    }
}
